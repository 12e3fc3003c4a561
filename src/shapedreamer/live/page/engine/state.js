/**
 * Settings: their valid values, and the page's complete state as the part of the URL after #.
 *
 * @import { Label, ModelInfo, SamplerName, Settings } from "./protocol.js"
 */

import { deflate, fromBase64Url, inflate, reduceBits, restoreBits, toBase64Url } from "../files/bytes.js";
import { MAX_ETA, WITH_ETA } from "./samplers.js";

/** @typedef {"dream" | "microscope" | "schedule" | "training" | "race" | "draw"} ViewName */
/** @typedef {Pick<Settings, "sampler" | "steps" | "eta">} SamplerOptions */
/**
 * What the microscope shows.
 * @typedef {object} Scope
 * @property {number} step
 * @property {SamplerOptions[]} samplers  one or two
 * @property {number | null} frame        number of the frame; null for the sample that the seed begins with
 */

/** @typedef {{scene: number, guess: number | null}} TourState  the scene 1…8 of the tour, and the choice 1…3 */

/**
 * The state that a link stores.
 * @typedef {object} Place
 * @property {Settings} settings
 * @property {number} frame              the frame to show first; 0 if there is an image
 * @property {Uint8Array | null} image   (num, H, W, C): the pictures to start from, if no seed reproduces them
 * @property {boolean} paused
 * @property {ViewName} view
 * @property {number} scale              screen pixels per image pixel; 0 fits the window
 * @property {Scope | null} scope        null: the microscope uses the settings' own sampler
 * @property {TourState | null} tour     null: no tour
 * @property {number | null} epoch       shown in the view "training"; null for its default
 * @property {number | null} calls       network calls in the view "race"; null for its default
 */

/** @type {Record<SamplerName, string>} */
export const SAMPLERS = {
  ddpm: "DDPM",
  ddim: "DDIM",
  heun: "Heun",
  dpmpp_2m: "DPM++ 2M",
  midpoint: "Midpoint",
  heun_line: "Heun on the line",
};
/** Of masked models, which hide pixels instead of adding noise. Only the engine in the server runs them. */
export const MASKED_SAMPLERS = {
  masked_ancestral: "Ancestral",
  masked_random: "Random order",
  masked_confidence: "Most certain first",
};
export const HAS_ETA = [...WITH_ETA, "masked_ancestral"];
export const NUMS = [1, 4, 16];
export const MAX_STEPS = 50;
export const MAX_SEED = 2n ** 64n - 1n;
export const MAX_SCALE = 64;
export const MAX_AMOUNT = 9;
export const MAX_IMAGE_TEXT = 4000; // characters of a picture in a link; many programs cut longer links
const IMAGE_BITS = [8, 6, 5, 4]; // bits per value of a picture in a link: the first that fits, or the last
export const DEFAULT_FPS = 12; // fast enough to look continuous, slow enough to follow
export const MAX_EVERY = 1000;
export const MAX_FRAME = 10_000_000;
export const MOTIONS = /** @type {const} */ (["drift", "melt"]);
/** Settings that fit a motion. @type {Record<Settings["motion"], Pick<Settings, "motion" | "every" | "fps">>} */
export const MOTION_DEFAULTS = {
  drift: { motion: "drift", every: 60, fps: 30 },
  melt: { motion: "melt", every: 16, fps: DEFAULT_FPS },
};
/** What links mean that are older than drift. @type {Partial<Settings>} */
const OLD_LINK = { motion: "melt", every: 0, fps: DEFAULT_FPS };
/** @type {ViewName[]} */
export const VIEWS = ["dream", "microscope", "schedule", "training", "race", "draw"];
export const MAX_EPOCH = 9999;

/** @param {ModelInfo} model */
export function isMasked({ process }) {
  return process === "masked";
}

/** The largest η: of a masked model, the share of its visible pixels. @param {ModelInfo} model */
export function maxEta(model) {
  return isMasked(model) ? 1 : MAX_ETA;
}

/** The model's samplers and their titles. @param {ModelInfo} model @returns {Record<string, string>} */
export function samplersOf(model) {
  return isMasked(model) ? MASKED_SAMPLERS : SAMPLERS;
}

