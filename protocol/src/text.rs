//! Text lines, protocol.txt: the classic commands. Lines that begin with a meta command go to [`crate::meta`].

use crate::number::{parse_i32, parse_u32, parse_u64};
use crate::{
    Admin, Arithmetic, Command, Decoded, Delete, Direction, Error, Exptime, Get, KEY_MAX_LEN, Keys, KeysIter, LINE_MAX,
    Limits, RETRIEVAL_LINE_MAX, Reply, Request, Scratch, Store, StoreMode, TextReply, meta, push_number,
};

/// See [`crate::decode`].
#[inline]
pub fn decode_request<'a>(input: &'a [u8], limits: &Limits, scratch: &'a mut Scratch) -> Decoded<'a> {
    let Some(end) = memchr::memchr(b'\n', input) else { return unfinished_line(input) };
    let consumed = end + 1;
    let line = match &input[..end] {
        [line @ .., b'\r'] => line,
        line => line,
    };
    let body = &input[consumed..];
    match line {
        [b'g', b'e', b't', b' ', keys @ ..] => get(keys, None, TextReply::default(), consumed),
        [b'm', kind, rest @ ..] if rest.is_empty() || rest[0] == b' ' => {
            meta::decode_line(*kind, rest, body, consumed, limits, scratch)
        }
        _ => classic(line, body, consumed, limits),
    }
}

/// A line without an end may be on its way, may be a long list of keys, or is not ours.
fn unfinished_line<'a>(input: &[u8]) -> Decoded<'a> {
    let first = input.iter().position(|&byte| byte != b' ').unwrap_or(input.len());
    let start = &input[first..];
    let is_retrieval = [&b"get "[..], b"gets ", b"gat ", b"gats "].iter().any(|name| start.starts_with(name));
    let limit = if is_retrieval { RETRIEVAL_LINE_MAX } else { LINE_MAX };
    if input.len() > limit { Decoded::Close } else { Decoded::Incomplete { need: 1 } }
}

pub(crate) fn refuse<'a>(error: Error, consumed: usize) -> Decoded<'a> {
    Decoded::Error { error, noreply: false, consumed, swallow: 0, outdated: None }
}

/// The words of a line.
fn words(line: &[u8]) -> KeysIter<'_> {
    Keys::Line(line).iter()
}

/// A line's words beyond its name, and whether the last of them is `noreply`.
struct Arguments<'a> {
    words: [&'a [u8]; 6],
    count: usize,
    noreply: bool,
}

impl<'a> Arguments<'a> {
    fn of(line: &'a [u8]) -> Self {
        let mut arguments = Arguments { words: [b""; 6], count: 0, noreply: false };
        let mut last: &[u8] = b"";
        for word in words(line) {
            if arguments.count < arguments.words.len() {
                arguments.words[arguments.count] = word;
            }
            arguments.count += 1;
            last = word;
        }
        arguments.noreply = last == b"noreply";
        arguments
    }
}

fn classic<'a>(line: &'a [u8], body: &'a [u8], consumed: usize, limits: &Limits) -> Decoded<'a> {
    let name_len = memchr::memchr(b' ', line).unwrap_or(line.len());
    let (name, rest) = line.split_at(name_len);
    let reply = |noreply| Reply::Text(TextReply { noreply, with_cas: false });
    let done = |command, noreply| Decoded::Request { request: Request { command, reply: reply(noreply) }, consumed };
    match name {
        b"set" => store(StoreMode::Set, false, rest, body, consumed, limits),
        b"add" => store(StoreMode::Add, false, rest, body, consumed, limits),
        b"replace" => store(StoreMode::Replace, false, rest, body, consumed, limits),
        b"append" => store(StoreMode::Append, false, rest, body, consumed, limits),
        b"prepend" => store(StoreMode::Prepend, false, rest, body, consumed, limits),
        b"cas" => store(StoreMode::Set, true, rest, body, consumed, limits),
        b"get" => refuse(Error::BAD_FORMAT, consumed),
        b"gets" => get(rest, None, TextReply { with_cas: true, noreply: false }, consumed),
        b"gat" | b"gats" => get_and_touch(rest, name == b"gats", consumed),
        b"delete" | b"incr" | b"decr" | b"touch" => keyed(name, rest, consumed),
        b"version" => done(Command::Version, false),
        b"quit" => done(Command::Quit, true),
        b"stats" => done(Command::Stats { group: rest.trim_ascii() }, false),
        b"flush_all" => flush_all(rest, consumed),
        b"verbosity" => {
            let arguments = Arguments::of(rest);
            match parse_u32(arguments.words[0]) {
                Some(level) => done(Command::Verbosity { level }, arguments.noreply),
                None => Decoded::Error {
                    error: Error::BAD_FORMAT,
                    noreply: arguments.noreply,
                    consumed,
                    swallow: 0,
                    outdated: None,
                },
            }
        }
        b"cache_memlimit" => {
            let arguments = Arguments::of(rest);
            match parse_u64(arguments.words[0]) {
                Some(mebibytes) => done(Command::Admin(Admin::CacheMemlimit { mebibytes }), arguments.noreply),
                None => refuse(Error::BAD_FORMAT, consumed),
            }
        }
        b"lru_crawler" | b"lru" | b"slabs" | b"watch" | b"shutdown" | b"refresh_certs" | b"debugtime" => {
            done(Command::Admin(Admin::Words { name, arguments: rest.trim_ascii() }), false)
        }
        // A browser sent here by a web page must not go on to commands in its body.
        _ if words(rest).last().is_some_and(|word| word.starts_with(b"HTTP/")) => Decoded::Close,
        _ => Decoded::Error {
            error: Error::UnknownCommand,
            noreply: Arguments::of(rest).noreply,
            consumed,
            swallow: 0,
            outdated: None,
        },
    }
}

