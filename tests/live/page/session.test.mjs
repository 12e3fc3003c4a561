// A session with an engine that does just as it is told: what it says, and what it makes of the answers.

import assert from "node:assert/strict";
import { test } from "node:test";

import { PAGE } from "./golden.mjs";
import { MODELS, plain, sprites } from "./models.mjs";

const { Session } = await import(new URL("engine/session.js", PAGE));
const { defaults } = await import(new URL("engine/state.js", PAGE));
const { fromBase64 } = await import(new URL("files/bytes.js", PAGE));

const START = { settings: defaults(sprites), frame: 0, image: null, paused: false };

/** A session that has been greeted, and has begun there; `said` is what it says from then on. */
function begun(chain = START) {
  const said = [];
  const told = { refused: [], news: [], frames: [], settings: [], states: [] };
  const engine = { send: (message) => said.push(message) };
  const session = new Session(engine, {
    hello() {},
    frame: (frame) => told.frames.push(frame.frame),
    settings: (settings) => told.settings.push(settings),
    refused: (...what) => told.refused.push(what),
    playing() {},
    state: (...what) => told.states.push(what),
    news: (...what) => told.news.push(what),
  });
  const greet = () => engine.onmessage({ type: "hello", engine: "server", version: "1", models: MODELS, viewers: 1 });
  greet();
  session.open(chain);
  const show = (frame, { id = session.id, pure = true, fill = 0 } = {}) =>
    engine.onframe(bytes(id, frame, pure, fill, session.settings));
  return { session, engine, said, told, greet, show };
}

function bytes(id, frame, pure, fill, { num, model }) {
  const { channels, height, width } = MODELS.find(({ name }) => name === model);
  const size = num * channels * height * width;
  const view = new DataView(new ArrayBuffer(28 + size));
  [0x53, 0x44, 1, pure ? 1 : 0].forEach((byte, i) => view.setUint8(i, byte));
  view.setUint32(4, id, true);
  view.setUint32(8, frame, true);
  [num, channels, height, width, 3].forEach((value, i) => view.setUint16(12 + 2 * i, value, true));
  new Uint8Array(view.buffer, 28).fill(fill);
  return view.buffer;
}

const types = (said) => said.map(({ type }) => type);

test("it begins with the settings, and plays", () => {
  const { said, session } = begun();
  assert.deepEqual(said, [{ type: "set", id: 1, settings: START.settings }, { type: "pause" }, { type: "play" }]);
  assert.deepEqual(session.chain(), START);
});

test("it begins with a picture, which then is part of what is shown", () => {
  const image = Uint8Array.from({ length: 12 }, (_, i) => i);
  const { said, session, show } = begun({ ...START, image, paused: true });
  assert.deepEqual([...fromBase64(said[0].image)], [...image]);
  assert.deepEqual(types(said), ["set", "pause"]);
  assert.deepEqual(session.chain().image, image); // before the first frame, too
  show(0, { fill: 9 });
  assert.deepEqual([...session.chain().image], Array(12).fill(9));
});

test("a frame of a link is reached step by step, and then it rests or plays", () => {
  const { said, session, show, told } = begun({ ...START, frame: 3, paused: true });
  for (const frame of [0, 1, 2]) show(frame);
  assert.deepEqual(types(said), ["set", "pause", "step", "step", "step"]);
  assert.equal(session.chain().frame, 3);
  show(3);
  assert.deepEqual(types(said).slice(5), []);
  assert.deepEqual([session.target, told.frames], [null, [0, 1, 2, 3]]);
  session.play(true);
  assert.deepEqual(types(said).slice(5), ["play"]);
});

test("beyond the frame of a link it begins again", () => {
  const { said, show } = begun({ ...START, frame: 3, paused: true });
  show(5);
  assert.equal(said.at(-1).type, "restart");
});

test("a wish of the viewer's ends the way to a frame", () => {
  for (const act of [
    (session) => session.play(true),
    (session) => session.change({ seed: "8" }),
    (session) => session.restart(),
  ]) {
    const { session, show } = begun({ ...START, frame: 9, paused: true });
    show(0);
    act(session);
    assert.equal(session.target, null);
  }
});

