//! Sends the same random commands to a node and to memcached. The answers must be the same bytes, except for CAS
//! uniques and ages.
//!
//! The reference is Debian's memcached 1.6.18 for the commands that it knows, and the program that `LARDER_MEMCACHED`
//! names (1.6.45 or newer) for all commands. `LARDER_DIFFERENTIAL_COMMANDS` sets the number of commands,
//! `LARDER_DIFFERENTIAL_SEED` the seed that they are drawn with.

mod flags;
mod udp;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;

use larder_tests::{PATIENCE, Server};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// Commands of one round, which are sent in one write.
const ROUND: usize = 64;

/// Placeholder for the CAS unique that the server itself reported for the command's key at the start of the round.
const CAS: &str = "<cas>";

/// Memory for all items, so that none is evicted. Without the segmented LRU, because its background thread holds items,
/// and memcached does not change a held number in place: padding and marks would depend on chance.
const MEMCACHED: [&str; 4] = ["-m", "256", "-o", "no_modern"];
const NODE: [&str; 2] = ["-m", "256"];

/// A UDP port, and one thread, so that datagrams are executed in their order.
const UDP: [&str; 4] = ["-U", "-1", "-t", "1"];

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn random_commands_are_answered_as_debians_memcached_answers_them() {
    if let Some(memcached) = Server::memcached(&MEMCACHED) {
        compare(&memcached, false, Random::command);
    }
}

#[test]
fn meta_flags_in_any_order_are_answered_as_debians_memcached_answers_them() {
    if let Some(memcached) = Server::memcached(&MEMCACHED) {
        compare(&memcached, false, Random::flags);
    }
}

#[test]
fn random_commands_are_answered_as_the_newest_memcached_answers_them() {
    if let Some(memcached) = newest_memcached(&MEMCACHED) {
        compare(&memcached, true, Random::command);
    }
}

#[test]
fn meta_flags_in_any_order_are_answered_as_the_newest_memcached_answers_them() {
    if let Some(memcached) = newest_memcached(&MEMCACHED) {
        compare(&memcached, true, Random::flags);
    }
}

#[test]
fn commands_in_datagrams_are_answered_as_debians_memcached_answers_them() {
    if let Some(memcached) = Server::memcached(&[&MEMCACHED[..], &UDP].concat()) {
        compare_datagrams(&memcached, false);
    }
}

#[test]
fn commands_in_datagrams_are_answered_as_the_newest_memcached_answers_them() {
    if let Some(memcached) = newest_memcached(&[&MEMCACHED[..], &UDP].concat()) {
        compare_datagrams(&memcached, true);
    }
}

fn newest_memcached(arguments: &[&str]) -> Option<Server> {
    let program = std::env::var_os("LARDER_MEMCACHED");
    if program.is_none() {
        eprintln!("SKIPPED: LARDER_MEMCACHED does not name a memcached of 1.6.45 or newer");
    }
    Some(Server::memcached_at(program?.as_ref(), arguments))
}

/// Sends the same commands to both servers over UDP. There are fewer than over TCP: each waits for its reply.
fn compare_datagrams(memcached: &Server, newest: bool) {
    let seed = from_environment("LARDER_DIFFERENTIAL_SEED", 1);
    let commands = from_environment("LARDER_DIFFERENTIAL_COMMANDS", 20_000) / 10;
    let node = Server::node(&[&NODE[..], &UDP].concat());
    let servers = [memcached, &node];
    let mut sides = servers.map(Side::connect);
    let mut datagrams = servers.map(udp::Datagrams::connect);
    sides.iter_mut().for_each(Side::use_up_cas_uniques);
    let mut random = Random { rng: StdRng::seed_from_u64(seed), newest };
    let mut history: VecDeque<Command> = VecDeque::new();
    for number in 0..commands {
        if number % ROUND as u64 == 0 {
            sides.iter_mut().for_each(|side| side.learn_cas(&random.plain_keys()));
        }
        let command = if random.one_in(3) { random.classic() } else { random.flags() };
        if command.bytes.len() > 1300 {
            continue;
        }
        let [expected, found] = [0, 1].map(|i| {
            let answer = datagrams[i].answer(&sides[i].with_cas(&command));
            flags::with_plain_keys(&answer)
        });
        let exact_cas = command.exact_cas;
        history.push_back(command);
        if !alike(&expected, &found, exact_cas) {
            panic!("{}", report(seed, number / ROUND as u64, &history, &expected, &found));
        }
        history.drain(..history.len().saturating_sub(16 * ROUND));
    }
}

