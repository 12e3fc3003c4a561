/**
 * Training of the small network on points. Every step is a function of (seed, step), so the same link trains the same
 * network.
 *
 * @import { Mixture } from "./points-exact.js"
 * @import { Prediction } from "./points-network.js"
 */

import { bits, fold, normal } from "./noise.js";
import { exactX0 } from "./points-exact.js";
import { Adam, coefficients, inputOf, PointNetwork } from "./points-network.js";
import { SCHEDULES } from "./schedule.js";

export const T = 1000;
export const LOSS_STEPS = 20; // training steps for each point of the loss curve
const BATCH = 128;
const [RATE, WARMUP, DECAY_STEPS] = [4e-3, 50, 1500]; // the learning rate falls as 1/√step after DECAY_STEPS
const EMA = 0.995;
const [WEIGHTS, TRAINING] = [1, 2]; // streams of random numbers

/**
 * What the network learns.
 *
 * @typedef {object} Task
 * @property {Mixture} mixture
 * @property {keyof typeof SCHEDULES} schedule
 * @property {Prediction} prediction
 * @property {bigint} seed
 */

export class Trainer {
  /** @param {Task} task */
  constructor(task) {
    this.task = task;
    this.alphaBar = SCHEDULES[task.schedule](T);
    this.network = PointNetwork.random(fold(task.seed, WEIGHTS));
    this.average = new PointNetwork(this.network.parameters.slice()); // EMA of the weights, for sampling
    this.adam = new Adam(this.network);
  }

  get steps() {
    return this.adam.steps;
  }

  /** One step of training. @returns {number} the loss: mean squared error of the prediction, before the step */
  step() {
    const batch = this.batch(this.steps);
    const output = this.network.forward(inputOf(batch.x, (i) => this.alphaBar[batch.times[i]]));
    const gradient = output.map((value, i) => (2 * (value - batch.target[i])) / output.length);
    this.network.backward(gradient);
    const rate = RATE * Math.min((this.steps + 1) / WARMUP, 1, Math.sqrt(DECAY_STEPS / (this.steps + 1)));
    this.adam.step(rate);
    const decay = Math.min(EMA, this.steps / (this.steps + 10));
    const [average, { parameters }] = [this.average.parameters, this.network];
    for (let i = 0; i < average.length; i++) average[i] += (1 - decay) * (parameters[i] - average[i]);
    return meanSquare(output, batch.target);
  }

  /**
   * The loss of the exact denoiser on the batch of a step: no network's expected loss is lower.
   *
   * @param {number} step
   */
  exactLoss(step) {
    const { x, times, target } = this.batch(step);
    const output = new Float64Array(x.length);
    for (let i = 0; i < times.length; i++) {
      const a = this.alphaBar[times[i]];
      const { p, q } = coefficients(this.task.prediction, a);
      const point = x.subarray(2 * i, 2 * i + 2);
      exactX0(this.task.mixture, point, a).forEach((x0, c) => (output[2 * i + c] = p * x0 + q * point[c]));
    }
    return meanSquare(output, target);
  }

  /** Noisy points x_t (BATCH, 2), their timesteps, and what the network should predict. @param {number} step */
  batch(step) {
    const { mixture, prediction, seed } = this.task;
    const stream = fold(seed, TRAINING, step);
    const clean = drawData(mixture, stream, BATCH);
    const words = bits(fold(stream, 1), 0, BATCH);
    const eps = normal(stream, 2, 0, 2 * BATCH);
    const times = new Uint16Array(BATCH);
    const [x, target] = [new Float64Array(2 * BATCH), new Float64Array(2 * BATCH)];
    for (let i = 0; i < BATCH; i++) {
      const u = (i + (words[i] + 0.5) * 2 ** -32) / BATCH; // stratified: one timestep from each part of the range
      times[i] = 1 + Math.min(Math.floor(u * T), T - 1);
      const a = this.alphaBar[times[i]];
      const { p, q } = coefficients(prediction, a);
      for (const c of [2 * i, 2 * i + 1]) {
        x[c] = Math.sqrt(a) * clean[c] + Math.sqrt(1 - a) * eps[c];
        target[c] = p * clean[c] + q * x[c];
      }
    }
    return { x, times, target };
  }
}

/**
 * x̂₀ of a network at points x_t, (N, 2).
 *
 * @param {PointNetwork} network
 * @param {Prediction} prediction
 * @param {ArrayLike<number>} x
 * @param {number} alphaBar
 */
export function networkX0(network, prediction, x, alphaBar) {
  const { p, q } = coefficients(prediction, alphaBar);
  return network.forward(inputOf(x, () => alphaBar)).map((output, i) => (output - q * x[i]) / p);
}

/**
 * Points drawn from a mixture, (num, 2).
 *
 * @param {Mixture} mixture
 * @param {bigint} stream
 * @param {number} num
 */
export function drawData({ points, blur }, stream, num) {
  const words = bits(stream, 0, num);
  const z = normal(stream, 0, 0, 2 * num);
  const count = points.length / 2;
  return z.map((value, i) => points[2 * Math.floor((words[i >> 1] * count) / 2 ** 32) + (i & 1)] + blur * value);
}

/** @param {Float64Array} x @param {Float64Array} y */
function meanSquare(x, y) {
  return x.reduce((sum, value, i) => sum + (value - y[i]) ** 2, 0) / x.length;
}
