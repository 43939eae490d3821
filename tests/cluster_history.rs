//! Clients with all kinds of lists, while nodes join and leave, hang and die, and while links between them are slow or
//! cut: no read returns what was overwritten.
//!
//! `LARDER_HISTORY=operations,changes` sets how long the histories are; without it they are short. A million:
//!
//! ```sh
//! LARDER_HISTORY=1000000,20 cargo test -p larder-tests --test cluster_history -- --nocapture
//! ```

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use larder_tests::fleet::{self, Member};
use larder_tests::history::{Choice, History};
use larder_tests::network::{Fault, Network};
use larder_tests::{Server, free_port};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How many operations and changes of the cluster there are.
fn length() -> (u64, usize) {
    let text = std::env::var("LARDER_HISTORY").unwrap_or_default();
    text.split_once(',').map_or((20_000, 2), |(operations, changes)| {
        (operations.parse().expect("operations"), changes.parse().expect("changes"))
    })
}

const CHOICES: [Choice; 8] = [
    Choice::Any,
    Choice::Any,
    Choice::Any,
    Choice::OtherHash,
    Choice::OtherHash,
    Choice::OldList,
    Choice::OldList,
    Choice::One,
];

/// Runs clients over the ports while `change` changes the cluster, and until there are enough operations.
fn run(history: &History, ports: &Mutex<Vec<u16>>, change: impl FnOnce()) {
    std::thread::scope(|scope| {
        for (seed, choice) in CHOICES.into_iter().enumerate() {
            scope.spawn(move || history.client(seed as u64, choice, ports));
        }
        // Clients end where the change panics too.
        let _stopper = history.stopper();
        change();
    });
    println!(
        "{} operations, {} hits, {} errors, {} violations; {:?}",
        history.operations.load(Ordering::Relaxed),
        history.hits.load(Ordering::Relaxed),
        history.errors.load(Ordering::Relaxed),
        history.violations().len(),
        history.failures.lock().unwrap(),
    );
}

