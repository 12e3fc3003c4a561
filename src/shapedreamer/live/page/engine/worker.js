/**
 * The engine in the browser: a worker that runs models with onnxruntime-web and speaks as the server does, by postMessage
 * instead of a WebSocket; see protocol.js. Two messages are its own: {"type": "open", "url": of models.json} is the first
 * that it gets, and {"type": "taken"} tells that the page has got the last frame. The next one is made meanwhile, and
 * waits for that: so a slow page holds up the dream, and frames never pile up.
 *
 * @import { FromEngine, ModelInfo, SamplerName, Settings } from "./protocol.js"
 * @import { Network } from "./model.js"
 */

import { checkBytes, checkId, checkSettings, checkWay } from "./check.js";
import { Dream } from "./dream.js";
import { isBetter, openGraphics } from "./graphics.js";
import { Model } from "./model.js";
import { packFrame, packTrace, toImages } from "./pack.js";

const MOST_THREADS = 4; // more do not help networks this small
const MOST_TRACES = 8; // that may wait, as on the server
const IDLE_FPS = 60; // of a dream that stands still, where a frame takes no network call

let url = ""; // of models.json; the models lie in models/ beside it, and the runtime in runtime/
/** @type {ModelInfo[]} */
let models = [];
/** @type {Promise<any>} */
let runtime;
/** @type {Map<string, Promise<Model>>} */
const loaded = new Map();

const dream = new Dream(load);
let isPlaying = false;
let hasFailed = false; // until the page asks for something else
let singleSteps = 0;
let isTaken = true;
/** @type {{id: number, sampler: SamplerName, steps: number, eta: number, settings: Settings}[]} */
const traces = [];
let news = ""; // for when there is something to see

// what the page says

self.onmessage = async ({ data }) => {
  try {
    if (data.type === "open") await open(data.url);
    else heed(data);
  } catch (error) {
    refuse(data?.id ?? null, error);
  }
  wake();
};

/** @param {any} message */
function heed(message) {
  const before = dream.settings;
  if (before === null && !["set", "play", "pause"].includes(message?.type)) {
    throw new Error(`message ${message?.type} comes too early: \`set\` is the first`);
  }
  const info = models.find((model) => model.name === before?.model);
  const handlers = {
    set() {
      checkId(message.id);
      const { channels, height, width } = checkSettings(message.settings, models);
      const bytes = message.settings.num * channels * height * width;
      const image = message.image === undefined ? null : checkBytes("image", message.image, bytes);
      dream.set(message.id, message.settings, image && toImages(image, { channels, height, width }));
    },
    play() {
      [isPlaying, singleSteps] = [true, 0];
    },
    pause() {
      [isPlaying, singleSteps] = [false, 0];
    },
    step() {
      if (isPlaying) throw new Error("step is for a dream that is paused");
      singleSteps++;
    },
    restart: () => dream.restart(),
    repaint() {
      const { height, width } = /** @type {ModelInfo} */ (info);
      const hole = checkBytes("mask", message.mask, height * width).map((value) => (value < 128 ? 0 : 1));
      if (!hole.includes(1)) throw new Error("mask must have pixels of 255, which say what to dream anew");
      dream.repaint(hole);
    },
    trace() {
      checkId(message.id);
      checkWay(message, /** @type {ModelInfo} */ (info));
      if (traces.length === MOST_TRACES) throw new Error(`${MOST_TRACES} traces wait already`);
      traces.push({ ...message, settings: before });
    },
    taken: () => (isTaken = true),
  };
  if (!Object.hasOwn(handlers, message?.type)) {
    throw new Error(`message type must be one of ${Object.keys(handlers).join(", ")}, not ${message?.type}`);
  }
  handlers[/** @type {keyof typeof handlers} */ (message.type)]();
  if (message.type !== "taken") hasFailed = false;
}

/** @param {FromEngine} message */
function tell(message) {
  self.postMessage(message);
}

/** @param {number | null} id @param {unknown} error */
function refuse(id, error) {
  tell({ type: "error", id, message: error instanceof Error ? error.message : String(error) });
}

// models

/** @param {string} modelsUrl */
async function open(modelsUrl) {
  url = modelsUrl;
  try {
    const [about, list] = await Promise.all([fetched("site.json"), fetched("models.json")]);
    models = await list.json();
    const { version } = await about.json();
    tell({ type: "hello", engine: "browser", version, models, viewers: 1 });
  } catch (error) {
    throw new Error(`there are no models at ${url} (${error}); closing`);
  }
  const threads = Math.min(navigator.hardwareConcurrency, MOST_THREADS);
  if (!self.crossOriginIsolated && threads > 1) {
    news = "no WebAssembly threads without the headers COOP and COEP: one thread used";
  }
  runtime = start(self.crossOriginIsolated ? threads : 1);
  keepDreaming();
}

/** @param {number} threads */
async function start(threads) {
  const ort = await import(new URL("ort.wasm.min.mjs", runtimeUrl()).href);
  ort.env.wasm.wasmPaths = runtimeUrl();
  ort.env.wasm.numThreads = threads;
  return ort;
}

