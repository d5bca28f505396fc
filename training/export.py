"""A trained network -> `.tflite` files for phones: with float16 weights, and in int8 throughout.

Both take one uint8 gray face (1, 48, 48, 1), 0..255, and give float32 probabilities (1, 7) in the order of `EMOTIONS`.
"""

import contextlib
import hashlib
import io
import json
import sys
import warnings
from pathlib import Path

import keras
import numpy as np

from common.cli import printable
from common.files import atomic_path
from data import PUBLIC_TEST, TRAINING
from evaluation import metrics
from evaluation.report import NAMES
from model import (
    EMOTIONS,
    IMAGE_SIZE,
    OUTPUTS,
    Classifier,
    ModelError,
    build_model,
    description_path,
    first_line,
    fold_symmetric_kernels,
    lite_predict,
    native_stderr_hidden,
    sha256_of,
    survives,
)

CALIBRATION_FACES = 300  # training faces that show int8 the range of every layer's values
LEAST_EQUAL = 0.9  # share of the faces for which the conversion predicts the same emotion
CONVERSION_SECONDS = 120  # in which the converter ends, or never does
MOST_MOVED = 0.05  # probability that may sit on other emotions after the conversion, on average over the faces


def export(classifier, source: Path, dataset, output: Path, int8: bool = True) -> str:
    """Write `output` (float16 weights), its int8 twin and their descriptions; return a table of how well they agree.

    `source` is the file that `classifier` was loaded from, `dataset` a `data.Dataset`: its training faces calibrate
    int8, its PublicTest faces are what all three are compared on. Raises `ModelError`, with nothing written, if the
    network cannot be converted or a conversion predicts something else.
    """
    validation = dataset[PUBLIC_TEST]
    reference = metrics.predict(classifier.all_probabilities, validation.faces)  # (n, outputs, 7)
    agreement = compare(classifier, reference, reference, validation)
    labels = "".join(f"{NAMES[name]:>20}" for name in agreement["accuracy"])
    lines = [f"{f'accuracy on {PUBLIC_TEST}':44}{labels}   same prediction      size"]
    lines.append(_line(source, source.stat().st_size, agreement))
    kinds = {"float16": output} | ({"int8": output.with_suffix(".int8.tflite")} if int8 else {})
    _refuse_crash(classifier.model, source, list(kinds))
    files, contents = {}, convert_all(classifier.model, kinds, dataset[TRAINING].faces)
    for (quantization, path), content in zip(kinds.items(), contents, strict=True):
        converted = Classifier(*lite_predict(content), {})
        probabilities = metrics.predict(converted.all_probabilities, validation.faces)
        agreement = compare(classifier, probabilities, reference, validation)
        agrees = agreement["moved_probability"] <= MOST_MOVED and agreement["equal_predictions"] >= LEAST_EQUAL
        if not agrees:  # NaN included
            raise ModelError(
                f"{source} as {quantization} predicts differently: {agreement['moved_probability']:.1%} of the "
                f"probability is on other emotions, {agreement['equal_predictions']:.1%} of the predictions are the "
                "same. Nothing was written; train a new network, or export another one with --model."
            )
        lines.append(_line(path, len(content), agreement))
        description = describe(classifier, source, quantization, agreement)
        description["sha256"] = hashlib.sha256(content).hexdigest()
        text = json.dumps(description, indent=2, default=str) + "\n"
        files |= {description_path(path): text.encode(), path: content}
    with contextlib.ExitStack() as places:  # every file is written before the first is moved into its place
        for path, content in files.items():
            places.enter_context(atomic_path(path)).write_bytes(content)
    return "\n".join(lines)


def refuse_other_backends() -> None:
    """Raise `ModelError` where Keras does not run on TensorFlow, whose converter an export needs."""
    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"An export needs TensorFlow: run {sys.executable} -m pip install tensorflow, and set the environment "
            "variable KERAS_BACKEND to tensorflow."
        )


def _refuse_crash(model, source: Path, kinds: list) -> None:
    """Raise `ModelError` if the conversion crashes, as it may with other layers than `build_model`'s (an LSTM)."""
    usual = {type(layer) for arch in ("resnet-equivariant", "cnn") for layer in build_model(arch).layers}
    if {type(layer) for layer in model.layers} <= usual:
        return
    preparation = "import numpy as np; from training import export; from model import load_classifier"
    use = f"export.convert_all(load_classifier(path).model, {kinds}, np.zeros((9, 48, 48, 1), np.uint8))"
    if not survives(preparation, use, source.absolute(), sha256_of(source), CONVERSION_SECONDS):
        raise ModelError(f"{source} cannot be converted: TensorFlow's converter crashes. Use an --arch of train.py's.")


