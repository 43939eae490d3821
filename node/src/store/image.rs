//! The image of a store in a file: written when a node stops in good order, read when it starts again.
//!
//! ```text
//! head (8 KiB): MAGIC | length u32 | CRC-32 u32 | Head    then for each shard, in any order: its pieces | its Record
//! ```
//!
//! A shard's pieces are the memory that its books describe, without a copy of any item: the slots of its tables, the
//! written bytes of its segments in use, its large values, its ghosts. Its record has the books and a checksum of each
//! piece; the head has the checksum of each record. So every byte that is taken back has been checked, at the speed of
//! memory. The memory holds no pointers, and it is taken back only by a store of the same [`Identity`].
//!
//! Left out is what is learned anew or begun again: the worth of items under `density`, sweeps under way, the
//! estimate's sample, counters.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ghosts::Ghosts;
use super::index::Table;
use super::item::{NewItem, bit};
use super::large::Block;
use super::segment::Books;
use super::shard::{Layout, Shard};
use super::time::Time;
use super::{Config, Error, Store};

/// The format of the file. It is raised with every change of what the memory or the books hold.
const FORMAT: u32 = 4;

/// What a file begins with.
const MAGIC: &[u8; 16] = b"larder-node file";

/// Bytes of the head.
const HEAD: usize = 8192;

/// Why a store did not come back from a file.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file does not begin as one of [`Store::save`].
    #[error("it is not a complete file of a node that stopped in good order")]
    Unknown,
    /// A store of other settings, or another version, has written the file.
    #[error("it was written by a node with other settings or of another version: by {written}; this is {here}")]
    Other {
        /// The identity of the store that wrote it.
        written: String,
        /// The identity of this store.
        here: String,
    },
    /// A checksum is wrong, or the file has been cut off.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The store cannot be created.
    #[error(transparent)]
    Store(#[from] Error),
}

/// What the meaning of a store's memory depends on.
pub(super) struct Identity {
    settings: String,
    /// Of the hash of keys.
    seed: u64,
}

impl Identity {
    pub(super) fn new(config: &Config, layout: &Layout, seed: u64) -> Identity {
        let settings = format!(
            "larder-node {}, format {FORMAT}, {}-bit {}, {} bytes in {} shards with segments of {}, items up to {}, \
             eviction {}",
            env!("CARGO_PKG_VERSION"),
            usize::BITS,
            std::env::consts::ARCH,
            config.memory_limit,
            layout.shards,
            layout.segment_bytes,
            config.item_size_max,
            config.eviction,
        );
        Identity { settings, seed }
    }
}

#[derive(Serialize, Deserialize)]
struct Head {
    settings: String,
    seed: u64,
    /// When a delayed `flush_all` is due; 0 is never.
    flush_at: u32,
    /// In the order of the shards.
    sections: Vec<Section>,
}

/// Where the parts of a shard are.
#[derive(Clone, Serialize, Deserialize)]
struct Section {
    pieces: u64,
    record: u64,
    record_len: usize,
    record_crc: u32,
}

/// What is written of a shard beside its pieces.
#[derive(Serialize, Deserialize)]
struct Record {
    cas_count: u64,
    items: u64,
    bytes: u64,
    log: Books,
    tables: Vec<Table>,
    /// The lengths of the large values by their numbers; `None` is a number without a value.
    large: Vec<Option<usize>>,
    ghosts: usize,
    /// The checksums of the pieces.
    crcs: Vec<u32>,
}

impl Store {
    /// Writes all items to a file, from its beginning, and leaves the store empty: so items and file together take
    /// little more memory than the items did, where the file is in memory too.
    ///
    /// The rights to recache that clients have won end. An item that was created for a client to fill is left out.
    ///
    /// # Errors
    ///
    /// The file cannot be written. [`Store::load`] refuses what was written so far.
    pub fn save(&self, file: &File, now: Time) -> io::Result<()> {
        let end = AtomicU64::new(HEAD as u64);
        let sections = self.each_shard(|_, shard| {
            self.flush_if_due(shard, now);
            shard.end_leases(now);
            let section = shard.write_image(file, &end)?;
            shard.give_all_back();
            Ok::<_, io::Error>(section)
        })?;
        let due = self.flush.at.load(Ordering::Relaxed);
        let head = Head {
            settings: self.identity.settings.clone(),
            seed: self.identity.seed,
            flush_at: if due <= now.0 { 0 } else { due },
            sections,
        };
        let head = encode(&head)?;
        let mut start = Vec::with_capacity(HEAD);
        start.extend_from_slice(MAGIC);
        start.extend_from_slice(&(head.len() as u32).to_le_bytes());
        start.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
        start.extend_from_slice(&head);
        assert!(start.len() <= HEAD, "64 sections fit into the head");
        // The last write: a file that is cut off before it is none of ours.
        file.write_all_at(&start, 0)
    }

