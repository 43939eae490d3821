//! One connection, shared by all tasks: requests go out in the order they are queued and answers come back in it.
//!
//! A request gets as many answers as it asks for, in order, so an answer belongs to the request at the front of the queue
//! and to no other. A caller that goes away (a time-out, a dropped future) leaves its request in the queue: the answer is
//! still taken from the wire and can never reach another caller.
//!
//! One task ([`drive`]) writes, reads and keeps the deadlines. Callers append to one output buffer, so that requests of
//! concurrent tasks leave in one write; answers of one read are handed out under one lock. All requests wait equally long,
//! so the oldest is due first and one timer serves them all.

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
    /// A return code with what came along.
    Code { code: Code, value: Option<Bytes>, facts: Facts },
    /// The server's error line.
    Refused(String),
}

/// What the flags of an answer said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) cas: u64,
    pub(crate) flags: u32,
    pub(crate) ttl: Option<u32>,
    pub(crate) size: Option<u32>,
    pub(crate) last_access: Option<u32>,
    pub(crate) hit_before: Option<bool>,
    pub(crate) won: bool,
    pub(crate) already_won: bool,
    pub(crate) stale: bool,
}

impl Facts {
    pub(crate) const NONE: Facts = Facts {
        cas: 0,
        flags: 0,
        ttl: None,
        size: None,
        last_access: None,
        hit_before: None,
        won: false,
        already_won: false,
        stale: false,
    };

    fn of(flags: &meta::ResponseFlags<'_>) -> Facts {
        let mut facts = Facts::NONE;
        for word in flags.words() {
            let number = || std::str::from_utf8(&word[1..]).ok().and_then(|digits| digits.parse::<u64>().ok());
            match word[0] {
                b'c' => facts.cas = number().unwrap_or(0),
                b'f' => facts.flags = number().unwrap_or(0) as u32,
                b't' => facts.ttl = number().map(|ttl| ttl as u32),
                b's' => facts.size = number().map(|size| size as u32),
                b'l' => facts.last_access = number().map(|seconds| seconds as u32),
                b'h' => facts.hit_before = number().map(|hit| hit != 0),
                b'W' => facts.won = true,
                b'Z' => facts.already_won = true,
                b'X' => facts.stale = true,
                _ => {}
            }
        }
        facts
    }
}

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The time-out passed.
    TimedOut,
    /// The connection ended first.
    Broken(Arc<str>),
}

/// When a connection is given up though it is open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// How long a request waits for its answers.
    pub(crate) operation: Duration,
    /// After so many requests in a row without an answer in time.
    pub(crate) timeouts: u32,
}

/// A connection. Dropping it does not end it; [`Link::close`] does.
#[derive(Debug)]
pub(crate) struct Link {
    patience: Patience,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Requests that are not written yet.
    out: Vec<u8>,
    /// Requests whose answers have not all come, oldest first.
    pending: VecDeque<Pending>,
    /// So many of `pending`, from the front, have timed out.
    overdue: usize,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The task that drives the connection.
    driver: Option<Waker>,
    /// Requests in a row that timed out.
    timeouts: u32,
    /// Why the connection ended.
    broken: Option<Arc<str>>,
}

#[derive(Debug)]
struct Pending {
    slot: u32,
    queued_at: Instant,
}

/// Where a request's answers are kept until its caller takes them. It is free when neither needs it.
#[derive(Debug, Default)]
struct Slot {
    /// The caller is there.
    awaited: bool,
    /// The request is in `pending`.
    pending: bool,
    timed_out: bool,
    /// Answers that have not come.
    missing: usize,
    answers: Vec<Answer>,
    caller: Option<Waker>,
}

/// Input is read in pieces of up to so many bytes.
const READ: usize = 64 * 1024;

/// Values from this many bytes on are handed out as a part of the input buffer; smaller ones are copied, so that a small
/// value that is kept does not keep a large buffer.
const SHARED_VALUE: usize = READ / 4;

