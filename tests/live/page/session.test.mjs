// A session with a scripted engine: the messages it sends, and how it reacts to replies.

import assert from "node:assert/strict";
import { test } from "node:test";

import { PAGE } from "./golden.mjs";
import { MODELS, plain, sprites } from "./models.mjs";

const { Session } = await import(new URL("engine/session.js", PAGE));
const { defaults } = await import(new URL("engine/state.js", PAGE));
const { fromBase64 } = await import(new URL("files/bytes.js", PAGE));

const START = { settings: defaults(sprites), frame: 0, image: null, paused: false };

/** An open session after `hello`. `sent` collects its messages, `events` its callbacks. */
function openSession(snapshot = START) {
  const sent = [];
  const events = { rejected: [], notices: [], frames: [], settings: [], states: [] };
  const engine = { send: (message) => sent.push(message) };
  const session = new Session(engine, {
    hello() {},
    frame: (frame) => events.frames.push(frame.frame),
    settings: (settings) => events.settings.push(settings),
    rejected: (...args) => events.rejected.push(args),
    playback() {},
    state: (...args) => events.states.push(args),
    notice: (...args) => events.notices.push(args),
  });
  const sayHello = () => engine.onmessage({ type: "hello", engine: "server", version: "1", models: MODELS, viewers: 1 });
  sayHello();
  session.open(snapshot);
  const show = (frame, { id = session.lastId, pure = true, fill = 0 } = {}) =>
    engine.onframe(bytes(id, frame, pure, fill, session.settings));
  return { session, engine, sent, events, sayHello, show };
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

const types = (sent) => sent.map(({ type }) => type);

test("it starts by sending the settings, and plays", () => {
  const { sent, session } = openSession();
  const set = { type: "set", id: 1, settings: START.settings, frame: 0 };
  assert.deepEqual(sent, [set, { type: "pause" }, { type: "play" }]);
  assert.deepEqual(session.snapshot(), START);
});

test("a link with the settings of the dream on the page starts that dream again", () => {
  const { sent, session, show } = openSession();
  show(0);
  session.open(START);
  assert.deepEqual(sent.at(-3), { type: "set", id: 2, settings: START.settings, frame: 0 });
  session.change({ steps: 5 });
  assert.equal("frame" in sent.at(-1), false); // a change goes on with the dream
});

test("it can start from an image, which the snapshot then contains", () => {
  const image = Uint8Array.from({ length: 12 }, (_, i) => i);
  const { sent, session, show } = openSession({ ...START, image, paused: true });
  assert.deepEqual([...fromBase64(sent[0].image)], [...image]);
  assert.deepEqual(types(sent), ["set", "pause"]);
  assert.deepEqual(session.snapshot().image, image); // even before the first frame
  show(0, { fill: 9 });
  assert.deepEqual([...session.snapshot().image], Array(12).fill(9));
});

test("it steps to the frame of a link, then pauses or plays", () => {
  const { sent, session, show, events } = openSession({ ...START, frame: 3, paused: true });
  for (const frame of [0, 1, 2]) show(frame);
  assert.deepEqual(types(sent), ["set", "pause", "step", "step", "step"]);
  assert.equal(session.snapshot().frame, 3);
  show(3);
  assert.deepEqual(types(sent).slice(5), []);
  assert.deepEqual([session.targetFrame, events.frames], [null, [0, 1, 2, 3]]);
  session.play(true);
  assert.deepEqual(types(sent).slice(5), ["play"]);
});

test("beyond the frame of a link, it restarts", () => {
  const { sent, show } = openSession({ ...START, frame: 3, paused: true });
  show(5);
  assert.equal(sent.at(-1).type, "restart");
});

test("an action by the viewer cancels stepping to a frame", () => {
  for (const act of [
    (session) => session.play(true),
    (session) => session.change({ seed: "8" }),
    (session) => session.restart(),
  ]) {
    const { session, show } = openSession({ ...START, frame: 9, paused: true });
    show(0);
    act(session);
    assert.equal(session.targetFrame, null);
  }
});

test("changes are sent at once and then at most every 80 ms, including the last change", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const { sent, session, events } = openSession();
  session.lastSent.at = -Infinity; // as if long ago
  for (let creativity = 100; creativity <= 200; creativity++) session.change({ creativity });
  assert.deepEqual(sent.slice(3), [{ type: "set", id: 2, settings: { ...START.settings, creativity: 100 } }]);
  context.mock.timers.tick(100);
  assert.deepEqual(sent.slice(4), [{ type: "set", id: 3, settings: { ...START.settings, creativity: 200 } }]);
  assert.equal(events.settings.at(-1).creativity, 200);
  session.change({ creativity: 200 });
  assert.equal(sent.length, 5);
});

