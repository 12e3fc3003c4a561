/**
 * The settings panel and the time slider of points.html.
 *
 * @import { Progress } from "../engine/points-worker.js"
 * @import { PointsState } from "../engine/points-state.js"
 *
 * @typedef {object} Callbacks
 * @property {(patch: Partial<PointsState>) => void} onChange
 * @property {(t: number) => void} onTime
 * @property {(count: number) => void} onCount   how many plots
 */

import { fromBytes, MAX_POINTS, RANGE, SHAPES, shapePoints } from "../engine/points-data.js";
import { allowsEps, DRAWN, LAYERS, MAX_TRAINING } from "../engine/points-state.js";
import { LOSS_STEPS, T } from "../engine/points-training.js";
import { choose, get, grouped, make, onChoice, range, slide } from "./dom.js";
import { drawLoss } from "./points-loss.js";
import { dot, paletteOf } from "./points-plot.js";

/** One sentence about each choice. */
const HINTS = {
  schedule: {
    linear: "DDPM's schedule (VP): signal and noise have total variance 1, and much time goes to almost pure noise.",
    cosine: "The cosine schedule (VP): signal and noise have total variance 1 and trade places evenly.",
    flow: "Flow matching: a straight mixture of data and noise, so the same clouds at another scale and pace.",
  },
  prediction: {
    x0: "The network outputs the clean point x₀.",
    eps: "The network outputs the noise ε in the point.",
    v: "The network outputs v: the noise where there is little of it, the negative point where all is noise.",
    flow: "The network outputs the flow ε − x₀, the direction from the clean point to its noise.",
  },
};
const NO_EPS = "Flow ends in pure noise, and there ε does not determine x₀";
const DRAW_HINT = "Drag on a plot to draw; or focus it, move with the arrow keys, and hold space.";

export class PointsControls {
  /** @param {Callbacks} callbacks */
  constructor({ onChange, onTime, onCount }) {
    this.tool = "paint";
    /** @type {PointsState | null} */
    this.state = null;
    this.shapes = new Map([...Object.keys(SHAPES), DRAWN].map((name) => [name, make("canvas")]));
    const options = [...this.shapes].map(([name, canvas]) => {
      const radio = make("input", { type: "radio", name: "data", value: name });
      radio.setAttribute("aria-label", titleOf(name));
      return make("label", { title: titleOf(name) }, radio, canvas);
    });
    get("shapes", HTMLDivElement).append(...options);
    get("panel", HTMLFormElement).addEventListener("submit", (event) => event.preventDefault());
    range("time").addEventListener("input", () => onTime(T - Number(range("time").value)));
    range("blur").addEventListener("input", () => onChange({ blur: Number(range("blur").value) }));
    onChoice("data", (data) => onChange({ data }));
    onChoice("tool", (tool) => (this.tool = tool));
    onChoice("count", (count) => onCount(Number(count)));
    onChoice("prediction", (value) => onChange({ prediction: /** @type {PointsState["prediction"]} */ (value) }));
    onChoice("schedule", (value) => {
      const schedule = /** @type {PointsState["schedule"]} */ (value);
      const isLost = this.state?.prediction === "eps" && !allowsEps(schedule);
      onChange(isLost ? { schedule, prediction: "v" } : { schedule });
    });
    for (const box of this.layers()) {
      box.addEventListener("change", () => {
        const visible = this.layers().flatMap(({ value, checked }) => (checked ? [value] : []));
        onChange({ layers: LAYERS.filter((layer) => visible.includes(layer)) });
      });
    }
  }

  /** @returns {HTMLInputElement[]} */
  layers() {
    return [...document.getElementsByName("layer")].filter((box) => box instanceof HTMLInputElement);
  }

  /** @param {string} layer */
  toggleLayer(layer) {
    this.layers().find(({ value }) => value === layer)?.click();
  }

