"""Drives three nodes with a real client library: check.py LIBRARY HOST:PORT HOST:PORT HOST:PORT

Exits with 0 where every answer was the expected one.
"""

import sys

LIBRARY, SERVERS = sys.argv[1], sys.argv[2:]
BINARY_SAFE = bytes(range(256)) * 4
LARGE = b"x" * 900_000
KEYS = [f"key:{number}" for number in range(100)]


def expect(what, got, wanted):
    assert got == wanted, f"{what}: got {got!r}, expected {wanted!r}"


class WithFlags:
    """Stores every value with flags 7, and hands flags out beside it."""

    def serialize(self, key, value):
        return value, 7

    def deserialize(self, key, value, flags):
        return value, flags


def pymemcache():
    from pymemcache.client.hash import HashClient
    from pymemcache.exceptions import MemcacheIllegalInputError

    cache = HashClient([tuple(server.split(":")) for server in SERVERS], timeout=10)
    expect("set", cache.set("a", b"1", noreply=False), True)
    expect("get", cache.get("a"), b"1")
    expect("add", cache.add("a", b"2", noreply=False), False)
    expect("replace", cache.replace("missing", b"2", noreply=False), False)
    value, cas = cache.gets("a")
    expect("gets", value, b"1")
    expect("cas", cache.cas("a", b"2", cas, noreply=False), True)
    expect("old cas", cache.cas("a", b"3", cas, noreply=False), False)
    expect("incr", cache.incr("a", 40, noreply=False), 42)
    expect("decr", cache.decr("a", 2, noreply=False), 40)
    expect("append", cache.append("a", b"!", noreply=False), True)
    expect("prepend", cache.prepend("a", b"?", noreply=False), True)
    expect("joined", cache.get("a"), b"?40!")
    expect("touch", cache.touch("a", 100, noreply=False), True)
    expect("touched to its end", (cache.touch("a", -1, noreply=False), cache.get("a")), (True, None))
    cache.set("a", b"1", noreply=False)
    flags = HashClient([tuple(server.split(":")) for server in SERVERS], timeout=10, serde=WithFlags())
    expect("flags", (flags.set("f", b"x", noreply=False), flags.get("f")), (True, (b"x", 7)))
    expect("set_many", cache.set_many({key: key.encode() for key in KEYS}, noreply=False), [])
    expect("get_many", cache.get_many(KEYS), {key: key.encode() for key in KEYS})
    expect("binary-safe", (cache.set("b", BINARY_SAFE, noreply=False), cache.get("b")), (True, BINARY_SAFE))
    expect("large", (cache.set("l", LARGE, noreply=False), cache.get("l")), (True, LARGE))
    expect("expired", (cache.set("e", b"x", expire=-1, noreply=False), cache.get("e")), (True, None))
    expect("delete", (cache.delete("a", noreply=False), cache.delete("a", noreply=False)), (True, False))
    for key in ("two words", "k" * 251):
        try:
            cache.get(key)
            raise AssertionError(f"{key!r} was taken for a key")
        except MemcacheIllegalInputError:
            pass


def pylibmc_with(binary):
    import pylibmc

    cache = pylibmc.Client(SERVERS, binary=binary, behaviors={"ketama": True, "tcp_nodelay": True, "cas": True})
    expect("set", cache.set("a", "text"), True)
    expect("get", cache.get("a"), "text")
    expect("number", (cache.set("n", 41), cache.incr("n"), cache.get("n")), (True, 42, 42))
    expect("decr", cache.decr("n", 2), 40)
    expect("add", cache.add("a", "other"), False)
    if not binary:
        # In binary the server says that the key is missing, which pylibmc raises.
        expect("replace", cache.replace("missing", "other"), False)
        value, cas = cache.gets("a")
        expect("cas", (value, cache.cas("a", "new", cas)), ("text", True))
        expect("old cas", cache.cas("a", "newer", cas), False)
    cache.set("bytes", b"2")
    expect("append", (cache.append("bytes", b"3"), cache.prepend("bytes", b"1")), (True, True))
    expect("joined", cache.get("bytes"), b"123")
    expect("touch", cache.touch("bytes", 100), True)
    expect("set_multi", cache.set_multi({key: key for key in KEYS}), [])
    expect("get_multi", cache.get_multi(KEYS), {key: key for key in KEYS})
    expect("binary-safe", (cache.set("b", BINARY_SAFE), cache.get("b")), (True, BINARY_SAFE))
    expect("large", (cache.set("l", LARGE), cache.get("l")), (True, LARGE))
    expect("pickled", (cache.set("p", {"a": [1]}), cache.get("p")), (True, {"a": [1]}))
    expect("touched to its end", (cache.touch("p", 2592001), cache.get("p")), (True, None))
    expect("expired", (cache.set("e", "x", time=2592001), cache.get("e")), (True, None))
    expect("delete", (cache.delete("a"), cache.delete("a")), (True, False))
    expect("missing", cache.get("a"), None)


def bmemcached():
    import bmemcached

    cache = bmemcached.Client(SERVERS)
    expect("set", cache.set("a", "text"), True)
    expect("get", cache.get("a"), "text")
    value, cas = cache.gets("a")
    expect("cas", (value, cache.cas("a", "new", cas)), ("text", True))
    expect("old cas", cache.cas("a", "newer", cas), False)
    expect("add", cache.add("a", "other"), False)
    expect("incr", (cache.incr("n", 5, default=10), cache.incr("n", 5)), (10, 15))
    expect("decr", cache.decr("n", 20), 0)
    expect("set_multi", cache.set_multi({key: key for key in KEYS}), [])
    expect("get_multi", cache.get_multi(KEYS), {key: key for key in KEYS})
    expect("large", (cache.set("l", LARGE), cache.get("l")), (True, LARGE))
    expect("flags tell types", (cache.set("t", 41), cache.get("t")), (True, 41))
    expect("expired", (cache.set("e", "x", time=2592001), cache.get("e")), (True, None))
    expect("delete", (cache.delete("a"), cache.get("a")), (True, None))


{
    "pymemcache": pymemcache,
    "pylibmc": lambda: pylibmc_with(binary=False),
    "pylibmc-binary": lambda: pylibmc_with(binary=True),
    "python-binary-memcached": bmemcached,
}[LIBRARY]()
