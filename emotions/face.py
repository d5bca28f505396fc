"""One face: all that is known of it, where it is expected, and what it looks like."""

import math
from dataclasses import dataclass, field

import cv2
import numpy as np

from emotions.faces import Found, centre, centred, clip_box, cut_upright, rotated
from emotions.overlay import draw_faces
from emotions.smoothing import Smoother
from model import EMOTIONS

SHOW_SECONDS = 0.2  # for which the box of a face that is not found is still shown
HIDDEN_SECONDS = 3.0  # for which a face may be hidden behind another
BOX_SMOOTHING_SECONDS = 0.15  # time constant of the box of a head at rest
FAST_SHIFT = 0.1  # shift in box widths from which a box follows without smoothing
VELOCITY_SECONDS = 0.2  # time constant of a face's velocity
STRONG_EVIDENCE = 125  # windows: what is followed has at least so much evidence beside what is new
PATCH_SIZE, PATCH_MARGIN, MIN_CORRELATION = 24, 8, 0.5  # pixels; how well a face's last picture must fit
CARRIED_SHARE = 0.3  # of a new picture while a face is only carried on: it may be drifting
APPEARANCE_SIZE = 12  # pixels: the crop that tells two faces apart


@dataclass(eq=False)
class Face:
    """A face: id, box, probabilities, label, tilt_degrees. The other attributes are the tracker's."""

    id: int  # from 1 on; stays the same while the face is followed
    box: tuple[int, int, int, int]  # x, y, width, height in pixels of the full frame, inside it
    probabilities: np.ndarray | None = None  # (7,), smoothed, in the order of model.EMOTIONS
    label: str = ""  # one of model.EMOTIONS, or "uncertain"
    tilt_degrees: float = 0.0  # of the head, to the right; the face is the box rotated by it around its centre
    found: Found | None = field(default=None, repr=False)  # where it was last found,
    seen_seconds: float = field(default=0.0, repr=False)  # when,
    searched_seconds: float = field(default=0.0, repr=False)  # and when it was last searched
    supported_seconds: float = field(default=0.0, repr=False)  # when it was last found beyond doubt,
    verified: Found | None = field(default=None, repr=False)  # where it was last verified,
    checked_seconds: float = field(default=0.0, repr=False)  # and when that was last tried
    hidden_seconds: float = field(default=-math.inf, repr=False)  # when it was last behind another face
    alone: tuple = field(default=(None, 0.0), repr=False)  # as what, and when, it was last found away from others
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2), repr=False)  # (2,): pixels a second
    smooth_box: np.ndarray | None = field(default=None, repr=False)  # (4,): centre x, centre y, width, height
    patch: np.ndarray | None = field(default=None, repr=False)  # uint8 (24, 24): as it was last found beyond doubt
    appearance: np.ndarray | None = field(default=None, repr=False)  # (144,): see `appearance_of`
    smoother: Smoother | None = field(default=None, repr=False)

    @property
    def in_view(self) -> bool:
        """Whether it was found when it was last searched."""
        return self.seen_seconds == self.searched_seconds

    @property
    def whole_box(self) -> tuple:
        """The box with what lies outside the frame, if it is known."""
        if self.smooth_box is None:
            return self.box
        x, y, width, height = self.smooth_box
        return x - width / 2, y - height / 2, width, height

    def to_dict(self) -> dict:
        """Return id, box, tilt, label and probabilities in plain Python types, for JSON."""
        probabilities = [round(float(probability), 4) for probability in self.probabilities]
        return {
            "id": self.id,
            "box": [int(value) for value in self.box],
            "tilt_degrees": round(float(self.tilt_degrees), 1),
            "label": self.label,
            "probabilities": dict(zip(EMOTIONS, probabilities, strict=True)),
        }

    def mirror(self, frame_width: int) -> None:
        """Move it to where it is in the mirrored frame."""
        x, y, width, height = self.box
        self.box, self.tilt_degrees = (frame_width - x - width, y, width, height), -self.tilt_degrees
        if self.smooth_box is not None:
            self.smooth_box = np.array([frame_width - self.smooth_box[0], *self.smooth_box[1:]])
        if self.found is not None:
            self.found = self.found.mirrored(frame_width)
            self.alone = self.alone[0].mirrored(frame_width), self.alone[1]
            self.velocity, self.patch = self.velocity * (-1, 1), self.patch[:, ::-1].copy()
        if self.appearance is not None:
            self.appearance = self.appearance.reshape(APPEARANCE_SIZE, -1)[:, ::-1].ravel()

    def start(self, gray: np.ndarray, place: Found, now: float) -> None:
        """Begin to follow it where it was found and verified."""
        self.smooth_box = centred(place.box)
        self.found = self.verified = place
        self.checked_seconds = self.supported_seconds = self.seen_seconds = now
        self.tilt_degrees = place.tilt_degrees
        self.move(gray, place, now)

    def predict(self, now: float) -> Found:
        """Return where it is expected, by constant velocity."""
        x, y, width, height = self.found.box
        shift = self.velocity * (now - self.seen_seconds)
        evidence = max(self.verified.evidence, STRONG_EVIDENCE)
        box = x + shift[0], y + shift[1], width, height
        return Found(box, self.found.tilt_degrees, evidence, self.verified.strength)

    def has_size_of(self, place: Found, ratio: float) -> bool:
        """Return whether the width of a place is that of its last verification, by less than this ratio."""
        return 1 / ratio < place.box[2] / self.verified.box[2] < ratio

    def distance(self, place: Found, now: float) -> float | None:
        """Return how far a place is from where it is expected, in widths, and from its size; None if too far."""
        missing_seconds = now - self.seen_seconds
        expected = [self.predict(now)] + ([self.found] if missing_seconds > SHOW_SECONDS else [])
        distance = min(math.dist(centre(place.box), centre(each.box)) for each in expected) / self.found.box[2]
        size = abs(math.log(place.box[2] / self.found.box[2]))
        return None if distance > min(0.6 + 1.5 * missing_seconds, 2) or size > 0.5 else distance + size

    def carry(self, gray: np.ndarray, now: float) -> Found | None:
        """Return where its last picture fits best near its expected place, None if nowhere."""
        (x, y, width, height), tilt, *_ = expected = self.predict(now)
        view = cut_upright(gray, expected.box, tilt, PATCH_SIZE, PATCH_SIZE + 2 * PATCH_MARGIN)
        _, correlation, _, best = cv2.minMaxLoc(cv2.matchTemplate(view, self.patch, cv2.TM_CCOEFF_NORMED))
        if correlation < MIN_CORRELATION:
            return None
        shift = rotated(np.array(best) - PATCH_MARGIN, tilt) * width / PATCH_SIZE
        return expected._replace(box=(x + shift[0], y + shift[1], width, height))

    def move(self, gray: np.ndarray, place: Found, now: float, alone: bool = True) -> None:
        """Take the place where it was found. The box of a head at rest is smoothed, a moving one followed at once."""
        elapsed = max(now - self.seen_seconds, 1e-3)
        if alone:
            self.alone = place, now
            velocity = (np.array(centre(place.box)) - centre(self.found.box)) / elapsed
            self.velocity = self.velocity + _weight(elapsed, VELOCITY_SECONDS) * (velocity - self.velocity)
        new = centred(place.box)
        shift = np.abs(new - self.smooth_box)[:2].max() / new[2]
        weight = _weight(elapsed, BOX_SMOOTHING_SECONDS)
        weights = np.array([max(weight, min(shift / FAST_SHIFT, 1.0))] * 2 + [weight] * 2)  # sizes come in coarse steps
        self.smooth_box = self.smooth_box + weights * (new - self.smooth_box)
        self.tilt_degrees += weight * (place.tilt_degrees - self.tilt_degrees)
        self.found, self.searched_seconds, self.seen_seconds = place, now, now
        patch = cut_upright(gray, place.box, place.tilt_degrees, PATCH_SIZE, PATCH_SIZE)
        share = CARRIED_SHARE if self.patch is not None and self.supported_seconds < now else 1.0
        self.patch = patch if share == 1 else cv2.addWeighted(patch, share, self.patch, 1 - share, 0)
        self.box = clip_box(self.whole_box, gray.shape)

    def remember(self, crop: np.ndarray) -> None:
        """Learn its appearance from a crop, uint8 (48, 48, 1), while no other face is where it is."""
        if self.appearance is None:
            self.appearance = appearance_of(crop)
        elif self.alone[1] == self.seen_seconds:
            self.appearance = 0.9 * self.appearance + 0.1 * appearance_of(crop)