  /** @param {PointsState} state */
  show(state) {
    const previous = this.state;
    this.state = state;
    for (const field of /** @type {const} */ (["data", "schedule", "prediction"])) choose(field, state[field]);
    choose("count", `${state.plots.length}`);
    for (const box of this.layers()) box.checked = state.layers.includes(box.value);
    slide(range("blur"), state.blur);
    get("blur-text", HTMLOutputElement).value = state.blur.toFixed(2);
    const isDrawn = state.data === DRAWN;
    get("drawing-tools", HTMLDivElement).hidden = !isDrawn;
    const count = isDrawn ? state.drawn.length / 2 : MAX_POINTS;
    const points = isDrawn ? `${count} of ${MAX_POINTS} points` : `${count} points`;
    write("data-hint", `${titleOf(state.data)}: ${points}.${isDrawn ? ` ${DRAW_HINT}` : ""}`);
    write("schedule-hint", HINTS.schedule[state.schedule]);
    write("prediction-hint", HINTS.prediction[state.prediction]);
    for (const radio of document.getElementsByName("prediction")) {
      if (!(radio instanceof HTMLInputElement)) continue;
      const prediction = /** @type {PointsState["prediction"]} */ (radio.value);
      radio.disabled = prediction === "eps" && !allowsEps(state.schedule);
      radio.closest("label")?.setAttribute("title", radio.disabled ? NO_EPS : HINTS.prediction[prediction]);
    }
    if (!previous || previous.drawn !== state.drawn) this.drawShapes();
  }

  /** Draw the small pictures of the shapes. */
  drawShapes() {
    for (const [name, canvas] of this.shapes) {
      const width = (canvas.width = Math.max(1, canvas.clientWidth * devicePixelRatio));
      const height = (canvas.height = Math.max(1, canvas.clientHeight * devicePixelRatio));
      const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
      context.fillStyle = paletteOf(canvas).text;
      const isEmpty = name === DRAWN && !this.state?.drawn.length;
      const points = name === DRAWN ? fromBytes(this.state?.drawn ?? new Uint8Array()) : shapePoints(name);
      const scale = height / (2 * (0.8 * RANGE));
      context.beginPath();
      for (let k = 0; k < points.length; k += 2) {
        dot(context, [width / 2 + scale * points[k], height / 2 - scale * points[k + 1]], 0.9 * devicePixelRatio);
      }
      context.fill();
      if (isEmpty) drawPencil(context, width, height);
    }
  }

  /** @param {number} t @param {number} alphaBar */
  showTime(t, alphaBar) {
    slide(range("time"), T - t);
    const text = `t = ${t} · ${Math.round(100 * (1 - alphaBar))}% noise`;
    get("time-text", HTMLOutputElement).value = text;
    range("time").setAttribute("aria-valuetext", text);
  }

  /** @param {Progress | null} progress @param {number} goal  steps */
  showTraining(progress, goal) {
    const { steps, losses, exactLoss } = progress ?? { steps: 0, losses: [], exactLoss: NaN };
    const isTraining = steps < goal;
    drawLoss(get("loss", HTMLCanvasElement), losses, exactLoss, Math.ceil(goal / LOSS_STEPS));
    get("step-text", HTMLOutputElement).value = grouped(steps);
    const loss = losses[losses.length - 1];
    get("loss-text", HTMLOutputElement).value = loss === undefined ? "–" : loss.toFixed(3);
    get("exact-text", HTMLOutputElement).value = Number.isFinite(exactLoss) ? exactLoss.toFixed(3) : "–";
    const button = get("train", HTMLButtonElement);
    button.textContent = isTraining ? "Pause" : steps ? "Train on" : "Train";
    button.disabled = !isTraining && steps >= MAX_TRAINING;
  }
}

/** @param {CanvasRenderingContext2D} context @param {number} width @param {number} height */
function drawPencil(context, width, height) {
  context.save();
  context.translate(width / 2, height / 2);
  context.scale(height / 40, height / 40);
  context.strokeStyle = context.fillStyle;
  context.lineWidth = 1.8;
  context.lineJoin = "round";
  context.stroke(new Path2D("M-9 9l1.5-6L5-9.500l4.500 4.500L-3 7.500zM2-6.500l4.500 4.500"));
  context.restore();
}

/** @param {string} name */
function titleOf(name) {
  return name === DRAWN ? "Draw" : SHAPES[name].title;
}

/** @param {string} id @param {string} text */
function write(id, text) {
  get(id, HTMLParagraphElement).textContent = text;
}
