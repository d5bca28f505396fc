"""Searching and cropping faces in one image, on the demo's faces."""

import re
import shutil

import cv2
import numpy as np
import pytest

from emotions.faces import (
    CASCADE,
    brighten,
    clip_box,
    crop_faces,
    find_faces,
    load_cascade,
    overlap,
    to_gray,
)
from model import UserError


@pytest.fixture(scope="module")
def cascade():
    return load_cascade()


@pytest.fixture(scope="module")
def face(demo):
    """The demo's first face with some background around it, gray (300, 300)."""
    return to_gray(demo[0])[90:390, 170:470]


# --- crops


def test_a_face_of_the_right_size_is_cropped_to_the_same_bytes():
    gray = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    crops = crop_faces(gray, [(0, 0, 48, 48)])
    assert crops.shape == (1, 48, 48, 1) and crops.dtype == np.uint8
    assert np.array_equal(crops[0, :, :, 0], gray)
    assert crop_faces(gray, []).shape == (0, 48, 48, 1)


@pytest.mark.parametrize("size", [48, 96, 130])
def test_pixels_are_the_same_in_training_and_live(tmp_path, size):
    from data import load_fer2013
    from model import EMOTIONS

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
    for label, emotion in enumerate(EMOTIONS):
        image = cv2.cvtColor(images["train", emotion], cv2.COLOR_GRAY2BGR)
        live = crop_faces(to_gray(image), [(0, 0, size, size)])
        assert np.array_equal(training.faces[training.labels == label], live)


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
def test_every_kind_of_image_becomes_gray(shape):
    assert np.array_equal(to_gray(np.full(shape, 77, np.uint8)), np.full((4, 5), 77))


@pytest.mark.parametrize(
    "image",
    [
        None,
        np.zeros((4, 5), np.uint16),
        np.zeros((4, 5, 3)),
        *(np.zeros(shape, np.uint8) for shape in [(0, 0), (5,), (4, 5, 2)]),
    ],
)
def test_refuses_what_is_no_image_of_eight_bits(image):
    with pytest.raises(ValueError, match="must be uint8"):
        to_gray(image)
    if image is not None and image.dtype != np.uint8:
        with pytest.raises(ValueError, match="cropped from uint8"):
            crop_faces(image, [(0, 0, 4, 4)])


# --- the cascade file


def test_refuses_invalid_cascades(tmp_path):
    contents = {
        "empty.xml": b"",
        "text.xml": b"hello",
        "other.xml": b'<?xml version="1.0"?><opencv_storage><a>1</a></opencv_storage>',
        "bytes.xml": b"\x00\xff\xfe" * 100,
        "cut.xml": CASCADE.read_bytes()[:200_000],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="is not a Haar cascade"):
            load_cascade(tmp_path / name)
    with pytest.raises(UserError, match="There is no cascade"):
        load_cascade(tmp_path / "missing.xml")


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [(r"0 -1 \d+", "0 -1 99999999"), (r"<leafValues>[^<]*", "<leafValues>"), (r"<cascade [^$]*", "<a>" * 50_000)],
)
def test_refuses_cascades_that_crash_opencv(tmp_path, pattern, replacement):
    (tmp_path / "bad.xml").write_text(re.sub(pattern, replacement, CASCADE.read_text(encoding="utf-8")))
    with pytest.raises(UserError, match="crashes OpenCV"):
        load_cascade(tmp_path / "bad.xml")


def test_a_cascade_may_have_any_path(tmp_path):
    path = tmp_path / "лица 顔.xml"
    shutil.copy(CASCADE, path)
    assert not load_cascade(path).empty()


# --- searching


