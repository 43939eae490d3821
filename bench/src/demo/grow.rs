//! `larder-bench demo --grow`: load rises and a node is added, load falls and one is drained, beside nodes that do not
//! know each other.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use larder_client::Client;

use super::datastore::Datastore;
use super::options::DemoOptions;
use crate::cluster::{Fleet, settle};
use crate::report::{print, table, write};
use crate::resize::{
    Change, Cost, HEADINGS, Kind, Loader, Reader, Run, Second, Track, Way, cost, describe, populate, rows, to_html,
};

/// Nodes at first.
const NODES: usize = 3;

/// Seconds of each load before something changes.
const BEFORE: usize = 20;

/// Seconds that are shown after every client has learned of a change.
const AFTER: usize = 25;

/// Milliseconds that a 99th percentile may rise by beside the times that are promised.
const P99_MORE: f64 = 0.3;

/// Seconds that Larder's own client is watched for after a change.
const OURS: usize = 15;

/// Starts the demo's nodes, of one cluster or each for itself.
fn start(clustered: bool, memory: u32) -> Result<Fleet> {
    let program = std::env::current_exe().context("this program's own path, to start nodes from it")?;
    let fleet = Fleet::start(&program, NODES, clustered.then_some("demo"), &["-t", "1", "-m", &memory.to_string()])?;
    if clustered {
        settle(&fleet.addresses(), NODES)?;
    }
    Ok(fleet)
}

/// Reads a second while load is low.
fn low(options: &DemoOptions) -> u64 {
    options.rate / 2
}

/// Clients that have this list, and no other.
fn with_list(addresses: &[String]) -> Result<Client> {
    Ok(Client::builder().servers(addresses).build()?)
}

/// Runs the demo with a cluster, then with nodes that do not know each other, and writes the page.
pub(super) async fn run(options: &DemoOptions, datastore: Datastore) -> Result<ExitCode> {
    let loader: Loader = Arc::new(move |number| {
        let datastore = datastore.clone();
        Box::pin(async move { datastore.page(number).await })
    });
    let late = options.late as usize;
    let rates = format!("{} reads a second, {} while load is high", low(options), options.rate);
    println!("{NODES} nodes of {} MiB in a cluster; {rates}", options.memory);
    let mut tracks = in_a_cluster(options, &loader, late).await?;
    println!("\n{NODES} nodes that do not know each other, one client that changes its list at once; the same load");
    tracks.push(apart(options, &loader).await?);
    let headings = HEADINGS.map(str::to_owned).to_vec();
    print(&format!("\n{}", table(&[vec![headings], rows(&tracks)].concat())))?;
    for change in &tracks[0].changes {
        println!("{}", describe(change));
    }
    let verdicts = verdicts(&tracks);
    verdicts.iter().for_each(|(holds, text)| println!("{} {text}", if *holds { "ok  " } else { "MISS" }));
    if let Some(path) = &options.html {
        let mut about = vec![format!(
            "{NODES} nodes of {} MiB, {} users in SQLite, Zipf {}; {rates}. Load rises, a node is added; load falls, it is \
             drained. The control is a client of nodes that do not know each other.",
            options.memory, options.users, options.zipf
        )];
        about.extend(
            verdicts.iter().map(|(holds, text)| format!("{}: {text}", if *holds { "holds" } else { "missed" })),
        );
        write(path, &to_html("A cluster that grows and shrinks", &about, &tracks))?;
        println!("charts: {}", path.display());
    }
    Ok(ExitCode::from(u8::from(verdicts.iter().any(|(holds, _)| !holds))))
}

async fn in_a_cluster(options: &DemoOptions, loader: &Loader, late: usize) -> Result<Vec<Track>> {
    let mut fleet = start(true, options.memory)?;
    let old = fleet.addresses();
    let follow = || async { Ok::<_, anyhow::Error>(Client::builder().discover(&*old[0]).connect().await?) };
    let reader = |name, way, client| Reader::new(name, way, client, loader.clone(), options.users, options.zipf);
    let readers = [
        reader("Larder's client", Way::Leases, follow().await?),
        reader("learns late", Way::Plain, with_list(&old)?),
        reader("keeps its old list", Way::Plain, with_list(&old)?),
    ];
    populate(&follow().await?, loader, options.users).await?;
    let mut run = Run::start(&readers, options.rate, Some(follow().await?));
    let show = |line: &str| println!("{line}");
    begin(&mut run, options).await;
    tokio::task::block_in_place(|| fleet.add())?;
    run.go_on(late, show).await;
    readers[1].use_client(with_list(&fleet.addresses())?);
    run.go_on(AFTER, show).await;
    fall(&mut run, options).await;
    // It ends by itself, after it has forwarded for a while.
    fleet.drain()?;
    run.go_on(late, show).await;
    readers[1].use_client(with_list(&fleet.addresses())?);
    run.go_on(AFTER, show).await;
    let changes = run.end().await;
    let behind = [OURS, late, late + AFTER];
    let mut tracks: Vec<Track> =
        readers.iter().zip(behind).map(|(reader, behind)| track(reader, &changes, behind, Kind::Client)).collect();
    tracks.push(all(&tracks));
    Ok(tracks)
}

