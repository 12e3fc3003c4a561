/**
 * The page: connects an engine, its session, and the views.
 *
 * @import { Engine, Frame, Progress } from "./engine/protocol.js"
 * @import { Snapshot } from "./engine/session.js"
 * @import { Place, ViewName } from "./engine/state.js"
 * @import { Settings } from "./engine/protocol.js"
 * @import { Entry } from "./views/history.js"
 *
 * @typedef {object} Lens  a view that explains
 * @property {(settings: Settings, place: Partial<Place>) => void} open
 * @property {() => void} close
 * @property {() => void} update             the settings or the frame on screen have changed
 * @property {() => Partial<Place>} place    what it shows, for a link
 * @property {() => void} toggle             play or pause
 * @property {(by: number) => void} move     one step on, or back
 * @property {(index: number) => void} go    to a step
 */

import { draw, fitScale, setScale } from "./views/canvas.js";
import { Controls } from "./views/controls.js";
import { Drawing } from "./views/drawing.js";
import { explainControls } from "./views/explain.js";
import { Favicon } from "./views/favicon.js";
import { choose, get, grouped, onChoice, onResize, range, setIcon, slide } from "./views/dom.js";
import { History } from "./views/history.js";
import { listen, table } from "./views/keyboard.js";
import { Microscope } from "./views/microscope.js";
import { RaceView } from "./views/race-view.js";
import { Ring } from "./files/ring.js";
import { download, toGif, toPng } from "./files/save.js";
import { ScheduleView } from "./views/schedule-view.js";
import { Session } from "./engine/session.js";
import { Share } from "./views/share.js";
import { fromUrlHash, isMasked, toUrlHash } from "./engine/state.js";
import { Status } from "./views/status.js";
import { bindTitles } from "./views/tip.js";
import { expandScene, Tour } from "./views/tour.js";
import { TrainingView } from "./views/training-view.js";
import { bindTheme, storedPreference } from "./views/theme.js";
import { Waiting, waitOf } from "./views/waiting.js";

const status = new Status();
addEventListener("error", ({ message }) => status.notify(`something went wrong: ${message}`, true));
addEventListener("unhandledrejection", ({ reason }) =>
  status.notify(`something went wrong: ${reason?.message ?? reason}`, true),
);

const MICROSCOPE = "See how a picture is made (2)";
const NO_MICROSCOPE = "the microscope explains models that remove noise, not this one, which reveals hidden pixels";
const canvas = get("canvas", HTMLCanvasElement);
const easel = get("easel", HTMLDivElement);
const ring = new Ring();
const favicon = new Favicon();
/** @type {ViewName} */
let view = "dream";
let scale = 0; // screen pixels per image pixel; 0 fits the window
/** @type {Frame | null} the newest frame, until it is drawn */
let undrawn = null;
/** @type {number[]} arrival times of the last second's frames */
const arrivals = [];
let lastArrival = -Infinity;
/** @type {Progress | null} of the current download */
let progress = null;
const waiting = new Waiting(() => get(view in lenses ? "lenses" : "stage", HTMLElement));

const controls = new Controls({
  onChange: (patch) => session.change(patch),
  onChangeModel: (name) => session.changeModel(name),
});
const session = new Session(await makeEngine(), {
  hello(hello) {
    status.setHello(hello);
    controls.setModels(hello.models);
    for (const id of ["panel", "transport"]) get(id, HTMLElement).inert = false;
    if (!session.requested) void openHash(location.hash);
  },
  frame(frame) {
    ring.push(frame, performance.now());
    arrivals.push(performance.now());
    [lastArrival, progress] = [performance.now(), null];
    if (!undrawn) requestAnimationFrame(showFrame);
    undrawn = frame;
    showWait();
    lenses[view]?.update();
    share.refresh();
  },
  settings(settings) {
    controls.show(settings, session.model);
    showMicroscopeButton(!isMasked(session.model));
    drawing.setBinary(isMasked(session.model));
    lenses[view]?.update();
    updateUrlSoon();
  },
  rejected(fields, message) {
    for (const field of fields) controls.showError(field, message);
  },
  playback() {
    const button = get("play", HTMLButtonElement);
    setIcon(button, session.isPlaying ? "pause" : "play");
    button.setAttribute("aria-label", session.isPlaying ? "Pause" : "Play");
    status.setTarget(session.replay?.to ?? null);
    updateUrlSoon();
  },
  state: (state, seconds) => status.setState(state, seconds),
  notice(message, isError) {
    progress = null;
    status.notify(message, isError);
  },
  progress: (message) => (progress = message),
  viewers: (viewers) => status.setViewers(viewers),
});
const past = new History({
  onVisit(hash, entry) {
    if (!session.requested) return;
    past.leave(linkTo(visible().snapshot, view));
    void openHash(hash, entry);
  },
  onView(name, place) {
    openings++; // a link that is still being read comes too late
    showView(name, place);
  },
});
const tour = new Tour(() => updateUrlSoon());
const microscope = new Microscope(session, () => updateUrlSoon());
/** The views that explain, by name. @type {Partial<Record<ViewName, Lens>>} */
const lenses = {
  microscope,
  schedule: new ScheduleView(session),
  training: new TrainingView(session, () => updateUrlSoon()),
  race: new RaceView(session, () => updateUrlSoon()),
};
onChoice("lens", (name) => openView(/** @type {ViewName} */ (name)));
const drawing = new Drawing({
  onContinue(pixels) {
    session.startFrom(pixels);
    openView("dream");
    session.play(true);
  },
  onRepaint(pixels, mask) {
    if (pixels) session.startFrom(pixels);
    session.repaint(mask);
  },
  onEdit: () => updateUrlSoon(),
});
const share = new Share(getShared, () => session.hold("share", false));

