// Decode the files that the page writes with independent decoders. (tests/live/test_page.py reads them with Pillow.)

import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync, inflateSync } from "node:zlib";

import { PAGE } from "./golden.mjs";

const { gunzip } = await import(new URL("files/bytes.js", PAGE));
const { crc32, encodePng } = await import(new URL("files/png.js", PAGE));
const { GifWriter, palette } = await import(new URL("files/gif.js", PAGE));
const { gridLayout, joinPictures, toRgb } = await import(new URL("views/canvas.js", PAGE));

let state = 1;
const random = (below) => Math.floor(((state = (state * 1103515245 + 12345) % 2 ** 31) / 2 ** 31) * below);
const noise = (length, colours) => Uint8Array.from({ length }, () => (random(colours) * 255) / (colours - 1));

test("a PNG holds exactly the given pixels and channels", async () => {
  assert.equal(crc32(new TextEncoder().encode("123456789")), 0xcbf43926); // the check value in the CRC-32 specification
  for (const [channels, colourType] of [
    [1, 0],
    [3, 2],
    [4, 6],
  ]) {
    const pixels = noise(5 * 3 * channels, 256);
    const file = Buffer.from(await encodePng(pixels, 5, 3, channels));
    assert.deepEqual([file.readUInt32BE(16), file.readUInt32BE(20), file[24], file[25]], [5, 3, 8, colourType]);
    const length = file.readUInt32BE(33);
    assert.equal(file.readUInt32BE(41 + length), crc32(file.subarray(37, 41 + length)));
    const rows = inflateSync(file.subarray(41, 41 + length));
    for (let y = 0; y < 3; y++) {
      const row = [...rows.subarray(y * (1 + 5 * channels), (y + 1) * (1 + 5 * channels))];
      assert.deepEqual(row, [0, ...pixels.subarray(y * 5 * channels, (y + 1) * 5 * channels)]);
    }
  }
  await assert.rejects(encodePng(new Uint8Array(5), 2, 2, 1), /cannot write/);
  await assert.rejects(encodePng(new Uint8Array(8), 2, 2, 2), /cannot write/);
});

test("a palette is exact for up to 256 colours, and close for more", () => {
  const few = noise(300, 4);
  const { colours, indices } = palette(few);
  assert.deepEqual(
    [...indices].flatMap((i) => [...colours.subarray(3 * i, 3 * i + 3)]),
    [...few],
  );

  const many = noise(3 * 5000, 256);
  const cut = palette(many);
  assert.equal(cut.colours.length, 3 * 256);
  assert.equal(new Set(cut.indices).size, 256);
  const errors = many.map((value, i) => Math.abs(value - cut.colours[3 * cut.indices[Math.floor(i / 3)] + (i % 3)]));
  assert.ok(errors.reduce((a, b) => a + b) / errors.length < 16); // 256 colours are about 6 values per channel, 42 apart
});

test("a GIF decodes to the same frames, for few and many colours", async () => {
  for (const [width, height, scale] of [
    [1, 1, 1],
    [7, 5, 3],
    [90, 80, 1],
  ]) {
    const gif = new GifWriter(width, height, scale);
    const frames = [2, 3, 7, 1].map((colours) =>
      colours === 1 ? new Uint8Array(3 * width * height) : noise(3 * width * height, colours),
    );
    frames.forEach((rgb, i) => gif.add(rgb, 4 + i));
    const read = decodeGif(new Uint8Array(await gif.finish().arrayBuffer()));
    assert.deepEqual([read.width, read.height, read.frames.length], [width * scale, height * scale, 4]);
    read.frames.forEach(({ rgb, hundredths }, f) => {
      assert.equal(hundredths, 4 + f);
      const cut = palette(frames[f]); // reduced to 256 colours if there are more
      for (let p = 0; p < rgb.length / 3; p++) {
        const at = Math.floor(Math.floor(p / read.width) / scale) * width + Math.floor((p % read.width) / scale);
        for (const c of [0, 1, 2]) assert.equal(rgb[3 * p + c], cut.colours[3 * cut.indices[at] + c]);
      }
    });
  }
});

