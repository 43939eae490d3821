//! A load of devices and people on the instances, and a check that no seats are shown older than the bound.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::RngExt;
use reqwest::{Client, StatusCode};
use tokio::task::JoinSet;

use crate::settings::BOUND;

/// What load is put on which instances.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// The instances
    #[arg(long = "instance", default_value = "http://127.0.0.1:8080")]
    pub(crate) instances: Vec<String>,
    /// How long, in seconds
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// How many requests are under way at a time
    #[arg(long, default_value_t = 32)]
    pub(crate) at_a_time: usize,
    /// How long a device waits after each of its requests, in milliseconds
    #[arg(long, default_value_t = 0)]
    pub(crate) pause: u64,
    /// How many conferences there are
    #[arg(long, default_value_t = 200)]
    pub(crate) conferences: i64,
    /// How many people register
    #[arg(long, default_value_t = 1000)]
    pub(crate) people: u32,
}

/// The cities that the conferences are in.
pub(crate) const CITIES: [&str; 5] = ["London", "Paris", "Lagos", "Lima", "Osaka"];

/// What a load found.
pub(crate) struct Report {
    latencies: Histogram<u64>,
    seconds: f64,
    pub(crate) registered: u64,
    not_modified: u64,
    pub(crate) errors: u64,
    pub(crate) stale: u64,
    /// Statements of the datastore while it ran, by their first words.
    pub(crate) statements: BTreeMap<String, u64>,
}

impl Report {
    pub(crate) fn requests(&self) -> u64 {
        self.latencies.len()
    }

    /// Queries of the application's own tables, without those of transactions.
    pub(crate) fn reads(&self) -> u64 {
        self.statements.iter().filter(|(text, _)| text.starts_with("select * from")).map(|(_, count)| count).sum()
    }

    pub(crate) fn milliseconds(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_thousand = self.reads() as f64 * 1000.0 / self.requests().max(1) as f64;
        write!(
            f,
            "{:>7.0} requests/s · p50 {:>6.2} ms · p99 {:>6.2} ms · {:>6.1} datastore reads for 1,000 requests · {} not \
             modified · {} registrations · {} errors · {} stale",
            self.requests() as f64 / self.seconds,
            self.milliseconds(0.5),
            self.milliseconds(0.99),
            per_thousand,
            self.not_modified,
            self.registered,
            self.errors,
            self.stale,
        )
    }
}

/// The versions that must be seen, by conference.
#[derive(Default)]
struct Versions {
    must: i64,
    /// Those whose commit was answered within the bound.
    young: VecDeque<(Instant, i64)>,
}

impl Versions {
    fn committed(&mut self, version: i64) {
        self.young.push_back((Instant::now(), version));
    }

    /// The least version that a read may show which begins now.
    fn least(&mut self) -> i64 {
        while self.young.front().is_some_and(|(at, _)| at.elapsed() > BOUND) {
            let (_, version) = self.young.pop_front().expect("there is a front");
            self.must = self.must.max(version);
        }
        self.must
    }
}

type Shared = Arc<Mutex<HashMap<i64, Versions>>>;

/// Runs the load.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Report> {
    let http = Client::builder().timeout(Duration::from_secs(30)).build()?;
    let before = statements(&http, options).await?;
    let began = Instant::now();
    let end = began + Duration::from_secs(options.seconds);
    let versions = Shared::default();
    let mut tasks = JoinSet::new();
    for place in 0..options.at_a_time {
        let mut device = Device {
            http: http.clone(),
            base: options.instances[place % options.instances.len()].clone(),
            options: options.clone(),
            versions: versions.clone(),
            etags: HashMap::new(),
            report: Report::new()?,
        };
        let pause = Duration::from_millis(options.pause);
        tasks.spawn(async move {
            while Instant::now() < end {
                device.request().await;
                // Even no time at all would be a turn of the clock.
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
            device.report
        });
    }
    let mut report = Report::new()?;
    while let Some(part) = tasks.join_next().await {
        let part = part?;
        report.latencies.add(&part.latencies)?;
        report.registered += part.registered;
        report.not_modified += part.not_modified;
        report.errors += part.errors;
        report.stale += part.stale;
    }
    report.seconds = began.elapsed().as_secs_f64();
    for (text, count) in statements(&http, options).await? {
        let count = count.saturating_sub(before.get(&text).copied().unwrap_or(0));
        report.statements.insert(text, count);
    }
    Ok(report)
}

