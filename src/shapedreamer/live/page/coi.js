/**
 * Threads for WebAssembly where the host sends no COOP and COEP headers (cross-origin isolation). This file is a script
 * of the page, which installs a service worker and loads the page again; and it is that service worker, which adds the
 * headers to every answer. Where the host does send them, it does nothing.
 */

const HEADERS = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

if (typeof window === "undefined") {
  const worker = /** @type {any} */ (self);
  worker.addEventListener("install", () => worker.skipWaiting());
  worker.addEventListener("activate", (/** @type {any} */ event) => event.waitUntil(worker.clients.claim()));
  worker.addEventListener("fetch", (/** @type {any} */ event) => event.respondWith(isolated(event.request)));
} else if (!window.crossOriginIsolated && "serviceWorker" in navigator && !navigator.serviceWorker.controller) {
  navigator.serviceWorker.addEventListener("controllerchange", () => window.location.reload(), { once: true });
  const { src } = /** @type {HTMLScriptElement} */ (document.currentScript);
  navigator.serviceWorker.register(src).catch(() => {}); // then one thread does it
}

/** The answer to a request, with the headers. @param {Request} request */
async function isolated(request) {
  const { body, status, statusText, headers } = await fetch(request);
  const more = new Headers(headers);
  for (const [name, value] of Object.entries(HEADERS)) more.set(name, value);
  return new Response(body, { status, statusText, headers: more });
}
