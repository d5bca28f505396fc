"""Write the frames for the page's tests, and what Python detects in them.

    python web/tests/make_expected.py FILE.tflite FOLDER

FOLDER gets stills and frames of two videos as .png, `expected.json`, and `camera.mjpeg`, the demo as a browser's camera
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
TILTS_DEGREES = (-45, -35, -25, -12, 12, 25, 35, 45)
SWAYING_FRAMES = 90


def stills() -> list[np.ndarray]:
    """Return made frames: average faces under each condition, in colour, hazy, large, two, none, tilted; PublicTest."""
    demo = Demo()
    frame = demo.frame(40).image
    faces = np.stack([cv2.cvtColor(np.uint8(face), cv2.COLOR_BGR2GRAY) for face in demo.faces])
    images = [image for i, condition in enumerate(CONDITIONS) for image in make_frames(faces[i % 2 :: 2], condition)]
    two = np.hstack([frame, demo.frame(150).image])
    images += [frame, np.uint8(0.3 * frame + 120), cv2.resize(frame, (1920, 1440)), two, frame[:100]]
    tilted = [turned(demo.frame(40 + 30 * i).image, degrees) for i, degrees in enumerate(TILTS_DEGREES)]
    images += [*tilted, np.hstack(tilted[2:4]), cv2.resize(np.hstack(tilted[:2]), None, fx=0.5, fy=0.5)]
    if path := os.environ.get("FER2013"):
        public = load_fer2013(path)[PUBLIC_TEST].faces
        chosen = np.random.default_rng(0).permutation(len(public))[:PUBLIC_FACES]
        images += make_frames(public[chosen], CLEAN)
    return images


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    """Return the image turned clockwise around its centre."""
    height, width = image.shape[:2]
    rotation = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1.0)
    return cv2.warpAffine(image, rotation, (width, height), borderMode=cv2.BORDER_REPLICATE)


def video() -> list[tuple[float, np.ndarray]]:
    """Return (time in seconds, frame) of the demo, with some frames without a face."""
    demo = Demo()
    frames = [demo.frame(i * VIDEO_STEP) for i in range(VIDEO_FRAMES)]
    return [(frame.time_seconds, frame.image // (1 + i * (i in EMPTY))) for i, frame in enumerate(frames)]


def swaying() -> list[tuple[float, np.ndarray]]:
    """Return (time in seconds, frame) of two heads, of which one tilts to both sides and the other moves behind it.

    After a pause of a minute, one more frame.
    """
    demo, frames = Demo(), []
    for i in range(SWAYING_FRAMES):
        frame = np.hstack([demo.frame(2 * i).image] * 2)[:, 160:960]
        head = turned(demo.frame(300 - i).image[90:390, 200:440], 40 * np.sin(i / 12))
        left = round(500 - 490 * abs(np.sin(i / 30)))
        frame[90:390, left : left + 240] = head
        frames.append((i / 15, frame))
    return [*frames, (frames[-1][0] + 60, frames[0][1])]


def described(faces) -> list[dict]:
    return [
        {"id": face.id, "box": [int(value) for value in face.box], "label": face.label}
        | {"tiltDegrees": float(face.tilt_degrees), "probabilities": [float(value) for value in face.probabilities]}
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
    cv2.setNumThreads(1)  # of several equally strong candidates, the first counts, and threads change their order
    detector = EmotionDetector(model)
    expected = {"csv_header": ",".join(LOG_COLUMNS), "stills": [], "video": [], "swaying": []}
    for i, image in enumerate(stills()):
        cv2.imwrite(str(folder / f"still_{i}.png"), image)
        expected["stills"].append({"file": f"still_{i}.png", "faces": described(detector.detect(image))})
    for name, frames in {"video": video(), "swaying": swaying()}.items():
        detector.reset()
        for i, (seconds, image) in enumerate(frames):
            cv2.imwrite(str(folder / f"{name}_{i}.png"), image)
            faces = described(detector.track(image, seconds))
            expected[name].append({"file": f"{name}_{i}.png", "seconds": seconds, "faces": faces})
    (folder / "expected.json").write_text(json.dumps(expected))
    write_camera(folder / "camera.mjpeg")


if __name__ == "__main__":
    main(*sys.argv[1:])
