// One gray image -> faces: brighten, search with a Haar cascade, verify, weigh, level, crop. As emotions/faces.py.
//
// Boxes are OpenCV's [x, y, width, height] in pixels of the full frame. A tilt is by how many degrees the line through
// a face's eyes falls to the right; the face itself is its box rotated by the tilt around its centre.
//
// The cascade only knows upright faces, so tilted ones are searched in turned copies. It also normalises contrast, so
// that shadows, ties and paving stones look like faces to it, from one angle. A real face is detected in many
// neighbouring windows, tilted a little to either side, and in the mirror as well: the number of all these windows is
// its evidence. What looks like a face is {box, tiltDegrees, evidence}, its box not clipped to the frame.

export const IMAGE_SIZE = 48; // pixels, width and height of a crop
export const TURNS = [0, -30, 30]; // degrees: the copies that are searched; each shows faces tilted by up to 15 more
const STEP_DEGREES = 15; // a candidate is verified at its tilt and this much to both sides of it
const STILL_SIDE = 1280; // pixels: an image is shrunk to this longer side,
const TURNED_STILL_SIDE = 640; // and its turned copies to this
const VERIFY_SIZE = 54; // pixels: width of a candidate in verification
const VERIFY_MARGIN = 0.25; // border around it in widths
const BOX_SCALE = 0.94; // of the mean of these windows: where the network is most accurate
const MIN_EVIDENCE = 15; // windows in six views that a face needs that is as wide
const LARGE_SHARE = 1 / 3; // as this share of the frame;
const HALF_EVIDENCE = 8; // so many more at half that width, as there are more places to be wrong,
const MOST_EVIDENCE = 40; // up to
const FLAT = 20; // below this contrast (standard deviation, gray levels) it needs
const FLAT_FACTOR = 2; // so many times more,
const TILTED_DEGREES = 20; // and from this tilt on
const TILTED_FACTOR = 1.5; // as well
const NEAR_SHARE = 0.6; // share of a larger, stronger face's evidence that is needed near it,
const MIN_NEAR = 75; // and at least so many windows;
const NEIGHBOR_SHARE = 0.25; // share of it that a face of about its size needs beside it
const MAX_NEEDED = 150; // windows that are enough everywhere
const SAME_FACE = 0.3; // intersection over union from which two boxes are one face,
export const SAME_PLACE = 0.5; // and from which one search around both is enough
const SMALL_TILT = 8; // degrees that the network, trained on tilted faces, does not mind: crops are rotated by the rest
const DARK = 100; // gray levels: a frame is brightened if nine tenths of it are below,
const BRIGHT = 200; // until a hundredth of it is this bright
const MAX_GAIN = 5; // or the gain this large: nothing must burn out
const HAZE = 40; // gray levels: a frame is hazy if all of it is brighter
const HAZE_RANGE = 110; // and spans less: it gets a black

/** Grays, searches and crops images with OpenCV. A gray image is a cv.Mat, uint8 (height, width). */
export class FaceSearch {
  constructor(cv, cascade) {
    this.cv = cv;
    cv.FS_createDataFile("/", "cascade.xml", new TextEncoder().encode(cascade), true, false, false);
    this._cascade = new cv.CascadeClassifier();
    const loaded = this._cascade.load("cascade.xml");
    cv.FS_unlink("/cascade.xml");
    if (!loaded) throw new Error("it is not a Haar cascade.");
    this._boxes = new cv.RectVector();
    this._neighbors = new cv.IntVector();
  }

  /** Returns the gray image, brighter if nothing in it is bright, clearer if it is hazy. The caller deletes it. */
  toGray(image) {
    const { cv } = this;
    const rgba = cv.matFromImageData(image);
    const gray = new cv.Mat();
    cv.cvtColor(rgba, gray, cv.COLOR_RGBA2GRAY);
    rgba.delete();
    const levels = every(gray, 8, [0, 0, gray.cols, gray.rows]).pixels.sort();
    const [darkest, most, brightest] = [0.01, 0.9, 0.99].map((share) => percentile(levels, share));
    if (darkest > HAZE && brightest - darkest < HAZE_RANGE) {
      const gain = Math.min(BRIGHT / Math.max(brightest - darkest, 1), MAX_GAIN);
      const table = Uint8Array.from({ length: 256 }, (_, level) => clamp(round(gain * (level - darkest)), 0, 255));
      gray.data.forEach((level, i, data) => (data[i] = table[level]));
      return gray;
    }
    const gain = Math.min(DARK / Math.max(most, 1), BRIGHT / Math.max(brightest, 1), MAX_GAIN);
    if (gain > 1) cv.convertScaleAbs(gray, gray, gain, 0);
    return gray;
  }

