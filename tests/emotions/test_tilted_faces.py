"""Heads that are tilted, up to 45 degrees to either side."""

import numpy as np
import pytest
from made_faces import box_of, scene

from emotions import EmotionDetector
from emotions.faces import crop_faces, find_faces, load_cascade, overlap
from emotions.tracker import Tracker
from model import Classifier

CENTRE, PIXELS, HAPPY = (240, 180), 120, 3
TRUTH = box_of(CENTRE, PIXELS)


@pytest.fixture(scope="module")
def cascade():
    return load_cascade()


@pytest.mark.parametrize("degrees", [-45, -30, -15, 0, 15, 30, 45])
def test_a_tilted_face_is_found_in_a_still_with_its_tilt(cascade, degrees):
    (found,) = find_faces(cascade, scene((HAPPY, CENTRE, PIXELS, degrees)))
    assert overlap(found.box, TRUTH) > 0.6
    assert found.tilt_degrees == pytest.approx(degrees, abs=6)


def test_the_network_sees_tilted_faces_level():
    uniform = Classifier(lambda faces: np.full((len(faces), 1, 7), 1 / 7), ("fer2013",), {})
    detector = EmotionDetector(uniform)
    upright = crop_faces(scene((HAPPY, CENTRE, PIXELS, 0)), [TRUTH])
    for degrees in (-40, 40):
        image = scene((HAPPY, CENTRE, PIXELS, degrees))
        (face,), crops = detector.crop(image)
        unlevelled = crop_faces(image, [face.box])
        difference = [np.abs(crop.astype(int) - upright).mean() for crop in (crops, unlevelled)]
        assert difference[0] < 0.6 * difference[1]


def test_a_head_that_tilts_is_followed_from_one_side_to_the_other(cascade):
    tracker = Tracker(cascade)
    for i in range(61):
        degrees = 45 * np.sin(i / 60 * 2 * np.pi)  # up to 140 degrees a second
        (face,) = tracker.update(scene((HAPPY, CENTRE, PIXELS, degrees), seed=i), i / 30)
        assert face.id == 1 and face.in_view
        assert overlap(face.box, TRUTH) > 0.6
        assert face.tilt_degrees == pytest.approx(degrees, abs=30)  # it lags a little
    for i in range(61, 75):
        (face,) = tracker.update(scene((HAPPY, CENTRE, PIXELS, 0), seed=i), i / 30)
    assert face.tilt_degrees == pytest.approx(0, abs=5)


def test_tilted_newcomers_are_found_beside_a_face_in_view(cascade):
    tracker, first = Tracker(cascade), (0, (100, 180), 110, 0)
    tracker.update(scene(first), 0.0)
    for i in range(1, 110):
        degrees = 35 if i < 55 else -35
        faces = tracker.update(scene(first, (HAPPY, (350, 180), 110, degrees), seed=i), i / 30)
        if len(faces) == 2:
            break
    assert len(faces) == 2 and i / 30 <= 3.1  # each side has its turn every three seconds
    assert faces[1].tilt_degrees == pytest.approx(degrees, abs=8)


def test_mirroring_changes_the_side_of_the_tilt(cascade):
    tracker = Tracker(cascade)
    for i in range(10):
        faces = tracker.update(scene((HAPPY, (150, 180), PIXELS, 30), seed=i), i / 30)
    (face,) = faces
    tracker.mirror()
    assert face.tilt_degrees == pytest.approx(-30, abs=6)
    (again,) = tracker.update(scene((HAPPY, (330, 180), PIXELS, -30)), 10 / 30)
    assert again.id == face.id and again.tilt_degrees == pytest.approx(-30, abs=6)
