/**
 * Drawing on the dream: pencil and eraser change its pixels, the mask says which of them to dream anew.
 *
 * @import { Frame } from "../engine/protocol.js"
 */

import { arrangement, context, draw } from "./canvas.js";
import { choose, get, make, onChoice, range, slide } from "./dom.js";

const MOST_UNDO = 20;
const OF_FIRST = " It counts for the first picture, which all others then vary.";
/** @type {Record<string, string>} */
const GREYS = { black: "#000000", "dark grey": "#404040", grey: "#808080", "light grey": "#c0c0c0", white: "#ffffff" };
/** @type {Record<string, string>} */
const COLOURS = {
  black: "#000000",
  white: "#ffffff",
  grey: "#8a8f98",
  red: "#d9483b",
  orange: "#ef8a34",
  yellow: "#f2cd4b",
  green: "#4fae53",
  teal: "#2f9c95",
  blue: "#3b78d8",
  purple: "#7a4fc0",
  pink: "#d96ba5",
  brown: "#8a5a3b",
};

/**
 * @typedef {object} Wishes
 * @property {(pixels: Uint8Array) => void} dreamOn
 * @property {(pixels: Uint8Array | null, mask: Uint8Array) => void} repaint  pixels: null where they were not changed
 * @property {() => void} changed   something was drawn
 */

export class Drawing {
  /** @param {Wishes} wishes */
  constructor(wishes) {
    this.wishes = wishes;
    this.canvas = get("canvas", HTMLCanvasElement);
    this.overlay = get("overlay", HTMLCanvasElement);
    this.repaintButton = get("repaint", HTMLButtonElement);
    /** @type {Frame | null} what is drawn on: a copy */
    this.frame = null;
    /** @type {Uint8Array} (H, W), 255 where to dream anew */
    this.mask = new Uint8Array();
    this.edited = false;
    this.isOn = false; // else it waits, if something is drawn, until one comes back to it
    this.tool = "pencil";
    this.colour = "#000000";
    this.cursor = { x: 0, y: 0 };
    /** @type {{pixels: Uint8Array, mask: Uint8Array, edited: boolean}[]} */
    this.undo = [];
    this.bind();
  }

  bind() {
    const { dreamOn, repaint } = this.wishes;
    onChoice("tool", (tool) => {
      this.tool = tool;
      this.show();
    });
    range("brush").addEventListener("input", () => this.showBrush());
    get("undo", HTMLButtonElement).addEventListener("click", () => this.back());
    get("clear", HTMLButtonElement).addEventListener("click", () => this.clear());
    get("dream-on", HTMLButtonElement).addEventListener("click", () => {
      if (!this.frame) return;
      this.edited = false;
      dreamOn(this.frame.pixels);
    });
    this.repaintButton.addEventListener("click", () => {
      if (!this.frame || !this.mask.includes(255)) return;
      const changed = this.edited ? this.frame.pixels.slice() : null;
      this.edited = false;
      repaint(changed, this.mask);
    });
    this.overlay.addEventListener("pointerdown", (event) => {
      this.overlay.setPointerCapture(event.pointerId);
      this.remember();
      this.cursor = this.under(event);
      this.dab(this.cursor);
    });
    this.overlay.addEventListener("pointermove", (event) => {
      const there = this.under(event);
      if (this.overlay.hasPointerCapture(event.pointerId)) this.stroke(this.cursor, there);
      this.cursor = there;
      this.show();
    });
    this.overlay.addEventListener("keydown", (event) => this.press(event));
    for (const happening of ["focus", "blur"]) this.overlay.addEventListener(happening, () => this.show());
  }

  /**
   * Draw on this from now on, unless it is only the next of a dream on which something is drawn.
   * @param {Frame} frame
   */
  take(frame) {
    this.isOn = true;
    if (this.edited && frame.frame > 0) return;
    this.edited = false;
    const sameSize = this.isLike(frame);
    this.frame = { ...frame, pixels: frame.pixels.slice() };
    this.mask = new Uint8Array(frame.H * frame.W);
    this.undo = [];
    if (!sameSize) {
      this.offerColours(frame.C);
      this.cursor = { x: Math.floor(frame.W / 2), y: Math.floor(frame.H / 2) };
    }
    this.show();
  }

