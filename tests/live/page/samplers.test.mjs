// samplers.js takes the steps of samplers.py, in float64 and with an exact denoiser: to 1e-9.

import assert from "node:assert/strict";
import { test } from "node:test";

import { assertClose, golden, PAGE } from "./golden.mjs";

const { heunOfCalls, SAMPLERS } = await import(new URL("engine/samplers.js", PAGE));
const { noiseOf } = await import(new URL("engine/noise.js", PAGE));

/** oracle.gaussian */
const gaussian = (alphaBar, mean, std) => async (x, t) => {
  const [alpha, variance] = [Math.sqrt(alphaBar[t]), 1 - alphaBar[t]];
  const gain = (alpha * std ** 2) / (alpha ** 2 * std ** 2 + variance);
  return x.map((value) => mean + gain * (value - alpha * mean));
};

for (const { sampler, alpha_bar, steps, eta, mean, std, seed, first, num, walk } of golden().trajectories) {
  test(`${sampler}, eta ${eta}, ᾱ_T ${alpha_bar.at(-1)}, times ${steps}`, async () => {
    const noise = noiseOf(BigInt(seed), first, num);
    const x = noise(0, new Float64Array(walk[0].x.length));
    const way = typeof steps === "number" ? heunOfCalls : SAMPLERS[sampler];
    const found = [];
    for await (const step of way(gaussian(alpha_bar, mean, std), alpha_bar, x, steps, { eta, noise })) found.push(step);
    assert.deepEqual(found.map(({ t, s }) => [t, s]), walk.map(({ t, s }) => [t, s]));
    for (const [i, expected] of walk.entries()) {
      for (const what of ["x", "x0", "next"]) assertClose(found[i][what], expected[what], 1e-9, `step ${i}, ${what}`);
    }
  });
}

test("a sampler leaves the images that it is given as they are", async () => {
  const alphaBar = [1, 0.5, 0.1];
  for (const sampler of Object.values(SAMPLERS)) {
    const x = new Float32Array([1, 2]);
    const options = { eta: 1, noise: noiseOf(0n, 0, 1) };
    for await (const step of sampler(gaussian(alphaBar, 0, 1), alphaBar, x, [2, 1, 0], options)) {
      assert.ok(step.next instanceof Float32Array);
    }
    assert.deepEqual([...x], [1, 2]);
  }
});
