//! Requests and answers of each protocol, reduced to what a load generator needs.

use larder_protocol::DecodedResponse;
use larder_protocol::{
    Arithmetic, BinaryReply, Command, Delete, Direction, Exptime, Get, Keys, MetaCommand, MetaReply, Reply, Request,
    Sasl, Store, StoreMode, TextReply, binary, meta, text,
};

/// A protocol of memcached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The classic text commands: get, set, …
    Text,
    /// The meta commands of text: mg, ms, …
    Meta,
    /// The binary protocol
    Binary,
}

/// Why a request of the load can be encoded.
const SENDABLE: &str = "each operation exists in each protocol, and names of keys are short and printable";

/// Writes requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encoder {
    pub(crate) protocol: Protocol,
    /// Answers to reads name their key.
    pub(crate) with_keys: bool,
}

/// How the answer to a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// One answer.
    One,
    /// A text retrieval: values, then `END`.
    End,
    /// Quiet requests: any number of answers, then the answer to the no-op.
    Noop,
}

/// One answer, of any protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// A hit. The key is empty where the answer does not name it.
    Value { key: &'a [u8], value: &'a [u8] },
    /// `END` or the answer to a no-op.
    End,
    /// The key was stored, deleted, touched or counted.
    Done,
    /// No such key.
    Missing,
    /// The server did not write, because a condition did not hold.
    Refused,
    /// An error, in the server's words.
    Error(&'a [u8]),
}

/// The front of the input.
pub(crate) enum Decoded<'a> {
    Incomplete { need: usize },
    Answer { answer: Answer<'a>, consumed: usize },
    Malformed,
}

impl Encoder {
    fn request(&self, command: Command<'_>, meta_command: MetaCommand, quiet: bool, out: &mut Vec<u8>) {
        let is_get = meta_command == MetaCommand::Get;
        let reply = match self.protocol {
            Protocol::Text => Reply::Text(TextReply::default()),
            Protocol::Meta => {
                let flags: &[u8] = if is_get && quiet && self.with_keys { b"k" } else { b"" };
                Reply::Meta(MetaReply { command: meta_command, flags, key: b"", quiet, value_len: 0 })
            }
            Protocol::Binary => {
                let opcode = binary::opcode_of(&command, quiet, is_get && self.with_keys).expect(SENDABLE);
                Reply::Binary(BinaryReply { opcode, opaque: 0 })
            }
        };
        Request { command, reply }.encode(out).expect(SENDABLE);
    }

    /// A read. Several keys in one request only in text.
    pub(crate) fn get(&self, keys: Keys<'_>, quiet: bool, out: &mut Vec<u8>) {
        self.request(Command::Get(Get::new(keys)), MetaCommand::Get, quiet, out);
    }

    /// A login by SASL PLAIN, in the binary protocol.
    pub(crate) fn sasl_plain(&self, user: &str, password: &str, out: &mut Vec<u8>) {
        let data = format!("\0{user}\0{password}");
        let command = Command::Sasl(Sasl::Auth { mechanism: b"PLAIN", data: data.as_bytes() });
        self.request(command, MetaCommand::Noop, false, out);
    }

    /// A write of a value.
    pub(crate) fn set(&self, key: &[u8], value: &[u8], ttl: u32, quiet: bool, out: &mut Vec<u8>) {
        let store = Store { exptime: Exptime(ttl.into()), ..Store::new(StoreMode::Set, key, value) };
        self.request(Command::Store(store), MetaCommand::Set, quiet, out);
    }

    pub(crate) fn delete(&self, key: &[u8], quiet: bool, out: &mut Vec<u8>) {
        self.request(Command::Delete(Delete::new(key)), MetaCommand::Delete, quiet, out);
    }

    pub(crate) fn touch(&self, key: &[u8], ttl: u32, quiet: bool, out: &mut Vec<u8>) {
        self.request(Command::Touch { key, exptime: Exptime(ttl.into()) }, MetaCommand::Get, quiet, out);
    }

    pub(crate) fn incr(&self, key: &[u8], quiet: bool, out: &mut Vec<u8>) {
        let arithmetic = Arithmetic::new(Direction::Up, key, 1);
        self.request(Command::Arithmetic(arithmetic), MetaCommand::Arithmetic, quiet, out);
    }

    /// Ends a run of quiet requests.
    pub(crate) fn noop(&self, out: &mut Vec<u8>) {
        self.request(Command::Noop, MetaCommand::Noop, false, out);
    }

    /// Decodes the answer at the front of `input`.
    #[inline]
    pub(crate) fn decode<'a>(&self, input: &'a [u8]) -> Decoded<'a> {
        match self.protocol {
            Protocol::Text => reduce(text::decode_response(input), text_answer),
            Protocol::Meta => reduce(meta::decode_response(input), meta_answer),
            Protocol::Binary => reduce(binary::decode_response(input), binary_answer),
        }
    }
}

#[inline]
fn reduce<'a, R>(decoded: DecodedResponse<R>, answer: impl Fn(R) -> Answer<'a>) -> Decoded<'a> {
    match decoded {
        DecodedResponse::Incomplete { need } => Decoded::Incomplete { need },
        DecodedResponse::Response { response, consumed } => Decoded::Answer { answer: answer(response), consumed },
        DecodedResponse::Malformed => Decoded::Malformed,
    }
}

#[inline]
fn text_answer(response: text::Response<'_>) -> Answer<'_> {
    match response {
        text::Response::Value { key, value, .. } => Answer::Value { key, value },
        text::Response::Stat(..) => Answer::Error(b"an answer to no question: STAT"),
        text::Response::Line(line) => match line {
            b"END" => Answer::End,
            b"STORED" | b"DELETED" | b"TOUCHED" | b"OK" => Answer::Done,
            b"NOT_FOUND" => Answer::Missing,
            b"NOT_STORED" | b"EXISTS" => Answer::Refused,
            [b'0'..=b'9', ..] => Answer::Done,
            line => Answer::Error(line),
        },
    }
}

#[inline]
fn meta_answer(response: meta::Response<'_>) -> Answer<'_> {
    use meta::Code;
    match response {
        meta::Response::Code { code, value, flags } => match code {
            Code::Va => Answer::Value { key: flags.token(b'k').unwrap_or_default(), value: value.unwrap_or_default() },
            Code::Hd | Code::Me => Answer::Done,
            Code::En | Code::Nf => Answer::Missing,
            Code::Ns | Code::Ex => Answer::Refused,
            Code::Mn => Answer::End,
        },
        meta::Response::Error(line) => Answer::Error(line),
    }
}

#[inline]
fn binary_answer(response: binary::Response<'_>) -> Answer<'_> {
    use binary::{opcode, status};
    match response.status {
        status::OK => match response.opcode {
            opcode::GET | opcode::GETQ | opcode::GETK | opcode::GETKQ => {
                Answer::Value { key: response.key, value: response.value }
            }
            opcode::NOOP => Answer::End,
            _ => Answer::Done,
        },
        status::KEY_NOT_FOUND => Answer::Missing,
        status::KEY_EXISTS | status::NOT_STORED => Answer::Refused,
        _ => Answer::Error(response.value),
    }
}
