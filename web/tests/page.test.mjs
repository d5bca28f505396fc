// The page in a real browser, with the demo's average faces as its camera, and held against Python's detector.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { EMOTIONS } from "../detector.js";
import { makeExpected, openPage, PHONE, screenshot, startChromium, startSite, waitForMessage } from "./browser.mjs";

const AXE = readFileSync(fileURLToPath(import.meta.resolve("axe-core/axe.min.js")), "utf8");
const MEGABYTES = 8; // of the first load, compressed
const CUT_SECONDS = 0.5; // after a cut, by which the label has followed

let folder, expected, browser, site;

before(async () => {
  ({ folder, expected } = makeExpected());
  browser = await startChromium(join(folder, "camera.mjpeg"));
  site = await startSite((files) => {
    for (const { file } of [...expected.stills, ...expected.video, ...expected.swaying]) {
      files.set(file, readFileSync(join(folder, file)));
    }
  });
});

after(async () => {
  await browser?.close();
  await site?.close();
});

const still = (count, tiltDegrees = 0) =>
  expected.stills.find(({ faces }) => {
    return faces.length === count && faces.every((face) => Math.abs(face.tiltDegrees) >= tiltDegrees);
  });
const photo = (page, { file }) => page.setInputFiles("#file", join(folder, file));
const startCamera = async (page) => {
  await page.click("#camera");
  await page.waitForSelector("#canvas:visible");
};

/** Returns the page's faces of {file, seconds} images: as stills, or as frames of a video. */
function detect(page, images, method) {
  return page.evaluate(
    async ([images, method]) => {
      const { detector, readFrame } = await import("./page.js");
      const results = [];
      for (const { file, seconds } of images) {
        const bitmap = await createImageBitmap(await (await fetch(file)).blob());
        const faces = await detector[method](readFrame(bitmap, bitmap.width, bitmap.height, false), seconds);
        results.push(faces.map((face) => ({ ...face, probabilities: [...face.probabilities] })));
      }
      return results;
    },
    [images, method],
  );
}

/** Holds the page's faces against Python's; prints how many agree. */
function compare(images, results) {
  const faces = images.flatMap(({ faces }) => faces);
  const found = images.flatMap(({ faces }, i) => faces.map((_, k) => results[i][k]));
  const largest = (a, b) => Math.max(...a.map((value, i) => Math.abs(value - b[i])));
  const share = (test) => faces.filter((face, i) => found[i] && test(face, found[i])).length / faces.length;
  const extra = results.reduce((sum, each, i) => sum + Math.max(each.length - images[i].faces.length, 0), 0);
  const tilt = (a, b) => Math.abs(a.tiltDegrees - b.tiltDegrees);
  const differences = faces.map((face, i) => (found[i] ? largest(face.probabilities, found[i].probabilities) : 0));
  return {
    images: images.length,
    faces: faces.length,
    extra,
    tilted: faces.filter(({ tiltDegrees }) => Math.abs(tiltDegrees) > 20).length,
    boxes: share((a, b) => largest(a.box, b.box) <= 2),
    labels: share((a, b) => a.label === b.label),
    ids: share((a, b) => a.id === b.id),
    tilts: share((a, b) => tilt(a, b) <= 1),
    difference: Math.max(...differences),
  };
}

for (const [name, method] of [["stills", "detect"], ["video", "track"], ["swaying", "track"]]) {
  test(`the page detects in ${name} what Python detects`, async (t) => {
    const page = await openPage(browser, site.url);
    const agreement = compare(expected[name], await detect(page, expected[name], method));
    t.diagnostic(JSON.stringify(agreement));
    assert.ok(agreement.faces >= 40);
    assert.ok(agreement.boxes >= 0.98, "boxes within two pixels");
    assert.ok(agreement.tilts >= 0.98, "tilts within a degree");
    assert.ok(agreement.labels >= 0.99 && agreement.ids >= 0.98, "labels and ids");
    assert.ok(agreement.difference <= 0.02, "probabilities");
    assert.ok(agreement.extra <= 0.02 * agreement.faces, "faces that Python does not find");
    await page.context().close();
  });
}