async fn statements(http: &Client, options: &Options) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for instance in &options.instances {
        let counts = http.get(format!("{instance}/admin/statements")).send().await;
        // An instance that was killed meanwhile has none.
        let Ok(counts) = counts else { continue };
        for (text, count) in counts.json::<BTreeMap<String, u64>>().await? {
            *all.entry(text).or_default() += count;
        }
    }
    Ok(all)
}

impl Report {
    fn new() -> anyhow::Result<Report> {
        Ok(Report {
            // In microseconds, up to two request time-outs.
            latencies: Histogram::new_with_bounds(1, 60_000_000, 3)?,
            seconds: 0.0,
            registered: 0,
            not_modified: 0,
            errors: 0,
            stale: 0,
            statements: BTreeMap::new(),
        })
    }
}

struct Device {
    http: Client,
    base: String,
    options: Options,
    versions: Shared,
    etags: HashMap<String, String>,
    report: Report,
}

impl Device {
    async fn request(&mut self) {
        let (draw, id, person) = {
            let mut random = rand::rng();
            // The square prefers some conferences to others.
            let place = random.random::<f64>().powi(2) * self.options.conferences as f64;
            (random.random_range(0..20), place as i64 + 1, random.random_range(0..self.options.people))
        };
        let began = Instant::now();
        let done = match draw {
            0 => self.register(id, person).await,
            1..=11 => self.read(id).await,
            12..=15 => self.page(&format!("/conferences/{id}")).await,
            _ => {
                let city = CITIES[id as usize % CITIES.len()];
                self.page(&format!("/api/conferences?city={city}&fields=id,name,seats_available")).await
            }
        };
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.report.latencies.saturating_record(micros);
        if done.is_err() {
            self.report.errors += 1;
            // As behind a load balancer: the next request goes to another instance.
            let instances = &self.options.instances;
            let place = instances.iter().position(|instance| *instance == self.base).unwrap_or(0);
            self.base = instances[(place + 1) % instances.len()].clone();
        }
    }

    async fn read(&mut self, id: i64) -> anyhow::Result<()> {
        let url = format!("{}/api/conferences/{id}", self.base);
        let least = self.versions.lock().expect("no holder panics").entry(id).or_default().least();
        let mut request = self.http.get(&url);
        // Every other time as a device that has it already, which shows what it has where it gets a 304.
        let tag = self.etags.get(&url).filter(|_| rand::random());
        if let Some(tag) = tag {
            request = request.header("if-none-match", tag);
        }
        let answer = request.send().await?.error_for_status()?;
        if answer.status() == StatusCode::NOT_MODIFIED {
            self.report.not_modified += 1;
            return Ok(());
        }
        if let Some(tag) = answer.headers().get("etag") {
            self.etags.insert(url, tag.to_str()?.to_owned());
        }
        let version = answer.json::<serde_json::Value>().await?["version"].as_i64();
        if version.is_none_or(|version| version < least) {
            self.report.stale += 1;
        }
        Ok(())
    }

    async fn page(&self, path: &str) -> anyhow::Result<()> {
        self.http.get(format!("{}{path}", self.base)).send().await?.error_for_status()?.bytes().await?;
        Ok(())
    }

    async fn register(&mut self, id: i64, person: u32) -> anyhow::Result<()> {
        let profile = format!("person{person}@example.org");
        let url = format!("{}/api/conferences/{id}/registrations", self.base);
        let register = self.http.post(&url).json(&serde_json::json!({ "profile": profile })).send().await?;
        let answer = match register.status() {
            StatusCode::CONFLICT => self.http.delete(format!("{url}/{profile}")).send().await?,
            _ => register,
        };
        match answer.status() {
            // There are no seats, and no registration either.
            StatusCode::NOT_FOUND => return Ok(()),
            StatusCode::CREATED => self.report.registered += 1,
            _ => {}
        }
        let version = answer.error_for_status()?.json::<serde_json::Value>().await?["version"].as_i64();
        let mut versions = self.versions.lock().expect("no holder panics");
        versions.entry(id).or_default().committed(version.unwrap_or(0));
        Ok(())
    }
}
