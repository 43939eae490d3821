//! The classic text commands (protocol.txt, from "Storage commands" on). Meta commands are in [`crate::meta`].

use memchr::{memchr, memrchr};

use crate::command::{
    Admin, Arithmetic, Command, Delete, Direction, Exptime, Get, KEY_MAX_LEN, Keys, Reply, Request, Store, StoreMode,
    TextReply,
};
use crate::decoded::{Decoded, LINE_MAX, Limits, RETRIEVAL_PART};
use crate::error::{EncodeError, Error};
use crate::line::{Body, Words, body, first_line, is_text_key, next_key, next_word, trim, value_len};
use crate::number::{parse_i32, parse_lenient_i32, parse_lenient_u32, parse_u32, parse_u64, push_number};
use crate::outcome::{Hit, Outcome};
use crate::response::{DecodedResponse, response_value, unfinished_response};

/// Ends the reply to a retrieval and a list of statistics.
pub(crate) const END: &[u8] = b"END\r\n";

/// Decodes the classic command at the front of `input`.
#[inline]
pub(crate) fn decode_request<'a>(input: &'a [u8], limits: &Limits) -> Decoded<'a> {
    let Some((line, consumed)) = first_line(input) else {
        return unfinished_line(input);
    };
    if consumed < 4 {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    }
    // The most frequent commands first, without a search for the end of the name.
    match line {
        [b'g', b'e', b't', b' ', rest @ ..] => return get(rest, consumed, false, false),
        [b's', b'e', b't', b' ', rest @ ..] => return store(rest, input, consumed, limits, StoreMode::Set, false),
        _ => {}
    }
    let (name, rest) = match memchr(b' ', line) {
        Some(space) => (&line[..space], &line[space + 1..]),
        None => (line, &b""[..]),
    };
    match name {
        // The two above without arguments.
        b"get" | b"set" => Decoded::refuse(Error::BAD_FORMAT, consumed),
        b"gets" => get(rest, consumed, true, false),
        b"add" => store(rest, input, consumed, limits, StoreMode::Add, false),
        b"replace" => store(rest, input, consumed, limits, StoreMode::Replace, false),
        b"append" => store(rest, input, consumed, limits, StoreMode::Append, false),
        b"prepend" => store(rest, input, consumed, limits, StoreMode::Prepend, false),
        b"cas" => store(rest, input, consumed, limits, StoreMode::Set, true),
        b"delete" => delete(rest, consumed),
        b"incr" => arithmetic(rest, consumed, Direction::Up),
        b"decr" => arithmetic(rest, consumed, Direction::Down),
        b"touch" => touch(rest, consumed),
        b"gat" => get(rest, consumed, false, true),
        b"gats" => get(rest, consumed, true, true),
        b"stats" => done(Command::Stats { group: trim(rest) }, TextReply::default(), consumed),
        b"version" => done(Command::Version, TextReply::default(), consumed),
        b"quit" => done(Command::Quit, TextReply::default(), consumed),
        b"watch" => {
            let arguments = trim(rest);
            done(Command::Admin(Admin::Words { name: b"watch", arguments }), TextReply::default(), consumed)
        }
        _ => operator_command(line, consumed),
    }
}

/// Returns the result for a line whose end has not arrived: it is incomplete, too long, or decoded in parts if it lists
/// keys.
#[cold]
fn unfinished_line(input: &[u8]) -> Decoded<'_> {
    if input.len() <= LINE_MAX {
        return Decoded::Incomplete { need: 1, key: None };
    }
    let Some((name, touches)) = [(&b"get "[..], false), (b"gets ", false), (b"gat ", true), (b"gats ", true)]
        .into_iter()
        .find(|(name, _)| input.starts_with(name))
    else {
        return Decoded::Close;
    };
    if input.len() <= RETRIEVAL_PART {
        return Decoded::Incomplete { need: 1, key: None };
    }
    // The last word may be incomplete. If it is longer than a key already, the line will be refused in any case.
    let Some(line_len) = input[name.len()..].iter().rposition(|&b| b == b' ') else { return Decoded::Close };
    let consumed = name.len() + line_len;
    let line = &input[name.len()..consumed];
    if input.len() - consumed > KEY_MAX_LEN + 2 {
        return Decoded::Close;
    }
    let mut repeat = name.len() - 1;
    if touches {
        let mut keys = line;
        next_word(&mut keys);
        repeat = consumed - keys.len();
    }
    match get(line, consumed, name.ends_with(b"s "), touches) {
        Decoded::Request { mut request, consumed } => {
            if let Reply::Text(reply) = &mut request.reply {
                reply.unfinished = true;
            }
            Decoded::Part { request, consumed, repeat }
        }
        // If the error were answered, the rest of the line would be read as commands.
        _ => Decoded::Close,
    }
}

