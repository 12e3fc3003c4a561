/**
 * One-line explanations of every control and symbol. A term is a button with a dotted line under it. Hovering over it,
 * focusing it or tapping it shows its explanation, with a link to the lab that teaches it.
 *
 * @typedef {{text: string, lab?: number}} Explanation
 */

import { make } from "./dom.js";
import { LABS } from "./labs.js";

/** @type {Record<string, Explanation>} */
export const EXPLANATIONS = {
  motion: { text: "Drift: every frame is a sample, and its noise turns slowly. Melt: each frame is made from the last one.", lab: 9 },
  every: { text: "Frames from one sample of the seed to the next, with a new label if the label is any.", lab: 0 },
  creativity: { text: "How far each frame goes back towards noise before the network denoises it again.", lab: 9 },
  model: { text: "The network that removes the noise. It can only draw what it was trained on.", lab: 2 },
  label: { text: "The class that the picture should belong to: the network's second input.", lab: 3 },
  num: { text: "How many pictures are made at once. Each one starts from its own noise.", lab: 0 },
  fps: { text: "The most frames per second. A large network may be slower than that." },
  scale: { text: "Screen pixels for each pixel of the picture." },
  seed: { text: "The number that all random noise follows from: the same seed makes the same picture.", lab: 0 },
  sampler: { text: "The rule that turns the network's prediction into the next, less noisy picture.", lab: 4 },
  steps: { text: "How often the network is called for one picture. More is slower, and usually better.", lab: 4 },
  eta: { text: "η: how much fresh noise each step adds. 0 adds none; with 1, DDIM becomes DDPM.", lab: 4 },
  masked_eta: { text: "η: how many visible pixels each step hides again, to correct mistakes.", lab: 13 },
  guidance: { text: "How strongly the label counts. 1 is plain, 0 ignores it; above 1 exaggerates it.", lab: 3 },
  frame: { text: "The number of this frame. Frame 0 is the first sample of the seed, or your drawing." },
  rate: { text: "Frames that arrived in the last second." },
  calls: { text: "How often the network was called for this frame; guidance doubles it.", lab: 4 },
  ms: { text: "Milliseconds from the start of this frame to its end." },
  x_t: { text: "x_t: the picture at timestep t, part signal and part noise. The network's input.", lab: 0 },
  x0: { text: "x̂₀: the clean picture that the network predicts; early on, an average of many.", lab: 8 },
  eps: { text: "ε̂: the noise that the network finds in x_t, which is what remains without x̂₀.", lab: 1 },
  x_s: { text: "x_s: the picture at the next, smaller timestep s, with more signal and less noise.", lab: 1 },
  z: { text: "z: fresh noise, which DDPM and other samplers with η above 0 add in each step.", lab: 1 },
  previous_x0: { text: "x̂′₀: the clean picture that the network predicted in the step before.", lab: 4 },
  extrapolated: { text: "D: where the predictions are heading, extrapolated from the last two.", lab: 4 },
  eps_D: { text: "ε̂_D: the noise in x_t if D is the clean picture.", lab: 4 },
  mean_velocity: { text: "v̄: the mean of the directions at the start and at the end of the step.", lab: 4 },
  mean_slope: { text: "ū: the direction of the whole step, on the straight lines of flow matching.", lab: 7 },
  change: { text: "What this step adds to x_t to get to x_s.", lab: 1 },
  depth: { text: "The frame before is noised up to this timestep t: the creativity.", lab: 9 },
  timesteps: { text: "t → s: from this timestep to the next one. T is pure noise and 0 is the picture.", lab: 1 },
  signal: { text: "√ᾱ_t: how much of the clean picture is in x_t, from 1 at t = 0 to almost 0 at T.", lab: 0 },
  noise: { text: "√(1−ᾱ_t): how much noise is in x_t. Its square and that of √ᾱ_t add up to 1.", lab: 0 },
  snr: { text: "Signal-to-noise ratio ᾱ_t / (1−ᾱ_t): above 1, there is more picture than noise.", lab: 6 },
  log_snr: { text: "The natural logarithm of the SNR: 0 where picture and noise are equally strong.", lab: 6 },
  t: { text: "t: the timestep, from 0, the picture, to T, pure noise.", lab: 0 },
  loss: { text: "Mean squared error of the predictions for pictures the network was never trained on.", lab: 2 },
  fid: { text: "Fréchet inception distance: how far samples are from training pictures, in a classifier's features.", lab: 6 },
};

