//! Requests with meta commands: decoded for a server, encoded by a client.

use super::line::Line;
use crate::base64;
use crate::command::{
    Arithmetic, Command, Delete, Direction, Exptime, Get, KEY_MAX_LEN, Keys, MetaCommand, MetaReply, OPAQUE_MAX_LEN,
    Reply, Request, Store, StoreMode, TextReply,
};
use crate::decoded::{Decoded, LINE_MAX, Limits, Scratch};
use crate::error::{EncodeError, Error};
use crate::line::{Body, Words, body, first_line, is_text_key, next_key, next_word, value_len};
use crate::number::{parse_i32, parse_u32, parse_u64};

/// Most words of a command line, command and key included (`MFLAG_MAX_OPT_LENGTH` of memcached's proto_parser.h).
const WORDS_MAX: usize = 20;

/// From this word on, memcached checks only that a word can be a flag.
const WORDS_READ: usize = 23;

/// Returns whether the input begins with a meta command. For an input that is too short to tell, either answer is
/// right: the classic decoder waits for the line's end too.
#[inline]
pub(crate) fn is_request(input: &[u8]) -> bool {
    matches!(
        input,
        [b'm', b'g' | b's' | b'd' | b'a' | b'n' | b'e', b' ', ..]
            | [b'm', b'g' | b's' | b'd' | b'a' | b'n' | b'e', b'\r', b'\n', ..]
    )
}

/// Decodes the meta command at the front of `input`, for which [`is_request`] returned `true`.
#[inline]
pub(crate) fn decode_request<'a>(input: &'a [u8], limits: &Limits, scratch: &'a mut Scratch) -> Decoded<'a> {
    let Some((line, consumed)) = first_line(input) else {
        return if input.len() <= LINE_MAX { Decoded::Incomplete { need: 1, key: None } } else { Decoded::Close };
    };
    let rest = line.get(3..).unwrap_or(b"");
    match line[1] {
        b'g' => get(rest, consumed, scratch),
        b's' => set(rest, input, consumed, limits, scratch),
        b'd' => delete(rest, consumed, scratch),
        b'a' => arithmetic(rest, consumed, scratch),
        b'e' => debug(rest, consumed, scratch),
        _ => noop(consumed),
    }
}

/// The key and the flags of a request.
#[derive(Default)]
struct Parsed<'a> {
    key: &'a [u8],
    /// The key as sent, perhaps in base64.
    sent_key: &'a [u8],
    /// The flag words as sent.
    words: &'a [u8],
    quiet: bool,
    value: bool,
    no_bump: bool,
    invalidate: bool,
    remove_value: bool,
    mode: Option<u8>,
    client_flags: u32,
    vivify: Option<Exptime>,
    touch: Option<Exptime>,
    touch_vivified: bool,
    recache: Option<Exptime>,
    recache_touched: bool,
    compare_cas: Option<u64>,
    set_cas: Option<u64>,
    initial: u64,
    delta: Option<u64>,
    opaque_too_long: bool,
    /// Length in bytes of the key in [`Scratch`], if flag `b` was sent.
    decoded_len: Option<usize>,
}

/// Why a line is refused. After a wrong `ms`, memcached skips the value only in the second case.
enum Refused {
    /// The line has no key, or a word that cannot be a flag.
    Line,
    /// A flag, or the key's length, is wrong.
    Flag(Error),
}

impl<'a> Parsed<'a> {
    /// Reads the key and the flags of a command without a value.
    #[inline]
    fn read_line(line: &'a [u8], scratch: &'a mut Scratch) -> Result<Self, Refused> {
        let mut flags = line;
        let key = next_key(&mut flags).ok_or(Refused::Line)?;
        Parsed::read(key, flags, 2, scratch)
    }

    /// Reads the key and the flags of `mg` or `md`. A wrong opaque is reported after every other error.
    #[inline]
    fn read_checked(line: &'a [u8], scratch: &'a mut Scratch) -> Result<Self, Error> {
        let parsed = Parsed::read_line(line, scratch).map_err(|refused| match refused {
            Refused::Line => Error::BAD_FORMAT,
            Refused::Flag(error) => error,
        })?;
        parsed.check_opaque().map(|()| parsed)
    }

