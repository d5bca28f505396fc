"""The end-to-end evaluation on the demo's average faces."""

import re

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY

from data import Split
from emotions.faces import overlap
from evaluation import robustness
from model import Classifier


@pytest.fixture(scope="module")
def average_faces():
    """The demo's seven faces (7, 48, 48, 1), averages of 300 each."""
    strip = cv2.imread(str(REPOSITORY / "demo" / "average_faces.png"), cv2.IMREAD_GRAYSCALE)
    faces = [cv2.resize(face, (48, 48), interpolation=cv2.INTER_AREA) for face in np.hsplit(strip, 7)]
    return np.stack(faces)[..., None]


def classifier_of(classify):
    """A classifier without a Keras model, as of a .tflite file, from a function to probabilities (n, 7)."""
    return Classifier(lambda faces: classify(faces)[:, None], ("fer2013",), {})


def nearest_to(known):
    """A classifier that predicts the code of the nearest of the known faces."""

    def classify(faces):
        difference = faces.astype(int).reshape(len(faces), 1, -1) - known.reshape(1, len(known), -1)
        return np.eye(7)[np.abs(difference).sum(axis=2).argmin(axis=1)]

    return classifier_of(classify)


def number_in(name):
    return int(re.search(r"\d+", name)[0])


def test_frame_holds_the_face_in_its_middle(average_faces):
    for pixels in (40, 72):
        frame = robustness.make_frame(average_faces[3], pixels)
        assert frame.shape == (robustness.FRAME_HEIGHT, robustness.FRAME_WIDTH)
        x, y, width, height = robustness.true_box(pixels)
        inside = cv2.resize(frame[y : y + height, x : x + width], (48, 48), interpolation=cv2.INTER_AREA)
        assert np.abs(inside.astype(int) - average_faces[3, :, :, 0]).mean() < 4


def test_conditions_match_their_names_and_are_repeatable(average_faces):
    frames = {name: robustness.make_frames(average_faces[:2], name) for name in robustness.CONDITIONS}
    means = {name.split()[0]: np.mean(made) for name, made in frames.items()}
    assert means["dark"] < 0.35 * means["clean"]
    assert means["bright"] > 1.2 * means["clean"]
    noise = next(name for name in frames if name.startswith("noise"))
    differences = np.subtract(frames[noise], frames["clean"], dtype=float)
    assert differences.std() == pytest.approx(number_in(noise), rel=0.1)
    for name in (name for name in frames if name.startswith("face of")):
        assert robustness.CONDITIONS[name][0] == number_in(name)
    for name, changed in (
        ("blur", lambda frame, n: cv2.GaussianBlur(frame, (0, 0), n)),
        ("JPEG", lambda frame, n: cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, n])[1], 0)),
    ):
        (name,) = (each for each in frames if each.startswith(name))
        expected = changed(frames["clean"][0], number_in(name))
        assert np.abs(np.subtract(frames[name][0], expected, dtype=float)).max() <= 1
    bar = np.zeros((1, 48, 48, 1), np.uint8)
    bar[:, 8:40, 22:26] = 255
    for name in (name for name in frames if name.startswith("rotated")):
        y, x = np.nonzero(robustness.make_frames(bar, name)[0] > 128)
        assert abs(np.degrees(np.arctan(np.polyfit(y, x, 1)[0]))) == pytest.approx(number_in(name), abs=1.5)
    for name, made in frames.items():
        again = robustness.make_frames(average_faces[:2], name)
        assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))
        assert made[0].dtype == np.uint8
        assert name == "clean" or not np.array_equal(made[0], frames["clean"][0])


def test_average_faces_are_found_where_they_are(average_faces):
    frames = robustness.make_frames(average_faces, "clean")
    truth = robustness.true_box(robustness.FACE_PIXELS)
    found = robustness.find(nearest_to(average_faces), frames, truth)
    for face, crop in found:
        assert overlap(face.box, truth) > 0.5
        assert crop.shape == (48, 48, 1) and crop.dtype == np.uint8


def test_measure_compares_end_to_end_with_pre_cropped_faces(average_faces, monkeypatch):
    assert len({*robustness.CONDITIONS, robustness.SHIFTED}) == 12
    names = [name for name in robustness.CONDITIONS if name.startswith(("clean", "bright"))]
    monkeypatch.setattr(robustness, "CONDITIONS", {name: robustness.CONDITIONS[name] for name in names})
    results = robustness.measure(nearest_to(average_faces), Split(average_faces, np.arange(7)))
    assert set(results) == {*names, robustness.SHIFTED}
    clean = results["clean"]
    assert (clean["n"], clean["found"], clean["accuracy_pre_cropped"]) == (7, 1, 1)
    assert clean["accuracy_found"] >= 5 / 7
    assert "ferplus" not in clean
    bright = next(result for name, result in results.items() if name.startswith("bright"))
    assert bright["accuracy_found"] < 0.6 < bright["accuracy_pre_cropped"]  # the nearest face is the brightest one


def test_no_face_found_means_no_accuracy():
    votes = np.eye(10, dtype=np.uint8)[:3] * 10
    blank = Split(np.full((3, 48, 48, 1), 128, np.uint8), np.zeros(3, int), votes)
    uniform = classifier_of(lambda faces: np.full((len(faces), 7), 1 / 7))
    results = robustness.measure(uniform, blank)
    assert {result["found"] for result in results.values()} == {0}
    for scores in (*results.values(), *(result["ferplus"] for result in results.values())):
        assert (scores["n_found"], scores["accuracy_found"], scores["accuracy_pre_cropped"]) == (0, None, None)


def test_both_outputs_are_measured_on_the_faces_that_have_their_labels(average_faces, monkeypatch):
    """The second output predicts happy, which people see in three faces of six; the seventh has no votes."""
    votes = np.zeros((7, 10), np.uint8)
    votes[:6] = np.eye(10, dtype=np.uint8)[[1, 1, 1, 0, 3, 4]] * 10
    monkeypatch.setattr(robustness, "CONDITIONS", {"clean": robustness.CONDITIONS["clean"]})
    codes = nearest_to(average_faces)

    def predict(faces):
        return np.stack([codes.probabilities(faces), np.tile(np.eye(7)[3], (len(faces), 1))], axis=1)

    both = Classifier(predict, ("fer2013", "ferplus"), {})
    clean = robustness.measure(both, Split(average_faces, np.arange(7), votes))["clean"]
    assert (clean["n_found"], clean["accuracy_pre_cropped"]) == (7, 1)
    people = clean["ferplus"]
    assert (people["n_found"], people["accuracy_found"], people["accuracy_pre_cropped"]) == (6, 0.5, 0.5)


def test_shifted_box_is_a_tenth_away():
    x, y, width, height = robustness.shift_box((10, 20, 50, 50), np.random.default_rng(0))
    assert np.hypot(x - 10, y - 20) == pytest.approx(5)
    assert (width, height) == (50, 50)
