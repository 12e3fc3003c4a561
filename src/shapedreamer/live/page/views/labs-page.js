/** The page labs.html: what each lab teaches, and the command that starts it. */

import { get, make } from "./dom.js";
import { LABS } from "./labs.js";
import { bindTheme } from "./theme.js";

bindTheme();
get("labs", HTMLOListElement).replaceChildren(
  ...LABS.map(({ title, about }, number) =>
    make(
      "li",
      { id: `lab${number}` },
      make("h2", {}, `Lab ${number}. ${title}`),
      make("p", {}, `You will be able to ${about}.`),
      make("p", {}, make("code", {}, `shapedreamer labs lab${number}`)),
    ),
  ),
);
document.getElementById(location.hash.slice(1))?.scrollIntoView();
