/**
 * Images as bytes 0…255 in the order (N, H, W, C), and the engine's binary frames, which protocol.js parses.
 *
 * @import { Floats } from "./noise.js"
 * @import { ModelInfo } from "./protocol.js"
 * @import { Step } from "./samplers.js"
 *
 * @typedef {Pick<ModelInfo, "channels" | "height" | "width">} Size
 */

import { roundToEven } from "./schedule.js";

const HEADER = 28;
const { fround } = Math; // rounds after each operation, as Python does in float32

/** Clip images to [−1, 1] and convert them to bytes. @param {Floats} x @param {Size} size */
export function toPixels(x, size) {
  const pixels = new Uint8Array(x.length);
  for (const [from, to] of indexPairs(x.length, size)) {
    pixels[to] = roundToEven(fround(fround(Math.min(Math.max(x[from], -1), 1) + 1) * 127.5));
  }
  return pixels;
}

/** Convert bytes to images in [−1, 1]. @param {Uint8Array} pixels @param {Size} size */
export function toImages(pixels, size) {
  const x = new Float32Array(pixels.length);
  for (const [to, from] of indexPairs(pixels.length, size)) x[to] = fround(pixels[from] / 127.5) - 1;
  return x;
}

/**
 * For every value, its index in (N, C, H, W) and its index in (N, H, W, C).
 *
 * @param {number} length
 * @param {Size} size
 * @returns {Generator<[number, number], void, void>}
 */
function* indexPairs(length, { channels, height, width }) {
  const area = height * width;
  for (let i = 0; i < length; i++) {
    const image = i - (i % (channels * area));
    const [channel, pixel] = [Math.floor((i - image) / area), i % area];
    yield [i, image + pixel * channels + channel];
  }
}

/**
 * @param {{id: number, k: number, pure: boolean, num: number, x: Float32Array, calls: number, ms: number}} frame
 * @param {Size} size
 */
export function packFrame({ id, k, pure, num, x, calls, ms }, size) {
  const view = header(1, pure ? 1 : 0, id, k, num, size, calls, ms, x.length);
  new Uint8Array(view.buffer, HEADER).set(toPixels(x, size));
  return view.buffer;
}

/**
 * @param {{id: number, steps: Step[], calls: number, ms: number}} trace
 * @param {Size} size
 */
export function packTrace({ id, steps, calls, ms }, size) {
  const values = size.channels * size.height * size.width;
  const length = 8 + 3 * 4 * values;
  const view = header(2, 0, id, steps.length, 1, size, calls, ms, steps.length * length);
  for (const [i, { t, s, x, x0, next }] of steps.entries()) {
    const at = HEADER + i * length;
    view.setInt32(at, t, true);
    view.setInt32(at + 4, s, true);
    for (const [place, image] of [x, x0, next].entries()) {
      const from = at + 8 + place * 4 * values;
      image.forEach((value, j) => view.setFloat32(from + 4 * j, value, true));
    }
  }
  return view.buffer;
}

/**
 * A buffer with a filled-in header and room for `length` bytes after it.
 *
 * @param {number} kind
 * @param {number} flags
 * @param {number} id
 * @param {number} frame
 * @param {number} num
 * @param {Size} size
 * @param {number} calls
 * @param {number} ms
 * @param {number} length
 */
function header(kind, flags, id, frame, num, { channels, height, width }, calls, ms, length) {
  const view = new DataView(new ArrayBuffer(HEADER + length));
  [0x53, 0x44, kind, flags].forEach((value, at) => view.setUint8(at, value)); // "SD"
  view.setUint32(4, id, true);
  view.setUint32(8, frame, true);
  [num, channels, height, width, calls].forEach((value, i) => view.setUint16(12 + 2 * i, value, true));
  view.setFloat32(24, ms, true);
  return view;
}
