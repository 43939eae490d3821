//! Commands on single items.

use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use anyhow::{Context, Result};
use larder_client::{MetaStatus, Stored};
use serde_json::{Map, Value};

use crate::arguments::{CountOptions, Mode, SetOptions};
use crate::cluster::Cluster;
use crate::listing::Listed;
use crate::output::{Found, Output, printable, put_bytes, remark};

fn not_found(key: &str) {
    remark(&format!("{key}: not found"));
}

pub(crate) async fn get(cluster: &Cluster, keys: &[String]) -> Result<Found> {
    let mut output = Output::new();
    let mut all = true;
    for key in keys {
        let item = cluster.client.get_item(key).await?;
        all &= item.is_some();
        if cluster.json {
            let mut object = Map::new();
            put_bytes(&mut object, "key", key.as_bytes());
            object.insert("found".to_owned(), item.is_some().into());
            if let Some(item) = item {
                put_bytes(&mut object, "value", &item.value);
                object.insert("flags".to_owned(), item.flags.into());
                object.insert("cas".to_owned(), item.cas.into());
            }
            output.json(object)?;
            continue;
        }
        match item {
            Some(item) if keys.len() == 1 => output.value(&item.value)?,
            Some(item) => output.line(&format!("{} {}", printable(key.as_bytes()), printable(&item.value)))?,
            None => not_found(key),
        }
    }
    output.end()?;
    Ok(Found::all(all))
}

pub(crate) async fn set(cluster: &Cluster, SetOptions { key, value, ttl, flags, mode }: SetOptions) -> Result<Found> {
    let value = match value {
        Some(value) => value.into_vec(),
        None => {
            let mut value = Vec::new();
            std::io::stdin().read_to_end(&mut value).context("standard input")?;
            value
        }
    };
    let client = &cluster.client;
    let request = client.meta_set(&key, value.clone()).ttl(ttl).flags(flags);
    let stored = match mode {
        Mode::Append => client.append(&key, value).await? == Stored::Yes,
        Mode::Prepend => client.prepend(&key, value).await? == Stored::Yes,
        Mode::Set => request.send().await?.status == MetaStatus::Done,
        Mode::Add => request.add().send().await?.status == MetaStatus::Done,
        Mode::Replace => request.replace().send().await?.status == MetaStatus::Done,
    };
    if !stored {
        remark(&format!("{key}: not stored"));
    }
    Ok(Found::all(stored))
}

pub(crate) async fn delete(cluster: &Cluster, keys: &[String]) -> Result<Found> {
    let mut all = true;
    for key in keys {
        if !cluster.client.delete(key).await? {
            all = false;
            not_found(key);
        }
    }
    Ok(Found::all(all))
}

pub(crate) async fn touch(cluster: &Cluster, key: &str, ttl: Duration) -> Result<Found> {
    let found = cluster.client.touch(key, ttl).await?;
    if !found {
        not_found(key);
    }
    Ok(Found::all(found))
}

pub(crate) async fn incr(cluster: &Cluster, CountOptions { key, delta, initial, ttl }: &CountOptions) -> Result<Found> {
    let number = match initial {
        Some(initial) => Some(cluster.client.incr_or_init(key, *delta, *initial, *ttl).await?),
        None => cluster.client.incr(key, *delta).await?,
    };
    counted(key, number)
}

pub(crate) async fn decr(cluster: &Cluster, CountOptions { key, delta, initial, ttl }: &CountOptions) -> Result<Found> {
    let number = match initial {
        Some(initial) => Some(cluster.client.decr_or_init(key, *delta, *initial, *ttl).await?),
        None => cluster.client.decr(key, *delta).await?,
    };
    counted(key, number)
}

fn counted(key: &str, number: Option<u64>) -> Result<Found> {
    match number {
        Some(number) => {
            let mut output = Output::new();
            output.line(&number.to_string())?;
            output.end()?;
        }
        None => not_found(key),
    }
    Ok(Found::all(number.is_some()))
}

/// Prints the owner of each key and, with `look`, every server that has the key.
pub(crate) async fn which(cluster: &Cluster, keys: &[String], look: bool) -> Result<Found> {
    let mut output = Output::new();
    let mut all = true;
    let mut connections = Vec::new();
    if look {
        for server in &cluster.servers {
            connections.push(cluster.connect(server).await?);
        }
    }
    for key in keys {
        let key = key.as_bytes();
        let owner = cluster.owner(key).clone();
        let mut found = Vec::new();
        for connection in &mut connections {
            if let Some(listed) = Listed::ask(connection, key).await? {
                found.push((connection.server.clone(), listed));
            }
        }
        all &= !look || !found.is_empty();
        let mut object = Map::new();
        put_bytes(&mut object, "key", key);
        object.insert("owner".to_owned(), (*owner).into());
        if look {
            let found = found.iter().map(|(server, listed)| {
                let mut object = listed.to_json();
                object.remove("key");
                object.insert("server".to_owned(), (**server).into());
                Value::Object(object)
            });
            object.insert("found".to_owned(), found.collect());
        }
        if cluster.json {
            output.json(object)?;
            continue;
        }
        output.line(&format!("{} {owner}", printable(key)))?;
        for (server, listed) in &found {
            let owns = if *server == owner { "" } else { " (it does not own the key)" };
            output.line(&format!("  found at {server}: {}{owns}", listed.to_text()))?;
        }
        if look && found.is_empty() {
            output.line("  found nowhere")?;
        }
    }
    output.end()?;
    Ok(Found::all(all))
}
