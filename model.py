"""The network and its contract: what goes in, what comes out, and how a saved one is loaded.

Faces are uint8 gray, 0..255, shape (n, 48, 48, 1); the network scales them itself, so that training and live use
cannot disagree. Probabilities come out in the order of `EMOTIONS`, which are Kaggle's codes 0..6. A network has one or
two outputs: "fer2013" predicts the label in FER-2013, "ferplus" what ten people see in the face (FER+).
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import subprocess
import sys
import threading
import warnings
import zipfile
from pathlib import Path

import numpy as np

try:
    import resource
except ImportError:  # Windows
    resource = None

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
OUTPUTS = FER2013, FERPLUS = ("fer2013", "ferplus")
IMAGE_SIZE = 48  # pixels, width and height
BEST_MODEL = Path(__file__).resolve().parent / "best_model.keras"  # the shipped one
OLDEST_KERAS = (3, 12)  # older ones load files less safely
EQUIVARIANT = "-equivariant"  # after a resnet's name: flip-equivariant convolutions
RESNETS = {  # filters and stride of the first convolution, then of each residual block
    "resnet": ((32, 2), (64, 1), (128, 2), (192, 2), (256, 2)),
    "resnet-huge": ((32, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (384, 2), (384, 1)),  # as a teacher
}
CNN_BLOCKS = ((32, 1), (64, 2), (128, 2), (256, 2))  # filters and convolutions of each block of the plain CNN
ARCHITECTURES = ("resnet-equivariant", "resnet", "resnet-huge-equivariant", "resnet-huge", "cnn")
QUOTED = 300  # letters of another program's error message, at most
TRIAL_SECONDS = 5  # that native code may take for a file of unknown origin
JSON_BYTES, UNPACKED_BYTES, MEMBERS = 2**24, 2**27, 100  # of a description, and of a .keras archive, at most
OBJECTS, LAYERS, NUMBERS = 1000, 150, 2**25  # in a .keras configuration; in a row; in all weights or a layer's output
DESCRIPTION_TYPES = {  # of what is read from a description
    "labels": list, "pixel_range": list, "sha256": str,
    "exported_from": dict, "calibration": dict, "training": dict, "scores": dict,
}  # fmt: skip
KERAS_BYTES = 3.5 * 2**30  # of addresses that TensorFlow needs: it aborts with fewer
_STDERR_LOCK = threading.RLock()


class UserError(ValueError):
    """Something the user can fix; the message is a sentence that says what is wrong and what to do."""


class ModelError(UserError):
    """A model file that cannot be used."""


# --- the network ------------------------------------------------------------------------------------------------


def build_model(arch: str = ARCHITECTURES[0], dtype="float32", image_size: int = IMAGE_SIZE, outputs=(FER2013,)):
    """Return an untrained network from faces (n, image_size, image_size, 1), 0..255, to probabilities (n, 7).

    `arch` is one of `ARCHITECTURES`; `dtype` is a Keras dtype policy, "float32" or "mixed_bfloat16"; probabilities are
    float32 in both. With several `outputs` it returns a list of probabilities, one for each name. The weights of a
    resnet fit every image size, those of the cnn only one.
    """
    import keras
    from keras import layers

    faces = keras.Input((image_size, image_size, 1), name="faces")
    x = layers.Rescaling(1 / 255, dtype=dtype)(faces)
    x = _cnn(x, dtype) if arch == "cnn" else _resnet(x, arch, dtype)
    heads = [layers.Dense(len(EMOTIONS), activation="softmax", name=name, dtype="float32")(x) for name in outputs]
    model = keras.Model(faces, heads if len(heads) > 1 else heads[0], name=arch)
    if is_equivariant(arch):
        _make_equivariant(model)
    return model


def is_equivariant(arch: str) -> bool:
    """Return whether a network of this name predicts the same for a face and its mirror image."""
    return arch.endswith(EQUIVARIANT)


def _resnet(x, arch: str, dtype: str):
    """Residual blocks (He et al. 2015) with squeeze-and-excitation (Hu et al. 2017), averaged over the face.

    A convolution three wide that takes every second pixel of an even number lies off-centre, which would break flip
    equivariance; so an equivariant network halves the face by a filter four wide, then by average pooling.
    """
    from keras import layers

    equivariant = is_equivariant(arch)
    (filters, strides), *blocks = RESNETS[arch.removesuffix(EQUIVARIANT)]
    size = 4 if equivariant and strides > 1 else 3
    x = _norm_relu(_conv(x, filters, dtype, size, strides), dtype)  # (B, 24, 24, 32); huge: (B, 48, 48, 32)
    for filters, strides in blocks:  # (B, 24, 24, 64), (B, 12, 12, 128), (B, 6, 6, 192), (B, 3, 3, 256)
        if equivariant and strides > 1:
            x, strides = layers.AveragePooling2D(strides, padding="same", dtype=dtype)(x), 1
        y = _norm_relu(_conv(x, filters, dtype, strides=strides), dtype)
        y = layers.BatchNormalization(dtype=dtype)(_conv(y, filters, dtype))
        weight = layers.GlobalAveragePooling2D(keepdims=True, dtype=dtype)(y)  # (B, 1, 1, filters)
        weight = layers.Conv2D(filters // 8, 1, activation="relu", dtype=dtype)(weight)
        weight = layers.Conv2D(filters, 1, activation="sigmoid", dtype=dtype)(weight)
        y = layers.Multiply(dtype=dtype)([y, weight])
        if strides > 1:
            x = layers.AveragePooling2D(strides, padding="same", dtype=dtype)(x)
        x = layers.BatchNormalization(dtype=dtype)(_conv(x, filters, dtype, size=1))
        x = layers.ReLU(dtype=dtype)(layers.Add(dtype=dtype)([x, y]))
    x = layers.GlobalAveragePooling2D(dtype=dtype)(x)  # (B, 256)
    return layers.Dropout(0.4, dtype=dtype)(x)


def _cnn(x, dtype: str):
    """Convolution, max pooling, batch normalisation, ReLU, dropout; then a dense layer.

    Dropout is light in the blocks, where it drops whole channels (neighbouring pixels of a channel are redundant), and
    strong around the dense layer.
    """
    from keras import layers

    for filters, convolutions in CNN_BLOCKS:  # (B, 24, 24, 32), (B, 12, 12, 64), (B, 6, 6, 128), (B, 3, 3, 256)
        for _ in range(convolutions - 1):
            x = _norm_relu(_conv(x, filters, dtype), dtype)
        # Pooling after ReLU gives the same maximum; pooling first leaves a quarter of the pixels to normalise.
        x = _norm_relu(layers.MaxPooling2D(dtype=dtype)(_conv(x, filters, dtype)), dtype)
        x = layers.SpatialDropout2D(0.05, dtype=dtype)(x)
    x = layers.Flatten(dtype=dtype)(x)  # (B, 2304)
    x = layers.Dropout(0.4, dtype=dtype)(x)
    x = _norm_relu(layers.Dense(256, use_bias=False, kernel_initializer="he_normal", dtype=dtype)(x), dtype)
    return layers.Dropout(0.3, dtype=dtype)(x)


def _conv(x, filters: int, dtype: str, size: int = 3, strides: int = 1):
    from keras import layers

    return layers.Conv2D(
        filters, size, strides, padding="same", use_bias=False, kernel_initializer="he_normal", dtype=dtype
    )(x)


def _norm_relu(x, dtype: str):
    from keras import layers

    return layers.ReLU(dtype=dtype)(layers.BatchNormalization(dtype=dtype)(x))


def count_multiply_adds(model) -> int:
    """Return the multiply-adds of one face in the convolution and dense layers of a Keras model."""
    import keras

    layers = [layer for layer in model.layers if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))]
    return sum(math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape) for layer in layers)


# --- flip-equivariant convolutions ------------------------------------------------------------------------------


def _make_equivariant(model) -> None:
    """Keep the second half of every layer's filters mirror images of the first half, now and throughout training.

    A mirrored face then only swaps the two halves of a layer's channels, until global average pooling makes both the
    same: a group convolution (Cohen & Welling 2016, "Group equivariant convolutional networks").
    """
    import keras

    class FlipEquivariant(keras.constraints.Constraint):  # Keras 3.12 takes no plain function
        def __init__(self, is_output: bool):
            self.is_output = is_output

        def __call__(self, weight):
            return _project(weight, self.is_output)

    for layer in model.layers:
        is_output = isinstance(layer, keras.layers.Dense)  # the seven probabilities have no halves
        for weight in layer.trainable_variables:
            weight.constraint = FlipEquivariant(is_output)
            spread = 2**0.5 if len(weight.shape) > 1 else 1  # the mean of two random numbers varies less
            weight.assign(spread * weight.constraint(weight))


def _project(weight, is_output: bool = False):
    """Return the nearest flip-equivariant weights: the mean of the weights and of their mirrored, swapped halves."""
    from keras import ops

    weight = ops.convert_to_tensor(weight)
    mirrored = ops.flip(weight, axis=1) if len(weight.shape) == 4 else weight  # rows, columns, inputs, outputs
    for axis in range(-min(len(weight.shape), 2), -1 if is_output else 0):
        if weight.shape[axis] > 1:  # a gray face is one input
            mirrored = ops.roll(mirrored, weight.shape[axis] // 2, axis=axis)
    return (weight + mirrored) / 2


def fold_symmetric_kernels(model):
    """Return a copy of a trained Keras model that predicts the same with half the multiplications, where equivariant.

    A flip-equivariant convolution is computed for the sums and the differences of its paired channels. A mirrored face
    mirrors the sums, and the differences with the opposite sign; so filters from sums to sums and from differences to
    differences are symmetric, and the two kinds in between antisymmetric. Of three columns, symmetric filters need two
    multiplications (the pixel, and its neighbours' mean) and antisymmetric ones need one (half the neighbours'
    difference). Two-by-two average pooling becomes a convolution as well: LiteRT is slow at it in int8.
    The copy is meant to be run or converted: its kernels are constants, and it cannot be saved.
    """
    import keras

    replaced = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.AveragePooling2D) and _halves_evenly(layer):
            quarters = {"use_bias": False, "depthwise_initializer": keras.initializers.Constant(0.25)}
            replaced[layer.name] = keras.layers.DepthwiseConv2D(2, 2, dtype=layer.dtype_policy, **quarters)
        normalization = _only_follower(layer)
        if isinstance(layer, keras.layers.Conv2D) and normalizes_maps(normalization):
            kernel, offset = _fuse(layer, normalization)
            if _is_foldable(layer, kernel, offset):
                activation = _only_follower(normalization)
                relu = isinstance(activation, keras.layers.ReLU)
                replaced[normalization.name] = _folded_layer(kernel, offset, relu, layer.dtype_policy)
                for absorbed in (layer, activation) if relu else (layer,):
                    replaced[absorbed.name] = keras.layers.Identity(dtype=absorbed.dtype_policy)

    def replace(layer):
        return replaced[layer.name] if layer.name in replaced else layer.from_config(layer.get_config())

    folded = keras.models.clone_model(model, clone_function=replace)
    for layer in model.layers:
        if layer.weights and layer.name not in replaced:  # an input may have another name in the copy
            folded.get_layer(layer.name).set_weights(layer.get_weights())
    return folded


def _folded_layer(kernel, offset, relu: bool, dtype):
    """Return a layer that computes an equivariant convolution, its batch normalisation and ReLU on folded kernels."""
    import keras
    from keras import ops

    to_sums, to_differences = _split_kernel(kernel)
    offset = offset[: len(offset) // 2]

    class FoldedConvolution(keras.layers.Layer):
        def compute_output_shape(self, shape):
            return *shape[:-1], 2 * len(offset)

        def call(self, x, mask=None):  # with the arguments of batch normalisation
            one, other = ops.split(x, 2, axis=-1)
            sums, differences = one + other, one - other
            if len(to_sums) == 3:  # rows
                sums, differences = (
                    ops.concatenate([sums, _neighbours(sums, 0.5), _neighbours(differences, -0.5)], axis=-1),
                    ops.concatenate([differences, _neighbours(differences, 0.5), _neighbours(sums, -0.5)], axis=-1),
                )
            sums = ops.conv(sums, ops.cast(to_sums, x.dtype), padding="same") + ops.cast(offset, x.dtype)
            differences = ops.conv(differences, ops.cast(to_differences, x.dtype), padding="same")
            halves = [sums + differences, sums - differences]
            if relu:  # before the halves are joined: free in int8
                halves = [ops.relu(half) for half in halves]
            return ops.concatenate(halves, axis=-1)

    return FoldedConvolution(dtype=dtype)


def normalizes_maps(layer) -> bool:
    """Return whether a layer is batch normalisation as `build_model` uses it; other networks may have other kinds."""
    import keras

    usual = isinstance(layer, keras.layers.BatchNormalization) and layer.scale and layer.center
    return usual and len(layer.output.shape) == 4 and layer.axis in (-1, 3)


def _only_follower(layer):
    """Return the layer that takes this one's output, None if there are several."""
    followers = {node.operation for node in layer._outbound_nodes}
    return followers.pop() if len(followers) == 1 else None


