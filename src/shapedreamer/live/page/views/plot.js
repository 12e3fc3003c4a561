/**
 * Line plots in SVG, with a handle that the pointer drags and the arrow keys move.
 *
 * @typedef {object} Scale  from values to fractions of an axis, and back
 * @property {(value: number) => number} to
 * @property {(fraction: number) => number} from
 *
 * @typedef {object} Line
 * @property {string} name                   class of its elements, which sets the colour
 * @property {[number, number][]} points
 * @property {string} [label]
 * @property {number} [labelAt]              where on the line the label stands, 0…1
 * @property {boolean} [isBelow]             the label stands below it instead
 * @property {boolean} [isDots]              draw points instead of a line
 * @property {Scale} [y]                     its own vertical scale
 *
 * @typedef {object} Axis
 * @property {Scale} scale
 * @property {[number, string][]} ticks
 * @property {string} [title]
 */

const NS = "http://www.w3.org/2000/svg";
const MARGIN = { left: 44, right: 44, top: 28, bottom: 38 };
const TICK_WIDTH = 9; // of a digit of a tick's label with its share of the gap, in CSS pixels
const HALF_LABEL = 48; // half the width of a line's label

/** @param {number} low @param {number} high @returns {Scale} */
export function linear(low, high) {
  return { to: (value) => (value - low) / (high - low), from: (fraction) => low + fraction * (high - low) };
}

/** @param {number} low @param {number} high @returns {Scale} */
export function logarithmic(low, high) {
  const { to, from } = linear(Math.log(low), Math.log(high));
  return { to: (value) => to(Math.log(value)), from: (fraction) => Math.exp(from(fraction)) };
}

/**
 * An SVG element.
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string | number>} attributes
 * @param {...(Node | string)} children
 * @returns {SVGElementTagNameMap[K]}
 */
function svg(tag, attributes, ...children) {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, `${value}`);
  element.append(...children);
  return element;
}

export class Plot {
  /** @param {string} label */
  constructor(label) {
    this.drawing = svg("g", {});
    this.element = svg("svg", { class: "plot", role: "group", "aria-label": label }, this.drawing);
    this.x = linear(0, 1);
  }

  /** The plotting area, in CSS pixels. */
  get area() {
    const { clientWidth, clientHeight } = this.element;
    const { left, right, top, bottom } = MARGIN;
    return { left, top, width: Math.max(clientWidth - left - right, 1), height: clientHeight - top - bottom };
  }

  /** Horizontal position of a value, in CSS pixels. @param {number} value */
  xOf(value) {
    const { left, width } = this.area;
    return left + width * this.x.to(value);
  }

  /** The value at a horizontal position on the screen. @param {number} clientX */
  valueAt(clientX) {
    const { left, width } = this.area;
    const fraction = (clientX - this.element.getBoundingClientRect().left - left) / width;
    return this.x.from(Math.min(Math.max(fraction, 0), 1));
  }

