/**
 * Four samplers, ways from noise to an image by calling a denoiser a few times: src/shapedreamer/samplers.py, where the
 * papers are named, in JavaScript.
 *
 * Each is an async generator of steps. Images are computed with in float64 and kept in the type of x_T.
 *
 * @import { Floats, Noise } from "./noise.js"
 * @typedef {(x: Floats, t: number) => Promise<Floats>} Denoise  (x_t, t) -> x̂₀
 *
 * @typedef Step        From time t to time s:
 * @property {number} t
 * @property {number} s
 * @property {Floats} x     x_t, where it began
 * @property {Floats} x0    x̂₀, the guess that led on
 * @property {Floats} next  x_s, where it landed
 *
 * @typedef Options
 * @property {number} eta    noise of those WITH_ETA, 0…1
 * @property {Noise} noise   asked as noise(t, x) when leaving time t
 *
 * @typedef {(denoise: Denoise, alphaBar: number[], x: Floats, times: number[], options: Options) =>
 *   AsyncGenerator<Step, void, void>} Sampler
 *   times: falling from that of x to 0. In the code a = ᾱ_t of a step's start, b = ᾱ_s of its end.
 */

import { stepTimes } from "./schedule.js";

/** @type {Sampler} */
export async function* ddpm(denoise, alphaBar, x, times, { noise }) {
  for (const [t, s, a, b] of intervals(alphaBar, times)) {
    const x0 = await denoise(x, t);
    const beta = 1 - a / b;
    let next = sum((Math.sqrt(b) * beta) / (1 - a), x0, (Math.sqrt(1 - beta) * (1 - b)) / (1 - a), x);
    if (s > 0) next = sum(1, next, Math.sqrt(((1 - b) / (1 - a)) * beta), noise(t, x));
    yield { t, s, x, x0, next };
    x = next;
  }
}

/** @type {Sampler} */
export async function* ddim(denoise, alphaBar, x, times, { eta, noise }) {
  for (const [t, s, a, b] of intervals(alphaBar, times)) {
    const x0 = await denoise(x, t);
    const next = ddimStep(x0, x, t, a, b, eta, noise);
    yield { t, s, x, x0, next };
    x = next;
  }
}

/**
 * Each step from x goes to the end as DDIM does, looks at v = cos θ ε − sin θ x₀ there too, and takes the mean of both.
 *
 * @param {boolean} plain  whether the first step is DDIM's
 * @returns {Sampler}
 */
function heunFrom(plain) {
  return async function* (denoise, alphaBar, x, times) {
    for (const [t, s, a, b] of intervals(alphaBar, times)) {
      const [theta, phi] = [a, b].map((alpha) => Math.acos(Math.sqrt(alpha)));
      const x0 = await denoise(x, t);
      const v = velocity(x, x0, theta);
      let next = sum(Math.cos(phi - theta), x, Math.sin(phi - theta), v);
      if (s > 0 && !(plain && t === times[0])) {
        const there = velocity(next, await denoise(next, s), phi);
        next = sum(1, x, (phi - theta) / 2, sum(1, v, 1, there));
      }
      yield { t, s, x, x0, next };
      x = next;
    }
  };
}

export const heun = heunFrom(false);

/**
 * Heun's method with a number of network calls, of which it makes its times itself: two for each step but the last, and
 * for an even number but the first.
 *
 * @param {Denoise} denoise
 * @param {number[]} alphaBar
 * @param {Floats} x  at time T
 * @param {number} calls
 * @param {Options} options
 */
export function heunOfCalls(denoise, alphaBar, x, calls, options) {
  const times = stepTimes(alphaBar.length - 1, Math.floor(calls / 2) + 1);
  return heunFrom(calls % 2 === 0)(denoise, alphaBar, x, times, options);
}

/** @type {Sampler} */
export async function* dpmpp_2m(denoise, alphaBar, x, times, { eta, noise }) {
  /** @type {Floats | null} */
  let previous = null;
  let before = NaN;
  for (const [t, s, a, b] of intervals(alphaBar, times)) {
    const x0 = await denoise(x, t);
    const h = halfLogSnr(b) - halfLogSnr(a);
    const slope = h / (2 * before);
    const guess = previous === null || s === 0 ? x0 : sum(1 + slope, x0, -slope, previous);
    const next = ddimStep(guess, x, t, a, b, eta, noise);
    [previous, before] = [x0, h];
    yield { t, s, x, x0, next };
    x = next;
  }
}

/** @type {Record<string, Sampler>} */
export const SAMPLERS = { ddpm, ddim, heun, dpmpp_2m };
export const WITH_ETA = ["ddim", "dpmpp_2m"]; // those that add as much noise as one likes

/**
 * p · x + q · y, pixel by pixel, in the type of x.
 *
 * @template {Floats} A
 * @param {number} p
 * @param {A} x
 * @param {number} q
 * @param {Floats} y
 * @returns {A}
 */
export function sum(p, x, q, y) {
  const out = /** @type {A} */ (x.slice());
  for (let i = 0; i < out.length; i++) out[i] = p * x[i] + q * y[i];
  return out;
}

/**
 * [[t, s, ᾱ_t, ᾱ_s], …]: from which time to which each step goes.
 *
 * @param {number[]} alphaBar
 * @param {number[]} times
 */
function intervals(alphaBar, times) {
  return times.slice(1).map((s, i) => [times[i], s, alphaBar[times[i]], alphaBar[s]]);
}

/**
 * x_s, on the straight line from x_t to x̂₀, with a part of the noise in it drawn anew.
 *
 * @param {Floats} x0
 * @param {Floats} x
 * @param {number} t
 * @param {number} a
 * @param {number} b
 * @param {number} eta
 * @param {Noise} noise
 */
function ddimStep(x0, x, t, a, b, eta, noise) {
  const eps = sum(1 / Math.sqrt(1 - a), x, -Math.sqrt(a / (1 - a)), x0);
  const sigma = eta * Math.sqrt(((1 - b) / (1 - a)) * (1 - a / b));
  const next = sum(Math.sqrt(b), x0, Math.sqrt(Math.max(1 - b - sigma ** 2, 0)), eps);
  return sigma > 0 ? sum(1, next, sigma, noise(t, x)) : next; // always at s = 0, where b = 1
}

/** v from x = cos θ x₀ + sin θ ε and x̂₀. @param {Floats} x @param {Floats} x0 @param {number} theta */
function velocity(x, x0, theta) {
  return sum(1 / Math.tan(theta), x, -1 / Math.sin(theta), x0);
}

/** λ = ½ log(ᾱ/(1−ᾱ)), infinite at both ends. @param {number} alphaBar */
export function halfLogSnr(alphaBar) {
  return 0.5 * Math.log(alphaBar / (1 - alphaBar));
}
