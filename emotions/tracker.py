"""The same face from frame to frame."""

import itertools
import math

import numpy as np

from emotions.face import HIDDEN_SECONDS, SHOW_SECONDS, Face, appearance_of
from emotions.faces import (
    SAME_PLACE,
    TURNS,
    Found,
    centre,
    crop_faces,
    intersection,
    is_plausible,
    is_same_face,
    keep_strongest,
    overlap,
    search_frame,
    search_near,
    verify,
)

SEARCH_SIDE, TURNED_SIDE = 640, 320  # pixels: a frame and its turned copies are shrunk to this longer side for a search
SEARCH_SECONDS = 1.5  # between searches, and between those of turned copies, while every known face is in view
MISSING_SEARCH_SECONDS = 0.15  # the same while a face is missing, or none is known,
START_SECONDS = 0.5  # and for so long at the start of a video
MAX_PER_FRAME = 4  # faces that are searched in one frame; if there are more, they take turns,
TURN_SECONDS = 0.095  # each at least ten times a second
KEEP_SECONDS = 1.0  # for which a face that is not found keeps its id,
KEEP_LEFT_SECONDS = 1.5  # and if it has left the frame: it comes back in parts
WEAK_EVIDENCE = 3  # windows: what is found with less, or at another size than at the last verification, is in doubt:
MAX_DRIFT = 1.3  # ratio of widths
OTHER_SIZE = 1.6  # ratio of widths from which what is found on a face is not that face
CHECK_SECONDS = 0.2  # after which a face in doubt is verified, again and again,
CARRY_SECONDS = 1.0  # and for which it is carried on by its picture alone
KNOWN_SHARE = 0.5  # of the usual evidence that a known face needs in verification
INSIDE_SHARE = 0.5  # of a box: with less inside the frame, a face has left
COURSE_SECONDS = 1.5  # for which the course of a face before it met another counts: it may stop or turn
APPEARANCE_WEIGHT = 1.5  # of a difference in appearance, beside widths
HIDDEN_SHARE, MEETING_SHARE = 0.3, 0.15  # of a box that another face covers: hidden behind it; beside it


