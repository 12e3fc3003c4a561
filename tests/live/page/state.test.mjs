// Every state survives the address, and no address leads to a state that cannot be.

import assert from "node:assert/strict";
import { test } from "node:test";

import { PAGE } from "./golden.mjs";
import { MODELS, plain, sprites } from "./models.mjs";

const { defaults, fromAddress, MOST_SEED, problem, settled, toAddress } = await import(new URL("engine/state.js", PAGE));
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
      seed: `${MOST_SEED}`,
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
      ways: [
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
  test(`there and back: ${name}`, async () => {
    const address = await toAddress(place);
    assert.match(address, /^[\w.%=&+*-]*$/); // what an address may hold, and nothing that a mail program breaks
    assert.deepEqual(await fromAddress(`#${address}`, MODELS), { place, problems: [] });
  });
}

test("labels with every kind of letter", async () => {
  const labels = ["a=b", "c&d", "e,f:g", "h i", "ü+%", "__proto__", "label"];
  const model = { ...sprites, labels };
  const place = {
    ...home,
    settings: { ...home.settings, label: Object.fromEntries(labels.map((label, i) => [label, i])) },
  };
  assert.deepEqual(await fromAddress(await toAddress(place), [model]), { place, problems: [] });
});

test("a picture comes instead of a frame", async () => {
  const address = await toAddress({ ...home, image: picture.subarray(0, 12), frame: 9, paused: true });
  assert.equal((await fromAddress(address, MODELS)).place.frame, 0);
});

test("what the address leaves open is as the model likes it, or as the page wishes", async () => {
  const { place, problems } = await fromAddress("#model=runs%2Fplain&num=4", MODELS, { seed: "77" });
  const wished = { model: "runs/plain", seed: "77", num: 4, sampler: "dpmpp_2m", steps: 40, eta: 0, creativity: 30 };
  assert.deepEqual({ ...place.settings, ...wished }, place.settings);
  assert.deepEqual(problems, []);
});

const WRONG = {
  "model=nobody": /no model nobody/,
  "seed=18446744073709551616": /seed must be .* not 18446744073709551616/,
  "seed=-1": /seed/,
  "num=2": /num must be 1, 4, 16, not 2/,
  "sampler=toString": /sampler must be ddpm, ddim, heun, dpmpp_2m, not toString/,
  "steps=0": /steps must be a whole number from 1 to 50, not 0/,
  "steps=1.5": /steps/,
  "eta=1.01": /eta must be a number from 0 to 1/,
  "eta=NaN": /eta/,
  "guidance=1e1": /guidance/,
  "guidance=Infinity": /guidance/,
  "creativity=501": /creativity must be a whole number from 0 to 500, not 501/,
  "fps=61": /fps/,
  "label=everything": /label/,
  "label=mix&label.dragon=1": /there is no label dragon/,
  "label=mix&label.food=9.5": /from 0 to 9/,
  "label=mix&label.food=": /from 0 to 9/,
  "look=ddim-51-0": /microscope/,
  "look=ddim": /microscope/,
  "look=ddim-5-0+ddpm-5-0+heun-5-0": /microscope/,
  "image=AAAA": /picture .* damaged/,
  "image=%F0%9F%98%80": /picture .* damaged/,
};
for (const [address, complaint] of Object.entries(WRONG)) {
  test(`${address} is told, and its default stands`, async () => {
    const { place, problems } = await fromAddress(address, MODELS);
    assert.equal(problems.length, 1);
    assert.match(problems[0], complaint);
    assert.deepEqual(place, home);
  });
}

test("a picture that inflates to more than it may is refused before it is all there", async () => {
  const bomb = await deflate(new Uint8Array(2 ** 24));
  await assert.rejects(inflate(bomb, 12), /more than 12/);
  await assert.rejects(inflate(await deflate(picture), picture.length + 1), /48 bytes, not 49/);
  const { place, problems } = await fromAddress(`image=${toBase64Url(bomb)}`, MODELS);
  assert.deepEqual([place.image, problems.length], [null, 1]);
});

test("settings that say nothing are at rest", () => {
  const restless = { ...home.settings, eta: 0.5, guidance: 3 };
  assert.deepEqual(settled(restless, sprites), restless);
  assert.equal(settled({ ...restless, sampler: "ddpm" }, sprites).eta, 0);
  assert.equal(settled({ ...restless, label: "none" }, sprites).guidance, 1);
  assert.equal(settled({ ...restless, label: "any" }, plain).guidance, 1);
});

test("defaults are no problem", () => {
  for (const model of MODELS) {
    for (const [field, value] of Object.entries(defaults(model))) assert.equal(problem(field, value, model), "", field);
  }
});
