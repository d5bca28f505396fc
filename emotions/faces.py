"""One gray image -> faces: brighten, search with OpenCV's Haar cascade, verify, weigh, level, crop.

Boxes are OpenCV's (x, y, width, height) in pixels of the full frame. A tilt is by how many degrees the line through a
face's eyes falls to the right; the face itself is its box rotated by the tilt around its centre.

The cascade only knows upright faces, so tilted ones are searched in turned copies. It also normalises contrast, so that
shadows, ties and paving stones look like faces to it, from one angle. A real face is detected in many neighbouring
windows, tilted a little to either side, and in the mirror as well: the number of all these windows is its evidence.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from model import IMAGE_SIZE, UserError, sha256_of, survives

CASCADE = Path(__file__).resolve().parent.parent / "haarcascade_frontalface_default.xml"
CASCADE_SHA256 = "0f7d4527844eb514d4a4948e822da90fbb16a34a0bbbbc6adc6498747a5aafb0"  # the shipped one
CASCADE_BYTES = 2**26  # of another one, at most
TURNS = (0, -30, 30)  # degrees: the copies that are searched; each shows faces that are tilted by up to 15 degrees more
STEP_DEGREES = 15  # a candidate is verified at its tilt and this much to both sides of it
STILL_SIDE, TURNED_STILL_SIDE = 1280, 640  # pixels: an image and its turned copies are shrunk to this longer side
VERIFY_SIZE, VERIFY_MARGIN = 54, 0.25  # pixels: width of a candidate in verification; border around it in widths
FOLLOW_SIZE, FOLLOW_MARGIN = 30, 0.3  # pixels: width of a face when it is followed; border around it in widths
FOLLOW_STEPS, FOLLOW_FACTOR = (-10, 10), 1.2  # degrees: it is searched to both sides of its last tilt; scale factor
BOX_SCALE = 0.94  # of the mean of these windows: where the network is most accurate
MIN_EVIDENCE, LARGE_SHARE = 15, 1 / 3  # windows in six views that a face as wide as this share of the frame needs;
HALF_EVIDENCE, MOST_EVIDENCE = 8, 40  # so many more at half that width, as there are more places to be wrong, up to
FLAT, FLAT_FACTOR = 20, 2  # below this contrast (standard deviation, gray levels) it needs so many times more evidence,
TILTED_DEGREES, TILTED_FACTOR = 20, 1.5  # and from this tilt on as well
NEAR_SHARE, MIN_NEAR = 0.6, 75  # share of a larger, stronger face's evidence that is needed near it; at least, windows
NEIGHBOR_SHARE = 0.25  # share of it that a face of about its size needs beside it
MAX_NEEDED = 150  # windows that are enough everywhere
SAME_FACE = 0.3  # intersection over union from which two boxes are one face,
SAME_PLACE = 0.5  # and from which one search around both is enough
SMALL_TILT = 8  # degrees that the network, trained on tilted faces, does not mind: crops are rotated by the rest
DARK = 100  # gray levels: a frame is brightened if nine tenths of it are below,
BRIGHT, MAX_GAIN = 200, 5  # until a hundredth of it is this bright or the gain this large: nothing must burn out
HAZE, HAZE_RANGE = 40, 110  # gray levels: a frame is hazy if all of it is brighter and spans less: it gets a black


class Found(NamedTuple):
    """A place that looks like a face."""

    box: tuple[float, float, float, float]  # x, y, width, height in pixels of the full frame, not clipped
    tilt_degrees: float
    evidence: int  # windows of the cascade
    strength: float = 0.0  # the evidence, as a multiple of what a face of its kind needs; 0 until it is verified

    def mirrored(self, frame_width: int) -> "Found":
        """Return it as it is in the mirrored frame."""
        x, y, width, height = self.box
        return self._replace(box=(frame_width - x - width, y, width, height), tilt_degrees=-self.tilt_degrees)


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
    small = path.stat().st_size < CASCADE_BYTES
    if small and (sha256 := sha256_of(path)) != CASCADE_SHA256:
        prepared = "import cv2; from emotions import faces; image = cv2.imread('demo/average_faces.png', 0)"
        use = "faces.find_faces(faces.read_cascade(path), image)"
        if not survives(prepared, use, path.absolute(), sha256):
            raise UserError(f"{path} crashes OpenCV, or searches for ever. Use the one that comes with this program.")
    if not (small and (cascade := read_cascade(path))):
        raise UserError(f"{path} is not a Haar cascade. Use the one that comes with this program.")
    return cascade


def read_cascade(path):
    """Return the cascade in a file, None if it contains no Haar cascade. It may crash; `load_cascade` does not."""
    storage = cv2.FileStorage()
    try:  # read as text: OpenCV on Windows cannot open every path
        opened = storage.open(Path(path).read_text(encoding="utf-8"), cv2.FileStorage_READ | cv2.FileStorage_MEMORY)
        cascade = cv2.CascadeClassifier()
        loaded = opened and cascade.read(storage.getFirstTopLevelNode()) and not cascade.empty()
    except (cv2.error, SystemError, UnicodeDecodeError, OSError):
        loaded = False
    return cascade if loaded else None


def to_gray(image: np.ndarray) -> np.ndarray:
    """Return uint8 (height, width) of a BGR, BGRA or gray uint8 image. Raises `ValueError` for any other."""
    shape, dtype = getattr(image, "shape", ()), getattr(image, "dtype", None)
    if dtype != np.uint8 or 0 in shape or len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(f"an image must be uint8 (height, width) or (height, width, 1, 3 or 4), not {dtype} {shape}.")
    if shape[2:] not in ((3,), (4,)):
        return image.reshape(shape[:2])
    return cv2.cvtColor(image, cv2.COLOR_BGRA2GRAY if shape[2] == 4 else cv2.COLOR_BGR2GRAY)


def brighten(gray: np.ndarray) -> np.ndarray:
    """Return a uint8 (height, width) frame brighter if nothing in it is bright, clearer if it is hazy, else unchanged.

    The cascade skips regions that are nearly flat, as dark faces are; the network does not know such faces either.
    """
    darkest, most, brightest = np.percentile(gray[::8, ::8], (1, 90, 99))
    if darkest > HAZE and brightest - darkest < HAZE_RANGE:
        gain = min(BRIGHT / max(brightest - darkest, 1), MAX_GAIN)
        return cv2.LUT(gray, np.uint8(np.clip(np.rint(gain * (np.arange(256) - darkest)), 0, 255)))
    gain = min(DARK / max(most, 1), BRIGHT / max(brightest, 1), MAX_GAIN)
    return cv2.convertScaleAbs(gray, alpha=gain) if gain > 1 else gray


def crop_faces(gray: np.ndarray, boxes, tilts_degrees=None) -> np.ndarray:
    """Crop boxes from a gray uint8 (height, width) frame; return uint8 (n, 48, 48, 1), 0..255.

    The cascade's box matches FER-2013's framing, so it has no margin. With `tilts_degrees` (n,) each face is rotated
    upright, but for 8 degrees, around its centre. Beyond the frame, its edge is continued.
    """
    if gray.dtype != np.uint8 or gray.ndim != 2:
        raise ValueError(f"faces are cropped from uint8 (height, width), see to_gray, not {gray.dtype} {gray.shape}.")
    crops = np.empty((len(boxes), IMAGE_SIZE, IMAGE_SIZE, 1), np.uint8)
    for i, box in enumerate(boxes):
        tilt = float(tilts_degrees[i]) if tilts_degrees is not None else 0.0
        tilt -= min(max(tilt, -SMALL_TILT), SMALL_TILT)
        x, y, width, height = clipped = clip_box(box, gray.shape)
        if tilt or clipped != tuple(round(float(value)) for value in box):
            crop = cut_upright(gray, box, tilt, 2 * IMAGE_SIZE, 2 * IMAGE_SIZE)  # at twice the size, for sharpness
        else:
            crop = gray[y : y + height, x : x + width]
        crops[i, :, :, 0] = resize(crop, IMAGE_SIZE, IMAGE_SIZE)
    return crops


def cut_upright(gray: np.ndarray, box, tilt_degrees: float, face_size: int, side: int) -> np.ndarray:
    """Return uint8 (side, side): a face scaled to `face_size` pixels, rotated upright around its centre, in the middle.

    Of a large face every second, third, ... pixel is taken. Beyond the frame, its edge is continued.
    """
    zoom = face_size / box[2]
    step = max(int(0.7 / zoom), 1)
    middle_x, middle_y = centre(box)
    reach = 0.75 * side / zoom  # from the middle to the corners of what is cut out, and a little more
    left, top, right_part, lower_part = clip_box((middle_x - reach, middle_y - reach, 2 * reach, 2 * reach), gray.shape)
    region = gray[top : top + lower_part : step, left : left + right_part : step]
    middle = (middle_x - left) / step, (middle_y - top) / step
    rotation = cv2.getRotationMatrix2D(middle, tilt_degrees, zoom * step)
    rotation[:, 2] += side / 2 - np.array(middle)
    return cv2.warpAffine(region, rotation, (side, side), borderMode=cv2.BORDER_REPLICATE)


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


def centred(box) -> np.ndarray:
    """Return a box as (4,): centre x, centre y, width, height."""
    return np.array([*centre(box), *box[2:]])


def centre(box) -> tuple[float, float]:
    """Return the middle of a box."""
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def rotated(vector: np.ndarray, degrees: float) -> np.ndarray:
    """Return a vector (x, y) of an upright face's view as it is in the frame, where the face is tilted."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([cosine * vector[0] - sine * vector[1], sine * vector[0] + cosine * vector[1]])