/** A GIF89a decoder for full, non-interlaced frames. */
function decodeGif(bytes) {
  assert.equal(String.fromCharCode(...bytes.subarray(0, 6)), "GIF89a");
  assert.equal(bytes[10] & 0x80, 0, "no global palette");
  const word = (at) => bytes[at] | (bytes[at + 1] << 8);
  const gif = { width: word(6), height: word(8), frames: [] };
  let [at, hundredths] = [13, 0];
  while (bytes[at] !== 0x3b) {
    if (bytes[at] === 0x21) {
      if (bytes[at + 1] === 0xf9) hundredths = word(at + 4);
      for (at += 2; bytes[at]; at += bytes[at] + 1);
      at++;
      continue;
    }
    assert.equal(bytes[at], 0x2c);
    const colours = bytes.subarray(at + 10, at + 10 + 3 * 2 ** ((bytes[at + 9] & 7) + 1));
    at += 10 + colours.length;
    const bits = bytes[at++];
    const data = [];
    for (; bytes[at]; at += bytes[at] + 1) data.push(...bytes.subarray(at + 1, at + 1 + bytes[at]));
    at++;
    const rgb = [...decompress(data, bits)].flatMap((i) => [...colours.subarray(3 * i, 3 * i + 3)]);
    assert.equal(rgb.length, 3 * gif.width * gif.height);
    gif.frames.push({ rgb, hundredths });
  }
  return gif;
}

/** LZW decompression. */
function* decompress(data, bits) {
  const [clear, end] = [2 ** bits, 2 ** bits + 1];
  let [codes, width, bit, previous] = [[], bits + 1, 0, null];
  for (;;) {
    let code = 0;
    for (let i = 0; i < width; i++, bit++) code |= ((data[bit >> 3] >> (bit & 7)) & 1) << i;
    if (code === clear) {
      codes = Array.from({ length: end + 1 }, (_, i) => [i]);
      [width, previous] = [bits + 1, null];
    } else if (code === end) return;
    else {
      if (previous !== null && codes.length < 4096) {
        codes.push([...codes[previous], (codes[code] ?? codes[previous])[0]]);
      }
      yield* codes[code];
      if (codes.length === 2 ** width && width < 12) width++;
      previous = code;
    }
  }
}

test("pictures are joined into a grid with grey gaps, and each pixel is a square", () => {
  const shape = { num: 4, C: 1, H: 1, W: 2 };
  const { width, height, corners } = gridLayout(shape);
  assert.deepEqual(
    [width, height, corners],
    [
      5,
      3,
      [
        [0, 0],
        [3, 0],
        [0, 2],
        [3, 2],
      ],
    ],
  );
  const grid = joinPictures({ ...shape, pixels: Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]) }, 1);
  assert.deepEqual([...grid.pixels], [1, 2, 96, 3, 4, 96, 96, 96, 96, 96, 5, 6, 96, 7, 8]);
  const single = joinPictures({ num: 1, C: 3, H: 1, W: 1, pixels: Uint8Array.from([9, 8, 7]) }, 2);
  assert.deepEqual([single.width, single.height, ...single.pixels], [2, 2, 9, 8, 7, 9, 8, 7, 9, 8, 7, 9, 8, 7]);
});

test("grey, RGB and RGBA pixels become RGB, on a white background", () => {
  assert.deepEqual([...toRgb(Uint8Array.from([5, 9]), 1)], [5, 5, 5, 9, 9, 9]);
  assert.deepEqual([...toRgb(Uint8Array.from([1, 2, 3]), 3)], [1, 2, 3]);
  assert.deepEqual([...toRgb(Uint8Array.from([1, 2, 3, 255, 1, 2, 3, 0]), 4)], [1, 2, 3, 255, 255, 255]);
});

test("a compressed file is decompressed, and one that the browser has decompressed is unchanged", async () => {
  const wasm = Uint8Array.of(0, 0x61, 0x73, 0x6d, ...noise(10_000, 256));
  assert.deepEqual(await gunzip(new Uint8Array(gzipSync(wasm))), wasm);
  assert.deepEqual(await gunzip(wasm), wasm);
  await assert.rejects(gunzip(new Uint8Array(gzipSync(wasm)).subarray(0, 5000)));
});
