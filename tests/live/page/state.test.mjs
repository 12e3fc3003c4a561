// Every state survives the round trip through the URL, and no URL leads to an invalid state.

import assert from "node:assert/strict";
import { test } from "node:test";

import { PAGE } from "./golden.mjs";
import { MODELS, plain, sprites } from "./models.mjs";

const { defaults, fromUrlHash, MAX_FRAME, MAX_IMAGE_TEXT, MAX_SEED, normalize, problem, toUrlHash } = await import(
  new URL("engine/state.js", PAGE)
);
const { isSample, startFor } = await import(new URL("engine/state.js", PAGE));
const { inflate, deflate, reduceBits, restoreBits, toBase64Url } = await import(new URL("files/bytes.js", PAGE));

const home = {
  settings: defaults(sprites),
  frame: 0,
  image: null,
  paused: false,
  view: "dream",
  scale: 0,
  scope: null,
  tour: null,
  epoch: null,
  calls: null,
};
const picture = Uint8Array.from({ length: 4 * 12 }, (_, i) => (i * 37) % 256);

const PLACES = {
  home,
  "every setting": {
    ...home,
    settings: {
      model: "runs/plain",
      seed: `${MAX_SEED}`,
      num: 16,
      sampler: "heun",
      steps: 40,
      eta: 0,
      guidance: 1,
      creativity: 40,
      label: "none",
      fps: 60,
      motion: "drift",
      every: 1000,
    },
    paused: true,
    frame: MAX_FRAME,
    view: "microscope",
    scale: 7,
    scope: {
      frame: null,
      step: 12,
      samplers: [
        { sampler: "dpmpp_2m", steps: 40, eta: 0 },
        { sampler: "ddim", steps: 3, eta: 0.05 },
      ],
    },
  },
  "the steps of a frame": {
    ...home,
    view: "microscope",
    scope: { frame: MAX_FRAME, step: 0, samplers: [{ sampler: "ddim", steps: 1, eta: 1 }] },
  },
  "an epoch": { ...home, view: "training", epoch: 31 },
  "a race": { ...home, view: "race", calls: 50 },
  "a mix": {
    ...home,
    settings: { ...home.settings, label: { food: 0.6, human: 1 }, guidance: -2.25, eta: 0.35, fps: 0.5 },
  },
  "a mix of nothing": { ...home, settings: { ...home.settings, label: {} } },
  "a picture": { ...home, settings: { ...home.settings, num: 4 }, image: picture, view: "draw" },
};

for (const [name, place] of Object.entries(PLACES)) {
  test(`round trip: ${name}`, async () => {
    const hash = await toUrlHash(place);
    assert.match(hash, /^[\w.%=&+*-]*$/); // only characters that are safe in a URL and that mail programs leave intact
    assert.deepEqual(await fromUrlHash(`#${hash}`, MODELS), { place, problems: [] });
  });
}

test("a picture that would make the link long is stored with fewer bits", async () => {
  const settings = { ...home.settings, num: 16 };
  /** Values that do not compress. */
  const noisy = (size, seed = 1) => Uint8Array.from({ length: size }, () => (seed = (seed * 48271) % 2147483647) >> 8);
  const model = { ...sprites, height: 12, width: 12, channels: 3 };
  const CASES = [
    [5, "8"],
    [6, "6"],
    [8, "5"],
    [12, "4"],
  ];
  for (const [height, bits] of CASES) {
    const models = [{ ...model, height }];
    const image = noisy(16 * height * 12 * 3);
    const params = new URLSearchParams(await toUrlHash({ ...home, settings, image }));
    assert.equal(params.get("bits") ?? "8", bits);
    if (bits !== "4") assert.ok(params.get("image").length <= MAX_IMAGE_TEXT);
    const { place, problems } = await fromUrlHash(`${params}`, models);
    assert.deepEqual(problems, []);
    const step = 255 / (2 ** Number(bits) - 1);
    assert.ok(place.image.every((value, i) => Math.abs(value - image[i]) <= step / 2 + 0.5));
    const again = await fromUrlHash(await toUrlHash({ ...home, settings, image: place.image }), models);
    assert.deepEqual(again.place.image, place.image); // passing it on loses nothing more
  }
  for (const bits of [1, 4, 7, 8]) {
    const values = Uint8Array.from({ length: 2 ** bits }, (_, i) => i);
    assert.deepEqual(reduceBits(restoreBits(values, bits), bits), values);
  }
  assert.throws(() => restoreBits(Uint8Array.of(16), 4), /larger than 15/);
});

test("an old link with a picture still works", async () => {
  const { place } = await fromUrlHash(`num=4&image=${toBase64Url(await deflate(picture))}`, MODELS);
  assert.deepEqual(place.image, picture);
});

