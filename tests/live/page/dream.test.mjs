// dream.js and model.js dream what explore.melt, explore.inpaint and Model.stream dream, of the same network: to 1e-5.

import assert from "node:assert/strict";
import { test } from "node:test";

import { assertClose, golden, PAGE, standIn } from "./golden.mjs";

const { Dream } = await import(new URL("engine/dream.js", PAGE));
const { Model } = await import(new URL("engine/model.js", PAGE));
const { toImages, toPixels } = await import(new URL("engine/pack.js", PAGE));
const { dreams, pixels } = golden();

const modelOf = ({ info, table }) => new Model(info, standIn(info), new Float32Array(table));
const dreamOf = (model) => new Dream(async () => model);

for (const one of dreams) {
  const { settings, info } = one;
  const { num, sampler, label, guidance } = settings;
  const name = `${sampler}, ${info.prediction}, label ${JSON.stringify(label)}, guidance ${guidance}`;

  test(`melting: ${name}`, async () => {
    const dream = dreamOf(modelOf(one));
    dream.set(3, settings, null);
    for (const [k, expected] of one.frames.entries()) {
      assert.equal(dream.isDue, k === 0);
      const frame = await dream.frame();
      assert.deepEqual([frame.id, frame.k, frame.pure, frame.num], [3, k, true, num]);
      assertClose(frame.x, expected, 1e-5, `frame ${k}`);
      const found = toPixels(frame.x, info);
      const [, C, H, W] = [num, info.channels, info.height, info.width];
      assertClose(found, one.pixels[k], 1, `frame ${k} as bytes`);
      assert.equal(found.length, num * C * H * W);
    }
    dream.repaint(Uint8Array.from(one.hole));
    const repainted = await dream.frame();
    assert.deepEqual([repainted.k, repainted.pure], [one.frames.length, false]);
    assertClose(repainted.x, one.repainted, 1e-5, "repainted");
    for (let i = 0; i < repainted.x.length; i++) {
      if (!one.hole[i % one.hole.length]) {
        assert.ok(Math.abs(repainted.x[i] - one.frames.at(-1)[i % (info.channels * one.hole.length)]) <= 1e-5);
      }
    }
  });

  test(`trace: ${name}`, async () => {
    const { steps, calls } = await dreamOf(modelOf(one)).trace(settings);
    assert.deepEqual(steps.map(({ s }) => s), one.trace.map(({ s }) => s));
    assert.equal(calls, settings.steps * (guidance === 0 || guidance === 1 ? 1 : 2));
    for (const [i, { x0, next }] of one.trace.entries()) {
      assertClose(steps[i].x0, x0, 1e-5, `step ${i}, x0`);
      assertClose(steps[i].next, next, 1e-5, `step ${i}`);
    }
  });
}

// what changes a dream

const [case0] = dreams;
const { info, settings } = case0;
const size = settings.num * info.channels * info.height * info.width;

/** The dream after so many frames, and the last of them. */
async function after(frames, dream = dreamOf(modelOf(case0)), of = settings) {
  dream.set(1, of, null);
  let frame;
  for (let i = 0; i < frames; i++) frame = await dream.frame();
  return { dream, frame };
}

test("calls are counted", async () => {
  const { frame } = await after(1);
  assert.equal(frame.calls, settings.steps);
  const { frame: guided } = await after(1, undefined, { ...settings, guidance: 3 });
  assert.equal(guided.calls, 2 * settings.steps);
});

test("a dream of creativity 0 stands still without a call", async () => {
  const { dream, frame } = await after(1, undefined, { ...settings, creativity: 0 });
  const still = await dream.frame();
  assert.deepEqual(still.x, frame.x);
  assert.deepEqual([still.k, still.calls, still.pure], [1, 0, true]);
});

