/**
 * The dialog that hands out a link to the picture, or code that makes it.
 *
 * @import { Chain } from "../engine/session.js"
 * @import { Frame, ModelInfo } from "../engine/protocol.js"
 * @import { Code } from "./copy.js"
 */

import { asCommand, asPython, PICTURE } from "./copy.js";
import { choose, get, onChoice } from "./dom.js";
import { download, toStart } from "../files/save.js";

/**
 * @typedef {object} Shared
 * @property {Chain} chain
 * @property {ModelInfo} model
 * @property {Frame | null} frame
 * @property {(chain: Chain) => Promise<string>} link
 */

export class Share {
  /** @param {() => Shared} now  what is shown @param {() => void} closed */
  constructor(now, closed) {
    this.now = now;
    this.what = "link";
    this.turn = 0; // of showing: only the last counts
    this.dialog = get("share-dialog", HTMLDialogElement);
    this.copy = get("share-copy", HTMLButtonElement);
    this.picture = get("share-picture", HTMLButtonElement);
    this.text = get("share-text", HTMLPreElement);
    this.dialog.addEventListener("close", closed);
    onChoice("share", (what) => this.show(what));
    this.copy.addEventListener("click", async () => {
      getSelection()?.selectAllChildren(this.text);
      if (navigator.clipboard) await navigator.clipboard.writeText(this.text.textContent ?? "");
      else document.execCommand("copy"); // of a page that came by plain http from another machine
      this.copy.textContent = "Copied";
    });
    this.picture.addEventListener("click", async () => {
      const { frame } = this.now();
      if (frame) download(await toStart(frame), PICTURE);
    });
  }

  open() {
    choose("share", "link");
    void this.show("link");
    this.dialog.showModal();
  }

  /** A frame that was under way when the dialog opened is the one that is shared. */
  refresh() {
    if (this.dialog.open) void this.show(this.what);
  }

  /** @param {string} what */
  async show(what) {
    this.what = what;
    const turn = ++this.turn;
    const { code, note, picture } = await this.words(what, this.now());
    if (turn !== this.turn) return;
    this.text.textContent = code;
    get("share-note", HTMLParagraphElement).textContent = note;
    this.picture.hidden = !picture;
    this.copy.textContent = "Copy";
    this.copy.disabled = code === "";
  }

  /** @param {string} what @param {Shared} shared @returns {Promise<Code>} */
  async words(what, { chain, model, link }) {
    if (what === "python") return asPython(chain, model);
    if (what === "command") return asCommand(chain, model);
    if (what === "start") {
      const code = await link({ ...chain, frame: 0, image: null, paused: false });
      return { code, note: "These settings and this seed, from frame 0 on.", picture: false };
    }
    const code = await link(chain);
    const note = code.includes("&image=")
      ? "This picture, which the link carries along."
      : `This picture: frame ${chain.frame} of this seed, which is dreamt again where the link is opened.`;
    return { code, note, picture: false };
  }
}
