//! Requests with meta commands: decoded for a server, encoded by a client.

use crate::base64;
use crate::command::{
    Arithmetic, Command, Delete, Direction, Exptime, Get, KEY_MAX_LEN, Keys, MetaCommand, MetaReply, OPAQUE_MAX_LEN,
    Reply, Request, Store, StoreMode, TextReply,
};
use crate::decoded::{Decoded, LINE_MAX, Limits, Scratch};
use crate::error::{EncodeError, Error};
use crate::line::{Body, Words, body, first_line, is_text_key, next_key, next_word, value_len};
use crate::number::{parse_i32, parse_u32, parse_u64, push_number};

/// Most words of a command line, command and key included (`MFLAG_MAX_OPT_LENGTH` of memcached's proto_parser.h).
const WORDS_MAX: usize = 20;

/// Words from this one on are only checked for being words.
const WORDS_READ: usize = 23;

/// Whether the input begins with a meta command. An input that ends before that is known may go to either decoder of
/// text: both wait for the line's end.
#[inline]
pub(crate) fn is_request(input: &[u8]) -> bool {
    matches!(
        input,
        [b'm', b'g' | b's' | b'd' | b'a' | b'n' | b'e', b' ', ..]
            | [b'm', b'g' | b's' | b'd' | b'a' | b'n' | b'e', b'\r', b'\n', ..]
    )
}

/// Decodes the meta command at the front of `input`, which [`is_request`].
#[inline]
pub(crate) fn decode_request<'a>(input: &'a [u8], limits: &Limits, scratch: &'a mut Scratch) -> Decoded<'a> {
    let Some((line, consumed)) = first_line(input) else {
        return if input.len() <= LINE_MAX { Decoded::Incomplete { need: 1 } } else { Decoded::Close };
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

/// The key and the flags of a line.
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
    recache: Option<Exptime>,
    compare_cas: Option<u64>,
    set_cas: Option<u64>,
    initial: u64,
    delta: Option<u64>,
    opaque_too_long: bool,
    /// Length of the key in [`Scratch`], where flag `b` was sent.
    decoded_len: Option<usize>,
}

/// What is wrong with a line. memcached skips the value of an `ms` only behind a wrong flag.
enum Refused {
    /// The line could not be cut into words.
    Line,
    /// A flag or the key is wrong.
    Flag(Error),
}

impl Refused {
    fn error(self) -> Error {
        match self {
            Refused::Line => Error::BAD_FORMAT,
            Refused::Flag(error) => error,
        }
    }
}

impl<'a> Parsed<'a> {
    /// Reads a line of a key and flags, for the commands that have no words between.
    #[inline]
    fn read_line(line: &'a [u8], scratch: &'a mut Scratch) -> Result<Self, Refused> {
        let mut flags = line;
        let key = next_key(&mut flags).ok_or(Refused::Line)?;
        Parsed::read(key, flags, 2, scratch)
    }

    /// Reads the flags behind the key. `count` words of the line come before them.
    #[inline]
    fn read(key: &'a [u8], flags: &'a [u8], count: usize, scratch: &'a mut Scratch) -> Result<Self, Refused> {
        let mut parsed = Parsed { key, sent_key: key, words: trim_start(flags), ..Parsed::default() };
        let (mut rest, mut count, mut seen) = (flags, count, 0u128);
        // The first error that stops reading, and the last of those that do not: memcached answers one of them.
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
                // memcached has no words for this fault: those of another come first.
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

    /// Notes one flag with its token (protocol.txt, the tables of flags under "Meta Get", "Meta Set", "Meta Delete" and
    /// "Meta Arithmetic").
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
            // Only answered (`k`, `s`, `t`, …), or for memcached's proxy (`P`, `L`).
            b'k' | b's' | b't' | b'c' | b'f' | b'l' | b'h' | b'P' | b'L' => {}
            b'O' => self.opaque_too_long = word.len() > OPAQUE_MAX_LEN,
            // A longer key is refused for its length.
            b'b' if self.sent_key.len() <= KEY_MAX_LEN => {
                let len = base64::decode(self.sent_key, &mut scratch.0);
                self.decoded_len = Some(len.ok_or(Error::BAD_KEY_ENCODING)?);
            }
            b'b' => {}
            b'u' => self.no_bump = true,
            b'x' => self.remove_value = true,
            b'I' => self.invalidate = true,
            b'M' => self.mode = Some(token.first().copied().unwrap_or(b' ')),
            b'T' => self.touch = exptime()?,
            b'N' => self.vivify = exptime()?,
            b'R' => self.recache = exptime()?,
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

    /// The request, answered as the line asks.
    #[inline]
    fn request(&self, command: Command<'a>, kind: MetaCommand, value_len: usize, consumed: usize) -> Decoded<'a> {
        let (flags, key, quiet) = (self.words, self.sent_key, self.quiet);
        let reply = Reply::Meta(MetaReply { command: kind, flags, key, quiet, value_len });
        Decoded::Request { request: Request { command, reply }, consumed }
    }
}

/// Whether a word that begins so can be a flag at all.
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

/// `mg key flag…`
#[inline]
fn get<'a>(line: &'a [u8], consumed: usize, scratch: &'a mut Scratch) -> Decoded<'a> {
    let parsed = match Parsed::read_line(line, scratch) {
        Ok(parsed) => parsed,
        Err(refused) => return Decoded::refuse(refused.error(), consumed),
    };
    if let Err(error) = parsed.check_opaque() {
        return Decoded::refuse(error, consumed);
    }
    let command = Command::Get(Get {
        keys: Keys::One(parsed.key),
        touch: parsed.touch,
        vivify: parsed.vivify,
        recache: parsed.recache,
        set_cas: parsed.set_cas,
        unless_cas: parsed.compare_cas,
        want_value: parsed.value,
        no_bump: parsed.no_bump,
    });
    parsed.request(command, MetaCommand::Get, 0, consumed)
}

/// `ms key length flag…` and the value.
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
        Body::Incomplete(need) => return Decoded::Incomplete { need },
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
        set_cas: parsed.set_cas,
        invalidate: parsed.invalidate && compares && parsed.compare_cas.is_some(),
        vivify: parsed.vivify.filter(|_| joins),
    });
    parsed.request(command, MetaCommand::Set, len, consumed + len + 2)
}

