"""Trainings with FER+'s votes: two outputs, resumed to the same weights, and what is refused."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from made_data import make_rows, write_csv, write_votes
from made_training import (
    ALL_PHASES,
    ONE_EPOCH,
    SMALL_AND_EAGER,
    description_of,
    full_disk,
    history_of,
    interrupt,
    press_ctrl_c,
    same,
    the_run,
    weights_of,
)

import train
from data import PUBLIC_TEST, load_fer2013
from model import EMOTIONS, load_classifier
from training import finish, loop
from training.distillation import load_unadjusted
from training.export import export
from training.losses import Agreement, VoteCrossentropy

pytest_plugins = ["training_fixtures"]
pytestmark = SMALL_AND_EAGER
ROWS = make_rows((8, 4, 2))


@pytest.fixture
def voted(folder):
    """The folder with FER+'s file beside fer2013.csv; nobody votes on the first face."""
    votes = [[9 * (column == (4, 5, 6, 1, 3, 2, 0)[label]) for column in range(10)] for label, _, _ in ROWS]
    votes[0] = [0] * 9 + [10]
    write_votes(folder / "fer2013new.csv", ROWS, votes)
    return folder


def test_faces_without_votes_have_no_loss_no_gradient_and_no_accuracy():
    """Keras's cross-entropy takes a gradient for rows of zeros, which made trainings diverge."""
    layer = keras.layers.Dense(7, activation="softmax", name="ferplus")
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(keras.optimizers.SGD(1.0), loss=VoteCrossentropy(), metrics=[Agreement("accuracy")])
    before = model.get_weights()
    faces, targets = np.ones((4, 3), np.float32), np.zeros((4, 7), np.float32)
    assert model.train_on_batch(faces, targets)[0] == 0
    assert same(before, model.get_weights())
    targets[0, 2] = 1
    scores = model.evaluate(faces, targets, verbose=0, return_dict=True)
    assert scores["accuracy"] == (model.predict(faces, verbose=0)[0].argmax() == 2)
    expected = keras.losses.CategoricalCrossentropy()(targets[:1], model(faces[:1])) / 4
    assert scores["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_a_training_with_votes_interrupted_again_and_again_ends_with_the_same_weights(voted, monkeypatch, capsys):
    words = [*ALL_PHASES, "--batch-size", "56", "--no-mixed-precision", "--output", "x.keras"]
    assert train.main(words) == 0
    whole = the_run(voted)
    classifier = load_classifier("x.keras")
    assert classifier.outputs == ("fer2013", "ferplus") and classifier.labels == "ferplus"
    description = description_of(voted / "x.keras")
    assert list(description["outputs"]) == ["fer2013", "ferplus"]
    assert description["scores"]["ferplus"]["n"] == 28 and description["calibration"]["ferplus"]["temperature"] > 0
    history = history_of(whole)
    assert np.allclose(history["val_accuracy"], history[["val_fer2013_accuracy", "val_ferplus_accuracy"]].mean(axis=1))

    def run_until(status, *words, name="", count=0, action=None):
        with monkeypatch.context() as patch:
            if name:
                interrupt(patch, name, count, action)
            assert train.main(list(words)) == status
        assert re.search("Continue with: .* --resume .* --output x.keras", capsys.readouterr().out)
        load_classifier(the_run(voted) / "best_model.keras")  # whole

    whole_model = weights_of(voted / "x.keras")
    run_until(130, *words, name="backup", count=2, action=press_ctrl_c)
    run_until(2, "--resume", name="partial.best_model", count=2, action=full_disk)
    with monkeypatch.context() as patch:  # before the soft labels of the first round are kept
        patch.setattr(loop, "soft_labels", press_ctrl_c)
        run_until(130, "--resume")
    run_until(130, "--resume", name="backup", count=3, action=press_ctrl_c)  # in the middle of the second round
    with monkeypatch.context() as patch:
        patch.setattr(finish, "score_splits", full_disk)
        run_until(2, "--resume")
    uncalibrated = keras.saving.load_model(the_run(voted) / "best_model.keras", compile=False)
    monkeypatch.setattr(finish, "report", press_ctrl_c)
    assert train.main(["--resume"]) == 130
    output = capsys.readouterr().out
    assert "--evaluate --model" in output and "x.keras is new" in output
    assert the_run(voted) != whole and same(whole_model, weights_of(voted / "x.keras"))
    pd.testing.assert_frame_equal(history_of(the_run(voted)), history, check_exact=True)
    calibration = description_of(voted / "x.keras")["calibration"]
    assert calibration == description["calibration"]
    raised = {"fer2013": {}, "ferplus": calibration["ferplus"]["logit_adjustment"]}
    assert raised["ferplus"]["fear"] > raised["ferplus"]["disgust"] > 0  # they are rare among votes
    for name, of_output in (("fer2013", calibration), ("ferplus", calibration["ferplus"])):
        (kernel, bias), (kernel_before, bias_before) = (
            model.get_layer(name).get_weights() for model in (classifier.model, uncalibrated)
        )
        assert np.allclose(kernel * of_output["temperature"], kernel_before, rtol=1e-4)
        expected = [raised[name].get(emotion, 0) for emotion in EMOTIONS]
        assert np.allclose(bias * of_output["temperature"] - bias_before, expected, atol=1e-4)


def test_a_whole_training_replaces_the_network_and_its_export_and_one_command_undoes_it(voted, monkeypatch, capsys):
    tables, older = [], {f"best_model{suffix}": f"older {suffix}" for suffix in finish.SUFFIXES}
    for name, content in older.items():
        Path(name).write_text(content)
    monkeypatch.setattr(finish, "ENOUGH_FACES", 56)
    monkeypatch.setattr(finish, "export", lambda *args, **options: tables.append(export(*args, **options)))
    assert train.main([*ONE_EPOCH, "--votes", "fer2013new.csv"]) == 0
    assert "FER-2013's labels" in tables[0] and "ten people's votes" in tables[0]
    classifier, lite = load_classifier("best_model.keras"), load_classifier("best_model.tflite")
    faces = load_fer2013(voted)[PUBLIC_TEST].faces
    assert lite.outputs == classifier.outputs == ("fer2013", "ferplus")
    assert np.allclose(lite.all_probabilities(faces), classifier.all_probabilities(faces), atol=0.01)
    assert lite.description["exported_from"]["sha256"] == classifier.description["sha256"]
    assert {name: Path(name.replace(".", ".previous.", 1)).read_text() for name in older} == older
    (undo,) = re.findall(r"Undo with: *python (.*)", capsys.readouterr().out)
    subprocess.run(f'"{sys.executable}" {undo}', shell=True, check=True)
    assert {name: Path(name).read_text() for name in older} == older


def test_a_teacher_without_votes_cannot_teach_them(voted, monkeypatch, refused):
    (voted / "fer2013new.csv").rename(voted / "votes.csv")
    assert train.main([*ONE_EPOCH, "--output", "teacher.keras"]) == 0
    words = [*ONE_EPOCH, "--votes", "votes.csv"]
    assert "no output ferplus" in refused(*words, "--teacher", "teacher.keras")
    assert "predicts fer2013, this training fer2013, ferplus" in refused(*words, "--init-from", "teacher.keras")
    monkeypatch.setattr(finish, "score_splits", press_ctrl_c)
    assert train.main([*ONE_EPOCH, "--teacher", "teacher.keras"]) == 130


def test_a_training_without_votes_can_start_from_a_network_with_both_outputs(voted):
    assert train.main([*ONE_EPOCH, "--output", "both.keras"]) == 0
    (voted / "fer2013new.csv").unlink()
    assert train.main([*ONE_EPOCH, "--learning-rate", "1e-12", "--init-from", "both.keras", "--output", "x.keras"]) == 0
    faces = load_fer2013(voted)[PUBLIC_TEST].faces
    log_both, log_one = (
        np.log(load_classifier(name).all_probabilities(faces)[:, 0]) for name in ("both.keras", "x.keras")
    )
    assert np.corrcoef(log_both.ravel(), log_one.ravel())[0, 1] > 0.99  # but for their temperatures


def output_bias(name):
    """The bias of the output that learned votes, and the temperature that it was divided by."""
    bias = load_classifier(f"{name}.keras").model.get_layer("ferplus").bias.numpy()
    return bias, description_of(Path(f"{name}.keras"))["calibration"]["ferplus"]["temperature"]


def test_rare_emotions_are_raised_once_however_many_trainings_follow_each_other(voted):
    words = [*ONE_EPOCH, "--learning-rate", "0", "--output"]
    assert train.main([*words, "first.keras"]) == 0
    assert train.main([*words, "second.keras", "--init-from", "first.keras"]) == 0
    raised = np.array([finish.LOGIT_ADJUSTMENT.get(emotion, 0) for emotion in EMOTIONS])
    (first, temperature), (second, next_temperature) = output_bias("first"), output_bias("second")
    assert second * next_temperature - raised == pytest.approx(first - raised / temperature, abs=1e-5)
    learned = load_unadjusted("first.keras").model.get_layer("ferplus").bias.numpy()
    assert learned == pytest.approx(first - raised / temperature, abs=1e-6)


def test_a_teacher_s_raised_logits_are_lowered_after_a_resume_too(voted, monkeypatch):
    assert train.main([*ONE_EPOCH, "--output", "teacher.keras"]) == 0
    monkeypatch.setattr(finish, "score_splits", press_ctrl_c)
    words = [*ONE_EPOCH, "--teacher", "teacher.keras", "--output", "x.keras"]
    assert train.main(words) == 130
    copies = [load_unadjusted(path) for path in (Path("teacher.keras"), the_run(voted) / "teacher-00.keras")]
    biases = [copy.model.get_layer("ferplus").bias.numpy() for copy in copies]
    assert same(*([bias] for bias in biases)) and not np.allclose(biases[0], output_bias("teacher")[0])


def test_votes_without_public_test_are_refused(voted, refused):
    write_votes(voted / "fer2013new.csv", [row for row in ROWS if row[2] == "Training"])
    assert "no rows of PublicTest" in refused(*ONE_EPOCH) and not (voted / "runs").exists()


def test_votes_must_be_a_file(folder, refused):
    write_csv(folder / "fer2013.csv", ROWS)
    assert "nowhere.csv" in refused(*ONE_EPOCH, "--votes", "nowhere.csv")
