//! TLS sessions by rustls: those of clients, whose bytes this node holds itself, and those between members.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{Connection, HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::net::socket::read_available;

/// Most bytes that are read at a time: a record of the greatest length (RFC 5246, section 6.2.3).
const RECORD_MAX: usize = 16 * 1024 + 2048 + 5;

/// Bytes at which a client's handshake message, in its records, is too long.
const HANDSHAKE_MAX: usize = 64 * 1024;

/// Most plaintext that is encrypted at a time.
const PLAINTEXT_MAX: usize = 64 * 1024;

/// Most bytes by which encryption makes a record longer, and the most plaintext of a record.
const RECORD_OVERHEAD: usize = 64;
const RECORD_PLAINTEXT: usize = 16 * 1024;

/// Most bytes of what a session sends on its own before plaintext or instead of it: a change of keys, an alert.
const MESSAGES: usize = 256;

thread_local! {
    static WORKING: RefCell<Working> = RefCell::default();
}

/// The working memory of the session that a worker serves at the moment.
#[derive(Default)]
struct Working {
    input: Vec<u8>,
    plaintext: Vec<u8>,
    output: Output,
}

/// Bytes to be sent, at the front of memory that is used again.
#[derive(Default)]
struct Output {
    memory: Vec<u8>,
    len: usize,
}

impl Output {
    fn bytes(&self) -> &[u8] {
        &self.memory[..self.len]
    }

    /// Appends what `write` writes into at most `room` bytes.
    fn append<E: std::error::Error + Send + Sync + 'static>(
        &mut self,
        room: usize,
        write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> io::Result<()> {
        if self.memory.len() < self.len + room {
            self.memory.resize(self.len + room, 0);
        }
        self.len += write(&mut self.memory[self.len..self.len + room]).map_err(io::Error::other)?;
        Ok(())
    }
}

/// A session with a client. While it waits it holds what is not complete, not read or not sent, and no room for more.
pub(super) struct ClientSession {
    rustls: UnbufferedServerConnection,
    /// Bytes of records and handshakes that are not complete.
    received: Vec<u8>,
    /// Decrypted bytes that are not read yet.
    plaintext: Vec<u8>,
    /// Encrypted bytes that the socket has not taken yet.
    unsent: Vec<u8>,
    /// Bytes of the client's certificates, which rustls keeps.
    certificates: usize,
    /// Whether the client has ended the session.
    ended: bool,
    /// Whether an error has: rustls then has no consistent state.
    failed: bool,
}

/// What a session does once its input leads no further.
#[derive(Clone, Copy)]
enum Then<'a> {
    Wait,
    Send(&'a [u8]),
    End,
}

impl ClientSession {
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(ClientSession {
            rustls: UnbufferedServerConnection::new(config)?,
            received: Vec::new(),
            plaintext: Vec::new(),
            unsent: Vec::new(),
            certificates: 0,
            ended: false,
            failed: false,
        })
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.rustls.is_handshaking()
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.rustls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Bytes from the client or for it.
    pub(super) fn holds(&self) -> usize {
        self.received.capacity() + self.plaintext.capacity() + self.unsent.capacity() + self.certificates
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Reads decrypted bytes. There are none if the client has ended the session.
    pub(super) fn read(&mut self, stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let left = buffer.len().min(self.plaintext.len());
        if left > 0 {
            buffer[..left].copy_from_slice(&self.plaintext[..left]);
            remove(&mut self.plaintext, left);
            return Ok(left);
        }
        WORKING.with_borrow_mut(|working| {
            loop {
                let filled = self.receive(stream, buffer, working)?;
                if filled > 0 || self.ended {
                    return Ok(filled);
                }
            }
        })
    }

    /// Reads from the socket once, and returns how many bytes of plaintext that brought.
    fn receive(&mut self, stream: &TcpStream, buffer: &mut [u8], working: &mut Working) -> io::Result<usize> {
        let Working { input, output, .. } = working;
        let begun = self.received.len();
        if begun >= HANDSHAKE_MAX {
            return Err(invalid("a handshake message is too long"));
        }
        if input.len() < begun + RECORD_MAX {
            input.resize(begun + RECORD_MAX, 0);
        }
        let read = if self.ended { 0 } else { read_available(stream, &mut input[begun..begun + RECORD_MAX])? };
        if read == 0 {
            // A client that closes without a close_notify alert has closed all the same.
            self.ended = true;
            return Ok(0);
        }
        input[..begun].copy_from_slice(&self.received);
        let input = &mut input[..begun + read];
        output.len = 0;
        let (mut filled, mut left) = (0, Vec::new());
        let handshaking = self.is_handshaking();
        let used = self.advance(input, output, Then::Wait, |bytes| {
            let len = bytes.len().min(buffer.len() - filled);
            buffer[filled..filled + len].copy_from_slice(&bytes[..len]);
            filled += len;
            left.extend_from_slice(&bytes[len..]);
        });
        self.plaintext = left;
        self.received = used.as_ref().map_or(Vec::new(), |&used| input[used..].to_vec());
        // What cannot be sent now is sent before the next wait.
        let sent = send(stream, &mut self.unsent, output.bytes());
        used?;
        if handshaking && !self.is_handshaking() {
            self.certificates = self.rustls.peer_certificates().unwrap_or_default().iter().map(|der| der.len()).sum();
        }
        self.ended |= sent.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock);
        Ok(filled)
    }

