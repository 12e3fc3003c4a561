/**
 * Six samplers: src/shapedreamer/diffusion/samplers.py in JavaScript. The papers are cited there.
 *
 * Each is an async generator of steps. It computes in float64 and stores images in the type of x_T.
 *
 * @import { Floats, Noise } from "./noise.js"
 * @typedef {(x: Floats, t: number) => Promise<Floats>} Denoise  (x_t, t) -> x̂₀
 *
 * @typedef Step        One step, from timestep t to timestep s.
 * @property {number} t
 * @property {number} s
 * @property {Floats} x     x_t, before the step
 * @property {Floats} x0    x̂₀, the denoiser's prediction at x_t
 * @property {Floats} next  x_s, after the step
 *
 * @typedef Randomness
 * @property {number} eta    fresh noise, 0…MAX_ETA, 1 as much as DDPM's; only the samplers in WITH_ETA use it
 * @property {Noise} noise   called as noise(t, x) when a step leaves timestep t
 *
 * @typedef {(denoise: Denoise, alphaBar: number[], x: Floats, times: number[], randomness: Randomness) =>
 *   AsyncGenerator<Step, void, void>} Sampler
 *   times: decreasing, from the timestep of x to 0. In the code a = ᾱ_t at a step's start, b = ᾱ_s at its end.
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
 * Heun's method: take DDIM's step, evaluate v = cos θ ε − sin θ x₀ at its end too, and step with the mean of both.
 *
 * @param {boolean} firstIsDdim  whether the first step is a plain DDIM step
 * @returns {Sampler}
 */
function heunSampler(firstIsDdim) {
  return async function* (denoise, alphaBar, x, times) {
    for (const [t, s, a, b] of intervals(alphaBar, times)) {
      const [theta, phi] = [a, b].map((alpha) => Math.acos(Math.sqrt(alpha)));
      const x0 = await denoise(x, t);
      const v = velocity(x, x0, theta);
      let next = sum(Math.cos(phi - theta), x, Math.sin(phi - theta), v);
      if (s > 0 && !(firstIsDdim && t === times[0])) {
        const vEnd = velocity(next, await denoise(next, s), phi);
        next = sum(1, x, (phi - theta) / 2, sum(1, v, 1, vEnd));
      }
      yield { t, s, x, x0, next };
      x = next;
    }
  };
}

/**
 * A two-stage Runge-Kutta method on the straight line of flow matching, z = x/(√ᾱ + √(1−ᾱ)).
 *
 * @param {(tau: number[], t: number, s: number) => number} second  the timestep of the second slope; 0 for Euler's step
 * @returns {(firstIsEuler: boolean) => Sampler}
 */
function lineSampler(second) {
  return (firstIsEuler) =>
    async function* (denoise, alphaBar, x, times) {
      const tau = alphaBar.map((a) => Math.sqrt(1 - a) / (Math.sqrt(a) + Math.sqrt(1 - a)));
      for (const [t, s] of intervals(alphaBar, times)) {
        const m = firstIsEuler && t === times[0] ? 0 : second(tau, t, s);
        const [scaleT, scaleM, scaleS] = [t, m, s].map((time) => 1 / Math.hypot(1 - tau[time], tau[time]));
        const x0 = await denoise(x, t);
        let slope = sum(1 / (scaleT * tau[t]), x, -1 / tau[t], x0);
        if (m > 0) {
          const xM = sum(scaleM / scaleT, x, scaleM * (tau[m] - tau[t]), slope);
          const slopeM = sum(1 / (scaleM * tau[m]), xM, -1 / tau[m], await denoise(xM, m));
          const weight = (tau[s] - tau[t]) / (2 * (tau[m] - tau[t]));
          slope = sum(1 - weight, slope, weight, slopeM);
        }
        const next = sum(scaleS / scaleT, x, scaleS * (tau[s] - tau[t]), slope);
        yield { t, s, x, x0, next };
        x = next;
      }
    };
}

const heunLineSampler = lineSampler((_, t, s) => s);
const midpointSampler = lineSampler((tau, t, s) => {
  const middle = (tau[t] + tau[s]) / 2;
  return Math.min(tau.findIndex((value) => value > middle - 1e-9), t - 1);
});

export const [heun, heun_line, midpoint] = [heunSampler, heunLineSampler, midpointSampler].map((make) => make(false));

/** Samplers with two calls a step: with a single call in the first step or not. */
const TWO_CALLS = { heun: heunSampler, heun_line: heunLineSampler, midpoint: midpointSampler };

/** Whether each step of a sampler makes two network calls. @param {string} name @returns {name is keyof TWO_CALLS} */
export function makesTwoCalls(name) {
  return Object.hasOwn(TWO_CALLS, name);
}

