/**
 * The engine in the browser: a worker that runs models with onnxruntime-web. It uses the server's protocol
 * (protocol.js) over postMessage instead of a WebSocket, with two more messages from the page. {"type": "open", "url":
 * of models.json} comes first. {"type": "taken"} confirms the last frame: the worker computes the next frame meanwhile,
 * but sends it only after that confirmation, so that frames do not pile up on a slow page.
 *
 * @import { FromEngine, ModelInfo, Settings } from "./protocol.js"
 * @import { Network } from "./model.js"
 */

import { gunzip } from "../files/bytes.js";
import { checkBytes, checkFrame, checkId, checkSampler, checkSettings, checkStart, isObject } from "./check.js";
import { Dream } from "./dream.js";
import { isBetter, openGraphics } from "./graphics.js";
import { Model } from "./model.js";
import { packFrame, packTrace, toImages } from "./pack.js";

const MAX_THREADS = 4; // networks this small gain nothing from more
const MAX_TRACES = 8; // traces and samples that can wait, as on the server
const PROGRESS_MS = 100; // milliseconds between two reports of a download
const MAX_SLEEP = 60_000; // milliseconds
const IDLE_FPS = 60; // frame rate limit while frames need no network call (creativity 0)

let url = ""; // URL of models.json; the folders models/ and runtime/ are next to it
/** @type {ModelInfo[]} */
let models = [];
/** @type {Promise<any>} */
let runtime;
/** @type {Map<string, Promise<Model>>} */
const loaded = new Map();

const dream = new Dream(load);
let isPlaying = false;
let hasFailed = false; // stops playback until the next message
let singleSteps = 0;
let isTaken = true;
/** Traces and samples to send: how to make each of them. @type {{id: number, make: () => Promise<ArrayBuffer>}[]} */
const requests = [];
let threadNote = ""; // shown once the first model is loaded
/** @type {Record<string, number>} bytes of each file of the site; empty if an older version wrote it */
let sizes = {};

// messages from the page

self.onmessage = async ({ data }) => {
  try {
    if (data.type === "open") await open(data.url);
    else handle(data);
  } catch (error) {
    postError(data?.id ?? null, error);
  }
  wake();
};

/** @param {any} message */
function handle(message) {
  const current = dream.settings;
  if (current === null && !["set", "play", "pause"].includes(message?.type)) {
    throw new Error(`send "set" before "${message?.type}"`);
  }
  const info = models.find((model) => model.name === current?.model);
  const handlers = {
    set() {
      checkId(message.id);
      const settings = complete(message.settings);
      const { channels, height, width } = checkSettings(settings, models);
      const bytes = settings.num * channels * height * width;
      const image = message.image === undefined ? null : checkBytes("image", message.image, bytes);
      checkStart(settings, image !== null, message.frame ?? 0);
      dream.set(message.id, settings, image && toImages(image, { channels, height, width }), message.frame ?? null);
    },
    play() {
      [isPlaying, singleSteps] = [true, 0];
    },
    pause() {
      [isPlaying, singleSteps] = [false, 0];
    },
    step() {
      if (isPlaying) throw new Error('send "pause" before "step"');
      singleSteps++;
    },
    restart: () => dream.restart(),
    repaint() {
      const { height, width } = /** @type {ModelInfo} */ (info);
      const mask = checkBytes("mask", message.mask, height * width).map((value) => (value < 128 ? 0 : 1));
      if (!mask.includes(1)) throw new Error("mask selects nothing: set the pixels to repaint to 255");
      dream.repaint(mask);
    },
    trace() {
      checkId(message.id);
      checkSampler(message, /** @type {ModelInfo} */ (info));
      const number = message.frame ?? null;
      checkFrame(number);
      const frame = number === null ? null : dream.traceable(number);
      const { id, sampler, steps, eta } = message;
      request(id, () => makeTrace(id, { .../** @type {Settings} */ (current), sampler, steps, eta }, frame));
    },
    sample() {
      checkId(message.id);
      const settings = complete(message.settings);
      checkSettings(settings, models);
      request(message.id, () => makeSample(message.id, settings));
    },
    taken: () => (isTaken = true),
  };
  if (!Object.hasOwn(handlers, message?.type)) {
    throw new Error(`message type must be one of ${Object.keys(handlers).join(", ")}, not ${message?.type}`);
  }
  handlers[/** @type {keyof typeof handlers} */ (message.type)]();
  if (message.type !== "taken") hasFailed = false;
}

