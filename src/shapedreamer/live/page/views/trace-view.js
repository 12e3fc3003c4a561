/**
 * One sampler under the microscope: a strip of all its steps, and one step in detail.
 *
 * @import { ModelInfo, SamplerName, Trace, TraceStep } from "../engine/protocol.js"
 * @import { SamplerOptions } from "../engine/state.js"
 */

import { drawNumbers, fitScale, setScale } from "./canvas.js";
import { make, slide } from "./dom.js";
import { IMAGE_TERMS, makeTerm, SAMPLER_TEXTS } from "./explain.js";
import { makesTwoCalls, MAX_ETA, WITH_ETA } from "../engine/samplers.js";
import { MAX_STEPS, SAMPLERS } from "../engine/state.js";
import { number, showEquations, typeset } from "./typeset.js";
import { analyze, extrapolation, images, noiseGivenD, terms } from "./update.js";

const MIN_TILE = 32; // approximate width of a picture in the strip, in CSS pixels
const MAX_TILE = 64;
const CAPTION_HEIGHT = 52; // of a figure, in CSS pixels
const FIGURE_GAP = 14;
const MIN_FIGURE = 68; // width of a figure, and height of its picture, in CSS pixels; captions need that width
const MIN_ROOM = 150; // height for the figures, in CSS pixels, where the page itself scrolls or has no room left

