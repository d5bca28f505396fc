"""A trained network -> `.tflite` files for phones: float16 weights, and int8 throughout.

Both take one uint8 gray face (1, 48, 48, 1), 0..255, and give float32 probabilities (1, 7) in the order of `EMOTIONS`.
"""

import contextlib
import hashlib
import io
import json
import sys
import warnings
from pathlib import Path

import numpy as np

from data import PUBLIC_TEST, TRAINING
from evaluate import predict
from files import written_whole
from model import (
    EMOTIONS,
    IMAGE_SIZE,
    Classifier,
    ModelError,
    description_path,
    first_line,
    lite_predict,
    native_stderr_hidden,
)
from symmetry import halve_multiplications

CALIBRATION_FACES = 300  # training faces that show int8 the range of every layer's values
MOST_MOVED = 0.05  # probability that may sit on other emotions after the conversion, on average over the faces


def export(classifier: Classifier, source: Path, dataset, output: Path) -> str:
    """Write `output` (float16 weights), its int8 twin and their descriptions; return a table of how well they agree.

    `source` is the file that `classifier` was loaded from, `dataset` a `data.Dataset`: its training faces calibrate
    int8, its PublicTest faces are what all three are compared on. Raises `ModelError`, with nothing written, where
    the network cannot be converted or the answers of a conversion are others.
    """
    validation = dataset[PUBLIC_TEST]
    reference = predict(classifier.probabilities, validation.faces)
    lines = [f"{len(validation):,} faces of {PUBLIC_TEST:26} accuracy   answers as {source.name}      size"]
    lines.append(_line(source, source.stat().st_size, (reference.argmax(1) == validation.labels).mean(), 1.0))
    faster, files = halve_multiplications(classifier.model), {}
    for quantization, path in export_paths(output).items():
        content = convert(faster, quantization, dataset[TRAINING].faces)
        agreement = compare(predict(lite_predict(content), validation.faces), reference, validation)
        if not agreement["moved_probability"] <= MOST_MOVED:  # so that NaN is refused as well
            raise ModelError(
                f"{source} as {quantization} answers differently: {agreement['moved_probability']:.1%} of the "
                f"probability sits on other emotions and {agreement['equal_answers']:.1%} of the answers are the same. "
                "Nothing was written; train the network anew, or export another one with --model."
            )
        lines.append(_line(path, len(content), agreement["accuracy"], agreement["equal_answers"]))
        files[path] = content
        description = describe(classifier, source, quantization, agreement)
        files[description_path(path)] = (json.dumps(description, indent=2) + "\n").encode()
    write_all(files)
    return "\n".join(lines)


def _line(path: Path, size_bytes: int, accuracy: float, equal: float) -> str:
    return f"{path!s:44} {accuracy:8.2%} {equal:20.2%} {size_bytes / 1e6:13.1f} MB"


def export_paths(output: Path) -> dict[str, Path]:
    """Return where each kind goes: best_model.tflite has float16 weights, best_model.int8.tflite is int8."""
    return {"float16": output, "int8": output.with_suffix(".int8.tflite")}


def convert(model, quantization: str, faces: np.ndarray) -> bytes:
    """Return a Keras model as the content of a `.tflite` file; `quantization` is "float16" or "int8".

    float16 halves the file and computes as before. int8 computes in integers (Jacob et al. 2018); `faces`, uint8
    (n, 48, 48, 1), show it the range of every layer's values. Raises `ModelError` where it cannot be converted.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"An export needs TensorFlow: run {sys.executable} -m pip install tensorflow, and set the environment "
            "variable KERAS_BACKEND to tensorflow."
        )
    import tensorflow as tf

    # The converter itself puts uint8 before an int8 network. One face a call: a phone's accelerators want fixed shapes.
    dtype = "uint8" if quantization == "float16" else "float32"
    face = keras.Input(batch_shape=(1, IMAGE_SIZE, IMAGE_SIZE, 1), dtype=dtype, name="faces")
    try:
        with _quiet():
            converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(face, model(face)))
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if quantization == "float16":
                converter.target_spec.supported_types = [tf.float16]
            else:
                converter.representative_dataset = lambda: ([one[None]] for one in calibration_faces(faces))
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
                converter.inference_input_type, converter.inference_output_type = tf.uint8, tf.float32
            return converter.convert()
    except Exception as error:  # the converter raises many kinds
        raise ModelError(
            f"The network cannot be exported as {quantization} ({first_line(error)}). Use one of train.py's."
        ) from error


def calibration_faces(faces: np.ndarray) -> np.ndarray:
    """Return some hundred faces float32, evenly from all, for uint8 (n, 48, 48, 1); two pixels are made 0 and 255.

    Without both, the range of the input would come out short, and pixels would not be themselves any more.
    """
    rows = np.linspace(0, len(faces) - 1, min(len(faces), CALIBRATION_FACES)).astype(int)
    chosen = faces[rows].astype(np.float32)
    chosen[0, 0, :2, 0] = 0, 255
    return chosen


@contextlib.contextmanager
def _quiet():
    """Keep the converter's pages of notes off the screen."""
    with native_stderr_hidden(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def compare(probabilities: np.ndarray, reference: np.ndarray, split) -> dict:
    """Return how probabilities (n, 7) agree with those of Keras for the faces of a `data.Split`.

    `moved_probability` is the share of probability that sits on other emotions: half the sum of the differences.
    """
    answers = probabilities.argmax(axis=1)
    return {
        "n": len(split),
        "accuracy": float((answers == split.labels).mean()),
        "keras_accuracy": float((reference.argmax(axis=1) == split.labels).mean()),
        "equal_answers": float((answers == reference.argmax(axis=1)).mean()),
        "moved_probability": float(np.abs(probabilities - reference).sum(axis=1).mean() / 2),
    }


def describe(classifier: Classifier, source: Path, quantization: str, agreement: dict) -> dict:
    """Return what stands beside a `.tflite` file: its contract, what it was made of, and how it agrees with that."""
    return {
        "labels": list(EMOTIONS),
        "pixel_range": [0, 255],
        "input": "uint8 gray face (1, 48, 48, 1)",
        "output": "float32 probabilities (1, 7), in the order of labels",
        "quantization": quantization,
        "exported_from": {"file": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()},
        "agreement": {"split": PUBLIC_TEST} | agreement,
        **{key: classifier.description[key] for key in ("training", "calibration") if key in classifier.description},
    }


def write_all(files: dict[Path, bytes]) -> None:
    """Write every file beside its place first, and only then put all of them there."""
    try:
        with contextlib.ExitStack() as places:
            for path, content in files.items():
                places.enter_context(written_whole(path)).write_bytes(content)
    except OSError as error:
        raise ModelError(f"The export cannot be written ({error}). Make room, or choose another --export.") from error
