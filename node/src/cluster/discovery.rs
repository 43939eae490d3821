//! The list of nodes as discovery clients ask for it: the format of the auto-discovery of managed memcache services.

use larder_protocol::peer::{State, View};

/// The key that clients asked for before there was `config get cluster`.
pub(crate) const LEGACY_KEY: &[u8] = b"AmazonElastiCache:cluster";

/// The list's number and, on a line of its own, `name|address|port` of every active member, in the order of their ids: some
/// clients spread keys by that order.
pub(crate) fn list(view: &View) -> String {
    let nodes: Vec<String> = view
        .in_state(State::Active)
        .map(|(_, member)| format!("{}|{}|{}", member.name, member.host, member.port))
        .collect();
    format!("{}\n{}\n", view.version(), nodes.join(" "))
}

/// The answer to `config get cluster`.
pub(crate) fn config(view: &View) -> String {
    let list = list(view);
    format!("CONFIG cluster 0 {}\r\n{list}\r\nEND\r\n", list.len())
}

#[cfg(test)]
mod tests {
    use larder_protocol::peer::{Founding, Member};

    use super::*;

    /// A view whose list has the number 186192003.
    fn view(nodes: &[(&str, &str)]) -> View {
        let member = |slot: usize, &(name, host): &(&str, &str)| Member {
            generation: 1,
            state: State::Active,
            slot: slot as u8,
            host: host.to_owned(),
            port: 11211,
            name: name.to_owned(),
            peer: format!("{host}:21211"),
        };
        let members = nodes.iter().enumerate().map(|(slot, node)| (format!("node-{slot}"), member(slot, node)));
        let members: std::collections::BTreeMap<_, _> = members.collect();
        let base = 186_192_003 - 2 * nodes.len() as u32;
        View { founding: Founding { second: 1, token: 1 }, base, members }
    }

    #[test]
    fn the_answer_is_what_discovery_clients_read() {
        let ips = ["10.0.1.1", "10.0.1.2", "10.0.1.3"].map(|ip| (ip, ip));
        let all = "186192003\n10.0.1.1|10.0.1.1|11211 10.0.1.2|10.0.1.2|11211 10.0.1.3|10.0.1.3|11211\n";
        assert_eq!(list(&view(&ips)), all);
        assert_eq!(config(&view(&ips)), format!("CONFIG cluster 0 82\r\n{all}\r\nEND\r\n"));
        assert_eq!(config(&view(&ips[..1])), "CONFIG cluster 0 34\r\n186192003\n10.0.1.1|10.0.1.1|11211\n\r\nEND\r\n");
        let pods = [
            ("larder-0.larder.default.svc.cluster.local", "10.244.1.7"),
            ("larder-1.larder.default.svc.cluster.local", "10.244.2.4"),
        ];
        assert_eq!(
            config(&view(&pods)),
            "CONFIG cluster 0 128\r\n186192003\nlarder-0.larder.default.svc.cluster.local|10.244.1.7|11211 \
             larder-1.larder.default.svc.cluster.local|10.244.2.4|11211\n\r\nEND\r\n"
        );
    }
}