    /// Encrypts and sends at most `most` bytes, once the socket has taken all before them. Returns how many.
    pub(super) fn write(&mut self, stream: &TcpStream, slices: &[IoSlice<'_>], most: usize) -> io::Result<usize> {
        let most = most.min(PLAINTEXT_MAX);
        self.flush(stream)?;
        WORKING.with_borrow_mut(|Working { plaintext, output, .. }| {
            let bytes = match slices {
                [only] => &only[..only.len().min(most)],
                [first, ..] if first.len() >= most => &first[..most],
                _ => {
                    plaintext.clear();
                    for slice in slices {
                        let room = most - plaintext.len();
                        plaintext.extend_from_slice(&slice[..slice.len().min(room)]);
                    }
                    &plaintext[..]
                }
            };
            output.len = 0;
            self.conclude(Then::Send(bytes), output)?;
            match send(stream, &mut self.unsent, output.bytes()) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                _ => Ok(bytes.len()),
            }
        })
    }

    /// Adds a close_notify alert to what is to be sent.
    pub(super) fn end(&mut self) {
        let mut alert = Output::default();
        // A handshake that is not complete is not ended either.
        if self.conclude(Then::End, &mut alert).is_ok() {
            self.unsent.extend_from_slice(alert.bytes());
        }
    }

    /// Sends what the session holds for the client.
    pub(super) fn flush(&mut self, stream: &TcpStream) -> io::Result<()> {
        send(stream, &mut self.unsent, &[])
    }

    /// Does something without further input.
    fn conclude(&mut self, then: Then<'_>, output: &mut Output) -> io::Result<()> {
        let (mut received, mut left) = (std::mem::take(&mut self.received), std::mem::take(&mut self.plaintext));
        let used = self.advance(&mut received, output, then, |bytes| left.extend_from_slice(bytes));
        remove(&mut received, *used.as_ref().unwrap_or(&0));
        (self.received, self.plaintext) = (received, left);
        used.map(drop)
    }

    /// Goes on as far as `input` leads, and then does what is asked. Delivers what the client has sent, and adds to
    /// `output` what is to be sent. Returns the length of the input that is used up: no whole record is left behind it.
    /// The next input must begin with the rest.
    fn advance(
        &mut self,
        input: &mut [u8],
        output: &mut Output,
        then: Then<'_>,
        deliver: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        if self.failed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let result = self.step(input, output, then, deliver);
        self.failed = result.is_err();
        result
    }

