//! `larder-bench load` against real servers.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use larder_bench::load::Session;
use larder_bench::process::ServerProcess;
use larder_bench::report::Report;
use larder_bench::versus::{Comparison, Program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{PROGRAM, all_cpus, args, load, node, program};

/// Runs a load and stops the server for one second in its middle.
fn load_with_a_stall(options: &str) -> Report {
    let server = node();
    let session = Session::open(&args(&[&server], options)).expect("connects");
    let pid = Pid::from_raw(server.id() as i32);
    let staller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        kill(pid, Signal::SIGSTOP).expect("the node is there");
        std::thread::sleep(Duration::from_secs(1));
        kill(pid, Signal::SIGCONT).expect("the node is there");
    });
    let args = args(&[&server], options);
    let report = session.run(Duration::ZERO, args.stop(), args.schedule()).expect("the load runs");
    staller.join().expect("the staller ends");
    report
}

#[test]
fn a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one() {
    // A third of the requests come due within the stall.
    let open = std::thread::spawn(|| load_with_a_stall("--rate 500 -c 4 --duration 3s"));
    // One request of thousands is under way when the stall begins.
    let closed = std::thread::spawn(|| load_with_a_stall("-c 1 --duration 3s"));
    let (open, closed) = (open.join().expect("runs"), closed.join().expect("runs"));
    assert_eq!((open.total.errors, closed.total.errors), (0, 0));
    assert!(open.total.latency.p999 > 900_000.0, "open loop: p99.9 {} us", open.total.latency.p999);
    assert!(closed.total.requests > 2000, "too slow for this test: {} requests", closed.total.requests);
    assert!(closed.total.latency.max > 900_000.0, "closed loop: max {} us", closed.total.latency.max);
    assert!(closed.total.latency.p999 < 900_000.0, "closed loop: p99.9 {} us", closed.total.latency.p999);
}

#[test]
fn a_rate_is_kept_within_one_percent() {
    let server = node();
    for options in ["--rate 1500 --duration 1s", "--rate 700 --duration 1s -c 3 -t 3"] {
        // Other work on the machine delays answers, and late answers are missing here: but not in each of five runs.
        let kept = || {
            let report = load(&[&server], options);
            assert_eq!(report.total.requests, (report.rate_asked.expect("it was asked") * report.seconds) as u64);
            report.rate_kept / report.rate_asked.expect("it was asked")
        };
        assert!((0..5).any(|_| (0.99..=1.01).contains(&kept())), "{options}");
    }
}

#[test]
fn a_rate_that_cannot_be_kept_is_not_said_to_be() {
    let server = node();
    // One connection with one request at a time cannot reach this rate.
    let report = load(&[&server], "--rate 3000000 -c 1 --duration 200ms --timeout 200ms");
    let (asked, kept) = (report.rate_asked.expect("it was asked"), report.rate_kept);
    assert!(kept < asked / 2.0, "{kept} of {asked}");
    assert_eq!(report.total.requests + report.unsent, 600_000);
}

#[test]
fn fills_are_not_taken_for_requests_of_the_schedule() {
    let server = node();
    let report = load(&[&server], "--rate 1000 --mix get --fill --keys 1000000 --duration 500ms");
    assert!(report.fills > 400, "{}", report.to_text());
    assert_eq!(report.total.requests, 500 + report.fills);
    assert!(report.rate_kept <= 1000.0, "{}", report.rate_kept);
    assert_eq!(report.hit_ratio(), report.total.hit_ratio(), "sets count neither as hits nor as misses");
}

#[test]
fn every_protocol_finds_what_was_populated_on_several_servers() {
    let servers = [node(), node(), node()];
    let servers: Vec<&ServerProcess> = servers.iter().collect();
    for protocol in ["text", "meta", "binary", "meta --quiet", "binary --quiet"] {
        for shape in ["-P 7", "--multiget 20"] {
            let options = format!(
                "--protocol {protocol} {shape} --populate --keys 500 --key-prefix {} -c 5 -n 2000 -t 2",
                protocol.len()
            );
            let report = load(&servers, &options);
            let hits = report.hit_ratio().expect("there were reads");
            assert!(hits == 1.0 && report.total.errors == 0, "{options}\n{}", report.to_text());
            assert!(report.servers.iter().all(|server| server.figures.requests > 0), "{options}: a server had nothing");
        }
    }
}

