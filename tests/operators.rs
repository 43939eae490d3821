//! Commands of operators: dumps of keys, `watch`, and statistics by prefix and by connection.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use larder_protocol::binary::opcode;
use larder_tests::exporter::{self, Group};
use larder_tests::{Connection, PATIENCE, Server, binary};

/// Reads the lines before the line `end`.
fn lines_until(connection: &mut Connection, end: &str) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let line = connection.line();
        assert!(!line.is_empty(), "closed after {lines:?}");
        if line == end {
            return lines;
        }
        lines.push(line);
    }
}

/// Returns the words `name=value` of a line, without those that depend on the time.
fn without_time(line: &str) -> String {
    let words = line.trim_end().split(' ').filter(|word| {
        !["ts=", "gid=", "cfd=", "rport=", "la=", "cas=", "size="].iter().any(|name| word.starts_with(name))
    });
    words.collect::<Vec<_>>().join(" ")
}

fn watch(server: &Server, topics: &str) -> Connection {
    let mut watcher = server.connect();
    watcher.send(format!("watch {topics}\n").as_bytes());
    assert_eq!(watcher.line(), "OK\r\n");
    watcher
}

/// Waits until a statistic has a value.
fn wait_for(connection: &mut Connection, statistic: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !connection.exchange(b"stats\r\n").contains(&format!("STAT {statistic}\r\n")) {
        assert!(Instant::now() < deadline, "{statistic} never came");
    }
}

#[test]
fn a_dump_lists_every_key_once_with_its_metadata() {
    let check = |server: &Server| {
        let mut connection = server.connect();
        connection.exchange(
            b"set a 7 0 1\r\nx\r\nset odd#key 0 0 2\r\nxy\r\nget a\r\nms AAE= 1 b\r\nx\r\nset past 0 -1 1\r\nx\r\n",
        );
        connection.send(b"lru_crawler metadump hash\r\n");
        assert_eq!(connection.line(), "OK\r\n");
        let lines: BTreeSet<String> =
            lines_until(&mut connection, "END\r\n").iter().map(|line| without_time(line)).collect();
        let expected = [
            "key=%00%01 exp=-1 fetch=no cls=1 flags=0",
            "key=a exp=-1 fetch=yes cls=1 flags=7",
            "key=odd%23key exp=-1 fetch=no cls=1 flags=0",
        ];
        assert_eq!(lines, expected.map(str::to_owned).into());
        connection.send(b"lru_crawler mgdump hash\r\n");
        assert_eq!(connection.line(), "OK\r\n");
        let lines: BTreeSet<String> = lines_until(&mut connection, "EN\r\n").into_iter().collect();
        assert_eq!(lines, ["mg AAE= b\r\n", "mg a\r\n", "mg odd#key\r\n"].map(str::to_owned).into());
        assert_eq!(connection.exchange(b"mg a v\r\n"), "VA 1\r\nx\r\n", "the connection goes on");
    };
    check(&Server::node(&[]));
    if let Some(program) = std::env::var_os("LARDER_MEMCACHED") {
        check(&Server::memcached_at(program.as_ref(), &[]));
    }
}

#[test]
fn a_dump_of_many_keys_is_whole() {
    let node = Server::node(&[]);
    let mut connection = node.connect();
    let sets: String = (0..20_000).map(|n| format!("set key-{n} 0 0 1 noreply\r\nx\r\n")).collect();
    assert_eq!(connection.exchange(sets.as_bytes()), "");
    connection.send(b"lru_crawler mgdump all\r\n");
    assert_eq!(connection.line(), "OK\r\n");
    let found: BTreeSet<String> = lines_until(&mut connection, "EN\r\n").into_iter().collect();
    assert_eq!(found, (0..20_000).map(|n| format!("mg key-{n}\r\n")).collect());
}