/** The settings of a message; those of older clients, without a motion, melt. @param {any} settings @returns {Settings} */
function complete(settings) {
  return isObject(settings) ? { motion: "melt", every: 0, ...settings } : settings;
}

/** @param {number} id @param {() => Promise<ArrayBuffer>} make */
function request(id, make) {
  if (requests.length === MAX_TRACES) throw new Error(`${MAX_TRACES} traces are waiting already; try again later`);
  requests.push({ id, make });
}

/** @param {FromEngine} message */
function post(message) {
  self.postMessage(message);
}

/** @param {number | null} id @param {unknown} error */
function postError(id, error) {
  post({ type: "error", id, message: error instanceof Error ? error.message : String(error) });
}

// models

/** @param {string} modelsUrl */
async function open(modelsUrl) {
  url = modelsUrl;
  try {
    const [site, list] = await Promise.all([fetchFile("site.json"), fetchFile("models.json")]);
    models = await list.json();
    const { version, sizes: known } = await site.json();
    sizes = known ?? {};
    post({ type: "hello", engine: "browser", version, models, viewers: 1 });
  } catch (error) {
    throw new Error(`could not load the list of models from ${url} (${error}); closing`);
  }
  const threads = Math.min(navigator.hardwareConcurrency, MAX_THREADS);
  if (!self.crossOriginIsolated && threads > 1) {
    threadNote = "running on one thread: WebAssembly threads need the COOP and COEP headers";
  }
  runtime = startRuntime(self.crossOriginIsolated ? threads : 1);
  run();
}

/** @param {number} threads */
async function startRuntime(threads) {
  const ort = await import(new URL("ort.wasm.min.mjs", runtimeUrl()).href);
  ort.env.wasm.wasmPaths = runtimeUrl();
  ort.env.wasm.wasmBinary = await gunzip(await download("runtime/ort-wasm-simd-threaded.wasm.gz"));
  ort.env.wasm.numThreads = threads;
  return ort;
}

const runtimeUrl = () => new URL("runtime/", url).href;

/** Load a model, once. @param {string} name @returns {Promise<Model>} */
function load(name) {
  let model = loaded.get(name);
  if (!model) {
    model = loadUncached(name);
    model.catch(() => loaded.delete(name));
    loaded.set(name, model);
  }
  return model;
}

/** @param {string} name */
async function loadUncached(name) {
  const info = /** @type {ModelInfo} */ (models.find((model) => model.name === name));
  post({ type: "note", message: `loading the model ${name}` });
  try {
    const [ort, file, table] = await Promise.all([
      runtime,
      download(`models/${name}.onnx`),
      info.labels.length ? fetchFile(`models/${name}.labels`).then((response) => response.arrayBuffer()) : null,
    ]);
    const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
    post({ type: "note", message: threadNote || `the model ${name} is loaded` });
    threadNote = "";
    const network = makeNetwork(ort, session, info);
    const model = new Model(info, network, table ? new Float32Array(table) : new Float32Array());
    void tryGraphics(model, file);
    return model;
  } catch (error) {
    throw new Error(`could not load the model ${name} (${error})`);
  }
}

/**
 * Move a model that already runs on WebAssembly to the GPU, if that is better.
 * @param {Model} model
 * @param {Uint8Array} file
 */
async function tryGraphics(model, file) {
  const { info, network } = model;
  try {
    const gpu = await openGraphics(runtimeUrl(), file);
    if (!gpu) return;
    const gpuNetwork = makeNetwork(gpu.ort, gpu.session, info);
    if (!(await isBetter(gpuNetwork, network, info))) return;
    model.network = (...inputs) =>
      gpuNetwork(...inputs).catch(() => {
        model.network = network; // the GPU was lost: fall back to WebAssembly
        return network(...inputs);
      });
    post({ type: "note", message: `${info.name} now runs on the GPU` });
  } catch (error) {
    post({ type: "note", message: `could not run ${info.name} on the GPU (${error})` });
  }
}

/** @param {string} path  relative to models.json */
async function fetchFile(path) {
  const response = await fetch(new URL(path, url));
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  return response;
}

/** @type {Map<string, {loaded: number, total: number}>} downloads in progress, by path */
const downloads = new Map();
let lastProgress = -Infinity; // when the page was last told

