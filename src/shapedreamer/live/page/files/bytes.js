/**
 * Base64 for JSON, base64url for URLs, compression, and bytes with fewer bits.
 */

/** @param {Uint8Array} bytes */
export function toBase64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

/** Throws if the text is not base64. @param {string} text */
export function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** @param {Uint8Array} bytes */
export function toBase64Url(bytes) {
  return toBase64(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** Throws if the text is not base64url. @param {string} text */
export function fromBase64Url(text) {
  return fromBase64(text.replaceAll("-", "+").replaceAll("_", "/"));
}

/** @param {Uint8Array} bytes @param {"deflate-raw" | "deflate"} format  "deflate" is the zlib format, as in PNG */
export async function deflate(bytes, format = "deflate-raw") {
  const stream = new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (bytes)]).stream();
  return new Uint8Array(await new Response(stream.pipeThrough(new CompressionStream(format))).arrayBuffer());
}

/**
 * Decompress exactly `size` bytes. Throws if the data is damaged or has another length, and never holds much more than
 * `size` bytes in memory.
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
      throw new Error(`the data decompresses to more than ${size} bytes`);
    }
    out.set(value, length);
    length += value.length;
  }
  if (length !== size) throw new Error(`the data decompresses to ${length} bytes, not ${size}`);
  return out;
}

/** Round bytes to values of `bits` bits, 0…2^bits − 1. @param {Uint8Array} bytes @param {number} bits */
export function reduceBits(bytes, bits) {
  return bytes.map((byte) => Math.round((byte * (2 ** bits - 1)) / 255));
}

/** The bytes nearest to values of `bits` bits. Throws if a value is too large. @param {Uint8Array} values @param {number} bits */
export function restoreBits(values, bits) {
  const max = 2 ** bits - 1;
  if (values.some((value) => value > max)) throw new Error(`a value is larger than ${max}`);
  return values.map((value) => Math.round((value * 255) / max));
}

/**
 * Decompress a file in the gzip format. Any other file is returned unchanged: if the host declares the compression, the
 * browser has decompressed the file already.
 * @param {Uint8Array} bytes
 */
export async function gunzip(bytes) {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (bytes)]).stream();
  return new Uint8Array(await new Response(stream.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}
