//! `larder-bench load`: raw connections that cost the client as little CPU as may be.

mod answers;
mod args;
mod connection;
mod datagrams;
mod find_max;
mod plan;
mod progress;
mod requests;
mod tally;
mod transport;
mod verify;
mod wire;
mod worker;

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

pub use args::LoadArgs;
pub(crate) use args::parse_duration;
pub use transport::Address;
pub use verify::Verdict;
pub use wire::Protocol;

use crate::report::{Figures, Latency, Machine, OperationFigures, Point, Report, ServerFigures, write};
use crate::workload::Operation;
pub use plan::{Schedule, Stop};

use plan::{Phase, Plan};
use progress::Progress;
use tally::{Interval, Tallies, Tally};
use worker::Worker;

/// Time between making a phase known to the workers and its start.
const LEAD: Duration = Duration::from_millis(5);

/// Runs `larder-bench load`. A threshold that does not hold gives exit status 1.
pub fn run(args: &LoadArgs) -> anyhow::Result<ExitCode> {
    let report = measure(args)?;
    print!("{}", report.to_text());
    if let Some(path) = &args.json {
        write(path, &serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(path) = &args.html {
        write(path, &report.to_html())?;
    }
    let fine = report.thresholds.iter().all(|threshold| threshold.holds)
        && !report.verdict.as_ref().is_some_and(Verdict::is_bad);
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Does what `args` ask for and returns the figures.
pub fn measure(args: &LoadArgs) -> anyhow::Result<Report> {
    let session = Session::open(args)?;
    session.end_on_interrupt()?;
    if args.populates() {
        session.populate()?;
    }
    let mut report = match args.search() {
        Some(search) => find_max::run(&session, &search)?,
        None => session.run(args.warmup, args.stop(), args.schedule())?,
    };
    report.thresholds = args.thresholds(&report);
    Ok(report)
}

/// Open connections to servers, ready for one stretch of load after the other.
pub struct Session {
    plan: Arc<Plan>,
    crew: Crew,
}

impl Session {
    /// Connects as `args` say.
    pub fn open(args: &LoadArgs) -> anyhow::Result<Session> {
        let plan = Arc::new(args.plan()?);
        Ok(Session { crew: Crew::gather(plan.clone())?, plan })
    }

    /// Lets ctrl-C end the running load early, with a report of what there is; a second one ends the program.
    pub fn end_on_interrupt(&self) -> anyhow::Result<()> {
        use signal_hook::{consts::SIGINT, flag};
        flag::register_conditional_shutdown(SIGINT, 130, self.plan.interrupted.clone())?;
        flag::register(SIGINT, self.plan.interrupted.clone())?;
        Ok(())
    }

    /// Whether ctrl-C was pressed.
    pub fn is_interrupted(&self) -> bool {
        self.plan.interrupted.load(Ordering::Relaxed)
    }

    /// Sets every key once.
    pub fn populate(&self) -> anyhow::Result<()> {
        let keys = Stop::Requests(self.plan.workload.keys.count);
        self.crew.run(Phase::new(Duration::ZERO, keys, Schedule::Closed, true), |_| ())
    }

    /// Runs the workload and reports what came after `warmup`.
    pub fn run(&self, warmup: Duration, stop: Stop, schedule: Schedule) -> anyhow::Result<Report> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let phase = Phase::new(warmup, stop, schedule, false);
        let mut outcome = Outcome::new(self.plan.servers.len(), phase.interval);
        let cpu = client_cpu();
        let begin = Instant::now();
        let length = match stop {
            Stop::After(duration) => Some(duration),
            Stop::Requests(_) => None,
        };
        let progress = Progress::new(length, self.plan.shows_progress);
        self.crew.run(phase, |interval| {
            outcome.take(interval);
            if let Some(point) = outcome.recent() {
                progress.show(&point);
            }
        })?;
        drop(progress);
        let elapsed = begin.elapsed().saturating_sub(warmup + LEAD);
        let client_cpu_seconds = client_cpu() - cpu;
        // In an open loop the schedule says how long the run was; answers that came late do not stretch it.
        let seconds = match stop {
            Stop::After(duration) if !self.is_interrupted() => duration.as_secs_f64(),
            _ => elapsed.as_secs_f64(),
        };
        let mut report = outcome.report(&self.plan, seconds);
        report.started = started;
        report.client_cpu_seconds = client_cpu_seconds;
        report.rate_asked = match schedule {
            Schedule::Closed => None,
            Schedule::Open { per_second, .. } => Some(per_second),
        };
        report.verdict = self.plan.verifier.as_ref().map(verify::Verifier::verdict);
        Ok(report)
    }
}

/// User and system time of this process, in seconds.
fn client_cpu() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0.0, |usage| (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}

impl Phase {
    fn new(warmup: Duration, stop: Stop, schedule: Schedule, populate: bool) -> Phase {
        let interval = match stop {
            Stop::After(duration) => (duration / 40).clamp(Duration::from_millis(50), Duration::from_secs(1)),
            Stop::Requests(_) => Duration::from_millis(250),
        };
        Phase { start: Instant::now() + LEAD, warmup, stop, schedule, populate, interval }
    }
}

/// An order to a worker: a phase to run, and where to report.
type Order = (Phase, Sender<Interval>);

/// The worker threads, with their connections open.
struct Crew {
    workers: Vec<Sender<Order>>,
    /// A word from each worker when its connections are open, and after each phase.
    done: Receiver<anyhow::Result<()>>,
}

impl Crew {
    fn gather(plan: Arc<Plan>) -> anyhow::Result<Crew> {
        let (tell_done, done) = mpsc::channel();
        let mut workers = Vec::new();
        for index in 0..plan.threads {
            let (orders, inbox) = mpsc::channel::<Order>();
            let (plan, tell_done) = (plan.clone(), tell_done.clone());
            // The main thread may have given up on another worker's fault: then nobody listens.
            std::thread::Builder::new().name(format!("load-{index}")).spawn(move || {
                match Worker::new(plan, index) {
                    Ok(mut worker) => {
                        let _ = tell_done.send(Ok(()));
                        for (phase, reports) in inbox {
                            let _ = tell_done.send(worker.run(phase, reports));
                        }
                    }
                    Err(error) => {
                        let _ = tell_done.send(Err(error));
                    }
                }
            })?;
            workers.push(orders);
        }
        let crew = Crew { workers, done };
        crew.wait()?;
        Ok(crew)
    }

    /// Waits for a word from every worker.
    fn wait(&self) -> anyhow::Result<()> {
        self.workers.iter().try_for_each(|_| self.done.recv().context("a worker thread panicked")?)
    }

    /// Runs a phase on all workers and hands what they report to `each`.
    fn run(&self, phase: Phase, each: impl FnMut(Interval)) -> anyhow::Result<()> {
        let (reports, inbox) = mpsc::channel();
        for orders in &self.workers {
            orders.send((phase, reports.clone())).context("a worker thread panicked")?;
        }
        drop(reports);
        inbox.iter().for_each(each);
        self.wait()
    }
}

/// The sum of what workers report.
struct Outcome {
    total: Tallies,
    interval: Duration,
    /// Intervals that all workers are through with.
    points: Vec<Point>,
    /// Reads and everything else of the intervals after those.
    open: VecDeque<(Tally, Tally)>,
}

/// A worker may be so many intervals behind another; what comes later yet counts in the total alone.
const OPEN_INTERVALS: usize = 8;

impl Outcome {
    fn new(servers: usize, interval: Duration) -> Outcome {
        Outcome { total: Tallies::new(servers), interval, points: Vec::new(), open: VecDeque::new() }
    }

    fn take(&mut self, interval: Interval) {
        self.total.add(&interval.tallies);
        let Some(mut place) = interval.index.checked_sub(self.points.len()) else { return };
        while place >= self.open.len() {
            self.open.push_back((Tally::new(), Tally::new()));
            if self.open.len() > OPEN_INTERVALS {
                self.close_first(f64::INFINITY);
                place -= 1;
            }
        }
        let (reads, others) = &mut self.open[place];
        for (_, operation, tally) in interval.tallies.iter() {
            if operation == Operation::Get { &mut *reads } else { &mut *others }.add(tally);
        }
    }

    /// The interval before the newest, which most workers are through with.
    fn recent(&self) -> Option<Point> {
        let place = self.open.len().checked_sub(2)?;
        Some(self.point(self.points.len() + place, &self.open[place], f64::INFINITY))
    }

    fn close_first(&mut self, seconds: f64) {
        if let Some(tallies) = self.open.pop_front() {
            let index = self.points.len();
            // Answers that came after the end count in the total; a stretch of no length has no rate.
            if index as f64 * self.interval.as_secs_f64() < seconds {
                self.points.push(self.point(index, &tallies, seconds));
            }
        }
    }

    fn report(mut self, plan: &Plan, seconds: f64) -> Report {
        while !self.open.is_empty() {
            self.close_first(seconds);
        }
        let figures = |tally: &Tally| Figures {
            requests: tally.requests,
            keys: tally.keys,
            per_second: tally.requests as f64 / seconds,
            hits: tally.hits,
            misses: tally.misses,
            errors: tally.errors,
            latency: Latency::of(&tally.latency),
        };
        let operations =
            Operation::ALL.iter().map(|&operation| (operation, self.total.sum(|_, each| each == operation)));
        let servers = plan.servers.iter().enumerate();
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: 0,
            command: std::iter::once("larder-bench".to_owned()).chain(std::env::args().skip(1)).collect(),
            machine: Machine::this(),
            seconds,
            rate_asked: None,
            client_cpu_seconds: 0.0,
            total: figures(&self.total.sum(|_, _| true)),
            operations: operations
                .filter(|(_, tally)| tally.requests > 0)
                .map(|(operation, tally)| OperationFigures { operation, figures: figures(&tally) })
                .collect(),
            servers: servers
                .map(|(index, address)| ServerFigures {
                    address: address.to_string(),
                    figures: figures(&self.total.sum(|server, _| server == index)),
                })
                .collect(),
            series: self.points,
            verdict: None,
            thresholds: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Interval `index` of a run of `seconds`, whose last interval may be shorter than the others.
    fn point(&self, index: usize, (reads, others): &(Tally, Tally), seconds: f64) -> Point {
        let mut all = reads.clone();
        all.add(others);
        let quantile = |quantile| all.latency.value_at_quantile(quantile) as f64 / 1e3;
        let looked_up = reads.hits + reads.misses;
        let step = self.interval.as_secs_f64();
        let from = index as f64 * step;
        let length = if seconds > from { (seconds - from).min(step) } else { step };
        Point {
            at: from + length,
            per_second: all.requests as f64 / length,
            hit_ratio: (looked_up > 0).then(|| reads.hits as f64 / looked_up as f64),
            errors: all.errors,
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: all.latency.max() as f64 / 1e3,
        }
    }
}
