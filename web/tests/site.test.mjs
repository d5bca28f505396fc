// The server and the folder for a static host.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { startSite } from "./browser.mjs";

const SCRIPT = join(dirname(dirname(fileURLToPath(import.meta.url))), "site.mjs");

test("build assembles all that the page needs, over an older build, and keeps what else is there", () => {
  const folder = join(mkdtempSync(join(tmpdir(), "site-")), "public");
  const build = () => execFileSync(process.execPath, [SCRIPT, "build", "--output", folder], { encoding: "utf8" });
  assert.match(build(), /https/);
  writeFileSync(join(folder, "CNAME"), "mine");
  writeFileSync(join(folder, "page.js"), "older");
  build();
  assert.equal(readFileSync(join(folder, "CNAME"), "utf8"), "mine");
  const sizes = JSON.parse(readFileSync(join(folder, "files.json")));
  for (const [path, [bytes]] of Object.entries(sizes)) {
    const filledIn = ["index.html", "sw.js"].includes(path);
    assert.ok(filledIn || readFileSync(join(folder, path)).length === bytes, path);
  }
  assert.ok(readdirSync(folder).includes("best_model.tflite"));
  assert.match(readFileSync(join(folder, "sw.js"), "utf8"), /VERSION = "[0-9a-f]{16}"/);
  assert.doesNotMatch(readFileSync(join(folder, "index.html"), "utf8"), /HASH/);
});

test("build refuses a missing model in one sentence, and an unfit folder", () => {
  const folder = mkdtempSync(join(tmpdir(), "site-"));
  const run = (...options) => spawnSync(process.execPath, [SCRIPT, "build", ...options], { encoding: "utf8" });
  const missing = run("--output", join(folder, "public"), "--model", join(folder, "none.tflite"));
  assert.equal(missing.status, 2);
  assert.match(missing.stderr, /^site\.mjs: Missing: .*none\.tflite/);
  assert.ok(!existsSync(join(folder, "public")));
  writeFileSync(join(folder, "notes.txt"), "mine");
  const full = run("--output", folder);
  assert.equal(full.status, 2);
  assert.equal(readFileSync(join(folder, "notes.txt"), "utf8"), "mine");
});

test("the script runs through a symbolic link", { skip: process.platform === "win32" && "links need rights" }, () => {
  const link = join(mkdtempSync(join(tmpdir(), "site-")), "linked.mjs");
  symlinkSync(SCRIPT, link);
  const done = spawnSync(process.execPath, [link, "nonsense"], { encoding: "utf8" });
  assert.equal(done.status, 2);
  assert.match(done.stderr, /^site\.mjs: use: /);
});

test("the server knows its files alone, compresses them, and sends none twice", async () => {
  const { url, close } = await startSite();
  const get = (path, headers) => fetch(url + path, { headers });
  for (const path of ["package.json", "..%2fREADME.md", "none"]) assert.equal((await get(path)).status, 404);
  assert.equal((await get("%")).status, 404);
  const page = await get("");
  assert.equal(page.headers.get("content-encoding"), "gzip");
  assert.match(await page.text(), /<title>Emotion Detector/);
  assert.equal((await get("", { "if-none-match": page.headers.get("etag") })).status, 304);
  assert.equal((await get("lib/opencv/opencv.wasm")).headers.get("content-type"), "application/wasm");
  await close();
});
