/**
 * The list of models, in three groups, and a thumbnail of the chosen one.
 *
 * @import { ModelInfo } from "../engine/protocol.js"
 */

import { get, make } from "./dom.js";

const IN_TRAINING = /-epoch-\d+$/; // shipped checkpoints of an unfinished training, for the labs

/** Title of each group, and which models belong to it. @type {[string, (model: ModelInfo) => boolean][]} */
const GROUPS = [
  ["Few-step models: smooth, for live dreams", ({ turbo }) => turbo],
  ["Models: slower, with finer detail", ({ turbo, name }) => !turbo && !IN_TRAINING.test(name)],
  ["For the labs: sprites in training", ({ turbo, name }) => !turbo && IN_TRAINING.test(name)],
];

/** The options of a select element, without empty groups. @param {ModelInfo[]} models */
export function modelOptions(models) {
  return GROUPS.map(([label, belongs]) => {
    const options = models.filter(belongs).map(({ name }) => make("option", { value: name }, name));
    return make("optgroup", { label }, ...options);
  }).filter((group) => group.children.length > 0);
}

/** Show samples of a model next to the list, if there are any. @param {ModelInfo} model */
export function showThumbnail({ name, thumbnail }) {
  const image = get("thumbnail", HTMLImageElement);
  image.hidden = !thumbnail;
  image.src = thumbnail ?? "";
  image.alt = thumbnail ? `four samples of ${name}` : "";
  if (!thumbnail) image.removeAttribute("src");
}
