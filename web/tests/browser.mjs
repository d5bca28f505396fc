// What the tests share: Chromium, the site with a counter of what it sends, and Python's expectations.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { readSite, serve } from "../site.mjs";

const TESTS = dirname(fileURLToPath(import.meta.url));
const REPOSITORY = dirname(dirname(TESTS));
const CHROMIUM = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"];
QUIET.push("--disable-background-networking", "--disable-component-update");

export const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 3, isMobile: true, hasTouch: true };

/** Starts Chromium with an .mjpeg file as its camera, or with a number of cameras that show a test card. */
export function startChromium(camera) {
  const executablePath = process.env.CHROMIUM ?? CHROMIUM.find(existsSync);
  if (!executablePath) throw new Error("There is no Chromium. Install it or give its path: CHROMIUM=PATH npm test");
  const isFile = typeof camera === "string";
  const devices = `--use-fake-device-for-media-stream=device-count=${isFile ? 1 : camera}`;
  const video = isFile ? [`--use-file-for-fake-video-capture=${camera}`] : [];
  return chromium.launch({ executablePath, args: [...QUIET, devices, ...video] });
}

const site = readSite();

/** Serves the site, after `change` was applied to its files; `sent` counts requests and bytes of bodies. */
export async function startSite(change = () => {}) {
  const { missing } = site;
  if (missing.length) throw new Error(`Missing: ${missing.join(", ")}. Run npm ci; give the model with MODEL=PATH.`);
  const files = new Map(site.files);
  change(files);
  const server = await serve(files);
  server.unref(); // a test that fails does not keep it running
  const sent = { requests: 0, bytes: 0 };
  server.on("request", (request, response) => {
    sent.requests += 1;
    response.on("finish", () => (sent.bytes += Number(response.getHeader("content-length") ?? 0)));
  });
  const close = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return { url: `http://localhost:${server.address().port}/`, files, sent, close };
}

/** Opens the page in a new context and waits until it is ready. Collects its errors and requests to other hosts. */
export async function openPage(browser, url, options = {}) {
  const { permissions = ["camera"], prepare = () => {}, message = /^Ready/, ...contextOptions } = options;
  const context = await browser.newContext({ permissions, ...contextOptions });
  const page = await context.newPage();
  page.errors = [];
  page.foreign = [];
  page.on("pageerror", (error) => page.errors.push(error.message));
  context.on("request", (request) => {
    if (!request.url().startsWith(url) && !/^(blob|data):/.test(request.url())) page.foreign.push(request.url());
  });
  await prepare(page);
  await page.goto(url);
  await waitForMessage(page, message);
  return page;
}

export function waitForMessage(page, pattern) {
  const matches = ([source]) => new RegExp(source).test(document.getElementById("message").textContent);
  return page.waitForFunction(matches, [pattern.source], { timeout: 30_000 });
}

/** Writes a screenshot for people to look at, if the environment variable SCREENSHOTS names a folder. */
export async function screenshot(page, name, options) {
  const folder = process.env.SCREENSHOTS;
  if (folder) await page.screenshot({ path: join(folder, `${name}.png`), ...options });
}

/** Runs Python's detector on made frames; returns {folder, expected}, or the reason why there is no such Python. */
export function makeExpected() {
  const own = join(REPOSITORY, ".venv/bin/python");
  const python = process.env.PYTHON ?? (existsSync(own) ? own : "python3");
  const model = process.env.MODEL ?? join(REPOSITORY, "best_model.tflite");
  const folder = mkdtempSync(join(tmpdir(), "expected-"));
  execFileSync(python, [join(TESTS, "make_expected.py"), model, folder], { stdio: ["ignore", "ignore", "inherit"] });
  return { folder, expected: JSON.parse(readFileSync(join(folder, "expected.json"))) };
}
