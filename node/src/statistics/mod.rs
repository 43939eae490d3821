//! The `stats` command. The names are memcached's (protocol.txt, "Statistics"), the figures are this node's.

mod answer;
pub(crate) mod counters;
mod groups;
pub(crate) mod latency;
pub(crate) mod prefixes;
mod settings;
pub(crate) mod slab_classes;

use larder_protocol::{Error, Outcome, Reply, TextReply};

use crate::cluster;
use crate::commands::dump::{Dump, Format, cache_dump};
use crate::commands::effect::Effect;
use crate::commands::turn::Turn;
use crate::shared::Shared;
use answer::Answer;
use counters::Totals;

/// Returns the reads that count for the hit ratio, those that hit, and estimates of how many would have hit with other
/// amounts of memory: pairs of a multiple of the node's memory and hits. All are counts since the start or `stats reset`.
pub(crate) fn hits_by_memory(shared: &Shared) -> (u64, u64, [(f64, u64); 3]) {
    let totals = Totals::of(shared.workers.iter().map(|worker| &**worker));
    let (reads, hits) = (totals.cmd_get + totals.cmd_touch, totals.get_hits + totals.touch_hits);
    let with = |gained: f64| (hits as f64 + gained).clamp(0.0, reads as f64) as u64;
    (reads, hits, shared.store.hits_with_other_memory().map(|other| (other.factor, with(other.hits))))
}

/// Returns the names and values of a group, as `stats` shows them: `settings`, `items` or `slabs`, or the general ones.
pub(crate) fn named(shared: &Shared, group: &str) -> Vec<(String, String)> {
    let (now, mut bytes) = (shared.clock.now(), Vec::new());
    let out = &mut Answer { reply: &Reply::Text(TextReply::default()), bytes: &mut bytes };
    match group {
        "settings" => settings::write(shared, out),
        "items" => groups::items(shared, now, out),
        "slabs" => groups::slabs(shared, out),
        _ => groups::general(shared, now, out),
    }
    let lines = String::from_utf8_lossy(&bytes);
    let pair =
        |line: &str| line.strip_prefix("STAT ")?.split_once(' ').map(|(name, value)| (name.into(), value.into()));
    lines.lines().filter_map(pair).collect()
}

/// Writes the answer to `stats group`.
pub(crate) fn answer(group: &[u8], turn: &mut Turn<'_>) -> Effect {
    let (shared, now, reply) = (turn.shared, turn.now, turn.reply);
    let out = &mut Answer { reply, bytes: &mut turn.output.bytes };
    let words: Vec<&[u8]> = group.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).collect();
    let is_text = matches!(reply, Reply::Text(_));
    match words[..] {
        [] => groups::general(shared, now, out),
        [b"cluster", ..] => {
            for (name, value) in shared.cluster.iter().flat_map(|cluster| cluster::statistics(cluster)) {
                out.stat(&name, value);
            }
        }
        [b"settings", ..] => settings::write(shared, out),
        [b"items", ..] => groups::items(shared, now, out),
        [b"slabs", ..] => groups::slabs(shared, out),
        // Counted now, a slice of the store at a time.
        [b"sizes"] if is_text && shared.settings.extended.track_sizes => {
            return Effect::Dump(Dump { format: Format::Sizes, all: true });
        }
        [b"sizes", ..] => out.stat("sizes_status", "disabled"),
        [b"conns", ..] => groups::connections(shared, now, out),
        [b"reset", ..] => {
            shared.workers.iter().for_each(|worker| worker.reset());
            shared.store.reset_statistics();
            shared.prefixes.clear();
            shared.watchers.reset_statistics();
            return Effect::Reply(Outcome::Reset);
        }
        [b"detail", ..] if shared.settings.no_dumping => {
            return refuse(Error::Client("stats detail not allowed"), reply);
        }
        [b"detail", b"dump", ..] => {
            let lines = shared.prefixes.dump();
            match reply {
                Reply::Binary(_) => out.stat("detailed", lines + "END\r\n"),
                _ => out.bytes.extend_from_slice(lines.as_bytes()),
            }
        }
        [b"detail", switch @ (b"on" | b"off"), ..] => {
            shared.prefixes.switch(switch == b"on");
            // The binary protocol has no OK: its list of statistics is empty.
            if !matches!(reply, Reply::Binary(_)) {
                return Effect::Reply(Outcome::Ok);
            }
        }
        [b"detail", ..] => return refuse(Error::Client("usage: stats detail on|off|dump"), reply),
        [b"cachedump", ..] if is_text => {
            if let Err(error) = cache_dump(&words[1..], shared, now, out.bytes) {
                return refuse(error, reply);
            }
        }
        _ => return refuse(Error::UnknownCommand, reply),
    }
    reply.end_of_statistics(out.bytes);
    Effect::Replied
}

/// Returns the refusal of a group. The binary protocol answers every one as a missing key.
fn refuse(error: Error, reply: &Reply<'_>) -> Effect {
    Effect::Reply(match reply {
        Reply::Binary(_) => Outcome::NotFound,
        _ => Outcome::Error(error),
    })
}