#[test]
fn a_client_that_does_not_read_its_dump_holds_up_nobody_and_only_other_dumps_wait() {
    let node = Server::node(&["-m", "256"]);
    let mut connection = node.connect();
    let long = "k".repeat(240);
    let sets: String = (0..100_000).map(|n| format!("set {long}{n} 0 0 1 noreply\r\nx\r\n")).collect();
    assert_eq!(connection.exchange(sets.as_bytes()), "");
    let mut slow = TcpStream::connect(("127.0.0.1", node.port())).unwrap();
    slow.write_all(b"lru_crawler metadump all\r\n").unwrap();
    let mut ok = [0; 4];
    slow.read_exact(&mut ok).unwrap();
    assert_eq!(&ok, b"OK\r\n");
    // Some of these connections share the worker of the first.
    for _ in 0..4 {
        assert_eq!(node.connect().exchange(format!("mg {long}7 v\r\n").as_bytes()), "VA 1\r\nx\r\n");
    }
    assert_eq!(connection.exchange(b"lru_crawler metadump all\r\n"), "BUSY currently processing crawler request\r\n");
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    // The dump has 34 MB, the items have 30 MB.
    assert!(kibibytes < 80 * 1024, "{kibibytes} KiB are resident");
    drop(slow);
    wait_for(&mut connection, "lru_crawler_running 0");
}

#[test]
fn dumps_are_refused_as_memcached_refuses_them() {
    let check = |server: &Server, disabled: &Server| {
        let mut connection = server.connect();
        assert_eq!(connection.exchange(b"lru_crawler metadump 0\r\n"), "BADCLASS invalid class id\r\n");
        connection.send(b"lru_crawler metadump 7,8\r\n");
        assert_eq!(connection.line() + &connection.line(), "OK\r\nEND\r\n", "no items in these classes");
        connection.send(b"version\r\nlru_crawler metadump hash\r\n");
        assert!(connection.line().starts_with("VERSION"));
        assert_eq!(connection.line(), "ERROR cannot pipeline other commands before metadump\r\n");
        let mut connection = disabled.connect();
        assert_eq!(connection.exchange(b"lru_crawler metadump all\r\n"), "ERROR metadump not allowed\r\n");
        assert_eq!(connection.exchange(b"lru_crawler mgdump all\r\n"), "ERROR key dump not allowed\r\n");
        assert_eq!(connection.exchange(b"stats cachedump 1 1\r\n"), "CLIENT_ERROR stats cachedump not allowed\r\n");
        assert_eq!(connection.exchange(b"stats detail on\r\n"), "CLIENT_ERROR stats detail not allowed\r\n");
    };
    let node = Server::node(&[]);
    check(&node, &Server::node(&["-X"]));
    let mut connection = node.connect();
    assert_eq!(connection.exchange(b"lru_crawler disable\r\n"), "OK\r\n");
    assert_eq!(connection.exchange(b"lru_crawler mgdump hash\r\n"), "CLIENT_ERROR lru crawler disabled\r\n");
    assert_eq!(connection.exchange(b"lru_crawler enable\r\nlru_crawler crawl all\r\n"), "OK\r\nOK\r\n");
    if let Some(program) = std::env::var_os("LARDER_MEMCACHED") {
        let program = program.as_ref();
        check(&Server::memcached_at(program, &[]), &Server::memcached_at(program, &["-X"]));
    }
}

