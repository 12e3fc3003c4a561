/**
 * Bytes as text that fits into JSON (base64) and into an address (base64url), and deflated.
 */

/** @param {Uint8Array} bytes */
export function toBase64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

/** Throws for text that is no base64. @param {string} text */
export function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** @param {Uint8Array} bytes */
export function toBase64Url(bytes) {
  return toBase64(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** Throws for text that is no base64url. @param {string} text */
export function fromBase64Url(text) {
  return fromBase64(text.replaceAll("-", "+").replaceAll("_", "/"));
}

/** @param {Uint8Array} bytes @param {"deflate-raw" | "deflate"} format "deflate" is that of zlib and PNG */
export async function deflate(bytes, format = "deflate-raw") {
  const stream = new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (bytes)]).stream();
  return new Uint8Array(await new Response(stream.pipeThrough(new CompressionStream(format))).arrayBuffer());
}

/**
 * `size` bytes out of deflated ones. Throws where they are damaged or another number, before memory is spent on more.
 * @param {Uint8Array} bytes
 * @param {number} size
 */
export async function inflate(bytes, size) {
  const stream = new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (bytes)]).stream();
  const reader = stream.pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const out = new Uint8Array(size);
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (length + value.length > size) {
      await reader.cancel();
      throw new Error(`more than ${size} bytes`);
    }
    out.set(value, length);
    length += value.length;
  }
  if (length !== size) throw new Error(`${length} bytes, not ${size}`);
  return out;
}
