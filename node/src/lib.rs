//! A memcache server: more items in the same memory, less CPU for each.
//!
//! A request passes through `net` (a socket, its connection and its session), the decoder of its protocol, `commands`,
//! [`store`], the encoder of its protocol, and one write. [`Server`] puts them together. The `larder-node` binary is a
//! command line around it.

mod background;
mod cli;
mod clock;
pub mod cluster;
mod commands;
mod config;
mod daemon;
mod error;
mod http;
mod log;
mod maintenance;
mod memory_file;
mod net;
mod privileges;
mod server;
mod shared;
mod statistics;
pub mod store;
mod version;

pub use cli::CommandLine;
pub use cluster::ClusterOptions;
pub use config::address::ListenError;
pub use config::arguments::without_foreign_variables;
pub use config::options::{EngineOptions, Extended, TlsOptions};
pub use config::settings::{LogFormat, Settings};
pub use daemon::run;
pub use error::StartError;
pub use server::Server;
pub use version::{LARDER_VERSION, VERSION};