/// `md key flag…`
fn delete<'a>(line: &'a [u8], consumed: usize, scratch: &'a mut Scratch) -> Decoded<'a> {
    let parsed = match Parsed::read_line(line, scratch) {
        Ok(parsed) => parsed,
        Err(refused) => return Decoded::refuse(refused.error(), consumed),
    };
    if let Err(error) = parsed.check_opaque() {
        return Decoded::refuse(error, consumed);
    }
    let command = Command::Delete(Delete {
        key: parsed.key,
        compare_cas: parsed.compare_cas,
        set_cas: parsed.set_cas,
        invalidate: parsed.invalidate,
        touch: parsed.touch,
        remove_value: parsed.remove_value,
    });
    parsed.request(command, MetaCommand::Delete, 0, consumed)
}

/// `ma key flag…`
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
        // 0 means no comparison here, unlike in the other commands.
        compare_cas: parsed.compare_cas.filter(|&cas| cas != 0),
        set_cas: parsed.set_cas,
    });
    parsed.request(command, MetaCommand::Arithmetic, 0, consumed)
}

/// `mn`, and whatever stands behind it.
fn noop<'a>(consumed: usize) -> Decoded<'a> {
    Parsed::default().request(Command::Noop, MetaCommand::Noop, 0, consumed)
}

/// `me key [b]`
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
/// The flag words of `reply.flags` are written as they are; those that the command needs and that are missing there (`v`,
/// `q`, `T`, `N`, `C`, …) are added. A key that a line cannot hold is written in base64 with the flag `b`; so is every key
/// where `reply.flags` has `b`.
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
        // Meta has no touch of its own; a get without a value is one.
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

/// Returns the key if a meta command can send it: not empty, and as sent not longer than [`KEY_MAX_LEN`].
fn checked(key: &[u8]) -> Result<&[u8], EncodeError> {
    let sent_len = if is_text_key(key) { key.len() } else { key.len().div_ceil(3) * 4 };
    if (1..=KEY_MAX_LEN).contains(&sent_len) { Ok(key) } else { Err(EncodeError::Key) }
}

