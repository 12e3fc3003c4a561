/**
 * The protocol between page and engine: JSON messages in both directions, and binary frames from the engine. The server
 * and the engine in the browser both implement it.
 */

/** @typedef {"ddpm" | "ddim" | "heun" | "dpmpp_2m" | "midpoint" | "heun_line"} SamplerName */
/** @typedef {"any" | "none" | Record<string, number>} Label */

/**
 * The viewer's settings.
 * @typedef {object} Settings
 * @property {string} model
 * @property {string} seed        0…2⁶⁴−1 in decimal, because a Number is exact only up to 2⁵³
 * @property {number} num         pictures per frame: 1, 4 or 16
 * @property {SamplerName} sampler
 * @property {number} steps       network calls per frame without guidance, 1…50; samplers with two calls a step make as many calls
 *                                for frame 0, and take as many steps for later frames
 * @property {number} eta         fresh noise in each step, 0…2 (of masked models 0…1); only for samplers with an eta
 * @property {number} guidance    classifier-free guidance scale, −10…10
 * @property {number} creativity  the timestep 0…T to which each frame is noised while it melts; 0: it stands still
 * @property {"melt" | "drift"} motion  each frame noises the one before it and denoises it; or is a sample of its own,
 *                                      whose noise has turned a little
 * @property {number} every       frames until the next sample of the seed is reached, with a new label if label is "any";
 *                                up to 1000, 0 for never
 * @property {Label} label
 * @property {number} fps         frames per second, up to 60; 0 is as fast as possible
 */

/**
 * The description of a model in the engine's `hello`.
 * @typedef {object} ModelInfo
 * @property {string} name
 * @property {string} about
 * @property {number} channels
 * @property {number} height
 * @property {number} width
 * @property {string[]} labels
 * @property {number} T
 * @property {number[]} alpha_bar  ᾱ over 0…T
 * @property {string} [process]    "masked" for a model that hides pixels; its samplers are MASKED_SAMPLERS in state.js
 * @property {string} prediction
 * @property {{sampler: SamplerName, steps: number, eta: number, spacing: string}} sampling
 * @property {number} creativity   default timestep for Settings.creativity
 * @property {boolean} turbo       whether it is a few-step model
 * @property {string | null} [thumbnail]  samples of a shipped model, as a data URL
 * @property {Checkpoint} [checkpoint]  for a model that is one of several checkpoints of a training run
 *
 * @typedef {object} Checkpoint
 * @property {string} run
 * @property {number} epoch
 * @property {[number, number][]} curve  images seen and held-out loss after each epoch so far
 */

/**
 * @typedef {{type: "hello", engine: "server" | "browser", version: string, models: ModelInfo[], viewers: number}} Hello
 * @typedef {{type: "error", id: number | null, message: string}} EngineError
 * @typedef {{type: "note", message: string}} Note
 * @typedef {{type: "progress", message: string, loaded: number, total: number}} Progress  bytes; total 0: unknown
 * @typedef {{type: "viewers", viewers: number}} Viewers  to those who connect to ws?viewers
 * @typedef {Hello | EngineError | Note | Progress | Viewers} FromEngine
 */

/**
 * @typedef {{type: "set", id: number, settings: Settings, image?: string, frame?: number}
 *   | {type: "play"} | {type: "pause"} | {type: "step"} | {type: "restart"}
 *   | {type: "repaint", mask: string}
 *   | {type: "trace", id: number, sampler: SamplerName, steps: number, eta: number, frame: number | null}
 *   | {type: "sample", id: number, settings: Settings}} ToEngine
 */

/**
 * A frame is pure if the model, the settings and the frame number determine it completely.
 *
 * @typedef {{num: number, C: number, H: number, W: number}} Shape
 * @typedef {Shape & {id: number, calls: number, ms: number}} Header
 * @typedef {Header & {kind: 1, pure: boolean, frame: number, pixels: Uint8Array}} Frame   pixels: (num, H, W, C)
 * @typedef {Header & {kind: 2, steps: TraceStep[], previous: Float32Array | null}} Trace
 *   previous: the picture that the trace starts from, noised to the t of its first step; null if it starts from noise
 * @typedef {{t: number, s: number, x: Float32Array, x0: Float32Array, next: Float32Array}} TraceStep  x_t, x̂₀ and x_s
 */

/** @typedef {"connecting" | "open" | "retrying" | "closed"} EngineState */

/**
 * @typedef {object} Engine
 * @property {(message: FromEngine) => void} onmessage
 * @property {(bytes: ArrayBuffer) => void} onframe  bytes for parse()
 * @property {(state: EngineState, seconds?: number) => void} onstate  seconds: until the next attempt
 * @property {(message: ToEngine) => void} send
 * @property {() => void} close
 */

const HEADER = 28;

/**
 * Parse a frame (kind 1) or a trace (kind 2). Throws if the header or the length is wrong.
 * @param {ArrayBuffer} buffer
 * @returns {Frame | Trace}
 */
export function parse(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < HEADER || view.getUint8(0) !== 0x53 || view.getUint8(1) !== 0x44) {
    throw new Error(`not a frame: ${buffer.byteLength} bytes without a valid header`);
  }
  const [kind, flags] = [view.getUint8(2), view.getUint8(3)];
  const [id, count] = [view.getUint32(4, true), view.getUint32(8, true)];
  const [num, C, H, W, calls] = [12, 14, 16, 18, 20].map((at) => view.getUint16(at, true));
  const ms = view.getFloat32(24, true);
  const shape = { num, C, H, W };
  const size = C * H * W;
  const expected = HEADER + (kind === 1 ? num * size : count * (8 + 12 * size));
  if ((kind !== 1 && kind !== 2) || buffer.byteLength !== expected) {
    throw new Error(`a frame of kind ${kind} must have ${expected} bytes, not ${buffer.byteLength}`);
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
  const previous = steps[0]?.t === 0 ? /** @type {TraceStep} */ (steps.shift()).x : null; // from 0 up to t
  return { kind, id, ...shape, calls, ms, steps, previous };
}
