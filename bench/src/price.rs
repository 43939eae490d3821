//! `larder-bench datastore-price`: what it costs to keep a cache coherent with a datastore.
//!
//! Commits with no rule, one rule and three rules, strict reads beside plain ones, and writes of rows with no column,
//! three and all columns indexed, each by turns in the same run; then the processor time of `larder-tail` while rows
//! change at a steady rate.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use larder_client::{Client, NotFresh};
use larder_datastore::{Backend, Builder, Datastore, Entity, Kind, Migrations, Rule};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, FromRow, Pool};

use crate::postgres::Postgres;
use crate::process::{ServerProcess, cpu_seconds_of};
use crate::sqlite;

/// Which datastore, and how much of each.
#[derive(Debug, Args)]
pub struct PriceOptions {
    /// `sqlite` for a temporary file, `postgres` for a server of its own; both wait for the disk at each commit
    #[arg(long, default_value = "sqlite")]
    datastore: String,
    /// Rounds, in which all variants take turns
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Commits of a variant in a round
    #[arg(long, default_value_t = 300)]
    commits: usize,
    /// Reads of a variant in a round
    #[arg(long, default_value_t = 10_000)]
    reads: usize,
    /// Seconds for which rows change
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Rows that change in a second
    #[arg(long, default_value_t = 10_000)]
    changes: u64,
    /// The program larder-tail; beside this program unless given
    #[arg(long)]
    tail: Option<PathBuf>,
}

macro_rules! kind {
    ($name:ident, $table:literal, $not_fresh:expr) => {
        #[derive(Debug, Clone, serde::Serialize, serde::Deserialize, FromRow)]
        struct $name {
            id: i64,
            version: i64,
            body: String,
        }

        impl Entity for $name {
            const KIND: Kind = Kind::table($table).not_fresh($not_fresh);
        }
    };
}

kind!(Strict, "one", NotFresh::Load);
kind!(Plain, "plain", NotFresh::Serve);

/// Rows of each table.
const ROWS: i64 = 10_000;

/// Columns of the tables whose indexes are measured, beside the key.
const COLUMNS: usize = 10;

/// Rows that are written in one transaction there, so that waiting for the disk is not all that is measured.
const BATCH: usize = 100;

/// Such transactions of a variant in a round.
const TRANSACTIONS: usize = 30;

/// Runs it and prints a table.
///
/// # Errors
/// The datastore, a node or larder-tail cannot be started.
pub async fn run(options: PriceOptions) -> Result<()> {
    let folder = tempfile::tempdir()?;
    if options.datastore == "postgres" {
        let server = Postgres::start(true)?.context("PostgreSQL is not installed")?;
        let pool = PgPoolOptions::new().max_connections(8).connect(&server.url()).await?;
        return measure(pool, &server.url(), Datastore::postgres, &options).await;
    }
    let url = format!("sqlite://{}", folder.path().join("price.db").display());
    let pool = sqlite::open(&url, 8, true).await?;
    measure(pool, &url, Datastore::sqlite, &options).await
}

