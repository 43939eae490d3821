//! The server that owns a key: consistent hashing, with the same owners as clients of other languages.
//!
//! A ketama ring has the points of libmemcached 1.1; twemproxy makes the same points and hashes keys in ways of its
//! own. A [`consistent_hash_ring::Ring`] holds the points and finds the first one at or after a hash. pymemcache has no
//! points: a key belongs to the server with the highest score for it.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};

use consistent_hash_ring::{Ring as Points, RingBuilder};

use crate::hash::{crc32, fnv1a_64_low, md5_words, murmur2, murmur3, one_at_a_time};

/// A server of a ring.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// Host name or address, spelled as in every client of the fleet: points are made of this text.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Share of the keys, relative to the other servers; 0 counts as 1.
    pub weight: u32,
    /// Text that points are made of instead of host and port, like twemproxy's names: a server can move and keep its
    /// keys.
    pub name: Option<String>,
}

impl Server {
    /// Returns the text that points are made of. Ketama omits its default port.
    pub fn ring_name(&self) -> String {
        match (&self.name, self.port) {
            (Some(name), _) => name.clone(),
            (None, DEFAULT_PORT) => self.host.clone(),
            (None, _) => self.address(),
        }
    }

    /// Returns `host:port`, or the path of a unix socket.
    pub fn address(&self) -> String {
        if self.host.starts_with('/') { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

/// Selects how points are made and keys are hashed. Clients agree on owners if all use the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hashing {
    /// libmemcached with `MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED`: 160 MD5 points a server on average, by weight; MD5 keys.
    #[default]
    KetamaWeighted,
    /// libmemcached with `MEMCACHED_BEHAVIOR_KETAMA`: 100 points a server, points and keys by one-at-a-time; by weight
    /// with MD5 points where some weight is above 1.
    Ketama,
    /// As [`Hashing::Ketama`], with `MEMCACHED_BEHAVIOR_HASH` set to MD5.
    KetamaMd5,
    /// twemproxy with `distribution: ketama`; the key hash is its `hash` setting.
    Twemproxy(KeyHash),
    /// pymemcache's `HashClient`: rendezvous hashing with MurmurHash3 of the key as text. Weights do not count, and an
    /// owner is found in time that grows with the number of servers.
    Rendezvous,
}

/// Key hashes, by twemproxy's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeyHash {
    /// `md5`.
    Md5,
    /// `fnv1a_64`, twemproxy's default. It is 32 bits wide there, in spite of its name.
    #[default]
    Fnv1a64,
    /// `one_at_a_time`.
    OneAtATime,
    /// `murmur`: MurmurHash2.
    Murmur,
    /// `crc32a`.
    Crc32a,
}

impl KeyHash {
    fn of(self, key: &[u8]) -> u32 {
        match self {
            KeyHash::Md5 => md5_words(key)[0],
            KeyHash::Fnv1a64 => fnv1a_64_low(key),
            KeyHash::OneAtATime => one_at_a_time(key),
            KeyHash::Murmur => murmur2(key),
            KeyHash::Crc32a => crc32(key),
        }
    }
}

impl std::str::FromStr for Hashing {
    type Err = String;

    /// Reads `ketama-weighted`, `ketama`, `ketama-md5`, `rendezvous`, or `twemproxy-` and one of twemproxy's names for
    /// a hash.
    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "ketama-weighted" => Hashing::KetamaWeighted,
            "ketama" => Hashing::Ketama,
            "ketama-md5" => Hashing::KetamaMd5,
            "rendezvous" => Hashing::Rendezvous,
            "twemproxy-md5" => Hashing::Twemproxy(KeyHash::Md5),
            "twemproxy-fnv1a_64" => Hashing::Twemproxy(KeyHash::Fnv1a64),
            "twemproxy-one_at_a_time" => Hashing::Twemproxy(KeyHash::OneAtATime),
            "twemproxy-murmur" => Hashing::Twemproxy(KeyHash::Murmur),
            "twemproxy-crc32a" => Hashing::Twemproxy(KeyHash::Crc32a),
            _ => {
                return Err("a hashing is ketama-weighted, ketama, ketama-md5, rendezvous, or twemproxy- and md5, \
                            fnv1a_64, one_at_a_time, murmur or crc32a"
                    .to_owned());
            }
        })
    }
}

/// The port that libmemcached omits from a point's name.
const DEFAULT_PORT: u16 = 11211;

/// Maps keys to servers. A new topology needs a new ring.
///
/// ```
/// use larder_protocol::ring::{Hashing, Ring, Server};
///
/// let servers: Vec<Server> = ["10.0.1.1", "10.0.1.2", "10.0.1.3"]
///     .map(|host| Server { host: host.to_owned(), port: 11211, weight: 1, name: None })
///     .into();
/// let ring = Ring::new(&servers, Hashing::KetamaWeighted);
/// assert!(ring.owner(b"user:1") < 3);
/// assert_eq!(ring.owners(b"user:1", 2).len(), 2);
/// ```
pub struct Ring {
    servers: usize,
    hashing: Hashing,
    owners: Owners,
}

enum Owners {
    Points {
        points: Points<Point, PointHasher>,
        key_hash: KeyHash,
    },
    /// The highest score of the servers with these names.
    Scores(Vec<String>),
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("servers", &self.servers).field("hashing", &self.hashing).finish_non_exhaustive()
    }
}

/// A point, which hashes by its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    position: u32,
    server: u32,
}

