/**
 * A model learns: pictures from the same noise by stored checkpoints of a training run, beside its loss curve.
 *
 * @import { Checkpoint, ModelInfo, Settings } from "../engine/protocol.js"
 * @import { Session } from "../engine/session.js"
 * @import { Place } from "../engine/state.js"
 *
 * @typedef {ModelInfo & {checkpoint: Checkpoint}} Stage
 */

import { draw, fitScale, gridLayout, setScale } from "./canvas.js";
import { get, grouped, make, onResize } from "./dom.js";
import { makeTerm } from "./explain.js";
import { defaults } from "../engine/state.js";
import { Handle, linear, Plot } from "./plot.js";
import { Samples } from "./samples.js";
import { Scrubber } from "./scrubber.js";

const ABOUT_EPOCHS = "How long the network was trained; an epoch is a pass over all training pictures";
const NUM = 16; // pictures
const STAGE_MS = 1200; // per checkpoint while playing
const MIN_HEIGHT = 180; // of the pictures, in CSS pixels
const NO_STAGES =
  "This page offers no checkpoints of a training run. The shipped models sprites-epoch-0, sprites-epoch-4, " +
  "sprites-epoch-8 and sprites-epoch-31 are such checkpoints.";

export class TrainingView {
  /** @param {Session} session @param {() => void} onChange  the epoch has changed */
  constructor(session, onChange) {
    this.session = session;
    this.onChange = onChange;
    this.element = get("training", HTMLElement);
    this.canvas = make("canvas");
    this.canvas.setAttribute("role", "img");
    this.easel = make("div", { className: "sheet" }, this.canvas);
    this.plot = new Plot("Held-out loss over the epochs of training");
    this.handle = new Handle(this.plot, "Epoch", ABOUT_EPOCHS, (epoch) => this.go(this.nearest(epoch)));
    this.seen = make("span");
    this.loss = make("output");
    this.result = make("span", {}, " Its ", makeTerm(["held-out loss"], "loss"), " is ", this.loss, ".");
    this.caption = make("p", { className: "hint" }, this.seen, this.result);
    this.lack = make("p", { className: "hint", textContent: NO_STAGES, hidden: true });
    this.samples = new Samples(session, this.element, () => this.wanted(), () => this.show());
    this.scrubber = new Scrubber("Epoch", ABOUT_EPOCHS, STAGE_MS, (index) => this.go(index));
    this.body = make("div", { className: "split" }, this.easel, make("div", {}, this.plot.element, this.caption));
    this.element.append(this.body, this.scrubber.element, this.lack, this.samples.message);
    /** @type {Stage[]} by epoch */
    this.stages = [];
    this.index = 0;
    this.isOpen = false;
    onResize(this.element, () => this.isOpen && this.show());
  }

  /** @param {Settings} settings @param {Partial<Place>} place */
  open(settings, { epoch }) {
    [this.isOpen, this.element.hidden] = [true, false];
    const stages = this.session.models.filter((model) => model.checkpoint !== undefined);
    this.stages = /** @type {Stage[]} */ (stages).sort((a, b) => a.checkpoint.epoch - b.checkpoint.epoch);
    const isEmpty = this.stages.length === 0;
    this.body.hidden = this.scrubber.element.hidden = isEmpty;
    this.lack.hidden = !isEmpty;
    if (isEmpty) return;
    this.scrubber.setLast(this.stages.length - 1);
    if (typeof epoch === "number") this.index = this.nearest(epoch);
    this.update();
    this.show();
  }

  close() {
    [this.isOpen, this.element.hidden] = [false, true];
    this.scrubber.stop();
  }

  /** @returns {Partial<Place>} */
  place() {
    return { epoch: this.stages[this.index]?.checkpoint.epoch ?? null };
  }

  toggle() {
    if (this.stages.length) this.scrubber.toggle();
  }

  /** @param {number} by */
  move(by) {
    this.scrubber.stop();
    this.go(Math.min(Math.max(this.index + by, 0), this.stages.length - 1));
  }

  /** @param {number} index */
  go(index) {
    if (!this.stages.length) return;
    this.index = index;
    this.show();
    this.onChange();
  }

  /** The stage whose epoch is nearest. @param {number} epoch */
  nearest(epoch) {
    const distance = (/** @type {number} */ i) => Math.abs(this.stages[i].checkpoint.epoch - epoch);
    return this.stages.reduce((best, _, i) => (distance(i) < distance(best) ? i : best), 0);
  }

  /** The seed may have changed. */
  update() {
    if (this.isOpen && this.stages.length) this.samples.request();
  }

  /** The settings of a stage's pictures. @param {Stage} stage @returns {Settings} */
  settingsOf(stage) {
    return { ...defaults(stage), seed: this.session.settings.seed, num: NUM };
  }

  /** The settings of all pictures; those of the stage that is shown come first. */
  wanted() {
    return this.isOpen ? [this.stages[this.index], ...this.stages].map((stage) => this.settingsOf(stage)) : [];
  }

  show() {
    const stage = this.stages[this.index];
    if (!stage) return;
    const picture = this.samples.get(this.settingsOf(stage));
    const { epoch, curve } = stage.checkpoint;
    const last = this.stages[this.stages.length - 1].checkpoint;
    const text = `epoch ${epoch} of ${last.epoch}`;
    this.scrubber.show(this.index, text);
    this.drawCurve(last);
    this.handle.show(epoch, text);
    const [images, loss] = curve[curve.length - 1] ?? [0, NaN];
    this.seen.textContent = epoch
      ? `After epoch ${epoch}, the network has seen ${grouped(images)} pictures.`
      : "Before training, the weights of the network are random.";
    this.result.hidden = epoch === 0;
    this.loss.value = loss.toFixed(3);
    this.canvas.setAttribute("aria-label", picture ? `${NUM} pictures after epoch ${epoch}` : "No pictures yet");
    this.canvas.style.visibility = picture ? "visible" : "hidden";
    if (!picture) return;
    draw(this.canvas, picture);
    setScale(this.canvas, fitScale(gridLayout(picture), ...this.room()));
  }

  /** Width and height for the pictures, in CSS pixels. @returns {[number, number]} */
  room() {
    const width = this.easel.clientWidth;
    if (getComputedStyle(this.element).overflowY === "visible") return [width, 0.6 * innerHeight]; // the page scrolls
    const { bottom } = this.element.getBoundingClientRect();
    const below = this.scrubber.element.offsetHeight + 24;
    return [width, Math.max(bottom - below - this.easel.getBoundingClientRect().top, MIN_HEIGHT)];
  }

  /** @param {Checkpoint} last */
  drawCurve({ epoch: epochs, curve }) {
    const points = curve.map(([, loss], i) => /** @type {[number, number]} */ ([i + 1, loss]));
    const losses = curve.map(([, loss]) => loss);
    const [low, high] = [Math.floor(20 * Math.min(...losses)) / 20, Math.ceil(20 * Math.max(...losses)) / 20];
    const marks = this.stages.map(({ checkpoint }) => checkpoint.epoch);
    const stored = points.filter(([epoch]) => marks.includes(epoch));
    this.plot.draw({
      x: { scale: linear(0, epochs), ticks: marks.map((epoch) => [epoch, `${epoch}`]), title: "epoch" },
      y: {
        scale: linear(low, high),
        ticks: [low, (low + high) / 2, high].map((loss) => [loss, loss.toFixed(3).replace(/0$/, "")]),
        title: "held-out loss",
      },
      lines: [
        { name: "signal", points },
        { name: "signal", points: stored, isDots: true },
      ],
    });
    this.handle.setRange(0, epochs);
  }
}
