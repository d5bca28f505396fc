"""The live path on the demo's faces, and the report: its files, its card, what it says."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY

import figures
import live_path
import report
import train
from data import Dataset, Split
from faces import overlap
from model import EMOTIONS, Classifier, build_model, load_classifier

ISSUE_KEYS = {
    *("split", "n", "accuracy", "accuracy_interval_95", "macro_f1", "log_loss", "ece", "accuracy_averaged"),
    *("accuracy_without_copies", "per_class", "live_path"),
}


@pytest.fixture(scope="module")
def average_faces():
    """The demo's seven faces (7, 48, 48, 1), averages of 300 each."""
    strip = cv2.imread(str(REPOSITORY / "demo" / "average_faces.png"), cv2.IMREAD_GRAYSCALE)
    count = strip.shape[1] // strip.shape[0]
    assert count == 7
    return np.stack([cv2.resize(face, (48, 48), interpolation=cv2.INTER_AREA) for face in np.hsplit(strip, 7)])[
        ..., None
    ]


@pytest.fixture(scope="module")
def dataset(average_faces):
    noise = np.random.default_rng(0).integers(-20, 21, (3, 7, 48, 48, 1))
    faces = np.clip(average_faces + noise, 0, 255).astype(np.uint8)
    labels = np.arange(7, dtype=np.uint8)
    public = np.concatenate([faces[0], faces[2, :1]])  # angry's last one stands in Training, with another label
    training = np.concatenate([faces[1], faces[2, :1]])
    splits = {
        "Training": Split(training, np.append(labels, np.uint8(4))),
        "PublicTest": Split(public, np.append(labels, np.uint8(0))),
    }
    return Dataset("d.csv", splits, ["A note on the data."])


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    build_model().save(path)
    return path


@pytest.fixture(scope="module")
def reported(tmp_path_factory, dataset, model_file):
    run = tmp_path_factory.mktemp("run")
    epochs = np.arange(3)
    history = pd.DataFrame({
        "epoch": epochs, "accuracy": 0.3 + 0.1 * epochs, "loss": 2 - 0.3 * epochs,
        "val_accuracy": [0.3, 0.5, 0.4], "val_loss": [2, 1.5, 1.8], "learning_rate": [1e-3, 1e-3, 5e-4],
    })  # fmt: skip
    origin = {"model": "x.keras", "model_sha256": "ab" * 32, "data": "d.csv", "data_sha256": "cd" * 32, "date": "1.1."}
    card = report.write_report(run, load_classifier(model_file), dataset, "PublicTest", origin, history)
    return run, card


def test_the_card_has_what_was_asked_for_and_survives_json(reported):
    run, card = reported
    assert set(card) >= ISSUE_KEYS
    assert json.loads((run / "scorecard.json").read_text()) == card
    assert (card["split"], card["n"], card["n_without_copies"]) == ("PublicTest", 8, 7)
    assert list(card["per_class"]) == list(EMOTIONS)
    assert card["per_class"]["angry"]["support"] == 2
    assert set(card["live_path"]) == {*live_path.CONDITIONS, live_path.SHIFTED}
    assert card["calibration"]["temperature"] == 1
    assert "no temperature is folded into the model" in (run / "report.md").read_text(encoding="utf-8")


def test_the_card_averages_ten_views_and_leaves_copies_out(dataset):
    def by_corner(faces):  # every shift changes it
        return np.eye(7, dtype=np.float32)[faces[:, 0, 0, 0] % 7]

    faces = dataset["PublicTest"].faces  # the last one stands in Training
    single, ten = by_corner(faces).argmax(axis=1), report.evaluate.averaged(by_corner, faces).argmax(axis=1)
    labels = np.append(single[:7], (single[7] + 1) % 7).astype(np.uint8)
    splits = dataset.splits | {"PublicTest": Split(faces, labels)}
    card = report.make_scorecard(Classifier(by_corner, {}), splits, "PublicTest", by_corner(faces))
    assert (card["accuracy"], card["accuracy_without_copies"]) == (7 / 8, 1)
    assert card["accuracy_averaged"] == (ten == labels).mean() != 7 / 8


