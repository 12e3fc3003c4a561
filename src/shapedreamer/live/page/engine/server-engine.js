/**
 * The engine on the server that the page came from, at the other end of a WebSocket. Where the connection is lost it is
 * made again, a little later each time; the page then hears `hello` again, and says again what it wants.
 *
 * @import { Engine, FromEngine, ToEngine } from "./protocol.js"
 */

const DELAYS = [1, 2, 4, 8, 15]; // seconds before it tries again, the last for ever
const IDLE = 4408; // the code with which the server lets go of a viewer who has said nothing for long

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
    this.asleep = false; // let go of as idle, until the page wants something
    this.ended = false;
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
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.hear(JSON.parse(data)) : this.onframe(data));
    socket.onclose = ({ code }) => this.closed(code);
    return socket;
  }

  /** @param {FromEngine} message */
  hear(message) {
    if (message.type === "hello") this.failures = 0;
    this.onmessage(message);
  }

  /** @param {number} code */
  closed(code) {
    if (this.ended) return;
    if (code === IDLE) {
      this.asleep = true;
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
    this.asleep = false;
    this.onstate("connecting");
    this.socket = this.connect();
  }

  /** @param {ToEngine} message */
  send(message) {
    if (this.asleep) this.retry();
    else if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  close() {
    this.ended = true;
    clearTimeout(this.timer);
    globalThis.removeEventListener("online", this.retrySoon);
    document.removeEventListener("visibilitychange", this.retrySoon);
    this.socket.close();
  }
}