fn encode_get<'o>(get: &Get<'_>, reply: &MetaReply<'_>, out: &'o mut Vec<u8>) -> Result<Line<'o>, EncodeError> {
    let key = get.keys.single().ok_or(EncodeError::Command)?;
    let mut line = Line::begin(out, b"mg", checked(key)?, None, reply);
    line.flag_if(b'v', get.want_value);
    line.flag_if(b'u', get.no_bump);
    line.exptime_if(b'T', get.touch);
    line.exptime_if(b'N', get.vivify);
    line.exptime_if(b'R', get.recache);
    line.number_if(b'C', get.unless_cas);
    line.number_if(b'E', get.set_cas);
    Ok(line)
}

fn encode_store<'o>(store: &Store<'o>, reply: &MetaReply<'_>, out: &'o mut Vec<u8>) -> Result<Line<'o>, EncodeError> {
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
    line.exptime_if(b'T', delete.touch);
    Ok(line)
}

fn encode_arithmetic<'o>(
    arithmetic: &Arithmetic<'_>,
    reply: &MetaReply<'_>,
    out: &'o mut Vec<u8>,
) -> Result<Line<'o>, EncodeError> {
    // `C0` means no comparison in this command.
    if arithmetic.compare_cas == Some(0) {
        return Err(EncodeError::Command);
    }
    let mut line = Line::begin(out, b"ma", checked(arithmetic.key)?, None, reply);
    line.direction(arithmetic.direction);
    line.number_if(b'D', (arithmetic.delta != 1).then_some(arithmetic.delta));
    line.exptime_if(b'N', arithmetic.vivify);
    line.number_if(b'J', (arithmetic.initial != 0).then_some(arithmetic.initial));
    line.exptime_if(b'T', arithmetic.touch);
    line.number_if(b'C', arithmetic.compare_cas);
    line.number_if(b'E', arithmetic.set_cas);
    Ok(line)
}

/// Writes a meta command with its flags (protocol.txt, "Meta Commands").
///
/// A line begins with its command and key, takes flags in the order in which the server shall carry them out, and is ended
/// by [`Line::end`]. Each letter is written once: a flag that is there already keeps its first token.
///
/// A key that a text line cannot hold (it has blanks or control characters) is written in base64, with the flag `b`. The
/// writer checks neither the key's length ([`KEY_MAX_LEN`]) nor whether the command knows the flag: the server answers
/// `CLIENT_ERROR`.
///
/// ```
/// use larder_protocol::StoreMode;
/// use larder_protocol::meta::Line;
///
/// let mut out = Vec::new();
/// let mut line = Line::get(&mut out, b"apple");
/// line.flag(b'v').flag(b'c').number(b'T', 60);
/// line.end();
/// assert_eq!(out, b"mg apple v c T60\r\n");
///
/// out.clear();
/// let mut line = Line::set(&mut out, b"two words", b"red");
/// line.store_mode(StoreMode::Add).number(b'F', 7);
/// line.end();
/// assert_eq!(out, b"ms dHdvIHdvcmRz 3 b ME F7\r\nred\r\n");
/// ```
#[derive(Debug)]
#[must_use = "the line is not a request before `end`"]
pub struct Line<'o> {
    out: &'o mut Vec<u8>,
    /// A bit for each letter that is there already.
    present: u128,
    /// Follows the line's end.
    value: Option<&'o [u8]>,
}

impl<'o> Line<'o> {
    /// Begins `mg`: reads an item.
    #[inline]
    pub fn get(out: &'o mut Vec<u8>, key: &[u8]) -> Self {
        Line::begin(out, b"mg", key, None, &MetaReply::EMPTY)
    }

    /// Begins `ms`: stores an item.
    #[inline]
    pub fn set(out: &'o mut Vec<u8>, key: &[u8], value: &'o [u8]) -> Self {
        Line::begin(out, b"ms", key, Some(value), &MetaReply::EMPTY)
    }

    /// Begins `md`: deletes or invalidates an item.
    #[inline]
    pub fn delete(out: &'o mut Vec<u8>, key: &[u8]) -> Self {
        Line::begin(out, b"md", key, None, &MetaReply::EMPTY)
    }

