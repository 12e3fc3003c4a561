/**
 * The microscope: every sampling step of a picture, with the network's input, its prediction and the sampler's update.
 * It explains the frame on screen, which starts from the frame before it if it melts, and from noise if it drifts or is
 * a new sample; or the sample that the seed begins with. It can compare two samplers that start from the same image.
 *
 * @import { SamplerName, Settings, TraceStep } from "../engine/protocol.js"
 * @import { Session, Snapshot } from "../engine/session.js"
 * @import { Place } from "../engine/state.js"
 */

import { choose, get, onChoice, onResize, range, setIcon, slide } from "./dom.js";
import { toPixels } from "../engine/pack.js";
import { isSample } from "../engine/state.js";
import { TraceView } from "./trace-view.js";

const STEP_MS = 250; // per step of the animation
const REQUEST_DELAY_MS = 150; // a trace is requested this long after the last change

export class Microscope {
  /** @param {Session} session @param {() => void} onChange  the step or a sampler has changed */
  constructor(session, onChange) {
    this.session = session;
    this.onChange = onChange;
    this.element = get("microscope", HTMLElement);
    this.scrub = range("scrub");
    this.depth = range("depth");
    this.views = [0, 1].map(
      (which) => new TraceView({ onChange: () => this.request(which), onPick: (index) => this.go(index) }),
    );
    this.views.forEach((view) => get("looks", HTMLDivElement).append(view.element));
    this.isOpen = false;
    this.isOfFrame = true; // or of the sample that the seed begins with
    /** @type {number | null} the frame that a link names; null for the frame on screen */
    this.linkedFrame = null;
    this.linkedTo = ""; // the frame on screen when the link was opened
    /** The settings of the latest request, as a string. */
    this.tracedSettings = "";
    /** @type {number | null} the step to show first */
    this.firstStep = null;
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this.playing = undefined;
    this.scrub.addEventListener("input", () => this.go(Number(this.scrub.value)));
    this.depth.addEventListener("input", () => session.change({ creativity: Number(this.depth.value) }));
    get("scrub-play", HTMLButtonElement).addEventListener("click", () => this.toggle());
    get("next-frame", HTMLButtonElement).addEventListener("click", () => session.step());
    onChoice("of", (value) => {
      [this.isOfFrame, this.linkedFrame] = [value === "frame", null];
      this.update();
    });
    get("beside", HTMLInputElement).addEventListener("change", () => {
      this.renameDdim();
      this.showPair();
    });
    onResize(get("looks", HTMLDivElement), () => this.isOpen && this.show());
  }

  /** @param {Settings} settings @param {Partial<Place>} place */
  open({ sampler, steps, eta }, { scope }) {
    this.isOpen = true;
    this.element.hidden = false;
    const first = scope?.samplers[0] ?? { sampler, steps, eta };
    const isStochastic = first.sampler === "ddpm" || first.eta > 0;
    /** @type {SamplerName} */
    const contrast = isStochastic ? "ddim" : "ddpm";
    this.views[0].setOptions(first);
    this.views[1].setOptions(scope?.samplers[1] ?? { sampler: contrast, steps: first.steps, eta: 0 });
    get("beside", HTMLInputElement).checked = scope?.samplers.length === 2;
    this.firstStep = scope?.step ?? null;
    this.isOfFrame = scope?.frame !== null;
    [this.linkedFrame, this.linkedTo] = [scope?.frame ?? null, ""];
    choose("of", this.isOfFrame ? "frame" : "noise");
    this.tracedSettings = "";
    this.showPair();
    this.update();
  }

  /** @returns {Partial<Place>} */
  place() {
    const shown = this.isPair ? this.views : this.views.slice(0, 1);
    const samplers = shown.map((view) => view.options());
    return { scope: { step: Number(this.scrub.value), samplers, frame: this.tracedFrame() } };
  }

  /**
   * What a link must store to show the same steps: if it has to contain a picture, then the one that they start from.
   * @param {Snapshot} snapshot
   * @returns {Snapshot}
   */
  startOf(snapshot) {
    const { shown, model, settings } = this.session;
    if (this.isSample()) return { ...snapshot, settings, frame: this.tracedFrame() ?? 0, image: null };
    const previous = this.isOfFrame ? this.views[0].trace?.previous : null;
    if (!snapshot.image || !previous || !shown) return snapshot;
    const image = shown.pixels.slice();
    image.set(toPixels(previous, model));
    return { ...snapshot, image };
  }

  /** The number of the frame to trace; null for the sample that the seed begins with. */
  tracedFrame() {
    const { shown, startImage, targetFrame } = this.session;
    if (!this.isOfFrame) return null;
    const frame = targetFrame ?? shown?.frame ?? 0;
    const next = startImage && frame === 0 ? 1 : 0; // a picture from the page has no steps, but its successor has
    return this.linkedFrame ?? frame + next;
  }

  /** Whether the steps start from pure noise, and not from the frame before. */
  isSample() {
    const { shown, accepted, settings, startImage } = this.session;
    const frame = this.tracedFrame();
    if (frame === null) return true;
    if (frame === 0) return startImage === null;
    const { motion, every } = frame === shown?.frame && accepted ? accepted : settings; // it moved as it was made
    return isSample({ ...settings, motion, every }, frame);
  }

  close() {
    this.isOpen = false;
    this.element.hidden = true;
    this.stop();
    for (const view of this.views) view.clear();
  }

