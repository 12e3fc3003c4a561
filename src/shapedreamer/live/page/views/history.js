/**
 * The browser's history: changing the view adds an entry, so that Back and Forward walk the views. Everything else
 * replaces the current entry. Following a link starts a new visit, and Back then returns to the earlier one.
 *
 * @import { Place, ViewName } from "../engine/state.js"
 *
 * @typedef {{visit: string, view: ViewName, place: Partial<Place>}} Entry  the state of an entry in the history
 */

export class History {
  /**
   * @param {object} callbacks
   * @param {(hash: string) => void} callbacks.onVisit    open the state in this hash
   * @param {(view: ViewName, place: Partial<Place>) => void} callbacks.onView   show another view of this visit
   */
  constructor({ onVisit, onView }) {
    this.visit = ""; // the dream on the page; entries of another visit are opened from their URL
    addEventListener("popstate", ({ state }) => {
      if (state?.visit === this.visit && this.visit) onView(state.view, state.place);
      else onVisit(location.hash);
    });
  }

  /** Begin a visit, in the current entry. @param {ViewName} view */
  begin(view) {
    this.visit = crypto.getRandomValues(new Uint32Array(2)).join("-");
    history.replaceState(this.entry(view), "");
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
