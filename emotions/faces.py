"""One gray image -> faces: brighten, search with a Haar cascade, verify, level the eyes, crop.

Boxes are OpenCV's (x, y, width, height) in whole pixels of the full frame and never reach beyond it.
"""

import math
import sys
from pathlib import Path

import cv2
import numpy as np

from model import IMAGE_SIZE, UserError

CASCADE = Path(__file__).resolve().parent.parent / "haarcascade_frontalface_default.xml"
STILL_SIDE = 1280  # pixels: an image is shrunk to this longer side before it is searched
VERIFY_SIZE = 56  # pixels: a candidate is scaled to this width for verification
# The cascade normalises contrast, so that shadows and paving stones look like faces to it. A real face is detected in
# more neighbouring windows and is rarely as flat: a flat box needs twice as many.
MIN_NEIGHBORS = 25  # detections around a candidate at VERIFY_SIZE
FLAT_MIN_NEIGHBORS = 60  # the same if the contrast is below FLAT
LARGE_SHARE, LARGE_MIN_NEIGHBORS = 1 / 3, 3  # a box wider than this share of the frame's shorter side is rarely false
FLAT = 20  # gray levels, standard deviation
SAME_FACE = 0.3  # intersection over union from which two boxes are one face
DARK = 100  # gray levels: a frame is brightened if nine tenths of it are below,
BRIGHT, MAX_GAIN = 200, 5  # until a hundredth of it is this bright or the gain this large: nothing must burn out
EYES_SIZE = 120  # pixels: a face is scaled to this width before its eyes are searched
MAX_TILT_DEGREES = 25  # a larger tilt is a false pair of eyes


def load_cascade(path=CASCADE) -> "cv2.CascadeClassifier":  # quoted: OpenCV 5 has none
    """Load a Haar cascade, by default the shipped one for frontal faces. Use one object per thread.

    Raises `UserError` if the file is missing or no cascade, and under OpenCV 5, which cannot read any.
    """
    if not hasattr(cv2, "CascadeClassifier"):
        command = f'{sys.executable} -m pip install "opencv-python<5"'
        raise UserError(f"OpenCV {cv2.__version__} has no Haar cascades. Run: {command}")
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no cascade at {path}. Restore the file, or give another one with --cascade PATH.")
    storage = cv2.FileStorage()
    try:  # read as text: OpenCV on Windows cannot open every path
        opened = storage.open(path.read_text(encoding="utf-8"), cv2.FileStorage_READ | cv2.FileStorage_MEMORY)
        cascade = cv2.CascadeClassifier()
        loaded = opened and cascade.read(storage.getFirstTopLevelNode()) and not cascade.empty()
    except (cv2.error, SystemError, UnicodeDecodeError, OSError):
        loaded = False
    if not loaded:
        raise UserError(f"{path} is not a Haar cascade. Use the one that comes with this program.")
    return cascade


def to_gray(image: np.ndarray) -> np.ndarray:
    """Return uint8 (height, width) of a BGR, BGRA or gray uint8 image. Raises `ValueError` for any other."""
    shape, dtype = getattr(image, "shape", ()), getattr(image, "dtype", None)
    if dtype != np.uint8 or 0 in shape or len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(f"an image must be uint8 (height, width) or (height, width, 1, 3 or 4), not {dtype} {shape}.")
    if image.ndim == 2:
        return image
    channels = image.shape[2]
    if channels == 1:
        return image[:, :, 0]
    return cv2.cvtColor(image, cv2.COLOR_BGRA2GRAY if channels == 4 else cv2.COLOR_BGR2GRAY)


def brighten(gray: np.ndarray) -> np.ndarray:
    """Return a brighter version of a uint8 (height, width) frame in which nothing is bright; any other unchanged.

    The cascade skips regions that are nearly flat, as dark faces are; the network does not know such faces either.
    """
    most, brightest = np.maximum(np.percentile(gray[::8, ::8], (90, 99)), 1)
    gain = min(DARK / most, BRIGHT / brightest, MAX_GAIN)
    return cv2.convertScaleAbs(gray, alpha=gain) if gain > 1 else gray


