"""The same face from frame to frame."""

import math
from dataclasses import dataclass, field

import numpy as np

from emotions.faces import clip_box, is_same_face, overlap, search_frame, search_near, verify
from emotions.smoothing import Smoother

SEARCH_SIDE = 640  # pixels: a frame is shrunk to this longer side for a full search; finds faces from 4 % of it on
FOLLOW_SIZE = 36  # pixels: a face is scaled to this width before it is searched near its last place
SEARCH_SECONDS = 1.5  # between full searches while every known face is in view
MISSING_SEARCH_SECONDS = 0.15  # the same while a face is missing, or none is known
MAX_PER_FRAME = 4  # faces that are searched in one frame; if there are more, they take turns,
TURN_SECONDS = 0.095  # each at least ten times a second
KEEP_SECONDS = 1.0  # for which a face that is not found keeps its id,
SHOW_SECONDS = 0.2  # and for which its box is still shown
BOX_SMOOTHING_SECONDS = 0.15  # time constant of the box of a head at rest
FAST_SHIFT = 0.1  # shift in box widths from which a box follows without smoothing


@dataclass(eq=False)
class Face:
    """A face and all that is known of it. The tracker uses the last four attributes."""

    id: int  # from 1 on; stays the same while the face is followed
    box: tuple[int, int, int, int]  # x, y, width, height in pixels of the full frame
    probabilities: np.ndarray | None = None  # (7,), smoothed, in the order of model.EMOTIONS
    label: str = ""  # one of model.EMOTIONS, or "uncertain"
    tilt_degrees: float = 0.0  # of the eyes, falling to the right; 0 without alignment
    searched_seconds: float = field(default=0.0, repr=False)  # when it was last searched,
    seen_seconds: float = field(default=0.0, repr=False)  # and last found
    smooth_box: np.ndarray | None = field(default=None, repr=False)  # (4,): centre x, centre y, width, height
    smoother: Smoother | None = field(default=None, repr=False)

    @property
    def in_view(self) -> bool:
        """Whether it was found when it was last searched."""
        return self.seen_seconds == self.searched_seconds

    def mirror(self, frame_width: int) -> None:
        """Move it to where it is in the mirrored frame."""
        x, y, width, height = self.box
        self.box, self.tilt_degrees = (frame_width - x - width, y, width, height), -self.tilt_degrees
        if self.smooth_box is not None:
            centre_x, *others = self.smooth_box
            self.smooth_box = np.array([frame_width - centre_x, *others])


class Tracker:
    """Follows faces through the frames of a video.

    Each face is searched near its last place, which costs a tenth of a full search of the frame.
    """

    def __init__(self, cascade):
        self.faces: list[Face] = []  # also those that are not in view
        self._cascade = cascade
        self._next_id = 1
        self._shape = None
        self._searched_seconds = self._time_seconds = -math.inf

    def update(self, gray: np.ndarray, time_seconds: float) -> list[Face]:
        """Return the faces to show in the next frame, uint8 (height, width), by id. Time is that of the source."""
        if gray.shape != self._shape or time_seconds < self._time_seconds:  # another size, or a video that restarts
            self.faces, self._shape, self._searched_seconds = [], gray.shape, -math.inf
        for i, face in enumerate(sorted(self.faces, key=lambda face: face.searched_seconds)):
            if i < MAX_PER_FRAME or time_seconds - face.searched_seconds >= TURN_SECONDS:
                self._follow(face, gray, time_seconds)
        self._drop_duplicates()
        missing = not self.faces or any(not face.in_view for face in self.faces)
        if time_seconds - self._searched_seconds >= (MISSING_SEARCH_SECONDS if missing else SEARCH_SECONDS):
            self._searched_seconds = time_seconds
            self._search(gray, time_seconds)
        self.faces = [face for face in self.faces if time_seconds - face.seen_seconds <= KEEP_SECONDS]
        self._time_seconds = time_seconds
        return [face for face in self.faces if time_seconds - face.seen_seconds <= SHOW_SECONDS]

    def mirror(self) -> None:
        """Expect the next frames to be mirrored: every face keeps its id, on the other side."""
        for face in self.faces:
            face.mirror(self._shape[1])

    def _follow(self, face: Face, gray: np.ndarray, time_seconds: float) -> None:
        since_seconds, face.searched_seconds = time_seconds - face.searched_seconds, time_seconds
        near = search_near(self._cascade, gray, face.box, FOLLOW_SIZE, 1.1)
        if near:
            box = max(near, key=lambda item: (overlap(item[0], face.box), item[1]))[0]
            self._move(face, box, since_seconds)

    def _move(self, face: Face, box, since_seconds: float) -> None:
        """Take a newly found box: smoothed for a head at rest, at once for one that moves."""
        found = _centred(box)
        shift = np.abs(found - face.smooth_box)[:2].max() / found[2]  # not the size, which is found in coarse steps
        weight = 1 - math.exp(-max(since_seconds, 0) / BOX_SMOOTHING_SECONDS)
        face.smooth_box = face.smooth_box + max(weight, min(shift / FAST_SHIFT, 1.0)) * (found - face.smooth_box)
        x, y, width, height = face.smooth_box
        face.box = clip_box((x - width / 2, y - height / 2, width, height), self._shape)
        face.seen_seconds = face.searched_seconds

    def _drop_duplicates(self) -> None:
        """If two boxes have come to lie on one face, keep the one in view, or else the older one."""
        kept = []
        for face in sorted(self.faces, key=lambda face: not face.in_view):
            if not any(is_same_face(face.box, other.box) for other in kept):
                kept.append(face)
        self.faces = sorted(kept, key=lambda face: face.id)

    def _search(self, gray: np.ndarray, time_seconds: float) -> None:
        """Search the whole frame for missing faces where they were last seen, and for new ones."""
        for candidate in search_frame(self._cascade, gray, SEARCH_SIDE, 1.2, 2):
            if any(is_same_face(candidate, face.box) for face in self.faces if face.in_view):
                continue
            box = verify(self._cascade, gray, candidate)
            known = [face for face in self.faces if box is not None and is_same_face(box, face.box)]
            if box is None or any(face.in_view for face in known):
                continue
            if known:
                face = max(known, key=lambda face: overlap(box, face.box))
                face.searched_seconds = time_seconds
                self._move(face, box, math.inf)
            else:
                times = {"searched_seconds": time_seconds, "seen_seconds": time_seconds}
                new = Face(self._next_id, clip_box(box, gray.shape), smooth_box=_centred(box), **times)
                self.faces.append(new)
                self._next_id += 1


def _centred(box) -> np.ndarray:
    """Return (4,): centre x, centre y, width, height."""
    x, y, width, height = box
    return np.array([x + width / 2, y + height / 2, width, height])