def test_the_report_shows_every_picture_it_has_made(reported):
    run, card = reported
    text = (run / "report.md").read_text(encoding="utf-8")
    assert f"| accuracy, single crop | {report.percent(card['accuracy'], card['accuracy_interval_95'])} | 8 |" in text
    pictures = {path.name for path in run.glob("*.png")}
    assert pictures == {
        *("confusion_matrix.png", "reliability.png", "coverage.png", "live_path.png", "live_conditions.png"),
        *("worst_errors.png", "least_certain.png", "grad_cam.png", "samples.png", "curves.png", "data_counts.png"),
        *("copies.png", "label_conflicts.png"),
    }
    for name in pictures:
        assert f"({name})" in text
        image = cv2.imread(str(run / name))
        assert image.shape[1] == round(figures.WIDTH * figures.DPI)
        assert image.std() > 5
    assert "A note on the data." in text
    assert pd.read_csv(run / "classification_report.csv")["emotion"].tolist() == list(EMOTIONS)


def test_nothing_is_drawn_where_there_is_nothing_odd(tmp_path, dataset):
    clean = Dataset("d.csv", {name: split[:7] for name, split in dataset.splits.items()})
    oddities = report.evaluate.audit(clean.splits)
    report.draw_data(tmp_path, clean, oddities)
    assert [path.name for path in tmp_path.iterdir()] == ["data_counts.png"]
    assert "label_conflicts.png" not in report.data_part(clean, oddities)


def history(accuracy, val_accuracy, loss=None, val_loss=None, rates=None):
    epochs = len(accuracy)
    down = np.linspace(2, 1, epochs)
    return pd.DataFrame({
        "epoch": np.arange(epochs), "accuracy": accuracy, "val_accuracy": val_accuracy,
        "loss": down if loss is None else loss, "val_loss": down if val_loss is None else val_loss,
        "learning_rate": [1e-3] * epochs if rates is None else rates,
    })  # fmt: skip


def test_the_best_epoch_is_that_which_is_kept():
    """A self-taught epoch has to beat the plain ones before it; plain ones begin anew."""
    epochs = history([0.9] * 6, [0.9, 0.5, 0.8, 0.7, 0.6, 0.65]).assign(
        face_pixels=[36, 48, 48, 48, 48, 48], self_taught=[0, 0, 0, 1, 1, 0], plain=[0, 0, 1, 0, 0, 1]
    )
    assert [figures.best_epoch(epochs[:n]) for n in range(1, 7)] == [0, 1, 2, 2, 2, 5]


