//! Which server owns a key: consistent hashing, point for point the ketama ring of libmemcached.
//!
//! Points and lookup are those of libmemcached 1.1 with `MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED` (clients of many languages
//! share it). The points stand in a [`consistent_hash_ring::Ring`], which looks up the first at or after a hash.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};

use consistent_hash_ring::{Ring as Points, RingBuilder};
use md5::{Digest, Md5};

/// A server as the ring knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// Host name or address, as every client of the fleet spells it: points are made of this text.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Share of the keys, relative to the other servers; 0 counts as 1.
    pub weight: u32,
}

/// How points are made and keys are hashed. A fleet of mixed clients agrees on owners when all use the same.
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
}

/// The port that libmemcached leaves out of a point's name.
const DEFAULT_PORT: u16 = 11211;

/// Maps keys to servers. Build a new one for a new topology.
///
/// ```
/// use larder_client::{Hashing, Ring, Server};
///
/// let servers: Vec<Server> = ["10.0.1.1", "10.0.1.2", "10.0.1.3"]
///     .map(|host| Server { host: host.to_owned(), port: 11211, weight: 1 })
///     .into();
/// let ring = Ring::new(&servers, Hashing::KetamaWeighted);
/// assert!(ring.owner(b"user:1") < 3);
/// assert_eq!(ring.owners(b"user:1", 2).len(), 2);
/// ```
pub struct Ring {
    points: Points<Point, PointHasher>,
    /// The same points, for walking on from one.
    sorted: Vec<Point>,
    servers: usize,
    hashing: Hashing,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("servers", &self.servers)
            .field("points", &self.sorted.len())
            .field("hashing", &self.hashing)
            .finish()
    }
}

/// A point hashes by its position and compares by its server.
#[derive(Debug, Clone, Copy)]
struct Point {
    position: u32,
    server: u32,
}

impl PartialEq for Point {
    fn eq(&self, other: &Self) -> bool {
        self.server == other.server
    }
}

impl Eq for Point {}

impl Hash for Point {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(self.position);
    }
}

/// Positions stand for themselves. The crate hashes a point's hash once more (`write_u64`) and removes what is there:
/// that lands above every position, where nothing is.
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
    /// A ring over `servers`; an owner is an index into them.
    ///
    /// # Panics
    /// Where `servers` is empty.
    pub fn new(servers: &[Server], hashing: Hashing) -> Ring {
        assert!(!servers.is_empty(), "a ring needs a server");
        let mut sorted = points(servers, hashing);
        // Among tied points the lower server counts. Ascending order also keeps each insertion cheap.
        sorted.sort_unstable_by_key(|point| (point.position, point.server));
        sorted.dedup_by_key(|point| point.position);
        let mut ring = RingBuilder::new(PointHasher::default()).vnodes(1).build();
        for &point in &sorted {
            ring.insert(point);
        }
        Ring { points: ring, sorted, servers: servers.len(), hashing }
    }

    /// The server that owns `key`.
    #[inline]
    pub fn owner(&self, key: &[u8]) -> usize {
        // libmemcached does not hash for a single server either.
        if self.servers == 1 {
            return 0;
        }
        self.points.try_get(self.key_hash(key)).map_or(0, |point| point.server as usize)
    }

    /// The first `count` distinct servers from `key`'s place on, its owner first; fewer where there are fewer.
    pub fn owners(&self, key: &[u8], count: usize) -> Vec<usize> {
        let hash = self.key_hash(key);
        let first = self.sorted.partition_point(|point| point.position < hash);
        let mut owners = Vec::with_capacity(count.min(self.servers));
        for point in self.sorted[first..].iter().chain(&self.sorted[..first]) {
            if owners.len() == count {
                break;
            }
            if !owners.contains(&(point.server as usize)) {
                owners.push(point.server as usize);
            }
        }
        owners
    }

    fn key_hash(&self, key: &[u8]) -> u32 {
        match self.hashing {
            Hashing::KetamaWeighted | Hashing::KetamaMd5 => md5_words(key)[0],
            Hashing::Ketama => one_at_a_time(key),
        }
    }
}

/// The four little-endian words of an MD5 digest.
fn md5_words(text: &[u8]) -> [u32; 4] {
    let digest = Md5::digest(text);
    std::array::from_fn(|word| {
        u32::from_le_bytes([digest[4 * word], digest[4 * word + 1], digest[4 * word + 2], digest[4 * word + 3]])
    })
}

/// Bob Jenkins' one-at-a-time hash as libmemcached computes it: bytes are sign-extended.
fn one_at_a_time(text: &[u8]) -> u32 {
    let mut hash = 0u32;
    for &byte in text {
        hash = hash.wrapping_add(i32::from(byte as i8) as u32);
        hash = hash.wrapping_add(hash << 10);
        hash ^= hash >> 6;
    }
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

fn points(servers: &[Server], hashing: Hashing) -> Vec<Point> {
    let weight = |server: &Server| server.weight.max(1);
    let total: u32 = servers.iter().map(weight).sum();
    let weighted = hashing == Hashing::KetamaWeighted || servers.iter().any(|server| server.weight > 1);
    let mut points = Vec::new();
    for (index, server) in servers.iter().enumerate() {
        let name = match server.port {
            DEFAULT_PORT => server.host.clone(),
            port => format!("{}:{port}", server.host),
        };
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