    /// Creates a store with the items that [`Store::save`] has written to a file, and takes the file's space back as it
    /// goes: a file can be loaded once. CAS uniques go on where they were, or from the clock if that is further.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says why the items do not come back. It is never a part of them that does.
    pub fn load(config: &Config, file: &File) -> Result<Store, LoadError> {
        let head = read_head(file)?;
        let store = Store::with_seed(config, head.seed)?;
        let here = &store.identity.settings;
        if *here != head.settings {
            return Err(LoadError::Other { written: head.settings, here: here.clone() });
        }
        if head.sections.len() != store.shards.len() {
            return Err(LoadError::Damaged("its number of shards"));
        }
        store.flush.at.store(head.flush_at, Ordering::Relaxed);
        store.each_shard(|number, shard| shard.read_image(file, &head.sections[number]))?;
        store.set_memory_limit(config.memory_limit, config.now);
        Ok(store)
    }

    /// Calls `work` with every shard, on all processors, and returns the results in the order of the shards.
    fn each_shard<T: Send, E: Send>(
        &self,
        work: impl Fn(usize, &mut Shard) -> Result<T, E> + Sync,
    ) -> Result<Vec<T>, E> {
        let next = AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get()).min(self.shards.len());
        let run = || {
            let turns = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
            let shards = turns.map_while(|number| Some((number, self.shards.get(number)?)));
            shards.map(|(number, shard)| Ok((number, work(number, &mut shard.lock())?))).collect::<Result<Vec<_>, E>>()
        };
        let results: Result<Vec<_>, E> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no shard's work panics")).collect()
        });
        let mut results: Vec<(usize, T)> = results?.into_iter().flatten().collect();
        results.sort_unstable_by_key(|(number, _)| *number);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }
}

impl Shard {
    /// Ends the rights to recache that clients have won: the next client wins. A client that has won before finds
    /// another CAS unique, so it stores nothing.
    fn end_leases(&mut self, now: Time) {
        // By their keys: writing one again may move the others.
        for key in self.keys_won() {
            let hash = self.hash_of(&key);
            let Some(slot) = self.locate(&key, hash) else { continue };
            let header = self.header(self.index.location(slot));
            // Its value is that of nobody: the item was created for the client to fill.
            if header.bits & bit::STALE == 0 && header.value_len == 0 {
                self.remove(slot);
                continue;
            }
            let cas = self.next_cas(None);
            if !self.mark(slot, 0, bit::WON, Some(cas)) {
                // The header has no room for that number.
                self.rewrite(slot, &key, hash, now, |new| *new = NewItem { cas: Some(cas), won: false, ..*new });
            }
        }
    }

    /// Returns the keys of the items that a client has won the right to recache.
    fn keys_won(&self) -> Vec<Vec<u8>> {
        let mut won = Vec::new();
        for (number, segment) in self.log.in_use() {
            let mut done = 0;
            while done < segment.filled {
                let location = self.log.location(number, done);
                let header = self.header(location);
                if header.bits & bit::WON != 0 {
                    won.push(self.key_at(location, &header).to_vec());
                }
                done += header.len() as u32;
            }
        }
        won
    }

    /// Writes the shard behind `end`, and moves that.
    fn write_image(&self, file: &File, end: &AtomicU64) -> io::Result<Section> {
        let ghosts = self.ghosts.to_bytes();
        let tables = (0..self.index.tables()).map(|table| self.index.slots(table));
        let segments = self.log.in_use().map(|(number, _)| self.log.written(number));
        let large = self.large.iter().flatten().map(|value| &value[..]);
        let pieces: Vec<&[u8]> = tables.chain(segments).chain(large).chain([&ghosts[..]]).collect();
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let start = end.fetch_add(bytes as u64, Ordering::Relaxed);
        let (mut at, mut crcs) = (start, Vec::with_capacity(pieces.len()));
        for piece in pieces {
            file.write_all_at(piece, at)?;
            at += piece.len() as u64;
            crcs.push(crc32fast::hash(piece));
        }
        let record = encode(&Record {
            cas_count: self.cas_count,
            items: self.statistics.items,
            bytes: self.statistics.bytes,
            log: self.log.books(),
            tables: self.index.sizes().to_vec(),
            large: self.large.iter().map(|value| value.as_ref().map(Bytes::len)).collect(),
            ghosts: ghosts.len(),
            crcs,
        })?;
        let record_at = end.fetch_add(record.len() as u64, Ordering::Relaxed);
        file.write_all_at(&record, record_at)?;
        let record_crc = crc32fast::hash(&record);
        Ok(Section { pieces: start, record: record_at, record_len: record.len(), record_crc })
    }

