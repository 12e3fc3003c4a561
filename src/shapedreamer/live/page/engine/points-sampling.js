/**
 * Samples of points: the samplers of samplers.js, which also make the pictures, with the noise of noise.js.
 *
 * @import { Mixture } from "./points-exact.js"
 * @import { SamplerName } from "./protocol.js"
 * @import { Denoise } from "./samplers.js"
 */

import { fold, noiseOf, normal } from "./noise.js";
import { energyDistance, meanDistance } from "./points-exact.js";
import { drawData } from "./points-training.js";
import { makesTwoCalls, sampleInCalls, SAMPLERS } from "./samplers.js";
import { stepTimes } from "./schedule.js";

export const SAMPLES = 400;
const REFERENCE = 1000;
const BASELINES = 4; // draws of SAMPLES points of the data, compared in the same way
const DATA = 3; // stream of random numbers

/**
 * One plot: which denoiser, which sampler, and how many calls of the denoiser it may make.
 *
 * @typedef {{denoiser: "exact" | "network", sampler: SamplerName, calls: number}} PlotOptions
 */

/** @typedef {{times: number[], x: Float32Array[]}} Path  x_t of all samples at each timestep, (SAMPLES, 2) */

/**
 * SAMPLES points from noise, and their paths.
 *
 * @param {PlotOptions} options
 * @param {Denoise} denoise
 * @param {number[]} alphaBar
 * @param {bigint} seed
 * @returns {Promise<Path>}
 */
export async function samplePath({ sampler, calls }, denoise, alphaBar, seed) {
  const noise = noiseOf(seed, 0, SAMPLES);
  const x = noise(0, new Float64Array(2 * SAMPLES));
  const T = alphaBar.length - 1;
  const randomness = { eta: 0, noise };
  const steps = makesTwoCalls(sampler)
    ? sampleInCalls(sampler, denoise, alphaBar, x, calls, randomness)
    : SAMPLERS[sampler](denoise, alphaBar, x, stepTimes(T, calls), randomness);
  const path = { times: [T], x: [new Float32Array(x)] };
  for await (const { s, next } of steps) {
    path.times.push(s);
    path.x.push(new Float32Array(next));
  }
  return path;
}

/**
 * How far samples are from the data: their energy distance to at least REFERENCE points of it. `baseline` is the mean
 * energy distance of SAMPLES points drawn from the data.
 *
 * @param {Mixture} mixture
 * @param {bigint} seed
 */
export function makeJudge(mixture, seed) {
  const stream = fold(seed, DATA);
  const reference = drawEvenly(mixture, stream);
  const spread = meanDistance(reference, reference);
  /** @param {ArrayLike<number>} samples */
  const distance = (samples) => energyDistance(samples, reference, spread);
  let sum = 0;
  for (let i = 1; i <= BASELINES; i++) sum += distance(drawData(mixture, fold(stream, i), SAMPLES));
  return { baseline: sum / BASELINES, distance };
}

/**
 * Points of the data, equally many from each Gaussian of the mixture.
 *
 * @param {Mixture} mixture
 * @param {bigint} stream
 */
function drawEvenly({ points, blur }, stream) {
  const repeats = Math.ceil((2 * REFERENCE) / points.length);
  return normal(stream, 1, 0, repeats * points.length).map((z, i) => points[i % points.length] + blur * z);
}
