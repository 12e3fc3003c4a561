/**
 * Run the network on the GPU (WebGPU), if there is one, its output matches WebAssembly's, and it is faster.
 *
 * @import { ModelInfo } from "./protocol.js"
 * @import { Network } from "./model.js"
 */

import { gunzip } from "../files/bytes.js";

const CALLS = 5; // timed calls per network; the fastest counts, because the first ones compile shaders
const TOLERANCE = 2e-3; // allowed difference of outputs in [−1, 1]: the two add in a different order

/**
 * onnxruntime-web with WebGPU, and a session of it; null without a GPU.
 *
 * @param {string} runtime         URL of the folder that holds onnxruntime-web
 * @param {Uint8Array} file        the .onnx file
 * @param {boolean} allowSoftware  accept a GPU emulated in software
 */
export async function openGraphics(runtime, file, allowSoftware = false) {
  const adapter = await /** @type {any} */ (globalThis.navigator)?.gpu?.requestAdapter();
  if (!adapter || (adapter.info.isFallbackAdapter && !allowSoftware)) return null;
  const ort = await import(new URL("ort.webgpu.min.mjs", runtime).href);
  const response = await fetch(new URL("ort-wasm-simd-threaded.asyncify.wasm.gz", runtime));
  if (!response.ok) throw new Error(`the runtime for GPUs: ${response.status} ${response.statusText}`);
  const wasmBinary = await gunzip(new Uint8Array(await response.arrayBuffer()));
  Object.assign(ort.env.wasm, { wasmPaths: runtime, wasmBinary, numThreads: 1 });
  const options = { executionProviders: ["webgpu"], logSeverityLevel: 3 }; // no warnings about nodes left to the CPU
  return { ort, session: await ort.InferenceSession.create(file, options) };
}

/**
 * Whether a network gives the same output as a reference, and is faster.
 *
 * @param {Network} network
 * @param {Network} reference
 * @param {ModelInfo} model
 * @param {() => number} [now]  milliseconds
 */
export async function isBetter(network, reference, { channels, height, width, T }, now = () => performance.now()) {
  const x = Float32Array.from({ length: channels * height * width }, (_, i) => 1.5 * Math.sin(i + i ** 2));
  const [found, expected] = [await measure(network), await measure(reference)];
  return (
    found.ms < expected.ms &&
    found.output.every((value, i) => Math.abs(value - expected.output[i]) <= TOLERANCE)
  );

  /** @param {Network} candidate */
  async function measure(candidate) {
    const times = [];
    for (let call = 0; call < CALLS; call++) {
      const begin = now();
      await candidate(x, Math.ceil(T / 2), null);
      times.push(now() - begin);
    }
    return { ms: Math.min(...times), output: await candidate(x, Math.ceil(T / 2), null) };
  }
}