/** A model's default settings. @param {ModelInfo} model @returns {Settings} */
export function defaults(model) {
  return {
    model: model.name,
    seed: "0",
    num: 1,
    sampler: model.sampling.sampler,
    steps: Math.min(model.sampling.steps, MAX_STEPS, model.T),
    eta: HAS_ETA.includes(model.sampling.sampler) ? model.sampling.eta : 0,
    guidance: 1,
    creativity: model.creativity,
    label: "any",
    ...MOTION_DEFAULTS[model.turbo && !isMasked(model) ? "drift" : "melt"],
  };
}

/**
 * Whether a frame starts from noise and not from the frame before it, unless the dream starts from an image.
 * @param {Settings} settings
 * @param {number} frame
 */
export function isSample({ motion, every, creativity }, frame) {
  return frame === 0 || motion === "drift" || (creativity > 0 && every > 0 && frame % every === 0);
}

/** The frame to start at in order to reach `frame`: the last sample up to it. @param {Settings} settings @param {number} frame */
export function startFor(settings, frame) {
  if (isSample(settings, frame)) return frame;
  return settings.creativity > 0 && settings.every > 0 ? frame - (frame % settings.every) : 0;
}

/** Settings for a dream that starts from an image, which cannot drift. @param {Settings} settings @returns {Settings} */
export function withoutDrift(settings) {
  return settings.motion === "drift" ? { ...settings, motion: "melt", every: 0, fps: DEFAULT_FPS } : settings;
}

/**
 * Whether the settings ask for a class label, so that guidance has an effect.
 * @param {Settings} settings
 * @param {ModelInfo} model
 */
export function isConditional(settings, model) {
  return model.labels.length > 0 && settings.label !== "none";
}

/**
 * Write the seed without leading zeros, which Python would refuse, and reset settings that have no effect: eta of a
 * sampler without one, and guidance without a class label.
 * @param {Settings} settings
 * @param {ModelInfo} model
 * @returns {Settings}
 */
export function normalize(settings, model) {
  return {
    ...settings,
    seed: `${BigInt(settings.seed)}`,
    eta: HAS_ETA.includes(settings.sampler) ? settings.eta : 0,
    guidance: isConditional(settings, model) ? settings.guidance : 1,
  };
}

/**
 * Why a value is invalid for a setting; "" if it is valid.
 * @param {keyof Settings} field
 * @param {unknown} value
 * @param {ModelInfo} model
 */
export function problem(field, value, model) {
  /** @param {number} low @param {number} high @param {boolean} whole */
  const between = (low, high, whole) => {
    const isValid = typeof value === "number" && value >= low && value <= high && (!whole || Number.isInteger(value));
    return isValid ? "" : `${field} must be ${whole ? "a whole number" : "a number"} from ${low} to ${high}`;
  };
  switch (field) {
    case "model":
      return value === model.name ? "" : `unknown model ${value}`;
    case "seed":
      if (typeof value === "string" && /^\d{1,20}$/.test(value) && BigInt(value) <= MAX_SEED) return "";
      return "seed must be a whole number from 0 to 2⁶⁴ − 1";
    case "num":
      return NUMS.some((num) => num === value) ? "" : `num must be one of ${NUMS.join(", ")}`;
    case "sampler":
      return Object.keys(samplersOf(model)).some((name) => name === value)
        ? ""
        : `sampler must be one of ${Object.keys(samplersOf(model)).join(", ")}`;
    case "steps":
      return between(1, Math.min(MAX_STEPS, model.T), true);
    case "eta":
      return between(0, maxEta(model), false);
    case "guidance":
      return between(-10, 10, false);
    case "creativity":
      return between(0, model.T, true);
    case "fps":
      return between(0, 60, false);
    case "motion":
      if (isMasked(model) && value === "drift") return "a masked model cannot drift, because it starts without noise";
      return MOTIONS.some((name) => name === value) ? "" : `motion must be one of ${MOTIONS.join(", ")}`;
    case "every":
      return between(0, MAX_EVERY, true);
    case "label":
      if (value === "any" || value === "none") return "";
      if (typeof value !== "object" || value === null) return "label must be any, none or mix";
      for (const [name, amount] of Object.entries(value)) {
        if (!model.labels.includes(name)) return `model ${model.name} has no label ${name}`;
        if (!(amount >= 0 && amount <= MAX_AMOUNT)) return `label ${name} must be a number from 0 to ${MAX_AMOUNT}`;
      }
      return "";
  }
}

