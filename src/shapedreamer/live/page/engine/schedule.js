/**
 * Times that samplers visit: as src/shapedreamer/schedule.py chooses them, to the last tie.
 *
 * A schedule is its table alphaBar (ᾱ): T + 1 numbers that fall from ᾱ₀ = 1. It comes with the model.
 */

const LOG_SNR = [-7, 5]; // between these an image is decided

/**
 * The times of a sampler of `steps` steps: T, then evenly down, then 0.
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
 * Like stepTimes, but even in ∛t.
 *
 * @param {number} T
 * @param {number} steps
 */
export function cubicTimes(T, steps) {
  const times = stepTimes(T, steps);
  for (let i = 1; i < steps; i++) {
    const nearest = roundToEven((T * (steps - i) ** 3) / steps ** 3);
    times[i] = Math.max(steps - i, Math.min(nearest, times[i - 1] - 1)); // below the last, and enough left for the rest
  }
  return times;
}

/**
 * Like stepTimes, but from `start` on and even in log-SNR.
 *
 * @param {number[]} alphaBar
 * @param {number} steps
 * @param {number} start
 */
export function logSnrTimes(alphaBar, steps, start) {
  const T = alphaBar.length - 1;
  if (!(steps >= 1 && steps <= start && start <= T)) {
    throw new RangeError(`steps must be between 1 and ${start}, and that at most T = ${T}, not ${steps}`);
  }
  const level = alphaBar.map((a) => Math.log(a / (1 - a))); // infinite at 0
  const low = Math.max(LOG_SNR[0], Math.min(level[start], LOG_SNR[1]));
  const times = [start];
  for (let i = 1; i < steps; i++) {
    const wanted = low + ((LOG_SNR[1] - low) * i) / steps;
    let nearest = 1;
    for (let t = 2; t <= T; t++) {
      if (Math.abs(level[t] - wanted) < Math.abs(level[nearest] - wanted)) nearest = t;
    }
    times.push(Math.max(steps - i, Math.min(nearest, times[i - 1] - 1))); // all distinct, and enough left for the rest
  }
  return [...times, 0];
}

/**
 * To the nearest integer, and from the middle between two to the even one, as Python rounds.
 *
 * @param {number} x
 */
export function roundToEven(x) {
  const down = Math.floor(x);
  if (x - down !== 0.5) return Math.round(x);
  return down % 2 === 0 ? down : down + 1;
}
