/**
 * The loss curve of points.html: the network's loss, and the exact denoiser's as a dashed line below it.
 */

import { paletteOf } from "./points-plot.js";

/**
 * @param {HTMLCanvasElement} canvas
 * @param {number[]} losses     one for every interval of training
 * @param {number} exactLoss    NaN if it is unknown
 * @param {number} goal         how many losses the training will have
 */
export function drawLoss(canvas, losses, exactLoss, goal) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((size) => Math.max(1, size * devicePixelRatio));
  [canvas.width, canvas.height] = [width, height];
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const palette = paletteOf(canvas);
  const unit = devicePixelRatio;
  const pad = 6 * unit;
  const floor = Number.isFinite(exactLoss) ? exactLoss : 0;
  const top = Math.max(losses[0] ?? 1, 1.01 * floor);
  const low = floor - 0.25 * (top - floor);
  /** @param {number} loss */
  const y = (loss) => height - pad - ((height - 2 * pad) * (loss - low)) / (top - low);
  /** @param {number} i */
  const x = (i) => pad + ((width - 2 * pad) * (i + 1)) / Math.max(goal, losses.length, 1);
  context.lineWidth = 1.2 * unit;
  context.strokeStyle = palette.text;
  context.globalAlpha = 0.6;
  if (Number.isFinite(exactLoss)) {
    context.setLineDash([4 * unit, 4 * unit]);
    context.beginPath();
    context.moveTo(pad, y(floor));
    context.lineTo(width - pad, y(floor));
    context.stroke();
    context.setLineDash([]);
  }
  context.globalAlpha = 1;
  context.lineWidth = 1.8 * unit;
  context.strokeStyle = palette.accent;
  context.lineJoin = "round";
  context.beginPath();
  losses.forEach((loss, i) => context.lineTo(x(i), y(loss)));
  context.stroke();
}