    /// Reads the flags that follow `count` words of the line.
    #[inline]
    fn read(key: &'a [u8], flags: &'a [u8], count: usize, scratch: &'a mut Scratch) -> Result<Self, Refused> {
        let mut parsed = Parsed { key, sent_key: key, words: trim_start(flags), ..Parsed::default() };
        let (mut rest, mut count, mut seen) = (flags, count, 0u128);
        // memcached answers the first fatal error, which ends the reading of flags, or else the last other error.
        let (mut fatal, mut error) = (None, None);
        while let Some(word) = next_word(&mut rest) {
            let letter = word[0];
            if !is_flag(letter) {
                return Err(Refused::Line);
            }
            count += 1;
            if count == WORDS_READ {
                break;
            }
            if fatal.is_some() {
                continue;
            }
            if seen >> letter & 1 == 1 {
                fatal = Some(Error::DUPLICATE_FLAG);
                continue;
            }
            seen |= 1 << letter;
            match parsed.read_flag(word, scratch) {
                Ok(()) => {}
                Err(Error::INVALID_FLAG) => fatal = Some(Error::INVALID_FLAG),
                // memcached has no words of its own for this error, so another error replaces it.
                Err(Error::BAD_FORMAT) => error = error.or(Some(Error::BAD_FORMAT)),
                Err(other) => error = Some(other),
            }
        }
        if key.len() > KEY_MAX_LEN {
            return Err(Refused::Flag(Error::BAD_FORMAT));
        }
        if count > WORDS_MAX {
            return Err(Refused::Flag(Error::TOO_MANY_FLAGS));
        }
        if let Some(error) = fatal.or(error) {
            return Err(Refused::Flag(error));
        }
        if let Some(len) = parsed.decoded_len {
            parsed.key = &scratch.0[..len];
        }
        Ok(parsed)
    }

    /// Reads one flag with its token (protocol.txt, the lists of flags of "Meta Get", "Meta Set", "Meta Delete" and
    /// "Meta Arithmetic"). Like memcached's parser, it accepts each command's flags for every command.
    #[inline]
    fn read_flag(&mut self, word: &'a [u8], scratch: &mut Scratch) -> Result<(), Error> {
        let (letter, token) = (word[0], &word[1..]);
        let exptime = || match parse_i32(token) {
            Some(seconds) => Ok(Some(Exptime(seconds.into()))),
            None => Err(Error::BAD_TOKEN),
        };
        let cas = || parse_u64(token).map(Some).ok_or(Error::BAD_TOKEN);
        match letter {
            b'v' => self.value = true,
            b'q' => self.quiet = true,
            // These affect only the reply, or memcached's proxy (`P`, `L`).
            b'k' | b's' | b't' | b'c' | b'f' | b'l' | b'h' | b'P' | b'L' => {}
            b'O' => self.opaque_too_long = word.len() > OPAQUE_MAX_LEN,
            // A longer key is refused because of its length.
            b'b' if self.sent_key.len() <= KEY_MAX_LEN => {
                let len = base64::decode(self.sent_key, &mut scratch.0);
                self.decoded_len = Some(len.ok_or(Error::BAD_KEY_ENCODING)?);
            }
            b'b' => {}
            b'u' => self.no_bump = true,
            b'x' => self.remove_value = true,
            b'I' => self.invalidate = true,
            b'M' => self.mode = Some(token.first().copied().unwrap_or(b' ')),
            b'T' => (self.touch, self.touch_vivified) = (exptime()?, self.vivify.is_some()),
            b'N' => self.vivify = exptime()?,
            b'R' => (self.recache, self.recache_touched) = (exptime()?, self.touch.is_some()),
            b'C' => self.compare_cas = cas()?,
            b'E' => self.set_cas = cas()?,
            b'F' => self.client_flags = parse_u32(token).ok_or(Error::BAD_FORMAT)?,
            b'J' => self.initial = parse_u64(token).ok_or(Error::INVALID_INITIAL)?,
            b'D' => self.delta = Some(parse_u64(token).ok_or(Error::INVALID_META_DELTA)?),
            _ => return Err(Error::INVALID_FLAG),
        }
        Ok(())
    }

    #[inline]
    fn check_opaque(&self) -> Result<(), Error> {
        if self.opaque_too_long { Err(Error::OPAQUE_TOO_LONG) } else { Ok(()) }
    }