#[test]
fn a_watcher_sees_what_commands_do() {
    let check = |server: &Server| {
        let mut watcher = watch(server, "fetchers mutations deletions");
        let mut connection = server.connect();
        connection.send(b"get a\r\nset a 0 100 2\r\nhi\r\nmg a v\r\nadd a 0 0 1\r\nx\r\nms n#w 1 MA\r\nx\r\ncas a 0 0 1 1\r\nx\r\ntouch a 0\r\ndelete a\r\nmd a\r\nset big 0 0 2000000\r\n");
        let expected = [
            "type=item_get key=a status=not_found clsid=0",
            "type=item_get key=a status=not_found clsid=0",
            "type=item_store key=a status=stored cmd=set ttl=100 clsid=1",
            "type=item_get key=a status=found clsid=1",
            "type=item_get key=a status=found clsid=1",
            "type=item_store key=a status=not_stored cmd=add ttl=0 clsid=1",
            "type=item_get key=n%23w status=not_found clsid=0",
            "type=item_store key=n%23w status=not_stored cmd=append ttl=0 clsid=1",
            "type=item_get key=a status=found clsid=1",
            "type=item_store key=a status=exists cmd=cas ttl=0 clsid=1",
            "type=item_get key=a status=found clsid=1",
            "type=item_get key=a status=found clsid=1",
            "type=deleted key=a cmd=delete clsid=1",
            "type=item_get key=a status=not_found clsid=0",
            "type=item_store key=big status=too_large cmd=set ttl=0",
        ];
        for expected in expected {
            let line = watcher.line();
            assert!(line.starts_with("ts="), "{line}");
            assert!(without_time(&line).starts_with(expected), "{line} is not {expected}");
        }
    };
    check(&Server::node(&[]));
    if let Some(program) = std::env::var_os("LARDER_MEMCACHED") {
        check(&Server::memcached_at(program.as_ref(), &[]));
    }
}

#[test]
fn a_watcher_sees_connections_come_and_go() {
    let node = Server::node(&[]);
    let mut watcher = watch(&node, "connevents");
    let mut connection = node.connect();
    connection.send(b"quit\r\n");
    let mut events = Vec::new();
    while events.len() < 4 {
        if events.len() == 2 {
            let mut connection = node.connect();
            connection.send(b"GET / HTTP/1.1\r\n");
            assert_eq!(connection.read_to_end(), b"");
        }
        let event = without_time(&watcher.line());
        // The connection that found the node ready may not be closed yet.
        if !(events.is_empty() && event.contains("conn_close")) {
            events.push(event);
        }
    }
    let expected = [
        "type=conn_new rip=127.0.0.1 transport=tcp",
        "type=conn_close rip=127.0.0.1 transport=tcp reason=normal",
        "type=conn_new rip=127.0.0.1 transport=tcp",
        "type=conn_close rip=127.0.0.1 transport=tcp reason=error",
    ];
    assert_eq!(events, expected);
}

#[test]
fn a_watcher_sees_what_is_evicted() {
    let node = Server::node(&["-m", "8"]);
    let mut watcher = watch(&node, "evictions");
    let mut connection = node.connect();
    let value = "x".repeat(1000);
    let sets: String = (0..20_000).map(|n| format!("set key-{n} 0 100 1000 noreply\r\n{value}\r\n")).collect();
    assert_eq!(connection.exchange(sets.as_bytes()), "");
    let line = watcher.line();
    assert!(line.contains(" type=eviction key=key-") && line.ends_with(" clsid=1 size=1000\n"), "{line}");
    assert!(line.contains(" fetch=no ttl="), "{line}");
}

#[test]
fn a_watcher_that_does_not_read_is_told_how_much_it_missed_and_delays_nobody() {
    let node = Server::node(&["-o", "watcher_logbuf_size=8"]);
    let mut watcher = watch(&node, "fetchers");
    let mut connection = node.connect();
    let key = "k".repeat(200);
    let gets = format!("get {key}\r\n").repeat(1000);
    let deadline = Instant::now() + PATIENCE;
    while connection.exchange(b"stats\r\n").contains("STAT log_watcher_skipped 0\r\n") {
        assert!(Instant::now() < deadline, "nothing was skipped");
        connection.exchange(gets.as_bytes());
    }
    let skipped = loop {
        // The line is written together with the next line that fits.
        connection.exchange(gets.as_bytes());
        let line = watcher.line();
        assert!(!line.is_empty());
        if let Some(skipped) = line.strip_prefix("skipped=") {
            break skipped.trim_end().parse::<u64>().unwrap();
        }
    };
    assert!(skipped > 0);
    assert!(watcher.line().contains(" type=item_get "));
}

