/**
 * Animated GIFs (GIF89a). Each frame has its own palette of at most 256 colours.
 */

/**
 * @typedef {object} Palette
 * @property {Uint8Array} colours   (colours, 3): red, green, blue
 * @property {Uint8Array} indices   the colour of each pixel
 */

/**
 * Colours that share one palette entry, and the channel in which they differ most, with the difference.
 * @typedef {{colours: number[], channel: number, extent: number}} Box
 */

/**
 * A picture's palette: its own colours if there are at most 256, otherwise by median cut (Heckbert 1982). Median cut
 * repeatedly takes the box of colours with the largest extent in red, green or blue, and splits it so that half of its
 * pixels are on each side.
 * @param {Uint8Array} rgb   (pixels, 3)
 * @returns {Palette}
 */
export function palette(rgb) {
  /** @type {Map<number, number>} */
  const counts = new Map();
  for (let i = 0; i < rgb.length; i += 3) {
    const colour = (rgb[i] << 16) | (rgb[i + 1] << 8) | rgb[i + 2];
    counts.set(colour, (counts.get(colour) ?? 0) + 1);
  }
  const all = [...counts.keys()];
  const boxes = counts.size > 256 ? [makeBox(all)] : all.map((colour) => makeBox([colour]));
  while (boxes.length < Math.min(256, counts.size)) {
    const widest = boxes.reduce((best, { extent }, i) => (extent > boxes[best].extent ? i : best), 0);
    boxes.splice(widest, 1, ...cut(boxes[widest], counts));
  }
  const colours = new Uint8Array(3 * boxes.length);
  /** @type {Map<number, number>} */
  const entries = new Map();
  boxes.forEach((box, i) => {
    const total = weight(box.colours, counts);
    for (const channel of [0, 1, 2]) {
      const sum = box.colours.reduce((sum, colour) => sum + channelOf(colour, channel) * (counts.get(colour) ?? 0), 0);
      colours[3 * i + channel] = Math.round(sum / total);
    }
    for (const colour of box.colours) entries.set(colour, i);
  });
  const indices = new Uint8Array(rgb.length / 3);
  for (let i = 0; i < indices.length; i++) {
    indices[i] = entries.get((rgb[3 * i] << 16) | (rgb[3 * i + 1] << 8) | rgb[3 * i + 2]) ?? 0;
  }
  return { colours, indices };
}

/** @param {number} colour @param {number} channel */
const channelOf = (colour, channel) => (colour >> (16 - 8 * channel)) & 0xff;

/** The number of pixels with one of these colours. @param {number[]} colours @param {Map<number, number>} counts */
const weight = (colours, counts) => colours.reduce((sum, colour) => sum + (counts.get(colour) ?? 0), 0);

/** @param {number[]} colours @returns {Box} */
function makeBox(colours) {
  const best = { colours, channel: 0, extent: -1 };
  for (const channel of [0, 1, 2]) {
    let [low, high] = [255, 0];
    for (const colour of colours) {
      low = Math.min(low, channelOf(colour, channel));
      high = Math.max(high, channelOf(colour, channel));
    }
    if (high - low > best.extent) [best.channel, best.extent] = [channel, high - low];
  }
  return best;
}

/**
 * Split a box into two with about half its pixels each.
 * @param {Box} box
 * @param {Map<number, number>} counts
 */
function cut({ colours, channel }, counts) {
  const sorted = [...colours].sort((a, b) => channelOf(a, channel) - channelOf(b, channel));
  const half = weight(sorted, counts) / 2;
  let [at, seen] = [1, counts.get(sorted[0]) ?? 0];
  while (at < sorted.length - 1 && seen < half) seen += counts.get(sorted[at++]) ?? 0;
  return [makeBox(sorted.slice(0, at)), makeBox(sorted.slice(at))];
}

