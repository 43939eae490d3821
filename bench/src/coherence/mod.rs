//! `larder-bench coherence`: does a read ever return a version that is older than promised, whatever fails?
//!
//! Rows have a version, which writers raise by one. Writers note when the datastore had committed a version, readers
//! when a read began and which version it returned. A read that began more than the bound after a newer version was
//! committed is a violation, and so is one that began after the `commit()` of a newer version had returned with all
//! deletes done. Meanwhile writers die at each step of a commit, other writers know nothing of a cache, and nodes,
//! links, invalidators and the datastore fail.
//!
//! Every reader, writer and invalidator is a process (`role`), killed by `kill -9`; `fleet` makes things fail, `link`
//! is what is cut, and `log` judges.

mod fleet;
mod link;
mod log;
mod role;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use larder_client::Client;
use larder_datastore::Migrations;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{FromRow, Pool};
use tempfile::TempDir;

use self::fleet::{Datastore, FAULTS, Fleet, Kept, Node};
use self::log::{CLASSES, Verdict};
use self::role::{Break, Role, Row, Sql, Summary};
pub use self::role::{RoleOptions, run as run_role};
use crate::postgres::Postgres;

/// Which datastore, how many operations, and which faults.
#[derive(Debug, Args)]
pub struct CoherenceOptions {
    /// `sqlite` for a temporary file, `postgres` for a server of its own, or postgres://… for an empty database
    #[arg(long, default_value = "sqlite")]
    datastore: String,
    /// Reads in all
    #[arg(long, default_value_t = 200_000)]
    ops: u64,
    /// Processes that read
    #[arg(long, default_value_t = 3)]
    readers: u64,
    /// Reads a second, in all; 0 for as many as there can be
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Commits a second, in all, half of them by writers that know nothing of a cache; without faults, none of them
    #[arg(long, default_value_t = 300)]
    writes: u64,
    /// Rows, some of which are used far more often than others
    #[arg(long, default_value_t = 2000)]
    rows: i64,
    /// What fails meanwhile
    #[arg(long, default_value = "all")]
    faults: Faults,
    /// The nodes are in a cluster; among the faults a fourth one joins and is drained, unknown to all clients
    #[arg(long)]
    cluster: bool,
    /// The bound, in milliseconds
    #[arg(long, default_value_t = 1000)]
    bound: u64,
    /// Then read as often without the cache, to compare
    #[arg(long)]
    directly: bool,
    /// Leave a rule of the protocol out: then the run must end with violations
    #[arg(long = "break")]
    broken: Option<Break>,
}

/// Whether things fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Faults {
    /// Nodes, links, invalidators, writers and the datastore fail
    All,
    /// Nothing fails, and every commit deletes
    None,
}

/// Runs it and prints the verdict: a failure if a promise was broken.
///
/// # Errors
/// The datastore, a node or a process cannot be started.
pub async fn run(options: CoherenceOptions) -> Result<ExitCode> {
    let folder = tempfile::tempdir()?;
    if options.datastore == "sqlite" {
        let url = format!("sqlite://{}", folder.path().join("coherence.db").display());
        return measure(role::sqlite(&url).await?, &url, &folder, None, &options).await;
    }
    let started = match options.datastore.as_str() {
        "postgres" => Some(Postgres::start(false)?.context("PostgreSQL is not installed")?),
        _ => None,
    };
    let url = started.as_ref().map_or_else(|| options.datastore.clone(), Postgres::url);
    if !url.starts_with("postgres://") {
        bail!("--datastore is sqlite, postgres, or begins with postgres://");
    }
    measure(role::postgres(&url).await?, &url, &folder, started.as_ref(), &options).await
}

