// An image -> faces with emotions: the steps of the Python package emotions/, with the same names and numbers.
// Boxes are OpenCV's [x, y, width, height] in pixels of the full frame. An image is an ImageData (RGBA, 0..255).

export const EMOTIONS = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]; // order of the outputs
export const UNCERTAIN = "uncertain"; // the label when no emotion is likely enough

const IMAGE_SIZE = 48; // pixels, width and height of a crop
const STILL_SIDE = 1280; // pixels: an image is shrunk to this longer side before it is searched,
const SEARCH_SIDE = 640; // and a frame of a video to this
const FOLLOW_SIZE = 36; // pixels: a face is scaled to this width before it is searched near its last place,
const VERIFY_SIZE = 56; // and a candidate to this before it is verified
const MIN_NEIGHBORS = 25; // detections around a candidate at VERIFY_SIZE; flat regions need more, large boxes fewer
const FLAT_MIN_NEIGHBORS = 60;
const LARGE_MIN_NEIGHBORS = 3;
const LARGE_SHARE = 1 / 3; // of the frame's shorter side, from which a box is large
const FLAT = 20; // gray levels, standard deviation
const SAME_FACE = 0.3; // intersection over union from which two boxes are one face
const DARK = 100; // gray levels: a frame is brightened if nine tenths of it are below,
const BRIGHT = 200; // until a hundredth of it is this bright
const MAX_GAIN = 5; // or the gain this large
const SEARCH_SECONDS = 1.5; // between full searches while every known face is in view,
const MISSING_SEARCH_SECONDS = 0.15; // and while a face is missing, or none is known
const MAX_PER_FRAME = 4; // faces searched in one frame; if there are more, they take turns,
const TURN_SECONDS = 0.095; // each at least ten times a second
const KEEP_SECONDS = 1.0; // for which a face that is not found keeps its id,
const SHOW_SECONDS = 0.2; // and for which its box is still shown
const BOX_SMOOTHING_SECONDS = 0.15; // time constant of the box of a head at rest
const FAST_SHIFT = 0.1; // shift in box widths from which a box follows without smoothing
const LABEL_MARGIN = 0.1; // a new emotion must lead by this much before it becomes the label
const CERTAIN_MARGIN = 0.08; // an uncertain label must exceed the threshold by this much, at most half the way to 1

/** Finds faces and predicts their emotions, in images and in videos. One call at a time. */
export class EmotionDetector {
  /**
   * `cv` is OpenCV.js, `cascade` the XML text of a Haar cascade, `classifier` a Classifier. Below the probability
   * `threshold` a label is "uncertain"; `smoothingSeconds` is the time constant of a tracked face's probabilities.
   */
  constructor(cv, cascade, classifier, { threshold = 0.35, smoothingSeconds = 0.18 } = {}) {
    this.milliseconds = { detecting: 0, classifying: 0 }; // of the last call
    this._search = new FaceSearch(cv, cascade);
    this._classifier = classifier;
    this._newSmoother = () => new Smoother(smoothingSeconds, threshold);
    this.reset();
  }

  /** Returns the faces of a single image, from left to right, with ids from 1 on. */
  async detect(image) {
    return this._run(image, 0, (gray) => this._search.findFaces(gray).map((box, i) => newFace(i + 1, box, 0)));
  }

  /** Returns the faces of a video's next frame, by id; a face keeps its id while it is out of view for a second. */
  async track(image, timeSeconds) {
    return this._run(image, timeSeconds, (gray) => this._tracker.update(gray, timeSeconds));
  }

  /** Forgets all faces; ids start at 1 again. */
  reset() {
    this._tracker = new Tracker(this._search);
  }

