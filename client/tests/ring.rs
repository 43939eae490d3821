//! The ring against the answers of real clients (see `vectors/README.md`).

use std::collections::BTreeMap;

use larder_client::{Hashing, KeyHash, Ring, Server};

/// The server lists of `table`, by name.
fn servers_by_list(table: &str) -> BTreeMap<String, Vec<Server>> {
    let mut lists = BTreeMap::<String, Vec<Server>>::new();
    for line in table.lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        let server = Server {
            host: columns[2].to_owned(),
            port: columns[3].parse().unwrap(),
            weight: columns[4].parse().unwrap(),
            name: columns.get(5).filter(|name| !name.is_empty()).map(|name| (*name).to_owned()),
        };
        lists.entry(columns[0].split('_').next().unwrap().to_owned()).or_default().push(server);
    }
    lists
}

fn keys() -> Vec<&'static str> {
    let lines = include_str!("vectors/keys.csv").lines().skip(1);
    lines.map(|line| line.splitn(4, ',').nth(3).unwrap()).collect()
}

/// Counts the keys of `table` whose owner differs, over all its columns, each a list of `lists` and maybe a key hash.
fn wrong_owners(table: &str, lists: &str, hashing: impl Fn(&str) -> Hashing) -> (usize, usize) {
    let lists = servers_by_list(lists);
    let ring = |column: &str| {
        let (list, key_hash) = column.split_once(':').unwrap_or((column, ""));
        Ring::new(&lists[list], hashing(key_hash))
    };
    let rings: Vec<Ring> = table.lines().next().unwrap().split(',').map(ring).collect();
    let (mut wrong, mut compared) = (0, 0);
    for (key, line) in keys().iter().zip(table.lines().skip(1)) {
        for (ring, owner) in rings.iter().zip(line.split(',')) {
            compared += 1;
            wrong += usize::from(ring.owner(key.as_bytes()) != owner.parse::<usize>().unwrap());
        }
    }
    (wrong, compared)
}

const LISTS: &str = include_str!("vectors/lists.csv");

#[test]
fn every_key_has_the_owner_that_libmemcached_gives_it_with_weighted_ketama() {
    let wrong = wrong_owners(include_str!("vectors/kw_md5.csv"), LISTS, |_| Hashing::KetamaWeighted);
    assert_eq!(wrong, (0, 32_000));
}

#[test]
fn every_key_has_the_owner_that_libmemcached_gives_it_with_ketama() {
    let wrong = wrong_owners(include_str!("vectors/k_default.csv"), LISTS, |_| Hashing::Ketama);
    assert_eq!(wrong, (0, 32_000));
}

#[test]
fn every_key_has_the_owner_that_libmemcached_gives_it_with_ketama_and_md5() {
    let wrong = wrong_owners(include_str!("vectors/k_md5.csv"), LISTS, |_| Hashing::KetamaMd5);
    assert_eq!(wrong, (0, 32_000));
}

#[test]
fn every_key_has_the_owner_that_twemproxy_gives_it_by_each_of_its_key_hashes() {
    let hashing = |name: &str| {
        Hashing::Twemproxy(match name {
            "md5" => KeyHash::Md5,
            "fnv1a_64" => KeyHash::Fnv1a64,
            "one_at_a_time" => KeyHash::OneAtATime,
            "murmur" => KeyHash::Murmur,
            "crc32a" => KeyHash::Crc32a,
            other => panic!("{other} is not among the vectors"),
        })
    };
    let lists = include_str!("vectors/twemproxy_lists.csv");
    assert_eq!(wrong_owners(include_str!("vectors/twemproxy_ketama.csv"), lists, hashing), (0, 25_000));
}

#[test]
fn every_key_has_the_owner_that_pymemcache_gives_it() {
    let wrong = wrong_owners(include_str!("vectors/pymemcache_rendezvous.csv"), LISTS, |_| Hashing::Rendezvous);
    assert_eq!(wrong, (0, 6_500));
}

#[test]
fn the_owners_of_a_key_are_distinct_and_begin_with_its_owner() {
    let servers = &servers_by_list(LISTS)["S06"];
    for hashing in [Hashing::KetamaWeighted, Hashing::Rendezvous] {
        let ring = Ring::new(servers, hashing);
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
}