test("the camera shows every emotion, and the label follows a cut within half a second", async (t) => {
  const page = await openPage(browser, site.url);
  await startCamera(page);
  const seen = await page.evaluate(
    (seconds) =>
      new Promise((resolve) => {
        const seen = [];
        canvas.addEventListener("faces", ({ detail }) => {
          const [level] = canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height - 5, 1, 1).data;
          const shown = Math.round((level - 20) / 30);
          seen.push({ seconds: performance.now() / 1000, shown, labels: detail.faces.map(({ label }) => label) });
        });
        setTimeout(() => resolve(seen), 1000 * seconds);
      }),
    11.5,
  );
  t.diagnostic(`${((seen.length - 1) / (seen.at(-1).seconds - seen[0].seconds)).toFixed(1)} frames a second`);
  const labels = new Set(seen.flatMap((frame) => frame.labels));
  assert.deepEqual(EMOTIONS.filter((emotion) => !labels.has(emotion)), []);
  const cuts = seen.filter(({ shown }, i) => i > 0 && shown !== seen[i - 1].shown);
  const lags = cuts.map((cut) => {
    const followed = ({ seconds, labels }) => seconds >= cut.seconds && labels.includes(EMOTIONS[cut.shown]);
    return (seen.find(followed)?.seconds ?? Infinity) - cut.seconds;
  });
  t.diagnostic(`seconds after each cut: ${lags.map((lag) => lag.toFixed(2)).join(" ")}`);
  assert.ok(lags.length >= 6);
  assert.ok(lags.slice(0, -1).every((lag) => lag <= CUT_SECONDS)); // the last may lie at the end
  assert.deepEqual([page.foreign, page.errors], [[], []]);
  await screenshot(page, "camera-desktop");
  await page.context().close();
});

test("bars, pause, snapshot and CSV work, by touch and by keyboard", async () => {
  const page = await openPage(browser, site.url, PHONE);
  await startCamera(page);
  await page.tap("#canvas");
  assert.equal(await page.getAttribute("#bars", "aria-pressed"), "true");
  await page.waitForFunction(() => document.getElementById("announcement").textContent);
  await screenshot(page, "camera-phone");
  await page.tap("#csv");
  await page.waitForFunction(() => /\(\d{2,}\)/.test(document.getElementById("csv").textContent));
  await page.tap("#camera");
  const recorded = parseInt((await page.textContent("#csv")).match(/\d+/)[0]);
  await startCamera(page);
  await page.waitForFunction((lines) => document.getElementById("csv").textContent.match(/\d+/)[0] > lines, recorded + 1);
  await page.focus("#pause");
  await page.keyboard.press("Enter");
  await waitForMessage(page, /^Paused/);
  const [csv] = await Promise.all([page.waitForEvent("download"), page.tap("#csv")]);
  assert.match(csv.suggestedFilename(), /^emotions-\d{8}-\d{6}\.csv$/);
  const [header, ...lines] = readFileSync(await csv.path(), "utf8").trim().split("\n");
  assert.equal(header, expected.csv_header);
  assert.ok(lines.length >= 10 && lines.every((line) => line.split(",").length === header.split(",").length));
  const places = lines.map((line) => line.split(",").slice(0, 2).map(Number)); // time and frame, over both cameras
  assert.ok(places.every(([time, frame], i) => !i || (time >= places[i - 1][0] && frame >= places[i - 1][1])), places);
  const [snapshot] = await Promise.all([page.waitForEvent("download"), page.tap("#snapshot")]);
  assert.equal(readFileSync(await snapshot.path()).subarray(1, 4).toString(), "PNG");
  await page.tap("#pause");
  await waitForMessage(page, /^$/);
  await page.tap("#camera");
  await waitForMessage(page, /^The camera is off/);
  await page.context().close();
});