/** How many network calls a sampler makes in `steps` steps. @param {string} name @param {number} steps */
export function callsOfSteps(name, steps) {
  return makesTwoCalls(name) ? 2 * steps - (name === "midpoint" ? 0 : 1) : steps;
}

/**
 * How a sampler with two calls a step makes `calls` calls: its number of steps, and whether the first makes only one.
 *
 * @param {keyof TWO_CALLS} name
 * @param {number} calls
 */
export function stepsOfCalls(name, calls) {
  const lastCalls = name === "midpoint" ? 2 : 1; // Heun's methods have no second slope at t = 0
  const count = Math.floor((calls + 3 - lastCalls) / 2);
  return { count, firstIsSingle: 2 * (count - 1) + lastCalls > calls };
}

/**
 * A sampler with two calls a step, for a given number of network calls, at evenly spaced timesteps.
 *
 * @param {keyof TWO_CALLS} name
 * @param {Denoise} denoise
 * @param {number[]} alphaBar
 * @param {Floats} x  x_T
 * @param {number} calls
 * @param {Randomness} randomness
 */
export function sampleInCalls(name, denoise, alphaBar, x, calls, randomness) {
  const { count, firstIsSingle } = stepsOfCalls(name, calls);
  return TWO_CALLS[name](firstIsSingle)(denoise, alphaBar, x, stepTimes(alphaBar.length - 1, count), randomness);
}

/** @type {Sampler} */
export async function* dpmpp_2m(denoise, alphaBar, x, times, { eta, noise }) {
  /** @type {Floats | null} */
  let previousX0 = null;
  let previousH = NaN;
  for (const [t, s, a, b] of intervals(alphaBar, times)) {
    const x0 = await denoise(x, t);
    const h = halfLogSnr(b) - halfLogSnr(a);
    const r = (placeInStep(eta, a, b) * h) / previousH;
    const D = previousX0 === null || s === 0 ? x0 : sum(1 + r, x0, -r, previousX0);
    const next = ddimStep(D, x, t, a, b, eta, noise);
    [previousX0, previousH] = [x0, h];
    yield { t, s, x, x0, next };
    x = next;
  }
}

/** @type {Record<string, Sampler>} */
export const SAMPLERS = { ddpm, ddim, heun, dpmpp_2m, midpoint, heun_line };
export const WITH_ETA = ["ddim", "dpmpp_2m"]; // samplers with an eta parameter
export const MAX_ETA = 2;

/**
 * p · x + q · y, element by element, in the type of x.
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
 * [t, s, ᾱ_t, ᾱ_s] of every step.
 *
 * @param {number[]} alphaBar
 * @param {number[]} times
 */
function intervals(alphaBar, times) {
  return times.slice(1).map((s, i) => [times[i], s, alphaBar[times[i]], alphaBar[s]]);
}

/**
 * x_s by DDIM's update: x̂₀ and ε̂ mixed for timestep s, with a share of ε̂ replaced by fresh noise.
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
  const sigma = freshNoise(eta, a, b);
  const next = sum(Math.sqrt(b), x0, Math.sqrt(Math.max(1 - b - sigma ** 2, 0)), eps);
  return sigma > 0 ? sum(1, next, sigma, noise(t, x)) : next; // sigma = 0 at s = 0, because b = 1 there
}

/**
 * σ, the standard deviation of the noise that ddim and dpmpp_2m add in a step: η' √β̃ ≤ √(1−b).
 *
 * η' is η up to 1, and 1 + (η−1) min(1, 2b) above.
 *
 * @param {number} eta
 * @param {number} a
 * @param {number} b
 */
export function freshNoise(eta, a, b) {
  const grown = Math.min(eta, 1) + Math.max(eta - 1, 0) * Math.min(1, 2 * b);
  return Math.min(grown * Math.sqrt(((1 - b) / (1 - a)) * (1 - a / b)), Math.sqrt(1 - b));
}

/**
 * c, the place of D in a step of dpmpp_2m: ½ up to η = 1. More new noise moves it towards 1, the end of the step.
 *
 * @param {number} eta
 * @param {number} a
 * @param {number} b
 */
export function placeInStep(eta, a, b) {
  const [kept, keptByDdpm] = [eta, 1].map((value) => Math.max(1 - b - freshNoise(value, a, b) ** 2, 0));
  return 1 - Math.min(1, Math.sqrt(kept / keptByDdpm)) / 2;
}

/** v from x = cos θ x₀ + sin θ ε and x̂₀. @param {Floats} x @param {Floats} x0 @param {number} theta */
function velocity(x, x0, theta) {
  return sum(1 / Math.tan(theta), x, -1 / Math.sin(theta), x0);
}

/** λ = ½ log(ᾱ/(1−ᾱ)), infinite at ᾱ = 0 and ᾱ = 1. @param {number} alphaBar */
export function halfLogSnr(alphaBar) {
  return 0.5 * Math.log(alphaBar / (1 - alphaBar));
}
