// Drives three nodes with memjs: check.js HOST:PORT HOST:PORT HOST:PORT
//
// NODE_PATH tells where memjs is. Exits with 0 where every answer was the expected one.

"use strict";

const assert = require("assert").strict;
const memjs = require("memjs");

const BINARY_SAFE = Buffer.from(Array.from({ length: 1024 }, (_, at) => at % 256));
const LARGE = Buffer.alloc(900000, "x");
const KEYS = Array.from({ length: 100 }, (_, number) => `key:${number}`);

// Stores every value with flags 7, and hands flags out beside it.
const withFlags = {
  serialize: (opcode, value, extras) => {
    extras.writeUInt32BE(7, 0);
    return { value, extras };
  },
  deserialize: (opcode, value, extras) => ({ value: [String(value), extras.readUInt32BE(0)], extras }),
};

async function main() {
  const servers = process.argv.slice(2).join(",");
  const options = { timeout: 10, conntimeout: 10, retries: 0 };
  const cache = memjs.Client.create(servers, options);
  const value = async (key) => {
    const found = (await cache.get(key)).value;
    return found && found.toString("latin1");
  };

  assert.equal(await cache.set("a", "1", {}), true);
  assert.equal(await value("a"), "1");
  assert.equal(await value("missing"), null);
  assert.equal(await cache.add("a", "2", {}), false);
  assert.equal(await cache.add("new", "2", {}), true);
  assert.equal(await cache.replace("nothing", "2", {}), false);
  assert.equal(await cache.replace("a", "3", {}), true);
  assert.equal(await cache.append("a", "!"), true);
  // memjs 1.3.2 sends an append for a prepend too.
  assert.equal(await value("a"), "3!");
  assert.equal((await cache.increment("n", 5, { initial: 10 })).value, 10);
  assert.equal((await cache.increment("n", 5, {})).value, 15);
  assert.equal((await cache.decrement("n", 20, {})).value, 0);
  assert.equal(await cache.touch("a", 100), true);
  assert.equal(await cache.touch("nothing", 100), false);

  await Promise.all(KEYS.map((key) => cache.set(key, key, {})));
  assert.deepEqual(await Promise.all(KEYS.map(value)), KEYS);
  await cache.set("binary-safe", BINARY_SAFE, {});
  assert.ok((await cache.get("binary-safe")).value.equals(BINARY_SAFE));
  await cache.set("large", LARGE, {});
  assert.ok((await cache.get("large")).value.equals(LARGE));
  await assert.rejects(cache.set("too large", Buffer.alloc(1100000), {}));
  await assert.rejects(cache.set("k".repeat(251), "x", {}));
  await cache.set("past", "x", { expires: 2592001 });
  assert.equal(await value("past"), null);

  const flags = memjs.Client.create(servers, { ...options, serializer: withFlags });
  await flags.set("flags", "x", {});
  assert.deepEqual((await flags.get("flags")).value, ["x", 7]);

  assert.equal(await cache.delete("a"), true);
  assert.equal(await cache.delete("a"), false);
  cache.close();
  flags.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