/** Fetch a file, and report the progress of all downloads to the page. @param {string} path  relative to models.json */
async function download(path) {
  const response = await fetchFile(path);
  const isEncoded = response.headers.has("Content-Encoding"); // Content-Length would then be the compressed size
  const progress = { loaded: 0, total: sizes[path] ?? (isEncoded ? 0 : Number(response.headers.get("Content-Length"))) };
  downloads.set(path, progress);
  const chunks = [];
  const reader = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (response.body).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
      progress.loaded += value.length;
      postProgress();
    }
  } finally {
    downloads.delete(path);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

/** Tell the page the sums over all downloads, at most every PROGRESS_MS. */
function postProgress() {
  if (performance.now() - lastProgress < PROGRESS_MS) return;
  lastProgress = performance.now();
  const all = [...downloads.values()];
  const loaded = all.reduce((sum, progress) => sum + progress.loaded, 0);
  const total = all.every((progress) => progress.total > 0) ? all.reduce((sum, progress) => sum + progress.total, 0) : 0;
  post({ type: "progress", message: `loading ${[...downloads.keys()].map(title).join(" and ")}`, loaded, total });
}

/** @param {string} path */
const title = (path) => path.replace(/^runtime\/.*/, "the runtime").replace(/^models\/(.*)\.onnx$/, "the model $1");

/** @param {any} ort @param {any} session @param {ModelInfo} info @returns {Network} */
function makeNetwork(ort, session, { channels, height, width, labels }) {
  return async (x, t, label) => {
    const num = x.length / (channels * height * width);
    /** @param {Float32Array} values @param {number[]} size */
    const tensor = (values, ...size) => new ort.Tensor("float32", values, [num, ...size]);
    const inputs = { x: tensor(x, channels, height, width), t: tensor(new Float32Array(num).fill(t)) };
    const L = labels.length; // the zero vector stands for "no label"
    const feeds = L ? { ...inputs, label: tensor(label ?? new Float32Array(num * L), L) } : inputs;
    const { prediction } = await session.run(feeds);
    await yieldToMessages();
    return prediction.data;
  };
}

// the loop

let wake = () => {};

/** Resolves at the next message, or after `ms` milliseconds, but at the latest after MAX_SLEEP. @param {number} ms */
function sleep(ms = Infinity) {
  return /** @type {Promise<void>} */ (
    new Promise((resolve) => {
      wake = resolve;
      if (ms < Infinity) setTimeout(resolve, Math.min(ms, MAX_SLEEP)); // a larger number would mean "now"
    })
  );
}

const channel = new MessageChannel();

/** Let queued messages be handled: a network call blocks the whole worker. */
function yieldToMessages() {
  return new Promise((resolve) => {
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(null);
  });
}

async function run() {
  for (;;) {
    const next = requests.shift();
    const { id } = next ?? dream;
    try {
      if (next) await send(await next.make());
      else if (dream.isDue || singleSteps || timeToNextFrame() <= 0) await sendFrame();
      else await sleep(timeToNextFrame());
    } catch (error) {
      postError(id, error);
      hasFailed = true;
    }
  }
}

let lastFrame = { began: -Infinity, calls: 0 };

/** Milliseconds until playback needs the next frame. */
function timeToNextFrame() {
  if (!dream.settings || !isPlaying || hasFailed) return Infinity;
  const fps = dream.settings.fps || (lastFrame.calls ? Infinity : IDLE_FPS);
  return lastFrame.began + 1000 / fps - performance.now();
}

async function sendFrame() {
  const began = performance.now();
  if (!dream.isDue && singleSteps) singleSteps--;
  const frame = await dream.nextFrame();
  if (!frame) return;
  lastFrame = { began, calls: frame.calls };
  await send(packFrame({ ...frame, ms: performance.now() - began }, frame.model.info));
}

/** @param {number} id @param {Settings} settings @param {ReturnType<Dream["traceable"]> | null} frame */
async function makeTrace(id, settings, frame) {
  const began = performance.now();
  const trace = await dream.trace(settings, frame);
  return packTrace({ id, ...trace, ms: performance.now() - began }, trace.model.info);
}

/** @param {number} id @param {Settings} settings */
async function makeSample(id, settings) {
  const began = performance.now();
  const sample = await dream.sample(id, settings);
  return packFrame({ ...sample, ms: performance.now() - began }, sample.model.info);
}

/** @param {ArrayBuffer} buffer */
async function send(buffer) {
  while (!isTaken) await sleep();
  isTaken = false;
  self.postMessage(buffer, { transfer: [buffer] });
}
