/**
 * The guided tour: eight scenes, each a link. A scene asks what will happen; after a guess it explains what does, and
 * what to vary.
 *
 * @import { ModelInfo } from "../engine/protocol.js"
 * @import { TourState } from "../engine/state.js"
 *
 * @typedef {object} Scene
 * @property {string} title
 * @property {string} hash        the settings, without the tour
 * @property {string} text        what the page shows
 * @property {string} question
 * @property {string[]} choices
 * @property {number} answer      index of the right choice
 * @property {string} why         explains the answer
 * @property {string} vary        what to try next
 * @property {number} lab
 */

import { get, make } from "./dom.js";
import { LABS } from "./labs.js";

/** @type {Scene[]} */
export const SCENES = [
  {
    title: "One seed, one picture",
    hash: "model=shapes-turbo&seed=7&num=4&motion=drift&every=60&fps=30&paused=1",
    text: "These four pictures began as random noise, which follows from the number 7 alone: the seed.",
    question: "If you go back to frame 0, which pictures will you see?",
    choices: ["The same ones", "Similar ones", "Four others"],
    answer: 0,
    why: "The noise follows from the seed, and the rest from the noise. That is why a link can reproduce a picture.",
    vary: "Check with Back to frame 0. Then press Play: the noise turns slowly, so the pictures drift. Set Renew to 10.",
    lab: 0,
  },
  {
    title: "What does a network see in pure noise?",
    hash: "model=sprites&seed=3&sampler=ddim&steps=24&eta=0&label=none&view=microscope&look=ddim-24-0&step=12&paused=1",
    text: "The microscope shows each step from noise to picture: on the left what the network sees, then its prediction.",
    question: "Before you look: what does it predict in step 1, from nothing but noise?",
    choices: ["A sharp picture", "A blurry average", "More noise"],
    answer: 1,
    why: "Noise fits every picture equally well, and the best guess is then the average of all of them.",
    vary: "Move the slider to step 1, then press R for other seeds: the first prediction hardly changes.",
    lab: 8,
  },
  {
    title: "A little noise changes little",
    hash: "model=sprites&seed=5&num=4&steps=12&motion=melt&every=0&creativity=150&fps=4",
    text: "Each frame adds noise to the picture and removes it again. Creativity says how much; here it is low.",
    question: "What happens to a figure over many frames?",
    choices: ["It stays recognisable for long", "It is another one in every frame", "It turns grey"],
    answer: 0,
    why: "A little noise covers only fine details, and the network fills in details that fit what is left.",
    vary: "Move creativity up to 95% noise: each frame is almost a new picture. Or set Renew, and a new sample starts in time.",
    lab: 9,
  },
  {
    title: "Too few steps",
    hash: "model=sprites&seed=7&num=4&sampler=ddim&eta=0&steps=2&paused=1",
    text: "These sprites took 2 network calls each. The model was trained for many more.",
    question: "What is wrong with pictures that are made in so few steps?",
    choices: ["They are noisy", "They are soft and washed out", "Nothing: only the last step counts"],
    answer: 1,
    why: "The first prediction is an average of many pictures. One more step is not enough to decide for one of them.",
    vary: "Under More settings, set Steps to 24 and press Back to frame 0.",
    lab: 4,
  },
  {
    title: "A model for few steps",
    hash: "model=sprites-turbo&seed=7&num=4&sampler=ddim&steps=2&paused=1",
    text: "This model is a student of the last one. It also made 2 calls for each picture.",
    question: "A student that copies averages would blur, too. How did this one learn to be sharp?",
    choices: ["It has more layers", "It saw more pictures", "A critic told it when its pictures looked wrong"],
    answer: 2,
    why: "The critic tells real pictures from the student's. A blurry average is easy to spot, so the student avoids it.",
    vary: "Set Steps to 1, press Back to frame 0, and compare; then try 4.",
    lab: 10,
  },
  {
    title: "With and without chance",
    hash: "model=sprites&seed=4&view=microscope&look=ddim-24-0+ddpm-24-0&step=23&paused=1",
    text: "Two samplers start from the same noise: DDIM without randomness, and DDPM.",
    question: "They use the same network. Do they end with the same picture?",
    choices: ["Yes", "No", "Only for some seeds"],
    answer: 1,
    why: "DDPM adds fresh noise z after every step, so its path leaves DDIM's. Each path ends at a picture of its own.",
    vary: "Set the second sampler to DPM++ 2M: it follows DDIM's path, so it ends with almost the same picture.",
    lab: 1,
  },
  {
    title: "Stress the label",
    hash: "model=sprites&seed=2&num=16&sampler=ddim&eta=0&steps=12&label=mix&label.food=1&guidance=1&paused=1",
    text: "Sixteen pictures of the label food, with guidance 1: the label counts as it did in training.",
    question: "Guidance 4 pushes each step further towards the label. What does that cost?",
    choices: ["Nothing", "Twice the network calls", "A larger network"],
    answer: 1,
    why: "Each step needs the prediction with the label and the one without, and exaggerates the difference.",
    vary: "Under More settings, set Guidance to 4, then to 0, and press Back to frame 0. Watch the calls.",
    lab: 3,
  },
  {
    title: "Dream on from a drawing",
    hash: "model=sprites&seed=9&steps=12&creativity=250&view=draw&paused=1",
    text: "Here you can paint on the picture, and let the network continue from it.",
    question: "Paint a thick stroke and press Dream on. What will be left of it?",
    choices: ["Every pixel", "Its place and colour, roughly", "Nothing"],
    answer: 1,
    why: "Noise hides small things first. Large shapes and colours survive, and the network makes sense of them.",
    vary: "Draw again with more, then less creativity. Or mark a part with Mask, and repaint only that.",
    lab: 9,
  },
];