  async _run(image, timeSeconds, find) {
    const start = performance.now();
    const gray = this._search.toGray(image);
    try {
      const faces = find(gray);
      const found = faces.filter((face) => face.seenSeconds === timeSeconds); // not all are searched in every frame
      const crops = found.map((face) => this._search.crop(gray, face.box));
      const detected = performance.now();
      for (const [i, face] of found.entries()) {
        face.smoother ??= this._newSmoother();
        face.smoother.update(await this._classifier.probabilities(crops[i]), timeSeconds);
      }
      this.milliseconds = { detecting: detected - start, classifying: performance.now() - detected };
      return faces.map(({ id, box, smoother: { probabilities, label } }) => ({ id, box, probabilities, label }));
    } finally {
      gray.delete(); // OpenCV's memory is not garbage-collected
    }
  }
}

/** The network: a crop, Uint8Array (48 * 48), 0..255 -> Float32Array (7), in the order of EMOTIONS. */
export class Classifier {
  /** `model` is LiteRT's compiled model, `Tensor` LiteRT's class. Throws an Error if it is another kind of network. */
  constructor(model, Tensor) {
    const [input, ...otherInputs] = model.getInputDetails();
    const outputs = model.getOutputDetails();
    const sizes = [input, ...outputs].map(({ shape }) => shape.reduce((product, length) => product * length, 1));
    const expected = [IMAGE_SIZE ** 2, ...outputs.map(() => EMOTIONS.length)];
    if (otherInputs.length || !outputs.length || input.dtype !== "uint8" || `${sizes}` !== `${expected}`) {
      throw new Error("it does not map uint8 (1, 48, 48, 1) to float32 (1, 7). Export it with train.py.");
    }
    // Of two outputs, "fer2013" and "ferplus" (or "output_0" and "output_1"), the second predicts what people see.
    // Their order in the file is the converter's own.
    const names = outputs.map(({ name }) => name);
    this._output = names.indexOf(names.find((name) => /ferplus/i.test(name)) ?? [...names].sort().at(-1));
    this._model = model;
    this._toTensor = (crop) => new Tensor(crop, [1, IMAGE_SIZE, IMAGE_SIZE, 1]);
  }

  async probabilities(crop) {
    const input = this._toTensor(crop);
    const outputs = await this._model.run([input]);
    const values = outputs[this._output].toTypedArray();
    const sum = values.reduce((a, b) => a + b); // an int8 network's seven add up to 1 only roughly
    const probabilities = Float32Array.from(values, (value) => value / sum);
    [input, ...outputs].forEach((tensor) => tensor.delete());
    return probabilities;
  }
}

/** One face's probabilities over time: a low-pass filter in seconds, and a label with hysteresis. */
export class Smoother {
  constructor(smoothingSeconds, threshold) {
    Object.assign(this, { smoothingSeconds, threshold, probabilities: null, label: "" });
    Object.assign(this, { _timeSeconds: 0, _emotion: 0, _certain: true });
  }

  update(probabilities, timeSeconds) {
    const smooth = this.smoothingSeconds > 0 && this.probabilities !== null;
    if (smooth) {
      const weight = 1 - Math.exp(-Math.max(timeSeconds - this._timeSeconds, 0) / this.smoothingSeconds);
      probabilities = this.probabilities.map((old, i) => old + weight * (probabilities[i] - old));
    }
    const best = probabilities.indexOf(Math.max(...probabilities));
    if (!smooth || probabilities[best] >= probabilities[this._emotion] + LABEL_MARGIN) this._emotion = best;
    const margin = Math.min(CERTAIN_MARGIN, (1 - this.threshold) / 2);
    const required = this.threshold + (smooth && !this._certain ? margin : 0);
    this._certain = probabilities[this._emotion] >= required;
    Object.assign(this, { probabilities, _timeSeconds: timeSeconds });
    this.label = this._certain ? EMOTIONS[this._emotion] : UNCERTAIN;
  }
}

/** Grays, searches and crops images with OpenCV. A gray image is a cv.Mat, uint8 (height, width). */
class FaceSearch {
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

