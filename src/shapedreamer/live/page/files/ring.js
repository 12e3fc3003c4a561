/**
 * A buffer of the last seconds' frames for the GIF, in bounded memory.
 *
 * @import { Frame } from "../engine/protocol.js"
 */

export const SECONDS = 6;
export const MAX_BYTES = 16 * 2 ** 20;
export const MIN_INTERVAL = 40; // milliseconds between two stored frames: at most 25 per second

export class Ring {
  constructor() {
    /** @type {{time: number, frame: Frame}[]} oldest first */
    this.frames = [];
    this.bytes = 0;
  }

  /** @param {Frame} frame @param {number} time  in milliseconds */
  push(frame, time) {
    const last = this.frames.at(-1);
    if (last && !sameShape(last.frame, frame)) this.clear();
    else if (last && time - last.time < MIN_INTERVAL) return;
    this.frames.push({ time, frame });
    this.bytes += frame.pixels.byteLength;
    while (this.bytes > MAX_BYTES || time - this.frames[0].time > 1000 * SECONDS) {
      this.bytes -= this.frames[0].frame.pixels.byteLength;
      this.frames.shift();
    }
  }

  clear() {
    this.frames = [];
    this.bytes = 0;
  }

  /**
   * The frames with their durations in hundredths of a second. `maxDuration` limits the duration where playback paused.
   * @param {number} maxDuration
   */
  withDurations(maxDuration = 50) {
    return this.frames.map(({ time, frame }, i) => {
      const until = this.frames[i + 1]?.time ?? time + 10 * maxDuration;
      return { frame, hundredths: Math.max(2, Math.min(maxDuration, Math.round((until - time) / 10))) };
    });
  }
}

/** @param {Frame} a @param {Frame} b */
const sameShape = (a, b) => a.num === b.num && a.C === b.C && a.H === b.H && a.W === b.W;
