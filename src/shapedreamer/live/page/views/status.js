/**
 * The line at the bottom: how things are with the engine, calmly, and for a while what it had to say.
 *
 * @import { EngineState, Hello } from "../engine/protocol.js"
 */

import { get } from "./dom.js";

const WHILE = 8000; // milliseconds that news stay

export class Status {
  constructor() {
    /** @type {Hello | null} */
    this.hello = null;
    /** @type {EngineState} */
    this.state = "connecting";
    this.seconds = 0;
    /** @type {number | null} a frame that is not yet reached */
    this.target = null;
    this.news = "";
    this.isBad = false;
    this.reason = ""; // why the engine closes, in its words
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
  }

  /** @param {Hello} hello */
  greet(hello) {
    this.hello = hello;
    const viewers =
      hello.engine === "server" ? ` · ${hello.viewers} ${hello.viewers === 1 ? "viewer" : "viewers"}` : "";
    get("engine-text", HTMLParagraphElement).textContent = `${hello.version}${viewers}`;
    this.show();
  }

  /** @param {EngineState} state @param {number} [seconds] */
  become(state, seconds = 0) {
    [this.state, this.seconds] = [state, seconds];
    if (state === "open") this.reason = "";
    this.show();
  }

  /** @param {number | null} target */
  reach(target) {
    this.target = target;
    this.show();
  }

  /** @param {string} news @param {boolean} bad */
  tell(news, bad) {
    [this.news, this.isBad] = [news, bad];
    if (bad && /closing/.test(news)) this.reason = news.replace(/; closing$|^closing: /, "");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.news = "";
      this.show();
    }, WHILE);
    this.show();
  }

  show() {
    const [text, mood] = this.words();
    const line = get("status-text", HTMLSpanElement);
    if (line.textContent !== text) line.textContent = text; // read out only when it changes
    get("status", HTMLParagraphElement).dataset.mood = mood;
  }

  /** @returns {[string, "good" | "bad" | "calm"]} */
  words() {
    const { state, seconds, news, isBad, reason, hello } = this;
    if (state === "retrying") return [`${reason || "server gone"}, retrying in ${seconds} s`, "bad"];
    if (state === "closed" && hello?.engine === "server") return [`${reason}; press play to go on`, "calm"];
    if (state === "closed") return [reason || "the engine has closed", "bad"];
    if (news) return [news, isBad ? "bad" : "good"];
    if (this.target !== null) return [`dreaming its way to frame ${this.target}`, "good"];
    if (state === "connecting" || !hello) return ["connecting…", "calm"];
    return [hello.engine === "server" ? "dreaming on the server" : "dreaming in this browser", "good"];
  }
}
