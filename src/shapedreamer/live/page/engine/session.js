/**
 * The page's connection to an engine: the requested settings, the messages sent so far, the last frame, and whether
 * the settings alone reproduce that frame. It does not touch the page's elements.
 *
 * @import { Engine, EngineState, Frame, FromEngine, Hello, ModelInfo, Progress, SamplerName, Settings } from "./protocol.js"
 * @import { ToEngine, Trace } from "./protocol.js"
 */

import { toBase64 } from "../files/bytes.js";
import { parse } from "./protocol.js";
import { defaults, normalize, startFor, withoutDrift } from "./state.js";

/**
 * Callbacks of a session.
 * @typedef {object} Listener
 * @property {(hello: Hello) => void} hello                         the first time, it must call `open`
 * @property {(frame: Frame) => void} frame
 * @property {(settings: Settings) => void} settings                the settings have changed
 * @property {(fields: (keyof Settings)[], message: string) => void} rejected   the engine rejected these fields
 * @property {() => void} playback                                  `isPlaying` or `targetFrame` has changed
 * @property {(state: EngineState, seconds?: number) => void} state
 * @property {(message: string, isError: boolean) => void} notice
 * @property {(progress: Progress) => void} progress                of a download
 * @property {(viewers: number) => void} viewers                    how many viewers the server has
 */

/**
 * A `set` message.
 * @typedef {object} Sent
 * @property {Settings} settings
 * @property {(keyof Settings)[]} fields  the settings that it changed
 * @property {boolean} hasImage           whether the dream started from an image
 * @property {number} previousFirstId     firstId to restore if the engine rejects the message
 */

/**
 * What the page shows, and how to reproduce it.
 * @typedef {object} Snapshot
 * @property {Settings} settings
 * @property {number} frame             number of the frame shown; 0 if there is an image
 * @property {Uint8Array | null} image  the frame itself, if the settings alone do not reproduce it
 * @property {boolean} paused
 */

const MAX_REPLAY = 300; // frames; beyond this, starting from the image is faster than generating every frame again
const SEND_INTERVAL = 80; // minimum milliseconds between two `set` messages while a slider moves
/** @type {(keyof Settings)[]} */
const RESTART_FIELDS = ["model", "seed", "num"]; // changing one of these restarts at frame 0

export class Session {
  /** @param {Engine} engine @param {Listener} listener */
  constructor(engine, listener) {
    this.engine = engine;
    this.listener = listener;
    /** @type {ModelInfo[]} */
    this.models = [];
    /** @type {Settings | null} the viewer's current settings */
    this.requested = null;
    /** @type {Settings | null} the settings of the last frame */
    this.accepted = null;
    /** @type {Frame | null} */
    this.shown = null;
    /** @type {Uint8Array | null} the image that the dream started from, if any */
    this.startImage = null;
    this.isPlaying = false; // what the viewer chose; holds and targetFrame can still pause the engine
    /** @type {number | null} step until this frame */
    this.targetFrame = null;
    this.isResuming = false; // after a lost connection: frames before targetFrame are not shown again
    /** @type {"" | "restart" | "repaint" | "step"} why the page waits for a frame */
    this.awaited = "";
    /** @type {Set<string>} reasons to pause the engine regardless of isPlaying */
    this.holds = new Set();

    this.lastId = 0;
    this.firstId = 0; // frames with a lower id belong to an earlier dream
    /** @type {Map<number, Sent>} `set` messages by id, from the one that produced the last frame on */
    this.sent = new Map();
    /** @type {Set<keyof Settings>} changed, but not sent yet */
    this.pending = new Set();
    this.imagePending = false; // startImage is not sent yet
    /** @type {number | null} the frame to start at, until it is sent; even 0, or an engine goes on with equal settings */
    this.startFrame = null;
    this.lastSent = { playing: false, at: -Infinity };
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /**
     * Traces and samples requested.
     * @type {Map<number, {type: string, resolve: (reply: any) => void, reject: (error: Error) => void}>}
     */
    this.replies = new Map();

    engine.onstate = (state, seconds) => {
      if (state !== "open") this.rejectReplies("the engine has disconnected");
      listener.state(state, seconds);
    };
    engine.onmessage = (message) => this.receive(message);
    engine.onframe = (bytes) => this.receiveFrame(parse(bytes));
  }

