/**
 * The microscope: every sampling step of one picture, with the network's input, its prediction and the sampler's
 * update. It can compare two samplers that start from the same noise.
 *
 * @import { SamplerName, Settings, TraceStep } from "../engine/protocol.js"
 * @import { Session } from "../engine/session.js"
 * @import { Scope } from "../engine/state.js"
 */

import { get, range, setIcon, slide } from "./dom.js";
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
    this.views = [0, 1].map(
      (which) => new TraceView({ onChange: () => this.request(which), onPick: (index) => this.go(index) }),
    );
    this.views.forEach((view) => get("looks", HTMLDivElement).append(view.element));
    this.isOpen = false;
    /** The settings of the latest request, as a string. */
    this.tracedSettings = "";
    /** @type {number | null} the step to show first */
    this.firstStep = null;
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this.playing = undefined;
    this.scrub.addEventListener("input", () => this.go(Number(this.scrub.value)));
    get("scrub-play", HTMLButtonElement).addEventListener("click", () => this.toggle());
    get("beside", HTMLInputElement).addEventListener("change", () => {
      this.renameDdim();
      this.showPair();
    });
    new ResizeObserver(() => this.isOpen && this.show()).observe(get("looks", HTMLDivElement));
  }

  /** @param {Settings} settings @param {Scope | null} scope */
  open({ sampler, steps, eta }, scope) {
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
    this.tracedSettings = "";
    this.showPair();
    this.update();
  }

  /** @returns {Scope} */
  scope() {
    const shown = this.isPair ? this.views : this.views.slice(0, 1);
    return { step: Number(this.scrub.value), samplers: shown.map((view) => view.options()) };
  }

  close() {
    this.isOpen = false;
    this.element.hidden = true;
    this.stop();
    for (const view of this.views) view.clear();
  }

  /** Request new traces if the settings have changed. */
  update() {
    const { model, seed, label, guidance } = this.session.settings;
    const settings = JSON.stringify({ model, seed, label, guidance });
    if (!this.isOpen || settings === this.tracedSettings) return;
    this.tracedSettings = settings;
    this.request(0);
    if (this.isPair) this.request(1);
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
      const options = view.options();
      const request = ++view.requests;
      try {
        const trace = await this.session.trace(options);
        if (request !== view.requests || !this.isOpen) return;
        this.showMessage("");
        view.setTrace(trace, options, this.session.model);
        if (which === 0) this.setStepCount(trace.steps.length);
        this.show();
      } catch (error) {
        if (request !== view.requests || !this.isOpen) return;
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
