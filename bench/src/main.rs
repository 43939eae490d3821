//! The `larder-bench` program: reads the command line and hands over to the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Measure memcache servers: Larder, memcached, or any that speaks their protocols.
#[derive(Debug, Parser)]
#[command(name = "larder-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do. Each has its own module in the library.
#[derive(Debug, Subcommand)]
enum Command {
    /// Print completions for a shell: larder-bench completions bash > /etc/bash_completion.d/larder-bench
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("larder-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "larder-bench", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}