test("changed settings are sent before a message that depends on them", () => {
  const { sent, session } = openSession();
  session.change({ creativity: 7 });
  session.step();
  assert.deepEqual(types(sent).slice(3), ["pause", "set", "step"]);
});

test("a new sampler resets eta, a new label guidance, and a new model everything", () => {
  const { session } = openSession();
  session.change({ guidance: 3 });
  session.change({ sampler: "ddpm" });
  assert.equal(session.settings.eta, 0);
  session.change({ label: "none" });
  assert.equal(session.settings.guidance, 1);
  session.change({ num: 4, fps: 30, seed: "9" });
  session.changeModel("runs/plain");
  assert.deepEqual(session.settings, { ...defaults(plain), num: 4, fps: 30, seed: "9" });
});

test("frames of an earlier dream are ignored", () => {
  const { session, show, events } = openSession();
  show(4, { id: 1 });
  session.change({ seed: "8" });
  show(5, { id: 1 });
  assert.deepEqual(events.frames, [4]);
  session.sendPending();
  show(0);
  assert.deepEqual(events.frames, [4, 0]);
  assert.equal(session.sent.size, 1); // older messages are dropped
});

test("a pure frame is reproducible while no setting but fps has changed", () => {
  const { session, show } = openSession();
  show(6);
  assert.deepEqual(session.snapshot(), { ...START, frame: 6 });
  session.change({ fps: 40 });
  assert.equal(session.snapshot().image, null);
  session.change({ creativity: 9 });
  assert.notEqual(session.snapshot().image, null);
  session.change({ creativity: START.settings.creativity });
  assert.equal(session.snapshot().image, null);
  show(7, { pure: false, fill: 5 });
  assert.deepEqual([session.snapshot().frame, ...session.snapshot().image], [0, ...Array(12).fill(5)]);
});

test("frame 0 depends on all settings except creativity", () => {
  const { session, show } = openSession();
  show(0);
  session.change({ creativity: 9 });
  assert.equal(session.snapshot().image, null);
  session.change({ steps: 9 });
  assert.notEqual(session.snapshot().image, null);
});

test("a dream that starts from a drawing is not reproducible, until the seed changes", () => {
  const { sent, session, show } = openSession();
  show(0);
  const drawn = new Uint8Array(12).fill(200);
  session.startFrom(drawn);
  drawn.fill(0); // later changes to the drawing do not affect what was sent
  assert.deepEqual([...fromBase64(sent.at(-1).image)], Array(12).fill(200));
  show(1, { pure: true }); // even if the engine marks it as pure
  assert.notEqual(session.snapshot().image, null);
  session.change({ steps: 5 });
  session.sendPending();
  assert.equal("image" in sent.at(-1), false);
  show(2);
  assert.notEqual(session.snapshot().image, null);
  session.change({ seed: "4" });
  session.sendPending();
  show(0);
  assert.equal(session.snapshot().image, null);
});