    /// Returns the decoded request.
    #[inline]
    fn request(&self, command: Command<'a>, kind: MetaCommand, value_len: usize, consumed: usize) -> Decoded<'a> {
        let (flags, key, quiet) = (self.words, self.sent_key, self.quiet);
        let reply = Reply::Meta(MetaReply { command: kind, flags, key, quiet, value_len });
        Decoded::Request { request: Request { command, reply }, consumed }
    }
}

/// Returns whether a word with this first byte can be a flag.
#[inline]
fn is_flag(letter: u8) -> bool {
    matches!(letter, b'A'..=b'z' | b'0'..=b'9')
}

#[inline]
fn trim_start(line: &[u8]) -> &[u8] {
    match line {
        [b' ', rest @ ..] if rest.first() != Some(&b' ') => rest,
        _ => &line[line.iter().position(|&b| b != b' ').unwrap_or(line.len())..],
    }
}

/// Decodes `mg key flag…`.
#[inline]
fn get<'a>(line: &'a [u8], consumed: usize, scratch: &'a mut Scratch) -> Decoded<'a> {
    let parsed = match Parsed::read_checked(line, scratch) {
        Ok(parsed) => parsed,
        Err(error) => return Decoded::refuse(error, consumed),
    };
    let command = Command::Get(Get {
        keys: Keys::One(parsed.key),
        touch: parsed.touch,
        vivify: parsed.vivify,
        recache: parsed.recache,
        touch_vivified: parsed.touch_vivified,
        recache_touched: parsed.recache_touched,
        set_cas: parsed.set_cas,
        unless_cas: parsed.compare_cas,
        want_value: parsed.value,
        no_bump: parsed.no_bump,
    });
    parsed.request(command, MetaCommand::Get, 0, consumed)
}

/// Decodes `ms key length flag…` and the value.
#[inline]
fn set<'a>(line: &'a [u8], input: &'a [u8], consumed: usize, limits: &Limits, scratch: &'a mut Scratch) -> Decoded<'a> {
    let mut rest = line;
    let (Some(key), Some(len)) = (next_key(&mut rest), next_word(&mut rest)) else {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    };
    let Some(len) = value_len(len) else {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    };
    let swallow = |error, outdated| Decoded::refuse_value(error, TextReply::default(), consumed, len, outdated);
    let parsed = match Parsed::read(key, rest, 3, scratch) {
        Ok(parsed) => parsed,
        Err(Refused::Line) => return Decoded::refuse(Error::BAD_FORMAT, consumed),
        Err(Refused::Flag(error)) => return swallow(error, None),
    };
    let mode = match parsed.mode {
        None | Some(b'S') => StoreMode::Set,
        Some(b'E') => StoreMode::Add,
        Some(b'R') => StoreMode::Replace,
        Some(b'A') => StoreMode::Append,
        Some(b'P') => StoreMode::Prepend,
        Some(_) => return swallow(Error::INVALID_SET_MODE, None),
    };
    if limits.too_large(parsed.key.len(), parsed.client_flags, len) {
        return swallow(Error::TOO_LARGE, Some(parsed.key));
    }
    if let Err(error) = parsed.check_opaque() {
        return swallow(error, None);
    }
    let value = match body(input, consumed, len) {
        Body::Value(value) => value,
        Body::Incomplete(_) if limits.refuse_unfinished => return swallow(Error::OUT_OF_MEMORY, Some(parsed.key)),
        Body::Incomplete(need) => return Decoded::Incomplete { need, key: Some(parsed.key) },
        Body::Unended => return Decoded::refuse(Error::BAD_DATA_CHUNK, consumed + len + 2),
    };
    let joins = matches!(mode, StoreMode::Append | StoreMode::Prepend);
    let compares = matches!(mode, StoreMode::Set | StoreMode::Replace);
    let command = Command::Store(Store {
        key: parsed.key,
        value,
        flags: parsed.client_flags,
        exptime: parsed.touch.unwrap_or(Exptime(0)),
        mode,
        compare_cas: parsed.compare_cas,
        // `E0` sets a CAS unique of 0 in the other commands, and lets the server choose here.
        set_cas: parsed.set_cas.filter(|&cas| cas != 0),
        invalidate: parsed.invalidate && compares && parsed.compare_cas.is_some(),
        vivify: parsed.vivify.filter(|_| joins),
    });
    parsed.request(command, MetaCommand::Set, len, consumed + len + 2)
}