  /** @param {Frame} frame */
  isLike({ num, C, H, W }) {
    const { frame } = this;
    return frame?.num === num && frame.C === C && frame.H === H && frame.W === W;
  }

  leave() {
    this.isOn = false;
    this.overlay.hidden = true;
  }

  /** Go on with what was drawn, if something was and the dream still has pictures of that size. @param {Frame} shown */
  resume(shown) {
    this.isOn = this.edited && this.isLike(shown);
    this.show();
    return this.isOn;
  }

  /** @param {number} C */
  offerColours(C) {
    this.colour = C === 1 ? GREYS.white : COLOURS.black;
    const made = Object.entries(C === 1 ? GREYS : COLOURS).map(([name, colour]) => this.swatch("radio", name, colour));
    if (C > 1) made.push(this.swatch("color", "a colour of your own", "#e9b44c"));
    get("colours", HTMLDivElement).replaceChildren(...made);
  }

  /** @param {"radio" | "color"} type @param {string} name @param {string} colour */
  swatch(type, name, colour) {
    const input = make("input", { type, name: "colour", value: colour });
    input.checked = type === "radio" && colour === this.colour;
    input.setAttribute("aria-label", name);
    const patch = make("span", { title: name }, type === "radio" ? "" : "+");
    patch.style.setProperty("--colour", colour);
    input.addEventListener("input", () => {
      this.colour = input.value;
      patch.style.setProperty("--colour", input.value);
      this.tool = "pencil";
      choose("tool", this.tool);
      this.show();
    });
    return make("label", {}, input, patch);
  }

  // strokes

  /** @param {PointerEvent} event */
  under({ clientX, clientY }) {
    const { left, top, width, height } = this.overlay.getBoundingClientRect();
    const x = Math.floor(((clientX - left) / width) * this.canvas.width);
    const y = Math.floor(((clientY - top) / height) * this.canvas.height);
    return { x, y };
  }

  /** @param {{x: number, y: number}} from @param {{x: number, y: number}} to */
  stroke(from, to) {
    const steps = Math.max(Math.abs(to.x - from.x), Math.abs(to.y - from.y));
    for (let i = 1; i <= steps; i++) {
      this.dab({
        x: Math.round(from.x + ((to.x - from.x) * i) / steps),
        y: Math.round(from.y + ((to.y - from.y) * i) / steps),
      });
    }
  }

  /** A disc as wide as the brush. @param {{x: number, y: number}} at */
  dab({ x, y }) {
    const size = Number(range("brush").value);
    const low = Math.floor((size - 1) / 2);
    for (let dy = -low; dy < size - low; dy++) {
      for (let dx = -low; dx < size - low; dx++) {
        const [fromX, fromY] = [dx + low - (size - 1) / 2, dy + low - (size - 1) / 2];
        if (fromX ** 2 + fromY ** 2 <= (size / 2) ** 2) this.touch(x + dx, y + dy);
      }
    }
    this.show();
  }

  /** @param {number} x @param {number} y */
  touch(x, y) {
    if (!this.frame) return;
    const { C, H, W, pixels } = this.frame;
    const i = arrangement(this.frame).corners.findIndex(
      ([left, top]) => x >= left && x < left + W && y >= top && y < top + H,
    );
    if (i < 0) return;
    const [left, top] = arrangement(this.frame).corners[i];
    const at = (y - top) * W + x - left;
    if (this.tool === "mask") {
      if (i === 0) this.mask[at] = 255;
      return;
    }
    const colour = this.tool === "eraser" ? this.ground(i) : inChannels(this.colour, C);
    pixels.set(colour, (i * H * W + at) * C);
    this.edit();
  }

  /** The commonest colour at the border of a picture. @param {number} i */
  ground(i) {
    if (!this.frame) return [];
    const { C, H, W, pixels } = this.frame;
    /** @type {Map<string, number>} */
    const counts = new Map();
    for (let p = 0; p < H * W; p++) {
      const [x, y] = [p % W, Math.floor(p / W)];
      if (x > 0 && x < W - 1 && y > 0 && y < H - 1) continue;
      const colour = pixels.subarray((i * H * W + p) * C, (i * H * W + p + 1) * C).join();
      counts.set(colour, (counts.get(colour) ?? 0) + 1);
    }
    const [commonest] = [...counts].reduce((best, one) => (one[1] > best[1] ? one : best));
    return commonest.split(",").map(Number);
  }

