//! Each side decodes what the other encodes, and every input gives one of the documented results.

use larder_protocol::DecodedResponse;
use larder_protocol::binary::{self, opcode_of};
use larder_protocol::*;
use proptest::prelude::*;

/// The parts of a random request. It owns the bytes that a request borrows.
#[derive(Debug, Clone)]
struct Draft {
    kind: usize,
    key: Vec<u8>,
    value: Vec<u8>,
    numbers: [u64; 3],
    flags: u32,
    exptimes: [Option<i32>; 3],
    cas: [Option<u64>; 2],
    mode: StoreMode,
    switches: [bool; 4],
    opaque: String,
}

fn drafts() -> impl Strategy<Value = Draft> {
    let modes = [StoreMode::Set, StoreMode::Add, StoreMode::Replace, StoreMode::Append, StoreMode::Prepend];
    let key = prop_oneof!["[!-~]{1,250}".prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 1..180)];
    let parts = (
        (0..12usize, key, prop::collection::vec(any::<u8>(), 0..60), any::<[u64; 3]>(), any::<u32>()),
        (any::<[Option<i32>; 3]>(), any::<[Option<u64>; 2]>(), prop::sample::select(modes.to_vec())),
        (any::<[bool; 4]>(), "[!-~]{0,31}"),
    );
    parts.prop_map(|((kind, key, value, numbers, flags), (exptimes, cas, mode), (switches, opaque))| Draft {
        kind,
        key,
        value,
        numbers,
        flags,
        exptimes,
        cas,
        mode,
        switches,
        opaque,
    })
}

impl Draft {
    fn exptime(&self, i: usize) -> Option<Exptime> {
        self.exptimes[i].map(|seconds| Exptime(seconds.into()))
    }

