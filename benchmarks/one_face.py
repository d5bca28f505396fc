"""Milliseconds for one face on one core: LiteRT as main.py calls it, Keras, and other files of train.py --export.

python benchmarks/one_face.py [MODEL ...]
"""

import argparse
import itertools
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from model import BEST_MODEL, UserError, load_classifier

MODELS = [BEST_MODEL.with_suffix(suffix) for suffix in (".tflite", ".keras")]


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL", default=MODELS, help=".keras or .tflite")
    parser.add_argument("--faces", type=int, default=300, help="calls in each repeat")
    parser.add_argument("--repeats", type=int, default=5, help="rounds with a turn for each model")
    return parser.parse_args(argv)


def use_one_core():
    """Bind this process, and every thread it will start, to one core if the system supports that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    else:
        print("This system cannot bind a process to one core: Keras may use all of them.")


def time_calls(classifier, faces):
    """Return the milliseconds of each call with one of the faces uint8 (n, 48, 48, 1)."""
    stamps = [time.perf_counter()]
    for i in range(len(faces)):
        classifier.probabilities(faces[i : i + 1])
        stamps.append(time.perf_counter())
    return [1000 * (end - start) for start, end in itertools.pairwise(stamps)]


def main(argv=None) -> int:
    args = parse_args(argv)
    use_one_core()
    try:
        classifiers = {path: load_classifier(path) for path in args.models}
    except UserError as error:
        sys.exit(f"one_face.py: {error}")
    faces = np.random.default_rng(0).integers(0, 256, (args.faces, 48, 48, 1), dtype=np.uint8)
    times = {path: [] for path in classifiers}
    for classifier in classifiers.values():
        time_calls(classifier, faces[:20])  # the first calls are slow
    for _ in range(args.repeats):  # in turns, so that other load on the machine affects all of them
        for path, classifier in classifiers.items():
            times[path].append(time_calls(classifier, faces))
    print(f"{'ms a face, one core':28}  median   95 %   median of the repeats, from .. to")
    for path, repeats in times.items():
        medians = np.median(repeats, axis=1)
        median, tail = np.percentile(repeats, [50, 95])
        print(f"{path.name:28} {median:7.2f} {tail:6.2f}   {medians.min():.2f} .. {medians.max():.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
