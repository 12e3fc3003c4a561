/**
 * A model, ready to dream, over any network: src/shapedreamer/model.py, and `vary` and `inpaint` of explore.py.
 *
 * @import { Floats } from "./noise.js"
 * @import { Label, ModelInfo } from "./protocol.js"
 * @import { Denoise, Step } from "./samplers.js"
 *
 * @typedef {(x: Float32Array, t: number, label: Float32Array | null) => Promise<Float32Array>} Network
 *   The images and their time, and a label for each or none -> what the network predicts.
 *
 * @typedef Way  How to sample.
 * @property {string} sampler
 * @property {number} steps
 * @property {number} eta
 * @property {bigint} seed
 * @property {Label} label
 * @property {number} guidance
 */

import { bits, fold, noiseOf } from "./noise.js";
import { heunOfCalls, SAMPLERS, sum } from "./samplers.js";
import { cubicTimes, logSnrTimes, stepTimes } from "./schedule.js";

const LABELS = 0x1abe1; // what a seed is folded with to draw labels
const ANEW = 2 ** 31; // what is dreamt again takes the noise of images from this number on
const REPEATS = 10; // of a step of inpainting
const REPEAT = 0x2ebea7; // what a seed is folded with for a repeat,
const AGAIN = 0xa6a12; // and for the noise that is put back

export class Model {
  /**
   * @param {ModelInfo} info
   * @param {Network} network
   * @param {Float32Array} table  labels of some images, as they come in the data, one after the other
   */
  constructor(info, network, table) {
    this.info = info;
    this.network = network;
    this.table = table;
    /** Numbers in an image. */
    this.size = info.channels * info.height * info.width;
  }

  /** The same model with another network. @param {Network} network */
  over(network) {
    return new Model(this.info, network, this.table);
  }

  /**
   * The labels of the first `num` images of a seed, one after the other; null for none.
   *
   * @param {Label} label
   * @param {number} num
   * @param {bigint} seed
   */
  labelVectors(label, num, seed) {
    const { labels } = this.info;
    if (label === "none" || (label === "any" && !labels.length)) return null;
    const vectors = new Float32Array(num * labels.length);
    for (let i = 0; i < num; i++) {
      vectors.set(label === "any" ? this.#drawn(seed, i) : labels.map((name) => label[name] ?? 0), i * labels.length);
    }
    return vectors;
  }

  /** The label of image i, where they come as in the data. @param {bigint} seed @param {number} i */
  #drawn(seed, i) {
    const L = this.info.labels.length;
    const [word] = bits(fold(seed, LABELS), i, 1);
    const row = Math.floor((word * (this.table.length / L)) / 2 ** 32);
    return this.table.subarray(row * L, (row + 1) * L);
  }

  /**
   * The network as a denoiser (x_t, t) -> x̂₀ of the first `num` images: guided, then clipped.
   *
   * @param {number} num
   * @param {Way} way
   * @returns {Denoise}
   */
  denoiser(num, { label, guidance, seed }) {
    const { alpha_bar, prediction } = this.info;
    const vectors = this.labelVectors(label, num, seed);
    if (vectors === null && guidance !== 1) throw new Error(`guidance ${guidance} needs a label to guide to`);

    return async (x, t) => {
      const told = async (/** @type {Float32Array | null} */ vectors) =>
        toX0(prediction, await this.network(/** @type {Float32Array} */ (x), t, vectors), x, alpha_bar[t]);
      let x0;
      if (guidance === 1 || guidance === 0) x0 = await told(guidance ? vectors : null);
      else {
        const base = await told(null);
        x0 = sum(1 - guidance, base, guidance, await told(vectors));
      }
      return x0.map((value) => Math.min(Math.max(value, -1), 1));
    };
  }

  /**
   * x_T of the images first…first + num − 1 of a seed.
   *
   * @param {number} num
   * @param {bigint} seed
   * @param {number} first
   */
  noise(num, seed, first = 0) {
    return noiseOf(seed, first, num)(0, new Float32Array(num * this.size));
  }

  /**
   * The times of so many network calls, from `start` to 0, spaced as the model is best sampled.
   *
   * @param {number} steps
   * @param {number} start
   */
  times(steps, start = this.info.T) {
    const { spacing } = this.info.sampling;
    if (spacing === "log_snr") return logSnrTimes(this.info.alpha_bar, steps, start);
    return (spacing === "cubic" ? cubicTimes : stepTimes)(start, steps);
  }

