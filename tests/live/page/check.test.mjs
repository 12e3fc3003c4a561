// Invalid messages are rejected with an error that names the field, its value and the valid range.

import assert from "node:assert/strict";
import { test } from "node:test";

import { PAGE } from "./golden.mjs";

const { checkBytes, checkId, checkSampler, checkSettings, checkStart } = await import(new URL("engine/check.js", PAGE));

const labelled = { name: "labelled", labels: ["a", "toString"], T: 40 };
const unlabelled = { name: "unlabelled", labels: [], T: 100 };
const GOOD = {
  model: "labelled",
  seed: "18446744073709551615",
  num: 4,
  sampler: "ddim",
  steps: 40,
  eta: 1,
  guidance: -10,
  creativity: 40,
  label: "any",
  fps: 0,
  motion: "drift",
  every: 60,
};
const check = (change) => checkSettings({ ...GOOD, ...change }, [labelled, unlabelled]);

test("valid settings are accepted", () => {
  assert.equal(check({}), labelled);
  assert.equal(check({ model: "unlabelled", guidance: 1, steps: 50, creativity: 0, fps: 60 }), unlabelled);
  for (const label of [{}, { a: 9 }, { a: 0, toString: 0.5 }]) check({ label });
  check({ label: "none", guidance: 1 });
  check({ sampler: "heun", eta: 0, seed: "0" });
});

const WRONG = [
  [{ motion: "fly" }, /motion must be one of drift, melt, not fly/],
  [{ every: 1001 }, /every must be a whole number 0…1000, not 1001/],
  [{ every: 0.5 }, /every/],
  [{ model: "other" }, /model must be one of labelled, unlabelled, not other/],
  [{ model: 0 }, /model must be/],
  [{ seed: 5 }, /seed must be a string of digits/],
  [{ seed: "18446744073709551616" }, /seed/],
  [{ seed: "-1" }, /seed/],
  [{ seed: "1e3" }, /seed/],
  [{ seed: "" }, /seed/],
  [{ num: 2 }, /num must be 1, 4 or 16, not 2/],
  [{ num: "4" }, /num/],
  [{ sampler: "toString" }, /sampler must be one of ddpm, ddim, heun, dpmpp_2m, midpoint, heun_line, not toString/],
  [{ steps: 41 }, /steps must be a whole number 1…40, not 41/],
  [{ model: "unlabelled", guidance: 1, steps: 51 }, /1…50/],
  [{ steps: 0 }, /steps/],
  [{ steps: 2.5 }, /steps/],
  [{ steps: NaN }, /steps/],
  [{ steps: "9" }, /steps/],
  [{ eta: 2.1 }, /eta must be 0…2/],
  [{ eta: NaN }, /eta/],
  [{ sampler: "ddpm" }, /eta must be 0 for the sampler ddpm/],
  [{ guidance: 10.5 }, /guidance must be −10…10/],
  [{ guidance: Infinity }, /guidance/],
  [{ guidance: null }, /guidance/],
  [{ label: "none" }, /guidance must be 1 without a class label/],
  [{ model: "unlabelled" }, /guidance must be 1 without a class label/],
  [{ model: "unlabelled", label: { a: 1 } }, /label must be any or none, because this model has no labels/],
  [{ label: "a" }, /label must be any, none or an object/],
  [{ label: null }, /label/],
  [{ label: ["a"] }, /label must be one of a, toString, not 0/],
  [{ label: { b: 1 } }, /label must be one of a, toString, not b/],
  [{ label: { valueOf: 1 } }, /not valueOf/],
  [{ label: { a: 9.5 } }, /label a must be 0…9, not 9.5/],
  [{ label: { a: -1 } }, /label a/],
  [{ label: { a: NaN } }, /label a/],
  [{ label: { a: "1" } }, /label a/],
  [{ creativity: 41 }, /creativity must be a timestep 0…40, not 41/],
  [{ creativity: -1 }, /creativity/],
  [{ creativity: 1.5 }, /creativity/],
  [{ fps: 61 }, /fps must be 0…60/],
  [{ fps: -1 }, /fps/],
  [{ more: 1 }, /setting name must be one of model, .*, not more/],
];

for (const [change, message] of WRONG) {
  test(`rejected: ${Object.entries(change).map(([key, value]) => `${key} ${JSON.stringify(value)}`)}`, () => {
    assert.throws(() => check(change), message);
  });
}

test("every setting is required", () => {
  for (const key of Object.keys(GOOD)) {
    const { [key]: _, ...others } = GOOD;
    const message = new RegExp(key === "label" ? "label" : `^Error: ${key} must be`);
    assert.throws(() => checkSettings(others, [labelled]), message);
  }
  for (const settings of [null, 1, "x", undefined]) {
    assert.throws(() => checkSettings(settings, [labelled]), /settings must/);
  }
});

test("sampler options, ids and bytes", () => {
  checkSampler({ sampler: "dpmpp_2m", steps: 1, eta: 0 }, labelled);
  assert.throws(() => checkSampler({ sampler: "ddim", steps: 5 }, labelled), /eta must be 0…2, not undefined/);
  for (const id of [0, 2 ** 32 - 1]) checkId(id);
  for (const id of [-1, 2 ** 32, 0.5, NaN, "1", null, undefined]) assert.throws(() => checkId(id), /id must be/);
  assert.deepEqual([...checkBytes("mask", "AP+A", 3)], [0, 255, 128]);
  assert.throws(() => checkBytes("mask", "AP+A", 4), /mask must be 4 bytes long, not 3 bytes/);
  assert.throws(() => checkBytes("mask", "§", 4), /mask must be base64, not §/);
  assert.throws(() => checkBytes("mask", {}, 4), /mask must be/);
});

test("a dream starts at a frame that is a sample, or from an image that can melt", () => {
  const melting = { ...GOOD, motion: "melt" };
  for (const frame of [0, 7, 60]) checkStart(GOOD, false, frame);
  for (const frame of [0, 60, 180]) checkStart(melting, false, frame);
  checkStart(melting, true, 0);
  assert.throws(() => checkStart(melting, false, 61), /cannot start at frame 61/);
  assert.throws(() => checkStart({ ...melting, creativity: 0 }, false, 60), /cannot start at frame 60/);
  assert.throws(() => checkStart({ ...melting, every: 0 }, false, 60), /cannot start at frame 60/);
  assert.throws(() => checkStart(melting, true, 60), /cannot start at frame 60/);
  assert.throws(() => checkStart(GOOD, true, 0), /a picture cannot drift/);
  assert.throws(() => checkStart(GOOD, false, 0.5), /frame must be a whole number/);
});
