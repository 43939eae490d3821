//! `larder-cluster up` follows a day's load: nodes come while it is high and go when it is low, and clients see nothing
//! of it.
//!
//! `LARDER_DAY=seconds` sets how long the day is; without it, it is short. One of five minutes:
//!
//! ```sh
//! LARDER_DAY=300 cargo test -p larder-tests --test supervisor -- --nocapture
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder_tests::binary;
use larder_tests::history::{Choice, History};

/// The supervisor, ended when dropped, and its nodes with it.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// The first of four consecutive ports that are free, as those 10000 above are.
fn free_ports() -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (20_000..22_000)
        .step_by(4)
        .map(|port| port + (std::process::id() % 500) as u16 * 4)
        .find(|&first| (first..first + 4).all(|port| is_free(port) && is_free(port + 10_000)))
        .expect("free ports")
}

/// The ports of the nodes that this one lists.
fn list(port: u16) -> Option<Vec<u16>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"config get cluster\r\nquit\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let nodes = answer.lines().nth(2)?;
    nodes.split(' ').map(|node| node.rsplit('|').next()?.parse().ok()).collect()
}

#[test]
fn nodes_come_with_the_load_and_go_with_it_and_no_client_sees_an_error() {
    let day = std::env::var("LARDER_DAY").map_or(16, |seconds| seconds.parse().expect("seconds"));
    // Of a longer day, steps take longer.
    let (up_after, down_after) = ((day / 30).max(2).to_string(), (day / 15).max(3).to_string());
    let first = free_ports();
    // The machine has other work and few processors: nodes count as busy from a small share on.
    let mut up = Command::new(binary("larder-cluster"))
        .args(["up", "--min", "2", "--max", "4", "--first-port", &first.to_string()])
        .args(["--up-after", &up_after, "--down-after", &down_after, "--up-above", "8", "--down-below", "4"])
        .args(["--", "-t", "1", "--linger", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map(Up)
        .unwrap();
    let said = BufReader::new(up.0.stdout.take().unwrap());
    let steps = Mutex::new(Vec::new());
    let wait = |what: &str, is_so: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: {:?}", steps.lock().unwrap());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let (ports, history, done) = (Mutex::new(vec![first, first + 1]), History::new(400), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let steps = &steps;
        scope.spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                if line.contains(" -> ") {
                    println!("{line}");
                    steps.lock().unwrap().push(line);
                }
            }
        });
        wait("two nodes", &|| list(first).is_some_and(|nodes| nodes.len() == 2));
        wait("two nodes", &|| list(first + 1).is_some_and(|nodes| nodes.len() == 2));
        // At night there is little to do.
        history.pause(Duration::from_millis(500));
        // Ends the clients and what follows the list where this panics too, and then the supervisor.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let end = (history.stopper(), End(&done), up);
        for (seed, choice) in
            [Choice::Any, Choice::OtherHash, Choice::OldList, Choice::One].into_iter().cycle().take(8).enumerate()
        {
            let (history, ports) = (&history, &ports);
            scope.spawn(move || history.client(seed as u64, choice, ports));
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if let Some(nodes) = list(first) {
                    *ports.lock().unwrap() = nodes;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        let nodes = || ports.lock().unwrap().len();
        let half = Duration::from_secs(day / 2);
        let curve = |at: Duration| {
            // From night to noon, as a wave: the share of the greatest load.
            let share = 0.5 - 0.5 * (at.as_secs_f64() / half.as_secs_f64() * std::f64::consts::PI).cos();
            history.pause(Duration::from_secs_f64(0.002 * (1.0 / share.max(0.004) - 1.0)));
        };
        let begun = Instant::now();
        while begun.elapsed() < half {
            curve(begun.elapsed());
            std::thread::sleep(Duration::from_millis(50));
        }
        wait("four nodes at noon", &|| nodes() == 4);
        let noon = Instant::now();
        while noon.elapsed() < half {
            curve(half.saturating_sub(noon.elapsed()));
            std::thread::sleep(Duration::from_millis(50));
        }
        wait("two nodes at night", &|| nodes() == 2);
        // Before the nodes end.
        let errors = history.errors.load(Ordering::Relaxed);
        drop(end);
        assert_eq!(errors, 0, "{:?}", history.failures.lock().unwrap());
    });
    let said = steps.into_inner().unwrap();
    let steps: Vec<&str> =
        said.iter().filter_map(|line| line.split_once(" s  ")?.1.split_once(" nodes")).map(|(step, _)| step).collect();
    println!(
        "{} operations, {} hits",
        history.operations.load(Ordering::Relaxed),
        history.hits.load(Ordering::Relaxed)
    );
    assert_eq!(steps, ["2 -> 3", "3 -> 4", "4 -> 3", "3 -> 2"], "{said:?}");
    assert_eq!(history.violations(), Vec::<String>::new());
}