def crop_faces(gray: np.ndarray, boxes, tilts_degrees=None) -> np.ndarray:
    """Crop boxes from a gray uint8 (height, width) frame; return uint8 (n, 48, 48, 1), 0..255.

    The cascade's box matches FER-2013's framing, so it has no margin. Parts beyond the frame are left out. With
    `tilts_degrees` (n,), as `find_tilt` returns them, each face is rotated upright around its centre.
    """
    if gray.dtype != np.uint8 or gray.ndim != 2:
        raise ValueError(f"faces are cropped from uint8 (height, width), see to_gray, not {gray.dtype} {gray.shape}.")
    crops = np.empty((len(boxes), IMAGE_SIZE, IMAGE_SIZE, 1), np.uint8)
    for i, box in enumerate(boxes):
        tilt = tilts_degrees[i] if tilts_degrees is not None else 0.0
        x, y, width, height = clip_box(box, gray.shape)
        face = gray[y : y + height, x : x + width]
        crops[i, :, :, 0] = _level(gray, box, tilt) if tilt else resize(face, IMAGE_SIZE, IMAGE_SIZE)
    return crops


def _level(gray: np.ndarray, box, tilt_degrees: float) -> np.ndarray:
    """Return a box's face rotated by its tilt, uint8 (48, 48)."""
    x, y, width, height = box
    left, top, region_width, region_height = clip_box(
        (x - width / 4, y - height / 4, 1.5 * width, 1.5 * height), gray.shape
    )
    zoom = IMAGE_SIZE / width
    region = gray[top : top + region_height, left : left + region_width]
    region = resize(region, max(round(region_width * zoom), 1), max(round(region_height * zoom), 1))
    centre = ((x + width / 2 - left) * zoom, (y + height / 2 - top) * zoom)
    rotation = cv2.getRotationMatrix2D(centre, tilt_degrees, 1.0)
    rotation[:, 2] += IMAGE_SIZE / 2 - np.array(centre)
    return cv2.warpAffine(region, rotation, (IMAGE_SIZE, IMAGE_SIZE), borderMode=cv2.BORDER_REPLICATE)


