//! Load generator and reports for any memcache server. Each subcommand of `larder-bench` is a module here.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod coherence;
pub mod compare;
pub mod demo;
pub mod interrupt;
pub mod load;
pub mod postgres;
pub mod price;
pub mod process;
pub mod replay;
pub mod report;
pub mod resize;
pub mod simulate;
pub mod sqlite;
pub mod statements;
pub mod trace;
pub mod versus;
pub mod workload;
