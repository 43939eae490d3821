//! `larder-bench replay`: replays a key trace through the client library, reading through on a miss.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;
use larder_cli::access::AccessArgs;
use larder_client::{Client, Stored};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot, watch};

use crate::interrupt::Interrupt;
use crate::load::{Address, check_reachable, client_cpu, no_server_twice};
use crate::report::{Collector, Interval, ProgressDisplay, Report, ReportArgs, ServerStats, parse_duration};
use crate::trace::{self, Command, Request};
use crate::workload::Operation;

/// Options of `larder-bench replay`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
A trace has a line for each request, without a header line (the columns of the public Twitter cache traces):
  timestamp,key,key size,value size,client id,operation,TTL
Times are in seconds. Without --speed, requests go out as fast as they are answered. With it they are due as their timestamps \
say, those of one second spread over it, and latency counts from when a request was due: a stalled server cannot hide it.

Examples:
  larder-bench generate-trace trace.csv.zst && larder-bench replay trace.csv.zst --servers 127.0.0.1:11211
  larder-bench replay cluster52.sort.zst --servers cache1,cache2,cache3 --speed 10 --html replay.html")]
pub struct ReplayOptions {
    /// The trace; decompressed if the name ends in .zst. - is standard input
    pub trace: PathBuf,
    /// Servers: HOST or HOST:PORT. Ketama spreads keys over several
    #[arg(short, long, value_delimiter = ',', default_value = "127.0.0.1:11211", value_name = "ADDRESS")]
    pub servers: Vec<Address>,
    /// Send requests at the times of the trace: 1 at its speed, 10 ten times as fast [default: as fast as possible]
    #[arg(long, value_name = "FACTOR", value_parser = above_zero)]
    pub speed: Option<f64>,
    /// Requests under way at once. Requests of one key stay in order
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..), value_name = "COUNT")]
    pub concurrency: u16,
    /// Replay only this many requests
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<u64>,
    /// A request that has no answer after this time has failed
    #[arg(long, default_value = "5s", value_parser = parse_duration, value_name = "TIME")]
    pub timeout: Duration,
    /// Access to protected servers
    #[command(flatten)]
    pub access: AccessArgs,
    /// Where the report goes, and its bounds
    #[command(flatten)]
    pub output: ReportArgs,
}

fn above_zero(text: &str) -> Result<f64> {
    let number: f64 = text.parse()?;
    ensure!(number > 0.0 && number.is_finite(), "it must be above 0");
    Ok(number)
}

/// The most requests that wait for one task.
const QUEUE: usize = 256;
/// The most requests of one second that are held in memory to spread them over the second. More are spread over it
/// again.
const SECOND_MAX: usize = 1 << 20;
/// KiB of values that requests under way hold together at most: one value of the largest size.
const VALUES_MAX_KIB: u32 = (trace::VALUE_MAX / 1024) as u32;
/// How long the pacer may take to notice an interrupt.
const PATIENCE: Duration = Duration::from_millis(200);
/// The length of an interval in the report.
const INTERVAL: Duration = Duration::from_millis(250);

/// Runs `larder-bench replay`. A trace with a bad line is replayed and reported up to that line.
pub async fn run(options: ReplayOptions) -> Result<ExitCode> {
    options.output.check()?;
    let interrupt = Interrupt::on_signals()?;
    let (report, fault) = replay(&options, &interrupt).await?;
    let code = options.output.finish(report, interrupt.exit_status())?;
    fault.map_or(Ok(code), Err)
}

