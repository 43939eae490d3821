//! The meta commands, protocol.txt "Meta Commands": `mg`, `ms`, `md`, `ma`, `mn`, `me`.

use crate::number::{parse_i32, parse_u32, parse_u64};
use crate::text::{DecodedResponse, refuse, response_line, response_value, unfinished_response, with_body};
use crate::{
    Arithmetic, Command, Decoded, Delete, Direction, Error, Exptime, Get, KEY_MAX_LEN, Keys, KeysIter, Limits,
    MetaCommand, MetaReply, OPAQUE_MAX_LEN, Reply, Request, Scratch, Store, StoreMode, base64, push_number,
};

/// Most words of a meta command line (memcached's limit; there are fewer flags than that).
const WORDS_MAX: usize = 20;

const BAD_TOKEN: Error = Error::Client("bad token in command line format");
const OPAQUE_TOO_LONG: Error = Error::Client("opaque token too long");

/// The flags of a line, read.
#[derive(Default)]
struct Flags {
    base64: bool,
    quiet: bool,
    value: bool,
    no_bump: bool,
    invalidate: bool,
    remove_value: bool,
    touch: Option<Exptime>,
    vivify: Option<Exptime>,
    recache: Option<Exptime>,
    compare_cas: Option<u64>,
    set_cas: Option<u64>,
    client_flags: u32,
    mode: Option<u8>,
    initial: u64,
    delta: Option<u64>,
    opaque_too_long: bool,
}

impl Flags {
    fn parse(words: KeysIter<'_>, words_before: usize) -> Result<Flags, Error> {
        let mut flags = Flags::default();
        let mut seen = [0u64; 2];
        let mut error = None;
        if words.clone().take(WORDS_MAX).count() + words_before > WORDS_MAX {
            return Err(Error::Client("options flags are too long"));
        }
        for word in words {
            let (letter, token) = (word[0], &word[1..]);
            let bit = 1u64 << (letter & 63);
            if letter >= 127 || seen[usize::from(letter >> 6)] & bit != 0 {
                return Err(Error::Client("duplicate flag"));
            }
            seen[usize::from(letter >> 6)] |= bit;
            match letter {
                b'v' => flags.value = true,
                b'q' => flags.quiet = true,
                b'k' | b's' | b't' | b'c' | b'f' | b'h' | b'l' | b'P' | b'L' => {}
                b'O' => flags.opaque_too_long = token.len() + 1 > OPAQUE_MAX_LEN,
                b'b' => flags.base64 = true,
                b'u' => flags.no_bump = true,
                b'I' => flags.invalidate = true,
                b'x' => flags.remove_value = true,
                b'M' => flags.mode = Some(token.first().copied().unwrap_or(b' ')),
                b'T' | b'N' | b'R' => {
                    let Some(exptime) = parse_i32(token) else {
                        error = Some(BAD_TOKEN);
                        continue;
                    };
                    let exptime = Some(Exptime(exptime.into()));
                    match letter {
                        b'T' => flags.touch = exptime,
                        b'N' => flags.vivify = exptime,
                        _ => flags.recache = exptime,
                    }
                }
                b'C' | b'E' => {
                    let Some(cas) = parse_u64(token) else {
                        error = Some(BAD_TOKEN);
                        continue;
                    };
                    match letter {
                        b'C' => flags.compare_cas = Some(cas),
                        _ => flags.set_cas = Some(cas),
                    }
                }
                b'F' => match parse_u32(token) {
                    Some(client_flags) => flags.client_flags = client_flags,
                    None => error = Some(error.unwrap_or(Error::BAD_FORMAT)),
                },
                b'J' => match parse_u64(token) {
                    Some(initial) => flags.initial = initial,
                    None => error = Some(Error::Client("invalid numeric initial value")),
                },
                b'D' => match parse_u64(token) {
                    Some(delta) => flags.delta = Some(delta),
                    None => error = Some(Error::Client("invalid numeric delta value")),
                },
                _ => return Err(Error::Client("invalid flag")),
            }
        }
        error.map_or(Ok(flags), Err)
    }
}

