//! Frames between the nodes of a cluster. They have a port of their own; no client's port takes them.
//!
//! ```text
//! u32 length of the payload | u8 kind | u8 protocol of a request | u16 0 | u32 id | payload          all little-endian
//! ```
//!
//! A link begins with a handshake: `Hello` from who dials, `Welcome` with a proof from who listens, `Proof` from who
//! dials. Both proofs are keyed hashes over both greetings ([`transcript`]), which hold a random number of each side,
//! so that no old exchange can be sent again. Then it carries frames in order: a [`Message::View`] comes before
//! whatever was decided by it.

mod view;

pub use view::{Founding, MEMBERS_MAX, Member, State, View};

use std::collections::BTreeMap;

use crate::{KEY_MAX_LEN, Protocol};

/// Bytes before a frame's payload.
pub const HEADER_LEN: usize = 12;

/// The version of this format: nodes of different formats do not link.
pub const FORMAT: u16 = 2;

/// The longest payload before the handshake is over.
pub const GREETING_MAX: usize = 4 * 1024;

/// Entries of a view, members that are gone included.
const ENTRIES_MAX: usize = 4096;

const MAGIC: u32 = u32::from_le_bytes(*b"LRDR");

/// What the keys begin with that each node has for itself: in a cluster too, a command on one is carried out where it
/// arrives, and its item never moves. The datastore's invalidator counts its beats on each node under such a key.
pub const LOCAL_KEYS: &str = "larder:beat:";

/// A keyed hash: HMAC-SHA256.
pub type Proof = [u8; 32];

/// What a link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Views and pings.
    Control = 1,
    /// Clients' commands.
    Forward = 2,
    /// Items that move.
    Move = 3,
    /// An operator's program, which is no member.
    Operator = 4,
}

/// How both sides introduce themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting<'a> {
    /// What the link is for.
    pub purpose: Purpose,
    /// The cluster's name.
    pub cluster: &'a str,
    /// The node's id.
    pub id: &'a str,
    /// Random, anew for each link.
    pub nonce: [u8; 16],
    /// Random, anew for each process.
    pub process: u64,
    /// What all members must have in common, in words.
    pub settings: &'a str,
}

/// How a node is: pings carry it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Status {
    /// The number of the list under which the rest is said.
    pub version: u32,
    /// It waits for no item of another node.
    pub complete: bool,
    /// It is complete, and holds no item of another node's.
    pub settled: bool,
    /// Share of its workers' time in use, 0 to 1.
    pub cpu: f32,
    /// Commands a second.
    pub operations: f32,
    /// Reads a second that found nothing.
    pub misses: f32,
    /// Bytes a second, read and written.
    pub bytes: f32,
    /// Share of its memory in use, 0 to 1.
    pub memory: f32,
    /// Reads a second that would find their item with as much memory as one node more brings.
    pub gain: f32,
    /// Reads a second that would miss without as much memory as one node less takes.
    pub loss: f32,
    /// The hottest key's share of its commands, 0 to 1.
    pub hottest: f32,
    /// How many nodes it finds that there should be; 0 while it knows too little.
    pub wanted: u16,
}

