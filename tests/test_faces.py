"""Finding, following and cropping faces, on the demo's faces."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import faces
from faces import (
    CASCADE,
    CascadeError,
    Tracker,
    brighten,
    clip_box,
    crop_faces,
    find_faces,
    find_tilt,
    load_cascade,
    overlap,
    to_gray,
)


@pytest.fixture(scope="module")
def cascade():
    return load_cascade(CASCADE)


@pytest.fixture(scope="module")
def face(demo):
    """The demo's first face with some background around it, gray (300, 300)."""
    return to_gray(demo[0])[90:390, 170:470]


def at(face, x, y, width=640, height=360, side=160):
    """A gray frame with the face at x, y."""
    frame = np.full((height, width), 95, np.uint8)
    frame[y : y + side, x : x + side] = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    return frame


# ---- Crops


def test_a_face_of_the_right_size_is_cropped_to_the_same_bytes():
    gray = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    crops = crop_faces(gray, [(0, 0, 48, 48)])
    assert crops.shape == (1, 48, 48, 1) and crops.dtype == np.uint8
    assert np.array_equal(crops[0, :, :, 0], gray)
    assert crop_faces(gray, []).shape == (0, 48, 48, 1)


@pytest.mark.parametrize("size", [48, 96, 130])
def test_a_face_is_the_same_in_training_and_live(tmp_path, network, size):
    from data import load_fer2013
    from model import EMOTIONS, load_classifier

    generator = np.random.default_rng(size)
    images = {}
    for split in ("train", "test"):
        for emotion in EMOTIONS:
            folder = tmp_path / split / emotion
            folder.mkdir(parents=True)
            image = cv2.GaussianBlur(generator.integers(0, 256, (size, size), dtype=np.uint8), (0, 0), 2)
            cv2.imwrite(str(folder / "PublicTest_1.png" if split == "test" else folder / "1.png"), image)
            images[split, emotion] = image
    training = load_fer2013(tmp_path)["Training"]
    classifier = load_classifier(network)
    for label, emotion in enumerate(EMOTIONS):
        trained = training.faces[training.labels == label]
        live = crop_faces(to_gray(cv2.cvtColor(images["train", emotion], cv2.COLOR_GRAY2BGR)), [(0, 0, size, size)])
        assert np.array_equal(trained, live)
        assert np.array_equal(classifier.probabilities(trained), classifier.probabilities(live))


@pytest.mark.parametrize(
    "box, clipped",
    [
        ((10, 20, 30, 25), (10, 20, 30, 25)),
        ((-5, -5, 20, 20), (0, 0, 15, 15)),
        ((90, 40, 30, 30), (90, 40, 10, 10)),
        ((500, 500, 10, 10), (99, 49, 1, 1)),
        ((-50, -50, 10, 10), (0, 0, 1, 1)),
        ((1.4, 1.6, 8.2, 8.6), (1, 2, 8, 9)),
    ],
)
def test_boxes_stay_inside_the_frame(box, clipped):
    assert clip_box(box, (50, 100)) == clipped


def test_overlap_is_intersection_over_union():
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert overlap((0, 0, 10, 10), (10, 0, 10, 10)) == 0


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_every_kind_of_picture_becomes_gray(shape):
    assert np.array_equal(to_gray(np.full(shape, 77, np.uint8)), np.full((4, 5), 77))


@pytest.mark.parametrize(
    "image",
    [
        None,
        np.zeros((4, 5), np.uint16),
        np.zeros((4, 5, 3)),
        *(np.zeros(s, np.uint8) for s in [(0, 0), (5,), (4, 5, 2)]),
    ],
)
def test_what_is_no_picture_of_eight_bits_is_refused(image):
    with pytest.raises(ValueError, match="must be uint8"):
        to_gray(image)
    if image is not None and image.dtype != np.uint8:
        with pytest.raises(ValueError, match=r"faces are cut out of uint8"):
            crop_faces(image, [(0, 0, 4, 4)])