test("labels with special characters", async () => {
  const labels = ["a=b", "c&d", "e,f:g", "h i", "ü+%", "__proto__", "label"];
  const model = { ...sprites, labels };
  const place = {
    ...home,
    settings: { ...home.settings, label: Object.fromEntries(labels.map((label, i) => [label, i])) },
  };
  assert.deepEqual(await fromUrlHash(await toUrlHash(place), [model]), { place, problems: [] });
});

test("links of older pages show the sample that the seed begins with", async () => {
  const { place } = await fromUrlHash("#view=microscope&look=ddim-4-0&step=2&frame=9", MODELS);
  assert.deepEqual(place.scope, { step: 2, samplers: [{ sampler: "ddim", steps: 4, eta: 0 }], frame: null });
});

test("an image replaces the frame number", async () => {
  const hash = await toUrlHash({ ...home, image: picture.subarray(0, 12), frame: 9, paused: true });
  assert.equal((await fromUrlHash(hash, MODELS)).place.frame, 0);
});

test("missing settings come from the fallbacks, then from the model's defaults", async () => {
  const { place, problems } = await fromUrlHash("#model=runs%2Fplain&num=4", MODELS, { seed: "77" });
  const expected = { model: "runs/plain", seed: "77", num: 4, sampler: "dpmpp_2m", steps: 40, eta: 0, creativity: 30 };
  assert.deepEqual({ ...place.settings, ...expected }, place.settings);
  assert.deepEqual(problems, []);
});

test("links that are older than drift melt as they did, and the defaults apply to a page without a hash", async () => {
  const turbo = { ...sprites, turbo: true };
  const settingsOf = async (hash) => (await fromUrlHash(hash, [turbo])).place.settings;
  const old = "#model=sprites&seed=4&num=1&sampler=ddim&steps=24&eta=1&guidance=1&creativity=350&label=any&fps=12&frame=9";
  for (const hash of [old, "#seed=4", "#paused=1"]) {
    const { motion, every, fps } = await settingsOf(hash);
    assert.deepEqual([motion, every, fps], ["melt", 0, 12], hash);
  }
  assert.equal((await fromUrlHash(old, [turbo])).place.frame, 9);
  for (const hash of ["", "#", "#motion=drift"]) {
    const { motion, every, fps } = await settingsOf(hash);
    assert.deepEqual([motion, every, fps], ["drift", 60, 30], hash);
  }
  assert.equal((await settingsOf("#motion=melt&every=7")).every, 7);
  assert.equal(defaults(sprites).motion, "melt");
  assert.equal(defaults({ ...turbo, process: "masked" }).motion, "melt");
});

test("a picture melts, even if a link says drift", async () => {
  const place = { ...home, settings: { ...home.settings, motion: "drift" }, image: picture.subarray(0, 12) };
  assert.equal((await fromUrlHash(await toUrlHash(place), MODELS)).place.settings.motion, "melt");
});

test("which frames are samples, and where to start for a frame", () => {
  const [drift, melt] = ["drift", "melt"].map((motion) => ({ ...home.settings, motion, every: 24 }));
  assert.deepEqual([0, 1, 24].map((frame) => isSample(drift, frame)), [true, true, true]);
  assert.deepEqual([0, 1, 24, 25, 48].map((frame) => isSample(melt, frame)), [true, false, true, false, true]);
  assert.deepEqual([startFor(drift, 77), startFor(melt, 77), startFor(melt, 72)], [77, 72, 72]);
  for (const change of [{ every: 0 }, { creativity: 0 }]) {
    assert.deepEqual([startFor({ ...melt, ...change }, 77), isSample({ ...melt, ...change }, 24)], [0, false]);
  }
});

