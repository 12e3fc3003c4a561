/**
 * The icon of the browser's tab: the picture on the page, once a second.
 *
 * @import { Frame } from "../engine/protocol.js"
 */

import { draw } from "./canvas.js";

const INTERVAL = 1000; // milliseconds between two icons: each is a new PNG for the browser to decode
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Favicon {
  constructor() {
    this.canvas = document.createElement("canvas");
    this.shownAt = -Infinity;
    const link = document.querySelector('link[rel="icon"]');
    if (!(link instanceof HTMLLinkElement)) throw new Error("the page has no icon");
    this.link = link;
  }

  /** Show the first picture of a frame, unless one was shown just now, or the viewer prefers less motion. @param {Frame} frame */
  show(frame) {
    if (still.matches || document.hidden || performance.now() - this.shownAt < INTERVAL) return;
    this.shownAt = performance.now();
    draw(this.canvas, { ...frame, num: 1, pixels: frame.pixels.subarray(0, frame.C * frame.H * frame.W) });
    this.link.type = "image/png";
    this.link.href = this.canvas.toDataURL();
  }
}
