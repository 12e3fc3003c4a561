/**
 * The noise schedule: how much picture and how much noise there is at each timestep, as curves and as pictures. The
 * timestep is the creativity, and can be dragged.
 *
 * @import { Frame, ModelInfo } from "../engine/protocol.js"
 * @import { Session } from "../engine/session.js"
 */

import { drawNumbers, fitScale, setScale } from "./canvas.js";
import { get, make, onResize } from "./dom.js";
import { makeTerm } from "./explain.js";
import { normal } from "../engine/noise.js";
import { toImages } from "../engine/pack.js";
import { Handle, linear, Plot } from "./plot.js";
import { number, typeset } from "./typeset.js";

const MAX_LOG_SNR = 10; // beyond it, the plot is cut off
const POINTS = 200; // of a curve
const MIN_TILE = 30; // width of a picture in the strip, in CSS pixels
const CAPTION_HEIGHT = 64;
const MIN_HEIGHT = 110;
const NOISE_RANGE = 3; // ε is drawn with −3 as black and 3 as white
const ABOUT_T = "The timestep to look at: the creativity of pictures that melt";
const FIGURES = [
  ["√{ᾱ_t} · x_0", "signal", "the picture, faded"],
  ["√{1−ᾱ_t} · ε", "noise", "the noise"],
  ["x_t", "x_t", "their sum: what the network sees"],
]; // symbols, their terms, and captions
const FACTS = [
  ["t", "t"],
  ["√{ᾱ_t}", "signal"],
  ["√{1−ᾱ_t}", "noise"],
  ["SNR", "snr"],
  ["log SNR", "log_snr"],
]; // symbols, and their terms

