"""train.py as a user runs it: finished, interrupted, killed, resumed, always to the same weights."""

import builtins
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from made_data import make_rows, write_csv
from made_training import (
    ALL_PHASES,
    ONE_EPOCH,
    SMALL_RESNETS,
    description_of,
    full_disk,
    history_of,
    press_ctrl_c,
    same,
    splits_of,
    the_run,
    weights_of,
)

import main
import train
from common import signals
from data import load_fer2013
from evaluation.metrics import by_labels, compare, predict, score
from model import load_classifier
from training import checkpoints, finish, loop

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.usefixtures("small_and_quiet")


def test_a_finished_training_leaves_a_model_its_description_and_figures(finished):
    run, description = the_run(finished), description_of(finished / "out.keras")
    history = history_of(run)
    assert history["epoch"].tolist() == list(range(8))
    assert history["image_size"].tolist() == [36, 36, 48, 48, 48, 48, 48, 48]
    assert np.allclose(history["augmentation"], [1, 1, 1, 1, 0, 1, 0.3, 0])
    public = load_fer2013(finished / "fer2013.csv")["PublicTest"]
    scores = score(public.labels, load_classifier(finished / "out.keras").probabilities(public.faces))
    assert description["scores"]["accuracy"] == pytest.approx(scores["accuracy"])
    assert description["calibration"]["ece_after"] == pytest.approx(scores["ece"], abs=1e-4)
    training = description["training"]
    assert training["best_epoch"] == 8  # the last fine-tuning epoch, whatever others scored
    assert training["faces"] == 56 and training["arguments"]["mixed_precision"] == loop.prefers_bfloat16()
    assert training["command"].startswith("python train.py --data fer2013.csv --epochs 8 ")
    for figure in ("curves.png", "confusion_matrix.png"):
        assert cv2.imread(str(run / figure)).std() > 5
    assert {path.name for path in run.glob("*.keras")} == {"best_model.keras"}
    assert not list(finished.rglob("*partial*")) and not list(run.glob("*.npy"))


def test_the_model_predicts_the_same_for_a_mirrored_face(finished):
    classifier = load_classifier(finished / "out.keras")
    faces = load_fer2013(finished / "fer2013.csv")["PublicTest"].faces
    probabilities = classifier.probabilities(faces)
    assert np.allclose(classifier.probabilities(faces[:, :, ::-1]), probabilities, atol=1e-5)


def test_batch_normalization_ends_with_the_statistics_of_faces_without_augmentation(finished):
    network = load_classifier(finished / "out.keras").model
    faces = splits_of(finished, "Training")[0].faces
    first = next(layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization))
    seen = keras.Model(network.input, first.input).predict(np.concatenate([faces, faces[:, :, ::-1]]), verbose=0)
    assert np.allclose(first.moving_mean, seen.mean(axis=(0, 1, 2)), atol=0.02 * seen.std())
    assert np.allclose(first.moving_variance, seen.var(axis=(0, 1, 2)), rtol=0.05)


KILLED = f"""
import os, sys
import model, train
keras = model.import_keras()  # before anything else: the user's settings change nothing
from common.cli import prepare_streams
from evaluation import figures
prepare_streams()
figures.draw_curves = lambda *args: None
model.RESNETS = {SMALL_RESNETS}
save = keras.Model.save
def half_a_save(model, path, *args, **options):
    save(model, path, *args, **options)
    if os.path.basename(path) == "backup-007.keras":
        os.truncate(path, 4096)
        os._exit(9)
keras.Model.save = half_a_save
sys.exit(train.main(sys.argv[1:]))
"""


def assert_same_training(folder, finished):
    pd.testing.assert_frame_equal(history_of(the_run(folder)), history_of(the_run(finished)), check_exact=True)
    assert same(weights_of(folder / "out.keras"), weights_of(finished / "out.keras"))
    described = [description_of(path / "out.keras") for path in (folder, finished)]
    assert described[0]["calibration"] == described[1]["calibration"]