def find_tilt(eye_cascade, gray: np.ndarray, box) -> float:
    """Return by how many degrees the line through a face's eyes falls to the right; 0 unless two eyes are found.

    A tilt of more than 25 degrees counts as a false pair of eyes and gives 0 as well.
    """
    x, y, width, height = clip_box(box, gray.shape)
    upper = resize(gray[y : y + max(round(0.65 * height), 1), x : x + width], EYES_SIZE, round(0.65 * EYES_SIZE))
    sizes = {"minSize": (EYES_SIZE // 7,) * 2, "maxSize": (EYES_SIZE // 3,) * 2}
    found, neighbors = eye_cascade.detectMultiScale2(upper, 1.1, 3, **sizes)
    best = [None, None]  # the most reliable eye of each half: (neighbours, centre)
    for (left, top, eye_width, eye_height), count in zip(found, neighbors, strict=True):
        centre = left + eye_width / 2, top + eye_height / 2
        side = int(centre[0] > EYES_SIZE / 2)
        if best[side] is None or count > best[side][0]:
            best[side] = count, centre
    if None in best:
        return 0.0
    (_, (left_x, left_y)), (_, (right_x, right_y)) = best
    tilt = math.degrees(math.atan2(right_y - left_y, right_x - left_x))
    distance = (right_x - left_x) / EYES_SIZE
    return tilt if abs(tilt) <= MAX_TILT_DEGREES and distance > 0.25 else 0.0


def clip_box(box, shape) -> tuple[int, int, int, int]:
    """Return the part of a box that lies inside a frame of this shape, at least one pixel."""
    x, y, width, height = (round(float(value)) for value in box)
    left, top = min(max(x, 0), shape[1] - 1), min(max(y, 0), shape[0] - 1)
    right, bottom = min(max(x + width, left + 1), shape[1]), min(max(y + height, top + 1), shape[0])
    return left, top, right - left, bottom - top


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the image at another size, by area interpolation as in training; unchanged if it has that size."""
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def overlap(a, b) -> float:
    """Return the intersection over union of two boxes, 0..1."""
    common = _intersection(a, b)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def is_same_face(a, b) -> bool:
    """Return whether two boxes show one face: they overlap, or one lies mostly inside the other."""
    return overlap(a, b) >= SAME_FACE or _intersection(a, b) >= 0.5 * min(a[2] * a[3], b[2] * b[3])


def _intersection(a, b) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def search_frame(cascade, gray: np.ndarray, side: int, scale_factor: float, min_neighbors: int) -> list[tuple]:
    """Search the whole frame, shrunk to a longer side in pixels; return candidate boxes, the most reliable first."""
    zoom = min(side / max(gray.shape), 1.0)
    small = resize(gray, max(round(gray.shape[1] * zoom), 1), max(round(gray.shape[0] * zoom), 1))
    found, neighbors = cascade.detectMultiScale2(small, scale_factor, min_neighbors)
    order = sorted(range(len(found)), key=lambda i: -neighbors[i])
    return [tuple(found[i] / zoom) for i in order]


def search_near(cascade, gray: np.ndarray, box, size: int, scale_factor: float) -> list[tuple[tuple, int]]:
    """Search around a box, with its face scaled to `size` pixels; return [(box, neighbours)]."""
    x, y, width, height = box
    left, top, region_width, region_height = clip_box(
        (x - 0.4 * width, y - 0.4 * height, 1.8 * width, 1.8 * height), gray.shape
    )
    zoom = size / width
    step = max(int(0.5 / zoom), 1)  # of a large face, a quarter of the pixels or fewer is enough
    region = gray[top : top + region_height : step, left : left + region_width : step]
    region = resize(region, max(round(region_width * zoom), 1), max(round(region_height * zoom), 1))
    sizes = {"minSize": (int(0.75 * size),) * 2, "maxSize": (int(1.35 * size),) * 2}
    found, neighbors = cascade.detectMultiScale2(region, scale_factor, 3, **sizes)
    boxes = [(left + a / zoom, top + b / zoom, c / zoom, d / zoom) for a, b, c, d in found]
    return list(zip(boxes, neighbors, strict=True))


def verify(cascade, gray: np.ndarray, box) -> tuple | None:
    """Search a candidate again at a higher resolution; return its more exact box, or None if it is no face."""
    near = search_near(cascade, gray, box, VERIFY_SIZE, 1.05)
    near = [(found, neighbors) for found, neighbors in near if is_same_face(found, box)]
    if not near:
        return None
    found, neighbors = max(near, key=lambda item: item[1])
    x, y, width, height = clip_box(found, gray.shape)
    if width > LARGE_SHARE * min(gray.shape):
        return found if neighbors >= LARGE_MIN_NEIGHBORS else None
    flat = gray[y : y + height, x : x + width].std() < FLAT
    return found if neighbors >= (FLAT_MIN_NEIGHBORS if flat else MIN_NEIGHBORS) else None


def find_faces(cascade, gray: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Return the boxes of all faces of a still uint8 (height, width) image, from left to right.

    A fine search of the whole image; every candidate is verified, and of several boxes on one face the best is kept.
    """
    boxes = []
    for candidate in search_frame(cascade, gray, STILL_SIDE, 1.05, 3):
        if not any(is_same_face(candidate, box) for box in boxes):
            box = verify(cascade, gray, candidate)
            if box is not None and not any(is_same_face(box, other) for other in boxes):
                boxes.append(box)
    return sorted(clip_box(box, gray.shape) for box in boxes)
