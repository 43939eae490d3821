//! Nodes of one cluster, each in a process of its own.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::{Connection, PATIENCE, Server};

/// A member and a connection for looking at it.
#[derive(Debug)]
pub struct Member {
    /// Its process.
    pub server: Server,
    /// Where other members reach it.
    pub peer: String,
    connection: Connection,
}

impl Member {
    /// Starts a node that is to be in the cluster `test` of these seeds; without any it founds one.
    pub fn start(seeds: &[&str], environment: &[(&str, &str)], arguments: &[&str]) -> Member {
        let seeds = seeds.join(",");
        let mut all = vec!["--cluster", "test", "--cluster-listen", "127.0.0.1:0", "--linger", "1"];
        if !seeds.is_empty() {
            all.extend(["--seeds", &seeds]);
        }
        all.extend(arguments);
        Member::of(Server::node_in(environment, &all))
    }

    /// A member that was started otherwise.
    pub fn of(server: Server) -> Member {
        let connection = server.connect();
        let mut member = Member { server, peer: String::new(), connection };
        member.peer = member.figure("peer_address");
        member
    }

    /// `stats cluster`.
    pub fn figures(&mut self) -> HashMap<String, String> {
        let answer = self.connection.exchange(b"stats cluster\r\n");
        let line = |line: &str| {
            let (name, value) = line.strip_prefix("STAT ")?.split_once(' ')?;
            Some((name.to_owned(), value.to_owned()))
        };
        answer.lines().filter_map(line).collect()
    }

    /// A figure of `stats cluster`.
    pub fn figure(&mut self, name: &str) -> String {
        self.figures().remove(name).unwrap_or_default()
    }

    /// Sends bytes, and returns all that is answered.
    pub fn exchange(&mut self, bytes: &[u8]) -> String {
        self.connection.exchange(bytes)
    }

    /// Waits until it knows so many active members and nothing is on its way.
    pub fn settles(&mut self, active: usize) {
        settle(std::slice::from_mut(self), active);
    }

    fn is_settled(&mut self, active: usize) -> bool {
        let figures = self.figures();
        let count = figures.iter().filter(|(name, state)| name.ends_with(":state") && *state == "active").count();
        count == active && figures["settled"] == "yes"
    }

    /// Leaves the cluster in good order, as on SIGTERM. Returns whether the exit status is 0.
    pub fn leave(self) -> bool {
        self.server.signal("TERM");
        self.server.wait()
    }
}

/// Waits until each of them knows so many active members and nothing is on its way.
pub fn settle(members: &mut [Member], active: usize) {
    let deadline = Instant::now() + PATIENCE;
    while !members.iter_mut().all(|member| member.is_settled(active)) {
        if Instant::now() >= deadline {
            let figures = |member: &mut Member| member.figures().into_iter().collect::<BTreeMap<_, _>>();
            let figures: Vec<_> = members.iter_mut().map(figures).collect();
            panic!("the cluster does not settle with {active} members: {figures:#?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a cluster of so many nodes, and waits until it is settled.
pub fn start(nodes: usize, environment: &[(&str, &str)], arguments: &[&str]) -> Vec<Member> {
    let mut members = vec![Member::start(&[], environment, arguments)];
    members[0].settles(1);
    for count in 2..=nodes {
        let seed = members[0].peer.clone();
        members.push(Member::start(&[&seed], environment, arguments));
        settle(&mut members, count);
    }
    members
}
