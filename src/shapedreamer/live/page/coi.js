/**
 * WebAssembly threads for hosts that do not send the COOP and COEP headers (cross-origin isolation). This file has two
 * roles: as a script of the page, it installs a service worker and reloads the page; as that service worker, it adds
 * the headers to every response. If the host sends the headers, it does nothing.
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
  navigator.serviceWorker.register(src).catch(() => {}); // on failure the engine uses one thread
}

/** The response to a request, with the headers. @param {Request} request */
async function isolated(request) {
  const { body, status, statusText, headers } = await fetch(request);
  const allHeaders = new Headers(headers);
  for (const [name, value] of Object.entries(HEADERS)) allHeaders.set(name, value);
  return new Response(body, { status, statusText, headers: allHeaders });
}
