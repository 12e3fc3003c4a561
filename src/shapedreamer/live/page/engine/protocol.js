/**
 * What page and engine say to each other: JSON messages, and frames as bytes. Every engine speaks it.
 */

/** @typedef {"ddpm" | "ddim" | "heun" | "dpmpp_2m"} SamplerName */
/** @typedef {"any" | "none" | Record<string, number>} Label */

/**
 * What a viewer may set.
 * @typedef {object} Settings
 * @property {string} model
 * @property {string} seed        0…2⁶⁴−1 in decimal, since a Number holds only 2⁵³
 * @property {number} num         pictures at once: 1, 4 or 16
 * @property {SamplerName} sampler
 * @property {number} steps       network calls, 1…50
 * @property {number} eta         noise of the samplers WITH_ETA, 0…1
 * @property {number} guidance    −10…10
 * @property {number} creativity  the time 0…T up to which each frame is forgotten
 * @property {Label} label
 * @property {number} fps         frames a second, 1…60, or 0 for as fast as it goes
 */

/**
 * What an engine tells about a model.
 * @typedef {object} ModelInfo
 * @property {string} name
 * @property {string} about
 * @property {number} channels
 * @property {number} height
 * @property {number} width
 * @property {string[]} labels
 * @property {number} T
 * @property {number[]} alpha_bar  ᾱ over 0…T
 * @property {string} prediction
 * @property {{sampler: SamplerName, steps: number, eta: number, spacing: string}} sampling
 * @property {number} creativity   a sensible t
 * @property {boolean} turbo       made for few steps
 */

/**
 * @typedef {{type: "hello", engine: "server" | "browser", version: string, models: ModelInfo[], viewers: number}} Hello
 * @typedef {{type: "error", id: number | null, message: string}} Refusal
 * @typedef {{type: "note", message: string}} Note
 * @typedef {Hello | Refusal | Note} FromEngine
 */

/**
 * @typedef {{type: "set", id: number, settings: Settings, image?: string}
 *   | {type: "play"} | {type: "pause"} | {type: "step"} | {type: "restart"}
 *   | {type: "repaint", mask: string}
 *   | {type: "trace", id: number, sampler: SamplerName, steps: number, eta: number}} ToEngine
 */

/**
 * @typedef {{num: number, C: number, H: number, W: number}} Shape
 * @typedef {Shape & {id: number, calls: number, ms: number}} Header
 * @typedef {Header & {kind: 1, pure: boolean, frame: number, pixels: Uint8Array}} Frame   pixels: (num, H, W, C)
 * @typedef {Header & {kind: 2, steps: TraceStep[]}} Trace
 * @typedef {{t: number, s: number, x: Float32Array, x0: Float32Array, next: Float32Array}} TraceStep  x_t, x̂₀ and x_s
 */

/** @typedef {"connecting" | "open" | "retrying" | "closed"} EngineState */

/**
 * @typedef {object} Engine
 * @property {(message: FromEngine) => void} onmessage
 * @property {(bytes: ArrayBuffer) => void} onframe  as parse takes apart
 * @property {(state: EngineState, seconds?: number) => void} onstate  seconds: until it tries again
 * @property {(message: ToEngine) => void} send
 * @property {() => void} close
 */

const HEADER = 28;

/**
 * The frame (kind 1) or trace (kind 2) in these bytes. Throws where they are neither, or of another length than they say.
 * @param {ArrayBuffer} buffer
 * @returns {Frame | Trace}
 */
export function parse(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < HEADER || view.getUint8(0) !== 0x53 || view.getUint8(1) !== 0x44) {
    throw new Error(`${buffer.byteLength} bytes that are no frame`);
  }
  const [kind, flags] = [view.getUint8(2), view.getUint8(3)];
  const [id, count] = [view.getUint32(4, true), view.getUint32(8, true)];
  const [num, C, H, W, calls] = [12, 14, 16, 18, 20].map((at) => view.getUint16(at, true));
  const ms = view.getFloat32(24, true);
  const shape = { num, C, H, W };
  const size = C * H * W;
  const expected = HEADER + (kind === 1 ? num * size : count * (8 + 12 * size));
  if ((kind !== 1 && kind !== 2) || buffer.byteLength !== expected) {
    throw new Error(`a frame of kind ${kind} with ${buffer.byteLength} bytes where ${expected} are due`);
  }
  if (kind === 1) {
    const pixels = new Uint8Array(buffer, HEADER);
    return { kind, pure: (flags & 1) === 1, id, frame: count, ...shape, calls, ms, pixels };
  }
  const steps = [];
  for (let at = HEADER; at < expected; at += 8 + 12 * size) {
    const [x, x0, next] = [0, 1, 2].map((i) => new Float32Array(buffer, at + 8 + 4 * i * size, size));
    steps.push({ t: view.getInt32(at, true), s: view.getInt32(at + 4, true), x, x0, next });
  }
  return { kind, id, ...shape, calls, ms, steps };
}
