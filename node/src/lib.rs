//! A memcache server: more items in the same memory, less CPU for each.
