"""A few damaged files of every kind through both scripts; benchmarks/fuzz.py tries thousands."""

import time

import pytest

import main
from benchmarks import fuzz

KINDS = [name for name in fuzz.KINDS if not name.startswith("run")]  # tests/training damages run folders


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "sound"
    fuzz.make_sound(folder, run=False)
    return folder


@pytest.fixture
def patched(monkeypatch):
    """Let a training end where it would begin, and put everything back."""
    import keras

    import model
    from training import finish

    for owner, name in ((keras.Model, "fit"), (finish, "calibrate"), (model, "RESNETS")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    for name, value in main.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    fuzz.stop_before_training()


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_in_one_sentence_or_do_no_harm(kind, sound, tmp_path, capfd, patched):
    first = KINDS.index(kind)
    for index in (first, first + 1):
        began = time.monotonic()
        status = fuzz.attempt(kind, index, 7, sound, sound.with_name("work"))
        err = capfd.readouterr().err
        assert status in (0, 2) and "Traceback" not in err and time.monotonic() - began < 10
        assert status == 0 or (err.startswith(("main.py: ", "train.py: ")) and err.count("\n") == 1), err