/** @returns {Promise<Engine>} */
async function makeEngine() {
  const kind = document.querySelector('meta[name="engine"]')?.getAttribute("content");
  if (kind === "browser") {
    const { BrowserEngine } = await import("./engine/browser-engine.js");
    return new BrowserEngine("models.json");
  }
  const { ServerEngine } = await import("./engine/server-engine.js");
  return new ServerEngine(new URL("ws?viewers", document.baseURI.replace(/^http/, "ws")).href);
}

// the URL

let openings = 0; // of links; only the latest one counts, and reading one with a picture takes longer

/** Apply the state stored in a URL. @param {string | Promise<string>} hash @param {Entry | null} [entry]  in the history */
async function openHash(hash, entry = null) {
  const opening = ++openings;
  const seed = `${crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000}`;
  const { place, problems } = await fromUrlHash(expandScene(await hash), session.models, { seed });
  if (opening !== openings) return;
  if (entry && entry.view !== place.view) {
    Object.assign(place, { scope: null, epoch: null, calls: null, ...entry.place, view: entry.view });
  }
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) place.paused = true;
  const isFirst = !session.requested;
  past.begin(place.view);
  status.closeProblems();
  const isOtherScene = tour.show(place.tour, session.models);
  setZoom(place.scale);
  showView("dream");
  session.hold("view", place.view !== "dream");
  session.open(place);
  if (place.view !== "dream") showView(place.view, place);
  if (isOtherScene && !isFirst) tour.heading.focus();
  if (problems.length) status.notify(problems.join("; "), true);
}