/// Replays the trace and returns its report, and the error of the trace if it has a bad line. Ends early once
/// `interrupt` is set.
///
/// # Errors
///
/// The trace cannot be opened, or a server cannot be reached.
pub async fn replay(options: &ReplayOptions, interrupt: &Interrupt) -> Result<(Report, Option<anyhow::Error>)> {
    let is_tcp = |address: &Address| matches!(address, Address::Tcp { .. });
    ensure!(options.servers.iter().all(is_tcp), "--servers: a replay goes over TCP (HOST or HOST:PORT)");
    ensure!(!options.timeout.is_zero(), "--timeout: must be above 0");
    no_server_twice(&options.servers)?;
    options.servers.iter().try_for_each(|address| check_reachable(address, options.timeout))?;
    let servers: Vec<String> = options.servers.iter().map(ToString::to_string).collect();
    let cache = options.access.client(&servers, options.timeout)?.build()?;
    let progress = ProgressDisplay::new("replaying", options.limit, !options.output.no_progress);
    let requests = match options.limit {
        None => trace::read(&options.trace, progress.bar())?,
        Some(_) => trace::read(&options.trace, &indicatif::ProgressBar::hidden())?,
    };
    let before = ServerStats::read(&cache).await;
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let meter = Arc::new(Meter::new(servers.len(), options.timeout, interrupt.clone()));
    let cpu = client_cpu();
    let (stop, stopped) = watch::channel(());
    let (queues, tasks): (Vec<_>, Vec<_>) = (0..options.concurrency)
        .map(|_| {
            let (queue, due) = mpsc::channel(QUEUE);
            (queue, tokio::spawn(answer(cache.clone(), due, meter.clone(), stopped.clone())))
        })
        .unzip();
    let limit = options.limit.map_or(usize::MAX, |limit| limit as usize);
    let limited = options.limit.is_some();
    let (speed, pacer_meter) = (options.speed, meter.clone());
    let (ends, end) = oneshot::channel();
    // The pacer sleeps, waits for queues and reads a file, all of which block. A thread that waits for standard input
    // does not keep the program from ending.
    std::thread::Builder::new().name("pacer".to_owned()).spawn(move || {
        let ended = hand_out(requests.take(limit), speed, &pacer_meter, &queues, &progress, limited);
        // Nobody listens after an interrupt.
        let _ = ends.send(ended);
    })?;
    let ended = tokio::select! {
        ended = end => ended.context("the pacer panicked")?,
        () = given_up(interrupt) => Ok(None),
    };
    // Without an interrupt, tasks end with their queues.
    if interrupt.is_set() {
        let _ = stop.send(());
    }
    for task in tasks {
        task.await?;
    }
    let mut report = meter.report(&servers);
    report.started = started;
    report.client_cpu_seconds = client_cpu() - cpu;
    report.interrupted = interrupt.is_set() || ended.is_err() || meter.hopeless.load(Ordering::Relaxed);
    report.set_use(&before, &ServerStats::read(&cache).await);
    if speed.is_some() {
        let length = ended.as_ref().ok().and_then(|length| *length).filter(|_| !report.interrupted);
        let length = length.map_or(report.seconds, |length| length.as_secs_f64());
        let sent = report.total.requests - report.fills + report.unsent;
        if sent > 0 && length > 0.0 {
            report.set_rate(sent as f64 / length);
        }
    }
    Ok((report, ended.err()))
}

/// Returns some time after the interrupt: the pacer has ended by then, or waits for a line of standard input.
async fn given_up(interrupt: &Interrupt) {
    while !interrupt.is_set() {
        tokio::time::sleep(PATIENCE / 4).await;
    }
    tokio::time::sleep(PATIENCE).await;
}

/// Hands every request to the queue of its key when it is due. Returns the length of the schedule.
fn hand_out(
    requests: impl Iterator<Item = Result<Request>>,
    speed: Option<f64>,
    meter: &Meter,
    queues: &[mpsc::Sender<Due>],
    progress: &ProgressDisplay,
    limited: bool,
) -> Result<Option<Duration>> {
    let (mut sent, mut shown) = (0u64, Duration::ZERO);
    pace(requests, speed, meter.started, &meter.interrupt, |due| {
        let mut hasher = DefaultHasher::new();
        due.request.key.hash(&mut hasher);
        let queue = &queues[hasher.finish() as usize % queues.len()];
        queue.blocking_send(due).context("a task ended early")?;
        sent += 1;
        let now = meter.started.elapsed();
        if now > shown + INTERVAL {
            shown = now;
            if meter.is_hopeless() {
                return Ok(false);
            }
            meter.show(progress);
            if limited {
                progress.bar().set_position(sent);
            }
        }
        Ok(true)
    })
}

/// A request of the trace, with its time.
struct Due {
    request: Request,
    /// When the request is due, since the start; `None` if it is due at once.
    at: Option<Duration>,
}

