// noise.js reproduces the test vectors of docs/noise.md.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { PAGE } from "./golden.mjs";

const { bits, fold, noiseOf, normal, threefry2x32 } = await import(new URL("engine/noise.js", PAGE));
const SPECIFICATION = readFileSync(new URL("../../../docs/noise.md", import.meta.url), "utf8");

/** The rows of the table under a heading, each a list of cells. */
function table(heading) {
  const [, section] = SPECIFICATION.split(`\n### ${heading}\n`);
  const rows = section.split("\n### ")[0].split("\n").filter((line) => line.startsWith("| "));
  assert.ok(rows.length > 3, heading);
  return rows.slice(1).map((row) => row.slice(2, -2).split(" | "));
}

const hex = (cell) => cell.split(" ").map((word) => parseInt(word, 16));
const seedOf = (cell) => BigInt(`0x${cell}`);

test("threefry", () => {
  for (const [key, counter, words] of table("threefry")) {
    assert.deepEqual(threefry2x32(hex(key), hex(counter)), hex(words));
  }
});

test("fold", () => {
  for (const [seed, numbers, result] of table("fold")) {
    assert.equal(fold(seedOf(seed), ...numbers.split(" ").map(Number)), seedOf(result));
  }
});

test("bits", () => {
  for (const [seed, index, words] of table("bits")) {
    const expected = hex(words);
    for (let count = 1; count <= expected.length; count++) {
      assert.deepEqual([...bits(seedOf(seed), Number(index), count)], expected.slice(0, count));
    }
  }
});

test("normal", () => {
  for (const [seed, step, index, pixel, z] of table("normal")) {
    const found = normal(seedOf(seed), Number(step), Number(index), Number(pixel) + 1);
    assert.equal(found.length, Number(pixel) + 1);
    assert.ok(Math.abs(found.at(-1) - Number(z)) <= 1e-12, `${found.at(-1)}, not ${z}`);
  }
});

test("the noise of a batch is the noise of each image, in the type of the images", () => {
  const two = noiseOf(5n, 7, 2)(3, new Float32Array(10));
  assert.ok(two instanceof Float32Array);
  assert.deepEqual([...two.subarray(5)], [...new Float32Array(normal(5n, 3, 8, 5))]);
  assert.deepEqual([...noiseOf(5n, 7, 2)(3, new Float64Array(10)).subarray(0, 5)], [...normal(5n, 3, 7, 5)]);
});

test("seeds, steps and image indices out of range are rejected", () => {
  for (const seed of [-1n, 1n << 64n]) assert.throws(() => fold(seed, 1), /2⁶⁴−1/);
  for (const number of [-1, 2 ** 32]) {
    assert.throws(() => fold(1n, number), /2³²−1/);
    assert.throws(() => bits(1n, number, 2), /2³²−1/);
  }
});