#[test]
fn every_operation_is_counted() {
    let server = node();
    let report = load(&[&server], "--mix get,set,delete,touch,incr --keys 50 --fill -n 5000 -c 4");
    assert_eq!(report.operations.len(), 5);
    assert_eq!(report.total.errors, 0, "{}", report.to_text());
    // Fills are counted in addition to the workload's requests.
    assert!(report.total.requests > 5000);
}

#[test]
fn a_miss_is_filled() {
    let server = node();
    let report = load(&[&server], "--mix get --keys 100 --fill -n 3000 -c 4 --key-distribution sequential");
    let hits = report.hit_ratio().expect("there were reads");
    assert!(hits > 0.9, "{hits}");
    assert!(load(&[&server], "--mix get --keys 100 --multiget 10 -n 100").hit_ratio() == Some(1.0));
}

#[test]
fn a_threshold_that_does_not_hold_fails_the_run_and_reports_compare() {
    let server = node();
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (json, html) = (file("a.json"), file("a.html"));
    let address = server.address();
    let run = |more: &[&str]| {
        let words = ["load", "-s", &address, "-n", "2000", "-c", "2", "--keys", "100", "--populate"];
        program(&[&words, more].concat())
    };
    let fine = run(&["--max-errors", "0", "--min-hit-ratio", "1", "--json", &json, "--html", &html]);
    assert!(fine.status.success(), "{}", String::from_utf8_lossy(&fine.stderr));
    let failed = run(&["--p99", "0.001us"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stdout).contains("FAILS"));
    let same = program(&["compare", &json, &json, "--max-p99-ratio", "1.01", "--min-rate-ratio", "0.99"]);
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stderr));
    assert_eq!(program(&["compare", &json, &json, "--max-p99-ratio", "0.5"]).status.code(), Some(1));
    assert_eq!(program(&["compare", &json, &html]).status.code(), Some(2));
}

#[test]
fn a_server_that_is_not_there_is_told_in_words() {
    // Nobody listens on port 1.
    let address = "127.0.0.1:1";
    let output = program(&["load", "-s", address, "-n", "10"]);
    assert_eq!(output.status.code(), Some(2));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains(address) && words.contains("is a server running there?"), "{words}");
}

#[test]
fn a_server_that_goes_away_costs_errors_and_not_the_run() {
    let mut servers = vec![node(), node()];
    let args = args(&[&servers[0], &servers[1]], "-c 4 --duration 1500ms --timeout 500ms --rate 400");
    let session = Session::open(&args).expect("connects");
    let leaver = servers.pop().expect("there are two");
    let goes = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(leaver);
    });
    let report = session.run(Duration::ZERO, args.stop(), args.schedule()).expect("the load runs");
    goes.join().expect("it goes");
    let [stayed, left] = [&report.servers[0].figures, &report.servers[1].figures];
    assert_eq!(stayed.errors, 0, "{}", report.to_text());
    assert!(left.errors > 0);
    assert_eq!(report.total.requests, 600);
}

/// Opens a page in a browser and returns its document, after checking that nothing was logged to the console; `None` if
/// there is no browser.
fn open_in_browser(page: &str, width: u32) -> Option<String> {
    let browser = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()));
    let Some(browser) = browser else {
        eprintln!("skipped: no chromium here to open a report in");
        return None;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report.html");
    std::fs::write(&path, page).expect("writes");
    let profile = format!("--user-data-dir={}", folder.path().join("profile").display());
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", &profile, &format!("--window-size={width},900"), "--dump-dom"])
        .arg(format!("file://{}", path.display()))
        .output()
        .expect("the browser runs");
    let (page, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}");
    assert!(!log.contains("CONSOLE"), "the page has errors: {log}");
    Some(page.into_owned())
}

#[test]
fn a_report_opens_in_a_browser_with_its_plots() {
    let server = node();
    let report = load(&[&server], "--keys 100 --fill -n 3000 -c 2");
    let Some(page) = open_in_browser(&report.to_html(), 1000) else { return };
    for plot in ["Latency by percentile", "Requests a second", "Hit ratio"] {
        assert!(page.contains(plot), "no plot `{plot}`");
    }
    assert!(page.matches("<polyline points=\"").count() >= 6, "plots are empty");
}

