//! Checked histories: clients write numbered values, and no read may return what was certainly overwritten.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What is checked and counted over all clients.
#[derive(Debug)]
pub struct History {
    begun: Instant,
    keys: Vec<Mutex<Log>>,
    next: AtomicU64,
    /// Operations that were answered.
    pub operations: AtomicU64,
    /// Reads that found a value.
    pub hits: AtomicU64,
    /// Operations that were answered by an error or not at all.
    pub errors: AtomicU64,
    violations: Mutex<Vec<String>>,
    /// The last few errors.
    pub failures: Mutex<Vec<String>>,
    stop: AtomicBool,
    /// Nanoseconds for which a client does nothing after each operation.
    pause: AtomicU64,
}

/// What happened to one key.
#[derive(Debug, Default)]
struct Log {
    /// When the writes that succeeded began and ended; the last ones.
    writes: Vec<(u64, u64)>,
    /// When the write of a value ended; without an end it is not known whether it was carried out.
    ends: HashMap<u64, u64>,
    /// Of a counter, for each value it began with: the results of `incr`, with when they began and ended.
    counts: HashMap<u64, Vec<(u64, u64, u64)>>,
}

/// Writes of a key that are looked at.
const REMEMBERED: usize = 512;

/// How a client chooses the node that it sends a command to.
#[derive(Debug, Clone, Copy)]
pub enum Choice {
    /// Any node of the newest list.
    Any,
    /// By a hash of its own over the newest list.
    OtherHash,
    /// By a hash over the list that it had at the beginning.
    OldList,
    /// Always the first node.
    One,
}

/// Counters begin with multiples of this.
const COUNTER: u64 = 1_000_000;

impl History {
    /// A history of so many keys.
    pub fn new(keys: usize) -> History {
        History {
            begun: Instant::now(),
            keys: (0..keys).map(|_| Mutex::default()).collect(),
            next: AtomicU64::new(1),
            operations: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            violations: Mutex::default(),
            failures: Mutex::default(),
            stop: AtomicBool::new(false),
            pause: AtomicU64::new(0),
        }
    }

    /// Has each client do nothing for so long after each operation.
    pub fn pause(&self, pause: Duration) {
        self.pause.store(pause.as_nanos() as u64, Ordering::Relaxed);
    }

    /// What was wrong.
    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().expect("no client panics").clone()
    }

    /// Ends the clients once it is dropped.
    pub fn stopper(&self) -> impl Drop + '_ {
        struct Stopper<'a>(&'a AtomicBool);
        impl Drop for Stopper<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        Stopper(&self.stop)
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    fn violation(&self, what: String) {
        self.violations.lock().expect("no client panics").push(what);
    }

    /// A read of `key` that began then returned the value of this number.
    fn read(&self, key: usize, began: u64, value: u64, what: &str) {
        let log = self.keys[key].lock().expect("no client panics");
        let Some(&end) = log.ends.get(&value) else {
            return self.violation(format!("{what} of key {key} returned {value}, which nobody wrote there"));
        };
        let later = log.writes.iter().filter(|(start, ended)| *ended < began && *start > end).max();
        if let Some((start, ended)) = later {
            self.violation(format!(
                "{what} of key {key} at {began} returned {value}, written until {end}, but a write from {start} to {ended} \
                 succeeded since"
            ));
        }
    }

    /// A value is about to be written: from now on it may be read.
    fn writes(&self, key: usize) -> u64 {
        let value = self.next.fetch_add(1, Ordering::Relaxed);
        self.keys[key].lock().expect("no client panics").ends.insert(value, u64::MAX);
        value
    }

    fn wrote(&self, key: usize, began: u64, value: Option<u64>) {
        let ended = self.now();
        let mut log = self.keys[key].lock().expect("no client panics");
        if let Some(value) = value {
            log.ends.insert(value, ended);
        }
        log.writes.push((began, ended));
        if log.writes.len() > 2 * REMEMBERED {
            log.writes.drain(..REMEMBERED);
        }
    }

    /// An `incr` of a counter returned this.
    fn counted(&self, key: usize, began: u64, value: u64) {
        let ended = self.now();
        let base = value / COUNTER;
        let mut log = self.keys[key].lock().expect("no client panics");
        let counts = log.counts.entry(base).or_default();
        let wrong = counts.iter().find(|(start, end, other)| {
            *other == value || (*end < began && *other > value) || (ended < *start && *other < value)
        });
        if let Some((start, end, other)) = wrong {
            let what = format!("incr of key {key} returned {value}, and {other} from {start} to {end}");
            drop(log);
            return self.violation(what);
        }
        if counts.len() > REMEMBERED {
            counts.drain(..REMEMBERED / 2);
        }
        counts.push((began, ended, value));
    }

    /// Runs a client until the history is stopped.
    pub fn client(&self, seed: u64, choice: Choice, nodes: &Mutex<Vec<u16>>) {
        let mut client = Client {
            history: self,
            random: StdRng::seed_from_u64(seed),
            connections: HashMap::new(),
            old: nodes.lock().expect("no client panics").clone(),
            choice,
        };
        while !self.stop.load(Ordering::Relaxed) {
            client.operate(nodes);
            match self.pause.load(Ordering::Relaxed) {
                0 => {}
                pause => std::thread::sleep(Duration::from_nanos(pause)),
            }
        }
    }
}

