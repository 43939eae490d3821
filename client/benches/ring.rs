//! What the ring costs: finding a key's owner, and making a ring. `cargo bench -p larder-client --bench ring`

use divan::{Bencher, black_box};
use larder_client::{Hashing, KeyHash, Ring, Server};

fn main() {
    divan::main();
}

fn servers(count: usize) -> Vec<Server> {
    let server =
        |number| Server { host: format!("10.0.{}.{}", number / 256, number % 256), port: 11211, weight: 1, name: None };
    (0..count).map(server).collect()
}

const MODES: [(&str, Hashing); 4] = [
    ("ketama, weighted", Hashing::KetamaWeighted),
    ("ketama", Hashing::Ketama),
    ("twemproxy, fnv1a_64", Hashing::Twemproxy(KeyHash::Fnv1a64)),
    ("rendezvous", Hashing::Rendezvous),
];

fn modes() -> impl Iterator<Item = &'static str> {
    MODES.iter().map(|(name, _)| *name)
}

fn hashing(mode: &str) -> Hashing {
    MODES.iter().find(|(name, _)| *name == mode).expect("a mode of the list").1
}

/// Hash and ring, of keys of 32 bytes over 100 nodes.
#[divan::bench(args = modes())]
fn owner_among_100(bencher: Bencher<'_, '_>, mode: &str) {
    let ring = Ring::new(&servers(100), hashing(mode));
    let keys: Vec<String> = (0..1024).map(|number| format!("user:{number:027}")).collect();
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 1) % keys.len();
        ring.owner(black_box(keys[next].as_bytes()))
    });
}

#[divan::bench(args = [10, 100, 1000])]
fn build_weighted_ketama(bencher: Bencher<'_, '_>, nodes: usize) {
    let servers = servers(nodes);
    bencher.bench_local(|| Ring::new(black_box(&servers), Hashing::KetamaWeighted));
}
