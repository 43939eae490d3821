//! Load generator and reports for any memcache server. Each subcommand of `larder-bench` is a module here.
#![forbid(unsafe_code)]
