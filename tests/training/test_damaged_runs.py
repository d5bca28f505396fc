"""Run folders that are damaged or in use: one sentence, exit status 2, and nothing is changed."""

import json
import os
import shutil
import signal
import sys
import time

import keras
import numpy as np
import pandas as pd
import pytest
from made_data import make_rows, write_csv
from made_training import SMALL_RESNETS, press_ctrl_c, the_run

import model
import train
from common import signals
from evaluation import figures
from model import UserError
from training import checkpoints, finish, loop
from training.checkpoints import Run
from training.options import TrainingOptions, complete
from training.schedule import phases

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.usefixtures("small_and_quiet")
WORDS = ["--data", "fer2013.csv", "--epochs", "2", "--small-image-epochs", "0", "--batch-size", "56"]
MISSING = object()
VALUES = [MISSING, None, 7.5, -1, True, "x", [1], {"a": []}, float("nan")]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with a run that was stopped after its first of two epochs."""
    folder = tmp_path_factory.mktemp("stopped")
    write_csv(folder / "fer2013.csv", make_rows((8, 4, 2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(model, "RESNETS", SMALL_RESNETS)
        patch.setattr(figures, "draw_curves", press_ctrl_c)  # after the first epoch
        assert train.main([*WORDS, "--self-distillation-rounds", "0", "--fine-tuning-epochs", "0"]) == 130
    return folder


@pytest.fixture
def run(stopped, tmp_path, monkeypatch):
    """A copy of that run, in a working folder with its data; a resume that comes as far as a step ends there."""

    def start(*args, **options):
        raise UserError("it started")

    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras.Model, "fit", start)
    monkeypatch.setattr(finish, "calibrate", start)
    monkeypatch.setattr(checkpoints, "load_cascade", lambda: None)
    return the_run(tmp_path)


def contents(run):
    return {path.name: path.read_bytes() for path in run.iterdir()}


@pytest.mark.parametrize("name", ["state.json", "arguments.json"])
def test_a_resume_refuses_values_of_another_kind_and_changes_nothing(run, refused, name):
    whole, generator, started = (run / name).read_text(), np.random.default_rng(0), []
    cases = [(key, value) for key in json.loads(whole) for value in VALUES]
    for key, value in [cases[i] for i in generator.permutation(len(cases))[:80]]:
        changed = json.loads(whole) | {key: value}
        changed = {other: kept for other, kept in changed.items() if kept is not MISSING}
        (run / name).write_text(json.dumps(changed))
        before = contents(run)
        sentence = refused("--resume", run)
        assert sentence.count("\n") == 1 and "rror:" not in sentence, (key, value)
        assert contents(run) == before
        if "it started" in sentence and value != json.loads(whole)[key]:
            started.append((key, value))
    harmless = {"stopped", "learning_rate", "mixup", "votes", "output", "distribute", "camera_noise", "mixed_precision"}
    assert {key for key, _ in started} <= harmless, started


@pytest.mark.parametrize("epochs", [2, 10**9, 10**30])
def test_a_resume_refuses_more_epochs_than_the_history_has(run, refused, epochs):
    state = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps(state | {"epochs": epochs}))
    assert "does not have the epochs" in refused("--resume", run)


@pytest.mark.parametrize("column, value", [("learning_rate", None), ("learning_rate", "x"), ("image_size", "4x")])
def test_a_resume_refuses_a_history_that_cannot_be_drawn(run, refused, column, value):
    history = pd.read_csv(run / "history.csv")
    history = history.drop(columns=column) if value is None else history.assign(**{column: value})
    history.to_csv(run / "history.csv", index=False)
    assert "cannot be resumed" in refused("--resume", run)


def test_too_little_memory_for_a_backup_is_no_damage(run, refused, monkeypatch):
    def full(*args, **options):
        raise MemoryError

    monkeypatch.setattr(keras.saving, "load_model", full)
    before = contents(run)
    assert "not enough memory" in refused("--resume", run) and contents(run) == before


@pytest.mark.parametrize("counters", [{}, {"best": {"best": 0.5}, "stopping": {"best": 0.5, "wait": 1}}])
def test_a_resume_refuses_the_counters_of_another_training(run, refused, counters):
    state = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps(state | {"counters": counters}))
    assert "counters of another training" in refused("--resume", run)


@pytest.mark.parametrize("place", ["../other.keras", "/tmp/other.keras", "best_model.keras"])
def test_a_resume_takes_no_backup_from_elsewhere(run, refused, place):
    state = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps(state | {"backup": place}))
    assert "names a backup elsewhere" in refused("--resume", run)


TEXTS = [b"", b"[]", b"\xff\xfe", b"[" * 10**6, b"1" * 10**5, b"epoch,loss\n", b"epoch,accuracy\n0,x\n", b"\0" * 10**4]


@pytest.mark.parametrize("name", ["state.json", "arguments.json", "history.csv", "backup-001.keras"])
@pytest.mark.parametrize("how", ["missing", "a folder", "truncated", *range(len(TEXTS))])
def test_a_resume_refuses_damaged_files(run, refused, name, how):
    path = run / name
    content = path.read_bytes()
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how != "missing":
        path.write_bytes(content[: len(content) // 2] if how == "truncated" else TEXTS[how])
    sentence = refused("--resume", run)
    assert sentence.count("\n") == 1 and "rror:" not in sentence
    assert "cannot be resumed" in sentence


@pytest.mark.parametrize("damage", ["truncated", "pickle", "shape", "NaN", "huge"])
def test_damaged_soft_labels_are_refused(tmp_path, damage):
    options, path = complete(TrainingOptions()), tmp_path / "soft_labels-2.npy"
    labels = np.full((4, 1, 7), 1 / 7, np.float32)
    made = {"shape": labels[:3], "NaN": labels * np.nan, "pickle": np.array([{}])}
    np.save(path, made.get(damage, labels), allow_pickle=True)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "huge":
        path.write_bytes(path.read_bytes().replace(b"(4, 1, 7), ", b"(4" + b"0" * 5 + b"1,7)"))
    split = loop.data.Split(np.zeros((4, 48, 48, 1), np.uint8), np.zeros(4, np.uint8))
    with pytest.raises(UserError, match="cannot be read"):
        loop.phase_targets(Run(options, tmp_path, {"epochs": 66}), phases(options)[-1], split, split)


def test_a_run_is_trained_by_one_process_at_a_time(run, refused):
    other = Run(TrainingOptions(), run)
    other.lock()
    assert "another process" in refused("--resume", run)
    other.unlock()
    assert "it started" in refused("--resume", run)
    assert "it started" in refused("--resume", run)  # an error has left no lock


def test_two_trainings_of_one_second_have_their_own_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "now")
    assert len({checkpoints.new_folder({}) for _ in range(3)}) == 3


@pytest.mark.skipif(os.name == "nt", reason="it has no such signals")
def test_a_kill_or_a_closed_terminal_is_ctrl_c_and_none_is_lost(monkeypatch, capfd):
    usual = {code: signal.getsignal(code) for code in signals.STOPS}
    codes = [code for code, handler in usual.items() if handler != signal.SIG_IGN]  # as under nohup
    monkeypatch.setattr(signals, "_received", [])
    monkeypatch.setattr(os, "_exit", lambda status: sys.exit(status))
    try:
        signals.handle_stops(signals.leave)  # while packages are imported
        for code in codes:
            with pytest.raises(SystemExit, match="130"):
                signal.raise_signal(code)
        assert capfd.readouterr().out == "\nStopped.\n" * len(codes)
        signals.handle_stops(signals.interrupt, instead_of=[signals.leave])
        for code in codes:
            signals._received.clear()
            with signals.held_back():
                pass
            with pytest.raises(KeyboardInterrupt), signals.held_back() as stop_if_asked:
                signal.raise_signal(code)  # held
                stop_if_asked(0)
        signals._received.clear()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(codes[0])  # somebody else's code loses it
        with pytest.raises(KeyboardInterrupt), signals.held_back():
            raise AssertionError("a step")
    finally:
        for code, handler in usual.items():
            signal.signal(code, handler)
