//! Each side decodes what the other encodes, and every input gives one of the documented results.

mod drafts;

use drafts::Draft;
use larder_protocol::DecodedResponse;
use larder_protocol::binary;
use larder_protocol::*;
use proptest::prelude::*;

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
        let request = draft.meta_request(wanted.as_bytes());
        let Reply::Meta(MetaReply { command: kind, quiet, .. }) = request.reply else { panic!("{request:?}") };
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
