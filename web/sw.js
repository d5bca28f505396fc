// Keeps the page's files on the device, so that it works offline and loads nothing a second time.
const VERSION = "development"; // site.mjs puts in a hash of all files, so that a changed page is noticed
const PREFIX = `emotion-detector-${self.registration.scope}-`; // other folders of this host have their own
const LITERT = ["lib/litert/index.js", "lib/litert/wasm-utils.js"];
const SCRIPTS = ["page.js", "detector.js", "faces.js", "tracker.js", "overlay.js"];
const SHELL = ["./", "index.html", ...SCRIPTS, "style.css", "licenses.txt", ...LITERT];
const arriving = new Map(); // URL: promise of its being stored

self.addEventListener("install", (event) => event.waitUntil(install()));
self.addEventListener("activate", (event) => event.waitUntil(activate()));
self.addEventListener("message", (event) => event.waitUntil(takeOver())); // from a page that has loaded all its files
self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && new URL(url).origin === location.origin) event.respondWith(respond(event));
});

/** Stores the page itself and, if an older version is stored, the new version of all its files. */
async function install() {
  const cache = await caches.open(PREFIX + VERSION);
  const fresh = (url) => cache.add(new Request(url, { cache: "no-cache" }));
  const renew = async ({ url }) => {
    const response = await fetch(url, { cache: "no-cache" }); // without a connection, the older version stays
    if (response.ok) await cache.put(url, response); // a file may no longer exist
  };
  await Promise.all(SHELL.map(fresh));
  for (const name of await olderVersions()) {
    const stored = await (await caches.open(name)).keys();
    await Promise.all(stored.map(renew));
  }
}

async function activate() {
  await Promise.all((await olderVersions()).map((name) => caches.delete(name)));
  await self.clients.claim();
}

/** Takes over from the older version, if no other tab may still be loading its files. */
async function takeOver() {
  const pages = await self.clients.matchAll({ includeUncontrolled: true });
  if (pages.length === 1) await self.skipWaiting();
}

async function olderVersions() {
  return (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== PREFIX + VERSION);
}

async function respond(event) {
  const { request } = event;
  const cache = await caches.open(PREFIX + VERSION);
  await arriving.get(request.url);
  const stored = await cache.match(request, { ignoreSearch: true });
  if (stored) return stored;
  const response = await fetch(request);
  if (response.ok) {
    const storing = cache.put(request.url, response.clone()).catch(() => {}); // the disk may be full
    arriving.set(request.url, storing);
    event.waitUntil(storing.then(() => arriving.delete(request.url)));
  }
  return response;
}
