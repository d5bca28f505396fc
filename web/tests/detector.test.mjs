// The parts of the detector that need no browser.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Classifier, EMOTIONS, Smoother, UNCERTAIN } from "../detector.js";
import { overlap } from "../faces.js";

const likely = (emotion, probability) =>
  EMOTIONS.map((name) => (name === emotion ? probability : (1 - probability) / (EMOTIONS.length - 1)));

/** A stand-in for LiteRT's compiled model, whose outputs are constant. */
function modelWith(outputs, { shape = [1, 48, 48, 1], dtype = "uint8" } = {}) {
  return {
    getInputDetails: () => [{ name: "faces", shape, dtype }],
    getOutputDetails: () => Object.entries(outputs).map(([name, values]) => ({ name, shape: [1, values.length] })),
    run: async () => Object.values(outputs).map((values) => ({ toTypedArray: () => values, delete: () => {} })),
  };
}

class Tensor {
  delete() {}
}

const predict = (outputs) => new Classifier(modelWith(outputs), Tensor).probabilities(new Uint8Array(48 * 48));
const [fer2013, ferplus] = ["angry", "happy"].map((emotion) => Float32Array.from(likely(emotion, 0.75)));

test("a network with one output is used as it is", async () => {
  assert.deepEqual(await predict({ output_0: fer2013 }), fer2013);
});

test("of two outputs, the one that predicts people's votes is used, wherever it is", async () => {
  assert.deepEqual(await predict({ fer2013, ferplus }), ferplus);
  assert.deepEqual(await predict({ ferplus, fer2013 }), ferplus);
  assert.deepEqual(await predict({ output_0: fer2013, output_1: ferplus }), ferplus);
  assert.deepEqual(await predict({ output_1: ferplus, output_0: fer2013 }), ferplus);
});

test("other networks are refused", () => {
  const wrong = [modelWith({ a: fer2013.slice(1) }), modelWith({ a: fer2013 }, { shape: [1, 64, 64, 1] })];
  wrong.push(modelWith({ a: fer2013 }, { dtype: "float32" }), modelWith({}));
  for (const model of wrong) assert.throws(() => new Classifier(model, Tensor), /48/);
});

test("the label changes with a lead of a tenth, in seconds and not in frames", () => {
  const label = (frames) => {
    const smoother = new Smoother(0.18, 0.35);
    smoother.update(likely("happy", 0.9), 0);
    const labels = [];
    for (let i = 1; i <= 2 * frames; i++) labels.push(smoother.update(likely("sad", 0.9), (0.13 * i) / frames).label);
    return [labels[frames - 1], labels.at(-1)];
  };
  for (const frames of [1, 5, 50]) assert.deepEqual(label(frames), ["happy", "sad"]);
});

test("an uncertain label needs more than the threshold to become certain, and without smoothing just that", () => {
  const labels = (smoothingSeconds, ...happy) => {
    const smoother = new Smoother(smoothingSeconds, 0.35);
    return happy.map((probability, i) => smoother.update(likely("happy", probability), 100 * i).label);
  };
  assert.deepEqual(labels(0.18, 0.3, 0.4, 0.44, 0.36), [UNCERTAIN, UNCERTAIN, "happy", "happy"]);
  assert.deepEqual(labels(0, 0.3, 0.36), [UNCERTAIN, "happy"]);
});

test("the label is always that of the highest probability, which is below the threshold if it is uncertain", () => {
  const smoother = new Smoother(0.18, 0.35);
  for (let i = 0; i < 200; i++) {
    const update = likely(["happy", "sad", "fear"][Math.floor(i / 7) % 3], 0.2 + 0.3 * Math.abs(Math.sin(i / 5)));
    const { probabilities, label } = smoother.update(update, i / 30);
    const highest = Math.max(...probabilities);
    assert.equal(label, highest >= 0.35 ? EMOTIONS[probabilities.indexOf(highest)] : UNCERTAIN);
    assert.ok(Math.abs(probabilities.reduce((a, b) => a + b) - 1) < 1e-9);
  }
});

test("overlap is the intersection over union", () => {
  assert.equal(overlap([0, 0, 10, 10], [5, 0, 10, 10]), 1 / 3);
  assert.equal(overlap([0, 0, 10, 10], [20, 0, 10, 10]), 0);
});
