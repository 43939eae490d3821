//! A worker: a thread that drives its share of the connections through one epoll.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Instant;

use anyhow::Context;
use larder_protocol::KEY_MAX_LEN;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::event::{Timespec, epoll};

use super::connection::Connection;
use super::phase_state::PhaseState;
use super::plan::{Phase, Plan, Schedule, Stop};
use super::transport::Transport;
use super::wire::Encoder;
use crate::report::{Interval, Tallies};
use crate::workload::{KeyDistribution, KeySampler, mix};

/// Bytes in one read.
const READ_BUFFER: usize = 128 * 1024;
/// Requests in a batch of the populating phase.
const POPULATE_PIPELINE: u32 = 32;

pub(crate) struct Worker {
    pub(super) plan: Arc<Plan>,
    index: usize,
    pub(super) encoder: Encoder,
    pub(super) epoll: OwnedFd,
    pub(super) connections: Vec<Connection>,
    /// Requests under way, by group.
    pub(super) outstanding: Vec<u32>,
    /// Connections with requests to write.
    pub(super) dirty: Vec<usize>,
    pub(super) buffer: Vec<u8>,
    pub(super) scratch: Scratch,
}

/// Buffers and randomness for encoding requests.
pub(super) struct Scratch {
    pub(super) rng: SmallRng,
    pub(super) name: [u8; KEY_MAX_LEN],
    /// The keys of a request by server: their numbers, and for a read their names, separated by blanks.
    pub(super) chosen: Vec<(Vec<u64>, Vec<u8>)>,
    pub(super) value: Vec<u8>,
}

