//! Packets of the binary protocol (memcached's `doc/protocol-binary.txt`, "Packet Structure" and "Commands").
//!
//! A packet is a header of 24 bytes followed by extras, key and value. Numbers are big-endian.

use crate::command::{
    Admin, Arithmetic, BinaryReply, Command, Delete, Direction, Exptime, Get, KEY_MAX_LEN, Keys, RELATIVE_EXPTIME_MAX,
    Reply, Request, Sasl, Store, StoreMode,
};
use crate::decoded::{BODY_MAX, Decoded, Limits};
use crate::error::{EncodeError, Error};
use crate::outcome::{Hit, Outcome};
use crate::response::DecodedResponse;

/// First byte of a request.
pub const REQUEST_MAGIC: u8 = 0x80;

const RESPONSE_MAGIC: u8 = 0x81;
const HEADER_LEN: usize = 24;

/// Expiration time of an arithmetic request that must not create the item.
const NO_VIVIFY: u32 = u32::MAX;

/// Opcodes. A request with a quiet one (`…Q`) gets a reply only for a hit or an error.
#[expect(missing_docs, reason = "the names are the document's own")]
pub mod opcode {
    pub const GET: u8 = 0x00;
    pub const SET: u8 = 0x01;
    pub const ADD: u8 = 0x02;
    pub const REPLACE: u8 = 0x03;
    pub const DELETE: u8 = 0x04;
    pub const INCREMENT: u8 = 0x05;
    pub const DECREMENT: u8 = 0x06;
    pub const QUIT: u8 = 0x07;
    pub const FLUSH: u8 = 0x08;
    pub const GETQ: u8 = 0x09;
    pub const NOOP: u8 = 0x0a;
    pub const VERSION: u8 = 0x0b;
    pub const GETK: u8 = 0x0c;
    pub const GETKQ: u8 = 0x0d;
    pub const APPEND: u8 = 0x0e;
    pub const PREPEND: u8 = 0x0f;
    pub const STAT: u8 = 0x10;
    pub const SETQ: u8 = 0x11;
    pub const ADDQ: u8 = 0x12;
    pub const REPLACEQ: u8 = 0x13;
    pub const DELETEQ: u8 = 0x14;
    pub const INCREMENTQ: u8 = 0x15;
    pub const DECREMENTQ: u8 = 0x16;
    pub const QUITQ: u8 = 0x17;
    pub const FLUSHQ: u8 = 0x18;
    pub const APPENDQ: u8 = 0x19;
    pub const PREPENDQ: u8 = 0x1a;
    pub const VERBOSITY: u8 = 0x1b;
    pub const TOUCH: u8 = 0x1c;
    pub const GAT: u8 = 0x1d;
    pub const GATQ: u8 = 0x1e;
    pub const SASL_LIST: u8 = 0x20;
    pub const SASL_AUTH: u8 = 0x21;
    pub const SASL_STEP: u8 = 0x22;
    pub const GATK: u8 = 0x23;
    pub const GATKQ: u8 = 0x24;
    pub const CONFIG_GET: u8 = 0x60;
}

/// Response statuses.
#[expect(missing_docs, reason = "the names are the document's own")]
pub mod status {
    pub const OK: u16 = 0x00;
    pub const KEY_NOT_FOUND: u16 = 0x01;
    pub const KEY_EXISTS: u16 = 0x02;
    pub const TOO_LARGE: u16 = 0x03;
    pub const INVALID_ARGUMENTS: u16 = 0x04;
    pub const NOT_STORED: u16 = 0x05;
    pub const NON_NUMERIC: u16 = 0x06;
    pub const AUTH_ERROR: u16 = 0x20;
    pub const UNKNOWN_COMMAND: u16 = 0x81;
    pub const OUT_OF_MEMORY: u16 = 0x82;
}

/// The fixed part of a packet.
struct Header {
    magic: u8,
    opcode: u8,
    key_len: usize,
    extras_len: usize,
    /// 0 in a request, where the field is reserved.
    status: u16,
    body_len: usize,
    opaque: u32,
    cas: u64,
}

