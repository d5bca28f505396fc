"""The report: its files, its scorecard, its figures."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from matplotlib.figure import Figure

from data import Dataset, Split
from evaluation import figures, metrics, report, robustness
from model import EMOTIONS, OUTPUTS, Classifier, keras_classifier

KEYS = {
    *("split", "n", "accuracy", "accuracy_interval_95", "macro_f1", "log_loss", "ece", "accuracy_averaged"),
    *("accuracy_without_copies", "chance_accuracy", "per_class", "calibration", "coverage", "output"),
}
SOME_CONDITIONS = (robustness.CLEAN, "dark (× 0.3)", "rotated by 30°")
ORIGIN = {"model": "x.keras", "model_sha256": "ab" * 32, "data": "d.csv", "data_sha256": "cd" * 32, "date": "1.1."}


@pytest.fixture(scope="module")
def dataset():
    """The demo's average faces with noise; the last face of PublicTest is in Training, too, with another label.

    People see what PublicTest's labels say, but neutral in the last face, and something else in that of disgust.
    """
    strip = cv2.imread(str(REPOSITORY / "demo" / "average_faces.png"), cv2.IMREAD_GRAYSCALE)
    average = np.stack([cv2.resize(face, (48, 48), interpolation=cv2.INTER_AREA) for face in np.hsplit(strip, 7)])
    noise = np.random.default_rng(0).integers(-20, 21, (3, 7, 48, 48, 1))
    faces = np.clip(average[..., None] + noise, 0, 255).astype(np.uint8)
    labels = np.arange(7, dtype=np.uint8)
    votes = 10 * np.eye(10, dtype=np.uint8)[[4, 9, 6, 1, 3, 2, 0, 0]]
    splits = {
        "Training": Split(np.concatenate([faces[1], faces[2, :1]]), np.append(labels, np.uint8(4)), votes),
        "PublicTest": Split(np.concatenate([faces[0], faces[2, :1]]), np.append(labels, np.uint8(0)), votes),
    }
    return Dataset("d.csv", splits, ["A note on the data."])


def without_votes(split):
    return Split(split.faces, split.labels)


def tiny(*outputs):
    """A tiny untrained network with maps that Grad-CAM can use."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    faces = keras.Input((48, 48, 1))
    maps = layers.ReLU()(layers.Conv2D(8, 5, 4)(layers.Rescaling(1 / 255)(faces)))
    mean = layers.GlobalAveragePooling2D()(maps)
    heads = [layers.Dense(7, "softmax", name=name)(mean) for name in outputs]
    return keras_classifier(keras.Model(faces, heads if len(heads) > 1 else heads[0]), {})


@pytest.fixture(scope="module")
def classifier():
    return tiny(*OUTPUTS)


def classifier_of(classify):
    """A classifier without a Keras model, as of a .tflite file, from a function to probabilities (n, 7)."""
    return Classifier(lambda faces: classify(faces)[:, None], ("fer2013",), {})


def made_history(epochs=3):
    epoch = np.arange(epochs)
    return pd.DataFrame({
        "epoch": epoch, "accuracy": 0.3 + 0.1 * epoch, "loss": 2 - 0.3 * epoch,
        "val_accuracy": [0.3, 0.5, 0.4], "val_loss": [2, 1.5, 1.8], "learning_rate": [1e-3, 1e-3, 5e-4],
    })  # fmt: skip


@pytest.fixture(scope="module")
def reported(tmp_path_factory, dataset, classifier):
    run = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness, "CONDITIONS", {name: robustness.CONDITIONS[name] for name in SOME_CONDITIONS})
        return run, report.write_report(run, classifier, dataset, "PublicTest", ORIGIN, made_history())


def test_scorecard_is_complete_and_valid_json(reported):
    run, card = reported
    assert set(card) >= KEYS | {"model", "end_to_end"}
    assert set(card["ferplus"]) >= KEYS - {"split"} | {"accuracy_majority", "vote_log_loss", "label_confusion_matrix"}
    assert json.loads((run / "scorecard.json").read_text()) == card
    assert (card["split"], card["n"], card["n_without_copies"]) == ("PublicTest", 8, 7)
    people = card["ferplus"]
    assert (people["output"], people["n"], people["n_without_copies"], people["n_majority"]) == ("ferplus", 7, 6, 7)
    assert report.agreement(people["label_confusion_matrix"]) == 6 / 7
    assert list(card["per_class"]) == list(EMOTIONS)
    assert card["per_class"]["angry"]["support"] == 2
    assert set(card["end_to_end"]) == {*SOME_CONDITIONS, robustness.SHIFTED}
    assert card["calibration"].keys() == people["calibration"].keys() == {"ece_after", "ece_cross_fitted"}  # not fitted