/** Screens on which settings stand below the picture; see style.css. */
const SMALL = matchMedia("(max-width: 59.99rem) and (not ((min-width: 30rem) and (max-height: 32rem)))");

/** The settings of a scene if a hash names only the scene, such as #tour=3; otherwise the hash. @param {string} hash */
export function expandScene(hash) {
  const params = new URLSearchParams(hash.replace(/^#/, ""));
  const scene = SCENES[Number.parseInt(params.get("tour") ?? "", 10) - 1];
  return scene && !params.has("model") ? `#${scene.hash}&tour=${params.get("tour")}` : hash;
}

export class Tour {
  /** @param {() => void} onChange  the state has changed */
  constructor(onChange) {
    this.onChange = onChange;
    /** @type {TourState | null} */
    this.state = null;
    this.heading = make("h2", { id: "tour-title", tabIndex: -1 });
    this.body = make("div", { id: "tour-body" });
    const close = make("button", { type: "button", textContent: "End the tour", title: "Keep the picture, hide the scene" });
    close.addEventListener("click", () => {
      this.show(null, []);
      onChange();
    });
    this.place = make("span");
    this.element = make(
      "section",
      { id: "tour", hidden: true },
      make("div", { className: "title" }, this.place, close),
      this.heading,
      this.body,
    );
    this.element.setAttribute("aria-labelledby", this.heading.id);
    this.invitation = make("p", { id: "tour-invitation" }, make("a", { href: "#tour=1" }, "Take the tour"));
    this.invitation.append(": eight scenes, eight guesses.");
    this.panel = get("panel", HTMLFormElement);
    this.main = /** @type {HTMLElement} */ (this.panel.parentElement);
    this.panel.prepend(this.element, this.invitation);
    this.isLens = false;
    SMALL.addEventListener("change", () => this.arrange(this.isLens));
  }

  /**
   * On a small screen a lens fills the screen, so the scene stands above the lens and not among the settings below it.
   * @param {boolean} isLens  whether a lens is open
   */
  arrange(isLens) {
    this.isLens = isLens;
    const parent = isLens && SMALL.matches ? this.main : this.panel;
    if (this.element.parentElement !== parent) parent.prepend(this.element);
  }

  /**
   * Show a scene; null ends the tour. Returns whether it is another scene than before.
   * @param {TourState | null} state
   * @param {ModelInfo[]} models
   */
  show(state, models) {
    const isOther = state !== null && this.state?.scene !== state.scene;
    this.state = state;
    this.element.hidden = state === null;
    this.invitation.hidden = state !== null;
    if (!state) return false;
    const scene = SCENES[state.scene - 1];
    this.place.textContent = `Tour · scene ${state.scene} of ${SCENES.length}`;
    this.heading.textContent = scene.title;
    const model = new URLSearchParams(scene.hash).get("model");
    const isMissing = !models.some(({ name }) => name === model);
    const lack = isMissing ? `This page does not offer the model ${model}, so another one stands in for it.` : "";
    const choices = scene.choices.map((choice, index) => this.choice(choice, index, state));
    this.body.replaceChildren(
      make("p", {}, scene.text),
      make("p", { className: "hint", hidden: !isMissing }, lack),
      make("p", { id: "tour-question" }, make("b", {}, scene.question)),
      make("div", { id: "tour-choices" }, ...choices),
      this.result(scene, state),
      this.links(state.scene),
    );
    return isOther;
  }

  /** @param {string} text @param {number} index @param {TourState} state */
  choice(text, index, { scene, guess }) {
    const button = make("button", { type: "button", className: "wide", textContent: text });
    const isRight = index === SCENES[scene - 1].answer;
    button.setAttribute("aria-pressed", `${guess === index + 1}`);
    if (guess !== null && isRight) button.classList.add("right");
    button.addEventListener("click", () => {
      this.state = { scene, guess: index + 1 };
      for (const [i, other] of [...(button.parentElement?.children ?? [])].entries()) {
        other.setAttribute("aria-pressed", `${i === index}`);
        other.classList.toggle("right", i === SCENES[scene - 1].answer);
      }
      get("tour-result", HTMLDivElement).replaceWith(this.result(SCENES[scene - 1], this.state));
      this.onChange();
    });
    return button;
  }

  /** @param {Scene} scene @param {TourState} state */
  result(scene, { guess }) {
    const element = make("div", { id: "tour-result" });
    element.setAttribute("role", "status");
    if (guess === null) return element;
    const verdict = guess === scene.answer + 1 ? "Yes." : `It is: ${scene.choices[scene.answer]}.`;
    const lab = make("a", { href: `page/labs.html#lab${scene.lab}`, target: "_blank" });
    lab.textContent = `Lab ${scene.lab}: ${LABS[scene.lab].title}`;
    element.append(
      make("p", {}, make("b", {}, verdict), ` ${scene.why}`),
      make("p", {}, make("b", {}, "Vary it. "), scene.vary),
      make("p", {}, "Write it yourself: ", lab),
    );
    return element;
  }

  /** Links to the scenes before and after. @param {number} scene */
  links(scene) {
    const link = (/** @type {number} */ to, /** @type {string} */ text) =>
      make("a", { className: "button", href: `#tour=${to}` }, text);
    return make(
      "div",
      { className: "row" },
      ...(scene > 1 ? [link(scene - 1, "Scene before")] : []),
      ...(scene < SCENES.length ? [link(scene + 1, "Next scene")] : []),
    );
  }
}