def _fuse(convolution, normalization):
    """Return kernel and offset of the convolution that equals a convolution followed by batch normalisation."""
    gamma, beta, mean, variance = (weight.astype(np.float64) for weight in normalization.get_weights())
    scale = gamma / np.sqrt(variance + normalization.epsilon)
    kernel = convolution.get_weights()[0] * scale
    return kernel.astype(np.float32), (beta - mean * scale).astype(np.float32)


def _is_foldable(convolution, kernel, offset) -> bool:
    """Return whether a convolution is 1x1 or 3x3, takes every pixel, and is flip-equivariant."""
    return (
        kernel.shape[:2] in ((1, 1), (3, 3))
        and kernel.shape[2] > 1
        and (convolution.strides, convolution.padding, convolution.use_bias) == ((1, 1), "same", False)
        and all(np.allclose(weight, _project(weight), atol=1e-5) for weight in (kernel, offset))
    )


def _halves_evenly(pooling) -> bool:
    """Return whether pooling takes two-by-two pixels, and none beyond the border."""
    (_, height, width, _), halved = pooling.input.shape, pooling.output.shape[1:3]
    return pooling.pool_size == pooling.strides == (2, 2) and (height, width) == (2 * halved[0], 2 * halved[1])


def _split_kernel(kernel):
    """Return the kernels, float32 (rows, 1, inputs, pairs), to the sums of paired channels and to the differences."""
    half = kernel.shape[2] // 2, kernel.shape[3] // 2
    of_one, of_other = kernel[:, :, : half[0], : half[1]], kernel[:, :, half[0] :, : half[1]]
    of_sums, of_differences = (of_one + of_other) / 2, (of_one - of_other) / 2
    if kernel.shape[1] == 1:
        return of_sums, of_differences
    return tuple(
        np.concatenate([symmetric[:, 1:2], symmetric[:, 2:] + symmetric[:, :1], other[:, 2:] - other[:, :1]], axis=2)
        for symmetric, other in ((of_sums, of_differences), (of_differences, of_sums))
    )


