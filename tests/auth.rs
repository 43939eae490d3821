//! Authentication: which clients are served, which counters count, and reloads of the user file.

use std::process::Command;
use std::time::{Duration, Instant};

use larder_protocol::binary::opcode;
use larder_tests::{Connection, PATIENCE, Server, binary};

fn users_file(users: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), users).unwrap();
    file
}

/// A binary packet.
fn packet(opcode: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut packet = [0; 24];
    packet[0] = 0x80;
    packet[1] = opcode;
    packet[3] = key.len() as u8;
    packet[8..12].copy_from_slice(&((key.len() + value.len()) as u32).to_be_bytes());
    [&packet[..], key, value].concat()
}

/// Sends a packet and reads the status and the body of the answer.
fn ask(connection: &mut Connection, packet: &[u8]) -> (u16, String) {
    connection.send(packet);
    let header = connection.read(24);
    let body = connection.read(u32::from_be_bytes(header[8..12].try_into().unwrap()) as usize);
    (u16::from_be_bytes([header[6], header[7]]), String::from_utf8(body).unwrap())
}

const OK: u16 = 0;
const INVALID_ARGUMENTS: u16 = 4;
const AUTH_ERROR: u16 = 0x20;

#[test]
fn with_an_auth_file_nothing_but_authentication_is_served_before_it() {
    let users = users_file("ada:secret\nbob:other");
    let node = Server::node(&["-Y", users.path().to_str().unwrap()]);
    let mut connection = node.connect();
    let refused = "CLIENT_ERROR unauthenticated\r\n";
    let long = format!("get {}\r\n", "key ".repeat(500));
    for command in ["get a\r\n", "mg a v\r\n", "version\r\n", "stats\r\n", "shutdown\r\n", "no such\r\n", &long] {
        connection.send(command.as_bytes());
        assert_eq!(connection.line(), refused, "{command}");
    }
    connection.send(b"set any 0 0 9\r\nada wrong\r\n");
    assert_eq!(connection.line(), "CLIENT_ERROR authentication failure\r\n");
    connection.send(b"set any 0 0 9\r\nbob other\r\n");
    assert_eq!(connection.line(), "STORED\r\n");
    assert_eq!(
        connection.exchange(b"get any\r\nset a 0 0 1\r\nx\r\nget a\r\n"),
        "END\r\nSTORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n"
    );
    assert_eq!(connection.statistic("auth_cmds"), "2");
    assert_eq!(connection.statistic("auth_errors"), "1");
}

#[test]
fn a_key_list_too_long_to_hold_is_not_served_in_parts_before_authentication() {
    let users = users_file("ada:secret");
    let node = Server::node(&["-Y", users.path().to_str().unwrap()]);
    let mut connection = node.connect();
    connection.send(&[b"get".to_vec(), b" key".repeat(20_000)].concat());
    assert_eq!(connection.read_to_end(), b"");
}

#[test]
fn with_sasl_nothing_but_authentication_is_served_before_it() {
    let users = users_file("ada:secret\n");
    let node = Server::node_in(&[("MEMCACHED_SASL_PWDB", users.path().to_str().unwrap())], &["-S"]);
    let plain = |data: &[u8]| packet(opcode::SASL_AUTH, b"PLAIN", data);
    let mut connection = node.connect();
    assert_eq!(ask(&mut connection, &packet(opcode::SASL_LIST, b"", b"")), (OK, "PLAIN".to_owned()));
    assert_eq!(ask(&mut connection, &packet(opcode::VERSION, b"", b"")).0, OK);
    assert_eq!(ask(&mut connection, &packet(opcode::SASL_AUTH, &[b'X'; 40], b"x")).0, INVALID_ARGUMENTS);
    assert_eq!(ask(&mut connection, &packet(opcode::SASL_AUTH, b"CRAM-MD5", b"x")).0, AUTH_ERROR);
    assert_eq!(ask(&mut connection, &packet(opcode::SASL_STEP, b"PLAIN", b"\0ada\0secret")).0, AUTH_ERROR);
    assert_eq!(ask(&mut connection, &plain(b"\0ada\0wrong")).0, AUTH_ERROR);
    assert_eq!(ask(&mut connection, &plain(b"\0ada\0secret")), (OK, "Authenticated".to_owned()));
    assert_eq!(ask(&mut connection, &packet(opcode::GET, b"a", b"")), (1, "Not found".to_owned()));

    for refused in [packet(opcode::GET, b"a", b""), packet(opcode::STAT, b"", b""), packet(0x7f, b"", b"")] {
        let mut connection = node.connect();
        assert_eq!(ask(&mut connection, &refused), (AUTH_ERROR, "Auth failure.".to_owned()));
        assert_eq!(connection.read_to_end(), b"");
    }
    // The node does not accept the text protocol at all.
    let mut text = node.connect();
    text.send(&b"get a\r\n".repeat(4));
    assert_eq!(text.read_to_end(), b"");
}

