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
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};

/// The command of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Seconds since the trace began.
    pub time: u64,
    /// The key: any bytes, commas included.
    pub key: Vec<u8>,
    /// Bytes of the key as the trace says; unused, since the key itself is there.
    pub key_size: u64,
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
                Some(extension) if extension == "zst" => {
                    let mut decoder = zstd::Decoder::new(file)?;
                    // Files of `zstd --long=31` need a window of 2 GiB.
                    decoder.window_log_max(31)?;
                    Box::new(decoder)
                }
                _ => Box::new(file),
            }
        }
    };
    Ok(read_from(input, name))
}

/// Returns the requests of a trace in order. `name` is what errors call it; they are those of [`read`].
pub fn read_from(input: impl Read + Send, name: String) -> impl Iterator<Item = Result<Request>> + Send {
    // Not CSV: a key is any bytes without quotation, commas included.
    let lines = BufReader::new(input).split(b'\n').zip(1u64..);
    lines.filter_map(move |(line, number)| {
        let line = match line {
            Ok(line) => line,
            Err(error) => return Some(Err(error).with_context(|| format!("cannot read {name}, line {number}"))),
        };
        let line = line.trim_ascii();
        let request = || parse(line).with_context(|| format!("{name}, line {number}: expected {COLUMNS}"));
        (!line.is_empty()).then(request)
    })
}

/// Parses a line: one column before the key, five behind it.
fn parse(line: &[u8]) -> Result<Request> {
    let mut columns = line.rsplitn(6, |&byte| byte == b',').map(<[u8]>::trim_ascii);
    let mut column = |name: &str| {
        let column = columns.next().with_context(|| format!("there is no {name}"))?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(column))
    };
    let number = |name: &str, column: &str| column.parse::<u64>().with_context(|| format!("the {name} is `{column}`"));
    let ttl = number("TTL", &column("TTL")?)?;
    let operation = column("operation")?;
    let client = number("client id", &column("client id")?)?;
    let value_size = number("value size", &column("value size")?)?;
    let key_size = number("key size", &column("key size")?)?;
    ensure!(value_size <= VALUE_MAX, "the value size is {value_size}, and servers store at most {VALUE_MAX} bytes");
    let mut front = columns.next().context("there is no key")?.splitn(2, |&byte| byte == b',').map(<[u8]>::trim_ascii);
    let time = front.next().unwrap_or_default();
    let key = front.next().context("there is no key")?.to_vec();
    let time = number("timestamp", &String::from_utf8_lossy(time))?;
    let command = Command::from_str(&operation, false).ok();
    let command = command.with_context(|| format!("the operation is `{operation}`"))?;
    Ok(Request { time, key, key_size, value_size: value_size as usize, client, command, ttl })
}

/// The largest value of a request, in bytes: 1 GiB, the most that memcached's -I allows.
pub const VALUE_MAX: u64 = 1 << 30;

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
    let output: Box<dyn Write> = match options.output.to_str() {
        Some("-") => Box::new(std::io::stdout().lock()),
        _ => {
            let file = File::create(&options.output).with_context(|| format!("creating {name}"))?;
            match options.output.extension() {
                Some(extension) if extension == "zst" => Box::new(zstd::Encoder::new(file, 3)?.auto_finish()),
                _ => Box::new(file),
            }
        }
    };
    let mut output = BufWriter::new(output);
    for request in requests(options)? {
        let Request { time, key, key_size, value_size, client, command, ttl } = request;
        let command = command.to_possible_value().expect("no command is hidden");
        write!(output, "{time},").and_then(|()| output.write_all(&key)).with_context(|| format!("writing {name}"))?;
        writeln!(output, ",{key_size},{value_size},{client},{},{ttl}", command.get_name())
            .with_context(|| format!("writing {name}"))?;
    }
    output.flush().with_context(|| format!("writing {name}"))
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
            key_size: key.len() as u64,
            key: key.into_bytes(),
            value_size: 50 + (own % 450) as usize,
            client: 1,
            command: Command::Get,
            ttl: if short { 60 } else { 0 },
        }
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    fn requests_of(bytes: &[u8], name: &str) -> Vec<Result<Request>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        read(&path, &ProgressBar::hidden()).unwrap().collect()
    }

    #[test]
    fn a_key_is_any_bytes_between_the_first_column_and_the_last_five() {
        let lines = b"0,a,b,,c,5,1,1,get,0\r\n1,\xff\"\xfe,3,1,1,set,0\n 2 , k , 1 , 7 , 1 , delete , 0";
        let requests: Vec<Request> = requests_of(lines, "trace.csv").into_iter().map(Result::unwrap).collect();
        let keys: Vec<&[u8]> = requests.iter().map(|request| request.key.as_slice()).collect();
        assert_eq!(keys, [&b"a,b,,c"[..], b"\xff\"\xfe", b"k"]);
        assert_eq!((requests[2].time, requests[2].value_size, requests[2].command), (2, 7, Command::Delete));
    }

    proptest! {
        #[test]
        fn a_line_of_any_key_reads_back(time: u64, key in "[^\\s\\x00-\\x20]{1,20}", size in 0..VALUE_MAX, ttl: u64) {
            let line = format!("{time},{key},9,{size},7,cas,{ttl}");
            let request = parse(line.as_bytes()).unwrap();
            prop_assert_eq!((request.time, request.ttl, request.value_size as u64), (time, ttl, size));
            prop_assert_eq!(request.key, key.as_bytes());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, line in "[0-9a-z, ]{0,40}") {
            let _ = parse(&bytes);
            let _ = parse(line.as_bytes());
            requests_of(&bytes, "trace.csv");
        }
    }

    #[test]
    fn blank_lines_count_in_the_number_of_a_bad_line() {
        let errors = requests_of(b"\n\r\n0,a,1,1,1,get,0\n\n0,a,1,1\n", "trace.csv");
        let words = format!("{:#}", errors.into_iter().nth(1).unwrap().unwrap_err());
        assert!(words.contains("line 5"), "{words}");
        for bad in ["", "0", "x,a,1,1,1,get,0", "0,a,1,1,1,get,-1", "0,1,1,1,get,0", "0,a,1,1e3,1,get,0"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_trace_compressed_with_the_longest_window_is_read() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(31)).unwrap();
        encoder.write_all(b"0,a,1,1,1,get,0\n").unwrap();
        let requests = requests_of(&encoder.finish().unwrap(), "trace.csv.zst");
        assert_eq!(requests.into_iter().map(Result::unwrap).count(), 1);
    }
}
