/**
 * The settings panel: it shows the settings, sends the user's changes, and shows errors next to their controls.
 *
 * @import { Label, ModelInfo, Settings } from "../engine/protocol.js"
 *
 * @typedef {object} Callbacks
 * @property {(patch: Partial<Settings>) => void} onChange
 * @property {(name: string) => void} onChangeModel
 */

import { choose, get, make, onChoice, range, slide } from "./dom.js";
import { callsOfSteps, makesTwoCalls } from "../engine/samplers.js";
import { modelOptions, showThumbnail } from "./model-list.js";
import {
  defaults,
  HAS_ETA,
  isConditional,
  isMasked,
  MAX_STEPS,
  maxEta,
  MOTION_DEFAULTS,
  problem,
  samplersOf,
} from "../engine/state.js";

const UNLIMITED_FPS = 61; // position of the speed slider for fps = 0, as fast as possible
const ONE_COLUMN_LABELS = 13; // more labels than this take two columns
const USUAL_AMOUNT = 2; // maximum of the label sliders, unless a link has a larger amount

/**
 * Settings with a plain slider, and how to format their values.
 * @type {[keyof Settings, (value: number) => string][]}
 */
const SLIDERS = [
  ["every", (value) => (value ? `every ${value} frames` : "never")],
  ["steps", (value) => `${value}`],
  ["eta", (value) => value.toFixed(2)],
  ["guidance", (value) => value.toFixed(2).replace("-", "−")],
];

/** The steps and the calls of a melting frame; a sample makes `steps` calls. @param {Settings} settings */
function countCalls({ sampler, steps, creativity, motion }) {
  if (motion === "drift") return `${steps} calls`;
  return `${steps} · ${callsOfSteps(sampler, Math.min(steps, creativity))} calls`;
}

export class Controls {
  /** @param {Callbacks} callbacks */
  constructor(callbacks) {
    this.callbacks = callbacks;
    /** @type {ModelInfo | null} */
    this.model = null;
    /** @type {Record<string, number> | null} the last mix of labels */
    this.mix = null;
    this.modelSelect = get("model", HTMLSelectElement);
    this.samplerSelect = get("sampler", HTMLSelectElement);
    this.seed = get("seed", HTMLInputElement);
    this.bind();
  }

  bind() {
    const { onChange, onChangeModel } = this.callbacks;
    get("panel", HTMLFormElement).addEventListener("submit", (event) => event.preventDefault());
    for (const [field] of [["creativity"], ...SLIDERS]) {
      const slider = range(field);
      slider.addEventListener("input", () => this.request({ [field]: Number(slider.value) }));
    }
    range("fps").addEventListener("input", () => this.request({ fps: Number(range("fps").value) % UNLIMITED_FPS }));
    onChoice("motion", (value) => this.request(MOTION_DEFAULTS[/** @type {Settings["motion"]} */ (value)]));
    onChoice("num", (value) => this.request({ num: Number(value) }));
    onChoice("label", (value) => {
      this.request({ label: value === "mix" ? this.lastMix() : /** @type {Label} */ (value) });
    });
    this.modelSelect.addEventListener("change", () => onChangeModel(this.modelSelect.value));
    this.samplerSelect.addEventListener("change", () => {
      this.request({ sampler: /** @type {Settings["sampler"]} */ (this.samplerSelect.value) });
    });
    this.seed.addEventListener("input", () => this.showError("seed", ""));
    this.seed.addEventListener("change", () => this.request({ seed: this.seed.value.trim() }));
    get("as-made", HTMLButtonElement).addEventListener("click", () => {
      if (!this.model) return;
      const { seed, num, label, ...usual } = defaults(this.model);
      onChange(usual);
    });
  }

  /** Send a change if it is valid; otherwise show the error. @param {Partial<Settings>} patch */
  request(patch) {
    this.clearErrors();
    for (const [name, value] of Object.entries(patch)) {
      const field = /** @type {keyof Settings} */ (name);
      const error = this.model ? problem(field, value, this.model) : "";
      this.showError(field, error);
      if (error) return;
    }
    this.callbacks.onChange(patch);
  }

  /** Fill the list of models. @param {ModelInfo[]} models */
  setModels(models) {
    this.modelSelect.replaceChildren(...modelOptions(models));
  }

  /** Select a model; one that is not in the list joins it. @param {string} name */
  selectModel(name) {
    const isListed = [...this.modelSelect.options].some(({ value }) => value === name);
    if (!isListed) this.modelSelect.append(make("option", { value: name }, name));
    this.modelSelect.value = name;
  }

