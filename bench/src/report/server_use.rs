//! What a run cost a server, from the server's own statistics.

use std::collections::BTreeMap;
use std::time::Duration;

use larder_cli::access::AccessArgs;
use larder_client::Client;
use serde::{Deserialize, Serialize};

/// How long a server may take to answer `stats`.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a run cost a server: the difference of two `stats`, and the state at the end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerUse {
    /// The server's version.
    pub version: String,
    /// Processor seconds in the measured time, user and system.
    pub cpu_seconds: f64,
    /// Items evicted in the measured time.
    pub evictions: u64,
    /// Items at the end.
    pub items: u64,
    /// Bytes of items at the end.
    pub bytes: u64,
    /// Memory for items, in bytes.
    pub memory_limit: u64,
}

/// The statistics of all servers at one moment; `None` for a server that did not answer.
pub(crate) struct ServerStats(Vec<Option<BTreeMap<String, String>>>);

impl ServerStats {
    /// Asks every server for its statistics. A server that only speaks the binary protocol does not answer.
    pub(crate) async fn read(client: &Client) -> ServerStats {
        ServerStats(client.stats("").await.into_iter().map(|(_, statistics)| statistics.ok()).collect())
    }

    /// Like [`ServerStats::read`], over connections of its own and without an async runtime.
    pub(crate) fn read_blocking(servers: &[String], access: &AccessArgs) -> Option<ServerStats> {
        let client = access.client(servers, PATIENCE).ok()?.build_blocking().ok()?;
        Some(client.wait(async |client| ServerStats::read(&client).await))
    }

    /// What server `index` has used since `before`; `None` if it did not answer or was started anew.
    pub(crate) fn since(&self, before: &ServerStats, index: usize) -> Option<ServerUse> {
        let (before, after) = (before.0.get(index)?.as_ref()?, self.0.get(index)?.as_ref()?);
        let number = |statistics: &BTreeMap<String, String>, name: &str| statistics.get(name)?.parse::<u64>().ok();
        let cpu = |statistics: &BTreeMap<String, String>| -> Option<f64> {
            let seconds = |name: &str| statistics.get(name)?.parse::<f64>().ok();
            Some(seconds("rusage_user")? + seconds("rusage_system")?)
        };
        if before.get("pid") != after.get("pid") {
            return None;
        }
        Some(ServerUse {
            version: after.get("version")?.clone(),
            cpu_seconds: cpu(after)? - cpu(before)?,
            evictions: number(after, "evictions")?.checked_sub(number(before, "evictions")?)?,
            items: number(after, "curr_items")?,
            bytes: number(after, "bytes")?,
            memory_limit: number(after, "limit_maxbytes")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(pid: &str, cpu: &str, evictions: &str) -> ServerStats {
        let words = [("pid", pid), ("version", "1.6.45"), ("rusage_user", cpu), ("rusage_system", "0.5")];
        let words = words.into_iter().chain([("evictions", evictions), ("curr_items", "7"), ("bytes", "700")]);
        let words = words.chain([("limit_maxbytes", "1048576")]);
        ServerStats(vec![Some(words.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()), None])
    }

    #[test]
    fn a_servers_use_is_the_difference_of_its_statistics() {
        let (before, after) = (stats("1", "1.25", "10"), stats("1", "2.5", "15"));
        let used = after.since(&before, 0).expect("it answered");
        assert_eq!((used.cpu_seconds, used.evictions, used.items), (1.25, 5, 7));
        assert_eq!(after.since(&before, 1), None);
    }

    #[test]
    fn a_server_that_was_started_anew_has_no_use() {
        assert_eq!(stats("2", "0.1", "0").since(&stats("1", "1.25", "10"), 0), None);
    }
}