struct Client<'a> {
    history: &'a History,
    random: StdRng,
    connections: HashMap<u16, BufReader<TcpStream>>,
    old: Vec<u16>,
    choice: Choice,
}

/// What a line of an answer is not.
fn unexpected(line: &str) -> io::Error {
    io::Error::other(line.trim_end().to_owned())
}

impl Client<'_> {
    fn operate(&mut self, nodes: &Mutex<Vec<u16>>) {
        let key = self.random.random_range(0..self.history.keys.len());
        let new = nodes.lock().expect("no client panics").clone();
        let spread = key.wrapping_mul(0x9e37_79b9) >> 7;
        let port = match self.choice {
            Choice::Any => new[self.random.random_range(0..new.len())],
            Choice::OtherHash => new[spread % new.len()],
            Choice::OldList => self.old[spread % self.old.len()],
            Choice::One => self.old[0],
        };
        match self.command(key, port) {
            Ok(()) => _ = self.history.operations.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                self.history.errors.fetch_add(1, Ordering::Relaxed);
                let mut failures = self.history.failures.lock().expect("no client panics");
                if failures.len() < 20 {
                    failures.push(format!("{:?} at {port}: {error}", self.choice));
                }
                drop(failures);
                // What was under way on it is not known.
                self.connections.remove(&port);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn command(&mut self, key: usize, port: u16) -> io::Result<()> {
        let history = self.history;
        // Every eighth key is a counter.
        if key.is_multiple_of(8) {
            return self.count(key, port);
        }
        let began = history.now();
        match self.random.random_range(0..100) {
            0..50 => {
                if let Some((value, _)) = self.get(key, port, "get")? {
                    history.hits.fetch_add(1, Ordering::Relaxed);
                    history.read(key, began, value, "get");
                }
            }
            50..75 => {
                let value = history.writes(key);
                let line = self.store("set", key, port, value, "")?;
                if line != "STORED\r\n" {
                    return Err(unexpected(&line));
                }
                history.wrote(key, began, Some(value));
            }
            75..85 => {
                let line = self.line(port, format!("delete key{key}\r\n").as_bytes())?;
                match &*line {
                    // Nothing was there at some moment: that is as good.
                    "DELETED\r\n" | "NOT_FOUND\r\n" => history.wrote(key, began, None),
                    _ => return Err(unexpected(&line)),
                }
            }
            85..90 => {
                let value = history.writes(key);
                let line = self.store("add", key, port, value, "")?;
                match &*line {
                    "STORED\r\n" => history.wrote(key, began, Some(value)),
                    "NOT_STORED\r\n" => {}
                    _ => return Err(unexpected(&line)),
                }
            }
            _ => {
                let Some((old, unique)) = self.get(key, port, "gets")? else { return Ok(()) };
                history.read(key, began, old, "gets");
                let began = history.now();
                let value = history.writes(key);
                let line = self.store("cas", key, port, value, &format!(" {unique}"))?;
                match &*line {
                    "STORED\r\n" => {
                        // The unique was that of the old value until now.
                        history.read(key, began, old, "cas");
                        history.wrote(key, began, Some(value));
                    }
                    "EXISTS\r\n" | "NOT_FOUND\r\n" => {}
                    _ => return Err(unexpected(&line)),
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, key: usize, port: u16) -> io::Result<()> {
        let history = self.history;
        let began = history.now();
        let line = self.line(port, format!("incr key{key} 1\r\n").as_bytes())?;
        match &*line {
            "NOT_FOUND\r\n" => {
                let base = history.next.fetch_add(1, Ordering::Relaxed) * COUNTER;
                let text = base.to_string();
                let command = format!("add key{key} 0 0 {}\r\n{text}\r\n", text.len());
                let line = self.line(port, command.as_bytes())?;
                if line != "STORED\r\n" && line != "NOT_STORED\r\n" {
                    return Err(unexpected(&line));
                }
            }
            number => {
                let value = number.trim_end().parse().map_err(|_| unexpected(number))?;
                history.counted(key, began, value);
            }
        }
        Ok(())
    }

    /// The value's number and its CAS unique.
    fn get(&mut self, key: usize, port: u16, command: &str) -> io::Result<Option<(u64, u64)>> {
        let line = self.line(port, format!("{command} key{key}\r\n").as_bytes())?;
        if line == "END\r\n" {
            return Ok(None);
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = format!("key{key}");
        let ["VALUE", found, _, len, ref unique @ ..] = words[..] else { return Err(unexpected(&line)) };
        let len: usize = len.parse().map_err(|_| unexpected(&line))?;
        let unique = unique.first().map_or(Ok(0), |unique| unique.parse()).map_err(|_| unexpected(&line))?;
        let mut value = vec![0; len + 2];
        let connection = self.connection(port)?;
        connection.read_exact(&mut value)?;
        let mut end = String::new();
        connection.read_line(&mut end)?;
        let text = String::from_utf8_lossy(&value[..len]).into_owned();
        let number =
            text.split_once('=').filter(|(of, _)| *of == name).and_then(|(_, number)| number.trim().parse().ok());
        match number {
            Some(number) if found == name && end == "END\r\n" => Ok(Some((number, unique))),
            _ => {
                self.history.violation(format!("a read of {name} returned {found} with {text:?}"));
                Ok(None)
            }
        }
    }

    fn store(&mut self, command: &str, key: usize, port: u16, value: u64, unique: &str) -> io::Result<String> {
        let value = format!("key{key}={value}");
        self.line(port, format!("{command} key{key} 0 0 {}{unique}\r\n{value}\r\n", value.len()).as_bytes())
    }

    /// Sends a command and reads a line.
    fn line(&mut self, port: u16, command: &[u8]) -> io::Result<String> {
        let connection = self.connection(port)?;
        connection.get_mut().write_all(command)?;
        let mut line = String::new();
        match connection.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }

    fn connection(&mut self, port: u16) -> io::Result<&mut BufReader<TcpStream>> {
        match self.connections.entry(port) {
            Entry::Occupied(connection) => Ok(connection.into_mut()),
            Entry::Vacant(place) => {
                let stream = TcpStream::connect(("127.0.0.1", port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(3)))?;
                Ok(place.insert(BufReader::new(stream)))
            }
        }
    }
}