#[inline]
fn done<'a>(command: Command<'a>, reply: TextReply, consumed: usize) -> Decoded<'a> {
    Decoded::Request { request: Request { command, reply: Reply::Text(reply) }, consumed }
}

/// Returns the form of the reply: `noreply` is recognised as the last word of a line, whatever stands before it.
#[inline]
fn noreply(line: &[u8]) -> TextReply {
    let mut line = line;
    while let [rest @ .., b' '] = line {
        line = rest;
    }
    let noreply = line.strip_suffix(b"noreply").is_some_and(|before| before.last().is_none_or(|&b| b == b' '));
    TextReply { noreply, ..TextReply::default() }
}

/// `get`, `gets`, `gat`, `gats`: `[exptime] key…`.
#[inline]
fn get(mut rest: &[u8], consumed: usize, with_cas: bool, with_exptime: bool) -> Decoded<'_> {
    let reply = TextReply { with_cas, ..TextReply::default() };
    let mut touch = None;
    let exptime = if with_exptime { next_word(&mut rest) } else { None };
    if rest.iter().all(|&b| b == b' ') {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    }
    if let Some(word) = exptime {
        match parse_i32(word) {
            Some(seconds) => touch = Some(Exptime(seconds.into())),
            None => return Decoded::refuse(Error::INVALID_EXPTIME, consumed),
        }
    }
    if !are_keys(rest) {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    }
    let keys = if memchr(b' ', rest).is_none() { Keys::One(rest) } else { Keys::Line(rest) };
    done(Command::Get(Get { touch, ..Get::new(keys) }), reply, consumed)
}

/// Returns whether every word is at most as long as a key. It looks backwards for a blank in each stretch of that
/// length, and so reads few bytes.
#[inline]
fn are_keys(mut line: &[u8]) -> bool {
    while line.len() > KEY_MAX_LEN {
        match memrchr(b' ', &line[..KEY_MAX_LEN + 1]) {
            Some(blank) => line = &line[blank + 1..],
            None => return false,
        }
    }
    true
}

/// `set`, `add`, `replace`, `append`, `prepend`, `cas`: `key flags exptime length [cas] [noreply]` and the value.
#[inline]
fn store<'a>(
    line: &'a [u8],
    input: &'a [u8],
    consumed: usize,
    limits: &Limits,
    mode: StoreMode,
    with_cas: bool,
) -> Decoded<'a> {
    let mut rest = line;
    let (Some(key), Some(flags), Some(exptime), Some(len)) =
        (next_key(&mut rest), next_word(&mut rest), next_word(&mut rest), next_word(&mut rest))
    else {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    };
    let Some(len) = value_len(len) else {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    };
    let reply = if rest.is_empty() { TextReply::default() } else { noreply(line) };
    let swallow = |error, outdated| Decoded::refuse_value(error, reply, consumed, len, outdated);
    if key.len() > KEY_MAX_LEN {
        return swallow(Error::BAD_FORMAT, None);
    }
    let (Some(flags), Some(exptime)) = (parse_lenient_u32(flags), parse_lenient_i32(exptime)) else {
        return swallow(Error::BAD_FORMAT, None);
    };
    let mut compare_cas = None;
    if with_cas {
        compare_cas = next_word(&mut rest).and_then(parse_u64);
        if compare_cas.is_none() {
            return swallow(Error::BAD_FORMAT, None);
        }
    }
    let outdated = (mode == StoreMode::Set && !with_cas).then_some(key);
    if limits.too_large(key.len(), flags, len) {
        return swallow(Error::TOO_LARGE, outdated);
    }
    let value = match body(input, consumed, len) {
        Body::Value(value) => value,
        Body::Incomplete(_) if limits.refuse_unfinished => return swallow(Error::OUT_OF_MEMORY, outdated),
        Body::Incomplete(need) => return Decoded::Incomplete { need, key: Some(key) },
        Body::Unended => return Decoded::refuse_quietly(Error::BAD_DATA_CHUNK, reply, consumed + len + 2),
    };
    let exptime = Exptime(exptime.into());
    let command = Command::Store(Store { flags, exptime, compare_cas, ..Store::new(mode, key, value) });
    done(command, reply, consumed + len + 2)
}

