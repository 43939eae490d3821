//! Conference central: conferences, sessions and registrations on a SQL datastore with larder in front.
//!
//! `docs/conference.md` walks through it. `conference demo` starts all of it and shows what happens.
#![forbid(unsafe_code)]
#![expect(clippy::duplicate_mod, reason = "the application is compiled once for each database")]

mod demo;
mod grow;
mod load;
mod mail;
mod postgres;
mod settings;
mod sqlite;
mod statements;

use std::io::Write;

use clap::{Parser, Subcommand};
use settings::Settings;
use tokio::net::TcpListener;
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
    /// Put load on instances: nineteen reads for a registration or its end
    Load(load::Options),
    /// Check that the datastore has all triggers and composite indexes, and print the statements where it lacks some
    Indexes(Settings),
    /// Print the OpenAPI description of the API
    Openapi,
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
        let ended = tokio::task::spawn_blocking(|| larder_node::run(command_line.settings)).await;
        anyhow::ensure!(ended.is_ok(), "the node has failed");
        return Ok(());
    }
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,larder_client=error,sqlx=error"));
    tracing_subscriber::registry().with(log.with_filter(filter)).with(statements::layer()).init();
    match command {
        Command::Demo(options) => demo::run(options).await,
        Command::Serve { listen, settings } => serve(&listen, settings).await,
        Command::Load(options) => {
            let report = load::run(&options).await?;
            println!("{report}");
            Ok(())
        }
        Command::Indexes(settings) => {
            let settings = Settings { write_migrations: None, ..settings };
            if is_postgres(&settings) {
                postgres::app::App::open(settings).await.map(drop)?;
            } else {
                sqlite::app::App::open(settings).await.map(drop)?;
            }
            println!("The datastore has all triggers and indexes.");
            Ok(())
        }
        Command::Openapi => {
            println!("{}", sqlite::app::description());
            Ok(())
        }
        Command::Node(_) => unreachable!("it has been run above"),
    }
}

fn is_postgres(settings: &Settings) -> bool {
    settings.datastore.starts_with("postgres")
}

async fn serve(listen: &str, settings: Settings) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let ready = || {
        println!("listening on http://{address}");
        std::io::stdout().flush()
    };
    if is_postgres(&settings) {
        let app = postgres::app::App::open(settings).await?;
        ready()?;
        app.serve(listener).await
    } else {
        let app = sqlite::app::App::open(settings).await?;
        ready()?;
        app.serve(listener).await
    }
}
