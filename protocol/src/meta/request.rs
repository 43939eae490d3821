//! Requests with meta commands: decoding for a server, encoding for a client.

use crate::base64;
use crate::command::{
    Arithmetic, Command, Delete, Direction, Exptime, Get, KEY_MAX_LEN, Keys, MetaCommand, MetaReply, OPAQUE_MAX_LEN,
    Reply, Request, Store, StoreMode, TextReply,
};
use crate::decoded::{Decoded, Limits, Scratch};
use crate::error::Error;
use crate::line::{Body, Words, body, next_key, next_word, value_len};
use crate::number::{parse_i32, parse_u32, parse_u64, push_number};

/// Most words of a command line, command and key included.
const WORDS_MAX: usize = 20;

/// More words than this are not looked at.
const WORDS_READ: usize = 23;

/// A line's flags and what they ask for.
#[derive(Default)]
struct Parsed<'a> {
    key: &'a [u8],
    reply_key: &'a [u8],
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
}

/// What is wrong with a line. memcached tells these apart in what it does with the value behind `ms`.
enum Refused {
    /// The line could not be cut into words.
    Line,
    /// A word is wrong.
    Flag(Error),
}

impl<'a> Parsed<'a> {
    /// Reads the key and the flags behind it. `count` words of the line come before the flags.
    #[inline]
    fn read(key: &'a [u8], flags: &'a [u8], count: usize, scratch: &'a mut Scratch) -> Result<Self, Refused> {
        let mut parsed = Parsed { key, reply_key: key, words: trim_start(flags), ..Parsed::default() };
        let (mut rest, mut count, mut seen) = (flags, count, 0u128);
        // The first error that stops reading, and the last of those that do not.
        let (mut fatal, mut error) = (None, None);
        let mut decoded_len = None;
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
            let token = &word[1..];
            let exptime = || parse_i32(token).map(|seconds| Exptime(seconds.into()));
            match letter {
                b'v' => parsed.value = true,
                b'q' => parsed.quiet = true,
                b'k' | b's' | b't' | b'c' | b'f' | b'l' | b'h' | b'P' | b'L' => {}
                b'O' => parsed.opaque_too_long = word.len() > OPAQUE_MAX_LEN,
                b'b' if key.len() <= KEY_MAX_LEN => {
                    decoded_len = base64::decode(key, &mut scratch.0);
                    if decoded_len.is_none() {
                        error = Some(Error::BAD_KEY_ENCODING);
                    }
                }
                b'b' => {}
                b'u' => parsed.no_bump = true,
                b'x' => parsed.remove_value = true,
                b'I' => parsed.invalidate = true,
                b'M' => parsed.mode = Some(token.first().copied().unwrap_or(b' ')),
                b'T' => parsed.touch = exptime().or_else(|| bad_token(&mut error)),
                b'N' => parsed.vivify = exptime().or_else(|| bad_token(&mut error)),
                b'R' => parsed.recache = exptime().or_else(|| bad_token(&mut error)),
                b'C' => parsed.compare_cas = parse_u64(token).or_else(|| bad_token(&mut error)),
                b'E' => parsed.set_cas = parse_u64(token).or_else(|| bad_token(&mut error)),
                b'F' => match parse_u32(token) {
                    Some(flags) => parsed.client_flags = flags,
                    // memcached gives this fault no words of its own.
                    None => error = error.or(Some(Error::BAD_FORMAT)),
                },
                b'J' => match parse_u64(token) {
                    Some(initial) => parsed.initial = initial,
                    None => error = Some(Error::INVALID_INITIAL),
                },
                b'D' => match parse_u64(token) {
                    Some(delta) => parsed.delta = Some(delta),
                    None => error = Some(Error::INVALID_META_DELTA),
                },
                _ => fatal = Some(Error::INVALID_FLAG),
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
        if let Some(len) = decoded_len {
            parsed.key = &scratch.0[..len];
        }
        Ok(parsed)
    }

    #[inline]
    fn reply(&self, command: MetaCommand) -> Reply<'a> {
        let quiet = self.quiet;
        Reply::Meta(MetaReply { command, flags: self.words, key: self.reply_key, quiet, value_len: 0 })
    }
}

/// Whether a word that begins so can be a flag at all.
#[inline]
fn is_flag(letter: u8) -> bool {
    matches!(letter, b'A'..=b'z' | b'0'..=b'9')
}

#[cold]
fn bad_token<T>(error: &mut Option<Error>) -> Option<T> {
    *error = Some(Error::BAD_TOKEN);
    None
}

#[inline]
fn trim_start(line: &[u8]) -> &[u8] {
    match line {
        [b' ', rest @ ..] if rest.first() != Some(&b' ') => rest,
        _ => &line[line.iter().position(|&b| b != b' ').unwrap_or(line.len())..],
    }
}

impl Refused {
    fn error(self) -> Error {
        match self {
            Refused::Line => Error::BAD_FORMAT,
            Refused::Flag(error) => error,
        }
    }
}