class Tracker:
    """Follows faces through the frames of a video.

    Each face is searched near the place where it is expected, which costs a tenth of a full search of the frame. What
    is found is assigned to the faces by place, size and appearance; a face that gets nothing is missing, perhaps hidden
    behind another. The whole frame is searched in turn, upright and turned.
    """

    def __init__(self, cascade):
        self.faces: list[Face] = []  # also those that are not in view
        self._cascade = cascade
        self._ids = itertools.count(1)
        self._shape = None
        self._now, self._gap = -math.inf, math.inf  # of the last frame, and between the last two

    def update(self, gray: np.ndarray, time_seconds: float) -> list[Face]:
        """Return the faces to show in the next frame, uint8 (height, width), by id. Time is that of the source."""
        gap = time_seconds - self._now
        if gray.shape != self._shape or not 0 <= gap <= max(HIDDEN_SECONDS, 3 * self._gap):  # another video, or a pause
            self._forget()
        self._start_seconds = min(self._start_seconds, time_seconds)
        slow = gap >= MISSING_SEARCH_SECONDS
        self._shape, self._gap, self._now, now = gray.shape, gap, time_seconds, time_seconds
        self._follow(gray)
        often = now - self._start_seconds < START_SECONDS or not all(face.in_view for face in self.faces)
        interval = MISSING_SEARCH_SECONDS if often or not self.faces else SEARCH_SECONDS
        upright = now - self._searched_seconds >= interval
        if upright:
            self._search(gray, 0)
            self._searched_seconds = now
        if now - self._turned_seconds >= interval and (not upright or slow):  # not both in one frame
            self._search(gray, self._turn)
            self._turned_seconds, self._turn = now, -self._turn
        self.faces = [face for face in self.faces if not self._is_gone(face)]
        return [face for face in self.faces if now - face.seen_seconds <= SHOW_SECONDS]

    def mirror(self) -> None:
        """Expect the next frames to be mirrored: every face keeps its id, on the other side."""
        for face in self.faces:
            face.mirror(self._shape[1])

    def _forget(self) -> None:
        self.faces, self._turn, self._start_seconds = [], TURNS[1], math.inf
        self._searched_seconds = self._turned_seconds = -math.inf

    def _follow(self, gray: np.ndarray) -> None:
        """Search the faces whose turn it is near their places, and assign what is found."""
        now = self._now
        oldest = enumerate(sorted(self.faces, key=lambda face: face.searched_seconds))
        due = [face for i, face in oldest if i < MAX_PER_FRAME or now - face.searched_seconds >= TURN_SECONDS]
        near = search_near(self._cascade, gray, [face.predict(now) for face in due])
        pairs = _assign(gray, self.faces, near, now)
        places = {face.id: place for face, place in pairs}
        for face in self.faces:
            if face in due or face.id in places:
                place = self._examine(gray, face, places.get(face.id))
                face.searched_seconds = now
                if place and _is_inside(place.box, self._shape):
                    face.move(gray, place, now, self._is_alone(face, place.box))

    def _examine(self, gray: np.ndarray, face: Face, place: Found | None) -> Found | None:
        """Return where a face is, from what was found near its place, if anything; None if it is not in view.

        What is found clearly and at the expected size is believed. If in doubt, the face is carried on by its picture
        and verified as soon as the doubt lasts.
        """
        now = self._now
        lost = now - face.seen_seconds > SHOW_SECONDS
        clear = place is not None and place.evidence >= WEAK_EVIDENCE
        same_size = clear and face.has_size_of(place, MAX_DRIFT)
        if same_size and not lost:
            face.supported_seconds = now
            return place
        carried = None if lost or self._is_hidden(face, face.predict(now).box) else face.carry(gray, now)
        in_doubt = clear or (not lost and now - face.supported_seconds >= CHECK_SECONDS)
        if in_doubt and now - face.checked_seconds >= CHECK_SECONDS / 2:
            face.checked_seconds = now
            for guess in (place if clear else None, carried):
                verified = verify(self._cascade, gray, guess, KNOWN_SHARE) if guess else None
                if verified:
                    face.verified, face.supported_seconds = verified, now
                    return verified
        return carried if now - face.supported_seconds <= CARRY_SECONDS else None

    def _is_alone(self, face: Face, box) -> bool:
        """Return whether no other face is where a face is, not even a hidden one."""
        others = [other.predict(self._now).box for other in self.faces if other is not face]
        return not any(intersection(box, other) > MEETING_SHARE * box[2] * box[3] for other in others)

    def _is_hidden(self, face: Face, box) -> bool:
        """Return whether another face in view covers a good part of where a face is."""
        others = [other.box for other in self.faces if other is not face and other.in_view]
        return any(intersection(box, other) > HIDDEN_SHARE * box[2] * box[3] for other in others)

    def _is_gone(self, face: Face) -> bool:
        now = self._now
        if not face.in_view and self._is_hidden(face, face.predict(now).box):
            face.hidden_seconds = now
        keep_seconds = KEEP_SECONDS if _is_inside(face.predict(now).box, self._shape) else KEEP_LEFT_SECONDS
        missing_seconds = now - max(face.seen_seconds, face.hidden_seconds)
        return missing_seconds > keep_seconds or now - face.seen_seconds > HIDDEN_SECONDS

    def _search(self, gray: np.ndarray, turn: float) -> None:
        """Search the whole frame, turned so far, for missing faces and for new ones."""
        now, new = self._now, []
        in_view = [face for face in self.faces if face.in_view]
        known = [face.found for face in in_view]
        missing = [face for face in self.faces if not face.in_view]
        for candidate in search_frame(self._cascade, gray, TURNED_SIDE if turn else SEARCH_SIDE, 1.2, 2, turn):
            same = next((face for face in in_view if is_same_face(candidate.box, face.found.box)), None)
            fits = same and same.has_size_of(candidate, OTHER_SIZE)
            if fits or any(overlap(candidate.box, other.box) >= SAME_PLACE for other in new):
                continue
            place = verify(self._cascade, gray, candidate)
            if same and place and place.strength > same.verified.strength:  # it was only a part of a face
                same.start(gray, place, now)
            elif place and not any(is_same_face(place.box, other.box) for other in known):
                new = keep_strongest([*new, place])
        others = new + [face.predict(now) for face in in_view]
        pairs = _assign(gray, missing, new, now)
        for place in new:
            face = next((face for face, taken in pairs if taken is place), None)
            if face:
                face.start(gray, place, now)
            elif is_plausible(place, others):
                face = Face(next(self._ids), place.box)
                face.start(gray, place, now)
                self.faces.append(face)


def _is_inside(box, shape: tuple[int, int]) -> bool:
    """Return whether enough of a box lies inside a frame (height, width)."""
    height, width = shape
    return intersection(box, (0, 0, width, height)) >= INSIDE_SHARE * box[2] * box[3]


def _assign(gray: np.ndarray, faces: list[Face], found: list[Found], now: float) -> list[tuple[Face, Found]]:
    """Return pairs of a face and what was found of it, the closest first; each occurs once."""
    costs = []
    for place in found:
        near = [(face.distance(place, now), face) for face in faces]
        near = [(distance, face) for distance, face in near if distance is not None]
        if len(near) > 1:  # several faces may be this one
            appearance = appearance_of(crop_faces(gray, [place.box], [place.tilt_degrees])[0])
            near = [(distance + _identity_cost(face, place, appearance, now), face) for distance, face in near]
        costs += [(distance, face.id, face, place) for distance, face in near]
    pairs = []
    for _, _, face, place in sorted(costs, key=lambda cost: cost[:2]):
        if not any(face is other or place is taken for other, taken in pairs):
            pairs.append((face, place))
    return pairs


def _identity_cost(face: Face, place: Found, appearance: np.ndarray, now: float) -> float:
    """Return the cost of a face's being at a place, of this appearance, where another may be, in widths.

    It rises with the distance from its course since it met the other, on which it may have stopped anywhere, and with
    its change in size and appearance.
    """
    seen, seconds = face.alone
    elapsed = now - seconds
    start, way = np.array(centre(seen.box)), face.velocity * min(elapsed, HIDDEN_SECONDS)
    gone = float(np.clip((centre(place.box) - start) @ way / max(way @ way, 1e-9), 0, 1))
    off_course = min(math.dist(centre(place.box), start + gone * way) / seen.box[2], 1.0)
    size = abs(math.log(place.box[2] / seen.box[2]))
    difference = 0.0 if face.appearance is None else 1 - float(appearance @ face.appearance)
    return max(1 - elapsed / COURSE_SECONDS, 0) * off_course + size + APPEARANCE_WEIGHT * difference
