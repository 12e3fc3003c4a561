/**
 * The dialog that shows a link to the picture, or code that generates it.
 *
 * @import { Snapshot } from "../engine/session.js"
 * @import { Frame, ModelInfo } from "../engine/protocol.js"
 * @import { Code } from "./copy.js"
 */

import { asCommand, asPython, PICTURE } from "./copy.js";
import { choose, get, onChoice } from "./dom.js";
import { download, toStartPng } from "../files/save.js";
import { MAX_IMAGE_TEXT } from "../engine/state.js";

/**
 * @typedef {object} Shared
 * @property {Snapshot} snapshot
 * @property {ModelInfo} model
 * @property {Frame | null} frame
 * @property {(snapshot: Snapshot) => Promise<string>} link
 */

export class Share {
  /** @param {() => Shared} getShared  what the page shows now @param {() => void} onClose */
  constructor(getShared, onClose) {
    this.getShared = getShared;
    this.format = "link";
    this.renders = 0; // show() is asynchronous; only the latest call may update the dialog
    this.dialog = get("share-dialog", HTMLDialogElement);
    this.copy = get("share-copy", HTMLButtonElement);
    this.picture = get("share-picture", HTMLButtonElement);
    this.text = get("share-text", HTMLPreElement);
    this.dialog.addEventListener("close", onClose);
    onChoice("share", (format) => this.show(format));
    this.copy.addEventListener("click", async () => {
      getSelection()?.selectAllChildren(this.text);
      if (navigator.clipboard) await navigator.clipboard.writeText(this.text.textContent ?? "");
      else document.execCommand("copy"); // plain HTTP from another machine has no clipboard API
      this.copy.textContent = "Copied";
    });
    this.picture.addEventListener("click", async () => {
      const { frame } = this.getShared();
      if (frame) download(await toStartPng(frame), PICTURE);
    });
  }

  open() {
    choose("share", "link");
    void this.show("link");
    this.dialog.showModal();
  }

  /** Update the open dialog: one more frame can arrive after the page paused the dream. */
  refresh() {
    if (this.dialog.open) void this.show(this.format);
  }

  /** @param {string} format */
  async show(format) {
    this.format = format;
    const render = ++this.renders;
    const { code, note, picture } = await this.content(format, this.getShared());
    if (render !== this.renders) return;
    this.text.textContent = code;
    get("share-note", HTMLParagraphElement).textContent = note;
    this.picture.hidden = !picture;
    this.copy.textContent = "Copy";
    this.copy.disabled = code === "";
  }

  /** @param {string} format @param {Shared} shared @returns {Promise<Code>} */
  async content(format, { snapshot, model, link }) {
    if (format === "python") return asPython(snapshot, model);
    if (format === "command") return asCommand(snapshot, model);
    if (format === "start") {
      const code = await link({ ...snapshot, frame: 0, image: null, paused: false });
      return { code, note: "The same seed and settings, starting from frame 0.", picture: false };
    }
    const code = await link(snapshot);
    const note = code.includes("&image=")
      ? pictureNote(code)
      : `Frame ${snapshot.frame} of this seed. Opening the link generates it again.`;
    return { code, note, picture: false };
  }
}

/** What a link keeps of the picture that it contains. @param {string} link */
function pictureNote(link) {
  const params = new URLSearchParams(new URL(link).hash.slice(1));
  const bits = Number(params.get("bits") ?? 8);
  const shades = `with ${2 ** bits} shades per colour, to stay short. Save as PNG to keep it exactly.`;
  const isLong = (params.get("image") ?? "").length > MAX_IMAGE_TEXT;
  return [
    bits === 8 ? "The link contains this picture." : `The link contains this picture ${shades}`,
    isLong ? "It is still long, and some programs cut long links: show fewer pictures at once." : "",
  ]
    .join(" ")
    .trim();
}