def appearance_of(crop: np.ndarray) -> np.ndarray:
    """Return float (144,): a small crop less its mean, of length 1; the product of two is their correlation."""
    small = cv2.resize(crop, (APPEARANCE_SIZE, APPEARANCE_SIZE), interpolation=cv2.INTER_AREA).astype(float).ravel()
    small -= small.mean()
    return small / max(np.linalg.norm(small), 1e-6)


def _weight(elapsed_seconds: float, time_constant: float) -> float:
    """Return the share of a new value in a low-pass filter."""
    return 1 - math.exp(-elapsed_seconds / time_constant)


class Faces(list):
    """The faces of one image."""

    def __init__(self, faces, image: np.ndarray):
        super().__init__(faces)
        self.image = image

    def plot(self, bars: bool = False) -> np.ndarray:
        """Return a BGR copy of the image with boxes and labels, and with `bars` the seven probabilities."""
        kind = {(3,): None, (4,): cv2.COLOR_BGRA2BGR}.get(self.image.shape[2:], cv2.COLOR_GRAY2BGR)
        image = self.image.copy() if kind is None else cv2.cvtColor(self.image, kind)
        draw_faces(image, self, bars)
        return image

    def to_dict(self) -> dict:
        """Return all faces in plain Python types, for JSON."""
        return {"faces": [face.to_dict() for face in self]}
