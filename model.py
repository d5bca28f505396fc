"""The network and its contract: what goes in, what comes out, and how a saved one is loaded.

Faces are uint8 gray, 0..255, shape (n, 48, 48, 1); the network scales them itself, so that training and
live use cannot disagree. Probabilities come out in the order of `EMOTIONS`, which are Kaggle's codes 0..6.
"""

import contextlib
import functools
import json
import os
import sys
import threading
import warnings
import zipfile
from pathlib import Path

import numpy as np

import symmetry

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
IMAGE_SIZE = 48  # pixels, width and height
BEST_MODEL = Path(__file__).resolve().parent / "best_model.keras"  # the shipped one
CPU_INFORMATION = Path("/proc/cpuinfo")
OLDEST_KERAS = (3, 12)  # under which the shipped network was saved; older ones also load files less safely
_STDERR_LOCK = threading.RLock()
SYMMETRIC = "-symmetric"  # after a resnet's name: it gives a face and its mirror image the same answer
RESNETS = {  # filters and stride of the first convolution, then of each residual block
    "resnet": ((32, 2), (64, 1), (128, 2), (192, 2), (256, 2)),
    # To teach the others: a larger one, and one whose first block sees every pixel.
    "resnet-large": ((32, 2), (64, 1), (128, 2), (192, 2), (192, 1), (256, 2), (256, 1)),
    "resnet-huge": ((32, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (384, 2), (384, 1)),
}
CNN_BLOCKS = ((32, 1), (64, 2), (128, 2), (256, 2))  # filters and convolutions of each block of the plain CNN


class ModelError(ValueError):
    """A model file that cannot be used; the message says why and what to do."""


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, for a sentence."""
    return (str(error).strip() or repr(error)).split("\n")[0]


def use_onednn() -> None:
    """Let TensorFlow, not yet imported, compute through oneDNN on every processor.

    By itself it leaves oneDNN off on many, AMD's among them, and trains a third slower there; a single face, as
    main.py classifies it, goes faster without.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def prefers_bfloat16() -> bool:
    """Return whether TensorFlow trains faster in bfloat16 here: on AMX or AMD's AVX-512 (Linux tells), without a GPU.

    With AMX it is twice as fast, on AMD's Zen 4 half as fast again; on other processors it is slower, on Intel's whose
    AVX-512 knows bfloat16, too. Of GPUs, and of the other backends, nothing is assumed.
    """
    import keras

    if keras.backend.backend() != "tensorflow" or not CPU_INFORMATION.exists():
        return False
    import tensorflow as tf

    words = set(CPU_INFORMATION.read_text(encoding="utf-8").split())
    faster = "amx_bf16" in words or {"AuthenticAMD", "avx512_bf16"} <= words
    return faster and not tf.config.list_physical_devices("GPU")


def import_keras():
    """Import Keras with its backend and return it, without the half screen of notes that TensorFlow's C++ prints.

    No log level silences them, so the process's stderr is closed to them meanwhile (see `native_stderr_hidden`). A
    program that has imported Keras itself before keeps its stderr open.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with contextlib.nullcontext() if "keras" in sys.modules else native_stderr_hidden():
        try:
            import keras
        except ModuleNotFoundError as error:
            raise ModelError(
                f"{error.name} is not installed. Run {sys.executable} -m pip install -r requirements.txt, or set the "
                "environment variable KERAS_BACKEND to jax or torch if one of these is installed."
            ) from error
        except ValueError as error:
            raise ModelError(
                f"{error}. Set the environment variable KERAS_BACKEND to tensorflow, jax or torch."
            ) from error
        if tuple(map(int, keras.__version__.split(".")[:2])) < OLDEST_KERAS:
            raise ModelError(
                f"Keras {keras.__version__} is too old. Run {sys.executable} -m pip install -r requirements.txt"
            )
        if keras.backend.backend() == "tensorflow":
            keras.ops.zeros(1)  # the first operation looks for a GPU, and says so where there is none
    return keras


@contextlib.contextmanager
def native_stderr_hidden():
    """Close the process's stderr to what native code prints, for one thread at a time.

    `sys.stderr` goes on elsewhere meanwhile; what holds the old one, as a log handler may, is not heard.
    """
    with _STDERR_LOCK, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a program without a terminal may have no stderr
            kept = os.dup(2)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 2)
            with contextlib.suppress(AttributeError, OSError, ValueError):  # a replaced stderr may have no file
                if sys.stderr.fileno() == 2:
                    stderr = stack.enter_context(os.fdopen(os.dup(2), "w", 1, sys.stderr.encoding, "backslashreplace"))
                    stack.enter_context(contextlib.redirect_stderr(stderr))
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), 2)
        yield


def build_model(arch: str = "resnet-symmetric", dtype: str = "float32", image_size: int = IMAGE_SIZE):
    """Return an untrained network from faces (n, image_size, image_size, 1), 0..255, to seven probabilities (n, 7).

    `arch` is "cnn" or a key of `RESNETS`, with `SYMMETRIC` after it for paired filters (see `symmetry.py`). `dtype`
    is a Keras dtype policy, "float32" or "mixed_bfloat16"; the probabilities are float32 in both. The weights of a
    resnet fit every image size, those of a cnn only one.
    """
    import keras
    from keras import layers

    faces = keras.Input((image_size, image_size, 1), name="faces")
    x = layers.Rescaling(1 / 255, dtype=dtype)(faces)
    name, symmetric = split_arch(arch)
    x = _cnn(x, dtype) if arch == "cnn" else _resnet(x, dtype, symmetric, *RESNETS[name])
    probabilities = layers.Dense(len(EMOTIONS), activation="softmax", name="probabilities", dtype="float32")(x)
    model = keras.Model(faces, probabilities, name=arch)
    if symmetric:
        symmetry.pair_filters(model)
    return model


def split_arch(arch: str) -> tuple[str, bool]:
    """Return an architecture's name without `SYMMETRIC`, and whether that stands after it."""
    name = arch.removesuffix(SYMMETRIC)
    return name, name != arch


def _resnet(x, dtype: str, symmetric: bool, first, *blocks):
    """Residual blocks (He et al. 2015) with squeeze-and-excitation (Hu et al. 2017), averaged over the face.

    `first` and each of `blocks` are filters and stride, of the convolution before the blocks and of theirs. Where it
    takes every second pixel of an even number, a filter three wide lies lopsided; so a symmetric network halves the
    face by a filter four wide, then by pooling.
    """
    from keras import layers

    filters, strides = first
    size = 4 if symmetric and strides > 1 else 3
    x = _normalised(_convolution(x, filters, dtype, size, strides), dtype)  # (n, 24, 24, 32), or 48 x 48
    for filters, strides in blocks:
        if symmetric and strides > 1:
            x, strides = layers.AveragePooling2D(strides, padding="same", dtype=dtype)(x), 1
        y = _normalised(_convolution(x, filters, dtype, strides=strides), dtype)
        y = layers.BatchNormalization(dtype=dtype)(_convolution(y, filters, dtype))
        weight = layers.GlobalAveragePooling2D(keepdims=True, dtype=dtype)(y)
        weight = layers.Conv2D(filters // 8, 1, activation="relu", dtype=dtype)(weight)
        weight = layers.Conv2D(filters, 1, activation="sigmoid", dtype=dtype)(weight)
        y = layers.Multiply(dtype=dtype)([y, weight])
        if strides > 1:
            x = layers.AveragePooling2D(strides, padding="same", dtype=dtype)(x)
        x = layers.BatchNormalization(dtype=dtype)(_convolution(x, filters, dtype, size=1))
        x = layers.ReLU(dtype=dtype)(layers.Add(dtype=dtype)([x, y]))
    x = layers.GlobalAveragePooling2D(dtype=dtype)(x)  # (n, 256)
    return layers.Dropout(0.4, dtype=dtype)(x)


def _cnn(x, dtype: str):
    """Convolution, max pooling, batch normalisation, ReLU, dropout; then a dense layer.

    Dropout is light in the blocks, where it drops whole channels (neighbouring pixels of one channel say the same),
    and strong around the dense layer.
    """
    from keras import layers

    for filters, convolutions in CNN_BLOCKS:  # (n, 24, 24, 32), (n, 12, 12, 64), (n, 6, 6, 128), (n, 3, 3, 256)
        for _ in range(convolutions - 1):
            x = _normalised(_convolution(x, filters, dtype), dtype)
        # Pooling after ReLU gives the same maximum; pooling first leaves a quarter of the pixels to normalise.
        x = _normalised(layers.MaxPooling2D(dtype=dtype)(_convolution(x, filters, dtype)), dtype)
        x = layers.SpatialDropout2D(0.05, dtype=dtype)(x)
    x = layers.Flatten(dtype=dtype)(x)  # (n, 2304)
    x = layers.Dropout(0.4, dtype=dtype)(x)
    x = _normalised(layers.Dense(256, use_bias=False, kernel_initializer="he_normal", dtype=dtype)(x), dtype)
    return layers.Dropout(0.3, dtype=dtype)(x)


def _convolution(x, filters: int, dtype: str, size: int = 3, strides: int = 1):
    from keras import layers

    return layers.Conv2D(
        filters, size, strides, padding="same", use_bias=False, kernel_initializer="he_normal", dtype=dtype
    )(x)


def _normalised(x, dtype: str):
    from keras import layers

    return layers.ReLU(dtype=dtype)(layers.BatchNormalization(dtype=dtype)(x))


def fuse_batch_normalization(model) -> None:
    """On TensorFlow, compute batch normalisation by TensorFlow's fused operation: training is about a third faster.

    Keras writes it as a dozen operations, each a pass over memory. What is computed and saved stays the same.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return
    for layer in model.layers:
        if symmetry.normalizes_maps(layer):
            layer.call = functools.partial(_fused_call, layer)


def _fused_call(layer, inputs, training=None, mask=None):
    import tensorflow as tf

    moving = (layer.moving_mean, layer.moving_variance)
    weights = [tf.cast(weight, "float32") for weight in (layer.gamma, layer.beta, *(() if training else moving))]
    outputs, *measured = tf.compat.v1.nn.fused_batch_norm(
        inputs, *weights, epsilon=layer.epsilon, is_training=bool(training)
    )
    if training:
        for average, value in zip(moving, measured, strict=True):
            average.assign(average * layer.momentum + value * (1 - layer.momentum))
    return outputs


def measure_batch_normalization(model, faces: np.ndarray, batch_size: int = 256) -> None:
    """Set what batch normalisation subtracts and divides by to what it is on these faces, uint8 (n, 48, 48, 1).

    Training leaves the statistics of augmented faces behind, and live faces are not augmented. Nor do live faces meet
    dropout, which would widen what comes after it (Li et al. 2018, "Understanding the disharmony").
    """
    import keras

    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    momenta, rates = [layer.momentum for layer in layers], [layer.rate for layer in dropouts]
    for layer in dropouts:
        layer.rate = 0
    for count, start in enumerate(range(0, len(faces), batch_size)):
        for layer in layers:
            layer.momentum = count / (count + 1)  # so that the moving mean becomes the mean of all batches
        model(faces[start : start + batch_size].astype(np.float32), training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    for layer, rate in zip(dropouts, rates, strict=True):
        layer.rate = rate


def count_multiply_adds(model) -> int:
    """Return the multiply-adds of one face's way through the convolution and dense layers of a Keras model."""
    import keras

    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            _, height, width, _ = layer.output.shape
            total += height * width * int(np.prod(layer.kernel.shape))
        elif isinstance(layer, keras.layers.Dense):
            total += int(np.prod(layer.kernel.shape))
    return total


class Classifier:
    """A loaded network, which threads may share.

    `predict` takes uint8 faces (n, 48, 48, 1), n at least 1, to float32 (n, 7); `description` is what the `.json`
    beside the file says, or {}; `model` is Keras's, None of a `.tflite` file. A change of its weights after the first
    answer need not show: see `keras_classifier`.
    """

    def __init__(self, predict, description: dict, model=None):
        self.description, self.model = description, model
        self._predict = predict
        self._lock = threading.Lock()  # JAX and LiteRT give wrong answers or none to two threads at a time

    def probabilities(self, faces: np.ndarray) -> np.ndarray:
        """Return float32 (n, 7), rows summing to 1, for uint8 faces (n, 48, 48, 1), 0..255; n may be 0."""
        if faces.dtype != np.uint8 or faces.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 1):
            raise ValueError(f"faces must be uint8 (n, 48, 48, 1), these are {faces.dtype} {faces.shape}.")
        if len(faces) == 0:
            return np.zeros((0, len(EMOTIONS)), np.float32)
        with self._lock:
            return self._predict(faces)


def _keras_predict(model):
    """Return a function from any number of faces to a Keras model's probabilities."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return functools.partial(_predict_filled_up, model)
    import tensorflow as tf

    @functools.cache
    def traced():
        faster = symmetry.halve_multiplications(model)
        # Weights that are constants let TensorFlow work out batch normalisation's factors once: a fifth less time.
        trained = [weight.numpy() for weight in faster.trainable_variables]
        measured = [weight.numpy() for weight in faster.non_trainable_variables]
        # The free batch dimension keeps every number of faces on one trace; `predict` would cost 40 ms a frame.
        return tf.function(
            lambda faces: faster.stateless_call(trained, measured, tf.cast(faces, tf.float32), training=False)[0],
            input_signature=[tf.TensorSpec((None, IMAGE_SIZE, IMAGE_SIZE, 1), tf.uint8)],
        )

    return lambda faces: traced()(faces).numpy()


def _predict_filled_up(model, faces: np.ndarray) -> np.ndarray:
    """Predict with blank faces added up to a power of two: JAX compiles the network for every number of faces."""
    filled = np.zeros((1 << (len(faces) - 1).bit_length(), *faces.shape[1:]), faces.dtype)
    filled[: len(faces)] = faces
    return model.predict_on_batch(filled)[: len(faces)]


def lite_predict(content: bytes):
    """Return a function from faces to the probabilities of a `.tflite` file's content.

    It runs in LiteRT (`ai-edge-litert`) where that is installed, without TensorFlow, and else in TensorFlow's copy.
    Raises `ModelError` where it is damaged or does not take one uint8 face (1, 48, 48, 1) to float32 (1, 7).
    """
    with native_stderr_hidden(), warnings.catch_warnings():  # in this order, for one thread at a time
        warnings.simplefilter("ignore")  # TensorFlow's copy says that it is leaving
        interpreter_class = _import_interpreter()
        try:
            interpreter = interpreter_class(model_content=content)
            interpreter.allocate_tensors()
        except Exception as error:  # several kinds for a damaged file
            raise ModelError(f"it is damaged or of another kind: {first_line(error)}") from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    found = [(np.dtype(tensor["dtype"]).name, *map(int, tensor["shape"])) for tensor in (*inputs, *outputs)]
    expected = [("uint8", 1, IMAGE_SIZE, IMAGE_SIZE, 1), ("float32", 1, len(EMOTIONS))]
    if found != expected:
        raise ModelError(f"its tensors are {found}, this program needs {expected}")
    scale, zero_point = inputs[0]["quantization"]  # scale 0: not quantized, the pixels are taken as they are
    if zero_point != 0 or (scale != 0 and abs(scale - 1) > 1e-3):
        raise ModelError(f"its pixels are scaled by {scale:g} from {zero_point}, this program needs 0 to 255")

    def predict(faces: np.ndarray) -> np.ndarray:
        probabilities = np.zeros((len(faces), len(EMOTIONS)), np.float32)
        for row, face in zip(probabilities, faces, strict=True):
            interpreter.set_tensor(inputs[0]["index"], face[np.newaxis])
            interpreter.invoke()
            row[:] = interpreter.get_tensor(outputs[0]["index"])[0]
        return probabilities / probabilities.sum(axis=1, keepdims=True)  # int8 rounds each of the seven to 1/256

    return predict


def _import_interpreter():
    """Return LiteRT's class of interpreters, from its own small package or from TensorFlow."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        return tf.lite.Interpreter
    return Interpreter


def load_classifier(path=BEST_MODEL) -> Classifier:
    """Load a `.keras` file in safe mode, or a `.tflite` file, by default the shipped one, ready for `probabilities`.

    Raises `ModelError` where the file is missing, of another format, damaged, carries code, does not take
    (n, 48, 48, 1) faces to seven probabilities, or is contradicted by the `.json` beside it.
    """
    path = Path(path)
    description = read_description(description_path(path))
    if path.suffix == ".tflite":
        return _load_lite(path, description)
    _refuse_unsafe(path)
    keras = import_keras()
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for a damaged or unsafe file
        raise ModelError(
            f"{path} cannot be loaded ({first_line(error)}). Train a new one with: python train.py"
        ) from error
    expected = ((None, IMAGE_SIZE, IMAGE_SIZE, 1), (None, len(EMOTIONS)))
    found = getattr(model, "input_shape", None), getattr(model, "output_shape", None)  # a Sequential may have none
    if found != expected:
        raise ModelError(
            f"{path} takes {found[0]} to {found[1]}; this program needs a network from "
            f"{expected[0]} to {expected[1]}, as train.py makes it."
        )
    return keras_classifier(model, description)


def keras_classifier(model, description: dict) -> Classifier:
    """Return a Keras model as a classifier; on TensorFlow it keeps the weights that it had at its first answer."""
    return Classifier(_keras_predict(model), description, model)


def _load_lite(path: Path, description: dict) -> Classifier:
    if not path.is_file():
        made = path.with_name(path.name.replace(".int8.tflite", ".tflite"))  # an export writes the int8 twin beside it
        raise ModelError(f"There is no model at {path}. Make one with: python train.py --data PATH --export {made}")
    try:
        return Classifier(lite_predict(path.read_bytes()), description)
    except (OSError, ModelError) as error:
        reason = str(error).rstrip(".")
        raise ModelError(f"{path} cannot be used ({reason}). Make it again with: python train.py --export") from error


def description_path(path: Path) -> Path:
    """Return where a model is described: best_model.json, but best_model.tflite.json, for both may lie in a folder."""
    return path.with_name(f"{path.name}.json") if path.suffix == ".tflite" else path.with_suffix(".json")


def read_description(path: Path) -> dict:
    """Return what the `.json` beside a model says, {} where there is none; refuse one that contradicts the contract."""
    if not path.is_file():
        return {}
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        labels, pixel_range = description.get("labels", list(EMOTIONS)), description.get("pixel_range", [0, 255])
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path} is no description of a model ({error}). Delete it or train again.") from error
    if labels != list(EMOTIONS) or pixel_range != [0, 255]:
        raise ModelError(
            f"{path} says labels {labels} and pixels {pixel_range}, but this program gives {list(EMOTIONS)} and "
            "pixels 0 to 255. Use a model made by this train.py, or delete the description if it is wrong."
        )
    return description


def _refuse_unsafe(path: Path) -> None:
    """Raise `ModelError` unless the file is a `.keras` archive that names Keras's own layers and nothing else.

    Keras's safe mode refuses code as well; looking first gives a clear sentence, and does not import anything.
    """
    if not path.is_file():
        raise ModelError(f"There is no model at {path}. Make one with: python train.py --data PATH")
    with path.open("rb") as file:  # opened here, for zipfile says of one that may not be read that it is none
        is_archive = zipfile.is_zipfile(file)
    if path.suffix != ".keras" or not is_archive:
        raise ModelError(
            f"{path} is not a .keras file. Other formats (.h5, pickles) can run code when they are opened and are "
            "refused; make a model with: python train.py --data PATH"
        )
    parts = []  # every dict of the configuration
    try:
        with zipfile.ZipFile(path) as archive:
            json.loads(archive.read("config.json"), object_hook=parts.append)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is damaged ({error}). Train a new one with: python train.py") from error
    for part in parts:
        module = part.get("module")
        custom = module is not None and not (module == "builtins" or module.split(".")[0] == "keras")
        if custom or part.get("class_name") in ("Lambda", "__lambda__"):
            raise ModelError(f"{path} carries code ({part.get('class_name')}) and is refused: built-in layers only.")
