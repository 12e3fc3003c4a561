/**
 * One viewer's dream: the animation on the page. Frame 0 is a sample, or an image from the page. Every later frame adds
 * noise to the frame before it and denoises it again (`melt` in src/shapedreamer/imaging/editing.py), so that one
 * picture gradually turns into the next. Between frames, images stay float32 and are not rounded to bytes.
 *
 * @import { Settings } from "./protocol.js"
 * @import { Network, SampleOptions } from "./model.js"
 * @import { Step } from "./samplers.js"
 *
 * @typedef Frame
 * @property {number} id      id of the settings that produced it
 * @property {number} k       frame number
 * @property {boolean} pure   whether the model, the settings and k determine it completely
 * @property {number} num
 * @property {Float32Array} x
 * @property {number} calls   network calls made for it
 * @property {Model} model
 */

import { Model, RENOISE_OFFSET } from "./model.js";

export class Dream {
  /** The newest settings, and their id. @type {Settings | null} */
  settings = null;
  id = 0;
  /** Frame 0, if it is an image rather than a sample. @type {Float32Array | null} */
  #startImage = null;
  /** The newest frame; null before frame 0. @type {Float32Array | null} */
  #x = null;
  /** The frame that it was made from; null for a sample. @type {Float32Array | null} */
  #before = null;
  /** Whether sampling steps made it: it is neither an image from the page nor repainted. */
  #isSampled = false;
  #k = 0;
  #pure = true;
  #isRestarting = false;
  /** The area that the next frame repaints. @type {Uint8Array | null} */
  #mask = null;
  #restarts = 0;

  /** @param {(name: string) => Promise<Model>} load */
  constructor(load) {
    this.load = load;
  }

  /** Whether a frame is due even while the dream is paused. */
  get isDue() {
    return this.#isRestarting || this.#mask !== null;
  }

  /**
   * Take new settings. An image, or another model, seed or num, restarts at frame 0. Any other change applies from the
   * next frame on.
   *
   * @param {number} id
   * @param {Settings} settings
   * @param {Float32Array | null} image
   */
  set(id, settings, image) {
    const before = this.settings;
    const changed = (/** @type {string[]} */ keys) => keys.some((key) => text(settings, key) !== text(before, key));
    [this.id, this.settings] = [id, settings];
    if (before === null || image !== null || changed(["model", "seed", "num"])) {
      this.#startImage = image;
      this.restart();
    } else if (!this.#isRestarting && changed(["sampler", "steps", "eta", "guidance", "creativity", "label"])) {
      this.#pure = false;
    }
  }

