"""Drawing: nothing leaves the frame, everything can be read, at any size."""

import cv2
import numpy as np
import pytest

from emotions import Face, overlay
from model import EMOTIONS

PROBABILITIES = np.float32([0.05, 0.05, 0.1, 0.5, 0.15, 0.05, 0.1])
SHAPES = [(480, 640, 3), (1080, 1920, 3), (120, 160, 3), (2000, 300, 3), (40, 40, 3), (1, 1, 3)]
CORNERS = [(0, 0), (-20, -20), (10_000, 10_000), (0, 10_000)]


def draw_all(image, box, label, others=(), tilt=0.0):
    """Draw a face with its bars, and others like it."""
    boxes = [box, *others]
    overlay.draw_faces(image, [Face(i, each, PROBABILITIES, label, tilt) for i, each in enumerate(boxes, 1)], bars=True)


def gray(shape=(480, 640, 3)):
    return np.full(shape, 128, np.uint8)


def dark(image):
    """Where bars are drawn: their background is darkened."""
    return (image == 32).all(axis=2)


def changed_box(before, after):
    """Return the rows and columns between which two images differ."""
    rows, columns = np.nonzero((before != after).any(axis=2))
    return rows.min(), rows.max(), columns.min(), columns.max()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_drawing_works_at_every_size(shape):
    height, width, _ = shape
    for box in [(0, 0, width, height), (width // 2, height // 2, max(width // 2, 1), max(height // 2, 1))]:
        for draw in (
            lambda image, box=box: draw_all(image, box, "surprise"),
            lambda image: overlay.draw_status(image, "30 fps"),
            lambda image: overlay.draw_message(image, "camera 0 sends no image: reconnecting"),
            overlay.draw_help,
        ):
            image = np.full(shape, 128, np.uint8)
            draw(image)
            assert image.shape == shape and (image != 128).any()


@pytest.mark.parametrize("corner", CORNERS)
def test_text_is_moved_into_the_frame(corner):
    middle, moved = np.full((480, 640, 3), 128, np.uint8), np.full((480, 640, 3), 128, np.uint8)
    overlay.draw_text(middle, "surprise 57%", (200, 200), 0.6, overlay.WHITE, overlay.BLACK)
    overlay.draw_text(moved, "surprise 57%", corner, 0.6, overlay.WHITE, overlay.BLACK)
    assert (middle != 128).any(axis=2).sum() == (moved != 128).any(axis=2).sum()  # all of it is there


@pytest.mark.parametrize("box", [(0, 0, 100, 100), (540, 0, 100, 100), (540, 380, 100, 100), (100, 60, 400, 400)])
def test_label_and_bars_of_a_face_at_the_edge_are_whole(box):
    middle, edge = gray(), gray()
    draw_all(middle, (250, 200, 100, 100), "uncertain")
    draw_all(edge, box, "uncertain")
    for name in EMOTIONS:
        counts = [(drawn == overlay.COLORS[name]).all(axis=2).sum() for drawn in (edge, middle)]
        assert counts[0] >= 0.5 * counts[1] > 0  # they may be smaller
    paper = [(drawn == overlay.COLORS["uncertain"]).all(axis=2).sum() for drawn in (edge, middle)]
    assert paper[0] > 0.5 * paper[1]


SCENES = {
    "side by side": [(200, 150, 100, 100), (310, 160, 100, 100)],
    "no room between": [(30, 100, 250, 250), (360, 100, 250, 250)],
    "a row": [(20 + 120 * i, 180, 100, 100) for i in range(5)],
    "two rows": [(40 + 150 * i, y, 80, 80) for i in range(4) for y in (60, 330)],
    "far below": [(200, 20, 60, 60), (300, 30, 60, 60), (190, 350, 100, 100)],
    "large": [(100, 40, 400, 400)],
    "filling": [(0, 0, 640, 480)],
}


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("tilt", [0, 30])
def test_bars_never_cover_a_face_or_other_bars(name, tilt):
    image, boxes = gray(), SCENES[name]
    draw_all(image, boxes[0], "neutral", boxes[1:], tilt)
    for x, y, width, height in boxes:
        corners = cv2.boxPoints(((x + width / 2, y + height / 2), (width, height), tilt))
        mask = cv2.fillPoly(np.zeros(image.shape[:2], np.uint8), [np.int32(corners)], 1)
        assert not (dark(image) & (mask > 0)).any()
    alone = gray()
    draw_all(alone, (280, 200, *boxes[0][2:]), "neutral")
    if name in ("side by side", "no room between", "far below") and tilt == 0:  # there is room for all
        assert dark(image).sum() > 0.6 * len(boxes) * dark(alone).sum() > 0


def test_every_bar_has_its_percentage():
    def draw(probabilities):
        image = gray()
        overlay.draw_faces(image, [Face(1, (50, 100, 200, 200), probabilities, "happy")], bars=True)
        return image[:, 260:]  # without box and label

    tops = []
    for i in range(len(EMOTIONS)):
        first, last, _, _ = changed_box(draw(PROBABILITIES), draw(PROBABILITIES + 0.01 * np.eye(7)[i]))
        assert last - first < 20  # one line
        tops.append(first)
    assert (np.diff(tops) > 5).all()


def test_a_box_turns_with_the_head():
    upright, tilted = gray(), gray()
    for image, tilt in ((upright, 0), (tilted, 45)):
        overlay.draw_faces(image, [Face(1, (220, 180, 200, 200), PROBABILITIES, "happy", tilt)])
    lines = [(image == overlay.COLORS["happy"]).all(axis=2) for image in (upright, tilted)]
    assert lines[0][380, 300] and not lines[1][380, 300]  # the lower side of the upright box
    assert lines[1][280 + 140, 315:325].any()  # its lower corner, half a diagonal below the centre


def test_several_faces_have_their_numbers():
    one, two = gray(), gray()
    first, second = (Face(i, (x, 150, 150, 150), PROBABILITIES, "happy") for i, x in ((1, 50), (2, 350)))
    overlay.draw_faces(one, [first])
    overlay.draw_faces(two, [first, second])
    widths = [(drawn[120:148, :300] == overlay.COLORS["happy"]).all(axis=2).sum() for drawn in (one, two)]
    assert widths[1] > 1.1 * widths[0]


@pytest.mark.parametrize("background", [0, 255])
def test_text_without_background_stands_out_from_dark_and_light(background):
    image = np.full((100, 400, 3), background, np.uint8)
    overlay.draw_text(image, "30 fps", (10, 10), 0.6, overlay.WHITE)
    assert image.min() < 10 and image.max() > 230


@pytest.mark.parametrize("label", overlay.COLORS)
def test_text_and_label_color_have_enough_contrast(label):
    def luminance(color):  # WCAG 2, relative luminance of a BGR color
        channels = np.array(color[::-1]) / 255
        linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    image = np.full((2160, 3840, 3), 128, np.uint8)
    overlay.draw_faces(image, [Face(1, (400, 400, 900, 900), PROBABILITIES, label)])
    text = image[300:390, 410:900].reshape(-1, 3)  # the label above the box
    inks = [ink for ink in (overlay.BLACK, overlay.WHITE) if (text == ink).all(axis=1).sum() > 100]
    light, dark = sorted((luminance(overlay.COLORS[label]), luminance(inks[0])), reverse=True)
    assert len(inks) == 1 and (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG's level AA


def test_every_label_has_a_color_of_its_own():
    assert set(overlay.COLORS) == {*EMOTIONS, overlay.UNCERTAIN}
    colors = np.array(list(overlay.COLORS.values()), float)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 1e9 * np.eye(len(colors))
    assert distances.min() > 50


def test_text_grows_with_the_frame():
    scales = [overlay.text_scale(shape) for shape in [(240, 320), (480, 640), (1080, 1920), (4320, 7680)]]
    assert (np.diff(scales) > 0).all() and scales[0] >= 0.4 and scales[-1] <= 4


def test_bars_are_as_long_as_their_probabilities():
    image, certain = gray(), gray()
    overlay.draw_faces(image, [Face(1, (50, 100, 200, 200), PROBABILITIES, "happy")], bars=True)
    overlay.draw_faces(certain, [Face(1, (50, 100, 200, 200), np.eye(7)[3], "happy")], bars=True)
    right = image[:, 260:]  # without box and label
    lengths = {name: (right == overlay.COLORS[name]).all(axis=2).sum(axis=1).max() for name in EMOTIONS}
    whole = (certain[:, 260:] == overlay.COLORS["happy"]).all(axis=2).sum(axis=1).max()
    assert [length / whole for length in lengths.values()] == pytest.approx(PROBABILITIES, abs=0.05)
    assert whole > 40


@pytest.mark.parametrize("top", [100, 0])
def test_the_label_is_above_the_box_or_at_its_top_with_its_probability(top):
    image, label = gray(), gray()
    happy = [0.01, 0.02, 0.03, 0.57, 0.2, 0.05, 0.06]
    overlay.draw_faces(image, [Face(1, (100, top, 200, 200), happy, "happy")])
    overlay.draw_text(label, "happy 57%", (0, 0), 0.6, overlay.BLACK, overlay.COLORS["happy"])
    _, last, _, right = changed_box(gray(), label)
    first = max(top - last - 1, 0)
    assert np.array_equal(image[first : first + last + 1, 100 : 101 + right], label[: last + 1, : right + 1])


def test_a_long_message_is_broken_into_lines():
    short, long = np.full((480, 640, 3), 128, np.uint8), np.full((480, 640, 3), 128, np.uint8)
    overlay.draw_message(short, "Paused.")
    overlay.draw_message(long, "camera 0 keeps sending the same image: reconnecting " * 2)
    untouched = np.full_like(short, 128)
    assert changed_box(untouched, long)[0] < changed_box(untouched, short)[0]
    assert changed_box(untouched, long)[1] == 479


def test_the_status_leaves_a_label_free_and_letters_without_a_shape_are_one_mark():
    image = np.full((480, 640, 3), 200, np.uint8)
    overlay.draw_status(image, "22 fps", [Face(1, (5, 5, 200, 200), PROBABILITIES, "happy")])
    assert (image[:, :320] == 200).all() and (image[:, 320:] < 100).any()
    assert overlay.drawable("Müller – 日.jpg") == "Muller ? ?.jpg"


@pytest.mark.parametrize("box", [(220, 140, 200, 200), (20, 200, 250, 250), (380, 20, 240, 240)])
def test_the_help_covers_no_face(box):
    image = np.full((480, 640, 3), 200, np.uint8)
    overlay.draw_help(image, [Face(1, box, PROBABILITIES, "happy")])
    x, y, width, height = box
    assert (image[y : y + height, x : x + width] == 200).all() and (image < 100).mean() > 0.05