async fn measure<DB>(
    pool: Pool<DB>,
    url: &str,
    datastore: fn(Pool<DB>, Client) -> Builder<DB>,
    options: &PriceOptions,
) -> Result<()>
where
    DB: Backend,
    Strict: for<'r> FromRow<'r, DB::Row>,
    Plain: for<'r> FromRow<'r, DB::Row>,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
    for<'c> &'c Pool<DB>: sqlx::Executor<'c, Database = DB>,
    for<'r> i64: sqlx::Encode<'r, DB> + sqlx::Decode<'r, DB> + sqlx::Type<DB>,
    usize: sqlx::ColumnIndex<DB::Row>,
    DB::Arguments: sqlx::IntoArguments<DB>,
{
    let execute = async |sql: String| sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await.map(|_| ());
    for table in ["none", "one", "three", "plain", "tailed"] {
        let columns = "id bigint not null primary key, version bigint not null, body text not null";
        execute(format!("create table {table} ({columns})")).await?;
        let numbers = format!("with recursive n(i) as (select 0 union all select i + 1 from n where i < {ROWS} - 1)");
        execute(format!("insert into {table} {numbers} select i, 0, '{}' from n", "x".repeat(300))).await?;
    }
    let program = std::env::current_exe()?;
    let node = || {
        let mut command = std::process::Command::new(&program);
        ServerProcess::start(command.args(["node", "-t", "1", "-m", "64", "-p", "-1"]).env("RUST_LOG", "error"))
    };
    let nodes = [node()?, node()?, node()?];
    let servers: Vec<String> = nodes.iter().map(ServerProcess::address).collect();
    let mut builder =
        datastore(pool.clone(), Client::builder().servers(&servers).build()?).kind::<Strict>().kind::<Plain>();
    for rule in ["first", "second", "third"] {
        builder = builder.rule(Rule::new(rule).on("three", ["id"]));
    }
    let store = builder.migrations(Migrations::Apply).start().await?;
    while store.ages().iter().any(|(_, age)| age.is_none()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let ways = [
        ("no rule", "none", false),
        ("three rules, as another program", "three", false),
        ("one rule", "one", true),
        ("three rules", "three", true),
    ];
    let mut commits: [Vec<f64>; 4] = Default::default();
    for round in 0..options.rounds {
        for ((_, table, deletes), medians) in ways.iter().zip(&mut commits) {
            let mut took = Vec::with_capacity(options.commits);
            for number in 0..options.commits {
                let id = (round * options.commits + number) as i64 % ROWS;
                // Prepared once for each connection, as applications do: its triggers are compiled with it.
                let sql = format!("update {table} set version = version + 1 where id = $1");
                let update = sqlx::query(AssertSqlSafe(sql)).bind(id);
                let began = Instant::now();
                // The datastore's own transaction, whose deletes are left to the invalidator, or one that deletes.
                if *deletes {
                    let mut tx = store.begin().await?;
                    update.execute(&mut **tx).await?;
                    tx.commit().await?;
                } else {
                    let mut tx = pool.begin().await?;
                    update.execute(&mut *tx).await?;
                    tx.commit().await?;
                }
                took.push(began.elapsed());
            }
            medians.push(median(&mut took));
        }
    }
    println!("{}: a commit, median of the medians of {} rounds of {}", DB::NAME, options.rounds, options.commits);
    let base = middle(&commits[0]);
    for ((name, ..), medians) in ways.iter().zip(&commits) {
        let cost = middle(medians);
        println!("  {name:31} {cost:6.0} us  {:.3}  ({:.0} to {:.0})", cost / base, lowest(medians), highest(medians));
    }

    let (indexed, mut written) = ([0, 3, COLUMNS], <[Vec<f64>; 3]>::default());
    for count in indexed {
        let columns: Vec<String> = (0..COLUMNS).map(|column| format!("c{column} bigint not null")).collect();
        let table = format!("indexed_{count}");
        execute(format!("create table {table} (id bigint not null primary key, {})", columns.join(", "))).await?;
        for column in 0..count {
            execute(format!("create index {table}_c{column} on {table} (c{column})")).await?;
        }
    }
    // Columns that differ in every row, and not in the order of the rows: as names and times of real rows do.
    let values: Vec<String> = (0..COLUMNS).map(|column| format!("i * {} % 1000003", 7919 + 2 * column)).collect();
    for round in 0..options.rounds {
        for (count, rates) in indexed.iter().zip(&mut written) {
            let began = Instant::now();
            for number in 0..TRANSACTIONS {
                let first = (round * TRANSACTIONS + number) * BATCH;
                let last = first + BATCH - 1;
                let rows =
                    format!("with recursive n(i) as (select {first} union all select i + 1 from n where i < {last})");
                execute(format!("insert into indexed_{count} {rows} select i, {} from n", values.join(", "))).await?;
            }
            rates.push((TRANSACTIONS * BATCH) as f64 / began.elapsed().as_secs_f64());
        }
    }
    println!(
        "rows of {COLUMNS} columns written a second, {BATCH} in a transaction, median of {} rounds",
        options.rounds
    );
    let base = middle(&written[0]);
    for (count, rates) in indexed.iter().zip(&written) {
        let rate = middle(rates);
        let name = format!("{count} indexed");
        println!("  {name:12} {rate:9.0}     {:.3}  ({:.0} to {:.0})", rate / base, lowest(rates), highest(rates));
    }

    let ids: Vec<i64> = (0..1000).collect();
    store.get_many::<Strict>(&ids).await?;
    store.get_many::<Plain>(&ids).await?;
    let (mut strict, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        // By turns, so that whatever else the machine does meets both.
        let (mut of_strict, mut of_plain) = (Vec::new(), Vec::new());
        for number in 0..options.reads as i64 {
            let began = Instant::now();
            store.get::<Plain>(number % 1000).await?;
            of_plain.push(began.elapsed());
            let began = Instant::now();
            store.get::<Strict>(number % 1000).await?;
            of_strict.push(began.elapsed());
        }
        plain.push(median(&mut of_plain));
        strict.push(median(&mut of_strict));
    }
    let (of_plain, of_strict) = (middle(&plain), middle(&strict));
    println!("a read that hits, median of the medians of {} rounds of {}", options.rounds, options.reads);
    println!("  plain  {of_plain:7.1} us  ({:.1} to {:.1})", lowest(&plain), highest(&plain));
    let ratio = of_strict / of_plain;
    println!("  strict {of_strict:7.1} us  {ratio:.3}  ({:.1} to {:.1})", lowest(&strict), highest(&strict));
    println!("  hits refused as too old: {}", store.counts().not_fresh);
    drop(store);

    let rules = tempfile::NamedTempFile::new()?;
    std::fs::write(rules.path(), "[[rule]]\nname = \"tailed\"\ntable = \"tailed\"\nkey = [\"id\"]\n")?;
    let tail = options.tail.clone().unwrap_or_else(|| program.with_file_name("larder-tail"));
    let mut command = tokio::process::Command::new(&tail);
    command.args(["--datastore", url, "--servers", &servers.join(","), "--apply", "--rules"]).arg(rules.path());
    let child = command.env("RUST_LOG", "warn").stdin(Stdio::null()).kill_on_drop(true).spawn();
    let child = child.with_context(|| format!("{}: give --tail", tail.display()))?;
    let number = child.id().context("larder-tail has ended")?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, began) = (cpu_seconds_of(number)?, Instant::now());
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let batch = (options.changes / 100).max(1) as i64;
    let (mut next, mut changed) = (0, 0);
    while began.elapsed() < Duration::from_secs(options.seconds) {
        pace.tick().await;
        execute(format!("update tailed set version = version + 1 where id >= {next} and id < {}", next + batch))
            .await?;
        changed += batch;
        next = (next + batch) % (ROWS - batch);
    }
    let took = began.elapsed().as_secs_f64();
    let spent = cpu_seconds_of(number)? - before;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let left: i64 = sqlx::query_scalar("select count(*) from larder_outbox").fetch_one(&pool).await?;
    println!(
        "larder-tail, {:.0} rows changed a second: {:.1} % of a core",
        changed as f64 / took,
        spent * 100.0 / took
    );
    println!("  rows left in the outbox a second later: {left}");
    Ok(())
}

fn median(took: &mut [Duration]) -> f64 {
    took.sort_unstable();
    took[took.len() / 2].as_secs_f64() * 1e6
}

fn middle(rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn lowest(rounds: &[f64]) -> f64 {
    rounds.iter().copied().fold(f64::INFINITY, f64::min)
}

fn highest(rounds: &[f64]) -> f64 {
    rounds.iter().copied().fold(0.0, f64::max)
}
