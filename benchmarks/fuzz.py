"""What broken and hostile files do to both scripts: a table by kind of file. Exit status 1 if one does harm.

python benchmarks/fuzz.py                                 2,000 inputs, about ten minutes
python benchmarks/fuzz.py --only "video .mp4:17" --keep   one of them again; its files stay in fuzz/

Sound files are damaged by a generator with a fixed seed: JSON with every value missing, of another type, huge or NaN;
archives with every member cut, flipped, oversized; bytes of anything else. Each input goes through main.py or train.py,
in a process that serves many. Harm is a traceback, an abort, or more than ten seconds. "refused" ended with status 2.
"""

import argparse
import contextlib
import io
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np

import main as main_script
import train as train_script

HANG_SECONDS, LARGEST_MB = 10, 1024
FRESH = 200  # inputs after which a process is replaced: TensorFlow keeps some memory of every network
SMALL_RESNETS = {"resnet": ((8, 2), (8, 2))}
FUZZ = Path("fuzz")  # where the files of --keep stay
MISSING = object()
VALUES = [MISSING, None, True, -1, 7.5, 10**9, 10**30, float("inf"), float("nan")]
VALUES += ["x", "", "\x1b[31m\n", [], [1], [[1] * 9] * 9, {}, {"a": {}}]


class Kind(NamedTuple):
    """A sound file, how it is damaged, and the command that then uses it."""

    file: str
    damage: object  # (content, index, generator) -> content
    script: str
    options: tuple


# --- damage


def in_bytes(content: bytes, index: int, generator) -> bytes:
    """Cut, flip, repeat or blank a part, at the start of the file as often as anywhere."""
    size = min(len(content), 2000) if generator.integers(2) else len(content)
    start, end = sorted(map(int, generator.integers(size + 1, size=2)))
    if index % 4 == 0:
        return content[:start]
    if index % 4 == 1:
        flipped = bytearray(content)
        for place in generator.integers(size, size=generator.integers(1, 20)):
            flipped[place] ^= 1 << int(generator.integers(8))
        return bytes(flipped)
    if index % 4 == 2:
        return content[:end] + content[start:end] * int(generator.integers(1, 20)) + content[end:]
    return content[:start] + bytes(end - start) + content[end:]


def places(part, place=()):
    """Yield the path of every value in parsed JSON."""
    for key in part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
        yield (*place, key)
        yield from places(part[key], (*place, key))


def in_json(content: bytes, index: int, generator) -> bytes:
    """Replace the value at one place; as the index grows, every place gets every value."""
    parsed = json.loads(content)
    everywhere = list(places(parsed))
    where, which = divmod(index * 7919 % (len(everywhere) * len(VALUES)), len(VALUES))
    *above, key = everywhere[where]
    part = parsed
    for step in above:
        part = part[step]
    if VALUES[which] is MISSING:
        del part[key]
    else:
        part[key] = VALUES[which]
    return json.dumps(parsed).encode()


def in_numbers(content: bytes, index: int, generator) -> bytes:
    """Replace one of the first or of all numbers in a text by another."""
    found = list(re.finditer(rb"-?\d[\d.e+-]*", content))
    number = found[generator.integers(min(len(found), 40) if generator.integers(2) else len(found))]
    other = [b"0", b"-1", b"99999999", b"4294967303", b"1e400", b"nan", b"x", b"", b"0.5"][index % 9]
    return content[: number.start()] + other + content[number.end() :]


def in_archive(content: bytes, index: int, generator) -> bytes:
    """Damage a member: its bytes, its size, its name, its compression; or leave it out."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(result, "w") as new:
        names = old.namelist()
        which, how = names[index // 7 % len(names)], index % 7
        for name in names:
            member, options = old.read(name), {"compress_type": zipfile.ZIP_DEFLATED}
            if name == which and how < 2:
                member = in_bytes(member, int(generator.integers(4)), generator)
            elif name == which:
                member += bytes(2**27 * (how == 2))
                options = {"compress_type": zipfile.ZIP_LZMA if how == 3 else zipfile.ZIP_DEFLATED}
                name = {4: f"//{name}", 5: f"../{name}"}.get(how, name)
            if not (name == which and how == 6):
                new.writestr(name, member, **options)
    return result.getvalue()


def in_config(content: bytes, index: int, generator) -> bytes:
    """Replace a value in the configuration inside a .keras archive."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(result, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            new.writestr(name, in_json(member, index, generator) if name == "config.json" else member)
    return result.getvalue()


