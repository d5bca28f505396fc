"""Write the frames for the page's tests, and what Python detects in them.

    python web/tests/make_expected.py FILE.tflite FOLDER

FOLDER gets stills and frames of a video as .png, `expected.json`, and `camera.mjpeg`, the demo as a browser's camera
sees it: at the bottom, a gray square (20 + 30 * emotion) tells which face is shown. If the environment variable FER2013
is set, 200 faces of PublicTest are among the stills.
"""

import json
import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from data import PUBLIC_TEST, load_fer2013  # noqa: E402
from emotions import EmotionDetector  # noqa: E402
from evaluation.robustness import CLEAN, CONDITIONS, make_frames  # noqa: E402
from live.logs import LOG_COLUMNS  # noqa: E402
from live.sources import Demo  # noqa: E402

PUBLIC_FACES = 200
VIDEO_STEP = 2  # every second frame of the demo
VIDEO_FRAMES = 60
EMPTY = range(30, 45)  # frames of the video without a face: longer than a face keeps its id


def stills() -> list[np.ndarray]:
    """Return made frames: the average faces under ten conditions, in colour, large, two, none; PublicTest."""
    demo = Demo()
    frame = demo.frame(40).image
    faces = np.stack([cv2.cvtColor(np.uint8(face), cv2.COLOR_BGR2GRAY) for face in demo.faces])
    images = [image for condition in CONDITIONS for image in make_frames(faces, condition)]
    images += [frame, cv2.resize(frame, (1920, 1440)), np.hstack([frame, demo.frame(150).image]), frame[:100]]
    if path := os.environ.get("FER2013"):
        public = load_fer2013(path)[PUBLIC_TEST].faces
        chosen = np.random.default_rng(0).permutation(len(public))[:PUBLIC_FACES]
        images += make_frames(public[chosen], CLEAN)
    return images


def video() -> list[tuple[float, np.ndarray]]:
    """Return (time in seconds, frame) of the demo, with some frames without a face."""
    demo = Demo()
    frames = [demo.frame(i * VIDEO_STEP) for i in range(VIDEO_FRAMES)]
    return [(frame.time_seconds, frame.image // (1 + i * (i in EMPTY))) for i, frame in enumerate(frames)]


def described(faces) -> list[dict]:
    return [
        {"id": face.id, "box": [int(value) for value in face.box], "label": face.label}
        | {"probabilities": [float(value) for value in face.probabilities]}
        for face in faces
    ]


def write_camera(path: Path) -> None:
    """Write the demo as JPEGs, one after the other, which Chromium plays as a camera's 30 frames a second."""
    demo = Demo()
    with path.open("wb") as file:
        for frame in demo:
            emotion = int(frame.time_seconds / demo.emotion_seconds)
            cv2.rectangle(frame.image, (300, 450), (340, 480), (20 + 30 * emotion,) * 3, cv2.FILLED)
            file.write(cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])


def main(model: str, folder: str) -> None:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    detector = EmotionDetector(model)
    expected = {"csv_header": ",".join(LOG_COLUMNS), "stills": [], "video": []}
    for i, image in enumerate(stills()):
        cv2.imwrite(str(folder / f"still_{i}.png"), image)
        expected["stills"].append({"file": f"still_{i}.png", "faces": described(detector.detect(image))})
    for i, (seconds, image) in enumerate(video()):
        cv2.imwrite(str(folder / f"video_{i}.png"), image)
        faces = described(detector.track(image, seconds))
        expected["video"].append({"file": f"video_{i}.png", "seconds": seconds, "faces": faces})
    (folder / "expected.json").write_text(json.dumps(expected))
    write_camera(folder / "camera.mjpeg")


if __name__ == "__main__":
    main(*sys.argv[1:])
