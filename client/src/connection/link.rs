//! One connection, shared by all tasks. Requests are sent in the order they are queued, and answers arrive in that
//! order.
//!
//! An answer belongs to the request at the front of the queue and to no other. A caller that goes away (a time-out, a
//! dropped future) leaves its request in the queue: the answer is still read from the wire and never reaches another
//! caller.
//!
//! One task ([`drive`]) writes, reads and keeps the deadlines. Callers append to one output buffer, so that requests of
//! concurrent tasks leave in one write; the answers of one read are delivered under one lock. All requests have the
//! same time-out, so the oldest expires first and one timer serves them all.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use larder_protocol::DecodedResponse;
use larder_protocol::meta::{self, Code, Response};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// An answer to one request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A return code with its value and flags.
    Code { code: Code, value: Option<Bytes>, flags: ReplyFlags },
    /// The server's error line.
    Refused(String),
}

/// The flags of a reply that the client uses, as numbers. They outlive the input buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplyFlags {
    pub(crate) cas: u64,
    pub(crate) client_flags: u32,
    pub(crate) ttl: Option<u32>,
    pub(crate) size: Option<u32>,
    pub(crate) last_access: Option<u32>,
    pub(crate) hit_before: Option<bool>,
    pub(crate) won: bool,
    pub(crate) already_won: bool,
    pub(crate) stale: bool,
}

impl ReplyFlags {
    pub(crate) const NONE: ReplyFlags = ReplyFlags {
        cas: 0,
        client_flags: 0,
        ttl: None,
        size: None,
        last_access: None,
        hit_before: None,
        won: false,
        already_won: false,
        stale: false,
    };

    fn of(flags: &meta::ResponseFlags<'_>) -> ReplyFlags {
        // Most replies have none: `mg key v`.
        if flags.words().next().is_none() {
            return ReplyFlags::NONE;
        }
        let number = |letter| flags.number(letter);
        let small = |letter| number(letter).and_then(|number| u32::try_from(number).ok());
        ReplyFlags {
            cas: number(b'c').unwrap_or(0),
            client_flags: small(b'f').unwrap_or(0),
            ttl: flags.ttl(),
            size: small(b's'),
            last_access: small(b'l'),
            hit_before: number(b'h').map(|hit| hit != 0),
            won: flags.has(b'W'),
            already_won: flags.has(b'Z'),
            stale: flags.has(b'X'),
        }
    }
}

/// The reason why a request got no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The time-out passed.
    TimedOut,
    /// The connection ended first.
    Broken(Arc<str>),
}

/// Limits after which an open connection is closed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Time that a request waits for its answers.
    pub(crate) operation: Duration,
    /// Number of requests in a row that time out before the connection is closed.
    pub(crate) timeouts: u32,
}

/// A connection. [`Link::close`] ends it; dropping this does not.
#[derive(Debug)]
pub(crate) struct Link {
    patience: Patience,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Requests that are not written yet.
    out: Vec<u8>,
    /// Requests whose answers have not all arrived, oldest first.
    pending: VecDeque<Pending>,
    /// Number of requests at the front of `pending` that have timed out.
    overdue: usize,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The task that drives the connection.
    driver: Option<Waker>,
    /// Number of requests in a row that timed out.
    timeouts: u32,
    /// The reason why the connection ended.
    broken: Option<Arc<str>>,
}

#[derive(Debug)]
struct Pending {
    slot: u32,
    queued_at: Instant,
}

/// Holds the answers of a request until its caller takes them. It is free when neither needs it.
#[derive(Debug, Default)]
struct Slot {
    /// The caller still waits.
    awaited: bool,
    /// The request is in `pending`.
    pending: bool,
    timed_out: bool,
    /// Number of answers that have not arrived.
    missing: usize,
    answers: Vec<Answer>,
    caller: Option<Waker>,
}

/// Most bytes of one read.
const READ: usize = 64 * 1024;

/// Values of at least this many bytes share the input buffer. Smaller ones are copied, so that a small value does not
/// keep a large buffer alive.
const SHARED_VALUE: usize = READ / 4;

impl Link {
    pub(crate) fn new(patience: Patience) -> Link {
        Link { patience, state: Mutex::default() }
    }

