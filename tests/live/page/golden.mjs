// Shared by these tests: the values computed by Python, a comparison, and a network that both sides implement.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

export const PAGE = new URL("../../../src/shapedreamer/live/page/", import.meta.url);

/** The values that tests/live/test_javascript.py computes. It runs these tests and sets GOLDEN to the file. */
export const golden = () => JSON.parse(readFileSync(process.env.GOLDEN, "utf8"));

/** Assert that no number differs by more than `tolerance`, and none is NaN. */
export function assertClose(found, expected, tolerance, name = "") {
  assert.equal(found.length, expected.length, name);
  expected.forEach((value, i) => {
    assert.ok(Math.abs(found[i] - value) <= tolerance, `${name} [${i}]: ${found[i]}, not ${value}`);
  });
}

/** The class StandIn of test_javascript.py. */
export function standIn({ T, labels, channels, height, width }) {
  const size = channels * height * width;
  return async (x, t, label) =>
    x.map((value, i) => {
      const vector = label?.subarray(Math.floor(i / size) * labels.length) ?? [0, 0, 0];
      const shift = 0.3 * vector[0] - 0.2 * vector[1] + 0.1 * vector[2];
      return Math.tanh(0.5 * value + shift) * (0.4 + (0.5 * t) / T);
    });
}
