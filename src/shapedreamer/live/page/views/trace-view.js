/**
 * One sampler under the microscope: a strip of all its steps, and one step in detail.
 *
 * @import { ModelInfo, SamplerName, Trace } from "../engine/protocol.js"
 * @import { SamplerOptions } from "../engine/state.js"
 */

import { drawNumbers, fitScale, setScale } from "./canvas.js";
import { make, slide } from "./dom.js";
import { makesTwoCalls, WITH_ETA } from "../engine/samplers.js";
import { MAX_STEPS, SAMPLERS } from "../engine/state.js";
import { equation, number, typeset } from "./typeset.js";
import { analyze, extrapolation, maxAbs, noiseGivenD, terms } from "./update.js";

const EPS_RANGE = 3; // ε̂ is drawn with −3 as black and 3 as white
const MIN_TILE = 32; // approximate width of a picture in the strip, in CSS pixels
const MAX_TILE = 48;
const MAX_FIGURE = 240;

const CAPTIONS = ["network input", "predicted image", "predicted noise", "change"];
const FACTS = [
  ["t → s", "timesteps before and after the step"],
  ["√{ᾱ_t}", "signal level: the factor of the clean image in x_t"],
  ["√{1−ᾱ_t}", "noise level: the factor of the noise in x_t"],
  ["SNR", "signal-to-noise ratio, ᾱ_t / (1−ᾱ_t)"],
];

export class TraceView {
  /**
   * @param {object} callbacks
   * @param {() => void} callbacks.onChange                the user changed the sampler options
   * @param {(index: number) => void} callbacks.onPick     the user clicked a step in the strip
   */
  constructor({ onChange, onPick }) {
    /** @type {Trace | null} */
    this.trace = null;
    /** @type {SamplerOptions} options of the trace */
    this.traced = { sampler: "ddim", steps: 1, eta: 0 };
    /** @type {number[]} */
    this.alphaBar = [1];
    this.requests = 0; // only the reply to the latest request counts
    this.index = -1; // of the step shown
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.sampler = make(
      "select",
      {},
      ...Object.entries(SAMPLERS).map(([value, title]) => make("option", { value }, title)),
    );
    this.sampler.setAttribute("aria-label", "Sampler");
    this.steps = make("input", { type: "range", min: "1", max: `${MAX_STEPS}` });
    this.eta = make("input", { type: "range", min: "0", max: "1", step: "0.05" });
    this.stepsText = make("output");
    this.etaText = make("output");
    this.strip = make("canvas", { className: "strip" });
    this.mark = make("div", { className: "mark" });
    this.figures = ["x_t", "x̂_0", "ε̂", "x_s − x_t"].map((symbol, i) => new Figure(symbol, CAPTIONS[i]));
    this.facts = FACTS.map(([symbol, title]) => ({ symbol, title, value: make("dd") }));
    this.equations = make("div", { className: "equations" });
    this.element = make(
      "div",
      { className: "look" },
      make(
        "div",
        { className: "sampler-options" },
        this.sampler,
        make("label", {}, "steps", this.steps, this.stepsText),
        make("label", {}, "η", this.eta, this.etaText),
      ),
      make("div", { className: "film" }, this.strip, this.mark),
      make("div", { className: "figures" }, ...this.figures.map((figure) => figure.element)),
      make(
        "dl",
        { className: "facts" },
        ...this.facts.map(({ symbol, title, value }) => make("div", { title }, make("dt", {}, typeset(symbol)), value)),
      ),
      this.equations,
    );
    for (const control of [this.sampler, this.steps, this.eta]) {
      control.addEventListener("input", () => {
        this.setOptions(this.options());
        onChange();
      });
    }
    this.strip.addEventListener("click", ({ offsetX }) => {
      if (!this.trace) return;
      const columns = this.columns();
      const column = Math.floor((offsetX / this.strip.clientWidth) * columns);
      onPick(this.stripSteps()[Math.min(column, columns - 1)]);
    });
  }

  /** @returns {SamplerOptions} */
  options() {
    const sampler = /** @type {SamplerName} */ (this.sampler.value);
    return { sampler, steps: Number(this.steps.value), eta: WITH_ETA.includes(sampler) ? Number(this.eta.value) : 0 };
  }

  /** @param {SamplerOptions} options */
  setOptions({ sampler, steps, eta }) {
    this.sampler.value = sampler;
    slide(this.steps, steps);
    slide(this.eta, eta);
    this.eta.disabled = !WITH_ETA.includes(sampler);
    this.stepsText.value = makesTwoCalls(sampler) ? `${steps} calls` : `${steps}`;
    this.etaText.value = eta.toFixed(2);
  }

  /** Limit the steps to those the model allows. @param {ModelInfo} model */
  limitSteps({ T }) {
    this.steps.max = `${Math.min(MAX_STEPS, T)}`;
    this.setOptions(this.options());
  }

