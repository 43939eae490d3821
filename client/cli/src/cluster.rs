//! The servers of a command.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use larder_client::{Client, Failover};

use crate::arguments::Reach;
use crate::connection::Connection;

/// The servers, and how to speak to them.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// The addresses, as given; a key's owner is an index of these.
    pub(crate) servers: Vec<Arc<str>>,
    pub(crate) json: bool,
    patience: Duration,
}

impl Cluster {
    pub(crate) async fn reach(reach: &Reach, failover: Failover) -> Result<Cluster> {
        ensure!(!reach.timeout.is_zero(), "--timeout: must be above 0");
        let builder = reach.access.client(&reach.servers, reach.timeout)?;
        let mut builder = builder.connect_timeout(reach.timeout).hashing(reach.hashing).failover(failover);
        if let Some(member) = &reach.discover {
            builder = builder.discover(member);
        }
        let client = builder.connect().await?;
        let servers: Vec<Arc<str>> = client.nodes().into_iter().map(|node| node.address).collect();
        for (at, server) in servers.iter().enumerate() {
            ensure!(!servers[..at].contains(server), "--servers: {server} stands there twice");
        }
        Ok(Cluster { client, servers, json: reach.json, patience: reach.timeout })
    }

    /// Opens a connection to a server.
    pub(crate) async fn connect(&self, server: &Arc<str>) -> Result<Connection> {
        let stream = self.client.open(server).await?;
        Ok(Connection::new(Box::new(stream), server.clone(), self.patience))
    }

    /// Returns the server that owns `key`.
    pub(crate) fn owner(&self, key: &[u8]) -> &Arc<str> {
        // The list of a cluster may have changed since.
        self.servers.get(self.client.owner(key)).unwrap_or(&self.servers[0])
    }

    /// Whether a line must say which server it is of.
    pub(crate) fn has_several(&self) -> bool {
        self.servers.len() > 1
    }
}
