"""What `python main.py --check` prints: what works on this machine, and how to fix the rest.

Each test returns a line, or raises an error that explains what to do.
"""

import functools
import importlib.metadata
import importlib.util
import os
import sys
import time
from pathlib import Path

import cv2

from common.cli import explain_import_error, printable, requirements_path
from emotions import EmotionDetector
from emotions.faces import find_faces, load_cascade, to_gray
from live.cameras import list_cameras
from live.sources import Demo
from live.window import DisplayProbe, window_toolkit
from model import EMOTIONS, FER2013, load_classifier, shipped_model

RATE_FRAMES = 20  # over which a camera's rate is measured
ENOUGH_FACES = 5  # of the demo's 7; emotions in the alphabet's order give 4


def check(cascade: Path, model: Path | None) -> bool:
    """Print a line for everything that main.py needs; return whether all of it works, with or without a camera."""
    all_ok, path = True, functools.cache(lambda: model or shipped_model())  # a warning in it is printed once
    for name, test in [
        ("Python", _python),
        ("packages", lambda: _packages(path())),
        ("window", _window),
        ("cascade", lambda: _cascade(cascade)),
        ("cameras", _cameras),
        ("model", lambda: _model(path())),
    ]:
        try:
            print(f"ok    {name:9} {printable(test())}", flush=True)
        except Exception as error:  # whatever it is, the next test is still useful
            needed = name != "cameras"
            all_ok = all_ok and not needed
            missing = isinstance(error, ImportError)
            reason = explain_import_error(error, live=path().suffix == ".tflite") if missing else str(error).strip()
            print(f"{'FAIL' if needed else 'none'}  {name:9} {printable(reason or repr(error))}", flush=True)
    print("All checks passed." if all_ok else "Fix the lines marked FAIL, then run this again.")
    return all_ok


def _python() -> str:
    version = sys.version.split()[0]
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        raise RuntimeError(f"{version}: use Python 3.10 to 3.13; TensorFlow has no package for this one.")
    return version


def _packages(model: Path) -> str:
    """Return the versions of what a model of this kind needs; of OpenCV and TensorFlow, any package will do."""
    backend, lite = os.environ.get("KERAS_BACKEND", "tensorflow"), model.suffix == ".tflite"
    found, missing = [f"opencv {cv2.__version__}"], []
    for module in ("numpy", "ai_edge_litert") if lite else ("numpy", "keras", backend):
        packages = importlib.metadata.packages_distributions().get(module)
        if not packages and importlib.util.find_spec(module):  # Python 3.10 does not know all
            packages = [module]
        if packages:
            found.append(f"{packages[0]} {importlib.metadata.version(packages[0])}")
        else:
            missing.append(module)
    if missing:  # the requirements would not install another backend
        other = backend if backend in missing and backend != "tensorflow" else ""
        wanted = other or f"-r {requirements_path(live=lite)}"
        raise RuntimeError(f"{', '.join(missing)} is missing: run {sys.executable} -m pip install {wanted}")
    return ", ".join(found)


def _window() -> str:
    with DisplayProbe() as probe:
        error = probe.error()
    if error:
        raise RuntimeError(f"{error} Or use --no-window with --output or --log.")
    return f"OpenCV can open one ({window_toolkit()})"


def _cascade(path: Path) -> str:
    if len(find_faces(load_cascade(path), to_gray(Demo().frame(0).image))) != 1:
        raise RuntimeError(f"{path} does not find the demo's face: restore the one that comes with this program")
    return f"{path.name} finds the demo's face"


def _cameras() -> str:
    lines, working = [], False
    for number, capture in list_cameras():
        ok, image = capture.read()
        start = time.perf_counter()
        count = sum(capture.read()[0] for _ in range(RATE_FRAMES)) if ok else 0
        seconds = time.perf_counter() - start
        capture.release()
        if count:
            working = True
            lines.append(f"{number}: {image.shape[1]}x{image.shape[0]}, {count / seconds:.0f} frames a second")
        else:
            lines.append(f"{number}: opens but sends no images (close other programs, allow the camera)")
    if not working:
        raise RuntimeError(
            "; ".join(lines)
            or "none found: plug one in, allow this terminal to use it (macOS, Windows: privacy settings; Linux: "
            "group video), or run: python main.py demo"
        )
    return "; ".join(lines)


def _model(path: Path) -> str:
    """Classify the demo's faces, which are averages of FER-2013's, and so by the output that predicts its labels."""
    detector, demo = EmotionDetector(load_classifier(path, FER2013), threshold=0), Demo()
    right = 0
    for i, emotion in enumerate(EMOTIONS):
        frame = demo.frame(round((i + 0.5) * demo.emotion_seconds * demo.fps))
        right += [face.label for face in detector.detect(frame.image)[:1]] == [emotion]
    result = f"{path.name} classifies {right} of the demo's 7 faces correctly"
    if right < ENOUGH_FACES:
        raise RuntimeError(f"{result}: is it trained, and on these emotions in this order: {', '.join(EMOTIONS)}?")
    return result
