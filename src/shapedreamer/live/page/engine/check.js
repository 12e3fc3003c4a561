/**
 * What a viewer may ask for. Each check throws an Error that names the thing, its value and what would be right.
 *
 * @import { ModelInfo, Settings } from "./protocol.js"
 */

import { fromBase64 } from "../files/bytes.js";
import { SAMPLERS, WITH_ETA } from "./samplers.js";

const FIELDS = ["model", "seed", "num", "sampler", "steps", "eta", "guidance", "creativity", "label", "fps"];
const [MOST_STEPS, MOST_GUIDANCE, MOST_AMOUNT, MOST_FPS] = [50, 10, 9, 60];

/**
 * The model that the settings are for, which they fit.
 *
 * @param {Settings} settings
 * @param {ModelInfo[]} models
 * @returns {ModelInfo}
 */
export function checkSettings(settings, models) {
  if (typeof settings !== "object" || settings === null) refuse("settings", settings, "an object");
  for (const key of Object.keys(settings)) {
    if (!FIELDS.includes(key)) refuse("a setting", key, `one of ${FIELDS.join(", ")}`);
  }
  const names = models.map((model) => model.name);
  const info = models[names.indexOf(settings.model)] ?? refuse("model", settings.model, `one of ${names.join(", ")}`);
  const { seed, num, creativity, fps } = settings;
  if (typeof seed !== "string" || !/^\d{1,20}$/.test(seed) || BigInt(seed) >= 1n << 64n) {
    refuse("seed", seed, "a text of digits, 0…2⁶⁴−1");
  }
  if (![1, 4, 16].includes(num)) refuse("num", num, "1, 4 or 16");
  checkWay(settings, info);
  if (!isWithin(creativity, 0, info.T) || creativity % 1) refuse("creativity", creativity, `a time 0…${info.T}`);
  if (!isWithin(fps, 0, MOST_FPS)) refuse("fps", fps, `0…${MOST_FPS}`);
  checkLabel(settings, info);
  return info;
}

/**
 * Whether there is such a way from noise to image.
 *
 * @param {{sampler: string, steps: number, eta: number}} way
 * @param {ModelInfo} info
 */
export function checkWay({ sampler, steps, eta }, info) {
  if (!Object.hasOwn(SAMPLERS, sampler)) refuse("sampler", sampler, `one of ${Object.keys(SAMPLERS).join(", ")}`);
  const most = Math.min(MOST_STEPS, info.T);
  if (!isWithin(steps, 1, most) || steps % 1) refuse("steps", steps, `a whole number 1…${most}`);
  if (!isWithin(eta, 0, 1)) refuse("eta", eta, "0…1");
  if (eta && !WITH_ETA.includes(sampler))
    refuse("eta", eta, `0 for the sampler ${sampler}; it belongs to ${WITH_ETA.join(" and ")}`);
}

/** @param {Settings} settings @param {ModelInfo} info */
function checkLabel({ label, guidance }, info) {
  const names = info.labels;
  if (!isWithin(guidance, -MOST_GUIDANCE, MOST_GUIDANCE)) refuse("guidance", guidance, "−10…10");
  if (label === "none" || (label === "any" && !names.length)) {
    if (guidance !== 1) refuse("guidance", guidance, "1 where there is no label to guide to");
  } else if (label !== "any") {
    if (typeof label !== "object" || label === null) refuse("label", label, "any, none or names with amounts");
    if (!names.length) refuse("label", label, "any or none for a model without labels");
    for (const [name, amount] of Object.entries(label)) {
      if (!names.includes(name)) refuse("label", name, `one of ${names.join(", ")}`);
      if (!isWithin(amount, 0, MOST_AMOUNT)) refuse(`label ${name}`, amount, `0…${MOST_AMOUNT}`);
    }
  }
}

/** @param {unknown} id */
export function checkId(id) {
  if (!isWithin(id, 0, 2 ** 32 - 1) || id % 1) refuse("id", id, "a whole number 0…2³²−1");
}

/**
 * The bytes of a text in base64.
 *
 * @param {string} what
 * @param {unknown} text
 * @param {number} length  how many they must be
 */
export function checkBytes(what, text, length) {
  let bytes;
  try {
    bytes = fromBase64(/** @type {string} */ (text));
  } catch {
    refuse(what, text, "a text in base64");
  }
  if (bytes.length !== length) refuse(what, `of ${bytes.length} bytes`, `of ${length}`);
  return bytes;
}

/** @param {unknown} value @param {number} low @param {number} high @returns {value is number} */
function isWithin(value, low, high) {
  return typeof value === "number" && value >= low && value <= high;
}

/** @param {string} what @param {unknown} value @param {string} right @returns {never} */
function refuse(what, value, right) {
  throw new Error(`${what} must be ${right}, not ${typeof value === "string" ? value : JSON.stringify(value)}`);
}
