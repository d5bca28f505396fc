// The page: loading, camera and photo, controls. detector.js detects, overlay.js draws.
import { Classifier, EmotionDetector, EMOTIONS } from "./detector.js";
import { IMAGE_SIZE } from "./faces.js";
import { Overlay } from "./overlay.js";

const MAX_PHOTO_SIDE = 4096; // pixels: phones cannot hold larger canvases
const WORKER_SECONDS = 3; // for which the first visit waits for the service worker
const LONGEST_WAIT_SECONDS = 0.1; // for a new frame: some browsers do not tell of it
const SILENT_SECONDS = 2; // without a new frame, after which that is told
const ANNOUNCE_SECONDS = 3; // between announcements to a screen reader
const CSV_HEADER = `time_seconds,frame,face,x,y,width,height,${EMOTIONS},label,file`; // as main.py --log
const CASCADE = "haarcascade_frontalface_default.xml";
const MODEL = "best_model.tflite";

const $ = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const frame = document.createElement("canvas"); // what the detector sees
const frameContext = frame.getContext("2d", { willReadFrequently: true });
const overlay = new Overlay($.canvas, frame, $.stage);

let detector = null;
let camera = null; // {stream, facing, mirrored, stamps, sinceSeconds} while the camera is open
let scene = null; // {faces, status}: what is drawn over the frame
let csv = null; // {lines, frames, startSeconds} while it is recorded
let turn = 0; // counts who takes over: a camera or photo that is ready only after the next one is dropped
let announced = { text: "", seconds: -Infinity };

export { detector, readFrame };

/** An error whose message tells the user what to do. */
class UserError extends Error {}

// Loading

async function load() {
  if (typeof WebAssembly !== "object") {
    throw new UserError("This browser has no WebAssembly. Use a current Chrome, Edge, Firefox or Safari.");
  }
  const isFirstVisit = !(await startServiceWorker());
  const litert = await import("@litertjs/core").catch(() => failed("lib/litert/index.js"));
  const compatible = (await litert.supportsFeature("relaxedSimd")) ? "" : "_compat";
  const runtime = `lib/litert/wasm/litert_wasm${compatible}_internal`;
  const libraries = ["lib/opencv/opencv.js", "lib/opencv/opencv.wasm", `${runtime}.js`, `${runtime}.wasm`];
  const [cascade, model] = await fetchAll([CASCADE, MODEL, ...libraries], isFirstVisit);
  show("Starting ...");
  const cv = await loadOpenCv();
  await litert.loadLiteRt(`${runtime}.js`);
  const content = new Uint8Array(await model.arrayBuffer());
  const network = await usable(MODEL, async () => {
    const classifier = new Classifier(await litert.loadAndCompile(content, { accelerator: "wasm" }), litert.Tensor);
    await classifier.probabilities(new Uint8Array(IMAGE_SIZE ** 2)); // the first call is slow
    return classifier;
  });
  return usable(CASCADE, async () => new EmotionDetector(cv, await cascade.text(), network));
}

/** Returns what `make` makes of a file; its errors name the file. */
async function usable(path, make) {
  try {
    return await make();
  } catch (error) {
    throw new UserError(`${path} cannot be used: ${error.message ?? error}`);
  }
}

/** Waits until the service worker keeps what is fetched; returns whether it already did at an earlier visit. */
async function startServiceWorker() {
  const { serviceWorker } = navigator;
  try {
    await serviceWorker.register("sw.js");
    if (serviceWorker.controller) return true;
    const controlled = new Promise((resolve) => serviceWorker.addEventListener("controllerchange", resolve));
    await Promise.race([controlled, new Promise((resolve) => setTimeout(resolve, 1000 * WORKER_SECONDS))]);
  } catch {
    // An old browser, a private window or a page without https: it works, but not offline.
  }
  return false;
}

/** Lets a new version of the page take over at the next visit. Only now: it must not do so while files are loading. */
async function update() {
  const registration = await navigator.serviceWorker?.getRegistration();
  await registration?.update();
  const worker = registration?.installing ?? registration?.waiting;
  const takeOver = () => worker.state === "installed" && worker.postMessage("take over");
  worker?.addEventListener("statechange", takeOver);
  if (worker) takeOver();
}

