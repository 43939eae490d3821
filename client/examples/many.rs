//! Reads many rows through the cache, with one query for those that it does not have.
//!
//! ```sh
//! cargo run --example many 127.0.0.1:11211
//! ```

use std::collections::HashMap;
use std::time::Duration;

use larder_client::{Client, Error, Json};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:11211".to_owned());
    run(&server).await
}

/// Stands for a query with `WHERE id IN (…)`.
async fn prices(ids: Vec<u32>) -> std::io::Result<HashMap<u32, f64>> {
    println!("one query for {} prices", ids.len());
    Ok(ids.into_iter().map(|id| (id, f64::from(id) / 10.0)).collect())
}

/// Runs the example against the server at this address.
pub async fn run(server: &str) -> Result<(), Error> {
    let cache = Client::builder().server(server).build()?;
    let through = cache.typed(Json).read_through(Duration::from_secs(60));
    let keys: Vec<String> = (1..=100).map(|id| format!("example:price:{id}")).collect();
    for deleted in cache.delete_many(&keys).await {
        deleted?;
    }
    let first: Vec<u32> = (1..=60).collect();
    let all: Vec<u32> = (1..=100).collect();
    let key = |id: &u32| format!("example:price:{id}");
    assert_eq!(through.get_many(&first, key, prices).await?.len(), 60);
    // Sixty are there by now: the query is for the other forty.
    let found = through.get_many(&all, key, prices).await?;
    println!("{} prices, that of 7 is {}", found.len(), found[&7]);
    assert_eq!((found.len(), found[&7]), (100, 0.7));
    Ok(())
}
