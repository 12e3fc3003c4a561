/**
 * Settings: which values make sense, and how the whole state of the page is written into its address and read back.
 *
 * @import { Label, ModelInfo, SamplerName, Settings } from "./protocol.js"
 */

import { deflate, fromBase64Url, inflate, toBase64Url } from "../files/bytes.js";
import { WITH_ETA } from "./samplers.js";

/** @typedef {"dream" | "microscope" | "draw"} ViewName */
/** @typedef {Pick<Settings, "sampler" | "steps" | "eta">} Way  from noise to image */
/**
 * @typedef {{step: number, ways: Way[]}} Scope  what is under the microscope: one way or two, and which step of them
 */

/**
 * All that a link says.
 * @typedef {object} Place
 * @property {Settings} settings
 * @property {number} frame              which frame to begin with, dreamt from the seed; 0 where there is an image
 * @property {Uint8Array | null} image   the pictures to begin with, (num, H, W, C), where no seed leads to them
 * @property {boolean} paused
 * @property {ViewName} view
 * @property {number} scale              screen pixels a pixel; 0 for as many as fit
 * @property {Scope | null} scope        null for the settings' own way
 */

/** @type {Record<SamplerName, string>} */
export const SAMPLERS = { ddpm: "DDPM", ddim: "DDIM", heun: "Heun", dpmpp_2m: "DPM++ 2M" };
export const NUMS = [1, 4, 16];
export const MOST_STEPS = 50;
export const MOST_SEED = 2n ** 64n - 1n;
export const MOST_SCALE = 64;
export const MOST_AMOUNT = 9;
export const FPS = 12; // fast enough to melt, slow enough to follow
/** @type {ViewName[]} */
export const VIEWS = ["dream", "microscope", "draw"];

/** How a model dreams where nothing else is said. @param {ModelInfo} model @returns {Settings} */
export function defaults(model) {
  return {
    model: model.name,
    seed: "0",
    num: 1,
    sampler: model.sampling.sampler,
    steps: Math.min(model.sampling.steps, MOST_STEPS, model.T),
    eta: WITH_ETA.includes(model.sampling.sampler) ? model.sampling.eta : 0,
    guidance: 1,
    creativity: model.creativity,
    label: "any",
    fps: FPS,
  };
}

/** Whether guidance has something to guide to. @param {Settings} settings @param {ModelInfo} model */
export function guidable(settings, model) {
  return model.labels.length > 0 && settings.label !== "none";
}

/**
 * Settings where what says nothing is at rest: eta but for the samplers WITH_ETA, guidance without a label.
 * @param {Settings} settings
 * @param {ModelInfo} model
 * @returns {Settings}
 */
export function settled(settings, model) {
  return {
    ...settings,
    eta: WITH_ETA.includes(settings.sampler) ? settings.eta : 0,
    guidance: guidable(settings, model) ? settings.guidance : 1,
  };
}

/**
 * What is wrong with a value of a setting, in words; "" if nothing is.
 * @param {keyof Settings} field
 * @param {unknown} value
 * @param {ModelInfo} model
 */
export function problem(field, value, model) {
  /** @param {number} low @param {number} high @param {boolean} whole */
  const between = (low, high, whole) => {
    const fine = typeof value === "number" && value >= low && value <= high && (!whole || Number.isInteger(value));
    return fine ? "" : `${field} must be ${whole ? "a whole number" : "a number"} from ${low} to ${high}`;
  };
  switch (field) {
    case "model":
      return value === model.name ? "" : `there is no model ${value}`;
    case "seed":
      if (typeof value === "string" && /^\d{1,20}$/.test(value) && BigInt(value) <= MOST_SEED) return "";
      return "seed must be a whole number from 0 to 2⁶⁴ − 1";
    case "num":
      return NUMS.some((num) => num === value) ? "" : `num must be ${NUMS.join(", ")}`;
    case "sampler":
      return Object.keys(SAMPLERS).some((name) => name === value)
        ? ""
        : `sampler must be ${Object.keys(SAMPLERS).join(", ")}`;
    case "steps":
      return between(1, Math.min(MOST_STEPS, model.T), true);
    case "eta":
      return between(0, 1, false);
    case "guidance":
      return between(-10, 10, false);
    case "creativity":
      return between(0, model.T, true);
    case "fps":
      return between(0, 60, false);
    case "label":
      if (value === "any" || value === "none") return "";
      if (typeof value !== "object" || value === null) return "label must be any, none or amounts";
      for (const [name, amount] of Object.entries(value)) {
        if (!model.labels.includes(name)) return `there is no label ${name}`;
        if (!(amount >= 0 && amount <= MOST_AMOUNT)) return `an amount must be from 0 to ${MOST_AMOUNT}`;
      }
      return "";
  }
}

