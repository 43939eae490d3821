//! All items in a file, and back.
//!
//! The file holds meta commands (protocol.txt, "Meta Set"): `ms KEY LENGTH TEXPIRY FFLAGS` and the value for each item,
//! and `mn` at its end, so that one that was cut short is known. A key that is no text is in base64, with the flag b.
//! The expiry is a Unix time, or 0.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use larder_protocol::meta::{Code, Line, Response};
use larder_protocol::{
    BODY_MAX, Command, Decoded, Exptime, Limits, Protocol, RELATIVE_EXPTIME_MAX, Reply, Scratch, StoreMode,
};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::arguments::{DumpOptions, RestoreOptions};
use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::format::{bytes, count};
use crate::listing::{Listing, now};
use crate::output::{Found, Output, number_of, remark};

/// Keys that are read from a server at a time.
const BATCH: usize = 64;

/// What is read of an item.
struct Fetched {
    value: Vec<u8>,
    flags: u64,
    ttl: Option<u32>,
    cas: u64,
    /// A value that is out of date, or not there yet: no reader gets it.
    is_hidden: bool,
    /// Reading it gave the right to load it, which is given back.
    won: bool,
}

pub(crate) async fn dump(cluster: &Cluster, options: &DumpOptions) -> Result<Found> {
    let (mut file, name): (Box<dyn Write>, _) = match &options.output {
        Some(path) => {
            let name = path.display().to_string();
            (Box::new(std::fs::File::create(path).with_context(|| name.clone())?), name)
        }
        None => {
            ensure!(
                !std::io::stdout().is_terminal(),
                "a dump is not for a terminal: redirect it, or use --output FILE"
            );
            (Box::new(std::io::stdout().lock()), String::new())
        }
    };
    // Of standard output, a reader that has gone is known by the error itself.
    let named = |written: std::io::Result<()>| -> Result<()> {
        if name.is_empty() { Ok(written?) } else { written.with_context(|| name.clone()) }
    };
    let (mut items, mut size) = (0, 0);
    let mut out = Vec::new();
    for server in &cluster.servers {
        let mut listing = Listing::begin(cluster, server, &options.prefix).await?;
        let mut connection = cluster.connect(server).await?;
        let mut more = true;
        while more {
            let mut keys = Vec::with_capacity(BATCH);
            while keys.len() < BATCH && more {
                match listing.next().await? {
                    Some(listed) if !options.owned || cluster.owner(&listed.key) == server => keys.push(listed.key),
                    Some(_) => {}
                    None => more = false,
                }
            }
            items += copy(&mut connection, &keys, &mut out).await?;
            size += out.len() as u64;
            named(file.write_all(&out))?;
            out.clear();
        }
    }
    named(file.write_all(b"mn\r\n").and_then(|()| file.flush()))?;
    let servers = number_of(cluster.servers.len() as u64, "server");
    remark(&format!("{}, {}, from {servers}", number_of(items, "item"), bytes(size)));
    Ok(Found::All)
}

/// Reads items and appends them to `out`. Returns how many are still there.
async fn copy(connection: &mut Connection, keys: &[Vec<u8>], out: &mut Vec<u8>) -> Result<u64> {
    let mut requests = Vec::new();
    for key in keys {
        let mut line = Line::get(&mut requests, key);
        line.flag(b'f').flag(b't').flag(b'c').flag(b'u').flag(b'v');
        line.end();
    }
    connection.send(&requests).await?;
    let mut items = 0;
    let mut give_back = Vec::new();
    for key in keys {
        let fetched = connection.response(read).await?.with_context(|| connection.server.to_string())?;
        let Some(item) = fetched else { continue };
        if item.won {
            let mut line = Line::delete(&mut give_back, key);
            line.number(b'C', item.cas).flag(b'I');
            line.end();
        }
        if item.is_hidden {
            continue;
        }
        items += 1;
        let mut line = Line::set(out, key, &item.value);
        line.exptime(b'T', Exptime(item.ttl.map_or(0, |ttl| now() + i64::from(ttl))));
        line.number(b'F', item.flags);
        line.end();
    }
    if !give_back.is_empty() {
        let returned = give_back.iter().filter(|&&byte| byte == b'\n').count();
        connection.send(&give_back).await?;
        for _ in 0..returned {
            connection.response(|_| ()).await?;
        }
    }
    Ok(items)
}

/// Reads a response; `None` if the item has gone.
fn read(response: Response<'_>) -> Result<Option<Fetched>> {
    match response {
        Response::Code { code: Code::Va, value: Some(value), flags } => Ok(Some(Fetched {
            value: value.to_vec(),
            flags: flags.number(b'f').unwrap_or(0).min(u32::MAX.into()),
            ttl: flags.ttl(),
            cas: flags.number(b'c').unwrap_or(0),
            is_hidden: flags.has(b'X') || value.is_empty() && (flags.has(b'W') || flags.has(b'Z')),
            won: flags.has(b'W'),
        })),
        Response::Code { code: Code::En, .. } => Ok(None),
        Response::Code { .. } => bail!("the answer to a read is that to another command"),
        Response::Error(line) => bail!("{}", String::from_utf8_lossy(line)),
    }
}

/// Requests that are collected for a server before they are sent.
const REQUESTS: u64 = 256;
const REQUESTS_BYTES: usize = 256 * 1024;

