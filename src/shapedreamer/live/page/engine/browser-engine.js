/**
 * The engine that runs in the browser: the page's interface to worker.js, which needs no server.
 *
 * @import { Engine, FromEngine, ToEngine } from "./protocol.js"
 */

/** @implements {Engine} */
export class BrowserEngine {
  /** @type {Engine["onmessage"]} */
  onmessage = () => {};
  /** @type {Engine["onframe"]} */
  onframe = () => {};
  /** @type {Engine["onstate"]} */
  onstate = () => {};

  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });

  /** @param {string} modelsUrl  URL of models.json */
  constructor(modelsUrl) {
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#worker.onerror = (event) => this.#fail(event.message || "could not load the worker");
    this.#worker.postMessage({ type: "open", url: new URL(modelsUrl, document.baseURI).href });
    setTimeout(() => this.onstate("connecting")); // deferred, so that the caller can set onstate first
  }

  /** @param {ToEngine} message */
  send(message) {
    this.#worker.postMessage(message);
  }

  close() {
    this.#worker.terminate();
    this.onstate("closed");
  }

  /** @param {ArrayBuffer | FromEngine} data */
  #receive(data) {
    if (data instanceof ArrayBuffer) {
      this.#worker.postMessage({ type: "taken" });
      this.onframe(data);
      return;
    }
    if (data.type === "hello") this.onstate("open");
    this.onmessage(data);
    if (data.type === "error" && data.message.endsWith("closing")) this.close();
  }

  /** @param {string} message */
  #fail(message) {
    this.onmessage({ type: "error", id: null, message: `the engine has stopped (${message}); closing` });
    this.close();
  }
}
