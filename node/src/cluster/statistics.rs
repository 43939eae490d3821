//! `stats cluster`.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Cluster;
use super::ownership::Members;

/// Names and values, in order.
pub(crate) fn statistics(cluster: &Cluster) -> Vec<(String, String)> {
    let routing = cluster.routing.borrow().clone();
    let view = &routing.view;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
    let state = |id: &str| view.state(id).map_or("outside", |state| state.name());
    let mut lines = vec![
        ("name".to_owned(), cluster.identity.cluster.clone()),
        ("id".to_owned(), cluster.identity.id.clone()),
        ("peer_address".to_owned(), cluster.peer.clone()),
        ("state".to_owned(), state(&cluster.identity.id).to_owned()),
        ("version".to_owned(), view.version().to_string()),
        ("hashing".to_owned(), cluster.options.cluster_hashing.to_string()),
        ("members".to_owned(), routing.members.len().to_string()),
        ("settled".to_owned(), if routing.moving.is_none() { "yes" } else { "no" }.to_owned()),
        ("links_refused".to_owned(), count(&cluster.counts.links_refused)),
        ("failed_between_nodes".to_owned(), count(&cluster.counts.between)),
        ("failed_unreachable".to_owned(), count(&cluster.counts.unreachable)),
        ("takes".to_owned(), count(&cluster.moves.takes)),
        ("items_taken".to_owned(), count(&cluster.moves.taken)),
        ("items_pulled".to_owned(), count(&cluster.moves.pulled)),
        ("items_given".to_owned(), count(&cluster.moves.given)),
        ("sources_severed".to_owned(), count(&cluster.moves.severed)),
        ("items_swept".to_owned(), count(&cluster.counts.swept)),
    ];
    if let Some(moving) = &routing.moving {
        let ids = |members: Members| {
            let places = (0..).zip(&routing.members).filter(|(place, _)| members >> place & 1 == 1);
            places.map(|(_, peer)| &*peer.id).collect::<Vec<_>>().join(" ")
        };
        let (acknowledgements, items) = moving.waits_for();
        lines.push(("waits_for_acknowledgements_of".to_owned(), ids(acknowledgements)));
        lines.push(("waits_for_items_of".to_owned(), ids(items)));
    }
    let advice = cluster.advice.borrow().clone();
    lines.extend([
        ("wanted_nodes".to_owned(), advice.wanted.to_string()),
        ("one_more_saves_reads".to_owned(), format!("{:.1}", advice.figures.gain)),
        ("one_less_costs_reads".to_owned(), format!("{:.1}", advice.figures.loss)),
        ("workers_busy_percent".to_owned(), format!("{:.1}", advice.figures.cpu * 100.0)),
        ("hottest_key_percent".to_owned(), format!("{:.1}", advice.figures.hottest * 100.0)),
        ("reason".to_owned(), advice.reason),
    ]);
    for peer in &routing.members {
        let mut member = |name: &str, value: String| lines.push((format!("{}:{name}", peer.id), value));
        member("state", state(&peer.id).to_owned());
        member("generation", peer.generation.to_string());
        if peer.id != cluster.identity.id {
            let (heard, status) = peer.last();
            member("reachable", if peer.is_reachable() { "yes" } else { "suspect" }.to_owned());
            member("settled", if status.settled { "yes" } else { "no" }.to_owned());
            member("heard_milliseconds_ago", heard.elapsed().as_millis().to_string());
            member("forwarded_out", count(&peer.forwarded_out));
            member("forwarded_in", count(&peer.forwarded_in));
        }
    }
    lines
}
