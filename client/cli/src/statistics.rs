//! The statistics of all servers: side by side, and as rates.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Map, Value};

use crate::cluster::Cluster;
use crate::format::{bytes, count as grouped, rate, table};
use crate::output::{Found, Output, printable, remark};

type Figures = BTreeMap<String, String>;

pub(crate) async fn stats(cluster: &Cluster, group: &str, filter: &str) -> Result<Found> {
    let (mut answers, mut failed) = (Vec::new(), 0);
    for (server, answer) in cluster.client.stats(group).await {
        match answer {
            Ok(figures) => answers.push((server, figures)),
            Err(error) => {
                failed += 1;
                remark(&error.to_string());
            }
        }
    }
    answers.iter_mut().for_each(|(_, figures)| figures.retain(|name, _| name.contains(filter)));
    let mut output = Output::new();
    if cluster.json {
        let of_server = |(server, figures): &(Arc<str>, Figures)| {
            let figures: Map<String, Value> =
                figures.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
            (server.to_string(), figures.into())
        };
        output.json(answers.iter().map(of_server).collect())?;
    } else {
        let mut rows =
            vec![std::iter::once(String::new()).chain(answers.iter().map(|(server, _)| server.to_string())).collect()];
        let names: BTreeSet<&String> = answers.iter().flat_map(|(_, figures)| figures.keys()).collect();
        for name in &names {
            let values = answers.iter().map(|(_, figures)| figures.get(*name).map_or("-", String::as_str));
            rows.push(std::iter::once(name.as_str()).chain(values).map(|cell| printable(cell.as_bytes())).collect());
        }
        if !names.is_empty() {
            output.line(table(&rows).trim_end())?;
        }
    }
    output.end()?;
    ensure!(failed == 0, "{failed} of {} servers failed", cluster.servers.len());
    Ok(Found::all(answers.iter().any(|(_, figures)| !figures.is_empty())))
}

/// What a server did between two looks, and how it is.
struct Rates {
    gets: f64,
    /// Share of the gets that were hits; `None` without gets.
    hits: Option<f64>,
    sets: f64,
    others: f64,
    evictions: f64,
    connections: u64,
    items: u64,
    memory: u64,
    limit: u64,
    received: f64,
    sent: f64,
    /// Cores that are busy.
    cpu: f64,
}

/// Commands that are neither gets nor sets.
const OTHERS: [&str; 9] = [
    "delete_hits",
    "delete_misses",
    "incr_hits",
    "incr_misses",
    "decr_hits",
    "decr_misses",
    "touch_hits",
    "touch_misses",
    "cmd_flush",
];

impl Rates {
    fn between(before: &Figures, after: &Figures, seconds: f64) -> Rates {
        let number = |figures: &Figures, name: &str| {
            figures
                .get(name)
                .and_then(|value| value.parse::<f64>().ok())
                .filter(|number| number.is_finite())
                .unwrap_or(0.0)
        };
        let state = |name: &str| number(after, name) as u64;
        // A server that was started again counts from 0.
        let per_second = |name: &str| ((number(after, name) - number(before, name)) / seconds).max(0.0);
        let (hits, misses) = (per_second("get_hits"), per_second("get_misses"));
        Rates {
            gets: hits + misses,
            hits: (hits + misses > 0.0).then(|| hits / (hits + misses)),
            sets: per_second("cmd_set"),
            others: OTHERS.iter().map(|name| per_second(name)).sum(),
            evictions: per_second("evictions"),
            connections: state("curr_connections"),
            items: state("curr_items"),
            memory: state("bytes"),
            limit: state("limit_maxbytes"),
            received: per_second("bytes_read"),
            sent: per_second("bytes_written"),
            cpu: per_second("rusage_user") + per_second("rusage_system"),
        }
    }