def _neighbours(x, left: float):
    """Return `left` times every pixel's left neighbour plus half of its right one, for x (B, height, width, c)."""
    from keras import ops

    kernel = np.zeros((1, 3, x.shape[-1], 1), np.float32)
    kernel[:, 0], kernel[:, 2] = left, 0.5
    return ops.depthwise_conv(x, ops.cast(kernel, x.dtype), padding="same")


# --- Keras and its backend --------------------------------------------------------------------------------------


def import_keras():
    """Import Keras with its backend and return it, without the pages of notes that TensorFlow's C++ code prints.

    No log level silences all of them, so the process's stderr is closed to native code meanwhile. Nothing is hidden
    from a program that has imported Keras before.
    """
    allowed_bytes = resource.getrlimit(resource.RLIMIT_AS)[0] if resource else -1
    if 0 <= allowed_bytes < KERAS_BYTES:
        gigabytes = f"{allowed_bytes / 2**30:.1f} GB of memory are allowed (ulimit -v)"
        raise ModelError(f"Only {gigabytes}, and TensorFlow needs {KERAS_BYTES / 2**30:.1f}. Allow more.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    first = "keras" not in sys.modules
    with native_stderr_hidden() if first else contextlib.nullcontext():
        try:
            import keras

            recent = tuple(map(int, keras.__version__.split(".")[:2])) >= OLDEST_KERAS
            if first and recent:  # ~/.keras/keras.json may have others; a program that has imported Keras keeps its own
                keras.config.set_image_data_format("channels_last")
                keras.config.set_floatx("float32")
            if recent and keras.backend.backend() == "tensorflow":
                keras.ops.zeros(1)  # the first operation looks for a GPU, and prints a note if there is none
        except ModuleNotFoundError as error:
            wanted = os.environ.get("KERAS_BACKEND") == error.name
            raise ModelError(
                f"{error.name} is not installed. Run {sys.executable} -m pip install "
                f"{error.name if wanted else '-r requirements.txt'}, or set the environment variable KERAS_BACKEND to "
                "tensorflow, jax or torch, whichever is installed."
            ) from error
        except Exception as error:  # a broken package can raise any kind
            raise ModelError(
                f"Keras cannot be used ({first_line(error)}). Set the environment variable KERAS_BACKEND to "
                f"tensorflow, jax or torch, look at ~/.keras/keras.json, or run {sys.executable} -m pip install "
                "--force-reinstall -r requirements.txt"
            ) from error
        if not recent:
            raise ModelError(
                f"Keras {keras.__version__} is too old. Run {sys.executable} -m pip install -r requirements.txt"
            )
    return keras


@contextlib.contextmanager
def native_stderr_hidden():
    """Hide what native code prints on the process's stderr, for one thread at a time; `sys.stderr` goes on."""
    with _STDERR_LOCK, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a program without a terminal may have no stderr
            kept = os.dup(2)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 2)
            with contextlib.suppress(AttributeError, OSError, ValueError):  # a replaced stderr may have no file
                if sys.stderr.fileno() == 2:
                    stack.enter_context(contextlib.redirect_stderr(_lasting_stderr()))
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), 2)
        yield


