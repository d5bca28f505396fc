"""How well the way of a face in a picture does: known faces set into frames, found, cropped and classified.

The faces come ready-cut, so the frames are made: each face enlarged, its border continued outwards and blurred.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from os import cpu_count

import cv2
import numpy as np

from evaluate import SEED, predict, wilson_interval
from faces import SAME_FACE, brighten, crop_faces, find_faces, load_cascade, overlap

FRAME_WIDTH, FRAME_HEIGHT = 144, 108  # pixels: small frames, so that ten thousand searches take a minute or two
FACE_PIXELS = 72
BOX_SHIFT = 0.1  # of the box's width and height
CLEAN, SHIFTED = "clean", "box shifted by 10 %"


def _gain(factor: float, offset: float = 0) -> Callable:
    return lambda frame, generator: cv2.convertScaleAbs(frame, alpha=factor, beta=offset)


def _turn(degrees: float) -> Callable:
    def turn(frame, generator):
        centre = ((FRAME_WIDTH - 1) / 2, (FRAME_HEIGHT - 1) / 2)
        matrix = cv2.getRotationMatrix2D(centre, degrees * generator.choice((-1, 1)), 1)
        return cv2.warpAffine(frame, matrix, (FRAME_WIDTH, FRAME_HEIGHT), borderMode=cv2.BORDER_REPLICATE)

    return turn


def _blur(frame, generator):
    return cv2.GaussianBlur(frame, (0, 0), 3)


def _noise(frame, generator):
    return np.clip(frame + generator.normal(0, 20, frame.shape), 0, 255).astype(np.uint8)


def _jpeg(frame, generator):
    return cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 15])[1], cv2.IMREAD_GRAYSCALE)


def _as_it_is(frame, generator):
    return frame


# name -> (pixels of the face in the frame, change of the frame)
CONDITIONS = {
    CLEAN: (FACE_PIXELS, _as_it_is),
    "64 px small": (64, _as_it_is),
    "40 px small": (40, _as_it_is),
    "dark (light × 0.3)": (FACE_PIXELS, _gain(0.3)),
    "bright (× 1.5, + 40)": (FACE_PIXELS, _gain(1.5, 40)),
    "blur (sigma 3 px)": (FACE_PIXELS, _blur),
    "noise (sigma 20)": (FACE_PIXELS, _noise),
    "JPEG (quality 15)": (FACE_PIXELS, _jpeg),
    "turned by 15°": (FACE_PIXELS, _turn(15)),
    "turned by 30°": (FACE_PIXELS, _turn(30)),
}


def make_frame(face: np.ndarray, pixels: int = FACE_PIXELS) -> np.ndarray:
    """Return a gray uint8 (108, 144) frame with the face (48, 48, 1), `pixels` wide, in its middle.

    Around it its border is continued outwards and blurred: a hard edge would help or hinder the search.
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
    """Return 1 within the true box, fading to 0 around it, float32 of a frame's shape."""
    x, y, width, height = true_box(pixels)
    box = np.zeros((FRAME_HEIGHT, FRAME_WIDTH), np.float32)
    box[y : y + height, x : x + width] = 1
    return np.maximum(box, cv2.GaussianBlur(box, (0, 0), pixels / 24))


def true_box(pixels: int) -> tuple[int, int, int, int]:
    """Return where `make_frame` puts a face."""
    return (FRAME_WIDTH - pixels) // 2, (FRAME_HEIGHT - pixels) // 2, pixels, pixels


def make_frames(faces: np.ndarray, condition: str) -> list[np.ndarray]:
    """Return a frame for each face under a condition of `CONDITIONS`; chance is seeded."""
    pixels, change = CONDITIONS[condition]
    generator = np.random.default_rng(SEED)
    return [change(make_frame(face, pixels), generator) for face in faces]


def find(frames: list[np.ndarray], truth) -> list[tuple | None]:
    """Return the box that lies on the face of each frame (best overlap, from `SAME_FACE` on), or None."""
    threads = cpu_count() or 1
    chunks = [frames[start::threads] for start in range(threads)]
    inner = cv2.getNumThreads()
    cv2.setNumThreads(1)  # whole frames side by side waste less than parts of one
    try:
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(lambda chunk: _find_one_thread(chunk, truth), chunks))
    finally:
        cv2.setNumThreads(inner)
    return [found[i % threads][i // threads] for i in range(len(frames))]


def _find_one_thread(frames, truth) -> list[tuple | None]:
    detector = load_cascade()  # one belongs to one thread
    boxes = []
    for frame in frames:
        box = max(find_faces(detector, frame), key=lambda box: overlap(box, truth), default=None)
        boxes.append(box if box is not None and overlap(box, truth) >= SAME_FACE else None)
    return boxes


def shift_box(box, generator: np.random.Generator) -> tuple:
    """Return the box moved by a tenth of its size in a drawn direction."""
    angle = generator.uniform(0, 2 * np.pi)
    x, y, width, height = box
    return x + BOX_SHIFT * width * np.cos(angle), y + BOX_SHIFT * height * np.sin(angle), width, height


def measure(classify: Callable, faces: np.ndarray, labels: np.ndarray) -> dict:
    """Take faces uint8 (n, 48, 48, 1) through the live path under every condition.

    Returns, by condition, `n`, the share `found` with its 95 % interval, `accuracy_found` of the live path on the
    found faces and `accuracy_cut` of the ready-cut crops of the same faces (None where none was found).
    """
    right_cut = predict(classify, faces).argmax(axis=1) == labels
    results = {}
    for name, (pixels, _) in CONDITIONS.items():
        frames = [brighten(frame) for frame in make_frames(faces, name)]
        boxes = find(frames, true_box(pixels))
        results[name] = _outcome(classify, frames, boxes, labels, right_cut)
        if name == CLEAN:
            generator = np.random.default_rng(SEED)
            boxes = [None if box is None else shift_box(box, generator) for box in boxes]
            shifted = _outcome(classify, frames, boxes, labels, right_cut)
    return results | {SHIFTED: shifted}


def _outcome(classify: Callable, frames, boxes, labels: np.ndarray, right_cut: np.ndarray) -> dict:
    found = np.array([box is not None for box in boxes], bool)
    crops = [crop_faces(frame, [box]) for frame, box in zip(frames, boxes, strict=True) if box is not None]
    right = predict(classify, np.concatenate(crops)).argmax(axis=1) == labels[found] if crops else np.zeros(0, bool)
    return {
        "n": len(labels),
        "found": float(found.mean()),
        "found_interval_95": wilson_interval(int(found.sum()), len(labels)),
        "accuracy_found": float(right.mean()) if len(right) else None,
        "accuracy_found_interval_95": wilson_interval(int(right.sum()), len(right)),
        "accuracy_cut": float(right_cut[found].mean()) if len(right) else None,
    }
