/**
 * PNG files with exactly the picture's channels and values. (A canvas always writes four channels, and changes the
 * colours of transparent pixels.)
 */

import { deflate } from "./bytes.js";

const COLOUR_TYPE = new Map([
  [1, 0],
  [3, 2],
  [4, 6],
]);

/**
 * @param {Uint8Array} pixels   (H, W, C)
 * @param {number} width
 * @param {number} height
 * @param {number} channels     1 grey, 3 RGB, 4 RGBA
 */
export async function encodePng(pixels, width, height, channels) {
  const type = COLOUR_TYPE.get(channels);
  if (type === undefined || pixels.length !== width * height * channels) {
    const size = `${width}×${height} pixels with ${channels} channels`;
    throw new Error(`cannot write ${pixels.length} bytes as a PNG of ${size}`);
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8); // bits per channel
  header.setUint8(9, type);
  const row = width * channels;
  const rows = new Uint8Array(height * (1 + row)); // the first byte of each row is its filter; 0 is none
  for (let y = 0; y < height; y++) rows.set(pixels.subarray(y * row, (y + 1) * row), y * (1 + row) + 1);
  const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
  const chunks = [
    chunk("IHDR", new Uint8Array(header.buffer)),
    chunk("IDAT", await deflate(rows, "deflate")),
    chunk("IEND", new Uint8Array()),
  ];
  return new Uint8Array(await new Blob([signature, ...chunks]).arrayBuffer());
}

/** @param {string} name @param {Uint8Array} data */
function chunk(name, data) {
  const out = new Uint8Array(12 + data.length);
  const view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  for (let i = 0; i < 4; i++) out[4 + i] = name.charCodeAt(i);
  out.set(data, 8);
  view.setUint32(8 + data.length, crc32(out.subarray(4, 8 + data.length)));
  return out;
}

/** @param {Uint8Array} bytes */
export function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
