//! Lists of all items: `lru_crawler metadump` (protocol.txt, "LRU_Crawler"), and what is made of it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};
use larder_protocol::KEY_MAX_LEN;
use percent_encoding::percent_decode;
use serde_json::{Map, Value};

use crate::arguments::ScanOptions;
use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::format::{bytes, table};
use crate::output::{Found, Output, number_of, printable, put_bytes, remark};

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64)
}

/// An item of a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listed {
    /// Bytes in the server's memory.
    pub(crate) size: u64,
    pub(crate) key: Vec<u8>,
    /// Seconds until the item expires; `None` if never.
    ttl: Option<i64>,
    /// Seconds since the last read or write.
    idle: i64,
}

impl Listed {
    /// Reads the words `name=value` of an item. `None` if the key or the size is missing.
    fn parse(words: &[u8], key: Option<&[u8]>, is_relative: bool) -> Option<Listed> {
        let word = |name: &str| {
            let mut words = words.split(|&byte| byte == b' ');
            words.find_map(|word| word.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        };
        let number = |name| std::str::from_utf8(word(name)?).ok()?.parse::<i64>().ok();
        let since = |time: i64| if is_relative { time } else { now().saturating_sub(time) };
        Some(Listed {
            key: key.map_or_else(|| word("key").map(|key| percent_decode(key).collect()), |key| Some(key.to_vec()))?,
            size: number("size")?.try_into().ok()?,
            ttl: number("exp").filter(|exp| *exp >= 0).map(|exp| if is_relative { exp } else { exp - now() }),
            idle: since(number("la").unwrap_or(0)).max(0),
        })
    }

    /// Asks a server for its metadata of a key (`me`), which does not count as a read.
    pub(crate) async fn ask(connection: &mut Connection, key: &[u8]) -> Result<Option<Listed>> {
        let sent = String::from_utf8_lossy(key).into_owned();
        let is_key = !key.is_empty() && key.len() <= KEY_MAX_LEN && key.iter().all(|&byte| byte > b' ' && byte != 0x7f);
        ensure!(is_key, "invalid key {sent:?}: a key is 1 to 250 bytes without blanks or control characters");
        let line = connection.begin(&format!("me {sent}")).await?;
        if line.starts_with(b"EN") {
            return Ok(None);
        }
        match line.strip_prefix(b"ME ").and_then(|words| Listed::parse(words, Some(key), true)) {
            Some(listed) => Ok(Some(listed)),
            None => bail!("{} answered `me`: {}", connection.server, String::from_utf8_lossy(&line)),
        }
    }

    pub(crate) fn to_json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        put_bytes(&mut object, "key", &self.key);
        object.insert("size".to_owned(), self.size.into());
        object.insert("ttl".to_owned(), self.ttl.into());
        object.insert("idle".to_owned(), self.idle.into());
        object
    }

    pub(crate) fn to_text(&self) -> String {
        let ttl = self.ttl.map_or("expires never".to_owned(), |ttl| format!("expires in {ttl} s"));
        format!("{}, {ttl}, last used {} s ago", bytes(self.size), self.idle)
    }
}

/// The list of a server's items.
pub(crate) struct Listing {
    connection: Connection,
    /// A line that was read to see whether the server lists at all.
    first: Option<Vec<u8>>,
    prefix: Vec<u8>,
}

impl Listing {
    /// Begins the list of the items whose keys begin with `prefix`.
    pub(crate) async fn begin(cluster: &Cluster, server: &Arc<str>, prefix: &str) -> Result<Listing> {
        let mut connection = cluster.connect(server).await?.patient(LISTING);
        let first = connection.begin("lru_crawler metadump all").await?;
        Ok(Listing { connection, first: Some(first), prefix: prefix.as_bytes().to_vec() })
    }

    /// Whether this is a key, and one that is asked for.
    fn wants(&self, key: &[u8]) -> bool {
        !key.is_empty() && key.len() <= KEY_MAX_LEN && key.starts_with(&self.prefix)
    }

    /// Returns the next item; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Listed>> {
        loop {
            let line = match self.first.take() {
                Some(line) => line,
                None => self.connection.line().await?,
            };
            if line == b"END" {
                return Ok(None);
            }
            let server = &self.connection.server;
            ensure!(!line.starts_with(b"ERROR"), "{server} ended the list: {}", String::from_utf8_lossy(&line));
            if let Some(listed) = Listed::parse(&line, None, false).filter(|listed| self.wants(&listed.key)) {
                return Ok(Some(listed));
            }
        }
    }
}

