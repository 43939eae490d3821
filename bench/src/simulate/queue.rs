//! Queues of keys from oldest to newest, by links between the keys.

/// No key.
pub(super) const NONE: u32 = u32::MAX;

/// The place of a key.
#[derive(Clone, Copy)]
struct Place {
    newer: u32,
    older: u32,
    /// Bytes of the item; 0 if it is in no queue.
    bytes: u64,
    queue: u8,
}

/// `N` queues. A key is in one of them or in none.
pub(super) struct Queues<const N: usize> {
    places: Vec<Place>,
    newest: [u32; N],
    oldest: [u32; N],
    bytes: [u64; N],
    items: usize,
}

impl<const N: usize> Queues<N> {
    /// Empty queues for so many keys.
    pub(super) fn new(keys: usize) -> Self {
        let place = Place { newer: NONE, older: NONE, bytes: 0, queue: 0 };
        Queues { places: vec![place; keys], newest: [NONE; N], oldest: [NONE; N], bytes: [0; N], items: 0 }
    }

    /// Returns the number of keys in all queues.
    pub(super) fn items(&self) -> usize {
        self.items
    }

    /// Returns the bytes of the items in a queue.
    pub(super) fn bytes(&self, queue: usize) -> u64 {
        self.bytes[queue]
    }

    /// Returns the oldest key of a queue, or [`NONE`].
    pub(super) fn oldest(&self, queue: usize) -> u32 {
        self.oldest[queue]
    }

    /// Returns the next newer key of the same queue, or [`NONE`].
    pub(super) fn newer(&self, key: u32) -> u32 {
        self.places[key as usize].newer
    }

    /// Returns the bytes of a key's item, 0 if it is in no queue.
    pub(super) fn bytes_of(&self, key: u32) -> u64 {
        self.places[key as usize].bytes
    }

    /// Returns the queue that a key is in.
    pub(super) fn queue_of(&self, key: u32) -> Option<usize> {
        let place = &self.places[key as usize];
        (place.bytes > 0).then_some(place.queue.into())
    }

    /// Adds a key that is in no queue as the newest of one.
    pub(super) fn push(&mut self, queue: usize, key: u32, bytes: u64) {
        self.places[key as usize] = Place { newer: NONE, older: self.newest[queue], bytes, queue: queue as u8 };
        match self.newest[queue] {
            NONE => self.oldest[queue] = key,
            newest => self.places[newest as usize].newer = key,
        }
        self.newest[queue] = key;
        self.bytes[queue] += bytes;
        self.items += 1;
    }

    /// Takes a key out of its queue, if it is in one. Returns the bytes of its item.
    pub(super) fn remove(&mut self, key: u32) -> u64 {
        let Some(queue) = self.queue_of(key) else { return 0 };
        let Place { newer, older, bytes, .. } = self.places[key as usize];
        match newer {
            NONE => self.newest[queue] = older,
            _ => self.places[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest[queue] = newer,
            _ => self.places[older as usize].newer = newer,
        }
        self.bytes[queue] -= bytes;
        self.items -= 1;
        self.places[key as usize].bytes = 0;
        bytes
    }
}