/// An item on its way to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// The client's flags.
    pub flags: u32,
    /// Seconds left; `None` is never.
    pub ttl: Option<u32>,
    /// It is marked stale.
    pub stale: bool,
    /// What the sender's eviction knows of its uses: it has a meaning to the nodes alone.
    pub past: u8,
    /// Its value.
    pub value: &'a [u8],
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq)]
pub enum Message<'a> {
    /// Who dials.
    Hello(Greeting<'a>),
    /// Who listens, with its proof.
    Welcome(Greeting<'a>, Proof),
    /// The proof of who dialled.
    Proof(Proof),
    /// The link is refused, with the reason in words.
    Refused(&'a str),
    /// What the sender knows of the cluster; its acknowledgement of all that this covers.
    View(View),
    /// Are you there?
    Ping(Status),
    /// Yes.
    Pong(Status),
    /// Carry out a client's command, its own bytes, and answer as to the client.
    Ask {
        /// How the command is written.
        protocol: Protocol,
        /// After so long nobody waits for it.
        milliseconds: u32,
        /// The command.
        request: &'a [u8],
    },
    /// What the client is to be sent.
    Answer(&'a [u8]),
    /// The key of the command belongs to another node.
    NotMine,
    /// Hand on the item under this key.
    Take {
        /// The key.
        key: &'a [u8],
    },
    /// The item, if there was one. It is no longer where it was.
    Taken(Option<Moved<'a>>),
    /// Hand on further items.
    Pull {
        /// Leave out items that were not used for so many seconds, but for those that eviction has kept before.
        idle: u32,
        /// About so many bytes.
        bytes: u32,
    },
    /// Items that are no longer where they were.
    Pulled(Batch<'a>),
    /// There are no further items: the sender holds none of the receiver's.
    Done,
    /// A member is dead: an operator says so.
    Forget {
        /// Its id.
        id: &'a str,
    },
    /// The node is to leave: an operator says so.
    Drain,
    /// What an operator's command came to, in words.
    Told(&'a str),
}

/// Items one after the other, checked as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch<'a>(&'a [u8]);

impl<'a> Batch<'a> {
    /// Bytes of items.
    pub fn bytes(self) -> usize {
        self.0.len()
    }

    /// The items.
    pub fn iter(self) -> impl Iterator<Item = Moved<'a>> {
        let mut reader = Reader(self.0);
        std::iter::from_fn(move || if reader.0.is_empty() { None } else { moved(&mut reader).ok() })
    }
}

/// A frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame<'a> {
    /// Ties an answer to its question.
    pub id: u32,
    /// What it says.
    pub message: Message<'a>,
}

/// Bytes that are no frame. The link cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The payload is longer than is allowed here.
    #[error("a frame of {len} bytes, more than {limit}")]
    TooLong {
        /// The length announced, bytes.
        len: usize,
        /// The most, bytes.
        limit: usize,
    },
    /// The kind is unknown.
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    /// The payload is not what its kind has.
    #[error("a malformed frame of the kind {0}")]
    Malformed(u8),
}

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const WELCOME: u8 = 2;
    pub(super) const PROOF: u8 = 3;
    pub(super) const REFUSED: u8 = 4;
    pub(super) const VIEW: u8 = 5;
    pub(super) const PING: u8 = 6;
    pub(super) const PONG: u8 = 7;
    pub(super) const ASK: u8 = 8;
    pub(super) const ANSWER: u8 = 9;
    pub(super) const NOT_MINE: u8 = 10;
    pub(super) const TAKE: u8 = 11;
    pub(super) const TAKEN: u8 = 12;
    pub(super) const PULL: u8 = 13;
    pub(super) const PULLED: u8 = 14;
    pub(super) const DONE: u8 = 15;
    pub(super) const FORGET: u8 = 16;
    pub(super) const DRAIN: u8 = 17;
    pub(super) const TOLD: u8 = 18;
}

/// Reads the frame at the front of `input` and how many bytes it took; `None`: more must come.
///
/// # Errors
/// Where the bytes are no frame, or announce a payload above `payload_max` bytes. Nothing is allocated for what is
/// announced.
pub fn decode(input: &[u8], payload_max: usize) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some((header, rest)) = input.split_at_checked(HEADER_LEN) else { return Ok(None) };
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (len, kind, protocol, id) = (word(0) as usize, header[4], header[5], word(8));
    if len > payload_max {
        return Err(FrameError::TooLong { len, limit: payload_max });
    }
    let malformed = FrameError::Malformed(kind);
    if header[6..8] != [0, 0] || protocol > 1 || (protocol != 0 && kind != kind::ASK) {
        return Err(malformed);
    }
    if !(kind::HELLO..=kind::TOLD).contains(&kind) {
        return Err(FrameError::Kind(kind));
    }
    let Some(payload) = rest.get(..len) else { return Ok(None) };
    let mut reader = Reader(payload);
    let message = message(kind, protocol, &mut reader).map_err(|Short| malformed)?;
    if !reader.0.is_empty() {
        return Err(malformed);
    }
    Ok(Some((Frame { id, message }, HEADER_LEN + len)))
}

fn message<'a>(kind: u8, protocol: u8, reader: &mut Reader<'a>) -> Result<Message<'a>, Short> {
    Ok(match kind {
        kind::HELLO => Message::Hello(greeting(reader)?),
        kind::WELCOME => Message::Welcome(greeting(reader)?, reader.array()?),
        kind::PROOF => Message::Proof(reader.array()?),
        kind::REFUSED => Message::Refused(reader.text()?),
        kind::VIEW => Message::View(view(reader)?),
        kind::PING => Message::Ping(status(reader)?),
        kind::PONG => Message::Pong(status(reader)?),
        kind::ASK => Message::Ask {
            protocol: if protocol == 1 { Protocol::Binary } else { Protocol::Text },
            milliseconds: reader.u32()?,
            request: reader.rest(),
        },
        kind::ANSWER => Message::Answer(reader.rest()),
        kind::NOT_MINE => Message::NotMine,
        kind::TAKE => Message::Take { key: key(reader)? },
        kind::TAKEN if reader.0.is_empty() => Message::Taken(None),
        kind::TAKEN => Message::Taken(Some(moved(reader)?)),
        kind::PULL => Message::Pull { idle: reader.u32()?, bytes: reader.u32()? },
        kind::PULLED => {
            let batch = reader.rest();
            let mut items = Reader(batch);
            while !items.0.is_empty() {
                moved(&mut items)?;
            }
            Message::Pulled(Batch(batch))
        }
        kind::DONE => Message::Done,
        kind::FORGET => Message::Forget { id: reader.text()? },
        kind::DRAIN => Message::Drain,
        _ => Message::Told(reader.text()?),
    })
}

