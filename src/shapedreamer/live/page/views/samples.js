/**
 * The pictures that a lens shows beside the dream. They are sampled one after the other, and kept.
 *
 * @import { Frame, Settings } from "../engine/protocol.js"
 * @import { Session } from "../engine/session.js"
 */

import { make } from "./dom.js";

const DELAY_MS = 120; // pictures are requested this long after the last change
const MAX_KEPT = 400;

export class Samples {
  /**
   * @param {Session} session
   * @param {HTMLElement} element       of the lens; busy while a picture is missing
   * @param {() => Settings[]} wanted   the settings of the pictures to show, the most urgent first
   * @param {() => void} onSample       there is another picture
   */
  constructor(session, element, wanted, onSample) {
    this.session = session;
    this.element = element;
    this.wanted = wanted;
    this.onSample = onSample;
    this.message = make("p", { className: "message" });
    this.message.setAttribute("role", "status");
    /** Pictures by their settings. @type {Map<string, Frame>} */
    this.pictures = new Map();
    this.isRequesting = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
  }

  /** The picture with these settings, if it is there. @param {Settings} settings */
  get(settings) {
    return this.pictures.get(JSON.stringify(settings)) ?? null;
  }

  missing() {
    return this.wanted().find((settings) => this.get(settings) === null);
  }

  /** Request what is missing, soon. */
  request() {
    this.element.setAttribute("aria-busy", `${this.missing() !== undefined}`);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.isRequesting || this.requestAll(), DELAY_MS);
  }

  /** Request one missing picture after the other, until there are those that are wanted then. */
  async requestAll() {
    this.isRequesting = true;
    try {
      for (let next = this.missing(); next; next = this.missing()) {
        this.pictures.set(JSON.stringify(next), await this.session.sample(next));
        if (this.pictures.size > MAX_KEPT) this.pictures.delete([...this.pictures.keys()][0]);
        this.onSample();
      }
      this.message.textContent = "";
    } catch (error) {
      this.message.textContent = error instanceof Error ? error.message : `${error}`;
    }
    this.isRequesting = false;
    this.element.setAttribute("aria-busy", "false");
  }
}
