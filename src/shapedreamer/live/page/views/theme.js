/**
 * Light or dark: as the system is, until the button says otherwise; and what the page remembers of a person.
 */

/** A word kept between visits, where the browser keeps any. @param {string} key @param {string} otherwise */
export function remembered(key, otherwise) {
  let value = otherwise;
  try {
    value = localStorage.getItem(`shapedreamer.${key}`) ?? otherwise;
  } catch {
    // storage is switched off
  }
  return {
    get value() {
      return value;
    },
    /** @param {string} word */
    set(word) {
      value = word;
      try {
        localStorage.setItem(`shapedreamer.${key}`, word);
      } catch {
        // then it is forgotten with the page
      }
    },
  };
}

/** Follow what is remembered; @returns {() => void} changes it */
export function bindTheme() {
  const theme = remembered("theme", "");
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