LIVE = ("face.png", "--model", "tiny.tflite", "--no-window")
KINDS = {
    "description of .keras": Kind("tiny.json", in_json, "main", ("face.png", "--model", "tiny.keras", "--no-window")),
    "description of .tflite": Kind("tiny.tflite.json", in_json, "main", LIVE),
    **{
        f".keras {name}": Kind("tiny.keras", damage, "main", ("face.png", "--model", "tiny.keras", "--no-window"))
        for name, damage in (("configuration", in_config), ("members", in_archive), ("bytes", in_bytes))
    },
    ".tflite": Kind("tiny.tflite", in_bytes, "main", LIVE),
    "cascade bytes": Kind("cascade.xml", in_bytes, "main", (*LIVE, "--cascade", "cascade.xml")),
    "cascade numbers": Kind("cascade.xml", in_numbers, "main", (*LIVE, "--cascade", "cascade.xml")),
    **{f"image {suffix}": Kind(f"a{suffix}", in_bytes, "main", (f"a{suffix}", *LIVE[1:]))
       for suffix in (".png", ".jpg", ".webp", ".tiff", ".bmp")},
    **{f"video {suffix}": Kind(f"a{suffix}", in_bytes, "main", (f"a{suffix}", *LIVE[1:], "--output", f"out{suffix}"))
       for suffix in (".mp4", ".webm")},
    "video .avi": Kind("a.avi", in_bytes, "main", ("a.avi", *LIVE[1:], "--log", "out.csv")),
    "data .csv": Kind("fer2013.csv", in_bytes, "train", ("--data", "fer2013.csv", "--epochs", "8")),
    "data numbers": Kind("fer2013.csv", in_numbers, "train", ("--data", "fer2013.csv", "--epochs", "8")),
    "data .zip": Kind("fer2013.zip", in_archive, "train", ("--data", "fer2013.zip", "--epochs", "8")),
    "run state": Kind("runs/a/state.json", in_json, "train", ("--resume", "runs/a")),
    "run arguments": Kind("runs/a/arguments.json", in_json, "train", ("--resume", "runs/a")),
    "run history": Kind("runs/a/history.csv", in_bytes, "train", ("--resume", "runs/a")),
    "run backup": Kind("runs/a/backup", in_bytes, "train", ("--resume", "runs/a")),
}  # fmt: skip


# --- sound files


def make_media(folder: Path) -> None:
    """Write the demo's faces as images and videos."""
    strip = cv2.imread(str(Path(__file__).resolve().parent.parent / "demo" / "average_faces.png"))
    face = strip[:, : 2 * strip.shape[0]]
    for name in ("face.png", *(kind.file for name, kind in KINDS.items() if name.startswith("image"))):
        cv2.imwrite(str(folder / name), face)
    for suffix, codec in ((".mp4", "mp4v"), (".webm", "VP80"), (".avi", "MJPG")):
        writer = cv2.VideoWriter(str(folder / f"a{suffix}"), cv2.VideoWriter_fourcc(*codec), 10, face.shape[1::-1])
        for i in range(8):
            writer.write(np.roll(face, i, axis=1))
        writer.release()


def make_networks(folder: Path) -> None:
    """Write a small network as .keras and .tflite, with descriptions."""
    import keras
    import tensorflow as tf

    from model import EMOTIONS, native_stderr_hidden

    keras.utils.set_random_seed(0)
    layers = keras.layers
    filters = layers.Conv2D(4, 3, 2, use_bias=False), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()
    ends = layers.Flatten(), layers.Dropout(0.1), layers.Dense(7, "softmax")
    network = keras.Sequential([keras.Input((48, 48, 1)), layers.Rescaling(1 / 255), *filters, *ends])
    network.save(folder / "tiny.keras")
    face = keras.Input(batch_shape=(1, 48, 48, 1), dtype="uint8")
    with native_stderr_hidden():
        lite = tf.lite.TFLiteConverter.from_keras_model(keras.Model(face, network(face))).convert()
    (folder / "tiny.tflite").write_bytes(lite)
    description = {"labels": EMOTIONS, "pixel_range": [0, 255], "calibration": {"temperature": 1.2}, "training": {}}
    for name in ("tiny.json", "tiny.tflite.json"):
        (folder / name).write_text(json.dumps(description | {"exported_from": {"sha256": "0"}, "scores": {"a": [1]}}))


