/**
 * What points.html shows, and the part of its URL after #, which stores all of it.
 *
 * @import { PlotOptions } from "./points-sampling.js"
 * @import { Prediction } from "./points-network.js"
 */

import { fromBase64Url, toBase64Url } from "../files/bytes.js";
import { MAX_POINTS, SHAPES } from "./points-data.js";
import { T } from "./points-training.js";
import { SCHEDULES } from "./schedule.js";
import { MAX_SEED, MAX_STEPS, SAMPLERS } from "./state.js";

export const DRAWN = "drawn";
export const DENOISERS = { exact: "Exact denoiser", network: "Network" };
/** @type {Prediction[]} */
export const PREDICTIONS = ["x0", "eps", "v", "flow"];
export const LAYERS = ["paths", "density", "score", "data"];
export const MAX_BLUR = 0.3;
export const MAX_TRAINING = 20_000;
export const COUNTS = [1, 2, 4]; // numbers of plots
/** @type {PlotOptions[]} */
export const PLOTS = [
  { denoiser: "exact", sampler: "ddim", calls: 20 },
  { denoiser: "network", sampler: "ddim", calls: 20 },
  { denoiser: "exact", sampler: "ddpm", calls: 20 },
  { denoiser: "exact", sampler: "heun", calls: 20 },
];

/**
 * @typedef {object} PointsState
 * @property {string} data          a key of SHAPES, or DRAWN
 * @property {Uint8Array} drawn     hand-drawn points, two bytes each
 * @property {number} blur          standard deviation of each point
 * @property {keyof typeof SCHEDULES} schedule
 * @property {Prediction} prediction
 * @property {string} seed
 * @property {PlotOptions[]} plots
 * @property {string[]} layers      those of LAYERS that are visible
 * @property {number} t             the timestep on screen
 * @property {number} train         steps to train the network
 */

/** @returns {PointsState} */
export function defaults() {
  return {
    data: "moons",
    drawn: new Uint8Array(),
    blur: 0.05,
    schedule: "cosine",
    prediction: "v",
    seed: "1",
    plots: PLOTS.slice(0, 2).map((plot) => ({ ...plot })),
    layers: ["paths", "density", "data"],
    t: 0,
    train: 2000,
  };
}

/**
 * ε-prediction divides by √ᾱ_t, which is 0 at the end of the flow schedule.
 *
 * @param {PointsState["schedule"]} schedule
 */
export const allowsEps = (schedule) => schedule !== "flow";

/** @param {PointsState} state */
export function toPointsHash(state) {
  const { data, blur, schedule, prediction, seed, plots, layers, t, train } = state;
  const params = new URLSearchParams({ data, blur: `${blur}`, schedule, prediction, seed });
  params.set("plots", plots.map(({ denoiser, sampler, calls }) => `${denoiser}-${sampler}-${calls}`).join(" "));
  params.set("show", layers.join(" "));
  params.set("t", `${t}`);
  params.set("train", `${train}`);
  if (data === DRAWN && state.drawn.length) params.set("points", toBase64Url(state.drawn));
  return params.toString();
}

/**
 * Read what toPointsHash wrote. Each invalid part gets its default value, and one sentence in `problems`.
 *
 * @param {string} hash  with or without #
 */
export function fromPointsHash(hash) {
  const params = new URLSearchParams(hash.replace(/^#/, ""));
  /** @type {string[]} */
  const problems = [];
  const state = defaults();
  /** @param {string} key @param {(text: string) => unknown} parse  undefined if invalid @param {string} valid */
  const read = (key, parse, valid) => {
    const text = params.get(key);
    if (text === null) return;
    const value = parse(text);
    if (value === undefined) problems.push(`${key} must be ${valid}, not ${text}`);
    else Object.assign(state, { [key === "show" ? "layers" : key]: value });
  };
  /** @param {readonly string[]} options */
  const oneOf = (options) => (/** @type {string} */ text) => (options.includes(text) ? text : undefined);
  /** @param {number} max */
  const whole = (max) => (/** @type {string} */ text) =>
    /^\d{1,6}$/.test(text) && Number(text) <= max ? Number(text) : undefined;

  const names = [...Object.keys(SHAPES), DRAWN];
  read("data", oneOf(names), names.join(", "));
  read("blur", parseBlur, `a number from 0 to ${MAX_BLUR}`);
  read("schedule", oneOf(Object.keys(SCHEDULES)), Object.keys(SCHEDULES).join(", "));
  read("prediction", oneOf(PREDICTIONS), PREDICTIONS.join(", "));
  read("seed", parseSeed, "a whole number from 0 to 2⁶⁴−1");
  read("plots", parsePlots, "1, 2 or 4 of the form exact-ddim-20");
  read("show", parseLayers, `some of ${LAYERS.join(", ")}`);
  read("t", whole(T), `a whole number from 0 to ${T}`);
  read("train", whole(MAX_TRAINING), `a whole number from 0 to ${MAX_TRAINING}`);
  const points = params.get("points");
  const drawn = points === null ? new Uint8Array() : parsePoints(points);
  if (drawn) state.drawn = drawn;
  else problems.push("the points in the URL are damaged, and were removed");
  if (state.prediction === "eps" && !allowsEps(state.schedule)) {
    problems.push("prediction must not be eps with the flow schedule, using v instead");
    state.prediction = "v";
  }
  return { state, problems };
}

/** @param {string} text */
function parseBlur(text) {
  return /^\d(\.\d{1,4})?$/.test(text) && Number(text) <= MAX_BLUR ? Number(text) : undefined;
}

/** @param {string} text */
function parseSeed(text) {
  return /^\d{1,20}$/.test(text) && BigInt(text) <= MAX_SEED ? `${BigInt(text)}` : undefined;
}

/** @param {string} text */
function parsePlots(text) {
  const plots = text.split(" ").map((part) => {
    const [denoiser, sampler, calls] = part.split("-");
    return { denoiser, sampler, calls: /^\d{1,2}$/.test(calls ?? "") ? Number(calls) : 0 };
  });
  const isValid = plots.every(
    ({ denoiser, sampler, calls }) =>
      Object.hasOwn(DENOISERS, denoiser) && Object.hasOwn(SAMPLERS, sampler) && calls >= 1 && calls <= MAX_STEPS,
  );
  return isValid && COUNTS.includes(plots.length) ? plots : undefined;
}

/** @param {string} text */
function parseLayers(text) {
  const layers = text.split(" ").filter(Boolean);
  return layers.every((layer) => LAYERS.includes(layer)) ? LAYERS.filter((layer) => layers.includes(layer)) : undefined;
}

/** undefined if it is damaged. @param {string} text */
function parsePoints(text) {
  try {
    const bytes = fromBase64Url(text);
    return bytes.length % 2 === 0 && bytes.length >= 2 && bytes.length <= 2 * MAX_POINTS ? bytes : undefined;
  } catch {
    return undefined;
  }
}