# ---- The cascade file


def test_a_cascade_that_cannot_be_used_is_refused(tmp_path):
    contents = {
        "empty.xml": "",
        "text.xml": "hello",
        "other.xml": '<?xml version="1.0"?><opencv_storage><a>1</a></opencv_storage>',
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "bytes.xml").write_bytes(b"\x00\xff\xfe" * 100)
    (tmp_path / "cut.xml").write_text(CASCADE.read_text(encoding="utf-8")[:200_000], encoding="utf-8")
    for name in ("empty.xml", "text.xml", "other.xml", "bytes.xml", "cut.xml"):
        with pytest.raises(CascadeError, match="is not a Haar cascade"):
            load_cascade(tmp_path / name)
    with pytest.raises(CascadeError, match="There is no cascade"):
        load_cascade(tmp_path / "missing.xml")


def test_a_cascade_may_lie_on_any_path(tmp_path):
    path = tmp_path / "лица 顔.xml"
    shutil.copy(CASCADE, path)
    assert not load_cascade(path).empty()


# ---- Stills


def test_all_faces_of_a_picture_are_found_once_each(cascade, face):
    picture = np.tile(cv2.resize(face, (240, 240)), (2, 3))
    boxes = find_faces(cascade, picture)
    assert len(boxes) == 6
    assert boxes == sorted(boxes)
    centres = {((x + w / 2) // 240, (y + h / 2) // 240) for x, y, w, h in boxes}
    assert len(centres) == 6


def test_near_and_far_faces_are_found_in_one_large_picture(cascade, face):
    picture = np.full((1500, 2000), 95, np.uint8)
    picture[300:1200, 100:1000] = cv2.resize(face, (900, 900))
    picture[500:660, 1500:1660] = cv2.resize(face, (160, 160))
    near, far = find_faces(cascade, picture)
    assert near[2] > 400 and far[2] < 160
    assert all(isinstance(value, int) for value in near)


@pytest.mark.parametrize("shape", [(480, 640), (1, 1), (10, 2000), (20, 20)])
def test_no_face_is_found_where_there_is_none(cascade, shape):
    assert find_faces(cascade, np.full(shape, 128, np.uint8)) == []
    assert Tracker(cascade).update(np.full(shape, 128, np.uint8), 0.0) == []


@pytest.mark.parametrize("light", [0.1, 0.2, 0.3])
def test_a_face_in_the_dark_is_found_and_the_dark_itself_is_none(cascade, face, light):
    def dim(frame):
        return np.clip(light * frame + np.random.default_rng(0).normal(0, 1, frame.shape), 0, 255).astype(np.uint8)

    frame = cv2.convertScaleAbs(at(face, 200, 80), alpha=1.2)
    assert brighten(frame) is frame  # what is bright enough stays as it is
    (found,) = Tracker(cascade).update(brighten(dim(frame)), 0.0)
    assert overlap(found.box, (200, 80, 160, 160)) > 0.3
    assert crop_faces(brighten(dim(frame)), [found.box]).std() > 0.3 * crop_faces(frame, [found.box]).std()
    assert find_faces(cascade, brighten(dim(np.full_like(frame, 114)))) == []


@pytest.mark.parametrize("wall", [8, 30])
def test_a_lit_face_before_a_dark_wall_does_not_burn_out(face, wall):
    frame = np.full((480, 640), wall, np.uint8)
    frame[100:220, 200:320] = cv2.resize(face, (120, 120))  # a twentieth of it
    assert (brighten(frame) == 255).mean() < 0.01


def test_black_stays_black():
    assert brighten(np.zeros((4, 5), np.uint8)).max() == 0


# ---- Following


def test_a_moving_face_keeps_its_id_and_its_box_does_not_lag(cascade, face):
    tracker = Tracker(cascade)
    for i in range(30):
        (found,) = tracker.update(at(face, 10 + 8 * i, 50 + 2 * i), i / 30)
        assert found.id == 1
        if i > 5:
            x, _, width, _ = found.box
            assert abs(x + width / 2 - (10 + 8 * i + 80)) < 0.12 * width


def test_the_box_of_a_face_at_rest_is_calm(cascade, face, monkeypatch):
    def mean_step():
        tracker, generator = Tracker(cascade), np.random.default_rng(0)
        boxes = []
        for i in range(40):
            frame = np.clip(at(face, 200, 80) + generator.normal(0, 6, (360, 640)), 0, 255).astype(np.uint8)
            (found,) = tracker.update(frame, i / 30)
            boxes.append(found.box)
        return np.abs(np.diff(np.array(boxes[15:]), axis=0)).mean(axis=0)  # pixels a frame

    calm = mean_step()
    monkeypatch.setattr(faces, "BRISK_SHIFT", 1e-9)  # every box is followed at once
    assert (calm < 1.0).all() and (calm < 0.5 * mean_step()).all()  # place and size


def test_a_face_keeps_its_id_over_a_short_absence_and_loses_it_over_a_long_one(cascade, face):
    tracker, empty = Tracker(cascade), np.full((360, 640), 95, np.uint8)
    assert [f.id for f in tracker.update(at(face, 200, 80), 0.0)] == [1]
    assert tracker.update(empty, 0.5) == []
    assert [f.id for f in tracker.update(at(face, 210, 80), 0.9)] == [1]
    for i in range(1, 14):
        tracker.update(empty, 0.9 + i / 10)
    assert [f.id for f in tracker.update(at(face, 210, 80), 2.4)] == [2]


def test_a_box_bridges_a_blink_of_the_detector_and_does_not_haunt(cascade, face):
    tracker, empty = Tracker(cascade), np.full((360, 640), 95, np.uint8)
    tracker.update(at(face, 200, 80), 0.0)
    assert len(tracker.update(empty, 0.1)) == 1
    assert tracker.update(empty, 0.3) == []


def test_faces_keep_their_ids_when_another_goes_and_a_new_one_comes(cascade, face):
    tracker = Tracker(cascade)
    both = np.minimum(at(face, 50, 80), 255)
    both[80:240, 400:560] = at(face, 400, 80)[80:240, 400:560]
    ids = {round(f.box[0] / 300): f.id for f in tracker.update(both, 0.0)}
    assert set(ids.values()) == {1, 2}
    for i in range(1, 20):
        left = tracker.update(at(face, 400, 80), i / 10)
    assert [f.id for f in left] == [ids[1]]
    for i in range(20, 40):
        again = tracker.update(both, i / 10)
    assert sorted(f.id for f in again) == [ids[1], 3]


def test_a_face_that_is_covered_does_not_erase_the_one_before_it(cascade, face):
    tracker = Tracker(cascade)
    tracker.update(at(face, 60, 130, side=100), 0.0)
    for i in range(1, 20):  # a near face comes from the right and covers the far one
        frame, left = at(face, 60, 130, side=100), max(330 - 20 * i, 0)
        frame[30:330, left : left + 300] = face
        found = tracker.update(frame, i / 30)
    assert [f.id for f in found] == [2]


def test_a_newcomer_is_seen_within_two_seconds(cascade, face):
    tracker = Tracker(cascade)
    both = at(face, 50, 80)
    both[80:240, 400:560] = at(face, 400, 80)[80:240, 400:560]
    tracker.update(at(face, 50, 80), 0.0)
    counts = [len(tracker.update(both, i / 30)) for i in range(1, 60)]
    assert counts.index(2) <= 60


def test_another_resolution_or_time_running_back_starts_again(cascade, face):
    tracker = Tracker(cascade)
    tracker.update(at(face, 200, 80), 5.0)
    (found,) = tracker.update(at(face, 100, 60, width=320, height=240), 5.1)
    assert found.id == 2 and found.box[0] + found.box[2] <= 320
    assert [again.id for again in tracker.update(at(face, 100, 60, width=320, height=240), 0.0)] == [3]


def test_of_many_faces_each_has_its_turn_ten_times_a_second(cascade, face):
    frame = np.tile(cv2.resize(face, (160, 160)), (2, 4))
    tracker = Tracker(cascade)
    tracker.update(frame, 0.0)
    assert len(tracker.faces) == 8
    for i in range(1, 12):
        found = tracker.update(frame, i / 30)
        assert len(found) == 8
        assert sum(face.looked_seconds == i / 30 for face in found) == 4
        assert max(i / 30 - face.looked_seconds for face in found) <= 0.1


# ---- Level eyes


def turned(face, degrees):
    """The face turned clockwise."""
    turn = cv2.getRotationMatrix2D((150, 150), -degrees, 1.0)
    return cv2.warpAffine(face, turn, (300, 300), borderMode=cv2.BORDER_REPLICATE)


@pytest.mark.parametrize("degrees", [-20, 12])
def test_a_tilted_face_is_cropped_upright(face, degrees):
    box = (50, 50, 200, 200)
    upright = crop_faces(face, [box]).astype(int)
    tilted = turned(face, degrees)
    left, levelled = crop_faces(tilted, [box]).astype(int), crop_faces(tilted, [box], [degrees]).astype(int)
    assert np.abs(levelled - upright).mean() < 0.35 * np.abs(left - upright).mean()
    assert np.array_equal(crop_faces(face, [box], [0.0]), crop_faces(face, [box]))


def test_without_two_eyes_a_face_is_left_as_it_is():
    eyes = load_cascade(Path(cv2.data.haarcascades) / "haarcascade_eye.xml")
    assert find_tilt(eyes, np.full((200, 200), 120, np.uint8), (0, 0, 200, 200)) == 0
    assert find_tilt(eyes, np.full((1, 1), 120, np.uint8), (0, 0, 1, 1)) == 0


@pytest.mark.parametrize(
    "eyes, tilt", [([(20, 40), (80, 40)], 0), ([(20, 30), (80, 46)], 14.9), ([(20, 10), (80, 60)], 0)]
)
def test_the_tilt_is_that_of_the_line_through_the_eyes_within_a_limit(eyes, tilt):
    class Eyes:
        def detectMultiScale2(self, image, *args, **sizes):  # OpenCV's name
            return [(x, y, 20, 20) for x, y in eyes], [9, 9]

    assert find_tilt(Eyes(), np.zeros((200, 200), np.uint8), (0, 0, 200, 200)) == pytest.approx(tilt, abs=0.1)


class Seeing:
    """A cascade that sees one face in every picture, with so many windows around it when it looks closer."""

    def __init__(self, windows):
        self.windows = windows

    def detectMultiScale2(self, image, *args, **sizes):  # OpenCV's name
        side = 56 if sizes else 60
        x, y = (image.shape[1] - side) // 2, (image.shape[0] - side) // 2
        return np.array([(x, y, side, side)]), np.array([self.windows if sizes else 99])


@pytest.mark.parametrize("windows, contrast, found", [(24, 60, 0), (26, 60, 1), (26, 10, 0), (61, 10, 1)])
def test_a_candidate_is_a_face_only_where_enough_windows_agree(windows, contrast, found):
    gray = np.full((240, 320), 100, np.uint8)
    gray[:, ::2] += contrast  # its standard deviation is half of that
    assert len(find_faces(Seeing(windows), gray)) == len(Tracker(Seeing(windows)).update(gray, 0.0)) == found


def test_the_whole_frame_is_searched_every_second_and_a_half_only(cascade, demo):
    class Counting:
        searches = 0

        def detectMultiScale2(self, image, *args, **sizes):
            self.searches += not sizes
            return cascade.detectMultiScale2(image, *args, **sizes)

    counting = Counting()
    tracker = Tracker(counting)
    for i, image in enumerate(demo[:60]):
        assert len(tracker.update(to_gray(image), i / 30)) == 1
    assert counting.searches == 2