  /** @param {{x: Axis, y: Axis, right?: Axis, lines: Line[]}} content */
  draw({ x, y, right, lines }) {
    this.x = x.scale;
    const { left, top, width, height } = this.area;
    const yOf = (/** @type {number} */ value, scale = y.scale) => top + height * (1 - scale.to(value));
    const bottom = top + height;
    const text = (/** @type {string} */ name, /** @type {number} */ atX, /** @type {number} */ atY, label = "") =>
      svg("text", { class: name, x: atX, y: atY }, label);
    const grid = y.ticks.flatMap(([value, label]) => [
      svg("line", { class: "grid", x1: left, x2: left + width, y1: yOf(value), y2: yOf(value) }),
      text("tick left", left - 8, yOf(value) + 4, label),
    ]);
    let free = -Infinity; // where the last label ends
    const ticks = x.ticks.flatMap(([value, label]) => {
      const [at, half] = [this.xOf(value), (TICK_WIDTH * label.length) / 2];
      if (at - half < free) return [];
      free = at + half;
      return [text("tick", at, bottom + 17, label)];
    });
    const rightTicks = right?.ticks.map(([value, label]) =>
      text("tick right", left + width + 8, yOf(value, right.scale) + 4, label),
    );
    const curves = lines.flatMap(({ name, points, label, labelAt = 0, isBelow, isDots, y: scale }) => {
      const places = points.map(([valueX, valueY]) => [this.xOf(valueX), yOf(valueY, scale)]);
      const curve = isDots
        ? places.map(([cx, cy]) => svg("circle", { class: name, cx, cy, r: 4 }))
        : [svg("path", { class: name, d: `M${places.map((place) => place.map((v) => v.toFixed(1)).join()).join("L")}` })];
      if (!label) return curve;
      const [onCurve, labelY] = places[Math.round(labelAt * (places.length - 1))];
      const labelX = Math.min(Math.max(onCurve, left + HALF_LABEL), left + width - HALF_LABEL);
      return [...curve, text(`label ${name}`, labelX, labelY + (isBelow ? 22 : -9), label)];
    });
    const titles = [text("title", left + width / 2, bottom + 34, x.title)];
    if (y.title) titles.push(text("title start", 0, 9, y.title));
    if (right?.title) titles.push(text("title end", left + width + MARGIN.right, 9, right.title));
    this.drawing.replaceChildren(...grid, ...ticks, ...(rightTicks ?? []), ...titles, ...curves);
  }
}

/** A vertical line on a plot, at a whole number that the user can change. */
export class Handle {
  /**
   * @param {Plot} plot
   * @param {string} label
   * @param {string} explanation
   * @param {(value: number) => void} onInput
   */
  constructor(plot, label, explanation, onInput) {
    this.plot = plot;
    this.onInput = onInput;
    this.value = 0;
    this.low = 0;
    this.high = 1;
    this.page = 1; // the keys Page Up and Page Down move by it
    this.line = svg("line", {});
    this.knob = svg("circle", { r: 8 });
    this.element = svg("g", { class: "handle", role: "slider", tabindex: 0, "aria-label": label });
    this.element.append(svg("title", {}, explanation), this.line, this.knob);
    plot.element.append(this.element);
    plot.element.addEventListener("pointerdown", (event) => {
      plot.element.setPointerCapture(event.pointerId);
      this.element.focus({ preventScroll: true });
      this.request(plot.valueAt(event.clientX));
    });
    plot.element.addEventListener("pointermove", (event) => {
      if (plot.element.hasPointerCapture(event.pointerId)) this.request(plot.valueAt(event.clientX));
    });
    this.element.addEventListener("keydown", (event) => this.press(event));
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -this.page, PageUp: this.page };
    const { key } = event;
    const target = { Home: this.low, End: this.high }[key];
    const by = Object.entries(moves).find(([name]) => name === key)?.[1];
    if (target === undefined && by === undefined) return;
    event.preventDefault();
    this.request(target ?? this.value + (by ?? 0));
  }

  /** @param {number} value */
  request(value) {
    const whole = Math.min(Math.max(Math.round(value), this.low), this.high);
    if (whole !== this.value) this.onInput(whole);
  }

  /** @param {number} low @param {number} high */
  setRange(low, high) {
    [this.low, this.high, this.page] = [low, high, Math.max(1, Math.round((high - low) / 20))];
    this.element.setAttribute("aria-valuemin", `${low}`);
    this.element.setAttribute("aria-valuemax", `${high}`);
  }

  /** @param {number} value @param {string} text */
  show(value, text) {
    this.value = value;
    const { top, height } = this.plot.area;
    const x = this.plot.xOf(value);
    for (const [name, place] of Object.entries({ x1: x, x2: x, y1: top, y2: top + height })) {
      this.line.setAttribute(name, `${place}`);
    }
    this.knob.setAttribute("cx", `${x}`);
    this.knob.setAttribute("cy", `${top + height}`);
    this.element.setAttribute("aria-valuenow", `${value}`);
    this.element.setAttribute("aria-valuetext", text);
  }
}
