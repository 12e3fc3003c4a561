// Frames and traces have the bytes that the protocol specifies, and protocol.js parses them.

import assert from "node:assert/strict";
import { test } from "node:test";

import { PAGE } from "./golden.mjs";

const { packFrame, packTrace } = await import(new URL("engine/pack.js", PAGE));
const { parse } = await import(new URL("engine/protocol.js", PAGE));
const SIZE = { channels: 1, height: 1, width: 2 };

test("a frame", () => {
  const frame = { id: 4294967295, k: 258, pure: true, num: 2, x: Float32Array.of(-1, 1, 0.2, 9), calls: 4, ms: 1.5 };
  const bytes = new Uint8Array(packFrame(frame, SIZE));
  assert.deepEqual(
    [...bytes],
    [
      ...[0x53, 0x44, 1, 1, 255, 255, 255, 255, 2, 1, 0, 0],
      ...[2, 0, 1, 0, 1, 0, 2, 0, 4, 0, 0, 0],
      ...[0, 0, 0xc0, 0x3f],
      ...[0, 255, 153, 255],
    ],
  );
  const { pixels, ...rest } = parse(bytes.buffer);
  const size = { num: 2, C: 1, H: 1, W: 2 };
  assert.deepEqual(rest, { kind: 1, pure: true, id: 4294967295, frame: 258, ...size, calls: 4, ms: 1.5 });
  assert.deepEqual([...pixels], [0, 255, 153, 255]);
  assert.equal(parse(packFrame({ ...frame, pure: false }, SIZE)).pure, false);
});

test("a trace", () => {
  const floats = (...values) => Float32Array.from(values);
  const steps = [
    { t: 9, s: 4, x: floats(1, 2), x0: floats(-3, 4), next: floats(5.5, 6) },
    { t: 4, s: 0, x: floats(5.5, 6), x0: floats(7, 8), next: floats(7, 8) },
  ];
  const buffer = packTrace({ id: 7, steps, calls: 2, ms: 0.5 }, SIZE);
  assert.equal(buffer.byteLength, 28 + 2 * (8 + 3 * 2 * 4));
  assert.deepEqual([...new Uint8Array(buffer, 28, 8)], [9, 0, 0, 0, 4, 0, 0, 0]);
  const size = { num: 1, C: 1, H: 1, W: 2 };
  assert.deepEqual(parse(buffer), { kind: 2, id: 7, ...size, calls: 2, ms: 0.5, steps, previous: null });
  const noising = { t: 0, s: 9, x: floats(8, 8), x0: floats(8, 8), next: floats(1, 2) };
  const started = parse(packTrace({ id: 7, steps: [noising, ...steps], calls: 2, ms: 0.5 }, SIZE));
  assert.deepEqual([started.steps, started.previous], [steps, floats(8, 8)]);
});
