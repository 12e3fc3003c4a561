// With the same network, dream.js and model.js match explore.melt, explore.inpaint and Model.stream to 1e-5.

import assert from "node:assert/strict";
import { test } from "node:test";

import { assertClose, golden, PAGE, standIn } from "./golden.mjs";

const { Dream } = await import(new URL("engine/dream.js", PAGE));
const { Model } = await import(new URL("engine/model.js", PAGE));
const { toImages, toPixels } = await import(new URL("engine/pack.js", PAGE));
const { dreams, pixels, wandering } = golden();

const modelOf = ({ info, table }) => new Model(info, standIn(info), new Float32Array(table));
const dreamOf = (model) => new Dream(async () => model);

for (const golden of dreams) {
  const { settings, info } = golden;
  const { num, sampler, label, guidance } = settings;
  const name = `${sampler}, ${info.prediction}, label ${JSON.stringify(label)}, guidance ${guidance}`;

  test(`frames: ${name}`, async () => {
    const dream = dreamOf(modelOf(golden));
    dream.set(3, settings, null);
    for (const [k, expected] of golden.frames.entries()) {
      assert.equal(dream.isDue, k === 0);
      const frame = await dream.nextFrame();
      assert.deepEqual([frame.id, frame.k, frame.pure, frame.num], [3, k, true, num]);
      assertClose(frame.x, expected, 1e-5, `frame ${k}`);
      const found = toPixels(frame.x, info);
      const [, C, H, W] = [num, info.channels, info.height, info.width];
      assertClose(found, golden.pixels[k], 1, `frame ${k} as bytes`);
      assert.equal(found.length, num * C * H * W);
    }
    dream.repaint(Uint8Array.from(golden.hole));
    const repainted = await dream.nextFrame();
    assert.deepEqual([repainted.k, repainted.pure], [golden.frames.length, false]);
    assertClose(repainted.x, golden.repainted, 1e-5, "repainted");
    for (let i = 0; i < repainted.x.length; i++) {
      if (!golden.hole[i % golden.hole.length]) {
        assert.ok(Math.abs(repainted.x[i] - golden.frames.at(-1)[i % (info.channels * golden.hole.length)]) <= 1e-5);
      }
    }
  });

  test(`trace: ${name}`, async () => {
    const { steps, calls } = await dreamOf(modelOf(golden)).trace(settings, null);
    assert.deepEqual(steps.map(({ s }) => s), golden.trace.map(({ s }) => s));
    assert.equal(calls, settings.steps * (guidance === 0 || guidance === 1 ? 1 : 2));
    for (const [i, { x0, next }] of golden.trace.entries()) {
      assertClose(steps[i].x0, x0, 1e-5, `step ${i}, x0`);
      assertClose(steps[i].next, next, 1e-5, `step ${i}`);
    }
  });
}

for (const golden of dreams) {
  const { settings, info } = golden;
  const size = info.channels * info.height * info.width;

  test(`the steps of a frame lead from the frame before it to the frame: ${settings.sampler}`, async () => {
    const dream = dreamOf(modelOf(golden));
    dream.set(3, settings, null);
    for (let k = 0; k < 3; k++) await dream.nextFrame();
    const { steps } = await dream.trace(settings, dream.traceable(2));
    assert.deepEqual([steps[0].t, steps[0].s], [0, settings.creativity]);
    assertClose(steps[0].x, golden.frames[1].slice(0, size), 1e-5);
    steps.forEach((step, i) => assert.deepEqual(step.next, steps[i + 1]?.x ?? step.next));
    assertClose(steps.at(-1).next.map((v) => Math.min(Math.max(v, -1), 1)), golden.frames[2].slice(0, size), 1e-5);
    const next = await dream.trace(settings, dream.traceable(3));
    const frame = await dream.nextFrame();
    assertClose(next.steps.at(-1).next.map((v) => Math.min(Math.max(v, -1), 1)), frame.x.slice(0, size), 1e-5);
  });

  test(`a sample is frame 0, beside the dream: ${settings.sampler}`, async () => {
    const dream = dreamOf(modelOf(golden));
    dream.set(3, { ...settings, seed: "1" }, null);
    const frame = await dream.sample(8, settings);
    assert.deepEqual([frame.id, frame.k, frame.num, dream.isDue], [8, 0, settings.num, true]);
    assertClose(frame.x, golden.frames[0], 1e-5);
  });
}