impl Message<'_> {
    /// Appends the frame to `out`.
    ///
    /// # Panics
    /// Where a key is longer than [`KEY_MAX_LEN`], or a text longer than 65,535 bytes.
    pub fn encode(&self, id: u32, out: &mut Vec<u8>) {
        let start = begin(self.kind(), id, out);
        match self {
            Message::Hello(greeting) => push_greeting(greeting, out),
            Message::Welcome(greeting, proof) => {
                push_greeting(greeting, out);
                out.extend_from_slice(proof);
            }
            Message::Proof(proof) => out.extend_from_slice(proof),
            Message::Refused(text) | Message::Told(text) | Message::Forget { id: text } => push_text(text, out),
            Message::View(view) => push_view(view, out),
            Message::Ping(status) | Message::Pong(status) => push_status(status, out),
            Message::Ask { protocol, milliseconds, request } => {
                out[start + 5] = u8::from(*protocol == Protocol::Binary);
                out.extend_from_slice(&milliseconds.to_le_bytes());
                out.extend_from_slice(request);
            }
            Message::Answer(bytes) => out.extend_from_slice(bytes),
            Message::Take { key } => push_key(key, out),
            Message::Taken(None) | Message::NotMine | Message::Done | Message::Drain => {}
            Message::Taken(Some(item)) => push_moved(item, out),
            Message::Pull { idle, bytes } => {
                out.extend_from_slice(&idle.to_le_bytes());
                out.extend_from_slice(&bytes.to_le_bytes());
            }
            Message::Pulled(Batch(items)) => out.extend_from_slice(items),
        }
        end(start, out);
    }

    fn kind(&self) -> u8 {
        match self {
            Message::Hello(_) => kind::HELLO,
            Message::Welcome(..) => kind::WELCOME,
            Message::Proof(_) => kind::PROOF,
            Message::Refused(_) => kind::REFUSED,
            Message::View(_) => kind::VIEW,
            Message::Ping(_) => kind::PING,
            Message::Pong(_) => kind::PONG,
            Message::Ask { .. } => kind::ASK,
            Message::Answer(_) => kind::ANSWER,
            Message::NotMine => kind::NOT_MINE,
            Message::Take { .. } => kind::TAKE,
            Message::Taken(_) => kind::TAKEN,
            Message::Pull { .. } => kind::PULL,
            Message::Pulled(_) => kind::PULLED,
            Message::Done => kind::DONE,
            Message::Forget { .. } => kind::FORGET,
            Message::Drain => kind::DRAIN,
            Message::Told(_) => kind::TOLD,
        }
    }
}