const WRONG = {
  "motion=fly": /motion must be one of drift, melt, not fly/,
  "every=1001": /every must be a whole number from 0 to 1000/,
  "model=nobody": /unknown model nobody, using sprites/,
  "seed=18446744073709551616": /seed must be .* not 18446744073709551616/,
  "seed=-1": /seed/,
  "num=2": /num must be one of 1, 4, 16, not 2/,
  "sampler=toString": /sampler must be one of ddpm, ddim, heun, dpmpp_2m, midpoint, heun_line, not toString/,
  "steps=0": /steps must be a whole number from 1 to 50, not 0/,
  "steps=1.5": /steps/,
  "eta=2.01": /eta must be a number from 0 to 2/,
  "eta=NaN": /eta/,
  "guidance=1e1": /guidance/,
  "guidance=Infinity": /guidance/,
  "creativity=501": /creativity must be a whole number from 0 to 500, not 501/,
  "fps=61": /fps/,
  "label=everything": /label/,
  "label=mix&label.dragon=1": /model sprites has no label dragon$/,
  "label=mix&label.food=9.5": /from 0 to 9/,
  "label=mix&label.food=": /from 0 to 9/,
  "look=ddim-51-0": /microscope/,
  "look=ddim": /microscope/,
  "look=ddim-5-0+ddpm-5-0+heun-5-0": /microscope/,
  "look=ddim-5-0&step=51": /microscope/,
  "look=ddim-5-0&step=-1": /microscope/,
  "look=ddim-5-0&of=last": /microscope/,
  "view=dragon": /view must be one of dream, microscope, schedule, training, race, draw, not dragon$/,
  "view=": /view must be/,
  "scale=65": /scale must be a whole number from 0 to 64, not 65$/,
  "scale=-1": /scale must be/,
  "scale=2.5": /scale must be/,
  "frame=10000001": /frame must be a whole number from 0 to 10000000, not 10000001$/,
  "frame=-1": /frame must be/,
  "frame=1e3": /frame must be/,
  "paused=yes": /paused must be a whole number from 0 to 1, not yes$/,
  "tour=9": /tour must be a scene from 1 to 8, .* not 9$/,
  "tour=4.4": /tour must be/,
  "epoch=-1": /epoch must be a whole number from 0 to 9999, not -1$/,
  "calls=0": /calls must be a whole number from 1 to 50, not 0$/,
  "image=AAAA": /picture .* damaged/,
  "image=Y2FmYQYA&bits=9": /picture .* damaged/,
  "image=%F0%9F%98%80": /picture .* damaged/,
};
for (const [hash, message] of Object.entries(WRONG)) {
  test(`${hash} is reported and replaced with its default`, async () => {
    const { place, problems } = await fromUrlHash(`${hash}&motion=melt`, MODELS);
    assert.equal(problems.length, 1);
    assert.match(problems[0], message);
    assert.deepEqual(place, home);
  });
}

test("an image that decompresses to too many bytes is rejected early", async () => {
  const bomb = await deflate(new Uint8Array(2 ** 24));
  await assert.rejects(inflate(bomb, 12), /more than 12/);
  await assert.rejects(inflate(await deflate(picture), picture.length + 1), /48 bytes, not 49/);
  const { place, problems } = await fromUrlHash(`image=${toBase64Url(bomb)}`, MODELS);
  assert.deepEqual([place.image, problems.length], [null, 1]);
});

test("settings without an effect are reset", () => {
  const changed = { ...home.settings, eta: 0.5, guidance: 3 };
  assert.deepEqual(normalize(changed, sprites), changed);
  assert.equal(normalize({ ...changed, sampler: "ddpm" }, sprites).eta, 0);
  assert.equal(normalize({ ...changed, label: "none" }, sprites).guidance, 1);
  assert.equal(normalize({ ...changed, label: "any" }, plain).guidance, 1);
});

test("defaults are valid", () => {
  for (const model of MODELS) {
    for (const [field, value] of Object.entries(defaults(model))) assert.equal(problem(field, value, model), "", field);
  }
});

test("a masked model has its own samplers, and one of them has an eta", () => {
  const masked = {
    ...plain,
    name: "masked",
    process: "masked",
    sampling: { sampler: "masked_ancestral", steps: 30, eta: 0.1, spacing: "even" },
  };
  assert.deepEqual([defaults(masked).sampler, defaults(masked).eta], ["masked_ancestral", 0.1]);
  assert.equal(problem("sampler", "masked_random", masked), "");
  assert.match(problem("sampler", "ddim", masked), /must be one of masked_ancestral, masked_random, masked_confidence/);
  assert.match(problem("sampler", "masked_random", plain), /must be one of ddpm, ddim, heun, dpmpp_2m/);
  assert.match(problem("eta", 1.5, masked), /eta must be a number from 0 to 1/);
  assert.equal(problem("eta", 1.5, plain), "");
  assert.equal(normalize(defaults(masked), masked).eta, 0.1);
  assert.equal(normalize({ ...defaults(masked), sampler: "masked_random" }, masked).eta, 0);
});

test("leading zeros of a seed are dropped, because Python would refuse them", async () => {
  const { place, problems } = await fromUrlHash("#seed=007&steps=007&creativity=00", MODELS);
  assert.deepEqual(problems, []);
  const { seed, steps, creativity } = place.settings;
  assert.deepEqual([seed, steps, creativity], ["7", 7, 0]);
  assert.equal(normalize({ ...home.settings, seed: `0${MAX_SEED}` }, sprites).seed, `${MAX_SEED}`);
});

test("tiny numbers survive the round trip", async () => {
  const settings = { ...home.settings, sampler: "ddim", eta: 1e-7, guidance: -1.5e-9, label: { food: 5e-324 } };
  const scope = { frame: null, step: 0, samplers: [{ sampler: "ddim", steps: 3, eta: 2e-8 }] };
  const place = { ...home, settings, view: "microscope", scope };
  const read = await fromUrlHash(await toUrlHash(place), MODELS);
  assert.deepEqual(read, { place, problems: [] });
});