/** The hash of a URL that reproduces a snapshot. @param {Snapshot} snapshot @param {ViewName} linkedView */
async function linkTo(snapshot, linkedView) {
  const lens = { scope: null, epoch: null, calls: null, ...lenses[linkedView]?.place() };
  const isExplained = linkedView === "microscope" || linkedView === "schedule"; // the frame on screen
  let start = snapshot.paused || isExplained ? session.limitReplay(snapshot) : { ...snapshot, frame: 0 };
  if (linkedView === "microscope") start = microscope.startOf(start);
  return `#${await toUrlHash({ ...start, view: linkedView, scale, tour: tour.state, ...lens })}`;
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let urlTimer;

/** Write the current state into the URL, 300 ms after the last change. */
function updateUrlSoon() {
  clearTimeout(urlTimer);
  urlTimer = setTimeout(async () => {
    const [shown, { visit }] = [view, past];
    const link = await linkTo(visible().snapshot, shown);
    if (shown === view && visit === past.visit) past.replace(link, shown, lenses[shown]?.place() ?? {});
  }, 300);
}

/** The picture on the canvas, including an edited drawing, and how to reproduce it. */
function visible() {
  const snapshot = session.snapshot();
  const drawn = view === "draw" && drawing.edited ? drawing.frame : null;
  return drawn
    ? { frame: drawn, snapshot: { ...snapshot, frame: 0, image: drawn.pixels.slice() } }
    : { frame: session.shown, snapshot };
}

// frames

function showFrame() {
  const frame = undrawn;
  undrawn = null;
  if (!frame) return;
  const { width, height } = canvas;
  if (view === "draw") drawing.load(frame);
  else draw(canvas, frame);
  if (canvas.width !== width || canvas.height !== height) updateCanvasSize();
  favicon.show(frame);
  get("frame-number", HTMLOutputElement).value = grouped(frame.frame);
  const { model } = session.settings;
  const label = `${session.isPlaying ? "Live frames" : `Frame ${frame.frame}`} from the model ${model}`;
  if (canvas.getAttribute("aria-label") !== label) canvas.setAttribute("aria-label", label);
  if (session.isPlaying) return;
  showNumbers();
  updateUrlSoon();
}

/** Update the numbers that would flicker if they changed with every frame. */
function showNumbers() {
  const now = performance.now();
  while (arrivals.length && now - arrivals[0] > 1000) arrivals.shift();
  get("rate", HTMLOutputElement).value = arrivals.length.toFixed(0);
  if (!session.shown) return;
  get("calls", HTMLOutputElement).value = `${session.shown.calls}`;
  const { ms } = session.shown;
  get("ms", HTMLOutputElement).value = ms.toFixed(ms < 1000 ? 1 : 0);
}

function showWait() {
  const isConnected = status.state === "open" || (status.state === "connecting" && !session.requested);
  status.setWait(waiting.update(isConnected ? waitOf(session, progress, performance.now() - lastArrival) : null));
}
setInterval(() => {
  showNumbers();
  showWait();
}, 250);

/** Size the canvas to the chosen zoom, or to fit the window. */
function updateCanvasSize() {
  const { paddingLeft, paddingTop } = getComputedStyle(easel);
  const fitting = fitScale(
    canvas,
    easel.clientWidth - 2 * parseFloat(paddingLeft),
    easel.clientHeight - 2 * parseFloat(paddingTop),
  );
  setScale(canvas, scale || fitting);
}
onResize(easel, updateCanvasSize);

/** @param {number} zoom  screen pixels per image pixel; 0 fits the window */
function setZoom(zoom) {
  scale = zoom;
  slide(range("scale"), scale);
  get("scale-text", HTMLOutputElement).value = scale ? `× ${scale}` : "fit";
  updateCanvasSize();
}

/** Go to another view; Back then returns to this one. @param {ViewName} name */
function openView(name) {
  if (name === view) return;
  showView(name);
  past.push(view);
}

/** @param {ViewName} name @param {Partial<Place>} [place]  what a lens shows first */
function showView(name, place = {}) {
  if (name in lenses && isMasked(session.model)) {
    status.notify(NO_MICROSCOPE, false);
    name = "dream";
  }
  if (view === "draw") drawing.close();
  lenses[view]?.close();
  view = name;
  document.body.dataset.showing = view;
  for (const button of document.querySelectorAll("[data-view]")) {
    const current = view in lenses ? "microscope" : view;
    if (button instanceof HTMLButtonElement) button.setAttribute("aria-current", `${button.dataset.view === current}`);
  }
  const lens = lenses[view];
  get("stage", HTMLElement).hidden = lens !== undefined;
  get("lenses", HTMLElement).hidden = lens === undefined;
  choose("lens", view);
  get("drawing", HTMLFieldSetElement).hidden = view !== "draw";
  get("panel", HTMLFormElement).scrollTop = 0; // each view begins with its own explanation or tools
  tour.arrange(lens !== undefined);
  for (const text of document.querySelectorAll("[data-lens]")) {
    text.toggleAttribute("hidden", text.getAttribute("data-lens") !== view);
  }
  session.hold("view", view !== "dream");
  if (lens) lens.open(session.settings, place);
  else if (session.shown && !(view === "draw" && drawing.resume(session.shown))) {
    undrawn = session.shown;
    showFrame();
  }
  updateUrlSoon();
}

/** Masked models have no microscope. @param {boolean} isEnabled */
function showMicroscopeButton(isEnabled) {
  const button = document.querySelector('[data-view="microscope"]');
  if (!(button instanceof HTMLButtonElement)) return;
  button.disabled = !isEnabled;
  button.title = isEnabled ? MICROSCOPE : NO_MICROSCOPE;
  if (!isEnabled && view in lenses) showView("dream");
}

// actions

function randomize() {
  session.change({ seed: `${crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000}` });
}

function playOrPause() {
  const lens = lenses[view];
  if (lens) lens.toggle();
  else if (view === "dream") session.play(!session.isPlaying);
}

function stepOn() {
  const lens = lenses[view];
  if (lens) lens.move(1);
  else session.step();
}

function goToStart() {
  const lens = lenses[view];
  if (lens) lens.go(0);
  else session.restart();
}

/** @param {number} by  fraction of T */
function moveCreativity(by) {
  if (session.settings.motion === "drift" && view === "dream") return; // samples have no creativity
  const { T } = session.model;
  session.change({ creativity: Math.min(Math.max(session.settings.creativity + Math.round(by * T), 0), T) });
}

function fileName() {
  const { model, seed } = session.settings;
  return `${model.replace(/[^\w.-]+/g, "-")}-${seed}-${session.shown?.frame ?? 0}`;
}

async function savePng() {
  const { frame } = visible();
  if (frame) download(await toPng(frame), `${fileName()}.png`);
}

async function saveGif() {
  const button = get("save-gif", HTMLButtonElement);
  if (ring.frames.length === 0 || button.disabled) return;
  button.disabled = true;
  const text = get("gif-text", HTMLSpanElement);
  try {
    const blob = await toGif(ring, (fraction) => (text.textContent = `${Math.round(100 * fraction)}%`));
    download(blob, `${fileName()}.gif`);
  } finally {
    text.textContent = "GIF";
    button.disabled = false;
  }
}

function getShared() {
  const { frame, snapshot } = visible();
  /** @param {Snapshot} snapshot */
  const link = async (snapshot) =>
    new URL(await linkTo(snapshot, view === "draw" ? "dream" : view), location.href).href;
  return { snapshot: { ...snapshot, paused: true }, model: session.model, frame, link };
}

function openShare() {
  session.hold("share", true);
  share.open();
}

function openHelp() {
  get("help-dialog", HTMLDialogElement).showModal();
}

async function toggleFullscreen() {
  if (document.fullscreenElement) await document.exitFullscreen();
  else await get("stage", HTMLElement).requestFullscreen?.(); // some phones do not support it
}

explainControls(() =>
  session.requested ? { prediction: session.model.prediction, sampler: session.settings.sampler } : null,
);
bindTitles();
get("tour-link", HTMLAnchorElement).addEventListener("click", () => get("help-dialog", HTMLDialogElement).close());
const toggleTheme = bindTheme();
const shortcuts = storedPreference("keys", "on");
const shortcutSwitch = get("keys-on", HTMLInputElement);
shortcutSwitch.checked = shortcuts.value === "on";
shortcutSwitch.addEventListener("change", () => shortcuts.set(shortcutSwitch.checked ? "on" : "off"));

/** @type {[string, () => void][]} */
const BUTTONS = [
  ["play", () => session.play(!session.isPlaying)],
  ["step", () => session.step()],
  ["restart", () => session.restart()],
  ["randomize", randomize],
  ["save-png", savePng],
  ["save-gif", saveGif],
  ["share", openShare],
  ["fullscreen", toggleFullscreen],
  ["help", openHelp],
  ["theme", toggleTheme],
];
for (const [id, run] of BUTTONS) get(id, HTMLButtonElement).addEventListener("click", run);
for (const button of document.querySelectorAll("[data-view]")) {
  if (button instanceof HTMLButtonElement) {
    const name = /** @type {ViewName} */ (button.dataset.view);
    button.addEventListener("click", () => session.requested && openView(name));
  }
}
range("scale").addEventListener("input", () => {
  setZoom(Number(range("scale").value));
  updateUrlSoon();
});

/** @param {string} key @param {string} description @param {() => void} run */
const shortcut = (key, description, run, label = key.toUpperCase()) => ({ key, label, description, run });
const KEYS = [
  shortcut(" ", "play or pause", playOrPause, "space"),
  shortcut(".", "next frame or step", stepOn),
  shortcut(",", "previous step (microscope)", () => lenses[view]?.move(-1)),
  shortcut("0", "first frame or step", goToStart),
  shortcut("r", "new random seed", randomize),
  shortcut("[", "less creativity", () => moveCreativity(-0.02)),
  shortcut("]", "more creativity", () => moveCreativity(0.02)),
  shortcut("1", "dream view", () => openView("dream")),
  shortcut("2", "microscope view", () => openView("microscope")),
  shortcut("3", "draw view", () => openView("draw")),
  shortcut("u", "undo (draw)", () => view === "draw" && drawing.undo()),
  shortcut("s", "save as PNG", savePng),
  shortcut("g", "save the last 6 seconds as GIF", saveGif),
  shortcut("c", "share a link or code", openShare),
  shortcut("f", "full screen", toggleFullscreen),
  shortcut("t", "light or dark theme", toggleTheme),
  shortcut("?", "this help", openHelp),
].map((entry) => ({ ...entry, run: () => (session.requested || entry.key === "?") && entry.run() }));
listen(KEYS, () => shortcuts.value === "on");
get("keys", HTMLElement).append(...table(KEYS));

document.addEventListener("visibilitychange", () => session.hold("hidden", document.hidden));
