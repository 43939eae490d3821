//! `larder-bench demo`: three nodes, a client that falls back to a datastore, and a load that shows what a cache saves.

mod application;
mod datastore;
mod grow;
mod nodes;
mod options;
mod phase;
mod report;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use larder_client::Client;

use application::{Application, Path};
use datastore::Datastore;
use nodes::Node;
pub use options::DemoOptions;
use phase::{Phase, Results};

/// Runs the demo to its table. SIGINT and SIGTERM end it early, with the table of the phases so far. Its nodes are
/// stopped in every case.
pub async fn run(options: DemoOptions) -> Result<ExitCode> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    if options.grow {
        return tokio::select! {
            result = grow(options) => result,
            _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
            _ = terminate.recv() => Ok(ExitCode::from(143)),
        };
    }
    let mut results = Results::default();
    let code = tokio::select! {
        result = show(options, &mut results) => result.map(|()| ExitCode::SUCCESS),
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    };
    report::print(&results);
    code
}

/// Runs the phases, and adds each to `results` when it ends.
async fn show(options: DemoOptions, results: &mut Results) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let datastore = fill(&options, folder.path()).await?;
    let mut nodes = (0..3).map(|_| Node::start()).collect::<Result<Vec<_>>>()?;
    let addresses: Vec<String> = nodes.iter().map(Node::address).collect();
    println!("nodes: {} (larder-node, 64 MiB and one thread each)", addresses.join(", "));
    println!(
        "load: {} request handlers ask for users' pages, few of them often; {} % of requests change one",
        options.handlers, options.writes
    );
    println!("three phases, about {} s; ctrl-C ends it\n", 4 * options.seconds);
    let cache = Client::builder().servers(&addresses).build()?;
    let application = Arc::new(Application::new(&options, datastore, cache));
    let length = Duration::from_secs(options.seconds);

    results.nodes = addresses;
    let direct = phase(&application, Path::Datastore, "datastore only", length, async |_| Ok(())).await?;
    results.phases.push(direct);
    let cached = phase(&application, Path::Cache, "through the cache", length, async |_| Ok(())).await?;
    results.phases.push(cached);
    // One third with all nodes, one with a node killed, one with the node back.
    let third = length * 2 / 3;
    let failing = phase(&application, Path::Cache, "a node killed, then back", 2 * length, async |phase: &Phase| {
        tokio::time::sleep(third).await;
        phase.mark("killed");
        nodes[0].kill();
        tokio::time::sleep(third).await;
        // Starting a process blocks for some milliseconds, which must not delay the handlers.
        tokio::task::block_in_place(|| nodes[0].restart())?;
        phase.mark("back");
        tokio::time::sleep(third).await;
        Ok(())
    })
    .await?;
    results.phases.push(failing);
    Ok(())
}

async fn grow(options: DemoOptions) -> Result<ExitCode> {
    let folder = tempfile::tempdir()?;
    let datastore = fill(&options, folder.path()).await?;
    grow::run(&options, datastore).await
}

async fn fill(options: &DemoOptions, folder: &std::path::Path) -> Result<Datastore> {
    let bar = ProgressBar::new(options.users.into())
        .with_style(ProgressStyle::with_template("filling the datastore  {wide_bar} {pos}/{len} users")?);
    let (progress, mut filled) = tokio::sync::mpsc::unbounded_channel::<u32>();
    let watching = async {
        while let Some(users) = filled.recv().await {
            bar.set_position(users.into());
        }
    };
    let (datastore, ()) = tokio::join!(Datastore::create(folder, options.users, progress), watching);
    bar.finish_and_clear();
    println!("datastore: SQLite, {} users with posts", options.users);
    datastore
}

/// Runs one phase and `events` beside it, and shows its progress.
async fn phase(
    application: &Arc<Application>,
    path: Path,
    name: &'static str,
    length: Duration,
    events: impl AsyncFnOnce(&Phase) -> Result<()>,
) -> Result<Phase> {
    let phase = Phase::new(name, application.nodes());
    let handlers = application.start(path, &phase);
    let bar = ProgressBar::new(length.as_millis() as u64)
        .with_style(ProgressStyle::with_template("{prefix:26} {bar:24} {msg}")?)
        .with_prefix(name);
    let started = Instant::now();
    let watching = async {
        let mut ticks = tokio::time::interval(phase.window());
        while started.elapsed() < length {
            ticks.tick().await;
            bar.set_position(started.elapsed().as_millis() as u64);
            bar.set_message(phase.turn_window());
        }
    };
    let (event_result, ()) = tokio::join!(events(&phase), watching);
    handlers.stop().await;
    bar.finish_and_clear();
    event_result?;
    phase.end(started.elapsed());
    println!("{}", report::line(&phase));
    Ok(phase)
}
