"""A frame -> faces: brighten, find, follow, level, crop.

Boxes are OpenCV's (x, y, width, height) in whole pixels of the full frame and never reach beyond it.
"""

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

CASCADE = Path(__file__).resolve().parent / "haarcascade_frontalface_default.xml"  # of frontal faces
FACE_SIZE = 48  # pixels, width and height of a crop: what the network takes
STILL_SIDE = 1280  # pixels: a picture is shrunk to this longer side before it is searched
VIDEO_SIDE = 640  # pixels: the same for a frame of a video; faces from 4 % of it on are found
FOLLOW_SIZE = 36  # pixels: a face is shrunk (or enlarged) to this before it is looked for near its last place
PROVE_SIZE = 56  # pixels: the same to prove a new face
# Haar's cascade normalises contrast away, so that shadows and paving stones look like faces to it. A real face sets
# off more windows around it, and is rarely as flat: a flat box needs twice the evidence.
PROOF = 25  # windows around a new face at PROVE_SIZE that have to agree
FLAT_PROOF = 60  # the same where the contrast is below FLAT
LARGE_SHARE, LARGE_PROOF = 1 / 3, 3  # a box wider than this share of the frame's shorter side is rarely false
FLAT = 20  # gray levels, standard deviation
SAME_FACE = 0.3  # intersection over union from which two boxes are one face
DARK = 100  # gray levels: a frame of which nine tenths are below is brightened,
BRIGHT, MOST_GAIN = 200, 5  # until a hundredth of it is so bright, or so many times: what is lit must not burn out
LOOK_AROUND_SECONDS = 1.5  # between searches of the whole frame while every known face is in view
HURRY_SECONDS = 0.15  # the same while a face is missing, or none is known
MOST_A_FRAME = 4  # faces that are looked for in one frame; of more, each has its turn,
TURN_SECONDS = 0.095  # at least ten times a second
KEEP_SECONDS = 1.0  # a face that is not found keeps its id for so long,
SHOW_SECONDS = 0.2  # and its box stays for so long
CALM_SECONDS = 0.15  # time constant of a box at rest
BRISK_SHIFT = 0.1  # shift in box widths from which a box follows at once
EYES_SIZE = 120  # pixels: a face is brought to this width before its eyes are looked for
MAX_TILT_DEGREES = 25  # eyes that are tilted more are two of something else


class CascadeError(ValueError):
    """A cascade file that cannot be used; the message says why and what to do."""


def load_cascade(path=CASCADE) -> "cv2.CascadeClassifier":  # quoted: OpenCV 5 has none
    """Load a Haar cascade, by default the one that comes along; one belongs to one thread.

    Raises `CascadeError` where the file is missing or is none, and under OpenCV 5, which cannot read any.
    """
    if not hasattr(cv2, "CascadeClassifier"):
        command = f'{sys.executable} -m pip install "opencv-python<5"'
        raise CascadeError(f"OpenCV {cv2.__version__} has no Haar cascades. Run: {command}")
    path = Path(path)
    if not path.is_file():
        raise CascadeError(
            f"There is no cascade at {path}. Restore the file; main.py also takes another one with --cascade PATH."
        )
    storage = cv2.FileStorage()
    try:  # read as text: OpenCV on Windows cannot open a path with letters beyond its code page
        opened = storage.open(path.read_text(encoding="utf-8"), cv2.FileStorage_READ | cv2.FileStorage_MEMORY)
        cascade = cv2.CascadeClassifier()
        loaded = opened and cascade.read(storage.getFirstTopLevelNode()) and not cascade.empty()
    except (cv2.error, SystemError, UnicodeDecodeError, OSError):
        loaded = False
    if not loaded:
        raise CascadeError(f"{path} is not a Haar cascade. Use the one that comes with this program.")
    return cascade


def to_gray(image: np.ndarray) -> np.ndarray:
    """Return uint8 (height, width) of a BGR, BGRA or gray uint8 image. Raises `ValueError` for any other."""
    shape, dtype = getattr(image, "shape", ()), getattr(image, "dtype", None)
    if dtype != np.uint8 or 0 in shape or len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(f"a picture must be uint8 (height, width) or (height, width, 1, 3 or 4), not {dtype} {shape}.")
    if image.ndim == 2:
        return image
    channels = image.shape[2]
    if channels == 1:
        return image[:, :, 0]
    return cv2.cvtColor(image, cv2.COLOR_BGRA2GRAY if channels == 4 else cv2.COLOR_BGR2GRAY)


