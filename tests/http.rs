//! Metrics, health checks and the status page of a real node.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use larder_tests::exporter::METRICS;
use larder_tests::{PATIENCE, Server, connect_to, free_port};

/// A node with a status page on this port.
fn node(further: &[&str]) -> (Server, u16) {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let server = Server::node(&[&["--http", &address, "-m", "16"], further].concat());
    (server, port)
}

/// The status code and the body of an answer.
fn get(port: u16, path: &str) -> (u16, String) {
    let mut socket = connect_to(port);
    write!(socket, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (code, body)
}

/// The names of all samples, without labels.
fn names(metrics: &str) -> BTreeSet<&str> {
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.split(['{', ' ']).next().unwrap()).collect()
}

/// The value of a sample.
fn value(metrics: &str, sample: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{sample} is missing")).parse().unwrap()
}

#[test]
fn every_metric_of_the_exporter_is_there_under_its_name() {
    let (server, port) = node(&[]);
    server.connect().exchange(b"set a 0 0 1\r\nx\r\nget a\r\nget b\r\n");
    let (code, metrics) = get(port, "/metrics");
    assert_eq!(code, 200);
    assert!(metrics.ends_with("# EOF\n"));
    let names = names(&metrics);
    let missing: Vec<_> =
        METRICS.iter().map(|(name, ..)| format!("memcached_{name}")).filter(|name| !names.contains(&**name)).collect();
    assert_eq!(missing, [""; 0]);
    assert_eq!(value(&metrics, "memcached_up"), 1.0);
    assert_eq!(value(&metrics, r#"memcached_version{version="1.6.45"}"#), 1.0);
    assert_eq!(value(&metrics, r#"memcached_commands_total{command="get",status="hit"}"#), 1.0);
    assert_eq!(value(&metrics, r#"memcached_commands_total{command="get",status="miss"}"#), 1.0);
    assert_eq!(value(&metrics, r#"memcached_commands_total{command="set",status="hit"}"#), 1.0);
    assert_eq!(value(&metrics, r#"memcached_slab_current_items{slab="1"}"#), 1.0);
    assert_eq!(value(&metrics, "memcached_limit_bytes"), f64::from(16 << 20));
    // The page's connections need descriptors too.
    assert_eq!(server.connect().statistic("reserved_fds"), "128");
}

#[test]
fn the_nodes_own_metrics_tell_latency_sockets_and_memory() {
    let (server, port) = node(&[]);
    let mut connection = server.connect();
    for _ in 0..64 {
        connection.exchange(b"get a\r\n");
    }
    let (_, metrics) = get(port, "/metrics");
    let measured = value(&metrics, r#"larder_command_duration_seconds_count{command="get"}"#);
    assert!((1.0..64.0).contains(&measured), "{measured}");
    assert_eq!(value(&metrics, r#"larder_command_duration_seconds_bucket{le="+Inf",command="get"}"#), measured);
    let sockets = metrics.lines().filter(|line| line.starts_with("larder_sockets{"));
    assert_eq!(sockets.map(|line| value(&metrics, line.split(' ').next().unwrap())).sum::<f64>(), 2.0);
    assert_eq!(value(&metrics, r#"larder_sockets{state="listening"}"#), 1.0);
    let parts = ["items", "index", "slack", "free"];
    let bytes: f64 = parts.iter().map(|part| value(&metrics, &format!(r#"larder_memory_bytes{{use="{part}"}}"#))).sum();
    assert_eq!(bytes, f64::from(16 << 20));
    assert_eq!(value(&metrics, "larder_reads_total"), 64.0);
    assert_eq!(value(&metrics, r#"larder_hits_by_memory_total{times="2"}"#), 0.0);
}

#[test]
fn what_the_dashboard_and_the_alerts_name_is_exported() {
    let (server, port) = node(&[]);
    server.connect().exchange(b"set a 0 0 1\r\nx\r\nget a\r\n");
    let (_, metrics) = get(port, "/metrics");
    let exported = names(&metrics);
    for file in ["dashboard.json", "alerts.yaml"] {
        let text = std::fs::read_to_string(format!("{}/../contrib/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
        let named: BTreeSet<&str> =
            words.filter(|word| word.starts_with("memcached_") || word.starts_with("larder_")).collect();
        assert!(named.len() > 3, "{file} names {named:?}");
        let unknown: Vec<&str> = named.difference(&exported).copied().collect();
        assert_eq!(unknown, [""; 0], "{file}");
    }
    let dashboard = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/dashboard.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
}

#[test]
fn what_the_manifest_for_kubernetes_scales_by_is_exported() {
    let manifest = include_str!("../contrib/kubernetes-wanted.yaml");
    let words = manifest.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    let named: BTreeSet<&str> = words.filter(|word| word.starts_with("larder_")).collect();
    assert_eq!(named.len(), 1, "{named:?}");
    let (_server, port) = node(&["--cluster", "test", "--cluster-listen", "127.0.0.1:0"]);
    let (_, metrics) = get(port, "/metrics");
    assert!(named.is_subset(&names(&metrics)), "{named:?}");
}

#[test]
fn the_page_and_its_figures_are_served_whatever_the_cache_asks_of_clients() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    std::fs::write(&users, "user:password\n").unwrap();
    let users = users.to_str().unwrap();
    for further in [&[][..], &["-Y", users], &["-S"]] {
        let port = free_port();
        let http = format!("127.0.0.1:{port}");
        let arguments = [&["--http", &http], further].concat();
        let _server = Server::node_in(&[("MEMCACHED_SASL_PWDB", users)], &arguments);
        assert_eq!(get(port, "/livez"), (200, "live\n".to_owned()));
        assert_eq!(get(port, "/readyz"), (200, "ready\n".to_owned()));
        let (code, page) = get(port, "/");
        assert!(code == 200 && page.contains("<h1>larder-node</h1>"), "{page}");
        assert!(get(port, "/page.js").1.contains("requestAnimationFrame"));
        assert!(get(port, "/page.css").1.contains("light-dark"));
        let (code, json) = get(port, "/status.json?since=0");
        let state: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(code == 200 && state["ready"] == true && state["memory"][0][0] == "items", "{state}");
        assert_eq!(get(port, "/cluster").0, 404);
        assert_eq!(get(port, "/nothing").0, 404);
    }
}

#[test]
fn the_page_has_the_prefixes_that_are_read_most_and_the_slowest_while_they_are_counted() {
    let (server, port) = node(&["-D", ":"]);
    let mut connection = server.connect();
    let large = "x".repeat(20_000);
    connection.exchange(format!("set large:a 0 0 {}\r\n{large}\r\nset small:a 0 0 1\r\nx\r\n", large.len()).as_bytes());
    let mut gets = |key: &str, batches: usize| {
        for _ in 0..batches {
            connection.exchange(format!("get {key}\r\n").repeat(10).as_bytes());
        }
    };
    // One command of 16 is measured, and 16 at least must be.
    gets("small:a", 100);
    gets("large:a", 80);
    let state: serde_json::Value = serde_json::from_str(&get(port, "/status.json").1).unwrap();
    let names = |id: &str| state[id].as_array().unwrap().iter().map(|row| row[0].clone()).collect::<Vec<_>>();
    assert_eq!(names("prefixes"), ["small", "large"]);
    assert_eq!((&state["prefixes"][0][1], &state["prefixes"][0][2]), (&1000.into(), &1000.into()));
    let slowest = names("slowest");
    assert_eq!(slowest.len(), 2, "{state}");
    let times: Vec<f64> = (0..2).map(|row| state["slowest"][row][4].as_f64().unwrap()).collect();
    assert!(times[0] >= times[1] && times[1] > 0.0, "{times:?}");
}

#[test]
fn clients_that_send_nothing_or_nonsense_harm_neither_the_page_nor_the_cache() {
    let (server, port) = node(&[]);
    let idle: Vec<TcpStream> = (0..50).map(|_| connect_to(port)).collect();
    let mut nonsense = connect_to(port);
    nonsense.write_all(b"\0\x80 nonsense\r\n\r\n").unwrap();
    let mut answer = String::new();
    nonsense.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let mut long = connect_to(port);
    // The node may close before all is sent.
    let _ = long.write_all(format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000)).as_bytes());
    assert_eq!(get(port, "/livez").0, 200);
    assert_eq!(server.connect().exchange(b"get a\r\n"), "END\r\n");
    drop(idle);
}

#[test]
fn a_node_that_is_told_to_stop_does_not_say_that_it_is_ready() {
    let (server, port) = node(&[]);
    let mut socket = connect_to(port);
    let mut ask = || -> std::io::Result<String> {
        socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: node\r\n\r\n")?;
        let mut answer = [0; 1024];
        let len = socket.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..len]).into_owned())
    };
    assert!(ask().unwrap().starts_with("HTTP/1.1 200"));
    server.signal("TERM");
    let deadline = Instant::now() + PATIENCE;
    // It may end before it is asked again.
    while let Ok(answer) = ask() {
        if answer.is_empty() || answer.starts_with("HTTP/1.1 503") {
            break;
        }
        assert!(Instant::now() < deadline, "still ready");
    }
    assert!(server.wait());
}