/** Fetches files and shows the progress; returns their Blobs. Scripts that request them again find them cached. */
async function fetchAll(paths, isFirstVisit) {
  const sizes = await (await fetchFile("files.json")).json(); // path: [bytes, compressed bytes]
  const total = [0, 1].map((kind) => paths.reduce((sum, path) => sum + (sizes[path]?.[kind] ?? 0), 0));
  const stop = new AbortController();
  let loaded = 0;
  const fetchOne = async (path) => {
    const chunks = [];
    const reader = (await fetchFile(path, stop.signal)).body.getReader();
    const read = () => reader.read().catch(() => failed(path));
    for (let chunk = await read(); !chunk.done; chunk = await read()) {
      chunks.push(chunk.value);
      loaded += chunk.value.length;
      $.progress.value = loaded / total[0];
    }
    return new Blob(chunks);
  };
  const once = isFirstVisit ? `, ${(total[1] / 1e6).toFixed(1)} MB, only this once` : "";
  show(`Loading the network and its libraries${once} ...`);
  $.progress.hidden = false;
  try {
    return await Promise.all(paths.map(fetchOne));
  } finally {
    stop.abort();
    $.progress.hidden = true;
  }
}

async function fetchFile(path, signal) {
  const response = await fetch(path, { signal }).catch(() => failed(path));
  return response.ok ? response : failed(path, response.status);
}

function failed(path, status) {
  const remedy = status ? "Build the page again, or tell its owner." : "Check the connection and reload the page.";
  throw new UserError(`${path} could not be loaded${status ? ` (${status})` : ""}. ${remedy}`);
}

function loadOpenCv() {
  return new Promise((resolve, reject) => {
    const onRuntimeInitialized = () => {
      const { Module: cv } = self;
      delete self.Module; // LiteRT would take it for its own
      delete cv.then; // or a promise would wait for it without end
      resolve(cv);
    };
    self.Module = { locateFile: (name) => `lib/opencv/${name}`, onRuntimeInitialized, onAbort: reject };
    const script = document.createElement("script");
    script.addEventListener("error", () => reject(new UserError("lib/opencv/opencv.js could not be loaded.")));
    script.src = "lib/opencv/opencv.js";
    document.head.append(script);
  });
}

// Camera and photo

async function startCamera(wanted = { facingMode: "user" }) {
  const own = stopCamera();
  show("Waiting for the camera ...");
  if (!navigator.mediaDevices?.getUserMedia) {
    return show("The camera needs https or localhost. Open the page there, or choose a photo.", true);
  }
  try {
    const video = { width: { ideal: 640 }, height: { ideal: 480 }, ...wanted };
    const stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    if (own !== turn) return stream.getTracks().forEach((track) => track.stop());
    await showCamera(stream, wanted.facingMode ?? "");
  } catch (error) {
    if (own !== turn) return;
    stopCamera();
    show(CAMERA_ERRORS[error.name] ?? `The camera could not be opened (${error.message}). Or choose a photo.`, true);
  }
}

const NO_IMAGES = "The camera sends no images. Close other programs that use it, or start it again.";
const CAMERA_ERRORS = {
  NotAllowedError:
    "Camera access was denied. Allow it in the browser's settings for this page and start it again, or choose a photo.",
  NotFoundError: "There is no camera. Connect one and start it again, or choose a photo.",
  OverconstrainedError: "There is no such camera. Start it again, or choose a photo.",
  NotReadableError: "The camera cannot be read. Close other programs that use it and start it again.",
};

async function showCamera(stream, facing) {
  const [track] = stream.getVideoTracks();
  const mirrored = track.getSettings().facingMode !== "environment"; // as in a mirror, but not through the back camera
  const opened = { stream, facing, mirrored };
  restart(opened);
  camera = opened;
  track.addEventListener("ended", () => {
    if (camera !== opened) return;
    stopCamera();
    show("The camera was disconnected, or is not allowed any more. Connect or allow it, and start it again.", true);
  });
  $.video.srcObject = stream;
  const playing = $.video.play();
  updateControls();
  $.pause.disabled = true; // or its click would end `playing`
  const tell = () => camera === opened && !$.video.videoWidth && show(NO_IMAGES, true);
  setTimeout(tell, 1000 * SILENT_SECONDS);
  await playing;
  detector.reset();
  keepScreenOn();
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  $.switch.disabled = cameras.length < 2;
  updateControls();
  follow(opened).catch((error) => {
    if (camera !== opened) return;
    stopCamera();
    show(`The detection stopped (${error.message ?? error}). Reload the page.`, true);
  });
}

/** Forgets the times of its frames: none is shown during a pause, or while the page is hidden. */
function restart(opened) {
  Object.assign(opened, { stamps: [], sinceSeconds: now() });
}

/** Keeps the screen on while the camera is open; the browser forgets it whenever the page is hidden. */
function keepScreenOn() {
  if (camera && !document.hidden) camera.screenLock = navigator.wakeLock?.request("screen").catch(() => null);
}

