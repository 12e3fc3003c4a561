// What the tests of this folder share: the numbers that Python got, comparisons, and the network that both sides compute.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

export const PAGE = new URL("../../../src/shapedreamer/live/page/", import.meta.url);

/** What tests/live/test_javascript.py wrote; run these tests by that, or set GOLDEN to a file that it has written. */
export const golden = () => JSON.parse(readFileSync(process.env.GOLDEN, "utf8"));

/** Every number within `most` of the other's; NaN never is. */
export function assertClose(found, expected, most, what = "") {
  assert.equal(found.length, expected.length, what);
  expected.forEach((value, i) => {
    assert.ok(Math.abs(found[i] - value) <= most, `${what} [${i}]: ${found[i]}, not ${value}`);
  });
}

/** class StandIn of test_javascript.py. */
export function standIn({ T, labels, channels, height, width }) {
  const size = channels * height * width;
  return async (x, t, label) =>
    x.map((value, i) => {
      const vector = label?.subarray(Math.floor(i / size) * labels.length) ?? [0, 0, 0];
      const told = 0.3 * vector[0] - 0.2 * vector[1] + 0.1 * vector[2];
      return Math.tanh(0.5 * value + told) * (0.4 + (0.5 * t) / T);
    });
}
