// The terms that the microscope shows add up to the result of each sampler step.

import assert from "node:assert/strict";
import { test } from "node:test";

import { assertClose, PAGE } from "./golden.mjs";

const { analyze, extrapolation, images: imagesOf, noiseGivenD, terms } = await import(new URL("views/update.js", PAGE));
const { SAMPLERS, makesTwoCalls, sampleInCalls } = await import(new URL("engine/samplers.js", PAGE));

const T = 60;
const alphaBar = Array.from({ length: T + 1 }, (_, t) => Math.cos(((t / T + 0.008) / 1.008) * (Math.PI / 2)) ** 2);
alphaBar[0] = 1;
const x_T = Float64Array.from({ length: 12 }, (_, i) => Math.sin(5 * i) * 1.4);
const denoise = async (x, t) => x.map((value, i) => Math.tanh(value) * (1 - t / 100) + 0.1 * Math.cos(i));
const z = Float64Array.from({ length: 12 }, (_, i) => Math.cos(3 * i));
const CASES = [
  { sampler: "ddpm", steps: 5, eta: 0 },
  { sampler: "ddim", steps: 5, eta: 0 },
  { sampler: "ddim", steps: 4, eta: 0.6 },
  { sampler: "ddim", steps: 1, eta: 1 },
  { sampler: "dpmpp_2m", steps: 6, eta: 0 },
  { sampler: "dpmpp_2m", steps: 5, eta: 0.7 },
  { sampler: "heun", steps: 5, eta: 0 },
  { sampler: "heun", steps: 6, eta: 0 },
  { sampler: "midpoint", steps: 6, eta: 0 },
  { sampler: "midpoint", steps: 5, eta: 0 },
  { sampler: "midpoint", steps: T, eta: 0 },
  { sampler: "heun_line", steps: 5, eta: 0 },
  { sampler: "heun_line", steps: 6, eta: 0 },
];

async function trace({ sampler, steps, eta }) {
  const randomness = { eta, noise: () => z };
  const times = [...Array.from({ length: steps }, (_, i) => Math.round(T - (i * T) / steps)), 0];
  const stream =
    makesTwoCalls(sampler)
      ? sampleInCalls(sampler, denoise, alphaBar, x_T, steps, randomness)
      : SAMPLERS[sampler](denoise, alphaBar, x_T, times, randomness);
  const found = [];
  for await (const step of stream) found.push(step);
  return found;
}

const add = (parts) => parts[0].map((_, i) => parts.reduce((sum, part) => sum + part[i], 0));
const scaled = (factor, x) => x.map((value) => factor * value);

/** The mean of v = cos θ ε − sin θ x₀ at the start of a Heun step and at the end of the DDIM step from there. */
async function meanVelocity({ t, s, x, x0 }) {
  const [theta, phi] = [t, s].map((time) => Math.acos(Math.sqrt(alphaBar[time])));
  const velocity = (x, x0, angle) => x.map((value, i) => (Math.cos(angle) * value - x0[i]) / Math.sin(angle));
  const here = velocity(x, x0, theta);
  const end = add([scaled(Math.cos(phi - theta), x), scaled(Math.sin(phi - theta), here)]);
  return scaled(0.5, add([here, velocity(end, await denoise(end, s), phi)]));
}

/** The slope ū that a step on the line follows: that of Heun, or that at the middle. */
async function lineSlope({ t, s, x, x0 }, sampler) {
  const [c, tau] = [
    (time) => Math.sqrt(alphaBar[time]) + Math.sqrt(1 - alphaBar[time]),
    (time) => Math.sqrt(1 - alphaBar[time]) / c(time),
  ];
  const u = (x, x0, time) => add([scaled(1 / c(time) / tau(time), x), scaled(-1 / tau(time), x0)]);
  let m = s;
  if (sampler === "midpoint") while (m < t - 1 && tau(m) < (tau(t) + tau(s)) / 2 - 1e-9) m++;
  const here = u(x, x0, t);
  const x_m = scaled(c(m), add([scaled(1 / c(t), x), scaled(tau(m) - tau(t), here)]));
  const weight = (tau(s) - tau(t)) / (tau(m) - tau(t)) / 2;
  return add([scaled(1 - weight, here), scaled(weight, u(x_m, await denoise(x_m, m), m))]);
}

for (const options of CASES) {
  test(`${options.sampler}, ${options.steps} steps, eta ${options.eta}`, async () => {
    const steps = await trace(options);
    for (const [index, step] of steps.entries()) {
      const { eps, change, signal, noise } = analyze(step, alphaBar);
      const images = { x_t: step.x, x̂_0: step.x0, ε̂: eps, z };
      const before = steps[index - 1]?.x0 ?? step.x0;
      const [factor, previousFactor] = extrapolation(options.eta, steps, index, alphaBar).map(({ factor }) => factor);
      images.D = add([scaled(factor, step.x0), scaled(previousFactor, before)]);
      const [ofX, ofD] = noiseGivenD(signal, noise).map(({ factor }) => factor);
      images.ε̂_D = add([scaled(ofX, step.x), scaled(ofD, images.D)]);
      const update = terms(options, steps, index, alphaBar);
      if (update.some(({ of }) => of === "v̄")) images["v̄"] = await meanVelocity(step);
      if (update.some(({ of }) => of === "ū")) images["ū"] = await lineSlope(step, options.sampler);
      assertClose(add(update.map(({ factor, of }) => scaled(factor, images[of]))), step.next, 1e-12, `step ${index}`);
      assertClose(add([step.x, change]), step.next, 1e-12);
      for (const { symbol, values } of imagesOf(options, steps, index, alphaBar)) {
        const expected = { ...images, x_s: step.next, "x_s − x_t": change, "x̂′_0": before }[symbol];
        const factor = update.find(({ of }) => of === symbol)?.factor;
        if (values) assertClose(values, expected, 1e-6, `${symbol} in step ${index}`);
        else assert.ok(factor === 0 || (symbol === "x̂′_0" && index === 0), `${symbol} in step ${index}`);
      }
    }
  });
}

test("signal and noise add up to the network's input", async () => {
  const [step] = await trace(CASES[1]);
  const { signal, noise, snr, eps } = analyze(step, alphaBar);
  assertClose(add([scaled(signal, step.x0), scaled(noise, eps)]), step.x, 1e-12);
  assertClose([signal ** 2 + noise ** 2, snr], [1, (signal / noise) ** 2], 1e-12);
});
