//! The `larder-node` binary: a command line around [`larder_node::Server`].

use std::process::ExitCode;

use larder_node::CommandLine;

fn main() -> ExitCode {
    larder_node::run(CommandLine::of_this_process().settings)
}