@functools.cache
def _lasting_stderr():
    """Return a duplicate of stderr that is never closed: log handlers made meanwhile go on using it."""
    return os.fdopen(os.dup(2), "w", 1, sys.stderr.encoding, "backslashreplace")


# --- a trained network ------------------------------------------------------------------------------------------


class Classifier:
    """A loaded network, which threads may share.

    `predict` maps uint8 faces (n, 48, 48, 1), n at least 1, to float32 (n, outputs, 7); `outputs` names them and
    `labels` is the one that `probabilities` returns; `description` is the content of the `.json` beside the file, or
    {}; `model` is Keras's, None for a `.tflite` file. A change of its weights after the first prediction may have no
    effect: see `keras_classifier`.
    """

    def __init__(self, predict, outputs: tuple, description: dict, model=None):
        self.outputs, self.description, self.model = outputs, description, model
        self.labels = FERPLUS if FERPLUS in outputs else outputs[0]
        self._predict = predict
        self._lock = threading.Lock()  # JAX and LiteRT give wrong results to two threads at a time

    def probabilities(self, faces: np.ndarray) -> np.ndarray:
        """Return float32 (n, 7), rows summing to 1, for uint8 faces (n, 48, 48, 1), 0..255; n may be 0."""
        return self.all_probabilities(faces)[:, self.outputs.index(self.labels)]

    def all_probabilities(self, faces: np.ndarray) -> np.ndarray:
        """Return the probabilities of every output, float32 (n, outputs, 7), for uint8 faces (n, 48, 48, 1)."""
        if faces.dtype != np.uint8 or faces.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 1):
            raise ValueError(f"faces must be uint8 (n, 48, 48, 1), these are {faces.dtype} {faces.shape}.")
        if len(faces) == 0:
            return np.zeros((0, len(self.outputs), len(EMOTIONS)), np.float32)
        with self._lock:
            try:
                outputs = self._predict(faces)
            except Exception as error:  # a layer may fail in many ways
                raise ModelError(f"The network cannot predict ({first_line(error)}). Use another one.") from error
        return checked_probabilities(outputs)