  /** Returns the gray image, brightened if nothing in it is bright. The caller deletes it. */
  toGray(image) {
    const { cv } = this;
    const rgba = cv.matFromImageData(image);
    const gray = new cv.Mat();
    cv.cvtColor(rgba, gray, cv.COLOR_RGBA2GRAY);
    rgba.delete();
    const levels = every(gray.data, gray.cols, 8, { x: 0, y: 0, width: gray.cols, height: gray.rows }).pixels.sort();
    const [most, brightest] = [percentile(levels, 0.9), percentile(levels, 0.99)].map((level) => Math.max(level, 1));
    const gain = Math.min(DARK / most, BRIGHT / brightest, MAX_GAIN);
    if (gain > 1) cv.convertScaleAbs(gray, gray, gain, 0);
    return gray;
  }

  /** Returns the 48 x 48 pixels of a box, uint8. */
  crop(gray, box) {
    return this._resized(gray, clipBox(box, gray), 1, IMAGE_SIZE, IMAGE_SIZE, (face) => face.data.slice());
  }

  /** Returns the boxes of all faces of a still image, from left to right. */
  findFaces(gray) {
    const boxes = [];
    for (const candidate of this.frame(gray, STILL_SIDE, 1.05, 3)) {
      if (boxes.some((box) => isSameFace(candidate, box))) continue;
      const box = this.verify(gray, candidate);
      if (box && !boxes.some((other) => isSameFace(box, other))) boxes.push(box);
    }
    return boxes.map((box) => clipBox(box, gray)).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  }

  /** Searches the whole image, shrunk to a longer side in pixels; returns candidates, the most reliable first. */
  frame(gray, side, scaleFactor, minNeighbors) {
    const zoom = Math.min(side / Math.max(gray.rows, gray.cols), 1);
    const whole = [0, 0, gray.cols, gray.rows];
    const found = this._resized(gray, whole, 1, atLeast1(gray.cols * zoom), atLeast1(gray.rows * zoom), (small) =>
      this._detect(small, scaleFactor, minNeighbors, 0, 0),
    );
    return found.sort((a, b) => b.neighbors - a.neighbors).map(({ box }) => box.map((value) => value / zoom));
  }

  /** Searches around a box, with its face scaled to `size` pixels; returns [{box, neighbors}]. */
  near(gray, [x, y, width, height], size, scaleFactor) {
    const region = clipBox([x - 0.4 * width, y - 0.4 * height, 1.8 * width, 1.8 * height], gray);
    const zoom = size / width;
    const step = Math.max(Math.floor(0.5 / zoom), 1); // of a large face, a quarter of the pixels or fewer is enough
    const [least, most] = [Math.floor(0.75 * size), Math.floor(1.35 * size)];
    const found = this._resized(gray, region, step, atLeast1(region[2] * zoom), atLeast1(region[3] * zoom), (small) =>
      this._detect(small, scaleFactor, 3, least, most),
    );
    return found.map(({ box: [a, b, c, d], neighbors }) => ({
      box: [region[0] + a / zoom, region[1] + b / zoom, c / zoom, d / zoom],
      neighbors,
    }));
  }

  /** Searches a candidate again at a higher resolution; returns its more exact box, or null if it is no face. */
  verify(gray, candidate) {
    const near = this.near(gray, candidate, VERIFY_SIZE, 1.05).filter(({ box }) => isSameFace(box, candidate));
    if (!near.length) return null;
    const best = near.reduce((a, b) => (b.neighbors > a.neighbors ? b : a));
    const box = clipBox(best.box, gray);
    let required = LARGE_MIN_NEIGHBORS;
    if (box[2] <= LARGE_SHARE * Math.min(gray.rows, gray.cols)) {
      required = this._deviation(gray, box) < FLAT ? FLAT_MIN_NEIGHBORS : MIN_NEIGHBORS;
    }
    return best.neighbors >= required ? best.box : null;
  }

