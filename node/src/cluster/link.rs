//! Links between members: the handshake, and frames over a socket.

use std::io;
use std::time::Duration;

use larder_protocol::peer::{self, Frame, GREETING_MAX, Greeting, Message, Purpose};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// The longest that a connection and its handshake may take.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes that one read asks for at least.
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
    /// The longest payload once the handshake is over.
    pub(crate) payload_max: usize,
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
    half: OwnedReadHalf,
    buffer: Vec<u8>,
    start: usize,
    payload_max: usize,
}

impl Incoming {
    fn new(half: OwnedReadHalf, payload_max: usize) -> Incoming {
        Incoming { half, buffer: Vec::new(), start: 0, payload_max }
    }

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
        // Room grows with what arrives, not with what is announced.
        self.buffer.reserve(READ);
        match self.half.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// The socket and what was read of it and not yet used, to go on elsewhere.
    pub(crate) fn into_socket(self, half: OwnedWriteHalf) -> io::Result<(std::net::TcpStream, Vec<u8>)> {
        let rest = self.buffer[self.start..].to_vec();
        let stream = self.half.reunite(half).map_err(io::Error::other)?;
        Ok((stream.into_std()?, rest))
    }

    /// Goes on where [`Incoming::into_socket`] stopped.
    pub(crate) fn resume(
        socket: std::net::TcpStream,
        rest: Vec<u8>,
        payload_max: usize,
    ) -> io::Result<(Incoming, OwnedWriteHalf)> {
        let (read, write) = TcpStream::from_std(socket)?.into_split();
        Ok((Incoming { buffer: rest, ..Incoming::new(read, payload_max) }, write))
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

    fn proof(&self, listener: bool, hello: &Greeting<'_>, welcome: &Greeting<'_>) -> peer::Proof {
        let tag = hmac::sign(&self.key, &peer::transcript(listener, hello, welcome));
        tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
    }

    fn verify(
        &self,
        proof: &peer::Proof,
        listener: bool,
        hello: &Greeting<'_>,
        welcome: &Greeting<'_>,
    ) -> io::Result<()> {
        hmac::verify(&self.key, &peer::transcript(listener, hello, welcome), proof)
            .map_err(|_| refused("it has another key (--cluster-key-file)"))
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
    pub(crate) async fn dial(&self, address: &str, purpose: Purpose) -> io::Result<(Incoming, OwnedWriteHalf, Remote)> {
        let patience = || io::Error::new(io::ErrorKind::TimedOut, "no answer");
        timeout(GREETING_TIMEOUT, self.dial_patiently(address, purpose)).await.map_err(|_| patience())?
    }

    async fn dial_patiently(&self, address: &str, purpose: Purpose) -> io::Result<(Incoming, OwnedWriteHalf, Remote)> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (read, mut write) = stream.into_split();
        let hello = self.greeting(purpose, nonce()?);
        let mut out = Vec::new();
        Message::Hello(hello.clone()).encode(0, &mut out);
        write.write_all(&out).await?;
        let mut incoming = Incoming::new(read, GREETING_MAX);
        let (proof, remote) = loop {
            match incoming.next()? {
                Some(Frame { message: Message::Welcome(welcome, proof), .. }) => {
                    self.verify(&proof, true, &hello, &welcome)?;
                    break (self.proof(false, &hello, &welcome), Remote::of(&welcome));
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
    pub(crate) async fn welcome(&self, stream: TcpStream) -> io::Result<(Incoming, OwnedWriteHalf, Remote)> {
        let patience = || io::Error::new(io::ErrorKind::TimedOut, "no greeting");
        timeout(GREETING_TIMEOUT, self.welcome_patiently(stream)).await.map_err(|_| patience())?
    }

    async fn welcome_patiently(&self, stream: TcpStream) -> io::Result<(Incoming, OwnedWriteHalf, Remote)> {
        stream.set_nodelay(true)?;
        let (read, mut write) = stream.into_split();
        let mut incoming = Incoming::new(read, GREETING_MAX);
        let mut out = Vec::new();
        let nonce = nonce()?;
        let (hello_bytes, remote) = loop {
            match incoming.next()? {
                Some(Frame { message: Message::Hello(hello), .. }) => {
                    if let Some(words) = self.differs(&hello) {
                        Message::Refused(&words).encode(0, &mut out);
                        write.write_all(&out).await?;
                        return Err(refused(words));
                    }
                    let welcome = self.greeting(hello.purpose, nonce);
                    let proof = self.proof(true, &hello, &welcome);
                    Message::Welcome(welcome.clone(), proof).encode(0, &mut out);
                    // What the other side must prove, while its greeting is at hand.
                    break (peer::transcript(false, &hello, &welcome), Remote::of(&hello));
                }
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => incoming.fill().await?,
            }
        };
        write.write_all(&out).await?;
        loop {
            match incoming.next()? {
                Some(Frame { message: Message::Proof(proof), .. }) => {
                    hmac::verify(&self.key, &hello_bytes, &proof)
                        .map_err(|_| refused("it has another key (--cluster-key-file)"))?;
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
