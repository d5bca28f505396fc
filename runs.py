"""The folder of a training, runs/<time>/: arguments, best model, history and backup, whole after a kill at any moment.

What is kept here is what `train.py --resume` goes on from. A file is written beside its place and then moved there; the
history grows by a line an epoch, and a resume drops those of epochs that the backup has not seen.
"""

import contextlib
import importlib
import json
import os
import platform
import shlex
import signal
import subprocess
import time
from pathlib import Path

from files import copy_whole, flush, put_in_place, written_whole

RUNS = Path("runs")
BEST, BEST_PARTIAL, STATE = "best_model.keras", "best_model.partial.keras", "state.json"
STEPS = "steps.json"  # the commands that made the models to start with, and the teachers
# What a resume needs of Keras's callbacks, by the names that train.py gives them.
COUNTED = {"best": ["best"], "stopping": ["best", "wait", "best_epoch"], "plateau": ["best", "wait"]}


def new_run(args) -> Path:
    """Make runs/<time>/ and note the arguments in it."""
    run = RUNS / time.strftime("%Y-%m-%d_%H-%M-%S")
    while run.exists():
        run = run.with_name(run.name + "_")
    run.mkdir(parents=True)
    (run / "arguments.json").write_text(json.dumps(vars(args), indent=2, default=str), encoding="utf-8")
    return run


def note_steps(run: Path, models: list) -> None:
    """Keep in a run's folder the commands that made these models, as their descriptions tell them.

    What several have in common is kept once; a model's own steps may repeat.
    """
    from model import description_path, read_description

    steps = []
    for path in models:
        if path.suffix == ".npy":  # what a `.json` of its name says is not about it
            continue
        steps += [step for step in read_description(description_path(path)).get("steps", []) if step not in steps]
    write_json(run / STEPS, steps)


def trim_history(path: Path, epochs: int) -> None:
    """Drop the lines of epochs that a crash left in the history but not in the backup.

    And the empty ones that Keras writes between them on Windows.
    """
    if path.exists():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.strip()]
        with written_whole(path) as partial:
            partial.write_text("".join(lines[: epochs + 1]), encoding="utf-8")


def make_run_keeper(run: Path, args, state: dict, counters: dict, sha256: str):
    """Return the callback that, after every epoch, puts the best model in place, draws the curves, backs up.

    Models are written beside their place and then moved there, so that a kill at any moment leaves the old or the new
    one whole; `state.json`, moved last, names the backup it belongs to.
    """
    import keras
    import pandas as pd

    from figures import draw_curves

    class RunKeeper(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):  # after the others, which have just reset themselves
            (run / BEST_PARTIAL).unlink(missing_ok=True)  # what a kill left
            for name, values in state.get("counters", {}).items():
                for key, value in values.items():
                    setattr(counters[name], key, value)
            for variable, value in zip(dropout_seeds(self.model), state.get("dropout_seeds", []), strict=False):
                variable.assign(value)

        def on_train_batch_begin(self, batch, logs=None):
            # PyTorch's dropout draws from one generator, which no backup holds.
            if batch == 0 and keras.backend.backend() == "torch":
                keras.utils.set_random_seed(args.seed + int(self.model.optimizer.iterations))

        def on_epoch_end(self, epoch, logs=None):
            if (run / BEST_PARTIAL).exists():
                save_plain(self.model, args.arch, run / BEST_PARTIAL)
                put_in_place(run / BEST_PARTIAL, run / BEST)
            flush(run / "history.csv")  # or a power cut might leave a state that counts an epoch more
            back_up(self.model, run, epoch + 1, counters, sha256)
            with contextlib.suppress(OSError):  # on Windows a viewer may hold the picture
                draw_curves(pd.read_csv(run / "history.csv"), run / "curves.png")

    return RunKeeper()


def back_up(model, run: Path, epochs: int, counters: dict, sha256: str) -> None:
    """Save a model with its optimizer after so many epochs, then the state that names it; remove older backups."""
    import keras

    backup = f"backup-{epochs:03d}.keras"
    model.save(run / backup)
    flush(run / backup)
    new = {
        "epochs": epochs,
        "backup": backup,
        "stopped": bool(model.stop_training),
        "finished": False,
        "data_sha256": sha256,
        "dropout_seeds": [keras.ops.convert_to_numpy(seed).tolist() for seed in dropout_seeds(model)],
        "counters": {name: {key: getattr(counters[name], key) for key in COUNTED[name]} for name in counters},
    }
    write_json(run / STATE, new)
    for old in run.glob("backup-*.keras"):
        if old.name != backup:
            with contextlib.suppress(OSError):  # the next epoch tries again
                old.unlink()


