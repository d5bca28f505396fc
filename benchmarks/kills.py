"""Kill a small training before each of its file operations, resume it, and compare: python benchmarks/kills.py

A training of three epochs with self-distillation is killed as by a power cut before its first file operation (a file
opened for writing, renamed or removed, a folder made), in another process before its second, and so on. Each is resumed
and must end with the weights and the description, calibration included, of one that was not killed. Needs os.fork.
Exit status 1 if one does not.
"""

import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(1, str(Path(sys.path[0], "tests")))

import tensorflow as tf
from made_data import make_rows, write_csv
from made_training import SMALL_RESNETS, same

import model
import train
from training import finish

OPTIONS = "--data fer2013.csv --output out.keras --epochs 3 --batch-size 56 --small-image-epochs 0 "
OPTIONS += "--self-distillation-rounds 1 --fine-tuning-epochs 1"
OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate", "shutil.copyfile")
KILLED = 9


def training(folder: Path, words: list, kill_before: int | None = None) -> tuple:
    """Train in a process of its own; return its status and how many file operations there were."""
    counter = folder / "operations"
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), counter.stat().st_size
    os.chdir(folder)
    handle = os.open(counter, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)

    def count(event: str, args: tuple) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in OPERATIONS) or folder not in Path(os.fsdecode(args[0])).absolute().parents:
            return
        if os.fstat(handle).st_size == kill_before:
            os._exit(KILLED)
        os.write(handle, b".")

    tf.config.run_functions_eagerly(True)  # tracing would take longer than the training
    sys.addaudithook(count)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = train.main(words)
    os._exit(status)


def outcome(folder: Path) -> tuple:
    """Return the weights, and what the description has that does not tell when and where it was made."""
    classifier = model.load_classifier(folder / "out.keras")
    return classifier.model.get_weights(), [classifier.description[key] for key in ("calibration", "scores", "outputs")]


def main() -> int:
    model.RESNETS = SMALL_RESNETS
    finish.report = lambda *args, **options: None  # changes nothing in the model
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "fer2013.csv")
        write_csv(data, make_rows((8, 4, 2)))

        def new_folder(name: str) -> Path:
            folder = Path(scratch, name)
            folder.mkdir()
            shutil.copyfile(data, folder / data.name)
            return folder

        whole = new_folder("whole")
        status, operations = training(whole, OPTIONS.split())
        if status:
            sys.exit(f"kills.py: the training itself ends with status {status}.")
        killed, start = [], time.monotonic()
        for number in range(operations):
            killed.append(new_folder(str(number)))
            status, _ = training(killed[-1], OPTIONS.split(), kill_before=number)
            if status != KILLED:
                sys.exit(f"kills.py: operation {number} was not reached.")
            has_run = any(killed[-1].glob("runs/*/state.json"))
            training(killed[-1], ["--resume"] if has_run else OPTIONS.split())  # refused if all was done
            print(f"\r{number + 1} of {operations} kills, {time.monotonic() - start:.0f} s", end="", flush=True)
        weights, described = outcome(whole)
        outcomes = {folder.name: outcome(folder) for folder in killed}
        failed = [name for name, (kept, told) in outcomes.items() if not (same(kept, weights) and told == described)]
        print(f"\n{operations - len(failed)} of {operations} end with the same weights and description")
        if failed:
            print(f"Killed before these operations, they do not: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
