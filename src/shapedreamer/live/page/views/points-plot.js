/**
 * One plot of points.html: samples on their way from noise to data, over the density, the score, and the data.
 *
 * With the flow schedule the plot shows z = x_t/(√ᾱ + √(1−ᾱ)) = (1−τ) x₀ + τ ε, in which flow matching's paths are
 * straight; else x_t itself.
 *
 * @import { Mixture } from "../engine/points-exact.js"
 * @import { Path } from "../engine/points-sampling.js"
 */

import { RANGE } from "../engine/points-data.js";
import { density, scoreOf } from "../engine/points-exact.js";

const HUES = 24; // colours of the samples
const PATH_EVERY = 3; // samples with a visible path
const GRID = 72; // cells of the density, along each side
const ARROWS = 17;
const CLOUD = [104, 122, 214]; // colour of the density

/**
 * @typedef {object} Scene
 * @property {number} t
 * @property {number} alphaBar     ᾱ_t
 * @property {(t: number) => number} zoom   from x_t to the plot's coordinates
 * @property {Mixture} mixture
 * @property {string[]} layers
 * @property {OffscreenCanvas | null} cloud   from drawCloud, if the density is visible
 * @property {Path | null} path
 * @property {(x: Float64Array) => Float64Array} denoise  at timestep t
 * @property {{x: number, y: number, weights: Float64Array | null} | null} probe
 *   a place in the plot's coordinates; weights: of the data points there
 * @property {boolean} isDrawing   whether the probe is a brush
 */

/** @typedef {{ground: string, text: string, accent: string, isDark: boolean}} Palette */