/// `delete key [anything]`.
fn delete(line: &[u8], consumed: usize) -> Decoded<'_> {
    let mut rest = line;
    let Some(key) = next_word(&mut rest) else {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    };
    let reply = noreply(line);
    if key.len() > KEY_MAX_LEN {
        return Decoded::refuse_quietly(Error::BAD_FORMAT, reply, consumed);
    }
    done(Command::Delete(Delete::new(key)), reply, consumed)
}

/// `incr`, `decr`: `key delta [noreply]`.
fn arithmetic(line: &[u8], consumed: usize, direction: Direction) -> Decoded<'_> {
    let mut rest = line;
    let (Some(key), Some(delta)) = (next_word(&mut rest), next_word(&mut rest)) else {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    };
    let reply = noreply(line);
    if key.len() > KEY_MAX_LEN {
        return Decoded::refuse_quietly(Error::BAD_FORMAT, reply, consumed);
    }
    let Some(delta) = parse_u64(delta) else {
        return Decoded::refuse_quietly(Error::INVALID_DELTA, reply, consumed);
    };
    done(Command::Arithmetic(Arithmetic::new(direction, key, delta)), reply, consumed)
}

/// `touch key exptime [noreply]`.
fn touch(line: &[u8], consumed: usize) -> Decoded<'_> {
    let mut rest = line;
    let (Some(key), Some(exptime)) = (next_word(&mut rest), next_word(&mut rest)) else {
        return Decoded::refuse(Error::BAD_FORMAT, consumed);
    };
    let reply = noreply(line);
    if key.len() > KEY_MAX_LEN {
        return Decoded::refuse_quietly(Error::BAD_FORMAT, reply, consumed);
    }
    let Some(exptime) = parse_i32(exptime) else {
        return Decoded::refuse_quietly(Error::INVALID_EXPTIME, reply, consumed);
    };
    done(Command::Touch { key, exptime: Exptime(exptime.into()) }, reply, consumed)
}

/// Decodes the commands that may follow blanks, and refuses unknown ones.
#[cold]
fn operator_command(line: &[u8], consumed: usize) -> Decoded<'_> {
    let mut rest = line;
    let Some(name) = next_word(&mut rest) else {
        return Decoded::refuse(Error::UnknownCommand, consumed);
    };
    let reply = noreply(line);
    match name {
        b"flush_all" => {
            let words = trim(rest);
            let mut at = None;
            if !words.is_empty() && words != b"noreply" {
                match next_word(&mut rest).and_then(parse_i32) {
                    Some(seconds) => at = Some(Exptime(seconds.into())),
                    None => return Decoded::refuse_quietly(Error::INVALID_EXPTIME, reply, consumed),
                }
            }
            done(Command::FlushAll { at }, reply, consumed)
        }
        b"verbosity" => match next_word(&mut rest).and_then(parse_u32) {
            Some(level) => done(Command::Verbosity { level }, reply, consumed),
            None => Decoded::refuse_quietly(Error::BAD_FORMAT, reply, consumed),
        },
        b"cache_memlimit" => match next_word(&mut rest).and_then(parse_u32) {
            Some(mebibytes) => {
                done(Command::Admin(Admin::CacheMemlimit { mebibytes: mebibytes.into() }), reply, consumed)
            }
            None => Decoded::refuse_quietly(Error::UnknownCommand, reply, consumed),
        },
        b"config" if Words(rest).next() == Some(b"get") && Words(rest).count() == 2 => {
            let key = Words(rest).nth(1).unwrap_or_default();
            done(Command::Admin(Admin::Config { key }), TextReply::default(), consumed)
        }
        b"lru_crawler" | b"lru" | b"slabs" | b"shutdown" | b"refresh_certs" | b"debugtime" | b"config" => {
            admin(name, rest, consumed)
        }
        _ => {
            let last = line.rsplit(|&b| b == b' ').find(|word| !word.is_empty()).unwrap_or(b"");
            if !trim(rest).is_empty() && last.starts_with(b"HTTP/") {
                // A web page can make a browser send an HTTP request here; commands in its body must not be executed.
                return Decoded::Close;
            }
            Decoded::refuse_quietly(Error::UnknownCommand, reply, consumed)
        }
    }
}

fn admin<'a>(name: &'a [u8], rest: &'a [u8], consumed: usize) -> Decoded<'a> {
    let mut arguments = trim(rest);
    let reply = noreply(arguments);
    if reply.noreply {
        arguments = trim(&arguments[..arguments.len() - b"noreply".len()]);
    }
    done(Command::Admin(Admin::Words { name, arguments }), reply, consumed)
}

