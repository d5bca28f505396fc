"""Time a training step and what feeds it, on made faces: python benchmarks/training.py

Prints images a second of the bare step (one batch again and again), of the batches alone (order, augmentation), and of
both together as train.py runs them, with the arithmetic rate reached.
"""

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=64, help="faces a step (default: 64)")
    parser.add_argument("--steps", type=int, default=60, help="steps to time, after 10 to warm up (default: 60)")
    return parser.parse_args(argv)


def seconds_each(action, count: int) -> float:
    """Return the median seconds of an action over `count` calls."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def fit_seconds(model, batches, steps: int) -> float:
    """Return the median seconds of a step inside `fit`, the first ten left out."""
    import keras

    stamps = []
    stamp = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: stamps.append(time.perf_counter()))
    model.fit(batches, steps_per_epoch=steps + 10, verbose=0, shuffle=False, callbacks=[stamp])
    return statistics.median(b - a for a, b in itertools.pairwise(stamps[9:]))


def main(argv=None) -> int:
    args = parse_args(argv)

    import numpy as np

    from data import Augmentation, Split, make_batches
    from model import build_model, count_multiply_adds, import_keras

    keras = import_keras()
    generator = np.random.default_rng(0)
    count = args.batch_size * 20
    faces = generator.integers(0, 256, (count, 48, 48, 1), dtype=np.uint8)
    split = Split(faces, generator.integers(0, 7, count).astype(np.uint8))
    model = build_model()
    model.compile(optimizer=keras.optimizers.Adam(), loss="categorical_crossentropy", metrics=["accuracy"])

    batches = make_batches(split, args.batch_size, 0, Augmentation())
    bare = fit_seconds(model, (batch for batch in itertools.repeat(next(batches))), args.steps)
    alone = seconds_each(lambda: next(batches), args.steps)
    together = fit_seconds(model, batches, args.steps)
    operations = 6 * count_multiply_adds(model) * args.batch_size  # forward, and twice as much backward
    for name, seconds in (("bare step", bare), ("batches alone", alone), ("train.py", together)):
        print(f"{name:14} {args.batch_size / seconds:8.0f} images a second, {1000 * seconds:6.1f} ms a batch")
    print(f"The batches take {alone / bare:.1%} of a step; train.py reaches {bare / together:.1%} of the bare step.")
    print(f"{operations / together / 1e9:.0f} GFLOPS")
    return 0


if __name__ == "__main__":
    sys.exit(main())