test("what changes is said with all the rest, at once and then at most every 80 ms, the last of all included", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const { said, session, told } = begun();
  session.told.at = -Infinity; // long after the beginning
  for (let creativity = 100; creativity <= 200; creativity++) session.change({ creativity });
  assert.deepEqual(said.slice(3), [{ type: "set", id: 2, settings: { ...START.settings, creativity: 100 } }]);
  context.mock.timers.tick(100);
  assert.deepEqual(said.slice(4), [{ type: "set", id: 3, settings: { ...START.settings, creativity: 200 } }]);
  assert.equal(told.settings.at(-1).creativity, 200);
  session.change({ creativity: 200 });
  assert.equal(said.length, 5);
});

test("a change is said before what must follow it", () => {
  const { said, session } = begun();
  session.change({ creativity: 7 });
  session.step();
  assert.deepEqual(types(said).slice(3), ["pause", "set", "step"]);
});

test("another sampler settles eta, another label guidance, another model everything", () => {
  const { session } = begun();
  session.change({ guidance: 3 });
  session.change({ sampler: "ddpm" });
  assert.equal(session.settings.eta, 0);
  session.change({ label: "none" });
  assert.equal(session.settings.guidance, 1);
  session.change({ num: 4, fps: 30, seed: "9" });
  session.changeModel("runs/plain");
  assert.deepEqual(session.settings, { ...defaults(plain), num: 4, fps: 30, seed: "9" });
});

test("frames of the dream before are not shown", () => {
  const { session, show, told } = begun();
  show(4, { id: 1 });
  session.change({ seed: "8" });
  show(5, { id: 1 });
  assert.deepEqual(told.frames, [4]);
  session.tellIfDue();
  show(0);
  assert.deepEqual(told.frames, [4, 0]);
  assert.equal(session.sent.size, 1); // what is no longer needed is forgotten
});

test("the seed leads to a frame that is pure, of settings that have not changed but for the speed", () => {
  const { session, show } = begun();
  show(6);
  assert.deepEqual(session.chain(), { ...START, frame: 6 });
  session.change({ fps: 40 });
  assert.equal(session.chain().image, null);
  session.change({ creativity: 9 });
  assert.notEqual(session.chain().image, null);
  session.change({ creativity: START.settings.creativity });
  assert.equal(session.chain().image, null);
  show(7, { pure: false, fill: 5 });
  assert.deepEqual([session.chain().frame, ...session.chain().image], [0, ...Array(12).fill(5)]);
});

test("frame 0 does not depend on the creativity, but on all else", () => {
  const { session, show } = begun();
  show(0);
  session.change({ creativity: 9 });
  assert.equal(session.chain().image, null);
  session.change({ steps: 9 });
  assert.notEqual(session.chain().image, null);
});

test("a drawing begins a dream that no seed leads to, until another seed does", () => {
  const { said, session, show } = begun();
  show(0);
  const drawn = new Uint8Array(12).fill(200);
  session.dreamFrom(drawn);
  drawn.fill(0); // the drawing goes on; what was said stays
  assert.deepEqual([...fromBase64(said.at(-1).image)], Array(12).fill(200));
  show(1, { pure: true }); // even if the engine thinks so
  assert.notEqual(session.chain().image, null);
  session.change({ steps: 5 });
  session.tellIfDue();
  assert.equal("image" in said.at(-1), false);
  show(2);
  assert.notEqual(session.chain().image, null);
  session.change({ seed: "4" });
  session.tellIfDue();
  show(0);
  assert.equal(session.chain().image, null);
});

test("what the engine refuses is taken back, and told of that control alone", () => {
  const { engine, session, show, told } = begun();
  show(0);
  session.told.at = -Infinity;
  session.change({ steps: 44 });
  const id = session.id;
  session.change({ creativity: 17 });
  engine.onmessage({ type: "error", id, message: "steps must be fewer" });
  assert.deepEqual(told.refused, [[["steps"], "steps must be fewer"]]);
  assert.deepEqual([session.settings.steps, session.settings.creativity], [24, 17]);
  assert.deepEqual(told.settings.at(-1), session.settings);
});

test("a new dream that is refused leaves the one before", () => {
  const { engine, session, show, told } = begun();
  show(3);
  session.told.at = -Infinity;
  session.change({ seed: "8" });
  engine.onmessage({ type: "error", id: session.id, message: "no" });
  show(4, { id: 1 });
  assert.deepEqual([told.frames, session.settings.seed], [[3, 4], "0"]);
});

