//! Conference central: conferences, sessions and registrations on a SQL datastore with larder in front.
//!
//! `docs/conference.md` walks through it. `conference demo` starts all of it and shows what happens.
#![forbid(unsafe_code)]
#![expect(clippy::duplicate_mod, reason = "the application is compiled once for each database")]

mod demo;
mod load;
mod mail;
mod postgres;
mod settings;
mod sqlite;

use clap::{Parser, Subcommand};
use larder_bench::statements;
use settings::Settings;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Runs the parts of a conference registration service
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A cluster, two instances, a worker and a load on this machine: what the cache is worth, what a kill costs, and
    /// nodes that come and go with the load
    Demo(demo::Options),
    /// Run an instance: the API, the pages and the tasks that are pushed to it
    Serve {
        /// The address to listen on; port 0 takes a free one
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Check that the datastore has all triggers and composite indexes, and print the statements where it lacks some
    Indexes(Settings),
    /// Run a cache node, as the demo does
    #[command(hide = true)]
    Node(Box<larder_node::CommandLine>),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let command = Cli::parse().command;
    // A node starts its own log and its own threads.
    if let Command::Node(command_line) = command {
        larder_bench::process::end_with_parent();
        tokio::task::spawn_blocking(|| larder_node::run(command_line.settings)).await?;
        return Ok(());
    }
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,larder_client=error,sqlx=error"));
    tracing_subscriber::registry().with(log.with_filter(filter)).with(statements::layer()).init();
    match command {
        Command::Demo(options) => demo::run(options).await,
        Command::Serve { listen, settings } if settings.is_postgres() => postgres::app::serve(&listen, settings).await,
        Command::Serve { listen, settings } => sqlite::app::serve(&listen, settings).await,
        Command::Indexes(settings) if settings.is_postgres() => postgres::app::check_indexes(settings).await,
        Command::Indexes(settings) => sqlite::app::check_indexes(settings).await,
        Command::Node(_) => unreachable!("it has been run above"),
    }
}
