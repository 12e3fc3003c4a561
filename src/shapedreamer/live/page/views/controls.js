/**
 * The panel: each setting and its control, both ways, and what is wrong with a value, beside it.
 *
 * @import { Label, ModelInfo, Settings } from "../engine/protocol.js"
 *
 * @typedef {object} Wishes
 * @property {(patch: Partial<Settings>) => void} change
 * @property {(name: string) => void} changeModel
 */

import { choose, get, make, onChoice, range, slide } from "./dom.js";
import { WITH_ETA } from "../engine/samplers.js";
import { defaults, guidable, MOST_STEPS, problem, SAMPLERS } from "../engine/state.js";

const FASTEST = 61; // on the slider of the speed: as fast as it goes
const MANY_LABELS = 13; // from here on in two columns
const USUAL_AMOUNT = 2; // where sliders of labels end, unless a link asks for more

/**
 * Sliders that are a number of the settings, and how it is written.
 * @type {[keyof Settings, (value: number) => string][]}
 */
const SLIDERS = [
  ["steps", (value) => `${value}`],
  ["eta", (value) => value.toFixed(2)],
  ["guidance", (value) => value.toFixed(2).replace("-", "−")],
];

export class Controls {
  /** @param {Wishes} wishes */
  constructor(wishes) {
    this.wishes = wishes;
    /** @type {ModelInfo | null} */
    this.model = null;
    /** @type {Record<string, number> | null} the amounts that were last chosen */
    this.mix = null;
    this.modelChoice = get("model", HTMLSelectElement);
    this.samplerChoice = get("sampler", HTMLSelectElement);
    this.seed = get("seed", HTMLInputElement);
    this.bind();
  }

  bind() {
    const { change, changeModel } = this.wishes;
    get("panel", HTMLFormElement).addEventListener("submit", (event) => event.preventDefault());
    for (const [name, title] of Object.entries(SAMPLERS))
      this.samplerChoice.append(make("option", { value: name }, title));
    for (const [field] of [["creativity"], ...SLIDERS]) {
      const slider = range(field);
      slider.addEventListener("input", () => this.wish({ [field]: Number(slider.value) }));
    }
    range("fps").addEventListener("input", () => this.wish({ fps: Number(range("fps").value) % FASTEST }));
    onChoice("num", (value) => this.wish({ num: Number(value) }));
    onChoice("label", (value) => this.wish({ label: value === "mix" ? this.lastMix() : /** @type {Label} */ (value) }));
    this.modelChoice.addEventListener("change", () => changeModel(this.modelChoice.value));
    this.samplerChoice.addEventListener("change", () => {
      this.wish({ sampler: /** @type {Settings["sampler"]} */ (this.samplerChoice.value) });
    });
    this.seed.addEventListener("input", () => this.say("seed", ""));
    this.seed.addEventListener("change", () => this.wish({ seed: this.seed.value.trim() }));
    get("as-made", HTMLButtonElement).addEventListener("click", () => {
      if (!this.model) return;
      const { sampler, steps, eta, guidance, creativity } = defaults(this.model);
      change({ sampler, steps, eta, guidance, creativity });
    });
  }

  /** @param {Partial<Settings>} patch */
  wish(patch) {
    this.hush();
    for (const [name, value] of Object.entries(patch)) {
      const field = /** @type {keyof Settings} */ (name);
      const wrong = this.model ? problem(field, value, this.model) : "";
      this.say(field, wrong);
      if (wrong) return;
    }
    this.wishes.change(patch);
  }

  /** @param {ModelInfo[]} models */
  offer(models) {
    this.modelChoice.replaceChildren(
      ...models.map(({ name, turbo }) => make("option", { value: name }, turbo ? `${name} · few steps` : name)),
    );
  }