test("a rejected setting is reset, and the error names only its field", () => {
  const { engine, session, show, events } = openSession();
  show(0);
  session.lastSent.at = -Infinity;
  session.change({ steps: 44 });
  const id = session.lastId;
  session.change({ creativity: 17 });
  engine.onmessage({ type: "error", id, message: "steps must be fewer" });
  assert.deepEqual(events.rejected, [[["steps"], "steps must be fewer"]]);
  assert.deepEqual([session.settings.steps, session.settings.creativity], [24, 17]);
  assert.deepEqual(events.settings.at(-1), session.settings);
});

test("a rejected new dream leaves the old one running", () => {
  const { engine, session, show, events } = openSession();
  show(3);
  session.lastSent.at = -Infinity;
  session.change({ seed: "8" });
  engine.onmessage({ type: "error", id: session.lastId, message: "no" });
  show(4, { id: 1 });
  assert.deepEqual([events.frames, session.settings.seed], [[3, 4], "0"]);
});

test("other errors, and notes, become notices", () => {
  const { engine, events } = openSession();
  engine.onmessage({ type: "error", id: null, message: "strange" });
  engine.onmessage({ type: "note", message: "one thread" });
  engine.onmessage({ type: "error", id: 1, message: "before the first frame" });
  assert.deepEqual(events.notices, [
    ["strange", true],
    ["one thread", false],
    ["before the first frame", true],
  ]);
});

test("after a lost connection it resumes where it was", () => {
  const { engine, sayHello, sent, session, show, events } = openSession();
  show(6);
  engine.onstate("retrying", 2);
  engine.onstate("open");
  assert.deepEqual(events.states, [
    ["retrying", 2],
    ["open", undefined],
  ]);
  sayHello();
  assert.deepEqual(sent.slice(3), [{ type: "set", id: 2, settings: START.settings, frame: 0 }, { type: "pause" }]);
  for (const frame of [0, 1, 2, 3, 4, 5, 6]) show(frame); // generated again, but only the last one is shown
  assert.deepEqual([events.frames, types(sent).slice(5)], [[6, 6], [...Array(6).fill("step"), "play"]]);
  show(7, { pure: false, fill: 3 });
  session.play(false);
  sayHello();
  assert.deepEqual([...fromBase64(sent.at(-2).image)], Array(12).fill(3));
  assert.deepEqual(sent.at(-1), { type: "pause" });
});

test("after a reconnect while paused, it steps to the same frame again", () => {
  const { sayHello, sent, session, show } = openSession({ ...START, paused: true });
  show(2);
  sayHello();
  show(0, { id: session.lastId });
  assert.equal(sent.at(-1).type, "step");
});

test("a reconnect at a high frame number starts from the image, and plays on if it played", () => {
  const { sayHello, sent, session, show, events } = openSession({ ...START, settings: { ...START.settings, every: 0 } });
  show(301, { fill: 6 });
  sayHello();
  assert.deepEqual([...fromBase64(sent.at(-3).image)], Array(12).fill(6));
  assert.deepEqual(types(sent).slice(-3), ["set", "pause", "play"]);
  show(0, { fill: 6 });
  assert.deepEqual(events.frames, [301, 0]);
  session.change({ seed: "1" });
  session.sendPending();
  show(301, { fill: 6 });
  session.play(false);
  assert.equal(session.snapshot().frame, 301);
  sayHello();
  assert.deepEqual([...fromBase64(sent.at(-2).image)], Array(12).fill(6));
  assert.equal(session.targetFrame, null);
});

test("a new viewer's link is stepped to in sight, and every wait has a reason", () => {
  const { session, show, events } = openSession({ ...START, frame: 2, paused: true });
  assert.equal(session.awaited, "restart");
  for (const frame of [0, 1, 2]) show(frame);
  assert.deepEqual([events.frames, session.awaited], [[0, 1, 2], ""]);
  for (const [act, reason] of [
    [() => session.step(), "step"],
    [() => session.restart(), "restart"],
    [() => session.repaint(new Uint8Array(4)), "repaint"],
    [() => session.change({ num: 4 }), "restart"],
    [() => session.startFrom(new Uint8Array(48)), "restart"],
  ]) {
    act();
    assert.equal(session.awaited, reason);
    session.sendPending();
    show(0);
    assert.equal(session.awaited, "");
  }
  session.change({ creativity: 3 }); // applies to the next frame
  assert.equal(session.awaited, "");
});

