//! The demo's table.

use std::sync::atomic::{AtomicU64, Ordering};

use super::phase::{Phase, Results};

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Formats the end of a phase as one line.
pub(super) fn line(phase: &Phase) -> String {
    format!("done: {:26} {:>8.0} ops/s", phase.name, phase.operations() as f64 / phase.seconds())
}

/// Prints the tables of all phases and nodes; nothing if no phase has ended.
pub(super) fn print(Results { nodes, phases }: &Results) {
    if phases.is_empty() {
        return;
    }
    println!(
        "\n{:26} {:>8} {:>8} {:>8} {:>9} {:>9} {:>13} {:>7} {:>6}",
        "phase", "ops/s", "p50 ms", "p99 ms", "p99.9 ms", "hit ratio", "datastore r/s", "errors", "stale"
    );
    for phase in phases {
        println!(
            "{:26} {:>8.0} {:>8.2} {:>8.2} {:>9.2} {:>7.1} % {:>13.0} {:>7} {:>6}",
            phase.name,
            phase.operations() as f64 / phase.seconds(),
            phase.quantile(0.5),
            phase.quantile(0.99),
            phase.quantile(0.999),
            100.0 * phase.hit_ratio(),
            get(&phase.counts.datastore_reads) as f64 / phase.seconds(),
            get(&phase.counts.errors),
            get(&phase.counts.stale),
        );
    }
    print!("\n{:26}", "node (keys it owns)");
    phases.iter().for_each(|phase| print!(" {:>22}", phase.name));
    println!();
    for (number, node) in nodes.iter().enumerate() {
        print!("{node:26}");
        for phase in phases {
            let node = &phase.counts.by_node[number];
            let (reads, hits) = (get(&node.reads), get(&node.hits));
            let ratio = if reads == 0 { 0.0 } else { 100.0 * hits as f64 / reads as f64 };
            print!(" {:>8.0} r/s {ratio:>6.1} %", reads as f64 / phase.seconds());
        }
        println!();
    }
    println!();
    for phase in phases {
        for mark in ["killed", "back"] {
            let Some((usual, recovered)) = phase.recovery(mark) else { continue };
            match recovered {
                Some(after) => println!(
                    "node {mark}: p99 was {usual:.2} ms before, and within twice that again {:.2} s after",
                    after.as_secs_f64()
                ),
                None => println!("node {mark}: p99 was {usual:.2} ms before, and did not come back to twice that"),
            }
        }
        let unreached = get(&phase.counts.unreached);
        if unreached > 0 {
            println!("{}: {unreached} deletes could not reach the node that was down", phase.name);
        }
    }
    println!("stale: pages older than a write that had returned before the read began; the promise is 0");
}
