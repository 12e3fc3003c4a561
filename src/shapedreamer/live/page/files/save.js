/**
 * Save the picture as a PNG, and the last seconds as an animated GIF.
 *
 * @import { Frame } from "../engine/protocol.js"
 * @import { Ring } from "./ring.js"
 */

import { joinPictures, toRgb } from "../views/canvas.js";
import { make } from "../views/dom.js";
import { GifWriter } from "./gif.js";
import { encodePng } from "./png.js";

const PNG_WIDTH = 1024; // approximate width of the enlarged picture
const GIF_WIDTH = 384; // smaller, because noise compresses badly

/** A PNG enlarged by a whole factor. @param {Frame} frame */
export async function toPng(frame) {
  const { width } = joinPictures(frame, 1);
  const { pixels, ...size } = joinPictures(frame, Math.max(1, Math.round(PNG_WIDTH / width)));
  return png(pixels, size.width, size.height, frame.C);
}

/** A PNG for the shared code to start from: original size, pictures stacked vertically. @param {Frame} frame */
export function toStartPng({ pixels, num, C, H, W }) {
  return png(pixels, W, num * H, C);
}

/**
 * @param {Ring} ring
 * @param {(fraction: number) => void} progress  called with the finished fraction
 */
export async function toGif(ring, progress) {
  const frames = ring.withDurations();
  const { width, height } = joinPictures(frames[0].frame, 1);
  const gif = new GifWriter(width, height, Math.max(1, Math.round(GIF_WIDTH / width)));
  for (const [i, { frame, hundredths }] of frames.entries()) {
    gif.add(toRgb(joinPictures(frame, 1).pixels, frame.C), hundredths);
    progress((i + 1) / frames.length);
    await new Promise((resolve) => setTimeout(resolve)); // keep the page responsive
  }
  return gif.finish();
}

/** @param {Blob} blob @param {string} name */
export function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** @param {Uint8Array} pixels @param {number} width @param {number} height @param {number} channels */
async function png(pixels, width, height, channels) {
  const bytes = await encodePng(pixels, width, height, channels);
  return new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (bytes)], { type: "image/png" });
}
