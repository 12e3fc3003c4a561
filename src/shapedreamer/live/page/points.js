/**
 * points.html: connects the worker, the plots and the controls.
 *
 * @import { PlotOptions } from "./engine/points-sampling.js"
 * @import { Order, Progress, Samples } from "./engine/points-worker.js"
 * @import { PointsState } from "./engine/points-state.js"
 */

import { erase, fromBytes, MAX_POINTS, paint, shapePoints } from "./engine/points-data.js";
import { exactX0, posterior } from "./engine/points-exact.js";
import { PointNetwork } from "./engine/points-network.js";
import { DRAWN, fromPointsHash, MAX_TRAINING, PLOTS, toPointsHash } from "./engine/points-state.js";
import { networkX0, T } from "./engine/points-training.js";
import { SCHEDULES } from "./engine/schedule.js";
import { get, setIcon } from "./views/dom.js";
import { explainWords } from "./views/explain.js";
import { listen, table } from "./views/keyboard.js";
import { PointsControls } from "./views/points-controls.js";
import { bindCursor } from "./views/points-cursor.js";
import { PlotFigure } from "./views/points-figure.js";
import { drawCloud } from "./views/points-plot.js";
import { savePlots } from "./views/points-save.js";
import { bindTheme, storedPreference } from "./views/theme.js";
import { bindTitles } from "./views/tip.js";

const PLAY_MS = 5000; // from noise to data
const MORE_TRAINING = 2000; // steps, when training continues after its end
const DRAW_MS = 150; // while drawing, between two updates of everything else

const hasRoom = matchMedia("(min-width: 60rem) and (min-height: 36rem)");
const prefersStillness = matchMedia("(prefers-reduced-motion: reduce)").matches;
/** @type {PointsState} */
let state = fromPointsHash("").state;
/** @type {number[]} */
let alphaBar = [];
let mixture = { points: new Float64Array(), blur: 0 };
/** @type {Order | null} null while there is no data */
let order = null;
let lastId = 0; // of the orders
let run = 0; // of training
/** @type {Progress | null} */
let progress = null;
/** @type {PointNetwork | null} */
let network = null;
let isPlaying = false;
let t = 0; // on screen; between whole timesteps while playing
let lastTick = 0;
let isDrawPending = false;
/** @type {{x: number, y: number} | null} */
let cursor = null;
let isPainting = false;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let paintTimer;

// the worker

const worker = new Worker(new URL("engine/points-worker.js", import.meta.url), { type: "module" });
worker.onerror = (/** @type {ErrorEvent} */ { message }) =>
  notify(`something went wrong: ${message || "the worker did not load"}`, true);
worker.onmessage = (/** @type {MessageEvent<Samples | Progress>} */ { data }) => {
  if (data.id !== order?.id) return;
  if (data.type === "samples") figures[data.index].setSamples(data);
  else receiveProgress(data);
  redraw();
};

/** @param {Progress} data */
function receiveProgress(data) {
  progress = data;
  network = new PointNetwork(data.parameters);
  if (data.steps > state.train) {
    state = { ...state, train: data.steps }; // the steps that the worker made before it saw the pause
    updateUrlSoon();
  }
  controls.showTraining(progress, state.train);
  if (data.steps < state.train) notify("training in this browser");
  else notify(data.steps ? `trained for ${data.steps} steps` : "the network is untrained");
}

/** Send the worker everything; it works on what has changed. */
function sendOrder() {
  const { schedule, prediction, plots, train } = state;
  if (mixture.points.length === 0) {
    if (order) worker.postMessage({ ...order, plots: [], goal: 0 }); // it stops, and what it still sends is too late
    order = null;
    notify("draw some points");
    return;
  }
  const seed = BigInt(state.seed);
  order = { id: ++lastId, run, mixture, schedule, prediction, seed, plots, goal: train };
  worker.postMessage(order);
}

// state

/** Change the state, and everything that depends on it. @param {Partial<PointsState>} patch */
function change(patch) {
  state = { ...state, ...patch };
  alphaBar = SCHEDULES[state.schedule](T);
  const points = state.data === DRAWN ? fromBytes(state.drawn) : shapePoints(state.data);
  mixture = { points, blur: state.blur };
  showFigures();
  controls.show(state);
  sendOrder();
  redraw();
  updateUrlSoon();
}

