//! A run of load: worker threads with open connections, driven through one phase after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::args::LoadArgs;
use super::plan::{Phase, Plan, Schedule, Stop};
use super::verify::Verifier;
use super::worker::Worker;
use crate::interrupt::Interrupt;
use crate::report::{Collector, Interval, ProgressDisplay, Report, count};

/// Time between the order for a phase and its start: every worker has the order by then.
const LEAD: Duration = Duration::from_millis(5);

/// Open connections to servers, ready for one phase of load after the other.
pub struct Session {
    plan: Arc<Plan>,
    workers: Workers,
}

impl Session {
    /// Opens the connections that `args` describe.
    ///
    /// # Errors
    ///
    /// Options contradict each other, or a server cannot be reached.
    pub fn open(args: &LoadArgs) -> anyhow::Result<Session> {
        Session::open_until(args, Interrupt::default())
    }

    /// Like [`Session::open`]. Its runs end early, with a report of what was measured, once `interrupt` is set.
    ///
    /// # Errors
    ///
    /// Options contradict each other, or a server cannot be reached.
    pub fn open_until(args: &LoadArgs, interrupt: Interrupt) -> anyhow::Result<Session> {
        let plan = Arc::new(args.plan(interrupt)?);
        Ok(Session { workers: Workers::start(plan.clone())?, plan })
    }

    /// Whether the interrupt has ended the load.
    pub fn is_interrupted(&self) -> bool {
        self.plan.interrupt.is_set()
    }

    /// Whether progress is printed.
    pub(super) fn shows_progress(&self) -> bool {
        self.plan.shows_progress
    }

    /// Whether every request so far has failed, so that the load was given up.
    fn is_hopeless(&self) -> bool {
        self.plan.hopeless.load(Ordering::Relaxed)
    }

    /// Sets every key once.
    ///
    /// # Errors
    ///
    /// Every request fails.
    pub fn populate(&self) -> anyhow::Result<()> {
        let keys = Stop::Requests(self.plan.workload.keys.count);
        let report = self.phase("populating", Phase::new(keys, Schedule::Closed, true))?;
        ensure!(!self.is_hopeless(), "{}", report.faults_to_text());
        if let (1.., Some(words)) = (report.total.errors, report.faults.first()) {
            tracing::warn!("{} keys could not be set: {words}", count(report.total.errors));
        }
        Ok(())
    }

    /// Runs the workload for `length` without a report; not at all if `length` is 0.
    ///
    /// # Errors
    ///
    /// Every request fails.
    pub fn warm_up(&self, length: Duration, schedule: Schedule) -> anyhow::Result<()> {
        if length.is_zero() || self.is_interrupted() {
            return Ok(());
        }
        let report = self.phase("warming up", Phase::new(Stop::After(length), schedule, false))?;
        ensure!(!self.is_hopeless(), "{}", report.faults_to_text());
        Ok(())
    }

    /// Runs the workload and reports the part after `warmup`.
    pub fn run(&self, warmup: Duration, stop: Stop, schedule: Schedule) -> anyhow::Result<Report> {
        self.warm_up(warmup, schedule)?;
        let mut report = self.phase("measuring", Phase::new(stop, schedule, false))?;
        report.verdict = self.plan.verifier.as_ref().map(Verifier::verdict);
        Ok(report)
    }

    fn phase(&self, name: &'static str, phase: Phase) -> anyhow::Result<Report> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let mut collector = Collector::new(self.plan.servers.len(), phase.interval, self.plan.timeout);
        let cpu = client_cpu();
        let length = match phase.stop {
            Stop::After(duration) => duration.as_millis() as u64,
            Stop::Requests(count) => count,
        };
        let progress = ProgressDisplay::new(name, Some(length), self.plan.shows_progress);
        self.workers.run(phase, |interval| {
            collector.take(interval);
            if collector.is_hopeless(phase.start.elapsed()) {
                self.plan.hopeless.store(true, Ordering::Relaxed);
            }
            if let Some(point) = collector.recent() {
                progress.show(&point);
                progress.bar().set_position(match phase.stop {
                    Stop::After(_) => (point.at * 1e3) as u64,
                    Stop::Requests(_) => collector.requests(),
                });
            }
        })?;
        drop(progress);
        let hopeless = self.plan.hopeless.load(Ordering::Relaxed);
        if hopeless {
            collector.give_up();
        }
        let (elapsed, interrupted) = (phase.start.elapsed(), self.is_interrupted() || hopeless);
        // The options fix the length of the run: late answers do not stretch it.
        let seconds = match phase.stop {
            Stop::After(duration) if !interrupted => duration.as_secs_f64(),
            _ => elapsed.as_secs_f64(),
        };
        let servers: Vec<String> = self.plan.servers.iter().map(ToString::to_string).collect();
        let mut report = collector.report(&servers, seconds);
        report.started = started;
        report.client_cpu_seconds = client_cpu() - cpu;
        report.interrupted = interrupted;
        if let Schedule::Open { per_second, .. } = phase.schedule {
            report.set_rate(per_second);
        }
        Ok(report)
    }
}

/// Returns the user and system time of this process, in seconds.
pub(crate) fn client_cpu() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0.0, |usage| (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}

impl Phase {
    fn new(stop: Stop, schedule: Schedule, populate: bool) -> Phase {
        let interval = match stop {
            Stop::After(duration) => (duration / 40).clamp(Duration::from_millis(50), Duration::from_secs(1)),
            Stop::Requests(_) => Duration::from_millis(250),
        };
        Phase { start: Instant::now() + LEAD, stop, schedule, populate, interval }
    }
}

/// An order to a worker: a phase to run, and the channel for its reports.
type Order = (Phase, Sender<Interval>);

/// The worker threads, each with open connections.
struct Workers {
    workers: Vec<Sender<Order>>,
    /// A message from each worker when its connections are open, and after each phase.
    done: Receiver<anyhow::Result<()>>,
}

impl Workers {
    /// Starts the threads and waits until all connections are open.
    fn start(plan: Arc<Plan>) -> anyhow::Result<Workers> {
        let (tell_done, done) = mpsc::channel();
        let mut workers = Vec::new();
        for index in 0..plan.threads {
            let (orders, inbox) = mpsc::channel::<Order>();
            let (plan, tell_done) = (plan.clone(), tell_done.clone());
            // Sending fails if the main thread has ended with the error of another worker.
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
        let workers = Workers { workers, done };
        workers.wait()?;
        Ok(workers)
    }

    /// Waits for a message from every worker.
    fn wait(&self) -> anyhow::Result<()> {
        self.workers.iter().try_for_each(|_| self.done.recv().context("a worker thread panicked")?)
    }

    /// Runs a phase on all workers and hands their reports to `each`.
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