/// Sends the same commands to both servers. `newest` says that the reference knows all commands of memcached 1.6.45.
fn compare(memcached: &Server, newest: bool, draw: fn(&mut Random) -> Command) {
    let seed = from_environment("LARDER_DIFFERENTIAL_SEED", 1);
    let commands = from_environment("LARDER_DIFFERENTIAL_COMMANDS", 20_000);
    let node = Server::node(&NODE);
    let mut sides = [Side::connect(memcached), Side::connect(&node)];
    sides.iter_mut().for_each(Side::use_up_cas_uniques);
    let mut random = Random { rng: StdRng::seed_from_u64(seed), newest };
    let mut history: VecDeque<Command> = VecDeque::new();
    for round in 0..commands.div_ceil(ROUND as u64) {
        sides.iter_mut().for_each(|side| side.learn_cas(&random.plain_keys()));
        let commands: Vec<Command> = (0..ROUND).map(|_| draw(&mut random)).collect();
        let [expected, found] = sides.each_mut().map(|side| side.answers(round, &commands));
        let [expected, found] = [expected, found]
            .map(|answers| -> Vec<Vec<u8>> { answers.iter().map(|answer| flags::with_plain_keys(answer)).collect() });
        for (i, (expected, found)) in expected.iter().zip(&found).enumerate() {
            if !alike(expected, found, commands.get(i).is_some_and(|command| command.exact_cas)) {
                history.extend(commands.into_iter().take(i + 1));
                panic!("{}", report(seed, round, &history, expected, found));
            }
        }
        assert_eq!(expected.len(), found.len(), "seed {seed}, round {round}: a different number of answers");
        history.extend(commands);
        history.drain(..history.len().saturating_sub(16 * ROUND));
    }
}

fn report(seed: u64, round: u64, history: &VecDeque<Command>, expected: &[u8], found: &[u8]) -> String {
    let last = history.back().expect("there is one at least");
    let mut text = format!("seed {seed}, round {round}; what was done to the key:\n");
    let same_key: Vec<&Command> = history.iter().filter(|command| command.bytes.contains(&last.key)).collect();
    for command in &same_key[same_key.len().saturating_sub(30)..] {
        let _ = writeln!(text, "    {:?}", shorten(&command.bytes));
    }
    let (expected, found) = (expected.escape_ascii(), found.escape_ascii());
    let _ = writeln!(text, "memcached: {expected}\n     node: {found}");
    text
}

fn shorten(text: &str) -> &str {
    &text[..text.len().min(300)]
}

/// Whether two answers are the same, except for ages, remaining times (by a few seconds) and CAS uniques.
fn alike(a: &[u8], b: &[u8], exact_cas: bool) -> bool {
    if a == b {
        return true;
    }
    let mut lines = (a.split(|&b| b == b'\n'), b.split(|&b| b == b'\n'));
    loop {
        let (a, b) = match (lines.0.next(), lines.1.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) => (a, b),
            _ => return false,
        };
        if a != b && !alike_lines(a, b, exact_cas) {
            return false;
        }
    }
}

fn alike_lines(a: &[u8], b: &[u8], exact_cas: bool) -> bool {
    let (Ok(a), Ok(b)) = (std::str::from_utf8(a), std::str::from_utf8(b)) else { return false };
    let (a, b): (Vec<&str>, Vec<&str>) = (a.trim_end().split(' ').collect(), b.trim_end().split(' ').collect());
    let number = |word: &str| word[1..].parse::<i64>().ok();
    a.len() == b.len()
        && a.iter().zip(&b).enumerate().all(|(i, (a, b))| {
            a == b
                || match (a.as_bytes().first(), b.as_bytes().first()) {
                    (Some(b'c'), Some(b'c')) if !exact_cas => number(a).is_some() && number(b).is_some(),
                    (Some(b't' | b'l'), Some(b't' | b'l')) => {
                        number(a).zip(number(b)).is_some_and(|(a, b)| (a - b).abs() <= 5 && (a < 0) == (b < 0))
                    }
                    // The CAS unique that ends a VALUE line.
                    _ => i == 4 && a.parse::<u64>().is_ok() && b.parse::<u64>().is_ok(),
                }
        })
}

