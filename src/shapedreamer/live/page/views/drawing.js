/**
 * Drawing on a frame. Pencil and eraser change its pixels; the mask selects the pixels to repaint.
 *
 * @import { Frame } from "../engine/protocol.js"
 */

import { context, draw, gridLayout } from "./canvas.js";
import { choose, get, make, onChoice, range, slide } from "./dom.js";

const MAX_UNDO = 20;
const FIRST_ONLY = " Each picture becomes a repaint of the first one.";
/** @type {Record<string, string>} */
const BLACK_AND_WHITE = { black: "#000000", white: "#ffffff" };
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
 * @typedef {object} Callbacks
 * @property {(pixels: Uint8Array) => void} onContinue
 * @property {(pixels: Uint8Array | null, mask: Uint8Array) => void} onRepaint  pixels: null if they are unchanged
 * @property {() => void} onEdit
 */

export class Drawing {
  /** @param {Callbacks} callbacks */
  constructor(callbacks) {
    this.callbacks = callbacks;
    this.canvas = get("canvas", HTMLCanvasElement);
    this.overlay = get("overlay", HTMLCanvasElement);
    this.repaintButton = get("repaint", HTMLButtonElement);
    /** @type {Frame | null} the drawing: an edited copy of a frame */
    this.frame = null;
    /** @type {Uint8Array} (H, W), 255 where to repaint */
    this.mask = new Uint8Array();
    this.edited = false;
    this.isOpen = false; // an edited drawing is kept while another view is open
    this.isBinary = false; // whether the model's pictures are black and white, without grey
    this.tool = "pencil";
    this.colour = "#000000";
    this.cursor = { x: 0, y: 0 };
    /** @type {{pixels: Uint8Array, mask: Uint8Array, edited: boolean}[]} */
    this.history = []; // for undo
    this.bind();
  }

  bind() {
    const { onContinue, onRepaint } = this.callbacks;
    onChoice("tool", (tool) => {
      this.tool = tool;
      this.show();
    });
    range("brush").addEventListener("input", () => this.showBrush());
    get("undo", HTMLButtonElement).addEventListener("click", () => this.undo());
    get("clear", HTMLButtonElement).addEventListener("click", () => this.clear());
    get("dream-on", HTMLButtonElement).addEventListener("click", () => {
      if (!this.frame) return;
      this.edited = false;
      onContinue(this.frame.pixels);
    });
    this.repaintButton.addEventListener("click", () => {
      if (!this.frame || !this.mask.includes(255)) return;
      const changed = this.edited ? this.frame.pixels.slice() : null;
      this.edited = false;
      onRepaint(changed, this.mask);
    });
    this.overlay.addEventListener("pointerdown", (event) => {
      this.overlay.setPointerCapture(event.pointerId);
      this.saveUndo();
      this.cursor = this.pixelAt(event);
      this.dab(this.cursor);
    });
    this.overlay.addEventListener("pointermove", (event) => {
      const to = this.pixelAt(event);
      if (this.overlay.hasPointerCapture(event.pointerId)) this.stroke(this.cursor, to);
      this.cursor = to;
      this.show();
    });
    this.overlay.addEventListener("keydown", (event) => this.handleKey(event));
    for (const type of ["focus", "blur"]) this.overlay.addEventListener(type, () => this.show());
  }

  /**
   * Start a drawing on this frame. A later frame of the same dream does not replace an edited drawing.
   * @param {Frame} frame
   */
  load(frame) {
    this.isOpen = true;
    if (this.edited && frame.frame > 0) return;
    this.edited = false;
    const sameShape = this.hasShape(frame);
    this.frame = { ...frame, pixels: frame.pixels.slice() };
    this.mask = new Uint8Array(frame.H * frame.W);
    this.history = [];
    if (!sameShape) {
      this.offerColours(frame.C);
      this.cursor = { x: Math.floor(frame.W / 2), y: Math.floor(frame.H / 2) };
    }
    this.show();
  }

  /** @param {Frame} frame */
  hasShape({ num, C, H, W }) {
    const { frame } = this;
    return frame?.num === num && frame.C === C && frame.H === H && frame.W === W;
  }

  close() {
    this.isOpen = false;
    this.overlay.hidden = true;
  }

  /**
   * Reopen an edited drawing, if the frame shown still has its shape. Returns whether it did.
   * @param {Frame} shown
   */
  resume(shown) {
    this.isOpen = this.edited && this.hasShape(shown);
    this.show();
    return this.isOpen;
  }

  /** @param {boolean} isBinary */
  setBinary(isBinary) {
    if (isBinary === this.isBinary) return;
    this.isBinary = isBinary;
    if (this.frame) this.offerColours(this.frame.C);
  }

