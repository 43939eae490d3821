//! Replies to meta commands, which a server writes.

use crate::base64;
use crate::command::{MetaCommand, MetaReply};
use crate::decoded::Scratch;
use crate::number::push_number;
use crate::outcome::{Hit, Outcome, Ttls};
use crate::text::push_outcome;

/// Returns whether flag `q` suppresses the reply: it is the command's nominal one (protocol.txt, flag q of each
/// command).
fn is_nominal(command: MetaCommand, outcome: &Outcome<'_>) -> bool {
    match command {
        MetaCommand::Get => matches!(outcome, Outcome::Miss),
        MetaCommand::Set => matches!(outcome, Outcome::Stored { .. }),
        MetaCommand::Delete => matches!(outcome, Outcome::Deleted),
        MetaCommand::Arithmetic => matches!(outcome, Outcome::Number { .. }),
        MetaCommand::Noop | MetaCommand::Debug => false,
    }
}

impl MetaReply<'_> {
    pub(crate) fn outcome(&self, outcome: &Outcome<'_>, out: &mut Vec<u8>) {
        if self.quiet && is_nominal(self.command, outcome) {
            return;
        }
        let wants_number = self.words().any(|word| word == b"v");
        match outcome {
            Outcome::Error(error) => return error.encode(out),
            Outcome::Noop => return out.extend_from_slice(b"MN\r\n"),
            Outcome::Debug(metadata) => {
                out.extend_from_slice(b"ME ");
                out.extend_from_slice(self.key);
                out.push(b' ');
                out.extend_from_slice(metadata.as_bytes());
                return out.extend_from_slice(b"\r\n");
            }
            Outcome::Miss => {
                out.extend_from_slice(b"EN");
                if self.command == MetaCommand::Debug {
                    return out.extend_from_slice(b"\r\n");
                }
            }
            Outcome::NotFound => out.extend_from_slice(b"NF"),
            Outcome::NotStored => out.extend_from_slice(b"NS"),
            Outcome::Exists => out.extend_from_slice(b"EX"),
            Outcome::Line(_) | Outcome::Version(_) | Outcome::Quit => return push_outcome(outcome, out),
            Outcome::Number { value, .. } if wants_number => {
                out.extend_from_slice(b"VA ");
                push_number(out, itoa::Buffer::new().format(*value).len());
            }
            Outcome::Stored { .. }
            | Outcome::Deleted
            | Outcome::Touched
            | Outcome::Number { .. }
            | Outcome::Ok
            | Outcome::Reset => out.extend_from_slice(b"HD"),
        }
        self.outcome_flags(outcome, out);
        if let (Outcome::Number { value, .. }, true) = (outcome, wants_number) {
            out.extend_from_slice(b"\r\n");
            push_number(out, *value);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Appends the flags of a reply other than a hit, in the order sent.
    fn outcome_flags(&self, outcome: &Outcome<'_>, out: &mut Vec<u8>) {
        let ttls = if let Outcome::Number { ttls, .. } = outcome { *ttls } else { Ttls::default() };
        let mut ttl = ttls.before;
        for word in self.words() {
            match (word[0], outcome) {
                (b'O', _) => push_word(out, word),
                (b'k', _) => push_key(self, out),
                (b'c', Outcome::Stored { cas, .. } | Outcome::Number { cas, .. }) => push_flag(out, b'c', *cas),
                // memcached answers these two also for an `ms` that stored nothing.
                (b'c', _) if self.command == MetaCommand::Set => push_flag(out, b'c', 0u64),
                (b's', Outcome::Stored { value_len, .. }) => push_flag(out, b's', *value_len),
                (b's', _) if self.command == MetaCommand::Set => push_flag(out, b's', self.value_len),
                (b'T', _) => ttl = ttls.touched,
                (b'N', _) if ttls.created => ttl = ttls.vivified,
                (b't', Outcome::Number { .. }) => push_ttl(out, ttl),
                _ => {}
            }
        }
    }

    pub(crate) fn hit(&self, hit: &Hit<'_>, out: &mut Vec<u8>) {
        if hit.with_value {
            out.extend_from_slice(b"VA ");
            push_number(out, hit.value_len);
        } else {
            out.extend_from_slice(b"HD");
        }
        let mut ttl = hit.ttls.before;
        for word in self.words() {
            match word[0] {
                b'T' => ttl = hit.ttls.touched,
                b'N' if hit.ttls.created => ttl = hit.ttls.vivified,
                b's' => push_flag(out, b's', hit.value_len),
                b't' => push_ttl(out, ttl),
                b'c' => push_flag(out, b'c', hit.cas),
                b'f' => push_flag(out, b'f', hit.flags),
                b'l' => push_flag(out, b'l', hit.since_access),
                b'h' => push_flag(out, b'h', u8::from(hit.fetched)),
                b'O' => push_word(out, word),
                b'k' => push_key(self, out),
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
    if !reply.words().any(|word| word[0] == b'b') {
        return out.extend_from_slice(reply.key);
    }
    // The key in the alphabet's own form, without bytes that its decoding skipped.
    let mut scratch = Scratch::new();
    let len = base64::decode(reply.key, &mut scratch.0).unwrap_or(0);
    base64::encode(out, &scratch.0[..len]);
    out.extend_from_slice(b" b");
}
