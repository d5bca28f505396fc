"""The folder of a training, runs/<time>/, and the callbacks that fill it.

It holds the options, the best model, the history and a backup of the last epoch. These are written under a temporary
name, then renamed, so a kill at any moment leaves each of them whole, and `train.py --resume` continues to the same
weights as an uninterrupted training.
"""

import atexit
import contextlib
import json
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import h5py  # noqa: F401  (Keras needs it to save; if it is missing, fail now and not after an epoch)
import keras
import numpy as np
import pandas as pd

from common.cli import printable
from common.files import atomic_path, lock, move_into_place, sync
from emotions.faces import load_cascade
from evaluation import figures
from model import FER2013, UserError, build_model, check_types, first_line, read_json
from training.muon import Muon  # noqa: F401  (Keras must know it to load a backup)
from training.options import BEST, PLACES, TrainingOptions, command_words, output_problems, shell_command
from training.schedule import history_columns

RUNS = Path("runs")
STATE, HISTORY, ARGUMENTS = "state.json", "history.csv", "arguments.json"
STATE_TYPES = {
    "epochs": int, "backup": str, "stopped": bool, "finished": bool, "data_sha256": str,
    "dropout_seeds": list, "counters": dict,
}  # fmt: skip
COLUMNS = ["epoch", "accuracy", "loss", "val_accuracy", "val_loss", "learning_rate"]  # that every history has
COUNTERS = {"best": ["best"], "stopping": ["best", "wait", "best_epoch"], "plateau": ["best", "wait"]}  # of callbacks


@dataclass
class Run:
    """A training: its options, its folder (None until something is written) and what `state.json` there holds."""

    options: TrainingOptions
    folder: Path | None = None
    state: dict = field(default_factory=dict)  # {} before the first epoch is finished
    best_weights: list | None = None  # of the best epoch so far, float32; None if only the file has them
    outputs: tuple = (FER2013,)  # of the network; two if the data has votes
    lock_file: BinaryIO | None = None  # open while this process works on the folder

    @property
    def best(self) -> Path:
        return self.folder / BEST

    @property
    def epochs(self) -> int:
        return self.state.get("epochs", 0)

    def update(self, **changes) -> None:
        self.state |= changes
        write_json(self.folder / STATE, self.state)

    def finish(self) -> None:
        """Note that there is nothing to resume, and remove what a resume would need."""
        self.update(finished=True)
        for pattern in ("backup-*.keras", "teacher-*.*", "soft_labels-*.npy"):
            remove(self.folder.glob(pattern))

    def lock(self) -> None:
        """Keep other processes from the run's folder, as long as this one lives. Raises `UserError` if one has it."""
        self.lock_file = (self.folder / ARGUMENTS).open("rb+")
        if not lock(self.lock_file):
            self.unlock()
            raise UserError(f"{self.folder} is being trained by another process. Wait for its end, or stop it.")
        remove(self.folder.glob(".*.partial.*"))  # a kill may have left them

    def unlock(self) -> None:
        if self.lock_file:
            self.lock_file.close()

    def shadow(self) -> "Run":
        """Return the run of a process that leaves no files: it keeps them in a temporary folder while it lasts.

        So all processes take the same steps; where one left some out, the others would wait for it.
        """
        folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        if self.folder:
            shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return replace(self, folder=folder)

    def explain_stop(self) -> str:
        """Return what an interrupted run leaves and how to continue; remove its folder if it leaves nothing."""
        self.unlock()  # Windows removes no open file
        if not self.state:
            shutil.rmtree(self.folder, ignore_errors=True)
            return "Stopped before the first epoch was finished; nothing is kept."
        if self.state["finished"]:
            votes = ("--votes", self.options.votes) if self.options.votes else ()
            words = ("train.py", "--data", self.options.data, *votes, "--evaluate", "--model", self.best)
            return f"Stopped before the report was complete; the model is ready. Report on it:\n{shell_command(*words)}"
        curves = self.folder / "curves.png"
        moved = command_words(TrainingOptions(**{name: getattr(self.options, name) for name in PLACES}))
        return (
            f"Stopped. The best model so far is {printable(self.best)}, the curves are {printable(curves)}.\n"
            f"Continue with: {shell_command('train.py', '--resume', self.folder, *moved)}\n"
            f"Try it with:   {shell_command('main.py', '--model', self.best)}"
        )


