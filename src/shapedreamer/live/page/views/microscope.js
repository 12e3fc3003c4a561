/**
 * The microscope: every step from noise to one picture, what the network saw there, what it guessed, and what the
 * sampler made of it; and two samplers side by side, from the same noise.
 *
 * @import { Settings, TraceStep } from "../engine/protocol.js"
 * @import { Session } from "../engine/session.js"
 * @import { Scope } from "../engine/state.js"
 */

import { get, range, setIcon, slide } from "./dom.js";
import { Look } from "./look.js";

const STEP_MS = 250; // of the animation
const SOON_MS = 150; // after the last change the engine is asked

export class Microscope {
  /** @param {Session} session @param {() => void} changed  something else is under it now */
  constructor(session, changed) {
    this.session = session;
    this.changed = changed;
    this.element = get("microscope", HTMLElement);
    this.scrub = range("scrub");
    this.looks = [
      new Look({ changed: () => this.ask(0), pick: (index) => this.go(index) }),
      new Look({ changed: () => this.ask(1), pick: (index) => this.go(index) }),
    ];
    this.looks.forEach((one) => get("looks", HTMLDivElement).append(one.element));
    this.isOn = false;
    /** what was traced last, as text */
    this.about = "";
    /** @type {number | null} where to begin */
    this.step = null;
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this.playing = undefined;
    this.scrub.addEventListener("input", () => this.go(Number(this.scrub.value)));
    get("scrub-play", HTMLButtonElement).addEventListener("click", () => this.toggle());
    get("beside", HTMLInputElement).addEventListener("change", () => {
      this.name();
      this.pair();
    });
    new ResizeObserver(() => this.isOn && this.show()).observe(get("looks", HTMLDivElement));
  }

  /** @param {Settings} settings @param {Scope | null} scope */
  open({ sampler, steps, eta }, scope) {
    this.isOn = true;
    this.element.hidden = false;
    const first = scope?.ways[0] ?? { sampler, steps, eta };
    const isRandom = first.sampler === "ddpm" || first.eta > 0;
    this.looks[0].set(first);
    this.looks[1].set(scope?.ways[1] ?? { sampler: isRandom ? "ddim" : "ddpm", steps: first.steps, eta: 0 });
    get("beside", HTMLInputElement).checked = scope?.ways.length === 2;
    this.step = scope?.step ?? null;
    this.about = "";
    this.pair();
    this.follow();
  }

  /** @returns {Scope} */
  scope() {
    const shown = this.isPair ? this.looks : this.looks.slice(0, 1);
    return { step: Number(this.scrub.value), ways: shown.map((one) => one.way()) };
  }

  close() {
    this.isOn = false;
    this.element.hidden = true;
    this.stop();
    for (const one of this.looks) one.forget();
  }

  /** Look again where the settings lead elsewhere now. */
  follow() {
    const { model, seed, label, guidance } = this.session.settings;
    const about = JSON.stringify({ model, seed, label, guidance });
    if (!this.isOn || about === this.about) return;
    this.about = about;
    this.ask(0);
    if (this.isPair) this.ask(1);
  }

  get isPair() {
    return get("beside", HTMLInputElement).checked;
  }

  pair() {
    this.looks[1].element.hidden = !this.isPair;
    get("looks", HTMLDivElement).classList.toggle("pair", this.isPair);
    if (this.isPair && !this.looks[1].trace) this.ask(1);
    this.show();
  }

  /** Call DDIM by the name that one looks for beside it, where it is that: with η = 1 it is DDPM. */
  name() {
    const { sampler, steps, eta } = this.looks[0].way();
    if (!this.isPair || sampler !== "ddim" || eta !== 1) return;
    this.looks[0].set({ sampler: "ddpm", steps, eta: 0 });
    this.ask(0);
  }

  /** @param {number} which */
  ask(which) {
    this.changed();
    const one = this.looks[which];
    one.limit(this.session.model);
    clearTimeout(one.timer);
    one.timer = setTimeout(async () => {
      const way = one.way();
      const turn = ++one.turn;
      try {
        const trace = await this.session.trace(way);
        if (turn !== one.turn || !this.isOn) return;
        this.say("");
        one.take(trace, way, this.session.model);
        if (which === 0) this.meet(trace.steps.length);
        this.show();
      } catch (error) {
        if (turn === one.turn && this.isOn) this.say(error instanceof Error ? error.message : `${error}`);
      }
    }, SOON_MS);
  }

  /** @param {number} count */
  meet(count) {
    const before = this.scrub.max === "0" ? Math.floor(count / 3) : Number(this.scrub.value);
    this.scrub.max = `${count - 1}`;
    this.go(Math.min(this.step ?? before, count - 1));
    this.step = null;
  }

  /** @param {string} message */
  say(message) {
    get("microscope-message", HTMLParagraphElement).textContent = message;
  }

  /** @param {number} index */
  go(index) {
    slide(this.scrub, index);
    this.show();
    this.changed();
  }

  /** @param {number} by */
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
    button.setAttribute("aria-label", isPlaying ? "Pause" : "Play the steps");
  }

  show() {
    const steps = this.looks[0].trace?.steps;
    if (!steps) return;
    const index = Number(this.scrub.value);
    const { t, s } = steps[index];
    const text = `step ${index + 1} of ${steps.length}`;
    get("scrub-text", HTMLOutputElement).value = text;
    this.scrub.setAttribute("aria-valuetext", `${text}, from t = ${t} to ${s}`);
    this.looks[0].show(index);
    const other = this.looks[1].trace?.steps;
    if (this.isPair && other) this.looks[1].show(nearest(other, t));
  }
}

/** Which step begins nearest to a time. @param {TraceStep[]} steps @param {number} t */
function nearest(steps, t) {
  return steps.reduce((best, step, i) => (Math.abs(step.t - t) < Math.abs(steps[best].t - t) ? i : best), 0);
}
