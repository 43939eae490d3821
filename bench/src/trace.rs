//! Key traces: reads them, and generates small ones.
//!
//! The format is that of the public Twitter cache traces, a line a request without a header line:
//!
//! ```text
//! timestamp,key,key size,value size,client id,operation,TTL
//! 0,nz:u:eeW511W3dcH3de3d15ec,22,304,284,get,0
//! ```
//!
//! `timestamp` is in seconds, sizes in bytes, TTL in seconds (0 is never). `operation` is one of memcached's: `get`,
//! `gets`, `set`, `add`, `replace`, `cas`, `append`, `prepend`, `delete`, `incr`, `decr`. A file whose name ends in
//! `.zst` is decompressed on the way; `-` is standard input.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};
use serde::{Deserialize, Serialize};

/// The command of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they are memcached's commands")]
pub enum Command {
    Get,
    Gets,
    Set,
    Add,
    Replace,
    Cas,
    Append,
    Prepend,
    Delete,
    Incr,
    Decr,
}

/// One line of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Seconds since the trace began.
    pub time: u64,
    /// The key.
    pub key: String,
    /// Bytes of the key as the trace says; unused, since the key itself is there.
    pub key_size: usize,
    /// Bytes of the value.
    pub value_size: usize,
    /// The client that sent the request.
    pub client: u64,
    /// The command.
    pub command: Command,
    /// Time to live in seconds; 0 is never.
    pub ttl: u64,
}

/// Opens a trace and returns its requests in order. `bar` shows how much of the file is read.
///
/// # Errors
///
/// The file cannot be opened. A request is an error that names its line if the line cannot be parsed.
pub fn read(path: &Path, bar: &ProgressBar) -> Result<impl Iterator<Item = Result<Request>> + Send + use<>> {
    let name = path.display().to_string();
    let input: Box<dyn Read + Send> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => {
            let file = File::open(path).with_context(|| format!("cannot open the trace {name}"))?;
            bar.set_length(file.metadata()?.len());
            let file = bar.wrap_read(file);
            match path.extension() {
                Some(extension) if extension == "zst" => Box::new(zstd::Decoder::new(file)?),
                _ => Box::new(file),
            }
        }
    };
    // A quotation mark is a character of a key.
    let lines = csv::ReaderBuilder::new()
        .has_headers(false)
        .quoting(false)
        .trim(csv::Trim::All)
        .from_reader(BufReader::new(input));
    let requests = lines.into_deserialize().enumerate();
    Ok(requests.map(move |(number, request)| {
        request.with_context(|| format!("{name}, line {}: expected {COLUMNS}", number + 1))
    }))
}

/// The columns of a trace.
const COLUMNS: &str = "timestamp,key,key size,value size,client id,operation,TTL";

/// The kind of a generated trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Keys follow a Zipf distribution
    Zipf,
    /// Like zipf, with scans over keys that are read once, which push others out of an LRU
    Scan,
    /// Like zipf, with a time to live of one minute for most items
    Ttl,
}

/// Options of `larder-bench generate-trace`.
#[derive(Debug, Clone, Args)]
pub struct GenerateOptions {
    /// The file to write; compressed if the name ends in .zst. - is standard output
    #[arg(default_value = "-")]
    output: PathBuf,
    /// Kind of trace
    #[arg(long, value_enum, default_value_t = Shape::Zipf)]
    shape: Shape,
    /// Number of requests
    #[arg(long, default_value_t = 1_000_000)]
    requests: u64,
    /// Number of distinct keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Exponent of the Zipf distribution
    #[arg(long, default_value_t = 0.99)]
    zipf: f64,
    /// Requests in one second of the trace
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Seed: the same seed gives the same trace
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs `larder-bench generate-trace`.
pub fn generate(options: &GenerateOptions) -> Result<()> {
    let name = options.output.display();
    let mut output: Box<dyn Write> = match options.output.to_str() {
        Some("-") => Box::new(std::io::stdout().lock()),
        _ => {
            let file = File::create(&options.output).with_context(|| format!("creating {name}"))?;
            match options.output.extension() {
                Some(extension) if extension == "zst" => Box::new(zstd::Encoder::new(file, 3)?.auto_finish()),
                _ => Box::new(file),
            }
        }
    };
    let mut lines = csv::WriterBuilder::new().has_headers(false).from_writer(&mut output);
    for request in requests(options)? {
        lines.serialize(request)?;
    }
    lines.flush().with_context(|| format!("writing {name}"))
}

/// Returns the requests of a generated trace.
pub fn requests(options: &GenerateOptions) -> Result<impl Iterator<Item = Request> + use<>> {
    let GenerateOptions { shape, keys, rate, .. } = *options;
    let mut random = StdRng::seed_from_u64(options.seed);
    let zipf = Zipf::new(keys as f64, options.zipf).context("a Zipf exponent is 0 or more")?;
    let mut scanned = 0;
    let mut scan_left = 0u64;
    Ok((0..options.requests).map(move |number| {
        if shape == Shape::Scan && scan_left == 0 && random.random_ratio(1, 5000) {
            scan_left = 1000;
        }
        let key = if scan_left > 0 {
            scan_left -= 1;
            scanned += 1;
            keys + scanned
        } else {
            zipf.sample(&mut random) as u64
        };
        // A key has the same size and time to live in every request.
        let own = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let short = shape == Shape::Ttl && own % 10 != 0;
        let key = format!("key:{key:016}");
        Request {
            time: number / rate,
            key_size: key.len(),
            key,
            value_size: 50 + (own % 450) as usize,
            client: 1,
            command: Command::Get,
            ttl: if short { 60 } else { 0 },
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(output: PathBuf, shape: Shape) -> GenerateOptions {
        GenerateOptions { output, shape, requests: 5000, keys: 100, zipf: 0.99, rate: 1000, seed: 1 }
    }

    #[test]
    fn a_made_trace_reads_back_the_same_compressed_or_not() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["trace.csv", "trace.csv.zst"] {
            for shape in [Shape::Zipf, Shape::Scan, Shape::Ttl] {
                let options = options(folder.path().join(name), shape);
                generate(&options).unwrap();
                let back = read(&options.output, &ProgressBar::hidden()).unwrap().collect::<Result<Vec<_>>>().unwrap();
                assert_eq!(back, requests(&options).unwrap().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_line_of_the_twitter_traces_reads_as_its_columns_say() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.csv");
        std::fs::write(&path, "7,nz:u:eeW511W3dcH3de3d15ec,22,304,284,get,60\n").unwrap();
        let request = read(&path, &ProgressBar::hidden()).unwrap().next().unwrap().unwrap();
        assert_eq!((request.time, request.value_size, request.ttl), (7, 304, 60));
        assert_eq!(request.command, Command::Get);
    }

    #[test]
    fn a_line_that_is_no_request_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.csv");
        std::fs::write(&path, "0,a,1,1,1,get,0\n0,a,1,1,1,fetch,0\n").unwrap();
        let error = read(&path, &ProgressBar::hidden()).unwrap().nth(1).unwrap().unwrap_err();
        assert!(format!("{error:#}").contains("line 2"), "{error:#}");
    }
}