#[test]
fn watching_is_refused_as_memcached_refuses_it() {
    let check = |server: &Server, disabled: &Server| {
        let mut connection = server.connect();
        assert_eq!(connection.exchange(b"watch nothing\r\n"), "ERROR\r\n");
        connection.send(b"version\r\nwatch fetchers\r\n");
        assert!(connection.line().starts_with("VERSION"));
        assert_eq!(connection.line(), "ERROR cannot pipeline other commands before watch\r\n");
        let watchers: Vec<_> = (0..20).map(|_| watch(server, "rawcmds sysevents")).collect();
        connection.send(b"watch\r\n");
        assert_eq!(connection.line(), "WATCHER_TOO_MANY log watcher limit reached\r\n");
        drop(watchers);
        assert_eq!(disabled.connect().exchange(b"watch\r\n"), "CLIENT_ERROR watch commands not allowed\r\n");
    };
    check(&Server::node(&[]), &Server::node(&["-W"]));
    if let Some(program) = std::env::var_os("LARDER_MEMCACHED") {
        let program = program.as_ref();
        check(&Server::memcached_at(program, &[]), &Server::memcached_at(program, &["-W"]));
    }
}

#[test]
fn commands_are_counted_by_the_prefix_of_their_key_while_that_is_on() {
    let check = |server: &Server| {
        let mut connection = server.connect();
        let dump = "stats detail dump\r\n";
        assert_eq!(connection.exchange(dump.as_bytes()), "END\r\n");
        assert_eq!(connection.exchange(b"stats detail\r\n"), "CLIENT_ERROR usage: stats detail on|off|dump\r\n");
        assert_eq!(connection.exchange(b"stats detail on\r\n"), "OK\r\n");
        connection.exchange(b"set foo/1 0 0 1\r\nx\r\nget foo/1 foo/2 bar\r\ndelete foo/3\r\n");
        assert_eq!(connection.exchange(dump.as_bytes()), "PREFIX foo get 2 hit 1 set 1 del 1\r\nEND\r\n");
        assert_eq!(connection.exchange(b"stats detail off\r\n"), "OK\r\n");
        connection.exchange(b"get foo/1\r\n");
        assert_eq!(connection.exchange(dump.as_bytes()), "PREFIX foo get 2 hit 1 set 1 del 1\r\nEND\r\n");
        assert_eq!(connection.exchange(b"stats reset\r\n"), "RESET\r\n");
        assert_eq!(connection.exchange(dump.as_bytes()), "END\r\n");
    };
    check(&Server::node(&["-D", "/"]));
    // In memcached too, -D alone turns counting on; a command before it is not counted.
    Server::memcached(&["-D", "/"]).iter().for_each(check);
}

#[test]
fn connections_tell_what_they_do() {
    let node = Server::node(&[]);
    let mut sending = node.connect();
    sending.send(b"set a 0 0 10\r\nhalf");
    let mut connection = node.connect();
    let deadline = Instant::now() + PATIENCE;
    let address = format!("tcp:127.0.0.1:{}", node.port());
    loop {
        let statistics = connection.exchange(b"stats conns\r\n");
        let count = |ending: &str| statistics.lines().filter(|line| line.ends_with(ending)).count();
        let as_expected = count(&format!(":addr {address}")) == 1
            && count(&format!(":listen_addr {address}")) == 2
            && count(":state conn_listening") == 1
            && count(":state conn_nread") == 1
            && count(":state conn_parse_cmd") == 1;
        if as_expected {
            break;
        }
        assert!(Instant::now() < deadline, "{statistics}");
    }
}