def checked_probabilities(outputs: np.ndarray) -> np.ndarray:
    """Return a network's outputs (n, outputs, 7) with rows that sum to 1. Raises `ModelError` for others and NaN."""
    sums = outputs.sum(axis=2, keepdims=True)
    if not (outputs.min() >= 0 and np.abs(sums - 1).max() < 0.05):
        raise ModelError(
            f"The network's seven outputs are not probabilities: they sum to {sums.flat[0]:.3g}. It needs a softmax "
            "as its last layer."
        )
    return outputs / sums  # int8 rounds each of the seven to 1/256


def shipped_model() -> Path:
    """Return best_model.tflite, which runs without TensorFlow, if it was made from the best_model.keras beside it.

    Else return that one, and say so on stderr.
    """
    lite = BEST_MODEL.with_suffix(".tflite")
    if lite.is_file():
        origin = read_description(description_path(lite)).get("exported_from", {}).get("sha256")
        if not BEST_MODEL.is_file() or origin == sha256_of(BEST_MODEL):
            return lite
    print(
        f"{lite.name} does not belong to {BEST_MODEL.name}, so TensorFlow runs that, which starts more slowly. Make it "
        "with: python train.py --export",
        file=sys.stderr,
    )
    return BEST_MODEL


def load_classifier(path=None, labels: str | None = None) -> Classifier:
    """Load a `.keras` file in safe mode, or a `.tflite` file, by default the included network.

    `labels` is the output that `probabilities` returns, by default "ferplus" if the network has it.
    Raises `ModelError` if the file is missing, of another format, damaged, carries code, does not map (n, 48, 48, 1)
    faces to seven probabilities, contradicts the `.json` beside it, or has no such output.
    """
    path = shipped_model() if path is None else Path(path)
    lite = path.suffix == ".tflite"
    if not path.is_file():
        words = "python train.py --data PATH"
        if lite:  # an export writes the int8 twin beside it
            words += f" --export {path.with_name(path.name.replace('.int8.tflite', '.tflite'))}"
        elif path.resolve() != BEST_MODEL:
            words += f" --output {path}"
        raise ModelError(f"There is no model at {path}. Make one with: {words}")
    description = read_description(description_path(path))
    if description.get("sha256", "") not in ("", sha256_of(path)):  # after a kill between the two, or a copy of one
        other = description_path(path).name
        print(f"{other!r} describes another network than {path.name!r} and is ignored.", file=sys.stderr)
        description = {}
    classifier = _load_lite(path, description) if lite else _load_keras(path, description)
    if labels and labels not in classifier.outputs:
        raise ModelError(
            f"The network has no output {labels}, only {', '.join(classifier.outputs)}. Choose one of these, or train "
            "a network with FER+'s votes."
        )
    classifier.labels = labels or classifier.labels
    return classifier


