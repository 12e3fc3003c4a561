/**
 * A small network that predicts x₀, ε, v or u at a point x_t of the plane, and its training, in plain JavaScript.
 *
 * A multilayer perceptron with SiLU. It sees x_t and FEATURES numbers that describe the noise level. Matrices are
 * row-major Float64Arrays, because arithmetic on them needs no conversion; a batch has one row for each point.
 */

import { fold, normal } from "./noise.js";

/** @typedef {"x0" | "eps" | "v" | "flow"} Prediction */

export const WIDTHS = [2 + 8, 64, 64, 64, 2]; // input, hidden layers, output
const [BETA1, BETA2, EPS] = [0.9, 0.99, 1e-8]; // Adam

/** One layer's views into the vector of all parameters. @typedef {{W: Float64Array, b: Float64Array}} Layer */

export class PointNetwork {
  /** @param {Float64Array} parameters  of all layers, in the order W (out, in), b (out) */
  constructor(parameters) {
    this.parameters = parameters;
    this.layers = layersOf(parameters);
    this.gradient = new Float64Array(parameters.length);
    this.gradients = layersOf(this.gradient);
    /** @type {Float64Array[]} of each layer, in the last call of `forward` */
    this.inputs = [];
    /** @type {Float64Array[]} of each layer's activation */
    this.slopes = [];
  }

  /** With normal random weights that keep the variance of a layer's input, and zeros in the last layer.
   * @param {bigint} seed */
  static random(seed) {
    const network = new PointNetwork(new Float64Array(countParameters()));
    network.layers.slice(0, -1).forEach(({ W }, i) => {
      const z = normal(seed, i, 0, W.length);
      for (let j = 0; j < W.length; j++) W[j] = z[j] * Math.sqrt(1.6 / WIDTHS[i]); // more than 1, because SiLU shrinks
    });
    return network;
  }

  /**
   * The outputs (N, 2) for inputs (N, WIDTHS[0]); also keeps what `backward` needs.
   *
   * @param {Float64Array} input
   */
  forward(input) {
    const num = input.length / WIDTHS[0];
    this.inputs = [];
    this.slopes = [];
    let x = input;
    for (const [i, { W, b }] of this.layers.entries()) {
      this.inputs.push(x);
      const y = new Float64Array(num * b.length);
      multiply(x, W, y, num, WIDTHS[i], b.length);
      const isLast = i === this.layers.length - 1;
      const slope = isLast ? y : new Float64Array(y.length);
      for (let n = 0, at = 0; n < num; n++) {
        for (let j = 0; j < b.length; j++, at++) {
          const z = y[at] + b[j];
          if (isLast) y[at] = z;
          else {
            const gate = 1 / (1 + Math.exp(-z));
            y[at] = z * gate;
            slope[at] = gate * (1 + z * (1 - gate));
          }
        }
      }
      this.slopes.push(slope);
      x = y;
    }
    return x;
  }

  /**
   * Compute this.gradient for the last call of `forward`.
   *
   * @param {Float64Array} outputGradient  of the loss by the outputs, (N, 2)
   */
  backward(outputGradient) {
    const num = outputGradient.length / 2;
    let dy = outputGradient;
    for (let i = this.layers.length - 1; i >= 0; i--) {
      const [wide, tall] = [WIDTHS[i], WIDTHS[i + 1]];
      const { W, b } = this.gradients[i];
      multiply(transpose(dy, num, tall), transpose(this.inputs[i], num, wide), W, tall, num, wide);
      b.fill(0);
      for (let n = 0, at = 0; n < num; n++) for (let j = 0; j < tall; j++, at++) b[j] += dy[at];
      if (i === 0) return;
      const dx = new Float64Array(num * wide);
      multiply(dy, transpose(this.layers[i].W, tall, wide), dx, num, tall, wide);
      const slope = this.slopes[i - 1];
      for (let at = 0; at < dx.length; at++) dx[at] *= slope[at];
      dy = dx;
    }
  }
}

/** Adam (Kingma & Ba 2015). */
export class Adam {
  /** @param {PointNetwork} network */
  constructor(network) {
    this.network = network;
    this.mean = new Float64Array(network.parameters.length);
    this.square = new Float64Array(network.parameters.length);
    this.steps = 0;
  }

  /** Follow network.gradient downhill. @param {number} rate */
  step(rate) {
    const { parameters, gradient } = this.network;
    this.steps++;
    const [c1, c2] = [1 - BETA1 ** this.steps, 1 - BETA2 ** this.steps];
    for (let i = 0; i < parameters.length; i++) {
      this.mean[i] += (1 - BETA1) * (gradient[i] - this.mean[i]);
      this.square[i] += (1 - BETA2) * (gradient[i] ** 2 - this.square[i]);
      parameters[i] -= (rate * this.mean[i]) / c1 / (Math.sqrt(this.square[i] / c2) + EPS);
    }
  }
}