/// Appends a command as a classic line, with the value of a storage command.
pub(crate) fn encode_request(command: &Command<'_>, reply: TextReply, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match command {
        Command::Get(get) => encode_get(get, reply, out)?,
        Command::Store(store) => encode_store(store, out)?,
        Command::Delete(delete) => encode_delete(delete, out)?,
        Command::Arithmetic(arithmetic) => encode_arithmetic(arithmetic, out)?,
        Command::Touch { key, exptime } => {
            push_command(b"touch", key, out)?;
            push_argument(exptime.0, out);
        }
        Command::Debug { key } => push_command(b"me", key, out)?,
        Command::Noop => out.extend_from_slice(b"mn"),
        Command::FlushAll { at } => {
            out.extend_from_slice(b"flush_all");
            if let Some(at) = at {
                push_argument(at.0, out);
            }
        }
        Command::Version => out.extend_from_slice(b"version"),
        Command::Verbosity { level } => {
            out.extend_from_slice(b"verbosity");
            push_argument(*level, out);
        }
        Command::Stats { group } => push_words(b"stats", group, out)?,
        Command::Quit => {
            out.extend_from_slice(b"quit\r\n");
            return Ok(());
        }
        Command::Admin(Admin::CacheMemlimit { mebibytes }) => {
            out.extend_from_slice(b"cache_memlimit");
            push_argument(*mebibytes, out);
        }
        Command::Admin(Admin::Config { key }) => {
            out.extend_from_slice(b"config get");
            push_key(key, out)?;
        }
        Command::Admin(Admin::Words { name, arguments }) => push_words(name, arguments, out)?,
        Command::Sasl(_) => return Err(EncodeError::Command),
    }
    if reply.noreply {
        out.extend_from_slice(b" noreply");
    }
    out.extend_from_slice(b"\r\n");
    if let Command::Store(store) = command {
        out.extend_from_slice(store.value);
        out.extend_from_slice(b"\r\n");
    }
    Ok(())
}

fn encode_get(get: &Get<'_>, reply: TextReply, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let Get {
        keys,
        touch,
        vivify: None,
        recache: None,
        touch_vivified: _,
        recache_touched: _,
        set_cas: None,
        unless_cas: None,
        want_value: true,
        no_bump: false,
    } = *get
    else {
        return Err(EncodeError::Command);
    };
    out.extend_from_slice(match (touch, reply.with_cas) {
        (None, false) => b"get",
        (None, true) => b"gets",
        (Some(_), false) => b"gat",
        (Some(_), true) => b"gats",
    });
    if let Some(exptime) = touch {
        push_argument(exptime.0, out);
    }
    keys.iter().try_for_each(|key| push_key(key, out))
}

/// Appends a storage line without `noreply` and its end.
fn encode_store(store: &Store<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let Store { key, value, flags, exptime, mode, compare_cas, set_cas: None, invalidate: false, vivify: None } =
        *store
    else {
        return Err(EncodeError::Command);
    };
    let name: &[u8] = match (mode, compare_cas) {
        (StoreMode::Set, None) => b"set",
        (StoreMode::Set, Some(_)) => b"cas",
        (StoreMode::Add, None) => b"add",
        (StoreMode::Replace, None) => b"replace",
        (StoreMode::Append, None) => b"append",
        (StoreMode::Prepend, None) => b"prepend",
        (_, Some(_)) => return Err(EncodeError::Command),
    };
    push_command(name, key, out)?;
    push_argument(flags, out);
    push_argument(exptime.0, out);
    push_argument(value.len(), out);
    if let Some(cas) = compare_cas {
        push_argument(cas, out);
    }
    Ok(())
}

fn encode_delete(delete: &Delete<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let Delete { key, compare_cas: None, set_cas: None, invalidate: false, touch: _, remove_value: false, flags: _ } =
        *delete
    else {
        return Err(EncodeError::Command);
    };
    push_command(b"delete", key, out)
}

fn encode_arithmetic(arithmetic: &Arithmetic<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let Arithmetic {
        key,
        delta,
        direction,
        vivify: None,
        initial: _,
        touch: None,
        touch_vivified: _,
        compare_cas: None,
        set_cas: None,
    } = *arithmetic
    else {
        return Err(EncodeError::Command);
    };
    let name: &[u8] = if direction == Direction::Up { b"incr" } else { b"decr" };
    push_command(name, key, out)?;
    push_argument(delta, out);
    Ok(())
}

fn push_command(name: &[u8], key: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    out.extend_from_slice(name);
    push_key(key, out)
}

