/**
 * A viewer's side of the talk with an engine: what is wished, what the engine has been told, what it last showed, and
 * whether that follows from the settings alone. Knows nothing of the page's elements.
 *
 * @import { Engine, EngineState, Frame, FromEngine, Hello, ModelInfo, SamplerName, Settings, Trace } from "./protocol.js"
 */

import { toBase64 } from "../files/bytes.js";
import { parse } from "./protocol.js";
import { defaults, settled } from "./state.js";

/**
 * Who is told what happens.
 * @typedef {object} Watcher
 * @property {(hello: Hello) => void} hello                         the first time: a place is due, by `open`
 * @property {(frame: Frame) => void} frame
 * @property {(settings: Settings) => void} settings                they are others now
 * @property {(fields: (keyof Settings)[], message: string) => void} refused   the engine refused values of these
 * @property {() => void} playing                                   `wish` or `target` has changed
 * @property {(state: EngineState, seconds?: number) => void} state
 * @property {(message: string, bad: boolean) => void} news
 */

/**
 * What is dreamt, and what leads to it.
 * @typedef {object} Chain
 * @property {Settings} settings
 * @property {number} frame             which frame of the dream of the settings is shown; 0 where there is an image
 * @property {Uint8Array | null} image  what is shown, where the settings alone do not lead to it
 * @property {boolean} paused
 */

const FAR = 300; // frames: further on, a picture itself is quicker than the way to it
const APART = 80; // milliseconds between two messages of settings, at least, however fast a slider is moved
/** @type {(keyof Settings)[]} */
const BEGIN_ANEW = ["model", "seed", "num"]; // a change of these starts again at frame 0

export class Session {
  /** @param {Engine} engine @param {Watcher} watcher */
  constructor(engine, watcher) {
    this.engine = engine;
    this.watcher = watcher;
    /** @type {ModelInfo[]} */
    this.models = [];
    /** @type {Settings | null} what the viewer wishes */
    this.wished = null;
    /** @type {Settings | null} what the engine is known to go by */
    this.accepted = null;
    /** @type {Frame | null} */
    this.shown = null;
    /** @type {Uint8Array | null} the pictures that the dream began with, if any were given */
    this.image = null;
    this.wish = false; // to play
    /** @type {number | null} the frame that it is stepping to */
    this.target = null;
    /** @type {Set<string>} why it rests all the same */
    this.holds = new Set();

    this.id = 0;
    this.begun = 0; // the id from which on frames belong to this dream and not to one before
    /** @type {Map<number, {settings: Settings, fields: (keyof Settings)[], given: boolean, begunBefore: number}>} */
    this.sent = new Map();
    /** @type {Set<keyof Settings>} changed, and not yet told */
    this.due = new Set();
    this.fresh = false; // the image is not yet told
    this.told = { playing: false, at: -Infinity };
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /** @type {Map<number, {resolve: (trace: Trace) => void, reject: (error: Error) => void}>} */
    this.traces = new Map();

    engine.onstate = (state, seconds) => {
      if (state !== "open") this.drop("the engine is gone");
      watcher.state(state, seconds);
    };
    engine.onmessage = (message) => this.hear(message);
    engine.onframe = (bytes) => this.see(parse(bytes));
  }

  /** The wished settings; there are some once `open` was called. @returns {Settings} */
  get settings() {
    if (!this.wished) throw new Error("nothing is open yet");
    return this.wished;
  }

  /** @returns {ModelInfo} */
  get model() {
    return this.modelNamed(this.settings.model);
  }

  /** @param {string} name */
  modelNamed(name) {
    return this.models.find((model) => model.name === name) ?? this.models[0];
  }

  /** Begin somewhere: at the start, at a frame that the settings lead to, or with pictures. @param {Chain} chain */
  open({ settings, frame, image, paused }) {
    this.wished = settled(settings, this.modelNamed(settings.model));
    [this.accepted, this.shown, this.image] = [null, null, image];
    this.target = frame > 0 ? frame : null;
    this.wish = !paused;
    this.begin(/** @type {(keyof Settings)[]} */ (Object.keys(settings)));
  }

  /** Say all that is wished to an engine that knows nothing of it. @param {(keyof Settings)[]} fields */
  begin(fields) {
    this.due = new Set(fields);
    this.fresh = this.image !== null;
    this.begun = this.id + 1;
    this.told.playing = false;
    this.tell();
    this.engine.send({ type: "pause" });
    this.sync();
    this.watcher.settings(this.settings);
    this.watcher.playing();
  }

  /** What is shown now, and what leads to it. @returns {Chain} */
  chain() {
    const { settings, shown, image } = this;
    const paused = !this.wish;
    if (!shown || shown.id < this.begun) return { settings, frame: this.target ?? 0, image, paused };
    if (!this.pure()) return { settings, frame: 0, image: shown.pixels, paused };
    return { settings, frame: this.target ?? shown.frame, image: null, paused };
  }

  /** The same place, with the picture itself where the way to it is long. @param {Chain} chain @returns {Chain} */
  near(chain) {
    return chain.frame > FAR && this.shown ? { ...chain, frame: 0, image: this.shown.pixels } : chain;
  }

  /** Whether the shown frame follows from the wished settings and its number. */
  pure() {
    const { shown } = this;
    const record = shown && this.sent.get(shown.id);
    if (!record || !shown.pure || record.given) return false;
    const { fps, ...way } = this.settings;
    const others = { ...record.settings, ...(shown.frame === 0 ? { creativity: way.creativity } : {}) };
    return same(others, { ...way, fps: others.fps });
  }