  /** Restart at frame 0, and cancel the frame being made. */
  restart() {
    [this.#x, this.#before, this.#mask, this.#isRestarting] = [null, null, null, true];
    this.#restarts++;
  }

  /** Inpaint a part of the first image in the next frame. @param {Uint8Array} mask  one byte per pixel, 0 to keep it */
  repaint(mask) {
    this.#mask = mask;
  }

  /**
   * Make the next frame with the current settings; null if the dream restarted in the meantime.
   *
   * @returns {Promise<Frame | null>}
   */
  async nextFrame() {
    const [settings, id, before, restarts] = [this.settings, this.id, this.#x, this.#restarts];
    if (settings === null) throw new Error("no settings yet: call set() first");
    const mask = before && this.#mask;
    if (before === null) this.#pure = this.#startImage === null;
    if (mask) [this.#mask, this.#pure] = [null, false];
    this.#isRestarting = false;
    const [pure, k] = [this.#pure, before === null ? 0 : this.#k + 1];
    const isCurrent = () => restarts === this.#restarts;
    try {
      const [model, counter] = withCounter(await this.load(settings.model), isCurrent);
      const x = await makeImages(model, before, this.#startImage, mask, settings, k);
      if (!isCurrent()) return null;
      [this.#x, this.#k, this.#before] = [x, k, before];
      this.#isSampled = !mask && !(before === null && this.#startImage);
      return { id, k, pure, num: settings.num, x, calls: counter.calls, model };
    } catch (error) {
      if (!isCurrent()) return null;
      this.#mask = null; // otherwise the failing repaint would be retried forever
      throw error;
    }
  }

  /**
   * How to trace frame `number`: it starts from the frame before it if it is the newest frame, and from the newest one
   * otherwise. Throws if sampling steps did not make it, or with the creativity set now would not.
   *
   * @param {number} number
   * @returns {{before: Float32Array | null, first: number}}  first: number of its first variation
   */
  traceable(number) {
    if (this.#x === null || !this.settings) throw new Error("there is no frame to trace yet; wait for the first one");
    const isNewest = number === this.#k;
    if (isNewest ? !this.#isSampled : number === 0) {
      throw new Error(`frame ${number} was drawn or repainted and has no sampling steps; make the next frame`);
    }
    const before = isNewest ? this.#before : this.#x;
    if (before && this.settings.creativity === 0) {
      throw new Error("with creativity 0 a frame equals the one before it; set creativity to at least 1");
    }
    return { before, first: RENOISE_OFFSET + number * this.settings.num };
  }

  /**
   * All sampling steps of image 0, for any settings. If a frame was made from another one, a step from that one, at
   * t = 0, to x_t comes first.
   *
   * @param {Settings} settings
   * @param {{before: Float32Array | null, first: number} | null} frame  null for frame 0 of the seed
   * @returns {Promise<{steps: Step[], calls: number, model: Model}>}
   */
  async trace(settings, frame) {
    const [model, counter] = withCounter(await this.load(settings.model), () => true);
    const options = sampleOptions(settings);
    const [steps, stream] = frame?.before
      ? startVariation(model, frame.before.slice(0, model.size), settings.creativity, options, frame.first)
      : [[], model.stream(1, options)];
    for await (const step of stream) steps.push(step);
    return { steps, calls: counter.calls, model };
  }

  /**
   * Frame 0 of any settings; the dream stays as it is.
   *
   * @param {number} id
   * @param {Settings} settings
   * @returns {Promise<Frame>}
   */
  async sample(id, settings) {
    const [model, counter] = withCounter(await this.load(settings.model), () => true);
    const x = await model.sample(settings.num, sampleOptions(settings));
    return { id, k: 0, pure: true, num: settings.num, x, calls: counter.calls, model };
  }
}

/**
 * The images of frame k.
 *
 * @param {Model} model
 * @param {Float32Array | null} before      the previous frame; null for frame 0
 * @param {Float32Array | null} startImage  frame 0, if it is not sampled
 * @param {Uint8Array | null} mask          the area of the first image to inpaint
 * @param {Settings} settings
 * @param {number} k
 */
async function makeImages(model, before, startImage, mask, settings, k) {
  const { num, creativity } = settings;
  const options = sampleOptions(settings);
  if (before === null) return startImage ?? model.sample(num, options);
  if (mask) return model.inpaint(before.subarray(0, model.size), mask, num, options);
  return creativity ? model.vary(before, creativity, num, options, k) : before;
}

/**
 * The step that adds noise to an image, and the steps that remove it again.
 *
 * @param {Model} model
 * @param {Float32Array} image
 * @param {number} t
 * @param {SampleOptions} options
 * @param {number} first
 * @returns {[Step[], AsyncGenerator<Step, void, void>]}
 */
function startVariation(model, image, t, options, first) {
  const { x, steps } = model.variation(image, t, 1, options, first);
  return [[{ t: 0, s: t, x: image, x0: image, next: x }], steps];
}

/** @param {Settings} settings @returns {SampleOptions} */
function sampleOptions({ sampler, steps, eta, seed, label, guidance }) {
  return { sampler, steps, eta, seed: BigInt(seed), label, guidance };
}

/**
 * The model with a count of its network calls. Its network throws once the result is no longer needed.
 *
 * @param {Model} model
 * @param {() => boolean} isCurrent
 * @returns {[Model, {calls: number}]}
 */
function withCounter(model, isCurrent) {
  const counter = { calls: 0 };
  /** @type {Network} */
  const network = async (...inputs) => {
    counter.calls++;
    const output = await model.network(...inputs);
    if (!isCurrent()) throw new Error("cancelled: the dream has restarted");
    return output;
  };
  return [model.withNetwork(network), counter];
}

/** A setting as a string, for comparison. @param {any} settings @param {string} key */
function text(settings, key) {
  return JSON.stringify(settings[key]);
}
