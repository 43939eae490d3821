//! What a command came to, and how each protocol writes it.

use crate::{Error, MetaCommand, MetaReply, Reply, TextReply, push_number};

/// An item that was found, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit<'a> {
    /// The item's key.
    pub key: &'a [u8],
    /// The client's flags.
    pub flags: u32,
    /// The item's CAS unique.
    pub cas: u64,
    /// Length of the value in bytes.
    pub value_len: usize,
    /// Whether the value follows.
    pub with_value: bool,
    /// Seconds until the item expires; `None` is never.
    pub ttl: Option<u32>,
    /// The same before this command changed it.
    pub old_ttl: Option<u32>,
    /// Seconds since the item was last used, before this command.
    pub since_access: u32,
    /// Whether it had been read before this command.
    pub fetched: bool,
    /// This caller has won the right to recache.
    pub won: bool,
    /// Another caller had won it before.
    pub already_won: bool,
    /// The item is stale.
    pub stale: bool,
}

/// What a command other than a read came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The item was stored: its new CAS unique and size of its value in bytes.
    Stored {
        /// CAS unique.
        cas: u64,
        /// Bytes of the value.
        value_len: usize,
    },
    /// The condition of the command did not hold.
    NotStored,
    /// The CAS unique did not match.
    Exists,
    /// There is no such item.
    NotFound,
    /// A read found nothing.
    Miss,
    /// The item was removed or marked stale.
    Deleted,
    /// The expiration time was changed.
    Touched,
    /// Arithmetic's new value.
    Number {
        /// The value.
        value: u64,
        /// The item's CAS unique.
        cas: u64,
        /// Seconds until the item expires; `None` is never.
        ttl: Option<u32>,
        /// The same before this command changed it.
        old_ttl: Option<u32>,
    },
    /// Done.
    Ok,
    /// Statistics were set to zero.
    Reset,
    /// Answer to a no-op.
    Noop,
    /// The connection ends; only binary answers.
    Quit,
    /// A line of the server's own, without its end.
    Line(&'a str),
    /// The server's version.
    Version(&'a str),
    /// An item's metadata as one line (`me`).
    Debug(&'a str),
    /// It was refused.
    Error(Error),
}

impl Reply<'_> {
    /// Appends what is sent for `outcome`; nothing where the client asked for quiet.
    #[inline]
    pub fn outcome(&self, outcome: &Outcome<'_>, out: &mut Vec<u8>) {
        match self {
            Reply::Text(reply) => {
                if !reply.noreply {
                    text_outcome(outcome, out);
                }
            }
            Reply::Meta(reply) => meta_outcome(reply, outcome, out),
            Reply::Binary(reply) => reply.outcome(outcome, out),
        }
    }

    /// Appends what goes before the value of a hit (all there is to send where no value is wanted).
    #[inline]
    pub fn hit(&self, hit: &Hit<'_>, out: &mut Vec<u8>) {
        match self {
            Reply::Text(reply) => {
                out.extend_from_slice(b"VALUE ");
                out.extend_from_slice(hit.key);
                out.push(b' ');
                push_number(out, hit.flags);
                out.push(b' ');
                push_number(out, hit.value_len);
                if reply.with_cas {
                    out.push(b' ');
                    push_number(out, hit.cas);
                }
                out.extend_from_slice(b"\r\n");
            }
            Reply::Meta(reply) => meta_hit(reply, hit, out),
            Reply::Binary(reply) => reply.hit(hit, out),
        }
    }

    /// What goes behind a hit's value.
    #[inline]
    pub fn after_value(&self) -> &'static [u8] {
        match self {
            Reply::Text(_) | Reply::Meta(_) => b"\r\n",
            Reply::Binary(_) => b"",
        }
    }

    /// Appends the answer to a read of one key that found nothing.
    #[inline]
    pub fn miss(&self, key: &[u8], out: &mut Vec<u8>) {
        match self {
            Reply::Text(_) => {}
            Reply::Meta(reply) => meta_outcome(reply, &Outcome::Miss, out),
            Reply::Binary(reply) => reply.miss(key, out),
        }
    }

    /// Appends one statistic.
    pub fn statistic(&self, name: &str, value: &str, out: &mut Vec<u8>) {
        match self {
            Reply::Binary(reply) => reply.statistic(name.as_bytes(), value.as_bytes(), out),
            Reply::Text(_) | Reply::Meta(_) => {
                for part in ["STAT ", name, " ", value, "\r\n"] {
                    out.extend_from_slice(part.as_bytes());
                }
            }
        }
    }

    /// Appends what closes a list of statistics.
    pub fn end_of_statistics(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Binary(reply) => reply.statistic(b"", b"", out),
            Reply::Text(_) | Reply::Meta(_) => out.extend_from_slice(b"END\r\n"),
        }
    }

    /// Appends what closes a read command.
    #[inline]
    pub fn end_of_get(&self, out: &mut Vec<u8>) {
        if let Reply::Text(TextReply { unfinished: false, .. }) = self {
            out.extend_from_slice(b"END\r\n");
        }
    }
}

