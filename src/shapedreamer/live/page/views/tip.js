/**
 * The box that explains: of a term, when it is hovered over, focused or tapped; and of a control with a title, which the
 * browser itself shows only to a mouse, when the keyboard focuses it or a finger holds it.
 *
 * @typedef {{text: string, lab?: number}} Explanation  lab: the lab that teaches it
 */

import { make } from "./dom.js";
import { LABS } from "./labs.js";

const HOLD_MS = 500; // a longer touch asks what a control does, instead of pressing it
const MAX_WANDER = 10; // pixels that a finger may move while it holds

/** @type {Element | null} what the open box explains */
let current = null;
let isPinned = false; // opened by a tap, a hold or a click; it then stays until the next one
const text = make("span");
const link = make("a", { target: "_blank" });
const tip = make("div", { id: "explanation-tip", hidden: true }, text, " ", link);
tip.setAttribute("role", "tooltip");
document.body.append(tip);

document.addEventListener("keydown", ({ key }) => key === "Escape" && close());
document.addEventListener("pointerdown", ({ target }) => {
  const isOnTerm = current !== null && !titleOf(current) && target instanceof Node && current.contains(target);
  if (target instanceof Node && !tip.contains(target) && !isOnTerm) close(); // a tap on a term opens it again
});
document.addEventListener("focusout", closeUnlessInside);
tip.addEventListener("pointerleave", () => !isPinned && close());
addEventListener("scroll", place, true);
addEventListener("resize", close);
link.addEventListener("keydown", (event) => {
  if (event.key !== "Tab" || !(current instanceof HTMLElement)) return;
  current.focus(); // without preventDefault: the browser moves on from the term
  close();
  if (event.shiftKey) event.preventDefault();
});

/**
 * Let a button explain itself when it is hovered over, focused or tapped.
 * @param {HTMLButtonElement} button
 * @param {() => Explanation} getExplanation
 */
export function bindTip(button, getExplanation) {
  const show = () => open(button, getExplanation());
  button.addEventListener("pointerenter", ({ pointerType }) => pointerType === "mouse" && !isPinned && show());
  button.addEventListener("pointerleave", ({ relatedTarget }) => {
    if (!isPinned && !(relatedTarget instanceof Node && tip.contains(relatedTarget))) close();
  });
  button.addEventListener("focus", show);
  button.addEventListener("keydown", (event) => {
    if (event.key !== "Tab" || event.shiftKey || tip.hidden || link.hidden) return;
    event.preventDefault(); // the link comes next; the one after it follows the term again
    link.focus();
  });
  button.addEventListener("click", () => {
    show();
    isPinned = true;
  });
}

/** Explain the controls that have a title: when the keyboard focuses them, or when a finger holds them. */
export function bindTitles() {
  let isHeld = false;
  let [x, y] = [0, 0]; // where the finger is down
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  document.addEventListener("focusin", ({ target }) => {
    requestAnimationFrame(() => {
      // by then the browser has scrolled to it
      const titled = target instanceof Element && target.matches(":focus-visible") ? withTitle(target) : null;
      if (titled) open(titled, { text: titleOf(titled) });
    });
  });
  document.addEventListener("pointerdown", ({ target, pointerType, clientX, clientY }) => {
    clearTimeout(timer);
    [isHeld, x, y] = [false, clientX, clientY];
    const titled = target instanceof Element && pointerType !== "mouse" ? withTitle(target) : null;
    if (!titled || titled.matches("a")) return; // a held link has a menu
    timer = setTimeout(() => {
      open(titled, { text: titleOf(titled) });
      [isHeld, isPinned] = [true, true];
    }, HOLD_MS);
  });
  document.addEventListener("pointermove", ({ clientX, clientY }) => {
    if (Math.hypot(clientX - x, clientY - y) > MAX_WANDER) clearTimeout(timer);
  });
  for (const kind of ["pointerup", "pointercancel"]) document.addEventListener(kind, () => clearTimeout(timer));
  for (const kind of ["click", "contextmenu"]) {
    document.addEventListener(
      kind,
      (event) => {
        if (!isHeld) return;
        event.preventDefault(); // holding a control does not press it
        event.stopPropagation();
      },
      true,
    );
  }
}

/** Close the box if it explains something in this element, which is about to go. @param {Element} element */
export function closeTipIn(element) {
  if (current && element.contains(current)) close();
}

/** The element with a title around this one. @param {Element} element */
const withTitle = (element) => element.closest("[title]:not([title='']), :has(> title)");

/** @param {Element} element  an SVG element's title is an element of its own */
const titleOf = (element) => element.getAttribute("title") ?? element.querySelector(":scope > title")?.textContent ?? "";

/** @param {Element} anchor @param {Explanation} explanation */
function open(anchor, { text: sentence, lab }) {
  if (current !== anchor) close();
  current = anchor;
  if (!titleOf(anchor)) anchor.setAttribute("aria-describedby", tip.id); // a title describes its element already
  text.textContent = sentence;
  link.hidden = lab === undefined;
  if (lab !== undefined) {
    link.href = `page/labs.html#lab${lab}`;
    link.textContent = `Lab ${lab}: ${LABS[lab].title}`;
  }
  const layer = anchor.closest("dialog, :fullscreen") ?? document.body; // they cover everything outside them
  if (tip.parentElement !== layer) layer.append(tip);
  tip.hidden = false;
  place();
}

/** Put the box below what it explains, or above it at the bottom of the window. */
function place() {
  if (!current) return;
  const box = current.getBoundingClientRect();
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(Math.max(box.left, 8), innerWidth - width - 8);
  const below = box.bottom + height < innerHeight;
  tip.style.setProperty("left", `${Math.max(left, 8)}px`);
  tip.style.setProperty("top", `${below ? box.bottom : Math.max(box.top - height, 0)}px`);
}

function close() {
  if (current?.getAttribute("aria-describedby") === tip.id) current.removeAttribute("aria-describedby");
  [current, isPinned, tip.hidden] = [null, false, true];
}

/** @param {FocusEvent} event */
function closeUnlessInside({ relatedTarget }) {
  const isInside = relatedTarget instanceof Node && (tip.contains(relatedTarget) || current?.contains(relatedTarget));
  if (!isInside) close();
}