def test_the_curves_are_read_from_their_numbers():
    rising = " ".join(report.read_history(history(np.linspace(0.3, 0.5, 12), np.linspace(0.35, 0.55, 12))))
    assert "Best epoch: 12 of 12" in rising
    assert "5.0 points above training: training is measured on augmented faces" in rising
    assert "still improving" in rising
    assert "overfitting" not in rising
    flat = np.minimum(np.linspace(0.3, 1.2, 12), 0.6)
    loss = np.concatenate([np.linspace(2, 1, 6), np.linspace(1.05, 1.5, 6)])
    over = " ".join(report.read_history(history(flat + 0.2, flat, val_loss=loss, rates=[1e-3] * 8 + [5e-4] * 4)))
    assert "20.0 points above validation" in over
    assert "converged" in over
    assert "After epoch 6 the validation loss rose by 0.500" in over
    assert "from epoch 9 on" in over
    bare = " ".join(report.read_history(history([0.2], [0.3]).assign(augmentation=0)))
    assert "10.0 points above training" in bare and "augmented" not in bare
    warmed = " ".join(report.read_history(history([0.2] * 4, [0.2] * 4, rates=[1e-3, 2e-3, 1e-3, 1e-5])))
    assert "highest in epoch 2, 2.0e-03, and fell epoch by epoch after it, to 1.0e-05" in warmed
    assert "One epoch" in " ".join(report.read_history(history([0.2], [0.2])))
    taught = " ".join(report.read_history(history([0.3] * 9, [0.2] * 9).assign(taught=1, plain=[0] * 7 + [1] * 2)))
    assert "labels and teachers" in taught and "points" not in taught  # nor a word on convergence over two stages
    sharpened = history([0.2, 0.3, 0.3], [0.2, 0.5, 0.4], rates=[2e-3, 1e-3, 4e-4]).assign(plain=[0, 0, 1])
    text = " ".join(report.read_history(sharpened))
    assert "Best epoch: 3 of 3" in text
    assert "In epoch 3 the faces were plain" in text
    taught = history([0.2, 0.3, 0.3], [0.2, 0.5, 0.4], rates=[2e-3, 1e-3, 1.5e-3])
    text = " ".join(report.read_history(taught.assign(self_taught=[0, 0, 1], augmentation=[1, 1, 0.4])))
    assert "fell epoch by epoch after it, to 1.0e-03" in text
    assert "In epoch 3 the network learned from its own answers" in text
    assert "usual ones in the first" not in text
    twice = history([0.2] * 7, [0.3] * 6 + [0.2]).assign(self_taught=[0, 1, 1, 0, 1, 1, 0], plain=[0, 0, 0, 1, 0, 0, 1])
    text = " ".join(report.read_history(twice.assign(augmentation=1)))
    assert "In epochs 2 to 3 and 5 to 6 the network learned" in text and "In epochs 4 and 7 the faces" in text
    assert "Best epoch: 7 of 7" in text  # of the last plain ones alone
    eased = " ".join(report.read_history(history([0.2, 0.3], [0.2, 0.3]).assign(augmentation=[1, 0.25])))
    assert "from 100% of the usual ones in the first epoch to 25% in epoch 2" in eased
    assert "usual ones" not in over


def test_a_frame_holds_its_face_in_the_middle(average_faces):
    for pixels in (40, 72):
        frame = live_path.make_frame(average_faces[3], pixels)
        assert frame.shape == (live_path.FRAME_HEIGHT, live_path.FRAME_WIDTH)
        x, y, width, height = live_path.true_box(pixels)
        inside = cv2.resize(frame[y : y + height, x : x + width], (48, 48), interpolation=cv2.INTER_AREA)
        assert np.abs(inside.astype(int) - average_faces[3, :, :, 0]).mean() < 4


def number_in(name):
    return int(re.search(r"\d+", name)[0])


def test_conditions_do_what_they_say_and_the_same_every_time(average_faces):
    frames = {name: live_path.make_frames(average_faces[:2], name) for name in live_path.CONDITIONS}
    means = {name: np.mean(made) for name, made in frames.items()}
    names = list(live_path.CONDITIONS)
    dark, bright = (next(name for name in names if name.startswith(word)) for word in ("dark", "bright"))
    assert means[dark] < 0.35 * means["clean"]
    assert means[bright] > 1.2 * means["clean"]
    noise = next(name for name in names if name.startswith("noise"))
    differences = np.subtract(frames[noise], frames["clean"], dtype=float)
    assert differences.std() == pytest.approx(number_in(noise), rel=0.1)
    bar = np.zeros((1, 48, 48, 1), np.uint8)
    bar[:, 8:40, 22:26] = 255
    for name in (name for name in names if name.startswith("turned")):
        y, x = np.nonzero(live_path.make_frames(bar, name)[0] > 128)
        assert abs(np.degrees(np.arctan(np.polyfit(y, x, 1)[0]))) == pytest.approx(number_in(name), abs=1)
    for name, made in frames.items():
        assert all(
            np.array_equal(a, b) for a, b in zip(made, live_path.make_frames(average_faces[:2], name), strict=True)
        )
        assert made[0].dtype == np.uint8
        assert name == "clean" or not np.array_equal(made[0], frames["clean"][0])


