// The buffer holds only the last seconds, in bounded memory, however long the dream runs.

import assert from "node:assert/strict";
import { test } from "node:test";

import { PAGE } from "./golden.mjs";

const { MAX_BYTES, MIN_INTERVAL, Ring, SECONDS } = await import(new URL("files/ring.js", PAGE));

const frame = (number, num = 1, size = 16) => {
  return { frame: number, num, C: 3, H: size, W: size, pixels: new Uint8Array(num * 3 * size * size) };
};

test("after an hour at 60 frames per second, only the last seconds remain", () => {
  const ring = new Ring();
  for (let i = 0; i < 3600 * 60; i++) ring.push(frame(i), (i * 1000) / 60);
  assert.ok(ring.frames.at(-1).frame.frame > 3600 * 60 - 4);
  const seconds = (ring.frames.at(-1).time - ring.frames[0].time) / 1000;
  assert.ok(seconds <= SECONDS && seconds > SECONDS - 0.1, `${seconds}`);
  assert.ok(ring.frames.length <= (1000 * SECONDS) / MIN_INTERVAL + 1);
  assert.equal(ring.bytes, ring.frames.length * 768);
});

test("fewer large frames are stored", () => {
  const ring = new Ring();
  for (let i = 0; i < 200; i++) {
    ring.push(frame(i, 16, 128), i * MIN_INTERVAL);
    assert.ok(ring.bytes <= MAX_BYTES);
  }
  assert.equal(ring.frames.length, Math.floor(MAX_BYTES / (16 * 3 * 128 ** 2)));
});

test("frames of another shape replace all earlier ones", () => {
  const ring = new Ring();
  ring.push(frame(0), 0);
  ring.push(frame(1), 100);
  ring.push(frame(0, 4), 101);
  assert.deepEqual(
    ring.frames.map(({ frame: { num } }) => num),
    [4],
  );
});

test("a frame lasts until the next one, and at most half a second", () => {
  const ring = new Ring();
  for (const time of [0, 100, 400, 5000]) ring.push(frame(time), time);
  assert.deepEqual(
    ring.withDurations().map(({ hundredths }) => hundredths),
    [10, 30, 50, 50],
  );
});