def test_all_faces_of_an_image_are_found_once_each(cascade, face):
    image = np.tile(cv2.resize(face, (240, 240)), (2, 3))
    boxes = [found.box for found in find_faces(cascade, image)]
    assert len(boxes) == 6
    assert boxes == sorted(boxes)
    centres = {((x + w / 2) // 240, (y + h / 2) // 240) for x, y, w, h in boxes}
    assert len(centres) == 6


def test_near_and_far_faces_are_found_in_one_large_image(cascade, face):
    image = np.full((1500, 2000), 95, np.uint8)
    image[300:1200, 100:1000] = cv2.resize(face, (900, 900))
    image[500:660, 1500:1660] = cv2.resize(face, (160, 160))
    near, far = find_faces(cascade, image)
    assert near.box[2] > 400 and far.box[2] < 160


@pytest.mark.parametrize("shape", [(480, 640), (1, 1), (10, 2000), (20, 20)])
def test_an_empty_image_has_no_face(cascade, shape):
    assert find_faces(cascade, np.full(shape, 128, np.uint8)) == []


class StubCascade:
    """Finds one face in the middle of every image, and of every view, with this many neighbors, in verification."""

    def __init__(self, neighbors, side):
        self.neighbors, self.side = neighbors, side

    def detectMultiScale2(self, image, *args, **sizes):  # OpenCV's name
        height, width = image.shape
        side = height * 2 // 3 if sizes else self.side
        centres = range(height // 2, width, height) if sizes else [width // 2]
        boxes = [(x - side // 2, height // 2 - side // 2, side, side) for x in centres]
        return np.array(boxes), np.array([self.neighbors if sizes else 99] * len(boxes))


@pytest.mark.parametrize(
    "neighbors, side, contrast, found",
    [(2, 80, 60, 0), (3, 80, 60, 1), (3, 20, 60, 0), (6, 20, 60, 1), (3, 80, 10, 0), (6, 80, 10, 1)],
)
def test_a_candidate_needs_enough_windows_and_a_small_or_flat_one_more(neighbors, side, contrast, found):
    gray = np.full((240, 320), 100, np.uint8)
    gray[:, ::2] += contrast  # its standard deviation is half of that
    assert len(find_faces(StubCascade(neighbors, side), gray)) == found


# --- dark frames


@pytest.mark.parametrize("wall", [8, 30])
def test_a_lit_face_in_front_of_a_dark_wall_does_not_burn_out(face, wall):
    frame = np.full((480, 640), wall, np.uint8)
    frame[100:220, 200:320] = cv2.resize(face, (120, 120))  # a twentieth of it
    assert (brighten(frame) == 255).mean() < 0.01


def test_black_stays_black_and_bright_frames_stay_unchanged(face):
    assert brighten(np.zeros((4, 5), np.uint8)).max() == 0
    bright = cv2.convertScaleAbs(face, alpha=1.2)
    assert brighten(bright) is bright


# --- level faces


def rotated(face, degrees):
    """The face turned clockwise."""
    rotation = cv2.getRotationMatrix2D((150, 150), -degrees, 1.0)
    return cv2.warpAffine(face, rotation, (300, 300), borderMode=cv2.BORDER_REPLICATE)


@pytest.mark.parametrize("degrees", [-40, 25])
def test_a_tilted_face_is_cropped_upright_but_for_a_few_degrees(face, degrees):
    box = (50, 50, 200, 200)
    upright = crop_faces(face, [box]).astype(int)
    tilted = rotated(face, degrees)
    unchanged, level = crop_faces(tilted, [box]).astype(int), crop_faces(tilted, [box], [degrees]).astype(int)
    assert np.abs(level - upright).mean() < 0.5 * np.abs(unchanged - upright).mean()
    assert np.array_equal(crop_faces(face, [box], [8.0]), crop_faces(face, [box]))


def test_beyond_the_frame_its_edge_is_continued():
    gray = np.tile(np.arange(0, 200, 2, dtype=np.uint8), (100, 1))
    (crop,) = crop_faces(gray, [(60, 20, 80, 80)])
    assert crop[:, 30:].min() >= 190 and crop[24, 0] < 130