def brighten(gray: np.ndarray) -> np.ndarray:
    """Return a uint8 (height, width) frame in which nothing is bright, brighter; any other as it is.

    The cascade passes over parts that are nearly flat, and in the dark faces are; nor does the network know such faces.
    """
    most, brightest = np.maximum(np.percentile(gray[::8, ::8], (90, 99)), 1)
    gain = min(DARK / most, BRIGHT / brightest, MOST_GAIN)
    return cv2.convertScaleAbs(gray, alpha=gain) if gain > 1 else gray


def crop_faces(gray: np.ndarray, boxes, tilts_degrees=None) -> np.ndarray:
    """Cut boxes (x, y, width, height) out of a gray uint8 (height, width) frame as uint8 (n, 48, 48, 1), 0..255.

    Haar's box is FER-2013's framing, so it is cut as it is. What lies beyond the frame is cut off. With
    `tilts_degrees` (n), as `find_tilt` gives them, each face is turned back around its middle.
    """
    if gray.dtype != np.uint8 or gray.ndim != 2:
        raise ValueError(f"faces are cut out of uint8 (height, width), see to_gray, not {gray.dtype} {gray.shape}.")
    crops = np.empty((len(boxes), FACE_SIZE, FACE_SIZE, 1), np.uint8)
    for i, box in enumerate(boxes):
        tilt = tilts_degrees[i] if tilts_degrees is not None else 0.0
        x, y, width, height = clip_box(box, gray.shape)
        face = gray[y : y + height, x : x + width]
        crops[i, :, :, 0] = _level(gray, box, tilt) if tilt else resize(face, FACE_SIZE, FACE_SIZE)
    return crops


def _level(gray, box, tilt_degrees: float) -> np.ndarray:
    """Return the face of a box turned by its tilt, uint8 (48, 48)."""
    x, y, width, height = box
    around = clip_box((x - width / 4, y - height / 4, 1.5 * width, 1.5 * height), gray.shape)
    zoom = FACE_SIZE / width
    small = resize(
        gray[around[1] : around[1] + around[3], around[0] : around[0] + around[2]],
        max(round(around[2] * zoom), 1),
        max(round(around[3] * zoom), 1),
    )
    middle = ((x + width / 2 - around[0]) * zoom, (y + height / 2 - around[1]) * zoom)
    turn = cv2.getRotationMatrix2D(middle, tilt_degrees, 1.0)
    turn[:, 2] += FACE_SIZE / 2 - np.array(middle)
    return cv2.warpAffine(small, turn, (FACE_SIZE, FACE_SIZE), borderMode=cv2.BORDER_REPLICATE)