def new_folder(arguments: dict) -> Path:
    """Make runs/<time>/ and note the arguments in it."""
    RUNS.mkdir(exist_ok=True)
    folder = RUNS / time.strftime("%Y-%m-%d_%H-%M-%S")
    while True:
        with contextlib.suppress(FileExistsError):  # another training of this second has it
            folder.mkdir()
            break
        folder = folder.with_name(folder.name + "_")
    write_json(folder / ARGUMENTS, arguments)
    return folder


def open_run(args) -> Run:
    """Return a new run with the options of `parse_args`, or the one to resume; raise `UserError` if it cannot be."""
    load_cascade()  # without it there is no report in the end
    if not args.resume:
        return Run(args.options)
    folder = latest_run() if args.resume == Path("latest") else args.resume
    if not folder.is_dir():
        raise UserError(f"There is no run {folder}. Give a folder in {RUNS}, or --resume alone for the latest one.")
    try:
        state, options = read_state(folder), TrainingOptions.from_json(read_json(folder / ARGUMENTS))
        wanted = COUNTERS.keys() if options.schedule == "plateau" else {"best"}
        if not state["finished"] and state["counters"].keys() != wanted:
            raise ValueError(f"{STATE} has the counters of another training")
    except KeyError as error:
        raise UserError(f"{folder} was made by another version of train.py. Use that one, or start again.") from error
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{folder} cannot be resumed: it is damaged or has no epoch ({error}). Start again.") from error
    if state["finished"]:
        raise UserError(f"{folder} is finished; its model is {folder / BEST}. Start a new training without --resume.")
    # The data may have moved, the output's folder may be gone; everything else stays as it was.
    given = {name: getattr(args.options, name) for name in PLACES}
    options = replace(options, **{name: path for name, path in given.items() if path})
    if options.data is None:
        raise UserError(f"{folder} names no data. Add --data PATH.")
    for problem in output_problems(options.output or Path(BEST)):
        raise UserError(problem)
    return Run(options, folder, state)


def read_state(folder: Path) -> dict:
    """Return a run's state, after a check of it and of the history. Raises `OSError`, `ValueError`, `KeyError`."""
    state = read_json(folder / STATE)
    if state["finished"] is True:
        return state
    if missing := STATE_TYPES.keys() - state.keys():
        raise ValueError(f"{STATE} lacks {min(missing)}")
    check_types(state, STATE_TYPES)
    if not re.fullmatch(r"backup-\d+\.keras", state["backup"]):
        raise ValueError(f"{STATE} names a backup elsewhere")
    for name, values in state["counters"].items():
        if not isinstance(values, dict) or not values.keys() <= set(COUNTERS.get(name, ())):
            raise ValueError(f"{STATE} has other counters")
        if not all(type(value) in (int, float) or (key, value) == ("best", None) for key, value in values.items()):
            raise ValueError(f"a counter in {STATE} is not a number")
    read_history(folder, state["epochs"])
    return state


def read_history(folder: Path, epochs: int | None = None) -> pd.DataFrame:
    """Return a run's history, a row per epoch, after a check of its first epochs. Raises `OSError`, `ValueError`."""
    history = pd.read_csv(folder / HISTORY)
    epochs = len(history) if epochs is None else epochs
    scores = history.astype(float).reindex(columns=COLUMNS).to_numpy()  # no text anywhere
    whole = 0 < epochs <= len(scores) and list(scores[:epochs, 0]) == list(range(epochs))
    if not (whole and np.isfinite(scores[:epochs]).all()):
        raise ValueError(f"{HISTORY} does not have the epochs of the training")
    return history


