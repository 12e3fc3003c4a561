/**
 * The timesteps that samplers visit: exactly those of src/shapedreamer/diffusion/schedule.py, rounding included.
 *
 * A schedule is its table alphaBar (ᾱ) of T + 1 numbers, decreasing from ᾱ₀ = 1. It comes with the model.
 */

const LOG_SNR_RANGE = [-7, 5]; // the range of log-SNR in which images take shape, from layout to edges

/**
 * `steps` evenly spaced timesteps starting at T, then 0.
 *
 * @param {number} T
 * @param {number} steps
 */
export function stepTimes(T, steps) {
  if (!(steps >= 1 && steps <= T)) throw new RangeError(`steps must be between 1 and T = ${T}, not ${steps}`);
  const times = Array.from({ length: steps }, (_, i) => roundToEven(T - (i * T) / steps));
  return [...times, 0];
}

/**
 * Like stepTimes, but evenly spaced in ∛t.
 *
 * @param {number} T
 * @param {number} steps
 */
export function cubicTimes(T, steps) {
  const times = stepTimes(T, steps);
  for (let i = 1; i < steps; i++) {
    const nearest = roundToEven((T * (steps - i) ** 3) / steps ** 3);
    times[i] = Math.max(steps - i, Math.min(nearest, times[i - 1] - 1)); // decreasing, with room for the steps to come
  }
  return times;
}

/**
 * Like stepTimes, but starting at `start` and evenly spaced in log-SNR.
 *
 * @param {number[]} alphaBar
 * @param {number} steps
 * @param {number} start
 */
export function logSnrTimes(alphaBar, steps, start) {
  const T = alphaBar.length - 1;
  if (!(steps >= 1 && steps <= start && start <= T)) {
    throw new RangeError(`steps must be between 1 and start = ${start} (and start at most T = ${T}), not ${steps}`);
  }
  const logSnr = alphaBar.map((a) => Math.log(a / (1 - a))); // infinite at 0
  const low = Math.max(LOG_SNR_RANGE[0], Math.min(logSnr[start], LOG_SNR_RANGE[1]));
  const times = [start];
  for (let i = 1; i < steps; i++) {
    const target = low + ((LOG_SNR_RANGE[1] - low) * i) / steps;
    let nearest = 1;
    for (let t = 2; t <= T; t++) {
      if (Math.abs(logSnr[t] - target) < Math.abs(logSnr[nearest] - target)) nearest = t;
    }
    times.push(Math.max(steps - i, Math.min(nearest, times[i - 1] - 1))); // decreasing, with room for the steps to come
  }
  return [...times, 0];
}

/**
 * Round to the nearest integer, and halves to the even one, as Python does.
 *
 * @param {number} x
 */
export function roundToEven(x) {
  const down = Math.floor(x);
  if (x - down !== 0.5) return Math.round(x);
  return down % 2 === 0 ? down : down + 1;
}

/**
 * The schedules of schedule.py that need no model: ᾱ₀ … ᾱ_T.
 *
 * @type {Record<"linear" | "cosine" | "flow", (T: number) => number[]>}
 */
export const SCHEDULES = {
  linear: (T) => fromBeta(Array.from({ length: T }, (_, i) => 1e-4 + ((0.02 - 1e-4) * i) / (T - 1))),
  cosine(T) {
    const f = Array.from({ length: T + 1 }, (_, t) => Math.cos(((t / T + 0.008) / 1.008) * (Math.PI / 2)) ** 2);
    return fromBeta(f.slice(1).map((value, i) => Math.min(1 - value / f[i], 0.999)));
  },
  flow: (T) => Array.from({ length: T + 1 }, (_, t) => (T - t) ** 2 / ((T - t) ** 2 + t ** 2)),
};

/** ᾱ_t = (1−β₁) ⋯ (1−β_t). @param {number[]} beta  β₁ … β_T */
function fromBeta(beta) {
  const alphaBar = [1];
  for (const [i, value] of beta.entries()) alphaBar.push(alphaBar[i] * (1 - value));
  return alphaBar;
}