impl Header {
    #[inline]
    fn read(bytes: &[u8; HEADER_LEN]) -> Header {
        let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Header {
            magic: bytes[0],
            opcode: bytes[1],
            key_len: u16_at(2).into(),
            extras_len: bytes[4].into(),
            status: u16_at(6),
            body_len: u32_at(8) as usize,
            opaque: u32_at(12),
            cas: u64::from(u32_at(16)) << 32 | u64::from(u32_at(20)),
        }
    }

    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = self.magic;
        bytes[1] = self.opcode;
        bytes[2..4].copy_from_slice(&(self.key_len as u16).to_be_bytes());
        bytes[4] = self.extras_len as u8;
        bytes[6..8].copy_from_slice(&self.status.to_be_bytes());
        bytes[8..12].copy_from_slice(&(self.body_len as u32).to_be_bytes());
        bytes[12..16].copy_from_slice(&self.opaque.to_be_bytes());
        bytes[16..].copy_from_slice(&self.cas.to_be_bytes());
        out.extend_from_slice(&bytes);
    }
}

/// Decodes the request at the front of `input`.
#[inline]
pub(crate) fn decode_request<'a>(input: &'a [u8], limits: &Limits) -> Decoded<'a> {
    if input.first().is_some_and(|&magic| magic != REQUEST_MAGIC) {
        return Decoded::Close;
    }
    let Some((header, body)) = input.split_first_chunk() else {
        return Decoded::Incomplete { need: HEADER_LEN - input.len(), key: None };
    };
    let header = Header::read(header);
    let reply = Reply::Binary(BinaryReply { opcode: header.opcode, opaque: header.opaque });
    let Header { key_len, extras_len, body_len, .. } = header;
    let hang_up = |error| Decoded::Error {
        error,
        reply: reply.clone(),
        consumed: HEADER_LEN,
        swallow: 0,
        outdated: None,
        close: true,
    };
    if key_len + extras_len > body_len {
        return hang_up(Error::UnknownCommand);
    }
    if body_len > BODY_MAX || key_len > KEY_MAX_LEN {
        return hang_up(Error::INVALID_ARGUMENTS);
    }
    let prefix_len = extras_len + key_len;
    if body.len() < prefix_len {
        return Decoded::Incomplete { need: prefix_len - body.len(), key: None };
    }
    let packet = Packet { header: &header, extras: &body[..extras_len], key: &body[extras_len..prefix_len] };
    let value_len = body_len - prefix_len;
    // A wrong packet is refused by its front, before its value arrives.
    let value = body.get(prefix_len..body_len);
    let command = match packet.command(value_len, value.unwrap_or(b"")) {
        Ok(command) => command,
        Err(Error::UnknownCommand) => {
            let (error, consumed, swallow) = (Error::UnknownCommand, HEADER_LEN + prefix_len, value_len);
            return Decoded::Error { error, reply, consumed, swallow, outdated: None, close: false };
        }
        Err(error) => return hang_up(error),
    };
    if let Some((flags, overwrites)) = packet.stores()
        && let too_large = limits.too_large(key_len, flags, value_len)
        && (too_large || limits.refuse_unfinished && value.is_none())
    {
        return Decoded::Error {
            error: if too_large { Error::TOO_LARGE } else { Error::OUT_OF_MEMORY },
            reply,
            consumed: HEADER_LEN + prefix_len,
            swallow: value_len,
            outdated: overwrites.then_some(packet.key),
            close: false,
        };
    }
    if value.is_none() {
        return Decoded::Incomplete { need: body_len - body.len(), key: Some(packet.key) };
    }
    Decoded::Request { request: Request { command, reply }, consumed: HEADER_LEN + body_len }
}

/// The parts of a request before its value.
struct Packet<'h, 'a> {
    header: &'h Header,
    extras: &'a [u8],
    key: &'a [u8],
}