/// How long a server may take for the next part of a list.
const LISTING: Duration = Duration::from_secs(30);

pub(crate) async fn scan(cluster: &Cluster, options: &ScanOptions) -> Result<Found> {
    let mut output = Output::new();
    let mut printed = 0;
    'all: for server in &cluster.servers {
        let mut listing = Listing::begin(cluster, server, &options.prefix).await?;
        while let Some(listed) = listing.next().await? {
            if options.limit.is_some_and(|limit| printed >= limit) {
                break 'all;
            }
            printed += 1;
            if cluster.json {
                let mut object = listed.to_json();
                object.insert("server".to_owned(), (**server).into());
                output.line(&Value::Object(object).to_string())?;
            } else if options.long {
                let ttl = listed.ttl.map_or("-".to_owned(), |ttl| ttl.to_string());
                let key = printable(&listed.key);
                output.line(&format!("{server}\t{}\t{ttl}\t{}\t{key}", listed.size, listed.idle))?;
            } else {
                output.line(&printable(&listed.key))?;
            }
        }
    }
    output.end()?;
    Ok(Found::all(printed > 0))
}

pub(crate) async fn big_keys(cluster: &Cluster, prefix: &str, most: usize) -> Result<Found> {
    let (mut items, mut memory) = (0, 0);
    let mut largest: BinaryHeap<Reverse<(Listed, Arc<str>)>> = BinaryHeap::new();
    for server in &cluster.servers {
        let mut listing = Listing::begin(cluster, server, prefix).await?;
        while let Some(listed) = listing.next().await? {
            items += 1;
            memory = u64::saturating_add(memory, listed.size);
            let is_large = largest.len() < most || largest.peek().is_some_and(|least| least.0.0.size < listed.size);
            if is_large {
                largest.push(Reverse((listed, server.clone())));
                if largest.len() > most {
                    largest.pop();
                }
            }
        }
    }
    let mut output = Output::new();
    let mut rows = vec![["size", "server", "", "key"].map(str::to_owned).to_vec()];
    for Reverse((listed, server)) in largest.into_sorted_vec() {
        if cluster.json {
            let mut object = listed.to_json();
            object.insert("server".to_owned(), (*server).into());
            output.json(object)?;
        } else {
            rows.push(vec![bytes(listed.size), server.to_string(), String::new(), printable(&listed.key)]);
        }
    }
    if !cluster.json && rows.len() > 1 {
        output.line(&rows_with_key(&rows))?;
    }
    output.end()?;
    let servers = number_of(cluster.servers.len() as u64, "server");
    remark(&format!("{} of {} at {servers}", number_of(items, "item"), bytes(memory)));
    Ok(Found::all(items > 0))
}

/// Aligns all but the last cell of each row, the key, which ends the line.
pub(crate) fn rows_with_key(rows: &[Vec<String>]) -> String {
    let (cells, keys): (Vec<Vec<String>>, Vec<&String>) =
        rows.iter().filter_map(|row| row.split_last()).map(|(key, cells)| (cells.to_vec(), key)).unzip();
    let lines: Vec<String> = table(&cells).lines().zip(keys).map(|(cells, key)| format!("{cells}  {key}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_list_is_read_as_memcached_writes_it() {
        let line = b"key=a%20b%FF exp=-1 la=0 cas=2 fetch=no cls=1 size=63 flags=0 ";
        let listed = Listed::parse(line, None, false).expect("an item");
        assert_eq!((&listed.key[..], listed.size, listed.ttl), (&b"a b\xff"[..], 63, None));
        assert!(listed.idle > 1_700_000_000);
        let line = b"exp=17 la=3 cas=2 fetch=yes cls=1 size=63";
        let listed = Listed::parse(line, Some(b"k"), true).expect("an item");
        assert_eq!((listed.ttl, listed.idle), (Some(17), 3));
        for wrong in [&b"OK"[..], b"", b"key=a", b"key=a size=-1", b"key=a size=x", b"size=3", b"\xff\x00"] {
            assert_eq!(Listed::parse(wrong, None, false), None, "{wrong:?}");
        }
        let far = format!("key=a exp={} la={} size=1", i64::MAX, i64::MIN);
        assert!(Listed::parse(far.as_bytes(), None, false).is_some());
    }
}