    fn step(
        &mut self,
        input: &mut [u8],
        output: &mut Output,
        then: Then<'_>,
        mut deliver: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state } = self.rustls.process_tls_records(&mut input[used..]);
            let mut is_over = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        deliver(record.payload);
                        used += record.discard;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    output.append(RECORD_MAX, |room| message.encode(room))?;
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    is_over = true;
                    match then {
                        Then::Wait => {}
                        Then::Send(bytes) => {
                            let records = bytes.len() / RECORD_PLAINTEXT + 1;
                            let room = bytes.len() + records * RECORD_OVERHEAD + MESSAGES;
                            output.append(room, |room| traffic.encrypt(bytes, room))?;
                        }
                        Then::End => output.append(MESSAGES, |room| traffic.queue_close_notify(room))?,
                    }
                }
                // The handshake is not complete, or both sides have ended the session.
                Ok(_) if matches!(then, Then::Wait) => is_over = true,
                Ok(_) => return Err(io::ErrorKind::NotConnected.into()),
                Err(error) => {
                    // An alert tells the client why. Without one to send, rustls would read the same input again.
                    while self.rustls.wants_write() {
                        match self.rustls.process_tls_records(&mut input[used + discard..]).state {
                            Ok(ConnectionState::EncodeTlsData(mut alert)) => {
                                output.append(RECORD_MAX, |room| alert.encode(room))?;
                            }
                            Ok(ConnectionState::ReadTraffic(mut traffic)) => while traffic.next_record().is_some() {},
                            _ => break,
                        }
                    }
                    return Err(invalid(error));
                }
            }
            used += discard;
            if is_over {
                return Ok(used);
            }
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Removes the first bytes, and the memory with the last of them.
fn remove(bytes: &mut Vec<u8>, len: usize) {
    if len == bytes.len() {
        *bytes = Vec::new();
    } else {
        bytes.drain(..len);
    }
}

/// Sends what is waiting, then `bytes`. What the socket does not take waits.
fn send(stream: &TcpStream, waiting: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    while !waiting.is_empty() {
        match stream.try_write(waiting) {
            Ok(sent) => remove(waiting, sent),
            Err(error) => {
                waiting.extend_from_slice(bytes);
                return Err(error);
            }
        }
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        match stream.try_write(rest) {
            Ok(sent) => rest = &rest[sent..],
            Err(error) => {
                *waiting = rest.to_vec();
                return Err(error);
            }
        }
    }
    Ok(())
}

/// A session with a member, whose bytes rustls holds: there are few, and only such a session tells its secret.
pub(super) struct MemberSession(Box<Connection>);

impl MemberSession {
    pub(super) fn new(rustls: impl Into<Connection>) -> Self {
        MemberSession(Box::new(rustls.into()))
    }

    /// Completes the handshake. Returns bytes that both ends of this session have, and nobody else (RFC 9266).
    pub(super) async fn handshake(&mut self, stream: &TcpStream) -> io::Result<[u8; 32]> {
        loop {
            match self.flush(stream) {
                Ok(()) if !self.0.is_handshaking() => break,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
            let mut awaited = Interest::WRITABLE;
            if self.0.is_handshaking() {
                match self.0.read_tls(&mut Ciphertext(stream)) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(_) => {
                        let _ = self.process(stream)?;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
                awaited = if self.has_unsent() { Interest::READABLE | awaited } else { Interest::READABLE };
            }
            stream.ready(awaited).await?;
        }
        if self.0.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Err(invalid("members speak TLS 1.3"));
        }
        self.0.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")).map_err(io::Error::other)
    }

    /// Takes in what was read. Returns whether what had to be sent then could be.
    fn process(&mut self, stream: &TcpStream) -> io::Result<io::Result<()>> {
        let processed = self.0.process_new_packets();
        // There may be an alert to send. What cannot be sent now is sent before the next wait.
        let sent = self.flush(stream);
        processed.map(|_| sent).map_err(invalid)
    }

    /// Reads decrypted bytes. There are none if the member has ended the session.
    pub(super) fn read(&mut self, stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            if self.0.read_tls(&mut Ciphertext(stream))? == 0 {
                return Ok(0);
            }
            let sent = self.process(stream)?;
            if sent.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
                return Ok(0);
            }
        }
    }

    /// Takes as much as there is room for, once the socket has taken all before it. Returns the bytes taken.
    pub(super) fn write(&mut self, stream: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.flush(stream)?;
        let taken = self.0.writer().write_vectored(slices)?;
        match self.flush(stream) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    pub(super) fn end(&mut self) {
        self.0.send_close_notify();
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.0.wants_write()
    }

    /// Sends what the session holds for the member.
    pub(super) fn flush(&mut self, stream: &TcpStream) -> io::Result<()> {
        while self.0.wants_write() {
            self.0.write_tls(&mut Ciphertext(stream))?;
        }
        Ok(())
    }
}

/// The socket below a session with a member.
struct Ciphertext<'a>(&'a TcpStream);

impl Read for Ciphertext<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Ciphertext<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