test("frames without sampling steps cannot be traced", async () => {
  const [{ settings, info, hole }] = dreams;
  const dream = dreamOf(modelOf(dreams[0]));
  assert.throws(() => dream.traceable(0), /no frame to trace yet/);
  const drawing = new Float32Array(settings.num * info.channels * info.height * info.width);
  dream.set(1, settings, drawing);
  await dream.nextFrame();
  assert.throws(() => dream.traceable(0), /frame 0 was drawn or repainted/);
  assert.deepEqual(dream.traceable(1).before, drawing);
  dream.repaint(Uint8Array.from(hole));
  await dream.nextFrame();
  assert.throws(() => dream.traceable(1), /frame 1 was drawn or repainted/);
  dream.set(2, { ...settings, creativity: 0 }, null);
  assert.throws(() => dream.traceable(2), /creativity 0/);
});

for (const golden of wandering) {
  const { sampler, label } = golden.settings;

  for (const motion of ["melt", "drift"]) {
    test(`${motion} with a new sample every 3 frames: ${sampler}, label ${JSON.stringify(label)}`, async () => {
      const dream = dreamOf(modelOf(golden));
      const settings = { ...golden.settings, motion, every: 3 };
      dream.set(1, settings, null);
      for (const [k, expected] of golden[motion].entries()) {
        const frame = await dream.nextFrame();
        assert.deepEqual([frame.k, frame.pure], [k, true]);
        assertClose(frame.x, expected, 2e-5, `frame ${k}`);
      }
      const { size } = modelOf(golden);
      for (const k of [5, 6]) { // the newest frame and the next one; frame 6 is a sample in both
        const { steps } = await dream.trace(settings, dream.traceable(k));
        const isSample = motion === "drift" || k === 6;
        assert.equal(steps[0].t, isSample ? golden.info.T : 0);
        const x = k === 5 ? golden[motion][5] : (await dream.nextFrame()).x;
        const last = steps.at(-1).next.map((value) => Math.min(Math.max(value, -1), 1));
        assertClose(last, x.slice(0, size), 2e-5, `steps of frame ${k}`);
      }
      dream.set(2, settings, null, 3); // the fourth frame does not need the three before it
      const frame = await dream.nextFrame();
      assert.deepEqual([frame.k, frame.pure], [3, true]);
      assertClose(frame.x, golden[motion][3], 2e-5, "started at frame 3");
    });
  }
}

// changes

const [case0] = dreams;
const { info, settings } = case0;
const size = settings.num * info.channels * info.height * info.width;

/** A dream after some frames, and the last of them. */
async function after(frames, dream = dreamOf(modelOf(case0)), chosen = settings) {
  dream.set(1, chosen, null);
  let frame;
  for (let i = 0; i < frames; i++) frame = await dream.nextFrame();
  return { dream, frame };
}

test("calls are counted", async () => {
  const { frame } = await after(1);
  assert.equal(frame.calls, settings.steps);
  const { frame: guided } = await after(1, undefined, { ...settings, guidance: 3 });
  assert.equal(guided.calls, 2 * settings.steps);
});

test("with creativity 0 the image stays the same, without a network call", async () => {
  const { dream, frame } = await after(1, undefined, { ...settings, creativity: 0 });
  const still = await dream.nextFrame();
  assert.deepEqual(still.x, frame.x);
  assert.deepEqual([still.k, still.calls, still.pure], [1, 0, true]);
});

