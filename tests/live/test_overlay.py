"""Drawing: nothing leaves the frame, everything can be read, at any size."""

import numpy as np
import pytest

from emotions import Face
from live import overlay
from model import EMOTIONS

PROBABILITIES = np.float32([0.05, 0.05, 0.1, 0.5, 0.15, 0.05, 0.1])
SHAPES = [(480, 640, 3), (1080, 1920, 3), (120, 160, 3), (2000, 300, 3), (40, 40, 3), (1, 1, 3)]
CORNERS = [(0, 0), (-20, -20), (10_000, 10_000), (0, 10_000)]


def draw_all(image, box, label):
    overlay.draw_bars(image, box, PROBABILITIES)
    overlay.draw_face(image, box, label, PROBABILITIES)


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


@pytest.mark.parametrize("box", [(0, 0, 100, 100), (540, 0, 100, 100), (540, 380, 100, 100), (0, 0, 640, 480)])
def test_label_and_bars_of_a_face_at_the_edge_are_whole(box):
    whole, image = np.full((480, 640, 3), 128, np.uint8), np.full((480, 640, 3), 128, np.uint8)
    draw_all(whole, (250, 200, 100, 100), "happy")
    draw_all(image, box, "happy")
    # The longest bar has the label's color, as have box and label: all three are there at the edge as in the middle.
    color = overlay.COLORS["happy"]
    assert (image == color).all(axis=2).sum() > 0.5 * (whole == color).all(axis=2).sum()
    middle, edge = np.full((480, 640, 3), 128, np.uint8), np.full((480, 640, 3), 128, np.uint8)
    overlay.draw_bars(middle, (250, 200, 100, 100), PROBABILITIES)
    overlay.draw_bars(edge, box, PROBABILITIES)
    for name in EMOTIONS:
        counts = [(drawn == overlay.COLORS[name]).all(axis=2).sum() for drawn in (edge, middle)]
        assert counts[0] >= counts[1] > 0


def test_bars_of_two_faces_side_by_side_hide_neither():
    left, right = (200, 150, 100, 100), (320, 160, 100, 100)
    image = np.full((480, 640, 3), 128, np.uint8)
    overlay.draw_bars(image, left, PROBABILITIES, [right])
    overlay.draw_bars(image, right, PROBABILITIES, [left])
    assert (image[150:260, 200:420] == 128).all()
    assert (image[:, :200] != 128).any() and (image[:, 420:] != 128).any()


def test_a_face_far_below_does_not_decide_where_bars_stand():
    face, beside, below = (200, 20, 60, 60), (300, 30, 60, 60), (190, 350, 100, 100)
    with_it, without = np.full((480, 640, 3), 128, np.uint8), np.full((480, 640, 3), 128, np.uint8)
    overlay.draw_bars(with_it, face, PROBABILITIES, [beside, below])
    overlay.draw_bars(without, face, PROBABILITIES, [beside])
    assert np.array_equal(with_it, without) and (with_it[:, 300:] == 128).all()


def test_bars_of_two_faces_that_leave_no_room_beside_them_do_not_meet():
    left, right = (30, 100, 250, 250), (360, 100, 250, 250)  # between them there is room for one panel
    panels = []
    for box, other in ((left, right), (right, left)):
        image = np.full((480, 640, 3), 128, np.uint8)
        overlay.draw_bars(image, box, PROBABILITIES, [other])
        panels.append((image != 128).any(axis=(0, 2)))
    assert not (panels[0] & panels[1]).any()
    assert panels[0].argmax() == 0 and panels[1][-1]


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
    overlay.draw_face(image, (400, 400, 900, 900), label, PROBABILITIES)
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
    image = np.full((480, 640, 3), 128, np.uint8)
    draw_all(image, (50, 100, 200, 200), "happy")
    right = image[:, 260:]  # without box and label
    lengths = {name: (right == overlay.COLORS[name]).all(axis=2).sum(axis=1).max() for name in EMOTIONS}
    certain = np.full((480, 640, 3), 128, np.uint8)
    overlay.draw_bars(certain, (50, 100, 200, 200), np.eye(7)[3])
    whole = (certain == overlay.COLORS["happy"]).all(axis=2).sum(axis=1).max()
    assert [length / whole for length in lengths.values()] == pytest.approx(PROBABILITIES, abs=0.05)
    assert whole > 40


@pytest.mark.parametrize("top", [100, 0])
def test_the_label_is_above_the_box_or_at_its_top_with_its_probability(top):
    image, label = np.full((480, 640, 3), 128, np.uint8), np.full((480, 640, 3), 128, np.uint8)
    happy = [0.01, 0.02, 0.03, 0.57, 0.6, 0.05, 0.06]  # the number is that of the label, not the highest
    overlay.draw_face(image, (100, top, 200, 200), "happy", happy)
    overlay.draw_text(label, "happy 57%", (0, 0), 0.6, overlay.BLACK, overlay.COLORS["happy"])
    _, last, _, right = changed_box(np.full_like(label, 128), label)
    first = max(top - last - 1, 0)
    assert np.array_equal(image[first : first + last + 1, 100 : 101 + right], label[: last + 1, : right + 1])


def test_faces_are_drawn_in_front_of_all_bars():
    faces = [Face(i, (x, 100, 150, 150), PROBABILITIES, "happy") for i, x in enumerate((20, 240, 460))]
    plain, bars = np.full((480, 640, 3), 128, np.uint8), np.full((480, 640, 3), 128, np.uint8)
    overlay.draw_faces(plain, faces)
    overlay.draw_faces(bars, faces, bars=True)
    lines = (plain == overlay.COLORS["happy"]).all(axis=2)
    assert lines.sum() > 1000 and (bars[lines] == overlay.COLORS["happy"]).all()
    assert (bars == overlay.COLORS["fear"]).all(axis=2).any() and not (plain == overlay.COLORS["fear"]).all(
        axis=2
    ).any()


def test_a_long_message_is_broken_into_lines():
    short, long = np.full((480, 640, 3), 128, np.uint8), np.full((480, 640, 3), 128, np.uint8)
    overlay.draw_message(short, "Paused.")
    overlay.draw_message(long, "camera 0 keeps sending the same image: reconnecting " * 2)
    untouched = np.full_like(short, 128)
    assert changed_box(untouched, long)[0] < changed_box(untouched, short)[0]
    assert changed_box(untouched, long)[1] == 479
