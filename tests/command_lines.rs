//! Command lines and environments of the field: a node starts with them wherever memcached does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use larder_tests::{PATIENCE, Server, binary};

/// Runs a node that does not serve, and returns what it said.
fn run(environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new(binary("larder-node")).envs(environment.iter().copied()).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_node_starts_with_the_arguments_that_charts_units_and_modules_give_to_memcached() {
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("memcached.pid");
    let pid_file = pid_file.to_str().unwrap();
    let both_families = if TcpListener::bind("[::1]:0").is_ok() { "127.0.0.1,::1" } else { "127.0.0.1" };
    // Ports are replaced by free ones; users by one that every system has.
    let command_lines: &[(&str, &[&str])] = &[
        (
            "grafana/loki, _memcached-statefulset.tpl, chunks-cache",
            &["-m 8192", "--extended=modern,track_sizes", "-I 5m", "-c 16384", "-v", "-u 11211"],
        ),
        (
            "grafana/loki, with extraExtendedOptions and extraArgs",
            &["-m 1024", "--extended=modern,track_sizes,no_hashexpand", "-I 5m", "-c 16384", "-v", "-u 11211", "-t 4"],
        ),
        (
            "grafana/mimir, _memcached-statefulset.tpl",
            &["-m 2048", "--extended=modern", "-I 1m", "-c 16384", "-v", "-u 11211"],
        ),
        ("grafana/helm-charts, tempo-distributed, no arguments", &[]),
        ("a template of Ansible that computes with the machine's memory", &["-m", "64.5", "-c", "1024.0", "-t", "2.0"]),
        ("grafana/helm-charts, tempo-distributed, extraArgs of its values", &["-m", "512", "-I", "8m", "-vv"]),
        ("bitnami/containers, run.sh", &["-u", "nobody", "-p", "-1", "-v"]),
        (
            "bitnami/containers, run.sh with all its variables",
            &["-u", "nobody", "-p", "-1", "-v", "-l", "127.0.0.1", "-m", "1024", "-c", "2000", "-t", "4", "-I", "8m"],
        ),
        (
            "Debian, memcached.conf through systemd-memcached-wrapper",
            &["-m", "64", "-p", "-1", "-u", "nobody", "-l", "127.0.0.1", "-P", pid_file],
        ),
        (
            "Fedora, memcached.service with /etc/sysconfig/memcached",
            &["-p", "-1", "-u", "nobody", "-m", "64", "-c", "1024", "-l", both_families],
        ),
        ("openstack/kolla-ansible, memcached.json.j2", &["-v", "-l", "127.0.0.1", "-p", "-1", "-c", "5000", "-U", "0"]),
        (
            "saz/puppet-memcached, memcached.conf.erb",
            &[
                "-P",
                pid_file,
                "-v",
                "-m",
                "950",
                "-l",
                "127.0.0.1,",
                "-p",
                "-1",
                "-U",
                "0",
                "-u",
                "nobody",
                "-L",
                "-c",
                "8192",
                "-t",
                "2",
                "-I",
                "2m",
                "-n",
                "48",
                "-f",
                "1.25",
                "-M",
                "-o",
                "slab_reassign,modern,",
                "-X",
            ],
        ),
        (
            "saz/puppet-memcached, memcached_sysconfig.erb: systemd hands the redirection over",
            &[
                "-p",
                "-1",
                "-u",
                "nobody",
                "-m",
                "950",
                "-c",
                "8192",
                "-l",
                "127.0.0.1",
                "-U",
                "0",
                "-t",
                "2",
                ">>",
                "/var/log/memcached.log",
                "2>&1",
            ],
        ),
    ];
    for (origin, arguments) in command_lines {
        let node = Server::node(arguments);
        assert_eq!(
            node.connect().exchange(b"set a 0 0 1\r\nx\r\nget a\r\n"),
            "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n",
            "{origin}"
        );
    }
}

#[test]
fn the_same_address_twice_is_listened_on_once() {
    let port = larder_tests::free_port().to_string();
    let node = Server::node(&["-l", "127.0.0.1", "-l", "127.0.0.1,", "-p", &port, "-l", "localhost"]);
    let ports = node.ports().iter().filter(|&&open| open.to_string() == port).count();
    assert_eq!(ports, 1, "{:?}", node.ports());
}

#[test]
fn every_flag_can_be_given_by_a_variable_and_the_command_line_goes_first() {
    let environment = [
        ("LARDER_LISTEN", "127.0.0.1"),
        ("LARDER_MEMORY_LIMIT", "128m"),
        ("LARDER_MAX_ITEM_SIZE", "2m"),
        ("LARDER_CONN_LIMIT", "77"),
        ("LARDER_LISTEN_BACKLOG", "99"),
        ("LARDER_MAX_REQS_PER_EVENT", "7"),
        ("LARDER_DISABLE_CAS", "yes"),
        ("LARDER_ENABLE_SHUTDOWN", "1"),
        ("LARDER_DISABLE_FLUSH_ALL", "false"),
        ("LARDER_EVICTION", "lru"),
        ("LARDER_VERBOSE", "1"),
        ("LARDER_EXTENDED", "idle_timeout=60"),
        ("LARDER_THREADS", "9"),
    ];
    let node = Server::node_in(&environment, &[]);
    let settings = node.connect().exchange(b"stats settings\r\n");
    let expected = [
        "inter 127.0.0.1",
        "maxbytes 134217728",
        "item_size_max 2097152",
        "maxconns 77",
        "tcp_backlog 99",
        "reqs_per_event 7",
        "cas_enabled no",
        "shutdown_command yes",
        "flush_enabled yes",
        "eviction_policy lru",
        "verbosity 1",
        "idle_timeout 60",
        // Server::node gives -t 2.
        "num_threads 2",
    ];
    for line in expected {
        assert!(settings.contains(&format!("STAT {line}\r\n")), "{line}: {settings}");
    }
    let wrong = run(&[("LARDER_MEMORY_LIMIT", "much")], &["-p", "-1"]);
    assert!(said(&wrong).contains("MiB as a whole number, or with a unit"), "{}", said(&wrong));
}

#[test]
fn variables_that_are_empty_or_that_kubernetes_sets_for_a_service_change_nothing() {
    let mut environment = vec![
        // What a Service named larder gives to every pod of its namespace, and one named larder-udp.
        ("LARDER_PORT", "tcp://10.96.0.10:11211"),
        ("LARDER_SERVICE_HOST", "10.96.0.10"),
        ("LARDER_SERVICE_PORT", "11211"),
        ("LARDER_SERVICE_PORT_MEMCACHE", "11211"),
        ("LARDER_PORT_11211_TCP", "tcp://10.96.0.10:11211"),
        ("LARDER_PORT_11211_TCP_PROTO", "tcp"),
        ("LARDER_PORT_11211_TCP_PORT", "11211"),
        ("LARDER_PORT_11211_TCP_ADDR", "10.96.0.10"),
        ("LARDER_UDP_PORT", "udp://10.96.0.11:11211"),
    ];
    let empty = [
        "LISTEN",
        "UNIX_SOCKET",
        "UNIX_MASK",
        "LISTEN_BACKLOG",
        "PROTOCOL",
        "MEMORY_LIMIT",
        "MAX_ITEM_SIZE",
        "EVICTION",
        "DISABLE_EVICTIONS",
        "LOCK_MEMORY",
        "CONN_LIMIT",
        "THREADS",
        "MAX_REQS_PER_EVENT",
        "DISABLE_FLUSH_ALL",
        "ENABLE_SSL",
        "AUTH_FILE",
        "ENABLE_SASL",
        "VERBOSE",
        "DAEMON",
        "PIDFILE",
        "USER",
        "EXTENDED",
        "DEBUG_TIME",
        "SLAB_GROWTH_FACTOR",
        "CLUSTER",
        "SEEDS",
        "NODE_ID",
        "MOVE_RATE",
    ]
    .map(|name| format!("LARDER_{name}"));
    environment.extend(empty.iter().map(|name| (&**name, "")));
    let node = Server::node_in(&environment, &["-m", "100"]);
    let settings = node.connect().exchange(b"stats settings\r\n");
    assert!(settings.contains("STAT maxbytes 104857600\r\n") && settings.contains("STAT maxconns 1024\r\n"));

    let mut node = Command::new(binary("larder-node"));
    node.envs(environment).args(["-s", "/no/such/folder/node.sock"]);
    let said = said(&node.output().unwrap());
    assert_eq!(said.matches("LARDER_PORT=tcp://10.96.0.10:11211 is ignored").count(), 1, "{said}");
    assert_eq!(said.matches("is ignored").count(), 2, "{said}");
}

#[test]
fn the_load_generator_takes_an_empty_variable_for_none() {
    let mut command = Command::new(binary("larder-bench"));
    command.args(["load", "--help"]).env("LARDER_PASSWORD", "");
    assert!(command.output().unwrap().status.success());
    let mut command = Command::new(binary("larder-bench"));
    command.args(["load", "-s", "127.0.0.1:1", "-d", "1s"]).env("LARDER_PASSWORD", "");
    let said = said(&command.output().unwrap());
    assert!(!said.contains("--user"), "{said}");
}

#[test]
fn a_start_that_fails_says_so_in_one_line_with_what_to_change() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let cases: &[(&[&str], &str)] = &[
        (&["-p", &port], &format!("error: failed to listen on TCP 127.0.0.1 port {port}: Address already in use")),
        (&["-p", "abc"], "invalid value 'abc' for '--port <PORT>': a whole number from -1 to 65535"),
        (&["-m", "1x"], "invalid value '1x' for '--memory-limit <SIZE>': MiB as a whole number, or with a unit"),
        (&["-t", "0"], "'--threads <COUNT>': a whole number from 1 to 256"),
    ];
    for (arguments, message) in cases {
        let output = run(&[], arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(said(&output).contains(message), "{arguments:?}: {}", said(&output));
        assert!(said(&output).lines().any(|line| line.starts_with("error: ")), "{}", said(&output));
    }
}

#[test]
fn a_node_that_listens_nowhere_warns() {
    let mut node = Command::new(binary("larder-node")).args(["-p", "0"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(node.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(log.any(|line| line.contains("WARN -p 0 leaves nothing to listen on: give a port by -p or -U")));
    node.kill().unwrap();
    node.wait().unwrap();
}

#[test]
fn a_node_in_the_background_fails_before_its_command_ends_or_serves_after_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for failing in [&["-d", "-p", &port][..], &["-d", "-p", "-1", "-Z", "-o", "ssl_chain_cert=/no/such/file"]] {
        let output = run(&[], failing);
        assert_eq!(output.status.code(), Some(1), "{failing:?}");
        assert!(said(&output).contains("error: "), "{failing:?}: {}", said(&output));
    }
    let folder = tempfile::tempdir().unwrap();
    let (pid_file, socket) = (folder.path().join("pid"), folder.path().join("node.sock"));
    let status = Command::new(binary("larder-node"))
        .args(["-d", "-P", pid_file.to_str().unwrap(), "-s", socket.to_str().unwrap()])
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    // The node serves already.
    let mut client = UnixStream::connect(&socket).unwrap();
    client.write_all(b"mn\r\n").unwrap();
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"MN\r\n");
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    assert!(Command::new("kill").args(["-TERM", pid.trim()]).status().unwrap().success());
    wait_until("the node removes its files when it stops", || !pid_file.exists() && !socket.exists());
}

#[test]
fn memcacheds_signal_for_a_graceful_stop_answers_what_was_read_and_removes_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let node = Server::node(&["-P", pid_file.to_str().unwrap()]);
    let mut connection = node.connect();
    let value = "x".repeat(100_000);
    connection.exchange(format!("set a 0 0 100000\r\n{value}\r\n").as_bytes());
    connection.send(&b"get a\r\n".repeat(20));
    let answer = format!("VALUE a 0 100000\r\n{value}\r\nEND\r\n");
    let mut first = vec![0; answer.len()];
    TcpStream::try_clone(connection.socket()).unwrap().read_exact(&mut first).unwrap();
    node.signal("USR1");
    assert!(node.wait());
    assert!(!pid_file.exists());
    // All that was read was answered: whole answers, and nothing behind them.
    let rest = connection.read_to_end();
    assert_eq!(rest.len() % answer.len(), 0);
}

#[test]
fn the_licence_is_printed() {
    for flag in ["-i", "--license"] {
        let output = run(&[], &[flag]);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("MIT License"));
    }
}