/**
 * The network's input for points x_t: the points, and what describes the noise level: √ᾱ = cos θ and √(1−ᾱ) = sin θ,
 * their harmonics, and the log-SNR within bounds.
 *
 * @param {ArrayLike<number>} x        (N, 2)
 * @param {(i: number) => number} alphaBarOf  ᾱ of point i
 */
export function inputOf(x, alphaBarOf) {
  const [num, width] = [x.length / 2, WIDTHS[0]];
  const out = new Float64Array(num * width);
  for (let i = 0, at = 0; i < num; i++) {
    const a = alphaBarOf(i);
    const theta = Math.acos(Math.sqrt(a));
    out[at++] = x[2 * i];
    out[at++] = x[2 * i + 1];
    for (const k of [1, 2, 4]) {
      out[at++] = Math.cos(k * theta);
      out[at++] = Math.sin(k * theta);
    }
    const logSnr = Math.log(a / (1 - a));
    out[at++] = Math.max(-2, Math.min(logSnr / 4, 2));
    out[at++] = Math.exp(-(theta ** 2) * 30);
  }
  return out;
}

/**
 * How a prediction follows from x̂₀ and x_t: output = p · x̂₀ + q · x_t, so x̂₀ = (output − q · x_t)/p. See process.py.
 *
 * @param {Prediction} prediction
 * @param {number} alphaBar
 */
export function coefficients(prediction, alphaBar) {
  const [alpha, sigma] = [Math.sqrt(alphaBar), Math.sqrt(1 - alphaBar)];
  if (prediction === "x0") return { p: 1, q: 0 };
  if (prediction === "eps") return { p: -alpha / sigma, q: 1 / sigma };
  if (prediction === "flow") return { p: -(alpha + sigma) / sigma, q: 1 / sigma }; // u = ε − x₀
  return { p: -1 / sigma, q: alpha / sigma }; // v = √ᾱ ε − √(1−ᾱ) x₀
}

/**
 * C (n, m) = A (n, k) · Bᵀ, for B (m, k), in blocks of 2 × 4 that fit into registers.
 *
 * @param {Float64Array} A
 * @param {Float64Array} B
 * @param {Float64Array} C
 * @param {number} n
 * @param {number} k
 * @param {number} m
 */
export function multiply(A, B, C, n, k, m) {
  const n2 = n - (n % 2);
  const m4 = m - (m % 4);
  for (let i = 0; i < n2; i += 2) {
    for (let j = 0; j < m4; j += 4) {
      let a0 = i * k;
      let b0 = j * k;
      let c00 = 0, c01 = 0, c02 = 0, c03 = 0, c10 = 0, c11 = 0, c12 = 0, c13 = 0;
      for (let l = 0; l < k; l++, a0++, b0++) {
        const x0 = A[a0];
        const x1 = A[a0 + k];
        const y0 = B[b0];
        const y1 = B[b0 + k];
        const y2 = B[b0 + 2 * k];
        const y3 = B[b0 + 3 * k];
        c00 += x0 * y0;
        c01 += x0 * y1;
        c02 += x0 * y2;
        c03 += x0 * y3;
        c10 += x1 * y0;
        c11 += x1 * y1;
        c12 += x1 * y2;
        c13 += x1 * y3;
      }
      const at = i * m + j;
      C[at] = c00;
      C[at + 1] = c01;
      C[at + 2] = c02;
      C[at + 3] = c03;
      C[at + m] = c10;
      C[at + m + 1] = c11;
      C[at + m + 2] = c12;
      C[at + m + 3] = c13;
    }
  }
  for (let i = 0; i < n; i++) {
    for (let j = i < n2 ? m4 : 0; j < m; j++) {
      let c = 0;
      for (let l = 0; l < k; l++) c += A[i * k + l] * B[j * k + l];
      C[i * m + j] = c;
    }
  }
}

/** @param {Float64Array} A  (n, m) @param {number} n @param {number} m */
function transpose(A, n, m) {
  const out = new Float64Array(A.length);
  for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) out[j * n + i] = A[i * m + j];
  return out;
}

export function countParameters() {
  return WIDTHS.slice(1).reduce((sum, tall, i) => sum + tall * (WIDTHS[i] + 1), 0);
}

/** @param {Float64Array} parameters @returns {Layer[]} */
function layersOf(parameters) {
  let at = 0;
  return WIDTHS.slice(1).map((tall, i) => {
    const W = parameters.subarray(at, (at += tall * WIDTHS[i]));
    return { W, b: parameters.subarray(at, (at += tall)) };
  });
}
