/**
 * The picture as a PNG, and the last seconds as an animated GIF.
 *
 * @import { Frame } from "../engine/protocol.js"
 * @import { Ring } from "./ring.js"
 */

import { assembled, toRgb } from "../views/canvas.js";
import { make } from "../views/dom.js";
import { GifWriter } from "./gif.js";
import { encodePng } from "./png.js";

const PNG_WIDTH = 1024; // pixels that a picture is enlarged to, about
const GIF_WIDTH = 384; // noise does not compress

/** Enlarged by a whole number. @param {Frame} frame */
export async function toPng(frame) {
  const { width } = assembled(frame, 1);
  const { pixels, ...size } = assembled(frame, Math.max(1, Math.round(PNG_WIDTH / width)));
  return png(pixels, size.width, size.height, frame.C);
}

/** Just as it is, pictures one below the other: what code begins with. @param {Frame} frame */
export function toStart({ pixels, num, C, H, W }) {
  return png(pixels, W, num * H, C);
}

/**
 * @param {Ring} ring
 * @param {(share: number) => void} progress  told how much of it is done
 */
export async function toGif(ring, progress) {
  const timed = ring.timed();
  const { width, height } = assembled(timed[0].frame, 1);
  const gif = new GifWriter(width, height, Math.max(1, Math.round(GIF_WIDTH / width)));
  for (const [i, { frame, hundredths }] of timed.entries()) {
    gif.add(toRgb(assembled(frame, 1).pixels, frame.C), hundredths);
    progress((i + 1) / timed.length);
    await new Promise((resolve) => setTimeout(resolve)); // let the page live meanwhile
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