#[test]
fn where_evictions_are_forbidden_a_full_node_refuses_to_store() {
    let check = |server: &Server| {
        let mut connection = server.connect();
        let value = "x".repeat(8192);
        let stored = (0..).take_while(|n| {
            let answer = connection.exchange(format!("set key-{n} 0 0 8192\r\n{value}\r\n").as_bytes());
            assert!(["STORED\r\n", "SERVER_ERROR out of memory storing object\r\n"].contains(&&*answer), "{answer}");
            answer == "STORED\r\n"
        });
        let stored = stored.count();
        let statistics = connection.exchange(b"stats\r\n");
        assert!(statistics.contains("STAT store_no_memory 1\r\n") && statistics.contains("STAT evictions 0\r\n"));
        let gets: String = (0..stored).map(|n| format!("mg key-{n}\r\n")).collect();
        assert_eq!(connection.exchange(gets.as_bytes()), "HD\r\n".repeat(stored));
    };
    check(&Server::node(&["-M", "-m", "4"]));
    Server::memcached(&["-M", "-m", "4"]).iter().for_each(check);
}

/// Returns the statistics of a group by their names, without what stands in front of them for a class of slabs.
fn statistics(connection: &mut Connection, group: &str) -> HashMap<String, String> {
    let answer = connection.exchange(format!("{group}\r\n").as_bytes());
    let lines = answer.lines().filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '));
    lines.map(|(name, value)| (name.rsplit(':').next().unwrap().to_owned(), value.to_owned())).collect()
}

#[test]
fn every_statistic_that_the_exporter_of_prometheus_reads_is_there_and_can_be_parsed() {
    let check = |server: &Server| {
        let mut connection = server.connect();
        connection.exchange(b"set a 0 0 1\r\nx\r\nget a\r\n");
        for (metric, group, names) in exporter::METRICS {
            let command = match group {
                Group::General => "stats",
                Group::Settings => "stats settings",
                Group::Items => "stats items",
                Group::Slabs => "stats slabs",
            };
            let found = statistics(&mut connection, command);
            for name in names {
                let value = found.get(*name).unwrap_or_else(|| panic!("{metric}: no {name} in {command}"));
                let parses = value.parse::<f64>().is_ok() || ["yes", "no", "1.6.45"].contains(&&**value);
                assert!(parses, "{metric}: {name} is {value}");
            }
        }
    };
    check(&Server::node(&[]));
    if let Some(program) = std::env::var_os("LARDER_MEMCACHED") {
        check(&Server::memcached_at(program.as_ref(), &[]));
    }
}

#[test]
fn items_are_hot_until_eviction_has_kept_them_and_warm_then() {
    for policy in ["density", "s3fifo", "sieve", "lru"] {
        let node = Server::node(&["-m", "8", "--eviction", policy]);
        let mut connection = node.connect();
        let value = "x".repeat(1000);
        let number = |connection: &mut Connection, name: &str| -> u64 {
            statistics(connection, "stats items")[name].parse().unwrap()
        };
        connection.exchange(format!("set k0 0 0 1000\r\n{value}\r\n").as_bytes());
        assert_eq!(number(&mut connection, "number_hot"), 1);
        for n in 0..20_000 {
            // Some items are used again and again, and so outlive the others.
            let sets = format!("set k{n} 0 {} 1000 noreply\r\n{value}\r\nget k{}\r\n", n % 2 * 1000, n % 100);
            connection.exchange(sets.as_bytes());
        }
        let items = statistics(&mut connection, "stats items");
        let general = statistics(&mut connection, "stats");
        let figure = |name: &str| items[name].parse::<u64>().unwrap();
        assert_eq!(figure("number"), figure("number_hot") + figure("number_warm") + figure("number_cold"));
        assert_eq!(general["get_hits"].parse(), Ok(figure("hits_to_hot") + figure("hits_to_warm")));
        assert_eq!(policy != "lru", figure("number_warm") > 0, "{policy}: {items:?}");
        assert_eq!(policy != "lru", figure("hits_to_warm") > 0, "{policy}: {items:?}");
        assert_eq!(policy != "lru", figure("moves_to_warm") > 0, "{policy}: {items:?}");
        let nonzero = figure("evicted_nonzero");
        assert!(nonzero > 0 && nonzero < figure("evicted"), "{policy}: {items:?}");
        connection.exchange(b"flush_all\r\nset a 0 0 1\r\nx\r\n");
        assert_eq!(number(&mut connection, "number_warm"), 0);
    }
}

