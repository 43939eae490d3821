//! memcached's slab classes, which this engine does not have: numbers that clients expect.

/// The slab class of every item: there is one class here, but exporters read items and evictions by class.
pub(crate) const CLASS: u32 = 1;

/// Number of memcached's slab classes: a class number from here on is illegal.
pub(crate) const CLASSES: u32 = 64;