test("other errors and notes are news", () => {
  const { engine, told } = begun();
  engine.onmessage({ type: "error", id: null, message: "strange" });
  engine.onmessage({ type: "note", message: "one thread" });
  engine.onmessage({ type: "error", id: 1, message: "at the very beginning" });
  assert.deepEqual(told.news, [
    ["strange", true],
    ["one thread", false],
    ["at the very beginning", true],
  ]);
});

test("after a lost connection it begins again where it was", () => {
  const { engine, greet, said, session, show, told } = begun();
  show(6);
  engine.onstate("retrying", 2);
  engine.onstate("open");
  assert.deepEqual(told.states, [
    ["retrying", 2],
    ["open", undefined],
  ]);
  greet();
  assert.deepEqual(said.slice(3), [
    { type: "set", id: 2, settings: START.settings },
    { type: "pause" },
    { type: "play" },
  ]);
  show(7, { pure: false, fill: 3 });
  session.play(false);
  greet();
  assert.deepEqual([...fromBase64(said.at(-2).image)], Array(12).fill(3));
  assert.deepEqual(said.at(-1), { type: "pause" });
});

test("paused at a frame it goes there again", () => {
  const { greet, said, session, show } = begun({ ...START, paused: true });
  show(2);
  greet();
  show(0, { id: session.id });
  assert.equal(said.at(-1).type, "step");
});

test("far on, the picture itself is nearer than the way to it", () => {
  const { greet, said, session, show } = begun();
  show(301, { fill: 6 });
  session.play(false);
  assert.equal(session.chain().frame, 301);
  greet();
  assert.deepEqual([...fromBase64(said.at(-2).image)], Array(12).fill(6));
  assert.equal(session.target, null);
});

test("it rests while there is a reason, whatever is wished", () => {
  const { said, session } = begun();
  session.hold("hidden", true);
  session.hold("view", true);
  session.hold("hidden", false);
  assert.deepEqual(types(said).slice(3), ["pause"]);
  session.hold("view", false);
  assert.deepEqual(types(said).slice(4), ["play"]);
});

test("traces come back to who asked, in any order, or an error does", async () => {
  const { engine, said, session } = begun();
  const way = { sampler: "ddpm", steps: 2, eta: 0 };
  const [first, second, third] = [session.trace(way), session.trace(way), session.trace(way)];
  const ids = said.slice(3).map(({ id }) => id);
  assert.deepEqual(said[3], { type: "trace", id: ids[0], ...way });
  const view = new DataView(new ArrayBuffer(28 + 2 * (8 + 12 * 4)));
  [0x53, 0x44, 2, 0].forEach((byte, i) => view.setUint8(i, byte));
  view.setUint32(4, ids[1], true);
  view.setUint32(8, 2, true);
  [1, 1, 2, 2].forEach((value, i) => view.setUint16(12 + 2 * i, value, true));
  [40, 20].forEach((t, i) => view.setInt32(28 + 56 * i, t, true));
  [20, 0].forEach((s, i) => view.setInt32(32 + 56 * i, s, true));
  Array.from({ length: 24 }, (_, i) => view.setFloat32(28 + 8 * (1 + Math.floor(i / 12)) + 4 * i, i, true));
  engine.onframe(view.buffer);
  engine.onmessage({ type: "error", id: ids[0], message: "too many" });
  engine.onstate("retrying", 1);
  const { steps } = await second;
  assert.deepEqual(
    steps.map(({ t, s, x, x0, next }) => [t, s, ...x, ...x0, ...next]),
    [
      [40, 20, ...Array.from({ length: 12 }, (_, i) => i)],
      [20, 0, ...Array.from({ length: 12 }, (_, i) => 12 + i)],
    ],
  );
  await assert.rejects(first, /too many/);
  await assert.rejects(third, /gone/);
});

test("bytes that are no frame are refused", async () => {
  const { parse } = await import(new URL("engine/protocol.js", PAGE));
  const good = bytes(1, 0, true, 0, START.settings);
  assert.equal(parse(good).pixels.length, 12);
  const changed = (at, value) => {
    const bad = good.slice();
    new Uint8Array(bad)[at] = value;
    return bad;
  };
  const BAD = [
    new ArrayBuffer(0),
    good.slice(0, 27),
    good.slice(0, 39),
    changed(0, 1),
    changed(1, 1),
    changed(2, 3),
    changed(12, 2),
  ];
  for (const bad of BAD) assert.throws(() => parse(bad), /frame/);
});