#[test]
fn clients_cannot_fill_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let chain = folder.path().join("chain");
    std::fs::write(&chain, certificate.pem() + &key.serialize_pem()).unwrap();
    for verbosity in [&[][..], &["-v"]] {
        let log = folder.path().join("log");
        let ports = folder.path().join("ports");
        let options = format!("ssl_chain_cert={}", chain.display());
        let mut node = Command::new(binary("larder-node"))
            .args(["-p", "-1", "-c", "8", "-Z", "-o", &options, "-l", "127.0.0.1,notls:127.0.0.1"])
            .args(verbosity)
            .env("MEMCACHED_PORT_FILENAME", &ports)
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        wait_until("the node serves", || ports.exists());
        let ports_of = |path: &Path| -> Vec<u16> {
            let text = std::fs::read_to_string(path).unwrap();
            text.lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
        };
        let [tls, plain] = ports_of(&ports)[..] else { panic!("two ports") };
        let lines = || std::fs::read_to_string(&log).unwrap().lines().count();
        let before = lines();
        for _ in 0..5 {
            // No handshake; a host name that is an address; commands of no protocol; too many connections.
            for (port, bytes) in
                [(tls, &b"get a\r\n\r\n"[..]), (tls, HELLO_TO_AN_ADDRESS), (plain, b"GET / HTTP/1.0\r\n\r\n")]
            {
                let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
                client.write_all(bytes).unwrap();
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                let _ = client.read(&mut [0; 4096]);
            }
            let many: Vec<_> = (0..20).map(|_| TcpStream::connect(("127.0.0.1", plain)).unwrap()).collect();
            for mut client in many {
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                let _ = client.write_all(b"get bad key\x01\r\nnonsense\r\nquit\r\n");
                let _ = client.read(&mut [0; 100]);
            }
        }
        let after = lines();
        node.kill().unwrap();
        node.wait().unwrap();
        assert_eq!(before, after, "{}", std::fs::read_to_string(&log).unwrap());
        std::fs::remove_file(&ports).unwrap();
    }
}

/// A ClientHello of TLS 1.2 whose server name is `127.0.0.1`, as Ruby's dalli sends it.
const HELLO_TO_AN_ADDRESS: &[u8] = &[
    0x16, 3, 1, 0, 81, // a handshake record of 81 bytes
    1, 0, 0, 77, // ClientHello
    3, 3, // TLS 1.2
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
    32, 0, // no session
    0, 2, 0xc0, 0x2b, // ECDHE-ECDSA-AES128-GCM-SHA256
    1, 0, // no compression
    0, 34, // extensions
    0, 0, 0, 14, 0, 12, 0, 0, 9, b'1', b'2', b'7', b'.', b'0', b'.', b'0', b'.', b'1', // server_name
    0, 10, 0, 4, 0, 2, 0, 29, // supported_groups: x25519
    0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms: ecdsa_secp256r1_sha256
];
