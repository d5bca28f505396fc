"""Two people who pass each other, and faces that leave the frame and come back."""

import pytest
from made_faces import box_of, scene

from emotions.faces import load_cascade, overlap
from emotions.tracker import Tracker

FPS = 20
LEFT, RIGHT = 90, 390  # where the two begin and end


@pytest.fixture
def tracker():
    return Tracker(load_cascade())


def cross(tracker, seconds, heights, widths, codes):
    """Let two faces change places, the second in front; return their ids before and after, and the longest gap.

    The gap is the longest time in seconds without a box on a face of which nine tenths can be seen.
    """
    before, gap, longest = None, {}, 0.0
    for i in range(int((seconds + 1) * FPS)):
        way = min(max((i / FPS - 0.5) / seconds, 0), 1) * (RIGHT - LEFT)
        centres = (LEFT + way, heights[0]), (RIGHT - way, heights[1])
        people = [(code, centre, width, 0) for code, centre, width in zip(codes, centres, widths, strict=True)]
        faces = tracker.update(scene(*people, seed=i), i / FPS)
        boxes = [box_of(centre, width) for centre, width in zip(centres, widths, strict=True)]
        ids = [max(((overlap(face.box, box), face.id) for face in faces), default=(0, None)) for box in boxes]
        for number, (share, _) in enumerate(ids):
            visible = number == 1 or overlap(*boxes) < 0.05
            gap[number] = gap.get(number, 0) + 1 / FPS if visible and share < 0.3 else 0.0
            longest = max(longest, gap[number])
        ids = [number for _, number in ids]
        before = before or ids
    return before, ids, longest


@pytest.mark.parametrize("seconds", [1.2, 4])
@pytest.mark.parametrize(
    "heights, widths", [((180, 180), (100, 100)), ((150, 210), (100, 100)), ((180, 180), (80, 120))],
    ids=["level", "60 pixels apart", "far behind near"],
)  # fmt: skip
def test_faces_that_cross_keep_their_numbers(tracker, seconds, heights, widths):
    before, after, longest = cross(tracker, seconds, heights, widths, (6, 3))
    assert before == after and set(after) == {1, 2}
    assert longest <= 0.3


def test_faces_that_look_alike_keep_their_numbers_by_their_motion(tracker):
    before, after, longest = cross(tracker, 1.2, (180, 180), (100, 100), (6, 6))
    assert before == after and set(after) == {1, 2} and longest <= 0.3


def test_a_hidden_face_that_comes_back_keeps_its_number(tracker):
    """One face stands still, the other stops in front of it for two seconds and goes on."""
    for i in range(3 * FPS):
        x = min(LEFT + 15 * i, 240) if i < 2.5 * FPS else 240 + 15 * (i - 2.5 * FPS)
        faces = tracker.update(scene((6, (240, 180), 90, 0), (3, (x, 180), 120, 0), seed=i), i / FPS)
        if i == 0:
            standing, walking = (face.id for face in sorted(faces, key=lambda face: -face.box[0]))
        if FPS < i < 2.5 * FPS:
            assert len(faces) == 1
    assert [face.id for face in sorted(faces, key=lambda face: face.box[0])] == [standing, walking]


@pytest.mark.parametrize(
    "codes, stop_seconds, returns", [((6, 3), 0.5, False), ((6, 3), 2, True), ((3, 6), 0.5, True), ((3, 6), 2, False)]
)
def test_someone_as_large_who_stops_in_front_of_another_keeps_their_numbers(detector, codes, stop_seconds, returns):
    ids = []
    detector.reset()
    for i in range(int((2.3 + stop_seconds) * FPS)):
        seconds = i / FPS - 0.5
        after = min(max((seconds - 0.5 - stop_seconds) / 0.5, 0), 1)
        x = LEFT + 150 * (min(max(seconds / 0.5, 0), 1) + (-after if returns else after))
        faces = detector.track(scene((codes[0], (240, 180), 100, 0), (codes[1], (x, 180), 100, 0), seed=i), i / FPS)
        places = sorted((abs(face.box[0] + face.box[2] / 2 - x), face.id) for face in faces)
        ids.append([number for _, number in places])  # of the one who moves, then of the other
    assert ids[5] == ids[-1] and len(ids[5]) == 2


def test_a_face_is_followed_until_half_of_it_is_outside_and_keeps_its_number(tracker):
    pixels, speed, last = 120, 150, 0.0
    for i in range(2 * FPS):
        x = 370 + speed * min(i / FPS, 2 - i / FPS)  # out, and back again
        faces = tracker.update(scene((3, (x, 180), pixels, 0), seed=i), i / FPS)
        outside = max(x + pixels / 2 - 480, 0) / pixels
        if i < FPS and any(face.in_view for face in faces):
            last = outside
    assert 0.4 < last < 0.65
    assert [face.id for face in faces] == [1]
