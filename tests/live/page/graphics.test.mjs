// The graphics card is used if it answers as WebAssembly does, and sooner.

import assert from "node:assert/strict";
import { test } from "node:test";

import { PAGE } from "./golden.mjs";
import { sprites } from "./models.mjs";

const { isBetter, openGraphics } = await import(new URL("engine/graphics.js", PAGE));

/** A network that takes so long by a clock of its own, and is wrong by so much in one number. */
function network(clock, ms, wrong = 0) {
  return async (x, t, label) => {
    assert.equal(label, null);
    assert.ok(t >= 1 && t <= sprites.T);
    clock.now += ms[Math.min(clock.calls++, ms.length - 1)];
    return x.map((value, i) => value + (i === 7 ? wrong : 0));
  };
}

for (const [what, ms, wrong, expected] of [
  ["faster", [3], 0, true],
  ["faster once it is warm", [900, 700, 3], 0, true],
  ["slower", [9], 0, false],
  ["faster, and rounds otherwise", [3], 1e-3, true],
  ["faster, and wrong", [3], 1e-2, false],
  ["faster, and no number", [3], NaN, false],
]) {
  test(`a card that is ${what}`, async () => {
    const clock = { now: 0, calls: 0 };
    const other = { now: 0, calls: 0 };
    const now = () => clock.now + other.now;
    assert.equal(await isBetter(network(clock, ms, wrong), network(other, [5]), sprites, now), expected);
  });
}

test("where there is no card, there is none", async () => {
  assert.equal(await openGraphics("http://localhost/runtime/", new Uint8Array()), null);
});
