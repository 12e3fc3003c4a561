/**
 * The list of models, in three groups, and a thumbnail of the chosen one.
 *
 * @import { ModelInfo } from "../engine/protocol.js"
 */

import { get, make } from "./dom.js";
import { isMasked } from "../engine/state.js";

/** Title of each group, and which models belong to it. @type {[string, (model: ModelInfo) => boolean][]} */
const GROUPS = [
  ["Few-step models: smooth, for live dreams", ({ turbo }) => turbo],
  ["Models: slower, with finer detail", (model) => !model.turbo && !isMasked(model)],
  ["For the labs: reveals hidden pixels", (model) => !model.turbo && isMasked(model)],
];

/**
 * The options of a select element, without empty groups, and without checkpoints of a training run: these are in the
 * view "training".
 *
 * @param {ModelInfo[]} models
 */
export function modelOptions(models) {
  const listed = models.filter(({ checkpoint }) => !checkpoint);
  return GROUPS.map(([label, belongs]) => {
    const options = listed.filter(belongs).map(({ name }) => make("option", { value: name }, name));
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