#[test]
fn a_pointer_over_a_plot_shows_its_values_and_nothing_is_wider_than_a_phone() {
    let server = node();
    let report = load(&[&server], "--keys 100 --fill -n 3000 -c 2");
    let probe = "<script>
        const seen = [...document.querySelectorAll('figure svg')].filter(svg => svg.clientWidth > 0);
        const box = seen[2].getBoundingClientRect();
        const at = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
        seen[2].dispatchEvent(new PointerEvent('pointermove', at));
        document.title = `probe: ${seen[2].classList} ${document.documentElement.scrollWidth} ${innerWidth} `
          + `${[...document.querySelectorAll('.tip')].map(tip => tip.innerText.replaceAll('\\n', ' ')).join('')}`;
        </script></body>";
    for (width, class) in [(1000, "wide"), (390, "narrow")] {
        let Some(page) = open_in_browser(&report.to_html().replace("</body>", probe), width) else { return };
        let title = &page[page.find("<title>probe: ").expect("the probe ran")..];
        let words: Vec<&str> = title[..title.find("</title>").expect("an end")].split(' ').collect();
        assert_eq!(words[1], class, "{words:?}");
        assert!(words[2].parse::<u32>().expect("a width") <= words[3].parse().expect("a width"), "{words:?}");
        // Latency over time: the time, and three percentiles.
        for shown in ["s", "p50:", "p99:", "p99.9:"] {
            assert!(words[4..].contains(&shown), "no {shown} in {words:?}");
        }
    }
}

/// Debian's memcached on a free port, with more flags; `None` if it is not installed.
pub(super) fn memcached(more: &[&str]) -> Option<ServerProcess> {
    let path = PathBuf::from("/usr/bin/memcached");
    if !path.exists() {
        eprintln!("skipped: no memcached here to speak UDP or TLS with");
        return None;
    }
    let mut words = larder_bench::versus::peer_words();
    words.extend(more.iter().map(|word| (*word).to_owned()));
    let program =
        Program { path, words, memory_mebibytes: 64, threads: 1, cpus: all_cpus(), nodes: 1, clustered: false };
    Some(program.start().expect("memcached starts"))
}

#[test]
fn reads_go_over_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (key, certificate) = (file("key.pem"), file("certificate.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=cache"])
        .args(["-addext", "subjectAltName=DNS:cache.test", "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &key, "-out", &certificate])
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no openssl here to make a certificate with");
        return;
    }
    let flags = ["-Z", "-o", &format!("ssl_chain_cert={certificate},ssl_key={key}")];
    let Some(server) = memcached(&flags) else { return };
    let tls = format!("--tls-ca {certificate} --tls-name cache.test --keys 100 -c 4 -P 4 --verify");
    // Large values span TLS records, and one read holds several. Sets of large values beside other requests stall
    // memcached before 1.6.39, which leaves the rest of a record in its TLS library.
    for options in ["--value-size 100 -n 2000", "--value-size 20k -n 500 --mix get"] {
        let report = load(&[&server], &format!("{tls} {options}"));
        assert_eq!((report.hit_ratio(), report.total.errors), (Some(1.0), 0), "{}", report.to_text());
        assert!(!report.verdict.expect("it was asked").is_bad());
    }
    let stranger = Session::open(&args(&[&server], &format!("--tls-ca {certificate} --tls-name other.test -c 1")));
    assert!(stranger.is_err(), "a certificate of another name is refused");
}

#[test]
fn versus_reads_the_processor_time_of_both_servers() {
    let Some(peer) = memcached(&[]) else { return };
    drop(peer);
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("versus.json");
    let output = Command::new(PROGRAM)
        .args(["versus", "--peer", "/usr/bin/memcached", "--loads", "p16,miss", "--pairs", "1"])
        .args(["--seconds", "100ms", "--warmup", "10ms", "--json"])
        .arg(&json)
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let comparison: Comparison =
        serde_json::from_slice(&std::fs::read(json).expect("it was written")).expect("it is a comparison");
    assert_eq!(comparison.loads.len(), 2);
    for load in &comparison.loads {
        for run in [load.node[0], load.peer[0]] {
            assert!(run.cpu_us > 0.0 && run.per_second > 0.0 && run.errors == 0, "{}: {run:?}", load.name);
        }
    }
    let hits = |load: usize| [comparison.loads[load].node[0].hit_ratio, comparison.loads[load].peer[0].hit_ratio];
    assert_eq!((hits(0), hits(1)), ([Some(1.0); 2], [Some(0.0); 2]));
}