/// Decodes a line whose name is `m` and `kind`; `rest` is what follows the name.
#[inline]
pub(crate) fn decode_line<'a>(
    kind: u8,
    rest: &'a [u8],
    body: &'a [u8],
    consumed: usize,
    limits: &Limits,
    scratch: &'a mut Scratch,
) -> Decoded<'a> {
    let command = match kind {
        b'g' => MetaCommand::Get,
        b's' => MetaCommand::Set,
        b'd' => MetaCommand::Delete,
        b'a' => MetaCommand::Arithmetic,
        b'e' => MetaCommand::Debug,
        b'n' => {
            let reply = MetaReply { command: MetaCommand::Noop, flags: b"", key: b"", quiet: false };
            return Decoded::Request {
                request: Request { command: Command::Noop, reply: Reply::Meta(reply) },
                consumed,
            };
        }
        _ => return refuse(Error::UnknownCommand, consumed),
    };
    let Some((key_as_sent, mut words)) = first_word(rest) else { return refuse(Error::BAD_FORMAT, consumed) };
    let mut swallow = 0;
    if command == MetaCommand::Set {
        let Some((len, flag_words)) = first_word(words) else { return refuse(Error::BAD_FORMAT, consumed) };
        let Some(len) = parse_i32(len).filter(|len| (0..i32::MAX - 2).contains(len)) else {
            return refuse(Error::BAD_FORMAT, consumed);
        };
        words = flag_words;
        swallow = len as usize + 2;
    }
    let refuse = |error| Decoded::Error { error, noreply: false, consumed, swallow, outdated: None };
    if key_as_sent.len() > KEY_MAX_LEN {
        return refuse(Error::BAD_FORMAT);
    }
    let words_before = if swallow > 0 { 3 } else { 2 };
    let flags = match Flags::parse(Keys::Line(words).iter(), words_before) {
        Ok(flags) => flags,
        Err(_) if command == MetaCommand::Arithmetic => return refuse(Error::Client("invalid or duplicate flag")),
        Err(_) if command == MetaCommand::Debug => Flags::default(),
        Err(error) => return refuse(error),
    };
    let key = if flags.base64 {
        match base64::decode(key_as_sent, &mut scratch.0) {
            Some(key) => key,
            None if command == MetaCommand::Arithmetic => return refuse(Error::Client("invalid or duplicate flag")),
            None if command == MetaCommand::Debug => return refuse(Error::BAD_FORMAT),
            None => return refuse(Error::Client("error decoding key")),
        }
    } else {
        key_as_sent
    };
    let reply = Reply::Meta(MetaReply { command, flags: words, key: key_as_sent, quiet: flags.quiet });
    let command = match command {
        MetaCommand::Get => Command::Get(Get {
            keys: Keys::One(key),
            touch: flags.touch,
            vivify: flags.vivify,
            recache: flags.recache,
            set_cas: flags.set_cas,
            unless_cas: flags.compare_cas,
            want_value: flags.value,
            no_bump: flags.no_bump,
        }),
        MetaCommand::Set => {
            let mode = match flags.mode {
                None | Some(b'S') => StoreMode::Set,
                Some(b'E') => StoreMode::Add,
                Some(b'A') => StoreMode::Append,
                Some(b'P') => StoreMode::Prepend,
                Some(b'R') => StoreMode::Replace,
                Some(_) => return refuse(Error::Client("invalid mode for ms M token")),
            };
            if flags.opaque_too_long {
                return refuse(OPAQUE_TOO_LONG);
            }
            let store = Store {
                key,
                value: b"",
                flags: flags.client_flags,
                exptime: flags.touch.unwrap_or(Exptime(0)),
                mode,
                compare_cas: flags.compare_cas,
                set_cas: flags.set_cas,
                invalidate: flags.invalidate,
                vivify: flags.vivify,
            };
            return with_body(store, reply, swallow - 2, body, consumed, limits);
        }
        MetaCommand::Delete => Command::Delete(Delete {
            key,
            compare_cas: flags.compare_cas,
            set_cas: flags.set_cas,
            invalidate: flags.invalidate,
            touch: flags.touch,
            remove_value: flags.remove_value,
        }),
        MetaCommand::Arithmetic => Command::Arithmetic(Arithmetic {
            key,
            delta: flags.delta.unwrap_or(1),
            direction: match flags.mode {
                None | Some(b'I' | b'+') => Direction::Up,
                Some(b'D' | b'-') => Direction::Down,
                Some(_) => return refuse(Error::Client("invalid mode for ma M token")),
            },
            vivify: flags.vivify,
            initial: flags.initial,
            touch: flags.touch,
            compare_cas: flags.compare_cas,
            set_cas: flags.set_cas,
        }),
        MetaCommand::Noop | MetaCommand::Debug => Command::Debug { key },
    };
    if flags.opaque_too_long && !matches!(command, Command::Debug { .. }) {
        return refuse(OPAQUE_TOO_LONG);
    }
    Decoded::Request { request: Request { command, reply }, consumed }
}

/// The first word of a line and what follows it.
fn first_word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = &line[line.iter().position(|&byte| byte != b' ')?..];
    Some(line.split_at(memchr::memchr(b' ', line).unwrap_or(line.len())))
}