  /** Returns the 48 x 48 pixels of a face, uint8, rotated upright but for 8 degrees; beyond the frame, its edge. */
  crop(gray, box, tiltDegrees) {
    const tilt = tiltDegrees - clamp(tiltDegrees, -SMALL_TILT, SMALL_TILT);
    const clipped = clipBox(box, gray);
    const pixels = (resized) => resized.data.slice();
    if (!tilt && `${clipped}` === `${box.map(round)}`) {
      return this.resized(gray, clipped, IMAGE_SIZE, IMAGE_SIZE, pixels);
    }
    const side = 2 * IMAGE_SIZE; // at twice the size, for sharpness
    return this.shrunk(this.cutUpright(gray, box, tilt, side, side), side, IMAGE_SIZE);
  }

  /**
   * Returns side x side pixels, uint8: a face scaled to `faceSize` pixels, rotated upright around its centre, in the
   * middle. Of a large face every second, third, ... pixel is taken. Beyond the frame, its edge is continued.
   */
  cutUpright(gray, box, tiltDegrees, faceSize, side) {
    const zoom = faceSize / box[2];
    const step = Math.max(Math.floor(0.7 / zoom), 1);
    const [middleX, middleY] = centre(box);
    const reach = (0.75 * side) / zoom; // from the middle to the corners of what is cut out, and a little more
    const part = clipBox([middleX - reach, middleY - reach, 2 * reach, 2 * reach], gray);
    const middle = [(middleX - part[0]) / step, (middleY - part[1]) / step];
    const { width, height, pixels } = every(gray, step, part);
    const region = this.cv.matFromArray(height, width, this.cv.CV_8UC1, pixels);
    const rotation = rotationMatrix(middle, tiltDegrees, zoom * step);
    rotation[2] += side / 2 - middle[0];
    rotation[5] += side / 2 - middle[1];
    const copy = (face) => face.data.slice();
    return using(region, () => this._warped(region, rotation, side, side, this.cv.BORDER_REPLICATE, copy));
  }

  /** Returns square pixels at a smaller size, by area interpolation. */
  shrunk(pixels, side, newSide) {
    const image = this.cv.matFromArray(side, side, this.cv.CV_8UC1, pixels);
    return using(image, () => this.resized(image, [0, 0, side, side], newSide, newSide, (small) => small.data.slice()));
  }

  /** Returns where square pixels fit best into a larger square: {correlation, x, y}. */
  match(view, side, pixels, size) {
    const { cv } = this;
    const mats = [cv.matFromArray(side, side, cv.CV_8UC1, view), cv.matFromArray(size, size, cv.CV_8UC1, pixels)];
    const scores = new cv.Mat();
    cv.matchTemplate(...mats, scores, cv.TM_CCOEFF_NORMED);
    const correlation = Math.max(...scores.data32F);
    const place = scores.data32F.indexOf(correlation);
    const best = { correlation, x: place % scores.cols, y: Math.floor(place / scores.cols) };
    [...mats, scores].forEach((mat) => mat.delete());
    return best;
  }

  /** Returns all faces of a still image, from left to right. */
  findFaces(gray) {
    const sides = TURNS.map((turn) => [turn ? TURNED_STILL_SIDE : STILL_SIDE, turn]);
    const candidates = sides.flatMap(([side, turn]) => this.frame(gray, side, 1.05, 3, turn));
    const verified = [];
    for (const candidate of strongestFirst(candidates)) {
      if (verified.some(({ box }) => overlap(candidate.box, box) >= SAME_PLACE)) continue;
      const face = this.verify(gray, candidate);
      if (face) verified.push(face);
    }
    const faces = keepStrongest(verified).filter((face) => isPlausible(face, verified));
    return faces.sort((a, b) => a.box[0] - b.box[0]);
  }