impl<'a> Packet<'_, 'a> {
    /// Returns the command if the packet's lengths fit its opcode.
    #[inline]
    fn command(&self, value_len: usize, value: &'a [u8]) -> Result<Command<'a>, Error> {
        use opcode::*;
        let (key, cas) = (self.key, Some(self.header.cas).filter(|&cas| cas != 0));
        let (has_key, bare) = (!key.is_empty(), self.extras.is_empty() && value_len == 0);
        let command = match self.header.opcode {
            GET | GETQ | GETK | GETKQ if has_key && bare => self.get(None, true),
            TOUCH | GAT | GATQ | GATK | GATKQ if has_key && self.extras.len() == 4 && value_len == 0 => {
                self.get(Some(self.exptime(0)), self.header.opcode != TOUCH)
            }
            SET | SETQ | ADD | ADDQ | REPLACE | REPLACEQ if has_key && self.extras.len() == 8 => {
                let mode = match self.header.opcode {
                    ADD | ADDQ if cas.is_none() => StoreMode::Add,
                    REPLACE | REPLACEQ => StoreMode::Replace,
                    _ => StoreMode::Set,
                };
                Command::Store(self.store(mode, value, self.u32_at(0), self.exptime(4), cas))
            }
            APPEND | APPENDQ if has_key && self.extras.is_empty() => {
                Command::Store(self.store(StoreMode::Append, value, 0, Exptime(0), cas))
            }
            PREPEND | PREPENDQ if has_key && self.extras.is_empty() => {
                Command::Store(self.store(StoreMode::Prepend, value, 0, Exptime(0), cas))
            }
            DELETE | DELETEQ if has_key && bare => Command::Delete(Delete { compare_cas: cas, ..Delete::new(key) }),
            INCREMENT | INCREMENTQ | DECREMENT | DECREMENTQ if has_key && self.extras.len() == 20 && value_len == 0 => {
                let up = matches!(self.header.opcode, INCREMENT | INCREMENTQ);
                let direction = if up { Direction::Up } else { Direction::Down };
                Command::Arithmetic(Arithmetic {
                    vivify: (self.u32_at(16) != NO_VIVIFY).then(|| self.exptime(16)),
                    initial: self.u64_at(8),
                    compare_cas: cas,
                    ..Arithmetic::new(direction, key, self.u64_at(0))
                })
            }
            NOOP if !has_key && bare => Command::Noop,
            VERSION if !has_key && bare => Command::Version,
            QUIT | QUITQ if !has_key && bare => Command::Quit,
            FLUSH | FLUSHQ if !has_key && bare => Command::FlushAll { at: None },
            FLUSH | FLUSHQ if !has_key && self.extras.len() == 4 && value_len == 0 => {
                Command::FlushAll { at: Some(self.exptime(0)) }
            }
            VERBOSITY if !has_key && self.extras.len() == 4 && value_len == 0 => {
                Command::Verbosity { level: self.u32_at(0) }
            }
            STAT if bare => Command::Stats { group: key },
            CONFIG_GET if has_key && bare => Command::Admin(Admin::Config { key }),
            SASL_LIST if !has_key && bare => Command::Sasl(Sasl::ListMechanisms),
            SASL_AUTH if has_key && self.extras.is_empty() => Command::Sasl(Sasl::Auth { mechanism: key, data: value }),
            SASL_STEP if has_key && self.extras.is_empty() => Command::Sasl(Sasl::Step { mechanism: key, data: value }),
            GET..=GATQ | SASL_LIST..=GATKQ => return Err(Error::INVALID_ARGUMENTS),
            _ => return Err(Error::UnknownCommand),
        };
        Ok(command)
    }

    /// Returns, for a command with a value, the client flags and whether a refused value makes an older item out of
    /// date.
    fn stores(&self) -> Option<(u32, bool)> {
        use opcode::*;
        match self.header.opcode {
            SET | SETQ => Some((self.u32_at(0), true)),
            ADD | ADDQ | REPLACE | REPLACEQ => Some((self.u32_at(0), false)),
            APPEND | APPENDQ | PREPEND | PREPENDQ | SASL_AUTH | SASL_STEP => Some((0, false)),
            _ => None,
        }
    }

    #[inline]
    fn get(&self, touch: Option<Exptime>, want_value: bool) -> Command<'a> {
        Command::Get(Get { touch, want_value, ..Get::new(Keys::One(self.key)) })
    }

    #[inline]
    fn store(&self, mode: StoreMode, value: &'a [u8], flags: u32, exptime: Exptime, cas: Option<u64>) -> Store<'a> {
        Store { flags, exptime, compare_cas: cas, ..Store::new(mode, self.key, value) }
    }

    fn u32_at(&self, at: usize) -> u32 {
        self.extras[at..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    fn u64_at(&self, at: usize) -> u64 {
        self.extras[at..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    fn exptime(&self, at: usize) -> Exptime {
        Exptime(self.u32_at(at).into())
    }
}

impl BinaryReply {
    /// Returns whether success, or the miss of a retrieval, gets no reply.
    #[inline]
    fn is_quiet(self) -> bool {
        use opcode::*;
        matches!(self.opcode, GETQ | GETKQ | SETQ..=PREPENDQ | GATQ | GATKQ)
    }

    /// Returns whether the reply to a retrieval has the key.
    #[inline]
    fn with_key(self) -> bool {
        use opcode::*;
        matches!(self.opcode, GETK | GETKQ | GATK | GATKQ)
    }

    fn header(self, status: u16, cas: u64) -> Header {
        let BinaryReply { opcode, opaque } = self;
        Header { magic: RESPONSE_MAGIC, opcode, key_len: 0, extras_len: 0, status, body_len: 0, opaque, cas }
    }

    fn body(self, status: u16, cas: u64, body: &[u8], out: &mut Vec<u8>) {
        Header { body_len: body.len(), ..self.header(status, cas) }.write(out);
        out.extend_from_slice(body);
    }

    fn failure(self, status: u16, out: &mut Vec<u8>) {
        self.body(status, 0, status_text(status), out);
    }

    pub(crate) fn outcome(self, outcome: &Outcome<'_>, out: &mut Vec<u8>) {
        use opcode::*;
        match *outcome {
            Outcome::NotStored => self.failure(
                match self.opcode {
                    ADD | ADDQ => status::KEY_EXISTS,
                    REPLACE | REPLACEQ => status::KEY_NOT_FOUND,
                    _ => status::NOT_STORED,
                },
                out,
            ),
            Outcome::Exists => self.failure(status::KEY_EXISTS, out),
            Outcome::NotFound | Outcome::Miss => self.failure(status::KEY_NOT_FOUND, out),
            Outcome::Error(error) => self.failure(error_status(error), out),
            _ if self.is_quiet() => {}
            Outcome::Stored { cas, .. } => self.body(status::OK, cas, b"", out),
            Outcome::Number { value, cas, .. } => self.body(status::OK, cas, &value.to_be_bytes(), out),
            Outcome::Version(text) | Outcome::Debug(text) | Outcome::Line(text) => {
                self.body(status::OK, 0, text.as_bytes(), out);
            }
            Outcome::Deleted | Outcome::Touched | Outcome::Ok | Outcome::Reset | Outcome::Noop | Outcome::Quit => {
                self.body(status::OK, 0, b"", out);
            }
        }
    }

    #[inline]
    pub(crate) fn hit(self, hit: &Hit<'_>, out: &mut Vec<u8>) {
        let key = if self.with_key() { hit.key } else { b"" };
        let value_len = if hit.with_value { hit.value_len } else { 0 };
        let body_len = 4 + key.len() + value_len;
        Header { key_len: key.len(), extras_len: 4, body_len, ..self.header(status::OK, hit.cas) }.write(out);
        out.extend_from_slice(&hit.flags.to_be_bytes());
        out.extend_from_slice(key);
    }

    pub(crate) fn miss(self, key: &[u8], out: &mut Vec<u8>) {
        if self.is_quiet() {
            return;
        }
        if !self.with_key() {
            return self.failure(status::KEY_NOT_FOUND, out);
        }
        let header = self.header(status::KEY_NOT_FOUND, 0);
        Header { key_len: key.len(), body_len: key.len(), ..header }.write(out);
        out.extend_from_slice(key);
    }

    pub(crate) fn statistic(self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let header = self.header(status::OK, 0);
        Header { key_len: name.len(), body_len: name.len() + value.len(), ..header }.write(out);
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    }
}

fn error_status(error: Error) -> u16 {
    match error {
        Error::UnknownCommand => status::UNKNOWN_COMMAND,
        Error::TOO_LARGE => status::TOO_LARGE,
        Error::NON_NUMERIC => status::NON_NUMERIC,
        Error::UNAUTHENTICATED | Error::AUTHENTICATION_FAILED => status::AUTH_ERROR,
        Error::Client(_) => status::INVALID_ARGUMENTS,
        Error::Server(_) => status::OUT_OF_MEMORY,
    }
}

/// Returns the words that memcached sends with a status.
fn status_text(status: u16) -> &'static [u8] {
    match status {
        status::KEY_NOT_FOUND => b"Not found",
        status::KEY_EXISTS => b"Data exists for key.",
        status::TOO_LARGE => b"Too large.",
        status::INVALID_ARGUMENTS => b"Invalid arguments",
        status::NOT_STORED => b"Not stored.",
        status::NON_NUMERIC => b"Non-numeric server-side value for incr or decr",
        status::AUTH_ERROR => b"Auth failure.",
        status::UNKNOWN_COMMAND => b"Unknown command",
        status::OUT_OF_MEMORY => b"Out of memory",
        _ => b"",
    }
}

/// Returns the opcode of a command; `None` if binary does not have the command (`me`, operators' text commands).
///
/// `quiet` selects the quiet form if there is one; `with_key` selects, for a retrieval, the form whose reply has the
/// key.
pub fn opcode_of(command: &Command<'_>, quiet: bool, with_key: bool) -> Option<u8> {
    use opcode::*;
    let (loud, silent) = match command {
        Command::Get(Get { touch: None, .. }) if with_key => (GETK, GETKQ),
        Command::Get(Get { touch: None, .. }) => (GET, GETQ),
        Command::Get(Get { want_value: false, .. }) | Command::Touch { .. } => (TOUCH, TOUCH),
        Command::Get(_) if with_key => (GATK, GATKQ),
        Command::Get(_) => (GAT, GATQ),
        Command::Store(store) => match store.mode {
            StoreMode::Set => (SET, SETQ),
            StoreMode::Add => (ADD, ADDQ),
            StoreMode::Replace => (REPLACE, REPLACEQ),
            StoreMode::Append => (APPEND, APPENDQ),
            StoreMode::Prepend => (PREPEND, PREPENDQ),
        },
        Command::Delete(_) => (DELETE, DELETEQ),
        Command::Arithmetic(Arithmetic { direction: Direction::Up, .. }) => (INCREMENT, INCREMENTQ),
        Command::Arithmetic(_) => (DECREMENT, DECREMENTQ),
        Command::Noop => (NOOP, NOOP),
        Command::FlushAll { .. } => (FLUSH, FLUSHQ),
        Command::Quit => (QUIT, QUITQ),
        Command::Version => (VERSION, VERSION),
        Command::Verbosity { .. } => (VERBOSITY, VERBOSITY),
        Command::Stats { .. } => (STAT, STAT),
        Command::Sasl(Sasl::ListMechanisms) => (SASL_LIST, SASL_LIST),
        Command::Sasl(Sasl::Auth { .. }) => (SASL_AUTH, SASL_AUTH),
        Command::Sasl(Sasl::Step { .. }) => (SASL_STEP, SASL_STEP),
        Command::Admin(Admin::Config { .. }) => (CONFIG_GET, CONFIG_GET),
        Command::Debug { .. } | Command::Admin(_) => return None,
    };
    Some(if quiet { silent } else { loud })
}

/// The parts of a request after its header, and the header's CAS unique.
#[derive(Default)]
struct RequestBody<'a> {
    extras: [u8; 20],
    extras_len: usize,
    key: &'a [u8],
    value: &'a [u8],
    cas: u64,
}

impl<'a> RequestBody<'a> {
    fn push(&mut self, bytes: &[u8]) {
        self.extras[self.extras_len..self.extras_len + bytes.len()].copy_from_slice(bytes);
        self.extras_len += bytes.len();
    }

    fn of(command: &Command<'a>) -> Result<Self, EncodeError> {
        let mut body = RequestBody::default();
        match *command {
            Command::Get(ref get) => body.get(get)?,
            Command::Store(ref store) => body.store(store)?,
            Command::Delete(ref delete) => body.delete(delete)?,
            Command::Arithmetic(ref arithmetic) => body.arithmetic(arithmetic)?,
            Command::Touch { key, exptime } => {
                body.key = checked(key)?;
                body.push(&seconds(exptime).to_be_bytes());
            }
            Command::FlushAll { at: Some(at) } => body.push(&seconds(at).to_be_bytes()),
            Command::Verbosity { level } => body.push(&level.to_be_bytes()),
            Command::Stats { group } if group.len() <= KEY_MAX_LEN => body.key = group,
            Command::Sasl(Sasl::Auth { mechanism, data } | Sasl::Step { mechanism, data }) => {
                (body.key, body.value) = (checked(mechanism)?, data);
            }
            Command::FlushAll { at: None } | Command::Noop | Command::Version | Command::Quit => {}
            Command::Sasl(Sasl::ListMechanisms) => {}
            Command::Admin(Admin::Config { key }) => body.key = checked(key)?,
            Command::Stats { .. } => return Err(EncodeError::Key),
            Command::Debug { .. } | Command::Admin(_) => return Err(EncodeError::Command),
        }
        Ok(body)
    }

    fn get(&mut self, get: &Get<'a>) -> Result<(), EncodeError> {
        let Get {
            keys,
            touch,
            vivify: None,
            recache: None,
            touch_vivified: _,
            recache_touched: _,
            set_cas: None,
            unless_cas: None,
            want_value,
            no_bump: false,
        } = *get
        else {
            return Err(EncodeError::Command);
        };
        // Only a touch can leave the value out.
        if touch.is_none() && !want_value {
            return Err(EncodeError::Command);
        }
        self.key = checked(keys.single().ok_or(EncodeError::Command)?)?;
        if let Some(exptime) = touch {
            self.push(&seconds(exptime).to_be_bytes());
        }
        Ok(())
    }

    fn delete(&mut self, delete: &Delete<'a>) -> Result<(), EncodeError> {
        let Delete { key, compare_cas, set_cas: None, invalidate: false, touch: _, remove_value: false, flags: _ } =
            *delete
        else {
            return Err(EncodeError::Command);
        };
        (self.key, self.cas) = (checked(key)?, cas_field(compare_cas)?);
        Ok(())
    }

    fn arithmetic(&mut self, arithmetic: &Arithmetic<'a>) -> Result<(), EncodeError> {
        let Arithmetic {
            key,
            delta,
            direction: _,
            vivify,
            initial,
            touch: None,
            touch_vivified: _,
            compare_cas,
            set_cas: None,
        } = *arithmetic
        else {
            return Err(EncodeError::Command);
        };
        (self.key, self.cas) = (checked(key)?, cas_field(compare_cas)?);
        self.push(&delta.to_be_bytes());
        self.push(&initial.to_be_bytes());
        self.push(&vivify.map_or(NO_VIVIFY, seconds).to_be_bytes());
        Ok(())
    }

    fn store(&mut self, store: &Store<'a>) -> Result<(), EncodeError> {
        let Store { key, value, flags, exptime, mode, compare_cas, set_cas: None, invalidate: false, vivify: None } =
            *store
        else {
            return Err(EncodeError::Command);
        };
        (self.key, self.value, self.cas) = (checked(key)?, value, cas_field(compare_cas)?);
        // These two keep the item's flags and expiration time, and have no extras.
        if !matches!(mode, StoreMode::Append | StoreMode::Prepend) {
            self.push(&flags.to_be_bytes());
            self.push(&seconds(exptime).to_be_bytes());
        }
        Ok(())
    }
}

/// Appends a request. The opcode in `reply` must be one of the command's ([`opcode_of`]).
pub(crate) fn encode_request(command: &Command<'_>, reply: BinaryReply, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let RequestBody { extras, extras_len, key, value, cas } = RequestBody::of(command)?;
    let BinaryReply { opcode, opaque } = reply;
    let body_len = extras_len + key.len() + value.len();
    let (magic, key_len) = (REQUEST_MAGIC, key.len());
    Header { magic, opcode, key_len, extras_len, status: 0, body_len, opaque, cas }.write(out);
    out.extend_from_slice(&extras[..extras_len]);
    out.extend_from_slice(key);
    out.extend_from_slice(value);
    Ok(())
}

fn checked(key: &[u8]) -> Result<&[u8], EncodeError> {
    if (1..=KEY_MAX_LEN).contains(&key.len()) { Ok(key) } else { Err(EncodeError::Key) }
}

/// Returns the CAS unique of a header, where 0 means that nothing is compared.
fn cas_field(compare_cas: Option<u64>) -> Result<u64, EncodeError> {
    match compare_cas {
        Some(0) => Err(EncodeError::Command),
        cas => Ok(cas.unwrap_or(0)),
    }
}

/// Returns an expiration time as a packet sends it. It has no sign: a Unix time long past replaces negative numbers.
fn seconds(exptime: Exptime) -> u32 {
    if exptime.0 < 0 { RELATIVE_EXPTIME_MAX as u32 + 1 } else { exptime.0.try_into().unwrap_or(u32::MAX - 1) }
}

/// A server's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// The request's opcode.
    pub opcode: u8,
    /// One of [`status`].
    pub status: u16,
    /// The request's opaque.
    pub opaque: u32,
    /// The item's CAS unique, or 0.
    pub cas: u64,
    /// The extras: the client flags of a hit.
    pub extras: &'a [u8],
    /// The key (`GETK`, `GATK`), or the name of a statistic.
    pub key: &'a [u8],
    /// The value, or an error's words.
    pub value: &'a [u8],
}

impl Response<'_> {
    /// Returns the client flags of a hit.
    pub fn flags(&self) -> Option<u32> {
        self.extras.try_into().ok().map(u32::from_be_bytes)
    }

    /// Returns the new number of a successful increment or decrement.
    pub fn number(&self) -> Option<u64> {
        self.value.try_into().ok().filter(|_| self.status == status::OK).map(u64::from_be_bytes)
    }
}

/// Decodes the response at the front of `input`.
#[inline]
pub fn decode_response(input: &[u8]) -> DecodedResponse<Response<'_>> {
    if input.first().is_some_and(|&magic| magic != RESPONSE_MAGIC) {
        return DecodedResponse::Malformed;
    }
    let Some((header, body)) = input.split_first_chunk() else {
        return DecodedResponse::Incomplete { need: HEADER_LEN - input.len() };
    };
    let Header { opcode, key_len, extras_len, status, body_len, opaque, cas, .. } = Header::read(header);
    if key_len + extras_len > body_len || body_len > BODY_MAX {
        return DecodedResponse::Malformed;
    }
    if body.len() < body_len {
        return DecodedResponse::Incomplete { need: body_len - body.len() };
    }
    let (extras, rest) = body[..body_len].split_at(extras_len);
    let (key, value) = rest.split_at(key_len);
    let response = Response { opcode, status, opaque, cas, extras, key, value };
    DecodedResponse::Response { response, consumed: HEADER_LEN + body_len }
}
