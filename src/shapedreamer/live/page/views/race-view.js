/**
 * A race of samplers: pictures from one noise by four samplers with the same number of network calls, beside measured
 * quality. The measurements are in quality.json, which benchmarks/race.py writes.
 *
 * @import { Frame, SamplerName, Settings } from "../engine/protocol.js"
 * @import { Session } from "../engine/session.js"
 * @import { Place } from "../engine/state.js"
 *
 * @typedef {{sampler: SamplerName, calls: number, share: number, low: number, high: number, fid: number}} Point
 * @typedef {object} Quality  of one model
 * @property {number} num     samples per point
 * @property {string} measure what makes a sample good
 * @property {number} real    the share of good real images
 * @property {number} real_fid
 * @property {Point[]} points
 */

import { draw, fitScale, gridLayout, setScale } from "./canvas.js";
import { get, make, onResize } from "./dom.js";
import { makeTerm, SAMPLER_TEXTS } from "./explain.js";
import { MAX_STEPS, SAMPLERS } from "../engine/state.js";
import { Handle, linear, logarithmic, Plot } from "./plot.js";
import { Samples } from "./samples.js";
import { Scrubber } from "./scrubber.js";

/** @type {SamplerName[]} */
const RACERS = ["ddpm", "ddim", "heun", "dpmpp_2m"];
const DEFAULT_CALLS = 8;
const ABOUT_CALLS = "How often each sampler may call the network";
const STAGE_MS = 700; // per number of calls while playing
const CAPTION_HEIGHT = 62;
const GAP = 14;
const MIN_HEIGHT = 110;
const MIN_ROW = 440; // width from which all pictures stand in one row

export class RaceView {
  /** @param {Session} session @param {() => void} onChange  the number of calls has changed */
  constructor(session, onChange) {
    this.session = session;
    this.onChange = onChange;
    this.element = get("race", HTMLElement);
    this.lanes = RACERS.map((sampler) => new Lane(sampler));
    this.gallery = make("div", { className: "lanes" }, ...this.lanes.map(({ element }) => element));
    this.plot = new Plot("Share of good samples over the number of network calls");
    this.handle = new Handle(this.plot, "Network calls", ABOUT_CALLS, (calls) => this.go(calls - 1));
    this.caption = make("p", { className: "hint" });
    this.samples = new Samples(session, this.element, () => this.wanted(), () => this.show());
    this.scrubber = new Scrubber("Network calls", ABOUT_CALLS, STAGE_MS, (index) => this.go(index));
    this.element.append(this.gallery, this.plot.element, this.caption, this.scrubber.element);
    this.element.append(this.samples.message);
    this.calls = DEFAULT_CALLS;
    /** @type {Record<string, Quality> | null} by model */
    this.quality = null;
    this.isOpen = false;
    onResize(this.element, () => this.isOpen && this.show());
  }

  /** @param {Settings} settings @param {Partial<Place>} place */
  open(settings, { calls }) {
    [this.isOpen, this.element.hidden] = [true, false];
    if (calls) this.calls = calls;
    void this.loadQuality();
    this.update();
  }

  close() {
    [this.isOpen, this.element.hidden] = [false, true];
    this.scrubber.stop();
  }

  /** @returns {Partial<Place>} */
  place() {
    return { calls: this.calls };
  }

  toggle() {
    this.scrubber.toggle();
  }

  /** @param {number} by */
  move(by) {
    this.scrubber.stop();
    this.scrubber.go(this.scrubber.index + by);
  }

  /** @param {number} index  number of calls − 1 */
  go(index) {
    this.calls = index + 1;
    this.update();
    this.onChange();
  }

  async loadQuality() {
    if (this.quality) return;
    const response = await fetch(new URL("../quality.json", import.meta.url));
    if (!response.ok) throw new Error(`could not load the measured quality: ${response.status}`);
    this.quality = await response.json();
    this.show();
  }

  /** The settings of a sampler's pictures. @param {SamplerName} sampler @returns {Settings} */
  settingsOf(sampler) {
    const { model, seed, num, label, guidance } = this.session.settings;
    const { creativity } = this.session.model;
    const unused = { creativity, motion: /** @type {const} */ ("melt"), every: 0, fps: 0 };
    return { model, seed, num, label, guidance, sampler, steps: this.calls, eta: 0, ...unused };
  }

  /** The settings of all pictures. */
  wanted() {
    return this.isOpen ? RACERS.map((sampler) => this.settingsOf(sampler)) : [];
  }

  /** The settings or the number of calls have changed. */
  update() {
    if (!this.isOpen) return;
    const max = Math.min(MAX_STEPS, this.session.model.T);
    this.calls = Math.min(this.calls, max);
    this.scrubber.setLast(max - 1);
    this.show();
    this.samples.request();
  }

