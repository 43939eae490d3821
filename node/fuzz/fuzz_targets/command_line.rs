//! Reads arbitrary words, one a line, as the command line of a node. They are settings or an error.
#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use larder_node::CommandLine;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let words = bytes.split(|&byte| byte == b'\n').map(|word| OsString::from_vec(word.to_vec()));
    match CommandLine::read(std::iter::once("larder-node".into()).chain(words)) {
        Ok(command_line) => _ = format!("{:?}", command_line.settings),
        Err(error) => _ = error.to_string(),
    }
});