  /** The requested settings. Throws before `open`. @returns {Settings} */
  get settings() {
    if (!this.requested) throw new Error("no settings yet: call open() first");
    return this.requested;
  }

  /** @returns {ModelInfo} */
  get model() {
    return this.findModel(this.settings.model);
  }

  /** @param {string} name */
  findModel(name) {
    return this.models.find((model) => model.name === name) ?? this.models[0];
  }

  /** Start a dream: at frame 0, at a later frame of these settings, or from an image. @param {Snapshot} snapshot */
  open({ settings, frame, image, paused }) {
    this.requested = normalize(image ? withoutDrift(settings) : settings, this.findModel(settings.model));
    [this.accepted, this.shown, this.startImage] = [null, null, image];
    this.startFrame = startFor(this.requested, frame);
    this.targetFrame = frame > 0 ? frame : null;
    this.isPlaying = !paused;
    this.sendAll(/** @type {(keyof Settings)[]} */ (Object.keys(settings)));
  }

  /** Send the complete state to a new connection. @param {(keyof Settings)[]} fields */
  sendAll(fields) {
    this.pending = new Set(fields);
    this.imagePending = this.startImage !== null;
    this.awaited = "restart";
    this.firstId = this.lastId + 1;
    this.lastSent.playing = false;
    this.sendSettings();
    this.engine.send({ type: "pause" });
    this.syncPlayback();
    this.listener.settings(this.settings);
    this.listener.playback();
  }

  /** What the page shows now, and how to reproduce it. @returns {Snapshot} */
  snapshot() {
    const { settings, shown, startImage } = this;
    const paused = !this.isPlaying;
    if (!shown || shown.id < this.firstId) return { settings, frame: this.targetFrame ?? 0, image: startImage, paused };
    if (!this.isReproducible()) return { settings: withoutDrift(settings), frame: 0, image: shown.pixels, paused };
    return { settings, frame: this.targetFrame ?? shown.frame, image: null, paused };
  }

  /**
   * The snapshot, with the image in place of a frame number that takes more than MAX_REPLAY frames to reach.
   * @param {Snapshot} snapshot
   * @returns {Snapshot}
   */
  limitReplay(snapshot) {
    const replay = snapshot.frame - startFor(snapshot.settings, snapshot.frame);
    return replay > MAX_REPLAY && this.shown ? { ...snapshot, frame: 0, image: this.shown.pixels } : snapshot;
  }

  /** Whether the requested settings and the frame number reproduce the frame shown. */
  isReproducible() {
    const { shown } = this;
    const record = shown && this.sent.get(shown.id);
    if (!record || !shown.pure || record.hasImage) return false;
    const { fps, ...current } = this.settings;
    const { creativity, motion, every } = current; // frame 0 does not depend on these, nor a drift on creativity
    const used = { ...record.settings, ...(shown.frame === 0 ? { creativity, motion, every } : {}) };
    if (motion === "drift") used.creativity = creativity;
    return isEqual(used, { ...current, fps: used.fps });
  }

  /** @param {Partial<Settings>} patch */
  change(patch) {
    const before = this.settings;
    const after = normalize({ ...before, ...patch }, this.findModel(patch.model ?? before.model));
    const fields = /** @type {(keyof Settings)[]} */ (Object.keys(after)).filter(
      (field) => !isEqual(after[field], before[field]),
    );
    if (fields.length === 0) return;
    this.requested = after;
    for (const field of fields) this.pending.add(field);
    if (fields.some((field) => field === "motion" || field === "every")) this.setTarget(null); // it is another frame now
    if (fields.some((field) => RESTART_FIELDS.includes(field))) {
      this.startImage = null;
      this.setTarget(null);
      this.firstId = this.lastId + 1;
      this.awaited = "restart";
    }
    this.listener.settings(after);
    this.sendSettingsSoon();
  }