  /** @param {Settings} settings @param {ModelInfo} model */
  show(settings, model) {
    if (this.model?.name !== model.name) this.meet(model);
    const { creativity, fps, label } = settings;
    slide(range("creativity"), creativity);
    const share = `${Math.round(100 * (1 - model.alpha_bar[creativity]))} % noise`;
    this.write("creativity", `t = ${creativity} of ${model.T} · ${share}`);
    for (const [field, text] of SLIDERS) {
      const value = Number(settings[field]);
      slide(range(field), value);
      this.write(field, text(value));
    }
    slide(range("fps"), fps === 0 ? FASTEST : fps);
    this.write("fps", fps === 0 ? "fastest" : `${fps} / s`);
    range("eta").disabled = !WITH_ETA.includes(settings.sampler);
    range("guidance").disabled = !guidable(settings, model);
    this.modelChoice.value = settings.model;
    this.samplerChoice.value = settings.sampler;
    if (document.activeElement !== this.seed || this.seed.value.trim() !== settings.seed)
      this.seed.value = settings.seed;
    choose("num", `${settings.num}`);
    choose("label", typeof label === "string" ? label : "mix");
    if (typeof label !== "string") this.mix = label;
    get("amounts", HTMLDivElement).classList.toggle("resting", typeof label === "string");
    for (const name of model.labels) {
      const amount = typeof label === "string" ? 0 : (label[name] ?? 0);
      const slider = range(`amount-${model.labels.indexOf(name)}`);
      if (amount > Number(slider.max)) slider.max = `${amount}`;
      slide(slider, amount);
      get(`${slider.id}-text`, HTMLOutputElement).value = amount.toFixed(1);
    }
  }

  /** The panel for another model. @param {ModelInfo} model */
  meet(model) {
    this.model = model;
    this.mix = null;
    range("creativity").max = `${model.T}`;
    range("steps").max = `${Math.min(MOST_STEPS, model.T)}`;
    get("about", HTMLParagraphElement).textContent = model.about;
    get("labels", HTMLDivElement).hidden = model.labels.length === 0;
    const amounts = get("amounts", HTMLDivElement);
    amounts.classList.toggle("many", model.labels.length > MANY_LABELS);
    amounts.replaceChildren(...model.labels.map((name, i) => this.amount(name, `amount-${i}`)));
  }

  /** A slider of a label; its name is a button for it alone. @param {string} name @param {string} id */
  amount(name, id) {
    const slider = make("input", { type: "range", id, min: "0", max: `${USUAL_AMOUNT}`, step: "0.1", value: "0" });
    slider.setAttribute("aria-label", name);
    slider.addEventListener("input", () => {
      const amounts = { ...this.shownMix(), [name]: Number(slider.value) };
      this.wish({ label: Object.fromEntries(Object.entries(amounts).filter(([, amount]) => amount > 0)) });
    });
    const only = make("button", { type: "button", title: `only ${name}`, textContent: name });
    only.addEventListener("click", () => this.wish({ label: { [name]: 1 } }));
    return make("div", { className: "amount" }, only, slider, make("output", { id: `${id}-text` }));
  }

  shownMix() {
    return get("amounts", HTMLDivElement).classList.contains("resting") ? {} : this.mix;
  }

  lastMix() {
    return this.mix ?? { [this.model?.labels[0] ?? ""]: 1 };
  }

  /** @param {string} field @param {string} text */
  write(field, text) {
    get(`${field}-text`, HTMLOutputElement).value = text;
    range(field).setAttribute("aria-valuetext", text);
  }

  /**
   * What is wrong with a setting, beside its control, until it is changed.
   * @param {keyof Settings} field
   * @param {string} message
   */
  say(field, message) {
    const place = document.querySelector(`[data-field="${field}"]`);
    const text = place?.querySelector(".wrong");
    if (!text) return;
    text.textContent = message;
    for (const control of place?.querySelectorAll("input, select") ?? []) {
      control.setAttribute("aria-invalid", `${message !== ""}`);
    }
  }

  hush() {
    for (const place of document.querySelectorAll("[data-field]")) {
      this.say(/** @type {keyof Settings} */ (place.getAttribute("data-field")), "");
    }
  }
}