    /// Returns a command that a meta command can express.
    fn meta_command(&self) -> Command<'_> {
        let (key, [compare_cas, set_cas], [a, b, c, d]) = (&self.key[..], self.cas, self.switches);
        match self.kind % 6 {
            0 => Command::Get(Get {
                keys: Keys::One(key),
                touch: self.exptime(0),
                vivify: self.exptime(1),
                recache: self.exptime(2),
                touch_vivified: c && self.exptimes[0].and(self.exptimes[1]).is_some(),
                recache_touched: d && self.exptimes[0].and(self.exptimes[2]).is_some(),
                set_cas,
                unless_cas: compare_cas,
                want_value: a,
                no_bump: b,
            }),
            1 => {
                let joins = matches!(self.mode, StoreMode::Append | StoreMode::Prepend);
                let compares = matches!(self.mode, StoreMode::Set | StoreMode::Replace) && compare_cas.is_some();
                Command::Store(Store {
                    key,
                    value: &self.value,
                    flags: self.flags,
                    exptime: self.exptime(0).unwrap_or(Exptime(0)),
                    mode: self.mode,
                    compare_cas,
                    set_cas: set_cas.filter(|&cas| cas != 0),
                    invalidate: a && compares,
                    vivify: self.exptime(1).filter(|_| joins),
                })
            }
            2 => Command::Delete(Delete {
                key,
                compare_cas,
                set_cas,
                invalidate: a,
                touch: self.exptime(0),
                remove_value: b,
                flags: self.flags,
            }),
            3 => Command::Arithmetic(Arithmetic {
                key,
                delta: self.numbers[0],
                direction: if a { Direction::Up } else { Direction::Down },
                vivify: self.exptime(0),
                initial: self.numbers[1],
                touch: self.exptime(1),
                touch_vivified: c && self.exptimes[0].and(self.exptimes[1]).is_some(),
                compare_cas: compare_cas.filter(|&cas| cas != 0),
                set_cas,
            }),
            4 => Command::Debug { key },
            _ => Command::Noop,
        }
    }

    /// Returns a request that a classic line can express. `key` must be a [`Draft::text_key`].
    fn text_request<'a>(&'a self, key: &'a [u8]) -> Request<'a> {
        let [noreply, with_cas, touches, many] = self.switches;
        let exptime = self.exptime(0).unwrap_or(Exptime(0));
        let mut reply = TextReply { noreply, ..TextReply::default() };
        let command = match self.kind {
            0 | 1 => {
                reply = TextReply { with_cas, ..TextReply::default() };
                let keys = if many { Keys::Line(key) } else { Keys::One(key) };
                Command::Get(Get { touch: touches.then_some(exptime), ..Get::new(keys) })
            }
            2 | 3 => Command::Store(Store {
                flags: self.flags,
                exptime,
                compare_cas: self.cas[0].filter(|_| self.mode == StoreMode::Set),
                ..Store::new(self.mode, key, &self.value)
            }),
            4 => Command::Delete(Delete::new(key)),
            5 => {
                let direction = if touches { Direction::Up } else { Direction::Down };
                Command::Arithmetic(Arithmetic::new(direction, key, self.numbers[0]))
            }
            6 => Command::Touch { key, exptime },
            7 => Command::FlushAll { at: self.exptime(1) },
            8 => Command::Verbosity { level: self.flags },
            9 => Command::Admin(Admin::CacheMemlimit { mebibytes: self.flags.into() }),
            10 => Command::Admin(Admin::Words { name: b"lru_crawler", arguments: b"metadump all" }),
            _ => {
                reply = TextReply::default();
                if touches { Command::Version } else { Command::Stats { group: b"items" } }
            }
        };
        Request { command, reply: Reply::Text(reply) }
    }

    /// Returns a request that a packet can express.
    fn binary_request(&self) -> Request<'_> {
        let (key, [up, quiet, with_key, _]) = (&self.key[..], self.switches);
        let exptime = Exptime((self.numbers[2] as u32 - (self.numbers[2] as u32 == u32::MAX) as u32).into());
        let compare_cas = self.cas[0].filter(|&cas| cas != 0);
        let joins = matches!(self.mode, StoreMode::Append | StoreMode::Prepend);
        let command = match self.kind {
            0 | 1 => Command::Get(Get {
                touch: (self.kind == 1).then_some(exptime),
                want_value: self.kind == 0 || up,
                ..Get::new(Keys::One(key))
            }),
            2 | 3 => Command::Store(Store {
                flags: if joins { 0 } else { self.flags },
                exptime: if joins { Exptime(0) } else { exptime },
                compare_cas: compare_cas.filter(|_| self.mode != StoreMode::Add),
                ..Store::new(self.mode, key, &self.value)
            }),
            4 => Command::Delete(Delete { compare_cas, ..Delete::new(key) }),
            5 => {
                let direction = if up { Direction::Up } else { Direction::Down };
                Command::Arithmetic(Arithmetic {
                    vivify: with_key.then_some(exptime),
                    initial: self.numbers[1],
                    compare_cas,
                    ..Arithmetic::new(direction, key, self.numbers[0])
                })
            }
            6 => Command::Noop,
            7 => Command::FlushAll { at: up.then_some(exptime) },
            8 => Command::Verbosity { level: self.flags },
            9 => Command::Stats { group: key },
            10 => Command::Quit,
            _ if up => Command::Sasl(Sasl::Auth { mechanism: b"PLAIN", data: &self.value }),
            _ => Command::Version,
        };
        let opcode = opcode_of(&command, quiet, with_key).expect("binary has all of these");
        Request { reply: Reply::Binary(BinaryReply { opcode, opaque: self.flags }), command }
    }

    /// Returns the key without the bytes that a text line cannot hold.
    fn text_key(&self) -> Vec<u8> {
        let mut key: Vec<u8> = self.key.iter().copied().filter(|b| b.is_ascii_graphic()).collect();
        key.push(b'k');
        key.truncate(KEY_MAX_LEN);
        key
    }
}

fn encoded(request: &Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.encode(&mut bytes).unwrap_or_else(|error| panic!("{request:?}: {error}"));
    bytes
}