def test_a_killed_process_loses_the_running_epoch_and_nothing_else(finished, folder):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    (folder / "keras.json").write_text('{"image_data_format": "channels_first", "floatx": "float16"}')
    environment |= {"KERAS_HOME": str(folder)}
    command = [sys.executable, "-c", KILLED, *ALL_PHASES, "--output", "out.keras"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 9 and "Epoch 7/8" in done.stdout, done.stderr
    assert "Logging error" not in done.stderr and "retracing" not in done.stderr
    run = the_run(folder)
    load_classifier(run / "best_model.keras")  # whole
    assert not Path("out.keras").exists() and len(history_of(run)) == 7  # an epoch more than the backup
    assert train.main(["--resume"]) == 0
    assert_same_training(folder, finished)


def test_nothing_goes_from_phase_to_phase_through_the_disk_and_a_best_epoch_is_written_once(
    folder, monkeypatch, refused
):
    saved, save = [], keras.Model.save

    def noted(model, path, *args, **options):
        saved.append(Path(path).name)
        save(model, path, *args, **options)

    def refuse(*args, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(keras.Model, "save", noted)
    monkeypatch.setattr(keras.saving, "load_model", refuse)
    words = ["--epochs", "3", "--batch-size", "56", "--small-image-epochs", "0", "--self-distillation-rounds", "1"]
    assert "a model was loaded" in refused("--data", "fer2013.csv", *words, "--fine-tuning-epochs", "1")  # at the end
    assert len(history_of(the_run(folder))) == 3
    assert sum(name.startswith("backup") for name in saved) == 3
    assert 2 <= sum(name.startswith("partial") for name in saved) == len(saved) - 3 <= 3


def test_ctrl_c_waits_for_the_end_of_a_step_and_a_second_one_does_not(monkeypatch):
    continued = []
    for presses in (1, 2):
        monkeypatch.setattr(signals, "_received", [])
        with pytest.raises(KeyboardInterrupt), signals.held_back() as stop_if_asked:
            for _ in range(presses):
                signals.interrupt(signal.SIGINT, None)
                continued.append("the step")
            stop_if_asked(0)
            continued.append("the next step")
    assert continued == ["the step", "the step"]


def test_ctrl_c_in_the_first_epoch_leaves_nothing(folder, monkeypatch, capsys):
    monkeypatch.setattr(keras.Model, "fit", lambda *args, **options: signal.raise_signal(signal.SIGINT))
    assert train.main(ONE_EPOCH) == 130
    assert "nothing is kept" in capsys.readouterr().out and not list(Path("runs").iterdir())
    monkeypatch.setattr("data.load_fer2013", press_ctrl_c)
    assert train.main(ONE_EPOCH) == 130
    assert capsys.readouterr().out == "\nStopped.\n"


def test_after_ctrl_c_the_process_ends_at_once():
    code = "import atexit, sys, time, train; atexit.register(time.sleep, 600); sys.modules['tensorflow'] = train\n"
    done = subprocess.run([sys.executable, "-c", f"{code}train.end_process(130)"], cwd=REPOSITORY, timeout=60)
    assert done.returncode == 130


def test_a_resume_takes_the_latest_run_that_is_not_finished(folder, monkeypatch, refused):
    with monkeypatch.context() as patch:
        patch.setattr(finish, "score_splits", press_ctrl_c)
        assert train.main(ONE_EPOCH) == 130
    unfinished = the_run(folder)
    for name, state in (("damaged", ""), ("done", json.dumps({"finished": True}))):
        (folder / "runs" / name).mkdir()
        (folder / "runs" / name / "state.json").write_text(state)
    older = shutil.copytree(unfinished, folder / "runs" / "older")
    os.utime(older / "state.json", (1, 1))
    assert train.main(["--resume", "--output", "my model.keras"]) == 0
    assert Path("my model.keras").exists()
    assert json.loads((unfinished / "state.json").read_text())["finished"]
    assert not json.loads((older / "state.json").read_text())["finished"]
    shutil.rmtree(older)
    assert "no unfinished run" in refused("--resume")
    assert "is finished" in refused("--resume", unfinished)


def test_a_resume_is_refused_on_other_data_without_its_backup_or_under_another_version(finished, folder, refused):
    run = folder / "runs" / "earlier"
    assert "no unfinished run" in refused("--resume")
    assert "There is no run" in refused("--resume", run)
    run.mkdir(parents=True)
    arguments, state = (json.loads((the_run(finished) / f"{name}.json").read_text()) for name in ("arguments", "state"))
    (run / "arguments.json").write_text(json.dumps(arguments))
    (run / "state.json").write_text(json.dumps(state | {"finished": False, "epochs": 1}))
    shutil.copy(the_run(finished) / "history.csv", run)
    other = write_csv(folder / "other.csv", make_rows((8, 4, 2), seed=1))
    assert "is not the data" in refused("--resume", run, "--data", other)
    (run / "state.json").write_text(json.dumps(state | {"finished": False}))  # at most the finish is missing
    assert "is not the data" in refused("--resume", run, "--data", other)
    (run / "state.json").write_text(json.dumps(state | {"finished": False, "epochs": 1}))
    assert "cannot be read" in refused("--resume", run, "--data", finished / "fer2013.csv")
    assert "must end in .keras" in refused("--resume", run, "--output", "x.h5")
    del arguments["fine_tuning_epochs"]
    (run / "arguments.json").write_text(json.dumps(arguments))
    assert "another version" in refused("--resume", run, "--data", finished / "fer2013.csv")


def test_what_a_user_can_fix_is_reported_before_any_training(finished, folder, network, monkeypatch, refused):
    (folder / "runs").touch()
    assert "runs" in refused(*ONE_EPOCH)
    (folder / "runs").unlink()
    assert "There is no data" in refused("--data", "nowhere.csv")
    with monkeypatch.context() as opencv_5:
        opencv_5.delattr(cv2, "CascadeClassifier")
        assert "opencv-python<5" in refused(*ONE_EPOCH)
    assert "No training face is left" in refused(*ONE_EPOCH, "--fraction", "0.001")
    (folder / "damaged.keras").write_bytes(b"no model")
    for option in ("--init-from", "--teacher"):
        assert "--data PATH --output nothing.keras" in refused(*ONE_EPOCH, option, "nothing.keras")
        assert "damaged.keras" in refused(*ONE_EPOCH, option, "damaged.keras")
    wrong = refused(*ONE_EPOCH, "--arch", "resnet", "--init-from", finished / "out.keras")
    assert "Add --arch resnet-equivariant" in wrong
    other = refused(*ONE_EPOCH, "--init-from", network)  # of no --arch
    assert "not a resnet-equivariant. Use another model." in other
    assert "no model at" in refused("--data", "fer2013.csv", "--evaluate")
    for name in ("o.json", "o.previous.keras"):
        (folder / name).mkdir()
        assert "cannot be written" in refused(*ONE_EPOCH, "--output", "o.keras")
        (folder / name).rmdir()
    assert {path.name for path in folder.iterdir()} == {"damaged.keras", "fer2013.csv"}


def test_both_scripts_refuse_a_network_without_probabilities_wherever_it_is_named(folder, refused, capsys):
    layers = [keras.layers.Flatten(), keras.layers.Dense(7)]
    keras.Sequential([keras.Input((48, 48, 1)), *layers]).save("logits.keras")
    for words in (["--evaluate", "--model"], ["--export", "--model"], ["--teacher"], ["--init-from"]):
        assert "not probabilities" in refused("--data", "fer2013.csv", *words, "logits.keras")
    assert main.main(["demo", "--no-window", "--model", "logits.keras"]) == 2
    assert "not probabilities" in capsys.readouterr().err
    for nothing in ("", ".", "/"):
        assert main.main(["demo", "--no-window", "--model", nothing]) == 2
        assert "There is no model at" in capsys.readouterr().err
        assert "There is no model at" in refused("--data", "fer2013.csv", "--evaluate", "--model", nothing)
    assert {path.name for path in folder.iterdir()} == {"logits.keras", "fer2013.csv"}


def test_evaluate_writes_a_report_and_changes_nothing_else(finished, tmp_path, monkeypatch, refused):
    monkeypatch.undo()  # the report is wanted
    monkeypatch.chdir(tmp_path)
    reported = []
    monkeypatch.setattr(finish, "write_report", lambda *args: reported.append(args) or {
        "accuracy": 0.5, "accuracy_interval_95": [0.4, 0.6], "n": 14,
        "per_class": {"angry": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 14}},
    })  # fmt: skip
    words = ["--data", str(finished / "fer2013.csv"), "--evaluate", "--split", "PrivateTest", "--model"]
    before = (finished / "out.keras").read_bytes()
    assert train.main([*words, str(finished / "out.keras")]) == 0
    assert train.main([*words, str(the_run(finished) / "best_model.keras")]) == 0
    (folder, _, dataset, split, origin, history), (*_, of_run) = reported
    assert folder.is_relative_to("runs") and split == "PrivateTest" and origin["data_sha256"] == dataset.sha256()
    assert history is None and len(of_run) == 8  # beside the model of a run stands its history
    assert (finished / "out.keras").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["runs"]
    rows = (finished / "fer2013.csv").read_text().splitlines()
    (tmp_path / "two.csv").write_text("\n".join(row for row in rows if "PrivateTest" not in row))
    words[1] = "two.csv"
    assert "has no PrivateTest" in refused(*words, finished / "out.keras")


def test_a_missing_package_is_explained(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "training.loop", None)
    assert f"pip install -r {REPOSITORY / 'requirements.txt'}" in refused(*ONE_EPOCH)


BROKEN = [
    ImportError("DLL load failed"),
    ValueError("numpy.dtype size changed"),
    SystemError("bad call"),
    OSError("no shared object"),
]


@pytest.mark.parametrize("name", ["keras", "training.loop"])
@pytest.mark.parametrize("error", BROKEN)
def test_a_broken_package_is_one_sentence(monkeypatch, refused, name, error):
    usual = builtins.__import__

    def broken(module, *args, **options):
        if module == name:
            raise error
        return usual(module, *args, **options)

    monkeypatch.setattr(builtins, "__import__", broken)
    sentence = refused(*ONE_EPOCH)
    assert str(error) in sentence and sentence.count("\n") == 1


def test_a_full_disk_is_explained(folder, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints.RunKeeper, "back_up", full_disk)
    assert train.main(ONE_EPOCH) == 2
    out, err = capsys.readouterr()
    assert "is full" in err and "Free some space" in err and "nothing is kept" in out
    assert not list(Path("runs").iterdir())


@pytest.mark.skipif("FER2013" not in os.environ, reason="the environment variable FER2013 names no data set")
def test_the_shipped_model_scores_what_its_description_claims():
    classifier = load_classifier(REPOSITORY / "best_model.keras")
    public = load_fer2013(os.environ["FER2013"])["PublicTest"]
    compared = compare(classifier, public, predict(classifier.all_probabilities, public.faces))
    claimed = by_labels(classifier.description["scores"])
    for name, comparison in compared.items():  # both outputs, where votes lie beside the data
        assert comparison.correct.mean() == pytest.approx(claimed[name]["accuracy"], abs=0.002)
