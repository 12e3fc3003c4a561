/**
 * Formulas in plain HTML: _s and _{…} are subscripts, ^2 and ^{…} superscripts, √{…} a square root.
 *
 * @import { Term } from "./update.js"
 */

import { make } from "./dom.js";

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

/**
 * The equation left = sum of terms, with each factor's value below it.
 * @param {string} left
 * @param {Term[]} terms
 */
export function equation(left, terms) {
  const row = make("div", { className: "equation" });
  row.setAttribute("role", "math");
  row.setAttribute(
    "aria-label",
    `${plain(left)} = ${terms.map(({ factor, of }) => `${number(factor)} ${plain(of)}`).join(" + ")}`,
  );
  row.append(make("span", { className: "sign" }, typeset(left)));
  terms.forEach(({ symbol, factor, of }, i) => {
    row.append(make("span", { className: "sign" }, i === 0 ? "=" : "+"));
    row.append(
      make(
        "span",
        { className: "term" },
        typeset(`${symbol} ${of}`.trim()),
        make("span", { className: "value" }, number(factor)),
      ),
    );
  });
  return row;
}

/** @param {string} formula */
const plain = (formula) => formula.replace(/[_^{}]/g, "");
