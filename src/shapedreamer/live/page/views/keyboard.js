/**
 * Keys for everything. The same table is what they do and what the help shows.
 *
 * @typedef {object} Key
 * @property {string} key    as KeyboardEvent.key has it
 * @property {string} shown  how the help writes it
 * @property {string} does
 * @property {() => void} run
 */

import { make } from "./dom.js";

/** @param {Key[]} keys @param {() => boolean} areOn */
export function listen(keys, areOn) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]") || takes(event)) return;
    const found = keys.find(({ key }) => key === event.key.toLowerCase());
    if (!found || !(areOn() || found.key === "?")) return;
    event.preventDefault();
    found.run();
  });
}

/** Whether the focused element has a use of its own for this key. @param {KeyboardEvent} event */
function takes({ target, key }) {
  if (target instanceof HTMLInputElement && target.type === "text") return true;
  if (target instanceof HTMLSelectElement) return key.length === 1;
  if (target instanceof HTMLInputElement && target.type === "range") return key === "Home";
  return (
    key === " " &&
    target instanceof HTMLElement &&
    target.closest("dialog:not([open])") === null && // it has the focus until the page is drawn again
    target.closest("button, summary, input, [role=application]") !== null
  );
}

/** @param {Key[]} keys */
export function table(keys) {
  return keys.map(({ shown, does }) => {
    const names = shown.split(" ").map((name) => make("kbd", {}, name));
    return make("div", {}, make("dt", {}, ...names), make("dd", {}, does));
  });
}