  /** Searches the whole frame, shrunk to a longer side in pixels and turned; returns candidates, strongest first. */
  frame(gray, side, scaleFactor, minNeighbors, turn) {
    const zoom = Math.min(side / Math.max(gray.rows, gray.cols), 1);
    const [cols, rows] = [gray.cols, gray.rows].map((length) => Math.max(round(length * zoom), 1));
    const detect = (image) => this._detect(image, scaleFactor, minNeighbors, 0, 0);
    const turned = turnedSize(cols, rows, turn);
    const rotation = rotationMatrix([cols / 2, rows / 2], turn, 1);
    rotation[2] += (turned[0] - cols) / 2;
    rotation[5] += (turned[1] - rows) / 2;
    const found = this.resized(gray, [0, 0, gray.cols, gray.rows], cols, rows, (small) =>
      turn ? this._warped(small, rotation, ...turned, this.cv.BORDER_CONSTANT, detect) : detect(small),
    );
    const mapped = found.map(({ box: [x, y, width, height], evidence }) => {
      const inTurned = [x + width / 2 - rotation[2], y + height / 2 - rotation[5]];
      const [centreX, centreY] = turn ? rotated(inTurned, turn) : [x + width / 2, y + height / 2];
      const corner = [centreX / zoom - width / zoom / 2, centreY / zoom - height / zoom / 2];
      return { box: [...corner, width / zoom, height / zoom], tiltDegrees: turn, evidence, strength: 0 };
    });
    return strongestFirst(mapped);
  }

  /**
   * Searches around each of the views {box, tiltDegrees, mirrored}, its face scaled to `size` pixels and turned
   * upright. All views are laid side by side, so that the cascade is called once. Returns what is found in each.
   */
  views(gray, views, size, margin, scaleFactor) {
    const side = round(size * (1 + 2 * margin));
    const pixels = new Uint8Array(side * side * views.length);
    for (const [i, { box, tiltDegrees, mirrored }] of views.entries()) {
      const tile = this.cutUpright(gray, box, tiltDegrees, size, side);
      for (let row = 0; row < side; row++) {
        const line = tile.subarray(row * side, (row + 1) * side);
        pixels.set(mirrored ? line.reverse() : line, (row * views.length + i) * side);
      }
    }
    const sheet = this.cv.matFromArray(side, side * views.length, this.cv.CV_8UC1, pixels);
    const detected = using(sheet, () => this._detect(sheet, scaleFactor, 1, round(0.8 * size), round(1.32 * size)));
    const found = views.map(() => []);
    for (const { box: [left, top, foundWidth], evidence } of detected) {
      const i = Math.min(Math.floor((left + foundWidth / 2) / side), views.length - 1);
      const { box, tiltDegrees, mirrored } = views[i];
      const [x, y] = [left + foundWidth / 2 - i * side - side / 2, top + foundWidth / 2 - side / 2];
      if (Math.max(Math.abs(x), Math.abs(y)) + foundWidth / 2 > side / 2 + 2) continue; // it reaches into the next view
      const scale = box[2] / size;
      const shift = rotated([mirrored ? -x : x, y], tiltDegrees).map((value) => value * scale);
      const width = foundWidth * scale;
      const corner = centre(box).map((value, k) => shift[k] + value - width / 2);
      found[i].push({ box: [...corner, width, width], tiltDegrees, evidence, strength: 0 });
    }
    return found;
  }

  /**
   * Searches a candidate again at a higher resolution; returns its more exact self, or null if its evidence is too
   * weak. It is searched from six views, and then again around what they show: a false one rarely is where it seemed
   * to be. `share` of the usual evidence is needed.
   */
  verify(gray, candidate, share = 1) {
    const usual = this._neededEvidence(gray, candidate);
    const first = this._searchClosely(gray, candidate);
    if (!first || first.evidence < (share * usual) / 3) return null;
    const face = this._searchClosely(gray, first);
    if (!face || face.evidence < share * usual) return null;
    const [x, y] = centre(face.box);
    const [width, height] = [BOX_SCALE * face.box[2], BOX_SCALE * face.box[3]];
    return { ...face, box: [x - width / 2, y - height / 2, width, height], strength: face.evidence / usual };
  }

  /** Returns how many windows a face needs, by its size, contrast and tilt. */
  _neededEvidence(gray, { box, tiltDegrees }) {
    const clipped = clipBox(box, gray);
    const halvings = Math.log2((LARGE_SHARE * Math.min(gray.rows, gray.cols)) / clipped[2]);
    const needed = clamp(MIN_EVIDENCE + HALF_EVIDENCE * halvings, MIN_EVIDENCE, MOST_EVIDENCE);
    const flat = deviation(every(gray, 1, clipped).pixels) < FLAT;
    const tilted = Math.abs(tiltDegrees) > TILTED_DEGREES;
    return needed * (flat ? FLAT_FACTOR : 1) * (tilted ? TILTED_FACTOR : 1);
  }