#[test]
fn a_counter_that_keeps_its_length_is_no_new_item() {
    let check = |server: &Server| {
        let mut connection = server.connect();
        connection.exchange(b"set n 0 0 1\r\n7\r\n");
        let mut stored = vec![connection.statistic("total_items")];
        for command in
            ["incr n 1", "incr n 1", "incr n 1", "decr n 1", "append n 0 0 1\r\n5", "touch n 100", "add n 0 0 1\r\n1"]
        {
            connection.exchange(format!("{command}\r\n").as_bytes());
            stored.push(connection.statistic("total_items"));
        }
        stored
    };
    let node = check(&Server::node(&[]));
    assert_eq!(node, ["1", "1", "1", "2", "2", "3", "3", "3"]);
    for memcached in Server::memcached(&["-o", "no_modern"]).iter() {
        assert_eq!(check(memcached), node);
    }
}

#[test]
fn the_log_shows_more_where_a_client_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.sock");
    let mut node = Command::new(binary("larder-node")).arg("-s").arg(&path).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut client = loop {
        if let Ok(client) = UnixStream::connect(&path) {
            break client;
        }
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    };
    client.write_all(b"verbosity 2\r\n").unwrap();
    let mut ok = [0; 4];
    client.read_exact(&mut ok).unwrap();
    drop(UnixStream::connect(&path).unwrap());
    client.write_all(b"quit\r\n").unwrap();
    let mut log = BufReader::new(node.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(log.any(|line| line.contains("disconnected") && line.contains("reason=\"normal\"")));
    node.kill().unwrap();
    node.wait().unwrap();
}

#[test]
fn items_are_counted_by_size_where_that_was_asked_for() {
    let disabled = "STAT sizes_status disabled\r\nEND\r\n";
    assert_eq!(Server::node(&[]).connect().exchange(b"stats sizes\r\n"), disabled);
    let node = Server::node(&["-o", "track_sizes"]);
    let mut connection = node.connect();
    assert_eq!(connection.exchange(b"stats sizes\r\n"), "END\r\n");
    let (small, large) = ("x".repeat(300), "x".repeat(700));
    connection.exchange(
        format!("set a 0 0 300\r\n{small}\r\nset b 0 0 300\r\n{small}\r\nset c 0 0 700\r\n{large}\r\n").as_bytes(),
    );
    let counts = connection.exchange(b"stats sizes\r\n");
    let sizes: Vec<(u32, u32)> = counts
        .lines()
        .filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '))
        .map(|(size, count)| (size.parse().unwrap(), count.parse().unwrap()))
        .collect();
    let &[(small, 2), (large, 1)] = &sizes[..] else { panic!("{counts}") };
    assert!((320..=384).contains(&small) && (704..=768).contains(&large), "{counts}");
    assert!(small.is_multiple_of(32) && large.is_multiple_of(32), "{counts}");
}

