//! All of it on this machine: a cluster of nodes, two instances, a worker of the pull queue and a load.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use larder_bench::cluster::Fleet;
use larder_bench::process::ServerProcess;
use serde_json::{Value, json};

use crate::load::{self, CITIES, Report};

/// How the demo runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The datastore, an empty one: postgres://user@host/database; SQLite in a temporary folder unless set
    #[arg(long)]
    datastore: Option<String>,
    #[command(flatten)]
    phase: load::Phase,
}

/// Nodes at first.
const NODES: usize = 3;

pub(crate) async fn run(Options { datastore, phase }: Options) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let sqlite = || format!("sqlite://{}", folder.path().join("conference.db").display());
    let datastore = datastore.unwrap_or_else(sqlite);
    let program = std::env::current_exe()?;
    let flags = ["-m", "64", "-t", "1", "--linger", "2"];
    let mut nodes = Fleet::start(&program, NODES, Some("conference"), &flags)?;
    let servers = nodes.addresses().join(",");
    println!("Nodes in a cluster: {servers}. Datastore: {datastore}");
    let mail = folder.path().join("mail");
    let instance = |further: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--datastore", &datastore, "--servers", &servers]);
        ServerProcess::start_announced(command.arg("--mail").arg(&mail).args(further))
    };
    let http = reqwest::Client::new();

    let plain = [instance(&["--without-cache"])?, instance(&["--without-cache"])?];
    seed(&http, &plain[0].url(), phase.conferences).await?;
    println!("Two instances that read the datastore, then the same with the cache, then one of them is killed:");
    // Pools and caches are empty at first: each begins with a load that is not shown.
    let warming = load::Phase { seconds: 3, ..phase };
    let mut registered = load::run(urls(&plain), warming).await?.registered;
    let before = load::run(urls(&plain), phase).await?;
    println!("  without the cache  {before}");
    drop(plain);

    let mut cached = [instance(&[])?, instance(&[])?];
    registered += load::run(urls(&cached), warming).await?.registered;
    let after = load::run(urls(&cached), phase).await?;
    println!("  with the cache     {after}");

    let running = tokio::spawn(load::run(urls(&cached), phase));
    let worker = tokio::spawn(work(http.clone(), cached[0].url(), phase.seconds));
    tokio::time::sleep(Duration::from_secs(phase.seconds) / 2).await;
    // The one before is killed once this one listens.
    cached[1] = instance(&[])?;
    let killed = running.await??;
    println!("  an instance killed {killed}");
    println!("  a worker of the pull queue leased and deleted {} tasks", worker.await??);

    println!("Busy instances, then idle ones; no client and no instance learns of the nodes that come and go:");
    let phase = load::Phase { seconds: phase.seconds.max(8), ..phase };
    let busy = follow(&mut nodes, &cached, load::Phase { pause: 0, ..phase }).await?;
    println!("  busy, {} nodes      {busy}", nodes.addresses().len());
    registered += [&before, &after, &killed, &busy].iter().map(|report| report.registered).sum::<u64>();
    // Instances are idle once they have caught up with the mails.
    let sent = mails(&http, &cached[0].url(), &mail, registered).await?;
    println!("{registered} registrations were answered, {sent} confirmations were mailed.");
    let idle = follow(&mut nodes, &cached, load::Phase { pause: 200, ..phase }).await?;
    println!("  idle, {} nodes      {idle}", nodes.addresses().len());
    for id in 1..=phase.conferences {
        let found = http.get(format!("{}/api/conferences/{id}", cached[0].url())).send().await?;
        let found: Value = found.json().await?;
        let left = found["seats_available"].as_i64().context("a conference has seats")?;
        anyhow::ensure!((0..=100).contains(&left), "conference {id} has {left} seats left of 100");
    }
    let saved = 100.0 * (1.0 - after.reads() / before.reads());
    println!("The cache kept {saved:.1} % of the reads off the datastore.");
    Ok(())
}

fn urls(instances: &[ServerProcess]) -> Vec<String> {
    instances.iter().map(ServerProcess::url).collect()
}

async fn seed(http: &reqwest::Client, url: &str, conferences: i64) -> anyhow::Result<()> {
    for number in 1..=conferences {
        let city = CITIES[number as usize % CITIES.len()];
        let conference = json!({
            "organizer": "organizer@example.org", "name": format!("Conference {number}"), "city": city,
            "month": number % 12 + 1, "seats": 100, "about": "Talks about what people have built, and what broke.",
        });
        http.post(format!("{url}/api/conferences")).json(&conference).send().await?.error_for_status()?;
    }
    Ok(())
}

/// Lets the cluster follow a load by the rule of `larder-cluster up`. What is busy or idle are the instances: the
/// application's load decides, not the nodes' own.
async fn follow(nodes: &mut Fleet, instances: &[ServerProcess], phase: load::Phase) -> anyhow::Result<Report> {
    // The load itself and the nodes use the rest of this machine.
    let processors = std::thread::available_parallelism()?.get() as f64 / 2.0;
    let used = || instances.iter().map(ServerProcess::cpu_seconds).sum();
    let load = load::run(urls(instances), phase);
    nodes.follow(NODES..=NODES + 1, Duration::from_secs(2), processors, used, load).await?
}

/// Adds tasks to the pull queue, leases them and deletes them, as a worker elsewhere does.
async fn work(http: reqwest::Client, url: String, seconds: u64) -> anyhow::Result<u64> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let queue = format!("{url}/api/queues/badges");
    let mut done = 0;
    while Instant::now() < end {
        http.post(format!("{queue}/tasks")).json(&json!({ "payload": { "print": done } })).send().await?;
        let lease = http.post(format!("{queue}/leases")).json(&json!({ "count": 10 })).send().await?;
        let lease: Value = lease.error_for_status()?.json().await?;
        let name = lease["lease"].as_str().context("a lease has a name")?;
        for task in lease["tasks"].as_array().into_iter().flatten() {
            let id = task["id"].as_str().context("a task has a name")?;
            http.delete(format!("{queue}/leases/{name}/tasks/{id}")).send().await?.error_for_status()?;
            done += 1;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(done)
}

/// Waits until the push queue has sent as many mails, and returns how many different ones there are.
async fn mails(http: &reqwest::Client, url: &str, folder: &Path, registered: u64) -> anyhow::Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let sent = || std::fs::read_dir(folder).map(|mails| mails.count() as u64);
    while sent()? < registered && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let dead = http.get(format!("{url}/admin/tasks")).send().await?.text().await?;
    anyhow::ensure!(dead.contains("There are none."), "some tasks were given up: see {url}/admin/tasks");
    Ok(sent()?)
}