  /** Switch to another model with its default settings; seed and num stay, and fps with the motion. @param {string} name */
  changeModel(name) {
    const { seed, num, fps, motion } = this.settings;
    const usual = defaults(this.findModel(name));
    this.change({ ...usual, seed, num, fps: usual.motion === motion ? fps : usual.fps });
  }

  /** Restart the dream from this image. @param {Uint8Array} pixels  (num, H, W, C) */
  startFrom(pixels) {
    this.keepPicture();
    this.startImage = pixels.slice();
    this.imagePending = true;
    this.setTarget(null);
    this.firstId = this.lastId + 1;
    this.awaited = "restart";
    this.sendSettings();
  }

  /** Inpaint a part of the first picture. @param {Uint8Array} mask  (H, W), 255 where to repaint */
  repaint(mask) {
    this.keepPicture();
    this.sendPending();
    this.awaited = "repaint";
    this.engine.send({ type: "repaint", mask: toBase64(mask) });
  }

  /** Let this picture melt on from here: a drift or the next sample would replace it. */
  keepPicture() {
    this.change({ ...withoutDrift(this.settings), every: 0 });
  }

  /** @param {boolean} isPlaying */
  play(isPlaying) {
    this.isPlaying = isPlaying;
    this.setTarget(null);
    this.listener.playback();
    this.syncPlayback();
  }

  step() {
    this.play(false);
    this.sendPending();
    this.awaited = "step";
    this.engine.send({ type: "step" });
  }

  restart() {
    this.setTarget(null);
    this.sendPending();
    this.awaited = "restart";
    this.engine.send({ type: "restart" });
  }

  /** Pause the engine for a reason, or lift that reason; isPlaying stays. @param {string} reason @param {boolean} on */
  hold(reason, on) {
    if (on) this.holds.add(reason);
    else this.holds.delete(reason);
    if (this.requested) this.syncPlayback();
  }

  /** The frames to generate until the one that the page waits for, unless it is a sample, which needs no other frame. */
  get replay() {
    if (this.targetFrame === null) return null;
    const from = startFor(this.settings, this.targetFrame);
    return from < this.targetFrame ? { from, to: this.targetFrame } : null;
  }

  /** Whether the frame shown belongs to the current dream, and is the one to stay. */
  get isSettled() {
    return this.shown !== null && this.shown.id >= this.firstId && this.targetFrame === null;
  }

  /**
   * Request all sampling steps of image 0.
   * @param {{sampler: SamplerName, steps: number, eta: number}} options
   * @param {number | null} frame  number of the frame, made from the frame before it if that is the latest one, and from
   *   the latest one otherwise; null for the sample that the seed begins with
   * @returns {Promise<Trace>}
   */
  trace(options, frame) {
    return this.request((id) => ({ type: "trace", id, ...options, frame }));
  }

  /** Request frame 0 of any settings. @param {Settings} settings @returns {Promise<Frame>} */
  sample(settings) {
    return this.request((id) => ({ type: "sample", id, settings }));
  }

  /**
   * @template Reply
   * @param {(id: number) => ToEngine} message
   * @returns {Promise<Reply>}
   */
  request(message) {
    this.sendPending();
    const id = ++this.lastId;
    const request = message(id);
    return new Promise((resolve, reject) => {
      this.replies.set(id, { type: request.type, resolve, reject });
      this.engine.send(request);
    });
  }

  // messages to the engine

  sendSettingsSoon() {
    const wait = this.lastSent.at + SEND_INTERVAL - performance.now();
    if (wait <= 0) this.sendSettings();
    else this.timer ??= setTimeout(() => this.sendSettings(), wait);
  }

  /** Send changed settings now, before a message that depends on them. */
  sendPending() {
    if (this.pending.size > 0) this.sendSettings();
  }

