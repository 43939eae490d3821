"""Clients of managed memcache services, which ask for the list of nodes: they follow a cluster that grows and shrinks.

Usage: discovery.py LIBRARY HOST:PORT. Each line of the input is a number of nodes: the client waits until it has as
many, writes and reads with all of them, and `ok` is printed.
"""

import asyncio
import sys
import time

KEYS = [f"key{number}" for number in range(200)]


def wait_until(count, nodes):
    deadline = time.monotonic() + 40
    while len(nodes()) != count:
        if time.monotonic() > deadline:
            sys.exit(f"the client has {nodes()}, not {count} nodes")
        time.sleep(0.1)


def elastipymemcache(host, port):
    from django_elastipymemcache.client import AWSElastiCacheClient

    client = AWSElastiCacheClient(f"{host}:{port}", discovery_interval=0.2, timeout=30, connect_timeout=30)
    client.set("kept", b"value")
    for line in sys.stdin:

        def nodes():
            client.get("kept")
            return client.clients

        wait_until(int(line), nodes)
        assert client.get("kept") == b"value"
        for key in KEYS:
            client.set(key, line.encode(), noreply=False)
        for key in KEYS:
            assert client.get(key) == line.encode(), key
        print("ok", flush=True)


def pymemcache_raw(host, port):
    # What the client of its main branch sends, with the release's own reader.
    from pymemcache.client.base import Client

    client = Client((host, port), timeout=30)

    def nodes():
        answer = client.raw_command(b"config get cluster", end_tokens=b"\n\r\nEND\r\n")
        return answer.splitlines()[-1].split(b" ")

    for line in sys.stdin:
        wait_until(int(line), nodes)
        assert all(node.count(b"|") == 2 for node in nodes())
        print("ok", flush=True)


async def emcache(host, port):
    import emcache

    client = await emcache.create_client(
        [emcache.MemcachedHostAddress(host, port)],
        timeout=30,
        autodiscovery=True,
        autodiscovery_poll_interval=0.2,
        autodiscovery_timeout=10,
    )
    await client.set(b"kept", b"value")
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        nodes = client.cluster_managment().nodes
        await loop.run_in_executor(None, wait_until, int(line), nodes)
        assert (await client.get(b"kept")).value == b"value"
        for key in KEYS:
            await client.set(key.encode(), line.encode())
        for key in KEYS:
            assert (await client.get(key.encode())).value == line.encode(), key
        print("ok", flush=True)
    await client.close()


if __name__ == "__main__":
    library, (host, port) = sys.argv[1], sys.argv[2].split(":")
    if library == "emcache":
        asyncio.run(emcache(host, int(port)))
    else:
        {"elastipymemcache": elastipymemcache, "pymemcache": pymemcache_raw}[library](host, int(port))
