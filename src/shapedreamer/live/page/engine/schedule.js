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