impl Hash for Point {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(self.position);
    }
}

/// A hasher that leaves positions as they are.
///
/// [`consistent_hash_ring`] places a node at the hash of the node; ketama says where each point is. So a point is a
/// node of the crate's ring with one place, and its hash is its position. After an insertion the crate hashes the hash
/// (`write_u64`), and removes the node that is there: this hasher returns a number above every position, where no point
/// is. The version of the crate is fixed in Cargo.toml because this relies on it.
#[derive(Debug, Clone, Copy, Default)]
struct PointHasher(u64);

impl Hasher for PointHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("points and key hashes are written as whole numbers")
    }

    fn write_u32(&mut self, position: u32) {
        self.0 = position.into();
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 63;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl BuildHasher for PointHasher {
    type Hasher = PointHasher;

    fn build_hasher(&self) -> PointHasher {
        PointHasher::default()
    }
}

impl Ring {
    /// Creates a ring over `servers`. An owner is an index into them.
    ///
    /// # Panics
    /// If `servers` is empty.
    pub fn new(servers: &[Server], hashing: Hashing) -> Ring {
        assert!(!servers.is_empty(), "a ring needs a server");
        let key_hash = match hashing {
            Hashing::KetamaWeighted | Hashing::KetamaMd5 => KeyHash::Md5,
            Hashing::Ketama => KeyHash::OneAtATime,
            Hashing::Twemproxy(key_hash) => key_hash,
            Hashing::Rendezvous => {
                let names = servers.iter().map(Server::address).collect();
                return Ring { servers: servers.len(), hashing, owners: Owners::Scores(names) };
            }
        };
        let mut points = points(servers, hashing);
        // Of points in the same place, the one of the lower server counts. Ascending order keeps each insertion cheap.
        points.sort_unstable_by_key(|point| (point.position, point.server));
        points.dedup_by_key(|point| point.position);
        let points = RingBuilder::new(PointHasher::default()).vnodes(1).nodes(&points).build();
        Ring { servers: servers.len(), hashing, owners: Owners::Points { points, key_hash } }
    }

    /// Returns the server that owns `key`.
    #[inline]
    pub fn owner(&self, key: &[u8]) -> usize {
        // libmemcached does not hash for a single server either.
        if self.servers == 1 {
            return 0;
        }
        match &self.owners {
            Owners::Points { points, key_hash } => {
                points.try_get(key_hash.of(key)).map_or(0, |point| point.server as usize)
            }
            Owners::Scores(names) => {
                (0..names.len()).max_by_key(|&server| score(&names[server], key)).unwrap_or_default()
            }
        }
    }

    /// Returns the first `count` distinct servers from the place of `key` on, its owner first; fewer if there are
    /// fewer.
    pub fn owners(&self, key: &[u8], count: usize) -> Vec<usize> {
        let mut owners = Vec::with_capacity(count.min(self.servers));
        match &self.owners {
            Owners::Points { points, key_hash } => {
                let mut next = key_hash.of(key);
                // Once around the ring is enough: some servers may have no point.
                for _ in 0..points.len() {
                    let Some(point) = points.try_get(next).filter(|_| owners.len() < count) else { break };
                    if !owners.contains(&(point.server as usize)) {
                        owners.push(point.server as usize);
                        if owners.len() == self.servers {
                            break;
                        }
                    }
                    next = point.position.wrapping_add(1);
                }
            }
            Owners::Scores(names) => {
                owners.extend(0..names.len());
                owners.sort_by_cached_key(|&server| std::cmp::Reverse(score(&names[server], key)));
                owners.truncate(count);
            }
        }
        owners
    }
}

/// Returns the score of a server for a key. Of equal scores, the greater name wins.
fn score<'a>(name: &'a str, key: &[u8]) -> (u32, &'a str) {
    // pymemcache hashes the characters of the text, each cut to a byte. A key that is not UTF-8 counts as Latin-1.
    let text: &mut dyn Iterator<Item = u8> = match std::str::from_utf8(key) {
        Ok(key) if !key.is_ascii() => &mut key.chars().map(|character| character as u32 as u8),
        _ => &mut key.iter().copied(),
    };
    (murmur3(name.bytes().chain([b'-']).chain(text)), name)
}

fn points(servers: &[Server], hashing: Hashing) -> Vec<Point> {
    let weight = |server: &Server| server.weight.max(1);
    let total: u64 = servers.iter().map(|server| u64::from(weight(server))).sum();
    let weighted = matches!(hashing, Hashing::KetamaWeighted | Hashing::Twemproxy(_))
        || servers.iter().any(|server| server.weight > 1);
    let mut points = Vec::new();
    for (index, server) in servers.iter().enumerate() {
        let name = server.ring_name();
        let mut push = |position| points.push(Point { position, server: index as u32 });
        if weighted {
            // Single precision on purpose: some counts of equal servers get 156 points each, not 160.
            let share = weight(server) as f32 / total as f32;
            let hashes = (f64::from(share * 160.0 / 4.0 * servers.len() as f32) + 1e-10) as f32;
            for number in 0..hashes.floor() as u32 {
                md5_words(format!("{name}-{number}").as_bytes()).into_iter().for_each(&mut push);
            }
        } else {
            for number in 0..100 {
                let point = format!("{name}-{number}");
                push(match hashing {
                    Hashing::Ketama => one_at_a_time(point.as_bytes()),
                    _ => md5_words(point.as_bytes())[0],
                });
            }
        }
    }
    points
}