/** The part of the URL after #. @param {Place} place @returns {Promise<string>} */
export async function toUrlHash({ settings, frame, image, paused, view, scale, scope, tour, epoch, calls }) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(settings)) {
    if (name === "label" && typeof value === "object") {
      params.set("label", "mix");
      for (const [label, amount] of Object.entries(value)) params.set(`label.${label}`, `${amount}`);
    } else {
      params.set(name, `${value}`);
    }
  }
  if (view !== "dream") params.set("view", view);
  if (scale > 0) params.set("scale", `${scale}`);
  if (scope) {
    params.set("step", `${scope.step}`);
    params.set("of", scope.frame === null ? "noise" : `${scope.frame}`);
    params.set("look", scope.samplers.map(({ sampler, steps, eta }) => `${sampler}-${steps}-${eta}`).join(" "));
  }
  if (tour) params.set("tour", tour.guess === null ? `${tour.scene}` : `${tour.scene}.${tour.guess}`);
  if (epoch !== null) params.set("epoch", `${epoch}`);
  if (calls !== null) params.set("calls", `${calls}`);
  if (paused) params.set("paused", "1");
  if (image) await setImage(params, image);
  else if (frame > 0) params.set("frame", `${frame}`);
  return params.toString();
}

/**
 * Read what toUrlHash wrote. Each invalid part gets its default value, and one sentence in `problems`.
 * @param {string} hash                  with or without #
 * @param {ModelInfo[]} models           at least one
 * @param {Partial<Settings>} fallbacks  for settings that the URL does not contain
 * @returns {Promise<{place: Place, problems: string[]}>}
 */
