//! A load of devices and people on the instances, and a check that no seats are shown older than the bound.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::settings::BOUND;

/// How a phase of the demo puts its load.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Phase {
    /// How long each phase lasts, in seconds
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// How long a device waits between two requests, in milliseconds; with 0 the phases show what the app can bear
    #[arg(long, default_value_t = 20)]
    pub(crate) pause: u64,
    /// How many conferences there are, with 100 seats each
    #[arg(long, default_value_t = 200)]
    pub(crate) conferences: i64,
}

/// How many devices there are, and how many people register.
const DEVICES: usize = 32;
const PEOPLE: u32 = 1000;

/// The cities that the conferences are in.
pub(crate) const CITIES: [&str; 5] = ["London", "Paris", "Lagos", "Lima", "Osaka"];

/// What a load found.
pub(crate) struct Report {
    /// In microseconds.
    latencies: Histogram<u64>,
    seconds: f64,
    pub(crate) registered: u64,
    not_modified: u64,
    errors: u64,
    stale: u64,
    /// Queries of the application's own tables, without those of transactions.
    reads: u64,
}

impl Report {
    /// Reads of the datastore for 1,000 requests.
    pub(crate) fn reads(&self) -> f64 {
        self.reads as f64 * 1000.0 / self.latencies.len().max(1) as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1000.0;
        let (p50, p99) = (milliseconds(0.5), milliseconds(0.99));
        let (rate, reads) = (self.latencies.len() as f64 / self.seconds, self.reads());
        let Report { registered, not_modified, errors, stale, .. } = self;
        write!(
            f,
            "{rate:>7.0} requests/s · p50 {p50:>6.2} ms · p99 {p99:>6.2} ms · {reads:>6.1} datastore reads for 1,000 \
             requests · {not_modified} not modified · {registered} registrations · {errors} errors · {stale} stale"
        )
    }
}

/// Puts load on instances: nineteen reads for a registration or its end.
pub(crate) async fn run(instances: Vec<String>, phase: Phase) -> anyhow::Result<Report> {
    let http = Client::builder().timeout(Duration::from_secs(30)).build()?;
    let before = reads(&http, &instances).await;
    let began = Instant::now();
    let latencies = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    let report = Report { latencies, seconds: 0.0, registered: 0, not_modified: 0, errors: 0, stale: 0, reads: 0 };
    let load = Arc::new(Load { http, instances, phase, commits: Mutex::default(), report: Mutex::new(report) });
    let mut devices = JoinSet::new();
    for number in 0..DEVICES {
        let device = Device { load: load.clone(), instance: number, etags: HashMap::new() };
        devices.spawn(device.run(began + Duration::from_secs(phase.seconds)));
    }
    devices.join_all().await;
    let Load { http, instances, report, .. } = Arc::into_inner(load).expect("the devices have ended");
    let mut report = report.into_inner().expect("no holder panics");
    report.seconds = began.elapsed().as_secs_f64();
    // Those of an instance that was killed meanwhile are not known.
    let after = reads(&http, &instances).await;
    report.reads = after.iter().zip(before).map(|(after, before)| after.saturating_sub(before)).sum();
    Ok(report)
}

/// The reads of each instance so far.
async fn reads(http: &Client, instances: &[String]) -> Vec<u64> {
    let mut reads = Vec::new();
    for instance in instances {
        let counts = async { http.get(format!("{instance}/admin/statements")).send().await?.json().await };
        let counts: BTreeMap<String, u64> = counts.await.unwrap_or_default();
        reads.push(counts.iter().filter(|(text, _)| text.starts_with("select * from")).map(|(_, count)| count).sum());
    }
    reads
}

/// What the devices share.
struct Load {
    http: Client,
    instances: Vec<String>,
    phase: Phase,
    /// By conference, when a change was answered, and its version.
    commits: Mutex<HashMap<i64, Vec<(Instant, i64)>>>,
    report: Mutex<Report>,
}