def convert_all(model, kinds, faces: np.ndarray) -> list[bytes]:
    """Return a Keras model as the content of a `.tflite` file of every kind, from its folded copy."""
    folded = fold_symmetric_kernels(model)
    return [convert(folded, kind, faces) for kind in kinds]


def _line(path: Path, size_bytes: int, agreement: dict) -> str:
    accuracies = "".join(f"{accuracy:20.2%}" for accuracy in agreement["accuracy"].values())
    return f"{printable(path):44}{accuracies}{agreement['equal_predictions']:18.2%} {size_bytes / 1e6:6.1f} MB"


def convert(model, quantization: str, faces: np.ndarray) -> bytes:
    """Return a Keras model as the content of a `.tflite` file; `quantization` is "float16" or "int8".

    float16 halves the file and computes as before. int8 computes in integers (Jacob et al. 2018); `faces`, uint8
    (n, 48, 48, 1), show it the range of every layer's values. Raises `ModelError` if it cannot be converted.
    """
    import tensorflow as tf

    # The converter itself puts uint8 before an int8 network. One face a call: a phone's accelerators want fixed shapes.
    dtype = "uint8" if quantization == "float16" else "float32"
    face = keras.Input(batch_shape=(1, IMAGE_SIZE, IMAGE_SIZE, 1), dtype=dtype, name="faces")
    try:
        with native_stderr_hidden(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # the converter prints pages of notes
            outputs = model(face)
            if isinstance(outputs, list):  # in a dict their names become those of the file's signature
                outputs = dict(zip(OUTPUTS, outputs, strict=True))
            converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(face, outputs))
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if quantization == "float16":
                converter.target_spec.supported_types = [tf.float16]
            else:
                converter.representative_dataset = lambda: ([one[None]] for one in calibration_faces(faces))
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
                converter.inference_input_type, converter.inference_output_type = tf.uint8, tf.float32
            return converter.convert()
    except Exception as error:  # the converter raises many kinds
        raise ModelError(f"The network cannot be converted to {quantization} ({first_line(error)}).") from error


def calibration_faces(faces: np.ndarray) -> np.ndarray:
    """Return some hundred faces float32, evenly from all, for uint8 (n, 48, 48, 1); two pixels are made 0 and 255.

    Without both, the range of the input would come out short, and pixels would be scaled.
    """
    rows = np.linspace(0, len(faces) - 1, min(len(faces), CALIBRATION_FACES)).astype(int)
    chosen = faces[rows].astype(np.float32)
    chosen[0, 0, :2, 0] = 0, 255
    return chosen


def compare(classifier, probabilities: np.ndarray, reference: np.ndarray, split) -> dict:
    """Return how probabilities (n, outputs, 7) agree with those of Keras, by `classifier`, for faces of a `data.Split`.

    `accuracy` is by the labels at hand: FER-2013's, and with votes those of "ferplus".
    `moved_probability` is the share of probability that is on other emotions: half the sum of the differences.
    """
    predicted = probabilities.argmax(axis=2)
    compared = metrics.compare(classifier, split, probabilities)
    return {
        "n": len(split),
        "accuracy": {name: float(comparison.correct.mean()) for name, comparison in compared.items()},
        "equal_predictions": float((predicted == reference.argmax(axis=2)).mean()),
        "moved_probability": float(np.abs(probabilities - reference).sum(axis=2).mean() / 2),
    }


def describe(classifier, source: Path, quantization: str, agreement: dict) -> dict:
    """Return the description beside a `.tflite` file: its contract, its origin, and how it agrees with that."""
    return {
        "labels": list(EMOTIONS),
        "pixel_range": [0, 255],
        "input": "uint8 gray face (1, 48, 48, 1)",
        "output": "float32 probabilities (1, 7), in the order of labels",
        "outputs": list(classifier.outputs),
        "quantization": quantization,
        "exported_from": {"file": source.name, "sha256": sha256_of(source)},
        "agreement": {"split": PUBLIC_TEST} | agreement,
        **{key: classifier.description[key] for key in ("training", "calibration") if key in classifier.description},
    }