/// Decodes `bytes`, after checking that each shorter front is incomplete and that `need` never exceeds the rest.
fn assert_decodes(protocol: Protocol, bytes: &[u8], check: impl FnOnce(Request<'_>)) {
    let limits = Limits::default();
    for end in 1..bytes.len() {
        let mut scratch = Scratch::new();
        match protocol.decode(&bytes[..end], &limits, &mut scratch) {
            Decoded::Incomplete { need, .. } => assert!(need >= 1 && end + need <= bytes.len(), "{end} needs {need}"),
            other => panic!("{end} of {} bytes gave {other:?}", bytes.len()),
        }
    }
    let mut scratch = Scratch::new();
    match protocol.decode(bytes, &limits, &mut scratch) {
        Decoded::Request { request, consumed } => {
            assert_eq!(consumed, bytes.len());
            check(request);
        }
        other => panic!("{other:?} from {:?}", String::from_utf8_lossy(bytes)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_text_request_survives_encoding(draft in drafts()) {
        let key = draft.text_key();
        let request = draft.text_request(&key);
        let bytes = encoded(&request);
        assert_decodes(Protocol::Text, &bytes, |decoded| match (&decoded.command, &request.command) {
            (Command::Get(decoded_get), Command::Get(get)) => {
                assert!(decoded_get.keys.iter().eq(get.keys.iter()));
                assert_eq!((decoded_get.touch, &decoded.reply), (get.touch, &request.reply));
            }
            _ => assert_eq!(decoded, request),
        });
    }

    #[test]
    fn a_meta_request_survives_encoding(draft in drafts()) {
        let wanted = format!("O{} k s", draft.opaque);
        let command = draft.meta_command();
        let kind = match &command {
            Command::Get(_) => MetaCommand::Get,
            Command::Store(_) => MetaCommand::Set,
            Command::Delete(_) => MetaCommand::Delete,
            Command::Arithmetic(_) => MetaCommand::Arithmetic,
            Command::Debug { .. } => MetaCommand::Debug,
            _ => MetaCommand::Noop,
        };
        let quiet = draft.switches[3] && kind != MetaCommand::Debug;
        let reply = MetaReply { command: kind, flags: wanted.as_bytes(), key: b"", quiet, value_len: 0 };
        let request = Request { command, reply: Reply::Meta(reply) };
        let bytes = encoded(&request);
        assert_decodes(Protocol::Text, &bytes, |decoded| {
            assert_eq!(decoded.command, request.command);
            if kind != MetaCommand::Noop {
                let Reply::Meta(reply) = &decoded.reply else { panic!("{decoded:?}") };
                let flags = reply.flags.strip_prefix(b"b ").unwrap_or(reply.flags);
                assert!(flags.starts_with(wanted.as_bytes()) && reply.quiet == quiet);
                // Decoding loses nothing: encoded again, the request gives the same bytes.
                assert_eq!(encoded(&decoded), bytes);
            }
        });
    }

    #[test]
    fn a_binary_request_survives_encoding(draft in drafts()) {
        let request = draft.binary_request();
        assert_decodes(Protocol::Binary, &encoded(&request), |decoded| assert_eq!(decoded, request));
    }

    #[test]
    fn a_hit_survives_encoding_in_all_protocols(
        key in "[!-~]{1,250}",
        value in prop::collection::vec(any::<u8>(), 0..100),
        flags: u32,
        cas: u64,
        ttl: Option<u32>,
        switches: [bool; 4],
    ) {
        let [fetched, won, already_won, stale] = switches;
        let hit = Hit {
            key: key.as_bytes(), flags, cas, value_len: value.len(), with_value: true,
            ttls: Ttls { before: ttl, ..Ttls::default() },
            since_access: flags, fetched, won, already_won, stale,
        };
        let bytes = |reply: &Reply<'_>| {
            let mut out = Vec::new();
            reply.hit(&hit, &mut out);
            out.extend_from_slice(&value);
            out.extend_from_slice(reply.after_value());
            out
        };

        let text = bytes(&Reply::Text(TextReply { with_cas: true, ..TextReply::default() }));
        assert_response(&text, text::decode_response, |response| {
            let expected = text::Response::Value { key: key.as_bytes(), flags, cas: Some(cas), value: &value };
            assert_eq!(response, expected);
        });

        let reply = MetaReply {
            command: MetaCommand::Get, flags: b"t c f s l h k O1", key: key.as_bytes(), quiet: false, value_len: 0,
        };
        assert_response(&bytes(&Reply::Meta(reply)), meta::decode_response, |response| {
            let meta::Response::Code { code: meta::Code::Va, value: Some(read), flags: read_flags } = response else {
                panic!("{response:?}")
            };
            assert_eq!(read, &value[..]);
            assert_eq!(read_flags.number(b'c'), Some(cas));
            assert_eq!(read_flags.number(b'f'), Some(flags.into()));
            assert_eq!(read_flags.number(b's'), Some(value.len() as u64));
            assert_eq!(read_flags.token(b'k'), Some(key.as_bytes()));
            assert_eq!(read_flags.token(b'O'), Some(&b"1"[..]));
            assert_eq!(read_flags.ttl(), ttl);
            assert_eq!([b'W', b'Z', b'X'].map(|letter| read_flags.has(letter)), [won, already_won, stale]);
        });

        let reply = Reply::Binary(BinaryReply { opcode: binary::opcode::GETK, opaque: 7 });
        assert_response(&bytes(&reply), binary::decode_response, |response| {
            assert_eq!((response.status, response.opaque, response.cas), (binary::status::OK, 7, cas));
            assert_eq!((response.flags(), response.key, response.value), (Some(flags), key.as_bytes(), &value[..]));
        });
    }

    #[test]
    fn no_bytes_make_a_decoder_panic_or_stand_still(bytes in prop::collection::vec(any::<u8>(), 1..200)) {
        exercise(&bytes);
    }

    #[test]
    fn no_nearly_right_bytes_make_a_decoder_panic_or_stand_still(
        draft in drafts(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let key = draft.text_key();
        let meta = Request {
            command: draft.meta_command(),
            reply: Reply::Meta(MetaReply { command: MetaCommand::Get, flags: b"", key: b"", quiet: false, value_len: 0 }),
        };
        for request in [draft.text_request(&key), meta, draft.binary_request()] {
            let mut bytes = encoded(&request);
            for (index, byte) in &changes {
                let at = index.index(bytes.len());
                bytes[at] = *byte;
            }
            exercise(&bytes);
        }
    }
}

/// Decodes the bytes by every decoder, as a connection does.
fn exercise(bytes: &[u8]) {
    for protocol in [Protocol::Text, Protocol::Binary] {
        let mut input = bytes;
        while !input.is_empty() {
            let mut scratch = Scratch::new();
            match protocol.decode(input, &Limits { item_size_max: 1000, ..Limits::default() }, &mut scratch) {
                Decoded::Request { consumed, .. } => {
                    assert!(consumed > 0);
                    input = &input[consumed..];
                }
                Decoded::Error { error, reply, consumed, swallow, close, .. } => {
                    assert!(consumed > 0 || close);
                    reply.outcome(&Outcome::Error(error), &mut Vec::new());
                    let rest = &input[consumed..];
                    input = if close { b"" } else { &rest[swallow.min(rest.len())..] };
                }
                Decoded::Incomplete { need, .. } => {
                    assert!(need > 0);
                    break;
                }
                Decoded::Close | Decoded::Part { .. } => break,
            }
        }
    }
    let _ = text::decode_response(bytes);
    let _ = meta::decode_response(bytes);
    let _ = binary::decode_response(bytes);
}

/// Decodes a response, after checking that each shorter front is incomplete.
fn assert_response<'a, R: std::fmt::Debug>(
    bytes: &'a [u8],
    decode: impl Fn(&'a [u8]) -> DecodedResponse<R>,
    check: impl FnOnce(R),
) {
    for end in 0..bytes.len() {
        match decode(&bytes[..end]) {
            DecodedResponse::Incomplete { need } => assert!(need >= 1 && end + need <= bytes.len()),
            other => panic!("{end} of {} bytes gave {other:?}", bytes.len()),
        }
    }
    match decode(bytes) {
        DecodedResponse::Response { response, consumed } => {
            assert_eq!(consumed, bytes.len());
            check(response);
        }
        other => panic!("{other:?} from {:?}", String::from_utf8_lossy(bytes)),
    }
}

#[test]
fn a_response_that_no_server_sends_is_malformed() {
    let text: [&[u8]; 6] = [
        b"VALUE k 0\r\n",
        b"VALUE k 0 -1\r\n",
        b"VALUE k x 1\r\na\r\n",
        b"VALUE k 0 1 2 3\r\na\r\n",
        b"VALUE k 0 1\r\nabc\r\n",
        b"VALUE k 0 4000000000\r\n",
    ];
    for bytes in text {
        assert_eq!(text::decode_response(bytes), DecodedResponse::Malformed, "{bytes:?}");
    }
    let meta: [&[u8]; 6] = [b"XX\r\n", b"VA\r\n", b"VA x\r\n", b"VA 1\r\nabc\r\n", b"HDx\r\n", b"hello\r\n"];
    for bytes in meta {
        assert_eq!(meta::decode_response(bytes), DecodedResponse::Malformed, "{bytes:?}");
    }
    assert_eq!(text::decode_response(&[b'x'; 3000]), DecodedResponse::Malformed);
    assert_eq!(binary::decode_response(b"\x80"), DecodedResponse::Malformed);
}

#[test]
fn a_request_that_its_protocol_cannot_send_is_refused_and_nothing_is_written() {
    let get = Get::new(Keys::One(b"k"));
    let store = |mode| Store::new(mode, b"k", b"v");
    let arithmetic = Arithmetic::new(Direction::Up, b"k", 1);
    let exptime = Some(Exptime(1));
    let (text, binary) = (Reply::Text(TextReply::default()), Reply::Binary(BinaryReply { opcode: 0, opaque: 0 }));
    let command = MetaCommand::Get;
    let meta = Reply::Meta(MetaReply { command, flags: b"", key: b"", quiet: false, value_len: 0 });
    let long_key = [b'k'; KEY_MAX_LEN + 1];
    let long_binary_key = [0; KEY_MAX_LEN];
    let list = Admin::Words { name: b"lru_crawler", arguments: b"metadump all" };
    let two_lines = Admin::Words { name: b"lru", arguments: b"mode flat\r\nflush_all" };
    let (wrong_command, wrong_key) = (EncodeError::Command, EncodeError::Key);
    let cases = [
        (&text, Command::Sasl(Sasl::ListMechanisms), wrong_command),
        (&text, Command::Get(Get { want_value: false, ..get.clone() }), wrong_command),
        (&text, Command::Get(Get { vivify: exptime, ..get.clone() }), wrong_command),
        (&text, Command::Store(Store { compare_cas: Some(1), ..store(StoreMode::Replace) }), wrong_command),
        (&text, Command::Store(Store { set_cas: Some(1), ..store(StoreMode::Set) }), wrong_command),
        (&text, Command::Delete(Delete { compare_cas: Some(1), ..Delete::new(b"k") }), wrong_command),
        (&text, Command::Arithmetic(Arithmetic { vivify: exptime, ..arithmetic.clone() }), wrong_command),
        (&text, Command::Admin(two_lines), wrong_command),
        (&text, Command::Delete(Delete::new(b"")), wrong_key),
        (&text, Command::Delete(Delete::new(&long_key)), wrong_key),
        (&text, Command::Get(Get::new(Keys::One(b"a b"))), wrong_key),
        (&text, Command::Touch { key: b"a\r\nflush_all", exptime: Exptime(0) }, wrong_key),
        (&meta, Command::Version, wrong_command),
        (&meta, Command::Admin(list), wrong_command),
        (&meta, Command::Get(Get::new(Keys::Line(b"a b"))), wrong_command),
        (&meta, Command::Arithmetic(Arithmetic { compare_cas: Some(0), ..arithmetic.clone() }), wrong_command),
        (&meta, Command::Store(Store { set_cas: Some(0), ..store(StoreMode::Set) }), wrong_command),
        (&meta, Command::Get(Get::new(Keys::One(b""))), wrong_key),
        (&meta, Command::Debug { key: &long_binary_key }, wrong_key),
        (&binary, Command::Debug { key: b"k" }, wrong_command),
        (&binary, Command::Admin(list), wrong_command),
        (&binary, Command::Get(Get::new(Keys::Line(b"a b"))), wrong_command),
        (&binary, Command::Get(Get { want_value: false, ..get }), wrong_command),
        (&binary, Command::Store(Store { vivify: exptime, ..store(StoreMode::Append) }), wrong_command),
        (&binary, Command::Delete(Delete { compare_cas: Some(0), ..Delete::new(b"k") }), wrong_command),
        (&binary, Command::Delete(Delete { invalidate: true, ..Delete::new(b"k") }), wrong_command),
        (&binary, Command::Arithmetic(Arithmetic { touch: exptime, ..arithmetic }), wrong_command),
        (&binary, Command::Stats { group: &long_key }, wrong_key),
        (&binary, Command::Delete(Delete::new(&long_key)), wrong_key),
    ];
    for (reply, command, error) in cases {
        let mut out = b"before".to_vec();
        let request = Request { command, reply: reply.clone() };
        assert_eq!(request.encode(&mut out), Err(error), "{request:?}");
        assert_eq!(out, b"before");
    }
}
