"""Following faces from frame to frame, on the demo's faces."""

import cv2
import numpy as np
import pytest

from emotions import face as face_module
from emotions.faces import load_cascade, to_gray
from emotions.tracker import Tracker

EMPTY = np.full((360, 640), 95, np.uint8)


@pytest.fixture(scope="module")
def cascade():
    return load_cascade()


@pytest.fixture
def tracked(cascade):
    return Tracker(cascade)


@pytest.fixture(scope="module")
def face(demo):
    """The demo's first face with some background around it, gray (300, 300)."""
    return to_gray(demo[0])[90:390, 170:470]


def at(face, x, y, width=640, height=360, side=160, frame=None):
    """A gray frame with the face at x, y, alone or in another frame."""
    frame = np.full((height, width), 95, np.uint8) if frame is None else frame.copy()
    frame[y : y + side, x : x + side] = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    return frame


def ids(faces):
    return [face.id for face in faces]


def test_a_moving_face_keeps_its_id_and_its_box_does_not_lag(tracked, face):
    for i in range(30):
        (found,) = tracked.update(at(face, 10 + 8 * i, 50 + 2 * i), i / 30)
        assert found.id == 1 and found.in_view
        if i > 5:
            x, _, width, _ = found.box
            assert abs(x + width / 2 - (10 + 8 * i + 80)) < 0.12 * width


def test_the_box_of_a_face_at_rest_is_smooth(cascade, face, monkeypatch):
    def mean_step():
        tracked, generator = Tracker(cascade), np.random.default_rng(0)
        boxes = []
        for i in range(40):
            frame = np.clip(at(face, 200, 80) + generator.normal(0, 6, (360, 640)), 0, 255).astype(np.uint8)
            (found,) = tracked.update(frame, i / 30)
            boxes.append(found.box)
        return np.abs(np.diff(np.array(boxes[15:]), axis=0)).mean(axis=0)  # pixels a frame

    smooth = mean_step()
    assert (smooth < (1, 1, 1.5, 1.5)).all()  # place and size
    monkeypatch.setattr(face_module, "FAST_SHIFT", 1e-9)  # every place is followed at once
    assert (smooth[:2] < 0.5 * mean_step()[:2]).all()


def test_a_face_keeps_its_id_over_a_short_absence_and_loses_it_over_a_long_one(tracked, face):
    assert ids(tracked.update(at(face, 200, 80), 0.0)) == [1]
    assert tracked.update(EMPTY, 0.5) == []
    assert ids(tracked.update(at(face, 210, 80), 0.9)) == [1]
    for i in range(1, 14):
        tracked.update(EMPTY, 0.9 + i / 10)
    assert ids(tracked.update(at(face, 210, 80), 2.4)) == [2]


def test_a_box_stays_for_a_moment_when_the_face_is_not_found(tracked, face):
    tracked.update(at(face, 200, 80), 0.0)
    (missing,) = tracked.update(EMPTY, 0.1)
    assert not missing.in_view
    assert tracked.update(EMPTY, 0.3) == []


def test_faces_keep_their_ids_when_another_leaves_and_a_new_one_comes(tracked, face):
    both = at(face, 400, 80, frame=at(face, 50, 80))
    by_side = {round(found.box[0] / 300): found.id for found in tracked.update(both, 0.0)}
    assert set(by_side.values()) == {1, 2}
    for i in range(1, 20):
        left = tracked.update(at(face, 400, 80), i / 10)
    assert ids(left) == [by_side[1]]
    for i in range(20, 40):
        again = tracked.update(both, i / 10)
    assert sorted(ids(again)) == [by_side[1], 3]


def test_a_covered_face_does_not_replace_the_one_in_front(tracked, face):
    far = at(face, 60, 130, side=100)
    tracked.update(far, 0.0)
    for i in range(1, 20):  # a near face comes from the right and covers the far one
        found = tracked.update(at(face, max(330 - 20 * i, 0), 30, side=300, frame=far), i / 30)
    assert ids(found) == [2]


def test_a_new_face_is_found_within_two_seconds(tracked, face):
    both = at(face, 400, 80, frame=at(face, 50, 80))
    tracked.update(at(face, 50, 80), 0.0)
    counts = [len(tracked.update(both, i / 30)) for i in range(1, 60)]
    assert counts.index(2) <= 50


def test_another_resolution_or_a_restarted_video_begins_anew(tracked, face):
    tracked.update(at(face, 200, 80), 5.0)
    (found,) = tracked.update(at(face, 100, 60, width=320, height=240), 5.1)
    assert found.id == 2 and found.box[0] + found.box[2] <= 320
    assert ids(tracked.update(at(face, 100, 60, width=320, height=240), 0.0)) == [3]


def test_after_a_pause_a_face_has_a_new_id_but_not_in_a_video_with_a_frame_every_ten_seconds(tracked, face):
    frame = at(face, 200, 80)
    for seconds, expected in ((5.0, 1), (5.1, 1), (8.0, 1), (20.0, 2), (20.1, 2)):
        assert ids(tracked.update(frame, seconds)) == [expected], seconds
    time_lapse = Tracker(tracked._cascade)
    assert [ids(time_lapse.update(frame, 10.0 * i)) for i in range(4)] == [[1]] * 4


def test_many_faces_take_turns_at_least_ten_times_a_second(tracked, face):
    frame = np.tile(cv2.resize(face, (160, 160)), (2, 4))
    assert len(tracked.update(frame, 0.0)) == 8
    for i in range(1, 12):
        found = tracked.update(frame, i / 30)
        assert len(found) == 8
        assert sum(each.searched_seconds == i / 30 for each in found) == 4
        assert max(i / 30 - each.searched_seconds for each in found) <= 0.1


def test_the_whole_frame_is_searched_every_second_and_a_half_only_but_often_at_the_start(cascade, demo):
    class Counting:
        searches = 0

        def detectMultiScale2(self, image, *args, **sizes):  # OpenCV's name
            self.searches += not sizes
            return cascade.detectMultiScale2(image, *args, **sizes)

    counting = Counting()
    tracked = Tracker(counting)
    for i, image in enumerate(demo[:60]):
        assert len(tracked.update(to_gray(image), i / 30)) == 1
        if i == 14:
            assert counting.searches == 6  # in half a second three times upright and turned
    assert counting.searches == 8


@pytest.mark.parametrize("shape", [(480, 640), (1, 1), (10, 2000), (20, 20)])
def test_no_face_is_tracked_in_an_empty_frame(tracked, shape):
    assert tracked.update(np.full(shape, 128, np.uint8), 0.0) == []
