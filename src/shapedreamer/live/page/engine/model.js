/**
 * Sampling with any network: src/shapedreamer/models/model.py in JavaScript, with `drift_frame`, `vary` and `inpaint`
 * of src/shapedreamer/imaging/editing.py.
 *
 * @import { Floats, Noise } from "./noise.js"
 * @import { Label, ModelInfo } from "./protocol.js"
 * @import { Denoise, Step } from "./samplers.js"
 *
 * @typedef {(x: Float32Array, t: number, label: Float32Array | null) => Promise<Float32Array>} Network
 *   Images x_t, their timestep, and one label vector per image (null: unconditional) -> the network's prediction.
 *
 * @typedef SampleOptions  How to sample.
 * @property {string} sampler
 * @property {number} steps
 * @property {number} eta
 * @property {bigint} seed
 * @property {Label} label
 * @property {Float32Array} [vectors]  label vectors (num, L) to use instead of `label`
 * @property {number} guidance  classifier-free guidance scale; 1 is conditional, 0 unconditional
 */

import { bits, fold, noiseBetween, noiseOf } from "./noise.js";
import { makesTwoCalls, sampleInCalls, SAMPLERS, sum } from "./samplers.js";
import { cubicTimes, logSnrTimes, stepTimes } from "./schedule.js";

export const RENOISE_OFFSET = 2 ** 31; // first image index for re-noising, so that it never reuses x_T of the same seed
const INPAINT_REPEATS = 10; // of each sampling step
// constants to fold into the seed, one for each independent stream of random numbers
const LABEL_STREAM = 0x1abe1;
const REPEAT_STREAM = 0x2ebea7;
const ADDED_NOISE_STREAM = 0xa6a12;

export class Model {
  /**
   * @param {ModelInfo} info
   * @param {Network} network
   * @param {Float32Array} table  (N, L): label vectors of some training images, from which "any" draws
   */
  constructor(info, network, table) {
    this.info = info;
    this.network = network;
    this.table = table;
    /** Values per image, C · H · W. */
    this.size = info.channels * info.height * info.width;
  }

  /** The same model with another network. @param {Network} network */
  withNetwork(network) {
    return new Model(this.info, network, this.table);
  }

  /**
   * The label vectors (num, L) of images first…first + num − 1 of a seed; null for unconditional.
   *
   * @param {Label} label
   * @param {number} num
   * @param {bigint} seed
   * @param {number} first
   */
  labelVectors(label, num, seed, first = 0) {
    const { labels } = this.info;
    if (label === "none" || (label === "any" && !labels.length)) return null;
    const vectors = new Float32Array(num * labels.length);
    for (let i = 0; i < num; i++) {
      const vector = label === "any" ? this.#randomLabel(seed, first + i) : labels.map((name) => label[name] ?? 0);
      vectors.set(vector, i * labels.length);
    }
    return vectors;
  }

