"""A label is steady and still quick: smoothing in seconds, hysteresis, the threshold."""

import itertools

import numpy as np
import pytest

from emotions.smoothing import Smoother
from model import EMOTIONS

ANGRY, HAPPY = np.eye(7, dtype=np.float32)[[0, 3]] * 0.65 + 0.05


def labels_of(smoother, rows, fps=30):
    return [smoother.update(row, i / fps)[1] for i, row in enumerate(rows)]


@pytest.mark.parametrize("fps", [5, 30, 200])
def test_smoothing_is_in_seconds_and_not_in_frames(fps):
    smoother = Smoother(0.3, 0.0)
    for i in range(int(0.6 * fps) + 1):
        probabilities, _ = smoother.update(ANGRY if i == 0 else HAPPY, i / fps)
    expected = HAPPY + (ANGRY - HAPPY) * np.exp(-int(0.6 * fps) / fps / 0.3)
    assert np.allclose(probabilities, expected, atol=1e-5)


def test_two_nearly_equal_emotions_do_not_alternate():
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(300):
        row = np.full(7, 0.02)
        row[[0, 4]] = 0.45 + generator.normal(0, 0.1, 2)
        rows.append(row)
    changes = {}
    for smoothing in (0, 0.3):
        labels = labels_of(Smoother(smoothing, 0.3), rows)
        changes[smoothing] = sum(a != b for a, b in itertools.pairwise(labels))
    assert changes[0] > 100 and changes[0.3] <= 5


def test_an_emotion_that_leads_by_little_does_not_become_the_label():
    happy, sad = np.full((2, 7), 0.03)
    happy[3], happy[4] = 0.6, 0.25
    sad[3], sad[4] = 0.38, 0.47
    assert labels_of(Smoother(0.01, 0.35), [happy, sad]) == ["happy", "happy"]


@pytest.mark.parametrize("threshold", [0.9, 0.95, 0.99])
def test_a_high_threshold_can_be_reached_again(threshold):
    confident = np.append(1 - 6e-4, np.full(6, 1e-4))
    rows = [confident, *[ANGRY] * 9, *[confident] * 60]
    assert labels_of(Smoother(0.1, threshold), rows)[9::60] == ["uncertain", "angry"]


def test_no_smoothing_shows_every_frame_as_it_is():
    assert labels_of(Smoother(0, 0.4), [ANGRY, HAPPY] * 3) == ["angry", "happy"] * 3


def test_below_the_threshold_the_label_is_uncertain_and_does_not_flicker():
    smoother = Smoother(1e-9, 0.5)
    weak, edge, strong = (share * ANGRY + (1 - share) / 7 for share in (0.6, 0.72, 1))
    assert edge.max() > 0.5 > weak.max()
    assert labels_of(smoother, [strong, edge, weak, edge, strong, edge]) == [
        "angry", "angry", "uncertain", "uncertain", "angry", "angry",
    ]  # fmt: skip


@pytest.mark.parametrize("seconds", [0, 0.1, 0.5])
@pytest.mark.parametrize("threshold", [0.1, 0.35, 0.6, 0.95])
def test_label_and_probabilities_never_contradict_each_other(seconds, threshold):
    generator, smoother, labels = np.random.default_rng(1), Smoother(seconds, threshold), set()
    for i in range(400):
        row = generator.dirichlet(np.full(7, 0.3))
        shown, label = smoother.update(row, i / 30)
        assert shown.sum() == pytest.approx(1, abs=1e-5) and shown.min() >= 0
        expected = EMOTIONS[shown.argmax()] if shown.max() >= threshold else "uncertain"
        assert label == expected
        labels.add(label)
    assert len(labels) > 1 or threshold == 0.95
