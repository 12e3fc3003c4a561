// The view Points: its mathematics equals Python's, its gradients are right, it learns, and its URL stores everything.

import assert from "node:assert/strict";
import { test } from "node:test";

import { assertClose, golden, PAGE } from "./golden.mjs";

const load = (name) => import(new URL(`engine/${name}.js`, PAGE));
const { erase, fromBytes, MAX_POINTS, paint, RANGE, SHAPES, shapePoints, toBytes } = await load("points-data");
const { density, energyDistance, exactX0, posterior, scoreOf } = await load("points-exact");
const { coefficients, countParameters, multiply, PointNetwork, WIDTHS } = await load("points-network");
const { makeJudge, SAMPLES, samplePath } = await load("points-sampling");
const { defaults, fromPointsHash, toPointsHash } = await load("points-state");
const { drawData, networkX0, Trainer } = await load("points-training");
const { normal } = await load("noise");
const { SCHEDULES } = await load("schedule");

const expected = golden().points;
const means = Float64Array.from(expected.means);

test("schedules are those of schedule.py", () => {
  for (const [name, alphaBar] of Object.entries(expected.alpha_bar)) {
    assertClose(SCHEDULES[name](1000), alphaBar, 1e-12, name);
  }
});

test("the exact denoiser is oracle.gaussian_mixture, and oracle.finite_data for point masses", () => {
  for (const { schedule, t, blur, x0 } of expected.denoised) {
    const found = exactX0({ points: means, blur }, expected.x, expected.alpha_bar[schedule][t]);
    assertClose(found, x0, 1e-9, `${schedule}, t ${t}, blur ${blur}`);
  }
});

test("the network's targets are those of process.py, and x̂₀ follows from them", () => {
  for (const { alpha_bar, prediction, x_t, target } of expected.targets) {
    const { p, q } = coefficients(prediction, alpha_bar);
    assertClose(x_t.map((x, i) => p * means[i] + q * x), target, 1e-9, prediction);
    assertClose(target.map((output, i) => (output - q * x_t[i]) / p), [...means], 1e-9, prediction);
  }
});

test("samples are those of samplers.py", async () => {
  for (const { schedule, sampler, calls, seed, x } of expected.samples) {
    const alphaBar = SCHEDULES[schedule](1000);
    let made = 0;
    const denoise = async (x, t) => {
      made++;
      return exactX0({ points: means, blur: 0.2 }, x, alphaBar[t]);
    };
    const path = await samplePath({ sampler, calls }, denoise, alphaBar, BigInt(seed));
    assertClose(path.x.at(-1).subarray(0, 6), x, 1e-5, `${schedule}, ${sampler}, ${calls} calls`); // stored as float32
    assert.equal(path.x.at(-1).length, 2 * SAMPLES);
    assert.ok(made <= calls, `${sampler} makes ${made} of ${calls} calls`);
    assert.deepEqual([path.times[0], path.times.at(-1)], [1000, 0]);
  }
});

test("the density integrates to 1, and the score is the gradient of its logarithm", () => {
  const mixture = { points: means, blur: 0.3 };
  for (const alphaBar of [0.9, 0.5, 0.01]) {
    const total = density(mixture, alphaBar, 200, 8, 0).reduce((a, b) => a + b) * (16 / 200) ** 2;
    assertClose([total], [1], 1e-6);
    const [size, range, row, column] = [400, 4, 170, 208];
    const values = density(mixture, alphaBar, size, range, 0);
    const [cell, at] = [(2 * range) / size, row * size + column];
    const slope = [at + 1, at - size].map((next) => Math.log(values[next] / values[2 * at - next]) / (2 * cell));
    const point = [(column + 0.5) * cell - range, range - (row + 0.5) * cell];
    assertClose(scoreOf(point, exactX0(mixture, point, alphaBar), alphaBar), slope, 5e-3);
  }
});

test("the weights of the data points sum to 1 and give x̂₀", () => {
  const weights = posterior({ points: means, blur: 0 }, 0.3, -0.2, 0.4, new Float64Array(5));
  assertClose([weights.reduce((a, b) => a + b)], [1], 1e-12);
  const mean = [0, 1].map((c) => weights.reduce((sum, weight, k) => sum + weight * means[2 * k + c], 0));
  assertClose(exactX0({ points: means, blur: 0 }, [0.3, -0.2], 0.4), mean, 1e-12);
});

test("the energy distance of two points is twice their distance, and of equal clouds 0", () => {
  assertClose([energyDistance([0, 0], [3, 4]), energyDistance(means, means)], [10, 0], 1e-12);
});

test("samples of the exact denoiser are as close to the data as the data is", async () => {
  const mixture = { points: shapePoints("moons"), blur: 0.05 };
  const alphaBar = SCHEDULES.cosine(1000);
  const { baseline, distance } = makeJudge(mixture, 1n);
  const denoise = async (x, t) => exactX0(mixture, x, alphaBar[t]);
  const path = await samplePath({ sampler: "heun", calls: 30 }, denoise, alphaBar, 1n);
  assert.ok(distance(path.x.at(-1)) < 2 * baseline, `${distance(path.x.at(-1))}, ${baseline}`);
  assert.ok(distance(path.x[0]) > 10 * baseline);
});

test("matrices of any shape are multiplied", () => {
  for (const [n, k, m] of [[1, 1, 1], [2, 3, 4], [3, 5, 6], [5, 2, 9]]) {
    const [A, B] = [normal(1n, 0, 0, n * k), normal(1n, 1, 0, m * k)];
    const C = new Float64Array(n * m);
    multiply(A, B, C, n, k, m);
    const wanted = Array.from(C, (_, at) => {
      const [i, j] = [Math.floor(at / m), at % m];
      return Array.from({ length: k }, (_, l) => A[i * k + l] * B[j * k + l]).reduce((a, b) => a + b);
    });
    assertClose(C, wanted, 1e-12);
  }
});