impl Load {
    /// The least version that a read may show which begins now.
    fn least(&self, conference: i64) -> i64 {
        let mut commits = self.commits.lock().expect("no holder panics");
        let commits = commits.entry(conference).or_default();
        let old = commits.iter().filter(|(at, _)| at.elapsed() > BOUND).map(|(_, version)| *version);
        let least = old.max().unwrap_or(0);
        commits.retain(|(_, version)| *version >= least);
        least
    }

    fn note(&self, what: impl FnOnce(&mut Report)) {
        what(&mut self.report.lock().expect("no holder panics"));
    }
}

struct Device {
    load: Arc<Load>,
    /// The place of the instance that it asks.
    instance: usize,
    etags: HashMap<String, String>,
}

impl Device {
    async fn run(mut self, end: Instant) {
        let load = self.load.clone();
        let pause = Duration::from_millis(load.phase.pause);
        while Instant::now() < end {
            let began = Instant::now();
            let done = self.request().await;
            let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            load.note(|report| report.latencies.saturating_record(micros));
            if done.is_err() {
                load.note(|report| report.errors += 1);
                // As behind a load balancer: the next request goes to another instance.
                self.instance += 1;
            }
            // Even no time at all would be a turn of the clock.
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    async fn request(&mut self) -> anyhow::Result<()> {
        // The square prefers some conferences to others.
        let id = (rand::random::<f64>().powi(2) * self.load.phase.conferences as f64) as i64 + 1;
        match rand::random_range(0..20) {
            0 => self.register(id).await,
            1..=11 => self.read(id).await,
            12..=15 => self.page(&format!("/conferences/{id}")).await,
            _ => {
                let city = CITIES[id as usize % CITIES.len()];
                self.page(&format!("/api/conferences?city={city}&fields=id,name,seats_available")).await
            }
        }
    }

    fn url(&self, path: &str) -> String {
        let instances = &self.load.instances;
        format!("{}{path}", instances[self.instance % instances.len()])
    }

    async fn read(&mut self, id: i64) -> anyhow::Result<()> {
        let url = self.url(&format!("/api/conferences/{id}"));
        let least = self.load.least(id);
        let mut request = self.load.http.get(&url);
        // Every other time as a device that has it already, which shows what it has where it gets a 304.
        if let Some(tag) = self.etags.get(&url).filter(|_| rand::random()) {
            request = request.header("if-none-match", tag);
        }
        let answer = request.send().await?.error_for_status()?;
        if answer.status() == StatusCode::NOT_MODIFIED {
            self.load.note(|report| report.not_modified += 1);
            return Ok(());
        }
        if let Some(tag) = answer.headers().get("etag") {
            self.etags.insert(url, tag.to_str()?.to_owned());
        }
        let version = answer.json::<Value>().await?["version"].as_i64();
        self.load.note(|report| report.stale += u64::from(version.is_none_or(|version| version < least)));
        Ok(())
    }

    async fn page(&self, path: &str) -> anyhow::Result<()> {
        self.load.http.get(self.url(path)).send().await?.error_for_status()?.bytes().await?;
        Ok(())
    }

    /// Registers a person, or ends the registration where there is one.
    async fn register(&self, id: i64) -> anyhow::Result<()> {
        let profile = format!("person{}@example.org", rand::random_range(0..PEOPLE));
        let url = self.url(&format!("/api/conferences/{id}/registrations"));
        let mut answer = self.load.http.post(&url).json(&json!({ "profile": profile })).send().await?;
        if answer.status() == StatusCode::CONFLICT {
            answer = self.load.http.delete(format!("{url}/{profile}")).send().await?;
        }
        match answer.status() {
            // There are no seats, and no registration either.
            StatusCode::NOT_FOUND => return Ok(()),
            StatusCode::CREATED => self.load.note(|report| report.registered += 1),
            _ => {}
        }
        let version = answer.error_for_status()?.json::<Value>().await?["version"].as_i64().unwrap_or(0);
        let mut commits = self.load.commits.lock().expect("no holder panics");
        commits.entry(id).or_default().push((Instant::now(), version));
        Ok(())
    }
}
