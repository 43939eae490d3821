//! Stores a struct as JSON, and changes it while others change it too.
//!
//! ```sh
//! cargo run --example typed 127.0.0.1:11211
//! ```

use std::time::Duration;

use larder_client::{Client, Error, Json};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:11211".to_owned());
    run(&server).await
}

/// What a visitor wants to buy: the numbers of articles.
#[derive(Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
struct Cart {
    articles: Vec<u32>,
}

/// Runs the example against the server at this address.
pub async fn run(server: &str) -> Result<(), Error> {
    let cache = Client::builder().server(server).build()?;
    let carts = cache.typed(Json);
    carts.set("example:cart", &Cart::default(), Duration::from_secs(60)).await?;

    // Five requests add an article at the same time, and none is lost.
    let add = |article| {
        let carts = carts.clone();
        async move {
            let add = |cart: Option<Cart>| {
                let mut cart = cart.unwrap_or_default();
                cart.articles.push(article);
                Some(cart)
            };
            carts.update("example:cart", Duration::from_secs(60), add).await
        }
    };
    for added in futures_util::future::join_all((1..=5).map(add)).await {
        added?;
    }
    let mut cart: Cart = carts.get("example:cart").await?.unwrap_or_default();
    cart.articles.sort_unstable();
    println!("{cart:?}");
    assert_eq!(cart.articles, [1, 2, 3, 4, 5]);
    Ok(())
}
