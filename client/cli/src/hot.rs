//! What servers do, as they report it (memcached's `watch`; protocol.txt, "Watchers").

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::{join_all, try_join_all};
use percent_encoding::percent_decode;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::format::{count as grouped, rate};
use crate::listing::rows_with_key;
use crate::output::{Found, Output, number_of, printable, put_bytes, remark};

/// Opens a watcher of `topics` at every server.
async fn watchers(cluster: &Cluster, topics: &[String]) -> Result<Vec<Connection>> {
    let is_word = |topic: &String| !topic.is_empty() && topic.bytes().all(|byte| byte.is_ascii_alphanumeric());
    ensure!(topics.iter().all(is_word), "a topic is a word: fetchers, mutations, deletions, evictions, connevents");
    let command = format!("watch {}", topics.join(" "));
    try_join_all(cluster.servers.iter().map(|server| async {
        let mut connection = cluster.connect(server).await?;
        connection.begin(&command).await?;
        Ok(connection)
    }))
    .await
}

/// The value of the word `name=value` of an event.
fn word<'l>(line: &'l [u8], name: &str) -> Option<&'l [u8]> {
    let mut words = line.split(|&byte| byte == b' ');
    words.find_map(|word| word.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// The words `name=value` of an event, the key as it was sent.
fn to_json(server: &str, line: &[u8]) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("server".to_owned(), server.into());
    for word in line.split(|&byte| byte == b' ') {
        let Some(equals) = word.iter().position(|&byte| byte == b'=') else { continue };
        let (name, value) = (printable(&word[..equals]), &word[equals + 1..]);
        if name == "key" {
            put_bytes(&mut object, "key", &percent_decode(value).collect::<Vec<u8>>());
        } else {
            put_bytes(&mut object, &name, value);
        }
    }
    object
}

/// Events that wait to be printed.
const WAITING: usize = 1024;

pub(crate) async fn watch(cluster: &Cluster, topics: &[String], count: Option<u64>) -> Result<Found> {
    let (sender, mut events) = mpsc::channel(WAITING);
    for mut connection in watchers(cluster, topics).await? {
        let sender = sender.clone();
        tokio::spawn(async move {
            loop {
                let event = connection.event().await;
                let ends = event.is_err();
                if sender.send(event.map(|line| (connection.server.clone(), line))).await.is_err() || ends {
                    return;
                }
            }
        });
    }
    let mut output = Output::new();
    let mut printed = 0;
    while count.is_none_or(|count| printed < count) {
        let Some(event) = events.recv().await else { break };
        let (server, line) = event?;
        if cluster.json {
            output.json(to_json(&server, &line))?;
        } else if cluster.has_several() {
            output.event(&format!("{server} {}", printable(&line)))?;
        } else {
            output.event(&printable(&line))?;
        }
        printed += 1;
    }
    Ok(Found::All)
}

/// Most keys that are counted for a server. Those that come later, when as many are known, are counted as one.
const KEYS_MAX: usize = 1 << 20;

/// What one server was seen to read.
struct Sample {
    server: Arc<str>,
    keys: HashMap<Vec<u8>, u64>,
    reads: u64,
    /// Reads that the server did not report, because there were too many at once.
    skipped: u64,
}

async fn sample(mut connection: Connection, until: Instant) -> Result<Sample> {
    let mut sample = Sample { server: connection.server.clone(), keys: HashMap::new(), reads: 0, skipped: 0 };
    while let Ok(line) = timeout_at(until, connection.event()).await {
        let line = line?;
        if let Some(skipped) = word(&line, "skipped") {
            let skipped = std::str::from_utf8(skipped).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            sample.skipped = sample.skipped.saturating_add(skipped);
        }
        // A write that looks whether there is an item reports that as a read, too.
        let Some(key) = word(&line, "key").filter(|_| word(&line, "type") == Some(b"item_get")) else { continue };
        sample.reads += 1;
        if let Some(seen) = sample.keys.get_mut(key) {
            *seen += 1;
        } else if sample.keys.len() < KEYS_MAX {
            sample.keys.insert(key.to_vec(), 1);
        }
    }
    Ok(sample)
}

pub(crate) async fn hot_keys(cluster: &Cluster, duration: Duration, most: usize) -> Result<Found> {
    let connections = watchers(cluster, &["fetchers".to_owned()]).await?;
    let until = Instant::now() + duration;
    let samples = join_all(connections.into_iter().map(|connection| sample(connection, until))).await;
    let samples: Vec<Sample> = samples.into_iter().collect::<Result<_>>()?;
    let reads: u64 = samples.iter().map(|sample| sample.reads).sum();
    let skipped = samples.iter().fold(0, |sum: u64, sample| sum.saturating_add(sample.skipped));
    let of_server = |sample: &'_ Sample| -> Vec<(u64, Vec<u8>, Arc<str>)> {
        sample.keys.iter().map(|(key, seen)| (*seen, key.clone(), sample.server.clone())).collect()
    };
    let mut hottest: Vec<_> = samples.iter().flat_map(of_server).collect();
    hottest.sort_unstable_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    hottest.truncate(most);
    let mut output = Output::new();
    let mut rows = vec![["reads", "a second", "share", "server", "key"].map(str::to_owned).to_vec()];
    for (seen, key, server) in &hottest {
        let key: Vec<u8> = percent_decode(key).collect();
        let (per_second, share) = (*seen as f64 / duration.as_secs_f64().max(0.001), *seen as f64 / reads as f64);
        if cluster.json {
            let mut object = Map::new();
            put_bytes(&mut object, "key", &key);
            object.insert("server".to_owned(), (**server).into());
            object.insert("reads".to_owned(), (*seen).into());
            object.insert("per_second".to_owned(), per_second.into());
            object.insert("share".to_owned(), share.into());
            output.json(object)?;
        } else {
            let share = format!("{:.1} %", share * 100.0);
            rows.push(vec![grouped(*seen), rate(per_second), share, server.to_string(), printable(&key)]);
        }
    }
    if !cluster.json && rows.len() > 1 {
        output.line(&rows_with_key(&rows))?;
    }
    output.end()?;
    let mut text = format!("{} seen", number_of(reads, "read"));
    if skipped > 0 {
        text += &format!(", {} more were not reported: the shares are those of a sample", grouped(skipped));
    }
    remark(&text);
    Ok(Found::all(reads > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_an_object_of_its_words() {
        let line = b"ts=1.5 gid=3 type=item_get key=a%20%FF status=found";
        let text = Value::Object(to_json("s:1", line)).to_string();
        assert_eq!(
            text,
            r#"{"gid":"3","key_base64":"YSD/","server":"s:1","status":"found","ts":"1.5","type":"item_get"}"#
        );
        assert_eq!(Value::Object(to_json("s", b"\xff\x00 =")).to_string(), r#"{"":"","server":"s"}"#);
    }
}