export class ScheduleView {
  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    this.element = get("schedule", HTMLElement);
    this.plot = new Plot("Signal, noise and log-SNR over the timesteps");
    this.handle = new Handle(this.plot, "Timestep t", ABOUT_T, (creativity) => session.change({ creativity }));
    this.strip = make("canvas", { className: "strip" });
    this.strip.setAttribute("role", "img");
    this.mark = make("div", { className: "mark" });
    this.film = make("div", { className: "film" }, this.strip, this.mark);
    this.canvases = FIGURES.map(() => make("canvas"));
    this.values = FACTS.map(() => make("dd"));
    const figures = FIGURES.map(([symbol, key, caption], i) => {
      this.canvases[i].setAttribute("role", "img");
      this.canvases[i].setAttribute("aria-label", caption);
      const term = make("b", {}, makeTerm([typeset(symbol)], key));
      return make("figure", {}, this.canvases[i], make("figcaption", {}, term, ` ${caption}`));
    });
    this.sum = make("div", { className: "sum" }, figures[0], sign("+"), figures[1], sign("="), figures[2]);
    const facts = FACTS.map(([symbol, key], i) =>
      make("div", {}, make("dt", {}, makeTerm([typeset(symbol)], key)), this.values[i]),
    );
    this.element.append(this.plot.element, this.film, make("dl", { className: "facts" }, ...facts), this.sum);
    /** @type {number[]} of the pictures in the strip */
    this.times = [0];
    this.tile = 1; // width of a picture in the strip, in CSS pixels
    this.isOpen = false;
    this.picture = ""; // the picture and the noise in the strip, as a string
    /** @type {Float32Array} */
    this.x0 = new Float32Array();
    /** @type {Float64Array} */
    this.eps = new Float64Array();
    this.strip.addEventListener("click", ({ offsetX }) => {
      this.handle.request(this.times[Math.min(Math.floor(offsetX / this.tile), this.times.length - 1)]);
    });
    onResize(this.element, () => this.isOpen && this.draw());
  }

  open() {
    [this.isOpen, this.element.hidden] = [true, false];
    this.draw();
  }

  close() {
    [this.isOpen, this.element.hidden] = [false, true];
  }

  place() {
    return {};
  }

  toggle() {}

  /** @param {number} by */
  move(by) {
    this.handle.request(this.handle.value + by * this.handle.page);
  }

  /** @param {number} t */
  go(t) {
    this.handle.request(t);
  }

  update() {
    const { shown, model, settings } = this.session;
    if (shown?.C !== model.channels || shown.H !== model.height || shown.W !== model.width) return; // of another model
    const picture = `${model.name} ${settings.seed} ${shown.id} ${shown.frame}`;
    if (picture !== this.picture) this.draw();
    else this.show();
  }

  /** Draw everything that depends on the model, the picture or the size of the window. */
  draw() {
    const { shown, model, settings } = this.session;
    if (!shown || shown.C !== model.channels || shown.H !== model.height || shown.W !== model.width) return;
    this.picture = `${model.name} ${settings.seed} ${shown.id} ${shown.frame}`;
    this.x0 = toImages(shown.pixels.subarray(0, shown.C * shown.H * shown.W), model);
    this.eps = normal(BigInt(settings.seed), 0, 0, this.x0.length); // the noise that the dream begins with
    this.drawCurves(model);
    this.handle.setRange(0, model.T);
    this.drawStrip(shown, model);
    this.show();
  }

  /** @param {ModelInfo} model */
  drawCurves({ T, alpha_bar }) {
    const times = [...new Set(Array.from({ length: POINTS + 1 }, (_, i) => Math.round((i * T) / POINTS)))];
    const inside = times.filter((t) => Math.abs(logSnr(alpha_bar[t])) <= MAX_LOG_SNR);
    const curve = (/** @type {(a: number) => number} */ f, at = times) =>
      at.map((t) => /** @type {[number, number]} */ ([t, f(alpha_bar[t])]));
    const [signal, noise] = [Math.sqrt, (/** @type {number} */ a) => Math.sqrt(1 - a)];
    const at = (/** @type {number} */ fraction) => Math.round(fraction * T);
    const snr = linear(-MAX_LOG_SNR, MAX_LOG_SNR);
    const right = [-10, -5, 0, 5, 10].map((v) => /** @type {[number, string]} */ ([v, `${v}`.replace("-", "−")]));
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((f) => /** @type {[number, string]} */ ([at(f), `${at(f)}`]));
    this.plot.draw({
      x: { scale: linear(0, T), ticks, title: "timestep t" },
      y: { scale: linear(0, 1), ticks: [[0, "0"], [0.5, "0.5"], [1, "1"]], title: "factor" },
      right: { scale: snr, ticks: right, title: "log SNR" },
      lines: [
        { name: "signal", points: curve(signal), label: "√ᾱ picture", labelAt: 0.2 },
        { name: "noise", points: curve(noise), label: "√(1−ᾱ) noise", labelAt: 0.8, isBelow: true },
        { name: "snr", points: curve(logSnr, inside), y: snr, label: "log SNR", labelAt: 0.12 },
      ],
    });
  }

  /** x_t at one timestep. @param {number} t */
  noised(t) {
    const a = this.session.model.alpha_bar[t];
    return this.x0.map((value, i) => Math.sqrt(a) * value + Math.sqrt(1 - a) * this.eps[i]);
  }

  /** The picture at each t, below that t in the plot. @param {Frame} shown @param {ModelInfo} model */
  drawStrip(shown, { T, width }) {
    const { left, width: room } = this.plot.area;
    const ratio = globalThis.devicePixelRatio;
    const scale = Math.max(1, Math.round((MIN_TILE * ratio) / width)); // screen pixels per image pixel
    const count = Math.max(1, Math.floor((room * ratio) / ((width + 1) * scale)));
    const tile = ((width + 1) * scale) / ratio;
    const margin = (room - count * tile) / 2;
    const centre = (/** @type {number} */ i) => (margin + (i + 0.5) * tile) / room;
    this.times = Array.from({ length: count }, (_, i) => Math.round(T * centre(i)));
    [this.strip.width, this.strip.height] = [count * (width + 1) - 1, shown.H];
    this.times.forEach((t, i) => drawNumbers(this.strip, this.noised(t), shown, 1, [i * (width + 1), 0]));
    this.strip.setAttribute("aria-label", `The picture at ${count} timesteps from 0 to ${T}`);
    setScale(this.strip, scale);
    this.film.style.marginLeft = `${left + margin}px`;
    this.tile = tile;
  }

  /** Show the chosen timestep. */
  show() {
    const { shown, model, settings } = this.session;
    const t = settings.creativity;
    const a = model.alpha_bar[t];
    const [signal, noise] = [Math.sqrt(a), Math.sqrt(1 - a)];
    if (!shown) return;
    this.handle.show(t, `t = ${t}: ${Math.round(100 * a)}% picture, ${Math.round(100 * (1 - a))}% noise`);
    const values = [`${t}`, number(signal), number(noise), number(a / (1 - a)), number(logSnr(a), 2)];
    values.forEach((value, i) => (this.values[i].textContent = value));
    const images = [this.x0.map((value) => signal * value), this.x0.map((_, i) => noise * this.eps[i]), this.noised(t)];
    const scale = fitScale({ width: shown.W, height: shown.H }, ...this.room());
    this.canvases.forEach((canvas, i) => {
      if (canvas.width !== shown.W || canvas.height !== shown.H) [canvas.width, canvas.height] = [shown.W, shown.H];
      drawNumbers(canvas, images[i], shown, i === 1 ? NOISE_RANGE : 1);
      setScale(canvas, scale);
    });
    const distance = (/** @type {number} */ i) => Math.abs(this.times[i] - t);
    const column = this.times.reduce((best, _, i) => (distance(i) < distance(best) ? i : best), 0);
    this.mark.style.setProperty("--left", `${column * this.tile}px`);
    this.mark.style.setProperty("--width", `${this.tile}px`);
  }

  /** Width and height for each of the large pictures, in CSS pixels. @returns {[number, number]} */
  room() {
    const width = this.canvases[0].parentElement?.clientWidth ?? 0;
    if (getComputedStyle(this.element).overflowY === "visible") return [width, width]; // the page scrolls
    const { bottom } = this.element.getBoundingClientRect();
    return [width, Math.max(bottom - this.sum.getBoundingClientRect().top - CAPTION_HEIGHT, MIN_HEIGHT)];
  }
}

/** @param {number} a */
const logSnr = (a) => Math.log(a / (1 - a));

/** @param {string} text */
const sign = (text) => make("span", { className: "sign", textContent: text });
