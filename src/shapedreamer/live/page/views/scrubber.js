/**
 * A slider over the stages of something, with a button that plays them, and a text that names the stage.
 */

import { make, setIcon, slide } from "./dom.js";

const NS = "http://www.w3.org/2000/svg";

export class Scrubber {
  /**
   * @param {string} label
   * @param {string} explanation
   * @param {number} interval  milliseconds per stage while playing
   * @param {(index: number) => void} onInput  the stage has changed
   */
  constructor(label, explanation, interval, onInput) {
    this.interval = interval;
    this.onInput = onInput;
    this.index = 0;
    this.last = 0;
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this.playing = undefined;
    this.slider = make("input", { type: "range", min: "0", title: `${explanation} (. and ,)` });
    this.slider.setAttribute("aria-label", label);
    this.text = make("output");
    const icon = document.createElementNS(NS, "svg");
    icon.append(document.createElementNS(NS, "use"));
    this.button = make("button", { type: "button", className: "icon primary" }, icon);
    this.element = make("div", { className: "scrubber" }, this.button, this.slider, this.text);
    this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
    this.button.addEventListener("click", () => this.toggle());
    this.showPlaying();
  }

  /** Set the number of the last stage. @param {number} last */
  setLast(last) {
    this.last = last;
    this.slider.max = `${last}`;
  }

  /** Show a stage, without calling back. @param {number} index @param {string} text */
  show(index, text) {
    this.index = index;
    slide(this.slider, index);
    this.text.value = text;
    this.slider.setAttribute("aria-valuetext", text);
  }

  /** @param {number} index */
  go(index) {
    this.onInput(Math.min(Math.max(index, 0), this.last));
  }

  toggle() {
    if (this.playing !== undefined) return this.stop();
    if (this.index === this.last) this.go(0);
    this.playing = setInterval(() => (this.index < this.last ? this.go(this.index + 1) : this.stop()), this.interval);
    this.showPlaying();
  }

  stop() {
    clearInterval(this.playing);
    this.playing = undefined;
    this.showPlaying();
  }

  showPlaying() {
    const isPlaying = this.playing !== undefined;
    setIcon(this.button, isPlaying ? "pause" : "play");
    this.button.title = isPlaying ? "Pause (space)" : "Play (space)";
    this.button.setAttribute("aria-label", isPlaying ? "Pause" : "Play");
  }
}
