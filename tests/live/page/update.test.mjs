// The microscope's sums: the terms of each sampler's update, times what they multiply, are where the step lands.

import assert from "node:assert/strict";
import { test } from "node:test";

import { assertClose, PAGE } from "./golden.mjs";

const { extrapolation, look, noiseBeside, terms } = await import(new URL("views/update.js", PAGE));
const { SAMPLERS, heunOfCalls } = await import(new URL("engine/samplers.js", PAGE));

const T = 60;
const alphaBar = Array.from({ length: T + 1 }, (_, t) => Math.cos(((t / T + 0.008) / 1.008) * (Math.PI / 2)) ** 2);
alphaBar[0] = 1;
const x_T = Float64Array.from({ length: 12 }, (_, i) => Math.sin(5 * i) * 1.4);
const denoise = async (x, t) => x.map((value, i) => Math.tanh(value) * (1 - t / 100) + 0.1 * Math.cos(i));
const z = Float64Array.from({ length: 12 }, (_, i) => Math.cos(3 * i));
const WAYS = [
  { sampler: "ddpm", steps: 5, eta: 0 },
  { sampler: "ddim", steps: 5, eta: 0 },
  { sampler: "ddim", steps: 4, eta: 0.6 },
  { sampler: "ddim", steps: 1, eta: 1 },
  { sampler: "dpmpp_2m", steps: 6, eta: 0 },
  { sampler: "dpmpp_2m", steps: 5, eta: 0.7 },
  { sampler: "heun", steps: 5, eta: 0 },
  { sampler: "heun", steps: 6, eta: 0 },
];

async function traced({ sampler, steps, eta }) {
  const options = { eta, noise: () => z };
  const times = [...Array.from({ length: steps }, (_, i) => Math.round(T - (i * T) / steps)), 0];
  const walk =
    sampler === "heun"
      ? heunOfCalls(denoise, alphaBar, x_T, steps, options)
      : SAMPLERS[sampler](denoise, alphaBar, x_T, times, options);
  const trace = [];
  for await (const step of walk) trace.push(step);
  return trace;
}

const add = (parts) => parts[0].map((_, i) => parts.reduce((sum, part) => sum + part[i], 0));
const scaled = (factor, x) => x.map((value) => factor * value);

/** The mean of v = cos θ ε − sin θ x₀ where a step of Heun's begins and where DDIM's step from there ends. */
async function meanSlope({ t, s, x, x0 }) {
  const [theta, phi] = [t, s].map((time) => Math.acos(Math.sqrt(alphaBar[time])));
  const slope = (x, x0, angle) => x.map((value, i) => (Math.cos(angle) * value - x0[i]) / Math.sin(angle));
  const here = slope(x, x0, theta);
  const end = add([scaled(Math.cos(phi - theta), x), scaled(Math.sin(phi - theta), here)]);
  return scaled(0.5, add([here, slope(end, await denoise(end, s), phi)]));
}

for (const way of WAYS) {
  test(`${way.sampler}, ${way.steps} steps, eta ${way.eta}`, async () => {
    const steps = await traced(way);
    for (const [index, step] of steps.entries()) {
      const { eps, change, signal, noise } = look(step, alphaBar);
      const named = { x_t: step.x, x̂_0: step.x0, ε̂: eps, z };
      const before = steps[index - 1]?.x0 ?? step.x0;
      const [now, then] = extrapolation(steps, index, alphaBar).map(({ factor }) => factor);
      named.D = add([scaled(now, step.x0), scaled(then, before)]);
      const [seen, image] = noiseBeside(signal, noise).map(({ factor }) => factor);
      named.ε̂_D = add([scaled(seen, step.x), scaled(image, named.D)]);
      const update = terms(way, steps, index, alphaBar);
      if (update.some(({ of }) => of === "v̄")) named["v̄"] = await meanSlope(step);
      assertClose(add(update.map(({ factor, of }) => scaled(factor, named[of]))), step.next, 1e-12, `step ${index}`);
      assertClose(add([step.x, change]), step.next, 1e-12);
    }
  });
}

test("signal and noise make what the network sees", async () => {
  const [step] = await traced(WAYS[1]);
  const { signal, noise, snr, eps } = look(step, alphaBar);
  assertClose(add([scaled(signal, step.x0), scaled(noise, eps)]), step.x, 1e-12);
  assertClose([signal ** 2 + noise ** 2, snr], [1, (signal / noise) ** 2], 1e-12);
});
