/**
 * The status line at the bottom: the state of the engine, and its latest notice for a few seconds.
 *
 * @import { EngineState, Hello } from "../engine/protocol.js"
 */

import { get, make } from "./dom.js";

const NOTICE_MS = 8000; // how long a notice stays visible

export class Status {
  constructor() {
    /** @type {Hello | null} */
    this.hello = null;
    /** @type {EngineState} */
    this.state = "connecting";
    this.seconds = 0;
    /** @type {number | null} the frame that the session is stepping to */
    this.targetFrame = null;
    this.wait = ""; // what the page waits for
    this.notice = "";
    this.isError = false;
    this.reason = ""; // why the engine closed the connection
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    get("problems-close", HTMLButtonElement).addEventListener("click", () => this.closeProblems());
  }

  /** @param {Hello} hello */
  setHello(hello) {
    this.hello = hello;
    this.setViewers(hello.viewers);
    this.show();
  }

  /** @param {number} viewers */
  setViewers(viewers) {
    if (!this.hello) return;
    const { engine, version } = this.hello;
    const text = engine === "server" ? ` · ${viewers} ${viewers === 1 ? "viewer" : "viewers"}` : "";
    get("engine-text", HTMLParagraphElement).textContent = `${version}${text}`;
  }

  /** @param {string} wait  what the page waits for; "" for nothing */
  setWait(wait) {
    if (wait === this.wait) return;
    this.wait = wait;
    this.show();
  }

  /** @param {EngineState} state @param {number} [seconds] */
  setState(state, seconds = 0) {
    [this.state, this.seconds] = [state, seconds];
    if (state === "open") this.reason = "";
    if (state === "closed") this.closeProblems(); // the status line gives the reason, and what to press
    this.show();
  }

  /** @param {number | null} target */
  setTarget(target) {
    this.targetFrame = target;
    this.show();
  }

  /** @param {string} notice @param {boolean} isError */
  notify(notice, isError) {
    [this.notice, this.isError] = [notice, isError];
    if (isError && /closing/.test(notice)) this.reason = notice.replace(/; closing$|^closing: /, "");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.notice = "";
      this.show();
    }, NOTICE_MS);
    this.show();
    if (isError) this.listProblems(notice.split("; "));
  }

  /** Errors that do not fit into the status line stay in a list until the user closes it. @param {string[]} problems */
  listProblems(problems) {
    const { scrollHeight, clientHeight } = get("status-text", HTMLSpanElement);
    if (problems.length === 1 && scrollHeight <= clientHeight + 1) return;
    get("problems-title", HTMLHeadingElement).textContent =
      problems.length === 1 ? "What went wrong" : `${problems.length} problems`;
    get("problems-list", HTMLUListElement).replaceChildren(...problems.map((problem) => make("li", {}, problem)));
    get("problems", HTMLElement).hidden = false;
  }

  closeProblems() {
    get("problems", HTMLElement).hidden = true;
  }

  show() {
    const [text, mood] = this.summary();
    const line = get("status-text", HTMLSpanElement);
    if (line.textContent !== text) line.textContent = text; // screen readers announce every assignment
    get("status", HTMLParagraphElement).dataset.mood = mood;
  }

  /** @returns {[string, "good" | "bad" | "calm"]} */
  summary() {
    const { state, seconds, notice, isError, reason, hello } = this;
    if (state === "retrying") return [`${reason || "connection lost"}, retrying in ${seconds} s`, "bad"];
    if (state === "closed" && hello?.engine === "server") return [`${reason}; press play to continue`, "calm"];
    if (state === "closed") return [reason || "the engine has stopped", "bad"];
    if (notice) return [notice, isError ? "bad" : "good"];
    if (this.targetFrame !== null) return [`generating up to frame ${this.targetFrame}`, "good"];
    if (this.wait) return [this.wait, "calm"];
    if (state === "connecting" || !hello) return ["connecting…", "calm"];
    return [hello.engine === "server" ? "dreaming on the server" : "dreaming in this browser", "good"];
  }
}
