//! `larder-bench load`: puts load on servers over raw connections, at as little CPU time as possible.

mod answers;
mod args;
mod connection;
mod datagrams;
mod find_max;
mod phase_state;
mod plan;
mod requests;
mod session;
mod transport;
mod verify;
mod wire;
mod worker;

use std::process::ExitCode;
use std::time::Duration;

pub use args::LoadArgs;
pub(crate) use args::{cpus_exist, no_server_twice};
pub use plan::{Schedule, Stop};
pub use session::Session;
pub(crate) use session::client_cpu;
pub use transport::Address;
pub(crate) use transport::check_reachable;
pub use wire::Protocol;

use find_max::Search;

use crate::interrupt::Interrupt;
use crate::report::{Report, ServerStats};

/// Runs `larder-bench load` to its report and returns the exit status.
pub fn run(args: &LoadArgs) -> anyhow::Result<ExitCode> {
    args.output.check()?;
    let interrupt = Interrupt::on_signals()?;
    let report = measure(args, &interrupt)?;
    args.output.finish(report, interrupt.exit_status())
}

/// Runs the load that `args` describe and returns its report. Ends early once `interrupt` is set.
///
/// # Errors
///
/// Options contradict each other, or a server cannot be reached.
pub fn measure(args: &LoadArgs, interrupt: &Interrupt) -> anyhow::Result<Report> {
    let session = Session::open_until(args, interrupt.clone())?;
    if args.populates() {
        session.populate()?;
    }
    match Search::of(args) {
        Some(search) => find_max::run(&session, &search),
        None => {
            session.warm_up(args.warmup, args.schedule())?;
            let servers: Vec<String> = args.servers.iter().map(ToString::to_string).collect();
            let stats = || ServerStats::read_blocking(&servers, &args.access);
            let before = stats();
            let mut report = session.run(Duration::ZERO, args.stop(), args.schedule())?;
            if let Some((before, after)) = before.zip(stats()) {
                report.set_use(&before, &after);
            }
            Ok(report)
        }
    }
}
