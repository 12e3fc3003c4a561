// samplers.js takes the same steps as samplers.py, to 1e-9, in float64 with an exact denoiser.

import assert from "node:assert/strict";
import { test } from "node:test";

import { assertClose, golden, PAGE } from "./golden.mjs";

const { callsOfSteps, sampleInCalls, SAMPLERS } = await import(new URL("engine/samplers.js", PAGE));
const { noiseOf } = await import(new URL("engine/noise.js", PAGE));

/** oracle.gaussian */
const gaussian = (alphaBar, mean, std) => async (x, t) => {
  const [alpha, variance] = [Math.sqrt(alphaBar[t]), 1 - alphaBar[t]];
  const gain = (alpha * std ** 2) / (alpha ** 2 * std ** 2 + variance);
  return x.map((value) => mean + gain * (value - alpha * mean));
};

for (const { sampler, alpha_bar, steps, eta, mean, std, seed, first, num, trajectory } of golden().trajectories) {
  test(`${sampler}, eta ${eta}, ᾱ_T ${alpha_bar.at(-1)}, times ${steps}`, async () => {
    const noise = noiseOf(BigInt(seed), first, num);
    const x = noise(0, new Float64Array(trajectory[0].x.length));
    const run = typeof steps === "number" ? sampleInCalls.bind(null, sampler) : SAMPLERS[sampler];
    const found = [];
    const denoise = gaussian(alpha_bar, mean, std);
    for await (const step of run(denoise, alpha_bar, x, steps, { eta, noise })) found.push(step);
    assert.deepEqual(found.map(({ t, s }) => [t, s]), trajectory.map(({ t, s }) => [t, s]));
    for (const [i, expected] of trajectory.entries()) {
      for (const key of ["x", "x0", "next"]) assertClose(found[i][key], expected[key], 1e-9, `step ${i}, ${key}`);
    }
  });
}

test("a sampler does not modify its input", async () => {
  const alphaBar = [1, 0.5, 0.1];
  for (const sampler of Object.values(SAMPLERS)) {
    const x = new Float32Array([1, 2]);
    const randomness = { eta: 1, noise: noiseOf(0n, 0, 1) };
    for await (const step of sampler(gaussian(alphaBar, 0, 1), alphaBar, x, [2, 1, 0], randomness)) {
      assert.ok(step.next instanceof Float32Array);
    }
    assert.deepEqual([...x], [1, 2]);
  }
});

test("a sampler makes as many network calls in a number of steps as the page says", async () => {
  const { alpha_bar, mean, std } = golden().trajectories[0];
  for (const [name, sampler] of Object.entries(SAMPLERS)) {
    for (const times of [[9, 0], [40, 17, 0], [60, 41, 23, 8, 0]]) {
      let calls = 0;
      const denoise = gaussian(alpha_bar, mean, std);
      const counted = (...inputs) => (calls++, denoise(...inputs));
      const randomness = { eta: 0, noise: noiseOf(1n, 0, 1) };
      for await (const _ of sampler(counted, alpha_bar, Float64Array.of(0.1, -0.4), times, randomness));
      assert.equal(calls, callsOfSteps(name, times.length - 1));
    }
  }
});