/** Detects and draws, frame by frame, until another camera or a photo takes over. */
async function follow(opened) {
  while (camera === opened) {
    const isNew = await nextFrame(opened);
    if (camera !== opened || $.video.paused || document.hidden || !$.video.videoWidth) continue;
    if (!isNew) {
      const silent = now() - (opened.stamps.at(-1) ?? opened.sinceSeconds) > SILENT_SECONDS;
      if (silent) show(NO_IMAGES, true);
      continue;
    }
    const image = readFrame($.video, $.video.videoWidth, $.video.videoHeight, opened.mirrored);
    const timeSeconds = now();
    const faces = await detector.track(image, timeSeconds);
    if (camera !== opened) return;
    opened.stamps = [...opened.stamps.slice(-30), now()];
    const rate = (opened.stamps.length - 1) / (opened.stamps.at(-1) - opened.stamps[0]);
    present({ faces, status: rate > 0 ? `${rate.toFixed(0)} fps` : "" });
    record(faces, timeSeconds, "");
  }
}

/** Waits; returns whether there is a new frame, as far as the browser tells of them. */
function nextFrame(opened) {
  return new Promise((resolve) => {
    setTimeout(() => resolve(!opened.tells), 1000 * LONGEST_WAIT_SECONDS);
    if ($.video.paused || document.hidden) return; // no frame comes: requests for one would pile up
    const tell = () => resolve((opened.tells = true));
    if ($.video.requestVideoFrameCallback) $.video.requestVideoFrameCallback(tell);
    else requestAnimationFrame(() => resolve(true));
  });
}

/** Stops what is shown; returns the number of who comes next, to compare with `turn` after a wait. */
function stopCamera() {
  camera?.stream.getTracks().forEach((track) => track.stop());
  camera?.screenLock?.then((lock) => lock?.release());
  camera = null;
  $.video.srcObject = null;
  announced = { text: "", seconds: -Infinity };
  $.announcement.textContent = "";
  updateControls();
  return (turn += 1);
}

/** Turns to the camera on the other side or, on a computer with several, to the next one. */
async function switchCamera() {
  const { facing, stream } = camera;
  const { deviceId } = stream.getVideoTracks()[0].getSettings();
  if (facing) { // else it was chosen by its place in the list
    await startCamera({ facingMode: facing === "user" ? "environment" : "user" });
    if (camera?.stream.getVideoTracks()[0].getSettings().deviceId !== deviceId) return;
  }
  const devices = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  const next = (devices.findIndex((device) => device.deviceId === deviceId) + 1) % devices.length;
  await startCamera({ deviceId: { exact: devices[next].deviceId } });
}

async function showPhoto(file) {
  const own = stopCamera();
  show("Searching for faces ...");
  const bitmap = await createImageBitmap(file).catch(() => null);
  await new Promise((resolve) => setTimeout(resolve, 50)); // to show the message: the search blocks the page
  if (own !== turn) return bitmap?.close();
  if (!bitmap) return show(`${file.name} is not an image that this browser can read. Choose a JPEG or PNG.`, true);
  const zoom = Math.min(MAX_PHOTO_SIDE / Math.max(bitmap.width, bitmap.height), 1);
  const [width, height] = [bitmap.width, bitmap.height].map((length) => Math.max(Math.round(length * zoom), 1));
  const image = readFrame(bitmap, width, height, false);
  bitmap.close();
  const faces = await detector.detect(image);
  if (own !== turn) return;
  present({ faces, status: "" });
  const original = faces.map((face) => ({ ...face, box: face.box.map((value) => Math.round(value / zoom)) }));
  record(original, now(), file.name);
  if (!faces.length) show("No face was found in this photo.");
}

/** Draws a video or an image on the hidden canvas `frame`; returns its ImageData. */
function readFrame(source, width, height, mirrored) {
  if (frame.width !== width || frame.height !== height) Object.assign(frame, { width, height });
  frameContext.setTransform(mirrored ? -1 : 1, 0, 0, 1, mirrored ? width : 0, 0);
  frameContext.fillStyle = "white"; // behind transparent parts, as in Python
  frameContext.fillRect(0, 0, width, height);
  frameContext.drawImage(source, 0, 0, width, height);
  return frameContext.getImageData(0, 0, width, height);
}

const now = () => performance.now() / 1000;

// Showing

/** Shows a frame with its faces, to the eye and to a screen reader, and passes them on as the event "faces". */
function present(newScene) {
  scene = newScene;
  $.canvas.hidden = false;
  show("");
  draw();
  $.snapshot.disabled = false;
  announce(scene.faces.map(({ label }) => label).join(", ") || "no face");
  $.canvas.dispatchEvent(new CustomEvent("faces", { detail: scene }));
}

function draw() {
  overlay.draw(scene, $.bars.getAttribute("aria-pressed") === "true");
}

/** Shows a message over the image; an empty one hides it. */
function show(message, isError = false) {
  if ($.message.textContent !== message) $.message.textContent = message;
  $.panel.hidden = !message;
  $.panel.classList.toggle("error", isError);
}

