//! Tables of exchanges: the requests that a server decodes, and the exact replies to errors.

use larder_protocol::*;

fn decode_text<'a>(input: &'a [u8], scratch: &'a mut Scratch) -> Decoded<'a> {
    Protocol::Text.decode(input, &Limits::default(), scratch)
}

/// Returns the replies to the errors in the input, with the names of decoded requests in between.
fn exchange(mut input: &[u8]) -> String {
    let mut out = Vec::new();
    while !input.is_empty() {
        let mut scratch = Scratch::default();
        match decode_text(input, &mut scratch) {
            Decoded::Incomplete { need, .. } => {
                out.extend_from_slice(format!("[need {need}]").as_bytes());
                break;
            }
            Decoded::Request { request, consumed } => {
                let name = format!("{:?}", request.command);
                let name = name.split([' ', '(', '{']).next().unwrap();
                out.extend_from_slice(format!("[{name}]").as_bytes());
                input = &input[consumed..];
            }
            Decoded::Error { error, reply, consumed, swallow, .. } => {
                reply.outcome(&Outcome::Error(error), &mut out);
                let rest = &input[consumed..];
                input = &rest[swallow.min(rest.len())..];
            }
            Decoded::Part { .. } => panic!("no line here is long enough"),
            Decoded::Close => {
                out.extend_from_slice(b"[close]");
                break;
            }
        }
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn wrong_lines_get_the_error_that_memcached_gives() {
    const FORMAT: &str = "CLIENT_ERROR bad command line format\r\n";
    let long_key = "k".repeat(251);
    let table: &[(&str, &str)] = &[
        ("\r\n", FORMAT),
        ("a\r\n", FORMAT),
        ("mn\n", FORMAT),
        ("foo\r\n", "ERROR\r\n"),
        ("    \r\n", "ERROR\r\n"),
        (" get a\r\n", "ERROR\r\n"),
        ("GET / HTTP/1.1\r\n", "[close]"),
        ("get\r\n", FORMAT),
        ("gat 10\r\n", FORMAT),
        ("gat x a\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
        ("touch a\r\n", FORMAT),
        ("touch a x\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
        ("touch a 2147483648\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
        ("incr a\r\n", FORMAT),
        ("incr a x\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
        ("incr a -1\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
        ("incr a x noreply\r\n", ""),
        ("delete\r\n", FORMAT),
        ("set a 0 0\r\n", FORMAT),
        ("set a 0 0 -1\r\n", FORMAT),
        ("set a 0 0 2147483647\r\n", FORMAT),
        ("set a x 0 2\r\nhi\r\nmn\r\n", &format!("{FORMAT}[Noop]")),
        ("set a 0 x 2\r\nhi\r\nmn\r\n", &format!("{FORMAT}[Noop]")),
        ("set a -1 0 2 noreply\r\nhi\r\nmn\r\n", "[Noop]"),
        ("cas a 0 0 2\r\nhi\r\nmn\r\n", &format!("{FORMAT}[Noop]")),
        ("cas a 0 0 2 x\r\nhi\r\nmn\r\n", &format!("{FORMAT}[Noop]")),
        ("set a 0 0 3\r\nabcdef\r\nget a\r\n", &format!("CLIENT_ERROR bad data chunk\r\n{FORMAT}[Get]")),
        ("set a 0 0 1048576\r\n", "SERVER_ERROR object too large for cache\r\n"),
        ("set a 0 0 3\r\nab", "[need 3]"),
        ("verbosity\r\n", FORMAT),
        ("  verbosity 1\r\n", "[Verbosity]"),
        ("flush_all foo\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
        ("cache_memlimit\r\n", "ERROR\r\n"),
        (&format!("get {long_key}\r\n"), FORMAT),
        (&format!("get k {long_key}\r\n"), FORMAT),
        (&format!("set {long_key} 0 0 2\r\nhi\r\nmn\r\n"), &format!("{FORMAT}[Noop]")),
        (&format!("mg {long_key} v\r\n"), FORMAT),
        (&"x".repeat(2049), "[close]"),
        (&"x".repeat(2048), "[need 1]"),
        (&format!("get {}", "key ".repeat(1000)), "[need 1]"),
        ("mg\r\n", FORMAT),
        ("mg k !\r\n", FORMAT),
        ("mg k 5\r\n", "CLIENT_ERROR invalid flag\r\n"),
        ("mg k Z\r\n", "CLIENT_ERROR invalid flag\r\n"),
        ("mg k v v\r\n", "CLIENT_ERROR duplicate flag\r\n"),
        ("mg k C\r\n", "CLIENT_ERROR bad token in command line format\r\n"),
        ("mg k Tx q\r\n", "CLIENT_ERROR bad token in command line format\r\n"),
        ("mg k F\r\n", FORMAT),
        ("mg k b\r\n", "CLIENT_ERROR error decoding key\r\n"),
        ("mg k b D\r\n", "CLIENT_ERROR invalid numeric delta value\r\n"),
        ("mg k Oaaaaaaaaaabbbbbbbbbbccccccccccd\r\n", "[Get]"),
        ("mg k Oaaaaaaaaaabbbbbbbbbbccccccccccdd\r\n", "CLIENT_ERROR opaque token too long\r\n"),
        ("mg k a b c d e f g h i j k l m n o p q r s\r\n", "CLIENT_ERROR options flags are too long\r\n"),
        ("ma k v v\r\n", "CLIENT_ERROR invalid or duplicate flag\r\n"),
        ("ma k Mx\r\n", "CLIENT_ERROR invalid mode for ma M token\r\n"),
        ("ma k M\r\n", "CLIENT_ERROR invalid mode for ma M token\r\n"),
        ("ms k x\r\n", FORMAT),
        ("ms k S3\r\nabc\r\n", &format!("{FORMAT}ERROR\r\n")),
        ("ms k 2 Mx\r\nhi\r\nmn\r\n", "CLIENT_ERROR invalid mode for ms M token\r\n[Noop]"),
        ("ms k 2 v v\r\nhi\r\nmn\r\n", "CLIENT_ERROR duplicate flag\r\n[Noop]"),
        ("ms k 2 q\r\nhixx\r\n", &format!("CLIENT_ERROR bad data chunk\r\n{FORMAT}")),
        ("ms k 1048576 q\r\n", "SERVER_ERROR object too large for cache\r\n"),
        ("mn foo\r\n", "[Noop]"),
        ("me\r\n", FORMAT),
    ];
    for (input, expected) in table {
        assert_eq!(exchange(input.as_bytes()), *expected, "{input:?}");
    }
}

#[test]
fn a_refused_set_makes_the_older_item_out_of_date() {
    for (line, expected) in [("set a 0 0 2000000\r\n", Some(&b"a"[..])), ("add a 0 0 2000000\r\n", None)] {
        let mut scratch = Scratch::default();
        let Decoded::Error { outdated, swallow, .. } = decode_text(line.as_bytes(), &mut scratch) else { panic!() };
        assert_eq!((outdated, swallow), (expected, 2_000_002));
    }
}

#[test]
fn a_base64_key_is_decoded_and_returned_as_sent() {
    let mut scratch = Scratch::default();
    let Decoded::Request { request, .. } = decode_text(b"mg aGkgaGk= b k v O12\r\n", &mut scratch) else { panic!() };
    let Command::Get(get) = &request.command else { panic!() };
    assert_eq!(get.keys.iter().collect::<Vec<_>>(), [b"hi hi"]);
    let mut out = Vec::new();
    request.reply.miss(b"hi hi", &mut out);
    assert_eq!(out, b"EN kaGkgaGk= b O12\r\n");
}

const HIT: Hit<'static> = Hit {
    key: b"k",
    flags: 7,
    cas: 42,
    value_len: 5,
    with_value: true,
    ttls: Ttls { before: None, touched: Some(30), vivified: None, created: false },
    since_access: 3,
    fetched: true,
    won: false,
    stale: false,
    already_won: false,
};

fn hit(line: &str, hit: Hit<'_>) -> String {
    let mut scratch = Scratch::default();
    let Decoded::Request { request, .. } = decode_text(line.as_bytes(), &mut scratch) else { panic!() };
    let mut out = Vec::new();
    request.reply.hit(&hit, &mut out);
    if hit.with_value {
        out.extend_from_slice(b"hello");
        out.extend_from_slice(request.reply.after_value());
    }
    request.reply.end_of_get(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_hit_has_the_fields_that_the_request_asks_for() {
    assert_eq!(hit("get k\r\n", HIT), "VALUE k 7 5\r\nhello\r\nEND\r\n");
    assert_eq!(hit("gats 30 k\r\n", HIT), "VALUE k 7 5 42\r\nhello\r\nEND\r\n");
    assert_eq!(hit("mg k v\r\n", HIT), "VA 5\r\nhello\r\n");
    assert_eq!(hit("mg k s v t T30 c f l h k O9 q\r\n", HIT), "VA 5 s5 t-1 c42 f7 l3 h1 kk O9\r\nhello\r\n");
    assert_eq!(hit("mg k T30 t\r\n", Hit { with_value: false, ..HIT }), "HD t30\r\n");
    let won = Hit { with_value: false, won: true, stale: true, ..HIT };
    assert_eq!(hit("mg k c\r\n", won), "HD c42 X W\r\n");
    assert_eq!(hit("mg k\r\n", Hit { with_value: false, already_won: true, ..HIT }), "HD Z\r\n");
    let ttls = Ttls { before: None, touched: Some(50), vivified: Some(10), created: true };
    let created = Hit { with_value: false, ttls, ..HIT };
    assert_eq!(hit("mg k N10 t T50\r\n", created), "HD t10\r\n");
    assert_eq!(hit("mg k T50 t N10\r\n", created), "HD t50\r\n");
    let found = Hit { with_value: false, ttls: Ttls { created: false, ..ttls }, ..HIT };
    assert_eq!(hit("mg k N10 t T50\r\n", found), "HD t-1\r\n");
}

fn outcome(line: &str, outcome: Outcome<'_>) -> String {
    let mut scratch = Scratch::default();
    let Decoded::Request { request, .. } = decode_text(line.as_bytes(), &mut scratch) else { panic!() };
    let mut out = Vec::new();
    request.reply.outcome(&outcome, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_quiet_command_gets_no_nominal_reply_and_every_other() {
    let stored = Outcome::Stored { cas: 9, value_len: 2 };
    assert_eq!(outcome("ms k 2 c s k\r\nhi\r\n", stored), "HD c9 s2 kk\r\n");
    assert_eq!(outcome("ms k 2 q\r\nhi\r\n", stored), "");
    assert_eq!(outcome("ms k 2 c s q\r\nhi\r\n", Outcome::NotStored), "NS c0 s2\r\n");
    assert_eq!(outcome("mg k q\r\n", Outcome::Miss), "");
    assert_eq!(outcome("md k q\r\n", Outcome::Deleted), "");
    assert_eq!(outcome("md k q O1\r\n", Outcome::NotFound), "NF O1\r\n");
    assert_eq!(outcome("ma k q\r\n", Outcome::NotFound), "NF\r\n");
    assert_eq!(
        outcome("ms k 2 q\r\nhi\r\n", Outcome::Error(Error::OUT_OF_MEMORY)),
        "SERVER_ERROR out of memory storing object\r\n"
    );
    assert_eq!(outcome("set k 0 0 2 noreply\r\nhi\r\n", stored), "");
    assert_eq!(outcome("set k 0 0 2 noreply\r\nhi\r\n", Outcome::Error(Error::OUT_OF_MEMORY)), "");
    assert_eq!(outcome("delete k 0 noreply\r\n", Outcome::NotFound), "");
    assert_eq!(outcome("mn\r\n", Outcome::Noop), "MN\r\n");
}

#[test]
fn a_number_has_the_fields_that_the_request_asks_for() {
    let ttls = Ttls { before: None, touched: Some(30), vivified: None, created: false };
    let number = Outcome::Number { value: 17, cas: 9, ttls };
    assert_eq!(outcome("incr k 1\r\n", number), "17\r\n");
    assert_eq!(outcome("ma k\r\n", number), "HD\r\n");
    assert_eq!(outcome("ma k t v c T30 O1\r\n", number), "VA 2 t-1 c9 O1\r\n17\r\n");
    assert_eq!(outcome("ma k T30 t\r\n", number), "HD t30\r\n");
    assert_eq!(outcome("ma k c t O1 v k\r\n", Outcome::NotFound), "NF O1 kk\r\n");
}

#[test]
fn every_split_of_the_input_gives_the_same_requests() {
    let input: &[u8] = b"get a b\r\nset a 1 2 5\r\nhello\r\nms k 3 F1 T0 q\r\nabc\r\nmg aGk= b v\r\n\
        set a 0 0 1\r\nxyz\r\nincr a 5 noreply\r\nmn\r\n";
    let whole = exchange(input);
    for split in 1..input.len() {
        // With `need` more bytes, a request that is incomplete at the split is complete or asks again.
        let mut position = 0;
        let mut available = split;
        let mut out = String::new();
        while position < input.len() {
            let mut scratch = Scratch::default();
            match decode_text(&input[position..available], &mut scratch) {
                Decoded::Incomplete { need, .. } => {
                    assert!(need > 0 && available + need <= input.len());
                    available += need;
                }
                Decoded::Request { request, consumed } => {
                    let name = format!("{:?}", request.command);
                    out += &format!("[{}]", name.split([' ', '(', '{']).next().unwrap());
                    position += consumed;
                }
                Decoded::Error { error, consumed, swallow, .. } => {
                    let mut answer = Vec::new();
                    error.encode(&mut answer);
                    out += std::str::from_utf8(&answer).unwrap();
                    position += consumed + swallow;
                }
                Decoded::Close | Decoded::Part { .. } => panic!("nothing here closes or is long"),
            }
        }
        assert_eq!(out, whole, "split at {split}");
    }
}

/// Decodes a line in pieces as a connection does. Returns the decoded keys and whether the line's end was decoded.
fn keys_read(line: &str, piece: usize) -> (Vec<String>, bool) {
    let (mut buffer, mut keys) = (Vec::new(), Vec::new());
    for bytes in line.as_bytes().chunks(piece) {
        buffer.extend_from_slice(bytes);
        loop {
            assert!(buffer.len() <= RETRIEVAL_PART + piece);
            let mut scratch = Scratch::default();
            let (request, consumed, repeat) = match decode_text(&buffer, &mut scratch) {
                Decoded::Incomplete { .. } => break,
                Decoded::Part { request, consumed, repeat } => (request, consumed, repeat),
                Decoded::Request { request, consumed } => (request, consumed, 0),
                other => panic!("{other:?}"),
            };
            let Command::Get(get) = &request.command else { panic!("{request:?}") };
            assert_eq!(get.touch.is_some(), line.starts_with("gat"));
            keys.extend(get.keys.iter().map(|key| String::from_utf8(key.to_vec()).unwrap()));
            let mut end = Vec::new();
            request.reply.end_of_get(&mut end);
            if !end.is_empty() {
                assert_eq!(consumed, buffer.len());
                return (keys, true);
            }
            let start = consumed - repeat;
            buffer.copy_within(..repeat, start);
            buffer.drain(..start);
        }
    }
    (keys, false)
}

#[test]
fn a_line_of_any_number_of_keys_is_decoded_in_a_bounded_buffer() {
    let keys: Vec<String> = (0..20_000).map(|i| format!("key-{i}")).collect();
    for name in ["get", "gets", "gat 100", "gats  100 "] {
        for piece in [1000, 4099, 30_000] {
            let read = keys_read(&format!("{name} {}\r\n", keys.join(" ")), piece);
            assert_eq!(read, (keys.clone(), true), "{name} in pieces of {piece}");
        }
    }
}

#[test]
fn a_long_line_without_keys_closes_the_connection() {
    for line in ["get ".to_owned() + &"k".repeat(20_000), "get ".to_owned() + &" ".repeat(20_000), "mg k ".repeat(5000)]
    {
        assert_eq!(decode_text(line.as_bytes(), &mut Scratch::default()), Decoded::Close);
    }
}

#[test]
fn a_value_that_there_is_no_room_to_receive_is_refused_and_skipped() {
    let limits = Limits { refuse_unfinished: true, ..Limits::default() };
    // The line, what is skipped after it, whether the old item is out of date, and the reply.
    let cases: [(&[u8], usize, bool, &str); 7] = [
        (b"set a 0 0 10\r\n", 12, true, "SERVER_ERROR out of memory storing object\r\n"),
        (b"set a 0 0 10 noreply\r\n", 12, true, ""),
        (b"add a 0 0 10\r\n", 12, false, "SERVER_ERROR out of memory storing object\r\n"),
        (b"cas a 0 0 10 1\r\n", 12, false, "SERVER_ERROR out of memory storing object\r\n"),
        (b"ms a 10 q\r\n", 12, true, "SERVER_ERROR out of memory storing object\r\n"),
        (b"ms YQ== 10 b\r\n", 12, true, "SERVER_ERROR out of memory storing object\r\n"),
        (b"\x80\x01\0\x01\x08\0\0\0\0\0\0\x13\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0a", 10, true, "Out of memory"),
    ];
    for (line, value_len, is_outdated, words) in cases {
        let input = [line, b"half"].concat();
        let mut scratch = Scratch::new();
        let protocol = Protocol::of_first_byte(line[0]);
        match protocol.decode(&input, &Limits::default(), &mut scratch) {
            Decoded::Incomplete { need, key } => assert_eq!((need, key), (value_len - 4, Some(&b"a"[..]))),
            other => panic!("{other:?}"),
        }
        match protocol.decode(&input, &limits, &mut scratch) {
            Decoded::Error { error, reply, consumed, swallow, outdated, close: false } => {
                assert_eq!((error, consumed, swallow), (Error::OUT_OF_MEMORY, line.len(), value_len));
                assert_eq!(outdated, is_outdated.then_some(&b"a"[..]));
                let mut out = Vec::new();
                reply.outcome(&Outcome::Error(error), &mut out);
                assert!(String::from_utf8_lossy(&out).ends_with(words), "{out:?}");
            }
            other => panic!("{other:?}"),
        }
        // One that has arrived is stored.
        let whole = [line, &b"0123456789\r\n"[..value_len]].concat();
        assert!(matches!(protocol.decode(&whole, &limits, &mut scratch), Decoded::Request { .. }), "{words}");
    }
}

#[test]
fn a_list_of_keys_is_cut_at_the_blanks_between_them() {
    for (line, first, rest) in
        [("a", "a", ""), ("a b", "a b", ""), (" a  b ", " a  b ", ""), (" a  b c d ", " a  b", " c d "), ("", "", "")]
    {
        assert_eq!(Keys::split(line.as_bytes(), 2), (Keys::Line(first.as_bytes()), rest.as_bytes()), "{line:?}");
    }
}
