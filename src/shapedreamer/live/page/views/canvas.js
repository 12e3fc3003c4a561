/**
 * Pictures on canvases: one screen pixel a pixel, or a whole number of them, so that every pixel is a crisp square.
 *
 * @import { Shape } from "../engine/protocol.js"
 *
 * @typedef {Shape & {pixels: Uint8Array}} Pictures   pixels: (num, H, W, C)
 * @typedef {{width: number, height: number, corners: [number, number][]}} Arrangement   where each picture begins
 */

export const BETWEEN = 96; // the grey between pictures in a file, as in render.py

/** Pictures in a square, with a gap between them. @param {Shape} shape @returns {Arrangement} */
export function arrangement({ num, H, W }) {
  const columns = Math.ceil(Math.sqrt(num));
  const rows = Math.ceil(num / columns);
  const gap = Math.max(1, Math.round(W / 16));
  /** @type {[number, number][]} */
  const corners = Array.from({ length: num }, (_, i) => [
    (i % columns) * (W + gap),
    Math.floor(i / columns) * (H + gap),
  ]);
  return { width: columns * (W + gap) - gap, height: rows * (H + gap) - gap, corners };
}

/**
 * Draw pictures on a canvas of just their size; the gaps stay clear.
 * @param {HTMLCanvasElement} canvas
 * @param {Pictures} pictures
 */
export function draw(canvas, pictures) {
  const { num, C, H, W, pixels } = pictures;
  const { width, height, corners } = arrangement(pictures);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(W, H);
  for (let i = 0; i < num; i++) {
    toRgba(image.data, pixels.subarray(i * H * W * C, (i + 1) * H * W * C), C);
    context(canvas).putImageData(image, ...corners[i]);
  }
}

/**
 * Draw one picture of numbers (C, H, W), `low` as 0 and `high` as 255.
 * @param {HTMLCanvasElement} canvas
 * @param {Float32Array} values
 * @param {Shape} shape
 * @param {number} high
 * @param {[number, number]} corner
 */
export function drawNumbers(canvas, values, { C, H, W }, high = 1, corner = [0, 0]) {
  const pixels = new Uint8ClampedArray(values.length);
  for (let c = 0; c < C; c++) {
    for (let p = 0; p < H * W; p++) pixels[p * C + c] = 127.5 * (1 + values[c * H * W + p] / high);
  }
  const image = new ImageData(W, H);
  toRgba(image.data, pixels, C);
  context(canvas).putImageData(image, ...corner);
}

/**
 * How many screen pixels a pixel is wide: as many as fit into the room, at least one.
 * @param {{width: number, height: number}} size  in pixels
 * @param {number} width   of the room, in CSS pixels
 * @param {number} height  likewise
 */
export function fitting(size, width, height) {
  const ratio = globalThis.devicePixelRatio;
  return Math.max(1, Math.floor(Math.min((width * ratio) / size.width, (height * ratio) / size.height)));
}

/** @param {HTMLCanvasElement} canvas @param {number} scale  screen pixels a pixel */
export function enlarge(canvas, scale) {
  canvas.style.width = `${(canvas.width * scale) / globalThis.devicePixelRatio}px`;
  canvas.style.height = `${(canvas.height * scale) / globalThis.devicePixelRatio}px`;
}

/**
 * Pictures as the pixels of one, (height, width, C), each drawn `scale` wide and high.
 * @param {Pictures} pictures
 * @param {number} scale
 */
export function assembled(pictures, scale) {
  const { C, H, W, pixels } = pictures;
  const { width, height, corners } = arrangement(pictures);
  const out = { width: width * scale, height: height * scale, pixels: new Uint8Array(width * height * scale ** 2 * C) };
  for (let p = 0; p < out.pixels.length; p++) out.pixels[p] = C === 4 && p % 4 === 3 ? 255 : BETWEEN;
  corners.forEach(([left, top], i) => {
    for (let y = 0; y < H * scale; y++) {
      for (let x = 0; x < W * scale; x++) {
        const from = ((i * H + Math.floor(y / scale)) * W + Math.floor(x / scale)) * C;
        out.pixels.set(pixels.subarray(from, from + C), ((top * scale + y) * out.width + left * scale + x) * C);
      }
    }
  });
  return out;
}

/** Pixels (…, C) as (…, 3), laid on white. @param {Uint8Array} pixels @param {number} C */
export function toRgb(pixels, C) {
  const rgb = new Uint8Array((pixels.length / C) * 3);
  for (let p = 0; p < pixels.length / C; p++) {
    for (let c = 0; c < 3; c++) {
      const value = pixels[p * C + (C === 1 ? 0 : c)];
      rgb[3 * p + c] = C === 4 ? 255 + ((value - 255) * pixels[4 * p + 3]) / 255 : value;
    }
  }
  return rgb;
}

/** @param {Uint8ClampedArray} rgba @param {Uint8Array | Uint8ClampedArray} pixels @param {number} C */
function toRgba(rgba, pixels, C) {
  for (let p = 0; p < rgba.length / 4; p++) {
    for (let c = 0; c < 3; c++) rgba[4 * p + c] = pixels[p * C + (C === 1 ? 0 : c)];
    rgba[4 * p + 3] = C === 4 ? pixels[p * C + 3] : 255;
  }
}

/** @param {HTMLCanvasElement} canvas */
export function context(canvas) {
  const found = canvas.getContext("2d");
  if (!found) throw new Error("this browser draws no canvas");
  return found;
}