def _load_keras(path: Path, description: dict) -> Classifier:
    config = _refuse_unsafe(path)
    keras = import_keras()
    try:
        _refuse_huge(config)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        found = getattr(model, "input_shape", None), getattr(model, "output_shape", None)  # a Sequential may have none
        names = tuple(getattr(model, "output_names", ()))
    except Exception as error:  # Keras raises many kinds for a damaged or unsafe file
        raise ModelError(
            f"{path} cannot be loaded ({first_line(error)}). Train a new one with: python train.py"
        ) from error
    expected = (None, IMAGE_SIZE, IMAGE_SIZE, 1), (None, len(EMOTIONS))
    if found != expected and not (found == (expected[0], [expected[1]] * 2) and names == OUTPUTS):
        raise ModelError(
            f"{path} maps {found[0]} to {found[1]}; this program needs a network from {expected[0]} to {expected[1]}, "
            f"or to two of these named {' and '.join(OUTPUTS)}, as train.py makes it."
        )
    try:
        if not all(np.isfinite(weight).all() for weight in model.get_weights()):
            raise ModelError("Its weights contain NaN or infinity.")
        checked_probabilities(_predict_once(model, np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 1), np.uint8)))
    except Exception as error:  # a layer may fail in many ways
        reason = first_line(error).rstrip(".")
        raise ModelError(f"{path} cannot be used: {reason}. Train a new one with: python train.py") from error
    return keras_classifier(model, description)


def _refuse_huge(config: dict) -> None:
    """Raise `ModelError` for a Keras configuration of a network that might fill the memory, without filling it."""
    import keras
    from keras.src.backend.common import global_state

    config = {key: value for key, value in config.items() if key != "compile_config"}
    try:
        with keras.StatelessScope(initialize_variables=False):  # variables with a shape and without values
            model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    finally:
        global_state.set_global_attribute("uninitialized_variables", [])  # nobody is to give them values later
    layers = model._flatten_layers() if hasattr(model, "_flatten_layers") else []
    nodes = {id(node): node for layer in layers for node in layer._inbound_nodes}.values()
    outputs = keras.tree.flatten([node.output_tensors for node in nodes])
    weights = sum(math.prod(weight.shape) for weight in getattr(model, "variables", ()))
    if max([weights, *(math.prod(filter(None, output.shape)) for output in outputs)]) > NUMBERS:
        raise ModelError("it needs more memory than a network of faces can")


def keras_classifier(model, description: dict) -> Classifier:
    """Return a Keras model as a classifier; on TensorFlow it keeps the weights it has at its first prediction."""
    outputs = OUTPUTS if len(model.outputs) > 1 else (FER2013,)
    return Classifier(_keras_predict(model), outputs, description, model)