/// Writes a [`Message::Pulled`] item by item.
#[derive(Debug)]
pub struct BatchWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> BatchWriter<'a> {
    /// Begins the frame.
    pub fn begin(id: u32, out: &'a mut Vec<u8>) -> Self {
        let start = begin(kind::PULLED, id, out);
        BatchWriter { out, start }
    }

    /// Appends an item.
    pub fn push(&mut self, item: &Moved<'_>) {
        push_moved(item, self.out);
    }

    /// Bytes of items so far.
    pub fn bytes(&self) -> usize {
        self.out.len() - self.start - HEADER_LEN
    }

    /// Ends the frame.
    pub fn end(self) {
        end(self.start, self.out);
    }
}

/// Writes a [`Message::Answer`] in place: `write` appends what the client is to be sent.
pub fn answer<T>(id: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let start = begin(kind::ANSWER, id, out);
    let result = write(out);
    end(start, out);
    result
}

/// What a proof is made over: the role of who proves, and both greetings.
pub fn transcript(listener: bool, hello: &Greeting<'_>, welcome: &Greeting<'_>) -> Vec<u8> {
    let mut out = if listener { b"larder welcome\0".to_vec() } else { b"larder proof\0".to_vec() };
    Message::Hello(hello.clone()).encode(0, &mut out);
    Message::Hello(welcome.clone()).encode(0, &mut out);
    out
}

fn begin(kind: u8, id: u32, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind, 0, 0, 0]);
    out.extend_from_slice(&id.to_le_bytes());
    start
}

fn end(start: usize, out: &mut [u8]) {
    let len = u32::try_from(out.len() - start - HEADER_LEN).expect("a frame holds an item at most, below 4 GiB");
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// The payload ends too early, or says what cannot be.
struct Short;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Short> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        self.bytes(N).map(|bytes| bytes.try_into().expect("as many as asked for"))
    }

    fn u8(&mut self) -> Result<u8, Short> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<&'a str, Short> {
        let len = self.u16()?;
        std::str::from_utf8(self.bytes(len.into())?).map_err(|_| Short)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

fn push_text(text: &str, out: &mut Vec<u8>) {
    let len = u16::try_from(text.len()).expect("texts of frames are short");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn key<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Short> {
    let len = reader.u8()?;
    if len as usize > KEY_MAX_LEN { Err(Short) } else { reader.bytes(len.into()) }
}

fn push_key(key: &[u8], out: &mut Vec<u8>) {
    assert!(key.len() <= KEY_MAX_LEN, "a key is short");
    out.push(key.len() as u8);
    out.extend_from_slice(key);
}

fn purpose(reader: &mut Reader<'_>) -> Result<Purpose, Short> {
    let byte = reader.u8()?;
    let all = [Purpose::Control, Purpose::Forward, Purpose::Move, Purpose::Operator];
    all.into_iter().find(|&purpose| purpose as u8 == byte).ok_or(Short)
}

fn greeting<'a>(reader: &mut Reader<'a>) -> Result<Greeting<'a>, Short> {
    if (reader.u32()?, reader.u16()?) != (MAGIC, FORMAT) {
        return Err(Short);
    }
    Ok(Greeting {
        purpose: purpose(reader)?,
        cluster: reader.text()?,
        id: reader.text()?,
        nonce: reader.array()?,
        process: reader.u64()?,
        settings: reader.text()?,
    })
}

fn push_greeting(greeting: &Greeting<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.push(greeting.purpose as u8);
    push_text(greeting.cluster, out);
    push_text(greeting.id, out);
    out.extend_from_slice(&greeting.nonce);
    out.extend_from_slice(&greeting.process.to_le_bytes());
    push_text(greeting.settings, out);
}

