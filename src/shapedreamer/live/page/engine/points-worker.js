/**
 * The worker of points.html: it trains the network and samples, and reports both while it works.
 *
 * From the page: {type: "set", …} with everything (Order), whenever something changes.
 * To the page:   {type: "samples", …} (Samples) for each plot, and {type: "training", …} (Progress).
 *
 * @import { Path, PlotOptions } from "./points-sampling.js"
 * @import { Task } from "./points-training.js"
 *
 * @typedef {Task & {id: number, run: number, plots: PlotOptions[], goal: number}} Order
 *   id: of this order; run: another number starts the training over; goal: train up to this many steps
 * @typedef {Path & {type: "samples", id: number, index: number, distance: number, baseline: number}} Samples
 *   index: of the plot; distance: energy distance to the data; baseline: the same of points drawn from the data
 *
 * @typedef {object} Progress
 * @property {"training"} type
 * @property {number} id
 * @property {number} steps
 * @property {number[]} losses      mean loss of every LOSS_STEPS steps
 * @property {number} exactLoss     mean loss of the exact denoiser
 * @property {Float64Array} parameters   averaged weights
 */

import { exactX0 } from "./points-exact.js";
import { makeJudge, samplePath } from "./points-sampling.js";
import { LOSS_STEPS, networkX0, Trainer } from "./points-training.js";

const SLICE_MS = 25; // training between two looks at the messages
const REPORT_MS = 120;
const SAMPLING_SHARE = 0.25; // of the time, while the network trains

/** @type {Order} */
let order;
let taskKey = "";
/** @type {Trainer} */
let trainer;
/** @type {ReturnType<typeof makeJudge>} */
let judge;
/** @type {number[]} */
let losses = [];
let lossSum = 0;
let exact = { sum: 0, count: 0 };
/** @type {Set<number>} plots to sample */
const due = new Set();
let lastSampling = { began: 0, ms: 0 };
let lastReport = 0;
let isRunning = false;

self.onmessage = ({ data }) => {
  setOrder(data);
  if (!isRunning) void run();
};

/** @param {Order} next */
function setOrder(next) {
  const { id, plots, goal, mixture, ...options } = next;
  const key = JSON.stringify({ ...options, seed: `${options.seed}`, ...mixture, points: [...mixture.points] });
  if (key !== taskKey) {
    taskKey = key;
    trainer = new Trainer(next);
    judge = makeJudge(mixture, next.seed);
    [losses, lossSum, exact] = [[], 0, { sum: 0, count: 0 }];
  }
  order = next;
  due.clear();
  order.plots.forEach((_, index) => due.add(index));
  report();
}

/** Sample and train until there is nothing left to do. */
async function run() {
  isRunning = true;
  for (;;) {
    const [index] = due;
    if (index !== undefined) await sample(index);
    else if (trainer.steps < order.goal) train();
    else break;
    await new Promise((resolve) => setTimeout(resolve)); // let messages in
  }
  isRunning = false;
}

function train() {
  const began = performance.now();
  while (trainer.steps < order.goal && performance.now() - began < SLICE_MS) {
    if (trainer.steps % 5 === 0) exact = { sum: exact.sum + trainer.exactLoss(trainer.steps), count: exact.count + 1 };
    lossSum += trainer.step();
    if (trainer.steps % LOSS_STEPS === 0) {
      losses.push(lossSum / LOSS_STEPS);
      lossSum = 0;
    }
  }
  const now = performance.now();
  const isDone = trainer.steps >= order.goal;
  if (isDone || now - lastReport > REPORT_MS) report();
  if (isDone || now - lastSampling.began > lastSampling.ms / SAMPLING_SHARE) {
    order.plots.forEach(({ denoiser }, index) => denoiser === "network" && due.add(index));
  }
}

function report() {
  lastReport = performance.now();
  const exactLoss = exact.sum / exact.count;
  const parameters = trainer.average.parameters.slice();
  self.postMessage({ type: "training", id: order.id, steps: trainer.steps, losses, exactLoss, parameters });
}

/** @param {number} index  of a plot */
async function sample(index) {
  const began = performance.now();
  const { id, mixture, prediction, seed, plots } = order;
  const { alphaBar, average } = trainer;
  let calls = 0;
  const path = await samplePath(
    plots[index],
    async (x, t) => {
      calls++;
      if (calls % 4 === 0) await new Promise((resolve) => setTimeout(resolve)); // let messages in
      const a = alphaBar[t];
      return plots[index].denoiser === "exact" ? exactX0(mixture, x, a) : networkX0(average, prediction, x, a);
    },
    alphaBar,
    seed,
  );
  if (id !== order.id) return; // the page has asked for something else meanwhile
  due.delete(index);
  const distance = judge.distance(path.x[path.x.length - 1]);
  self.postMessage({ type: "samples", id, index, ...path, distance, baseline: judge.baseline });
  lastSampling = { began, ms: performance.now() - began };
}