async fn measure<DB: Sql>(
    pool: Pool<DB>,
    url: &str,
    folder: &TempDir,
    server: Option<&Postgres>,
    options: &CoherenceOptions,
) -> Result<ExitCode>
where
    Row: for<'r> FromRow<'r, DB::Row>,
{
    let program = std::env::current_exe().context("this program's own path, to start processes from it")?;
    let logs = folder.path().join("logs");
    std::fs::create_dir(&logs)?;
    let table = "create table item (id bigint not null primary key, version bigint not null, body text not null)";
    DB::run(&pool, table).await?;
    let (last, body) = (options.rows - 1, "x".repeat(300));
    let numbers = format!("with recursive n(i) as (select 0 union all select i + 1 from n where i < {last})");
    DB::run(&pool, &format!("insert into item {numbers} select i, 0, '{body}' from n")).await?;

    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Node::start(&program, options.cluster, &nodes).await?);
    }
    let failing = options.faults == Faults::All;
    let addresses = |link: fn(&Node) -> &str| -> String {
        let address = |node: &Node| if failing { link(node).to_owned() } else { node.address() };
        nodes.iter().map(address).collect::<Vec<_>>().join(",")
    };
    let (for_readers, for_writers) =
        (addresses(|node| node.readers.address()), addresses(|node| node.writers.address()));
    let cache = Client::builder().servers(for_writers.split(',').map(str::to_owned)).build()?;
    drop(
        DB::builder(pool.clone(), cache).kind::<Row>().migrations(Migrations::Apply).without_sweeping().start().await?,
    );
    if options.broken == Some(Break::NoOutbox) {
        // The triggers are there, and write nothing that lasts.
        let silenced = match DB::NAME {
            "SQLite" => "create trigger silenced after insert on larder_outbox begin delete from larder_outbox; end",
            _ => "create rule silenced as on insert to larder_outbox do instead nothing",
        };
        DB::run(&pool, silenced).await?;
    }

    let arguments = |role: Role, number: u64, ops: u64, rate: u64| {
        let name = role.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let servers = if role == Role::Read { &for_readers } else { &for_writers };
        let mut all = BTreeMap::from([
            ("--role", name.clone()),
            ("--url", url.to_owned()),
            ("--servers", servers.clone()),
            ("--log", logs.join(format!("{name}-{number}")).display().to_string()),
            ("--rows", options.rows.to_string()),
            ("--ops", ops.to_string()),
            ("--rate", rate.to_string()),
            ("--bound", options.bound.to_string()),
        ]);
        if failing && role == Role::Write {
            all.insert("--dies", "300".to_owned());
        }
        if let Some(broken) = options.broken.and_then(|broken| broken.to_possible_value()) {
            all.insert("--break", broken.get_name().to_owned());
        }
        all.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect::<Vec<_>>()
    };
    let (writers, sweepers) = (Kept::default(), Kept::default());
    for number in 0..2 {
        sweepers.add(&program, arguments(Role::Sweep, number, 0, 0))?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for number in 0..2 {
        let role = if failing && number == 1 { Role::WriteRaw } else { Role::Write };
        writers.add(&program, arguments(role, number, u64::MAX, options.writes / 2))?;
    }
    let mut fleet =
        Fleet { program: &program, nodes, writers: &writers, sweepers: &sweepers, counts: Default::default() };
    let over = AtomicBool::new(false);
    let read = async |role: Role| -> Result<Vec<Summary>> {
        let readers = (0..options.readers).map(async |number| -> Result<Summary> {
            let (ops, rate) = (options.ops / options.readers, options.rate / options.readers);
            let mut reader = fleet::spawn(&program, &arguments(role, number, ops, rate))?;
            // It lives for as long as its standard input.
            let _input = reader.stdin.take();
            let output = reader.wait_with_output().await?;
            String::from_utf8_lossy(&output.stdout).trim().parse::<Summary>().context("a reader ended early")
        });
        futures_util::future::try_join_all(readers).await
    };
    let reading = async {
        let began = Instant::now();
        let through = read(Role::Read).await;
        let took = began.elapsed();
        let directly = if options.directly { Some(read(Role::ReadDirectly).await) } else { None };
        over.store(true, Ordering::Relaxed);
        Ok::<_, anyhow::Error>((through?, directly.transpose()?, took))
    };
    let failing_on = async {
        while failing && !over.load(Ordering::Relaxed) {
            let datastore = async |fault: Datastore| match fault {
                Datastore::Hold(time) => hold(&pool, server, time).await,
                Datastore::GiveUp(node) => {
                    let sql = format!("delete from larder_node where address = '{node}'");
                    Ok(DB::run(&pool, &sql).await?)
                }
            };
            fleet.fail(datastore).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let whole = async {
        let ((through, directly, took), ()) = tokio::try_join!(reading, failing_on)?;
        writers.end().await?;
        let empty = empty_after(&pool).await?;
        Ok::<_, anyhow::Error>((through, directly, took, empty))
    };
    let (through, directly, took, empty) = tokio::select! {
        whole = whole => whole?,
        ended = writers.keep(&program) => return ended.map(|()| ExitCode::FAILURE),
        ended = sweepers.keep(&program) => return ended.map(|()| ExitCode::FAILURE),
    };
    sweepers.end().await?;
    let verdict = Verdict::over(&logs, options.rows as usize, Duration::from_millis(options.bound))?;
    println!("{} on {}, {:.1} s", options.ops, DB::NAME, took.as_secs_f64());
    print_reads("through the cache", &through);
    if let Some(directly) = &directly {
        print_reads("without the cache", directly);
    }
    Ok(report(&verdict, &fleet.counts, options, empty))
}

/// Stops the datastore for a while: SQLite by a transaction that locks out all others that write, PostgreSQL by
/// SIGSTOP.
async fn hold<DB: Sql>(pool: &Pool<DB>, server: Option<&Postgres>, time: Duration) -> Result<()> {
    if let Some(server) = server {
        let all = server.processes();
        all.iter().for_each(|pid| _ = kill(Pid::from_raw(*pid), Signal::SIGSTOP));
        tokio::time::sleep(time).await;
        all.iter().for_each(|pid| _ = kill(Pid::from_raw(*pid), Signal::SIGCONT));
    } else if DB::NAME == "SQLite" {
        let tx = pool.begin_with("begin exclusive").await?;
        tokio::time::sleep(time).await;
        tx.rollback().await?;
    }
    Ok(())
}

/// How long it takes until the outbox is empty; `None` if it is not within half a minute.
async fn empty_after<DB: Sql>(pool: &Pool<DB>) -> Result<Option<Duration>> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        if DB::count(pool, "select count(*) from larder_outbox").await? == 0 {
            return Ok(Some(began.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(None)
}

fn print_reads(how: &str, readers: &[Summary]) {
    let sum = |of: fn(&Summary) -> u64| readers.iter().map(of).sum::<u64>();
    let median = |of: fn(&Summary) -> u64| {
        let mut all: Vec<u64> = readers.iter().map(of).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    let (reads, loads) = (sum(|reader| reader.reads), sum(|reader| reader.loads));
    println!(
        "{how}: {reads} reads, p50 {} us, p99 {} us (median of the readers), {} failed, {} hits refused as too old",
        median(|reader| reader.p50),
        median(|reader| reader.p99),
        sum(|reader| reader.failed),
        sum(|reader| reader.not_fresh),
    );
    if loads > 0 {
        println!("{how}: {loads} queries of the datastore, {:.2} % of reads", loads as f64 * 100.0 / reads as f64);
    }
}

fn report(
    verdict: &Verdict,
    counts: &[u64; FAULTS.len()],
    options: &CoherenceOptions,
    empty: Option<Duration>,
) -> ExitCode {
    println!("{} reads and {} commits noted, {} with all deletes", verdict.reads, verdict.commits, verdict.delivered);
    if options.faults == Faults::All {
        let faults: Vec<String> = FAULTS.iter().zip(counts).map(|(name, count)| format!("{count} {name}")).collect();
        println!("faults: {}", faults.join(", "));
        let steps = ["begin", "the update", "reading the outbox", "commit", "a delete at one node", "all deletes"];
        let steps = steps.iter().zip(verdict.died).map(|(step, count)| format!("{count} after {step}"));
        println!("writers killed: {}", steps.collect::<Vec<_>>().join(", "));
    }
    println!("reads of a version that was older than a committed one, by the time since that commit:");
    for (class, count) in CLASSES.iter().zip(verdict.older) {
        println!("  up to {:5} ms  {count}", class.as_millis());
    }
    println!("  up to {:5} ms  {}", options.bound, verdict.older[CLASSES.len()]);
    println!("  longer          {}", verdict.older[CLASSES.len() + 1]);
    println!("  the longest     {:?}", verdict.longest);
    println!("reads of an older version after commit() had returned with all deletes: {}", verdict.after_return);
    match empty {
        Some(time) => println!("the outbox was empty {:.2} s after the last fault and commit", time.as_secs_f64()),
        None => println!("the outbox was not emptied"),
    }
    let failed = verdict.violations() > 0 || empty.is_none() || verdict.reads == 0 || verdict.commits == 0;
    println!("{}", if failed { "FAILED" } else { "passed: nothing was older than promised" });
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
