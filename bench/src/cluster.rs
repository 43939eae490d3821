//! What nodes of a cluster report of it: `stats cluster`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use larder_client::Client;

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a cluster may take to settle on a busy machine.
const SETTLING: Duration = Duration::from_secs(120);

/// Names and values of `stats cluster`.
pub type Figures = BTreeMap<String, String>;

/// Asks a node for its `stats cluster`.
///
/// # Errors
///
/// The node does not answer, or is in no cluster.
pub fn figures(address: &str) -> anyhow::Result<Figures> {
    let ask = || {
        let client = Client::builder().server(address).timeout(PATIENCE).build_blocking()?;
        anyhow::Ok(client.wait(async |client| client.stats("cluster").await))
    };
    // A thread of its own, since a caller may be within a runtime, where a blocking client cannot wait.
    let asked = std::thread::scope(|scope| scope.spawn(ask).join());
    let answers = asked.map_err(|_| anyhow::anyhow!("asking {address} panicked"))??;
    let (_, figures) = answers.into_iter().next().context("a client of one node")?;
    let figures = figures.with_context(|| format!("stats cluster of {address}"))?;
    anyhow::ensure!(figures.contains_key("peer_address"), "{address} is in no cluster");
    Ok(figures)
}

/// Of several nodes, `number` summed over the members that each of them names: commands forwarded, for example.
pub(crate) fn sum_over_members(figures: &Figures, name: &str) -> u64 {
    let ending = format!(":{name}");
    figures.iter().filter(|(key, _)| key.ends_with(&ending)).filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

/// Members of a cluster that are active, as one of them reports it.
pub(crate) fn active(figures: &Figures) -> usize {
    figures.iter().filter(|(name, state)| name.ends_with(":state") && *state == "active").count()
}

/// Waits until each of these nodes knows so many active members, and no item is on its way.
///
/// # Errors
///
/// That takes more than two minutes, or a node is in no cluster.
pub(crate) fn settle(addresses: &[String], members: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + SETTLING;
    for address in addresses {
        loop {
            let figures = figures(address)?;
            if active(&figures) == members && figures.get("settled").is_some_and(|settled| settled == "yes") {
                break;
            }
            if Instant::now() > deadline {
                bail!("the cluster does not settle with {members} members: {figures:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}
