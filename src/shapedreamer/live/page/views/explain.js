/**
 * One-line explanations of every control and symbol. A term is a button with a dotted line under it; tip.js shows its
 * explanation.
 *
 * @import { Explanation } from "./tip.js"
 */

import { make } from "./dom.js";
import { bindTip } from "./tip.js";

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
  eta: {
    text: "η: how much fresh noise each step adds. 0 adds none; with 1, DDIM becomes DDPM; more corrects more mistakes.",
    lab: 4,
  },
  masked_eta: { text: "η: how many visible pixels each step hides again, to correct mistakes.", lab: 13 },
  brush: { text: "Width of a stroke, in pixels of the picture." },
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
  training_step: { text: "Each step shows the network a batch of noisy points, and changes its weights a little.", lab: 2 },
  points_loss: { text: "Mean squared error of the network's prediction.", lab: 2 },
  exact_loss: { text: "The loss of the exact denoiser. On average, no network can do better.", lab: 8 },
  distance: { text: "How far the samples are from the data; 0: not at all. In brackets: other points drawn from the data." },
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

/** The images in the equations of the microscope: keys of EXPLANATIONS, by symbol. @type {Record<string, string>} */
export const IMAGE_TERMS = {
  x_t: "x_t",
  "x̂_0": "x0",
  "ε̂": "eps",
  x_s: "x_s",
  z: "z",
  "v̄": "mean_velocity",
  "ū": "mean_slope",
  "x̂′_0": "previous_x0",
  D: "extrapolated",
  "ε̂_D": "eps_D",
  "x_s − x_t": "change",
};

/** Letters of the factors in a sampler's equation. @type {Record<string, string>} */
const LETTERS = {
  ᾱ: "ᾱ: the share of the clean picture in the variance, which depends on the timestep",
  β: "β = 1 − ᾱ_t / ᾱ_s; β̃ = β (1−ᾱ_s) / (1−ᾱ_t): the variance of the fresh noise",
  σ: "σ: how strong the fresh noise is; η scales it",
  φ: "φ: the noise level as an angle, cos φ = √ᾱ",
  τ: "τ = √(1−ᾱ) / c: the time of flow matching, from 0, the picture, to 1, pure noise",
  c: "c = √ᾱ + √(1−ᾱ): the scale of x compared with flow matching",
  r: "r: the length of this step up to D, compared with the step before, in log-SNR",
  t: "t: the timestep at the start of this step",
  s: "s: the timestep at the end of this step",
};

/** What a term of an equation means: one line for each letter of its factor, and one for its image.
 * @param {string} factor  a formula
 * @param {string} image   its symbol
 * @returns {Explanation}
 */
export function explainTerm(factor, image) {
  const letters = Object.entries(LETTERS)
    .filter(([letter]) => factor.normalize("NFC").includes(letter.normalize("NFC")))
    .map(([, text]) => text);
  const { text, lab } = EXPLANATIONS[IMAGE_TERMS[image]];
  return { text: [...letters, text].join("\n"), lab };
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
  ['label[for="brush"]', "brush"],
  ['label[for="depth"]', "depth"],
];
const COUNTERS = [
  ["#frame-number", "frame"],
  ["#rate", "rate"],
  ["#calls", "calls"],
  ["#ms", "ms"],
];

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
  explainWords();
}

/** Make terms of the words that the page marks. */
export function explainWords() {
  for (const word of document.querySelectorAll("[data-term]")) {
    word.replaceWith(makeTerm([...word.childNodes], word.getAttribute("data-term") ?? ""));
  }
}

/**
 * A button that explains its content.
 * @param {(Node | string)[]} content
 * @param {string} key              of EXPLANATIONS
 * @param {() => string} [getMore]  a sentence that depends on the settings
 */
export function makeTerm(content, key, getMore = () => "") {
  const button = make("button", { type: "button", className: "explain" }, ...content);
  bindTip(button, () => {
    const { text, lab } = EXPLANATIONS[key];
    return { text: `${text} ${getMore()}`.trim(), lab };
  });
  return button;
}

/** @param {string} key @param {{prediction: string, sampler: string} | null} state */
function moreText(key, state) {
  if (key === "model") return PREDICTIONS[state?.prediction ?? ""] ?? "";
  if (key === "sampler") return SAMPLER_TEXTS[state?.sampler ?? ""] ?? "";
  return "";
}
