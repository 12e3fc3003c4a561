/**
 * One sampler's way from noise to a picture, under the microscope: a strip of its steps, and one of them in full.
 *
 * @import { ModelInfo, SamplerName, Trace } from "../engine/protocol.js"
 * @import { Way } from "../engine/state.js"
 */

import { drawNumbers, enlarge, fitting } from "./canvas.js";
import { make, slide } from "./dom.js";
import { WITH_ETA } from "../engine/samplers.js";
import { MOST_STEPS, SAMPLERS } from "../engine/state.js";
import { equation, number, typeset } from "./typeset.js";
import { extrapolation, largest, look, noiseBeside, terms } from "./update.js";

const EPS_HIGH = 3; // noise of this size is white
const TILE = 32; // CSS pixels of a picture in the strip, at least, about
const MOST_TILE = 48;
const MOST_FIGURE = 240;

export class Look {
  /** @param {{changed: () => void, pick: (index: number) => void}} wishes  another way, another step of it */
  constructor({ changed, pick }) {
    /** @type {Trace | null} */
    this.trace = null;
    /** @type {Way} of the trace */
    this.traced = { sampler: "ddim", steps: 1, eta: 0 };
    /** @type {number[]} */
    this.alphaBar = [1];
    this.turn = 0; // of asking: only the last answer counts
    this.index = -1; // of the step that is shown
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.sampler = make(
      "select",
      {},
      ...Object.entries(SAMPLERS).map(([value, title]) => make("option", { value }, title)),
    );
    this.sampler.setAttribute("aria-label", "Sampler");
    this.steps = make("input", { type: "range", min: "1", max: `${MOST_STEPS}` });
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
        { className: "way" },
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
        this.set(this.way());
        changed();
      });
    }
    this.strip.addEventListener("click", ({ offsetX }) => {
      if (this.trace)
        pick(
          this.shown()[Math.min(Math.floor((offsetX / this.strip.clientWidth) * this.columns()), this.columns() - 1)],
        );
    });
  }

  /** @returns {Way} */
  way() {
    const sampler = /** @type {SamplerName} */ (this.sampler.value);
    return { sampler, steps: Number(this.steps.value), eta: WITH_ETA.includes(sampler) ? Number(this.eta.value) : 0 };
  }

  /** @param {Way} way */
  set({ sampler, steps, eta }) {
    this.sampler.value = sampler;
    slide(this.steps, steps);
    slide(this.eta, eta);
    this.eta.disabled = !WITH_ETA.includes(sampler);
    this.stepsText.value = `${steps}`;
    this.etaText.value = eta.toFixed(2);
  }

  /** @param {ModelInfo} model */
  limit({ T }) {
    this.steps.max = `${Math.min(MOST_STEPS, T)}`;
    this.set(this.way());
  }

  /** @param {Trace} trace @param {Way} way @param {ModelInfo} model */
  take(trace, way, model) {
    [this.trace, this.traced, this.alphaBar] = [trace, way, model.alpha_bar];
    this.index = -1;
  }

  forget() {
    clearTimeout(this.timer);
    this.trace = null;
    this.turn++;
  }

  /** How many pictures fit into the strip. */
  columns() {
    if (!this.trace) return 0;
    const wide = (this.trace.W + 1) * this.tile();
    return Math.max(1, Math.min(this.trace.steps.length, Math.floor(this.element.clientWidth / wide)));
  }

  /** CSS pixels a pixel in the strip: as many as let all steps in, within reason. */
  tile() {
    if (!this.trace) return 1;
    const { W, steps } = this.trace;
    const fits = Math.floor(this.element.clientWidth / (steps.length * (W + 1)));
    return Math.max(1, Math.round(TILE / W), Math.min(fits, Math.floor(MOST_TILE / W)));
  }

  /** Which steps are in the strip. */
  shown() {
    const [count, columns] = [this.trace?.steps.length ?? 0, this.columns()];
    return Array.from({ length: columns }, (_, i) => (columns > 1 ? Math.round((i * (count - 1)) / (columns - 1)) : 0));
  }

  /** @param {number} index */
  show(index) {
    if (!this.trace) return;
    const { steps, W, H } = this.trace;
    this.showStrip(index);
    const step = steps[index];
    const { signal, noise, snr, eps, change } = look(step, this.alphaBar);
    const room = Math.min(this.figures[0].element.clientWidth, MOST_FIGURE);
    const scale = fitting({ width: W, height: H }, room, room);
    const most = largest(change) || 1;
    const shown = /** @type {[Float32Array, number][]} */ ([
      [step.x, 1],
      [step.x0, 1],
      [eps, EPS_HIGH],
      [change, most],
    ]);
    shown.forEach(([values, high], i) => this.figures[i].show(values, this.trace, high, scale));
    this.figures[3].note.textContent = `±\u00a0${number(most, 2)}`;
    const values = [
      `${step.t} → ${step.s}`,
      number(signal),
      number(noise),
      snr >= 1000 ? Math.round(snr) : number(snr),
    ];
    this.facts.forEach(({ value }, i) => (value.textContent = `${values[i]}`));
    const seen = [
      { symbol: "√{ᾱ_t}", factor: signal, of: "x̂_0" },
      { symbol: "√{1−ᾱ_t}", factor: noise, of: "ε̂" },
    ];
    const rows = [equation("x_t", seen), equation("x_s", terms(this.traced, steps, index, this.alphaBar))];
    if (this.traced.sampler === "dpmpp_2m")
      rows.push(equation("D", extrapolation(steps, index, this.alphaBar)), equation("ε̂_D", noiseBeside(signal, noise)));
    this.equations.replaceChildren(...rows);
  }

  /** @param {number} index */
  showStrip(index) {
    const { trace, strip } = this;
    if (!trace) return;
    const { H, W, steps } = trace;
    const shown = this.shown();
    const [width, height] = [shown.length * (W + 1) - 1, 2 * H + 1];
    if (this.index === -1 || strip.width !== width) {
      [strip.width, strip.height] = [width, height];
      shown.forEach((at, i) => {
        drawNumbers(strip, steps[at].x, trace, 1, [i * (W + 1), 0]);
        drawNumbers(strip, steps[at].x0, trace, 1, [i * (W + 1), H + 1]);
      });
    }
    enlarge(strip, this.tile() * globalThis.devicePixelRatio);
    this.index = index;
    const place = shown.reduce((best, at, i) => (Math.abs(at - index) < Math.abs(shown[best] - index) ? i : best), 0);
    this.mark.style.setProperty("--left", `${place * (W + 1) * this.tile()}px`);
    this.mark.style.setProperty("--width", `${W * this.tile()}px`);
  }
}

const CAPTIONS = ["what it sees", "its guess", "the noise in it", "the change"];
const FACTS = [
  ["t → s", "the time that the step leaves, and where it lands"],
  ["√{ᾱ_t}", "how much of the picture is in what the network sees"],
  ["√{1−ᾱ_t}", "how much noise is in it"],
  ["SNR", "signal to noise, ᾱ/(1−ᾱ)"],
];

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
    enlarge(this.canvas, scale);
  }
}
