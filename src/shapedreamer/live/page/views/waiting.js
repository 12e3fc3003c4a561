/**
 * Shows every wait: a line of text with a progress bar over the picture or the microscope, which is then busy.
 *
 * @import { Progress } from "../engine/protocol.js"
 * @import { Session } from "../engine/session.js"
 *
 * @typedef {object} Wait
 * @property {string} text          what the page waits for
 * @property {string} [detail]      numbers that change often
 * @property {number} [fraction]    how much of it is done, 0…1, if that is known
 * @property {boolean} [isStale]    whether the picture on the page is about to be replaced
 */

import { make } from "./dom.js";

const DELAY_MS = 300; // shorter waits are not shown
const SLOW_MS = 1000; // a frame that takes longer is a wait

export class Waiting {
  /** @param {() => HTMLElement} getPlace  the section that waits */
  constructor(getPlace) {
    this.getPlace = getPlace;
    this.since = Infinity; // when the current wait began
    this.text = make("span");
    this.detail = make("span", { className: "detail" });
    this.bar = make("progress", { max: 1 });
    this.bar.setAttribute("aria-label", "Progress");
    this.element = make("div", { className: "waiting", hidden: true }, this.text, this.detail, this.bar);
  }

  /**
   * Call this often, with the current wait or null. Returns the text shown.
   * @param {Wait | null} wait
   * @param {number} [now]
   */
  update(wait, now = performance.now()) {
    this.since = wait ? Math.min(this.since, now) : Infinity;
    const isShown = wait !== null && now - this.since >= DELAY_MS;
    const place = this.getPlace();
    if (this.element.parentElement !== place) {
      this.element.parentElement?.removeAttribute("aria-busy");
      place.append(this.element);
    }
    place.setAttribute("aria-busy", `${isShown}`);
    place.classList.toggle("stale", isShown && wait.isStale === true);
    this.element.hidden = !isShown;
    if (!isShown) return "";
    this.text.textContent = wait.text;
    this.detail.textContent = wait.detail ?? "";
    if (wait.fraction === undefined) this.bar.removeAttribute("value");
    else this.bar.value = wait.fraction;
    return wait.text;
  }
}

/** A download as text, such as "3.1 of 12.4 MB". @param {number} loaded @param {number} total  in bytes; 0: unknown */
export function megabytes(loaded, total) {
  const [done, all] = [loaded, total].map((bytes) => (bytes / 1e6).toFixed(1));
  return total ? `${done} of ${all} MB` : `${done} MB`;
}

/**
 * What the page waits for; null if nothing. While playing, a frame that takes long is a wait, too.
 * @param {Session} session
 * @param {Progress | null} download  in progress
 * @param {number} idle  milliseconds since the last frame
 * @returns {Wait | null}
 */
export function waitOf(session, download, idle) {
  const { requested, awaited, shown, replay } = session;
  if (download) {
    const { message, loaded, total } = download;
    const detail = megabytes(loaded, total);
    return { text: message, detail, fraction: total ? Math.min(loaded / total, 1) : undefined, isStale: true };
  }
  if (!requested) return { text: "connecting…" };
  if (replay) {
    const [detail, done] = shown ? [`now at ${shown.frame}`, shown.frame - replay.from] : ["", 0];
    return { text: `generating up to frame ${replay.to}`, detail, fraction: done / (replay.to - replay.from) };
  }
  if (awaited === "restart") return { text: `waiting for the first picture of ${requested.model}`, isStale: true };
  if (awaited === "repaint") return { text: "repainting the masked area" };
  const [reply] = session.replies.values();
  if (reply) return { text: reply.type === "trace" ? "sampling every step" : "sampling the pictures", isStale: true };
  const isDue = session.lastSent.playing && idle > Math.max(SLOW_MS, 2000 / (requested.fps || Infinity));
  return awaited === "step" || isDue ? { text: "generating the next frame" } : null;
}