    fn row(&self, server: &str) -> Vec<String> {
        let throughput = |bytes_a_second: f64| format!("{}/s", bytes(bytes_a_second as u64));
        vec![
            server.to_owned(),
            rate(self.gets),
            self.hits.map_or("-".to_owned(), |hits| format!("{:.1} %", hits * 100.0)),
            rate(self.sets),
            rate(self.others),
            rate(self.evictions),
            grouped(self.connections),
            grouped(self.items),
            format!("{:.0} % of {}", self.memory as f64 * 100.0 / self.limit.max(1) as f64, bytes(self.limit)),
            throughput(self.received),
            throughput(self.sent),
            format!("{:.0} %", self.cpu * 100.0),
        ]
    }

    fn to_json(&self) -> Value {
        serde_json::json!({
            "gets_per_second": self.gets,
            "hit_ratio": self.hits,
            "sets_per_second": self.sets,
            "others_per_second": self.others,
            "evictions_per_second": self.evictions,
            "connections": self.connections,
            "items": self.items,
            "bytes": self.memory,
            "limit_bytes": self.limit,
            "received_bytes_per_second": self.received,
            "sent_bytes_per_second": self.sent,
            "cpu_cores": self.cpu,
        })
    }
}

const HEADINGS: [&str; 12] =
    ["server", "gets/s", "hits", "sets/s", "others/s", "evicted/s", "clients", "items", "memory", "in", "out", "cpu"];

pub(crate) async fn top(cluster: &Cluster, interval: Duration, count: Option<u64>) -> Result<Found> {
    ensure!(!interval.is_zero(), "--interval: must be above 0");
    let mut output = Output::new();
    let mut before = cluster.client.stats("").await;
    let mut looked = Instant::now();
    let (mut shown, mut failed) = (0, 0);
    while count.is_none_or(|count| shown < count) {
        tokio::time::sleep(interval).await;
        let after = cluster.client.stats("").await;
        let seconds = looked.elapsed().as_secs_f64();
        looked = Instant::now();
        let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
        let mut object = Map::new();
        failed = 0;
        for (server, answer) in &after {
            let earlier = before.iter().find(|(other, _)| other == server).map(|(_, earlier)| earlier);
            match (earlier, answer) {
                (Some(Ok(earlier)), Ok(figures)) => {
                    let rates = Rates::between(earlier, figures, seconds);
                    rows.push(rates.row(server));
                    object.insert(server.to_string(), rates.to_json());
                }
                // It is back, and its rates are known at the next look.
                (_, Ok(_)) => rows.push(vec![server.to_string(), "-".to_owned()]),
                (_, Err(error)) => {
                    failed += 1;
                    rows.push(vec![server.to_string(), "down".to_owned()]);
                    object.insert(server.to_string(), serde_json::json!({ "error": error.to_string() }));
                }
            }
        }
        if cluster.json {
            output.json(object)?;
        } else {
            if output.is_terminal() {
                output.clear()?;
            } else if shown > 0 {
                output.line("")?;
            }
            output.event(table(&rows).trim_end())?;
        }
        before = after;
        shown += 1;
    }
    output.end()?;
    ensure!(failed == 0, "{failed} of {} servers failed", cluster.servers.len());
    Ok(Found::All)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_what_was_counted_since_the_last_look() {
        let figures =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let before: Figures = figures(&[("get_hits", "10"), ("get_misses", "0"), ("cmd_set", "500"), ("bytes", "7")]);
        let after: Figures = figures(&[("get_hits", "40"), ("get_misses", "10"), ("cmd_set", "0"), ("bytes", "nan")]);
        let rates = Rates::between(&before, &after, 2.0);
        assert_eq!((rates.gets, rates.hits, rates.sets, rates.memory), (20.0, Some(0.75), 0.0, 0));
        assert_eq!(rates.row("s").len(), HEADINGS.len());
        assert_eq!(Rates::between(&Figures::new(), &Figures::new(), 1.0).hits, None);
    }
}
