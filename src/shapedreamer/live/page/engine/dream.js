/**
 * One viewer's dream: frame 0 is a sample or an image that was given, and each further one is varied from the one
 * before, so that one dream melts into the next (explore.melt). Between frames images are kept as they are, unrounded.
 *
 * @import { Label, Settings } from "./protocol.js"
 * @import { Network, Way } from "./model.js"
 * @import { Step } from "./samplers.js"
 *
 * @typedef Frame
 * @property {number} id      of the settings that it was made with
 * @property {number} k       its number
 * @property {boolean} pure   whether model, settings and k alone decide it
 * @property {number} num
 * @property {Float32Array} x
 * @property {number} calls   network calls that it took
 * @property {Model} model
 */

import { Model } from "./model.js";

export class Dream {
  /** The newest settings, and their number. @type {Settings | null} */
  settings = null;
  id = 0;
  /** What frame 0 is, if it is not to be sampled. @type {Float32Array | null} */
  #given = null;
  /** The newest frame; null before frame 0. @type {Float32Array | null} */
  #x = null;
  #k = 0;
  #pure = true;
  #begin = false;
  /** Where to dream anew next. @type {Uint8Array | null} */
  #hole = null;
  #beginnings = 0;

  /** @param {(name: string) => Promise<Model>} load */
  constructor(load) {
    this.load = load;
  }

  /** Whether a frame is wanted even of a dream that is paused. */
  get isDue() {
    return this.#begin || this.#hole !== null;
  }

  /**
   * New settings. With an image, or for another model, seed or num, the dream begins again; else they hold from the next
   * frame on.
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
      this.#given = image;
      this.restart();
    } else if (!this.#begin && changed(["sampler", "steps", "eta", "guidance", "creativity", "label"])) {
      this.#pure = false;
    }
  }

  /** Begin again at frame 0. What is under way is abandoned. */
  restart() {
    [this.#x, this.#hole, this.#begin] = [null, null, true];
    this.#beginnings++;
  }

  /** Dream a part of the first image anew: the next frame. @param {Uint8Array} hole  a byte a pixel, 0 to keep it */
  repaint(hole) {
    this.#hole = hole;
  }

  /**
   * The next frame, of the settings as they are now; null if the dream began again in the meantime.
   *
   * @returns {Promise<Frame | null>}
   */
  async frame() {
    const [settings, id, before, beginning] = [this.settings, this.id, this.#x, this.#beginnings];
    if (settings === null) throw new Error("there are no settings yet: `set` comes first");
    const hole = before && this.#hole;
    if (before === null) this.#pure = this.#given === null;
    if (hole) [this.#hole, this.#pure] = [null, false];
    this.#begin = false;
    const [pure, k] = [this.#pure, before === null ? 0 : this.#k + 1];
    const isWanted = () => beginning === this.#beginnings;
    try {
      const [model, made] = counted(await this.load(settings.model), isWanted);
      const x = await next(model, before, this.#given, hole, settings, k);
      if (!isWanted()) return null;
      [this.#x, this.#k] = [x, k];
      return { id, k, pure, num: settings.num, x, calls: made.calls, model };
    } catch (error) {
      if (!isWanted()) return null;
      this.#hole = null; // or it would be tried for ever
      throw error;
    }
  }

  /**
   * All steps to image 0 of any settings.
   *
   * @param {Settings} settings
   * @returns {Promise<{steps: Step[], calls: number, model: Model}>}
   */
  async trace(settings) {
    const [model, made] = counted(await this.load(settings.model), () => true);
    const steps = [];
    for await (const step of model.stream(1, wayOf(settings))) steps.push(step);
    return { steps, calls: made.calls, model };
  }
}

/**
 * The images of frame k.
 *
 * @param {Model} model
 * @param {Float32Array | null} before  the frame before; null for frame 0
 * @param {Float32Array | null} given   frame 0, if it is not to be sampled
 * @param {Uint8Array | null} hole      where to dream the first image of the frame before anew
 * @param {Settings} settings
 * @param {number} k
 */
async function next(model, before, given, hole, settings, k) {
  const { num, creativity } = settings;
  const way = wayOf(settings);
  if (before === null) return given ?? model.sample(num, way);
  if (hole) return model.inpaint(before.subarray(0, model.size), hole, num, way);
  return creativity ? model.vary(before, creativity, num, way, k) : before;
}

/** @param {Settings} settings @returns {Way} */
function wayOf({ sampler, steps, eta, seed, label, guidance }) {
  return { sampler, steps, eta, seed: BigInt(seed), label, guidance };
}

/**
 * A model whose network calls are counted, and which gives up once its work is no longer wanted.
 *
 * @param {Model} model
 * @param {() => boolean} isWanted
 * @returns {[Model, {calls: number}]}
 */
function counted(model, isWanted) {
  const made = { calls: 0 };
  /** @type {Network} */
  const network = async (...inputs) => {
    made.calls++;
    const output = await model.network(...inputs);
    if (!isWanted()) throw new Error("nobody waits for this any more");
    return output;
  };
  return [model.over(network), made];
}

/** A setting as text, to be compared. @param {any} settings @param {string} key */
function text(settings, key) {
  return JSON.stringify(settings[key]);
}