  _detect(image, scaleFactor, minNeighbors, least, most) {
    const sizes = [new this.cv.Size(least, least), new this.cv.Size(most, most)];
    this._cascade.detectMultiScale2(image, this._boxes, this._neighbors, scaleFactor, minNeighbors, 0, ...sizes);
    return Array.from({ length: this._boxes.size() }, (_, i) => {
      const { x, y, width, height } = this._boxes.get(i);
      return { box: [x, y, width, height], neighbors: this._neighbors.get(i) };
    });
  }

  /** Calls `use` with every step-th pixel of a box of the image, resized by area; returns what it returns. */
  _resized(gray, [x, y, width, height], step, newWidth, newHeight, use) {
    const { cv } = this;
    let region = null;
    if (step > 1) {
      const sampled = every(gray.data, gray.cols, step, { x, y, width, height });
      region = cv.matFromArray(sampled.height, sampled.width, cv.CV_8UC1, sampled.pixels);
    } else {
      region = gray.roi(new cv.Rect(x, y, width, height));
    }
    const resized = new cv.Mat();
    cv.resize(region, resized, new cv.Size(newWidth, newHeight), 0, 0, cv.INTER_AREA);
    region.delete();
    try {
      return use(resized);
    } finally {
      resized.delete();
    }
  }

  _deviation(gray, [x, y, width, height]) {
    const { pixels } = every(gray.data, gray.cols, 1, { x, y, width, height });
    const mean = pixels.reduce((sum, level) => sum + level, 0) / pixels.length;
    return Math.sqrt(pixels.reduce((sum, level) => sum + (level - mean) ** 2, 0) / pixels.length);
  }
}

/** Follows faces through the frames of a video: each is searched near its last place, which is faster. */
class Tracker {
  constructor(search) {
    Object.assign(this, { faces: [], _search: search, _nextId: 1, _cols: 0, _rows: 0 });
    this._searchedSeconds = this._timeSeconds = -Infinity;
  }

  /** Returns the faces to show in the next frame, by id. */
  update(gray, timeSeconds) {
    if (gray.cols !== this._cols || gray.rows !== this._rows || timeSeconds < this._timeSeconds) {
      Object.assign(this, { faces: [], _cols: gray.cols, _rows: gray.rows, _searchedSeconds: -Infinity });
    }
    for (const [i, face] of [...this.faces].sort((a, b) => a.searchedSeconds - b.searchedSeconds).entries()) {
      if (i < MAX_PER_FRAME || timeSeconds - face.searchedSeconds >= TURN_SECONDS) {
        this._follow(face, gray, timeSeconds);
      }
    }
    this._dropDuplicates();
    const missing = !this.faces.length || this.faces.some((face) => !inView(face));
    if (timeSeconds - this._searchedSeconds >= (missing ? MISSING_SEARCH_SECONDS : SEARCH_SECONDS)) {
      this._searchedSeconds = timeSeconds;
      this._searchFrame(gray, timeSeconds);
    }
    this.faces = this.faces.filter((face) => timeSeconds - face.seenSeconds <= KEEP_SECONDS);
    this._timeSeconds = timeSeconds;
    return this.faces.filter((face) => timeSeconds - face.seenSeconds <= SHOW_SECONDS);
  }

  _follow(face, gray, timeSeconds) {
    const sinceSeconds = timeSeconds - face.searchedSeconds;
    face.searchedSeconds = timeSeconds;
    const near = this._search.near(gray, face.box, FOLLOW_SIZE, 1.1);
    if (!near.length) return;
    const ranked = near.map(({ box, neighbors }) => ({ box, neighbors, common: overlap(box, face.box) }));
    ranked.sort((a, b) => b.common - a.common || b.neighbors - a.neighbors);
    this._move(face, ranked[0].box, gray, sinceSeconds);
  }