def _keras_predict(model):
    """Return a function from any number of faces to a Keras model's probabilities (n, outputs, 7)."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return functools.partial(_predict_padded, model)
    import tensorflow as tf

    @functools.cache
    def traced():
        folded = fold_symmetric_kernels(model)
        # Constant weights let TensorFlow compute batch normalisation's factors once: a fifth less time.
        trained = [weight.numpy() for weight in folded.trainable_variables]
        measured = [weight.numpy() for weight in folded.non_trainable_variables]
        # The free batch dimension keeps every number of faces on one trace; `predict` would cost 40 ms a frame.
        return tf.function(
            lambda faces: _stack(
                folded.stateless_call(trained, measured, tf.cast(faces, tf.float32), training=False)[0]
            ),
            input_signature=[tf.TensorSpec((None, IMAGE_SIZE, IMAGE_SIZE, 1), tf.uint8)],
        )

    return lambda faces: traced()(faces).numpy()


def _predict_once(model, faces: np.ndarray) -> np.ndarray:
    """Predict without keeping the weights or compiling for TensorFlow; JAX is slow without compiling."""
    import keras

    if keras.backend.backend() == "jax":
        return _predict_padded(model, faces)
    return keras.ops.convert_to_numpy(_stack(model(faces.astype(np.float32))))


def _stack(outputs):
    """Return the outputs of a network, a tensor (n, 7) or a list of them, as one tensor (n, outputs, 7)."""
    from keras import ops

    return ops.stack(outputs if isinstance(outputs, (list, tuple)) else [outputs], axis=1)


def _predict_padded(model, faces: np.ndarray) -> np.ndarray:
    """Predict with blank faces added up to a power of two: JAX compiles the network for every number of faces."""
    padded = np.zeros((1 << (len(faces) - 1).bit_length(), *faces.shape[1:]), faces.dtype)
    padded[: len(faces)] = faces
    outputs = model.predict_on_batch(padded)
    return np.stack(outputs if isinstance(outputs, list) else [outputs], axis=1)[: len(faces)]


def _load_lite(path: Path, description: dict) -> Classifier:
    try:
        if path.stat().st_size > UNPACKED_BYTES:
            raise ModelError("it is too large")
        if not (path.absolute().parent == BEST_MODEL.parent and "sha256" in description):  # train.py made it here
            use = "model.try_lite(path)"
            if not survives("import model; model.import_interpreter()", use, path.absolute(), sha256_of(path)):
                raise ModelError("it crashes the program, or does not end")
        classifier = try_lite(path, description)
    except (OSError, RuntimeError, ModelError) as error:  # RuntimeError: an operation failed
        reason = first_line(error).rstrip(".")
        raise ModelError(f"{path} cannot be used ({reason}). Make it again with: python train.py --export") from error
    return classifier


def try_lite(path, description: dict | None = None) -> Classifier:
    """Load a `.tflite` file and classify a face with it. Raises `RuntimeError` or `ModelError` if that fails."""
    classifier = Classifier(*lite_predict(Path(path).read_bytes()), description or {})
    classifier.all_probabilities(np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 1), np.uint8))
    return classifier


def lite_predict(content: bytes) -> tuple:
    """Return a function from uint8 faces (n, 48, 48, 1) to float32 (n, outputs, 7) for the content of a `.tflite` file,
    and the names of its outputs.

    It runs in LiteRT (`ai-edge-litert`) if that is installed, without TensorFlow, else in TensorFlow's copy.
    Raises `ModelError` if it is damaged or does not map one uint8 face (1, 48, 48, 1) to float32 (1, 7) an output.
    """
    with native_stderr_hidden(), warnings.catch_warnings():  # in this order, for one thread at a time
        warnings.simplefilter("ignore")  # TensorFlow's copy warns that it is deprecated
        interpreter_class = import_interpreter()
        try:
            interpreter = interpreter_class(model_content=content)
            interpreter.allocate_tensors()
        except Exception as error:  # several kinds for a damaged file
            raise ModelError(f"it is damaged or of another kind: {first_line(error)}") from error
    inputs, outputs = interpreter.get_input_details(), _lite_outputs(interpreter)
    found = [(np.dtype(tensor["dtype"]).name, *map(int, tensor["shape"])) for tensor in (*inputs, *outputs.values())]
    expected = [("uint8", 1, IMAGE_SIZE, IMAGE_SIZE, 1), ("float32", 1, len(EMOTIONS))]
    if found not in (expected, [*expected, expected[1]]):
        raise ModelError(f"its tensors are {found}, this program needs {expected}")
    scale, zero_point = inputs[0]["quantization"]  # scale 0: not quantized, the pixels are taken as they are
    if zero_point != 0 or (scale != 0 and abs(scale - 1) > 1e-3):
        raise ModelError(f"its pixels are scaled by {scale:g} from {zero_point}, this program needs 0 to 255")

    def predict(faces: np.ndarray) -> np.ndarray:
        probabilities = np.zeros((len(faces), len(outputs), len(EMOTIONS)), np.float32)
        for row, face in zip(probabilities, faces, strict=True):
            interpreter.set_tensor(inputs[0]["index"], face[np.newaxis])
            interpreter.invoke()
            for column, output in enumerate(outputs.values()):
                row[column] = interpreter.get_tensor(output["index"])[0]
        return probabilities

    return predict, tuple(outputs)


def _lite_outputs(interpreter) -> dict:
    """Return the details of a `.tflite` file's outputs by name; a single one is the label in FER-2013."""
    details = interpreter.get_output_details()
    if len(details) == 1:
        return {FER2013: details[0]}
    named = interpreter.get_signature_runner().get_output_details() if interpreter.get_signature_list() else {}
    return {name: named[name] for name in OUTPUTS if name in named}


def import_interpreter():
    """Return LiteRT's interpreter class, from its own small package or from TensorFlow."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except Exception as error:  # it is missing, or broken in any way
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            import tensorflow as tf
        except ModuleNotFoundError:
            raise (error if isinstance(error, ImportError) else ImportError(first_line(error))) from None
        return tf.lite.Interpreter
    return Interpreter


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, to quote in a sentence."""
    return (str(error).strip() or repr(error)).split("\n")[0][:QUOTED]


# --- descriptions and safety ------------------------------------------------------------------------------------


def description_path(path: Path) -> Path:
    """Return a model's description: best_model.json, but best_model.tflite.json, for both may lie in one folder."""
    return path.with_name(f"{path.name}.json") if path.suffix == ".tflite" else path.with_suffix(".json")


