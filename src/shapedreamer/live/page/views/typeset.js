/**
 * Formulas in plain HTML: _s and _{…} are subscripts, ^2 and ^{…} superscripts, √{…} a square root.
 *
 * @import { Term } from "./update.js"
 */

import { make } from "./dom.js";
import { explainTerm } from "./explain.js";
import { bindTip, closeTipIn } from "./tip.js";

/** @param {string} formula @returns {HTMLSpanElement} */
export function typeset(formula) {
  return make("span", { className: "math" }, ...typesetNodes(formula));
}

/** @param {string} formula @returns {(Node | string)[]} */
function typesetNodes(formula) {
  const nodes = [];
  for (let at = 0; at < formula.length;) {
    const mark = formula[at];
    const isMark = mark === "_" || mark === "^" || mark === "√";
    const end = isMark && formula[at + 1] === "{" ? closing(formula, at + 1) : at + 1;
    if (!isMark) nodes.push(formula[at++]);
    else {
      const inner = typesetNodes(end > at + 1 ? formula.slice(at + 2, end) : formula[at + 1]);
      if (mark === "√") nodes.push("√", make("span", { className: "root" }, ...inner));
      else nodes.push(make(mark === "_" ? "sub" : "sup", {}, ...inner));
      at = Math.max(end + 1, at + 2);
    }
  }
  return nodes;
}

/** Index of the brace that closes the one at `at`. @param {string} formula @param {number} at */
function closing(formula, at) {
  for (let depth = 0; at < formula.length; at++) {
    if (formula[at] === "{") depth++;
    if (formula[at] === "}" && --depth === 0) return at;
  }
  throw new Error(`unclosed brace in ${formula}`);
}

/** Format with fixed digits, so that the width does not change. @param {number} value @param {number} [digits] */
export function number(value, digits = 3) {
  if (!Number.isFinite(value)) return value < 0 ? "−∞" : "∞";
  return value.toFixed(digits).replace("-", "−");
}

/** The equation left = sum of terms, with each factor's value below it. Each of them is a button that explains itself. */
export class Equation {
  /** @param {string} left @param {Term[]} terms */
  constructor(left, terms) {
    this.left = left;
    this.key = keyOf(left, terms);
    this.values = terms.map(() => make("span", { className: "value" }));
    this.terms = terms.map(({ symbol, of }, i) => {
      const term = imageButton("term", of, typeset(`${symbol} ${of}`.trim()), this.values[i]);
      bindTip(term, () => explainTerm(symbol, of));
      return term;
    });
    const side = imageButton("side", left, typeset(left));
    bindTip(side, () => explainTerm("", left));
    this.element = make("div", { className: "equation" }, side);
    this.element.setAttribute("role", "group");
    this.terms.forEach((term, i) => {
      this.element.append(make("span", { className: "sign" }, i === 0 ? "=" : "+"), term);
    });
    this.update(terms);
  }

  /** Show other factors of the same images. @param {Term[]} terms */
  update(terms) {
    terms.forEach(({ factor, of }, i) => {
      this.values[i].textContent = number(factor);
      this.terms[i].setAttribute("aria-label", `${number(factor)} ${plain(of)}`);
    });
    const sum = terms.map(({ factor, of }) => `${number(factor)} ${plain(of)}`).join(" + ");
    this.element.setAttribute("aria-label", `${plain(this.left)} = ${sum}`);
  }
}

/**
 * Show equations in an element. Those of the same form are kept, so that the focus stays.
 * @param {HTMLElement} element
 * @param {Equation[]} shown
 * @param {[string, Term[]][]} equations
 * @returns {Equation[]}
 */
export function showEquations(element, shown, equations) {
  const isSame = shown.map(({ key }) => key).join() === equations.map((args) => keyOf(...args)).join();
  if (isSame) equations.forEach(([, terms], i) => shown[i].update(terms));
  else shown = equations.map((args) => new Equation(...args));
  if (!isSame) {
    closeTipIn(element);
    element.replaceChildren(...shown.map((equation) => equation.element));
  }
  return shown;
}

/** @param {string} left @param {Term[]} terms */
const keyOf = (left, terms) => `${left} = ${terms.map(({ symbol, of }) => `${symbol} ${of}`).join(" + ")}`;

/** @param {string} className @param {string} image @param {...Node} children */
function imageButton(className, image, ...children) {
  const button = make("button", { type: "button", className }, ...children);
  button.dataset.image = image;
  return button;
}

/** A formula without its marks. @param {string} formula */
export const plain = (formula) => formula.replace(/[_^{}]/g, "");
