/**
 * Counter-based noise: standard normal numbers as a function of (seed, step, image index, pixel), the same in every
 * language.
 *
 * docs/noise.md is the specification, src/shapedreamer/common/noise.py the Python version. A word is a Number in
 * 0…2³²−1, a seed a BigInt in 0…2⁶⁴−1. Bitwise operators return signed words; `>>> 0` makes them unsigned again.
 *
 * @typedef {Float32Array | Float64Array} Floats  images (N, C, H, W), flattened
 * @typedef {[number, number]} Pair               two words
 */

const ROTATIONS = [13, 15, 26, 6, 17, 29, 16, 24];
const MAX_WORD = 2 ** 32 - 1;

/**
 * Threefry-2x32 with 20 rounds: two random words from a key and a counter.
 *
 * @param {Pair} key
 * @param {Pair} counter
 * @returns {Pair}
 */
export function threefry2x32([k0, k1], [c0, c1]) {
  const keys = [k0, k1, 0x1bd11bda ^ k0 ^ k1];
  let x0 = (c0 + k0) | 0;
  let x1 = (c1 + k1) | 0;
  for (let round = 0; round < 20; round++) {
    const r = ROTATIONS[round % 8];
    x0 = (x0 + x1) | 0;
    x1 = ((x1 << r) | (x1 >>> (32 - r))) ^ x0;
    if (round % 4 === 3) {
      const j = (round + 1) / 4;
      x0 = (x0 + keys[j % 3]) | 0;
      x1 = (x1 + keys[(j + 1) % 3] + j) | 0;
    }
  }
  return [x0 >>> 0, x1 >>> 0];
}

/**
 * A new seed derived from (seed, numbers…). It gives each use of a seed an independent stream.
 *
 * @param {bigint} seed
 * @param {...number} numbers  words
 */
export function fold(seed, ...numbers) {
  for (const number of numbers) {
    const [high, low] = threefry2x32(keyOf(seed), [word(number), numbers.length]);
    seed = (BigInt(high) << 32n) | BigInt(low);
  }
  return seed;
}

/**
 * The first `count` random words of an image.
 *
 * @param {bigint} seed
 * @param {number} index
 * @param {number} count
 */
export function bits(seed, index, count) {
  const key = keyOf(seed);
  const words = new Uint32Array(count + (count % 2));
  for (let q = 0; 2 * q < count; q++) {
    words.set(threefry2x32(key, [word(index), q]), 2 * q);
  }
  return words.subarray(0, count);
}

/**
 * The standard normal numbers of the first `count` values of an image at `step`.
 *
 * @param {bigint} seed
 * @param {number} step
 * @param {number} index
 * @param {number} count
 */
export function normal(seed, step, index, count) {
  const words = bits(fold(seed, step), index, count + (count % 2));
  const z = new Float64Array(words.length);
  for (let p = 0; p < count; p += 2) {
    const radius = Math.sqrt(-2 * Math.log((words[p] + 0.5) * 2 ** -32)); // + 0.5 avoids log 0
    const angle = 2 * Math.PI * ((words[p + 1] + 0.5) * 2 ** -32);
    z[p] = radius * Math.cos(angle);
    z[p + 1] = radius * Math.sin(angle);
  }
  return z.subarray(0, count);
}

/**
 * The noise source of the images first…first + num − 1 of a seed. Step 0 is the initial noise x_T; step t ≥ 1 is the
 * noise that a sampler adds when it leaves timestep t.
 *
 * @typedef {<A extends Floats>(step: number, like: A) => A} Noise  noise of the length and type of `like`
 * @param {bigint} seed
 * @param {number} first
 * @param {number} num
 * @returns {Noise}
 */
export function noiseOf(seed, first, num) {
  return (step, like) => {
    const out = like.slice();
    const pixels = like.length / num;
    for (let i = 0; i < num; i++) out.set(normal(seed, step, first + i, pixels), i * pixels);
    return /** @type {typeof like} */ (out);
  };
}

/**
 * Noise on the great circle from one noise (fraction 0) to another (fraction 1), at every step: `InterpolatedNoise` in
 * src/shapedreamer/imaging/editing.py.
 *
 * @param {Noise} start
 * @param {Noise} to
 * @param {number} fraction
 * @param {number} num
 * @returns {Noise}
 */
export function noiseBetween(start, to, fraction, num) {
  return (step, like) => {
    const [a, b] = [start(step, like), to(step, like)];
    const pixels = a.length / num;
    for (let i = 0; i < a.length; i += pixels) {
      a.set(slerp(a.subarray(i, i + pixels), b.subarray(i, i + pixels), fraction), i);
    }
    return a;
  };
}

/**
 * From a (fraction 0) to b (fraction 1) along the great circle through both (Shoemake 1985), or along the straight line
 * where they point the same way or opposite ways.
 *
 * @template {Floats} A
 * @param {A} a  one image
 * @param {Floats} b
 * @param {number} fraction
 */
function slerp(a, b, fraction) {
  let [dot, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    dot += a[i] * b[i];
    aa += a[i] ** 2;
    bb += b[i] ** 2;
  }
  const angle = Math.acos(Math.min(Math.max(dot / Math.sqrt(aa * bb), -1), 1));
  const sine = Math.sin(angle);
  const [fromA, fromB] = [1 - fraction, fraction].map((part) => (sine > 1e-3 ? Math.sin(part * angle) / sine : part));
  return a.map((value, i) => fromA * value + fromB * b[i]);
}

/** @param {bigint} seed @returns {Pair} */
function keyOf(seed) {
  if (seed < 0n || seed >= 1n << 64n) throw new RangeError(`seed must be between 0 and 2⁶⁴−1, not ${seed}`);
  return [Number(seed >> 32n), Number(seed & 0xffffffffn)];
}

/** @param {number} number */
function word(number) {
  if (!(number >= 0 && number <= MAX_WORD)) {
    throw new RangeError(`steps and image indices must be between 0 and 2³²−1, not ${number}`);
  }
  return number;
}
