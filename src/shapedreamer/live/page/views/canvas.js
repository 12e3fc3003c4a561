/**
 * Pictures on canvases. Each image pixel is a whole number of screen pixels wide, so that it is a crisp square.
 *
 * @import { Shape } from "../engine/protocol.js"
 *
 * @typedef {Shape & {pixels: Uint8Array}} Pictures   pixels: (num, H, W, C)
 * @typedef {{width: number, height: number, corners: [number, number][]}} Layout   corners: top left of each picture
 */

const GAP_GREY = 96; // between pictures in a file; BACKGROUND in src/shapedreamer/imaging/render.py

/** The layout of pictures in a square grid with gaps. @param {Shape} shape @returns {Layout} */
export function gridLayout({ num, H, W }) {
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
 * Draw pictures at one canvas pixel per image pixel; the gaps stay transparent.
 * @param {HTMLCanvasElement} canvas
 * @param {Pictures} pictures
 */
export function draw(canvas, pictures) {
  const { num, C, H, W, pixels } = pictures;
  const { width, height, corners } = gridLayout(pictures);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(W, H);
  for (let i = 0; i < num; i++) {
    toRgba(image.data, pixels.subarray(i * H * W * C, (i + 1) * H * W * C), C);
    context(canvas).putImageData(image, ...corners[i]);
  }
}

/**
 * Draw an array (C, H, W) as one picture: −high is black, high is white.
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
 * The largest whole number of screen pixels per image pixel that fits the available space, at least 1.
 * @param {{width: number, height: number}} size  in image pixels
 * @param {number} width   available width in CSS pixels
 * @param {number} height  available height in CSS pixels
 */
export function fitScale(size, width, height) {
  const ratio = globalThis.devicePixelRatio;
  return Math.max(1, Math.floor(Math.min((width * ratio) / size.width, (height * ratio) / size.height)));
}

/** Set a canvas's size on screen. @param {HTMLCanvasElement} canvas @param {number} scale  screen pixels per pixel */
export function setScale(canvas, scale) {
  canvas.style.width = `${(canvas.width * scale) / globalThis.devicePixelRatio}px`;
  canvas.style.height = `${(canvas.height * scale) / globalThis.devicePixelRatio}px`;
}

/**
 * Join pictures into one image (height, width, C), with each pixel repeated `scale` times in both directions.
 * @param {Pictures} pictures
 * @param {number} scale
 */
export function joinPictures(pictures, scale) {
  const { C, H, W, pixels } = pictures;
  const { width, height, corners } = gridLayout(pictures);
  const out = { width: width * scale, height: height * scale, pixels: new Uint8Array(width * height * scale ** 2 * C) };
  for (let p = 0; p < out.pixels.length; p++) out.pixels[p] = C === 4 && p % 4 === 3 ? 255 : GAP_GREY;
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

/** Convert pixels (…, C) to RGB, on a white background. @param {Uint8Array} pixels @param {number} C */
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
  const pen = canvas.getContext("2d");
  if (!pen) throw new Error("this browser does not support 2D canvas");
  return pen;
}