    /// Sends the one request that `encode` writes, and returns its answer.
    pub(crate) async fn call(&self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<Answer, Failure> {
        let answer = self.exchange(1, encode, Vec::pop).await?;
        Ok(answer.expect("a request is done when no answer is missing"))
    }

    /// Sends the `count` requests that `encode` writes, and returns their answers in the same order.
    pub(crate) async fn call_many(
        &self,
        count: usize,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Vec<Answer>, Failure> {
        debug_assert!(count > 0, "no answer would end it");
        self.exchange(count, encode, std::mem::take).await
    }

    async fn exchange<T>(
        &self,
        count: usize,
        encode: impl FnOnce(&mut Vec<u8>),
        take: fn(&mut Vec<Answer>) -> T,
    ) -> Result<T, Failure> {
        let caller = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
        let slot = self.enqueue(count, encode, caller)?;
        Waiting { link: self, slot, take, polled: false }.await
    }

    /// Queues `count` requests and returns the slot of their answers.
    fn enqueue(&self, count: usize, encode: impl FnOnce(&mut Vec<u8>), caller: Waker) -> Result<u32, Failure> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(reason) = &state.broken {
            return Err(Failure::Broken(reason.clone()));
        }
        let driver = if state.out.is_empty() { state.driver.clone() } else { None };
        encode(&mut state.out);
        let number = state.free.pop().unwrap_or_else(|| {
            state.slots.push(Slot::default());
            state.slots.len() as u32 - 1
        });
        let slot = &mut state.slots[number as usize];
        (slot.awaited, slot.pending, slot.timed_out) = (true, true, false);
        slot.missing = count;
        slot.caller = Some(caller);
        state.pending.push_back(Pending { slot: number, queued_at: Instant::now() });
        drop(guard);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(number)
    }

    /// Returns the number of requests that wait for answers, with or without a caller, and of answers that wait for
    /// their callers.
    pub(crate) fn in_flight(&self) -> usize {
        let state = self.state.lock();
        state.slots.len() - state.free.len()
    }

    /// Ends the connection. Every caller that waits on it gets `reason`.
    pub(crate) fn close(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.broken.is_some() {
            return;
        }
        state.broken = Some(reason.into());
        state.out = Vec::new();
        let mut woken: Vec<Waker> = Vec::with_capacity(state.pending.len() + 1);
        while let Some(request) = state.pending.pop_front() {
            woken.extend(state.finish(request.slot));
        }
        woken.extend(state.driver.take());
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl State {
    /// Ends a request. Returns its caller's waker, or frees the slot if the caller is gone.
    fn finish(&mut self, number: u32) -> Option<Waker> {
        let slot = &mut self.slots[number as usize];
        slot.pending = false;
        if !slot.awaited {
            self.release(number);
            return None;
        }
        slot.caller.take()
    }

    fn release(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        slot.caller = None;
        slot.answers.clear();
        self.free.push(number);
    }

    /// Delivers an answer to the request at the front of the queue; `false` if there is none.
    fn deliver(&mut self, answer: Answer, woken: &mut Vec<Waker>) -> bool {
        let Some(request) = self.pending.front() else { return false };
        let number = request.slot;
        let slot = &mut self.slots[number as usize];
        slot.missing -= 1;
        // Also after a time-out: a caller that has not seen it yet takes all answers or none.
        if slot.awaited {
            slot.answers.push(answer);
        }
        if slot.missing == 0 {
            if !slot.timed_out {
                self.timeouts = 0;
            }
            self.pending.pop_front();
            self.overdue = self.overdue.saturating_sub(1);
            woken.extend(self.finish(number));
        }
        true
    }

    /// Returns when the next request times out, or the connection.
    fn due(&self, patience: &Patience) -> Option<Instant> {
        let next = self.pending.get(self.overdue).map(|request| request.queued_at + patience.operation);
        let oldest = self.pending.front().map(|request| request.queued_at + 2 * patience.operation);
        next.into_iter().chain(oldest).min()
    }

    /// Ends the requests that are due. An error means that the connection has to be closed.
    fn expire(
        &mut self,
        now: Instant,
        heard_at: Instant,
        patience: &Patience,
        woken: &mut Vec<Waker>,
    ) -> Result<(), &'static str> {
        let mut silent = false;
        while let Some(request) = self.pending.get(self.overdue)
            && request.queued_at + patience.operation <= now
        {
            silent |= heard_at <= request.queued_at;
            let slot = &mut self.slots[request.slot as usize];
            slot.timed_out = true;
            woken.extend(slot.caller.take());
            self.overdue += 1;
            self.timeouts += 1;
        }
        if silent {
            // The other callers need not wait longer.
            return Err("the node stopped answering");
        }
        if self.timeouts >= patience.timeouts {
            return Err("the node answered too many requests in a row too late");
        }
        // Requests behind one that is this old are answered too late as well.
        match self.pending.front() {
            Some(oldest) if oldest.queued_at + 2 * patience.operation <= now => {
                Err("the node is a whole time-out behind")
            }
            _ => Ok(()),
        }
    }
}

/// A caller that waits for its answers.
struct Waiting<'a, T> {
    link: &'a Link,
    slot: u32,
    take: fn(&mut Vec<Answer>) -> T,
    /// Whether this was polled before. At the first poll, the slot already holds the waker, so no answer can be missed.
    polled: bool,
}

impl<T> Future for Waiting<'_, T> {
    type Output = Result<T, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if !std::mem::replace(&mut self.polled, true) {
            return Poll::Pending;
        }
        let mut guard = self.link.state.lock();
        let state = &mut *guard;
        let slot = &mut state.slots[self.slot as usize];
        Poll::Ready(if slot.missing == 0 {
            Ok((self.take)(&mut slot.answers))
        } else if slot.timed_out {
            Err(Failure::TimedOut)
        } else if let Some(reason) = &state.broken {
            Err(Failure::Broken(reason.clone()))
        } else {
            match &mut slot.caller {
                Some(caller) => caller.clone_from(context.waker()),
                None => slot.caller = Some(context.waker().clone()),
            }
            return Poll::Pending;
        })
    }
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        let mut state = self.link.state.lock();
        let slot = &mut state.slots[self.slot as usize];
        slot.awaited = false;
        if !slot.pending {
            state.release(self.slot);
        }
    }
}