/// Decodes `md key flag…`.
fn delete<'a>(line: &'a [u8], consumed: usize, scratch: &'a mut Scratch) -> Decoded<'a> {
    let parsed = match Parsed::read_checked(line, scratch) {
        Ok(parsed) => parsed,
        Err(error) => return Decoded::refuse(error, consumed),
    };
    let command = Command::Delete(Delete {
        key: parsed.key,
        compare_cas: parsed.compare_cas,
        set_cas: parsed.set_cas,
        invalidate: parsed.invalidate,
        touch: parsed.touch,
        remove_value: parsed.remove_value,
        flags: parsed.client_flags,
    });
    parsed.request(command, MetaCommand::Delete, 0, consumed)
}

/// Decodes `ma key flag…`.
fn arithmetic<'a>(line: &'a [u8], consumed: usize, scratch: &'a mut Scratch) -> Decoded<'a> {
    let parsed = match Parsed::read_line(line, scratch) {
        Ok(parsed) => parsed,
        Err(Refused::Line) => return Decoded::refuse(Error::BAD_FORMAT, consumed),
        Err(Refused::Flag(_)) => return Decoded::refuse(Error::INVALID_OR_DUPLICATE_FLAG, consumed),
    };
    let direction = match parsed.mode {
        None | Some(b'I' | b'+') => Direction::Up,
        Some(b'D' | b'-') => Direction::Down,
        Some(_) => return Decoded::refuse(Error::INVALID_ARITHMETIC_MODE, consumed),
    };
    if let Err(error) = parsed.check_opaque() {
        return Decoded::refuse(error, consumed);
    }
    let command = Command::Arithmetic(Arithmetic {
        key: parsed.key,
        delta: parsed.delta.unwrap_or(1),
        direction,
        vivify: parsed.vivify,
        initial: parsed.initial,
        touch: parsed.touch,
        touch_vivified: parsed.touch_vivified,
        // `C0` compares in the other commands, and does not here.
        compare_cas: parsed.compare_cas.filter(|&cas| cas != 0),
        set_cas: parsed.set_cas,
    });
    parsed.request(command, MetaCommand::Arithmetic, 0, consumed)
}

/// Decodes `mn`. Further words are ignored.
fn noop<'a>(consumed: usize) -> Decoded<'a> {
    Parsed::default().request(Command::Noop, MetaCommand::Noop, 0, consumed)
}

/// Decodes `me key [b]`.
fn debug<'a>(line: &'a [u8], consumed: usize, scratch: &'a mut Scratch) -> Decoded<'a> {
    let mut rest = line;
    let Some(word) = next_word(&mut rest).filter(|word| word.len() <= KEY_MAX_LEN) else {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    };
    let flags = trim_start(rest);
    if !Words(flags).all(|word| is_flag(word[0])) {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    }
    let mut key = word;
    if next_word(&mut rest) == Some(b"b") {
        match base64::decode(word, &mut scratch.0) {
            Some(len) => key = &scratch.0[..len],
            None => return Decoded::refuse(Error::BAD_FORMAT, consumed),
        }
    }
    let parsed = Parsed { sent_key: word, words: flags, ..Parsed::default() };
    parsed.request(Command::Debug { key }, MetaCommand::Debug, 0, consumed)
}

/// Appends a request as a meta command.
///
/// The flag words of `reply.flags` are written as they are, followed by the flags that the command needs (`v`, `q`,
/// `T`, `N`, `C`, …) and that `reply.flags` does not have. A key is written in base64 if a line cannot hold it or
/// `reply.flags` has `b`.
pub(crate) fn encode_request(
    command: &Command<'_>,
    reply: &MetaReply<'_>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let mut line = match command {
        Command::Get(get) => encode_get(get, reply, out)?,
        Command::Store(store) => encode_store(store, reply, out)?,
        Command::Delete(delete) => encode_delete(delete, reply, out)?,
        Command::Arithmetic(arithmetic) => encode_arithmetic(arithmetic, reply, out)?,
        // Meta has no touch command: a get without a value does the same.
        Command::Touch { key, exptime } => {
            let mut line = Line::begin(out, b"mg", checked(key)?, None, reply);
            line.exptime(b'T', *exptime);
            line
        }
        Command::Debug { key } => Line::begin(out, b"me", checked(key)?, None, reply),
        Command::Noop => {
            out.extend_from_slice(b"mn\r\n");
            return Ok(());
        }
        Command::FlushAll { .. }
        | Command::Version
        | Command::Verbosity { .. }
        | Command::Stats { .. }
        | Command::Quit
        | Command::Admin(_)
        | Command::Sasl(_) => return Err(EncodeError::Command),
    };
    line.flag_if(b'q', reply.quiet);
    line.end();
    Ok(())
}