  show() {
    const { calls } = this;
    const quality = this.quality?.[this.session.model.name] ?? null;
    const text = `${calls} ${calls === 1 ? "call" : "calls"}`;
    this.scrubber.show(calls - 1, text);
    this.showQuality(quality, text);
    const pictures = this.lanes.map(({ sampler }) => this.samples.get(this.settingsOf(sampler)));
    const { channels: C, height: H, width: W } = this.session.model;
    const size = gridLayout({ num: this.session.settings.num, C, H, W });
    this.lanes.forEach((lane, i) => {
      lane.show(pictures[i], size, quality ? measured(quality, lane.sampler, calls) : null);
    });
    this.sizeLanes(size);
  }

  /** Make the pictures as large as the space allows. @param {{width: number, height: number}} size */
  sizeLanes(size) {
    const isScrolling = getComputedStyle(this.element).overflowY === "visible"; // narrow screens: the page scrolls
    const columns = this.element.clientWidth < MIN_ROW ? 2 : RACERS.length;
    const width = (this.element.clientWidth - (columns - 1) * GAP) / columns;
    const others = [this.plot.element.clientHeight, this.caption.offsetHeight, this.scrubber.element.offsetHeight];
    const used = others.reduce((sum, height) => sum + height, 4 * GAP + CAPTION_HEIGHT);
    const height = isScrolling ? Math.min(width, 0.4 * innerHeight) : Math.max(this.element.clientHeight - used, MIN_HEIGHT);
    this.gallery.style.setProperty("--columns", `${columns}`);
    const scale = fitScale(size, width, height);
    for (const { canvas } of this.lanes) setScale(canvas, scale);
  }

  /** @param {Quality | null} quality @param {string} text */
  showQuality(quality, text) {
    this.plot.element.toggleAttribute("hidden", quality === null);
    const known = new Intl.ListFormat("en").format(Object.keys(this.quality ?? {}));
    if (!quality) {
      this.caption.textContent = this.quality ? `Quality was measured for ${known} only.` : "";
      return;
    }
    const { num, measure, real, real_fid, points } = quality;
    const all = points.map(({ calls }) => calls);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const ticks = [...new Set(all)].map((calls) => /** @type {[number, string]} */ ([calls, `${calls}`]));
    this.plot.draw({
      x: { scale: logarithmic(low, high), ticks, title: "network calls" },
      y: {
        scale: linear(0, 1),
        ticks: [0, 0.5, 1].map((share) => [share, `${100 * share}%`]),
        title: `share of samples: ${measure}`,
      },
      lines: RACERS.flatMap((sampler) => curves(points.filter((point) => point.sampler === sampler))),
    });
    this.handle.setRange(low, high);
    this.handle.show(this.calls, text);
    this.caption.textContent =
      `Measured with ${num} samples per point, without guidance and with labels from the data; bars are 95% intervals. ` +
      `Real images: ${percent(real)}, FID ${real_fid}.`;
  }
}

/** One sampler's picture. */
class Lane {
  /** @param {SamplerName} sampler */
  constructor(sampler) {
    this.sampler = sampler;
    this.canvas = make("canvas");
    this.canvas.setAttribute("role", "img");
    this.quality = make("span");
    const term = makeTerm([SAMPLERS[sampler]], "sampler", () => SAMPLER_TEXTS[sampler]);
    const name = make("b", { className: `swatch ${sampler}` }, term);
    this.element = make("figure", {}, this.canvas, make("figcaption", {}, name, this.quality));
  }

  /** @param {Frame | null} picture @param {{width: number, height: number}} size @param {Point | null} point */
  show(picture, { width, height }, point) {
    this.element.classList.toggle("pending", picture === null);
    this.canvas.setAttribute("aria-label", `${SAMPLERS[this.sampler]}${picture ? "" : ": not generated yet"}`);
    if (picture) draw(this.canvas, picture);
    else if (this.canvas.width !== width || this.canvas.height !== height) {
      [this.canvas.width, this.canvas.height] = [width, height]; // the place of the picture to come
    }
    this.quality.textContent = point
      ? `${percent(point.share)} (${percent(point.low)} to ${percent(point.high)}), ` +
        `FID ${point.fid} with ${point.calls} ${point.calls === 1 ? "call" : "calls"}`
      : "";
  }
}

/** The measurement with the nearest number of calls, by ratio. @param {Quality} quality @param {SamplerName} sampler @param {number} calls */
function measured({ points }, sampler, calls) {
  const distance = (/** @type {Point} */ point) => Math.abs(Math.log(point.calls / calls));
  const own = points.filter((point) => point.sampler === sampler);
  return own.reduce((best, point) => (distance(point) < distance(best) ? point : best), own[0]) ?? null;
}

/** A line through a sampler's points, and a bar for each interval. @param {Point[]} points @returns {import("./plot.js").Line[]} */
function curves(points) {
  const name = points[0]?.sampler ?? "";
  const bars = points.map(({ calls, low, high }) => ({
    name: `bar ${name}`,
    points: /** @type {[number, number][]} */ ([
      [calls, low],
      [calls, high],
    ]),
  }));
  return [{ name, points: points.map(({ calls, share }) => [calls, share]) }, ...bars];
}

/** @param {number} share */
const percent = (share) => `${(100 * share).toFixed(1)}%`;
