/**
 * The network computed by the graphics card (WebGPU), where there is one: if it answers as WebAssembly does, and sooner.
 *
 * @import { ModelInfo } from "./protocol.js"
 * @import { Network } from "./model.js"
 */

const CALLS = 5; // of each, of which the fastest counts; the first ones of a card prepare it
const MOST = 2e-3; // that answers in [−1, 1] may differ by, as sums are made in another order

/**
 * onnxruntime-web on the graphics card, and a session of it; null where there is no card.
 *
 * @param {string} runtime   where onnxruntime-web lies
 * @param {Uint8Array} file  .onnx
 * @param {boolean} software whether a card that is only imitated will do
 */
export async function openGraphics(runtime, file, software = false) {
  const adapter = await /** @type {any} */ (globalThis.navigator)?.gpu?.requestAdapter();
  if (!adapter || (adapter.info.isFallbackAdapter && !software)) return null;
  const ort = await import(new URL("ort.webgpu.min.mjs", runtime).href);
  Object.assign(ort.env.wasm, { wasmPaths: runtime, numThreads: 1 });
  const options = { executionProviders: ["webgpu"], logSeverityLevel: 3 }; // it warns of what it leaves to the processor
  return { ort, session: await ort.InferenceSession.create(file, options) };
}

/**
 * Whether a network answers as another does, and sooner.
 *
 * @param {Network} network
 * @param {Network} other
 * @param {ModelInfo} model
 * @param {() => number} [now]  milliseconds
 */
export async function isBetter(network, other, { channels, height, width, T }, now = () => performance.now()) {
  const x = Float32Array.from({ length: channels * height * width }, (_, i) => 1.5 * Math.sin(i + i ** 2));
  const [first, second] = [await measured(network), await measured(other)];
  return first.ms < second.ms && first.answer.every((value, i) => Math.abs(value - second.answer[i]) <= MOST);

  /** @param {Network} one */
  async function measured(one) {
    const times = [];
    for (let call = 0; call < CALLS; call++) {
      const begin = now();
      await one(x, Math.ceil(T / 2), null);
      times.push(now() - begin);
    }
    return { ms: Math.min(...times), answer: await one(x, Math.ceil(T / 2), null) };
  }
}