/// Refusals that are printed.
const REFUSALS_SHOWN: u64 = 10;

/// What became of the items of a dump.
#[derive(Debug, Default)]
struct Restored {
    stored: u64,
    /// There was an item, and it was kept.
    kept: u64,
    expired: u64,
    refused: u64,
}

/// The items on their way to a server.
struct Target {
    connection: Connection,
    requests: Vec<u8>,
    count: u64,
}

impl Target {
    async fn flush(&mut self, restored: &mut Restored) -> Result<()> {
        self.connection.send(&self.requests).await?;
        self.requests.clear();
        for _ in 0..std::mem::take(&mut self.count) {
            let refusal = self.connection.response(|response| match response {
                Response::Code { code: Code::Hd, .. } => {
                    restored.stored += 1;
                    None
                }
                Response::Code { .. } => {
                    restored.kept += 1;
                    None
                }
                Response::Error(line) => Some(String::from_utf8_lossy(line).into_owned()),
            });
            if let Some(refusal) = refusal.await? {
                restored.refused += 1;
                if restored.refused <= REFUSALS_SHOWN {
                    remark(&format!("{} refused an item: {refusal}", self.connection.server));
                }
            }
        }
        Ok(())
    }
}

pub(crate) async fn restore(cluster: &Cluster, options: &RestoreOptions) -> Result<Found> {
    let mut file: Box<dyn AsyncRead + Unpin> = if options.file == Path::new("-") {
        ensure!(!std::io::stdin().is_terminal(), "name the file of the dump, or redirect standard input");
        Box::new(tokio::io::stdin())
    } else {
        let opened = tokio::fs::File::open(&options.file).await;
        Box::new(opened.with_context(|| options.file.display().to_string())?)
    };
    let mut targets = Vec::new();
    for server in &cluster.servers {
        targets.push(Target { connection: cluster.connect(server).await?, requests: Vec::new(), count: 0 });
    }
    let mut restored = Restored::default();
    let read = read_items(cluster, &mut *file, options.add, &mut targets, &mut restored).await;
    for target in &mut targets {
        target.flush(&mut restored).await?;
    }
    let Restored { stored, kept, expired, refused } = restored;
    if cluster.json {
        let figures = [("stored", stored), ("kept", kept), ("expired", expired), ("refused", refused)];
        let object: Map<String, Value> =
            figures.map(|(name, number)| (name.to_owned(), number.into())).into_iter().collect();
        let mut output = Output::new();
        output.json(object)?;
    } else {
        let mut text = format!("{} stored", number_of(stored, "item"));
        for (number, what) in [(kept, "kept"), (expired, "expired"), (refused, "refused")] {
            if number > 0 {
                text += &format!(", {} {what}", count(number));
            }
        }
        remark(&text);
    }
    read?;
    ensure!(refused == 0, "{} refused", number_of(refused, "item"));
    Ok(Found::All)
}

/// Reads the items of a dump and sends each to its owner. The last ones are still to be sent.
async fn read_items(
    cluster: &Cluster,
    file: &mut (dyn AsyncRead + Unpin),
    add: bool,
    targets: &mut [Target],
    restored: &mut Restored,
) -> Result<()> {
    // No server takes more; a length beyond it would have the whole file read into memory.
    let limits = Limits { item_size_max: BODY_MAX, refuse_unfinished: false };
    let mut scratch = Scratch::new();
    let mut input = Vec::new();
    let mut items = 0u64;
    // memcached-tool writes classic commands, and no end.
    let mut needs_end = false;
    loop {
        let mut used = 0;
        while used < input.len() {
            let (request, consumed) = match Protocol::Text.decode(&input[used..], &limits, &mut scratch) {
                Decoded::Request { request, consumed } => (request, consumed),
                Decoded::Incomplete { .. } => break,
                _ => bail!("what follows item {items} of the dump is not an item: is this the file of a dump?"),
            };
            let store = match request.command {
                Command::Store(store) => store,
                Command::Noop => return Ok(()),
                _ => bail!("what follows item {items} of the dump is another command: nothing after it was stored"),
            };
            needs_end |= matches!(request.reply, Reply::Meta(_));
            items += 1;
            used += consumed;
            let Exptime(expiry) = store.exptime;
            if expiry < 0 || expiry > RELATIVE_EXPTIME_MAX && expiry <= now() {
                restored.expired += 1;
                continue;
            }
            let owner = cluster.owner(store.key);
            let target = targets.iter_mut().find(|target| target.connection.server == *owner);
            let target = target.context("the list of servers has changed: begin again")?;
            let mut line = Line::set(&mut target.requests, store.key, store.value);
            line.exptime(b'T', store.exptime).number(b'F', store.flags.into());
            line.store_mode(if add { StoreMode::Add } else { store.mode });
            line.end();
            target.count += 1;
            if target.count >= REQUESTS || target.requests.len() >= REQUESTS_BYTES {
                target.flush(restored).await?;
            }
        }
        input.drain(..used);
        input.reserve(REQUESTS_BYTES);
        if file.read_buf(&mut input).await.context("reading the dump")? == 0 {
            break;
        }
    }
    ensure!(input.is_empty(), "the dump ends within item {}: it was cut short", items + 1);
    ensure!(!needs_end, "the dump ends without `mn` after item {items}: it was cut short");
    Ok(())
}