  /** @param {Settings} settings @param {ModelInfo} model */
  show(settings, model) {
    if (this.model?.name !== model.name) this.setModel(model);
    const { creativity, fps, label } = settings;
    slide(range("creativity"), creativity);
    const noise = `${Math.round(100 * (1 - model.alpha_bar[creativity]))}% ${isMasked(model) ? "hidden" : "noise"}`;
    this.write("creativity", `t = ${creativity} of ${model.T} · ${noise}`);
    choose("motion", settings.motion);
    document.body.dataset.motion = settings.motion;
    range("eta").max = `${maxEta(model)}`;
    for (const [field, text] of SLIDERS) {
      const value = Number(settings[field]);
      if (field === "every" && value > Number(range(field).max)) range(field).max = `${value}`;
      slide(range(field), value);
      this.write(field, text(value));
    }
    if (makesTwoCalls(settings.sampler)) this.write("steps", countCalls(settings));
    slide(range("fps"), fps === 0 ? UNLIMITED_FPS : fps);
    this.write("fps", fps === 0 ? "max" : `${fps} fps`);
    range("eta").disabled = !HAS_ETA.includes(settings.sampler);
    range("guidance").disabled = !isConditional(settings, model);
    this.selectModel(settings.model);
    this.samplerSelect.value = settings.sampler;
    if (document.activeElement !== this.seed || this.seed.value.trim() !== settings.seed)
      this.seed.value = settings.seed;
    choose("num", `${settings.num}`);
    choose("label", typeof label === "string" ? label : "mix");
    if (typeof label !== "string") this.mix = label;
    get("amounts", HTMLDivElement).classList.toggle("inactive", typeof label === "string");
    for (const name of model.labels) {
      const amount = typeof label === "string" ? 0 : (label[name] ?? 0);
      const slider = range(`amount-${model.labels.indexOf(name)}`);
      if (amount > Number(slider.max)) slider.max = `${amount}`;
      slide(slider, amount);
      get(`${slider.id}-text`, HTMLOutputElement).value = amount.toFixed(1);
    }
  }

  /** Adapt the panel to another model. @param {ModelInfo} model */
  setModel(model) {
    this.model = model;
    this.mix = null;
    showThumbnail(model);
    range("creativity").max = `${model.T}`;
    get("drift", HTMLInputElement).disabled = isMasked(model);
    const samplers = Object.entries(samplersOf(model));
    this.samplerSelect.replaceChildren(...samplers.map(([value, title]) => make("option", { value }, title)));
    range("steps").max = `${Math.min(MAX_STEPS, model.T)}`;
    get("about", HTMLParagraphElement).textContent = model.about;
    get("labels", HTMLDivElement).hidden = model.labels.length === 0;
    for (const text of document.querySelectorAll("[data-process]")) {
      text.toggleAttribute("hidden", isMasked(model) !== (text.getAttribute("data-process") === "masked"));
    }
    const amounts = get("amounts", HTMLDivElement);
    amounts.classList.toggle("many", model.labels.length > ONE_COLUMN_LABELS);
    amounts.replaceChildren(...model.labels.map((name, i) => this.amountRow(name, `amount-${i}`)));
  }

  /** A label's slider; its name is a button that selects only this label. @param {string} name @param {string} id */
  amountRow(name, id) {
    const slider = make("input", { type: "range", id, min: "0", max: `${USUAL_AMOUNT}`, step: "0.1", value: "0" });
    slider.setAttribute("aria-label", name);
    slider.addEventListener("input", () => {
      const amounts = { ...this.currentMix(), [name]: Number(slider.value) };
      this.request({ label: Object.fromEntries(Object.entries(amounts).filter(([, amount]) => amount > 0)) });
    });
    const only = make("button", { type: "button", title: `only ${name}`, textContent: name });
    only.addEventListener("click", () => this.request({ label: { [name]: 1 } }));
    return make("div", { className: "amount", title: `How much of the label ${name}` }, only, slider, make("output", { id: `${id}-text` }));
  }

  /** The amounts shown; {} while the label is any or none. */
  currentMix() {
    return get("amounts", HTMLDivElement).classList.contains("inactive") ? {} : this.mix;
  }

  /** The mix to select when the user clicks "mix". */
  lastMix() {
    return this.mix ?? { [this.model?.labels[0] ?? ""]: 1 };
  }

  /** @param {string} field @param {string} text */
  write(field, text) {
    get(`${field}-text`, HTMLOutputElement).value = text;
    range(field).setAttribute("aria-valuetext", text);
  }

  /**
   * Show an error next to a setting's control, until the user changes a setting; "" removes it.
   * @param {keyof Settings} field
   * @param {string} message
   */
  showError(field, message) {
    const container = document.querySelector(`[data-field="${field}"]`);
    const text = container?.querySelector(".wrong");
    if (!text) return;
    text.textContent = message;
    for (const control of container?.querySelectorAll("input, select") ?? []) {
      control.setAttribute("aria-invalid", `${message !== ""}`);
    }
  }

  clearErrors() {
    for (const container of document.querySelectorAll("[data-field]")) {
      this.showError(/** @type {keyof Settings} */ (container.getAttribute("data-field")), "");
    }
  }
}