#[inline]
fn get<'a>(keys: &'a [u8], touch: Option<Exptime>, reply: TextReply, consumed: usize) -> Decoded<'a> {
    let keys = if memchr::memchr(b' ', keys).is_none() && !keys.is_empty() && keys.len() <= KEY_MAX_LEN {
        Keys::One(keys)
    } else {
        let mut count = 0;
        for key in words(keys) {
            count += 1;
            if key.len() > KEY_MAX_LEN {
                return refuse(Error::BAD_FORMAT, consumed);
            }
        }
        if count == 0 {
            return refuse(Error::BAD_FORMAT, consumed);
        }
        Keys::Line(keys)
    };
    let get = Get {
        keys,
        touch,
        vivify: None,
        recache: None,
        set_cas: None,
        unless_cas: None,
        want_value: true,
        no_bump: false,
    };
    Decoded::Request { request: Request { command: Command::Get(get), reply: Reply::Text(reply) }, consumed }
}

fn get_and_touch(rest: &[u8], with_cas: bool, consumed: usize) -> Decoded<'_> {
    let mut arguments = words(rest);
    let (Some(exptime), Some(_)) = (arguments.next(), arguments.next()) else {
        return refuse(Error::BAD_FORMAT, consumed);
    };
    let Some(exptime) = parse_i32(exptime) else { return refuse(Error::INVALID_EXPTIME, consumed) };
    let after_blanks = rest.trim_ascii_start();
    let keys = after_blanks[memchr::memchr(b' ', after_blanks).unwrap_or(0)..].trim_ascii_start();
    get(keys, Some(Exptime(exptime.into())), TextReply { with_cas, noreply: false }, consumed)
}

fn store<'a>(
    mode: StoreMode,
    with_cas: bool,
    rest: &'a [u8],
    body: &'a [u8],
    consumed: usize,
    limits: &Limits,
) -> Decoded<'a> {
    let Arguments { words, count, noreply } = Arguments::of(rest);
    let [key, flags, exptime, len, cas, _] = words;
    let Some(len) = (if count >= 4 { parse_i32(len) } else { None }).filter(|&len| (0..i32::MAX - 2).contains(&len))
    else {
        return refuse(Error::BAD_FORMAT, consumed);
    };
    let len = len as usize;
    let swallow = |error| Decoded::Error { error, noreply, consumed, swallow: len + 2, outdated: None };
    if key.len() > KEY_MAX_LEN {
        return swallow(Error::BAD_FORMAT);
    }
    let (Some(flags), Some(exptime)) = (parse_u32(flags), parse_i32(exptime)) else {
        return swallow(Error::BAD_FORMAT);
    };
    let compare_cas = if with_cas {
        let Some(cas) = parse_u64(cas) else { return swallow(Error::BAD_FORMAT) };
        Some(cas)
    } else {
        None
    };
    let exptime = Exptime(exptime.into());
    let store =
        Store { key, value: b"", flags, exptime, mode, compare_cas, set_cas: None, invalidate: false, vivify: None };
    with_body(store, Reply::Text(TextReply { noreply, with_cas: false }), len, body, consumed, limits)
}