test("gradients are finite differences", () => {
  const network = new PointNetwork(normal(5n, 0, 0, countParameters()).map((z) => 0.2 * z));
  const input = normal(5n, 1, 0, 7 * WIDTHS[0]);
  const weights = normal(5n, 2, 0, 14);
  const loss = () => network.forward(input).reduce((sum, y, i) => sum + weights[i] * y ** 2, 0);
  const output = network.forward(input);
  network.backward(output.map((y, i) => 2 * weights[i] * y));
  const [h, { parameters }] = [1e-5, network];
  const scale = Math.hypot(...network.gradient) / Math.sqrt(parameters.length);
  for (let i = 0; i < parameters.length; i += 37) {
    const kept = parameters[i];
    const [high, low] = [h, -h].map((step) => ((parameters[i] = kept + step), loss()));
    parameters[i] = kept;
    assertClose([network.gradient[i]], [(high - low) / (2 * h)], 1e-5 * scale, `parameter ${i}`);
  }
});

test("training cuts the excess over the exact denoiser's loss, and is a function of the seed", () => {
  const mixture = { points: shapePoints("moons"), blur: 0.05 };
  for (const [schedule, prediction] of [["cosine", "v"], ["flow", "flow"]]) {
    const [trainer, twin] = [0, 1].map(() => new Trainer({ mixture, schedule, prediction, seed: 7n }));
    const losses = Array.from({ length: 200 }, () => trainer.step());
    const excess = (from, to) => {
      const steps = losses.slice(from, to).map((loss, i) => loss - trainer.exactLoss(from + i));
      return steps.reduce((a, b) => a + b) / steps.length;
    };
    assert.ok(excess(0, 10) > 0.1);
    assert.ok(excess(160, 200) > 0, "no network beats the exact denoiser");
    assert.ok(excess(160, 200) < 0.6 * excess(0, 10), `${prediction}: ${excess(0, 10)} → ${excess(160, 200)}`);
    for (let step = 0; step < 3; step++) assert.equal(twin.step(), losses[step]);
  }
});

test("a network's x̂₀ fits its prediction type", () => {
  const network = PointNetwork.random(1n); // outputs 0
  const x = [0.4, -1.2];
  assertClose(networkX0(network, "x0", x, 0.3), [0, 0], 1e-12);
  assertClose(networkX0(network, "eps", x, 0.25), x.map((value) => value / 0.5), 1e-12);
  assertClose(networkX0(network, "v", x, 0.25), x.map((value) => value * 0.5), 1e-12);
});

test("shapes stay inside the plot; draws from a mixture have its mean", () => {
  for (const name of Object.keys(SHAPES)) {
    const points = shapePoints(name);
    assert.equal(points.length, 2 * MAX_POINTS);
    assert.ok(points.every((value) => Math.abs(value) < RANGE), name);
  }
  const cloud = drawData({ points: Float64Array.of(1, 2), blur: 0.1 }, 3n, 500);
  const mean = [0, 1].map((c) => cloud.filter((_, i) => i % 2 === c).reduce((a, b) => a + b) / 500);
  assertClose(mean, [1, 2], 0.02);
});

test("drawing adds points near the brush up to the limit, and the eraser removes them", () => {
  let bytes = new Uint8Array();
  for (let i = 0; i < MAX_POINTS; i++) bytes = paint(bytes, 1, -1);
  assert.equal(bytes.length, 2 * MAX_POINTS);
  assert.equal(paint(bytes, 0, 0), bytes);
  assert.deepEqual(toBytes(fromBytes(bytes)), bytes);
  assert.equal(erase(bytes, -2, 2), bytes);
  const left = erase(bytes, 1, -1);
  assert.ok(left.length < 0.05 * bytes.length);
});

test("every state survives the round trip through the URL", () => {
  const plots = [
    { denoiser: "network", sampler: "heun_line", calls: 50 },
    { denoiser: "exact", sampler: "ddpm", calls: 1 },
  ];
  for (const state of [
    defaults(),
    { ...defaults(), data: "drawn", drawn: Uint8Array.of(1, 2, 255, 0), blur: 0, layers: [], t: 1000, train: 0 },
    { ...defaults(), data: "letters", schedule: "flow", prediction: "flow", seed: `${2n ** 64n - 1n}`, plots },
  ]) {
    assert.deepEqual(fromPointsHash(`#${toPointsHash(state)}`), { state, problems: [] });
  }
});

test("each invalid part of a URL is replaced and reported", () => {
  for (const part of [
    "data=nothing", "blur=0.4", "blur=x", "schedule=fast", "prediction=y", "seed=-1", "seed=18446744073709551616",
    "plots=exact-ddim-20+exact-ddim-20+exact-ddim-20", "plots=exact-ddim-51", "plots=exact-none-5", "plots=",
    "show=everything", "t=1001", "t=1.5", "train=999999", "points=%F0", "points=AAAA", "plots=toString-ddim-5",
  ]) {
    const { state, problems } = fromPointsHash(part);
    assert.equal(problems.length, 1, part);
    assert.deepEqual(state, defaults(), part);
  }
  const { state, problems } = fromPointsHash("schedule=flow&prediction=eps");
  assert.deepEqual([state.prediction, problems.length], ["v", 1]);
});
