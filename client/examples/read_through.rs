//! Reads a row through the cache, changes it, and reads it again.
//!
//! ```sh
//! cargo run --example read_through 127.0.0.1:11211
//! ```

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use larder_client::{Client, Error, Plain};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:11211".to_owned());
    run(&server).await
}

/// Stands for a datastore: one row, and how often it was read.
struct Datastore {
    name: Mutex<String>,
    reads: AtomicUsize,
}

impl Datastore {
    async fn read(&self) -> std::io::Result<String> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(self.name.lock().expect("no writer panics").clone())
    }

    async fn write(&self, name: &str) -> std::io::Result<()> {
        *self.name.lock().expect("no writer panics") = name.to_owned();
        Ok(())
    }
}

/// Runs the example against the server at this address.
pub async fn run(server: &str) -> Result<(), Error> {
    let datastore = Datastore { name: Mutex::new("Ada".to_owned()), reads: AtomicUsize::new(0) };
    let cache = Client::builder().server(server).build()?;
    let users = cache.typed(Plain).read_through(Duration::from_secs(60));
    cache.delete("example:user:1").await?;

    // Ten callers at once: one of them loads, the others wait for its value.
    let callers = (0..10).map(|_| users.get("example:user:1", || datastore.read()));
    for name in futures_util::future::join_all(callers).await {
        let name: String = name?;
        assert_eq!(name, "Ada");
    }
    println!("10 callers, {} read of the datastore", datastore.reads.load(Ordering::Relaxed));

    // Commit, then delete.
    datastore.write("Grace").await.map_err(|error| Error::Load(std::sync::Arc::new(error)))?;
    cache.delete("example:user:1").await?;
    let name: String = users.get("example:user:1", || datastore.read()).await?;
    println!("after the change: {name}");
    assert_eq!(name, "Grace");
    Ok(())
}
