"""The scores, on made sets whose answers are known."""

import numpy as np
import pytest

import evaluate
from data import Split
from model import EMOTIONS, build_model

LABELS = np.repeat(np.arange(7), 20)


def sure_of(codes, certainty=1.0):
    """Probabilities that name these codes with this certainty, the rest shared evenly."""
    return np.where(np.eye(7)[codes] == 1, certainty, (1 - certainty) / 6)


def a_calibrated_model(n=20_000, seed=0):
    """Labels drawn from the probabilities themselves."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(7, 0.4), n)
    labels = (probabilities.cumsum(axis=1) > generator.random((n, 1))).argmax(axis=1)
    return labels, probabilities


def test_a_perfect_model():
    scores = evaluate.score(LABELS, sure_of(LABELS))
    assert (scores["n"], scores["accuracy"], scores["macro_f1"], scores["log_loss"], scores["ece"]) == (140, 1, 1, 0, 0)
    for figures in scores["per_class"].values():
        assert (figures["precision"], figures["recall"], figures["f1"], figures["support"]) == (1, 1, 1, 20)
    assert (evaluate.confusion_matrix(LABELS, LABELS) == 20 * np.eye(7)).all()


def test_a_constant_model_knows_nothing_and_says_so():
    scores = evaluate.score(LABELS, np.full((140, 7), 1 / 7))  # argmax: angry
    assert scores["accuracy"] == pytest.approx(1 / 7)
    assert scores["ece"] == pytest.approx(0)
    assert scores["log_loss"] == pytest.approx(np.log(7))
    assert scores["macro_f1"] == pytest.approx(2 * 20 / (20 + 140) / 7)
    assert scores["per_class"]["angry"]["precision"] == pytest.approx(1 / 7)
    assert scores["per_class"]["happy"] | {"recall_interval_95": None} == {
        "precision": 0, "recall": 0, "f1": 0, "support": 20, "recall_interval_95": None
    }  # fmt: skip
    assert evaluate.score(LABELS, sure_of(np.zeros(140, int)))["ece"] == pytest.approx(6 / 7)


def test_permuted_labels():
    shifted = (LABELS + 1) % 7
    scores = evaluate.score(LABELS, sure_of(shifted, 0.7))
    assert (scores["accuracy"], scores["macro_f1"]) == (0, 0)
    assert scores["log_loss"] == pytest.approx(-np.log(0.05))
    assert scores["ece"] == pytest.approx(0.7)
    assert (evaluate.confusion_matrix(LABELS, shifted) == 20 * np.roll(np.eye(7), 1, axis=1)).all()


def test_half_right_by_hand():
    answers = LABELS.copy()
    answers[:70] = (answers[:70] + 1) % 7  # angry, disgust, fear all wrong; half of happy wrong
    scores = evaluate.score(LABELS, sure_of(answers, 0.8))
    assert scores["accuracy"] == 0.5
    assert scores["ece"] == pytest.approx(0.3)
    assert scores["per_class"]["happy"]["recall"] == 0.5
    assert scores["per_class"]["happy"]["precision"] == pytest.approx(10 / 30)
    assert scores["per_class"]["sad"]["precision"] == pytest.approx(20 / 30)


def test_a_class_without_faces_has_no_recall_and_stays_out_of_the_mean():
    labels = LABELS[LABELS != 1]
    scores = evaluate.score(labels, sure_of(labels))
    assert scores["per_class"]["disgust"]["recall"] is None
    assert scores["macro_f1"] == 1
    assert "NaN" in evaluate.score_table(scores)


def test_intervals():
    low, high = evaluate.wilson_interval(50, 100)
    assert (low, high) == (pytest.approx(0.404, abs=1e-3), pytest.approx(0.596, abs=1e-3))
    bounds = np.array(evaluate.wilson_interval(9, 10))  # 1.96 of their own standard errors from the share
    assert bounds - 0.9 == pytest.approx([-1.96, 1.96] * np.sqrt(bounds * (1 - bounds) / 10))
    assert evaluate.wilson_interval(0, 0) is None
    assert evaluate.wilson_interval(10, 10)[1] == 1
    labels, probabilities = a_calibrated_model(2000)
    scores = evaluate.score(labels, probabilities)
    for name in ("accuracy", "macro_f1", "log_loss"):
        low, high = scores[f"{name}_interval_95"]
        assert low < scores[name] < high
    assert evaluate.score(labels, probabilities) == scores  # the draws are seeded


def test_intervals_are_as_wide_as_the_figures_of_redrawn_sets_say():
    labels, probabilities = a_calibrated_model(500)
    scores = evaluate.score(labels, probabilities)
    answers, losses = probabilities.argmax(axis=1), -np.log(probabilities[np.arange(500), labels])
    sets = np.random.default_rng(0).integers(0, 500, (1000, 500))
    redrawn = {
        "accuracy": (answers == labels)[sets].mean(axis=1),
        "macro_f1": [evaluate.macro_f1(evaluate.confusion_matrix(labels[rows], answers[rows])) for rows in sets],
        "log_loss": losses[sets].mean(axis=1),
    }
    for name, figures in redrawn.items():
        assert np.ptp(scores[f"{name}_interval_95"]) == pytest.approx(2 * 1.96 * np.std(figures), rel=0.15)


def test_certainty_falls_into_fifteen_equal_bins():
    probabilities = sure_of(np.zeros(3, int), 0.5)
    probabilities[2] = sure_of(np.zeros(1, int))
    table = evaluate.reliability(np.array([0, 1, 0]), probabilities)
    assert len(table) == 15
    assert table["n"].sum() == 3
    half, certain = table.iloc[7], table.iloc[14]
    assert (half["n"], half["certainty"], half["accuracy"]) == (2, 0.5, 0.5)
    assert (certain["n"], certain["accuracy"]) == (1, 1)
    assert table.drop([7, 14])["accuracy"].isna().all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_a_temperature_that_was_taken_away_is_found_again(temperature):
    labels, probabilities = a_calibrated_model()
    spoilt = evaluate.with_temperature(probabilities, 1 / temperature)
    assert evaluate.fit_temperature(labels, spoilt) == pytest.approx(temperature, rel=0.05)
    assert evaluate.cross_fitted_error(labels, spoilt) < 0.02
    assert (spoilt.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    if temperature != 1:
        assert evaluate.expected_calibration_error(labels, spoilt) > 0.05


def test_a_cross_fitted_error_has_no_temperature_from_the_faces_it_is_measured_on():
    """Two faces, a half each: the right answer sharpens the wrong one, which softens the right one."""
    probabilities = sure_of(np.array([0, 0]), 0.6)
    sharp, soft = (evaluate.with_temperature(probabilities[:1], t).max() for t in evaluate.TEMPERATURES)
    error = evaluate.cross_fitted_error(np.array([0, 1]), probabilities)
    assert error == pytest.approx(((1 - soft) + sharp) / 2, abs=1e-3)


def test_one_sure_and_wrong_answer_does_not_rule_the_temperature():
    answers = LABELS.copy()
    answers[::10] = (answers[::10] + 1) % 7  # 0.9 are right, and that is how sure they are
    probabilities = np.concatenate([sure_of(answers, 0.9), sure_of(np.array([0]), 1 - 1e-9)])
    assert evaluate.fit_temperature(np.append(LABELS, 1), probabilities) == pytest.approx(1, abs=0.02)


def test_the_error_of_a_perfect_model_shrinks_with_n():
    errors = [evaluate.perfect_model_ece(a_calibrated_model(n)[1]) for n in (500, 8000)]
    assert 0 < errors[1] < errors[0] / 2
    labels, probabilities = a_calibrated_model(8000, seed=1)
    assert evaluate.expected_calibration_error(labels, probabilities) < 2 * errors[1]


def test_a_perfect_set_asks_for_the_sharpest_temperature():
    assert evaluate.fit_temperature(LABELS, sure_of(LABELS, 0.9)) == pytest.approx(evaluate.TEMPERATURES[0], rel=1e-3)


def test_coverage_counts_the_certain_and_their_accuracy():
    probabilities = np.concatenate([sure_of(np.zeros(6, int), 0.9), sure_of(np.zeros(4, int), 0.45)])
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 1, 1, 1])
    table = evaluate.coverage(labels, probabilities, (0, 0.5, 0.9, 0.95)).set_index("threshold")
    assert table["coverage"].tolist() == [1, 0.6, 0.6, 0]  # whoever reaches the threshold counts in
    assert table["accuracy"].tolist()[:3] == [0.4, 0.5, 0.5]
    assert np.isnan(table["accuracy"][0.95])


def test_the_ten_views_are_shifts_with_their_mirrors():
    faces = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 1), np.uint8)
    views = list(evaluate.views(faces))
    assert len(views) == 10
    assert all(view.shape == faces.shape and view.dtype == np.uint8 for view in views)
    assert (views[0] == faces).all()
    assert (views[1] == faces[:, :, ::-1]).all()
    assert (views[2][:, :, :46] == faces[:, :, 2:]).all()
    assert (views[2][:, :, 46:] == faces[:, :, 47:]).all()  # the border is continued
    steps = ((0, 0), (2, 0), (-2, 0), (0, 2), (0, -2))
    shifted = {np.roll(faces, step, (1, 2))[:, 2:-2, 2:-2].tobytes() for step in steps}
    assert {view[:, 2:-2, 2:-2].tobytes() for view in views[::2]} == shifted
    assert all((mirror == view[:, :, ::-1]).all() for view, mirror in zip(views[::2], views[1::2], strict=True))


def test_averaging_is_the_mean_over_the_views():
    faces = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), np.uint8)

    def classify(batch):  # by the left half: the mirror changes it
        left = batch[:, :, :24].mean(axis=(1, 2, 3)) / 255
        return np.stack([left, 1 - left, *np.zeros((5, len(batch)))], axis=1)

    expected = np.mean([classify(view) for view in evaluate.views(faces)], axis=0)
    assert evaluate.averaged(classify, faces) == pytest.approx(expected)
    assert evaluate.predict(classify, faces, batch_size=2) == pytest.approx(classify(faces))
    assert evaluate.predict(classify, faces[:0]).shape == (0, 7)


def test_the_audit_counts_constants_copies_and_conflicts():
    faces = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 1), np.uint8)
    training = faces[[0, 1, 1, 2, 3, 3]]
    public = np.concatenate([faces[[1, 4, 2, 1]], np.full((1, 48, 48, 1), 9, np.uint8)])
    splits = {
        "Training": Split(training, np.array([0, 1, 1, 2, 3, 4])),
        "PublicTest": Split(public, np.array([1, 2, 3, 1, 4])),
    }
    found = evaluate.audit(splits)
    assert found["constant"] == {"Training": 0, "PublicTest": 1}
    assert found["groups"] == 3
    assert found["copies_within"] == {"Training": 2, "PublicTest": 1}
    copies = [("Training", 1, 1), ("Training", 2, 1), ("PublicTest", 0, 1), ("PublicTest", 3, 1)]
    assert found["most_copied"][0] == copies
    assert [{face[2] for face in group} for group in found["conflicts"]] == [{2, 3}, {3, 4}]
    public = np.concatenate([public, np.clip(faces[[0, 3]] + np.array([8, 9]).reshape(2, 1, 1, 1), 0, 255)])
    assert evaluate.is_copy(public.astype(np.uint8), training).tolist() == [True, False, True, True, False, True, False]


@pytest.fixture(scope="module")
def untrained():
    import keras

    keras.utils.set_random_seed(0)
    return build_model()


def test_a_folded_temperature_divides_the_logits_and_keeps_the_answers(untrained):
    faces = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 1), np.uint8)
    weights = untrained.get_weights()
    before = untrained.predict_on_batch(faces)
    evaluate.fold_temperature(untrained, 2.0)
    after = untrained.predict_on_batch(faces)
    assert after == pytest.approx(evaluate.with_temperature(before, 2.0), abs=1e-5)
    untrained.set_weights(weights)


def test_grad_cam_equals_its_gradients(untrained):
    tf = pytest.importorskip("tensorflow")
    import keras

    faces = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 1), np.uint8).repeat(7, axis=0)
    maps = evaluate.grad_cam(untrained, faces, range(7))
    assert maps.shape == (7, 48, 48)
    assert maps.min() >= 0
    assert maps.max() <= 1
    rectified = [layer for layer in untrained.layers if isinstance(layer, keras.layers.ReLU)]
    layer = [layer for layer in rectified if layer.output.shape[1] == 6][-1]  # 6 x 6 x 192
    assert layer.output.shape[1:3] == (6, 6)
    both = keras.Model(untrained.input, [layer.output, untrained.layers[-1].input])
    kernel, bias = untrained.layers[-1].get_weights()
    rest = keras.Model(layer.output, untrained.layers[-1].input)
    channels = both(faces.astype(np.float32))[0]
    with tf.GradientTape() as tape:
        tape.watch(channels)
        logits = rest(channels) @ kernel + bias
        chosen = tf.linalg.trace(logits)  # of each face, its own emotion
    weights = tape.gradient(chosen, channels).numpy().mean(axis=(1, 2))
    expected = np.maximum((channels.numpy() * weights[:, None, None, :]).sum(axis=-1), 0)
    assert expected.any(axis=(1, 2)).sum() >= 2  # an emotion that nothing speaks for has an empty map
    expected /= np.maximum(expected.max(axis=(1, 2), keepdims=True), 1e-12)
    large = keras.ops.image.resize(expected[..., None], (48, 48), interpolation="bilinear")
    difference = np.abs(maps - np.asarray(large)[..., 0])  # not 0: a step may cross the kink of a ReLU
    assert difference.max() < 0.1
    assert difference.mean() < 0.02


def test_emotions_name_the_table():
    table = evaluate.per_class_frame(evaluate.score(LABELS, sure_of(LABELS)))
    assert table.index.tolist() == list(EMOTIONS)
    assert table["support"].tolist() == [20] * 7
