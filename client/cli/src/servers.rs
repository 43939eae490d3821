//! Whether servers answer, and how fast.

use std::time::Instant;

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use serde_json::Map;

use crate::cluster::Cluster;
use crate::format::{count, duration, table};
use crate::output::{Found, Output, printable};

pub(crate) async fn ping(cluster: &Cluster) -> Result<Found> {
    let asked = cluster.servers.iter().map(|server| async move {
        let begun = Instant::now();
        let mut connection = cluster.connect(server).await?;
        let version = connection.begin("version").await?;
        let version = String::from_utf8_lossy(version.strip_prefix(b"VERSION ").unwrap_or(&version)).into_owned();
        anyhow::Ok((version, begun.elapsed().as_secs_f64()))
    });
    let answers = join_all(asked).await;
    let failed = answers.iter().filter(|answer| answer.is_err()).count();
    let mut output = Output::new();
    for (server, answer) in cluster.servers.iter().zip(answers) {
        let mut object = Map::new();
        object.insert("server".to_owned(), (**server).into());
        let line = match answer {
            Ok((version, seconds)) => {
                object.insert("version".to_owned(), version.clone().into());
                object.insert("seconds".to_owned(), seconds.into());
                format!("{server}: {} in {}", printable(version.as_bytes()), duration(seconds * 1e6))
            }
            Err(error) => {
                let error = format!("{error:#}");
                object.insert("error".to_owned(), error.clone().into());
                printable(error.as_bytes())
            }
        };
        if cluster.json { output.json(object)? } else { output.line(&line)? }
    }
    output.end()?;
    ensure!(failed == 0, "{failed} of {} servers did not answer", cluster.servers.len());
    Ok(Found::All)
}

/// The quantiles that are shown.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

pub(crate) async fn latency(cluster: &Cluster, requests: u64) -> Result<Found> {
    let mut output = Output::new();
    let mut rows =
        vec![["server", "round trips", "min", "p50", "p90", "p99", "p99.9", "max"].map(str::to_owned).to_vec()];
    for server in &cluster.servers {
        let mut connection = cluster.connect(server).await?;
        let mut times = Histogram::<u64>::new(3)?;
        for _ in 0..requests {
            let begun = Instant::now();
            connection.send(b"mn\r\n").await?;
            let line = connection.line().await?;
            ensure!(line == b"MN", "{server} answered `mn`: {}", String::from_utf8_lossy(&line));
            times.record(begun.elapsed().as_nanos().try_into().unwrap_or(u64::MAX))?;
        }
        let quantiles = QUANTILES.map(|(name, quantile)| (name, times.value_at_quantile(quantile)));
        let figures: Vec<(&str, u64)> =
            [("min", times.min())].into_iter().chain(quantiles).chain([("max", times.max())]).collect();
        if cluster.json {
            let mut object = Map::new();
            object.insert("server".to_owned(), (**server).into());
            object.insert("requests".to_owned(), requests.into());
            object.extend(
                figures.iter().map(|(name, nanoseconds)| (format!("{name}_us"), (*nanoseconds as f64 / 1e3).into())),
            );
            output.json(object)?;
        } else {
            let times = figures.iter().map(|(_, nanoseconds)| duration(*nanoseconds as f64 / 1e3));
            rows.push([server.to_string(), count(requests)].into_iter().chain(times).collect());
        }
    }
    if !cluster.json {
        output.line(table(&rows).trim_end())?;
    }
    output.end()?;
    Ok(Found::All)
}