#[inline]
fn done<'a>(command: Command<'a>, reply: Reply<'a>, consumed: usize) -> Decoded<'a> {
    Decoded::Request { request: Request { command, reply }, consumed }
}

/// `mg key flag…`
#[inline]
pub(crate) fn get<'a>(line: &'a [u8], consumed: usize, scratch: &'a mut Scratch) -> Decoded<'a> {
    let mut rest = line;
    let Some(key) = next_key(&mut rest) else {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    };
    let parsed = match Parsed::read(key, rest, 2, scratch) {
        Ok(parsed) => parsed,
        Err(refused) => return Decoded::refuse(refused.error(), consumed),
    };
    if parsed.opaque_too_long {
        return Decoded::refuse(Error::OPAQUE_TOO_LONG, consumed);
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
    done(command, parsed.reply(MetaCommand::Get), consumed)
}

/// `ms key length flag…` and the value.
#[inline]
pub(crate) fn set<'a>(
    line: &'a [u8],
    input: &'a [u8],
    consumed: usize,
    limits: &Limits,
    scratch: &'a mut Scratch,
) -> Decoded<'a> {
    let mut rest = line;
    let (Some(key), Some(len)) = (next_key(&mut rest), next_word(&mut rest)) else {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    };
    let Some(len) = value_len(len) else {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    };
    let swallow = |error, outdated| Decoded::Error {
        error,
        reply: Reply::Text(TextReply::default()),
        consumed,
        swallow: len + 2,
        outdated,
        close: false,
    };
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
    let joins = matches!(mode, StoreMode::Append | StoreMode::Prepend);
    let compares = matches!(mode, StoreMode::Set | StoreMode::Replace);
    if limits.too_large(parsed.key.len(), parsed.client_flags, len) {
        return swallow(Error::TOO_LARGE, Some(parsed.key));
    }
    if parsed.opaque_too_long {
        return swallow(Error::OPAQUE_TOO_LONG, None);
    }
    let value = match body(input, consumed, len) {
        Body::Value(value) => value,
        Body::Incomplete(need) => return Decoded::Incomplete { need },
        Body::Unended => return Decoded::refuse(Error::BAD_DATA_CHUNK, consumed + len + 2),
    };
    let mut reply = parsed.reply(MetaCommand::Set);
    if let Reply::Meta(reply) = &mut reply {
        reply.value_len = len;
    }
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
    done(command, reply, consumed + len + 2)
}

/// `md key flag…`
pub(crate) fn delete<'a>(line: &'a [u8], consumed: usize, scratch: &'a mut Scratch) -> Decoded<'a> {
    let mut rest = line;
    let Some(key) = next_key(&mut rest) else {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    };
    let parsed = match Parsed::read(key, rest, 2, scratch) {
        Ok(parsed) => parsed,
        Err(refused) => return Decoded::refuse(refused.error(), consumed),
    };
    if parsed.opaque_too_long {
        return Decoded::refuse(Error::OPAQUE_TOO_LONG, consumed);
    }
    let command = Command::Delete(Delete {
        key: parsed.key,
        compare_cas: parsed.compare_cas,
        set_cas: parsed.set_cas,
        invalidate: parsed.invalidate,
        touch: parsed.touch,
        remove_value: parsed.remove_value,
    });
    done(command, parsed.reply(MetaCommand::Delete), consumed)
}

/// `ma key flag…`
pub(crate) fn arithmetic<'a>(line: &'a [u8], consumed: usize, scratch: &'a mut Scratch) -> Decoded<'a> {
    let mut rest = line;
    let Some(key) = next_key(&mut rest) else {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    };
    let parsed = match Parsed::read(key, rest, 2, scratch) {
        Ok(parsed) => parsed,
        Err(Refused::Line) => return Decoded::refuse(Error::BAD_FORMAT, consumed),
        Err(Refused::Flag(_)) => return Decoded::refuse(Error::INVALID_OR_DUPLICATE_FLAG, consumed),
    };
    let direction = match parsed.mode {
        None | Some(b'I' | b'+') => Direction::Up,
        Some(b'D' | b'-') => Direction::Down,
        Some(_) => return Decoded::refuse(Error::INVALID_ARITHMETIC_MODE, consumed),
    };
    if parsed.opaque_too_long {
        return Decoded::refuse(Error::OPAQUE_TOO_LONG, consumed);
    }
    let command = Command::Arithmetic(Arithmetic {
        key: parsed.key,
        delta: parsed.delta.unwrap_or(1),
        direction,
        vivify: parsed.vivify,
        initial: parsed.initial,
        touch: parsed.touch,
        // Here 0 means no comparison, unlike in the other commands.
        compare_cas: parsed.compare_cas.filter(|&cas| cas != 0),
        set_cas: parsed.set_cas,
    });
    done(command, parsed.reply(MetaCommand::Arithmetic), consumed)
}

/// `mn`, and whatever stands behind it.
pub(crate) fn noop<'a>(consumed: usize) -> Decoded<'a> {
    let reply = MetaReply { command: MetaCommand::Noop, flags: b"", key: b"", quiet: false, value_len: 0 };
    done(Command::Noop, Reply::Meta(reply), consumed)
}

