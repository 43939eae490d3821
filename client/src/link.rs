//! One connection, shared by all tasks: requests go out in the order they are queued and answers come back in it.
//!
//! A caller that goes away (a time-out, a dropped future) leaves its place in the queue of waiters, so its answer is
//! still taken from the wire and can never reach another caller.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use larder_protocol::meta::{self, Code, Response};
use larder_protocol::text::DecodedResponse;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};

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
    pub(crate) won: bool,
    pub(crate) already_won: bool,
    pub(crate) stale: bool,
    opaque: Option<usize>,
}

impl Facts {
    pub(crate) const NONE: Facts =
        Facts { cas: 0, flags: 0, ttl: None, won: false, already_won: false, stale: false, opaque: None };

    fn of(flags: &meta::ResponseFlags<'_>) -> Facts {
        let mut facts = Facts::NONE;
        for word in flags.words() {
            let number = || std::str::from_utf8(&word[1..]).ok().and_then(|digits| digits.parse::<u64>().ok());
            match word[0] {
                b'c' => facts.cas = number().unwrap_or(0),
                b'f' => facts.flags = number().unwrap_or(0) as u32,
                b't' => facts.ttl = number().map(|ttl| ttl as u32),
                b'O' => facts.opaque = number().map(|opaque| opaque as usize),
                b'W' => facts.won = true,
                b'Z' => facts.already_won = true,
                b'X' => facts.stale = true,
                _ => {}
            }
        }
        facts
    }
}

/// Who waits for the next answers.
enum Waiter {
    /// One request, one answer.
    One(oneshot::Sender<Answer>),
    /// Quiet requests with opaques `0..answers.len()` and an `mn` behind them.
    Many { answers: Vec<Option<Answer>>, done: oneshot::Sender<Vec<Option<Answer>>> },
}

#[derive(Default)]
struct Queue {
    out: Vec<u8>,
    waiters: VecDeque<Waiter>,
    /// Why the connection ended.
    broken: Option<Arc<str>>,
}

/// A connection. Dropping it does not end it; [`Link::close`] does.
pub(crate) struct Link {
    queue: Mutex<Queue>,
    to_write: Notify,
    ended: Notify,
    /// Answers read so far, by which a stalled connection is told from a busy one.
    answered: AtomicU64,
}

/// Input buffers start with room for this many bytes.
const READ: usize = 64 * 1024;

