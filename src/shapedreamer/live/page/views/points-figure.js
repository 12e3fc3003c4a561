/**
 * A plot of points.html with its options (denoiser, sampler, calls) and a caption.
 *
 * @import { PlotOptions } from "../engine/points-sampling.js"
 * @import { Samples } from "../engine/points-worker.js"
 * @import { Scene } from "./points-plot.js"
 */

import { DENOISERS, PLOTS } from "../engine/points-state.js";
import { MAX_STEPS, SAMPLERS } from "../engine/state.js";
import { make, slide } from "./dom.js";
import { makeTerm } from "./explain.js";
import { drawPlot } from "./points-plot.js";

/** One sentence about each sampler. */
const ABOUT = {
  ddpm: "DDPM adds fresh noise in every step, so its paths are jagged.",
  ddim: "DDIM follows the denoiser without noise: the same start always ends in the same place.",
  heun: "Heun's method looks ahead before each step: two calls a step, smaller errors.",
  dpmpp_2m: "DPM++ 2M remembers the last answer, which straightens its steps at no extra call.",
  midpoint: "Midpoint takes the direction from the middle of each step: two calls a step.",
  heun_line: "Heun's method on the straight line of flow matching: two calls a step.",
};

export class PlotFigure {
  /** @type {Samples | null} */
  samples = null;

  /** @param {number} number @param {(patch: Partial<PlotOptions>) => void} onChange */
  constructor(number, onChange) {
    this.chosen = PLOTS[0];
    this.canvas = make("canvas", { tabIndex: 0 });
    this.canvas.setAttribute("role", "application");
    this.denoiser = select(DENOISERS, `Denoiser of plot ${number}`);
    this.denoiser.title = "What removes the noise: the exact average of the data, or the network that learns it";
    this.sampler = select(SAMPLERS, `Sampler of plot ${number}`);
    this.calls = make("input", { type: "range", min: "1", max: `${MAX_STEPS}` });
    this.calls.setAttribute("aria-label", `Calls of plot ${number}`);
    this.calls.title = "How often the sampler may ask the denoiser: the more often, the smaller its steps";
    this.callsText = make("output");
    this.about = make("p", { className: "hint" });
    this.distance = make("output");
    this.baseline = make("span");
    this.caption = make("figcaption", {}, makeTerm(["energy distance"], "distance"), " ", this.distance, this.baseline);
    this.options = make(
      "div",
      { className: "options" },
      make("span", { className: "number", textContent: `${number}` }),
      this.denoiser,
      this.sampler,
      make("div", { className: "calls" }, this.calls, this.callsText),
      this.about,
    );
    this.element = make("figure", { className: "plot" }, this.canvas, this.options, this.caption);
    this.denoiser.addEventListener("change", () => {
      onChange({ denoiser: /** @type {PlotOptions["denoiser"]} */ (this.denoiser.value) });
    });
    this.sampler.addEventListener("change", () => {
      onChange({ sampler: /** @type {PlotOptions["sampler"]} */ (this.sampler.value) });
    });
    this.calls.addEventListener("input", () => onChange({ calls: Number(this.calls.value) }));
    this.setSamples(null);
  }

  /** @param {PlotOptions} chosen */
  show(chosen) {
    this.chosen = chosen;
    this.denoiser.value = chosen.denoiser;
    this.sampler.value = chosen.sampler;
    this.about.textContent = ABOUT[chosen.sampler];
    slide(this.calls, chosen.calls);
    this.callsText.value = `${chosen.calls} ${chosen.calls === 1 ? "call" : "calls"}`;
    this.calls.setAttribute("aria-valuetext", this.callsText.value);
  }

  /** @param {Samples | null} samples */
  setSamples(samples) {
    this.samples = samples;
    this.caption.classList.toggle("empty", !samples);
    this.distance.value = samples?.distance.toFixed(3) ?? "";
    this.baseline.textContent = ` (data ${samples?.baseline.toFixed(3)})`;
  }

  /** What the plot shows, in a few words. */
  get title() {
    return `${DENOISERS[this.chosen.denoiser]} · ${SAMPLERS[this.chosen.sampler]} · ${this.callsText.value}`;
  }

  /** @param {Scene} scene */
  draw(scene) {
    drawPlot(this.canvas, scene);
    const label = `${this.title}, at timestep ${scene.t}. The arrow keys move a probe.`;
    if (this.canvas.getAttribute("aria-label") !== label) this.canvas.setAttribute("aria-label", label);
  }
}

/** @param {Record<string, string>} titles @param {string} label */
function select(titles, label) {
  const options = Object.entries(titles).map(([value, textContent]) => make("option", { value, textContent }));
  const element = make("select", {}, ...options);
  element.setAttribute("aria-label", label);
  return element;
}
