//! A link to a node that can be cut: a proxy on loopback.

use std::sync::Arc;

use anyhow::Result;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passage {
    /// They go through.
    Open,
    /// They wait, in both directions, and go through later.
    Held,
    /// Connections end, and new ones end at once.
    Cut,
}

/// A proxy before a node, always at the same address, wherever the node is. It ends with this value.
#[derive(Debug)]
pub(super) struct Link {
    address: String,
    passage: watch::Sender<Passage>,
    accepting: AbortHandle,
}

impl Link {
    pub(super) async fn to(target: Arc<Mutex<String>>) -> Result<Link> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (passage, state) = watch::channel(Passage::Open);
        let accepting = tokio::spawn(accept(listener, target, state)).abort_handle();
        Ok(Link { address, passage, accepting })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: Arc<Mutex<String>>, state: watch::Receiver<Passage>) {
    while let Ok((client, _)) = listener.accept().await {
        let (target, state) = (target.lock().clone(), state.clone());
        tokio::spawn(async move {
            if *state.borrow() == Passage::Cut {
                return;
            }
            let Ok(node) = TcpStream::connect(target).await else { return };
            let _ = (client.set_nodelay(true), node.set_nodelay(true));
            let ((from_client, to_client), (from_node, to_node)) = (client.into_split(), node.into_split());
            tokio::select! {
                () = pass(from_client, to_node, state.clone()) => {}
                () = pass(from_node, to_client, state) => {}
            }
        });
    }
}

/// Passes bytes on until one side or the link ends.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<Passage>) {
    let mut bytes = vec![0; 1 << 16];
    loop {
        let mut cut = state.clone();
        let read = tokio::select! {
            read = from.read(&mut bytes) => read,
            () = async { _ = cut.wait_for(|passage| *passage == Passage::Cut).await } => return,
        };
        let Ok(length @ 1..) = read else { return };
        let passage = state.wait_for(|passage| *passage != Passage::Held).await.map(|passage| *passage);
        if !matches!(passage, Ok(Passage::Open)) || to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
