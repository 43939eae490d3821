//! A memcache client that gets caching right.
