//! The network between nodes of one cluster, with faults: links between them lead through this process.
//!
//! A member listens for others at 127.0.0.1 and advertises 127.0.0.2, where the same port leads through here.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_protocol::peer::{Frame, GREETING_MAX, Message, decode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::fleet::Member;
use crate::{Server, free_port};

/// What happens to bytes on their way from one member to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// They come so much later.
    Delay(Duration),
    /// They come once the fault is over, however old they are by then.
    Hold,
    /// Links end, and new ones do too.
    Cut,
}

/// From whom to whom, by their ids.
type Way = (String, String);

/// The links between members, and their faults.
#[derive(Debug)]
pub struct Network {
    runtime: tokio::runtime::Runtime,
    faults: watch::Sender<HashMap<Way, Fault>>,
    disturbed: Arc<AtomicU64>,
}

impl Default for Network {
    fn default() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Network { runtime: runtime.expect("a runtime"), faults: watch::Sender::default(), disturbed: Arc::default() }
    }
}

impl Network {
    /// Starts the member `id` of the cluster of these seeds, which other members reach through this network alone.
    pub fn member(&self, id: &str, seeds: &str) -> Member {
        let (listener, port) = loop {
            let port = free_port();
            match std::net::TcpListener::bind(("127.0.0.2", port)) {
                Ok(listener) => break (listener, port),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}"),
            }
        };
        listener.set_nonblocking(true).expect("a socket");
        let accepting = accept(listener, port, id.to_owned(), self.faults.clone(), self.disturbed.clone());
        self.runtime.spawn(accepting);
        let listen = format!("127.0.0.1:{port}");
        let mut arguments = vec!["--cluster", "test", "--cluster-listen", &listen, "--advertise", "127.0.0.2"];
        arguments.extend(["--node-id", id, "--linger", "1"]);
        if !seeds.is_empty() {
            arguments.extend(["--seeds", seeds]);
        }
        Member::of(Server::node(&arguments))
    }

    /// Begins a fault on the way from one member to another.
    pub fn disturb(&self, from: &str, to: &str, fault: Fault) {
        self.faults.send_modify(|faults| _ = faults.insert((from.to_owned(), to.to_owned()), fault));
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.faults.send_modify(HashMap::clear);
    }

    /// Links that ended by a fault, and pieces that came late, so far.
    pub fn disturbed(&self) -> u64 {
        self.disturbed.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: std::net::TcpListener,
    port: u16,
    id: String,
    faults: watch::Sender<HashMap<Way, Fault>>,
    disturbed: Arc<AtomicU64>,
) {
    let listener = TcpListener::from_std(listener).expect("a socket of this runtime");
    while let Ok((dialler, _)) = listener.accept().await {
        let (id, faults, disturbed) = (id.clone(), faults.subscribe(), disturbed.clone());
        tokio::spawn(async move {
            // An end of a link is as good as an error.
            let _ = lead(dialler, port, id, faults, &disturbed).await;
        });
    }
}

/// Leads a link to the member at `port`, until one side ends it or it is cut.
async fn lead(
    mut dialler: TcpStream,
    port: u16,
    id: String,
    faults: watch::Receiver<HashMap<Way, Fault>>,
    disturbed: &AtomicU64,
) -> io::Result<()> {
    // Who dials says so in the first frame.
    let mut greeting = Vec::new();
    let from = loop {
        match decode(&greeting, GREETING_MAX).map_err(io::Error::other)? {
            Some((Frame { message: Message::Hello(hello), .. }, _)) => break hello.id.to_owned(),
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
            None => {}
        }
        if dialler.read_buf(&mut greeting).await? == 0 {
            return Ok(());
        }
    };
    let member = TcpStream::connect(("127.0.0.1", port)).await?;
    dialler.set_nodelay(true)?;
    member.set_nodelay(true)?;
    let ((from_dialler, to_dialler), (from_member, to_member)) = (dialler.into_split(), member.into_split());
    let (there, back) = ((from.clone(), id.clone()), (id, from));
    let mut cut = faults.clone();
    tokio::select! {
        ended = pass(greeting, from_dialler, to_member, &there, faults.clone(), disturbed) => ended,
        ended = pass(Vec::new(), from_member, to_dialler, &back, faults, disturbed) => ended,
        _ = cut.wait_for(|faults| [&there, &back].iter().any(|way| faults.get(*way) == Some(&Fault::Cut))) => {
            disturbed.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }
}

/// Passes bytes on in their order, `first` before all others, until there are no further ones.
async fn pass(
    first: Vec<u8>,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: &Way,
    mut faults: watch::Receiver<HashMap<Way, Fault>>,
    disturbed: &AtomicU64,
) -> io::Result<()> {
    let (queue, mut queued) = mpsc::channel(64);
    let reading = async move {
        let mut bytes = first;
        loop {
            if !bytes.is_empty() && queue.send((Instant::now(), bytes)).await.is_err() {
                return Ok(());
            }
            bytes = Vec::with_capacity(16 * 1024);
            if from.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
    };
    let writing = async {
        while let Some((came, bytes)) = queued.recv().await {
            loop {
                let fault = faults.borrow_and_update().get(way).copied();
                if fault.is_some() {
                    disturbed.fetch_add(1, Ordering::Relaxed);
                }
                match fault {
                    Some(Fault::Delay(delay)) => break sleep_until(came + delay).await,
                    Some(Fault::Hold) => faults.changed().await.map_err(io::Error::other)?,
                    Some(Fault::Cut) | None => break,
                }
            }
            to.write_all(&bytes).await?;
        }
        io::Result::Ok(())
    };
    tokio::try_join!(reading, writing).map(|_| ())
}