/// Writes and reads until the connection ends. Returns the reason, which every caller that waits gets too.
pub(crate) async fn drive(link: Arc<Link>, stream: impl AsyncRead + AsyncWrite + Unpin) -> Arc<str> {
    let link = &*link;
    // Callers that wait get an error if this task is dropped.
    let _end = CloseOnDrop(link);
    let mut driver = Driver {
        link,
        stream,
        batch: Vec::with_capacity(READ),
        written: 0,
        unflushed: false,
        gathering: false,
        crowded: false,
        input: BytesMut::with_capacity(READ),
        answers: Vec::new(),
        woken: Vec::new(),
        heard_at: Instant::now(),
        timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        timer_set: false,
    };
    let Err(error) = poll_fn(|context| driver.poll(context)).await;
    link.close(&error.to_string());
    link.state.lock().broken.clone().unwrap_or_else(|| error.to_string().into())
}

struct CloseOnDrop<'a>(&'a Link);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close("the client was dropped");
    }
}

struct Driver<'a, S> {
    link: &'a Link,
    stream: S,
    /// The requests that are being written.
    batch: Vec<u8>,
    written: usize,
    unflushed: bool,
    /// Other tasks are given one turn to add to the batch.
    gathering: bool,
    /// The last read answered more than one caller.
    crowded: bool,
    input: BytesMut,
    answers: Vec<Answer>,
    woken: Vec<Waker>,
    /// Time of the last read.
    heard_at: Instant,
    timer: Pin<Box<tokio::time::Sleep>>,
    timer_set: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<'_, S> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Infallible, io::Error>> {
        loop {
            self.write(context)?;
            self.keep_time(context)?;
            ready!(self.read(context))?;
        }
    }

    /// Writes the queued requests, as far as the socket takes them.
    fn write(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        loop {
            if self.written == self.batch.len() && !self.next_batch(context)? {
                break;
            }
            match Pin::new(&mut self.stream).poll_write(context, &self.batch[self.written..])? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => self.written += count,
                Poll::Pending => break,
            }
            self.unflushed = true;
        }
        if self.unflushed {
            self.unflushed = Pin::new(&mut self.stream).poll_flush(context)?.is_pending();
        }
        Ok(())
    }

    /// Takes the queued requests as the next batch; `false` if there are none yet.
    fn next_batch(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        self.written = 0;
        self.batch.clear();
        let mut state = self.link.state.lock();
        if state.broken.is_some() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match &mut state.driver {
            Some(driver) => driver.clone_from(context.waker()),
            None => state.driver = Some(context.waker().clone()),
        }
        if state.out.is_empty() {
            return Ok(false);
        }
        // With many callers at once, tasks that are ready to run add their requests first: one write sends them all.
        self.gathering = self.crowded && !self.gathering;
        if self.gathering {
            drop(state);
            context.waker().wake_by_ref();
            return Ok(false);
        }
        if self.batch.capacity() > 16 * READ {
            self.batch = Vec::with_capacity(READ);
        }
        std::mem::swap(&mut self.batch, &mut state.out);
        Ok(true)
    }

    /// Ends the requests that are due.
    fn keep_time(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let patience = &self.link.patience;
        loop {
            if self.timer_set {
                if self.timer.as_mut().poll(context).is_pending() {
                    return Ok(());
                }
                let mut state = self.link.state.lock();
                let expired = state.expire(Instant::now(), self.heard_at, patience, &mut self.woken);
                drop(state);
                self.woken.drain(..).for_each(Waker::wake);
                expired.map_err(|reason| io::Error::new(io::ErrorKind::TimedOut, reason))?;
            }
            let due = self.link.state.lock().due(patience);
            self.timer_set = due.is_some();
            match due {
                Some(due) => self.timer.as_mut().reset(due.into()),
                None => return Ok(()),
            }
        }
    }

    /// Reads once and delivers the answers.
    fn read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.reserve(READ / 4);
        let count = ready!(pin!(self.stream.read_buf(&mut self.input)).poll(context))?;
        if count == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the node closed the connection")));
        }
        self.heard_at = Instant::now();
        let decoded = self.decode();
        let mut state = self.link.state.lock();
        let mut expected = true;
        for answer in self.answers.drain(..) {
            expected &= state.deliver(answer, &mut self.woken);
        }
        drop(state);
        self.crowded = self.woken.len() > 1;
        self.woken.drain(..).for_each(Waker::wake);
        decoded?;
        if !expected {
            return Poll::Ready(Err(invalid("the node sent an answer that nobody asked for")));
        }
        Poll::Ready(Ok(()))
    }

    /// Decodes the complete answers of the input.
    fn decode(&mut self) -> io::Result<()> {
        let mut at = 0;
        let result = loop {
            match meta::decode_response(&self.input[at..]) {
                DecodedResponse::Incomplete { need } => {
                    self.input.advance(at);
                    // Room for the rest of a large value, but not at once for any size that a node announces.
                    if !self.input.is_empty() {
                        self.input.reserve(need.min(16 * READ));
                    }
                    return Ok(());
                }
                DecodedResponse::Malformed => break Err(invalid("the node sent what is not memcache")),
                DecodedResponse::Response { response: Response::Error(line), consumed } => {
                    self.answers.push(Answer::Refused(String::from_utf8_lossy(line).into_owned()));
                    // A node that did not understand a request may take the value behind it for further requests.
                    if line == b"ERROR" || line.starts_with(b"CLIENT_ERROR bad ") {
                        break Err(invalid("the node did not understand a request"));
                    }
                    at += consumed;
                }
                DecodedResponse::Response { response: Response::Code { code, value, flags }, consumed } => {
                    let flags = ReplyFlags::of(&flags);
                    at += consumed;
                    let value = match value.map(<[u8]>::len) {
                        Some(len) if len >= SHARED_VALUE => {
                            self.input.advance(at - len - 2);
                            let value = self.input.split_to(len).freeze();
                            at = 2;
                            Some(value)
                        }
                        _ => value.map(Bytes::copy_from_slice),
                    };
                    self.answers.push(Answer::Code { code, value, flags });
                }
            }
        };
        self.input.clear();
        result
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_come_just_after_the_time_out_reach_the_caller_whole() {
        let patience = Patience { operation: Duration::from_millis(1), timeouts: 9 };
        let link = Link::new(patience);
        let slot = link.enqueue(2, |_| (), Waker::noop().clone()).unwrap();
        let miss = Answer::Code { code: Code::En, value: None, flags: ReplyFlags::NONE };
        let woken = &mut Vec::new();
        let mut state = link.state.lock();
        state.deliver(miss.clone(), woken);
        let now = Instant::now() + patience.operation;
        state.expire(now, now, &patience, woken).unwrap();
        state.deliver(miss, woken);
        drop(state);
        let take: fn(&mut Vec<Answer>) -> Vec<Answer> = std::mem::take;
        let mut waiting = Waiting { link: &link, slot, take, polled: true };
        let Poll::Ready(Ok(answers)) = Pin::new(&mut waiting).poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("nothing is missing");
        };
        drop(waiting);
        assert_eq!(answers.len(), 2);
        assert_eq!(link.in_flight(), 0);
    }
}