@contextlib.contextmanager
def ctrl_c_between_steps():
    """Hold Ctrl-C back until a step is over, for within one it can get lost in TensorFlow; a second one stops at once.

    Gives the callback that passes it on.
    """
    from keras import callbacks

    pressed = []

    def note(number, frame):
        pressed.append(number)
        signal.signal(signal.SIGINT, usual)

    def pass_on(number, logs=None):
        if pressed:
            raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # a shell's background job ignores Ctrl-C
        signal.signal(signal.SIGINT, note)
    try:
        yield callbacks.LambdaCallback(on_train_batch_end=pass_on, on_epoch_end=pass_on)
        pass_on(None)  # pressed after the last step
    finally:
        signal.signal(signal.SIGINT, usual)


@contextlib.contextmanager
def closing_files(callbacks: list):
    """Close the history that Keras leaves open where a training is cut short: Windows deletes no open file."""
    try:
        yield
    finally:
        for callback in callbacks:
            if getattr(callback, "csv_file", None):
                callback.csv_file.close()


def dropout_seeds(model) -> list:
    """Return the variables that hold where dropout's random numbers stand; a saved model leaves them out."""
    return [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]


def save_plain(model, arch: str, path: Path) -> None:
    """Write the float32 twin of a model for whole faces, without the optimizer: it runs everywhere."""
    from model import build_model

    twin = build_model(arch)
    twin.set_weights(model.get_weights())
    twin.save(path)


def read_state(run: Path) -> dict:
    return json.loads((run / STATE).read_text(encoding="utf-8"))


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file in one step: whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def save_model(model, path: Path) -> None:
    """Write a .keras file in one step: whole or not at all."""
    with written_whole(path) as partial:
        model.save(partial)


def publish(run: Path, output: Path) -> None:
    """Replace the model and its description in one step each; keep what stood there as *.previous.*.

    An earlier *.previous.* goes into the run's folder: two short trainings must not cost the network that came along.
    What is kept is kept once, also where a full disk or a kill cut this short and a resume does it again.
    """
    state, kept, files = read_state(run), str(output.resolve()), []
    for suffix in (".keras", ".json"):
        displaced = run / f"{output.stem}.displaced{suffix}"
        files.append((output.with_suffix(suffix), output.with_name(f"{output.stem}.previous{suffix}"), displaced))
    if state.get("kept") != kept:
        for _, previous, displaced in files:
            if previous.exists() and not displaced.exists():
                copy_whole(previous, displaced)
        for old, previous, _ in files:
            if old.exists():
                copy_whole(old, previous)
            else:  # it would describe another model
                previous.unlink(missing_ok=True)
        write_json(run / STATE, state | {"kept": kept})
    for old, _, _ in files:
        copy_whole((run / BEST).with_suffix(old.suffix), old)


def command(*words) -> str:
    """Return a command as it can be pasted into a shell, with quotes where a path needs them."""
    words = ["python", *map(str, words)]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def describe(model, run: Path, args, dataset, training_count: int, sha256: str) -> dict:
    """Return what `best_model.json` says of a model's contract and of how it came about."""
    import keras
    import numpy as np
    import pandas as pd

    from figures import best_epoch
    from model import EMOTIONS, count_multiply_adds
    from options import words_of
    from stages import self_taught_options

    steps = json.loads((run / STEPS).read_text(encoding="utf-8")) if (run / STEPS).exists() else []
    history = pd.read_csv(run / "history.csv")
    backend = keras.backend.backend()
    others = ("data", "output", "resume", "evaluate", "model", "split", "export")
    arguments = {name: value for name, value in vars(args).items() if name not in others}
    words = words_of({"data": "PATH", **arguments, "output": args.output})
    return {
        "labels": list(EMOTIONS),
        "pixel_range": [0, 255],
        "input": "uint8 gray faces (n, 48, 48, 1)",
        "parameters": model.count_params(),
        "multiply_adds": count_multiply_adds(model),
        "training": {
            "arguments": arguments,
            "epochs": len(history),
            "best_epoch": best_epoch(history) + 1,
            "faces": training_count,
            "data": dataset.counts()["all"].to_dict(),
            "data_sha256": sha256,
            "versions": {
                "python": platform.python_version(),
                "keras": keras.__version__,
                backend: importlib.import_module(backend).__version__,
                "numpy": np.__version__,
            },
            **({"self_taught": self_taught_options(args)} if args.self_taught_epochs else {}),
        },
        # The commands that made it, those of the models it started from and of its teachers first.
        "steps": [*steps, command("train.py", *words)],
    }