def make_data(folder: Path) -> None:
    """Write noise faces as FER-2013's table, bare and zipped; and a changed cascade, which is nobody's."""
    generator, lines = np.random.default_rng(0), ["emotion,pixels,Usage"]
    for usage, count in (("Training", 8), ("PublicTest", 4), ("PrivateTest", 2)):
        for label in range(7 * count):
            lines.append(f"{label % 7},{' '.join(map(str, generator.integers(0, 256, 2304)))},{usage}")
    (folder / "fer2013.csv").write_text("\n".join(lines) + "\n")
    with zipfile.ZipFile(folder / "fer2013.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "fer2013.csv", "fer2013.csv")
        archive.writestr("readme.txt", "noise")
    cascade = Path(__file__).resolve().parent.parent / "haarcascade_frontalface_default.xml"
    (folder / "cascade.xml").write_text(cascade.read_text(encoding="utf-8") + "\n", encoding="utf-8")


def make_run(folder: Path) -> None:
    """Train for one epoch, and stop as by Ctrl-C."""
    prepare_training()
    from evaluation import figures

    def press_ctrl_c(*_):
        raise KeyboardInterrupt

    figures.draw_curves = press_ctrl_c
    words = ["--epochs", "2", "--small-image-epochs", "0", "--batch-size", "56", "--self-distillation-rounds", "0"]
    with working_in(folder), contextlib.redirect_stdout(io.StringIO()):
        assert train_script.main(["--data", "fer2013.csv", *words, "--fine-tuning-epochs", "0"]) == 130
    (run,) = (folder / "runs").iterdir()
    run.rename(folder / "runs" / "a")


def make_sound(folder: Path, run: bool = True) -> None:
    """Write every sound file, with a run folder or without."""
    folder.mkdir(exist_ok=True)
    for make in (make_media, make_networks, make_data, *([make_run] if run else [])):
        make(folder)


@contextlib.contextmanager
def working_in(folder: Path):
    """Change the working folder for a moment; `contextlib.chdir` is new in Python 3.11."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def prepare_training() -> None:
    """Make networks small."""
    import model

    model.RESNETS = SMALL_RESNETS


def stop_before_training() -> None:
    """Let a training end where it would begin."""
    prepare_training()
    import keras

    from model import UserError
    from training import finish

    def stop(*_, **__):
        raise UserError("accepted")

    keras.Model.fit = finish.calibrate = stop


# --- inputs


def attempt(name: str, index: int, seed: int, sound: Path, work: Path) -> int:
    """Write an input into a copy of the sound files, use it as its kind does; return the exit status."""
    kind = KINDS[name]
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(sound, work)
    file = work / kind.file
    if file.name == "backup":  # its name has the epoch's number
        file = max((work / "runs" / "a").glob("backup*"))
    generator = np.random.default_rng([seed, list(KINDS).index(name), index])
    file.write_bytes(kind.damage(file.read_bytes(), index, generator))
    script = main_script if kind.script == "main" else train_script
    with working_in(work), contextlib.redirect_stdout(io.StringIO()):
        try:
            return script.main(list(kind.options))
        except SystemExit as stop:
            return stop.code


def serve(sound: Path, seed: int) -> None:
    """Read names and indices of inputs from stdin, a line each; write what became of each to stdout."""
    os.environ.update(main_script.ENVIRONMENT)
    stop_before_training()
    with tempfile.TemporaryDirectory() as folder, os.fdopen(os.dup(1), "w", 1) as replies:
        for line in sys.stdin:
            os.ftruncate(2, 0)
            with contextlib.suppress(OSError):  # only Linux can reset the peak of the memory
                Path("/proc/self/clear_refs").write_text("5")
            began = time.perf_counter()
            try:
                status = attempt(*json.loads(line), seed, sound, Path(folder) / "work")
            except BaseException:
                traceback.print_exc()
                status = 1
            sys.stderr.flush()
            seconds, memory = time.perf_counter() - began, Path("/proc/self/status")
            peak = re.search(r"VmHWM:\s+(\d+)", memory.read_text()) if memory.exists() else None
            print(json.dumps([status, seconds, int(peak[1]) // 1024 if peak else 0]), file=replies, flush=True)


class Server:
    """A process that serves inputs, and is replaced when it dies or has served enough."""

    def __init__(self, sound: Path, seed: int, errors: Path):
        self._command = [sys.executable, __file__, "--serve", str(sound), "--seed", str(seed)]
        self._errors, self._process, self._served = errors, None, 0

    def ask(self, name: str, index: int) -> tuple[str, float, int, str]:
        """Return what became of an input, its seconds and megabytes, and what was printed on stderr."""
        if self._process is None or self._served >= FRESH:
            self.close()
            with self._errors.open("a") as errors:
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
                self._process, self._served = subprocess.Popen(self._command, text=True, **pipes), 0
        first, self._served = self._served == 0, self._served + 1
        print(json.dumps([name, index]), file=self._process.stdin, flush=True)
        limit = HANG_SECONDS + 60 * first  # the first one waits for imports
        ready, _, _ = select.select([self._process.stdout], [], [], limit)
        reply = self._process.stdout.readline() if ready else ""
        printed = self._errors.read_text(errors="replace")
        if not reply:
            status = self._process.poll() if ready else "hang"
            self.close()
            return ("hang" if status == "hang" else "abort"), HANG_SECONDS, 0, printed
        status, seconds, megabytes = json.loads(reply)
        if status not in (0, 2) or "Traceback" in printed:
            return "traceback", seconds, megabytes, printed
        accepted = status == 0 or printed.strip().endswith(": accepted")
        return "accepted" if accepted else "refused", seconds, megabytes, printed

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def fuzz(names: list[str], indices: range, seed: int, folder: Path) -> bool:
    """Try the inputs of these kinds; print the table and what did harm. Return whether none did."""
    server, harm = Server(folder / "sound", seed, folder / "errors.txt"), []
    columns = ("refused", "accepted", "traceback", "abort", "hang")
    print(f"{'kind':24}{''.join(f'{column:>10}' for column in columns)}{'slowest':>10}{'memory':>10}")
    for name in names:
        counts, slowest, largest = dict.fromkeys(columns, 0), 0.0, 0
        for index in indices:
            outcome, seconds, megabytes, printed = server.ask(name, index)
            counts[outcome] += 1
            slowest = max(slowest, seconds if index > indices[0] else 0)
            largest = max(largest, megabytes)
            if outcome not in columns[:2]:
                harm.append(f"{name}:{index} {outcome}: {(printed.strip() or 'nothing').splitlines()[-1][:160]}")
        cells = "".join(f"{counts[column]:10}" for column in columns)
        print(f"{name:24}{cells}{slowest:8.1f} s{largest:7} MB", flush=True)
    server.close()
    print(*harm or ["No harm was done."], sep="\n")
    return not harm


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=2000, help="of all kinds together, at least")
    parser.add_argument("--seed", type=int, default=0, help="of the generator")
    parser.add_argument("--only", metavar="KIND[:INDEX]", help="a single kind, or a single input")
    parser.add_argument("--keep", action="store_true", help="leave the last input's files in fuzz/")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> int:
    args = parse_args()
    if args.serve:
        serve(args.serve, args.seed)
        return 0
    name, _, index = (args.only or "").partition(":")
    names = [name] if name else list(KINDS)
    indices = range(int(index), int(index) + 1) if index else range(-(-args.inputs // len(names)))
    with tempfile.TemporaryDirectory() as folder:
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import fuzz, pathlib; "
        subprocess.run(
            [sys.executable, "-c", f"{code}fuzz.make_sound(pathlib.Path({folder!r}) / 'sound')"],
            check=True,
            capture_output=True,
        )
        harmless = fuzz(names, indices, args.seed, Path(folder))
        if args.keep:
            FUZZ.mkdir(exist_ok=True)
            attempt(names[-1], indices[-1], args.seed, Path(folder) / "sound", FUZZ / "work")
    return 0 if harmless else 1


if __name__ == "__main__":
    sys.exit(main())
