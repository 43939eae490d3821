//! The command line for memcache servers: `larder`.
//!
//! Each command is a function of one of the modules here. [`access`] and [`mod@format`] are for `larder-bench` too.
#![forbid(unsafe_code)]

pub mod access;
mod arguments;
mod cluster;
mod connection;
mod dump;
pub mod format;
mod hot;
mod items;
mod listing;
mod output;
mod servers;
mod statistics;

use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches};

use arguments::{Arguments, Command};
use cluster::Cluster;
use larder_client::Failover;
use output::Found;

/// Returns the command line, for the manual too.
pub fn command_line() -> clap::Command {
    // An empty variable is one that is not set, as for the node.
    let is_empty = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    Arguments::command().mut_args(|arg| if is_empty(&arg) { arg.env(None::<&str>) } else { arg }.global(true))
}

/// Runs the program. The exit status is 0, 1 where an item was not found or not stored, or 2 for an error.
pub fn main() -> ExitCode {
    let matches = command_line().get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(arguments));
    match run() {
        Ok(Found::All) => ExitCode::SUCCESS,
        Ok(Found::NotAll) => ExitCode::from(1),
        // The reader of the output has had enough: as a program ends that a signal ends then.
        Err(error) if is_broken_pipe(&error) => ExitCode::from(141),
        Err(error) => {
            eprintln!("error: {}", output::printable(format!("{error:#}").as_bytes()));
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

async fn run(Arguments { reach, command }: Arguments) -> Result<Found> {
    let failover = match command {
        // It must reach the copy of a node that stood in for the owner, too.
        Command::Delete { .. } => Failover::Next { ttl: std::time::Duration::from_secs(10) },
        _ => Failover::Error,
    };
    let cluster = Cluster::reach(&reach, failover).await?;
    match command {
        Command::Get { keys } => items::get(&cluster, &keys).await,
        Command::Set(options) => items::set(&cluster, options).await,
        Command::Delete { keys } => items::delete(&cluster, &keys).await,
        Command::Touch { key, ttl } => items::touch(&cluster, &key, ttl).await,
        Command::Incr(options) => items::incr(&cluster, &options).await,
        Command::Decr(options) => items::decr(&cluster, &options).await,
        Command::Which { keys, look } => items::which(&cluster, &keys, look).await,
        Command::Scan(options) => listing::scan(&cluster, &options).await,
        Command::Bigkeys { prefix, count } => listing::big_keys(&cluster, &prefix, count).await,
        Command::Dump(options) => dump::dump(&cluster, &options).await,
        Command::Restore(options) => dump::restore(&cluster, &options).await,
        Command::Watch { topics, count } => hot::watch(&cluster, &topics, count).await,
        Command::Hotkeys { duration, count } => hot::hot_keys(&cluster, duration, count).await,
        Command::Stats { group, filter } => statistics::stats(&cluster, &group, &filter).await,
        Command::Top { interval, count, once } => {
            statistics::top(&cluster, interval, if once { Some(1) } else { count }).await
        }
        Command::Ping => servers::ping(&cluster).await,
        Command::Latency { requests } => servers::latency(&cluster, requests).await,
    }
}
