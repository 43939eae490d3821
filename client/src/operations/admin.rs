//! Commands to all nodes: versions, statistics, and flushing.
//!
//! Each command uses a connection of its own, because its reply is of the text protocol, and the shared connections
//! speak the meta protocol.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use crate::cluster::node::Node;
use crate::connection::connect::read_line;
use crate::error::{Error, Result};
use crate::operations::client::Client;

impl Client {
    /// Returns the version of each node, by address.
    pub async fn version(&self) -> Vec<(Arc<str>, Result<String>)> {
        let version = |lines: Vec<String>| lines.concat().trim_start_matches("VERSION ").to_owned();
        self.call_all("version", version).await
    }

    /// Returns the statistics of each node, by address: the general ones if `group` is empty, or those of `stats
    /// <group>` (`items`, `settings`, …).
    pub async fn stats(&self, group: &str) -> Vec<(Arc<str>, Result<BTreeMap<String, String>>)> {
        if group.contains(|letter: char| letter.is_control()) {
            let invalid = || Err(Error::InvalidKey(group.to_owned()));
            return self.nodes().into_iter().map(|node| (node.address, invalid())).collect();
        }
        let statistics = |lines: Vec<String>| {
            let words = lines.iter().filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '));
            words.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        self.call_all(format!("stats {group}").trim_end(), statistics).await
    }

    /// Invalidates all items of all nodes. Every later read goes to the datastore until the caches are filled again.
    pub async fn flush_all(&self) -> Vec<(Arc<str>, Result<()>)> {
        let flushed = self.call_all("flush_all", |_| ()).await;
        if let Some(near) = &self.inner.near {
            near.clear();
        }
        flushed
    }

    /// Opens a connection to the node at `address` (see [`Client::nodes`]) that nobody else uses, encrypted and logged
    /// in as the client's own. It is for commands that have no method here: those whose reply is a stream, such as
    /// `watch` and `lru_crawler metadump`.
    ///
    /// ```no_run
    /// # async fn example(cache: larder_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    ///
    /// let mut connection = cache.open("10.0.1.1:11211").await?;
    /// connection.write_all(b"watch evictions\r\n").await?;
    /// let mut events = BufReader::new(connection).lines();
    /// while let Some(event) = events.next_line().await? {
    ///     println!("{event}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidServer`] if no node has this address, and [`Error::Down`] if it cannot be reached.
    pub async fn open(&self, address: &str) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        let topology = self.inner.topology.load_full();
        let node = topology.node_at(address).ok_or_else(|| Error::InvalidServer(address.to_owned()))?;
        let down = |error: io::Error| Error::Down { node: node.address().clone(), reason: error.to_string().into() };
        Ok(node.connect().await.map_err(down)?.0)
    }

    async fn call_all<T>(&self, command: &str, read: impl Fn(Vec<String>) -> T) -> Vec<(Arc<str>, Result<T>)> {
        let topology = self.inner.topology.load_full();
        let asked = topology.nodes.iter().map(async |node| {
            let answer = call_text(node, command).await;
            (node.address().clone(), answer.map(&read))
        });
        join_all(asked).await
    }
}

/// Returns the lines of a node's reply to a text command.
pub(crate) async fn call_text(node: &Node, command: &str) -> Result<Vec<String>> {
    let answer = tokio::time::timeout(node.timeout(), exchange(node, command)).await;
    match answer {
        Err(_) => Err(Error::Timeout { node: node.address().clone(), after: node.timeout() }),
        Ok(Err(error)) => Err(Error::Down { node: node.address().clone(), reason: error.to_string().into() }),
        Ok(Ok(Err(line))) => Err(Error::Refused { node: node.address().clone(), line }),
        Ok(Ok(Ok(lines))) => Ok(lines),
    }
}

/// Most lines of a reply.
const LINES_MAX: usize = 100_000;

/// Sends a text command. Returns the lines of the reply, or the error line.
async fn exchange(node: &Node, command: &str) -> io::Result<Result<Vec<String>, String>> {
    let (stream, _) = node.connect().await?;
    let mut stream = BufReader::new(stream);
    stream.write_all(format!("{command}\r\n").as_bytes()).await?;
    stream.flush().await?;
    let mut lines = Vec::new();
    loop {
        let line = read_line(&mut stream).await?;
        match line.split(' ').next() {
            Some("ERROR" | "CLIENT_ERROR" | "SERVER_ERROR") => return Ok(Err(line)),
            Some("END") => return Ok(Ok(lines)),
            Some("OK" | "VERSION" | "RESET") => return Ok(Ok(vec![line])),
            _ if lines.len() == LINES_MAX => return Err(io::Error::other("the node's answer does not end")),
            _ => lines.push(line),
        }
    }
}