/// Hands every request to `send` when it is due, until the trace ends, `interrupt` is set, or `send` returns `false`.
/// Returns the length of the schedule; `None` without `speed`.
fn pace(
    requests: impl Iterator<Item = Result<Request>>,
    speed: Option<f64>,
    started: Instant,
    interrupt: &Interrupt,
    mut send: impl FnMut(Due) -> Result<bool>,
) -> Result<Option<Duration>> {
    let Some(speed) = speed else {
        for request in requests {
            if interrupt.is_set() || !send(Due { request: request?, at: None })? {
                break;
            }
        }
        return Ok(None);
    };
    // A time that no clock reaches is the last one there is.
    let scaled = |seconds: f64| Duration::try_from_secs_f64(seconds / speed).unwrap_or(Duration::MAX);
    let mut requests = requests.peekable();
    let (mut first, mut last) = (None, Duration::ZERO);
    let mut second = Vec::new();
    while let Some(request) = requests.next() {
        let request = request?;
        let time = request.time;
        second.push(request);
        let goes_on = matches!(requests.peek(), Some(Ok(next)) if next.time == time) && second.len() < SECOND_MAX;
        if goes_on {
            continue;
        }
        // A line with an earlier time than the line before it is due at once.
        let begin = time.saturating_sub(*first.get_or_insert(time)) as f64;
        let count = second.len() as f64;
        for (place, request) in second.drain(..).enumerate() {
            let at = scaled(begin + place as f64 / count);
            if interrupt.sleep_until(started, at) {
                return Ok(None);
            }
            if !send(Due { request, at: Some(at) })? {
                return Ok(None);
            }
        }
        last = last.max(scaled(begin + 1.0));
    }
    Ok(first.map(|_| last))
}

/// Sends the requests of one queue, one after the other, and fills what reads have missed. After `stop`, takes no more
/// requests.
async fn answer(cache: Client, mut due: mpsc::Receiver<Due>, meter: Arc<Meter>, mut stop: watch::Receiver<()>) {
    let mut stopped = false;
    loop {
        let next = tokio::select! {
            next = due.recv() => next,
            _ = stop.changed(), if !stopped => {
                stopped = true;
                due.close();
                continue;
            }
        };
        let Some(Due { request, at }) = next else { return };
        if meter.interrupt.is_set() || meter.hopeless.load(Ordering::Relaxed) {
            // Without a schedule, nothing was due.
            meter.count_unsent(at.is_some());
            continue;
        }
        let at = at.unwrap_or_else(|| meter.started.elapsed());
        let server = cache.owner(&request.key);
        let _room = meter.room_for(&request).await;
        let (operation, result) = send(&cache, &request).await;
        meter.count(server, operation, at, &result, false);
        if let (Operation::Get, Ok(false)) = (operation, &result) {
            let at = meter.started.elapsed();
            let filled = cache.set(&request.key, value(&request), ttl(&request)).await.map(|()| true);
            meter.count(server, Operation::Set, at, &filled, true);
        }
    }
}

fn value(request: &Request) -> Vec<u8> {
    vec![b'v'; request.value_size]
}

fn ttl(request: &Request) -> Duration {
    Duration::from_secs(request.ttl)
}

/// Sends a request. Returns its operation, and whether it found (or wrote) its key.
async fn send(cache: &Client, request: &Request) -> (Operation, larder_client::Result<bool>) {
    let (key, ttl) = (&request.key, ttl(request));
    let stored = |stored: Stored| stored == Stored::Yes;
    match request.command {
        Command::Get | Command::Gets => (Operation::Get, cache.get(key).await.map(|value| value.is_some())),
        Command::Set | Command::Cas => (Operation::Set, cache.set(key, value(request), ttl).await.map(|()| true)),
        Command::Add => (Operation::Set, cache.add(key, value(request), ttl).await.map(stored)),
        Command::Replace => (Operation::Set, cache.replace(key, value(request), ttl).await.map(stored)),
        Command::Append => (Operation::Set, cache.append(key, value(request)).await.map(stored)),
        Command::Prepend => (Operation::Set, cache.prepend(key, value(request)).await.map(stored)),
        Command::Delete => (Operation::Delete, cache.delete(key).await),
        Command::Incr => (Operation::Incr, cache.incr(key, 1).await.map(|number| number.is_some())),
        Command::Decr => (Operation::Incr, cache.decr(key, 1).await.map(|number| number.is_some())),
    }
}

/// The counts of all tasks, and what they share.
struct Meter {
    started: Instant,
    servers: usize,
    timeout: Duration,
    interrupt: Interrupt,
    hopeless: AtomicBool,
    counts: Mutex<(Collector, Interval)>,
    /// KiB of memory for the values of all requests under way.
    room: Semaphore,
}