/// A connection to one of the servers, and the CAS uniques that it reported.
struct Side {
    stream: TcpStream,
    cas: Vec<(String, String)>,
}

impl Side {
    fn connect(server: &Server) -> Side {
        let stream = TcpStream::connect(server.address()).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out that is not zero");
        stream.set_nodelay(true).expect("TCP");
        Side { stream, cas: Vec::new() }
    }

    /// memcached's CAS uniques begin at 1. Some are used up here, so that 1 is lower than any reported one.
    fn use_up_cas_uniques(&mut self) {
        drop(self.answers(u64::MAX, &[plain("", "set warm-up 0 0 1\r\n0\r\n".repeat(3))]));
    }

    /// Returns the command with the CAS unique that this server reported for its key, or one lower than any reported.
    fn with_cas(&self, command: &Command) -> String {
        let known = self.cas.iter().find(|(key, _)| *key == command.key);
        command.bytes.replace(CAS, known.map_or("1", |(_, cas)| cas))
    }

    /// Reads until `marker` ends the answer, and returns the bytes before it.
    fn read_until(&mut self, marker: &[u8]) -> Vec<u8> {
        let mut answer = Vec::new();
        let mut buffer = [0; 16 * 1024];
        while !answer.ends_with(marker) {
            let read = self.stream.read(&mut buffer).unwrap_or_else(|error| {
                panic!("{error} after {:?}", String::from_utf8_lossy(&answer[answer.len().saturating_sub(500)..]))
            });
            assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&buffer[..read]);
        }
        answer.truncate(answer.len() - marker.len());
        answer
    }

    fn learn_cas(&mut self, keys: &[String]) {
        let request: String = keys.iter().map(|key| format!("mg {key} k c u\r\n")).collect();
        self.stream.write_all(request.as_bytes()).expect("the server reads");
        self.stream.write_all(b"mn\r\n").expect("the server reads");
        let answer = String::from_utf8(self.read_until(b"MN\r\n")).expect("only text was asked for");
        self.cas = answer
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ').filter(|word| word.len() > 1);
                let key = words.find_map(|word| word.strip_prefix('k'))?;
                let cas = words.find_map(|word| word.strip_prefix('c'))?;
                Some((key.to_owned(), cas.to_owned()))
            })
            .collect();
    }

    /// Sends the commands, each followed by a marker, and returns the answers between the markers.
    fn answers(&mut self, round: u64, commands: &[Command]) -> Vec<Vec<u8>> {
        let mut request = String::new();
        for command in commands {
            request += &self.with_cas(command);
            request += "mn\r\n";
        }
        let _ = write!(request, "mg end-{round} k\r\n");
        self.stream.write_all(request.as_bytes()).expect("the server reads");
        let answer = self.read_until(format!("EN kend-{round}\r\n").as_bytes());
        let text = answer;
        let mut answers = Vec::new();
        let mut rest = &text[..];
        while let Some(at) = rest.windows(4).position(|bytes| bytes == b"MN\r\n") {
            answers.push(rest[..at].to_vec());
            rest = &rest[at + 4..];
        }
        answers.push(rest.to_vec());
        answers
    }
}

#[derive(Debug)]
struct Command {
    key: String,
    bytes: String,
    /// The client sets all CAS uniques of this key, so that both servers have the same.
    exact_cas: bool,
}

/// Generates commands. No word or value contains a capital N, so that no answer looks like a marker.
struct Random {
    rng: StdRng,
    newest: bool,
}

impl Random {
    fn plain_keys(&self) -> Vec<String> {
        let classic = (0..16).map(|i| format!("k{i}"));
        classic.chain((0..6).map(|i| format!("f{i}"))).collect()
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words.choose(&mut self.rng).expect("there is one at least")
    }

    fn plain_key(&mut self) -> String {
        format!("k{}", self.rng.random_range(0..16))
    }

    fn text(&mut self, len: usize) -> String {
        let bytes = b"abcdefgh 0123456789\r\n\t~!";
        let mut text: String = (0..len).map(|_| char::from(*bytes.choose(&mut self.rng).expect("not empty"))).collect();
        if text.trim().is_empty() {
            // memcached reads beyond the end of a value of blanks when it looks for a number.
            text.push('a');
        }
        text
    }

