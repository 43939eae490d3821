//! A connection to one server, for commands whose reply is not one of the client's.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use larder_protocol::{DecodedResponse, meta};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a connection goes over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that takes one command at a time, or several with their replies in order.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    pub(crate) server: Arc<str>,
    patience: Duration,
    input: Vec<u8>,
    /// Bytes at the front of `input` that have been returned.
    taken: usize,
}

/// Longest line of a reply in bytes.
const LINE_MAX: usize = 64 * 1024;

/// Most bytes of one read.
const READ: usize = 64 * 1024;

/// How long to ask again while a server is busy with the dump of somebody else.
const BUSY_MAX: Duration = Duration::from_secs(10);

impl Connection {
    pub(crate) fn new(stream: Box<dyn Stream>, server: Arc<str>, patience: Duration) -> Connection {
        Connection { stream, server, patience, input: Vec::new(), taken: 0 }
    }

    /// Waits for each line and response as long as `patience`, if that is longer than --timeout.
    pub(crate) fn patient(mut self, patience: Duration) -> Connection {
        self.patience = self.patience.max(patience);
        self
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let sent = tokio::time::timeout(self.patience.max(BUSY_MAX), sent).await;
        let sent = sent.with_context(|| format!("{} does not read", self.server))?;
        sent.map_err(|error| anyhow!("{}: {error}", self.server))
    }

    /// Returns the next line without its end.
    pub(crate) async fn line(&mut self) -> Result<Vec<u8>> {
        let patience = self.patience;
        let line = tokio::time::timeout(patience, self.event()).await;
        line.with_context(|| format!("{} did not answer within {patience:?}", self.server))?
    }

    /// Like [`Connection::line`], for a line that may come at any time.
    pub(crate) async fn event(&mut self) -> Result<Vec<u8>> {
        loop {
            let rest = &self.input[self.taken..];
            if let Some(length) = rest.iter().position(|&byte| byte == b'\n') {
                let line = rest[..length].strip_suffix(b"\r").unwrap_or(&rest[..length]).to_vec();
                self.taken += length + 1;
                return Ok(line);
            }
            ensure!(rest.len() < LINE_MAX, "{} sent a line that does not end", self.server);
            self.fill().await?;
        }
    }

    /// Waits for the response to a meta command, and returns what `take` makes of it.
    pub(crate) async fn response<T>(&mut self, take: impl FnOnce(meta::Response<'_>) -> T) -> Result<T> {
        loop {
            match meta::decode_response(&self.input[self.taken..]) {
                DecodedResponse::Response { response, consumed } => {
                    let taken = take(response);
                    self.taken += consumed;
                    return Ok(taken);
                }
                DecodedResponse::Incomplete { .. } => {}
                DecodedResponse::Malformed => bail!("{} sent what is no answer to a meta command", self.server),
            }
            let patience = self.patience;
            let filled = tokio::time::timeout(patience, self.fill()).await;
            filled.with_context(|| format!("{} did not answer within {patience:?}", self.server))??;
        }
    }

    async fn fill(&mut self) -> Result<()> {
        self.input.drain(..self.taken);
        self.taken = 0;
        self.input.reserve(READ);
        let read = self.stream.read_buf(&mut self.input).await;
        let read = read.map_err(|error| anyhow!("{}: {error}", self.server))?;
        ensure!(read > 0, "{} closed the connection", self.server);
        Ok(())
    }

    /// Sends a command that begins a stream, and returns its first line. Errors of the server are errors.
    pub(crate) async fn begin(&mut self, command: &str) -> Result<Vec<u8>> {
        let asked = tokio::time::Instant::now();
        loop {
            self.send(format!("{command}\r\n").as_bytes()).await?;
            let line = self.line().await?;
            if line.starts_with(b"BUSY") && asked.elapsed() < BUSY_MAX {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            if ["ERROR", "CLIENT_ERROR", "SERVER_ERROR", "BUSY"].iter().any(|word| line.starts_with(word.as_bytes())) {
                bail!("{} answered `{command}`: {}", self.server, String::from_utf8_lossy(&line));
            }
            return Ok(line);
        }
    }
}