  /** A random label vector of the training data, for image i. @param {bigint} seed @param {number} i */
  #randomLabel(seed, i) {
    const L = this.info.labels.length;
    const [word] = bits(fold(seed, LABEL_STREAM), i, 1);
    const row = Math.floor((word * (this.table.length / L)) / 2 ** 32);
    return this.table.subarray(row * L, (row + 1) * L);
  }

  /**
   * The denoiser (x_t, t) -> x̂₀ of the first `num` images: guided, then clipped to [−1, 1].
   *
   * @param {number} num
   * @param {SampleOptions} options
   * @returns {Denoise}
   */
  denoiser(num, options) {
    const { label, guidance, seed } = options;
    const { alpha_bar, prediction } = this.info;
    const vectors = options.vectors ?? this.labelVectors(label, num, seed);
    if (vectors === null && guidance !== 1) {
      throw new Error(`guidance must be 1 without a class label, not ${guidance}`);
    }

    return async (x, t) => {
      const predict = async (/** @type {Float32Array | null} */ condition) =>
        toX0(prediction, await this.network(/** @type {Float32Array} */ (x), t, condition), x, alpha_bar[t]);
      let x0;
      if (guidance === 1 || guidance === 0) x0 = await predict(guidance ? vectors : null);
      else {
        const unconditional = await predict(null);
        x0 = sum(1 - guidance, unconditional, guidance, await predict(vectors));
      }
      return clip(x0);
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
   * The timesteps of `steps` network calls, from `start` down to 0, with the model's preferred spacing.
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
   * Every sampling step of the first `num` images, from noise to image.
   *
   * @param {number} num
   * @param {SampleOptions} options
   */
  stream(num, options) {
    return this.#streamFrom(num, options, noiseOf(options.seed, 0, num));
  }

  /**
   * Every sampling step with this noise: x_T is its noise at step 0.
   *
   * @param {number} num
   * @param {SampleOptions} options
   * @param {Noise} noise
   */
  #streamFrom(num, options, noise) {
    const { alpha_bar } = this.info;
    const [denoise, x] = [this.denoiser(num, options), noise(0, new Float32Array(num * this.size))];
    const randomness = { eta: options.eta, noise };
    const { sampler } = options;
    if (makesTwoCalls(sampler)) return sampleInCalls(sampler, denoise, alpha_bar, x, options.steps, randomness);
    return SAMPLERS[sampler](denoise, alpha_bar, x, this.times(options.steps), randomness);
  }

  /** The first `num` images of the seed. @param {number} num @param {SampleOptions} options */
  async sample(num, options) {
    return lastImages(this.stream(num, options));
  }

  /** Frame `frame` of a drift. @param {number} frame @param {number} num @param {SampleOptions} options @param {number} every */
  async driftFrame(frame, num, options, every) {
    return lastImages(this.driftSteps(frame, num, options, every));
  }

  /**
   * Every sampling step of frame `frame` of a drift. Frame j·every shows the images j·num…j·num + num − 1 of the seed; in
   * between, all noise turns along the circle, and labels drawn by "any" change in proportion. See start_of in editing.py.
   *
   * @param {number} frame
   * @param {number} num
   * @param {SampleOptions} options
   * @param {number} every  0 stays at the first images
   * @param {number} count  sample only the first `count` images of the frame
   */
  driftSteps(frame, num, options, every, count = num) {
    const first = every ? Math.floor(frame / every) * num : 0;
    const fraction = every ? (frame % every) / every : 0;
    const { seed } = options;
    let noise = noiseOf(seed, first, count);
    let { vectors } = this.withLabelsOf(count, options, first);
    if (fraction > 0) {
      noise = noiseBetween(noise, noiseOf(seed, first + num, count), fraction, count);
      const { vectors: following } = this.withLabelsOf(count, options, first + num);
      if (vectors && following) vectors = sum(1 - fraction, vectors, fraction, following);
    }
    return this.#streamFrom(count, { ...options, vectors }, noise);
  }

  /**
   * The options with the labels of images first…first + num − 1, if labels are drawn by "any".
   *
   * @param {number} num
   * @param {SampleOptions} options
   * @param {number} first
   * @returns {SampleOptions}
   */
  withLabelsOf(num, options, first) {
    if (options.label !== "any") return options;
    return { ...options, vectors: this.labelVectors("any", num, options.seed, first) ?? undefined };
  }

  /**
   * Variations of `num` images: add noise up to timestep t, then denoise (SDEdit).
   *
   * @param {Float32Array} images
   * @param {number} t
   * @param {number} num
   * @param {SampleOptions} options
   * @param {number} frame  frame number, at least 1; it selects the noise
   */
  async vary(images, t, num, options, frame) {
    return lastImages(this.variation(images, t, num, options, RENOISE_OFFSET + frame * num).steps);
  }

  /**
   * x_t and every sampling step of `vary`.
   *
   * @param {Float32Array} images
   * @param {number} t
   * @param {number} num
   * @param {SampleOptions} options
   * @param {number} first  number of the first variation, which determines its noise
   */
  variation(images, t, num, options, first) {
    const a = this.info.alpha_bar[t];
    const x = sum(Math.sqrt(a), images, Math.sqrt(1 - a), this.noise(num, options.seed, first));
    const randomness = { eta: options.eta, noise: noiseOf(options.seed, first, num) };
    const times = this.times(Math.min(options.steps, t), t);
    const sampler = SAMPLERS[options.sampler];
    return { x, steps: sampler(this.denoiser(num, options), this.info.alpha_bar, x, times, randomness) };
  }

  /**
   * Inpaint `num` times: the results equal `image` wherever `mask` is 0. Each step is repeated INPAINT_REPEATS times,
   * with its noise added back in between, so that the filled area agrees with its surroundings (RePaint).
   *
   * @param {Float32Array} image  one image
   * @param {Uint8Array} mask     one byte per pixel; the sampler fills the pixels that are not 0
   * @param {number} num
   * @param {SampleOptions} options
   */
  async inpaint(image, mask, num, options) {
    const { alpha_bar } = this.info;
    const sampler = SAMPLERS[options.sampler];
    const restoreKept = (/** @type {Floats} */ x) =>
      x.map((value, i) => (mask[i % mask.length] ? value : image[i % this.size]));
    const denoiseAll = this.denoiser(num, options);
    /** @type {Denoise} */
    const denoise = async (x, t) => restoreKept(await denoiseAll(x, t));

    /** @type {Floats} */
    let x = this.noise(num, options.seed, RENOISE_OFFSET);
    const times = this.times(options.steps);
    for (const [i, s] of times.slice(1).entries()) {
      const t = times[i];
      const ratio = alpha_bar[t] / alpha_bar[s];
      for (let repeat = 0; repeat < (s ? INPAINT_REPEATS : 1); repeat++) {
        const seed = repeat ? fold(options.seed, REPEAT_STREAM, repeat) : options.seed; // fresh noise in each repeat
        if (repeat) {
          const renoise = noiseOf(fold(seed, ADDED_NOISE_STREAM), RENOISE_OFFSET, num);
          x = sum(Math.sqrt(ratio), x, Math.sqrt(1 - ratio), renoise(t, x));
        }
        const randomness = { eta: options.eta, noise: noiseOf(seed, RENOISE_OFFSET, num) };
        const step = await sampler(denoise, alpha_bar, x, s ? [t, s, 0] : [t, 0], randomness).next();
        x = /** @type {Step} */ (step.value).next;
      }
    }
    return clip(restoreKept(x)); // restored again, because the samplers' arithmetic rounds
  }
}

/**
 * x̂₀ from the network's prediction for x_t = √ᾱ x₀ + √(1−ᾱ) ε.
 *
 * @param {string} prediction  "eps", "x0", "v" or "flow"
 * @param {Floats} output
 * @param {Floats} x
 * @param {number} alphaBar
 */
function toX0(prediction, output, x, alphaBar) {
  const [alpha, sigma] = [Math.sqrt(alphaBar), Math.sqrt(1 - alphaBar)];
  if (prediction === "x0") return output;
  if (prediction === "eps") return sum(1 / alpha, x, -sigma / alpha, output);
  if (prediction === "flow") return sum(1 / (alpha + sigma), x, -sigma / (alpha + sigma), output);
  return sum(alpha, x, -sigma, output);
}

/** Values in [−1, 1]. @param {Floats} x */
function clip(x) {
  return /** @type {Float32Array} */ (x.map((value) => Math.min(Math.max(value, -1), 1)));
}

/** The images after the last step, clipped: midpoint ends on an extrapolation. @param {AsyncGenerator<Step, void, void>} steps */
async function lastImages(steps) {
  /** @type {Floats} */
  let x = new Float32Array();
  for await (const step of steps) x = step.next;
  return clip(x);
}
