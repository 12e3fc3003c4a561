/**
 * Save the plots of points.html as one PNG.
 *
 * @import { PlotFigure } from "./points-figure.js"
 */

import { download } from "../files/save.js";
import { paletteOf } from "./points-plot.js";

const GAP = 0.04; // between plots, as a share of their side
const CAPTION = 0.09; // height

/** @param {PlotFigure[]} figures @param {string} name  of the file, without .png */
export function savePlots(figures, name) {
  const side = figures[0].canvas.width;
  const columns = Math.min(figures.length, 2);
  const [gap, caption] = [GAP * side, CAPTION * side];
  const canvas = document.createElement("canvas");
  canvas.width = columns * (side + gap) + gap;
  canvas.height = Math.ceil(figures.length / columns) * (side + caption + gap) + gap;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const { ground, text } = paletteOf(figures[0].canvas);
  context.fillStyle = ground;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = text;
  context.textBaseline = "middle";
  context.font = `${0.036 * side}px system-ui, sans-serif`;
  for (const [i, figure] of figures.entries()) {
    const [x, y] = [gap + (i % columns) * (side + gap), gap + Math.floor(i / columns) * (side + caption + gap)];
    context.drawImage(figure.canvas, x, y);
    context.fillText(figure.title, x, y + side + caption / 2, side);
  }
  canvas.toBlob((blob) => blob && download(blob, `${name}.png`));
}
