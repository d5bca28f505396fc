"""What the tests of training share, beside the fixtures in training_fixtures.py."""

import json
import os
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from data import load_fer2013

SMALL_RESNETS = {"resnet": ((8, 2),), "resnet-huge": ((8, 1), (8, 2))}
SMALL_AND_EAGER = [  # marks of modules that train often
    pytest.mark.usefixtures("small_and_quiet", "eager"),
    pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`"),
]
ALL_PHASES = ["--data", "fer2013.csv", "--epochs", "8", "--fine-tuning-epochs", "1", "--batch-size", "28"]
ONE_EPOCH = ["--data", "fer2013.csv", "--epochs", "1", "--small-image-epochs", "0", "--batch-size", "56"]


def press_ctrl_c(*args, **options):
    raise KeyboardInterrupt


def press_ctrl_c_after(epochs, monkeypatch):
    """Let the first training be interrupted after so many epochs, and no later one."""
    drawn = iter([None] * (epochs - 1) + [KeyboardInterrupt] + [None] * 20)

    def draw(*args):
        if error := next(drawn):
            raise error

    monkeypatch.setattr("evaluation.figures.draw_curves", draw)


def interrupt(patch, name, count, action):
    """Cut short the save of a file whose name begins so, the `count`-th, and then do something."""
    save, saved = keras.Model.save, []

    def interrupted(model, path, *args, **options):
        save(model, path, *args, **options)
        saved.append(Path(path).name.startswith(name))
        if sum(saved) == count and saved[-1]:
            os.truncate(path, 4096)
            action()

    patch.setattr(keras.Model, "save", interrupted)


def full_disk(*args, **options):
    raise OSError(28, "No space left on device")


def the_run(folder):
    """The only run, or the latest one, of a folder."""
    return max((folder / "runs").iterdir(), key=lambda run: (run.stat().st_mtime, run.name))


def history_of(run):
    return pd.read_csv(run / "history.csv")


def description_of(path):
    return json.loads(path.with_suffix(".json").read_text())


def weights_of(path):
    return keras.saving.load_model(path, compile=False).get_weights()


def splits_of(folder, *names):
    dataset = load_fer2013(folder / "fer2013.csv")
    return [dataset[name] for name in names]


def same(first, second) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