const FACTS = [
  ["t → s", "timesteps"],
  ["√{ᾱ_t}", "signal"],
  ["√{1−ᾱ_t}", "noise"],
  ["SNR", "snr"],
]; // symbols, and their terms

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
    /** Ends when the engine has answered. @type {Promise<unknown>} */
    this.tracing = Promise.resolve();
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
    this.steps.setAttribute("aria-label", "Steps");
    this.eta = make("input", { type: "range", min: "0", max: `${MAX_ETA}`, step: "0.05" });
    this.eta.setAttribute("aria-label", "η (eta)");
    this.stepsText = make("output");
    this.etaText = make("output");
    this.strip = make("canvas", { className: "strip", width: 0, height: 0 });
    this.mark = make("div", { className: "mark" });
    this.film = make("div", { className: "film" }, this.strip, this.mark);
    this.start = new Figure("", "");
    this.end = new Figure("", "");
    this.noising = make("span", { className: "noising" });
    /** @type {Map<string, Figure>} by symbol */
    this.figures = new Map();
    this.gallery = make("div", { className: "figures" });
    this.facts = FACTS.map(([symbol, term]) => ({ symbol, term, value: make("dd") }));
    this.formulas = make("div", { className: "equations" });
    /** @type {import("./typeset.js").Equation[]} */
    this.equations = [];
    this.element = make(
      "div",
      { className: "look" },
      make(
        "div",
        { className: "sampler-options" },
        this.sampler,
        make("div", { className: "option" }, makeTerm(["steps"], "steps"), this.steps, this.stepsText),
        make("div", { className: "option" }, makeTerm(["η"], "eta"), this.eta, this.etaText),
      ),
      make("div", { className: "journey" }, this.start.element, this.noising, this.film, this.end.element),
      this.gallery,
      make(
        "dl",
        { className: "facts" },
        ...this.facts.map(({ symbol, term, value }) =>
          make("div", {}, make("dt", {}, makeTerm([typeset(symbol)], term)), value),
        ),
      ),
      this.formulas,
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
    for (const kind of ["pointerover", "focusin", "click"]) {
      this.element.addEventListener(kind, ({ target }) => this.light(imageOf(target)));
    }
    for (const kind of ["pointerleave", "focusout"]) this.element.addEventListener(kind, () => this.light(null));
  }

  /** Light up an image's picture, and its terms in the equations. @param {string | null} symbol  null for none */
  light(symbol) {
    const isShown = symbol !== null && this.figures.has(symbol);
    this.element.classList.toggle("lighting", isShown);
    for (const part of this.element.querySelectorAll("[data-image]")) {
      part.classList.toggle("lit", isShown && part instanceof HTMLElement && part.dataset.image === symbol);
    }
  }

  /** @returns {SamplerOptions} */
  options() {
    const sampler = /** @type {SamplerName} */ (this.sampler.value);
    return { sampler, steps: Number(this.steps.value), eta: WITH_ETA.includes(sampler) ? Number(this.eta.value) : 0 };
  }

  /** @param {SamplerOptions} options */
  setOptions({ sampler, steps, eta }) {
    this.sampler.value = sampler;
    this.sampler.title = SAMPLER_TEXTS[sampler];
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
    this.element.classList.add("traced");
    if (trace.previous) this.stepsText.value = `${options.steps}`; // of two calls each, with Heun and Midpoint
  }

  /** Drop the trace, and ignore replies that are still on their way. */
  clear() {
    clearTimeout(this.timer);
    this.trace = null;
    this.element.classList.remove("traced");
    this.requests++;
  }

  /** How many pictures fit into the strip. */
  columns() {
    if (!this.trace) return 0;
    const width = (this.trace.W + 1) * this.stripScale();
    return Math.max(1, Math.min(this.trace.steps.length, Math.floor(this.film.clientWidth / width)));
  }

  /** CSS pixels per image pixel in the strip, chosen to show all steps where possible. */
  stripScale() {
    if (!this.trace) return 1;
    const { W, steps } = this.trace;
    const fits = Math.floor(this.film.clientWidth / (steps.length * (W + 1)));
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
    const { steps } = this.trace;
    const step = steps[index];
    this.showFacts(step);
    const { signal, noise } = analyze(step, this.alphaBar);
    const input = [
      { symbol: "√{ᾱ_t}", factor: signal, of: "x̂_0" },
      { symbol: "√{1−ᾱ_t}", factor: noise, of: "ε̂" },
    ];
    /** @type {[string, import("./update.js").Term[]][]} */
    const equations = [
      ["x_t", input],
      ["x_s", terms(this.traced, steps, index, this.alphaBar)],
    ];
    if (this.traced.sampler === "dpmpp_2m") {
      equations.push(["D", extrapolation(this.traced.eta, steps, index, this.alphaBar)]);
      equations.push(["ε̂_D", noiseGivenD(signal, noise)]);
    }
    this.equations = showEquations(this.formulas, this.equations, equations);
    this.showEnds();
    this.showStrip(index);
    this.showFigures(index);
  }

  /** @param {TraceStep} step */
  showFacts(step) {
    const { signal, noise, snr } = analyze(step, this.alphaBar);
    const values = [
      `${step.t} → ${step.s}`,
      number(signal),
      number(noise),
      snr >= 1000 ? Math.round(snr) : number(snr),
    ];
    this.facts.forEach(({ value }, i) => (value.textContent = `${values[i]}`));
  }

  /** Show the picture that the trace starts from, if there is one, and the picture where it ends. */
  showEnds() {
    const { trace } = this;
    if (!trace) return;
    const { previous, steps } = trace;
    this.start.element.hidden = this.noising.hidden = previous === null;
    if (previous) this.start.show(previous, trace, 1);
    this.end.show(steps[steps.length - 1].next, trace, 1);
    this.noising.textContent = `+\u00a0noise t\u00a0=\u00a0${steps[0].t}`;
    const scale = 2 * this.stripScale() * globalThis.devicePixelRatio;
    for (const figure of [this.start, this.end]) setScale(figure.canvas, scale);
  }

  /** Name the pictures at both ends. @param {string} start @param {string} end */
  nameEnds(start, end) {
    this.start.name("", start);
    this.end.name("", end);
  }

  /** @param {number} index */
  showFigures(index) {
    const { trace } = this;
    if (!trace) return;
    const shown = images(this.traced, trace.steps, index, this.alphaBar);
    if ([...this.figures.keys()].join() !== shown.map(({ symbol }) => symbol).join()) {
      this.figures = new Map(shown.map(({ symbol, caption }) => [symbol, new Figure(symbol, caption)]));
      this.gallery.replaceChildren(...[...this.figures.values()].map(({ element }) => element));
    }
    for (const { symbol, values, high } of shown) {
      const figure = this.figures.get(symbol);
      figure?.show(values, trace, high);
      if (figure && symbol === "x_s − x_t") figure.note.textContent = `±\u00a0${number(high, 2)}`;
      else if (figure) figure.note.textContent = values ? "" : "(none in this step)";
    }
    this.sizeFigures();
  }

  /** Make the figures as large as the space allows, in as many columns as that takes. */
  sizeFigures() {
    const { trace, gallery } = this;
    const count = this.figures.size;
    const container = this.element.parentElement;
    if (!trace || !container || count === 0) return;
    const width = gallery.clientWidth;
    const used = this.element.scrollHeight - gallery.offsetHeight;
    const room = Math.max(container.clientHeight - used - FIGURE_GAP, MIN_ROOM);
    const isScrolling = getComputedStyle(container).overflowY === "visible"; // narrow screens: the page scrolls
    let [best, columns] = [0, 1];
    for (let candidate = Math.min(count, 3); candidate <= count; candidate++) {
      const rows = Math.ceil(count / candidate);
      const tileWidth = (width - (candidate - 1) * FIGURE_GAP) / candidate;
      if (tileWidth < MIN_FIGURE && candidate > 3) break;
      const tileHeight = isScrolling ? Infinity : (room - (rows - 1) * FIGURE_GAP) / rows - CAPTION_HEIGHT;
      const scale = fitScale({ width: trace.W, height: trace.H }, tileWidth, Math.max(tileHeight, MIN_FIGURE));
      if (scale >= best) [best, columns] = [scale, candidate];
    }
    gallery.style.setProperty("--columns", `${columns}`);
    for (const { canvas } of this.figures.values()) setScale(canvas, best);
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

/** A picture with its symbol and a caption. */
class Figure {
  /** @param {string} symbol @param {string} caption */
  constructor(symbol, caption) {
    this.canvas = make("canvas", { width: 0, height: 0 }); // no room before the first trace
    this.canvas.setAttribute("role", "img");
    this.note = make("span");
    this.caption = make("figcaption");
    this.element = make("figure", {}, this.canvas, this.caption);
    if (symbol) this.element.dataset.image = symbol;
    this.name(symbol, caption);
  }

  /** @param {string} symbol @param {string} caption */
  name(symbol, caption) {
    const term = IMAGE_TERMS[symbol];
    const name = term ? makeTerm([typeset(symbol)], term) : typeset(symbol);
    const formula = symbol ? [make("b", {}, name)] : [];
    this.caption.replaceChildren(...formula, ` ${caption} `, this.note);
    this.canvas.setAttribute("aria-label", caption);
  }

  /** @param {Float32Array | null} values  null for an empty picture @param {Trace} trace @param {number} high */
  show(values, trace, high) {
    if (this.canvas.width !== trace.W || this.canvas.height !== trace.H)
      [this.canvas.width, this.canvas.height] = [trace.W, trace.H];
    if (values) drawNumbers(this.canvas, values, trace, high);
    else this.canvas.getContext("2d")?.clearRect(0, 0, trace.W, trace.H);
  }
}

/** The image that an element shows or names. @param {EventTarget | null} target */
function imageOf(target) {
  const element = target instanceof Element ? target.closest("[data-image]") : null;
  return element instanceof HTMLElement ? (element.dataset.image ?? null) : null;
}
