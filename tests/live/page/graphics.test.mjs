// The GPU is used only if its output matches WebAssembly's and it is faster.

import assert from "node:assert/strict";
import { test } from "node:test";

import { PAGE } from "./golden.mjs";
import { sprites } from "./models.mjs";

const { isBetter, openGraphics } = await import(new URL("engine/graphics.js", PAGE));

/** A network that takes `ms` on its own clock, with an error in one number. */
function network(clock, ms, error = 0) {
  return async (x, t, label) => {
    assert.equal(label, null);
    assert.ok(t >= 1 && t <= sprites.T);
    clock.now += ms[Math.min(clock.calls++, ms.length - 1)];
    return x.map((value, i) => value + (i === 7 ? error : 0));
  };
}

for (const [name, ms, error, expected] of [
  ["faster", [3], 0, true],
  ["faster after a warm-up", [900, 700, 3], 0, true],
  ["slower", [9], 0, false],
  ["faster, with rounding differences", [3], 1e-3, true],
  ["faster, but wrong", [3], 1e-2, false],
  ["faster, but returns NaN", [3], NaN, false],
]) {
  test(`a GPU that is ${name}`, async () => {
    const clock = { now: 0, calls: 0 };
    const other = { now: 0, calls: 0 };
    const now = () => clock.now + other.now;
    assert.equal(await isBetter(network(clock, ms, error), network(other, [5]), sprites, now), expected);
  });
}

test("without a GPU, openGraphics returns null", async () => {
  assert.equal(await openGraphics("http://localhost/runtime/", new Uint8Array()), null);
});
