//! All of it on this machine: a cluster of nodes, two instances, a worker of the pull queue and a load.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::grow::Cluster;
use crate::load::{self, CITIES};

/// How the demo runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The datastore, an empty one: postgres://user@host/database; SQLite in a temporary folder unless set
    #[arg(long)]
    datastore: Option<String>,
    /// How long each phase lasts, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How long a device waits between two requests, in milliseconds; with 0 the phases show what the app can bear
    #[arg(long, default_value_t = 20)]
    pause: u64,
    /// How many conferences there are, with 100 seats each
    #[arg(long, default_value_t = 200)]
    conferences: i64,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let sqlite = format!("sqlite://{}", folder.path().join("conference.db").display());
    let datastore = options.datastore.unwrap_or(sqlite);
    let program = std::env::current_exe()?;
    let mut nodes = Cluster::start(&program)?;
    let servers = nodes.servers();
    println!("Nodes in a cluster: {servers}. Datastore: {datastore}");
    let mail = folder.path().join("mail");
    let instance = async |further: &[&str]| Instance::start(&program, &datastore, &servers, &mail, further).await;
    let http = reqwest::Client::new();

    let plain = [instance(&["--without-cache"]).await?, instance(&["--without-cache"]).await?];
    seed(&http, &plain[0].url, options.conferences).await?;
    let load = |instances: &[Instance]| load::Options {
        instances: instances.iter().map(|instance| instance.url.clone()).collect(),
        seconds: options.seconds,
        at_a_time: 32,
        pause: options.pause,
        conferences: options.conferences,
        people: 1000,
    };
    println!("Two instances that read the datastore, then the same with the cache, then one of them is killed:");
    // Pools and caches are empty at first: each begins with a load that is not shown.
    let warm = async |instances: &[Instance]| load::run(&load::Options { seconds: 3, ..load(instances) }).await;
    let mut warmed = warm(&plain).await?.registered;
    let before = load::run(&load(&plain)).await?;
    println!("  without the cache  {before}");
    drop(plain);

    let mut cached = [instance(&[]).await?, instance(&[]).await?];
    warmed += warm(&cached).await?.registered;
    let after = load::run(&load(&cached)).await?;
    println!("  with the cache     {after}");

    let (phase, url) = (load(&cached), cached[0].url.clone());
    let running = tokio::spawn(async move { load::run(&phase).await });
    let worker = tokio::spawn(work(http.clone(), url, options.seconds));
    tokio::time::sleep(Duration::from_secs(options.seconds) / 2).await;
    cached[1].process.kill().await?;
    let killed = running.await??;
    println!("  an instance killed {killed}");
    println!("  a worker of the pull queue leased and deleted {} tasks", worker.await??);

    cached[1] = instance(&[]).await?;
    println!("Busy instances, then idle ones; no client and no instance learns of the nodes that come and go:");
    let processes: Vec<u32> = cached.iter().filter_map(|instance| instance.process.id()).collect();
    let seconds = options.seconds.max(8);
    let busy = load::Options { seconds, pause: 0, ..load(&cached) };
    let busy = nodes.follow(&program, &processes, busy).await?;
    println!("  busy, {} nodes      {busy}", nodes.len());
    let shown: u64 = [&before, &after, &killed, &busy].iter().map(|report| report.registered).sum();
    let registered = warmed + shown;
    // Instances are idle once they have caught up with the mails.
    let sent = mails(&http, &cached[0].url, &mail, registered).await?;
    println!("{registered} registrations were answered, {sent} confirmations were mailed.");
    let idle = load::Options { seconds, pause: 200, ..load(&cached) };
    let idle = nodes.follow(&program, &processes, idle).await?;
    println!("  idle, {} nodes      {idle}", nodes.len());
    for id in 1..=options.conferences {
        let found: Value = http.get(format!("{}/api/conferences/{id}", cached[0].url)).send().await?.json().await?;
        let left = found["seats_available"].as_i64().context("a conference has seats")?;
        anyhow::ensure!((0..=100).contains(&left), "conference {id} has {left} seats left of 100");
    }
    let saved = 100.0
        * (1.0 - after.reads() as f64 / after.requests() as f64 * before.requests() as f64 / before.reads() as f64);
    println!("The cache kept {saved:.1} % of the reads off the datastore.");
    Ok(())
}

/// An instance in a process of its own, which ends with this value.
struct Instance {
    process: Child,
    url: String,
}

impl Instance {
    async fn start(
        program: &Path,
        datastore: &str,
        servers: &str,
        mail: &Path,
        further: &[&str],
    ) -> anyhow::Result<Instance> {
        let mut process = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--datastore", datastore, "--servers", servers, "--mail"])
            .arg(mail)
            .args(further)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().context("standard output is a pipe")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = lines.next_line().await?.context("the instance ended before it listened")?;
        let url = line.strip_prefix("listening on ").context("the instance says where it listens")?.to_owned();
        Ok(Instance { process, url })
    }
}

async fn seed(http: &reqwest::Client, url: &str, conferences: i64) -> anyhow::Result<()> {
    for number in 1..=conferences {
        let city = CITIES[number as usize % CITIES.len()];
        let conference = json!({
            "organizer": "organizer@example.org", "name": format!("Conference {number}"), "city": city,
            "month": number % 12 + 1, "seats": 100, "about": "Talks about what people have built, and what broke.",
        });
        let made = http.post(format!("{url}/api/conferences")).json(&conference).send().await?;
        made.error_for_status()?;
    }
    Ok(())
}

/// Adds tasks to the pull queue, leases them and deletes them, as a worker elsewhere does.
async fn work(http: reqwest::Client, url: String, seconds: u64) -> anyhow::Result<u64> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut done = 0;
    while Instant::now() < end {
        let queue = format!("{url}/api/queues/badges");
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
    loop {
        let sent = std::fs::read_dir(folder)?.filter(|entry| entry.is_ok()).count() as u64;
        if sent >= registered || Instant::now() > deadline {
            let dead = http.get(format!("{url}/admin/tasks")).send().await?.text().await?;
            anyhow::ensure!(dead.contains("There are none."), "some tasks were given up: see {url}/admin/tasks");
            return Ok(sent);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
