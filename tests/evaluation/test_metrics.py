"""Scores and calibration on made predictions whose results are known."""

import numpy as np
import pytest

from data import Split
from evaluation import metrics
from model import EMOTIONS, Classifier

LABELS = np.repeat(np.arange(7), 20)


def confident(codes, confidence=1.0):
    """Probabilities that predict these codes with this confidence, the rest shared evenly."""
    return np.where(np.eye(7)[codes] == 1, confidence, (1 - confidence) / 6)


def calibrated_predictions(n=20_000, seed=0):
    """Labels drawn from the probabilities themselves."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(7, 0.4), n)
    labels = (probabilities.cumsum(axis=1) > generator.random((n, 1))).argmax(axis=1)
    return labels, probabilities


def test_perfect_predictions_score_one():
    scores = metrics.score(LABELS, confident(LABELS))
    assert (scores["n"], scores["accuracy"], scores["macro_f1"], scores["log_loss"], scores["ece"]) == (140, 1, 1, 0, 0)
    for figures in scores["per_class"].values():
        assert (figures["precision"], figures["recall"], figures["f1"], figures["support"]) == (1, 1, 1, 20)
    assert (metrics.confusion_matrix(LABELS, LABELS) == 20 * np.eye(7)).all()


def test_uniform_probabilities_score_chance():
    scores = metrics.score(LABELS, np.full((140, 7), 1 / 7))  # argmax: angry
    assert scores["accuracy"] == pytest.approx(1 / 7)
    assert scores["ece"] == pytest.approx(0)
    assert scores["log_loss"] == pytest.approx(np.log(7))
    assert scores["macro_f1"] == pytest.approx(2 * 20 / (20 + 140) / 7)
    assert scores["per_class"]["angry"]["precision"] == pytest.approx(1 / 7)
    happy = scores["per_class"]["happy"]
    assert (happy["precision"], happy["recall"], happy["f1"], happy["support"]) == (0, 0, 0, 20)
    assert metrics.score(LABELS, confident(np.zeros(140, int)))["ece"] == pytest.approx(6 / 7)


def test_permuted_labels_score_zero():
    shifted = (LABELS + 1) % 7
    scores = metrics.score(LABELS, confident(shifted, 0.7))
    assert (scores["accuracy"], scores["macro_f1"]) == (0, 0)
    assert scores["log_loss"] == pytest.approx(-np.log(0.05))
    assert scores["ece"] == pytest.approx(0.7)
    assert (metrics.confusion_matrix(LABELS, shifted) == 20 * np.roll(np.eye(7), 1, axis=1)).all()


def test_half_correct_predictions_score_as_by_hand():
    predicted = LABELS.copy()
    predicted[:70] = (predicted[:70] + 1) % 7  # angry, disgust, fear all wrong; half of happy wrong
    scores = metrics.score(LABELS, confident(predicted, 0.8))
    assert scores["accuracy"] == 0.5
    assert scores["ece"] == pytest.approx(0.3)
    assert scores["per_class"]["happy"]["recall"] == 0.5
    assert scores["per_class"]["happy"]["precision"] == pytest.approx(10 / 30)
    assert scores["per_class"]["sad"]["precision"] == pytest.approx(20 / 30)


def test_class_without_faces_has_no_recall_and_is_left_out_of_macro_f1():
    labels = LABELS[LABELS != 1]
    scores = metrics.score(labels, confident(labels))
    assert scores["per_class"]["disgust"]["recall"] is None
    assert scores["macro_f1"] == 1
    assert "NaN" in metrics.score_table(scores)


def test_score_table_has_a_row_per_emotion():
    scores = metrics.score(LABELS, confident(LABELS))
    table = metrics.per_class_frame(scores)
    assert table.index.tolist() == [("fer2013", name) for name in EMOTIONS]
    assert table["support"].tolist() == [20] * 7
    both = metrics.per_class_frame(scores | {"ferplus": scores})
    assert both.loc["ferplus"].index.tolist() == list(EMOTIONS)


def test_wilson_interval():
    low, high = metrics.wilson_interval(50, 100)
    assert (low, high) == (pytest.approx(0.404, abs=1e-3), pytest.approx(0.596, abs=1e-3))
    bounds = np.array(metrics.wilson_interval(9, 10))  # 1.96 of their own standard errors from the share
    assert bounds - 0.9 == pytest.approx([-1.96, 1.96] * np.sqrt(bounds * (1 - bounds) / 10))
    assert metrics.wilson_interval(0, 0) is None
    assert metrics.wilson_interval(10, 10)[1] == 1


def test_intervals_are_as_wide_as_resampled_sets_vary():
    labels, probabilities = calibrated_predictions(500)
    scores = metrics.score(labels, probabilities)
    predicted, losses = probabilities.argmax(axis=1), -np.log(probabilities[np.arange(500), labels])
    sets = np.random.default_rng(0).integers(0, 500, (1000, 500))
    resampled = {
        "accuracy": (predicted == labels)[sets].mean(axis=1),
        "macro_f1": [metrics.macro_f1(metrics.confusion_matrix(labels[rows], predicted[rows])) for rows in sets],
        "log_loss": losses[sets].mean(axis=1),
    }
    for name, values in resampled.items():
        low, high = scores[f"{name}_interval_95"]
        assert low < scores[name] < high
        assert high - low == pytest.approx(2 * 1.96 * np.std(values), rel=0.15)
    assert metrics.score(labels, probabilities) == scores  # seeded


def test_chance_is_the_largest_class_or_lucky_guessing():
    assert metrics.chance_accuracy(np.repeat([3, 5], [60, 40])) == 0.6
    few, many = (metrics.chance_accuracy(np.repeat(np.arange(7), count)) for count in (2, 2000))
    assert 0.35 < few < 0.5  # of 14 faces, luck gets a third right
    assert 1 / 7 < many < 0.15


def test_confidence_falls_into_fifteen_equal_bins():
    probabilities = confident(np.zeros(3, int), 0.5)
    probabilities[2] = confident(np.zeros(1, int))
    table = metrics.reliability(np.array([0, 1, 0]), probabilities)
    assert len(table) == 15
    assert table["n"].sum() == 3
    half, full = table.iloc[7], table.iloc[14]
    assert (half["n"], half["confidence"], half["accuracy"]) == (2, 0.5, 0.5)
    assert (full["n"], full["accuracy"]) == (1, 1)
    assert table.drop([7, 14])["accuracy"].isna().all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_fitted_temperature_reverts_a_known_one(temperature):
    labels, probabilities = calibrated_predictions()
    miscalibrated = metrics.with_temperature(probabilities, 1 / temperature)
    assert metrics.fit_temperature(labels, miscalibrated) == pytest.approx(temperature, rel=0.05)
    assert (miscalibrated.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    if temperature != 1:
        assert metrics.expected_calibration_error(labels, miscalibrated) > 0.05


def test_fitted_temperature_resists_a_confident_error():
    predicted = LABELS.copy()
    predicted[::10] = (predicted[::10] + 1) % 7  # 90 % correct, at a confidence of 90 %
    probabilities = np.concatenate([confident(predicted, 0.9), confident(np.array([0]), 1 - 1e-9)])
    assert metrics.fit_temperature(np.append(LABELS, 1), probabilities) == pytest.approx(1, abs=0.02)


def test_fitted_temperature_of_perfect_predictions_is_the_lower_limit():
    assert metrics.fit_temperature(LABELS, confident(LABELS, 0.9)) == pytest.approx(metrics.TEMPERATURES[0], rel=1e-3)


def test_cross_fitted_error_is_low_where_a_temperature_is_all_that_is_missing():
    labels, probabilities = calibrated_predictions(5000)
    assert metrics.cross_fitted_error(labels, metrics.with_temperature(probabilities, 2)) < 0.03


def test_cross_fitted_error_never_measures_on_faces_it_fitted():
    """Of two faces, the correct prediction sharpens the wrong one, which softens the correct one."""
    probabilities = confident(np.array([0, 0]), 0.6)
    sharp, soft = (metrics.with_temperature(probabilities[:1], t).max() for t in metrics.TEMPERATURES)
    error = metrics.cross_fitted_error(np.array([0, 1]), probabilities)
    assert error == pytest.approx(((1 - soft) + sharp) / 2, abs=1e-3)


def test_coverage_counts_the_confident_and_their_accuracy():
    probabilities = np.concatenate([confident(np.zeros(6, int), 0.9), confident(np.zeros(4, int), 0.45)])
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 1, 1, 1])
    table = metrics.coverage(labels, probabilities, (0, 0.5, 0.9, 0.95))
    assert [row["threshold"] for row in table] == [0, 0.5, 0.9, 0.95]
    assert [row["coverage"] for row in table] == [1, 0.6, 0.6, 0]  # a confidence at the threshold counts
    assert [row["accuracy"] for row in table] == [0.4, 0.5, 0.5, None]


# In FER+'s order (neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF): a clear happy, a
# neutral without a majority, a tie, contempt, and a sad face of which a single vote for fear is noise.
VOTES = np.array([
    [0, 10, 0, 0, 0, 0, 0, 0, 0, 0], [5, 0, 0, 3, 2, 0, 0, 0, 0, 0], [5, 5, 0, 0, 0, 0, 0, 0, 0, 0],
    [2, 0, 0, 0, 0, 0, 0, 8, 0, 0], [0, 0, 0, 9, 0, 0, 1, 0, 0, 0],
], np.uint8)  # fmt: skip
VOTED = Split(np.zeros((5, 48, 48, 1), np.uint8), np.array([3, 4, 3, 0, 0], np.uint8), VOTES)


def classifier_with(*outputs):
    return Classifier(lambda faces: np.full((len(faces), len(outputs), 7), 1 / 7), outputs, {})


def test_each_output_is_compared_with_its_own_labels():
    probabilities = np.stack([confident(np.array([3, 4, 3, 0, 1])), confident(np.array([3, 6, 0, 0, 0]))], axis=1)
    compared = metrics.compare(classifier_with("fer2013", "ferplus"), VOTED, probabilities)
    assert [c.output for c in compared.values()] == list(compared) == ["fer2013", "ferplus"]
    assert compared["fer2013"].correct.tolist() == [True, True, True, True, False]
    people = compared["ferplus"]
    assert people.rows.tolist() == [True, True, False, False, True]
    assert people.labels.tolist() == [3, 6, 4]
    assert people.correct.tolist() == [True, True, False]


def test_a_single_output_is_compared_with_votes_too_where_there_are_votes():
    probabilities = confident(np.array([3, 4, 3, 0, 1]))[:, None]
    single = classifier_with("fer2013")
    compared = metrics.compare(single, VOTED, probabilities)
    assert {name: (c.output, c.correct.tolist()) for name, c in compared.items()} == {
        "fer2013": ("fer2013", [True, True, True, True, False]),
        "ferplus": ("fer2013", [True, False, False]),
    }
    assert list(metrics.compare(single, Split(VOTED.faces, VOTED.labels), probabilities)) == ["fer2013"]


def test_vote_scores_know_the_majority_and_the_shares():
    votes = VOTES[[0, 1, 4]]
    scores = metrics.vote_scores(votes, confident(np.array([3, 4, 4]), 0.7))
    assert (scores["n_majority"], scores["accuracy_majority"]) == (2, 1)  # five of ten are no majority
    entropy = -(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2))
    assert scores["vote_entropy"] == pytest.approx(entropy / 3)  # all agree on the other two, but for a single vote
    mixed = -(0.3 * np.log(0.7) + 0.7 * np.log(0.05))
    assert scores["vote_log_loss"] == pytest.approx((mixed - 2 * np.log(0.7)) / 3)
    perfect = metrics.vote_scores(votes, np.eye(7)[[3, 6, 4]] * 0.5 + 0.5 / 7)
    assert perfect["accuracy_majority"] == 1


def test_a_person_and_the_network_are_compared_with_the_other_nine():
    votes = np.zeros((3, 10), np.uint8)
    votes[0, [0, 1]] = 7, 3  # neutral, happy: each of the seven agrees with the others, none of the three does
    votes[1, [0, 1]] = 5, 5  # without one of them the other emotion leads
    votes[2, 9] = 10  # no face: there is nothing to agree on
    scores = metrics.with_nine(votes, confident(np.array([6, 6, 6])))
    assert scores["n_with_nine"] == 20
    assert scores["person_with_nine"] == 7 / 20
    assert scores["network_with_nine"] == 15 / 20  # all ten on the first face, and the five who call the other happy
    assert metrics.with_nine(votes[2:], confident(np.array([6])))["person_with_nine"] is None


def test_ten_views_are_shifts_and_their_mirror_images():
    faces = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 1), np.uint8)
    views = list(metrics.views(faces))
    assert len(views) == 10
    assert all(view.shape == faces.shape and view.dtype == np.uint8 for view in views)
    assert (views[0] == faces).all()
    assert (views[2][:, :, :46] == faces[:, :, 2:]).all()
    assert (views[2][:, :, 46:] == faces[:, :, 47:]).all()  # the border is extended
    shifts = ((0, 0), (2, 0), (-2, 0), (0, 2), (0, -2))
    shifted = {np.roll(faces, shift, (1, 2))[:, 2:-2, 2:-2].tobytes() for shift in shifts}
    assert {view[:, 2:-2, 2:-2].tobytes() for view in views[::2]} == shifted
    assert all((mirror == view[:, :, ::-1]).all() for view, mirror in zip(views[::2], views[1::2], strict=True))


def test_averaging_is_the_mean_over_the_views():
    faces = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), np.uint8)

    def classify(batch):  # by the left half, which mirroring changes
        left = batch[:, :, :24].mean(axis=(1, 2, 3)) / 255
        return np.stack([left, 1 - left, *np.zeros((5, len(batch)))], axis=1)

    expected = np.mean([classify(view) for view in metrics.views(faces)], axis=0)
    assert metrics.averaged(classify, faces) == pytest.approx(expected)
    assert metrics.predict(classify, faces, batch_size=2) == pytest.approx(classify(faces))
    assert metrics.predict(classify, faces[:0]).shape == (0, 7)
