/**
 * Keyboard shortcuts. One table defines both their actions and the list in the help dialog.
 *
 * @typedef {object} Key
 * @property {string} key      as in KeyboardEvent.key
 * @property {string} label    as shown in the help dialog
 * @property {string} description
 * @property {() => void} run
 */

import { make } from "./dom.js";

/** @param {Key[]} keys @param {() => boolean} areEnabled */
export function listen(keys, areEnabled) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]") || usesKey(event)) return;
    const found = keys.find(({ key }) => key === event.key.toLowerCase());
    if (!found || !(areEnabled() || found.key === "?")) return;
    event.preventDefault();
    found.run();
  });
}

/** Whether the focused element uses this key itself. @param {KeyboardEvent} event */
function usesKey({ target, key }) {
  if (target instanceof HTMLInputElement && target.type === "text") return true;
  if (target instanceof HTMLSelectElement) return key.length === 1;
  if (target instanceof HTMLInputElement && target.type === "range") return key === "Home";
  return (
    key === " " &&
    target instanceof HTMLElement &&
    target.closest("dialog:not([open])") === null && // a closed dialog keeps the focus until the next paint
    target.closest("button, summary, input, [role=application]") !== null
  );
}

/** @param {Key[]} keys */
export function table(keys) {
  return keys.map(({ label, description }) => {
    const names = label.split(" ").map((name) => make("kbd", {}, name));
    return make("div", {}, make("dt", {}, ...names), make("dd", {}, description));
  });
}
