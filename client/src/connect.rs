//! Opening a connection: where to, by which transport, and the exchange before the first request.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection of any transport.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// How connections are made.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    /// How long it may take.
    pub(crate) timeout: Duration,
}

impl Connector {
    /// A connection that has answered.
    pub(crate) async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let timeout = self.timeout;
        let connected = tokio::time::timeout(timeout, self.open(address)).await;
        connected.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {timeout:?}")))?
    }

    async fn open(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut stream: Box<dyn Stream> = Box::new(stream);
        greet(&mut stream).await?;
        Ok(stream)
    }
}

/// Asks for a sign of life: the kernel accepts for a process that hangs, and old servers know no meta commands.
async fn greet(stream: &mut Box<dyn Stream>) -> io::Result<()> {
    let refused = |line: &str| {
        io::Error::other(format!("the node answered {line:?} to a meta command; memcached knows them since 1.6"))
    };
    stream.write_all(b"mn\r\n").await?;
    stream.flush().await?;
    match &*line(stream).await? {
        "MN" => Ok(()),
        other => Err(refused(other)),
    }
}

/// Longest line of an exchange before the first request.
const LINE_MAX: usize = 1024;

/// Reads a line, without its end, and not a byte more.
pub(crate) async fn line(stream: &mut Box<dyn Stream>) -> io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") && line.len() < LINE_MAX {
        line.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}