export async function fromUrlHash(hash, models, fallbacks = {}) {
  const params = new URLSearchParams(hash.replace(/^#/, ""));
  const problems = [];
  const name = params.get("model");
  const model = models.find((candidate) => candidate.name === name) ?? models[0];
  if (name !== null && name !== model.name) problems.push(`unknown model ${name}, using ${model.name} instead`);
  const isOld = `${params}` !== "" && !params.has("motion");
  const settings = { ...defaults(model), ...(isOld ? OLD_LINK : {}), ...fallbacks, model: model.name };
  for (const field of /** @type {(keyof Settings)[]} */ (Object.keys(settings))) {
    const text = params.get(field);
    if (text === null || field === "model") continue;
    const isMix = field === "label" && text === "mix";
    const value = isMix ? parseMix(params) : typeof settings[field] === "number" ? parseNumber(text) : text;
    const error = problem(field, value, model);
    if (error) problems.push(isMix ? error : `${error}, not ${text}`);
    else Object.assign(settings, { [field]: value });
  }
  /**
   * The value of a key outside the settings; null if the URL lacks it, or if it is invalid.
   * @template Value
   * @param {string} key
   * @param {(text: string) => Value | null | undefined} parse
   * @param {string} valid  what a valid value is
   */
  const read = (key, parse, valid) => {
    const text = params.get(key);
    const value = text === null ? null : (parse(text) ?? null);
    if (text !== null && value === null) problems.push(`${key} must be ${valid}, not ${text}`);
    return value;
  };
  const readWhole = (/** @type {string} */ key, /** @type {number} */ low, /** @type {number} */ high) =>
    read(key, (text) => parseWhole(text, low, high), `a whole number from ${low} to ${high}`);
  const size = settings.num * model.height * model.width * model.channels;
  const image = await parseImage(params.get("image"), params.get("bits") ?? "8", size);
  if (image === undefined) problems.push("the picture in the URL is damaged, using a generated one instead");
  const scope = parseScope(params, model);
  if (scope === undefined) problems.push("the microscope settings in the URL are invalid, using the defaults instead");
  return {
    place: {
      settings: normalize(image ? withoutDrift(settings) : settings, model),
      frame: image ? 0 : (readWhole("frame", 0, MAX_FRAME) ?? 0),
      image: image ?? null,
      paused: readWhole("paused", 0, 1) === 1,
      view: read("view", (text) => VIEWS.find((name) => name === text), `one of ${VIEWS.join(", ")}`) ?? "dream",
      scale: readWhole("scale", 0, MAX_SCALE) ?? 0,
      scope: scope ?? null,
      tour: read("tour", parseTour, "a scene from 1 to 8, such as 4, or 4.2 with the second choice"),
      epoch: readWhole("epoch", 0, MAX_EPOCH),
      calls: readWhole("calls", 1, MAX_STEPS),
    },
    problems,
  };
}

/** Store a picture, exactly if that is short, or else with fewer bits. @param {URLSearchParams} params @param {Uint8Array} image */
async function setImage(params, image) {
  for (const bits of IMAGE_BITS) {
    const text = toBase64Url(await deflate(bits === 8 ? image : reduceBits(image, bits)));
    if (bits < 8) params.set("bits", `${bits}`);
    params.set("image", text);
    if (text.length <= MAX_IMAGE_TEXT) return;
  }
}

/** The label amounts of label=mix. @param {URLSearchParams} params @returns {Record<string, number>} */
function parseMix(params) {
  const amounts = [...params].filter(([name]) => name.startsWith("label."));
  return Object.fromEntries(amounts.map(([name, amount]) => [name.slice("label.".length), parseNumber(amount)]));
}

/** NaN for anything but decimal digits, perhaps with the exponent of a small number. @param {string} text */
function parseNumber(text) {
  return /^-?\d{1,6}(\.\d{1,20})?(e-\d{1,3})?$/.test(text) ? Number(text) : NaN;
}

/** A whole number low…high; null if it is invalid. @param {string} text @param {number} low @param {number} high */
function parseWhole(text, low, high) {
  const value = /^\d{1,10}$/.test(text) ? Number(text) : NaN;
  return value >= low && value <= high ? value : null;
}

/** A scene and the guess in it, such as 3 or 3.1; null if it is invalid. @param {string} text @returns {TourState | null} */
function parseTour(text) {
  const found = /^([1-8])(?:\.([1-3]))?$/.exec(text);
  return found && { scene: Number(found[1]), guess: found[2] ? Number(found[2]) : null };
}

/**
 * null if there is none, undefined if it is invalid.
 * @param {URLSearchParams} params
 * @param {ModelInfo} model
 */
function parseScope(params, model) {
  const look = params.get("look");
  if (look === null) return null;
  const samplers = look.split(" ").map((part) => {
    const [sampler, steps, ...eta] = part.split("-"); // a tiny eta has an exponent with another hyphen
    const name = /** @type {SamplerName} */ (sampler);
    return { sampler: name, steps: parseNumber(steps ?? ""), eta: parseNumber(eta.join("-")) };
  });
  const fields = /** @type {(keyof SamplerOptions)[]} */ (["sampler", "steps", "eta"]);
  const of = params.get("of") ?? "noise"; // links of older pages show the sample that the seed begins with
  const frame = of === "noise" ? null : parseWhole(of, 0, MAX_FRAME);
  const step = parseWhole(params.get("step") ?? "0", 0, MAX_STEPS);
  const isValid =
    step !== null &&
    (of === "noise" || frame !== null) &&
    samplers.length <= 2 &&
    samplers.every((options) => fields.every((field) => problem(field, options[field], model) === ""));
  return isValid ? { step, samplers, frame } : undefined;
}

/**
 * null if there is none, undefined if it is damaged.
 * @param {string | null} text
 * @param {string} bits
 * @param {number} size
 */
async function parseImage(text, bits, size) {
  if (text === null) return null;
  if (!/^[1-8]$/.test(bits)) return undefined;
  try {
    return restoreBits(await inflate(fromBase64Url(text), size), Number(bits));
  } catch {
    return undefined;
  }
}
