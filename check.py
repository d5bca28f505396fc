"""What `python main.py --check` prints: what is well here, and for what is not, how to mend it."""

import importlib.metadata
import importlib.util
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RATE_FRAMES = 20  # over which a camera's rate is measured


def check(cascade_path: Path, model_path: Path) -> bool:
    """Print a line for everything that main.py needs; return whether all is well."""
    well = True
    for name, look in [
        ("Python", _python),
        ("packages", lambda: _packages(model_path)),
        ("window", _window),
        ("cascade", lambda: _cascade(cascade_path)),
        ("cameras", _cameras),
        ("model", lambda: _model(model_path)),
    ]:
        try:
            print(f"ok    {name:9} {look()}", flush=True)
        except Exception as error:  # whatever it is, the next check is still worth its line
            well = False
            print(f"FAIL  {name:9} {str(error).strip() or repr(error)}", flush=True)
    print("All is well." if well else "Mend the lines marked FAIL, then run this again.")
    return well


def _python() -> str:
    version = sys.version.split()[0]
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        raise RuntimeError(f"{version}: use Python 3.10 to 3.13; TensorFlow has no package for this one.")
    return version


def _packages(model_path: Path) -> str:
    """Compare what is installed with requirements.txt: all of it, or what this backend or a .tflite file needs."""
    if model_path.suffix == ".tflite" and importlib.util.find_spec("ai_edge_litert"):
        packages = ("ai-edge-litert", "opencv-python", "numpy")
        return ", ".join(f"{name} {_version(name)}" for name in packages)
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    install = f"run {sys.executable} -m pip install -r requirements.txt"
    try:
        from packaging.requirements import Requirement  # comes with Keras
    except ImportError as error:
        raise RuntimeError(f"Keras is missing: {install}") from error
    good, bad = [], {}  # bad: from a requirement to what is wrong with it
    for line in (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if not line.split("#")[0].strip():
            continue
        requirement = Requirement(line.split("#")[0].strip())
        if requirement.name == "tensorflow" and backend != "tensorflow":
            requirement = Requirement(backend)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = _version(requirement.name)
        except ModuleNotFoundError:
            bad[str(requirement)] = f"{requirement.name} is missing"
            continue
        if requirement.specifier.contains(version):
            good.append(f"{requirement.name} {version}")
        else:
            bad[str(requirement)] = f"{requirement.name} {version}"
    if bad:
        if backend != "tensorflow":  # which requirements.txt would install, and not this backend
            install = f"run {sys.executable} -m pip install {' '.join(map(repr, bad))}"
        raise RuntimeError(f"{', '.join(bad.values())}: {install}")
    return ", ".join(good)


def _version(package: str) -> str:
    """Return what is installed, OpenCV and TensorFlow from any of their packages, as opencv-contrib-python.

    Raises `ModuleNotFoundError` where there is none.
    """
    if package == "opencv-python":
        import cv2

        return cv2.__version__
    if package == "tensorflow":
        (package, *_) = importlib.metadata.packages_distributions().get(package, [package])
    return importlib.metadata.version(package)


def _window() -> str:
    from output import DisplayProbe, window_toolkit

    probe = DisplayProbe()
    try:
        why_not = probe.answer()
    finally:
        probe.close()
    if why_not:
        raise RuntimeError(f"{why_not} Or use --no-window with --output or --log.")
    return f"OpenCV opens one ({window_toolkit()})"


def _cascade(path: Path) -> str:
    from faces import find_faces, load_cascade, to_gray
    from video import Demo

    cascade = load_cascade(path)
    if len(find_faces(cascade, to_gray(Demo().frame(0).image))) != 1:
        raise RuntimeError(f"{path} does not find the demo's face: restore the one that comes with this program")
    return f"{path.name} finds the demo's face"


def _cameras() -> str:
    from video import list_cameras

    lines = []
    for number, capture in list_cameras():
        read, image = capture.read()
        start = time.perf_counter()
        count = sum(capture.read()[0] for _ in range(RATE_FRAMES)) if read else 0
        seconds = time.perf_counter() - start
        capture.release()
        if count:
            lines.append(f"{number}: {image.shape[1]}x{image.shape[0]}, {count / seconds:.0f} frames a second")
        else:
            lines.append(f"{number}: opens but sends no picture (close other programs, allow the camera)")
    if not any("frames a second" in line for line in lines):
        raise RuntimeError(
            "; ".join(lines)
            or "none answers: plug one in, allow this terminal to use it (macOS, Windows: privacy "
            "settings; Linux: group video), or use --source demo"
        )
    return "; ".join(lines)


def _model(path: Path) -> str:
    import numpy as np

    from faces import crop_faces, find_faces, load_cascade, to_gray
    from model import EMOTIONS, load_classifier
    from video import Demo

    classifier = load_classifier(path)
    cascade, demo = load_cascade(), Demo()
    named = set()
    for i in range(len(EMOTIONS)):
        gray = to_gray(demo.frame(round((i + 0.5) * demo.emotion_seconds * demo.fps)).image)
        probabilities = classifier.probabilities(crop_faces(gray, find_faces(cascade, gray)[:1]))
        named.update(EMOTIONS[row] for row in np.argmax(probabilities, axis=1))
    return f"{path.name} tells {len(named)} of the demo's 7 faces apart"
