// Every state survives the round trip through the URL, and no URL leads to an invalid state.

import assert from "node:assert/strict";
import { test } from "node:test";

import { PAGE } from "./golden.mjs";
import { MODELS, plain, sprites } from "./models.mjs";

const { defaults, fromUrlHash, MAX_SEED, normalize, problem, toUrlHash } = await import(
  new URL("engine/state.js", PAGE)
);
const { inflate, deflate, toBase64Url } = await import(new URL("files/bytes.js", PAGE));

const home = {
  settings: defaults(sprites),
  frame: 0,
  image: null,
  paused: false,
  view: "dream",
  scale: 0,
  scope: null,
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
    },
    paused: true,
    frame: 4294967295,
    view: "microscope",
    scale: 7,
    scope: {
      step: 12,
      samplers: [
        { sampler: "dpmpp_2m", steps: 40, eta: 0 },
        { sampler: "ddim", steps: 3, eta: 0.05 },
      ],
    },
  },
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

test("labels with special characters", async () => {
  const labels = ["a=b", "c&d", "e,f:g", "h i", "ü+%", "__proto__", "label"];
  const model = { ...sprites, labels };
  const place = {
    ...home,
    settings: { ...home.settings, label: Object.fromEntries(labels.map((label, i) => [label, i])) },
  };
  assert.deepEqual(await fromUrlHash(await toUrlHash(place), [model]), { place, problems: [] });
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

const WRONG = {
  "model=nobody": /unknown model nobody, using sprites/,
  "seed=18446744073709551616": /seed must be .* not 18446744073709551616/,
  "seed=-1": /seed/,
  "num=2": /num must be one of 1, 4, 16, not 2/,
  "sampler=toString": /sampler must be one of ddpm, ddim, heun, dpmpp_2m, midpoint, heun_line, not toString/,
  "steps=0": /steps must be a whole number from 1 to 50, not 0/,
  "steps=1.5": /steps/,
  "eta=1.01": /eta must be a number from 0 to 1/,
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
  "image=AAAA": /picture .* damaged/,
  "image=%F0%9F%98%80": /picture .* damaged/,
};
for (const [hash, message] of Object.entries(WRONG)) {
  test(`${hash} is reported and replaced with its default`, async () => {
    const { place, problems } = await fromUrlHash(hash, MODELS);
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
  const scope = { step: 0, samplers: [{ sampler: "ddim", steps: 3, eta: 2e-8 }] };
  const place = { ...home, settings, view: "microscope", scope };
  const read = await fromUrlHash(await toUrlHash(place), MODELS);
  assert.deepEqual(read, { place, problems: [] });
});
