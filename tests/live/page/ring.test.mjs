// However long a dream lasts, only its last seconds are kept, in bounded memory.

import assert from "node:assert/strict";
import { test } from "node:test";

import { PAGE } from "./golden.mjs";

const { APART, MOST_BYTES, Ring, SECONDS } = await import(new URL("files/ring.js", PAGE));

const frame = (number, num = 1, size = 16) => {
  return { frame: number, num, C: 3, H: size, W: size, pixels: new Uint8Array(num * 3 * size * size) };
};

test("an hour of sixty frames a second is its last seconds", () => {
  const ring = new Ring();
  for (let i = 0; i < 3600 * 60; i++) ring.push(frame(i), (i * 1000) / 60);
  assert.ok(ring.kept.at(-1).frame.frame > 3600 * 60 - 4);
  const seconds = (ring.kept.at(-1).time - ring.kept[0].time) / 1000;
  assert.ok(seconds <= SECONDS && seconds > SECONDS - 0.1, `${seconds}`);
  assert.ok(ring.kept.length <= (1000 * SECONDS) / APART + 1);
  assert.equal(ring.bytes, ring.kept.length * 768);
});

test("large pictures are fewer", () => {
  const ring = new Ring();
  for (let i = 0; i < 200; i++) {
    ring.push(frame(i, 16, 128), i * APART);
    assert.ok(ring.bytes <= MOST_BYTES);
  }
  assert.equal(ring.kept.length, Math.floor(MOST_BYTES / (16 * 3 * 128 ** 2)));
});

test("pictures of another size begin anew", () => {
  const ring = new Ring();
  ring.push(frame(0), 0);
  ring.push(frame(1), 100);
  ring.push(frame(0, 4), 101);
  assert.deepEqual(
    ring.kept.map(({ frame: { num } }) => num),
    [4],
  );
});

test("each is seen until the next, and no longer than half a second", () => {
  const ring = new Ring();
  for (const time of [0, 100, 400, 5000]) ring.push(frame(time), time);
  assert.deepEqual(
    ring.timed().map(({ hundredths }) => hundredths),
    [10, 30, 50, 50],
  );
});