  /** Returns what six views of a face show together: at its tilt and to both sides of it, each also mirrored. */
  _searchClosely(gray, { box, tiltDegrees }) {
    const tilts = [-STEP_DEGREES, 0, STEP_DEGREES].map((step) => tiltDegrees + step);
    const views = tilts.flatMap((tilt) => [false, true].map((mirrored) => ({ box, tiltDegrees: tilt, mirrored })));
    const seen = this.views(gray, views, VERIFY_SIZE, VERIFY_MARGIN, 1.1).flatMap((found) =>
      keepStrongest(found.filter((each) => isSameFace(each.box, box))).slice(0, 1),
    );
    return seen.length ? merge(seen) : null;
  }

  _detect(image, scaleFactor, minNeighbors, least, most) {
    const sizes = [new this.cv.Size(least, least), new this.cv.Size(most, most)];
    this._cascade.detectMultiScale2(image, this._boxes, this._neighbors, scaleFactor, minNeighbors, 0, ...sizes);
    return Array.from({ length: this._boxes.size() }, (_, i) => {
      const { x, y, width, height } = this._boxes.get(i);
      return { box: [x, y, width, height], evidence: this._neighbors.get(i) };
    });
  }

  /** Calls `use` with a box of the image, resized by area; returns what it returns. */
  resized(gray, [x, y, width, height], newWidth, newHeight, use) {
    const { cv } = this;
    const region = gray.roi(new cv.Rect(x, y, width, height));
    const resized = new cv.Mat();
    cv.resize(region, resized, new cv.Size(newWidth, newHeight), 0, 0, cv.INTER_AREA);
    region.delete();
    return using(resized, use);
  }

  /** Calls `use` with the image, moved by a matrix of two rows; returns what it returns. */
  _warped(image, matrix, width, height, border, use) {
    const { cv } = this;
    const rotation = cv.matFromArray(2, 3, cv.CV_64F, matrix);
    const warped = new cv.Mat();
    cv.warpAffine(image, warped, rotation, new cv.Size(width, height), cv.INTER_LINEAR, border, new cv.Scalar());
    rotation.delete();
    return using(warped, use);
  }
}

/** Calls `use` with a Mat and deletes it; returns what it returns. */
function using(mat, use) {
  try {
    return use(mat);
  } finally {
    mat.delete();
  }
}

/** Returns one face from what several views show of it: mean box and tilt, weighted by evidence, which adds up. */
export function merge(views) {
  const evidence = views.reduce((sum, view) => sum + view.evidence, 0);
  const mean = (value) => views.reduce((sum, view) => sum + value(view) * view.evidence, 0) / evidence;
  const box = [0, 1, 2, 3].map((i) => mean((view) => view.box[i]));
  return { box, tiltDegrees: mean((view) => view.tiltDegrees), evidence, strength: 0 };
}

/**
 * Returns whether a face is strong enough beside stronger ones: what is smaller than a stronger face and lies below,
 * beside or on it, or is much smaller than all of them, is rarely one. Strengths are compared, as small faces need more
 * evidence than large ones.
 */
export function isPlausible({ box, evidence, strength }, others) {
  const stronger = others.filter((other) => other.strength > strength);
  const like = stronger.map((other) => 0.6 < box[2] / other.box[2] && box[2] / other.box[2] < 1.6);
  let needed = 0;
  for (const [i, other] of stronger.entries()) {
    const middle = centre(other.box);
    const [x, y] = centre(box).map((value, k) => (value - middle[k]) / other.box[2]);
    const onBody = Math.abs(x) < 2 && -1 < y && y < 4;
    if (like[i] && Math.max(Math.abs(x), Math.abs(y)) > 0.9) { // a second person
      needed = Math.max(needed, onBody ? NEIGHBOR_SHARE * other.evidence : 0);
    } else if (box[2] < other.box[2] && (onBody || !like.includes(true))) {
      needed = Math.max(needed, NEAR_SHARE * other.evidence, MIN_NEAR);
    }
  }
  return evidence >= Math.min(needed, MAX_NEEDED);
}