function announce(text) {
  if (text === announced.text || now() - announced.seconds < ANNOUNCE_SECONDS) return;
  announced = { text, seconds: now() };
  $.announcement.textContent = text;
}

// Controls

function updateControls() {
  const ready = detector !== null;
  for (const button of [$.camera, $.photo, $.bars, $.csv]) button.disabled = !ready;
  $.camera.textContent = camera ? "Stop camera" : "Start camera";
  $.pause.disabled = !camera;
  $.pause.textContent = camera && $.video.paused ? "Resume" : "Pause";
  $.switch.disabled ||= !camera;
  $.snapshot.disabled = !scene;
  $.csv.textContent = csv ? `Save CSV (${csv.lines.length})` : "Record CSV";
}

function toggleBars() {
  $.bars.setAttribute("aria-pressed", String($.bars.getAttribute("aria-pressed") !== "true"));
  if (scene) draw();
}

async function togglePause() {
  const paused = camera;
  if ($.video.paused) await $.video.play().catch(() => {}); // the camera may close meanwhile
  else $.video.pause();
  if (camera !== paused) return;
  restart(camera);
  show($.video.paused ? "Paused." : "");
  updateControls();
}

function record(faces, timeSeconds, name) {
  if (!csv) return;
  const elapsed = Math.max(timeSeconds - csv.startSeconds, 0); // the recording began while this frame was searched
  const safe = name.replace(/^[=+\-@\t\r]/, "'$&"); // a spreadsheet would run it
  const picture = name && `"${safe.replaceAll('"', '""')}"`; // it may hold a comma
  const rows = faces.map(({ id, box, probabilities, label }) => {
    return [id, ...box, ...Array.from(probabilities, (probability) => probability.toFixed(4)), label];
  });
  if (name && !rows.length) rows.push([...Array(5 + EMOTIONS.length).fill(""), "no face"]);
  for (const row of rows) csv.lines.push([elapsed.toFixed(3), csv.frames, ...row, picture].join(","));
  csv.frames += 1;
  updateControls();
}

function toggleCsv() {
  const content = csv && [CSV_HEADER, ...csv.lines, ""].join("\n");
  const mark = /[^\0-\x7f]/.test(content) ? "\ufeff" : ""; // a spreadsheet needs it for names that are not ASCII
  if (csv) save(new Blob([mark + content], { type: "text/csv" }), "emotions", "csv");
  csv = csv ? null : { lines: [], frames: 0, startSeconds: now() };
  updateControls();
}

/** Hands a file to the browser's downloads; it stays on the device. */
function save(blob, name, suffix) {
  const local = new Date(Date.now() - 60_000 * new Date().getTimezoneOffset()).toISOString();
  const time = local.slice(0, 19).replaceAll(/[-:]/g, "").replace("T", "-"); // 20260131-235959
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${name}-${time}.${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function addListeners() {
  $.camera.addEventListener("click", () => (camera ? closeCamera() : startCamera()));
  $.switch.addEventListener("click", async ({ detail }) => {
    await switchCamera();
    if (!detail) $.switch.focus(); // pressed by a key, it lost the focus while it was disabled
  });
  $.photo.addEventListener("click", () => $.file.click());
  $.file.addEventListener("change", () => {
    const tell = (error) => show(`This photo cannot be searched (${error.message ?? error}). Choose another.`, true);
    if ($.file.files.length) showPhoto($.file.files[0]).catch(tell);
    $.file.value = ""; // the same photo can be chosen again
  });
  $.pause.addEventListener("click", togglePause);
  $.bars.addEventListener("click", toggleBars);
  $.canvas.addEventListener("click", toggleBars);
  $.snapshot.addEventListener("click", () => $.canvas.toBlob((blob) => save(blob, "snapshot", "png")));
  $.csv.addEventListener("click", toggleCsv);
  addEventListener("resize", () => scene && draw());
  document.addEventListener("visibilitychange", () => {
    if (camera) restart(camera);
    keepScreenOn();
  });
  addEventListener("beforeunload", (event) => csv?.lines.length && event.preventDefault()); // or the lines are lost
}

function closeCamera() {
  scene = null;
  stopCamera();
  $.canvas.hidden = true;
  show("The camera is off.");
}

const [owner, isGitHub] = location.hostname.split(/\.(github\.io)$/);
if (isGitHub) {
  const repository = `https://github.com/${owner}/${location.pathname.split("/")[1]}`;
  $.limits.href = `${repository}#what-it-is-not-good-for`;
}
addListeners();
try {
  detector = await load();
  updateControls();
  show("Ready. Start the camera or choose a photo.");
  update().catch(() => {}); // offline
} catch (error) {
  show(error instanceof UserError ? error.message : `The page could not start (${error.message ?? error}).`, true);
}
