//! The examples run against a node.

use larder_node::{Server, Settings};

// A test calls what `main` calls, and the programs are public within themselves.
#[allow(dead_code, unreachable_pub)]
#[path = "../examples/blocking.rs"]
mod blocking;
#[allow(dead_code, unreachable_pub)]
#[path = "../examples/many.rs"]
mod many;
#[allow(dead_code, unreachable_pub)]
#[path = "../examples/read_through.rs"]
mod read_through;
#[allow(dead_code, unreachable_pub)]
#[path = "../examples/typed.rs"]
mod typed;

fn node() -> (Server, String) {
    let node = Server::start(Settings { port: Some(-1), threads: 1, ..Settings::default() }).unwrap();
    let address = node.addresses()[0].to_string();
    (node, address)
}

#[tokio::test]
async fn the_asynchronous_examples_run_and_find_what_they_say() {
    let (node, address) = node();
    read_through::run(&address).await.unwrap();
    typed::run(&address).await.unwrap();
    many::run(&address).await.unwrap();
    node.stop();
}

#[test]
fn the_blocking_example_runs() {
    let (node, address) = node();
    blocking::run(&address).unwrap();
    node.stop();
}
