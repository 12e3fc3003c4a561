/**
 * Points of the plane to learn from: shapes to choose from, and hand-drawn points as bytes for the URL.
 *
 * A cloud of points is a Float64Array (N, 2), within ±RANGE. It is a function of the shape's name alone.
 */

import { normal } from "./noise.js";

export const RANGE = 3; // the plots show −RANGE…RANGE in both directions
export const MAX_POINTS = 320;
const SEED = 24n; // of the shapes' random numbers
const GOLDEN = (Math.sqrt(5) - 1) / 2; // its multiples, modulo 1, cover 0…1 evenly

/** @typedef {(u: number, i: number) => number[]} Shape  point number i; u covers 0…1 evenly */

const SMILEY = [
  { share: 0.52, arc: [0, 0, 1.9, 0, 1] }, // centre, radius, and where the arc begins and ends, in turns
  { share: 0.1, arc: [-0.65, 0.6, 0.2, 0, 1] },
  { share: 0.1, arc: [0.65, 0.6, 0.2, 0, 1] },
  { share: 0.28, arc: [0, 0, 1.15, 0.56, 0.94] },
];
const LETTERS = [
  // S: two arcs; D: a stem and an arc
  { share: 0.26, arc: [-1.05, 0.62, 0.62, 0.1, 0.75] },
  { share: 0.26, arc: [-1.05, -0.62, 0.62, -0.4, 0.25] },
  { share: 0.2, line: [0.5, -1.24, 0.5, 1.24] },
  { share: 0.28, arc: [0.5, 0, 1.24, -0.25, 0.25] },
];

/** @type {Record<string, {title: string, shape: Shape}>} */
export const SHAPES = {
  moons: {
    title: "Two moons",
    shape(u, i) {
      const angle = Math.PI * u;
      const [x, y] = [1.25 * Math.cos(angle), 1.25 * Math.sin(angle)];
      return i % 2 ? [x - 0.62, y - 0.3] : [0.62 - x, 0.3 - y];
    },
  },
  spiral: {
    title: "Spiral",
    shape(u) {
      const [radius, angle] = [0.25 + 1.75 * Math.sqrt(u), 3.6 * Math.PI * Math.sqrt(u)];
      return [radius * Math.cos(angle), radius * Math.sin(angle)];
    },
  },
  ring: { title: "Ring", shape: (u) => [1.6 * Math.cos(2 * Math.PI * u), 1.6 * Math.sin(2 * Math.PI * u)] },
  gaussians: {
    title: "Eight Gaussians",
    shape(_, i) {
      const [u, v] = spread(Math.floor(i / 8) + 40 * (i % 8));
      const [angle, radius] = [(Math.PI * (i % 8)) / 4, 0.16 * Math.sqrt(-2 * Math.log(u))];
      const turn = 2 * Math.PI * v;
      return [1.7 * Math.cos(angle) + radius * Math.cos(turn), 1.7 * Math.sin(angle) + radius * Math.sin(turn)];
    },
  },
  checkers: {
    title: "Checkerboard",
    shape(_, i) {
      const [u, v] = spread(Math.floor(i / 8) + 40 * (i % 8));
      const [column, row] = [i % 4, 2 * (Math.floor(i / 4) % 2) + (i % 2)];
      return [0.9 * (column - 2 + u), 0.9 * (row - 2 + v)];
    },
  },
  smiley: { title: "Smiley", shape: (u) => along(SMILEY, u) },
  letters: { title: "Letters", shape: (u) => along(LETTERS, u) },
};

/** The points of a shape. @param {string} name */
export function shapePoints(name) {
  const { shape } = SHAPES[name];
  const out = new Float64Array(2 * MAX_POINTS);
  const jitter = normal(SEED, 1, 0, out.length);
  for (let i = 0; i < MAX_POINTS; i++) {
    const [x, y] = shape(((i + 0.5) * GOLDEN) % 1, i);
    out[2 * i] = x + 0.03 * jitter[2 * i];
    out[2 * i + 1] = y + 0.03 * jitter[2 * i + 1];
  }
  return out;
}

/** Points as two bytes each, which is how a link stores them. @param {Float64Array} points */
export function toBytes(points) {
  return Uint8Array.from(points, (value) => Math.round(((value + RANGE) / (2 * RANGE)) * 255));
}

/** @param {Uint8Array} bytes */
export function fromBytes(bytes) {
  return Float64Array.from(bytes, (value) => (value / 255) * 2 * RANGE - RANGE);
}

/** Number i of a sequence that covers the unit square evenly (Roberts 2018). @param {number} i */
function spread(i) {
  return [((i + 1) * 0.7548776662466927) % 1, ((i + 1) * 0.5698402909980532) % 1];
}

/**
 * A point on strokes: u runs along all of them, each as long as its share.
 *
 * @param {{share: number, arc?: number[], line?: number[]}[]} strokes
 * @param {number} u
 */
function along(strokes, u) {
  let index = 0;
  while (index < strokes.length - 1 && u >= strokes[index].share) u -= strokes[index++].share;
  const { share, arc, line } = strokes[index];
  const v = u / share;
  if (line) return [line[0] + v * (line[2] - line[0]), line[1] + v * (line[3] - line[1])];
  const [x, y, radius, from, to] = /** @type {number[]} */ (arc);
  const angle = 2 * Math.PI * (from + v * (to - from));
  return [x + radius * Math.cos(angle), y + radius * Math.sin(angle)];
}

const BRUSH = 0.09; // standard deviation of new points around the brush
const ERASER = 0.3; // radius
const PER_DAB = 2; // new points

/** Hand-drawn points with new ones around a place; the same bytes if MAX_POINTS are reached. @param {Uint8Array} bytes
 * @param {number} x @param {number} y */
export function paint(bytes, x, y) {
  const room = Math.min(MAX_POINTS - bytes.length / 2, PER_DAB);
  if (room <= 0) return bytes;
  const jitter = normal(SEED, 2, bytes.length, 2 * room);
  const added = jitter.map((z, i) => Math.max(-RANGE, Math.min((i % 2 ? y : x) + BRUSH * z, RANGE)));
  return Uint8Array.of(...bytes, ...toBytes(added));
}

/** Without the points near a place; the same bytes if there are none. @param {Uint8Array} bytes @param {number} x
 * @param {number} y */
export function erase(bytes, x, y) {
  const points = fromBytes(bytes);
  const kept = bytes.filter((_, i) => {
    const k = i - (i % 2);
    return Math.hypot(points[k] - x, points[k + 1] - y) > ERASER;
  });
  return kept.length === bytes.length ? bytes : kept;
}
