// schedule.js gives the same timesteps as schedule.py.

import assert from "node:assert/strict";
import { test } from "node:test";

import { golden, PAGE } from "./golden.mjs";

const { cubicTimes, logSnrTimes, roundToEven, stepTimes } = await import(new URL("engine/schedule.js", PAGE));
const { times } = golden();

test("even and cubic spacing", () => {
  let count = 0;
  for (const { alpha_bar, even, cubic } of times) {
    for (const [name, cases, makeTimes] of [["even", even, stepTimes], ["cubic", cubic, cubicTimes]]) {
      for (const [steps, expected] of cases) {
        assert.deepEqual(makeTimes(alpha_bar.length - 1, steps), expected, name);
        count++;
      }
    }
  }
  assert.ok(count > 100);
});

test("log-SNR spacing", () => {
  let count = 0;
  for (const { alpha_bar, log_snr } of times) {
    for (const [steps, start, expected] of log_snr) {
      assert.deepEqual(logSnrTimes(alpha_bar, steps, start), expected);
      count++;
    }
  }
  assert.ok(count > 100);
});

test("an invalid number of steps is rejected", () => {
  for (const makeTimes of [stepTimes, cubicTimes]) {
    for (const steps of [0, 11, NaN]) assert.throws(() => makeTimes(10, steps), /between 1 and T = 10/);
  }
  const { alpha_bar } = times.at(-1);
  for (const [steps, start] of [[0, 5], [6, 5], [1, alpha_bar.length]]) {
    assert.throws(() => logSnrTimes(alpha_bar, steps, start), /steps must be between/);
  }
});

test("halves round to the even neighbour", () => {
  assert.deepEqual([0.5, 1.5, 2.5, 2.4, 2.6, 3, 499.5].map(roundToEven), [0, 2, 2, 2, 3, 3, 500]);
});