def sha256_of(path: Path) -> str:
    """Return the hash of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.cache
def survives(preparation: str, use: str, path: Path, sha256: str, seconds: float = TRIAL_SECONDS) -> bool:
    """Return whether a process of its own survives the use of a file: native code may crash in it, or never end.

    Python runs `preparation`, which may take long, then `use` with `path`; an exception in it is no crash. A file is
    tried once, as long as its content has the same hash.
    """
    if getattr(sys, "frozen", False):  # a program made of this one: it has no Python to start
        return True
    code = (
        f"import contextlib, faulthandler, sys; path = sys.argv[1]; sys.path.insert(0, ''); {preparation}\n"
        "print('ready', flush=True)\n"
        f"faulthandler.dump_traceback_later({seconds}, exit=True)\n"
        f"with contextlib.suppress(Exception): {use}\n"
        "print('survived')"
    )
    command, quiet = [sys.executable, "-c", code, str(path)], subprocess.DEVNULL
    options = {"stdin": quiet, "stderr": quiet, "cwd": Path(__file__).parent}  # its modules, and no other's
    return subprocess.run(command, stdout=subprocess.PIPE, **options).stdout.split() != [b"ready"]


def read_description(path: Path) -> dict:
    """Return the `.json` beside a model, {} if there is none; refuse one that contradicts the contract."""
    if not path.exists():
        return {}
    try:
        description = read_json(path)
        check_types(description, DESCRIPTION_TYPES)
        calibration = description.get("calibration", {})
        for of_output in (calibration, calibration.get(FERPLUS, {})):
            if not 1e-3 < of_output.get("temperature", 1) < 1e3:
                raise ValueError("a temperature is not a positive number of usual size")
            if not all(abs(amount) < 20 for amount in of_output.get("logit_adjustment", {}).values()):
                raise ValueError("a logit adjustment is not a number of usual size")
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is not a description of a model ({error}). Delete it or train again.") from error
    labels, pixel_range = description.get("labels", list(EMOTIONS)), description.get("pixel_range", [0, 255])
    if labels != list(EMOTIONS) or pixel_range != [0, 255]:
        raise ModelError(
            f"{path} has labels {labels} and pixels {pixel_range}, but this program uses {list(EMOTIONS)} and pixels "
            "0 to 255. Use a model made by this train.py, or delete the description if it is wrong."
        )
    return description


def read_json(path: Path) -> dict:
    """Return the object in a JSON file. Raises `OSError`, or `ValueError` if it is anything else, or too large."""
    if not path.is_file():  # a pipe would be waited for, and a device has no end
        raise FileNotFoundError(f"there is no file {path}")
    with path.open("rb") as file:
        content = file.read(JSON_BYTES + 1)
    return parse_json(content)


def parse_json(content: bytes, object_hook=None) -> dict:
    """Return the object in JSON text. Raises `ValueError` if it is anything else, too large, or nested too deep."""
    if len(content) > JSON_BYTES:
        raise ValueError(f"more than {JSON_BYTES // 2**20} MB of JSON")
    try:
        parsed = json.loads(content.decode(), object_hook=object_hook)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deep") from error
    if not isinstance(parsed, dict):
        raise ValueError("its JSON is not an object")
    return parsed


def check_types(content: dict, types: dict) -> None:
    """Raise `ValueError` where a value of a JSON object is not of the type that its key should have."""
    for key, kind in types.items():
        if key in content and type(content[key]) is not kind:
            raise ValueError(f"{key} is not of the type {kind.__name__}")


def _refuse_unsafe(path: Path) -> dict:
    """Return the configuration in a `.keras` archive; raise `ModelError` if it names more than some of Keras's layers.

    Keras's safe mode refuses code as well; looking first gives a clear sentence, and does not import anything.
    """
    with path.open("rb") as file:  # opened here: zipfile takes a file without read permission for no archive
        is_archive = zipfile.is_zipfile(file)
    if path.suffix != ".keras" or not is_archive:
        raise ModelError(
            f"{path} is not a .keras file. Other formats (.h5, pickles) can run code when they are opened and are "
            "refused; make a model with: python train.py --data PATH"
        )
    parts = []  # every dict of the configuration
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MEMBERS or sum(member.file_size for member in members) > UNPACKED_BYTES:
                raise ValueError("it unpacks to more than a network of faces can need")
            if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
                raise ValueError("Keras compresses in another way")
            with archive.open("config.json") as config:
                parsed = parse_json(config.read(JSON_BYTES + 1), lambda part: parts.append(part) or part)
            lists = [part["layers"] for part in parts if isinstance(part.get("layers"), list)]
            if sum("class_name" in part for part in parts) > OBJECTS or max(map(len, lists), default=0) > LAYERS:
                raise ValueError("it has more layers than a network of faces can need")
    except Exception as error:  # zipfile raises many kinds for a damaged or encrypted archive
        raise ModelError(f"{path} is damaged ({first_line(error)}). Train a new one with: python train.py") from error
    for part in parts:
        if "Attention" in str(part.get("class_name")):
            raise ModelError(f"{path} has a layer {part['class_name']}, which may fill any memory, and is refused.")
        module = part.get("module")
        custom = module is not None and not (module == "builtins" or str(module).split(".")[0] == "keras")
        if custom or part.get("class_name") in ("Lambda", "__lambda__"):
            raise ModelError(f"{path} carries code ({part.get('class_name')}) and is refused: built-in layers only.")
    return parsed