  /** @param {number} C */
  offerColours(C) {
    this.colour = C === 1 ? GREYS.white : COLOURS.black;
    const palette = Object.entries(C > 1 ? COLOURS : this.isBinary ? BLACK_AND_WHITE : GREYS);
    const swatches = palette.map(([name, colour]) => this.swatch("radio", name, colour));
    if (C > 1) swatches.push(this.swatch("color", "custom colour", "#e9b44c"));
    get("colours", HTMLDivElement).replaceChildren(...swatches);
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

  /** The canvas pixel under the pointer. @param {PointerEvent} event */
  pixelAt({ clientX, clientY }) {
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

  /** Paint a disc with the brush's diameter. @param {{x: number, y: number}} at */
  dab({ x, y }) {
    const size = Number(range("brush").value);
    const low = Math.floor((size - 1) / 2);
    for (let dy = -low; dy < size - low; dy++) {
      for (let dx = -low; dx < size - low; dx++) {
        const [fromX, fromY] = [dx + low - (size - 1) / 2, dy + low - (size - 1) / 2];
        if (fromX ** 2 + fromY ** 2 <= (size / 2) ** 2) this.paintPixel(x + dx, y + dy);
      }
    }
    this.show();
  }

  /** @param {number} x @param {number} y */
  paintPixel(x, y) {
    if (!this.frame) return;
    const { C, H, W, pixels } = this.frame;
    const i = gridLayout(this.frame).corners.findIndex(
      ([left, top]) => x >= left && x < left + W && y >= top && y < top + H,
    );
    if (i < 0) return;
    const [left, top] = gridLayout(this.frame).corners[i];
    const at = (y - top) * W + x - left;
    if (this.tool === "mask") {
      if (i === 0) this.mask[at] = 255;
      return;
    }
    const colour = this.tool === "eraser" ? this.background(i) : toChannels(this.colour, C);
    pixels.set(colour, (i * H * W + at) * C);
    this.markEdited();
  }

  /** The most frequent colour on the border of picture i. @param {number} i */
  background(i) {
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
    const [colour] = [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best));
    return colour.split(",").map(Number);
  }

  markEdited() {
    this.edited = true;
    this.callbacks.onEdit();
  }

  saveUndo() {
    if (!this.frame) return;
    this.history.push({ pixels: this.frame.pixels.slice(), mask: this.mask.slice(), edited: this.edited });
    if (this.history.length > MAX_UNDO) this.history.shift();
  }

  undo() {
    const before = this.history.pop();
    if (!before || !this.frame) return;
    this.frame.pixels = before.pixels;
    this.mask = before.mask;
    this.edited = before.edited;
    this.callbacks.onEdit();
    this.show();
  }

  clear() {
    if (!this.frame) return;
    this.saveUndo();
    if (this.tool === "mask") this.mask.fill(0);
    else {
      const { num, C, H, W, pixels } = this.frame;
      for (let i = 0; i < num; i++) {
        const colour = this.background(i);
        for (let p = i * H * W; p < (i + 1) * H * W; p++) pixels.set(colour, p * C);
      }
      this.markEdited();
    }
    this.show();
  }

  /** @param {KeyboardEvent} event */
  handleKey(event) {
    if ((event.ctrlKey || event.metaKey) && event.key === "z") {
      event.preventDefault();
      this.undo();
      return;
    }
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[/** @type {keyof typeof moves} */ (event.key)];
    if (!move && event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    if (!event.repeat) this.saveUndo();
    if (move) {
      this.cursor.x = Math.min(Math.max(this.cursor.x + move[0], 0), this.canvas.width - 1);
      this.cursor.y = Math.min(Math.max(this.cursor.y + move[1], 0), this.canvas.height - 1);
    }
    if (!move || event.shiftKey) this.dab(this.cursor);
    this.show();
  }

  // display

  showBrush() {
    const size = Number(range("brush").value);
    slide(range("brush"), size);
    get("brush-text", HTMLOutputElement).value = `${size} px`;
  }

  show() {
    if (!this.frame || !this.isOpen) return;
    draw(this.canvas, this.frame);
    this.showBrush();
    const { overlay, canvas, frame, cursor } = this;
    overlay.hidden = false;
    const dot = 8; // overlay pixels per image pixel, for the hatching and the cursor
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
        `Drawing: column ${cursor.x + 1}, row ${cursor.y + 1}. Arrow keys move the cursor, space paints`,
      );
    }
    const masking = this.tool === "mask";
    this.repaintButton.hidden = !masking;
    this.repaintButton.disabled = !this.mask.includes(255);
    get("dream-on", HTMLButtonElement).hidden = masking;
    get("colours", HTMLDivElement).hidden = masking;
    get("undo", HTMLButtonElement).disabled = this.history.length === 0;
    get("drawing-hint", HTMLParagraphElement).textContent = masking
      ? `Paint over the area to repaint. The network fills it to match the rest.${frame.num > 1 ? FIRST_ONLY : ""}`
      : "Draw something, then let the network turn it into new pictures.";
  }
}

/**
 * Black and white stripes, visible on any colour.
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

/** Convert #rrggbb to the C channels of a picture. @param {string} colour @param {number} C */
function toChannels(colour, C) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  if (C === 1) return [red];
  return C === 4 ? [red, green, blue, 255] : [red, green, blue];
}
