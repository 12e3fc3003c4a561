/**
 * The page: an engine, a session with it, and what a person sees and does.
 *
 * @import { Engine, Frame, Settings } from "./engine/protocol.js"
 * @import { Chain } from "./engine/session.js"
 * @import { Scope, ViewName } from "./engine/state.js"
 */

import { draw, enlarge, fitting } from "./views/canvas.js";
import { Controls } from "./views/controls.js";
import { Drawing } from "./views/drawing.js";
import { get, grouped, range, setIcon, slide } from "./views/dom.js";
import { listen, table } from "./views/keyboard.js";
import { Microscope } from "./views/microscope.js";
import { Ring } from "./files/ring.js";
import { download, toGif, toPng } from "./files/save.js";
import { Session } from "./engine/session.js";
import { Share } from "./views/share.js";
import { fromAddress, toAddress } from "./engine/state.js";
import { Status } from "./views/status.js";
import { bindTheme, remembered } from "./views/theme.js";

const status = new Status();
addEventListener("error", ({ message }) => status.tell(`something went wrong: ${message}`, true));
addEventListener("unhandledrejection", ({ reason }) =>
  status.tell(`something went wrong: ${reason?.message ?? reason}`, true),
);

const canvas = get("canvas", HTMLCanvasElement);
const easel = get("easel", HTMLDivElement);
const ring = new Ring();
/** @type {ViewName} */
let view = "dream";
let scale = 0; // screen pixels a pixel; 0 for as many as fit
/** @type {Frame | null} the newest that is not yet drawn */
let undrawn = null;
/** @type {number[]} when the frames of the last second came */
const arrivals = [];

const controls = new Controls({
  change: (patch) => session.change(patch),
  changeModel: (name) => session.changeModel(name),
});
const session = new Session(await makeEngine(), {
  hello(hello) {
    status.greet(hello);
    controls.offer(hello.models);
    for (const id of ["panel", "transport"]) get(id, HTMLElement).inert = false;
    if (!session.wished) void follow(location.hash);
  },
  frame(frame) {
    ring.push(frame, performance.now());
    arrivals.push(performance.now());
    if (!undrawn) requestAnimationFrame(showFrame);
    undrawn = frame;
    share.refresh();
  },
  settings(settings) {
    controls.show(settings, session.model);
    microscope.follow();
    rememberSoon();
  },
  refused(fields, message) {
    for (const field of fields) controls.say(field, message);
  },
  playing() {
    const button = get("play", HTMLButtonElement);
    setIcon(button, session.wish ? "pause" : "play");
    button.setAttribute("aria-label", session.wish ? "Pause" : "Play");
    status.reach(session.target);
    rememberSoon();
  },
  state: (state, seconds) => status.become(state, seconds),
  news: (message, bad) => status.tell(message, bad),
});
const microscope = new Microscope(session, () => rememberSoon());
const drawing = new Drawing({
  dreamOn(pixels) {
    session.dreamFrom(pixels);
    look("dream");
    session.play(true);
  },
  repaint(pixels, mask) {
    if (pixels) session.dreamFrom(pixels);
    session.repaint(mask);
  },
  changed: () => rememberSoon(),
});
const share = new Share(shared, () => session.hold("share", false));

/** @returns {Promise<Engine>} */
async function makeEngine() {
  const kind = document.querySelector('meta[name="engine"]')?.getAttribute("content");
  if (kind === "browser") {
    const { BrowserEngine } = await import("./engine/browser-engine.js");
    return new BrowserEngine("models.json");
  }
  const { ServerEngine } = await import("./engine/server-engine.js");
  return new ServerEngine(new URL("ws", document.baseURI.replace(/^http/, "ws")).href);
}

// the address

/** Go where an address leads. @param {string} address */
async function follow(address) {
  const seed = `${crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000}`;
  const { place, problems } = await fromAddress(address, session.models, { seed });
  if (address.length < 2 && matchMedia("(prefers-reduced-motion: reduce)").matches) place.paused = true;
  setScale(place.scale);
  look("dream");
  session.hold("view", place.view !== "dream");
  session.open(place);
  if (place.view !== "dream") look(place.view, place.scope);
  if (problems.length) status.tell(problems.join("; "), true);
}