/// Appends a meta command as a client sends it. The flags of `reply` (opaque, and what to return) are sent first as
/// they are, then those that the command itself needs.
pub(crate) fn encode_request(command: &Command<'_>, reply: &MetaReply<'_>, out: &mut Vec<u8>) {
    let name: &[u8] = match command {
        Command::Get(_) => b"mg ",
        Command::Store(_) => b"ms ",
        Command::Delete(_) => b"md ",
        Command::Arithmetic(_) => b"ma ",
        Command::Debug { .. } => b"me ",
        _ => return out.extend_from_slice(b"mn\r\n"),
    };
    out.extend_from_slice(name);
    out.extend_from_slice(reply.key);
    if let Command::Store(store) = command {
        out.push(b' ');
        push_number(out, store.value.len());
    }
    for word in reply.words() {
        out.push(b' ');
        out.extend_from_slice(word);
    }
    out.extend_from_slice(b"\r\n");
    if let Command::Store(store) = command {
        out.extend_from_slice(store.value);
        out.extend_from_slice(b"\r\n");
    }
}

/// Return codes of meta responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// `HD`: done, without a value.
    Hd,
    /// `VA`: done, with a value.
    Va,
    /// `EN`: a miss.
    En,
    /// `NF`: not found.
    Nf,
    /// `NS`: not stored.
    Ns,
    /// `EX`: the CAS unique differs.
    Ex,
    /// `MN`: answer to `mn`.
    Mn,
    /// `ME`: an item's metadata.
    Me,
}

/// A server's answer to a meta command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response<'a> {
    /// A return code with its value (for `VA`) and flags.
    Code {
        /// The return code.
        code: Code,
        /// The value, for `VA`.
        value: Option<&'a [u8]>,
        /// The flags.
        flags: ResponseFlags<'a>,
    },
    /// An error line: `ERROR`, `CLIENT_ERROR …` or `SERVER_ERROR …`.
    Error(&'a [u8]),
}

/// The flags of a meta response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseFlags<'a>(&'a [u8]);

impl<'a> ResponseFlags<'a> {
    /// The token of flag `letter`; `None` where the flag was not sent.
    pub fn token(&self, letter: u8) -> Option<&'a [u8]> {
        Keys::Line(self.0).iter().find(|word| word[0] == letter).map(|word| &word[1..])
    }

    /// The number behind flag `letter`, for example `c` (CAS unique), `f` (flags), `s` (size in bytes).
    pub fn number(&self, letter: u8) -> Option<u64> {
        parse_u64(self.token(letter)?)
    }

    /// Whether flag `letter` was sent: `W` (won), `Z` (won by another), `X` (stale).
    pub fn has(&self, letter: u8) -> bool {
        self.token(letter).is_some()
    }

    /// Seconds until the item expires (flag `t`); `None` is never, or not asked.
    pub fn ttl(&self) -> Option<u32> {
        parse_u32(self.token(b't')?)
    }
}

/// Decodes the meta response at the front of `input`.
#[inline]
pub fn decode_response(input: &[u8]) -> DecodedResponse<Response<'_>> {
    let Some((line, consumed)) = response_line(input) else { return unfinished_response(input) };
    if line.len() < 2 || (line.len() > 2 && line[2] != b' ') {
        return if is_error(line) {
            DecodedResponse::Response { response: Response::Error(line), consumed }
        } else {
            DecodedResponse::Malformed
        };
    }
    let (code, rest) = line.split_at(2);
    let code = match code {
        b"HD" => Code::Hd,
        b"EN" => Code::En,
        b"NF" => Code::Nf,
        b"NS" => Code::Ns,
        b"EX" => Code::Ex,
        b"MN" => Code::Mn,
        b"ME" => Code::Me,
        b"VA" => {
            let Some((len, flags)) = first_word(rest) else { return DecodedResponse::Malformed };
            let Some(len) = parse_u32(len) else { return DecodedResponse::Malformed };
            return match response_value(&input[consumed..], len as usize) {
                Ok(value) => DecodedResponse::Response {
                    response: Response::Code { code: Code::Va, value: Some(value), flags: ResponseFlags(flags) },
                    consumed: consumed + value.len() + 2,
                },
                Err(other) => other,
            };
        }
        _ => return DecodedResponse::Malformed,
    };
    let response = Response::Code { code, value: None, flags: ResponseFlags(rest) };
    DecodedResponse::Response { response, consumed }
}

fn is_error(line: &[u8]) -> bool {
    line.starts_with(b"ERROR") || line.starts_with(b"CLIENT_ERROR ") || line.starts_with(b"SERVER_ERROR ")
}