impl Link {
    pub(crate) fn new(patience: Patience) -> Link {
        Link { patience, state: Mutex::default() }
    }

    /// Sends what `encode` writes, one request, and waits for its answer.
    pub(crate) async fn call(&self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<Answer, Failure> {
        let answer = self.exchange(1, encode, Vec::pop).await?;
        Ok(answer.expect("a request is done when no answer is missing"))
    }

    /// Sends what `encode` writes, `count` requests, and waits for their answers, which are in the requests' order.
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

    /// Requests that wait for answers, with or without a caller, and answers that wait for their callers.
    pub(crate) fn in_flight(&self) -> usize {
        let state = self.state.lock();
        state.slots.len() - state.free.len()
    }

    /// Ends the connection: everyone who waits on it is told.
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
    /// Takes a request out of the queue's hands; the waker of its caller, if that is still there.
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

    /// Gives an answer to the request whose turn it is; `false` where there is none.
    fn deliver(&mut self, answer: Answer, woken: &mut Vec<Waker>) -> bool {
        let Some(request) = self.pending.front() else { return false };
        let number = request.slot;
        let slot = &mut self.slots[number as usize];
        slot.missing -= 1;
        // Also where it timed out: the caller may not have seen that yet, and then takes all answers or none.
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

    /// When the next request times out, or the connection with it.
    fn due(&self, patience: &Patience) -> Option<Instant> {
        let next = self.pending.get(self.overdue).map(|request| request.queued_at + patience.operation);
        let oldest = self.pending.front().map(|request| request.queued_at + 2 * patience.operation);
        next.into_iter().chain(oldest).min()
    }

    /// Times out what is due. An error where the connection should be given up.
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
            // Who else waits should not wait longer.
            return Err("the node stopped answering");
        }
        if self.timeouts >= patience.timeouts {
            return Err("the node answered too many requests in a row too late");
        }
        // What is queued behind so old a request comes too late as well.
        match self.pending.front() {
            Some(oldest) if oldest.queued_at + 2 * patience.operation <= now => {
                Err("the node is a whole time-out behind")
            }
            _ => Ok(()),
        }
    }
}

/// A caller that waits.
struct Waiting<'a, T> {
    link: &'a Link,
    slot: u32,
    take: fn(&mut Vec<Answer>) -> T,
    /// It was polled before: the first time there cannot be an answer unseen, since its waker stands in the slot.
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

/// Writes and reads until the connection ends, and tells everyone who waits why it did.
pub(crate) async fn drive(link: Arc<Link>, stream: impl AsyncRead + AsyncWrite + Unpin) -> Arc<str> {
    let link = &*link;
    // Whoever waits is told also where this task is dropped.
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
    /// What is being written.
    batch: Vec<u8>,
    written: usize,
    unflushed: bool,
    /// Other tasks were let go first, to add to the batch.
    gathering: bool,
    /// The last read answered more than one caller.
    crowded: bool,
    input: BytesMut,
    answers: Vec<Answer>,
    woken: Vec<Waker>,
    /// When anything was last read.
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

    /// Writes what is queued, as far as the socket takes it.
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

    /// Takes what is queued as the next batch; `false` where there is none yet.
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
        // Where many call at once, tasks that are ready to run add their requests: one write for all of them.
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

    /// Times out requests that are due.
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

    /// Reads once and hands out the answers.
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

    /// Takes whole answers off the input.
    fn decode(&mut self) -> io::Result<()> {
        let mut at = 0;
        let result = loop {
            match meta::decode_response(&self.input[at..]) {
                DecodedResponse::Incomplete { need } => {
                    self.input.advance(at);
                    // A large value is read into one piece; what a node announces is not believed at once.
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
                    let facts = Facts::of(&flags);
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
                    self.answers.push(Answer::Code { code, value, facts });
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
        let miss = Answer::Code { code: Code::En, value: None, facts: Facts::NONE };
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
