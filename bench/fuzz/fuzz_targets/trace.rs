//! Reads arbitrary bytes as a trace. A line is a request, an error that names it, or blank; and a request that is
//! written as a line is read as the same request.
#![no_main]

use larder_bench::trace::read_from;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The reader ends with its input.
    let input = std::io::Cursor::new(bytes.to_vec());
    for request in read_from(input, "trace".to_owned()).filter_map(Result::ok) {
        let command = format!("{:?}", request.command).to_lowercase();
        let mut line = format!("{},", request.time).into_bytes();
        line.extend_from_slice(&request.key);
        let (size, value, client, ttl) = (request.key_size, request.value_size, request.client, request.ttl);
        line.extend_from_slice(format!(",{size},{value},{client},{command},{ttl}\n").as_bytes());
        let again = read_from(std::io::Cursor::new(line), "line".to_owned()).next();
        assert_eq!(again.expect("a line").expect("a request"), request);
    }
});
