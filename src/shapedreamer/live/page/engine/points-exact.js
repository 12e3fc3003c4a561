/**
 * The exact denoiser of points, in closed form: each of the K points is the centre of a Gaussian of standard deviation
 * `blur` (0: a point mass), all with weight 1/K. So x_t is a mixture too, of Gaussians with centres α μ_k and variance
 * α² blur² + σ², for α = √ᾱ_t and σ² = 1−ᾱ_t. See gaussian_mixture in src/shapedreamer/diffusion/oracle.py.
 */

/** A mixture. @typedef {{points: Float64Array, blur: number}} Mixture   points: (K, 2) */

/**
 * E[x₀ | x_t] at each x_t, (N, 2): the average of the points, weighted by how likely each of them became x_t.
 *
 * @param {Mixture} mixture
 * @param {ArrayLike<number>} x
 * @param {number} alphaBar
 */
export function exactX0({ points, blur }, x, alphaBar) {
  const out = new Float64Array(x.length);
  const weights = new Float64Array(points.length / 2);
  const alpha = Math.sqrt(alphaBar);
  const variance = alphaBar * blur ** 2 + 1 - alphaBar;
  const gain = (alpha * blur ** 2) / variance;
  for (let i = 0; i < x.length; i += 2) {
    posterior({ points, blur }, x[i], x[i + 1], alphaBar, weights);
    let [meanX, meanY] = [0, 0];
    for (let k = 0; k < weights.length; k++) {
      meanX += weights[k] * points[2 * k];
      meanY += weights[k] * points[2 * k + 1];
    }
    out[i] = meanX + gain * (x[i] - alpha * meanX);
    out[i + 1] = meanY + gain * (x[i + 1] - alpha * meanY);
  }
  return out;
}

/**
 * The probability p(k | x_t) that x_t came from point k.
 *
 * @param {Mixture} mixture
 * @param {number} x
 * @param {number} y
 * @param {number} alphaBar
 * @param {Float64Array} out  (K,)
 */
export function posterior({ points, blur }, x, y, alphaBar, out) {
  const alpha = Math.sqrt(alphaBar);
  const scale = 0.5 / (alphaBar * blur ** 2 + 1 - alphaBar);
  let nearest = Infinity;
  for (let k = 0; k < out.length; k++) {
    out[k] = scale * ((x - alpha * points[2 * k]) ** 2 + (y - alpha * points[2 * k + 1]) ** 2);
    if (out[k] < nearest) nearest = out[k];
  }
  let sum = 0;
  for (let k = 0; k < out.length; k++) sum += out[k] = Math.exp(nearest - out[k]);
  for (let k = 0; k < out.length; k++) out[k] /= sum;
  return out;
}

/**
 * The density of x_t on a grid of size × size points at the centres of equal squares, row by row from the top.
 *
 * A Gaussian factors into x and y, so this is a product of two matrices.
 *
 * @param {Mixture} mixture
 * @param {number} alphaBar
 * @param {number} size
 * @param {number} range    the grid spans ±range
 * @param {number} minStd   a lower bound of the Gaussians' width, so that none falls between the grid points
 */
export function density({ points, blur }, alphaBar, size, range, minStd) {
  const num = points.length / 2;
  const variance = Math.max(alphaBar * blur ** 2 + 1 - alphaBar, minStd ** 2);
  const alpha = Math.sqrt(alphaBar);
  const [columns, rows] = [new Float64Array(size * num), new Float64Array(size * num)];
  for (let i = 0; i < size; i++) {
    const at = ((2 * i + 1) / size - 1) * range;
    for (let k = 0; k < num; k++) {
      columns[i * num + k] = Math.exp((-0.5 * (at - alpha * points[2 * k]) ** 2) / variance);
      rows[i * num + k] = Math.exp((-0.5 * (-at - alpha * points[2 * k + 1]) ** 2) / variance);
    }
  }
  const out = new Float64Array(size * size);
  const scale = 1 / (2 * Math.PI * variance * num);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) {
      let sum = 0;
      for (let k = 0; k < num; k++) sum += rows[i * num + k] * columns[j * num + k];
      out[i * size + j] = scale * sum;
    }
  }
  return out;
}

/**
 * The score ∇ log p_t(x_t) = (√ᾱ x̂₀ − x_t)/(1−ᾱ), from a denoiser's x̂₀.
 *
 * @param {ArrayLike<number>} x
 * @param {ArrayLike<number>} x0
 * @param {number} alphaBar  below 1
 */
export function scoreOf(x, x0, alphaBar) {
  return Float64Array.from(x, (value, i) => (Math.sqrt(alphaBar) * x0[i] - value) / (1 - alphaBar));
}

/**
 * The energy distance of two clouds, 2 E|X−Y| − E|X−X'| − E|Y−Y'| (Székely & Rizzo 2013): 0 only if they are equal.
 *
 * @param {ArrayLike<number>} X  (N, 2)
 * @param {ArrayLike<number>} Y  (M, 2)
 * @param {number} [spread]      E|Y−Y'|, if it is known
 */
export function energyDistance(X, Y, spread = meanDistance(Y, Y)) {
  return 2 * meanDistance(X, Y) - meanDistance(X, X) - spread;
}

/** E|X−Y|, for points drawn independently from two clouds. @param {ArrayLike<number>} X @param {ArrayLike<number>} Y */
export function meanDistance(X, Y) {
  let sum = 0;
  for (let i = 0; i < X.length; i += 2) {
    for (let j = 0; j < Y.length; j += 2) sum += Math.sqrt((X[i] - Y[j]) ** 2 + (X[i + 1] - Y[j + 1]) ** 2);
  }
  return sum / ((X.length / 2) * (Y.length / 2));
}
