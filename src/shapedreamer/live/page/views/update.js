/**
 * What one step of a sampler does, in numbers: how much signal and noise there is, and the terms of its update.
 *
 * Throughout a = ᾱ_t of the step's start, b = ᾱ_s of its end, as in src/shapedreamer/samplers.py.
 *
 * @import { SamplerName, TraceStep } from "../engine/protocol.js"
 *
 * @typedef {object} Term  a product in the update
 * @property {string} symbol   of the factor, as typeset.js sets it; "" for 1
 * @property {number} factor
 * @property {string} of       what it multiplies
 */

import { halfLogSnr } from "../engine/samplers.js";

/** @param {TraceStep} step @param {number[]} alphaBar */
export function look({ t, x, x0, next }, alphaBar) {
  const a = alphaBar[t];
  const [signal, noise] = [Math.sqrt(a), Math.sqrt(1 - a)];
  return {
    signal,
    noise,
    snr: a / (1 - a),
    eps: x.map((value, i) => (value - signal * x0[i]) / noise),
    change: next.map((value, i) => value - x[i]),
  };
}

/** The largest size of a number. @param {Float32Array} values */
export function largest(values) {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

/**
 * x_s as a sum.
 * @param {{sampler: SamplerName, steps: number, eta: number}} way  steps: network calls that were asked for
 * @param {TraceStep[]} steps  all of the trace
 * @param {number} index       which of them
 * @param {number[]} alphaBar
 * @returns {Term[]}
 */
export function terms(way, steps, index, alphaBar) {
  const { t, s } = steps[index];
  const [a, b] = [alphaBar[t], alphaBar[s]];
  switch (way.sampler) {
    case "ddpm":
      return ddpm(a, b);
    case "ddim":
      return ddim(a, b, way.eta);
    case "heun": {
      // its last step is DDIM's, and for an even number of calls its first one, too
      if (s === 0 || (way.steps % 2 === 0 && index === 0)) return ddim(a, b, 0);
      const turn = Math.acos(Math.sqrt(b)) - Math.acos(Math.sqrt(a));
      return [
        { symbol: "", factor: 1, of: "x_t" },
        { symbol: "(φ_s − φ_t)", factor: turn, of: "v̄" },
      ];
    }
    case "dpmpp_2m":
      return ddim(a, b, way.eta, ["D", "ε̂_D"]);
  }
}

/**
 * What D is in DPM-Solver++(2M): x̂₀ extrapolated through the prediction before.
 * @param {TraceStep[]} steps
 * @param {number} index
 * @param {number[]} alphaBar
 * @returns {Term[]}
 */
export function extrapolation(steps, index, alphaBar) {
  const h = (/** @type {TraceStep} */ { t, s }) => halfLogSnr(alphaBar[s]) - halfLogSnr(alphaBar[t]);
  const slope = index === 0 || steps[index].s === 0 ? 0 : h(steps[index]) / (2 * h(steps[index - 1]));
  return [
    { symbol: "(1 + r)", factor: 1 + slope, of: "x̂_0" },
    { symbol: "− r", factor: -slope, of: "x̂′_0" },
  ];
}

/**
 * What ε̂_D is: the noise in x_t, if D is the image in it.
 * @param {number} signal  √ᾱ_t
 * @param {number} noise   √(1−ᾱ_t)
 * @returns {Term[]}
 */
export function noiseBeside(signal, noise) {
  return [
    { symbol: "1 / √{1−ᾱ_t}", factor: 1 / noise, of: "x_t" },
    { symbol: "− √{ᾱ_t} / √{1−ᾱ_t}", factor: -signal / noise, of: "D" },
  ];
}

/** @param {number} a @param {number} b @returns {Term[]} */
function ddpm(a, b) {
  const beta = 1 - a / b;
  const variance = ((1 - b) / (1 - a)) * beta;
  return [
    { symbol: "√{ᾱ_s} β / (1−ᾱ_t)", factor: (Math.sqrt(b) * beta) / (1 - a), of: "x̂_0" },
    { symbol: "√{1−β} (1−ᾱ_s) / (1−ᾱ_t)", factor: (Math.sqrt(1 - beta) * (1 - b)) / (1 - a), of: "x_t" },
    { symbol: "√{β̃}", factor: Math.sqrt(variance), of: "z" },
  ];
}

/** @param {number} a @param {number} b @param {number} eta @param {string[]} along  the line's two ends @returns {Term[]} */
function ddim(a, b, eta, [image, eps] = ["x̂_0", "ε̂"]) {
  const sigma = eta * Math.sqrt(((1 - b) / (1 - a)) * (1 - a / b));
  return [
    { symbol: "√{ᾱ_s}", factor: Math.sqrt(b), of: image },
    { symbol: eta > 0 ? "√{1−ᾱ_s−σ²}" : "√{1−ᾱ_s}", factor: Math.sqrt(Math.max(1 - b - sigma ** 2, 0)), of: eps },
    ...(eta > 0 ? [{ symbol: "σ", factor: sigma, of: "z" }] : []),
  ];
}
