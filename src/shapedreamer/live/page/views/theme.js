/**
 * The light or dark theme: the system's, until the user picks one. And preferences stored in the browser.
 */

/** A string in local storage, if the browser allows it. @param {string} key @param {string} fallback */
export function storedPreference(key, fallback) {
  let value = fallback;
  try {
    value = localStorage.getItem(`shapedreamer.${key}`) ?? fallback;
  } catch {
    // local storage is disabled
  }
  return {
    get value() {
      return value;
    },
    /** @param {string} text */
    set(text) {
      value = text;
      try {
        localStorage.setItem(`shapedreamer.${key}`, text);
      } catch {
        // the choice lasts until the page is closed
      }
    },
  };
}

/** Apply the stored theme. @returns {() => void} toggles it */
export function bindTheme() {
  const theme = storedPreference("theme", "");
  const root = document.documentElement;
  root.dataset.theme = theme.value;
  return () => {
    const isDark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : !matchMedia("(prefers-color-scheme: light)").matches;
    theme.set(isDark ? "light" : "dark");
    root.dataset.theme = theme.value;
  };
}