def latest_run() -> Path:
    """Return the unfinished run that was worked on last."""
    for state in sorted(RUNS.glob(f"*/{STATE}"), key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(OSError, TypeError, ValueError, KeyError):  # a damaged one cannot be resumed
            if not read_state(state.parent)["finished"]:
                return state.parent
    raise UserError("There is no unfinished run in runs/. Start one with: python train.py --data PATH")


class BestModel(keras.callbacks.ModelCheckpoint):
    """Writes every best epoch once: in float32, for 48-pixel faces, without the optimizer, so it runs everywhere."""

    def __init__(self, run: Run):
        self.partial = run.folder / f"partial.{BEST}"
        super().__init__(self.partial, monitor="val_accuracy", mode="max", save_best_only=True)
        self.run, self.plain = run, None

    def on_epoch_end(self, epoch, logs=None):
        self.partial.unlink(missing_ok=True)  # a kill may have left it
        trained = self.model
        self.plain = self.plain or build_model(self.run.options.arch, outputs=self.run.outputs)
        self.plain.set_weights(trained.get_weights())
        self.set_model(self.plain)
        super().on_epoch_end(epoch, logs)
        self.set_model(trained)
        if self.partial.exists():
            move_into_place(self.partial, self.run.best)
            self.run.best_weights = self.plain.get_weights()


class RunKeeper(keras.callbacks.Callback):
    """After every epoch, saves the history and what a resume needs. Must be the last of the callbacks."""

    def __init__(self, run: Run, counters: dict, data_sha256: str):
        super().__init__()
        self.run, self.counters, self.data_sha256 = run, counters, data_sha256
        self.path, self.rows = run.folder / HISTORY, []
        if run.state:  # a kill may have left an epoch more in the file
            self.rows = self.path.read_text(encoding="utf-8").splitlines()[: run.epochs + 1]

    def on_train_begin(self, logs=None):  # after the others, which have just reset themselves
        for name, values in self.run.state.get("counters", {}).items():
            for key, value in values.items():
                setattr(self.counters[name], key, value)

    def on_epoch_end(self, epoch, logs=None):
        scores = {name: float(logs[name]) for name in sorted(logs)}
        row = {"epoch": epoch} | scores | history_columns(epoch, self.run.options)
        self.rows = [*(self.rows or [",".join(row)]), ",".join(map(str, row.values()))]
        with atomic_path(self.path) as temporary:
            temporary.write_text("\n".join(self.rows) + "\n", encoding="utf-8")
        self.back_up(epoch + 1)
        with contextlib.suppress(OSError):  # on Windows a viewer may hold the image
            figures.draw_curves(pd.read_csv(self.path), self.run.folder / "curves.png")

    def back_up(self, epochs: int) -> None:
        """Save the model with its optimizer, then the state that names it; remove older backups."""
        model, backup = self.model, self.run.folder / f"backup-{epochs:03d}.keras"
        model.save(backup)
        sync(backup)
        seeds = [keras.ops.convert_to_numpy(seed).tolist() for seed in dropout_seeds(model)]
        counters = {
            name: {key: getattr(callback, key) for key in COUNTERS[name]} for name, callback in self.counters.items()
        }
        self.run.update(
            epochs=epochs, backup=backup.name, stopped=bool(model.stop_training), finished=False,
            data_sha256=self.data_sha256, dropout_seeds=seeds, counters=counters,
        )  # fmt: skip
        remove(path for path in self.run.folder.glob("backup-*.keras") if path != backup)


def load_backup(run: Run):
    """Return the model of a run's last epoch with its optimizer and the state of its dropout."""
    path = run.folder / run.state["backup"]
    try:
        model = keras.saving.load_model(path)
        for variable, value in zip(dropout_seeds(model), run.state["dropout_seeds"], strict=True):
            variable.assign(value)
    except Exception as error:  # Keras raises many kinds for a damaged file
        if is_out_of_memory(error):  # the file is whole
            raise
        reason = f"{path} cannot be read ({first_line(error)}), so this run cannot be resumed"
        raise UserError(f"{reason}. Start again, if the file is damaged.") from error
    return model


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error is NumPy's, TensorFlow's, JAX's or PyTorch's for a full memory."""
    message = f"{type(error).__name__} {error}".lower()
    signs = ("resource_exhausted", "resourceexhausted", "out of memory", "tried to allocate")
    return isinstance(error, MemoryError) or any(sign in message for sign in signs)


def hand_over(old, new) -> None:
    """Copy weights, optimizer and dropout's random state from one compiled model to another, of any image size."""
    try:
        new.set_weights(old.get_weights())
        of_old, of_new = ([*model.optimizer.variables, *dropout_seeds(model)] for model in (old, new))
        for variable, value in zip(of_new, of_old, strict=True):
            variable.assign(keras.ops.convert_to_numpy(value))
    except (AttributeError, ValueError) as error:  # a backup may be another's
        raise UserError("The run's backup is of another network, so it cannot be resumed. Start again.") from error


def dropout_seeds(model) -> list:
    """Return the variables with the state of dropout's random numbers, which a saved model leaves out."""
    return [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]


def write_json(path: Path, content: dict) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def remove(paths) -> None:
    """Remove files, except those that another program holds, as one may on Windows."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
