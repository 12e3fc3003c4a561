/**
 * The browser's history: changing the view adds an entry, so that Back and Forward walk the views. Everything else
 * replaces the current entry. Following a link starts a new visit, and Back then returns to the earlier one, as the
 * viewer left it: the URLs of its other entries can be older, because a setting changes all views at once.
 *
 * @import { Place, ViewName } from "../engine/state.js"
 *
 * @typedef {{visit: string, view: ViewName, place: Partial<Place>}} Entry  the state of an entry in the history
 */

export class History {
  /**
   * @param {object} callbacks
   * @param {(hash: string | Promise<string>, entry: Entry | null) => void} callbacks.onVisit  open the state in this
   *   hash, in the view of this entry; null for a link
   * @param {(view: ViewName, place: Partial<Place>) => void} callbacks.onView   show another view of this visit
   */
  constructor({ onVisit, onView }) {
    this.visit = ""; // the dream on the page
    /** The hash of each visit when the viewer left it. @type {Map<string, Promise<string>>} */
    this.left = new Map();
    addEventListener("popstate", ({ state }) => {
      if (state?.visit === this.visit && this.visit) onView(state.view, state.place);
      else onVisit(this.left.get(state?.visit) ?? location.hash, state);
    });
  }

  /** Begin a visit in the current entry, or go on with the visit of that entry. @param {ViewName} view */
  begin(view) {
    this.visit = history.state?.visit ?? crypto.getRandomValues(new Uint32Array(2)).join("-");
    history.replaceState(this.entry(view), "");
  }

  /** Another visit begins. @param {Promise<string>} hash  of the state that the viewer leaves */
  leave(hash) {
    this.left.set(this.visit, hash);
  }

  /** Write a hash into the current entry. @param {string} hash @param {ViewName} view @param {Partial<Place>} place */
  replace(hash, view, place) {
    history.replaceState(this.entry(view, place), "", hash);
  }

  /** Add an entry for another view. @param {ViewName} view */
  push(view) {
    if (history.state?.visit === this.visit && history.state.view === view) return;
    history.pushState(this.entry(view), "");
  }

  /** @param {ViewName} view @param {Partial<Place>} place  what a lens shows @returns {Entry} */
  entry(view, place = {}) {
    return { visit: this.visit, view, place };
  }
}