    fn value(&mut self) -> String {
        match self.rng.random_range(0..8) {
            0..3 => self.rng.random_range(0..120u64).to_string(),
            // With a number of 2^63 or more, 1.6.18 looks for a minus sign beyond the end of the value.
            3 if self.newest => self
                .pick(&[
                    "18446744073709551615",
                    "18446744073709551616",
                    "9223372036854775808",
                    "0012",
                    "12 ",
                    " 12",
                    "-1",
                    "99",
                    "100",
                    "1000",
                    "12abc",
                    "",
                    "00000000000000000000000001",
                ])
                .to_owned(),
            4 if self.one_in(50) => self.text(20_000),
            _ => {
                let len = self.rng.random_range(0..100);
                self.text(len)
            }
        }
    }

    /// Expiration times: far in the future, in the past, or never.
    fn exptime(&mut self) -> &'static str {
        self.pick(&["0", "0", "0", "0", "1000", "5000", "2592000", "2592001", "2000000000", "-1", "2147483647", "300"])
    }

    fn number(&mut self) -> String {
        match self.rng.random_range(0..6) {
            0 if self.newest => self.pick(&["0", "18446744073709551615", "9223372036854775807", "1000000"]).to_owned(),
            _ => self.rng.random_range(0..40u64).to_string(),
        }
    }

    fn command(&mut self) -> Command {
        let choice = self.rng.random_range(0..100);
        match choice {
            0..30 => self.classic(),
            30..75 => {
                let key = self.plain_key();
                self.meta(key, Keyed::Plain)
            }
            75..85 => {
                let key = format!("aGVsbG8{}", self.pick(&["=", "x", "y", "z"]));
                self.meta(key, Keyed::Base64)
            }
            85..92 if self.newest => {
                let key = format!("e{}", self.rng.random_range(0..4));
                self.meta(key, Keyed::ExactCas)
            }
            92..98 if self.newest => self.wrong(),
            98 if self.one_in(30) => plain("", "flush_all\r\n".into()),
            _ => self.classic(),
        }
    }

    fn classic(&mut self) -> Command {
        let key = self.plain_key();
        let noreply = if self.one_in(8) { " noreply" } else { "" };
        let bytes = match self.rng.random_range(0..16) {
            0..3 => {
                let mut line = self.pick(&["get", "gets"]).to_owned();
                self.append_keys(&mut line, &key);
                line + "\r\n"
            }
            3 => {
                let mut line = format!("{} {}", self.pick(&["gat", "gats"]), self.exptime());
                self.append_keys(&mut line, &key);
                line + "\r\n"
            }
            4..9 => {
                let name = self.pick(&["set", "set", "add", "replace", "append", "prepend"]);
                let (flags, exptime, value) = (self.client_flags(), self.exptime(), self.value());
                format!("{name} {key} {flags} {exptime} {}{noreply}\r\n{value}\r\n", value.len())
            }
            9 => {
                let cas = self.cas();
                let (flags, exptime, value) = (self.client_flags(), self.exptime(), self.value());
                format!("cas {key} {flags} {exptime} {} {cas}{noreply}\r\n{value}\r\n", value.len())
            }
            10 | 11 => format!("delete {key}{noreply}\r\n"),
            12 | 13 => format!("{} {key} {}{noreply}\r\n", self.pick(&["incr", "decr"]), self.number()),
            14 => format!("touch {key} {}{noreply}\r\n", self.exptime()),
            _ if self.one_in(200) => {
                let name = self.pick(&["set", "add", "append"]);
                let len = self.pick(&["1048576", "1048517", "1048510", "1100000"]);
                let value = "x".repeat(len.parse().expect("a number"));
                format!("{name} {key} 0 0 {len}{noreply}\r\n{value}\r\ndelete {key}\r\n")
            }
            _ => format!("get {key}\r\n"),
        };
        plain(&key, bytes)
    }

    fn append_keys(&mut self, line: &mut String, first: &str) {
        for i in 0..self.rng.random_range(1..5) {
            let key = if i == 0 { first.to_owned() } else { self.plain_key() };
            let blanks = if self.one_in(20) { "  " } else { " " };
            *line += blanks;
            *line += &key;
        }
    }

    fn client_flags(&mut self) -> &'static str {
        self.pick(&["0", "0", "1", "42", "65536", "4294967295"])
    }

    /// A CAS unique that matches, or one below or above all.
    fn cas(&mut self) -> &'static str {
        self.pick(&[CAS, CAS, CAS, "1", "18446744073709551615"])
    }

    fn meta(&mut self, key: String, keyed: Keyed) -> Command {
        // No `ma` with E: memcached gives E's CAS unique to the old item when the number grows by a digit.
        let last = if keyed == Keyed::ExactCas { "md" } else { "ma" };
        let kind = self.pick(&["mg", "mg", "mg", "ms", "ms", "md", last]);
        let mut flags: Vec<String> = Vec::new();
        let mut maybe = |random: &mut Self, n: u32, flag: &dyn Fn(&mut Self) -> String| {
            if random.one_in(n) {
                flags.push(flag(random));
            }
        };
        let word = |word: &'static str| move |_: &mut Self| word.to_owned();
        maybe(self, 3, &|random| format!("O{}", random.rng.random_range(0..1000)));
        // memcached forgets that a key was in base64 when an append creates a new item.
        if !(kind == "mg" && keyed == Keyed::Base64) {
            maybe(self, 3, &word("k"));
        }
        // 1.6.18 answers even a quiet command that creates a number.
        if self.newest || kind != "ma" {
            maybe(self, 4, &word("q"));
        }
        // The remaining time after a T of -1 depends on the server's age, so a command has t or T-1, not both.
        let tells_ttl = self.one_in(3);
        let exptime = move |random: &mut Self| loop {
            let exptime = random.exptime();
            if !(tells_ttl && ["-1", "2592001"].contains(&exptime)) {
                return exptime;
            }
        };
        let may_vivify = keyed != Keyed::Base64;
        match kind {
            "mg" => {
                for flag in ["v", "c", "f", "s", "h", "u"] {
                    maybe(self, 3, &word(flag));
                }
                if tells_ttl {
                    maybe(self, 1, &word("t"));
                }
                maybe(self, 10, &word("l"));
                // memcached applies T, N and R in the order of the line; the node applies T first. So no line has two
                // of them.
                match self.rng.random_range(0..8) {
                    0 | 1 => maybe(self, 1, &|random| format!("T{}", exptime(random))),
                    2 => maybe(self, 1, &|random| format!("R{}", random.pick(&["30", "900", "3000", "0", "-1"]))),
                    3 if may_vivify => maybe(self, 1, &|random| format!("N{}", exptime(random))),
                    _ => {}
                }
                if self.newest {
                    maybe(self, 12, &|random| format!("C{}", random.cas_for(keyed)));
                }
            }
            "ms" => {
                maybe(self, 3, &word("c"));
                if self.newest {
                    maybe(self, 3, &word("s"));
                }
                maybe(self, 2, &|random| format!("M{}", random.pick(&["S", "E", "A", "P", "R"])));
                maybe(self, 3, &|random| format!("F{}", random.client_flags()));
                maybe(self, 3, &|random| format!("T{}", random.exptime()));
                maybe(self, 4, &|random| format!("C{}", random.cas_for(keyed)));
                maybe(self, 4, &word("I"));
                if self.newest && may_vivify {
                    maybe(self, 6, &|random| format!("N{}", random.exptime()));
                }
            }
            "md" => {
                maybe(self, 4, &|random| format!("C{}", random.cas_for(keyed)));
                maybe(self, 3, &word("I"));
                maybe(self, 3, &|random| format!("T{}", random.exptime()));
                if self.newest {
                    maybe(self, 6, &word("x"));
                }
            }
            _ => {
                maybe(self, 2, &word("v"));
                maybe(self, 3, &word("c"));
                if tells_ttl {
                    maybe(self, 1, &word("t"));
                }
                maybe(self, 3, &|random| format!("M{}", random.pick(&["I", "D", "+", "-"])));
                maybe(self, 2, &|random| format!("D{}", random.number()));
                // No T: memcached gives the new time to the old item when the number grows by a digit.
                maybe(self, 8, &|random| format!("C{}", random.cas_for(keyed)));
                if may_vivify {
                    maybe(self, 3, &|random| format!("N{}", exptime(random)));
                    maybe(self, 3, &|random| format!("J{}", random.number()));
                }
            }
        }
        match keyed {
            Keyed::Plain => {}
            Keyed::Base64 => flags.push("b".into()),
            Keyed::ExactCas => flags.push(format!("E{}", self.rng.random_range(1..50))),
        }
        use rand::seq::SliceRandom;
        flags.shuffle(&mut self.rng);
        let mut line = format!("{kind} {key}");
        let value = if kind == "ms" { Some(self.value()) } else { None };
        if let Some(value) = &value {
            let _ = write!(line, " {}", value.len());
        }
        for flag in flags {
            line += " ";
            line += &flag;
        }
        line += "\r\n";
        if let Some(value) = value {
            line += &value;
            line += "\r\n";
        }
        Command { key, bytes: line, exact_cas: keyed == Keyed::ExactCas }
    }

    fn cas_for(&mut self, keyed: Keyed) -> String {
        match keyed {
            Keyed::ExactCas => self.rng.random_range(1..50).to_string(),
            // These commands show nothing new.
            Keyed::Base64 => self.pick(&["1", "18446744073709551615"]).to_owned(),
            Keyed::Plain => self.cas().to_owned(),
        }
    }

    /// Malformed lines.
    fn wrong(&mut self) -> Command {
        let key = self.plain_key();
        let bytes = match self.rng.random_range(0..8) {
            0 => {
                let words =
                    ["x", "-1", "+3", "007", "99999999999", "4294967296", "1.5", "5000000000", "-", "2147483648"];
                let word = self.pick(&words);
                match self.rng.random_range(0..8) {
                    0 => format!("set {key} {word} 0 2\r\nhi\r\n"),
                    1 => format!("add {key} 0 {word} 2\r\nhi\r\n"),
                    2 => format!("incr {key} {word}\r\n"),
                    3 => format!("touch {key} {word}\r\n"),
                    4 => format!("gat {word} {key}\r\n"),
                    5 => format!("cas {key} 0 0 2 {word}\r\nhi\r\n"),
                    6 => format!("mg {key} T{word}\r\n"),
                    // Not E: a CAS unique from the client is above memcached's own, and below the node's.
                    _ => format!("ms {key} 2 {}{word}\r\nhi\r\n", self.pick(&["F", "C", "T", "M", "I", "q"])),
                }
            }
            1 => {
                let value = self.value();
                let extra = self.pick(&["x", "xyz", "xyz abc\r\nget k1"]);
                let head = self.pick(&["set {key} 0 0 ", "ms {key} "]).replace("{key}", &key);
                let quiet = self.pick(&["", if head.starts_with("ms") { " q" } else { " noreply" }]);
                format!("{head}{}{quiet}\r\n{value}{extra}\r\n", value.len())
            }
            2 => format!("{} {}\r\n", self.pick(&["set", "get", "incr", "touch", "ms", "cas", "gat", "append"]), key),
            3 => format!(
                "{}\r\n",
                self.pick(&["get", "mg", "", "a", "ab", "abcd", "   ", "delete", "touch", "  get k1", "gets "])
            ),
            4 => {
                let long = "k".repeat(251);
                let name = self.pick(&[
                    "mg",
                    "md",
                    "ma",
                    "delete",
                    "touch {} 0",
                    "incr {} 1",
                    "set {} 0 0 2\r\nhi",
                    "ms {} 2\r\nhi",
                ]);
                if name.contains("{}") {
                    format!("{}\r\n", name.replace("{}", &long))
                } else {
                    format!("{name} {long}\r\n")
                }
            }
            5 => {
                // A meta line with one byte changed, one word doubled or one left out. The result may still be valid,
                // but no value follows it, and no word depends on time.
                let line = format!("{} {key} v k O12 c q f I D5 J3 C1", self.pick(&["mg", "md", "ma"]));
                let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
                let at = self.rng.random_range(1..words.len());
                match self.rng.random_range(0..3) {
                    0 => words.insert(at, words[at].clone()),
                    1 => drop(words.remove(at)),
                    _ => {
                        let byte = *b"!~{[z9AZvkb".choose(&mut self.rng).expect("not empty");
                        words[at].replace_range(..1, &char::from(byte).to_string());
                    }
                }
                words.join(" ") + "\r\n"
            }
            6 => format!("mg {key} {}\r\n", (b'a'..=b'z').map(|b| format!("{} ", char::from(b))).collect::<String>()),
            // With u, because memcached checks the opaque's length only after it has read the item.
            _ => format!("mg {key} O{} v u\r\n", "o".repeat(self.rng.random_range(28..36))),
        };
        plain(&key, bytes)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keyed {
    Plain,
    Base64,
    ExactCas,
}

fn plain(key: &str, bytes: String) -> Command {
    Command { key: key.to_owned(), bytes, exact_cas: false }
}