  /** @param {Trace} trace @param {SamplerOptions} options @param {ModelInfo} model */
  setTrace(trace, options, model) {
    [this.trace, this.traced, this.alphaBar] = [trace, options, model.alpha_bar];
    this.index = -1;
  }

  /** Drop the trace, and ignore replies that are still on their way. */
  clear() {
    clearTimeout(this.timer);
    this.trace = null;
    this.requests++;
  }

  /** How many pictures fit into the strip. */
  columns() {
    if (!this.trace) return 0;
    const width = (this.trace.W + 1) * this.stripScale();
    return Math.max(1, Math.min(this.trace.steps.length, Math.floor(this.element.clientWidth / width)));
  }

  /** CSS pixels per image pixel in the strip, chosen to show all steps where possible. */
  stripScale() {
    if (!this.trace) return 1;
    const { W, steps } = this.trace;
    const fits = Math.floor(this.element.clientWidth / (steps.length * (W + 1)));
    return Math.max(1, Math.round(MIN_TILE / W), Math.min(fits, Math.floor(MAX_TILE / W)));
  }

  /** Indices of the steps in the strip. */
  stripSteps() {
    const [count, columns] = [this.trace?.steps.length ?? 0, this.columns()];
    return Array.from({ length: columns }, (_, i) => (columns > 1 ? Math.round((i * (count - 1)) / (columns - 1)) : 0));
  }

  /** @param {number} index */
  show(index) {
    if (!this.trace) return;
    const { steps, W, H } = this.trace;
    this.showStrip(index);
    const step = steps[index];
    const { signal, noise, snr, eps, change } = analyze(step, this.alphaBar);
    const room = Math.min(this.figures[0].element.clientWidth, MAX_FIGURE);
    const scale = fitScale({ width: W, height: H }, room, room);
    const maxChange = maxAbs(change) || 1;
    const images = /** @type {[Float32Array, number][]} */ ([
      [step.x, 1],
      [step.x0, 1],
      [eps, EPS_RANGE],
      [change, maxChange],
    ]);
    images.forEach(([values, high], i) => this.figures[i].show(values, this.trace, high, scale));
    this.figures[3].note.textContent = `±\u00a0${number(maxChange, 2)}`;
    const values = [
      `${step.t} → ${step.s}`,
      number(signal),
      number(noise),
      snr >= 1000 ? Math.round(snr) : number(snr),
    ];
    this.facts.forEach(({ value }, i) => (value.textContent = `${values[i]}`));
    const input = [
      { symbol: "√{ᾱ_t}", factor: signal, of: "x̂_0" },
      { symbol: "√{1−ᾱ_t}", factor: noise, of: "ε̂" },
    ];
    const rows = [equation("x_t", input), equation("x_s", terms(this.traced, steps, index, this.alphaBar))];
    if (this.traced.sampler === "dpmpp_2m") {
      rows.push(equation("D", extrapolation(steps, index, this.alphaBar)));
      rows.push(equation("ε̂_D", noiseGivenD(signal, noise)));
    }
    this.equations.replaceChildren(...rows);
  }

  /** @param {number} index */
  showStrip(index) {
    const { trace, strip } = this;
    if (!trace) return;
    const { H, W, steps } = trace;
    const shown = this.stripSteps();
    const [width, height] = [shown.length * (W + 1) - 1, 2 * H + 1];
    if (this.index === -1 || strip.width !== width) {
      [strip.width, strip.height] = [width, height];
      shown.forEach((at, i) => {
        drawNumbers(strip, steps[at].x, trace, 1, [i * (W + 1), 0]);
        drawNumbers(strip, steps[at].x0, trace, 1, [i * (W + 1), H + 1]);
      });
    }
    setScale(strip, this.stripScale() * globalThis.devicePixelRatio);
    this.index = index;
    const column = shown.reduce((best, at, i) => (Math.abs(at - index) < Math.abs(shown[best] - index) ? i : best), 0);
    this.mark.style.setProperty("--left", `${column * (W + 1) * this.stripScale()}px`);
    this.mark.style.setProperty("--width", `${W * this.stripScale()}px`);
  }
}

class Figure {
  /** @param {string} symbol @param {string} caption */
  constructor(symbol, caption) {
    this.canvas = make("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", caption);
    this.note = make("span");
    this.element = make(
      "figure",
      {},
      this.canvas,
      make("figcaption", {}, make("b", {}, typeset(symbol)), ` ${caption} `, this.note),
    );
  }

  /** @param {Float32Array} values @param {Trace | null} trace @param {number} high @param {number} scale */
  show(values, trace, high, scale) {
    if (!trace) return;
    if (this.canvas.width !== trace.W || this.canvas.height !== trace.H)
      [this.canvas.width, this.canvas.height] = [trace.W, trace.H];
    drawNumbers(this.canvas, values, trace, high);
    setScale(this.canvas, scale);
  }
}