def test_the_average_faces_are_found_and_cropped_as_they_were(average_faces):
    frames = live_path.make_frames(average_faces, "clean")
    truth = live_path.true_box(live_path.FACE_PIXELS)
    boxes = live_path.find(frames, truth)
    assert all(box is not None and overlap(box, truth) > 0.5 for box in boxes)

    def classify(faces):  # names the average face that is nearest
        difference = faces.astype(int).reshape(len(faces), 1, -1) - average_faces.reshape(1, 7, -1)
        return np.eye(7)[np.abs(difference).sum(axis=2).argmin(axis=1)]

    results = live_path.measure(classify, average_faces, np.arange(7))
    result = results["clean"]
    assert (result["n"], result["found"], result["accuracy_cut"]) == (7, 1, 1)
    assert result["accuracy_found"] >= 5 / 7
    bright = next(result for name, result in results.items() if name.startswith("bright"))
    assert bright["accuracy_found"] < 0.5 < bright["accuracy_cut"]  # the nearest to a bright face is the brightest one


def test_where_no_face_is_found_there_is_no_accuracy():
    blank = np.full((3, 48, 48, 1), 128, np.uint8)
    results = live_path.measure(lambda faces: np.full((len(faces), 7), 1 / 7), blank, np.zeros(3, int))
    assert {result["found"] for result in results.values()} == {0}
    assert {result["accuracy_found"] for result in results.values()} == {None}


def test_a_shifted_box_is_a_tenth_away():
    x, y, width, height = live_path.shift_box((10, 20, 50, 50), np.random.default_rng(0))
    assert np.hypot(x - 10, y - 20) == pytest.approx(5)
    assert (width, height) == (50, 50)


def refused(capsys, *options):
    assert train.main([str(option) for option in options]) == 2
    return capsys.readouterr().err


def test_the_evaluation_of_a_model_changes_nothing_in_it(tmp_path, monkeypatch, model_file, capsys):
    from made_data import make_rows, write_csv

    monkeypatch.chdir(tmp_path)
    data = write_csv(tmp_path / "fer2013.csv", make_rows((2, 1, 1)))
    model_file = Path(shutil.copy(model_file, tmp_path))
    model_file.with_name("history.csv").write_text("epoch,loss\n0,1\n")  # of no run of train.py's
    before = model_file.read_bytes()
    assert train.main(["--data", str(data), "--evaluate", "--model", str(model_file), "--split", "PrivateTest"]) == 0
    assert model_file.read_bytes() == before
    (run,) = (tmp_path / "runs").iterdir()
    card = json.loads((run / "scorecard.json").read_text())
    assert (card["split"], card["n"]) == ("PrivateTest", 7)
    assert "curves.png" not in (run / "report.md").read_text(encoding="utf-8")
    assert str(run.relative_to(tmp_path)) in capsys.readouterr().out


def test_what_cannot_be_evaluated_is_said_and_leaves_nothing(tmp_path, monkeypatch, model_file, capsys):
    from made_data import make_rows, write_csv

    monkeypatch.chdir(tmp_path)
    data = write_csv(tmp_path / "data" / "fer2013.csv", make_rows((2, 1, 0)))
    assert "no PrivateTest" in refused(capsys, "--evaluate", "--model", model_file, "--split", "PrivateTest")
    assert "There is no model" in refused(capsys, "--data", data, "--evaluate")
    assert "not a .keras file" in refused(capsys, "--data", data, "--evaluate", "--model", data)
    monkeypatch.setattr(report, "CASCADE", tmp_path / "none.xml")
    assert "no cascade" in refused(capsys, "--data", data, "--evaluate", "--model", model_file)
    assert "no cascade" in refused(capsys, "--data", data, "--epochs", "1")  # not after hours
    assert not (tmp_path / "runs").exists()