fn view(reader: &mut Reader<'_>) -> Result<View, Short> {
    let founding = Founding { second: reader.u32()?, token: reader.u32()? };
    let base = reader.u32()?;
    let count = reader.u16()? as usize;
    if count > ENTRIES_MAX {
        return Err(Short);
    }
    let mut members = BTreeMap::new();
    for _ in 0..count {
        let id = reader.text()?.to_owned();
        let member = Member {
            generation: reader.u32()?,
            state: State::of(reader.u8()?).ok_or(Short)?,
            slot: Some(reader.u8()?).filter(|&slot| (slot as usize) < MEMBERS_MAX).ok_or(Short)?,
            host: reader.text()?.to_owned(),
            port: reader.u16()?,
            name: reader.text()?.to_owned(),
            peer: reader.text()?.to_owned(),
        };
        // Names go into lists for clients, where blanks and bars stand between them.
        let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'|');
        if ![&id, &member.host, &member.name, &member.peer].into_iter().all(|text| printable(text)) {
            return Err(Short);
        }
        members.insert(id, member);
    }
    let view = View { founding, base, members };
    if view.live().count() > MEMBERS_MAX { Err(Short) } else { Ok(view) }
}

fn push_view(view: &View, out: &mut Vec<u8>) {
    out.extend_from_slice(&view.founding.second.to_le_bytes());
    out.extend_from_slice(&view.founding.token.to_le_bytes());
    out.extend_from_slice(&view.base.to_le_bytes());
    out.extend_from_slice(&(view.members.len() as u16).to_le_bytes());
    for (id, member) in &view.members {
        push_text(id, out);
        out.extend_from_slice(&member.generation.to_le_bytes());
        out.extend_from_slice(&[member.state as u8, member.slot]);
        push_text(&member.host, out);
        out.extend_from_slice(&member.port.to_le_bytes());
        push_text(&member.name, out);
        push_text(&member.peer, out);
    }
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, Short> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Short),
    }
}

fn status(reader: &mut Reader<'_>) -> Result<Status, Short> {
    let (version, complete, settled) = (reader.u32()?, flag(reader)?, flag(reader)?);
    let mut figure =
        || reader.u32().map(f32::from_bits).and_then(|it| if it.is_finite() { Ok(it) } else { Err(Short) });
    Ok(Status {
        version,
        complete,
        settled,
        cpu: figure()?,
        operations: figure()?,
        misses: figure()?,
        bytes: figure()?,
        memory: figure()?,
        gain: figure()?,
        loss: figure()?,
        hottest: figure()?,
        wanted: reader.u16()?,
    })
}

fn push_status(status: &Status, out: &mut Vec<u8>) {
    let Status { version, complete, settled, cpu, operations, misses, bytes, memory, gain, loss, hottest, wanted } =
        *status;
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&[complete.into(), settled.into()]);
    for figure in [cpu, operations, misses, bytes, memory, gain, loss, hottest] {
        out.extend_from_slice(&figure.to_le_bytes());
    }
    out.extend_from_slice(&wanted.to_le_bytes());
}

/// Of an item without an end.
const FOREVER: u32 = u32::MAX;

fn moved<'a>(reader: &mut Reader<'a>) -> Result<Moved<'a>, Short> {
    let key = key(reader)?;
    let flags = reader.u32()?;
    let ttl = Some(reader.u32()?).filter(|&ttl| ttl != FOREVER);
    let stale = flag(reader)?;
    let past = reader.u8()?;
    let len = reader.u32()?;
    Ok(Moved { key, flags, ttl, stale, past, value: reader.bytes(len as usize)? })
}

fn push_moved(item: &Moved<'_>, out: &mut Vec<u8>) {
    push_key(item.key, out);
    out.extend_from_slice(&item.flags.to_le_bytes());
    out.extend_from_slice(&item.ttl.unwrap_or(FOREVER).to_le_bytes());
    out.extend_from_slice(&[item.stale.into(), item.past]);
    out.extend_from_slice(&(item.value.len() as u32).to_le_bytes());
    out.extend_from_slice(item.value);
}