test("progress and the number of viewers are passed on", () => {
  const { engine, session } = openSession();
  const seen = [];
  Object.assign(session.listener, { progress: (message) => seen.push(message), viewers: (num) => seen.push(num) });
  const progress = { type: "progress", message: "loading the model a", loaded: 1, total: 2 };
  engine.onmessage(progress);
  engine.onmessage({ type: "viewers", viewers: 3 });
  assert.deepEqual(seen, [progress, 3]);
});

test("it pauses while there is a hold, whatever the viewer chose", () => {
  const { sent, session } = openSession();
  session.hold("hidden", true);
  session.hold("view", true);
  session.hold("hidden", false);
  assert.deepEqual(types(sent).slice(3), ["pause"]);
  session.hold("view", false);
  assert.deepEqual(types(sent).slice(4), ["play"]);
});

test("each requested trace or sample gets its own reply or error, in any order", async () => {
  const { engine, sent, session } = openSession();
  const options = { sampler: "ddpm", steps: 2, eta: 0 };
  const [first, second, third] = [session.trace(options, null), session.trace(options, 3), session.sample({})];
  const ids = sent.slice(3).map(({ id }) => id);
  assert.deepEqual(sent.slice(3), [
    { type: "trace", id: ids[0], ...options, frame: null },
    { type: "trace", id: ids[1], ...options, frame: 3 },
    { type: "sample", id: ids[2], settings: {} },
  ]);
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
  await assert.rejects(third, /disconnected/);
});

test("invalid frames are rejected", async () => {
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

test("a drift starts at the frame of a link, and a melting dream at the last sample before it", () => {
  const drift = { ...START.settings, motion: "drift", every: 60, fps: 30 };
  const { sent, session, show } = openSession({ ...START, settings: drift, frame: 500, paused: true });
  assert.deepEqual([sent[0].frame, session.snapshot().frame], [500, 500]); // the link holds before the frame arrives
  show(500);
  assert.equal(session.targetFrame, null);
  assert.deepEqual(types(sent), ["set", "pause"]);
  assert.equal(session.snapshot().frame, 500);
  assert.equal(session.limitReplay(session.snapshot()).image, null); // no frame before it is needed
  session.change({ guidance: 2 });
  session.sendPending();
  assert.ok(!("frame" in sent.findLast(({ type }) => type === "set")));

  const melting = openSession({ ...START, settings: { ...START.settings, every: 24 }, frame: 50, paused: true });
  assert.deepEqual([melting.sent[0].frame, melting.session.targetFrame], [48, 50]);
  for (const frame of [48, 49]) melting.show(frame);
  assert.deepEqual(types(melting.sent), ["set", "pause", "step", "step"]);
});

test("a drawing and a repainted picture melt on, and are not replaced", () => {
  const drift = { ...START.settings, motion: "drift", every: 60, fps: 30 };
  for (const act of [(session) => session.startFrom(new Uint8Array(12)), (session) => session.repaint(new Uint8Array(4))]) {
    const { sent, session, show } = openSession({ ...START, settings: drift });
    show(0);
    act(session);
    const { motion, every, fps } = sent.findLast(({ type }) => type === "set").settings;
    assert.deepEqual([motion, every, fps], ["melt", 0, 12]);
  }
});

test("another model keeps the speed, unless its motion differs", () => {
  const { session } = openSession();
  session.change({ fps: 5 });
  session.changeModel("runs/plain");
  assert.equal(session.settings.fps, 5);
  session.change({ motion: "drift", every: 60, fps: 30 });
  session.changeModel("sprites");
  assert.deepEqual([session.settings.motion, session.settings.fps], ["melt", 12]);
});