  /**
   * Every step from noise to image of the first `num` images.
   *
   * @param {number} num
   * @param {Way} way
   */
  stream(num, way) {
    const { alpha_bar } = this.info;
    const [denoise, x] = [this.denoiser(num, way), this.noise(num, way.seed)];
    const options = { eta: way.eta, noise: noiseOf(way.seed, 0, num) };
    if (way.sampler === "heun") return heunOfCalls(denoise, alpha_bar, x, way.steps, options);
    return SAMPLERS[way.sampler](denoise, alpha_bar, x, this.times(way.steps), options);
  }

  /** The first `num` images. @param {number} num @param {Way} way */
  async sample(num, way) {
    return last(this.stream(num, way));
  }

  /**
   * Variations of `num` images: each is given the noise of time t, and denoised from there.
   *
   * @param {Float32Array} images
   * @param {number} t
   * @param {number} num
   * @param {Way} way
   * @param {number} frame  k ≥ 1, which decides the noise
   */
  async vary(images, t, num, way, frame) {
    const first = ANEW + frame * num;
    const a = this.info.alpha_bar[t];
    const x = sum(Math.sqrt(a), images, Math.sqrt(1 - a), this.noise(num, way.seed, first));
    const options = { eta: way.eta, noise: noiseOf(way.seed, first, num) };
    const times = this.times(Math.min(way.steps, t), t);
    return last(SAMPLERS[way.sampler](this.denoiser(num, way), this.info.alpha_bar, x, times, options));
  }

  /**
   * `num` images that are `image` but where `hole` (a byte a pixel) is not 0, where they are dreamt anew to go with the
   * rest. Each step is walked several times, with its noise put back in between (RePaint).
   *
   * @param {Float32Array} image  one
   * @param {Uint8Array} hole
   * @param {number} num
   * @param {Way} way
   */
  async inpaint(image, hole, num, way) {
    const { alpha_bar } = this.info;
    const keep = (/** @type {Floats} */ x) =>
      x.map((value, i) => (hole[i % hole.length] ? value : image[i % this.size]));
    const whole = this.denoiser(num, way);
    /** @type {Denoise} */
    const denoise = async (x, t) => keep(await whole(x, t));

    /** @type {Floats} */
    let x = this.noise(num, way.seed, ANEW);
    const times = this.times(way.steps);
    for (const [i, s] of times.slice(1).entries()) {
      const t = times[i];
      const ratio = alpha_bar[t] / alpha_bar[s];
      for (let repeat = 0; repeat < (s ? REPEATS : 1); repeat++) {
        const seed = repeat ? fold(way.seed, REPEAT, repeat) : way.seed; // each time with noise of its own
        if (repeat) x = sum(Math.sqrt(ratio), x, Math.sqrt(1 - ratio), noiseOf(fold(seed, AGAIN), ANEW, num)(t, x));
        const options = { eta: way.eta, noise: noiseOf(seed, ANEW, num) };
        const step = await SAMPLERS[way.sampler](denoise, alpha_bar, x, s ? [t, s, 0] : [t, 0], options).next();
        x = /** @type {Step} */ (step.value).next;
      }
    }
    return /** @type {Float32Array} */ (keep(x)); // as the samplers' arithmetic rounds
  }
}

/**
 * x̂₀ from what was predicted about x_t = √ᾱ x₀ + √(1−ᾱ) ε.
 *
 * @param {string} prediction  "eps", "x0" or "v"
 * @param {Floats} output
 * @param {Floats} x
 * @param {number} alphaBar
 */
function toX0(prediction, output, x, alphaBar) {
  const [alpha, sigma] = [Math.sqrt(alphaBar), Math.sqrt(1 - alphaBar)];
  if (prediction === "x0") return output;
  if (prediction === "eps") return sum(1 / alpha, x, -sigma / alpha, output);
  return sum(alpha, x, -sigma, output);
}

/** The image at the end of a stream of steps. @param {AsyncGenerator<Step, void, void>} steps */
async function last(steps) {
  let x;
  for await (const step of steps) x = step.next;
  return /** @type {Float32Array} */ (x);
}