def test_report_shows_every_figure_it_made(reported):
    run, card = reported
    text = (run / "report.md").read_text(encoding="utf-8")
    scores = [report.percent(each["accuracy"], each["accuracy_interval_95"]) for each in (card, card["ferplus"])]
    assert f"single crop** | {scores[0]} | {scores[1]} |" in text
    people, percent = card["ferplus"], report.percent
    for rows in zip(card["coverage"], people["coverage"], strict=True):
        cells = (percent(row[key]) for row in rows for key in ("coverage", "accuracy"))
        assert f"| {rows[0]['threshold']} | {' | '.join(cells)} |" in text
    for name, result in card["end_to_end"].items():
        parts, keys = (result, result["ferplus"]), ("accuracy_found", "accuracy_pre_cropped")
        cells = (percent(part[key]) for part in parts for key in keys)
        assert f"| {name} | {percent(result['found'], result['found_interval_95'])} | {' | '.join(cells)} |" in text
    assert f"in {percent(people['person_with_nine'])} of {people['n_with_nine']} cases" in text.replace("\n", " ")
    assert f"network's label in {percent(people['network_with_nine'])}." in text
    made = {path.name for path in run.glob("*.png")}
    assert made == {
        *("confusion_matrix.png", "ten_people.png", "reliability.png", "end_to_end.png"),
        *("worst_errors.png", "grad_cam.png", "curves.png"),
    }
    for name in made:
        assert f"({name})" in text
        image = cv2.imread(str(run / name))
        assert image.shape[1] == round(figures.WIDTH * figures.DPI)
        assert image.std() > 5
    assert "A note on the data." in text
    assert "Best epoch: 2 of 3" in text
    assert pd.read_csv(run / "classification_report.csv")["emotion"].tolist() == list(EMOTIONS) * 2


def drawn(monkeypatch, draw, *args):
    """The axes of a figure that a function of `evaluation.figures` draws."""
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: kept.append(figure))
    draw(*args, "x.png")
    return kept[0].axes


def test_a_confusion_matrix_has_the_true_emotion_by_row(monkeypatch):
    matrix = np.diag(np.arange(7)) + np.eye(7, k=1, dtype=int)
    (axis,) = drawn(monkeypatch, figures.draw_confusion, {"title": matrix}, ("true", "predicted"))
    places = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axis.texts}
    assert places[3, 3] == "75%\n3" and places[3, 4] == "25%\n1" and (4, 3) not in places and (0, 0) not in places
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "true")


def test_reliability_draws_the_accuracy_of_each_bin(monkeypatch):
    labels, probabilities = np.zeros(8, int), np.full((8, 7), 0.05)
    probabilities[:6, 0] = probabilities[6:, 1] = 0.7  # six of eight are right
    (axis,) = drawn(monkeypatch, figures.draw_reliability, {"title": (labels, probabilities)})
    (bar,) = (bar for bar in axis.patches if bar.get_height())
    assert bar.get_height() == 0.75 and bar.get_x() < 0.7 < bar.get_x() + bar.get_width()


def test_end_to_end_accuracy_is_told_from_that_of_crops(monkeypatch, reported):
    end_to_end = reported[1]["end_to_end"]
    found, *axes = drawn(monkeypatch, figures.draw_end_to_end, end_to_end, report.NAMES)
    assert [bar.get_width() for bar in found.patches] == [result["found"] for result in end_to_end.values()]
    parts = list(end_to_end.values()), [result["ferplus"] for result in end_to_end.values()]
    for axis, results in zip(axes, parts, strict=True):
        lines = {line.get_label(): [None if np.isnan(x) else x for x in line.get_xdata()] for line in axis.lines}
        assert lines["end to end"] == [result["accuracy_found"] for result in results]
        assert lines["pre-cropped"] == [result["accuracy_pre_cropped"] for result in results]


def test_report_names_an_accuracy_at_chance(reported):
    """An untrained network on eight faces knows nothing, however lucky it is."""
    run, card = reported
    assert card["accuracy"] <= card["chance_accuracy"]
    assert "not above chance" in (run / "report.md").read_text(encoding="utf-8")
    assert "not above chance" not in report.title_section(card | {"accuracy": 0.7})


def test_report_leaves_out_what_is_not_at_hand(tmp_path, dataset, reported, monkeypatch):
    """Without history, votes and maps, as of another network that is evaluated on FER-2013 alone."""
    end_to_end = {name: dict(result) for name, result in reported[1]["end_to_end"].items()}
    for result in end_to_end.values():
        del result["ferplus"]
    monkeypatch.setattr(robustness, "measure", lambda *_: end_to_end)
    import keras

    layers = [keras.Input((48, 48, 1)), keras.layers.Flatten(), keras.layers.Dense(7, "softmax", name="fer2013")]
    flat = keras_classifier(keras.Sequential(layers), {})
    plain = Dataset("d.csv", {name: without_votes(split) for name, split in dataset.splits.items()})
    card = report.write_report(tmp_path, flat, plain, "Training", ORIGIN)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for name in ("curves", "grad_cam", "ten_people"):
        assert not (tmp_path / f"{name}.png").exists()
        assert name not in text
    assert "# Scores on Training" in text
    assert "ferplus" not in card and "people" not in text