/// Completes a storage command whose line is read with the data block behind it.
pub(crate) fn with_body<'a>(
    store: Store<'a>,
    reply: Reply<'a>,
    len: usize,
    body: &'a [u8],
    consumed: usize,
    limits: &Limits,
) -> Decoded<'a> {
    let noreply = matches!(reply, Reply::Text(TextReply { noreply: true, .. }));
    if len > limits.value_max {
        let outdated = matches!(store.mode, StoreMode::Set).then_some(store.key);
        return Decoded::Error { error: Error::TOO_LARGE, noreply, consumed, swallow: len + 2, outdated };
    }
    if body.len() < len + 2 {
        return Decoded::Incomplete { need: len + 2 - body.len() };
    }
    let consumed = consumed + len + 2;
    if &body[len..len + 2] != b"\r\n" {
        return Decoded::Error { error: Error::BAD_DATA_CHUNK, noreply, consumed, swallow: 0, outdated: None };
    }
    let command = Command::Store(Store { value: &body[..len], ..store });
    Decoded::Request { request: Request { command, reply }, consumed }
}

/// `delete <key>`, `incr|decr <key> <delta>`, `touch <key> <exptime>`.
fn keyed<'a>(name: &[u8], rest: &'a [u8], consumed: usize) -> Decoded<'a> {
    let Arguments { words, count, noreply } = Arguments::of(rest);
    let [key, argument, ..] = words;
    let refuse_quietly = |error| Decoded::Error { error, noreply, consumed, swallow: 0, outdated: None };
    if count < (if name == b"delete" { 1 } else { 2 }) {
        return refuse(Error::BAD_FORMAT, consumed);
    }
    if key.len() > KEY_MAX_LEN {
        return refuse_quietly(Error::BAD_FORMAT);
    }
    let command = match name {
        b"delete" => Command::Delete(Delete {
            key,
            compare_cas: None,
            set_cas: None,
            invalidate: false,
            touch: None,
            remove_value: false,
        }),
        b"touch" => {
            let Some(exptime) = parse_i32(argument) else { return refuse_quietly(Error::INVALID_EXPTIME) };
            Command::Touch { key, exptime: Exptime(exptime.into()) }
        }
        _ => {
            let Some(delta) = parse_u64(argument) else { return refuse_quietly(Error::INVALID_DELTA) };
            Command::Arithmetic(Arithmetic {
                key,
                delta,
                direction: if name == b"incr" { Direction::Up } else { Direction::Down },
                vivify: None,
                initial: 0,
                touch: None,
                compare_cas: None,
                set_cas: None,
            })
        }
    };
    let reply = Reply::Text(TextReply { noreply, with_cas: false });
    Decoded::Request { request: Request { command, reply }, consumed }
}

fn flush_all(rest: &[u8], consumed: usize) -> Decoded<'_> {
    let Arguments { words, count, noreply } = Arguments::of(rest);
    let at = if count == usize::from(noreply) {
        None
    } else {
        let Some(delay) = parse_i32(words[0]) else {
            return Decoded::Error { error: Error::INVALID_EXPTIME, noreply, consumed, swallow: 0, outdated: None };
        };
        Some(Exptime(delay.into()))
    };
    let reply = Reply::Text(TextReply { noreply, with_cas: false });
    Decoded::Request { request: Request { command: Command::FlushAll { at }, reply }, consumed }
}

/// Appends a command as a client sends it.
pub(crate) fn encode_request(command: &Command<'_>, reply: TextReply, out: &mut Vec<u8>) {
    let word = |out: &mut Vec<u8>, word: &[u8]| {
        out.push(b' ');
        out.extend_from_slice(word);
    };
    let number = |out: &mut Vec<u8>, value: i128| {
        out.push(b' ');
        push_number(out, value);
    };
    match command {
        Command::Get(get) => {
            out.extend_from_slice(match (get.touch, reply.with_cas) {
                (None, false) => b"get",
                (None, true) => b"gets",
                (Some(_), false) => b"gat",
                (Some(_), true) => b"gats",
            });
            if let Some(exptime) = get.touch {
                number(out, exptime.0.into());
            }
            for key in get.keys.iter() {
                word(out, key);
            }
        }
        Command::Store(store) => {
            out.extend_from_slice(match (store.mode, store.compare_cas) {
                (StoreMode::Set, None) => b"set",
                (StoreMode::Set, Some(_)) => b"cas",
                (StoreMode::Add, _) => b"add",
                (StoreMode::Replace, _) => b"replace",
                (StoreMode::Append, _) => b"append",
                (StoreMode::Prepend, _) => b"prepend",
            });
            word(out, store.key);
            number(out, store.flags.into());
            number(out, store.exptime.0.into());
            number(out, store.value.len() as i128);
            if let (StoreMode::Set, Some(cas)) = (store.mode, store.compare_cas) {
                number(out, cas.into());
            }
        }
        Command::Delete(delete) => {
            out.extend_from_slice(b"delete");
            word(out, delete.key);
        }
        Command::Arithmetic(arithmetic) => {
            out.extend_from_slice(match arithmetic.direction {
                Direction::Up => b"incr",
                Direction::Down => b"decr",
            });
            word(out, arithmetic.key);
            number(out, arithmetic.delta.into());
        }
        Command::Touch { key, exptime } => {
            out.extend_from_slice(b"touch");
            word(out, key);
            number(out, exptime.0.into());
        }
        Command::FlushAll { at } => {
            out.extend_from_slice(b"flush_all");
            if let Some(at) = at {
                number(out, at.0.into());
            }
        }
        Command::Verbosity { level } => {
            out.extend_from_slice(b"verbosity");
            number(out, (*level).into());
        }
        Command::Stats { group } => {
            out.extend_from_slice(b"stats");
            if !group.is_empty() {
                word(out, group);
            }
        }
        Command::Version => out.extend_from_slice(b"version"),
        Command::Quit => return out.extend_from_slice(b"quit\r\n"),
        Command::Noop => out.extend_from_slice(b"mn"),
        Command::Debug { key } => {
            out.extend_from_slice(b"me");
            word(out, key);
        }
        Command::Admin(Admin::CacheMemlimit { mebibytes }) => {
            out.extend_from_slice(b"cache_memlimit");
            number(out, (*mebibytes).into());
        }
        Command::Admin(Admin::Words { name, arguments }) => {
            out.extend_from_slice(name);
            if !arguments.is_empty() {
                word(out, arguments);
            }
        }
        Command::Sasl(_) => {}
    }
    if reply.noreply {
        out.extend_from_slice(b" noreply");
    }
    out.extend_from_slice(b"\r\n");
    if let Command::Store(store) = command {
        out.extend_from_slice(store.value);
        out.extend_from_slice(b"\r\n");
    }
}

