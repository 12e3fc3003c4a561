/**
 * Animated GIF, as in the GIF89a specification: each frame has a palette of its own, of at most 256 colours.
 */

/**
 * @typedef {object} Palette
 * @property {Uint8Array} colours   red, green, blue of each
 * @property {Uint8Array} indices   which colour each pixel has
 */

/**
 * Colours that become one, and in which channel they differ most, by how much.
 * @typedef {{colours: number[], channel: number, extent: number}} Box
 */

/**
 * A palette for a picture: its very colours if they are 256 or fewer, else by median cut (Heckbert 1982): the box of
 * colours that is widest in one of red, green, blue is cut there, so that half its pixels lie on each side.
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
  const boxes = counts.size > 256 ? [box([...counts.keys()])] : [...counts.keys()].map((colour) => box([colour]));
  while (boxes.length < Math.min(256, counts.size)) {
    const widest = boxes.reduce((best, one, i) => (one.extent > boxes[best].extent ? i : best), 0);
    boxes.splice(widest, 1, ...cut(boxes[widest], counts));
  }
  const colours = new Uint8Array(3 * boxes.length);
  /** @type {Map<number, number>} */
  const place = new Map();
  boxes.forEach((one, i) => {
    const total = weight(one.colours, counts);
    for (const channel of [0, 1, 2]) {
      const sum = one.colours.reduce((sum, colour) => sum + part(colour, channel) * (counts.get(colour) ?? 0), 0);
      colours[3 * i + channel] = Math.round(sum / total);
    }
    for (const colour of one.colours) place.set(colour, i);
  });
  const indices = new Uint8Array(rgb.length / 3);
  for (let i = 0; i < indices.length; i++) {
    indices[i] = place.get((rgb[3 * i] << 16) | (rgb[3 * i + 1] << 8) | rgb[3 * i + 2]) ?? 0;
  }
  return { colours, indices };
}

/** @param {number} colour @param {number} channel */
const part = (colour, channel) => (colour >> (16 - 8 * channel)) & 0xff;

/** How many pixels have one of these colours. @param {number[]} colours @param {Map<number, number>} counts */
const weight = (colours, counts) => colours.reduce((sum, colour) => sum + (counts.get(colour) ?? 0), 0);

/** @param {number[]} colours @returns {Box} */
function box(colours) {
  const best = { colours, channel: 0, extent: -1 };
  for (const channel of [0, 1, 2]) {
    let [low, high] = [255, 0];
    for (const colour of colours) {
      low = Math.min(low, part(colour, channel));
      high = Math.max(high, part(colour, channel));
    }
    if (high - low > best.extent) [best.channel, best.extent] = [channel, high - low];
  }
  return best;
}

/**
 * Two boxes of one, with half its pixels each, as nearly as its colours allow.
 * @param {Box} whole
 * @param {Map<number, number>} counts
 */
function cut({ colours, channel }, counts) {
  const sorted = [...colours].sort((a, b) => part(a, channel) - part(b, channel));
  const half = weight(sorted, counts) / 2;
  let [at, seen] = [1, counts.get(sorted[0]) ?? 0];
  while (at < sorted.length - 1 && seen < half) seen += counts.get(sorted[at++]) ?? 0;
  return [box(sorted.slice(0, at)), box(sorted.slice(at))];
}

/** A GIF that grows frame by frame and plays forever. */
export class GifWriter {
  /** @param {number} width @param {number} height @param {number} scale  how many pixels wide and high each is drawn */
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

  /** @param {Uint8Array} rgb  (height, width, 3) @param {number} hundredths  of a second that it is seen */
  add(rgb, hundredths) {
    const { colours, indices } = palette(rgb);
    let bits = 1; // the table has 2, 4, … or 256 colours
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
    const wide = width * scale;
    const out = new Uint8Array(wide * height * scale);
    for (let y = 0; y < height; y++) {
      const row = out.subarray(y * scale * wide, (y * scale + 1) * wide);
      for (let x = 0; x < width; x++) row.fill(indices[y * width + x], x * scale, (x + 1) * scale);
      for (let again = 1; again < scale; again++)
        out.copyWithin((y * scale + again) * wide, y * scale * wide, (y * scale + 1) * wide);
    }
    return out;
  }

  finish() {
    return new Blob(/** @type {Uint8Array<ArrayBuffer>[]} */ ([...this.parts, Uint8Array.of(0x3b)]), {
      type: "image/gif",
    });
  }
}

/** Lempel-Ziv-Welch, in sub-blocks of at most 255 bytes. @param {Uint8Array} indices @param {number} bits of each */
function compress(indices, bits) {
  const [clear, end] = [2 ** bits, 2 ** bits + 1];
  /** @type {number[]} */
  const bytes = [];
  let [width, pending, held] = [bits + 1, 0, 0];
  /** @type {Map<number, number>} of (code of what came before, the next index) */
  const known = new Map();
  let [code, next] = [indices[0], end + 1];
  /** @param {number} code */
  const emit = (code) => {
    held |= code << pending;
    for (pending += width; pending >= 8; pending -= 8) {
      bytes.push(held & 0xff);
      held >>>= 8;
    }
    if (next === 2 ** width && width < 12) width++; // the reader's table has grown, too
  };
  emit(clear);
  for (let i = 1; i < indices.length; i++) {
    const longer = (code << 8) | indices[i];
    const found = known.get(longer);
    if (found !== undefined) {
      code = found;
      continue;
    }
    emit(code);
    code = indices[i];
    if (next === 4096) {
      emit(clear);
      known.clear();
      [width, next] = [bits + 1, end + 1];
      continue;
    }
    known.set(longer, next++);
  }
  emit(code);
  emit(end);
  if (pending > 0) bytes.push(held & 0xff);
  const out = [bits];
  for (let at = 0; at < bytes.length; at += 255)
    out.push(Math.min(255, bytes.length - at), ...bytes.slice(at, at + 255));
  return Uint8Array.from([...out, 0]);
}

/** @param {number} number 16 bits, little endian */
const word = (number) => [number & 0xff, number >> 8];

/** @param {string} text */
const letters = (text) => Array.from(text, (letter) => letter.charCodeAt(0));
