"""What several test modules share: tiny untrained networks, the demo's frames, and cameras that follow a script."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

# As many tests run at a time as there are cores, so more threads would only wait for each other.
for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "OPENCV_FOR_THREADS_NUM"):
    os.environ.setdefault(name, "1")

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from live.opening import find_sources, open_entry  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as train.py sets it: some tests import Keras earlier
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so do its children
REAL_CAPTURE = cv2.VideoCapture


def run_code(code, cwd=REPOSITORY, **environment):
    """Run Python code as a process of its own, with these variables in its environment as well."""
    env = {**os.environ, **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=170)


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """Path of a .keras network that takes no time: one dense layer, untrained."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    path = tmp_path_factory.mktemp("network") / "tiny.keras"
    tiny = [keras.Input((48, 48, 1)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(7, "softmax")]
    keras.Sequential(tiny).save(path)
    for name in ("tiny.json", "tiny.tflite.json"):  # else main.py warns
        path.with_name(name).write_text('{"pixel_range": [0, 255]}')
    return path


@pytest.fixture(scope="session")
def lite_network(network):
    """Path of the same network as .tflite: LiteRT runs it, TensorFlow need not be imported."""
    import tensorflow as tf

    from model import import_keras, native_stderr_hidden

    keras = import_keras()
    model = keras.saving.load_model(network, compile=False)
    face = keras.Input(batch_shape=(1, 48, 48, 1), dtype="uint8", name="faces")
    path = network.with_suffix(".tflite")
    with native_stderr_hidden():
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(keras.Model(face, model(face))).convert())
    return path


@pytest.fixture(scope="module")
def classifier(lite_network):
    """The tiny .tflite network, loaded."""
    from model import load_classifier

    return load_classifier(lite_network)


@pytest.fixture
def detector(classifier):
    """A new detector with that network."""
    from emotions import EmotionDetector

    return EmotionDetector(classifier)


@pytest.fixture(scope="session")
def demo():
    """The demo's frames, BGR uint8 (480, 640, 3), three seconds of them."""
    from live.sources import Demo

    return [frame.image for frame in Demo(seconds=3)]


class ScriptedCameras:
    """Stands in for cv2.VideoCapture: every opening of a camera or URL plays the next script, files open as ever.

    A script is a list of images, where None is a failed read, or None for a camera that does not open; after its
    last image every read fails.
    """

    def __init__(self, *scripts, seconds_a_frame=0.005, frame_count=0):
        self.scripts = list(scripts)
        self.seconds_a_frame, self.frame_count = seconds_a_frame, frame_count
        self.openings = self.releases = 0

    def __call__(self, address, *options):
        if isinstance(address, str) and "://" not in address:
            return REAL_CAPTURE(address, *options)
        self.openings += 1
        script = self.scripts.pop(0) if self.scripts else None
        return _ScriptedCapture(self, None if script is None else iter(script))


class _ScriptedCapture:
    def __init__(self, cameras, images):
        self.cameras, self.images = cameras, images

    def isOpened(self):  # OpenCV's name
        return self.images is not None

    def read(self):
        time.sleep(self.cameras.seconds_a_frame)
        image = next(self.images, None) if self.isOpened() else None
        return image is not None, None if image is None else image.copy()

    def get(self, prop):
        return {cv2.CAP_PROP_FPS: 30.0, cv2.CAP_PROP_FRAME_COUNT: self.cameras.frame_count}.get(prop, 0.0)

    def release(self):
        self.cameras.releases += 1
        self.images = None


@pytest.fixture
def cameras(monkeypatch):
    """Call with scripts to replace cv2.VideoCapture by `ScriptedCameras`."""
    monkeypatch.setattr("live.cameras.Path", lambda _: SimpleNamespace(exists=lambda: False))  # no /dev/video0

    def install(*scripts, **options):
        scripted = ScriptedCameras(*scripts, **options)
        monkeypatch.setattr(cv2, "VideoCapture", scripted)
        return scripted

    return install


def open_source(address):
    """Open an address that stands for a single source."""
    (entry,) = find_sources([address])
    return open_entry(entry)


def flat(gray, height=48, width=64):
    return np.full((height, width, 3), gray, np.uint8)


def noise(count, height=48, width=64, seed=0):
    """Images that all differ, as a sensor's do."""
    return list(np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def write_video(path, images, fps=30, codec="mp4v"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, images[0].shape[1::-1])
    assert writer.isOpened()
    for image in images:
        writer.write(image)
    writer.release()
    return path


def read_video(path):
    """Return all frames of a video and its rate."""
    capture = REAL_CAPTURE(str(path))
    images = []
    while True:
        read, image = capture.read()
        if not read:
            break
        images.append(image)
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return images, fps


def predictions(network, faces):
    """The probabilities of a Keras model with its current weights, as a NumPy array on every backend."""
    import keras

    return keras.ops.convert_to_numpy(network(faces))