/** What a network can predict, which x̂₀ follows from. @type {Record<string, string>} */
const PREDICTIONS = {
  eps: "This one predicts the noise ε.",
  x0: "This one predicts the clean picture x₀.",
  v: "This one predicts v = √ᾱ ε − √(1−ᾱ) x₀, a mix of noise and picture.",
  flow: "This one predicts the velocity ε − x₀ of flow matching.",
};

/** What each sampler does. @type {Record<string, string>} */
export const SAMPLER_TEXTS = {
  ddpm: "DDPM takes small random steps: it adds fresh noise after each one.",
  ddim: "DDIM jumps towards x̂₀ and keeps the rest of the noise; with η = 0 nothing is random.",
  heun: "Heun calls the network twice per step and averages the two directions.",
  dpmpp_2m: "DPM++ 2M extrapolates from the step before, at no extra call.",
  midpoint: "Midpoint takes half a step, looks again, and uses that direction for the whole step.",
  heun_line: "Heun on the straight lines of flow matching.",
  masked_ancestral: "Ancestral reveals pixels at random and can hide them again.",
  masked_random: "Reveals the same number of pixels in each step, in random order.",
  masked_confidence: "Reveals first what the network is most certain of.",
};

/** Letters of the factors in a sampler's equation. @type {Record<string, string>} */
const LETTERS = {
  ᾱ: "ᾱ: the share of the clean picture in the variance",
  β: "β = 1 − ᾱ_t / ᾱ_s; β̃ = β (1−ᾱ_s) / (1−ᾱ_t): the variance of the fresh noise",
  σ: "σ: how strong the fresh noise is",
  φ: "φ: the noise level as an angle, cos φ = √ᾱ",
  τ: "τ: the time of flow matching, from 0, the picture, to 1, pure noise",
  c: "c = √ᾱ + √(1−ᾱ): the scale of x compared with flow matching",
  r: "r: half the length of this step compared with the one before, in log-SNR",
};

/** What the letters of a factor mean. @param {string} factor  a formula */
export function explainFactor(factor) {
  return Object.entries(LETTERS)
    .flatMap(([letter, text]) => (factor.normalize("NFC").includes(letter.normalize("NFC")) ? [text] : []))
    .join("; ");
}

/** The controls whose label or title becomes a term: a selector, and a key of EXPLANATIONS. */
const CONTROLS = [
  ["#motion-title", "motion"],
  ['label[for="every"]', "every"],
  ['label[for="creativity"]', "creativity"],
  ['label[for="model"]', "model"],
  ["#labels-title", "label"],
  ["#num-title", "num"],
  ['label[for="fps"]', "fps"],
  ['label[for="scale"]', "scale"],
  ['label[for="seed"]', "seed"],
  ['label[for="sampler"]', "sampler"],
  ['label[for="steps"]', "steps"],
  ['label[for="eta"][data-process="gaussian"]', "eta"],
  ['label[for="eta"][data-process="masked"]', "masked_eta"],
  ['label[for="guidance"]', "guidance"],
  ['label[for="depth"]', "depth"],
];
const COUNTERS = [
  ["#frame-number", "frame"],
  ["#rate", "rate"],
  ["#calls", "calls"],
  ["#ms", "ms"],
];

/** @type {HTMLElement | null} the term whose explanation is open */
let current = null;
let isPinned = false; // opened by a tap or a click; it then stays until the next one
const text = make("span");
const link = make("a");
const tip = make("div", { id: "explanation-tip", hidden: true }, text, " ", link);
tip.setAttribute("role", "tooltip");