def overlap(a, b) -> float:
    """Return the intersection over union of two boxes, 0..1."""
    common = intersection(a, b)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def is_same_face(a, b) -> bool:
    """Return whether two boxes show one face: they overlap, or one lies mostly inside the other."""
    return overlap(a, b) >= SAME_FACE or intersection(a, b) >= 0.5 * min(a[2] * a[3], b[2] * b[3])


def intersection(a, b) -> float:
    """Return the common area of two boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def search_frame(cascade, gray: np.ndarray, side: int, scale_factor: float, min_neighbors: int, turn=0) -> list[Found]:
    """Search the whole frame, shrunk to a longer side in pixels and turned; return candidates, the strongest first."""
    zoom = min(side / max(gray.shape), 1.0)
    small = resize(gray, max(round(gray.shape[1] * zoom), 1), max(round(gray.shape[0] * zoom), 1))
    back = np.eye(2, 3)
    if turn:
        height, width = small.shape
        turned = cv2.boundingRect(cv2.boxPoints(((0, 0), (width, height), turn)))[2:]
        rotation = cv2.getRotationMatrix2D((width / 2, height / 2), turn, 1.0)
        rotation[:, 2] += (np.array(turned) - (width, height)) / 2
        small, back = cv2.warpAffine(small, rotation, turned), cv2.invertAffineTransform(rotation)
    boxes, neighbors = cascade.detectMultiScale2(small, scale_factor, min_neighbors)
    found = []
    for (x, y, width, height), count in zip(boxes, neighbors, strict=True):
        middle = back @ (x + width / 2, y + height / 2, 1) / zoom
        corner = middle - np.array([width, height]) / zoom / 2
        found.append(Found((*corner, width / zoom, height / zoom), turn, int(count)))
    return strongest_first(found)


def search_views(cascade, gray: np.ndarray, views, size: int, margin: float, scale_factor=1.1) -> list[list[Found]]:
    """Search around each of the views (box, tilt, mirrored), its face scaled to `size` pixels and turned upright.

    All views are laid side by side, so that the cascade is called once. Returns what is found in each.
    """
    side = round(size * (1 + 2 * margin))
    sheet = np.empty((side, side * len(views)), np.uint8)
    for i, (box, tilt, mirrored) in enumerate(views):
        tile = cut_upright(gray, box, tilt, size, side)
        sheet[:, i * side : (i + 1) * side] = tile[:, ::-1] if mirrored else tile
    sizes = {"minSize": (round(0.8 * size),) * 2, "maxSize": (round(1.32 * size),) * 2}
    boxes, neighbors = cascade.detectMultiScale2(sheet, scale_factor, 1, **sizes)
    found = [[] for _ in views]
    for (left, top, found_width, _), count in zip(boxes, neighbors, strict=True):
        i = min(int((left + found_width / 2) // side), len(views) - 1)
        box, tilt, mirrored = views[i]
        shift = np.array([left + found_width / 2 - i * side, top + found_width / 2]) - side / 2
        if np.abs(shift).max() + found_width / 2 > side / 2 + 2:
            continue  # it reaches into the next view
        shift = rotated(shift * (-1 if mirrored else 1, 1), tilt) * box[2] / size
        true_width = found_width * box[2] / size
        corner = shift + centre(box) - true_width / 2
        found[i].append(Found((*corner, true_width, true_width), tilt, int(count)))
    return found


def search_near(cascade, gray: np.ndarray, expected: list[Found]) -> list[Found]:
    """Search around places where faces are expected in one call of the cascade; return every face seen there once."""
    if not expected:
        return []
    views = [(each.box, each.tilt_degrees + step, False) for each in expected for step in FOLLOW_STEPS]
    seen, found = search_views(cascade, gray, views, FOLLOW_SIZE, FOLLOW_MARGIN, FOLLOW_FACTOR), []
    for i in range(0, len(views), len(FOLLOW_STEPS)):
        near = strongest_first([each for view in seen[i : i + len(FOLLOW_STEPS)] for each in view])
        while near:
            same = [each for each in near if overlap(each.box, near[0].box) >= SAME_PLACE]
            found.append(merge(same))
            near = [each for each in near if each not in same]
    return keep_strongest(found)


def merge(views: list[Found]) -> Found:
    """Return one face from what several views show of it: mean box and tilt, weighted by evidence, which adds up."""
    evidence = np.array([view.evidence for view in views])
    *box, tilt = np.average([(*view.box, view.tilt_degrees) for view in views], axis=0, weights=evidence).tolist()
    return Found(tuple(box), tilt, int(evidence.sum()))


def verify(cascade, gray: np.ndarray, candidate: Found, share: float = 1.0) -> Found | None:
    """Search a candidate again at a higher resolution; return its more exact self, or None if its evidence is too weak.

    It is searched from six views, and then again around what they show: a false one rarely is where it seemed to be.
    `share` of the usual evidence is needed.
    """
    usual = _needed_evidence(gray, candidate)
    face = _search_closely(cascade, gray, candidate)
    if face is None or face.evidence < share * usual / 3:
        return None
    face = _search_closely(cascade, gray, face)
    if face is None or face.evidence < share * usual:
        return None
    x, y = centre(face.box)
    width, height = BOX_SCALE * face.box[2], BOX_SCALE * face.box[3]
    return face._replace(box=(x - width / 2, y - height / 2, width, height), strength=face.evidence / usual)


def _needed_evidence(gray: np.ndarray, face: Found) -> float:
    """Return how many windows a face needs, by its size, contrast and tilt."""
    x, y, width, height = clip_box(face.box, gray.shape)
    halvings = np.log2(LARGE_SHARE * min(gray.shape) / width)
    needed = float(np.clip(MIN_EVIDENCE + HALF_EVIDENCE * halvings, MIN_EVIDENCE, MOST_EVIDENCE))
    flat = gray[y : y + height, x : x + width].std() < FLAT
    tilted = abs(face.tilt_degrees) > TILTED_DEGREES
    return needed * (FLAT_FACTOR if flat else 1) * (TILTED_FACTOR if tilted else 1)


def _search_closely(cascade, gray: np.ndarray, face: Found) -> Found | None:
    """Return what six views of a face show together: at its tilt and to both sides of it, each also mirrored."""
    tilts = [face.tilt_degrees + step for step in (-STEP_DEGREES, 0, STEP_DEGREES)]
    views = [(face.box, tilt, mirrored) for tilt in tilts for mirrored in (False, True)]
    seen = []
    for found in search_views(cascade, gray, views, VERIFY_SIZE, VERIFY_MARGIN):
        seen += keep_strongest([each for each in found if is_same_face(each.box, face.box)])[:1]
    return merge(seen) if seen else None


def is_plausible(face: Found, others: list[Found]) -> bool:
    """Return whether a face is strong enough beside stronger ones.

    What is smaller than a stronger face and lies below, beside or on it, or is much smaller than all of them, is rarely
    one. Strengths are compared, as small faces need more evidence than large ones.
    """
    stronger = [other for other in others if other.strength > face.strength]
    like = [0.6 < face.box[2] / other.box[2] < 1.6 for other in stronger]
    needed = 0.0
    for other, is_like in zip(stronger, like, strict=True):
        x, y = (np.array(centre(face.box)) - centre(other.box)) / other.box[2]
        on_body = abs(x) < 2 and -1 < y < 4
        if is_like and max(abs(x), abs(y)) > 0.9:  # a second person
            needed = max(needed, NEIGHBOR_SHARE * other.evidence if on_body else 0)
        elif face.box[2] < other.box[2] and (on_body or not any(like)):
            needed = max(needed, NEAR_SHARE * other.evidence, MIN_NEAR)
    return face.evidence >= min(needed, MAX_NEEDED)


def find_faces(cascade, gray: np.ndarray) -> list[Found]:
    """Return all faces of a still uint8 (height, width) image, from left to right.

    A fine search of the whole image and of two turned copies; every candidate is verified, and of several boxes on one
    face the strongest is kept.
    """
    candidates, verified = [], []
    for turn in TURNS:
        candidates += search_frame(cascade, gray, TURNED_STILL_SIDE if turn else STILL_SIDE, 1.05, 3, turn)
    for candidate in strongest_first(candidates):
        if not any(overlap(candidate.box, face.box) >= SAME_PLACE for face in verified):
            face = verify(cascade, gray, candidate)
            verified += [face] if face else []
    faces = [face for face in keep_strongest(verified) if is_plausible(face, verified)]
    return sorted(faces, key=lambda face: face.box[0])


def strongest_first(found: list[Found]) -> list[Found]:
    """Sort by strength, then evidence and, where both are equal, by place: the cascade's threads find in any order."""
    return sorted(found, key=lambda each: (-each.strength, -each.evidence, each.box))


def keep_strongest(found: list[Found]) -> list[Found]:
    """Return the strongest of several boxes on each face, the strongest face first."""
    kept = []
    for face in strongest_first(found):
        if not any(is_same_face(face.box, other.box) for other in kept):
            kept.append(face)
    return kept
