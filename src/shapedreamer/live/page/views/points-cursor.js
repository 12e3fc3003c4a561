/**
 * A place on the plots of points.html, moved by mouse, finger or arrow keys: a probe, or a brush to draw points with.
 *
 * @typedef {object} Callbacks
 * @property {(x: number, y: number) => void} onMove    in the plot's coordinates
 * @property {() => void} onLeave
 * @property {(x: number, y: number) => void} onPaint   while a button or space is held; only if canPaint()
 * @property {() => void} onPaintEnd
 * @property {() => boolean} canPaint
 */

import { RANGE } from "../engine/points-data.js";

const STEP = 0.1; // of an arrow key; with Shift, BIG_STEP
const BIG_STEP = 0.5;
/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/** @param {HTMLCanvasElement} canvas @param {Callbacks} callbacks */
export function bindCursor(canvas, { onMove, onLeave, onPaint, onPaintEnd, canPaint }) {
  let [x, y] = [0, 0];
  let isPainting = false;

  /** @param {number} newX @param {number} newY */
  const move = (newX, newY) => {
    [x, y] = [newX, newY].map((value) => Math.max(-RANGE, Math.min(value, RANGE)));
    onMove(x, y);
    if (isPainting) onPaint(x, y);
  };
  const stopPainting = () => {
    if (isPainting) onPaintEnd();
    isPainting = false;
  };
  /** @param {PointerEvent} event */
  const moveTo = ({ offsetX, offsetY }) => {
    move((offsetX / canvas.clientWidth - 0.5) * 2 * RANGE, (0.5 - offsetY / canvas.clientHeight) * 2 * RANGE);
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    isPainting = canPaint();
    if (isPainting) canvas.setPointerCapture(event.pointerId);
    moveTo(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    for (const part of isPainting ? event.getCoalescedEvents?.() ?? [event] : [event]) moveTo(part);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, stopPainting);
  canvas.addEventListener("pointerleave", onLeave);
  canvas.addEventListener("blur", () => {
    stopPainting();
    onLeave();
  });
  canvas.addEventListener("keydown", (event) => {
    const direction = ARROWS[event.key];
    if (direction) {
      const step = event.shiftKey ? BIG_STEP : STEP;
      move(x + step * direction[0], y + step * direction[1]);
    } else if (event.key === " " && canPaint()) {
      isPainting = true;
      move(x, y);
    } else if (event.key === "Escape") onLeave();
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("keyup", (event) => {
    if (event.key === " ") stopPainting();
  });
}
