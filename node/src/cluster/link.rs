//! Links between members: the handshake, and frames over a socket.
//!
//! With -Z links are TLS. The handshake of the cluster's key then also proves that both ends are those of one session.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use larder_protocol::peer::{self, Frame, GREETING_MAX, Greeting, Message, Purpose};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::ClientConfig;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::net::socket::Socket;
use crate::net::tls::{self, Tls};

/// The longest that a connection and its handshake may take.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);

/// A link ends where the other machine does not acknowledge for so long what was sent. A network that was cut in silence
/// and is whole again is then found by dialling anew: on the old link the kernel sends again after longer and longer.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// Bytes that one read asks for.
const READ: usize = 16 * 1024;

/// Input buffers above this are given back once they are empty.
const KEPT: usize = 256 * 1024;

/// What a node or an operator's program proves with, and is.
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) id: String,
    /// Random, anew for each process.
    pub(crate) process: u64,
    /// What all members must have in common, in words.
    pub(crate) settings: String,
    pub(crate) key: hmac::Key,
    pub(crate) encryption: Encryption,
    /// The longest payload once the handshake is over.
    pub(crate) payload_max: usize,
}

/// How links are encrypted.
pub(crate) enum Encryption {
    None,
    /// With the certificates of a node.
    Tls(Arc<Tls>),
    /// As a program that has none, and dials only.
    Dialler(Arc<ClientConfig>),
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) id: String,
    pub(crate) process: u64,
    pub(crate) purpose: Purpose,
}

impl Remote {
    fn of(greeting: &Greeting<'_>) -> Remote {
        Remote { id: greeting.id.to_owned(), process: greeting.process, purpose: greeting.purpose }
    }
}

/// Frames as they arrive.
pub(crate) struct Incoming {
    socket: Arc<Socket>,
    /// What one read brings.
    piece: Box<[u8]>,
    buffer: Vec<u8>,
    start: usize,
    payload_max: usize,
}

/// Where frames are written.
pub(crate) struct Outgoing(Arc<Socket>);

impl Outgoing {
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }
}

/// Both ends of a link for frames.
fn link(socket: Socket, payload_max: usize) -> (Incoming, Outgoing) {
    let socket = Arc::new(socket);
    let outgoing = Outgoing(socket.clone());
    let piece = vec![0; READ].into_boxed_slice();
    (Incoming { socket, piece, buffer: Vec::new(), start: 0, payload_max }, outgoing)
}

impl Incoming {
    /// The next frame, where the whole of it has arrived.
    pub(crate) fn next(&mut self) -> io::Result<Option<Frame<'_>>> {
        match peer::decode(&self.buffer[self.start..], self.payload_max) {
            Ok(None) => Ok(None),
            Ok(Some((frame, consumed))) => {
                self.start += consumed;
                Ok(Some(frame))
            }
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }

