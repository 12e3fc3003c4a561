// The code for every kind of picture. (tests/live/test_page.py runs it.)

import assert from "node:assert/strict";
import { test } from "node:test";

import { PAGE } from "./golden.mjs";
import { plain, sprites } from "./models.mjs";

const { asCommand, asPython } = await import(new URL("views/copy.js", PAGE));
const { defaults } = await import(new URL("engine/state.js", PAGE));

const snapshot = (change = {}, frame = 0, image = null, model = sprites) => {
  return { settings: { ...defaults(model), seed: "5", every: 0, ...change }, frame, image, paused: true };
};
const picture = new Uint8Array(12);

test("frame 0 is sampled", () => {
  const { code, picture: needsFile } = asPython(snapshot({ num: 4 }), sprites);
  assert.match(code, /^options = SampleOptions\(sampler="ddim", steps=24, eta=1, seed=5\)$/m);
  assert.match(code, /^images = model\.sample\(4, options\)$/m);
  assert.doesNotMatch(code, /melt/);
  assert.equal(needsFile, false);
  assert.equal(
    asCommand(snapshot({ num: 4 }), sprites).code,
    "shapedreamer sample sprites --num 4 --precision float32 --sampler ddim --steps 24 --eta 1 --seed 5 --out dream.png",
  );
});

test("a later frame is the last one of an animation from frame 0", () => {
  assert.match(
    asPython(snapshot({ num: 4 }, 7), sprites).code,
    /^images = melt\(model, images, t=350, frames=8, num=4, options=options\)\[7\]$/m,
  );
  assert.equal(
    asCommand(snapshot({ label: { human: 1, food: 0.6 }, guidance: 2 }, 7), sprites).code,
    "shapedreamer explore sprites vary --frames 8 --num 1 --creativity 350 --precision float32 --sampler ddim --steps 24 " +
      "--eta 1 --seed 5 --label human=1,food=0.6 --guidance 2 --out dream.webp",
  );
  assert.equal(asCommand(snapshot({ num: 4 }, 7), sprites).code, ""); // the command varies a single picture
});

test("a frame of a drift, and of a dream with a new sample now and then", () => {
  const drift = snapshot({ motion: "drift", every: 60, num: 4 }, 77);
  const { code } = asPython(drift, sprites);
  assert.match(code, /^from shapedreamer.imaging.editing import drift_frame$/m);
  assert.match(code, /^images = drift_frame\(model, 77, num=4, options=options, every=60\)$/m);
  assert.equal(
    asCommand(drift, sprites).code,
    "shapedreamer explore sprites drift --frames 78 --every 60 --num 4 --precision float32 --sampler ddim --steps 24 " +
      "--eta 1 --seed 5 --out dream.webp",
  );
  assert.match(asPython(snapshot({ motion: "drift" }), sprites).code, /^images = model\.sample\(1, options\)$/m);
  assert.match(asCommand({ ...drift, frame: 0 }, sprites).code, /^shapedreamer sample sprites --num 4 /);
  assert.match(asCommand({ ...drift, frame: 10_000 }, sprites).note, /no command .* more than 10000 frames/);

  const melting = snapshot({ every: 5 }, 7);
  assert.match(asPython(melting, sprites).code, /melt\(model, images, .*, frames=8, .*, every=5\)\[7\]/);
  assert.match(asCommand(melting, sprites).code, / vary --frames 8 --num 1 --creativity 350 --every 5 /);
  assert.match(asPython({ ...melting, frame: 10 }, sprites).code, /drift_frame\(model, 10, num=1, .*, every=5\)/);
});

test("with creativity 0, every frame equals frame 0", () => {
  assert.doesNotMatch(asPython(snapshot({ creativity: 0 }, 7), sprites).code, /melt/);
  assert.match(asCommand(snapshot({ creativity: 0 }, 7), sprites).code, /^shapedreamer sample/);
});

test("code for a picture that no seed reproduces reads it from a file", () => {
  const one = asPython(snapshot({}, 0, picture), sprites);
  assert.match(one.code, /read_image\(Path\("dream-start\.png"\), model\.spec\)/);
  assert.match(one.code, /melt\(model, images, t=350, frames=60, num=1, options=options\)/);
  assert.equal(one.picture, true);
  assert.match(asPython(snapshot({ num: 4 }, 0, new Uint8Array(48)), sprites).code, /reshape\(4, 2, 2, 3\)/);
  assert.doesNotMatch(asPython(snapshot({ creativity: 0 }, 0, picture), sprites).code, /melt|SampleOptions\(/);
});

test("the command for such a picture, if there is one", () => {
  const { code, picture: needsFile } = asCommand(snapshot({ label: "none" }, 0, picture), sprites);
  assert.match(code, /^shapedreamer explore sprites vary --image dream-start\.png --frames 60 .* --label none/);
  assert.equal(needsFile, true);
  assert.match(asCommand(snapshot({}, 0, new Uint8Array(4), plain), plain).code, /--image/);
  const repainted = asCommand(snapshot({}, 0, picture), sprites); // with label "any"
  assert.match(repainted.code, /^shapedreamer explore sprites vary --image dream-start\.png --frames 60 /);
  assert.doesNotMatch(repainted.code, /--label/);
  assert.match(repainted.note, /without a class label/);
  for (const unsupported of [
    snapshot({ label: "none", creativity: 0 }, 0, picture),
    snapshot({ num: 4 }, 0, picture),
  ]) {
    const { code, note } = asCommand(unsupported, sprites);
    assert.equal(code, "");
    assert.match(note, /no command/);
  }
});

test("names with special characters are quoted for Python and the shell", () => {
  const model = { ...sprites, name: 'runs/my $(dream)\'s "best"', labels: ["it's", "a b"] };
  const settings = { model: model.name, label: { "it's": 1, "a b": 2 } };
  const { code: python } = asPython(snapshot(settings), model);
  assert.match(python, /load\("runs\/my \$\(dream\)'s \\"best\\"", precision="float32"\)/);
  assert.match(python, /label=\{"it's": 1, "a b": 2\}/);
  const { code } = asCommand(snapshot(settings), model);
  assert.ok(code.startsWith(String.raw`shapedreamer sample 'runs/my $(dream)'\''s "best"' `), code);
  assert.ok(code.includes(String.raw`--label 'it'\''s=1,a b=2'`), code);
});

test("an empty mix, no label, and label names without command-line syntax", () => {
  assert.match(asPython(snapshot({ label: {} }), sprites).code, /label=\{\}/);
  assert.match(asPython(snapshot({ label: "none" }), sprites).code, /label=None/);
  assert.match(asCommand(snapshot({ label: {} }), sprites).code, /--label human=0 /);
  assert.equal(asCommand(snapshot({ label: { "a,b": 1 } }), { ...sprites, labels: ["a,b"] }).code, "");
});