/// One line of a server's answer, with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response<'a> {
    /// An item of a `get`.
    Value {
        /// The item's key.
        key: &'a [u8],
        /// The client's flags.
        flags: u32,
        /// The CAS unique, where asked for.
        cas: Option<u64>,
        /// The value.
        value: &'a [u8],
    },
    /// A statistic: name and value.
    Stat(&'a [u8], &'a [u8]),
    /// Any other line, without its end: `STORED`, `END`, `NOT_FOUND`, a number, an error.
    Line(&'a [u8]),
}

/// What the front of a server's answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodedResponse<R> {
    /// At least `need` more bytes must come.
    Incomplete {
        /// How many more bytes at least.
        need: usize,
    },
    /// One response of `consumed` bytes.
    Response {
        /// The response.
        response: R,
        /// Bytes it took.
        consumed: usize,
    },
    /// No memcache server sends this: the connection is of no more use.
    Malformed,
}

/// Decodes the response line (and its value) at the front of a classic command's answer.
pub fn decode_response(input: &[u8]) -> DecodedResponse<Response<'_>> {
    let Some((line, consumed)) = response_line(input) else { return unfinished_response(input) };
    if let Some(rest) = line.strip_prefix(b"VALUE ") {
        let Arguments { words: [key, flags, len, cas, ..], count, .. } = Arguments::of(rest);
        let (Some(flags), Some(len), 3..=4) = (parse_u32(flags), parse_u32(len), count) else {
            return DecodedResponse::Malformed;
        };
        let cas = if count == 4 { parse_u64(cas) } else { None };
        return match response_value(&input[consumed..], len as usize) {
            Ok(value) => DecodedResponse::Response {
                response: Response::Value { key, flags, cas, value },
                consumed: consumed + value.len() + 2,
            },
            Err(other) => other,
        };
    }
    let response = match line.strip_prefix(b"STAT ") {
        Some(rest) => {
            let name_len = memchr::memchr(b' ', rest).unwrap_or(rest.len());
            Response::Stat(&rest[..name_len], rest[name_len..].trim_ascii_start())
        }
        None => Response::Line(line),
    };
    DecodedResponse::Response { response, consumed }
}

/// The first line of a response without its end, and its length with it.
pub(crate) fn response_line(input: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr::memchr(b'\n', input)?;
    let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
    Some((line, end + 1))
}

/// Response lines are short; one that does not end is no memcache server's.
pub(crate) fn unfinished_response<R>(input: &[u8]) -> DecodedResponse<R> {
    if input.len() > LINE_MAX { DecodedResponse::Malformed } else { DecodedResponse::Incomplete { need: 1 } }
}

/// The value of `len` bytes at the front of `input`, if it is whole and ends in a line end.
pub(crate) fn response_value<R>(input: &[u8], len: usize) -> Result<&[u8], DecodedResponse<R>> {
    if input.len() < len + 2 {
        return Err(DecodedResponse::Incomplete { need: len + 2 - input.len() });
    }
    if &input[len..len + 2] != b"\r\n" {
        return Err(DecodedResponse::Malformed);
    }
    Ok(&input[..len])
}
