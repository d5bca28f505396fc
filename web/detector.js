// An image -> faces with emotions: the steps of the Python package emotions/, with the same names and numbers.
// Boxes are OpenCV's [x, y, width, height] in pixels of the full frame. An image is an ImageData (RGBA, 0..255).
import { centred, clipBox, FaceSearch, IMAGE_SIZE } from "./faces.js";
import { Face, Tracker } from "./tracker.js";

export const EMOTIONS = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]; // order of the outputs
export const UNCERTAIN = "uncertain"; // the label when no emotion is likely enough

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
    return this._run(image, 0, (gray) =>
      this._search.findFaces(gray).map(({ box, tiltDegrees }, i) => {
        const face = new Face(this._search, i + 1, clipBox(box, gray), tiltDegrees);
        return Object.assign(face, { smoothBox: centred(box) });
      }),
    );
  }

  /**
   * Returns the faces of a video's next frame, by id. A face keeps its id while it is out of view for at most a second,
   * or for three behind another face.
   */
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
      const detected = performance.now();
      const crops = found.map((face) => this._search.crop(gray, face.wholeBox, face.tiltDegrees));
      for (const [i, face] of found.entries()) {
        face.smoother ??= this._newSmoother();
        const probabilities = await this._classifier.probabilities(crops[i]);
        Object.assign(face, face.smoother.update(probabilities, timeSeconds));
        face.remember(crops[i]);
      }
      this.milliseconds = { detecting: detected - start, classifying: performance.now() - detected };
      return faces.map(({ id, box, tiltDegrees, probabilities, label }) => {
        return { id, box, tiltDegrees, probabilities: probabilities.slice(), label }; // the smoother goes on with its own
      });
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
    const total = sum(values); // an int8 network's seven add up to 1 only roughly
    if (!(Math.min(...values) >= 0 && Math.abs(total - 1) < 0.05)) {
      throw new Error("its seven outputs are not probabilities. It needs a softmax as its last layer.");
    }
    const probabilities = Float32Array.from(values, (value) => value / total);
    [input, ...outputs].forEach((tensor) => tensor.delete());
    return probabilities;
  }
}

/**
 * One face's probabilities over time: a low-pass filter in seconds, and a label with hysteresis.
 *
 * Hysteresis acts on the probabilities, so that label and probabilities always agree: the label is the emotion of the
 * highest one, and "uncertain" if that is below the threshold. A time constant of 0 turns off both.
 */
export class Smoother {
  constructor(smoothingSeconds, threshold) {
    Object.assign(this, { smoothingSeconds, threshold });
    this._smooth = null; // without hysteresis
    this._timeSeconds = 0;
    this._emotion = 0; // index of the leading emotion
    this._certain = true;
  }

  /** Takes a frame's probabilities; returns {probabilities, label} to show, the label an emotion or "uncertain". */
  update(probabilities, timeSeconds) {
    const smooth = this.smoothingSeconds > 0 && this._smooth !== null;
    if (smooth) {
      const weight = 1 - Math.exp(-Math.max(timeSeconds - this._timeSeconds, 0) / this.smoothingSeconds);
      probabilities = this._smooth.map((old, i) => old + weight * (probabilities[i] - old));
    }
    Object.assign(this, { _smooth: probabilities, _timeSeconds: timeSeconds });
    const best = probabilities.indexOf(Math.max(...probabilities));
    if (!smooth || probabilities[best] >= probabilities[this._emotion] + LABEL_MARGIN) this._emotion = best;
    let shown = keepLeader(probabilities, this._emotion);
    if (smooth && !this._certain) {
      shown = keepBelow(shown, this.threshold, Math.min(CERTAIN_MARGIN, (1 - this.threshold) / 2));
    }
    this._certain = shown[this._emotion] >= this.threshold;
    return { probabilities: shown, label: this._certain ? EMOTIONS[this._emotion] : UNCERTAIN };
  }
}

const sum = (values) => values.reduce((a, b) => a + b, 0);

/** Returns probabilities of which that of the leader is highest: it shares with those that lead it by little. */
function keepLeader(probabilities, leader) {
  const isShared = (value, i) => i === leader || value > probabilities[leader];
  const together = probabilities.filter(isShared);
  if (together.length === 1) return probabilities;
  const shared = probabilities.map((value, i) => (isShared(value, i) ? sum(together) / together.length : value));
  shared[leader] += 0.01; // enough to be seen
  return shared.map((value) => value / sum(shared));
}

/** Returns probabilities of which the highest, if it exceeds the threshold by less than the margin, is just below. */
function keepBelow(probabilities, threshold, margin) {
  const [highest, even] = [Math.max(...probabilities), 1 / probabilities.length];
  if (highest < threshold || highest >= threshold + margin || threshold <= even) return probabilities;
  const share = (highest - threshold + 1e-6) / (highest - even);
  return probabilities.map((value) => value + share * (even - value));
}