/** Writes an endlessly looping GIF frame by frame. */
export class GifWriter {
  /** @param {number} width @param {number} height @param {number} scale  pixels in the file per image pixel */
  constructor(width, height, scale) {
    this.width = width;
    this.height = height;
    this.scale = scale;
    /** @type {Uint8Array[]} */
    this.parts = [];
    const size = [...word(width * scale), ...word(height * scale)];
    const loop = [0x21, 0xff, 11, ...letters("NETSCAPE2.0"), 3, 1, 0, 0, 0];
    this.parts.push(Uint8Array.from([...letters("GIF89a"), ...size, 0x70, 0, 0, ...loop]));
  }

  /** @param {Uint8Array} rgb  (height, width, 3) @param {number} hundredths  duration in hundredths of a second */
  add(rgb, hundredths) {
    const { colours, indices } = palette(rgb);
    let bits = 1; // the colour table has 2, 4, …, or 256 entries
    while (2 ** bits < colours.length / 3) bits++;
    const table = new Uint8Array(3 * 2 ** bits);
    table.set(colours);
    const size = [...word(this.width * this.scale), ...word(this.height * this.scale)];
    const control = [0x21, 0xf9, 4, 0, ...word(hundredths), 0, 0];
    this.parts.push(Uint8Array.from([...control, 0x2c, 0, 0, 0, 0, ...size, 0x80 | (bits - 1)]), table);
    this.parts.push(compress(this.enlarged(indices), Math.max(2, bits)));
  }

  /** @param {Uint8Array} indices */
  enlarged(indices) {
    const { width, height, scale } = this;
    const rowLength = width * scale;
    const out = new Uint8Array(rowLength * height * scale);
    for (let y = 0; y < height; y++) {
      const row = out.subarray(y * scale * rowLength, (y * scale + 1) * rowLength);
      for (let x = 0; x < width; x++) row.fill(indices[y * width + x], x * scale, (x + 1) * scale);
      for (let repeat = 1; repeat < scale; repeat++)
        out.copyWithin((y * scale + repeat) * rowLength, y * scale * rowLength, (y * scale + 1) * rowLength);
    }
    return out;
  }

  finish() {
    return new Blob(/** @type {Uint8Array<ArrayBuffer>[]} */ ([...this.parts, Uint8Array.of(0x3b)]), {
      type: "image/gif",
    });
  }
}

/** LZW compression, in sub-blocks of at most 255 bytes. @param {Uint8Array} indices @param {number} bits  per index */
function compress(indices, bits) {
  const [clear, end] = [2 ** bits, 2 ** bits + 1];
  /** @type {number[]} */
  const bytes = [];
  let [width, bitCount, buffer] = [bits + 1, 0, 0];
  /** @type {Map<number, number>} (code of the prefix, next index) -> code */
  const codes = new Map();
  let [code, next] = [indices[0], end + 1];
  /** @param {number} code */
  const emit = (code) => {
    buffer |= code << bitCount;
    for (bitCount += width; bitCount >= 8; bitCount -= 8) {
      bytes.push(buffer & 0xff);
      buffer >>>= 8;
    }
    if (next === 2 ** width && width < 12) width++; // as the decoder does
  };
  emit(clear);
  for (let i = 1; i < indices.length; i++) {
    const key = (code << 8) | indices[i];
    const found = codes.get(key);
    if (found !== undefined) {
      code = found;
      continue;
    }
    emit(code);
    code = indices[i];
    if (next === 4096) {
      emit(clear);
      codes.clear();
      [width, next] = [bits + 1, end + 1];
      continue;
    }
    codes.set(key, next++);
  }
  emit(code);
  emit(end);
  if (bitCount > 0) bytes.push(buffer & 0xff);
  const out = [bits];
  for (let at = 0; at < bytes.length; at += 255)
    out.push(Math.min(255, bytes.length - at), ...bytes.slice(at, at + 255));
  return Uint8Array.from([...out, 0]);
}

/** @param {number} number 16 bits, little endian */
const word = (number) => [number & 0xff, number >> 8];

/** @param {string} text */
const letters = (text) => Array.from(text, (letter) => letter.charCodeAt(0));
