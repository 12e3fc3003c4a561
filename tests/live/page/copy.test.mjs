// Code for every kind of picture. (tests/live/test_page.py runs it.)

import assert from "node:assert/strict";
import { test } from "node:test";

import { PAGE } from "./golden.mjs";
import { plain, sprites } from "./models.mjs";

const { asCommand, asPython } = await import(new URL("views/copy.js", PAGE));
const { defaults } = await import(new URL("engine/state.js", PAGE));

const chain = (change = {}, frame = 0, image = null, model = sprites) => {
  return { settings: { ...defaults(model), seed: "5", ...change }, frame, image, paused: true };
};
const picture = new Uint8Array(12);

test("frame 0 is sampled", () => {
  const { code, picture: needsIt } = asPython(chain({ num: 4 }), sprites);
  assert.match(code, /^way = Way\(sampler="ddim", steps=24, eta=1, seed=5\)\nimages = model\.sample\(4, \*way\)$/m);
  assert.doesNotMatch(code, /melt/);
  assert.equal(needsIt, false);
  assert.equal(
    asCommand(chain({ num: 4 }), sprites).code,
    "shapedreamer sample sprites --num 4 --precision float32 --sampler ddim --steps 24 --eta 1 --seed 5 --out dream.png",
  );
});

test("a later frame is melted from it", () => {
  assert.match(
    asPython(chain({ num: 4 }, 7), sprites).code,
    /^images = melt\(model, images, t=350, frames=8, num=4, way=way\)\[7\]$/m,
  );
  assert.equal(
    asCommand(chain({ label: { human: 1, food: 0.6 }, guidance: 2 }, 7), sprites).code,
    "shapedreamer explore sprites vary --frames 8 --num 1 --creativity 350 --precision float32 --sampler ddim --steps 24 " +
      "--eta 1 --seed 5 --label human=1,food=0.6 --guidance 2 --out dream.webp",
  );
  assert.equal(asCommand(chain({ num: 4 }, 7), sprites).code, ""); // a command begins with one picture
});

test("without creativity every frame is the first", () => {
  assert.doesNotMatch(asPython(chain({ creativity: 0 }, 7), sprites).code, /melt/);
  assert.match(asCommand(chain({ creativity: 0 }, 7), sprites).code, /^shapedreamer sample/);
});

test("a picture that no seed leads to comes along", () => {
  const one = asPython(chain({}, 0, picture), sprites);
  assert.match(one.code, /read_image\(Path\("dream-start\.png"\), model\.spec\)/);
  assert.match(one.code, /melt\(model, images, t=350, frames=60, num=1, way=way\)/);
  assert.equal(one.picture, true);
  assert.match(asPython(chain({ num: 4 }, 0, new Uint8Array(48)), sprites).code, /reshape\(4, 2, 2, 3\)/);
  assert.doesNotMatch(asPython(chain({ creativity: 0 }, 0, picture), sprites).code, /melt|Way\(/);
});

test("a command for such a picture, where there is one", () => {
  const { code, picture: needsIt } = asCommand(chain({ label: "none" }, 0, picture), sprites);
  assert.match(code, /^shapedreamer explore sprites vary --image dream-start\.png --frames 60 .* --label none/);
  assert.equal(needsIt, true);
  assert.match(asCommand(chain({}, 0, new Uint8Array(4), plain), plain).code, /--image/);
  for (const without of [
    chain({}, 0, picture),
    chain({ label: "none", creativity: 0 }, 0, picture),
    chain({ num: 4 }, 0, picture),
  ]) {
    const { code, note } = asCommand(without, sprites);
    assert.equal(code, "");
    assert.match(note, /no command/);
  }
});

test("words that a shell or Python would take apart are quoted", () => {
  const model = { ...sprites, name: 'runs/my $(dream)\'s "best"', labels: ["it's", "a b"] };
  const settings = { model: model.name, label: { "it's": 1, "a b": 2 } };
  assert.match(asPython(chain(settings), model).code, /load\("runs\/my \$\(dream\)'s \\"best\\"", precision="float32"\)/);
  assert.match(asPython(chain(settings), model).code, /label=\{"it's": 1, "a b": 2\}/);
  const { code } = asCommand(chain(settings), model);
  assert.ok(code.startsWith(String.raw`shapedreamer sample 'runs/my $(dream)'\''s "best"' `), code);
  assert.ok(code.includes(String.raw`--label 'it'\''s=1,a b=2'`), code);
});

test("labels without amounts, and such as a command cannot name", () => {
  assert.match(asPython(chain({ label: {} }), sprites).code, /label=\{\}/);
  assert.match(asPython(chain({ label: "none" }), sprites).code, /label=None/);
  assert.match(asCommand(chain({ label: {} }), sprites).code, /--label human=0 /);
  assert.equal(asCommand(chain({ label: { "a,b": 1 } }), { ...sprites, labels: ["a,b"] }).code, "");
});