    /// Begins `ma`: increments or decrements an item.
    #[inline]
    pub fn arithmetic(out: &'o mut Vec<u8>, key: &[u8]) -> Self {
        Line::begin(out, b"ma", key, None, &MetaReply::EMPTY)
    }

    /// Writes the command's name, the key, the value's length, and the flag words of `reply` as they are.
    #[inline]
    fn begin(out: &'o mut Vec<u8>, name: &[u8; 2], key: &[u8], value: Option<&'o [u8]>, reply: &MetaReply<'_>) -> Self {
        let present = reply.words().fold(0u128, |letters, word| letters | 1 << (word[0] & 127));
        let given = present >> b'b' & 1 == 1;
        let binary = given || !is_text_key(key);
        out.extend_from_slice(name);
        out.push(b' ');
        match binary {
            true if given && !reply.key.is_empty() => out.extend_from_slice(reply.key),
            true => base64::encode(out, key),
            false => out.extend_from_slice(key),
        }
        if let Some(value) = value {
            out.push(b' ');
            push_number(out, value.len());
        }
        let mut line = Line { out, present, value };
        // `me` knows the flag in the first place only.
        line.flag_if(b'b', binary);
        if !reply.flags.is_empty() {
            line.out.push(b' ');
            line.out.extend_from_slice(reply.flags);
        }
        line
    }

    /// Writes a flag without a token, for example `v` (answer the value) or `q` (quiet).
    #[inline]
    pub fn flag(&mut self, letter: u8) -> &mut Self {
        self.is_new(letter);
        self
    }

    /// Writes a flag with a number, for example `C` (CAS unique), `F` (client flags) or `D` (delta).
    #[inline]
    pub fn number(&mut self, letter: u8, number: u64) -> &mut Self {
        if self.is_new(letter) {
            push_number(self.out, number);
        }
        self
    }

    /// Writes a flag with an expiration time: `T`, `N` or `R`.
    #[inline]
    pub fn exptime(&mut self, letter: u8, exptime: Exptime) -> &mut Self {
        if self.is_new(letter) {
            push_number(self.out, exptime.0);
        }
        self
    }

    /// Writes the mode of `ms` (flag `M`); nothing for [`StoreMode::Set`], which is the default.
    #[inline]
    pub fn store_mode(&mut self, mode: StoreMode) -> &mut Self {
        match mode {
            StoreMode::Set => self,
            StoreMode::Add => self.mode(b'E'),
            StoreMode::Replace => self.mode(b'R'),
            StoreMode::Append => self.mode(b'A'),
            StoreMode::Prepend => self.mode(b'P'),
        }
    }

    /// Writes the mode of `ma` (flag `M`); nothing for [`Direction::Up`], which is the default.
    #[inline]
    pub fn direction(&mut self, direction: Direction) -> &mut Self {
        match direction {
            Direction::Up => self,
            Direction::Down => self.mode(b'D'),
        }
    }

    /// Ends the line, and writes the value of `ms` behind it.
    #[inline]
    pub fn end(self) {
        self.out.extend_from_slice(b"\r\n");
        if let Some(value) = self.value {
            self.out.extend_from_slice(value);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    /// Writes a letter unless it is there already, and returns whether it did.
    #[inline]
    fn is_new(&mut self, letter: u8) -> bool {
        let is_new = self.present >> (letter & 127) & 1 == 0;
        if is_new {
            self.present |= 1 << (letter & 127);
            self.out.extend_from_slice(&[b' ', letter]);
        }
        is_new
    }

    fn mode(&mut self, mode: u8) -> &mut Self {
        if self.is_new(b'M') {
            self.out.push(mode);
        }
        self
    }

    fn flag_if(&mut self, letter: u8, wanted: bool) {
        if wanted {
            self.flag(letter);
        }
    }

    fn number_if(&mut self, letter: u8, number: Option<u64>) {
        if let Some(number) = number {
            self.number(letter, number);
        }
    }

    fn exptime_if(&mut self, letter: u8, exptime: Option<Exptime>) {
        if let Some(exptime) = exptime {
            self.exptime(letter, exptime);
        }
    }
}