/** @param {HTMLCanvasElement} canvas @param {Scene} scene */
export function drawPlot(canvas, scene) {
  const side = fitCanvas(canvas);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const palette = paletteOf(canvas);
  context.clearRect(0, 0, side, side);
  /** @type {Place} */
  const place = (x, y) => [(0.5 + x / (2 * RANGE)) * side, (0.5 - y / (2 * RANGE)) * side];
  const tools = { context, palette, place, side, unit: side / 440 };
  if (scene.cloud) {
    context.globalAlpha = palette.isDark ? 0.6 : 0.45;
    context.imageSmoothingQuality = "high";
    context.drawImage(scene.cloud, 0, 0, side, side);
    context.globalAlpha = 1;
  }
  if (scene.layers.includes("data") || scene.isDrawing) drawData(tools, scene);
  if (scene.layers.includes("score") && scene.t > 0) drawScore(tools, scene);
  if (scene.path && scene.layers.includes("paths")) drawPaths(tools, scene, scene.path);
  if (scene.path && !scene.isDrawing) drawSamples(tools, scene, scene.path);
  if (scene.mixture.points.length === 0) {
    context.fillStyle = palette.text;
    context.font = `${16 * devicePixelRatio}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.fillText("Draw here", side / 2, side / 2);
  }
  if (scene.probe) drawProbe(tools, scene, scene.probe);
}

/** @typedef {(x: number, y: number) => [number, number]} Place  plot coordinates to canvas pixels */
/** @typedef {{context: CanvasRenderingContext2D, palette: Palette, place: Place, side: number, unit: number}} Tools */

/** Give the canvas a pixel for each pixel of the screen. @param {HTMLCanvasElement} canvas */
function fitCanvas(canvas) {
  const side = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  if (canvas.width !== side || canvas.height !== side) [canvas.width, canvas.height] = [side, side];
  return side;
}

/** The theme's colours: style.css gives them to the canvas. @param {Element} element @returns {Palette} */
export function paletteOf(element) {
  const { color, backgroundColor, caretColor } = getComputedStyle(element);
  const [red = 0, green = 0, blue = 0] = (backgroundColor.match(/[\d.]+/g) ?? []).map(Number);
  return { ground: backgroundColor, text: color, accent: caretColor, isDark: red + green + blue < 382 };
}

/** @param {number} turn  0…1 @param {Palette} palette @param {number} [alpha] */
function hueOf(turn, { isDark }, alpha = 1) {
  return `oklch(${isDark ? 0.8 : 0.6} ${isDark ? 0.14 : 0.17} ${360 * turn} / ${alpha})`;
}

/**
 * The density of x_t as a small picture whose opacity grows with the density, for `drawPlot` to tint and enlarge.
 *
 * @param {Mixture} mixture
 * @param {number} alphaBar
 * @param {number} zoom      from x_t to the plot's coordinates
 */
export function drawCloud(mixture, alphaBar, zoom) {
  const range = RANGE / zoom;
  const values = density(mixture, alphaBar, GRID, range, range / GRID);
  const max = values.reduce((a, b) => Math.max(a, b));
  const image = new ImageData(GRID, GRID);
  for (let i = 0; i < values.length; i++) {
    image.data.set(CLOUD, 4 * i);
    image.data[4 * i + 3] = 255 * (values[i] / max) ** 0.6;
  }
  const canvas = new OffscreenCanvas(GRID, GRID);
  /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d")).putImageData(image, 0, 0);
  return canvas;
}

/** @param {Tools} tools @param {Scene} scene */
function drawData({ context, palette, place, unit }, { mixture, probe, isDrawing }) {
  const { points } = mixture;
  context.fillStyle = palette.text;
  context.globalAlpha = isDrawing ? 0.85 : probe?.weights ? 0.18 : 0.4;
  context.beginPath();
  const radius = (isDrawing ? 2.2 : 1.3) * unit;
  for (let k = 0; k < points.length; k += 2) dot(context, place(points[k], points[k + 1]), radius);
  context.fill();
  context.globalAlpha = 1;
}

/** @param {Tools} tools @param {Scene} scene */
function drawScore({ context, palette, place, side, unit }, { denoise, alphaBar, zoom, t }) {
  const x = new Float64Array(2 * ARROWS * ARROWS);
  for (let i = 0; i < ARROWS * ARROWS; i++) {
    x[2 * i] = ((2 * (i % ARROWS) + 1) / ARROWS - 1) * (RANGE / zoom(t));
    x[2 * i + 1] = ((2 * Math.floor(i / ARROWS) + 1) / ARROWS - 1) * (RANGE / zoom(t));
  }
  const score = scoreOf(x, denoise(x), alphaBar);
  const lengths = Array.from({ length: x.length / 2 }, (_, i) => Math.hypot(score[2 * i], score[2 * i + 1]));
  const usual = [...lengths].sort((a, b) => a - b)[lengths.length >> 1];
  const cell = side / ARROWS;
  context.strokeStyle = palette.text;
  context.globalAlpha = 0.55;
  context.lineWidth = 1.1 * unit;
  context.beginPath();
  for (const [i, length] of lengths.entries()) {
    const [px, py] = place(x[2 * i] * zoom(t), x[2 * i + 1] * zoom(t));
    const reach = (0.85 * cell * length) / (length + usual); // long arrows are shortened, so that none crosses another
    const [dx, dy] = [(reach * score[2 * i]) / length, (-reach * score[2 * i + 1]) / length];
    arrow(context, px - dx / 2, py - dy / 2, dx, dy);
  }
  context.stroke();
  context.globalAlpha = 1;
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y
 * @param {number} dx
 * @param {number} dy
 */
function arrow(context, x, y, dx, dy) {
  const [hx, hy] = [0.3 * dx, 0.3 * dy];
  context.moveTo(x, y);
  context.lineTo(x + dx, y + dy);
  context.moveTo(x + dx - hx - 0.6 * hy, y + dy - hy + 0.6 * hx);
  context.lineTo(x + dx, y + dy);
  context.lineTo(x + dx - hx + 0.6 * hy, y + dy - hy - 0.6 * hx);
}

/** @param {Tools} tools @param {Scene} scene @param {Path} path */
function drawPaths({ context, palette, place, unit }, { t, zoom, isDrawing }, path) {
  const { times, x } = path;
  const last = times.findIndex((time) => time <= t);
  context.lineWidth = 1 * unit;
  context.globalAlpha = isDrawing ? 0.15 : palette.isDark ? 0.34 : 0.42;
  context.lineJoin = "round";
  forEachHue(path, (hue, samples) => {
    context.strokeStyle = hueOf(hue, palette);
    context.beginPath();
    for (const i of samples) {
      if (i % PATH_EVERY) continue;
      context.moveTo(...place(x[0][2 * i] * zoom(times[0]), x[0][2 * i + 1] * zoom(times[0])));
      for (let step = 1; step < last; step++) {
        const scale = zoom(times[step]);
        context.lineTo(...place(x[step][2 * i] * scale, x[step][2 * i + 1] * scale));
      }
      context.lineTo(...place(...between(path, last, t, zoom, i)));
    }
    context.stroke();
  });
  context.globalAlpha = 1;
}

/** @param {Tools} tools @param {Scene} scene @param {Path} path */
function drawSamples({ context, palette, place, unit }, { t, zoom, probe }, path) {
  const last = path.times.findIndex((time) => time <= t);
  const [halo, disk] = [{ radius: 5.5, alpha: 0.16 }, { radius: 2.2, alpha: 0.97 }];
  for (const { radius, alpha } of palette.isDark ? [halo, disk] : [disk]) {
    context.globalAlpha = alpha * (probe?.weights ? 0.4 : 1);
    forEachHue(path, (hue, samples) => {
      context.fillStyle = hueOf(hue, palette);
      context.beginPath();
      for (const i of samples) dot(context, place(...between(path, last, t, zoom, i)), radius * unit);
      context.fill();
    });
  }
  context.globalAlpha = 1;
}

/**
 * Where sample i is at timestep t: on the straight line between the two nearest steps.
 *
 * @param {Path} path
 * @param {number} last  the first step at or after t
 * @param {number} t
 * @param {(t: number) => number} zoom
 * @param {number} i
 * @returns {[number, number]}
 */
export function between({ times, x }, last, t, zoom, i) {
  const first = Math.max(last - 1, 0);
  const share = last === first ? 0 : (times[first] - t) / (times[first] - times[last]);
  const [p, q] = [(1 - share) * zoom(times[first]), share * zoom(times[last])];
  return [p * x[first][2 * i] + q * x[last][2 * i], p * x[first][2 * i + 1] + q * x[last][2 * i + 1]];
}

/**
 * The samples by colour: the direction of their noise.
 *
 * @param {Path} path
 * @param {(hue: number, samples: number[]) => void} callback
 */
function forEachHue({ x: [start] }, callback) {
  /** @type {number[][]} */
  const groups = Array.from({ length: HUES }, () => []);
  for (let i = 0; i < start.length / 2; i++) {
    const turn = Math.atan2(start[2 * i + 1], start[2 * i]) / (2 * Math.PI) + 0.5;
    groups[Math.floor(turn * HUES) % HUES].push(i);
  }
  groups.forEach((samples, hue) => callback(hue / HUES, samples));
}

/** @param {Tools} tools @param {Scene} scene @param {NonNullable<Scene["probe"]>} probe */
function drawProbe({ context, palette, place, unit }, { mixture, denoise, zoom, t, isDrawing }, probe) {
  const [px, py] = place(probe.x, probe.y);
  context.strokeStyle = context.fillStyle = palette.accent;
  context.lineWidth = 1.6 * unit;
  if (probe.weights && !isDrawing) {
    const { points } = mixture;
    const max = Math.max(...probe.weights);
    for (let k = 0; k < probe.weights.length; k++) {
      const share = probe.weights[k] / max;
      if (share < 0.01) continue;
      context.globalAlpha = share;
      context.beginPath();
      dot(context, place(points[2 * k], points[2 * k + 1]), (1.4 + 2.6 * Math.sqrt(share)) * unit);
      context.fill();
    }
    context.globalAlpha = 1;
  }
  if (!isDrawing && t > 0) {
    const x0 = denoise(Float64Array.of(probe.x / zoom(t), probe.y / zoom(t)));
    const [qx, qy] = place(x0[0], x0[1]);
    context.beginPath();
    context.moveTo(px, py);
    context.lineTo(qx, qy);
    context.stroke();
    context.beginPath();
    dot(context, [qx, qy], 5.5 * unit);
    context.fillStyle = palette.ground;
    context.fill();
    context.stroke();
  }
  context.beginPath();
  const arm = (isDrawing ? 9 : 6) * unit;
  context.moveTo(px - arm, py);
  context.lineTo(px + arm, py);
  context.moveTo(px, py - arm);
  context.lineTo(px, py + arm);
  context.stroke();
}

/** @param {CanvasRenderingContext2D} context @param {[number, number]} at @param {number} radius */
export function dot(context, [x, y], radius) {
  context.moveTo(x + radius, y);
  context.arc(x, y, radius, 0, 2 * Math.PI);
}
