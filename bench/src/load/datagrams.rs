//! Reads over UDP: a request is one datagram, its answer one datagram or several.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use larder_protocol::udp::{DATAGRAM_MAX_LEN, Frame, Reassembly};

/// A UDP socket that behaves like a connection with one request under way. A lost datagram shows as a time-out.
pub(crate) struct Datagrams {
    socket: UdpSocket,
    request_id: u16,
    answer: Reassembly,
    /// A whole answer, and how much of it has been read.
    whole: (Vec<u8>, usize),
}

impl Datagrams {
    /// Opens a socket for `address`.
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Datagrams> {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        Ok(Datagrams { socket, request_id: 0, answer: Reassembly::new(0), whole: (Vec::new(), 0) })
    }

    /// Sends one request as a datagram.
    pub(crate) fn send(&mut self, request: &[u8]) -> io::Result<usize> {
        self.request_id = self.request_id.wrapping_add(1);
        self.answer = Reassembly::new(self.request_id);
        let header = Frame { request_id: self.request_id, sequence: 0, total: 1 }.encode();
        self.socket.send(&[&header, request].concat())?;
        Ok(request.len())
    }

    /// Reads from the answer to the last request; blocks the caller never (`WouldBlock`).
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut datagram = [0; DATAGRAM_MAX_LEN];
        while self.whole.1 == self.whole.0.len() {
            let len = self.socket.recv(&mut datagram)?;
            match self.answer.push(&datagram[..len]) {
                Some(answer) if answer.is_empty() => return Err(ErrorKind::InvalidData.into()),
                Some(answer) => self.whole = (answer, 0),
                None => {}
            }
        }
        let (answer, read) = &mut self.whole;
        let len = buffer.len().min(answer.len() - *read);
        buffer[..len].copy_from_slice(&answer[*read..*read + len]);
        *read += len;
        Ok(len)
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