    /// Waits for more bytes. Nothing is lost where the future is dropped.
    pub(crate) async fn fill(&mut self) -> io::Result<()> {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            if self.buffer.capacity() > KEPT {
                self.buffer = Vec::new();
            }
        } else {
            self.buffer.drain(..self.start);
        }
        self.start = 0;
        loop {
            match self.socket.try_read(&mut self.piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    // Room grows with what arrives, not with what is announced.
                    self.buffer.extend_from_slice(&self.piece[..read]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.socket.readable().await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// The socket and what was read of it and not yet used, to go on elsewhere.
    pub(crate) fn into_socket(self, outgoing: Outgoing) -> io::Result<(Socket, Vec<u8>)> {
        let rest = self.buffer[self.start..].to_vec();
        drop(outgoing);
        let socket = Arc::into_inner(self.socket).ok_or_else(|| io::Error::other("the link is in use"))?;
        Ok((socket, rest))
    }

    /// Goes on where [`Incoming::into_socket`] stopped, in the runtime of the calling thread.
    pub(crate) fn resume(socket: Socket, rest: Vec<u8>, payload_max: usize) -> io::Result<(Incoming, Outgoing)> {
        let (incoming, outgoing) = link(socket.move_here()?, payload_max);
        Ok((Incoming { buffer: rest, ..incoming }, outgoing))
    }
}

fn refused(words: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, words.into())
}

fn nonce() -> io::Result<[u8; 16]> {
    let mut nonce = [0; 16];
    SystemRandom::new().fill(&mut nonce).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(nonce)
}

/// A random number.
pub(crate) fn random() -> io::Result<u64> {
    nonce().map(|nonce| u64::from_le_bytes(nonce[..8].try_into().expect("eight of sixteen")))
}

impl Identity {
    fn greeting(&self, purpose: Purpose, nonce: [u8; 16]) -> Greeting<'_> {
        Greeting {
            purpose,
            cluster: &self.cluster,
            id: &self.id,
            nonce,
            process: self.process,
            settings: &self.settings,
        }
    }

    fn prove(&self, proved: &[u8]) -> peer::Proof {
        hmac::sign(&self.key, proved).as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
    }

    fn verify(&self, proof: &peer::Proof, proved: &[u8]) -> io::Result<()> {
        hmac::verify(&self.key, proved, proof).map_err(|_| match self.encryption {
            Encryption::None => refused("it has another key (--cluster-key-file)"),
            _ => {
                refused("it has another key (--cluster-key-file), or somebody between has a TLS session with each end")
            }
        })
    }

    /// Encrypts a new connection where links are encrypted. Returns, beside it, what both ends of one session have, and
    /// nobody else.
    async fn secure(&self, stream: TcpStream, dials: bool) -> io::Result<(Socket, Vec<u8>)> {
        stream.set_nodelay(true)?;
        #[cfg(target_os = "linux")]
        SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
        let secured = match &self.encryption {
            Encryption::None => return Ok((Socket::Tcp(stream), Vec::new())),
            Encryption::Tls(tls) if dials => tls.dial(stream).await,
            Encryption::Tls(tls) => tls.accept_member(stream).await,
            Encryption::Dialler(config) => tls::dial(stream, config.clone()).await,
        };
        let (socket, session) =
            secured.map_err(|error| refused(format!("no TLS, which -Z asks all members for: {error}")))?;
        Ok((Socket::Tls(socket), session.to_vec()))
    }

    /// What keeps the two apart, in words.
    fn differs(&self, other: &Greeting<'_>) -> Option<String> {
        if other.cluster != self.cluster {
            Some(format!("this is the cluster {:?}, not {:?}", self.cluster, other.cluster))
        } else if other.purpose != Purpose::Operator && other.settings != self.settings {
            Some(format!("all members need the same settings: here {}, there {}", self.settings, other.settings))
        } else {
            None
        }
    }

    /// Connects to a member.
    pub(crate) async fn dial(&self, address: &str, purpose: Purpose) -> io::Result<(Incoming, Outgoing, Remote)> {
        let patience = || io::Error::new(io::ErrorKind::TimedOut, "no answer");
        timeout(GREETING_TIMEOUT, self.dial_patiently(address, purpose)).await.map_err(|_| patience())?
    }

    async fn dial_patiently(&self, address: &str, purpose: Purpose) -> io::Result<(Incoming, Outgoing, Remote)> {
        let (socket, session) = self.secure(TcpStream::connect(address).await?, true).await?;
        let (mut incoming, mut write) = link(socket, GREETING_MAX);
        let hello = self.greeting(purpose, nonce()?);
        let mut out = Vec::new();
        Message::Hello(hello.clone()).encode(0, &mut out);
        write.write_all(&out).await?;
        let (proof, remote) = loop {
            match incoming.next()? {
                Some(Frame { message: Message::Welcome(welcome, proof), .. }) => {
                    self.verify(&proof, &proved(true, &hello, &welcome, &session))?;
                    break (self.prove(&proved(false, &hello, &welcome, &session)), Remote::of(&welcome));
                }
                Some(Frame { message: Message::Refused(words), .. }) => return Err(refused(words)),
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => incoming.fill().await?,
            }
        };
        out.clear();
        Message::Proof(proof).encode(0, &mut out);
        write.write_all(&out).await?;
        incoming.payload_max = self.payload_max;
        Ok((incoming, write, remote))
    }

    /// Greets whoever connected. Until it has proved itself it is given nothing and costs a few KiB.
    pub(crate) async fn welcome(&self, stream: TcpStream) -> io::Result<(Incoming, Outgoing, Remote)> {
        let patience = || io::Error::new(io::ErrorKind::TimedOut, "no greeting");
        timeout(GREETING_TIMEOUT, self.welcome_patiently(stream)).await.map_err(|_| patience())?
    }

    async fn welcome_patiently(&self, stream: TcpStream) -> io::Result<(Incoming, Outgoing, Remote)> {
        let (socket, session) = self.secure(stream, false).await?;
        let (mut incoming, mut write) = link(socket, GREETING_MAX);
        let mut out = Vec::new();
        let nonce = nonce()?;
        let (to_prove, remote) = loop {
            match incoming.next()? {
                Some(Frame { message: Message::Hello(hello), .. }) => {
                    if let Some(words) = self.differs(&hello) {
                        Message::Refused(&words).encode(0, &mut out);
                        write.write_all(&out).await?;
                        return Err(refused(words));
                    }
                    let welcome = self.greeting(hello.purpose, nonce);
                    let proof = self.prove(&proved(true, &hello, &welcome, &session));
                    Message::Welcome(welcome.clone(), proof).encode(0, &mut out);
                    // What the other side must prove, while its greeting is at hand.
                    break (proved(false, &hello, &welcome, &session), Remote::of(&hello));
                }
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => incoming.fill().await?,
            }
        };
        write.write_all(&out).await?;
        loop {
            match incoming.next()? {
                Some(Frame { message: Message::Proof(proof), .. }) => {
                    self.verify(&proof, &to_prove)?;
                    break;
                }
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => incoming.fill().await?,
            }
        }
        incoming.payload_max = self.payload_max;
        Ok((incoming, write, remote))
    }
}

/// What a proof is made over: both greetings, and what is a TLS session's own.
fn proved(listener: bool, hello: &Greeting<'_>, welcome: &Greeting<'_>, session: &[u8]) -> Vec<u8> {
    let mut bytes = peer::transcript(listener, hello, welcome);
    bytes.extend_from_slice(session);
    bytes
}
