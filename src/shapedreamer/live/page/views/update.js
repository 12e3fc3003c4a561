/**
 * The numbers of one sampler step: its signal and noise levels, and the terms of its update.
 *
 * Throughout, a = ᾱ_t at the step's start and b = ᾱ_s at its end, as in src/shapedreamer/diffusion/samplers.py.
 *
 * @import { SamplerName, TraceStep } from "../engine/protocol.js"
 *
 * @typedef {object} Term  a factor times an image
 * @property {string} symbol   the factor as a formula for typeset.js; "" for 1
 * @property {number} factor
 * @property {string} of       the image, as a formula
 *
 * @typedef {object} NamedImage  an image that occurs in the equations of a step
 * @property {string} symbol
 * @property {string} caption
 * @property {number} high                 the value to draw as white; its negative is black
 * @property {Float32Array | null} values  null if it does not matter in this step, because its factor is 0
 */

import { freshNoise, halfLogSnr, makesTwoCalls, placeInStep, stepsOfCalls } from "../engine/samplers.js";

/** Signal, noise, SNR, ε̂ and change of a step. @param {TraceStep} step @param {number[]} alphaBar */
export function analyze({ t, x, x0, next }, alphaBar) {
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

/** What each image is, and the value to draw as white. @type {Record<string, [string, number]>} */
const IMAGES = {
  x_t: ["network input", 1],
  "x̂_0": ["predicted image", 1],
  "ε̂": ["predicted noise", 3],
  z: ["fresh noise", 3],
  "v̄": ["mean velocity", 3],
  "ū": ["mean slope", 3],
  "x̂′_0": ["previous prediction", 1],
  D: ["extrapolated image", 1],
  "ε̂_D": ["noise that D leaves", 3],
  x_s: ["next input", 1],
};

/**
 * The images in the equations of a step, and the change x_s − x_t, in the order to show them.
 * @param {{sampler: SamplerName, steps: number, eta: number}} options
 * @param {TraceStep[]} steps
 * @param {number} index
 * @param {number[]} alphaBar
 * @returns {NamedImage[]}
 */
export function images(options, steps, index, alphaBar) {
  const step = steps[index];
  const { signal, noise, eps, change } = analyze(step, alphaBar);
  /** @type {Record<string, Float32Array | null>} */
  const found = { x_t: step.x, "x̂_0": step.x0, "ε̂": eps };
  if (options.sampler === "dpmpp_2m") {
    found["x̂′_0"] = steps[index - 1]?.x0 ?? null;
    found.D = total(extrapolation(options.eta, steps, index, alphaBar), found);
    found["ε̂_D"] = total(noiseGivenD(signal, noise), found);
  }
  const update = terms(options, steps, index, alphaBar);
  const unknown = update.find(({ of }) => !(of in found)); // the engine does not send it, but x_s determines it
  if (unknown) {
    const others = total(
      update.filter((term) => term !== unknown),
      found,
    );
    found[unknown.of] = unknown.factor === 0 ? null : step.next.map((value, i) => (value - others[i]) / unknown.factor);
  }
  const named = Object.entries({ ...found, x_s: step.next }).map(([symbol, values]) => {
    const [caption, high] = IMAGES[symbol];
    return { symbol, caption, high, values };
  });
  return [...named, { symbol: "x_s − x_t", caption: "change", high: maxAbs(change) || 1, values: change }];
}

/** The sum of terms. @param {Term[]} terms @param {Record<string, Float32Array | null>} images */
function total(terms, images) {
  const sum = /** @type {Float32Array} */ (images.x_t).slice().fill(0);
  for (const { factor, of } of terms) images[of]?.forEach((value, i) => (sum[i] += factor * value));
  return sum;
}

/** The largest absolute value. @param {Float32Array} values */
export function maxAbs(values) {
  return values.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
}

/**
 * The terms whose sum is x_s.
 * @param {{sampler: SamplerName, steps: number, eta: number}} options  steps: network calls
 * @param {TraceStep[]} steps  all steps of the trace
 * @param {number} index       of the step to explain
 * @param {number[]} alphaBar
 * @returns {Term[]}
 */
export function terms(options, steps, index, alphaBar) {
  const { t, s } = steps[index];
  const [a, b] = [alphaBar[t], alphaBar[s]];
  if (makesTwoCalls(options.sampler)) {
    // a step with a single call is a DDIM step
    const single = index === 0 && stepsOfCalls(options.sampler, options.steps).firstIsSingle;
    if (single || (s === 0 && (options.sampler !== "midpoint" || t === 1))) return ddim(a, b, 0);
  }
  switch (options.sampler) {
    case "ddpm":
      return ddpm(a, b);
    case "ddim":
      return ddim(a, b, options.eta);
    case "heun": {
      const angle = Math.acos(Math.sqrt(b)) - Math.acos(Math.sqrt(a));
      return [
        { symbol: "", factor: 1, of: "x_t" },
        { symbol: "(φ_s − φ_t)", factor: angle, of: "v̄" },
      ];
    }
    case "midpoint":
    case "heun_line": {
      const [scaleT, scaleS] = [a, b].map((alpha) => Math.sqrt(alpha) + Math.sqrt(1 - alpha));
      const tau = Math.sqrt(1 - b) / scaleS - Math.sqrt(1 - a) / scaleT;
      return [
        { symbol: "c_s / c_t", factor: scaleS / scaleT, of: "x_t" },
        { symbol: "c_s (τ_s − τ_t)", factor: scaleS * tau, of: "ū" },
      ];
    }
    case "dpmpp_2m":
      return ddim(a, b, options.eta, ["D", "ε̂_D"]);
  }
}

/**
 * The terms of D in DPM-Solver++(2M): x̂₀ extrapolated from the previous step's prediction.
 * @param {number} eta
 * @param {TraceStep[]} steps
 * @param {number} index
 * @param {number[]} alphaBar
 * @returns {Term[]}
 */
export function extrapolation(eta, steps, index, alphaBar) {
  const h = (/** @type {TraceStep} */ { t, s }) => halfLogSnr(alphaBar[s]) - halfLogSnr(alphaBar[t]);
  const { t, s } = steps[index];
  const c = placeInStep(eta, alphaBar[t], alphaBar[s]);
  const r = index === 0 || s === 0 ? 0 : (c * h(steps[index])) / h(steps[index - 1]);
  return [
    { symbol: "(1 + r)", factor: 1 + r, of: "x̂_0" },
    { symbol: "− r", factor: -r, of: "x̂′_0" },
  ];
}

/**
 * The terms of ε̂_D, the noise in x_t if D is its clean image.
 * @param {number} signal  √ᾱ_t
 * @param {number} noise   √(1−ᾱ_t)
 * @returns {Term[]}
 */
export function noiseGivenD(signal, noise) {
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

/**
 * @param {number} a
 * @param {number} b
 * @param {number} eta
 * @param {string[]} images  the symbols to use for x̂₀ and ε̂
 * @returns {Term[]}
 */
function ddim(a, b, eta, [image, eps] = ["x̂_0", "ε̂"]) {
  const sigma = freshNoise(eta, a, b);
  return [
    { symbol: "√{ᾱ_s}", factor: Math.sqrt(b), of: image },
    { symbol: eta > 0 ? "√{1−ᾱ_s−σ²}" : "√{1−ᾱ_s}", factor: Math.sqrt(Math.max(1 - b - sigma ** 2, 0)), of: eps },
    ...(eta > 0 ? [{ symbol: "σ", factor: sigma, of: "z" }] : []),
  ];
}