  edit() {
    this.edited = true;
    this.wishes.changed();
  }

  remember() {
    if (!this.frame) return;
    this.undo.push({ pixels: this.frame.pixels.slice(), mask: this.mask.slice(), edited: this.edited });
    if (this.undo.length > MOST_UNDO) this.undo.shift();
  }

  back() {
    const before = this.undo.pop();
    if (!before || !this.frame) return;
    this.frame.pixels = before.pixels;
    this.mask = before.mask;
    this.edited = before.edited;
    this.wishes.changed();
    this.show();
  }

  clear() {
    if (!this.frame) return;
    this.remember();
    if (this.tool === "mask") this.mask.fill(0);
    else {
      const { num, C, H, W, pixels } = this.frame;
      for (let i = 0; i < num; i++) {
        const colour = this.ground(i);
        for (let p = i * H * W; p < (i + 1) * H * W; p++) pixels.set(colour, p * C);
      }
      this.edit();
    }
    this.show();
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    if ((event.ctrlKey || event.metaKey) && event.key === "z") {
      event.preventDefault();
      this.back();
      return;
    }
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[/** @type {keyof typeof moves} */ (event.key)];
    if (!move && event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    if (!event.repeat) this.remember();
    if (move) {
      this.cursor.x = Math.min(Math.max(this.cursor.x + move[0], 0), this.canvas.width - 1);
      this.cursor.y = Math.min(Math.max(this.cursor.y + move[1], 0), this.canvas.height - 1);
    }
    if (!move || event.shiftKey) this.dab(this.cursor);
    this.show();
  }

  // what is seen

  showBrush() {
    const size = Number(range("brush").value);
    slide(range("brush"), size);
    get("brush-text", HTMLOutputElement).value = `${size} px`;
  }

  show() {
    if (!this.frame || !this.isOn) return;
    draw(this.canvas, this.frame);
    this.showBrush();
    const { overlay, canvas, frame, cursor } = this;
    overlay.hidden = false;
    const dot = 8; // pixels of the overlay a pixel, for lines finer than that
    if (overlay.width !== canvas.width * dot)
      [overlay.width, overlay.height] = [canvas.width * dot, canvas.height * dot];
    const pen = context(overlay);
    pen.clearRect(0, 0, overlay.width, overlay.height);
    this.mask.forEach((value, p) => {
      if (value) hatch(pen, (p % frame.W) * dot, Math.floor(p / frame.W) * dot, dot);
    });
    if (document.activeElement === overlay) {
      for (const [colour, inset] of /** @type {[string, number][]} */ ([
        ["#000", 0.5],
        ["#fff", 1.5],
      ])) {
        pen.strokeStyle = colour;
        pen.strokeRect(cursor.x * dot + inset, cursor.y * dot + inset, dot - 2 * inset, dot - 2 * inset);
      }
      overlay.setAttribute(
        "aria-label",
        `Drawing: column ${cursor.x + 1}, row ${cursor.y + 1}. Arrows move, space paints`,
      );
    }
    const masking = this.tool === "mask";
    this.repaintButton.hidden = !masking;
    this.repaintButton.disabled = !this.mask.includes(255);
    get("dream-on", HTMLButtonElement).hidden = masking;
    get("colours", HTMLDivElement).hidden = masking;
    get("undo", HTMLButtonElement).disabled = this.undo.length === 0;
    get("drawing-hint", HTMLParagraphElement).textContent = masking
      ? `Paint over what the network shall dream anew, to go with the rest.${frame.num > 1 ? OF_FIRST : ""}`
      : "Paint, and let the network make something of it.";
  }
}

/**
 * Stripes, which are seen on every colour.
 * @param {CanvasRenderingContext2D} pen
 * @param {number} left
 * @param {number} top
 * @param {number} size
 */
function hatch(pen, left, top, size) {
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      pen.fillStyle = (x + y) % size < size / 2 ? "rgb(255 255 255 / 75%)" : "rgb(0 0 0 / 65%)";
      pen.fillRect(left + x, top + y, 1, 1);
    }
  }
}

/** A colour #rrggbb as the channels of a picture. @param {string} colour @param {number} C */
function inChannels(colour, C) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  if (C === 1) return [red];
  return C === 4 ? [red, green, blue, 255] : [red, green, blue];
}