test("fps, or the same settings again, leave a dream pure; after any other change it is not pure", async () => {
  const { dream } = await after(2);
  dream.set(2, { ...settings, fps: 10 }, null);
  assert.deepEqual([dream.isDue, (await dream.nextFrame()).pure], [false, true]);
  for (const change of [{ steps: 4 }, { creativity: 3 }, { eta: 0.5 }, { guidance: 2 }, { label: "none" }]) {
    const { dream } = await after(2);
    const running = dream.nextFrame();
    dream.set(2, { ...settings, ...change }, null);
    const [before, frame] = [await running, await dream.nextFrame()];
    assert.deepEqual([before.id, before.k, before.pure], [1, 2, true]);
    assert.deepEqual([frame.id, frame.k, frame.pure], [2, 3, false]);
    dream.restart();
    const restarted = await dream.nextFrame();
    assert.deepEqual([restarted.k, restarted.pure], [0, true]);
  }
});

test("another seed, num or model, or an image, restarts and cancels the running frame", async () => {
  const image = toImages(Uint8Array.from({ length: size }, (_, i) => (7 * i) % 256), info);
  for (const [change, startImage] of [[{ seed: "8" }], [{ num: 1 }], [{ model: "another" }], [{}, image]]) {
    const { dream } = await after(2);
    const running = dream.nextFrame();
    dream.set(2, { ...settings, ...change }, startImage ?? null);
    assert.equal(await running, null);
    assert.ok(dream.isDue);
    const frame = await dream.nextFrame();
    assert.deepEqual([frame.id, frame.k, frame.pure, dream.isDue], [2, 0, !startImage, false]);
    if (startImage) {
      assert.deepEqual([frame.x, frame.calls], [image, 0]);
      await dream.nextFrame();
      dream.restart();
      assert.deepEqual((await dream.nextFrame()).x, image);
      dream.set(3, { ...settings, seed: "9" }, null); // a new seed drops the image
      assert.ok((await dream.nextFrame()).calls > 0);
    }
  }
});

test("frames after an image are the same as after an equal sample", async () => {
  const image = Float32Array.from(case0.frames[0]);
  const dream = dreamOf(modelOf(case0));
  dream.set(1, settings, image);
  await dream.nextFrame();
  assertClose((await dream.nextFrame()).x, case0.frames[1], 1e-5);
});

test("a repaint waits for frame 0, and a restart cancels it", async () => {
  const { dream } = await after(0);
  dream.repaint(Uint8Array.from(case0.hole));
  assert.deepEqual([(await dream.nextFrame()).pure, dream.isDue], [true, true]);
  dream.restart();
  await dream.nextFrame();
  assert.equal(dream.isDue, false);
});

test("a network error is thrown, and the next frame is frame 0", async () => {
  let fails = true;
  const model = modelOf(case0);
  const failing = model.withNetwork(async (...inputs) => {
    if (fails) throw new Error("out of memory");
    return model.network(...inputs);
  });
  const dream = dreamOf(failing);
  dream.set(1, settings, null);
  await assert.rejects(dream.nextFrame(), /out of memory/);
  assert.equal(dream.isDue, false);
  fails = false;
  assert.equal((await dream.nextFrame()).k, 0);
});

test("a frame needs settings", async () => {
  await assert.rejects(dreamOf(modelOf(case0)).nextFrame(), /call set\(\) first/);
});

// bytes

test("images convert to bytes as in render.to_uint8, and back as in data/arrays.py", () => {
  const row = { channels: 1, height: 1, width: pixels.numbers.length };
  assert.deepEqual([...toPixels(Float32Array.from(pixels.numbers), row)], pixels.bytes);
  const all = Uint8Array.from({ length: 256 }, (_, i) => i);
  const images = toImages(all, { channels: 1, height: 1, width: 256 });
  assert.deepEqual([...images], pixels.of_bytes);
  assert.deepEqual(toPixels(images, { channels: 1, height: 1, width: 256 }), all);
});

test("bytes are (N, H, W, C), images (N, C, H, W)", () => {
  const size = { channels: 3, height: 2, width: 2 };
  const bytes = Uint8Array.from({ length: 24 }, (_, i) => 10 * i);
  const images = toImages(bytes, size);
  const byteOf = (i) => Math.round((images[i] + 1) * 127.5);
  assert.deepEqual([0, 1, 2, 3, 4, 12].map(byteOf), [0, 30, 60, 90, 10, 120]);
  assert.deepEqual(toPixels(images, size), bytes);
});
