//! `larder-bench resize`: clients read through a running cluster while somebody adds or drains nodes, and what that
//! cost them is reported.

mod page;
mod run;
mod timeline;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use larder_client::Client;

pub(crate) use page::{HEADINGS, Kind, Track, describe, rows, to_html};
pub(crate) use run::Run;
pub(crate) use timeline::{Change, Cost, cost};
pub(crate) use traffic::{Loader, Reader, Second, Way, populate};

use crate::report::{parse_duration, print, table, write};

/// Options of `larder-bench resize`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Every change of the members that happens meanwhile is measured: start a node of the cluster, or stop one with SIGTERM. \
Two clients read: one follows the list of nodes, one knows the first node alone. A change needs about 40 seconds before \
the next one for its figures.

Example:
  larder-bench resize --server 127.0.0.1:11211 --rate 5000 --duration 3m --html resize.html")]
pub struct ResizeOptions {
    /// A node of the cluster
    #[arg(short, long, default_value = "127.0.0.1:11211", value_name = "ADDRESS")]
    pub server: String,
    /// How long to watch
    #[arg(short, long, default_value = "2m", value_parser = parse_duration, value_name = "TIME")]
    pub duration: Duration,
    /// Reads a second, of both clients together
    #[arg(short, long, default_value_t = 2000, value_name = "PER_SECOND")]
    pub rate: u64,
    /// Keys that are read
    #[arg(short, long, default_value_t = 100_000, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub keys: u32,
    /// Bytes of each value
    #[arg(long, default_value_t = 1000, value_name = "BYTES")]
    pub value_size: usize,
    /// Exponent of the Zipf distribution of the keys' popularity
    #[arg(long, default_value_t = 0.99)]
    pub zipf: f64,
    /// Write a page with charts
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Watches a cluster under load. SIGINT ends it early, with the figures so far.
///
/// # Errors
///
/// The node does not answer, or is in no cluster.
pub async fn run(options: ResizeOptions) -> Result<ExitCode> {
    let follow = || async {
        let client = Client::builder().discover(&*options.server).connect().await;
        client.with_context(|| format!("the list of nodes of {}", options.server))
    };
    let value = Bytes::from(vec![b'x'; options.value_size]);
    let loader: Loader = Arc::new(move |_| {
        let value = value.clone();
        Box::pin(async move { Ok(value) })
    });
    let reader = |name, way, client| Reader::new(name, way, client, loader.clone(), options.keys, options.zipf);
    let readers = [
        reader("follows the list", Way::Leases, follow().await?),
        reader("knows one node", Way::Plain, Client::builder().server(&*options.server).build()?),
    ];
    println!("setting {} keys", options.keys);
    populate(&follow().await?, &loader, options.keys).await?;
    println!("reading {} s: add a node, or drain one", options.duration.as_secs());
    let mut run = Run::start(&readers, options.rate, Some(follow().await?));
    tokio::select! {
        () = run.go_on(options.duration.as_secs() as usize, |line| println!("{line}")) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    let changes = run.end().await;
    let track = |reader: &Arc<Reader>, behind| Track {
        name: reader.name.to_owned(),
        seconds: reader.seconds.lock().clone(),
        changes: changes.clone(),
        behind,
        kind: Kind::Client,
    };
    let tracks = [track(&readers[0], 15), track(&readers[1], usize::MAX)];
    let headings = HEADINGS.map(str::to_owned).to_vec();
    print(&format!("\n{}", table(&[vec![headings], rows(&tracks)].concat())))?;
    for change in &changes {
        println!("{}", describe(change));
    }
    if changes.is_empty() {
        println!("no node came or went");
    }
    if let Some(path) = &options.html {
        let about = format!("{} reads a second of {} keys, through {}.", options.rate, options.keys, options.server);
        write(path, &to_html("larder-bench resize", &[about], &tracks))?;
    }
    Ok(ExitCode::SUCCESS)
}