/// Returns the key if a meta command can send it: it is not empty, and not longer than [`KEY_MAX_LEN`] as sent.
fn checked(key: &[u8]) -> Result<&[u8], EncodeError> {
    let base64_len = key.len().div_ceil(3) * 4;
    let fits = base64_len <= KEY_MAX_LEN || (key.len() <= KEY_MAX_LEN && is_text_key(key));
    if fits && !key.is_empty() { Ok(key) } else { Err(EncodeError::Key) }
}

fn encode_get<'o>(get: &Get<'_>, reply: &MetaReply<'_>, out: &'o mut Vec<u8>) -> Result<Line<'o>, EncodeError> {
    let key = get.keys.single().ok_or(EncodeError::Command)?;
    let mut line = Line::begin(out, b"mg", checked(key)?, None, reply);
    line.flag_if(b'v', get.want_value);
    line.flag_if(b'u', get.no_bump);
    // The server takes these three in their order.
    line.exptime_if(b'R', get.recache.filter(|_| !get.recache_touched));
    line.exptime_if(b'T', get.touch.filter(|_| !get.touch_vivified));
    line.exptime_if(b'N', get.vivify);
    line.exptime_if(b'T', get.touch);
    line.exptime_if(b'R', get.recache);
    line.number_if(b'C', get.unless_cas);
    line.number_if(b'E', get.set_cas);
    Ok(line)
}

fn encode_store<'o>(store: &Store<'o>, reply: &MetaReply<'_>, out: &'o mut Vec<u8>) -> Result<Line<'o>, EncodeError> {
    // `E0` lets the server choose in this command.
    if store.set_cas == Some(0) {
        return Err(EncodeError::Command);
    }
    let mut line = Line::begin(out, b"ms", checked(store.key)?, Some(store.value), reply);
    line.store_mode(store.mode);
    line.number_if(b'F', (store.flags != 0).then_some(store.flags.into()));
    line.exptime_if(b'T', Some(store.exptime).filter(|&exptime| exptime != Exptime(0)));
    line.exptime_if(b'N', store.vivify);
    line.number_if(b'C', store.compare_cas);
    line.number_if(b'E', store.set_cas);
    line.flag_if(b'I', store.invalidate);
    Ok(line)
}

fn encode_delete<'o>(
    delete: &Delete<'_>,
    reply: &MetaReply<'_>,
    out: &'o mut Vec<u8>,
) -> Result<Line<'o>, EncodeError> {
    let mut line = Line::begin(out, b"md", checked(delete.key)?, None, reply);
    line.number_if(b'C', delete.compare_cas);
    line.number_if(b'E', delete.set_cas);
    line.flag_if(b'I', delete.invalidate);
    line.flag_if(b'x', delete.remove_value);
    line.number_if(b'F', (delete.flags != 0).then_some(delete.flags.into()));
    line.exptime_if(b'T', delete.touch);
    Ok(line)
}

fn encode_arithmetic<'o>(
    arithmetic: &Arithmetic<'_>,
    reply: &MetaReply<'_>,
    out: &'o mut Vec<u8>,
) -> Result<Line<'o>, EncodeError> {
    // `C0` does not compare in this command.
    if arithmetic.compare_cas == Some(0) {
        return Err(EncodeError::Command);
    }
    let mut line = Line::begin(out, b"ma", checked(arithmetic.key)?, None, reply);
    line.direction(arithmetic.direction);
    line.number_if(b'D', (arithmetic.delta != 1).then_some(arithmetic.delta));
    line.exptime_if(b'T', arithmetic.touch.filter(|_| !arithmetic.touch_vivified));
    line.exptime_if(b'N', arithmetic.vivify);
    line.number_if(b'J', (arithmetic.initial != 0).then_some(arithmetic.initial));
    line.exptime_if(b'T', arithmetic.touch);
    line.number_if(b'C', arithmetic.compare_cas);
    line.number_if(b'E', arithmetic.set_cas);
    Ok(line)
}