/** @param {Chain} chain @param {ViewName} where */
async function link(chain, where) {
  const scope = where === "microscope" ? microscope.scope() : null;
  const place = chain.paused ? session.near(chain) : { ...chain, frame: 0 };
  return `#${await toAddress({ ...place, view: where, scale, scope })}`;
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let remembering;

/** Write into the address what is shown, when things have calmed down. */
function rememberSoon() {
  clearTimeout(remembering);
  remembering = setTimeout(async () => history.replaceState(null, "", await link(seen().chain, view)), 300);
}

/** What is on the canvas, with what is drawn on it, and what leads to it. */
function seen() {
  const chain = session.chain();
  const drawn = view === "draw" && drawing.edited ? drawing.frame : null;
  return drawn
    ? { frame: drawn, chain: { ...chain, frame: 0, image: drawn.pixels.slice() } }
    : { frame: session.shown, chain };
}

// the dream

function showFrame() {
  const frame = undrawn;
  undrawn = null;
  if (!frame) return;
  const { width, height } = canvas;
  if (view === "draw") drawing.take(frame);
  else draw(canvas, frame);
  if (canvas.width !== width || canvas.height !== height) fit();
  get("frame-number", HTMLOutputElement).value = grouped(frame.frame);
  const { model } = session.settings;
  const words = session.wish ? `A dream of ${model}` : `Frame ${frame.frame} of a dream of ${model}`;
  if (canvas.getAttribute("aria-label") !== words) canvas.setAttribute("aria-label", words);
  if (session.wish) return;
  showNumbers();
  rememberSoon();
}

/** The numbers that would only flicker if they changed with each frame. */
function showNumbers() {
  const now = performance.now();
  while (arrivals.length && now - arrivals[0] > 1000) arrivals.shift();
  get("rate", HTMLOutputElement).value = arrivals.length.toFixed(0);
  if (!session.shown) return;
  get("calls", HTMLOutputElement).value = `${session.shown.calls}`;
  get("ms", HTMLOutputElement).value = session.shown.ms.toFixed(1);
}
setInterval(showNumbers, 250);

/** Make the canvas as large as fits, or as is wished. */
function fit() {
  const { paddingLeft, paddingTop } = getComputedStyle(easel);
  const room = fitting(
    canvas,
    easel.clientWidth - 2 * parseFloat(paddingLeft),
    easel.clientHeight - 2 * parseFloat(paddingTop),
  );
  enlarge(canvas, scale || room);
}
new ResizeObserver(fit).observe(easel);

/** @param {number} wished */
function setScale(wished) {
  scale = wished;
  slide(range("scale"), scale);
  get("scale-text", HTMLOutputElement).value = scale ? `× ${scale}` : "fits";
  fit();
}

/** @param {ViewName} which @param {Scope | null} [scope] */
function look(which, scope = null) {
  if (view === "draw") drawing.leave();
  if (view === "microscope") microscope.close();
  view = which;
  document.body.dataset.showing = view;
  for (const button of document.querySelectorAll("[data-view]")) {
    if (button instanceof HTMLButtonElement) button.setAttribute("aria-current", `${button.dataset.view === view}`);
  }
  get("stage", HTMLElement).hidden = view === "microscope";
  get("drawing", HTMLFieldSetElement).hidden = view !== "draw";
  get("explanation", HTMLDivElement).hidden = view !== "microscope";
  session.hold("view", view !== "dream");
  if (view === "microscope") microscope.open(session.settings, scope);
  else if (session.shown && !(view === "draw" && drawing.resume(session.shown))) {
    undrawn = session.shown;
    showFrame();
  }
  rememberSoon();
}

// what a person does

function randomize() {
  session.change({ seed: `${crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000}` });
}

function playOrPause() {
  if (view === "microscope") microscope.toggle();
  else if (view === "dream") session.play(!session.wish);
}

/** @param {number} by  share of T */
function moveCreativity(by) {
  const { T } = session.model;
  session.change({ creativity: Math.min(Math.max(session.settings.creativity + Math.round(by * T), 0), T) });
}

function fileName() {
  const { model, seed } = session.settings;
  return `${model.replace(/[^\w.-]+/g, "-")}-${seed}-${session.shown?.frame ?? 0}`;
}

async function savePng() {
  const { frame } = seen();
  if (frame) download(await toPng(frame), `${fileName()}.png`);
}

async function saveGif() {
  const button = get("save-gif", HTMLButtonElement);
  if (ring.kept.length === 0 || button.disabled) return;
  button.disabled = true;
  const text = get("gif-text", HTMLSpanElement);
  try {
    const blob = await toGif(ring, (share) => (text.textContent = `${Math.round(100 * share)} %`));
    download(blob, `${fileName()}.gif`);
  } finally {
    text.textContent = "GIF";
    button.disabled = false;
  }
}

function shared() {
  const { frame, chain } = seen();
  /** @param {Chain} chain */
  const address = async (chain) => new URL(await link(chain, view === "draw" ? "dream" : view), location.href).href;
  return { chain: { ...chain, paused: true }, model: session.model, frame, link: address };
}

function openShare() {
  session.hold("share", true);
  share.open();
}

function openHelp() {
  get("help-dialog", HTMLDialogElement).showModal();
}

async function onlyTheDream() {
  if (document.fullscreenElement) await document.exitFullscreen();
  else await get("stage", HTMLElement).requestFullscreen?.(); // which some telephones have not
}

const theme = bindTheme();
const keysOn = remembered("keys", "on");
const keysSwitch = get("keys-on", HTMLInputElement);
keysSwitch.checked = keysOn.value === "on";
keysSwitch.addEventListener("change", () => keysOn.set(keysSwitch.checked ? "on" : "off"));

/** @type {[string, () => void][]} */
const BUTTONS = [
  ["play", () => session.play(!session.wish)],
  ["step", () => session.step()],
  ["restart", () => session.restart()],
  ["randomize", randomize],
  ["save-png", savePng],
  ["save-gif", saveGif],
  ["share", openShare],
  ["fullscreen", onlyTheDream],
  ["help", openHelp],
  ["theme", theme],
];
for (const [id, run] of BUTTONS) get(id, HTMLButtonElement).addEventListener("click", run);
for (const button of document.querySelectorAll("[data-view]")) {
  if (button instanceof HTMLButtonElement) {
    button.addEventListener("click", () => session.wished && look(/** @type {ViewName} */ (button.dataset.view)));
  }
}
range("scale").addEventListener("input", () => {
  setScale(Number(range("scale").value));
  rememberSoon();
});

/** @param {string} key @param {string} does @param {() => void} run */
const entry = (key, does, run, shown = key.toUpperCase()) => ({ key, shown, does, run });
const KEYS = [
  entry(" ", "play or pause", playOrPause, "space"),
  entry(".", "one frame", () => (view === "microscope" ? microscope.move(1) : session.step())),
  entry(",", "one step back, in the microscope", () => view === "microscope" && microscope.move(-1)),
  entry("0", "back to frame 0", () => (view === "microscope" ? microscope.go(0) : session.restart())),
  entry("r", "another seed", randomize),
  entry("[", "less creative", () => moveCreativity(-0.02)),
  entry("]", "more creative", () => moveCreativity(0.02)),
  entry("1", "dream", () => look("dream")),
  entry("2", "microscope", () => look("microscope")),
  entry("3", "draw", () => look("draw")),
  entry("u", "undo, in drawing", () => view === "draw" && drawing.back()),
  entry("s", "save the picture", savePng),
  entry("g", "save the last seconds", saveGif),
  entry("c", "link and code", openShare),
  entry("f", "only the dream", onlyTheDream),
  entry("t", "light or dark", theme),
  entry("?", "this help", openHelp),
].map((key) => ({ ...key, run: () => (session.wished || key.key === "?") && key.run() }));
listen(KEYS, () => keysOn.value === "on");
get("keys", HTMLElement).append(...table(KEYS));

addEventListener("hashchange", () => session.wished && follow(location.hash));
document.addEventListener("visibilitychange", () => session.hold("hidden", document.hidden));