const runtimeUrl = () => new URL("runtime/", url).href;

/** The model of a name, from the first time on at once. @param {string} name @returns {Promise<Model>} */
function load(name) {
  let model = loaded.get(name);
  if (!model) {
    model = loadNow(name);
    model.catch(() => loaded.delete(name));
    loaded.set(name, model);
  }
  return model;
}

/** @param {string} name */
async function loadNow(name) {
  const info = /** @type {ModelInfo} */ (models.find((model) => model.name === name));
  tell({ type: "note", message: `loading the model ${name}` });
  try {
    const [ort, file, table] = await Promise.all([
      runtime,
      fetched(`models/${name}.onnx`).then(async (response) => new Uint8Array(await response.arrayBuffer())),
      info.labels.length ? fetched(`models/${name}.labels`).then((response) => response.arrayBuffer()) : null,
    ]);
    const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
    tell({ type: "note", message: news || `the model ${name} is loaded` });
    news = "";
    const model = new Model(info, networkOf(ort, session, info), table ? new Float32Array(table) : new Float32Array());
    void tryGraphics(model, file);
    return model;
  } catch (error) {
    throw new Error(`could not load the model ${name} (${error})`);
  }
}

/**
 * Let the graphics card compute a model that dreams already, if that is better.
 * @param {Model} model
 * @param {Uint8Array} file
 */
async function tryGraphics(model, file) {
  const { info, network } = model;
  try {
    const card = await openGraphics(runtimeUrl(), file);
    if (!card) return;
    const faster = networkOf(card.ort, card.session, info);
    if (!(await isBetter(faster, network, info))) return;
    model.network = (...asked) =>
      faster(...asked).catch(() => {
        model.network = network; // the card is gone
        return network(...asked);
      });
    tell({ type: "note", message: `the graphics card computes ${info.name}` });
  } catch (error) {
    tell({ type: "note", message: `the graphics card cannot compute ${info.name} (${error})` });
  }
}

/** @param {string} path  beside models.json */
async function fetched(path) {
  const response = await fetch(new URL(path, url));
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  return response;
}

/** @param {any} ort @param {any} session @param {ModelInfo} info @returns {Network} */
function networkOf(ort, session, { channels, height, width, labels }) {
  return async (x, t, label) => {
    const num = x.length / (channels * height * width);
    /** @param {Float32Array} values @param {number[]} size */
    const tensor = (values, ...size) => new ort.Tensor("float32", values, [num, ...size]);
    const feeds = { x: tensor(x, channels, height, width), t: tensor(new Float32Array(num).fill(t)) };
    const L = labels.length; // zeros are no label
    const told = L ? { ...feeds, label: tensor(label ?? new Float32Array(num * L), L) } : feeds;
    const { prediction } = await session.run(told);
    await breath();
    return prediction.data;
  };
}

// the dream goes on

let wake = () => {};

/** Until the page says something, or so many milliseconds have passed. @param {number} ms */
function woken(ms = Infinity) {
  return /** @type {Promise<void>} */ (
    new Promise((resolve) => {
      wake = resolve;
      if (ms < Infinity) setTimeout(resolve, ms);
    })
  );
}

const channel = new MessageChannel();

/** A moment in which messages come in: a network call holds up the whole worker. */
function breath() {
  return new Promise((resolve) => {
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(null);
  });
}

async function keepDreaming() {
  for (;;) {
    const trace = traces.shift();
    const { id } = trace ?? dream;
    try {
      if (trace) await makeTrace(trace);
      else if (dream.isDue || singleSteps || rest() <= 0) await makeFrame();
      else await woken(rest());
    } catch (error) {
      refuse(id, error);
      hasFailed = true;
    }
  }
}

let last = { began: -Infinity, calls: 0 }; // of the newest frame

/** Milliseconds until the dream goes on by itself. */
function rest() {
  if (!dream.settings || !isPlaying || hasFailed) return Infinity;
  const fps = dream.settings.fps || (last.calls ? Infinity : IDLE_FPS);
  return last.began + 1000 / fps - performance.now();
}

/** The next frame goes to the page. */
async function makeFrame() {
  const began = performance.now();
  if (!dream.isDue && singleSteps) singleSteps--;
  const frame = await dream.frame();
  if (!frame) return;
  last = { began, calls: frame.calls };
  await send(packFrame({ ...frame, ms: performance.now() - began }, frame.model.info));
}

/** @param {typeof traces[number]} wish */
async function makeTrace({ id, settings, ...way }) {
  const began = performance.now();
  const trace = await dream.trace({ ...settings, ...way });
  await send(packTrace({ id, ...trace, ms: performance.now() - began }, trace.model.info));
}

/** @param {ArrayBuffer} buffer */
async function send(buffer) {
  while (!isTaken) await woken();
  isTaken = false;
  self.postMessage(buffer, { transfer: [buffer] });
}
