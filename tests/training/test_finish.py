"""The end of a training: calibration, where the model goes, and how to undo it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from made_training import full_disk, splits_of

from model import keras_classifier
from training import finish
from training.checkpoints import Run
from training.options import TrainingOptions

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.usefixtures("small_and_quiet")


def test_calibrating_again_changes_nothing(folder):
    """As a resume does whose run was killed between model and state; the network reads the gray of made faces."""
    training, public = splits_of(folder, "Training", "PublicTest")
    public.labels[::3] = 0  # so that a network has something to be uncertain about
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(7, "softmax")]
    network = keras.Sequential([keras.Input((48, 48, 1)), *layers])
    centres = (np.arange(7) * 25 + 29.5) / 255
    network.layers[-1].set_weights([2000 * centres[None], -1000 * centres**2])
    first, calibrated = finish.calibrate(keras_classifier(network, {}), training, public)
    assert 2 < calibrated["temperature"] < 8
    probabilities = first.probabilities(public.faces)
    first.description = {"calibration": calibrated}
    again, calibrated_again = finish.calibrate(first, training, public)
    assert np.allclose(again.probabilities(public.faces), probabilities, atol=1e-3)
    assert calibrated_again["temperature"] == pytest.approx(calibrated["temperature"], rel=1e-3)


# --- where the model goes


def scored(accuracy):
    return json.dumps({"scores": {"split": "PublicTest", "accuracy": accuracy, "n": 3589}})


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose best model is finished, in a working folder with an older model."""
    monkeypatch.chdir(tmp_path)
    for name, accuracy in (("best_model", 0.7244), ("run/best_model", 0.73)):
        Path(name).parent.mkdir(exist_ok=True)
        Path(f"{name}.keras").write_text(f"model {accuracy}")
        Path(f"{name}.json").write_text(scored(accuracy))
    return Run(TrainingOptions(), Path("run"), {"finished": False})


def content(*names):
    return [Path(name).read_text() if Path(name).exists() else None for name in names]


def test_a_model_of_fer_2013_replaces_the_best_one_and_one_command_undoes_it(run):
    outcome = finish.put_in_place(run, 28698)
    assert content("best_model.keras", "best_model.json") == ["model 0.73", scored(0.73)]
    assert content("best_model.previous.keras", "best_model.previous.json") == ["model 0.7244", scored(0.7244)]
    assert "On PublicTest: 73.00% on FER-2013's labels (n = 3,589)." in outcome and "a model with 72.44%" in outcome
    (undo,) = (line.removeprefix("Undo with:").strip() for line in outcome.splitlines() if "Undo" in line)
    subprocess.run(undo.replace("python", f'"{sys.executable}"', 1), shell=True, check=True)
    assert content("best_model.keras", "best_model.json") == ["model 0.7244", scored(0.7244)]
    assert content("run/best_model.keras") == ["model 0.73"]


def test_an_export_without_its_model_is_kept_too(run):
    Path("mine.tflite").write_text("precious")
    outcome = finish.put_in_place(replace(run, options=TrainingOptions(output=Path("mine.keras"))), 90)
    assert content("mine.previous.tflite", "mine.tflite") == ["precious", None]
    assert "kept as mine.previous.*" in outcome


def test_an_export_of_the_replaced_model_does_not_stay_beside_the_new_one(run):
    for name in ("best_model.int8.tflite", "best_model.int8.tflite.json"):
        Path(name).write_text("of the older one")
    outcome = finish.put_in_place(run, 28698)
    assert content("best_model.int8.tflite", "best_model.previous.int8.tflite") == [None, "of the older one"]
    (undo,) = (line.removeprefix("Undo with:").strip() for line in outcome.splitlines() if "Undo" in line)
    subprocess.run(undo.replace("python", f'"{sys.executable}"', 1), shell=True, check=True)
    assert content("best_model.int8.tflite", "best_model.int8.tflite.json") == ["of the older one"] * 2


def test_the_scores_of_both_outputs_are_named(run):
    scores = json.loads(scored(0.73))["scores"] | {"ferplus": {"accuracy": 0.862, "n": 3372}}
    Path("run/best_model.json").write_text(json.dumps({"scores": scores}))
    assert "(n = 3,589), 86.20% on ten people's votes (n = 3,372)" in finish.put_in_place(run, 28698)


@pytest.mark.parametrize("described", [True, False])
def test_undoing_brings_no_description_where_there_was_none(run, described):
    if not described:
        Path("best_model.json").unlink()
    Path("best_model.previous.json").write_text("of another model")
    outcome = finish.put_in_place(run, 28698)
    assert Path("best_model.previous.json").exists() == described
    assert ("unknown" in outcome) == (not described)
    (undo,) = (line.removeprefix("Undo with:").strip() for line in outcome.splitlines() if "Undo" in line)
    subprocess.run(undo.replace("python", f'"{sys.executable}"', 1), shell=True, check=True)
    assert content("best_model.keras") == ["model 0.7244"] and Path("best_model.json").exists() == described


def test_a_model_that_saw_few_faces_stays_in_its_folder(run):
    outcome = finish.put_in_place(run, 19_999)
    assert content("best_model.keras", "best_model.previous.keras") == ["model 0.7244", None]
    assert "19,999 training faces" in outcome and "best_model.keras stays as it is" in outcome
    assert f"--model {Path('run') / 'best_model.keras'}" in outcome


def test_an_explicit_output_is_always_heeded(run):
    run.options = TrainingOptions(output=Path("my model.keras"))
    Path("my model.previous.keras").write_text("of an older one, which is not touched")
    outcome = finish.put_in_place(run, 56)
    assert Path("my model.previous.keras").exists()
    assert content("my model.keras", "best_model.keras") == ["model 0.73", "model 0.7244"]
    assert "my model.keras is new" in outcome and "Undo" not in outcome
    quoted = '"my model.keras"' if os.name == "nt" else "'my model.keras'"
    assert f"--model {quoted}" in outcome


def test_what_is_replaced_is_kept_once_even_if_the_disk_fills_up(run, monkeypatch):
    copy = shutil.copyfile
    for last in (Path("best_model.json"), Path("run/best_model.json")):
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copyfile", lambda a, b, last=last: full_disk() if a == last else copy(a, b))
            with pytest.raises(OSError, match="No space left"):
                finish.put_in_place(run, 28698)
            assert content("best_model.keras", "best_model.json") == ["model 0.7244", scored(0.7244)]
    finish.put_in_place(run, 28698)  # the resume
    assert content("best_model.keras", "best_model.previous.keras") == ["model 0.73", "model 0.7244"]
    assert content("best_model.previous.json") == [scored(0.7244)]