test("a camera that freezes is told and not logged, and no lines are lost by a reload", async () => {
  const page = await openPage(browser, site.url, {
    prepare: (page) => page.addInitScript(() => {
      navigator.mediaDevices.getUserMedia = async () => {
        const picture = Object.assign(document.createElement("canvas"), { width: 320, height: 240 });
        const context = picture.getContext("2d");
        globalThis.painting = setInterval(() => context.fillRect(Math.random() * 320, 0, 9, 240), 50);
        return picture.captureStream(20);
      };
    }),
  });
  await page.click("#csv");
  await startCamera(page);
  await page.waitForTimeout(1500);
  const seen = await page.evaluate(async () => { // another tab for a while
    const show = (hidden) => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
      document.dispatchEvent(new Event("visibilitychange"));
    };
    show(true);
    await new Promise((resolve) => setTimeout(resolve, 2500));
    const seen = [];
    canvas.addEventListener("faces", ({ detail }) => seen.push(detail.status));
    new MutationObserver(() => seen.push(message.textContent)).observe(message, { childList: true });
    show(false);
    while (seen.length < 4) await new Promise((resolve) => setTimeout(resolve, 100));
    return seen;
  });
  assert.ok(!seen.some((text) => text === "0 fps" || /no images/.test(text)), seen.join());
  await page.evaluate(() => clearInterval(globalThis.painting));
  await waitForMessage(page, /^The camera sends no images/);
  await page.evaluate(() => {
    globalThis.frames = 0;
    canvas.addEventListener("faces", () => globalThis.frames++);
  });
  await page.waitForTimeout(1000);
  assert.equal(await page.evaluate(() => globalThis.frames), 0);
  await photo(page, still(1));
  await page.waitForFunction(() => /\([1-9]/.test(document.getElementById("csv").textContent));
  const asked = page.waitForEvent("dialog");
  await page.evaluate(() => void setTimeout(() => location.reload()));
  await (await asked).dismiss();
  assert.match(await page.textContent("#csv"), /\([1-9]/);
  await page.context().close();
});

test("a front camera is shown as in a mirror, a back camera as it is", async () => {
  for (const [facing, brightSide] of [["user", "right"], ["environment", "left"]]) {
    const page = await openPage(browser, site.url, {
      prepare: (page) => page.addInitScript((facing) => {
        navigator.mediaDevices.getUserMedia = async () => {
          const picture = Object.assign(document.createElement("canvas"), { width: 320, height: 240 });
          const context = picture.getContext("2d");
          context.fillRect(0, 0, 320, 240); // black
          context.fillStyle = "white";
          setInterval(() => context.fillRect(0, 0, 160, 240), 50); // the left half
          const stream = picture.captureStream(20);
          stream.getVideoTracks()[0].getSettings = () => ({ facingMode: facing });
          return stream;
        };
      }, facing),
    });
    await startCamera(page);
    const sides = await page.evaluate(() => {
      const context = canvas.getContext("2d");
      const level = (x) => context.getImageData(x * canvas.width, canvas.height / 2, 1, 1).data[0];
      return { left: level(0.2), right: level(0.8) };
    });
    const [bright, dark] = brightSide === "left" ? [sides.left, sides.right] : [sides.right, sides.left];
    assert.ok(bright > 200 && dark < 60, `${facing}: ${JSON.stringify(sides)}`);
    await page.context().close();
  }
});

test("the boxes of a large photo are in pixels of that photo", async () => {
  const page = await openPage(browser, site.url);
  await page.click("#csv");
  const image = still(1);
  const zoom = await page.evaluate(async (file) => {
    const bitmap = await createImageBitmap(await (await fetch(file)).blob());
    const zoom = Math.ceil(5000 / Math.max(bitmap.width, bitmap.height));
    const large = new OffscreenCanvas(zoom * bitmap.width, zoom * bitmap.height);
    large.getContext("2d").drawImage(bitmap, 0, 0, large.width, large.height);
    const files = new DataTransfer();
    files.items.add(new File([await large.convertToBlob({ type: "image/jpeg" })], "large.jpg"));
    const input = document.getElementById("file");
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    return zoom;
  }, image.file);
  await page.waitForFunction(() => document.getElementById("csv").textContent.endsWith("(1)"));
  const [csv] = await Promise.all([page.waitForEvent("download"), page.click("#csv")]);
  const box = readFileSync(await csv.path(), "utf8").split("\n")[1].split(",").slice(3, 7).map(Number);
  const [{ box: expectedBox }] = image.faces;
  const largest = Math.max(...box.map((value, i) => Math.abs(value - zoom * expectedBox[i])));
  assert.ok(largest < 0.1 * zoom * expectedBox[2], `${box} for ${zoom} times ${expectedBox}`);
  await page.context().close();
});

test("a photo is searched, also one without a face, and a file that is none is refused", async () => {
  const page = await openPage(browser, site.url, { viewport: { width: 844, height: 390 } });
  await photo(page, still(2, 20)); // tilted
  await page.waitForSelector("#canvas:visible");
  await waitForMessage(page, /^$/);
  await page.click("#bars");
  await screenshot(page, "photo-landscape");
  await photo(page, still(0));
  await waitForMessage(page, /^No face was found/);
  await page.setInputFiles("#file", join(folder, "expected.json"));
  await waitForMessage(page, /not an image/);
  await page.click("#csv");
  for (const [count, name] of [[1, "=1.png"], [0, "é.png"]]) {
    await page.setInputFiles("#file", { name, mimeType: "image/png", buffer: readFileSync(join(folder, still(count).file)) });
    await page.waitForFunction((lines) => document.getElementById("csv").textContent.endsWith(lines), `(${2 - count})`);
  }
  const [csv] = await Promise.all([page.waitForEvent("download"), page.click("#csv")]);
  const [header, face, none] = readFileSync(await csv.path(), "utf8").split("\n");
  assert.equal(header, `\ufeff${expected.csv_header}`);
  assert.match(face, /^\d+\.\d{3},0,1,.*,"'=1\.png"$/);
  assert.equal(none.slice(none.indexOf(",")), `,1${",".repeat(13)}no face,"é.png"`);
  const white = await page.evaluate(async () => {
    const { readFrame } = await import("./page.js");
    return readFrame(await createImageBitmap(new ImageData(64, 48)), 64, 48, false).data.every((level) => level === 255);
  });
  assert.ok(white); // what is transparent
  assert.deepEqual(page.errors, []);
  await page.context().close();
});

test("who comes last wins: a photo chosen while the camera starts, a camera started twice", async () => {
  const page = await openPage(browser, site.url);
  const state = () => page.evaluate(() => {
    const text = (id) => document.getElementById(id).textContent;
    return [text("camera"), text("message"), document.getElementById("video").srcObject !== null];
  });
  await page.evaluate(() => document.getElementById("camera").click());
  await photo(page, still(1));
  await page.waitForSelector("#canvas:visible");
  await page.waitForTimeout(800);
  assert.deepEqual(await state(), ["Start camera", "", false]);
  await page.evaluate(() => [0, 1].forEach(() => document.getElementById("camera").click()));
  await page.waitForTimeout(800);
  assert.deepEqual(await state(), ["Stop camera", "", true]);
  assert.deepEqual(page.errors, []);
  await page.context().close();
});

test("the first load is small, the second loads nothing, and then the page works offline", async (t) => {
  const own = await startSite();
  const page = await openPage(browser, own.url);
  t.diagnostic(`first load: ${(own.sent.bytes / 1e6).toFixed(2)} MB in ${own.sent.requests} requests`);
  assert.ok(own.sent.bytes <= MEGABYTES * 1e6);
  await page.waitForTimeout(500); // the service worker may still be storing the last file
  own.sent.bytes = 0;
  await page.reload();
  await waitForMessage(page, /^Ready/);
  assert.equal(own.sent.bytes, 0);
  await own.close();
  await page.context().setOffline(true);
  await page.reload();
  await waitForMessage(page, /^Ready/);
  await photo(page, still(1));
  await page.waitForSelector("#canvas:visible");
  assert.deepEqual([page.foreign, page.errors], [[], []]);
  await page.context().close();
});

test("a changed site is fetched during a visit and shown at the next one, offline as well", async () => {
  const changed = (files) => {
    files.set("page.js", Buffer.from(`${files.get("page.js")}\ndocument.title = "changed";`));
    files.set("sw.js", Buffer.from(files.get("sw.js").toString().replace(/VERSION = "[^"]*"/, 'VERSION = "next"')));
  };
  const own = await startSite();
  const page = await openPage(browser, own.url);
  changed(own.files);
  await page.reload();
  await waitForMessage(page, /^Ready/);
  const installed = async () => {
    const { installing } = await navigator.serviceWorker.getRegistration();
    return !installing && (await caches.keys()).some((name) => name.endsWith("-next"));
  };
  while (!(await page.evaluate(installed))) await page.waitForTimeout(100);
  await page.waitForTimeout(500); // for the page to let it take over
  await own.close();
  await page.reload();
  await waitForMessage(page, /^Ready/);
  assert.equal(await page.title(), "changed");
  await page.context().close();
});

test("errors are told on the page", async () => {
  const told = async (message, { change, prepare, ...options }) => {
    const own = await startSite(change);
    const page = await openPage(browser, own.url, { prepare, message, ...options });
    await screenshot(page, `error-${message.source.replaceAll(/\W+/g, "-")}`);
    assert.deepEqual(page.errors, []);
    await page.context().close();
    await own.close();
  };
  const without = (path) => ({ change: (files) => files.delete(path) });
  await told(/best_model\.tflite could not be loaded \(404\)/, without("best_model.tflite"));
  await told(/opencv\.wasm could not be loaded/, without("lib/opencv/opencv.wasm"));
  await told(/litert\/index\.js could not be loaded/, without("lib/litert/index.js"));
  const other = (files) => files.set("best_model.tflite", Buffer.from("no model at all"));
  await told(/best_model\.tflite .*cannot be used/, { change: other });
  await told(/no WebAssembly/, { prepare: (page) => page.addInitScript(() => delete globalThis.WebAssembly) });
});

test("a camera that is refused, or is not there, is told on the page", async (t) => {
  const refused = await openPage(browser, site.url, { permissions: [], ...PHONE });
  await refused.tap("#camera");
  await waitForMessage(refused, /^Camera access was denied/);
  await screenshot(refused, "camera-refused");
  await photo(refused, still(1)); // a photo needs no permission
  await waitForMessage(refused, /^$/);
  const withoutCamera = await startChromium(0);
  t.after(() => withoutCamera.close());
  const page = await openPage(withoutCamera, site.url);
  await page.click("#camera");
  await waitForMessage(page, /^There is no camera/);
  assert.deepEqual([refused.errors, page.errors], [[], []]);
  await refused.context().close();
});

test("another camera can be chosen, and one that is disconnected is told on the page", async (t) => {
  const withTwo = await startChromium(2);
  t.after(() => withTwo.close());
  const page = await openPage(withTwo, site.url);
  const track = () => page.evaluateHandle(() => document.getElementById("video").srcObject.getTracks()[0]);
  const device = async () => (await track()).evaluate((track) => track.getSettings().deviceId);
  await startCamera(page);
  const first = await device();
  await page.click("#switch:enabled");
  await page.waitForSelector("#switch:enabled");
  await page.waitForFunction(() => document.getElementById("message").textContent === "");
  assert.notEqual(await device(), first);
  await (await track()).evaluate((track) => track.dispatchEvent(new Event("ended")));
  await waitForMessage(page, /^The camera was disconnected/);
  assert.deepEqual(page.errors, []);
});

test("everything is in reach on a phone, upright and on its side, in the light and in the dark", async () => {
  const sizes = {
    upright: PHONE.viewport,
    "on-its-side": { width: 844, height: 390 },
    small: { width: 320, height: 568 },
    "zoomed-in": { width: 195, height: 422 }, // 200 %
  };
  const page = await openPage(browser, site.url, { ...PHONE, colorScheme: "dark" });
  await screenshot(page, "ready-dark");
  await startCamera(page);
  for (const [name, size] of Object.entries(sizes)) {
    await page.setViewportSize(size);
    const reach = await page.evaluate(() => {
      const boxes = [...document.querySelectorAll("#controls button")].map((button) => button.getBoundingClientRect());
      const inside = (box) => Math.min(box.top, box.left) >= 0 && box.bottom <= innerHeight && box.right <= innerWidth;
      const fits = boxes.every(inside);
      const least = Math.min(...boxes.flatMap(({ width, height }) => [width, height]));
      return { fits, least, scrolls: document.documentElement.scrollWidth > innerWidth };
    });
    const fits = reach.fits || name === "zoomed-in"; // there, people scroll down
    assert.ok(fits && reach.least >= 44 && !reach.scrolls, `${name}: ${JSON.stringify(reach)}`);
    await screenshot(page, `phone-${name}-dark`);
  }
  await page.context().close();
});

test("axe finds no violation", async () => {
  for (const colorScheme of ["light", "dark"]) {
    const page = await openPage(browser, site.url, { ...PHONE, colorScheme });
    const violations = async () => {
      await page.evaluate(AXE);
      const { violations } = await page.evaluate(() => globalThis.axe.run());
      return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
    };
    assert.deepEqual(await violations(), []);
    await startCamera(page);
    await page.tap("#bars");
    assert.deepEqual(await violations(), []);
    await photo(page, still(0));
    await waitForMessage(page, /^No face/);
    assert.deepEqual(await violations(), []);
    await page.context().close();
  }
});
