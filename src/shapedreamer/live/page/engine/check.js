/**
 * Checks of the messages that the page sends. Each check throws an Error that names the field, its value and the valid
 * range.
 *
 * @import { ModelInfo, Settings } from "./protocol.js"
 */

import { fromBase64 } from "../files/bytes.js";
import { MAX_ETA, SAMPLERS, WITH_ETA } from "./samplers.js";
import { isSample, MAX_EVERY, MAX_FRAME, MOTIONS } from "./state.js";

const FIELDS = ["model", "seed", "num", "sampler", "steps", "eta", "guidance", "creativity", "label", "fps", "motion", "every"];
const [MAX_STEPS, MAX_GUIDANCE, MAX_AMOUNT, MAX_FPS] = [50, 10, 9, 60];

/** @param {unknown} value */
export function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Check all settings, and return the model that they name.
 *
 * @param {Settings} settings
 * @param {ModelInfo[]} models
 * @returns {ModelInfo}
 */
export function checkSettings(settings, models) {
  if (!isObject(settings)) fail("settings", settings, "an object");
  for (const key of Object.keys(settings)) {
    if (!FIELDS.includes(key)) fail("setting name", key, `one of ${FIELDS.join(", ")}`);
  }
  const names = models.map((model) => model.name);
  const info = models[names.indexOf(settings.model)] ?? fail("model", settings.model, `one of ${names.join(", ")}`);
  const { seed, num, creativity, fps, motion, every } = settings;
  if (typeof seed !== "string" || !/^\d{1,20}$/.test(seed) || BigInt(seed) >= 1n << 64n) {
    fail("seed", seed, "a string of digits, 0…2⁶⁴−1");
  }
  if (![1, 4, 16].includes(num)) fail("num", num, "1, 4 or 16");
  checkSampler(settings, info);
  if (!isWithin(creativity, 0, info.T) || creativity % 1) fail("creativity", creativity, `a timestep 0…${info.T}`);
  if (!isWithin(fps, 0, MAX_FPS)) fail("fps", fps, `0…${MAX_FPS}`);
  if (!MOTIONS.includes(motion)) fail("motion", motion, `one of ${MOTIONS.join(", ")}`);
  if (!isWithin(every, 0, MAX_EVERY) || every % 1) fail("every", every, `a whole number 0…${MAX_EVERY}`);
  checkLabel(settings, info);
  return info;
}

/**
 * Check the sampler, its number of steps and its eta.
 *
 * @param {{sampler: string, steps: number, eta: number}} options
 * @param {ModelInfo} info
 */
export function checkSampler({ sampler, steps, eta }, info) {
  if (!Object.hasOwn(SAMPLERS, sampler)) fail("sampler", sampler, `one of ${Object.keys(SAMPLERS).join(", ")}`);
  const maxSteps = Math.min(MAX_STEPS, info.T);
  if (!isWithin(steps, 1, maxSteps) || steps % 1) fail("steps", steps, `a whole number 1…${maxSteps}`);
  if (!isWithin(eta, 0, MAX_ETA)) fail("eta", eta, `0…${MAX_ETA}`);
  if (eta && !WITH_ETA.includes(sampler))
    fail("eta", eta, `0 for the sampler ${sampler} (only ${WITH_ETA.join(" and ")} have an eta)`);
}

/** @param {Settings} settings @param {ModelInfo} info */
function checkLabel({ label, guidance }, info) {
  const names = info.labels;
  if (!isWithin(guidance, -MAX_GUIDANCE, MAX_GUIDANCE)) fail("guidance", guidance, "−10…10");
  if (label === "none" || (label === "any" && !names.length)) {
    if (guidance !== 1) fail("guidance", guidance, "1 without a class label");
  } else if (label !== "any") {
    if (typeof label !== "object" || label === null) fail("label", label, "any, none or an object of label amounts");
    if (!names.length) fail("label", label, "any or none, because this model has no labels");
    for (const [name, amount] of Object.entries(label)) {
      if (!names.includes(name)) fail("label", name, `one of ${names.join(", ")}`);
      if (!isWithin(amount, 0, MAX_AMOUNT)) fail(`label ${name}`, amount, `0…${MAX_AMOUNT}`);
    }
  }
}

/**
 * Check where a dream starts: from an image, or at a frame that is a sample.
 *
 * @param {Settings} settings
 * @param {boolean} hasImage
 * @param {number} frame
 */
export function checkStart(settings, hasImage, frame) {
  if (!isWithin(frame, 0, MAX_FRAME) || frame % 1) fail("frame", frame, `a whole number 0…${MAX_FRAME}`);
  if (hasImage && settings.motion === "drift") {
    throw new Error('a picture cannot drift: set motion to "melt", or leave the image out');
  }
  if ((hasImage && frame) || !isSample(settings, frame)) {
    throw new Error(`a dream with these settings cannot start at frame ${frame}; start it at frame 0`);
  }
}

/** @param {unknown} id */
export function checkId(id) {
  if (!isWithin(id, 0, 2 ** 32 - 1) || id % 1) fail("id", id, "a whole number 0…2³²−1");
}

/** Check the number of the frame to trace. @param {unknown} frame */
export function checkFrame(frame) {
  if (frame !== null && (!isWithin(frame, 0, MAX_FRAME) || frame % 1)) fail("frame", frame, `a whole number 0…${MAX_FRAME}`);
}

/**
 * Decode a base64 string that must hold exactly `length` bytes.
 *
 * @param {string} field  its name in the error message
 * @param {unknown} text
 * @param {number} length
 */
export function checkBytes(field, text, length) {
  let bytes;
  try {
    bytes = fromBase64(/** @type {string} */ (text));
  } catch {
    fail(field, text, "base64");
  }
  if (bytes.length !== length) fail(field, `${bytes.length} bytes`, `${length} bytes long`);
  return bytes;
}

/** @param {unknown} value @param {number} low @param {number} high @returns {value is number} */
function isWithin(value, low, high) {
  return typeof value === "number" && value >= low && value <= high;
}

/** @param {string} field @param {unknown} value @param {string} expected @returns {never} */
function fail(field, value, expected) {
  throw new Error(`${field} must be ${expected}, not ${typeof value === "string" ? value : JSON.stringify(value)}`);
}
