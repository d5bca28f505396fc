"""End to end, twelve conditions: known faces are set into frames, then found, cropped and classified.

FER-2013's faces come cropped, so the frames are made: each face enlarged, its border extended outwards and blurred.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from os import cpu_count

import cv2
import numpy as np

from data import Split
from emotions import EmotionDetector
from emotions.faces import SAME_FACE, overlap
from evaluation.metrics import SEED, compare, nested, predict, share

FRAME_WIDTH, FRAME_HEIGHT = 144, 108  # pixels: small frames, so that ten thousand searches take a minute or two
FACE_PIXELS = 72
BOX_SHIFT = 0.1  # of the box's width and height
CLEAN, SHIFTED = "clean", "box shifted by 10 %"


def _rotated(degrees: float) -> Callable:
    def change(frame, generator):
        centre = ((FRAME_WIDTH - 1) / 2, (FRAME_HEIGHT - 1) / 2)
        matrix = cv2.getRotationMatrix2D(centre, degrees * generator.choice((-1, 1)), 1)
        return cv2.warpAffine(frame, matrix, (FRAME_WIDTH, FRAME_HEIGHT), borderMode=cv2.BORDER_REPLICATE)

    return change


def _noisy(frame, generator):
    return np.clip(frame + generator.normal(0, 20, frame.shape), 0, 255).astype(np.uint8)


def _compressed(frame, _):
    return cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 15])[1], cv2.IMREAD_GRAYSCALE)


# name -> (width of the face in pixels, what is done to the frame)
CONDITIONS = {
    CLEAN: (FACE_PIXELS, lambda frame, _: frame),
    "face of 64 px": (64, lambda frame, _: frame),
    "face of 40 px": (40, lambda frame, _: frame),
    "dark (× 0.3)": (FACE_PIXELS, lambda frame, _: cv2.convertScaleAbs(frame, alpha=0.3)),
    "bright (× 1.5 + 40)": (FACE_PIXELS, lambda frame, _: cv2.convertScaleAbs(frame, alpha=1.5, beta=40)),
    "blur (sigma 3 px)": (FACE_PIXELS, lambda frame, _: cv2.GaussianBlur(frame, (0, 0), 3)),
    "noise (sigma 20)": (FACE_PIXELS, _noisy),
    "JPEG (quality 15)": (FACE_PIXELS, _compressed),
    "rotated by 15°": (FACE_PIXELS, _rotated(15)),
    "rotated by 30°": (FACE_PIXELS, _rotated(30)),
    "rotated by 45°": (FACE_PIXELS, _rotated(45)),
}


def make_frame(face: np.ndarray, pixels: int = FACE_PIXELS) -> np.ndarray:
    """Return a gray uint8 (108, 144) frame with the face (48, 48, 1), `pixels` wide, in its middle.

    The face's border is extended outwards and blurred: a hard edge would change the search.
    """
    interpolation = cv2.INTER_CUBIC if pixels > len(face) else cv2.INTER_AREA
    face = cv2.resize(face, (pixels, pixels), interpolation=interpolation)
    left, top, _, _ = true_box(pixels)
    right, bottom = FRAME_WIDTH - left - pixels, FRAME_HEIGHT - top - pixels
    frame = cv2.copyMakeBorder(face, top, bottom, left, right, cv2.BORDER_REPLICATE)
    blurred = cv2.blur(cv2.blur(frame, (pixels // 3, pixels // 3)), (pixels // 3, pixels // 3))
    inside = _inside(pixels)
    return np.uint8(np.round(inside * frame + (1 - inside) * blurred))


@lru_cache
def _inside(pixels: int) -> np.ndarray:
    """Return float32 (108, 144), 1 within the true box and fading to 0 around it."""
    x, y, width, height = true_box(pixels)
    box = np.zeros((FRAME_HEIGHT, FRAME_WIDTH), np.float32)
    box[y : y + height, x : x + width] = 1
    return np.maximum(box, cv2.GaussianBlur(box, (0, 0), pixels / 24))


def true_box(pixels: int) -> tuple[int, int, int, int]:
    """Return the box (x, y, width, height) of the face in a frame of `make_frame`."""
    return (FRAME_WIDTH - pixels) // 2, (FRAME_HEIGHT - pixels) // 2, pixels, pixels


def make_frames(faces: np.ndarray, condition: str) -> list[np.ndarray]:
    """Return one frame per face under a condition of `CONDITIONS`; random draws are seeded."""
    pixels, change = CONDITIONS[condition]
    generator = np.random.default_rng(SEED)
    return [change(make_frame(face, pixels), generator) for face in faces]


def find(classifier, frames: list[np.ndarray], truth) -> list[tuple | None]:
    """Return (face, crop) of the face on the true box of each frame (overlap from `SAME_FACE` on), or None."""
    thread = threading.local()  # a detector belongs to one thread

    def find_one(frame: np.ndarray) -> tuple | None:
        if not hasattr(thread, "detector"):
            thread.detector = EmotionDetector(classifier)
        found = zip(*thread.detector.crop(frame), strict=True)
        best = max(found, key=lambda each: overlap(each[0].box, truth), default=None)
        return best if best is not None and overlap(best[0].box, truth) >= SAME_FACE else None

    inner = cv2.getNumThreads()
    cv2.setNumThreads(1)  # whole frames in parallel are faster than parts of one
    try:
        with ThreadPoolExecutor(cpu_count()) as pool:
            return list(pool.map(find_one, frames))
    finally:
        cv2.setNumThreads(inner)


def shift_box(box, generator: np.random.Generator) -> tuple:
    """Return the box moved by a tenth of its size in a random direction."""
    angle = generator.uniform(0, 2 * np.pi)
    x, y, width, height = box
    return x + BOX_SHIFT * width * np.cos(angle), y + BOX_SHIFT * height * np.sin(angle), width, height


def measure(classifier, split: Split) -> dict:
    """Take a split's faces end to end through a detector under every condition.

    Returns by condition `n`, the share `found`, and of the faces found `accuracy_found` and `accuracy_pre_cropped`,
    that of the data set's own crops; the same two against the votes, and how many have any, under "ferplus". Shares
    have 95 % intervals and are None where no face was found.
    """
    pre_cropped = predict(classifier.all_probabilities, split.faces)
    results = {}
    for name, (pixels, _) in CONDITIONS.items():
        frames = make_frames(split.faces, name)
        found = find(classifier, frames, true_box(pixels))
        results[name] = _outcome(classifier, found, split, pre_cropped)
        if name == CLEAN:
            shifted = _outcome(classifier, _shifted(classifier, frames, found), split, pre_cropped)
    return results | {SHIFTED: shifted}


def _shifted(classifier, frames: list[np.ndarray], found: list[tuple | None]) -> list[tuple | None]:
    """Return (face, crop) of the faces found, each box moved by `shift_box`, and None as before."""
    detector, generator = EmotionDetector(classifier), np.random.default_rng(SEED)
    faces = [each and replace(each[0], box=shift_box(each[0].whole_box, generator), smooth_box=None) for each in found]
    return [face and (face, detector.crop(frame, [face])[1][0]) for frame, face in zip(frames, faces, strict=True)]


def _outcome(classifier, found: list[tuple | None], split: Split, pre_cropped: np.ndarray) -> dict:
    """Return the results of one condition from (face, crop) or None of each face."""
    rows = np.array([each is not None for each in found], bool)
    crops = np.stack([each[1] for each in found if each]) if rows.any() else np.zeros((0, 48, 48, 1), np.uint8)
    probabilities = predict(classifier.all_probabilities, crops), pre_cropped[rows]
    end_to_end, cropped = (compare(classifier, split[rows], each) for each in probabilities)
    scores = {
        name: {
            "n_found": len(end_to_end[name].labels),
            **share("accuracy_found", end_to_end[name].correct),
            **share("accuracy_pre_cropped", cropped[name].correct),
        }
        for name in end_to_end
    }
    return {"n": len(split), **share("found", rows), **nested(scores)}