#[test]
fn counters_count_what_memcacheds_count() {
    let large = "x".repeat(2_000_000);
    let script = format!(
        "set a 0 0 1\r\n1\r\nget a b a\r\ngets a\r\ngat 0 a b\r\ntouch a 0\r\ntouch b 0\r\nincr a 1\r\nincr b 1\r\ndecr a 1\r\n\
         decr b 1\r\ndelete b\r\ncas a 0 0 1 999999\r\n1\r\ncas b 0 0 1 1\r\n1\r\nadd a 0 0 1\r\n1\r\nreplace b 0 0 1\r\n1\r\n\
         append a 0 0 1\r\n2\r\nprepend b 0 0 1\r\n2\r\nmg a v\r\nmg b v\r\nmg a T0\r\nms m 1\r\nx\r\nmd m\r\nmd m\r\n\
         ma a\r\nma b\r\nma a MD\r\nma b MD\r\nma n N0 J5\r\nmg l N30 v\r\nms i 1\r\nx\r\nms i 1 C1 I\r\nx\r\nmd i I\r\nmd i C1\r\nme a\r\n\
         set past 0 -1 1\r\nx\r\nget past\r\nset past 0 -1 1\r\nx\r\nadd past 0 0 1\r\nx\r\nset past 0 -1 1\r\nx\r\nincr past 1\r\n\
         set big 0 0 2000000\r\n{large}\r\nadd big 0 0 2000000\r\n{large}\r\nset bad 0 0 x\r\nget\r\n\
         flush_all\r\nflush_all 0\r\n"
    );
    let counted = |server: &Server| -> Vec<String> {
        let mut connection = server.connect();
        connection.exchange(script.as_bytes());
        let names = ["cmd_get", "cmd_set", "cmd_flush", "cmd_touch", "get_hits", "get_misses"];
        let more =
            ["delete_misses", "delete_hits", "incr_misses", "incr_hits", "decr_misses", "decr_hits", "cas_misses"];
        let rest = ["cas_hits", "cas_badval", "touch_hits", "touch_misses", "store_too_large", "store_no_memory"];
        let lost = ["get_expired", "get_flushed"];
        let statistics = connection.exchange(b"stats\r\n");
        let lines = statistics.lines().filter_map(|line| line.strip_prefix("STAT "));
        let wanted =
            |line: &&str| [&names[..], &more, &rest, &lost].concat().contains(&line.split(' ').next().unwrap());
        lines.filter(wanted).map(str::to_owned).collect()
    };
    let node = counted(&Server::node(&[]));
    assert_eq!(node.len(), 21);
    if let Some(program) = std::env::var_os("LARDER_MEMCACHED") {
        assert_eq!(node, counted(&Server::memcached_at(program.as_ref(), &[])));
    }
}

#[test]
fn requests_that_meet_flushed_items_are_counted_as_memcacheds_in_every_protocol() {
    let packet = |opcode: u8, extras: &[u8], key: &str, value: &str| {
        let mut packet = [0; 24];
        (packet[0], packet[1], packet[3], packet[4]) = (0x80, opcode, key.len() as u8, extras.len() as u8);
        packet[8..12].copy_from_slice(&((extras.len() + key.len() + value.len()) as u32).to_be_bytes());
        [&packet[..], extras, key.as_bytes(), value.as_bytes()].concat()
    };
    let packets = [
        packet(opcode::GET, b"", "b0", ""),
        packet(opcode::GET, b"", "b0", ""),
        packet(opcode::SET, &[0; 8], "b1", "x"),
        packet(opcode::ADD, &[0; 8], "b2", "x"),
        packet(opcode::DELETE, b"", "b3", ""),
        packet(opcode::INCREMENT, &[0xff; 20], "b4", ""),
        packet(opcode::TOUCH, &[0; 4], "b5", ""),
        packet(opcode::GAT, &[0; 4], "b6", ""),
        packet(opcode::APPEND, b"", "b7", "x"),
        packet(opcode::GET, b"", "never", ""),
    ];
    let requests = "get t0\r\nget t0\r\ngets t1 t2\r\nset t3 0 0 1\r\nx\r\nget t3\r\nadd t4 0 0 1\r\nx\r\ndelete t5\r\n\
                    incr t6 1\r\ntouch t7 0\r\ngat 0 t8\r\nappend t9 0 0 1\r\nx\r\ncas t10 0 0 1 1\r\nx\r\nmg m0 v\r\n\
                    mg m0 v\r\nmg m1 N30 v\r\nms m2 1\r\nx\r\nmd m3\r\nma m4\r\nma m5 N0\r\nme m6\r\nget never\r\n";
    let counted = |server: &Server| -> Vec<String> {
        let mut connection = server.connect();
        let keys = (0..16).flat_map(|n| ["t", "m", "b"].map(|kind| format!("{kind}{n}")));
        let stores: Vec<String> = keys.map(|key| format!("set {key} 0 0 1 noreply\r\n1\r\n")).collect();
        connection.exchange(stores.concat().as_bytes());
        // memcached removes items of the present second at once and does not count them.
        let second = |connection: &mut Connection| connection.statistic("time").parse::<u64>().unwrap();
        let (stored, deadline) = (second(&mut connection), Instant::now() + PATIENCE);
        while second(&mut connection) < stored + 2 {
            assert!(Instant::now() < deadline, "its clock stands");
        }
        // A second flush forgets nothing of what the first one has removed.
        connection.exchange(b"flush_all\r\nflush_all\r\n");
        connection.exchange(requests.as_bytes());
        let mut binary = server.connect();
        for packet in &packets {
            binary.send(packet);
            let header = binary.read(24);
            binary.read(u32::from_be_bytes(header[8..12].try_into().unwrap()) as usize);
        }
        ["get_flushed", "get_expired", "get_hits", "get_misses"].map(|name| connection.statistic(name)).into()
    };
    let node = counted(&Server::node(&[]));
    assert!(node[0].parse::<u32>().unwrap() > 20, "{node:?}");
    if let Some(program) = std::env::var_os("LARDER_MEMCACHED") {
        assert_eq!(node, counted(&Server::memcached_at(program.as_ref(), &[])));
    }
}