    /// Gives the memory of all items back to the system.
    fn give_all_back(&mut self) {
        self.clear();
        self.forget_flushed();
        self.area.trim(usize::MAX);
        while self.log.release_one() {}
    }

    /// Makes an empty shard what it was when it was written.
    fn read_image(&mut self, file: &File, section: &Section) -> Result<(), LoadError> {
        let record = read(file, section.record, section.record_len)?;
        if crc32fast::hash(&record) != section.record_crc {
            return Err(LoadError::Damaged("the checksum of a shard's record"));
        }
        let record: Record = decode(&record)?;
        if !self.index.restore(&record.tables) || !self.log.restore(record.log) {
            return Err(LoadError::Damaged("the size of a shard"));
        }
        let mut pieces = Pieces { file, at: section.pieces, crcs: record.crcs.into_iter() };
        for table in 0..self.index.tables() {
            pieces.read(self.index.slots_mut(table))?;
        }
        let segments: Vec<u32> = self.log.in_use().map(|(number, _)| number).collect();
        for segment in segments {
            pieces.read(self.log.written_mut(segment))?;
        }
        for (number, len) in record.large.into_iter().enumerate() {
            self.large.push(match len {
                Some(len) => Some(Bytes::from_owner(pieces.read_large(self, len)?)),
                None => {
                    self.large_free.push(number as u32);
                    None
                }
            });
        }
        let mut ghosts = vec![0; record.ghosts];
        pieces.read(&mut ghosts)?;
        self.ghosts = Ghosts::of_bytes(&ghosts);
        self.cas_count = self.cas_count.max(record.cas_count);
        self.statistics.items = record.items;
        self.statistics.bytes = record.bytes;
        self.statistics.total_items = record.items;
        pieces.punch(section.pieces);
        Ok(())
    }
}

/// The pieces of a shard, one after the other.
struct Pieces<'a> {
    file: &'a File,
    at: u64,
    crcs: std::vec::IntoIter<u32>,
}

impl Pieces<'_> {
    /// Reads the next piece.
    fn read(&mut self, piece: &mut [u8]) -> Result<(), LoadError> {
        read_into(self.file, self.at, piece)?;
        self.at += piece.len() as u64;
        if self.crcs.next() == Some(crc32fast::hash(piece)) { Ok(()) } else { Err(LoadError::Damaged("a checksum")) }
    }

    fn read_large(&mut self, shard: &Shard, len: usize) -> Result<Block, LoadError> {
        let mut block = shard.area.allocate(len, usize::MAX).ok_or(LoadError::Damaged("the length of a value"))?;
        self.read(block.bytes_mut())?;
        Ok(block)
    }

    /// Gives the file's space from `start` on, as far as it was read, back to the system.
    fn punch(&self, start: u64) {
        use nix::fcntl::{FallocateFlags, fallocate};
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        // A file system that cannot do this has the space until the file is removed.
        let _ = fallocate(self.file, flags, start as i64, (self.at - start) as i64);
    }
}

fn read_head(file: &File) -> Result<Head, LoadError> {
    let fixed = read(file, 0, MAGIC.len() + 8).map_err(|error| match error {
        LoadError::Damaged(_) => LoadError::Unknown,
        error => error,
    })?;
    let word = |at| u32::from_le_bytes(fixed[at..at + 4].try_into().expect("four bytes"));
    let (len, crc) = (word(MAGIC.len()) as usize, word(MAGIC.len() + 4));
    if !fixed.starts_with(MAGIC) {
        return Err(LoadError::Unknown);
    }
    if len > HEAD - fixed.len() {
        return Err(LoadError::Damaged("the length of its head"));
    }
    let head = read(file, fixed.len() as u64, len)?;
    if crc32fast::hash(&head) != crc {
        return Err(LoadError::Damaged("the checksum of its head"));
    }
    decode(&head)
}

fn read(file: &File, at: u64, len: usize) -> Result<Vec<u8>, LoadError> {
    let mut bytes = vec![0; len];
    read_into(file, at, &mut bytes)?;
    Ok(bytes)
}

fn read_into(file: &File, at: u64, bytes: &mut [u8]) -> Result<(), LoadError> {
    file.read_exact_at(bytes, at).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => LoadError::Damaged("it has been cut off"),
        _ => error.into(),
    })
}

fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    rmp_serde::to_vec(value).map_err(io::Error::other)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, LoadError> {
    rmp_serde::from_slice(bytes).map_err(|_| LoadError::Damaged("its books"))
}