/** The plots, as many as the state has. */
function showFigures() {
  const visible = figures.slice(0, state.plots.length);
  const container = get("plots", HTMLDivElement);
  if (container.childElementCount !== visible.length) {
    container.replaceChildren(...visible.map(({ element }) => element));
    container.dataset.count = `${visible.length}`;
    placeOptions();
  }
  visible.forEach((figure, index) => {
    figure.show(state.plots[index]);
    figure.element.classList.toggle("drawing", state.data === DRAWN);
    if (mixture.points.length === 0) figure.setSamples(null);
  });
}

/** Put the options of each plot next to it if the window has room, else into the settings. */
function placeOptions() {
  const visible = figures.slice(0, state.plots.length);
  get("plot-options", HTMLFieldSetElement).hidden = hasRoom.matches;
  get("options", HTMLDivElement).replaceChildren(...(hasRoom.matches ? [] : visible.map(({ options }) => options)));
  if (!hasRoom.matches) return;
  for (const { element, canvas, options } of visible) element.insertBefore(options, canvas.nextSibling);
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let urlTimer;

/** Write the current state into the URL, 300 ms after the last change. */
function updateUrlSoon() {
  clearTimeout(urlTimer);
  urlTimer = setTimeout(() => history.replaceState(null, "", `#${toPointsHash(state)}`), 300);
}

function openHash() {
  const { state: opened, problems } = fromPointsHash(location.hash);
  const isFirstVisit = location.hash.length < 2;
  if (isFirstVisit && prefersStillness) opened.train = 0;
  run++; // a link trains from the start
  change(opened);
  setTime(opened.t);
  play(isFirstVisit && !prefersStillness);
  if (problems.length) notify(problems.join("; "), true);
}

// time

/** @param {number} value */
function setTime(value) {
  t = Math.max(0, Math.min(value, T));
  state.t = Math.round(t);
  controls.showTime(state.t, alphaBar[state.t]);
  redraw();
}

/** @param {boolean} wanted */
function play(wanted) {
  isPlaying = wanted;
  if (isPlaying && t <= 0) setTime(T);
  lastTick = performance.now();
  const button = get("play", HTMLButtonElement);
  setIcon(button, isPlaying ? "pause" : "play");
  button.setAttribute("aria-label", isPlaying ? "Pause" : "Play");
  redraw();
  updateUrlSoon();
}

function tick() {
  const now = performance.now();
  setTime(t - (T * (now - lastTick)) / PLAY_MS);
  lastTick = now;
  if (t <= 0) play(false);
}

/** @param {number} by */
function moveTime(by) {
  play(false);
  setTime(state.t + by);
}

// drawing

/** Draw all plots in the next frame. */
function redraw() {
  if (isDrawPending) return;
  isDrawPending = true;
  requestAnimationFrame(() => {
    isDrawPending = false;
    if (isPlaying) tick();
    drawFrame();
  });
}

function drawFrame() {
  const a = alphaBar[state.t];
  /** From x_t to the plots' coordinates. @param {number} time */
  const zoom = (time) => {
    if (state.schedule !== "flow") return 1;
    const b = alphaBar[Math.round(time)];
    return 1 / (Math.sqrt(b) + Math.sqrt(1 - b));
  };
  const cloud = state.layers.includes("density") && mixture.points.length > 0 ? drawCloud(mixture, a, zoom(t)) : null;
  for (const [index, { denoiser }] of state.plots.entries()) {
    /** @param {Float64Array} x */
    const denoise = (x) => {
      if (denoiser === "network" && network) return networkX0(network, state.prediction, x, a);
      return exactX0(mixture, x, a);
    };
    figures[index].draw({
      t: state.t,
      alphaBar: a,
      zoom,
      mixture,
      layers: state.layers,
      cloud,
      path: figures[index].samples,
      denoise,
      probe: cursor && { ...cursor, weights: denoiser === "exact" ? weightsAt(cursor, zoom(t)) : null },
      isDrawing: isPainting || mixture.points.length === 0,
    });
  }
}

/**
 * The probabilities that a noisy point at the cursor came from each data point.
 *
 * @param {{x: number, y: number}} place
 * @param {number} zoom
 */
function weightsAt({ x, y }, zoom) {
  if (state.t === 0 || mixture.points.length === 0) return null;
  return posterior(mixture, x / zoom, y / zoom, alphaBar[state.t], new Float64Array(mixture.points.length / 2));
}

/** @param {number} x @param {number} y */
function paintAt(x, y) {
  isPainting = true;
  const drawn = controls.tool === "erase" ? erase(state.drawn, x, y) : paint(state.drawn, x, y);
  if (drawn === state.drawn) return;
  state = { ...state, drawn };
  mixture = { points: fromBytes(drawn), blur: state.blur };
  paintTimer ??= setTimeout(finishPainting, DRAW_MS);
}

function finishPainting() {
  clearTimeout(paintTimer);
  paintTimer = undefined;
  change({ drawn: state.drawn });
}

// actions

function train() {
  const steps = progress?.steps ?? 0;
  if (steps < state.train) change({ train: steps });
  else change({ train: Math.min(steps + MORE_TRAINING, MAX_TRAINING) });
}

function startOver() {
  run++;
  change({ train: Math.max(state.train, MORE_TRAINING) });
}

function newNoise() {
  change({ seed: `${crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000}` });
}

async function copyLink() {
  history.replaceState(null, "", `#${toPointsHash(state)}`);
  try {
    await navigator.clipboard.writeText(location.href);
    notify("copied a link to exactly this");
  } catch {
    notify("copy the link from the address bar"); // plain HTTP from another machine has no clipboard API
  }
}

/** Draw everything in the colours of the theme. */
function showTheme() {
  controls.drawShapes();
  controls.showTraining(progress, state.train);
  redraw();
}

/** @param {string} message @param {boolean} [isError] */
function notify(message, isError = false) {
  const text = get("status-text", HTMLSpanElement);
  if (text.textContent !== message) text.textContent = message;
  get("status", HTMLParagraphElement).dataset.mood = isError ? "bad" : "good";
}

const figures = PLOTS.map(
  (_, index) =>
    new PlotFigure(index + 1, (patch) => {
      change({ plots: state.plots.map((plot, i) => (i === index ? { ...plot, ...patch } : plot)) });
    }),
);
for (const { canvas } of figures) {
  bindCursor(canvas, {
    onMove(x, y) {
      cursor = { x, y };
      redraw();
    },
    onLeave() {
      cursor = null;
      redraw();
    },
    onPaint: paintAt,
    onPaintEnd() {
      isPainting = false;
      finishPainting();
    },
    canPaint: () => state.data === DRAWN,
  });
}
const controls = new PointsControls({
  onChange: change,
  onTime: (time) => moveTime(time - state.t),
  onCount: (count) => change({ plots: PLOTS.slice(0, count).map((plot, i) => state.plots[i] ?? { ...plot }) }),
});

explainWords();
bindTitles();
const toggleTheme = bindTheme();
const shortcuts = storedPreference("keys", "on");
const shortcutSwitch = get("keys-on", HTMLInputElement);
shortcutSwitch.checked = shortcuts.value === "on";
shortcutSwitch.addEventListener("change", () => shortcuts.set(shortcutSwitch.checked ? "on" : "off"));
const actions = {
  play: () => play(!isPlaying),
  train,
  reset: startOver,
  noise: newNoise,
  copy: copyLink,
  save: () => savePlots(figures.slice(0, state.plots.length), `points-${state.data}`),
  clear: () => change({ drawn: new Uint8Array() }),
  theme() {
    toggleTheme();
    showTheme();
  },
  help: () => get("help-dialog", HTMLDialogElement).showModal(),
};
for (const [id, action] of Object.entries(actions)) get(id, HTMLButtonElement).addEventListener("click", action);

/** @param {string} key @param {string} description @param {() => void} action */
const shortcut = (key, description, action, label = key.toUpperCase()) => ({ key, label, description, run: action });
const KEYS = [
  shortcut(" ", "play or pause", actions.play, "space"),
  shortcut(".", "closer to the data", () => moveTime(-10)),
  shortcut(",", "closer to the noise", () => moveTime(10)),
  shortcut("0", "back to noise", () => moveTime(T)),
  shortcut("n", "train or pause the network", actions.train),
  shortcut("r", "new noise", actions.noise),
  ...["paths", "density", "score", "data"].map((layer, i) =>
    shortcut(`${i + 1}`, `show or hide: ${layer}`, () => controls.toggleLayer(layer)),
  ),
  shortcut("s", "save as PNG", actions.save),
  shortcut("c", "copy a link", actions.copy),
  shortcut("t", "light or dark theme", actions.theme),
  shortcut("?", "this help", actions.help),
];
listen(KEYS, () => shortcuts.value === "on");
get("keys", HTMLElement).append(...table(KEYS));

addEventListener("hashchange", openHash);
hasRoom.addEventListener("change", placeOptions);
new ResizeObserver(redraw).observe(get("plots", HTMLDivElement));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
openHash();