/// Adds a node and takes it away again, so many times, with as many operations between as make the whole.
fn resize(members: &mut Vec<Member>, environment: &[(&str, &str)], ports: &Mutex<Vec<u16>>, history: &History) {
    let (operations, changes) = length();
    let wait = |part: usize| {
        let until = operations * part as u64 / (2 * changes) as u64;
        while history.operations.load(Ordering::Relaxed) < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    for change in 0..changes {
        let seed = members[0].peer.clone();
        members.push(Member::start(&[&seed], environment, &[]));
        ports.lock().unwrap().push(members.last().unwrap().server.port());
        fleet::settle(members, 4);
        wait(2 * change + 1);
        let leaver = members.pop().unwrap();
        // Clients learn the new list while it still forwards.
        leaver.server.signal("TERM");
        fleet::settle(members, 3);
        ports.lock().unwrap().pop();
        assert!(leaver.server.wait());
        wait(2 * change + 2);
    }
}

#[test]
fn planned_changes_lose_nothing_and_never_show_an_old_value() {
    let mut members = fleet::start(3, &[], &[]);
    let ports = Mutex::new(members.iter().map(|member| member.server.port()).collect());
    let history = History::new(400);
    run(&history, &ports, || resize(&mut members, &[], &ports, &history));
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!(history.errors.load(Ordering::Relaxed), 0, "{:?}", history.failures.lock().unwrap());
}

#[test]
fn a_node_that_sets_without_taking_is_found() {
    let broken = [("LARDER_CLUSTER_BREAK", "set-without-take")];
    // Pulls are so slow that most items are still at their old owner.
    let mut members = fleet::start(3, &broken, &["--move-rate", "1k"]);
    let ports = Mutex::new(members.iter().map(|member| member.server.port()).collect());
    let history = History::new(4000);
    run(&history, &ports, || {
        while history.operations.load(Ordering::Relaxed) < 10_000 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let seed = members[0].peer.clone();
        members.push(Member::start(&[&seed], &broken, &["--move-rate", "1k"]));
        ports.lock().unwrap().push(members[3].server.port());
        let begun = history.operations.load(Ordering::Relaxed);
        while history.violations().is_empty() && history.operations.load(Ordering::Relaxed) < begun + 60_000 {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    assert!(!history.violations().is_empty(), "the checker finds nothing");
}

#[test]
fn nodes_that_hang_and_die_never_show_an_old_value() {
    let mut members = fleet::start(3, &[], &[]);
    let ports = Mutex::new(members.iter().map(|member| member.server.port()).collect());
    let history = History::new(400);
    let (operations, changes) = length();
    run(&history, &ports, || {
        for change in 0..changes.max(2) {
            let (port, peer) = (free_port(), format!("127.0.0.1:{}", free_port()));
            let arguments =
                ["--cluster", "test", "--cluster-listen", &peer, "--seeds", &members[0].peer.clone(), "--linger", "1"];
            let joiner = Server::node_on(port, &arguments);
            ports.lock().unwrap().push(port);
            // An old owner hangs in the middle of the move, then goes on.
            std::thread::sleep(Duration::from_millis(20 * (change as u64 % 10)));
            let hung = &members[1 + change % 2].server;
            hung.signal("STOP");
            std::thread::sleep(Duration::from_millis(1500));
            hung.signal("CONT");
            std::thread::sleep(Duration::from_millis(20 * (change as u64 % 7)));
            // The new one dies, perhaps in the middle of the move, and comes back.
            drop(joiner);
            std::thread::sleep(Duration::from_millis(300));
            let mut joiner = Member::of(Server::node_on(port, &arguments));
            joiner.settles(4);
            let until = operations * (change as u64 + 1) / changes.max(2) as u64;
            while history.operations.load(Ordering::Relaxed) < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            joiner.server.signal("TERM");
            fleet::settle(&mut members, 3);
            ports.lock().unwrap().pop();
            assert!(joiner.server.wait());
        }
    });
    assert_eq!(history.violations(), Vec::<String>::new());
}

/// Lets faults come and go on links between members: between any two of them, in one direction or in both.
fn disturb(network: &Network, random: &mut StdRng) {
    for _ in 0..random.random_range(2..5) {
        let from = random.random_range(0..4);
        let to = (from + random.random_range(1..4)) % 4;
        let fault = match random.random_range(0..3) {
            0 => Fault::Delay(Duration::from_millis(random.random_range(1..100))),
            1 => Fault::Hold,
            _ => Fault::Cut,
        };
        network.disturb(IDS[from], IDS[to], fault);
        if random.random() {
            network.disturb(IDS[to], IDS[from], fault);
        }
        // Some are over before anybody gives up, some last until all have.
        std::thread::sleep(Duration::from_millis([20, 100, 400, 1500][random.random_range(0..4)]));
        if random.random() {
            network.heal();
        }
    }
    network.heal();
}

const IDS: [&str; 4] = ["a", "b", "c", "d"];

#[test]
fn links_that_are_slow_silent_or_cut_never_show_an_old_value() {
    let network = Network::default();
    let mut members = vec![network.member(IDS[0], "")];
    members[0].settles(1);
    let seed = members[0].peer.clone();
    for (id, count) in IDS[1..3].iter().zip(2..) {
        members.push(network.member(id, &seed));
        fleet::settle(&mut members, count);
    }
    let ports = Mutex::new(members.iter().map(|member| member.server.port()).collect());
    let history = History::new(400);
    let (operations, changes) = length();
    run(&history, &ports, || {
        let mut random = StdRng::seed_from_u64(18);
        for change in 0..changes {
            members.push(network.member(IDS[3], &seed));
            ports.lock().unwrap().push(members[3].server.port());
            std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
            disturb(&network, &mut random);
            fleet::settle(&mut members, 4);
            let until = operations * (change as u64 + 1) / changes as u64;
            while history.operations.load(Ordering::Relaxed) < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            let leaver = members.pop().unwrap();
            leaver.server.signal("TERM");
            std::thread::sleep(Duration::from_millis(random.random_range(0..100)));
            disturb(&network, &mut random);
            fleet::settle(&mut members, 3);
            ports.lock().unwrap().pop();
            assert!(leaver.server.wait());
        }
    });
    println!("{} pieces and links disturbed", network.disturbed());
    assert!(network.disturbed() > 0, "links do not lead through the network");
    assert_eq!(history.violations(), Vec::<String>::new());
}