fn text_outcome(outcome: &Outcome<'_>, out: &mut Vec<u8>) {
    let line: &[u8] = match outcome {
        Outcome::Stored { .. } => b"STORED\r\n",
        Outcome::NotStored => b"NOT_STORED\r\n",
        Outcome::Exists => b"EXISTS\r\n",
        Outcome::NotFound => b"NOT_FOUND\r\n",
        Outcome::Miss => b"END\r\n",
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

/// Whether `q` holds an answer back: the nominal one of each command (protocol.txt, "Meta Get" and following, flag q).
fn is_nominal(command: MetaCommand, outcome: &Outcome<'_>) -> bool {
    match command {
        MetaCommand::Get => matches!(outcome, Outcome::Miss),
        MetaCommand::Set => matches!(outcome, Outcome::Stored { .. }),
        MetaCommand::Delete => matches!(outcome, Outcome::Deleted),
        MetaCommand::Arithmetic => matches!(outcome, Outcome::Number { .. }),
        MetaCommand::Noop | MetaCommand::Debug => false,
    }
}

fn meta_outcome(reply: &MetaReply<'_>, outcome: &Outcome<'_>, out: &mut Vec<u8>) {
    if reply.quiet && is_nominal(reply.command, outcome) {
        return;
    }
    let wants_number = reply.words().any(|word| word == b"v");
    match outcome {
        Outcome::Error(error) => return error.encode(out),
        Outcome::Noop => return out.extend_from_slice(b"MN\r\n"),
        Outcome::Debug(metadata) => {
            out.extend_from_slice(b"ME ");
            out.extend_from_slice(reply.key);
            out.push(b' ');
            out.extend_from_slice(metadata.as_bytes());
            return out.extend_from_slice(b"\r\n");
        }
        Outcome::Miss => {
            out.extend_from_slice(b"EN");
            if reply.command == MetaCommand::Debug {
                return out.extend_from_slice(b"\r\n");
            }
        }
        Outcome::NotFound => out.extend_from_slice(b"NF"),
        Outcome::NotStored => out.extend_from_slice(b"NS"),
        Outcome::Exists => out.extend_from_slice(b"EX"),
        Outcome::Line(_) | Outcome::Version(_) | Outcome::Quit => return text_outcome(outcome, out),
        Outcome::Number { value, .. } if wants_number => {
            out.extend_from_slice(b"VA ");
            push_number(out, itoa::Buffer::new().format(*value).len());
        }
        _ => out.extend_from_slice(b"HD"),
    }
    let mut ttl = if let Outcome::Number { old_ttl, .. } = outcome { *old_ttl } else { None };
    for word in reply.words() {
        match (word[0], outcome) {
            (b'O', _) => push_word(out, word),
            (b'k', _) => push_key(reply, out),
            (b'c', Outcome::Stored { cas, .. } | Outcome::Number { cas, .. }) => push_flag(out, b'c', *cas),
            (b'c', _) if reply.command == MetaCommand::Set => push_flag(out, b'c', 0u64),
            (b's', Outcome::Stored { value_len, .. }) => push_flag(out, b's', *value_len),
            (b's', _) if reply.command == MetaCommand::Set => push_flag(out, b's', reply.value_len),
            (b'T' | b'N', Outcome::Number { ttl: new, .. }) => ttl = *new,
            (b't', Outcome::Number { .. }) => push_ttl(out, ttl),
            _ => {}
        }
    }
    if let (Outcome::Number { value, .. }, true) = (outcome, wants_number) {
        out.extend_from_slice(b"\r\n");
        push_number(out, *value);
    }
    out.extend_from_slice(b"\r\n");
}

fn meta_hit(reply: &MetaReply<'_>, hit: &Hit<'_>, out: &mut Vec<u8>) {
    if hit.with_value {
        out.extend_from_slice(b"VA ");
        push_number(out, hit.value_len);
    } else {
        out.extend_from_slice(b"HD");
    }
    // Flags take effect in the order sent: a `t` before a `T` or `N` tells the time that was left.
    let mut ttl = hit.old_ttl;
    for word in reply.words() {
        match word[0] {
            b'T' | b'N' => ttl = hit.ttl,
            b's' => push_flag(out, b's', hit.value_len),
            b't' => push_ttl(out, ttl),
            b'c' => push_flag(out, b'c', hit.cas),
            b'f' => push_flag(out, b'f', hit.flags),
            b'l' => push_flag(out, b'l', hit.since_access),
            b'h' => push_flag(out, b'h', u8::from(hit.fetched)),
            b'O' => push_word(out, word),
            b'k' => push_key(reply, out),
            _ => {}
        }
    }
    if hit.already_won {
        out.extend_from_slice(b" Z");
    }
    if hit.stale {
        out.extend_from_slice(b" X");
    }
    if hit.won {
        out.extend_from_slice(b" W");
    }
    out.extend_from_slice(b"\r\n");
}

fn push_flag(out: &mut Vec<u8>, letter: u8, value: impl itoa::Integer) {
    out.extend_from_slice(&[b' ', letter]);
    push_number(out, value);
}

fn push_ttl(out: &mut Vec<u8>, ttl: Option<u32>) {
    match ttl {
        Some(seconds) => push_flag(out, b't', seconds),
        None => out.extend_from_slice(b" t-1"),
    }
}

fn push_word(out: &mut Vec<u8>, word: &[u8]) {
    out.push(b' ');
    out.extend_from_slice(word);
}

fn push_key(reply: &MetaReply<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b" k");
    out.extend_from_slice(reply.key);
    if reply.words().any(|word| word[0] == b'b') {
        out.extend_from_slice(b" b");
    }
}