impl Meter {
    fn new(servers: usize, timeout: Duration, interrupt: Interrupt) -> Meter {
        let counts = (Collector::new(servers, INTERVAL, timeout), Interval::new(0, servers));
        let room = Semaphore::new(VALUES_MAX_KIB as usize);
        Meter {
            started: Instant::now(),
            servers,
            timeout,
            interrupt,
            hopeless: AtomicBool::new(false),
            counts: Mutex::new(counts),
            room,
        }
    }

    /// Waits until there is memory for the value of `request`.
    async fn room_for(&self, request: &Request) -> Option<SemaphorePermit<'_>> {
        self.room.acquire_many((request.value_size / 1024) as u32).await.ok()
    }

    fn count(
        &self,
        server: usize,
        operation: Operation,
        due: Duration,
        result: &larder_client::Result<bool>,
        is_fill: bool,
    ) {
        let now = self.started.elapsed();
        let index = (now.as_nanos() / INTERVAL.as_nanos()) as usize;
        let (collector, interval) = &mut *self.counts.lock();
        if index > interval.index {
            collector.take(std::mem::replace(interval, Interval::new(index, self.servers)));
        }
        let tally = interval.tallies.at(server, operation);
        let latency = now.saturating_sub(due);
        tally.requests += 1;
        tally.fills += u64::from(is_fill);
        match result {
            Ok(found) => {
                tally.keys += 1;
                tally.in_time += 1;
                tally.kept += u64::from(!is_fill);
                if operation != Operation::Set {
                    tally.hits += u64::from(*found);
                    tally.misses += u64::from(!*found);
                }
                tally.record(latency.as_nanos() as u64, 1);
            }
            Err(error) => {
                tally.failed_keys += 1;
                tally.errors += 1;
                // A server that refuses at once must not look faster than one that answers.
                tally.record(latency.max(self.timeout).as_nanos() as u64, 1);
                interval.fault.get_or_insert_with(|| error.to_string());
            }
        }
    }

    /// Counts a request that is not sent because of the interrupt, if it `was_due`.
    fn count_unsent(&self, was_due: bool) {
        self.counts.lock().1.unsent += u64::from(was_due);
    }

    /// Whether every request so far has failed, so that the replay is to end.
    fn is_hopeless(&self) -> bool {
        let hopeless = self.counts.lock().0.is_hopeless(self.started.elapsed());
        self.hopeless.fetch_or(hopeless, Ordering::Relaxed) || hopeless
    }

    fn show(&self, progress: &ProgressDisplay) {
        if let Some(point) = self.counts.lock().0.recent() {
            progress.show(&point);
        }
    }

    fn report(&self, servers: &[String]) -> Report {
        let empty = (Collector::new(0, INTERVAL, self.timeout), Interval::new(0, 0));
        let (mut collector, last) = std::mem::replace(&mut *self.counts.lock(), empty);
        collector.take(last);
        if self.hopeless.load(Ordering::Relaxed) {
            collector.give_up();
        }
        collector.report(servers, self.started.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(times: &[u64]) -> impl Iterator<Item = Result<Request>> {
        let request = |&time: &u64| Request {
            time,
            key: b"a".to_vec(),
            key_size: 1,
            value_size: 1,
            client: 1,
            command: Command::Get,
            ttl: 0,
        };
        times.iter().map(request).map(Ok).collect::<Vec<_>>().into_iter()
    }

    fn due(times: &[u64], speed: Option<f64>) -> (Vec<Option<u128>>, Option<u128>) {
        let mut due = Vec::new();
        let length = pace(requests(times), speed, Instant::now(), &Interrupt::default(), |request| {
            due.push(request.at.map(|at| at.as_millis()));
            Ok(true)
        });
        (due, length.expect("a good trace").map(|length| length.as_millis()))
    }

    #[test]
    fn requests_of_a_second_spread_over_it_at_the_speed_asked_from_the_first_on() {
        let times = [1000, 1000, 1000, 1000, 1001, 1003, 1002];
        let ms = |times: &[u128]| times.iter().map(|&ms| Some(ms)).collect::<Vec<_>>();
        assert_eq!(due(&times, Some(100.0)), (ms(&[0, 2, 5, 7, 10, 30, 20]), Some(40)));
        assert_eq!(due(&times[..5], Some(50.0)), (ms(&[0, 5, 10, 15, 20]), Some(40)));
        assert_eq!(due(&times[..2], None), (vec![None, None], None));
    }
}