def find_tilt(eye_cascade, gray: np.ndarray, box) -> float:
    """Return by how many degrees the line of a face's eyes falls to the right; 0 where two eyes are not found.

    A tilt of more than 25 degrees is taken for a false pair of eyes and is 0 as well.
    """
    x, y, width, height = clip_box(box, gray.shape)
    upper = resize(gray[y : y + max(round(0.65 * height), 1), x : x + width], EYES_SIZE, round(0.65 * EYES_SIZE))
    sizes = {"minSize": (EYES_SIZE // 7,) * 2, "maxSize": (EYES_SIZE // 3,) * 2}
    found, windows = eye_cascade.detectMultiScale2(upper, 1.1, 3, **sizes)
    best = [None, None]  # the most certain eye of each half: (windows, centre)
    for (left, top, eye_width, eye_height), count in zip(found, windows, strict=True):
        centre = left + eye_width / 2, top + eye_height / 2
        side = int(centre[0] > EYES_SIZE / 2)
        if best[side] is None or count > best[side][0]:
            best[side] = count, centre
    if None in best:
        return 0.0
    (_, (left_x, left_y)), (_, (right_x, right_y)) = best
    tilt = math.degrees(math.atan2(right_y - left_y, right_x - left_x))
    apart = (right_x - left_x) / EYES_SIZE
    return tilt if abs(tilt) <= MAX_TILT_DEGREES and apart > 0.25 else 0.0


def clip_box(box, shape) -> tuple[int, int, int, int]:
    """Return the part of a box that lies in a frame of this shape, at least one pixel of it."""
    x, y, width, height = (round(float(value)) for value in box)
    left, top = min(max(x, 0), shape[1] - 1), min(max(y, 0), shape[0] - 1)
    right, bottom = min(max(x + width, left + 1), shape[1]), min(max(y + height, top + 1), shape[0])
    return left, top, right - left, bottom - top


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the image at another size, by area as training does it; the same size gives the same pixels."""
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def overlap(a, b) -> float:
    """Return the intersection over union of two boxes, 0..1."""
    common = _intersection(a, b)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def _intersection(a, b) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def _is_same(a, b) -> bool:
    """True where two boxes are of one face: they overlap, or one lies mostly within the other."""
    return overlap(a, b) >= SAME_FACE or _intersection(a, b) >= 0.5 * min(a[2] * a[3], b[2] * b[3])


def search_near(cascade, gray, box, size: int, scale_factor: float, min_neighbors: int):
    """Look for the face of a box around it, shrunk so that it is `size` pixels wide; return [(box, windows)]."""
    x, y, width, height = box
    around = (x - 0.4 * width, y - 0.4 * height, 1.8 * width, 1.8 * height)
    left, top, region_width, region_height = clip_box(around, gray.shape)
    zoom = size / width
    step = max(int(0.5 / zoom), 1)  # of a large face, a quarter of the pixels and less says the same
    region = gray[top : top + region_height : step, left : left + region_width : step]
    region = resize(region, max(round(region_width * zoom), 1), max(round(region_height * zoom), 1))
    found, windows = cascade.detectMultiScale2(
        region, scale_factor, min_neighbors, minSize=(int(0.75 * size),) * 2, maxSize=(int(1.35 * size),) * 2
    )
    boxes = [(left + a / zoom, top + b / zoom, c / zoom, d / zoom) for a, b, c, d in found]
    return list(zip(boxes, windows, strict=True))


def _search_all(cascade, gray, side: int, scale_factor: float, min_neighbors: int) -> list:
    """Return the candidate boxes of a whole frame, shrunk to `side` pixels, the most certain first."""
    zoom = min(side / max(gray.shape), 1.0)
    small = resize(gray, max(round(gray.shape[1] * zoom), 1), max(round(gray.shape[0] * zoom), 1))
    found, windows = cascade.detectMultiScale2(small, scale_factor, min_neighbors)
    order = sorted(range(len(found)), key=lambda i: -windows[i])
    return [tuple(found[i] / zoom) for i in order]


def _prove(cascade, gray, box):
    """Look at a candidate again, closer; return its more exact box, or None where it is no face."""
    near = [(found, n) for found, n in search_near(cascade, gray, box, PROVE_SIZE, 1.05, 3) if _is_same(found, box)]
    if not near:
        return None
    found, windows = max(near, key=lambda item: item[1])
    x, y, width, height = clip_box(found, gray.shape)
    if width > LARGE_SHARE * min(gray.shape):
        return found if windows >= LARGE_PROOF else None
    flat = gray[y : y + height, x : x + width].std() < FLAT
    return found if windows >= (FLAT_PROOF if flat else PROOF) else None


def find_faces(cascade, gray: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Return the boxes of all faces of a still uint8 (height, width) picture, from left to right.

    A fine search of the whole picture; every candidate is proved, and only the best of doubled boxes is kept.
    """
    boxes = []
    for candidate in _search_all(cascade, gray, STILL_SIDE, 1.05, 3):
        if not any(_is_same(candidate, box) for box in boxes):
            box = _prove(cascade, gray, candidate)
            if box is not None and not any(_is_same(box, other) for other in boxes):
                boxes.append(box)
    return sorted(clip_box(box, gray.shape) for box in boxes)


@dataclass
class Face:
    """A followed face: `id` counts from 1, `box` is as shown (calmed); when it was last looked for, and found."""

    id: int
    box: tuple[int, int, int, int]
    looked_seconds: float
    seen_seconds: float
    exact: np.ndarray | None = field(repr=False)  # (4,) centre x, centre y, width, height, calmed; None in a still

    @property
    def in_view(self) -> bool:
        """Whether it was found when it was last looked for."""
        return self.seen_seconds == self.looked_seconds


class Tracker:
    """Follows faces through the frames of a video: each is looked for near its last place, which costs a tenth of a
    search of the whole frame; that comes every second and a half, and more often while a face is missing.
    """

    def __init__(self, cascade):
        self.cascade = cascade
        self.faces: list[Face] = []
        self._next_id = 1
        self._shape = None
        self._searched_seconds = -math.inf
        self._time_seconds = -math.inf

    def update(self, gray: np.ndarray, time_seconds: float) -> list[Face]:
        """Return the faces of the next frame, uint8 (height, width), at its time in the source, oldest first."""
        if gray.shape != self._shape or time_seconds < self._time_seconds:  # another size, or a film starts again
            self.faces, self._shape, self._searched_seconds = [], gray.shape, -math.inf
        for i, face in enumerate(sorted(self.faces, key=lambda face: face.looked_seconds)):
            if i < MOST_A_FRAME or time_seconds - face.looked_seconds >= TURN_SECONDS:
                self._follow(face, gray, time_seconds)
        self._drop_doubles()
        missing = not self.faces or any(not face.in_view for face in self.faces)
        if time_seconds - self._searched_seconds >= (HURRY_SECONDS if missing else LOOK_AROUND_SECONDS):
            self._searched_seconds = time_seconds
            self._look_around(gray, time_seconds)
        self.faces = [face for face in self.faces if time_seconds - face.seen_seconds <= KEEP_SECONDS]
        self._time_seconds = time_seconds
        return [face for face in self.faces if time_seconds - face.seen_seconds <= SHOW_SECONDS]

    def mirror(self) -> None:
        """Expect the frames to come mirrored: every face stays the same one, on the other side."""
        for face in self.faces:
            x, y, width, height = face.box
            face.box = self._shape[1] - x - width, y, width, height
            face.exact[0] = self._shape[1] - face.exact[0]

    def _follow(self, face: Face, gray, time_seconds: float) -> None:
        since_seconds, face.looked_seconds = time_seconds - face.looked_seconds, time_seconds
        near = search_near(self.cascade, gray, face.box, FOLLOW_SIZE, 1.1, 3)
        if near:
            box = max(near, key=lambda item: (overlap(item[0], face.box), item[1]))[0]
            self._move(face, box, since_seconds)

    def _move(self, face: Face, box, since_seconds: float) -> None:
        """Take a newly found box: a head at rest keeps a calm box, a moving one is followed at once."""
        found = _exact(box)
        shift = np.abs(found - face.exact)[:2].max() / found[2]  # not the size, which is found in steps of a tenth
        calm = 1 - math.exp(-max(since_seconds, 0) / CALM_SECONDS)
        face.exact = face.exact + max(calm, min(shift / BRISK_SHIFT, 1.0)) * (found - face.exact)
        x, y, width, height = face.exact
        face.box = clip_box((x - width / 2, y - height / 2, width, height), self._shape)
        face.seen_seconds = face.looked_seconds

    def _drop_doubles(self) -> None:
        """Where two boxes have come to lie on one face, keep one that is in view, and of two the one known first."""
        kept = []
        for face in sorted(self.faces, key=lambda face: not face.in_view):
            if not any(_is_same(face.box, other.box) for other in kept):
                kept.append(face)
        self.faces = sorted(kept, key=lambda face: face.id)

    def _look_around(self, gray, time_seconds: float) -> None:
        """Search the whole frame: find missing faces again where they were, and new ones."""
        for candidate in _search_all(self.cascade, gray, VIDEO_SIDE, 1.2, 2):
            if any(_is_same(candidate, face.box) for face in self.faces if face.in_view):
                continue
            box = _prove(self.cascade, gray, candidate)
            known = [face for face in self.faces if box is not None and _is_same(box, face.box)]
            if box is None or any(face.in_view for face in known):
                continue
            if known:
                face = max(known, key=lambda face: overlap(box, face.box))
                face.looked_seconds = time_seconds
                self._move(face, box, math.inf)
            else:
                self.faces.append(
                    Face(self._next_id, clip_box(box, gray.shape), time_seconds, time_seconds, _exact(box))
                )
                self._next_id += 1


def _exact(box) -> np.ndarray:
    x, y, width, height = box
    return np.array([x + width / 2, y + height / 2, width, height])
