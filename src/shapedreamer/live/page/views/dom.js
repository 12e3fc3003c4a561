/**
 * Helpers to find elements by id, and to create them.
 */

/**
 * @template {Element} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function get(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no ${kind.name} #${id}`);
  return found;
}

/**
 * An element with these properties and children.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Partial<Omit<HTMLElementTagNameMap[K], "style">>} [properties]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** @param {string} id */
export const range = (id) => get(id, HTMLInputElement);

/** Move a slider, and colour its track up to the value. @param {HTMLInputElement} slider @param {number} value */
export function slide(slider, value) {
  slider.value = `${value}`;
  const [low, high] = [Number(slider.min), Number(slider.max)];
  slider.style.setProperty("--fill", `${high > low ? (100 * (Number(slider.value) - low)) / (high - low) : 0}%`);
}

/** Check the radio button with this value. @param {string} name @param {string} value */
export function choose(name, value) {
  for (const radio of document.getElementsByName(name)) {
    if (radio instanceof HTMLInputElement) radio.checked = radio.value === value;
  }
}

/** Call back when the user chooses a radio button. @param {string} name @param {(value: string) => void} callback */
export function onChoice(name, callback) {
  for (const radio of document.getElementsByName(name)) {
    if (radio instanceof HTMLInputElement) radio.addEventListener("change", () => callback(radio.value));
  }
}

/**
 * Call back when the size of an element has changed. It may change it again: before the next repaint, not in a loop that
 * the browser would report as an error.
 * @param {Element} element
 * @param {() => void} callback
 */
export function onResize(element, callback) {
  new ResizeObserver(() => requestAnimationFrame(callback)).observe(element);
}

/** Set a button's icon. @param {HTMLElement} button @param {string} icon  id in icons.svg */
export function setIcon(button, icon) {
  button.querySelector("use")?.setAttribute("href", `page/icons.svg#${icon}`);
}

/** 1234567 as "1 234 567". @param {number} number */
export const grouped = (number) => `${number}`.replace(/\B(?=(\d{3})+$)/g, "\u202f");
