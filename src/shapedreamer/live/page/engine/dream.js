/**
 * One viewer's dream: the animation on the page. Frame 0 is a sample, or an image from the page. Pictures melt or drift
 * (`melt` and `drift` in src/shapedreamer/imaging/editing.py): a later frame adds noise to the frame before it and
 * denoises it again; or it is a sample whose noise has turned a little. Between frames, images stay float32 and are not
 * rounded to bytes.
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
 *
 * @typedef Origin  what a frame was made from
 * @property {number} k                     its number
 * @property {Float32Array | null} before   the frame before it, if it melted; null for a sample
 * @property {number} every                 as in its settings
 * @property {boolean} isSampled            whether sampling steps made it: it was neither drawn nor repainted
 */

import { Model, RENOISE_OFFSET } from "./model.js";
import { isSample } from "./state.js";

/** Settings that apply from the next frame on. After a change, the seed alone no longer determines the picture. */
const CHANGES_PICTURE = ["sampler", "steps", "eta", "guidance", "creativity", "label", "motion", "every"];

export class Dream {
  /** The newest settings, and their id. @type {Settings | null} */
  settings = null;
  id = 0;
  /** Frame 0, if it is an image rather than a sample. @type {Float32Array | null} */
  #startImage = null;
  /** The newest frame; null before the first one. @type {Float32Array | null} */
  #x = null;
  /** How the newest frame was made; null before the first one. @type {Origin | null} */
  #origin = null;
  /** Number of the newest frame. */
  #k = -1;
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
   * Take new settings. An image, a frame, or another model, seed or num restarts. Any other change applies from the next
   * frame on.
   *
   * @param {number} id
   * @param {Settings} settings
   * @param {Float32Array | null} image
   * @param {number | null} frame  number of the frame to start at; isSample(settings, frame) must hold
   */
  set(id, settings, image, frame = null) {
    const before = this.settings;
    const changed = (/** @type {string[]} */ keys) => keys.some((key) => text(settings, key) !== text(before, key));
    [this.id, this.settings] = [id, settings];
    if (before === null || image !== null || frame !== null || changed(["model", "seed", "num"])) {
      this.#startImage = image;
      this.restart(frame ?? 0);
    } else if (this.#isRestarting && !isSample(settings, this.#k + 1)) {
      this.restart();
    } else if (!this.#isRestarting && changed(CHANGES_PICTURE)) {
      this.#pure = false;
    }
  }

  /** Restart, and cancel the frame being made. */
  restart(frame = 0) {
    [this.#x, this.#k, this.#mask, this.#isRestarting] = [null, frame - 1, null, true];
    [this.#origin, this.#pure] = [null, this.#startImage === null];
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
    const k = this.#k + 1;
    const isFromNoise = before !== null || this.#startImage === null;
    this.#pure = !mask && (this.#pure || (isFromNoise && isSample(settings, k)));
    if (mask) this.#mask = null;
    this.#isRestarting = false;
    const pure = this.#pure;
    const isCurrent = () => restarts === this.#restarts;
    try {
      const [model, counter] = withCounter(await this.load(settings.model), isCurrent);
      const start = before ?? this.#startImage;
      const x = await makeImages(model, start, mask, settings, k);
      if (!isCurrent()) return null;
      this.#origin = { ...originOf(start, settings, k), isSampled: !mask && !(before === null && this.#startImage) };
      [this.#x, this.#k] = [x, k];
      return { id, k, pure, num: settings.num, x, calls: counter.calls, model };
    } catch (error) {
      if (!isCurrent()) return null;
      this.#mask = null; // otherwise the failing repaint would be retried forever
      throw error;
    }
  }

  /**
   * What frame `number` is made from, to trace it: for the newest frame what it was made from, and for any other one the
   * newest frame, unless it is a sample. Throws if sampling steps did not make it, or with the creativity set now would
   * not.
   *
   * @param {number} number
   * @returns {Origin}
   */
  traceable(number) {
    const { settings } = this;
    if (!this.#x || !this.#origin || !settings) throw new Error("there is no frame to trace yet; wait for the first one");
    const origin =
      number === this.#k ? this.#origin : { ...originOf(this.#x, settings, number), isSampled: number > 0 };
    if (!origin.isSampled) {
      throw new Error(`frame ${number} was drawn or repainted and has no sampling steps; make the next frame`);
    }
    if (origin.before && settings.creativity === 0) {
      throw new Error("with creativity 0 a frame equals the one before it; set creativity to at least 1");
    }
    return origin;
  }

  /**
   * All sampling steps of image 0, for any settings. If a frame melted from another one, a step from that one, at
   * t = 0, to x_t comes first.
   *
   * @param {Settings} settings
   * @param {Origin | null} origin  of the frame; null for frame 0 of the seed
   * @returns {Promise<{steps: Step[], calls: number, model: Model}>}
   */
  async trace(settings, origin) {
    const [model, counter] = withCounter(await this.load(settings.model), () => true);
    const { num } = settings;
    const options = sampleOptions(settings);
    /** @type {Step[]} */
    const steps = [];
    let stream = model.driftSteps(origin?.k ?? 0, num, options, origin?.every ?? 0, 1);
    if (origin?.before) {
      const [x0, t] = [origin.before.slice(0, model.size), settings.creativity];
      const withLabels = model.withLabelsOf(1, options, firstOf(origin.k, origin.every, num));
      const { x, steps: variation } = model.variation(x0, t, 1, withLabels, RENOISE_OFFSET + origin.k * num);
      steps.push({ t: 0, s: t, x: x0, x0, next: x });
      stream = variation;
    }
    for await (const step of stream) steps.push(step);
    return { steps, calls: counter.calls, model };
  }

  /**
   * Frame 0 of any settings. The dream does not change.
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
 * @param {Float32Array | null} before  the previous frame; for frame 0, the image to start from, if there is one
 * @param {Uint8Array | null} mask        the area of the first image to inpaint
 * @param {Settings} settings
 * @param {number} k
 */
async function makeImages(model, before, mask, settings, k) {
  const { num, creativity, every } = settings;
  const options = sampleOptions(settings);
  if (before && mask) return model.inpaint(before.subarray(0, model.size), mask, num, options);
  if (!before || (k > 0 && isSample(settings, k))) return model.driftFrame(k, num, options, every);
  if (k === 0 || !creativity) return before;
  return model.vary(before, creativity, num, model.withLabelsOf(num, options, firstOf(k, every, num)), k);
}

/**
 * What frame k is made from, unless it is drawn or repainted.
 *
 * @param {Float32Array | null} before  the frame before it
 * @param {Settings} settings
 * @param {number} k
 */
function originOf(before, settings, k) {
  return { k, before: isSample(settings, k) ? null : before, every: settings.every };
}

/** Number of the seed's first image in the last sample up to frame k. @param {number} k @param {number} every @param {number} num */
function firstOf(k, every, num) {
  return every ? Math.floor(k / every) * num : 0;
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