#[test]
fn statistics_estimate_the_hits_with_half_twice_and_four_times_the_memory() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    // The lower a key's number, the more often it is read. All items that are read have about 8 MB.
    const KEYS: f64 = 300_000.0;
    let mut random = StdRng::seed_from_u64(1);
    let reads: Vec<u32> = (0..80_000).map(|_| KEYS.powf(random.random::<f64>()) as u32).collect();
    let value = "v".repeat(350);
    // The hits of a client that loads what it misses, on a node with so many MiB; and what the node estimates.
    let run = |mebibytes: u32| {
        let node = Server::node(&["-I", "128k", "-m", &mebibytes.to_string()]);
        let mut connection = node.connect();
        let mut hits = 0;
        for keys in reads.chunks(2500) {
            let gets: String = keys.iter().map(|key| format!("mg {key}\r\n")).collect();
            let answers = connection.exchange(gets.as_bytes());
            let missed: BTreeSet<u32> =
                keys.iter().zip(answers.lines()).filter(|(_, line)| *line == "EN").map(|(&key, _)| key).collect();
            hits += answers.lines().filter(|line| *line == "HD").count();
            let load = |key: &u32| {
                let value = &value[..50 + *key as usize % 301];
                format!("set {key} 0 0 {} noreply\r\n{value}\r\n", value.len())
            };
            assert_eq!(connection.exchange(missed.iter().map(load).collect::<String>().as_bytes()), "");
            // The node notes so many requests and no more until its next background work.
            let (slices, deadline) = (connection.statistic("lru_maintainer_juggles"), Instant::now() + PATIENCE);
            while connection.statistic("lru_maintainer_juggles") == slices {
                assert!(Instant::now() < deadline, "no background work");
            }
        }
        let mut statistic = |name: &str| connection.statistic(name).parse::<usize>().unwrap();
        assert_eq!(statistic("get_hits"), hits);
        let estimates = ["half", "double", "quadruple"].map(|name| statistic(&format!("hits_with_{name}_memory")));
        (hits, estimates)
    };
    let run = &run;
    let [half, observed, double, quadruple] = std::thread::scope(|scope| {
        [1, 2, 4, 8].map(|mebibytes| scope.spawn(move || run(mebibytes))).map(|node| node.join().unwrap())
    });
    let percent = |hits: usize| 100.0 * hits as f64 / reads.len() as f64;
    for (estimated, (simulated, _)) in observed.1.into_iter().zip([half, double, quadruple]) {
        let (estimated, simulated, observed) = (percent(estimated), percent(simulated), percent(observed.0));
        assert!((simulated - observed).abs() > 2.0, "memory matters: {observed} to {simulated} %");
        assert!((estimated - simulated).abs() < 1.5, "estimated {estimated} %, with that memory {simulated} %");
    }
}