fn push_key(key: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if key.is_empty() || key.len() > KEY_MAX_LEN || !is_text_key(key) {
        return Err(EncodeError::Key);
    }
    out.push(b' ');
    out.extend_from_slice(key);
    Ok(())
}

fn push_argument(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.push(b' ');
    push_number(out, number);
}

/// Appends a command with its arguments as they are. It refuses a line end in them, which would begin another command.
fn push_words(name: &[u8], arguments: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if memchr(b'\n', name).or(memchr(b'\n', arguments)).is_some() {
        return Err(EncodeError::Command);
    }
    out.extend_from_slice(name);
    if !arguments.is_empty() {
        out.push(b' ');
        out.extend_from_slice(arguments);
    }
    Ok(())
}

/// One line of a server's output, with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response<'a> {
    /// An item of a retrieval.
    Value {
        /// The item's key.
        key: &'a [u8],
        /// The client flags.
        flags: u32,
        /// The CAS unique, if the line has one (`gets`, `gats`).
        cas: Option<u64>,
        /// The value.
        value: &'a [u8],
    },
    /// The name and the value of a statistic.
    Stat(&'a [u8], &'a [u8]),
    /// Any other line without its end: `STORED`, `END`, `NOT_FOUND`, a number, an error.
    Line(&'a [u8]),
}

/// Decodes the line, with its value, at the front of the response to a classic command.
pub fn decode_response(input: &[u8]) -> DecodedResponse<Response<'_>> {
    let Some((line, consumed)) = first_line(input) else { return unfinished_response(input) };
    if let Some(rest) = line.strip_prefix(b"VALUE ") {
        let mut rest = rest;
        let (Some(key), Some(flags), Some(len)) = (next_word(&mut rest), next_word(&mut rest), next_word(&mut rest))
        else {
            return DecodedResponse::Malformed;
        };
        let (Some(flags), Some(len)) = (parse_u32(flags), parse_u32(len)) else { return DecodedResponse::Malformed };
        let cas = match next_word(&mut rest).map(parse_u64) {
            None => None,
            Some(Some(cas)) if next_word(&mut rest).is_none() => Some(cas),
            Some(_) => return DecodedResponse::Malformed,
        };
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
            let name_len = memchr(b' ', rest).unwrap_or(rest.len());
            Response::Stat(&rest[..name_len], rest[name_len..].trim_ascii_start())
        }
        None => Response::Line(line),
    };
    DecodedResponse::Response { response, consumed }
}

impl TextReply {
    #[inline]
    pub(crate) fn outcome(&self, outcome: &Outcome<'_>, out: &mut Vec<u8>) {
        if !self.noreply {
            push_outcome(outcome, out);
        }
    }

    #[inline]
    pub(crate) fn hit(&self, hit: &Hit<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"VALUE ");
        out.extend_from_slice(hit.key);
        out.push(b' ');
        push_number(out, hit.flags);
        out.push(b' ');
        push_number(out, hit.value_len);
        if self.with_cas {
            out.push(b' ');
            push_number(out, hit.cas);
        }
        out.extend_from_slice(b"\r\n");
    }
}

pub(crate) fn push_outcome(outcome: &Outcome<'_>, out: &mut Vec<u8>) {
    let line: &[u8] = match outcome {
        Outcome::Stored { .. } => b"STORED\r\n",
        Outcome::NotStored => b"NOT_STORED\r\n",
        Outcome::Exists => b"EXISTS\r\n",
        Outcome::NotFound => b"NOT_FOUND\r\n",
        Outcome::Miss => END,
        Outcome::Deleted => b"DELETED\r\n",
        Outcome::Touched => b"TOUCHED\r\n",
        Outcome::Ok => b"OK\r\n",
        Outcome::Noop => b"MN\r\n",
        Outcome::Number { value, .. } => {
            push_number(out, *value);
            b"\r\n"
        }
        Outcome::Version(version) => {
            out.extend_from_slice(b"VERSION ");
            out.extend_from_slice(version.as_bytes());
            b"\r\n"
        }
        Outcome::Debug(line) | Outcome::Line(line) => {
            out.extend_from_slice(line.as_bytes());
            b"\r\n"
        }
        Outcome::Reset => b"RESET\r\n",
        Outcome::Quit => return,
        Outcome::Error(error) => return error.encode(out),
    };
    out.extend_from_slice(line);
}

/// Appends the line of one statistic.
pub(crate) fn statistic(name: &str, value: &str, out: &mut Vec<u8>) {
    for part in ["STAT ", name, " ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}
