//! Load generator and reports for any memcache server.
