/**
 * The engine on the server that served the page, over a WebSocket. It reconnects after a lost connection, with growing
 * delays. The page then receives `hello` again and sends its settings again.
 *
 * @import { Engine, FromEngine, ToEngine } from "./protocol.js"
 */

const DELAYS = [1, 2, 4, 8, 15]; // seconds before each attempt to reconnect; the last one repeats
const IDLE_CODE = 4408; // the close code with which the server disconnects an idle viewer

/** @implements {Engine} */
export class ServerEngine {
  /** @type {Engine["onmessage"]} */
  onmessage = () => {};
  /** @type {Engine["onframe"]} */
  onframe = () => {};
  /** @type {Engine["onstate"]} */
  onstate = () => {};

  /** @param {string} url  of the WebSocket */
  constructor(url) {
    this.url = url;
    this.failures = 0;
    this.isIdle = false; // disconnected as idle; the next message reconnects
    this.isClosed = false;
    this.timer = 0;
    this.socket = this.connect();
    this.retrySoon = () => {
      if (document.visibilityState === "visible" && this.timer) this.retry();
    };
    globalThis.addEventListener("online", this.retrySoon);
    document.addEventListener("visibilitychange", this.retrySoon);
  }

  connect() {
    const socket = new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.onstate("open");
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.receive(JSON.parse(data)) : this.onframe(data));
    socket.onclose = ({ code }) => this.disconnected(code);
    return socket;
  }

  /** @param {FromEngine} message */
  receive(message) {
    if (message.type === "hello") this.failures = 0;
    this.onmessage(message);
  }

  /** @param {number} code */
  disconnected(code) {
    if (this.isClosed) return;
    if (code === IDLE_CODE) {
      this.isIdle = true;
      this.onstate("closed");
      return;
    }
    const seconds = DELAYS[Math.min(this.failures++, DELAYS.length - 1)];
    this.timer = setTimeout(() => this.retry(), 1000 * seconds);
    this.onstate("retrying", seconds);
  }

  retry() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.isIdle = false;
    this.onstate("connecting");
    this.socket = this.connect();
  }

  /** @param {ToEngine} message */
  send(message) {
    if (this.isIdle) this.retry();
    else if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  close() {
    this.isClosed = true;
    clearTimeout(this.timer);
    globalThis.removeEventListener("online", this.retrySoon);
    document.removeEventListener("visibilitychange", this.retrySoon);
    this.socket.close();
  }
}