  /** Takes a newly found box: smoothed for a head at rest, at once for one that moves. */
  _move(face, box, gray, sinceSeconds) {
    const found = centred(box);
    const shift = Math.max(...[0, 1].map((i) => Math.abs(found[i] - face.smoothBox[i]))) / found[2];
    const weight = Math.max(1 - Math.exp(-sinceSeconds / BOX_SMOOTHING_SECONDS), Math.min(shift / FAST_SHIFT, 1));
    face.smoothBox = face.smoothBox.map((old, i) => old + weight * (found[i] - old));
    const [x, y, width, height] = face.smoothBox;
    face.box = clipBox([x - width / 2, y - height / 2, width, height], gray);
    face.seenSeconds = face.searchedSeconds;
  }

  /** If two boxes have come to lie on one face, keeps the one in view, or else the older one. */
  _dropDuplicates() {
    const kept = [];
    for (const face of [...this.faces].sort((a, b) => inView(b) - inView(a))) {
      if (!kept.some((other) => isSameFace(face.box, other.box))) kept.push(face);
    }
    this.faces = kept.sort((a, b) => a.id - b.id);
  }

  /** Searches the whole frame for missing faces where they were last seen, and for new ones. */
  _searchFrame(gray, timeSeconds) {
    for (const candidate of this._search.frame(gray, SEARCH_SIDE, 1.2, 2)) {
      if (this.faces.some((face) => inView(face) && isSameFace(candidate, face.box))) continue;
      const box = this._search.verify(gray, candidate);
      const known = box ? this.faces.filter((face) => isSameFace(box, face.box)) : [];
      if (!box || known.some(inView)) continue;
      if (known.length) {
        const face = known.reduce((a, b) => (overlap(box, b.box) > overlap(box, a.box) ? b : a));
        face.searchedSeconds = timeSeconds;
        this._move(face, box, gray, Infinity);
      } else {
        const face = newFace(this._nextId++, clipBox(box, gray), timeSeconds);
        this.faces.push({ ...face, smoothBox: centred(box) });
      }
    }
  }
}

function newFace(id, box, timeSeconds) {
  return { id, box, searchedSeconds: timeSeconds, seenSeconds: timeSeconds, smoothBox: null, smoother: null };
}

/** Returns whether a face was found when it was last searched. */
const inView = (face) => face.seenSeconds === face.searchedSeconds;

const centred = ([x, y, width, height]) => [x + width / 2, y + height / 2, width, height];

/** Returns every step-th pixel of every step-th row of a box, as NumPy's slices do. */
function every(data, stride, step, { x, y, width, height }) {
  const [newWidth, newHeight] = [Math.ceil(width / step), Math.ceil(height / step)];
  const pixels = new Uint8Array(newWidth * newHeight);
  for (let row = 0, i = 0; row < newHeight; row++) {
    const start = (y + row * step) * stride + x;
    for (let column = 0; column < newWidth; column++) pixels[i++] = data[start + column * step];
  }
  return { width: newWidth, height: newHeight, pixels };
}

/** Returns the level below which a share of the sorted values lies, interpolated as NumPy does. */
function percentile(sorted, share) {
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

/** Rounds halves to the even number, as Python does. */
function round(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

const atLeast1 = (value) => Math.max(round(value), 1);

/** Returns the part of a box that lies inside an image of `cols` x `rows` pixels, at least one pixel. */
function clipBox(box, { cols, rows }) {
  const [x, y, width, height] = box.map(round);
  const [left, top] = [Math.min(Math.max(x, 0), cols - 1), Math.min(Math.max(y, 0), rows - 1)];
  const right = Math.min(Math.max(x + width, left + 1), cols);
  const bottom = Math.min(Math.max(y + height, top + 1), rows);
  return [left, top, right - left, bottom - top];
}

function intersection(a, b) {
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
function isSameFace(a, b) {
  return overlap(a, b) >= SAME_FACE || intersection(a, b) >= 0.5 * Math.min(a[2] * a[3], b[2] * b[3]);
}