/** Make terms of all controls. @param {() => {prediction: string, sampler: string} | null} getState  what runs now */
export function explainControls(getState) {
  for (const [selector, key] of CONTROLS) {
    const label = document.querySelector(selector);
    if (!(label instanceof HTMLElement)) throw new Error(`the page has no ${selector}`);
    const more = () => moreText(key, getState());
    const button = makeTerm([...label.childNodes], key, more);
    const process = label.getAttribute("data-process");
    if (process) {
      button.dataset.process = process;
      button.hidden = label.hidden;
    }
    const control = label instanceof HTMLLabelElement ? label.control : null;
    button.id = label.id || `term-${key}`;
    label.closest("[title]")?.removeAttribute("title");
    label.replaceWith(button);
    if (process) control?.setAttribute("aria-label", "η (eta)"); // one control with two labels
    else control?.setAttribute("aria-labelledby", button.id);
  }
  for (const [selector, key] of COUNTERS) {
    const span = document.querySelector(selector)?.parentElement;
    if (!span) throw new Error(`the page has no ${selector}`);
    span.removeAttribute("title");
    for (const node of [...span.childNodes]) {
      if (node instanceof Text && node.data.trim()) node.replaceWith(" ", makeTerm([node.data.trim()], key), " ");
    }
  }
  for (const word of document.querySelectorAll("[data-term]")) {
    word.replaceWith(makeTerm([...word.childNodes], word.getAttribute("data-term") ?? ""));
  }
  document.body.append(tip);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || tip.hidden) return;
    event.preventDefault();
    close();
  });
  document.addEventListener("pointerdown", ({ target }) => {
    if (target instanceof Node && !tip.contains(target) && !current?.contains(target)) close();
  });
  tip.addEventListener("focusout", closeUnlessInside);
  tip.addEventListener("pointerleave", () => !isPinned && close());
  addEventListener("scroll", place, true);
  addEventListener("resize", close);
}

/**
 * A button that explains its content.
 * @param {(Node | string)[]} content
 * @param {string} key              of EXPLANATIONS
 * @param {() => string} [getMore]  a sentence that depends on the settings
 */
export function makeTerm(content, key, getMore = () => "") {
  const button = make("button", { type: "button", className: "explain" }, ...content);
  const show = () => open(button, EXPLANATIONS[key], getMore());
  button.addEventListener("pointerenter", ({ pointerType }) => pointerType === "mouse" && !isPinned && show());
  button.addEventListener("pointerleave", ({ relatedTarget }) => {
    if (!isPinned && !(relatedTarget instanceof Node && tip.contains(relatedTarget))) close();
  });
  button.addEventListener("focus", show);
  button.addEventListener("focusout", closeUnlessInside);
  button.addEventListener("keydown", (event) => {
    if (event.key !== "Tab" || event.shiftKey || tip.hidden || link.hidden) return;
    event.preventDefault(); // the link comes next; the one after it follows the term again
    link.focus();
  });
  button.addEventListener("click", () => {
    show();
    isPinned = true;
  });
  return button;
}

link.addEventListener("keydown", (event) => {
  if (event.key !== "Tab" || !current) return;
  current.focus(); // without preventDefault: the browser moves on from the term
  close();
  if (event.shiftKey) event.preventDefault();
});

/** @param {HTMLElement} term @param {Explanation} explanation @param {string} more */
function open(term, { text: sentence, lab }, more) {
  if (current !== term) close();
  current = term;
  term.setAttribute("aria-describedby", tip.id);
  text.textContent = more ? `${sentence} ${more}` : sentence;
  link.hidden = lab === undefined;
  if (lab !== undefined) {
    link.href = `page/labs.html#lab${lab}`;
    link.target = "_blank";
    link.textContent = `Lab ${lab}: ${LABS[lab].title}`;
  }
  tip.hidden = false;
  place();
}

/** Put the explanation below its term, or above it at the bottom of the window. */
function place() {
  if (!current) return;
  const box = current.getBoundingClientRect();
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(Math.max(box.left, 8), innerWidth - width - 8);
  const below = box.bottom + height < innerHeight;
  tip.style.setProperty("left", `${Math.max(left, 8)}px`);
  tip.style.setProperty("top", `${below ? box.bottom : Math.max(box.top - height, 0)}px`);
}

function close() {
  current?.removeAttribute("aria-describedby");
  [current, isPinned, tip.hidden] = [null, false, true];
}

/** @param {FocusEvent} event */
function closeUnlessInside({ relatedTarget }) {
  const isInside = relatedTarget instanceof Node && (tip.contains(relatedTarget) || current === relatedTarget);
  if (!isInside) close();
}

/** @param {string} key @param {{prediction: string, sampler: string} | null} state */
function moreText(key, state) {
  if (key === "model") return PREDICTIONS[state?.prediction ?? ""] ?? "";
  if (key === "sampler") return SAMPLER_TEXTS[state?.sampler ?? ""] ?? "";
  return "";
}