  /** Request new traces if the settings or the frame on screen have changed. */
  update() {
    if (!this.isOpen) return;
    const { settings, model, shown, isSettled } = this.session;
    const frame = isSettled && shown ? `${shown.id} ${shown.frame}` : null;
    this.showDepth();
    if (this.isOfFrame && frame === null) return;
    this.linkedTo ||= frame ?? "";
    if (this.linkedTo !== frame) this.linkedFrame = null;
    const { seed, label, guidance, creativity } = settings;
    const start = this.isOfFrame ? [this.tracedFrame(), frame, creativity] : null;
    const key = JSON.stringify({ model: model.name, seed, label, guidance, start });
    if (key === this.tracedSettings) return;
    this.tracedSettings = key;
    this.request(0);
    if (this.isPair) this.request(1);
  }

  /** Show the slider that sets how far a frame is noised, if that matters. */
  showDepth() {
    const { settings, model } = this.session;
    this.depth.max = `${model.T}`;
    slide(this.depth, settings.creativity);
    const noise = Math.round(100 * (1 - model.alpha_bar[settings.creativity]));
    get("depth-text", HTMLOutputElement).value = `${settings.creativity} · ${noise}%`;
    this.depth.setAttribute("aria-valuetext", `t = ${settings.creativity} of ${model.T}, ${noise}% noise`);
    get("depth-field", HTMLElement).hidden = this.isSample();
    get("next-frame", HTMLButtonElement).hidden = !this.isOfFrame;
  }

  get isPair() {
    return get("beside", HTMLInputElement).checked;
  }

  showPair() {
    this.views[1].element.hidden = !this.isPair;
    get("looks", HTMLDivElement).classList.toggle("pair", this.isPair);
    if (this.isPair && !this.views[1].trace) this.request(1);
    this.show();
  }

  /** DDIM with η = 1 is DDPM: call it DDPM when it stands next to DDIM. */
  renameDdim() {
    const { sampler, steps, eta } = this.views[0].options();
    if (!this.isPair || sampler !== "ddim" || eta !== 1) return;
    this.views[0].setOptions({ sampler: "ddpm", steps, eta: 0 });
    this.request(0);
  }

  /** Request a trace for one of the views. @param {number} which */
  request(which) {
    this.onChange();
    const view = this.views[which];
    view.limitSteps(this.session.model);
    clearTimeout(view.timer);
    view.timer = setTimeout(async () => {
      const request = ++view.requests;
      this.element.setAttribute("aria-busy", "true");
      await view.tracing; // a slow engine would sample every trace in turn, and only the latest counts
      if (request !== view.requests || !this.isOpen) return;
      const [options, frame] = [view.options(), this.tracedFrame()];
      const tracing = this.session.trace(options, frame);
      view.tracing = tracing.catch(() => {});
      try {
        const trace = await tracing;
        if (request !== view.requests || !this.isOpen) return;
        this.showMessage("");
        this.element.setAttribute("aria-busy", "false");
        view.setTrace(trace, options, this.session.model);
        view.nameEnds(`frame ${(frame ?? 0) - 1}`, frame === null ? "picture" : `frame ${frame}`);
        if (which === 0) this.setStepCount(trace.steps.length);
        this.show();
      } catch (error) {
        if (request !== view.requests || !this.isOpen) return;
        this.element.setAttribute("aria-busy", "false");
        this.showMessage(error instanceof Error ? error.message : `${error}`);
      }
    }, REQUEST_DELAY_MS);
  }

  /** @param {number} count */
  setStepCount(count) {
    const before = this.scrub.max === "0" ? Math.floor(count / 3) : Number(this.scrub.value);
    this.scrub.max = `${count - 1}`;
    this.go(Math.min(this.firstStep ?? before, count - 1));
    this.firstStep = null;
  }

  /** @param {string} message */
  showMessage(message) {
    get("microscope-message", HTMLParagraphElement).textContent = message;
  }

  /** Show a step. @param {number} index */
  go(index) {
    slide(this.scrub, index);
    this.show();
    this.onChange();
  }

  /** Move forward by some steps, or back. @param {number} by */
  move(by) {
    this.stop();
    this.go(Math.min(Math.max(Number(this.scrub.value) + by, 0), Number(this.scrub.max)));
  }

  toggle() {
    if (this.playing !== undefined) this.stop();
    else {
      this.playing = setInterval(() => {
        const next = Number(this.scrub.value) + 1;
        if (next > Number(this.scrub.max)) this.stop();
        else this.go(next);
      }, STEP_MS);
      if (this.scrub.value === this.scrub.max) this.go(0);
      this.showPlaying();
    }
  }

  stop() {
    clearInterval(this.playing);
    this.playing = undefined;
    this.showPlaying();
  }

  showPlaying() {
    const button = get("scrub-play", HTMLButtonElement);
    const isPlaying = this.playing !== undefined;
    setIcon(button, isPlaying ? "pause" : "play");
    button.setAttribute("aria-label", isPlaying ? "Pause" : "Play all steps");
  }

  show() {
    const steps = this.views[0].trace?.steps;
    if (!steps) return;
    const index = Number(this.scrub.value);
    const { t, s } = steps[index];
    const text = `step ${index + 1} of ${steps.length}`;
    get("scrub-text", HTMLOutputElement).value = text;
    this.scrub.setAttribute("aria-valuetext", `${text}, from t = ${t} to ${s}`);
    this.views[0].show(index);
    const other = this.views[1].trace?.steps;
    if (this.isPair && other) this.views[1].show(nearest(other, t));
  }
}

/** Index of the step whose start is nearest to timestep t. @param {TraceStep[]} steps @param {number} t */
function nearest(steps, t) {
  return steps.reduce((best, step, i) => (Math.abs(step.t - t) < Math.abs(steps[best].t - t) ? i : best), 0);
}