/** The part of an address after #. @param {Place} place @returns {Promise<string>} */
export async function toAddress({ settings, frame, image, paused, view, scale, scope }) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(settings)) {
    if (name === "label" && typeof value === "object") {
      words.set("label", "mix");
      for (const [label, amount] of Object.entries(value)) words.set(`label.${label}`, `${amount}`);
    } else {
      words.set(name, `${value}`);
    }
  }
  if (view !== "dream") words.set("view", view);
  if (scale > 0) words.set("scale", `${scale}`);
  if (scope) {
    words.set("step", `${scope.step}`);
    words.set("look", scope.ways.map(({ sampler, steps, eta }) => `${sampler}-${steps}-${eta}`).join(" "));
  }
  if (paused) words.set("paused", "1");
  if (image) words.set("image", toBase64Url(await deflate(image)));
  else if (frame > 0) words.set("frame", `${frame}`);
  return words.toString();
}

/**
 * The place that an address leads to, and what in it could not be followed, a sentence each; there its default stands.
 * @param {string} address          as toAddress writes it, with or without #
 * @param {ModelInfo[]} models      at least one
 * @param {Partial<Settings>} otherwise  what to take where the address says nothing
 * @returns {Promise<{place: Place, problems: string[]}>}
 */
export async function fromAddress(address, models, otherwise = {}) {
  const words = new URLSearchParams(address.replace(/^#/, ""));
  const problems = [];
  const name = words.get("model");
  const model = models.find((one) => one.name === name) ?? models[0];
  if (name !== null && name !== model.name) problems.push(`there is no model ${name} here; this is ${model.name}`);
  const settings = { ...defaults(model), ...otherwise, model: model.name };
  for (const field of /** @type {(keyof Settings)[]} */ (Object.keys(settings))) {
    const word = words.get(field);
    if (word === null || field === "model") continue;
    const value = field === "label" ? labelIn(words) : typeof settings[field] === "number" ? numberIn(word) : word;
    const wrong = problem(field, value, model);
    if (wrong) problems.push(`${wrong}, not ${word}`);
    else Object.assign(settings, { [field]: value });
  }
  const view = VIEWS.find((one) => one === words.get("view")) ?? "dream";
  const scale = whole(words.get("scale"), MOST_SCALE);
  const frame = whole(words.get("frame"), 2 ** 32 - 1);
  const image = await imageIn(words.get("image"), settings.num * model.height * model.width * model.channels);
  if (image === undefined) problems.push("the picture in the address is damaged; this is another one");
  const paused = words.get("paused") === "1";
  const scope = scopeIn(words, model);
  if (scope === undefined) problems.push("what was under the microscope makes no sense here");
  return {
    place: {
      settings: settled(settings, model),
      frame: image ? 0 : frame,
      image: image ?? null,
      paused,
      view,
      scale,
      scope: scope ?? null,
    },
    problems,
  };
}

/** @param {URLSearchParams} words @returns {unknown} */
function labelIn(words) {
  if (words.get("label") !== "mix") return words.get("label");
  const amounts = [...words].filter(([name]) => name.startsWith("label."));
  return Object.fromEntries(amounts.map(([name, amount]) => [name.slice("label.".length), numberIn(amount)]));
}

/** NaN for anything but plain decimal digits. @param {string} word */
function numberIn(word) {
  return /^-?\d{1,6}(\.\d{1,17})?$/.test(word) ? Number(word) : NaN;
}

/** @param {string | null} word @param {number} most */
function whole(word, most) {
  return word !== null && /^\d{1,10}$/.test(word) ? Math.min(Number(word), most) : 0;
}

/**
 * null where there is none, undefined where it makes no sense.
 * @param {URLSearchParams} words
 * @param {ModelInfo} model
 */
function scopeIn(words, model) {
  const look = words.get("look");
  if (look === null) return null;
  const ways = look.split(" ").map((part) => {
    const [sampler, steps, eta] = part.split("-");
    return { sampler: /** @type {SamplerName} */ (sampler), steps: numberIn(steps ?? ""), eta: numberIn(eta ?? "") };
  });
  const fields = /** @type {(keyof Way)[]} */ (["sampler", "steps", "eta"]);
  const fine =
    ways.length <= 2 && ways.every((way) => fields.every((field) => problem(field, way[field], model) === ""));
  return fine ? { step: whole(words.get("step"), MOST_STEPS), ways } : undefined;
}

/** null where there is none, undefined where it is damaged. @param {string | null} word @param {number} size */
async function imageIn(word, size) {
  if (word === null) return null;
  try {
    return await inflate(fromBase64Url(word), size);
  } catch {
    return undefined;
  }
}
