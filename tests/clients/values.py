"""Exchanges typed values with another program: values.py LIBRARY read|write HOST:PORT

`read` expects what `write` would have stored. Exits with 0 where every value was the expected one.
"""

import sys

LIBRARY, ACTION, SERVER = sys.argv[1:]
VALUES = {"string": "h\u00e9llo", "integer": 42, "negative": -7, "bytes": b"\x00\xff", "long": "larder " * 1000}


def pymemcache():
    from pymemcache import serde
    from pymemcache.client.base import Client

    return Client(SERVER, serde=serde.compressed_serde, default_noreply=False, timeout=10)


class Pylibmc:
    def __init__(self):
        import pylibmc

        self.client = pylibmc.Client([SERVER])
        self.get = self.client.get

    def set(self, key, value):
        return self.client.set(key, value, min_compress_len=1000)


cache = {"pymemcache": pymemcache, "pylibmc": Pylibmc}[LIBRARY]()
for name, value in VALUES.items():
    if ACTION == "write":
        assert cache.set(name, value), name
    else:
        got = cache.get(name)
        assert got == value and type(got) is type(value), f"{name}: got {got!r}, expected {value!r}"