/** Sorts by strength, then evidence and, where both are equal, by place. */
export const strongestFirst = (found) => {
  const byPlace = (a, b) => a.box.map((value, i) => value - b.box[i]).find(Boolean) || 0;
  return [...found].sort((a, b) => b.strength - a.strength || b.evidence - a.evidence || byPlace(a, b));
};

/** Returns the strongest of several boxes on each face, the strongest face first. */
export function keepStrongest(found) {
  const kept = [];
  for (const face of strongestFirst(found)) {
    if (!kept.some(({ box }) => isSameFace(face.box, box))) kept.push(face);
  }
  return kept;
}

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
export const centre = ([x, y, width, height]) => [x + width / 2, y + height / 2];

/** Returns a box as [centre x, centre y, width, height]. */
export const centred = (box) => [...centre(box), ...box.slice(2)];

/** Returns a vector of an upright face's view as it is in the frame, where the face is tilted. */
export function rotated([x, y], degrees) {
  const [cosine, sine] = [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)];
  return [cosine * x - sine * y, sine * x + cosine * y];
}

/** Returns the matrix (2, 3), row by row, of OpenCV's getRotationMatrix2D. */
function rotationMatrix([x, y], degrees, scale) {
  const [alpha, beta] = [Math.cos, Math.sin].map((part) => scale * part((degrees * Math.PI) / 180));
  [x, y] = [Math.fround(x), Math.fround(y)];
  return [alpha, beta, (1 - alpha) * x - beta * y, -beta, alpha, beta * x + (1 - alpha) * y];
}

/** Returns width and height in whole pixels of the box around a turned image, as OpenCV's boundingRect does. */
function turnedSize(cols, rows, degrees) {
  const [cosine, sine] = [Math.cos, Math.sin].map((part) => Math.abs(Math.fround(part((degrees * Math.PI) / 180) / 2)));
  const halves = [cosine * cols + sine * rows, sine * cols + cosine * rows];
  return halves.map((half) => Math.floor(half) - Math.floor(-half) + 1);
}

/** Returns every step-th pixel of every step-th row of a box of an image, as NumPy's slices do. */
function every({ data, cols }, step, [x, y, width, height]) {
  const [newWidth, newHeight] = [Math.ceil(width / step), Math.ceil(height / step)];
  const pixels = new Uint8Array(newWidth * newHeight);
  for (let row = 0, i = 0; row < newHeight; row++) {
    const start = (y + row * step) * cols + x;
    for (let column = 0; column < newWidth; column++) pixels[i++] = data[start + column * step];
  }
  return { width: newWidth, height: newHeight, pixels };
}

function deviation(pixels) {
  const mean = pixels.reduce((sum, level) => sum + level, 0) / pixels.length;
  return Math.sqrt(pixels.reduce((sum, level) => sum + (level - mean) ** 2, 0) / pixels.length);
}

/** Returns the level below which a share of the sorted values lies, interpolated as NumPy does. */
function percentile(sorted, share) {
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

/** Rounds halves to the even number, as Python does. */
export function round(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

/** Returns the part of a box that lies inside an image of `cols` x `rows` pixels, at least one pixel. */
export function clipBox(box, { cols, rows }) {
  const [x, y, width, height] = box.map(round);
  const [left, top] = [clamp(x, 0, cols - 1), clamp(y, 0, rows - 1)];
  const right = Math.min(Math.max(x + width, left + 1), cols);
  const bottom = Math.min(Math.max(y + height, top + 1), rows);
  return [left, top, right - left, bottom - top];
}

/** Returns the common area of two boxes. */
export function intersection(a, b) {
  const width = Math.min(a[0] + a[2], b[0] + b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[1] + a[3], b[1] + b[3]) - Math.max(a[1], b[1]);
  return Math.max(width, 0) * Math.max(height, 0);
}

/** Returns the intersection over union of two boxes, 0..1. */
export function overlap(a, b) {
  const common = intersection(a, b);
  return common / (a[2] * a[3] + b[2] * b[3] - common);
}

/** Returns whether two boxes show one face: they overlap, or one lies mostly inside the other. */
export function isSameFace(a, b) {
  return overlap(a, b) >= SAME_FACE || intersection(a, b) >= 0.5 * Math.min(a[2] * a[3], b[2] * b[3]);
}