test("fps, or the same settings again, leave a dream pure; any other change does not, from the next frame on", async () => {
  const { dream } = await after(2);
  dream.set(2, { ...settings, fps: 10 }, null);
  assert.deepEqual([dream.isDue, (await dream.frame()).pure], [false, true]);
  for (const change of [{ steps: 4 }, { creativity: 3 }, { eta: 0.5 }, { guidance: 2 }, { label: "none" }]) {
    const { dream } = await after(2);
    const underWay = dream.frame();
    dream.set(2, { ...settings, ...change }, null);
    const [before, frame] = [await underWay, await dream.frame()];
    assert.deepEqual([before.id, before.k, before.pure], [1, 2, true]);
    assert.deepEqual([frame.id, frame.k, frame.pure], [2, 3, false]);
    dream.restart();
    const again = await dream.frame();
    assert.deepEqual([again.k, again.pure], [0, true]);
  }
});

test("another seed, num or model, or an image, begins again and abandons what is under way", async () => {
  const image = toImages(Uint8Array.from({ length: size }, (_, i) => (7 * i) % 256), info);
  for (const [change, given] of [[{ seed: "8" }], [{ num: 1 }], [{ model: "another" }], [{}, image]]) {
    const { dream } = await after(2);
    const underWay = dream.frame();
    dream.set(2, { ...settings, ...change }, given ?? null);
    assert.equal(await underWay, null);
    assert.ok(dream.isDue);
    const frame = await dream.frame();
    assert.deepEqual([frame.id, frame.k, frame.pure, dream.isDue], [2, 0, !given, false]);
    if (given) {
      assert.deepEqual([frame.x, frame.calls], [image, 0]);
      await dream.frame();
      dream.restart();
      assert.deepEqual((await dream.frame()).x, image);
      dream.set(3, { ...settings, seed: "9" }, null); // and a new seed forgets the image
      assert.ok((await dream.frame()).calls > 0);
    }
  }
});

test("an image melts as a sample does", async () => {
  const image = Float32Array.from(case0.frames[0]);
  const dream = dreamOf(modelOf(case0));
  dream.set(1, settings, image);
  await dream.frame();
  assertClose((await dream.frame()).x, case0.frames[1], 1e-5);
});

test("a repaint waits for frame 0, and is forgotten by a new beginning", async () => {
  const { dream } = await after(0);
  dream.repaint(Uint8Array.from(case0.hole));
  assert.deepEqual([(await dream.frame()).pure, dream.isDue], [true, true]);
  dream.restart();
  await dream.frame();
  assert.equal(dream.isDue, false);
});

test("a network that fails is told of, and the next frame begins at 0", async () => {
  let fails = true;
  const model = modelOf(case0);
  const weak = model.over(async (...inputs) => {
    if (fails) throw new Error("out of memory");
    return model.network(...inputs);
  });
  const dream = dreamOf(weak);
  dream.set(1, settings, null);
  await assert.rejects(dream.frame(), /out of memory/);
  assert.equal(dream.isDue, false);
  fails = false;
  assert.equal((await dream.frame()).k, 0);
});

test("without settings there is nothing to dream", async () => {
  await assert.rejects(dreamOf(modelOf(case0)).frame(), /`set` comes first/);
});

// bytes

test("numbers become bytes as in render.to_uint8, and bytes numbers as in Arrays", () => {
  const one = { channels: 1, height: 1, width: pixels.numbers.length };
  assert.deepEqual([...toPixels(Float32Array.from(pixels.numbers), one)], pixels.bytes);
  const all = Uint8Array.from({ length: 256 }, (_, i) => i);
  const images = toImages(all, { channels: 1, height: 1, width: 256 });
  assert.deepEqual([...images], pixels.of_bytes);
  assert.deepEqual(toPixels(images, { channels: 1, height: 1, width: 256 }), all);
});

test("channels stand together in bytes, and apart in images", () => {
  const of = { channels: 3, height: 2, width: 2 };
  const bytes = Uint8Array.from({ length: 24 }, (_, i) => 10 * i);
  const images = toImages(bytes, of);
  const red = (i) => Math.round((images[i] + 1) * 127.5);
  assert.deepEqual([0, 1, 2, 3, 4, 12].map(red), [0, 30, 60, 90, 10, 120]);
  assert.deepEqual(toPixels(images, of), bytes);
});
