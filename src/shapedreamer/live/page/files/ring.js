/**
 * The frames of the last seconds, kept for an animation, in bounded memory.
 *
 * @import { Frame } from "../engine/protocol.js"
 */

export const SECONDS = 6;
export const MOST_BYTES = 16 * 2 ** 20;
export const APART = 40; // milliseconds between two frames that are kept, at least: 25 a second

export class Ring {
  constructor() {
    /** @type {{time: number, frame: Frame}[]} oldest first */
    this.kept = [];
    this.bytes = 0;
  }

  /** @param {Frame} frame @param {number} time  in milliseconds */
  push(frame, time) {
    const last = this.kept.at(-1);
    if (last && !alike(last.frame, frame)) this.clear();
    else if (last && time - last.time < APART) return;
    this.kept.push({ time, frame });
    this.bytes += frame.pixels.byteLength;
    while (this.bytes > MOST_BYTES || time - this.kept[0].time > 1000 * SECONDS) {
      this.bytes -= this.kept[0].frame.pixels.byteLength;
      this.kept.shift();
    }
  }

  clear() {
    this.kept = [];
    this.bytes = 0;
  }

  /**
   * The frames, each with how long it was seen, in hundredths of a second; no more than `pause` where the dream paused.
   * @param {number} pause
   */
  timed(pause = 50) {
    return this.kept.map(({ time, frame }, i) => {
      const until = this.kept[i + 1]?.time ?? time + 10 * pause;
      return { frame, hundredths: Math.max(2, Math.min(pause, Math.round((until - time) / 10))) };
    });
  }
}

/** @param {Frame} a @param {Frame} b */
const alike = (a, b) => a.num === b.num && a.C === b.C && a.H === b.H && a.W === b.W;
