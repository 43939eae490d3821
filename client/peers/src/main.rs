//! Measures larder-client beside other memcache clients for Rust: the same servers, the same load, by turns.
//!
//! Each server runs on core 0. The clients run on core 1, but for the load on two threads, which has both cores.

use std::future::Future;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_memcached::AsciiProtocol;
use bb8_memcached::bb8;
use clap::Parser;
use larder_bench::process::ServerProcess;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::Pid;

/// Measures larder-client beside other memcache clients: operations a second and the client's processor time.
#[derive(Parser)]
struct Arguments {
    /// Servers to measure on: commands that take -p PORT and -t THREADS, for example 'memcached -u root'
    #[arg(required = true)]
    servers: Vec<String>,
    /// Seconds that a client is measured in one turn
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Turns of each client
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Measure only loads whose name has this in it
    #[arg(long, default_value = "")]
    only: String,
    /// Measure only clients whose name has this in it
    #[arg(long, default_value = "")]
    client: String,
}

const KEYS: usize = 2_000;
const VALUE: usize = 100;
const BATCH: usize = 100;

fn key(number: usize) -> String {
    format!("key:{number:016}")
}

/// One task's way to a client.
trait Caller: Sized + Send + 'static {
    const NAME: &str;

    /// Callers for so many tasks.
    fn connect(address: &str, tasks: usize) -> impl Future<Output = Vec<Self>>;

    /// The value's length.
    fn get(&mut self, key: &str) -> impl Future<Output = usize> + Send;

    /// How many values came.
    fn get_many(&mut self, keys: &[String]) -> impl Future<Output = usize> + Send;
}

impl Caller for larder_client::Client {
    const NAME: &str = "larder-client";

    async fn connect(address: &str, tasks: usize) -> Vec<Self> {
        vec![larder_client::Client::builder().server(address).build().unwrap(); tasks]
    }

    async fn get(&mut self, key: &str) -> usize {
        larder_client::Client::get(self, key).await.unwrap().unwrap().len()
    }

    async fn get_many(&mut self, keys: &[String]) -> usize {
        let values = larder_client::Client::get_many(self, keys).await;
        values.into_iter().filter(|value| value.as_ref().unwrap().is_some()).count()
    }
}

impl Caller for async_memcached::Client {
    const NAME: &str = "async-memcached";

    async fn connect(address: &str, tasks: usize) -> Vec<Self> {
        let mut clients = Vec::new();
        for _ in 0..tasks {
            clients.push(async_memcached::Client::new(format!("tcp://{address}")).await.unwrap());
        }
        clients
    }

    async fn get(&mut self, key: &str) -> usize {
        AsciiProtocol::get(self, key).await.unwrap().unwrap().data.unwrap().len()
    }

    async fn get_many(&mut self, keys: &[String]) -> usize {
        self.get_multi(keys).await.unwrap().len()
    }
}

impl Caller for memcache::exp::AsyncMemcache {
    const NAME: &str = "memcache (async)";

    async fn connect(address: &str, tasks: usize) -> Vec<Self> {
        vec![memcache::exp::AsyncMemcache::connect([address.to_owned()]).await.unwrap(); tasks]
    }

    async fn get(&mut self, key: &str) -> usize {
        memcache::exp::AsyncMemcache::get::<Vec<u8>>(self, key).await.unwrap().unwrap().len()
    }

    async fn get_many(&mut self, keys: &[String]) -> usize {
        let keys = keys.iter().map(String::as_str);
        memcache::exp::AsyncMemcache::get_many::<Vec<u8>, &str>(self, keys).await.unwrap().len()
    }
}

impl Caller for bb8::Pool<bb8_memcached::MemcacheConnectionManager> {
    const NAME: &str = "bb8-memcached";

    async fn connect(address: &str, tasks: usize) -> Vec<Self> {
        let manager = bb8_memcached::MemcacheConnectionManager::new(format!("tcp://{address}")).unwrap();
        let pool = bb8::Pool::builder().max_size(tasks as u32).min_idle(tasks as u32).build(manager).await.unwrap();
        vec![pool; tasks]
    }

    async fn get(&mut self, key: &str) -> usize {
        let pool: &Self = self;
        pool.get().await.unwrap().get(&key).await.unwrap().len()
    }

    async fn get_many(&mut self, keys: &[String]) -> usize {
        let pool: &Self = self;
        pool.get().await.unwrap().get_multi(keys).await.unwrap().len()
    }
}

/// What is asked of a client.
struct Load {
    name: &'static str,
    tasks: usize,
    /// Keys of one call.
    batch: usize,
    /// Of the runtime.
    threads: usize,
}

const LOADS: &[Load] = &[
    Load { name: "64 tasks, single gets", tasks: 64, batch: 1, threads: 1 },
    Load { name: "64 tasks, single gets, runtime of two threads", tasks: 64, batch: 1, threads: 2 },
    Load { name: "one task, single gets", tasks: 1, batch: 1, threads: 1 },
    Load { name: "16 tasks, 100 keys at once (figures for a key)", tasks: 16, batch: BATCH, threads: 1 },
    Load { name: "one task, 100 keys at once (figures for a key)", tasks: 1, batch: BATCH, threads: 1 },
];

/// What one turn came to.
struct Turn {
    per_second: f64,
    cpu_micros: f64,
    longest: Duration,
}

fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros = [usage.user_time(), usage.system_time()].map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    Duration::from_micros(micros.iter().sum::<i64>() as u64)
}

fn pin(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core).unwrap());
    sched_setaffinity(Pid::from_raw(0), &set).expect("cores 0 and 1 are there");
}

fn turn<C: Caller>(address: &str, load: &Load, length: Duration) -> Turn {
    pin(if load.threads == 1 { &[1] } else { &[0, 1] });
    let runtime = match load.threads {
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        threads => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    };
    runtime.unwrap().block_on(async {
        let keys: Arc<[String]> = (0..KEYS).map(key).collect();
        let callers = C::connect(address, load.tasks).await;
        let mut measured = (0, Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let mut callers = callers;
        // The first, shorter run warms up.
        for length in [length / 10, length] {
            let (began, cpu_before) = (Instant::now(), cpu_time());
            let tasks: Vec<_> = callers
                .into_iter()
                .enumerate()
                .map(|(number, caller)| tokio::spawn(work(caller, keys.clone(), number, load.batch, began + length)))
                .collect();
            let (mut read, mut longest) = (0, Duration::ZERO);
            callers = Vec::new();
            for task in tasks {
                let (caller, of_task, longest_of_task) = task.await.unwrap();
                callers.push(caller);
                read += of_task;
                longest = longest.max(longest_of_task);
            }
            measured = (read, began.elapsed(), cpu_time() - cpu_before, longest);
        }
        let (keys, elapsed, cpu, longest) = measured;
        Turn {
            per_second: keys as f64 / elapsed.as_secs_f64(),
            cpu_micros: cpu.as_secs_f64() * 1e6 / keys as f64,
            longest,
        }
    })
}

/// Calls until `end`; how many keys were read, and how long the longest 16 calls in a row took.
async fn work<C: Caller>(
    mut caller: C,
    keys: Arc<[String]>,
    seed: usize,
    batch: usize,
    end: Instant,
) -> (C, usize, Duration) {
    let (mut at, mut read) = (seed * 7919 % KEYS, 0);
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    while last < end {
        // The clock is read once for some calls, so that it weighs little.
        for _ in 0..if batch == 1 { 16 } else { 1 } {
            at = (at + 7919) % (KEYS - batch);
            if batch == 1 {
                assert_eq!(caller.get(&keys[at]).await, VALUE);
            } else {
                assert_eq!(caller.get_many(&keys[at..at + batch]).await, batch);
            }
            read += batch;
        }
        let now = Instant::now();
        longest = longest.max(now - last);
        last = now;
    }
    (caller, read, longest)
}

/// Starts a server on core 0 and on a free port that it picks itself.
fn start(command: &str) -> ServerProcess {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", "0"]).args(command.split_whitespace()).args(["-t", "1", "-p", "-1"]);
    ServerProcess::start(pinned.stderr(Stdio::null())).unwrap()
}

fn fill(address: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cache = larder_client::Client::builder().server(address).build().unwrap();
        for number in 0..KEYS {
            cache.set(key(number), [b'v'; VALUE], Duration::ZERO).await.unwrap();
        }
    });
}

fn summary(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

fn main() {
    let arguments = Arguments::parse();
    type Measure = fn(&str, &Load, Duration) -> Turn;
    let mut clients: Vec<(&str, Measure)> = vec![
        (larder_client::Client::NAME, turn::<larder_client::Client>),
        (async_memcached::Client::NAME, turn::<async_memcached::Client>),
        (memcache::exp::AsyncMemcache::NAME, turn::<memcache::exp::AsyncMemcache>),
        (bb8::Pool::NAME, turn::<bb8::Pool<bb8_memcached::MemcacheConnectionManager>>),
    ];
    clients.retain(|(name, _)| name.contains(&arguments.client));
    let length = Duration::from_secs_f64(arguments.seconds);
    println!(
        "{} turns of {length:?}; medians (lowest to highest); longest: of 16 single gets, or of one call of many",
        arguments.turns
    );
    for command in &arguments.servers {
        let server = start(command);
        let address = server.address();
        fill(&address);
        for load in LOADS.iter().filter(|load| load.name.contains(&arguments.only)) {
            println!("\n{command}: {}", load.name);
            let mut turns: Vec<Vec<Turn>> = clients.iter().map(|_| Vec::new()).collect();
            for _ in 0..arguments.turns {
                for (turns, (_, measure)) in turns.iter_mut().zip(&clients) {
                    turns.push(measure(&address, load, length));
                }
            }
            println!("  {:18} {:>30} {:>26} {:>12}", "client", "a second", "client CPU us", "longest ms");
            for (turns, (name, _)) in turns.iter().zip(&clients) {
                let (rate, rate_low, rate_high) = summary(turns.iter().map(|turn| turn.per_second));
                let (cpu, cpu_low, cpu_high) = summary(turns.iter().map(|turn| turn.cpu_micros));
                let longest = turns.iter().map(|turn| turn.longest).max().unwrap_or_default();
                println!(
                    "  {name:18} {:>30} {:>26} {:>12.1}",
                    format!("{rate:.0} ({rate_low:.0} to {rate_high:.0})"),
                    format!("{cpu:.2} ({cpu_low:.2} to {cpu_high:.2})"),
                    longest.as_secs_f64() * 1000.0
                );
            }
        }
    }
}