  sendSettings() {
    clearTimeout(this.timer);
    this.timer = undefined;
    const { settings, startImage } = this;
    const id = ++this.lastId;
    const hasImage = startImage !== null;
    this.sent.set(id, { settings, fields: [...this.pending], hasImage, previousFirstId: this.shown?.id ?? 0 });
    const image = this.imagePending && startImage ? { image: toBase64(startImage) } : {};
    const frame = this.startFrame === null || hasImage ? {} : { frame: this.startFrame };
    this.engine.send({ type: "set", id, settings, ...image, ...frame });
    this.pending.clear();
    [this.imagePending, this.startFrame] = [false, null];
    this.lastSent.at = performance.now();
  }

  /** Send play or pause, if that has changed. */
  syncPlayback() {
    const playing = this.isPlaying && this.holds.size === 0 && this.targetFrame === null;
    if (playing === this.lastSent.playing) return;
    this.lastSent.playing = playing;
    this.engine.send({ type: playing ? "play" : "pause" });
  }

  /** @param {number | null} target */
  setTarget(target) {
    if (target === null) this.isResuming = false;
    if (target === this.targetFrame) return;
    this.targetFrame = target;
    this.listener.playback();
    this.syncPlayback();
  }

  // messages from the engine

  /** @param {FromEngine} message */
  receive(message) {
    if (message.type === "note") this.listener.notice(message.message, false);
    else if (message.type === "progress") this.listener.progress(message);
    else if (message.type === "viewers") this.listener.viewers(message.viewers);
    else if (message.type === "error") this.receiveError(message.id, message.message);
    else if (message.type === "hello") {
      this.models = message.models;
      this.listener.hello(message);
      if (!this.requested) return;
      const snapshot = this.limitReplay(this.snapshot());
      this.isResuming = snapshot.frame > 0;
      this.open(snapshot);
    }
  }

  /** @param {number | null} id @param {string} message */
  receiveError(id, message) {
    this.awaited = "";
    const reply = id === null ? undefined : this.replies.get(id);
    const record = id === null ? undefined : this.sent.get(id);
    if (id !== null && reply) {
      this.replies.delete(id);
      reply.reject(new Error(message));
    } else if (record && this.accepted) {
      const fields = record.fields.filter((field) => isEqual(this.settings[field], record.settings[field]));
      this.requested = { ...this.settings };
      for (const field of fields) Object.assign(this.requested, { [field]: this.accepted[field] });
      if (this.firstId === id) this.firstId = record.previousFirstId;
      this.listener.settings(this.requested);
      this.listener.rejected(fields, message);
    } else {
      this.listener.notice(message, true);
    }
  }

  /** @param {Frame | Trace} frame */
  receiveFrame(frame) {
    const reply = this.replies.get(frame.id);
    this.replies.delete(frame.id);
    if (reply) reply.resolve(frame);
    if (reply || frame.kind === 2) return;
    if (frame.id < this.firstId) return; // it was already on its way when a new dream started
    for (const id of this.sent.keys()) if (id < frame.id) this.sent.delete(id);
    this.accepted = this.sent.get(frame.id)?.settings ?? this.accepted;
    const isReplay = this.isResuming && this.targetFrame !== null && frame.frame < this.targetFrame;
    this.shown = frame;
    this.awaited = "";
    if (this.targetFrame !== null && frame.frame < this.targetFrame) this.engine.send({ type: "step" });
    else if (this.targetFrame !== null && frame.frame > this.targetFrame) this.engine.send({ type: "restart" });
    else this.setTarget(null);
    if (!isReplay) this.listener.frame(frame);
  }

  /** Reject all requests still outstanding. @param {string} reason */
  rejectReplies(reason) {
    for (const { reject } of this.replies.values()) reject(new Error(reason));
    this.replies.clear();
  }
}

/** Deep equality of settings, or of single values. @param {unknown} a @param {unknown} b */
function isEqual(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}
