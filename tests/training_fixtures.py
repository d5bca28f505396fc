"""The fixtures of the tests of training; a plugin, so that all of them share one `finished`."""

import keras
import pytest
from made_data import make_rows, write_csv
from made_training import ALL_PHASES, SMALL_RESNETS

import model
import train
from evaluation import figures, robustness
from training import finish


@pytest.fixture
def small_and_quiet(monkeypatch):
    """Use small networks; leave report and figures out, except for those of `finished`."""
    monkeypatch.setattr(model, "RESNETS", SMALL_RESNETS)
    monkeypatch.setattr(finish, "report", lambda *args, **options: None)
    monkeypatch.setattr(figures, "draw_curves", lambda *args: None)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder in which a training of eight epochs went through every phase; its model is named out.keras."""
    folder = tmp_path_factory.mktemp("finished")
    write_csv(folder / "fer2013.csv", make_rows((8, 4, 2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(model, "RESNETS", SMALL_RESNETS)
        patch.setattr(robustness, "CONDITIONS", {"clean": robustness.CONDITIONS["clean"]})
        assert train.main([*ALL_PHASES, "--output", "out.keras"]) == 0
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with fer2013.csv, in which the test runs."""
    write_csv(tmp_path / "fer2013.csv", make_rows((8, 4, 2)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(capsys):
    """Call with options that train.py refuses: returns its one sentence."""

    def refuse(*options):
        try:
            status = train.main([str(option) for option in options])
        except SystemExit as stop:
            status = stop.code
        assert status == 2
        return capsys.readouterr().err

    return refuse


@pytest.fixture(scope="module")
def eager():
    """Let TensorFlow trace nothing: here it takes longer than the training."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.run_functions_eagerly(True)
        yield
        tf.config.run_functions_eagerly(False)
    else:
        yield