/// All clients of the cluster together: what its nodes hold is the same for each of them.
fn all(tracks: &[Track]) -> Track {
    let seconds = tracks.iter().map(|track| track.seconds.len()).min().unwrap_or_default();
    let second = |at: usize| Second::sum(tracks.iter().map(|track| &track.seconds[at]));
    let changes = tracks[0].changes.clone();
    let seconds = (0..seconds).map(second).collect();
    Track { name: "all clients".to_owned(), seconds, changes, behind: OURS, kind: Kind::All }
}

async fn apart(options: &DemoOptions, loader: &Loader) -> Result<Track> {
    let mut fleet = start(false, options.memory)?;
    let client = with_list(&fleet.addresses())?;
    let reader = Reader::new("control", Way::Leases, client.clone(), loader.clone(), options.users, options.zipf);
    populate(&client, loader, options.users).await?;
    let mut run = Run::start(std::slice::from_ref(&reader), options.rate, None);
    let show = |line: &str| println!("{line}");
    begin(&mut run, options).await;
    tokio::task::block_in_place(|| fleet.add())?;
    run.begin("one node more");
    reader.use_client(with_list(&fleet.addresses())?);
    run.go_on(2 * AFTER, show).await;
    fall(&mut run, options).await;
    run.begin("one node less");
    reader.use_client(with_list(&fleet.addresses()[..NODES])?);
    run.go_on(2 * AFTER, show).await;
    let changes = run.end().await;
    Ok(track(&reader, &changes, OURS, Kind::Control))
}

/// The time before the first change: caches get warm, load is low, then high.
async fn begin(run: &mut Run, options: &DemoOptions) {
    let show = |line: &str| println!("{line}");
    run.go_on(BEFORE, show).await;
    run.set_rate(low(options));
    run.go_on(BEFORE / 2, show).await;
    run.set_rate(options.rate);
    run.go_on(BEFORE, show).await;
}

/// Load falls.
async fn fall(run: &mut Run, options: &DemoOptions) {
    run.end_change();
    run.set_rate(low(options));
    run.go_on(BEFORE, |line| println!("{line}")).await;
}

fn track(reader: &Arc<Reader>, changes: &[Change], behind: usize, kind: Kind) -> Track {
    let seconds = reader.seconds.lock().clone();
    Track { name: reader.name.to_owned(), seconds, changes: changes.to_vec(), behind, kind }
}

/// What is promised of a planned change, and whether it was so. The control must show what is avoided.
fn verdicts(tracks: &[Track]) -> Vec<(bool, String)> {
    let mut verdicts = Vec::new();
    for track in tracks {
        let cost = |change| Some((change, cost(&track.seconds, change, track.behind)?));
        let costs: Vec<(&Change, Cost)> = track.changes.iter().filter_map(cost).collect();
        let most = |figure: fn(&Cost) -> f64| costs.iter().map(|(_, cost)| figure(cost)).fold(0.0, f64::max);
        let mut bound = |what: &str, figure: f64, bound: f64, holds: bool| {
            verdicts.push((holds, format!("{}: {what} {figure:.2}, bound {bound:.2}", track.name)));
        };
        match track.kind {
            Kind::Control => {
                let dip = most(|cost| cost.dip);
                bound("dip of at least, points:", dip, 5.0, dip >= 5.0);
            }
            // Of one client alone chance would be greater than what is asked for.
            Kind::All => {
                // Two changes were made, and both are measured.
                bound("changes", costs.len() as f64, 2.0, costs.len() == 2);
                let dip = most(|cost| cost.dip - cost.chance);
                bound("dip of hit ratio beyond chance, points:", dip, 0.5, dip < 0.5);
                let loads = most(|cost| cost.loads);
                bound("reads of the datastore, times the steady state:", loads, 1.1, loads <= 1.1);
                let errors: u64 = costs.iter().map(|(_, cost)| cost.errors).sum();
                bound("errors", errors as f64, 0.0, errors == 0);
            }
            Kind::Client => {
                let times = if track.behind == OURS { 1.5 } else { 2.5 };
                for (change, cost) in &costs {
                    let (p99, limit) = (cost.p99 / 1e3, times * cost.p99_before / 1e3 + P99_MORE);
                    bound(&format!("p99 in ms, {}:", change.name), p99, limit, p99 <= limit);
                }
            }
        }
    }
    verdicts
}
