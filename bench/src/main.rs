//! The `larder-bench` program: reads the command line and hands over to the library.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Measure memcache servers: Larder, memcached, or any that speaks their protocols.
#[derive(Debug, Parser)]
#[command(name = "larder-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The subcommands. Each has its own module in the library.
#[derive(Debug, Subcommand)]
enum Command {
    /// Put load on memcache servers and report rates and latencies
    Load(Box<larder_bench::load::LoadArgs>),
    /// Compare reports of `load`: ratios with their spread
    Compare(larder_bench::compare::CompareArgs),
    /// Run this node and another server by turns under the same loads, and compare what they spend
    Versus(larder_bench::versus::VersusArgs),
    /// Look for reads that are older than promised, on SQLite or PostgreSQL, while nodes, writers and links fail
    Coherence(larder_bench::coherence::CoherenceOptions),
    /// A process of `coherence`
    #[command(hide = true)]
    CoherenceRole(Box<larder_bench::coherence::RoleOptions>),
    /// Measure what coherence with a datastore costs: commits, strict reads, larder-tail
    DatastorePrice(larder_bench::price::PriceOptions),
    /// Three nodes, a client and a datastore on this machine: what a cache is worth, and what a dying node costs
    Demo(larder_bench::demo::DemoOptions),
    /// Read through a running cluster while nodes come and go, and report what each change cost
    Resize(larder_bench::resize::ResizeOptions),
    /// Replay a key trace against servers, reading through on a miss, and report the hit ratio
    Replay(Box<larder_bench::replay::ReplayOptions>),
    /// Run the engine under each eviction policy, and exact LRU, over a trace: hit ratio by memory size
    Simulate(larder_bench::simulate::SimulateOptions),
    /// Write a small trace to replay or simulate
    GenerateTrace(larder_bench::trace::GenerateOptions),
    /// Run a node, as the demo does
    #[command(hide = true)]
    Node(Box<larder_node::CommandLine>),
    /// Print completions for a shell: larder-bench completions bash > /etc/bash_completion.d/larder-bench
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Returns the command line, for the manual too.
pub(crate) fn command_line() -> clap::Command {
    larder_node::without_foreign_variables(Cli::command())
}

fn main() -> ExitCode {
    let matches = command_line().get_matches();
    let command = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).command;
    // A node starts its own log.
    if !matches!(command, Command::Node(_)) {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,larder_client=error"));
        let log = tracing_subscriber::fmt().with_env_filter(filter).without_time().with_target(false);
        log.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).init();
    }
    match run(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Load(args) => larder_bench::load::run(&args),
        Command::Compare(args) => larder_bench::compare::run(&args),
        Command::Versus(args) => larder_bench::versus::run(&args),
        Command::Coherence(options) => runtime()?.block_on(larder_bench::coherence::run(options)),
        Command::CoherenceRole(options) => {
            runtime()?.block_on(larder_bench::coherence::run_role(*options)).map(|()| ExitCode::SUCCESS)
        }
        Command::DatastorePrice(options) => {
            runtime()?.block_on(larder_bench::price::run(options)).map(|()| ExitCode::SUCCESS)
        }
        Command::Demo(options) => runtime()?.block_on(larder_bench::demo::run(options)),
        Command::Resize(options) => runtime()?.block_on(larder_bench::resize::run(options)),
        Command::Replay(options) => runtime()?.block_on(larder_bench::replay::run(*options)),
        Command::Simulate(options) => larder_bench::simulate::run(&options),
        Command::GenerateTrace(options) => larder_bench::trace::generate(&options).map(|()| ExitCode::SUCCESS),
        Command::Node(command_line) => {
            larder_bench::process::end_with_parent();
            Ok(larder_node::run(command_line.settings))
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut command_line(), "larder-bench", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new()
}