  /** @param {Partial<Settings>} patch */
  change(patch) {
    const before = this.settings;
    const after = settled({ ...before, ...patch }, this.modelNamed(patch.model ?? before.model));
    const fields = /** @type {(keyof Settings)[]} */ (Object.keys(after)).filter(
      (field) => !same(after[field], before[field]),
    );
    if (fields.length === 0) return;
    this.wished = after;
    for (const field of fields) this.due.add(field);
    if (fields.some((field) => BEGIN_ANEW.includes(field))) {
      this.image = null;
      this.reach(null);
      this.begun = this.id + 1;
    }
    this.watcher.settings(after);
    this.tellSoon();
  }

  /** Another model, dreaming as it does best, of the same seed. @param {string} name */
  changeModel(name) {
    const { seed, num, fps } = this.settings;
    this.change({ ...defaults(this.modelNamed(name)), seed, num, fps });
  }

  /** Begin with these pictures, (num, H, W, C). @param {Uint8Array} pixels */
  dreamFrom(pixels) {
    this.image = pixels.slice();
    this.fresh = true;
    this.reach(null);
    this.begun = this.id + 1;
    this.tell();
  }

  /** Dream a part of the picture anew. @param {Uint8Array} mask  (H, W), 255 where */
  repaint(mask) {
    this.tellIfDue();
    this.engine.send({ type: "repaint", mask: toBase64(mask) });
  }

  /** @param {boolean} wish */
  play(wish) {
    this.wish = wish;
    this.reach(null);
    this.watcher.playing();
    this.sync();
  }

  step() {
    this.play(false);
    this.tellIfDue();
    this.engine.send({ type: "step" });
  }

  restart() {
    this.reach(null);
    this.tellIfDue();
    this.engine.send({ type: "restart" });
  }

  /** Rest for a reason of the page's own, whatever the viewer wishes. @param {string} reason @param {boolean} on */
  hold(reason, on) {
    if (on) this.holds.add(reason);
    else this.holds.delete(reason);
    if (this.wished) this.sync();
  }

  /**
   * All steps from noise to image 0 of the settings.
   * @param {{sampler: SamplerName, steps: number, eta: number}} way
   * @returns {Promise<Trace>}
   */
  trace(way) {
    this.tellIfDue();
    const id = ++this.id;
    return new Promise((resolve, reject) => {
      this.traces.set(id, { resolve, reject });
      this.engine.send({ type: "trace", id, ...way });
    });
  }

  // what the engine is told

  tellSoon() {
    const wait = this.told.at + APART - performance.now();
    if (wait <= 0) this.tell();
    else this.timer ??= setTimeout(() => this.tell(), wait);
  }

  tellIfDue() {
    if (this.due.size > 0) this.tell();
  }

  tell() {
    clearTimeout(this.timer);
    this.timer = undefined;
    const { settings, image } = this;
    const id = ++this.id;
    this.sent.set(id, { settings, fields: [...this.due], given: image !== null, begunBefore: this.shown?.id ?? 0 });
    this.engine.send({ type: "set", id, settings, ...(this.fresh && image ? { image: toBase64(image) } : {}) });
    this.due.clear();
    this.fresh = false;
    this.told.at = performance.now();
  }

  sync() {
    const playing = this.wish && this.holds.size === 0 && this.target === null;
    if (playing === this.told.playing) return;
    this.told.playing = playing;
    this.engine.send({ type: playing ? "play" : "pause" });
  }

  /** @param {number | null} target */
  reach(target) {
    if (target === this.target) return;
    this.target = target;
    this.watcher.playing();
    this.sync();
  }

  // what the engine says

  /** @param {FromEngine} message */
  hear(message) {
    if (message.type === "note") this.watcher.news(message.message, false);
    else if (message.type === "error") this.refused(message.id, message.message);
    else if (message.type === "hello") {
      this.models = message.models;
      this.watcher.hello(message);
      if (!this.wished) return;
      const chain = this.chain();
      this.open(chain.paused ? this.near(chain) : { ...chain, frame: 0 });
    }
  }

  /** @param {number | null} id @param {string} message */
  refused(id, message) {
    const trace = id === null ? undefined : this.traces.get(id);
    const record = id === null ? undefined : this.sent.get(id);
    if (id !== null && trace) {
      this.traces.delete(id);
      trace.reject(new Error(message));
    } else if (record && this.accepted) {
      const fields = record.fields.filter((field) => same(this.settings[field], record.settings[field]));
      this.wished = { ...this.settings };
      for (const field of fields) Object.assign(this.wished, { [field]: this.accepted[field] });
      if (this.begun === id) this.begun = record.begunBefore;
      this.watcher.settings(this.wished);
      this.watcher.refused(fields, message);
    } else {
      this.watcher.news(message, true);
    }
  }

  /** @param {Frame | Trace} frame */
  see(frame) {
    if (frame.kind === 2) {
      this.traces.get(frame.id)?.resolve(frame);
      this.traces.delete(frame.id);
      return;
    }
    if (frame.id < this.begun) return; // it was under way when another dream began
    for (const id of this.sent.keys()) if (id < frame.id) this.sent.delete(id);
    this.accepted = this.sent.get(frame.id)?.settings ?? this.accepted;
    this.shown = frame;
    if (this.target !== null && frame.frame < this.target) this.engine.send({ type: "step" });
    else if (this.target !== null && frame.frame > this.target) this.engine.send({ type: "restart" });
    else this.reach(null);
    this.watcher.frame(frame);
  }

  /** Give up on all that was asked. @param {string} why */
  drop(why) {
    for (const { reject } of this.traces.values()) reject(new Error(why));
    this.traces.clear();
  }
}

/** Whether two settings or values of one are the same. @param {unknown} a @param {unknown} b */
function same(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}