impl Worker {
    /// Opens this worker's share of the connections.
    pub(crate) fn new(plan: Arc<Plan>, index: usize) -> anyhow::Result<Worker> {
        if let Some(&cpu) = plan.cpus.get(index % plan.cpus.len().max(1)) {
            let mut set = rustix::thread::CpuSet::new();
            set.set(cpu);
            rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("--cpus: there is no CPU {cpu}"))?;
        }
        let share = plan.connections / plan.threads + usize::from(index < plan.connections % plan.threads);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections = Vec::new();
        for group in 0..share {
            for (server, address) in plan.servers.iter().enumerate() {
                let transport = Transport::connect(address, &plan.opening, plan.timeout)?;
                let data = epoll::EventData::new_u64(connections.len() as u64);
                epoll::add(&epoll, transport.as_fd(), data, epoll::EventFlags::IN)?;
                connections.push(Connection::new(transport, server, group));
            }
        }
        let with_keys = plan.verifier.is_some() || plan.workload.fill;
        Ok(Worker {
            encoder: Encoder { protocol: plan.protocol, with_keys },
            index,
            epoll,
            connections,
            outstanding: vec![0; share],
            dirty: Vec::new(),
            buffer: vec![0; READ_BUFFER],
            scratch: Scratch {
                rng: SmallRng::seed_from_u64(mix(plan.workload.seed ^ (index as u64) << 48)),
                name: [0; KEY_MAX_LEN],
                chosen: vec![Default::default(); plan.servers.len()],
                value: Vec::new(),
            },
            plan,
        })
    }

    /// Runs a phase to its end: sends requests when they are due, reads answers, and returns once every request has an
    /// answer or has failed.
    ///
    /// # Errors
    ///
    /// The workload cannot be drawn from, or the kernel refuses to wait for the sockets.
    pub(crate) fn run(&mut self, phase: Phase, reports: Sender<Interval>) -> anyhow::Result<()> {
        let mut state = self.begin(phase, reports)?;
        if let Some(wait) = phase.start.checked_duration_since(Instant::now()) {
            // All workers begin at the same moment.
            std::thread::sleep(wait);
        }
        let closed = phase.schedule == Schedule::Closed;
        let mut now = state.now();
        if closed {
            // `read` sends each further batch when the answers to the one before it are in.
            (0..self.outstanding.len()).for_each(|group| self.send_batch(&mut state, group, now));
        }
        let mut events = [MaybeUninit::uninit(); 256];
        // The first turn checks too: an interrupt may have come before the phase.
        let mut next_check = 0;
        loop {
            if !closed {
                self.send_due(&mut state, now);
            }
            // What one turn has encoded for a connection goes out in one write.
            while let Some(index) = self.dirty.pop() {
                self.flush(&mut state, index, now);
            }
            if now >= next_check {
                next_check = now + self.check_gap(phase);
                self.check(&mut state, now);
            }
            if self.is_over(&state, now) {
                break;
            }
            let wake = wake_at(&state, closed, now, next_check);
            self.wait_and_handle(&mut state, &mut events, wake.saturating_sub(now))?;
            now = state.now();
        }
        self.end(&mut state, now);
        Ok(())
    }

    /// Nanoseconds between two checks of time-outs. A check looks at every connection, which costs too much for every
    /// turn of the loop; four in a time-out notice it soon enough.
    fn check_gap(&self, phase: Phase) -> u64 {
        let (tick, timeout) = (phase.interval.as_nanos() as u64, self.plan.timeout.as_nanos() as u64);
        tick.min(timeout / 4).max(1_000_000)
    }

    /// Fails requests that have waited too long, reports the interval if it is over, and ends the phase once it is
    /// interrupted.
    fn check(&mut self, state: &mut PhaseState, now: u64) {
        self.expire(state, now);
        state.report(now);
        if self.plan.interrupt.is_set() || self.plan.hopeless.load(Ordering::Relaxed) {
            state.end = state.end.min(now);
            state.grace = 0;
        }
    }

    /// Whether nothing is left to send and nothing to wait for. Answers have the time-out, counted from the last
    /// request.
    fn is_over(&self, state: &PhaseState, now: u64) -> bool {
        let timeout = self.plan.timeout.as_nanos() as u64;
        let is_idle = || self.outstanding.iter().all(|&count| count == 0);
        state.sending_is_over(now) && (is_idle() || now > state.last_sent.saturating_add(timeout))
    }

    /// Waits for the sockets, for at most `wait` nanoseconds, then writes and reads where that is possible.
    fn wait_and_handle(
        &mut self,
        state: &mut PhaseState,
        events: &mut [MaybeUninit<epoll::Event>],
        wait: u64,
    ) -> anyhow::Result<()> {
        let wait = Timespec { tv_sec: (wait / 1_000_000_000) as i64, tv_nsec: (wait % 1_000_000_000) as i64 };
        let ready = match epoll::wait(&self.epoll, events, Some(&wait)) {
            Ok((ready, _)) => &*ready,
            Err(rustix::io::Errno::INTR) => &[],
            Err(error) => return Err(error).context("epoll"),
        };
        let now = state.now();
        for event in ready {
            let index = event.data.u64() as usize;
            let flags = event.flags;
            if flags.contains(epoll::EventFlags::OUT) {
                self.flush(state, index, now);
            }
            // A socket that was closed or reset reads as an end or an error.
            if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                self.read(state, index);
            }
        }
        Ok(())
    }

    /// Fails what has no answer by now, and counts what came due and was never sent.
    fn end(&mut self, state: &mut PhaseState, now: u64) {
        for index in 0..self.connections.len() {
            if !self.connections[index].pending.is_empty() {
                self.lose(state, index, now, "no answer by the end of the run");
            }
        }
        if state.phase.schedule != Schedule::Closed && state.next_due < state.end {
            state.unsent += self.due_until_end(state).min(state.quota);
        }
        state.hand_over(usize::MAX);
    }

    /// Returns the state at the start of `phase`: this worker's share of the requests or of the rate.
    fn begin(&self, phase: Phase, reports: Sender<Interval>) -> anyhow::Result<PhaseState> {
        let plan = &self.plan;
        let (index, threads) = (self.index as u64, plan.threads as u64);
        let distribution = if phase.populate { KeyDistribution::Sequential } else { plan.workload.distribution };
        let part = |count: u64| count / threads + u64::from(index < count % threads);
        let (quota, end) = match phase.stop {
            Stop::Requests(count) => (part(count), u64::MAX),
            Stop::After(duration) => (u64::MAX, duration.as_nanos() as u64),
        };
        let gap = match phase.schedule {
            Schedule::Closed => 0.0,
            // A worker has the same share of the rate as of the connections.
            Schedule::Open { per_second, .. } => {
                1e9 / (per_second * self.outstanding.len() as f64 / plan.connections as f64)
            }
        };
        // A closed loop needs no slots: a batch follows the answers to the one before it.
        let pipeline = if phase.schedule == Schedule::Closed { 0 } else { plan.pipeline };
        let slots = (0..pipeline).flat_map(|_| 0..self.outstanding.len());
        Ok(PhaseState {
            sampler: KeySampler::new(distribution, plan.workload.keys.count, index, threads)?,
            quota,
            end,
            timeout: plan.timeout.as_nanos() as u64,
            grace: plan.timeout.as_nanos() as u64,
            // The first requests of the workers are spread over one gap.
            next_due: (gap * index as f64 / threads as f64) as u64,
            free: slots.collect(),
            gap,
            scheduled: 0,
            last_sent: 0,
            servers: plan.servers.len(),
            tallies: Tallies::new(plan.servers.len()),
            interval: 0,
            reports,
            unsent: 0,
            fault: None,
            phase,
        })
    }

    /// Closed loop: encodes the next batch of a group that has all its answers.
    pub(super) fn send_batch(&mut self, state: &mut PhaseState, group: usize, now: u64) {
        let depth = if state.phase.populate { POPULATE_PIPELINE } else { self.plan.pipeline };
        let mut left = u64::from(depth).min(state.quota) as u32;
        while left > 0 && !state.sending_is_over(now) {
            let requests = if self.plan.quiet && !state.phase.populate { left } else { 1 };
            self.send(state, group, now, now, requests);
            state.last_sent = now;
            state.quota -= u64::from(requests);
            left -= requests;
        }
    }

    /// Open loop: encodes the requests that are due and have a free slot.
    fn send_due(&mut self, state: &mut PhaseState, now: u64) {
        while state.next_due <= now && !state.sending_is_over(now) {
            let Some(group) = state.free.pop_front() else { break };
            self.send(state, group, state.next_due, now, 1);
            state.last_sent = now;
            // A request on a lost connection fails at once, so that it does not hold a slot from servers that answer.
            for index in group * self.plan.servers.len()..(group + 1) * self.plan.servers.len() {
                if self.connections[index].retry_at.is_some() {
                    self.fail_pending(state, index, now);
                }
            }
            state.quota -= 1;
            self.schedule_next(state);
        }
    }

    /// Open loop: how many requests are still due before the end; of random gaps, the expected number. Counted without
    /// a loop, since a rate far above what servers keep leaves billions.
    fn due_until_end(&self, state: &PhaseState) -> u64 {
        if matches!(state.phase.schedule, Schedule::Open { poisson: true, .. }) {
            return 1 + ((state.end - state.next_due - 1) as f64 / state.gap) as u64;
        }
        let mut all = ((state.end as f64 - self.first_due(state)) / state.gap) as u64;
        while self.due(state, all) < state.end {
            all += 1;
        }
        while all > 0 && self.due(state, all - 1) >= state.end {
            all -= 1;
        }
        all.saturating_sub(state.scheduled)
    }

    /// When the first request of this worker is due: workers are spread over one gap.
    fn first_due(&self, state: &PhaseState) -> f64 {
        state.gap * self.index as f64 / self.plan.threads as f64
    }

    /// When request `number` of this worker is due, of even gaps.
    fn due(&self, state: &PhaseState, number: u64) -> u64 {
        (self.first_due(state) + state.gap * number as f64) as u64
    }

    /// Open loop: computes when the next request is due.
    fn schedule_next(&mut self, state: &mut PhaseState) {
        state.scheduled += 1;
        if matches!(state.phase.schedule, Schedule::Open { poisson: true, .. }) {
            let u: f64 = self.scratch.rng.random();
            state.next_due += (-(1.0 - u).ln() * state.gap) as u64;
        } else {
            state.next_due = self.due(state, state.scheduled);
        }
    }
}

/// When the loop must look again, in nanoseconds since the phase began: at the next check, at the end of sending, or
/// when a request comes due that has a free slot.
fn wake_at(state: &PhaseState, closed: bool, now: u64, next_check: u64) -> u64 {
    if state.sending_is_over(now) {
        return next_check;
    }
    let wake = next_check.min(state.end.max(now + 1_000_000));
    if !closed && !state.free.is_empty() { wake.min(state.next_due) } else { wake }
}