impl Link {
    /// Connects within `patience` and starts the tasks that write and read.
    pub(crate) async fn open(address: &str, patience: Duration) -> io::Result<Arc<Link>> {
        let connecting = tokio::time::timeout(patience, TcpStream::connect(address));
        let stream = connecting
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {patience:?}")))??;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let link = Arc::new(Link {
            queue: Mutex::default(),
            to_write: Notify::new(),
            ended: Notify::new(),
            answered: AtomicU64::new(0),
        });
        tokio::spawn(run(link.clone(), reader, writer));
        // The kernel accepts for a process that hangs: only an answer shows that the node is there.
        let probe = link.send_many(0, |_| ()).map_err(|reason| io::Error::other(reason.to_string()))?;
        match within(probe, patience).await {
            Waited::Answer(_) => Ok(link),
            Waited::Broken => Err(io::Error::other("the connection broke before an answer")),
            Waited::TimedOut => {
                link.close("the node accepts connections and does not answer");
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {patience:?}")))
            }
        }
    }

    /// Queues the request that `encode` writes; its answer comes through the receiver, which fails when the
    /// connection ends first.
    pub(crate) fn send(&self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<oneshot::Receiver<Answer>, Arc<str>> {
        let (answer, receiver) = oneshot::channel();
        self.enqueue(encode, Waiter::One(answer))?;
        Ok(receiver)
    }

    /// Queues quiet requests, the `i`th with opaque `i` of `count`, and an `mn` behind them.
    pub(crate) fn send_many(
        &self,
        count: usize,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<oneshot::Receiver<Vec<Option<Answer>>>, Arc<str>> {
        let (done, receiver) = oneshot::channel();
        let waiter = Waiter::Many { answers: vec![None; count], done };
        self.enqueue(
            |out| {
                encode(out);
                out.extend_from_slice(b"mn\r\n");
            },
            waiter,
        )?;
        Ok(receiver)
    }

    fn enqueue(&self, encode: impl FnOnce(&mut Vec<u8>), waiter: Waiter) -> Result<(), Arc<str>> {
        let mut queue = self.queue.lock();
        if let Some(reason) = &queue.broken {
            return Err(reason.clone());
        }
        let was_empty = queue.out.is_empty();
        encode(&mut queue.out);
        queue.waiters.push_back(waiter);
        drop(queue);
        if was_empty {
            self.to_write.notify_one();
        }
        Ok(())
    }

    /// How many answers have come so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Why the connection ended, if it has.
    pub(crate) fn broken(&self) -> Option<Arc<str>> {
        self.queue.lock().broken.clone()
    }

    /// Ends the connection: everyone who waits on it is told.
    pub(crate) fn close(&self, reason: &str) {
        let mut queue = self.queue.lock();
        if queue.broken.is_none() {
            queue.broken = Some(reason.into());
            queue.waiters.clear();
            queue.out = Vec::new();
            drop(queue);
            self.ended.notify_waiters();
            self.ended.notify_one();
        }
    }
}

async fn run(link: Arc<Link>, reader: OwnedReadHalf, writer: OwnedWriteHalf) {
    let reason = tokio::select! {
        result = read(&link, reader) => result,
        result = write(&link, writer) => result,
        () = link.ended.notified() => return,
    };
    let reason = reason.err().map_or_else(|| "the node closed the connection".to_owned(), |error| error.to_string());
    link.close(&reason);
}

async fn write(link: &Link, mut writer: OwnedWriteHalf) -> io::Result<()> {
    let mut batch = Vec::with_capacity(READ);
    loop {
        link.to_write.notified().await;
        // Tasks that are ready to run add their requests to this batch: one write for all of them.
        tokio::task::yield_now().await;
        std::mem::swap(&mut batch, &mut link.queue.lock().out);
        writer.write_all(&batch).await?;
        batch.clear();
        if batch.capacity() > 16 * READ {
            batch = Vec::with_capacity(READ);
        }
    }
}

async fn read(link: &Link, mut reader: OwnedReadHalf) -> io::Result<()> {
    let mut input = BytesMut::with_capacity(READ);
    loop {
        input.reserve(READ / 4);
        if reader.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        let mut queue = link.queue.lock();
        let missing = loop {
            match meta::decode_response(&input) {
                DecodedResponse::Incomplete { need } => {
                    break if input.is_empty() { 0 } else { need };
                }
                DecodedResponse::Malformed => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the node sent what is not memcache"));
                }
                DecodedResponse::Response { response, consumed } => {
                    link.answered.fetch_add(1, Ordering::Relaxed);
                    deliver(&mut queue.waiters, &response)?;
                    input.advance(consumed);
                }
            }
        };
        drop(queue);
        input.reserve(missing);
    }
}

/// Gives an answer to the one whose turn it is.
fn deliver(waiters: &mut VecDeque<Waiter>, response: &Response<'_>) -> io::Result<()> {
    let out_of_turn = || io::Error::new(io::ErrorKind::InvalidData, "the node sent an answer that nobody asked for");
    let answer = match response {
        Response::Code { code: Code::Mn, .. } if matches!(waiters.front(), Some(Waiter::Many { .. })) => {
            if let Some(Waiter::Many { answers, done }) = waiters.pop_front() {
                // Fails where the caller went away.
                let _ = done.send(answers);
            }
            return Ok(());
        }
        Response::Code { code, value, flags } => {
            Answer::Code { code: *code, value: value.map(Bytes::copy_from_slice), facts: Facts::of(flags) }
        }
        Response::Error(line) => Answer::Refused(String::from_utf8_lossy(line).into_owned()),
    };
    match waiters.front_mut().ok_or_else(out_of_turn)? {
        Waiter::One(_) => {
            if let Some(Waiter::One(caller)) = waiters.pop_front() {
                let _ = caller.send(answer);
            }
        }
        Waiter::Many { answers, .. } => match &answer {
            Answer::Code { facts, .. } => {
                let place = facts.opaque.and_then(|opaque| answers.get_mut(opaque)).ok_or_else(out_of_turn)?;
                *place = Some(answer);
            }
            // An error line carries no opaque: it goes to the first request that has no answer yet.
            Answer::Refused(_) => {
                if let Some(place) = answers.iter_mut().find(|place| place.is_none()) {
                    *place = Some(answer);
                }
            }
        },
    }
    Ok(())
}

/// Waits for `receiver` until `patience` is over.
pub(crate) async fn within<T>(receiver: oneshot::Receiver<T>, patience: Duration) -> Waited<T> {
    let deadline = Instant::now() + patience;
    match tokio::time::timeout_at(deadline.into(), receiver).await {
        Ok(Ok(answer)) => Waited::Answer(answer),
        Ok(Err(_)) => Waited::Broken,
        Err(_) => Waited::TimedOut,
    }
}

/// How waiting for an answer ended.
pub(crate) enum Waited<T> {
    Answer(T),
    Broken,
    TimedOut,
}