#[test]
fn after_sasl_a_connection_speaks_text_and_meta_too_unless_the_node_is_bound_to_binary() {
    let users = users_file("ada:secret\n");
    let environment = [("MEMCACHED_SASL_PWDB", users.path().to_str().unwrap())];
    let login = packet(opcode::SASL_AUTH, b"PLAIN", b"\0ada\0secret");
    let node = Server::node_in(&environment, &["-S"]);
    let mut connection = node.connect();
    assert_eq!(ask(&mut connection, &login).0, OK);
    assert_eq!(connection.exchange(b"set a 0 0 1\r\nx\r\nmg a v\r\n"), "STORED\r\nVA 1\r\nx\r\n");
    // The login and what follows it may arrive together.
    let mut connection = node.connect();
    connection.send(&[&login[..], b"get a\r\n"].concat());
    connection.read(24 + "Authenticated".len());
    assert_eq!(connection.read(16), b"VALUE a 0 1\r\nx\r\n");
    // A login that fails opens nothing.
    let mut connection = node.connect();
    connection.send(&[&packet(opcode::SASL_AUTH, b"PLAIN", b"\0ada\0wrong")[..], &b"get a\r\n".repeat(4)].concat());
    let header = connection.read(24);
    assert_eq!(u16::from_be_bytes([header[6], header[7]]), AUTH_ERROR);
    let rest = String::from_utf8(connection.read_to_end()).unwrap();
    assert!(!rest.contains("VALUE"), "{rest}");

    let node = Server::node_in(&environment, &["-S", "-B", "binary"]);
    let mut connection = node.connect();
    assert_eq!(ask(&mut connection, &login).0, OK);
    connection.send(&b"get a\r\n".repeat(4));
    assert_eq!(connection.read_to_end(), b"");
}

#[test]
fn the_clients_login_by_sasl_works_with_s_and_names_a_server_that_speaks_binary_alone() {
    let users = users_file("ada:secret\n");
    let environment = [("MEMCACHED_SASL_PWDB", users.path().to_str().unwrap())];
    let client = |node: &Server, password: &str| {
        let builder = larder_client::Client::builder().server(node.address()).timeout(PATIENCE);
        builder.sasl_login("ada", password).build_blocking().unwrap()
    };
    let node = Server::node_in(&environment, &["-S"]);
    let admitted = client(&node, "secret");
    admitted.set("a", "x", Duration::ZERO).unwrap();
    assert_eq!(admitted.get("a").unwrap().unwrap(), "x");
    let refused = client(&node, "wrong").get("a").unwrap_err().to_string();
    assert!(refused.contains("refused the login"), "{refused}");

    // As memcached with -S.
    let node = Server::node_in(&environment, &["-S", "-B", "binary"]);
    let refused = client(&node, "secret").get("a").unwrap_err().to_string();
    assert!(refused.contains("Start it with -Y FILE and log in with Builder::login"), "{refused}");
}

#[test]
fn users_are_read_again_on_sighup_unless_the_file_is_of_no_use() {
    let users = users_file("ada:secret\n");
    let node = Server::node(&["-Y", users.path().to_str().unwrap()]);
    let accepts = |token: &str| {
        let mut connection = node.connect();
        connection.send(format!("set any 0 0 {}\r\n{token}\r\n", token.len()).as_bytes());
        connection.line() == "STORED\r\n"
    };
    let eventually = |holds: &dyn Fn() -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline);
        }
    };
    assert!(accepts("ada secret"));
    std::fs::write(users.path(), "eve:new\n").unwrap();
    node.signal("HUP");
    eventually(&|| accepts("eve new"));
    assert!(!accepts("ada secret"));
    std::fs::write(users.path(), "no users\n").unwrap();
    node.signal("HUP");
    std::fs::write(users.path(), "eve:new\nbob:third\n").unwrap();
    node.signal("HUP");
    eventually(&|| accepts("bob third"));
    assert!(accepts("eve new"));
}

#[test]
fn flags_that_would_let_somebody_in_unasked_are_refused() {
    let users = users_file("ada:secret\n");
    let users = users.path().to_str().unwrap();
    let wrong: [&[&str]; 5] = [
        &["-Y", users, "-U", "11211"],
        &["-Y", users, "-B", "binary"],
        &["-Y", users, "-l", "proto[binary]:127.0.0.1"],
        &["-S", "-B", "ascii"],
        &["-Y", "/no/such/file"],
    ];
    for arguments in wrong {
        let output = Command::new(binary("larder-node")).args(["-p", "-1"]).args(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
    }
}
