// The site's files, wherever they lie, served on localhost or assembled in a folder for a static host.
//
//   node site.mjs serve [--port 8000]
//   node site.mjs build [--output dist]
//
// Both take --model FILE.tflite and --cascade FILE.xml (or the environment variables MODEL and CASCADE) in place of
// the files at the top of the repository.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, extname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";

const HERE = dirname(fileURLToPath(import.meta.url));
const SCRIPTS = ["page.js", "detector.js", "faces.js", "tracker.js", "overlay.js", "sw.js"];
const PAGE = ["index.html", ...SCRIPTS, "style.css", "licenses.txt"];
const RUNTIMES = ["litert_wasm_internal", "litert_wasm_compat_internal"]; // with and without relaxed SIMD
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".wasm": "application/wasm",
  ".xml": "application/xml",
  ".txt": "text/plain; charset=utf-8",
  ".md": "text/plain; charset=utf-8",
};

/** Returns the site as a Map from path to Buffer. Files that are missing are left out and returned by name. */
export function readSite({ model = process.env.MODEL, cascade = process.env.CASCADE } = {}) {
  const repository = dirname(HERE);
  const packages = join(HERE, "node_modules");
  const sources = {
    ...Object.fromEntries(PAGE.map((name) => [name, join(HERE, name)])),
    "README.md": join(repository, "README.md"),
    "best_model.tflite": resolve(model ?? join(repository, "best_model.tflite")),
    "haarcascade_frontalface_default.xml": resolve(cascade ?? join(repository, "haarcascade_frontalface_default.xml")),
    "lib/opencv/opencv.js": join(packages, "@opencv.js/wasm/opencv.js"),
    "lib/opencv/opencv.wasm": join(packages, "@opencv.js/wasm/opencv.wasm"),
    "lib/litert/index.js": join(packages, "@litertjs/core/dist/index.js"),
    "lib/litert/wasm-utils.js": join(packages, "@litertjs/wasm-utils/dist/index.js"),
  };
  for (const name of RUNTIMES.flatMap((runtime) => [`${runtime}.js`, `${runtime}.wasm`])) {
    sources[`lib/litert/wasm/${name}`] = join(packages, "@litertjs/core/wasm", name);
  }
  const files = new Map();
  const missing = [];
  for (const [path, source] of Object.entries(sources)) {
    if (statSync(source, { throwIfNoEntry: false })?.isFile()) files.set(path, readFileSync(source));
    else missing.push(source);
  }
  fillIn(files);
  return { files, missing };
}

/** Adds the sizes for the progress, the hash of the inline import map, and the version for the service worker. */
function fillIn(files) {
  const sizes = [...files].map(([path, content]) => [path, [content.length, gzip(content).length]]);
  files.set("files.json", Buffer.from(JSON.stringify(Object.fromEntries(sizes))));
  const page = files.get("index.html").toString();
  const importMap = page.match(/<script type="importmap">([^]*?)<\/script>/)[1];
  files.set("index.html", Buffer.from(page.replace("sha256-HASH", `sha256-${sha256(importMap, "base64")}`)));
  const version = sha256([...files].map(([path, content]) => path + sha256(content, "hex")).join(), "hex").slice(0, 16);
  files.set("sw.js", Buffer.from(files.get("sw.js").toString().replace('"development"', `"${version}"`)));
}

const sha256 = (content, encoding) => createHash("sha256").update(content).digest(encoding);

const gzipped = new Map(); // content: the same compressed, which takes a second for all files
function gzip(content) {
  if (!gzipped.has(content)) gzipped.set(content, gzipSync(content));
  return gzipped.get(content);
}

/** Serves the files on localhost, compressed as static hosts do; returns a promise of the server. */
export function serve(files, port = 0) {
  const server = createServer((request, response) => {
    const path = request.url.slice(1).split(/[?#]/)[0] || "index.html";
    const content = files.get(path);
    const etag = content && `"${sha256(content, "hex").slice(0, 16)}"`;
    const headers = { "Cache-Control": "no-cache", "Content-Type": TYPES[extname(path)] ?? "application/octet-stream" };
    if (!content) return response.writeHead(404, { "Content-Type": "text/plain" }).end("not found");
    if (request.headers["if-none-match"] === etag) return response.writeHead(304, { ETag: etag }).end();
    const compress = /\bgzip\b/.test(request.headers["accept-encoding"] ?? "");
    if (compress) headers["Content-Encoding"] = "gzip";
    const body = compress ? gzip(content) : content;
    for (const [name, value] of Object.entries({ ...headers, ETag: etag, "Content-Length": body.length })) {
      response.setHeader(name, value);
    }
    response.end(request.method === "HEAD" ? undefined : body);
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => resolve(server));
  });
}

/** Writes the files into a folder, over those of an earlier build; whatever else was put there since then stays. */
function build(files, folder) {
  const isOther = existsSync(folder) && readdirSync(folder).length > 0 && !existsSync(join(folder, "files.json"));
  if (isOther) throw new Error(`${folder} holds other files. Choose an empty or a new folder.`);
  for (const [path, content] of files) {
    mkdirSync(join(folder, dirname(path)), { recursive: true });
    writeFileSync(join(folder, path), content);
  }
}

async function main() {
  const texts = ["port", "output", "model", "cascade"].map((name) => [name, { type: "string" }]);
  const { values, positionals } = parseArgs({ options: Object.fromEntries(texts), allowPositionals: true });
  const [command] = positionals;
  if (!["serve", "build"].includes(command)) throw new Error("use: node site.mjs serve, or node site.mjs build");
  const { files, missing } = readSite(values);
  const sentence = `Missing: ${missing.join(", ")}. Run npm ci here; train.py --export makes best_model.tflite.`;
  if (command === "build") {
    if (missing.length) throw new Error(sentence);
    const folder = resolve(values.output ?? join(HERE, "dist"));
    build(files, folder);
    console.log(`${folder} is ready for a static host; phones open the camera over https only.`);
  } else {
    if (missing.length) console.error(`site.mjs: ${sentence}`);
    const server = await serve(files, Number(values.port ?? process.env.PORT ?? 8000));
    console.log(`http://localhost:${server.address().port}/ (Ctrl-C stops)`);
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  main().catch((error) => {
    console.error(`site.mjs: ${error.message}`);
    process.exitCode = 2;
  });
}