/// `me key [b]`
pub(crate) fn debug<'a>(line: &'a [u8], consumed: usize, scratch: &'a mut Scratch) -> Decoded<'a> {
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
    let reply = MetaReply { command: MetaCommand::Debug, flags, key: word, quiet: false, value_len: 0 };
    done(Command::Debug { key }, Reply::Meta(reply), consumed)
}

/// Appends a request as a meta command.
///
/// The flag words of `reply.flags` are written as they are; those that the command implies and that are missing
/// there (`v`, `q`, `T`, `N`, `C`, …) are added. A client thus names only the flags it wants answered. A key that text cannot carry
/// is written in base64, with the flag `b`; so is any key where `b` is given. Of the command's keys only the first is written.
pub(crate) fn encode_request(command: &Command<'_>, reply: &MetaReply<'_>, out: &mut Vec<u8>) {
    let key = |key| (key, reply);
    let mut line = match command {
        Command::Get(get) => {
            let mut line = Line::begin(out, b"mg", key(get.keys.iter().next().unwrap_or(b"")), None);
            line.flag_if(b'v', get.want_value);
            line.flag_if(b'u', get.no_bump);
            line.exptime_if(b'T', get.touch);
            line.exptime_if(b'N', get.vivify);
            line.exptime_if(b'R', get.recache);
            line.number_if(b'C', get.unless_cas);
            line.number_if(b'E', get.set_cas);
            line
        }
        Command::Store(store) => {
            let mut line = Line::begin(out, b"ms", key(store.key), Some(store.value));
            line.store_mode(store.mode);
            line.number_if(b'F', (store.flags != 0).then_some(store.flags.into()));
            line.exptime_if(b'T', Some(store.exptime).filter(|&exptime| exptime != Exptime(0)));
            line.exptime_if(b'N', store.vivify);
            line.number_if(b'C', store.compare_cas);
            line.number_if(b'E', store.set_cas);
            line.flag_if(b'I', store.invalidate);
            line
        }
        Command::Delete(delete) => {
            let mut line = Line::begin(out, b"md", key(delete.key), None);
            line.number_if(b'C', delete.compare_cas);
            line.number_if(b'E', delete.set_cas);
            line.flag_if(b'I', delete.invalidate);
            line.flag_if(b'x', delete.remove_value);
            line.exptime_if(b'T', delete.touch);
            line
        }
        Command::Arithmetic(arithmetic) => {
            let mut line = Line::begin(out, b"ma", key(arithmetic.key), None);
            line.direction(arithmetic.direction);
            line.number_if(b'D', (arithmetic.delta != 1).then_some(arithmetic.delta));
            line.exptime_if(b'N', arithmetic.vivify);
            line.number_if(b'J', (arithmetic.initial != 0).then_some(arithmetic.initial));
            line.exptime_if(b'T', arithmetic.touch);
            line.number_if(b'C', arithmetic.compare_cas);
            line.number_if(b'E', arithmetic.set_cas);
            line
        }
        // Meta has no touch of its own; a get without a value is one.
        Command::Touch { key: touched, exptime } => {
            let mut line = Line::begin(out, b"mg", key(touched), None);
            line.exptime(b'T', *exptime);
            line
        }
        Command::Debug { key: shown } => Line::begin(out, b"me", key(shown), None),
        _ => {
            out.extend_from_slice(b"mn");
            Line { out, present: 0, value: None }
        }
    };
    line.flag_if(b'q', reply.quiet);
    line.end();
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
        Line::begin(out, b"mg", (key, &MetaReply::EMPTY), None)
    }

    /// Begins `ms`: stores an item.
    #[inline]
    pub fn set(out: &'o mut Vec<u8>, key: &[u8], value: &'o [u8]) -> Self {
        Line::begin(out, b"ms", (key, &MetaReply::EMPTY), Some(value))
    }

    /// Begins `md`: deletes or invalidates an item.
    #[inline]
    pub fn delete(out: &'o mut Vec<u8>, key: &[u8]) -> Self {
        Line::begin(out, b"md", (key, &MetaReply::EMPTY), None)
    }

    /// Begins `ma`: increments or decrements an item.
    #[inline]
    pub fn arithmetic(out: &'o mut Vec<u8>, key: &[u8]) -> Self {
        Line::begin(out, b"ma", (key, &MetaReply::EMPTY), None)
    }

    /// Writes the command's name, the key, the value's length, and the flag words of `reply` as they are.
    #[inline]
    fn begin(
        out: &'o mut Vec<u8>,
        name: &[u8],
        (key, reply): (&[u8], &MetaReply<'_>),
        value: Option<&'o [u8]>,
    ) -> Self {
        let present = reply.words().fold(0u128, |letters, word| letters | 1 << (word[0] & 127));
        let given = present >> b'b' & 1 == 1;
        let binary = given || key.iter().any(|&b| b <= b' ' || b == 0x7f);
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
