//! Uses the cache from a program without an async runtime.
//!
//! ```sh
//! cargo run --example blocking 127.0.0.1:11211
//! ```

use std::time::Duration;

use larder_client::{Client, Error};

fn main() -> Result<(), Error> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:11211".to_owned());
    run(&server)
}

/// Runs the example against the server at this address.
pub fn run(server: &str) -> Result<(), Error> {
    let cache = Client::builder().server(server).build_blocking()?;
    let minute = Duration::from_secs(60);
    let page = cache.get_or_load("example:page", minute, || Ok::<_, std::io::Error>("<h1>Hello</h1>"))?;
    println!("{}", String::from_utf8_lossy(&page));
    // What has no blocking form of its own is waited for.
    let visits = cache.wait(|cache| async move { cache.incr_or_init("example:visits", 1, 1, minute).await })?;
    println!("{visits} visits in this minute");
    for node in cache.wait(|cache| async move { Ok(cache.nodes()) })? {
        println!("{}: {:?}, {} connections", node.address, node.circuit, node.connections);
    }
    cache.delete("example:page")?;
    Ok(())
}
