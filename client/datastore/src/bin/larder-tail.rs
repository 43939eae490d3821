//! The `larder-tail` program: the invalidator for applications that are not in Rust.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use larder_client::{Client, Hashing};
use larder_datastore::check::{Checker, Comparison};
use larder_datastore::{Backend, Error, Invalidator, Migrations, Rule, Setup, Source, ensure};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde::Deserialize;
use sqlx::Pool;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::SqlitePoolOptions;
use tracing_subscriber::EnvFilter;

/// Delete from memcache what changes in a datastore
///
/// Triggers write the keys of changed rows to an outbox, in the transaction that changes them, whoever does: an
/// application in any language, psql, a migration. This program delivers them to every node, within about 200 ms, as
/// often as it takes. Several may run; one leads.
///
/// A file of rules says which rows make which keys old. A row of `conference` with the id 7 makes `conference:7` old
/// by:
///
///     [[rule]]
///     name = "conference"
///     table = "conference"
///     key = ["id"]
///     watch = ["name", "seats > 0"]   # optional: only updates of these count
///     check = ["name"]                # optional: what --check compares, fields of a cached JSON object
///
/// Two rules of one name and two tables: a key that depends on both. First: larder-tail … --print-migration, review it,
/// and apply it.
#[derive(Debug, Parser)]
#[command(name = "larder-tail", version, verbatim_doc_comment)]
struct Cli {
    /// The datastore: postgres://user@host/database, or sqlite:///path/of/file
    #[arg(long, env = "LARDER_DATASTORE")]
    datastore: String,
    /// The memcache nodes, host:port, separated by commas: all that any client uses
    #[arg(long, env = "LARDER_SERVERS", value_delimiter = ',', required = true)]
    servers: Vec<String>,
    /// The file of rules
    #[arg(long, default_value = "larder-tail.toml")]
    rules: PathBuf,
    /// The datastore's name, which its beats carry; two datastores behind one cache need two
    #[arg(long, default_value = "default")]
    name: String,
    /// What all keys begin with; `:1:` for Django's
    #[arg(long, default_value = "")]
    prefix: String,
    /// Print the triggers that the datastore lacks, and end
    #[arg(long, conflicts_with = "apply")]
    print_migration: bool,
    /// Make the triggers that the datastore lacks
    #[arg(long)]
    apply: bool,
    /// Compare one of so many invalidated keys with the datastore, at once, after the bound and after a minute
    #[arg(long, value_name = "ONE_OF", default_value_t = 0)]
    check: u64,
    /// How long a change may stay hidden until --check counts it, in milliseconds
    #[arg(long, default_value_t = 1000)]
    bound: u64,
    /// Serve metrics to Prometheus at this address, for example 127.0.0.1:9150
    #[arg(long)]
    metrics: Option<SocketAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rule: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    table: String,
    key: Vec<String>,
    #[serde(default)]
    watch: Vec<String>,
    #[serde(default)]
    check: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("larder-tail: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async {
        // Each round takes one connection, the lead one, and a check one.
        if cli.datastore.starts_with("postgres") {
            let pool = PgPoolOptions::new().max_connections(4).connect(&cli.datastore).await;
            tail(pool.with_context(|| cli.datastore.clone())?, &cli).await
        } else {
            let pool = SqlitePoolOptions::new().max_connections(4).connect(&cli.datastore).await;
            tail(pool.with_context(|| cli.datastore.clone())?, &cli).await
        }
    })
}

async fn tail<DB: Backend>(pool: Pool<DB>, cli: &Cli) -> anyhow::Result<()> {
    let path = cli.rules.display();
    let text = std::fs::read_to_string(&cli.rules).with_context(|| format!("{path}"))?;
    let file: File = toml::from_str(&text).with_context(|| format!("{path}"))?;
    let mut rules: Vec<Rule> = Vec::new();
    let mut comparisons = Vec::new();
    for entry in file.rule {
        if !entry.check.is_empty() {
            let source = Source::new(entry.table.clone(), entry.key.clone());
            comparisons.push(Comparison { rule: entry.name.clone(), source, columns: entry.check });
        }
        let place = rules.iter().position(|rule| rule.name() == entry.name);
        let rule = place.map_or_else(|| Rule::new(&entry.name), |place| rules.remove(place));
        rules.push(rule.on(entry.table, entry.key).watching(entry.watch));
    }
    let migrations = if cli.apply { Migrations::Apply } else { Migrations::Refuse };
    match ensure(&pool, &rules, &[], &migrations).await {
        Err(Error::Missing { sql, .. }) if cli.print_migration => {
            println!("{sql}");
            return Ok(());
        }
        ensured => ensured.context("see --print-migration and --apply")?,
    }
    if cli.print_migration {
        println!("-- Nothing is missing.");
        return Ok(());
    }
    if let Some(address) = cli.metrics {
        PrometheusBuilder::new().with_http_listener(address).install().context("metrics")?;
        tracing::info!(%address, "metrics");
    }
    // Whose ring it is does not matter: everything goes to every node.
    let cache = Client::builder().servers(cli.servers.iter().cloned()).hashing(Hashing::KetamaWeighted).build()?;
    let setup = Setup { store: cli.name.clone(), prefix: cli.prefix.clone() };
    let mut invalidator = Invalidator::new(pool.clone(), cache, setup);
    if cli.check > 0 {
        if comparisons.is_empty() {
            anyhow::bail!("--check has nothing to compare: no rule in {path} has check = [\"column\"]");
        }
        let checker = Checker::new(pool, Duration::from_millis(cli.bound), cli.check, comparisons);
        invalidator = invalidator.with_checker(checker);
    }
    tracing::info!(rules = rules.len(), nodes = cli.servers.len(), "delivering");
    tokio::select! {
        () = invalidator.run() => Ok(()),
        ended = end() => ended,
    }
}

/// Waits for SIGINT or SIGTERM.
async fn end() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        ended = tokio::signal::ctrl_c() => Ok(ended?),
        _ = terminate.recv() => Ok(()),
    }
}
