//! The ring against the answers of real clients (see `vectors/README.md`).

use std::collections::BTreeMap;

use larder_client::{Hashing, Ring, Server};

fn servers_by_list() -> BTreeMap<String, Vec<Server>> {
    let mut lists = BTreeMap::<String, Vec<Server>>::new();
    for line in include_str!("vectors/lists.csv").lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        let server = Server {
            host: columns[2].to_owned(),
            port: columns[3].parse().unwrap(),
            weight: columns[4].parse().unwrap(),
        };
        lists.entry(columns[0].split('_').next().unwrap().to_owned()).or_default().push(server);
    }
    lists
}

fn keys() -> Vec<&'static str> {
    let lines = include_str!("vectors/keys.csv").lines().skip(1);
    lines.map(|line| line.splitn(4, ',').nth(3).unwrap()).collect()
}

/// Counts the keys whose owner differs, over all lists of `table`.
fn wrong_owners(table: &str, hashing: Hashing) -> (usize, usize) {
    let lists = servers_by_list();
    let keys = keys();
    let header: Vec<&str> = table.lines().next().unwrap().split(',').collect();
    let rings: Vec<Ring> = header.iter().map(|list| Ring::new(&lists[*list], hashing)).collect();
    let (mut wrong, mut compared) = (0, 0);
    for (key, line) in keys.iter().zip(table.lines().skip(1)) {
        for (ring, owner) in rings.iter().zip(line.split(',')) {
            compared += 1;
            wrong += usize::from(ring.owner(key.as_bytes()) != owner.parse::<usize>().unwrap());
        }
    }
    (wrong, compared)
}

#[test]
fn every_key_of_every_list_has_the_owner_that_libmemcached_gives_it_with_weighted_ketama() {
    let (wrong, compared) = wrong_owners(include_str!("vectors/kw_md5.csv"), Hashing::KetamaWeighted);
    assert_eq!(wrong, 0);
    assert!(compared > 30_000, "{compared} owners were compared");
}

#[test]
fn every_key_of_every_list_has_the_owner_that_libmemcached_gives_it_with_ketama() {
    assert_eq!(wrong_owners(include_str!("vectors/k_default.csv"), Hashing::Ketama).0, 0);
}

#[test]
fn every_key_of_every_list_has_the_owner_that_libmemcached_gives_it_with_ketama_and_md5() {
    assert_eq!(wrong_owners(include_str!("vectors/k_md5.csv"), Hashing::KetamaMd5).0, 0);
}

#[test]
fn the_owners_of_a_key_are_distinct_and_begin_with_its_owner() {
    let servers = &servers_by_list()["S06"];
    let ring = Ring::new(servers, Hashing::KetamaWeighted);
    for key in keys() {
        let owners = ring.owners(key.as_bytes(), 4);
        assert_eq!(owners[0], ring.owner(key.as_bytes()));
        let mut distinct = owners.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 4);
    }
    assert_eq!(ring.owners(b"key", 99).len(), servers.len());
}
