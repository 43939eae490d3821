//! A stream socket of any kind.

use std::io::{self, IoSlice, Read};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use crate::net::open_sockets::{OpenSocket, Transport};
use crate::net::tls::TlsSocket;
use crate::store::Time;

/// A stream socket of any kind.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(TlsSocket),
}

impl Socket {
    pub(crate) fn open(&self, now: Time) -> OpenSocket {
        let tcp = |socket: &TcpStream| {
            OpenSocket::connection(socket, Transport::Tcp, socket.peer_addr().ok(), socket.local_addr().ok(), now)
        };
        match self {
            Socket::Tcp(socket) => tcp(socket),
            Socket::Unix(socket) => OpenSocket::connection(socket, Transport::Local, None, None, now),
            Socket::Tls(socket) => tcp(socket.stream()),
        }
    }

    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => read_available(socket, buffer),
            Socket::Unix(socket) => {
                let mut read = 0;
                let result = socket.try_io(Interest::READABLE, || receive(SockRef::from(socket), buffer, &mut read));
                if read > 0 { Ok(read) } else { result.map(|()| 0) }
            }
            Socket::Tls(socket) => socket.try_read(buffer),
        }
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.try_write(bytes),
            Socket::Unix(socket) => socket.try_write(bytes),
            Socket::Tls(socket) => socket.try_write_vectored(&[IoSlice::new(bytes)]),
        }
    }

    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.try_write_vectored(slices),
            Socket::Unix(socket) => socket.try_write_vectored(slices),
            Socket::Tls(socket) => socket.try_write_vectored(slices),
        }
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(socket) => socket.readable().await,
            Socket::Unix(socket) => socket.readable().await,
            Socket::Tls(socket) => socket.readable().await,
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(socket) => socket.writable().await,
            Socket::Unix(socket) => socket.writable().await,
            Socket::Tls(socket) => socket.writable().await,
        }
    }

    /// Registers the socket with the runtime of the calling thread.
    pub(crate) fn move_here(self) -> io::Result<Socket> {
        Ok(match self {
            Socket::Tcp(socket) => Socket::Tcp(TcpStream::from_std(socket.into_std()?)?),
            Socket::Unix(socket) => Socket::Unix(UnixStream::from_std(socket.into_std()?)?),
            Socket::Tls(mut socket) => {
                socket.move_here()?;
                Socket::Tls(socket)
            }
        })
    }

    /// Sends all of `bytes`.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        match self {
            Socket::Tcp(_) | Socket::Unix(_) => Ok(()),
            Socket::Tls(socket) => socket.flush().await,
        }
    }

    /// Sends what TLS still holds, before the connection ends.
    pub(crate) async fn finish(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(_) | Socket::Unix(_) => Ok(()),
            Socket::Tls(socket) => socket.finish().await,
        }
    }
}

/// Reads once.
pub(super) fn read_available(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    let result = socket.try_io(Interest::READABLE, || receive(SockRef::from(socket), buffer, &mut read));
    if read > 0 { Ok(read) } else { result.map(|()| 0) }
}

/// Reads once. A socket that had less than it was asked for is empty. The runtime learns that from an error alone, and
/// would let the next read ask the kernel in vain.
fn receive(socket: SockRef<'_>, buffer: &mut [u8], read: &mut usize) -> io::Result<()> {
    *read = (&*socket).read(buffer)?;
    if 0 < *read && *read < buffer.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
}