def test_scorecard_averages_ten_views_and_leaves_copies_out(dataset, monkeypatch):
    def by_corner(faces):  # every shift changes it
        return np.eye(7, dtype=np.float32)[faces[:, 0, 0, 0] % 7]

    monkeypatch.setattr(robustness, "measure", lambda *_: {})
    public = dataset["PublicTest"]  # the last one is in Training, too
    single, ten = by_corner(public.faces).argmax(axis=1), metrics.averaged(by_corner, public.faces).argmax(axis=1)
    labels = np.append(single[:7], (single[7] + 1) % 7).astype(np.uint8)
    split, classifier = Split(public.faces, labels, public.votes), classifier_of(by_corner)
    compared = metrics.compare(classifier, split, classifier.all_probabilities(public.faces))
    card = report.make_scorecard(classifier, dataset.splits | {"PublicTest": split}, "PublicTest", compared)
    assert (card["accuracy"], card["accuracy_without_copies"]) == (7 / 8, 1)
    assert card["accuracy_averaged"] == (ten == labels).mean() != 7 / 8
    assert card["ferplus"]["output"] == card["output"] == "fer2013"  # its only one


def test_each_output_has_the_temperature_that_fits_its_own_labels():
    """A second time, nothing is left to fit, and the description keeps the first temperatures."""
    classifier, draws = tiny(*OUTPUTS), np.random.default_rng(0).random((500, 1))
    faces = np.repeat(np.linspace(0, 255, 500).astype(np.uint8), 48 * 48).reshape(-1, 48, 48, 1)
    metrics.fold_temperature(classifier.model, 0.2, "fer2013")
    metrics.fold_temperature(classifier.model, 0.2, "ferplus")
    both = np.swapaxes(classifier.all_probabilities(faces), 0, 1)
    fitting = [metrics.with_temperature(each, known) for each, known in zip(both, (2.0, 0.5), strict=True)]
    labels, people = ((each.cumsum(axis=1) > draws).argmax(axis=1) for each in fitting)
    split = Split(faces, labels, 10 * np.eye(10, dtype=np.uint8)[np.array([4, 5, 6, 1, 3, 2, 0])[people]])
    classifier = keras_classifier(classifier.model, {})
    first = report.fold_temperatures(classifier, split)
    assert first["temperature"] == pytest.approx(2, rel=0.2)
    assert first["ferplus"]["temperature"] == pytest.approx(0.5, rel=0.2)
    second = report.fold_temperatures(keras_classifier(classifier.model, {"calibration": first}), split)
    assert second["temperature"] == pytest.approx(first["temperature"], rel=0.01)
    assert second["ferplus"]["temperature"] == pytest.approx(first["ferplus"]["temperature"], rel=0.01)
    assert "ferplus" not in report.fold_temperatures(tiny("fer2013"), split)  # it has no output for them


def test_scores_of_all_splits_for_the_description(dataset, classifier, capsys):
    scores = report.score_splits(classifier, dataset.splits)
    assert (scores["split"], scores["n"], scores["training"]["n"]) == ("PublicTest", 8, 8)
    assert [(part["ferplus"]["output"], part["ferplus"]["n"]) for part in (scores, scores["training"])] == [
        ("ferplus", 7),
        ("ferplus", 7),
    ]
    assert "private_test" not in scores
    assert capsys.readouterr().out.count("ten people's votes") == 2
    plain = without_votes(dataset["Training"])
    scores = report.score_splits(tiny("fer2013"), dataset.splits | {"PrivateTest": plain})
    assert scores["ferplus"]["output"] == "fer2013" and "ferplus" not in scores["private_test"]


def test_curves_of_a_training_with_phases_are_drawn(tmp_path):
    history = made_history().assign(image_size=[36, 48, 48], self_distillation=[0, 1, 0], fine_tuning=[0, 0, 1])
    assert figures.phase_changes(history) == [(1.5, "48 px"), (1.5, "self-distillation"), (2.5, "fine-tuning")]
    both = {"val_fer2013_accuracy": [0.2, 0.4, 0.3], "val_ferplus_accuracy": [0.4, 0.6, 0.5]}
    figures.draw_curves(history.assign(distilled=1, **both), tmp_path / "curves.png")
    assert cv2.imread(str(tmp_path / "curves.png")).std() > 5
    figures.draw_curves(history[:1], tmp_path / "curves.png")  # after the first epoch
