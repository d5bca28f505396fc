"""Time a training step and what feeds it, on made faces: python benchmarks/training.py

Prints images a second of the bare step (one batch again and again), of `fit` as train.py calls it, and of the same
network fed by a generator that changes one image after the other in Python, with the arithmetic rate reached. The
three take turns, and the medians of all turns are compared: a machine is rarely as fast in one minute as in the next.
"""

import argparse
import itertools
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--arch", choices=("resnet-equivariant", "resnet", "cnn"), default="resnet-equivariant",
        help="the network (default: resnet-equivariant)",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, help="faces a step (default: that of train.py)")
    either = argparse.BooleanOptionalAction
    parser.add_argument("--mixed-precision", action=either, help="train in bfloat16 (default: as train.py would here)")
    parser.add_argument("--steps", type=int, default=25, help="steps to time in a turn (default: 25)")
    parser.add_argument("--turns", type=int, default=4, help="turns of each (default: 4)")
    return parser.parse_args(argv)


def bare_seconds(model, batch, steps: int) -> list[float]:
    """Return the seconds of each training step on one batch, fit's loop and data left out."""
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        model.train_on_batch(*batch)
        times.append(time.perf_counter() - start)
    return times


def fit_seconds(model, batches, steps: int) -> list[float]:
    """Return the seconds of each step inside `fit`, the first three left out."""
    import keras

    stamps = []
    stamp = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: stamps.append(time.perf_counter()))
    model.fit(batches, steps_per_epoch=steps + 3, verbose=0, shuffle=False, callbacks=[stamp])
    return [b - a for a, b in itertools.pairwise(stamps[2:])]


def image_by_image(split, batch_size: int, generator):
    """Yield batches as many tutorials make them: one image after the other turned, zoomed, moved and mirrored."""
    import cv2
    import numpy as np

    from data import one_hot

    while True:
        rows = generator.integers(0, len(split), batch_size)
        faces = []
        for face in split.faces[rows]:
            turn = cv2.getRotationMatrix2D((23.5, 23.5), generator.uniform(-30, 30), generator.uniform(0.8, 1.2))
            turn[:, 2] += generator.uniform(-4.8, 4.8, 2)
            face = cv2.warpAffine(face[..., 0].astype(np.float32), turn, (48, 48), borderMode=cv2.BORDER_REPLICATE)
            faces.append(face[:, ::-1] if generator.random() < 0.5 else face)
        yield np.stack(faces)[..., None], one_hot(split.labels[rows])


def main(argv=None) -> int:
    args = parse_args(argv)
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as train.py does

    import numpy as np

    from data import BatchSettings, Split, make_batches
    from model import count_multiply_adds, import_keras

    import_keras()
    from training.loop import compiled_model, prefers_bfloat16
    from training.options import TrainingOptions, complete
    from training.schedule import phases

    mixed_precision = prefers_bfloat16() if args.mixed_precision is None else args.mixed_precision
    options = complete(TrainingOptions(arch=args.arch, batch_size=args.batch_size, mixed_precision=mixed_precision))
    batch_size = options.batch_size
    generator = np.random.default_rng(0)
    count = batch_size * 20
    faces = generator.integers(0, 256, (count, 48, 48, 1), dtype=np.uint8)
    split = Split(faces, generator.integers(0, 7, count).astype(np.uint8))
    model = compiled_model(options, phases(options)[-1])

    batches = make_batches(split, BatchSettings(batch_size=batch_size))
    batch = next(batches)
    single = image_by_image(split, batch_size, generator)
    bare_seconds(model, batch, 5)  # traces and warms up
    times = {"bare step": [], "train.py": [], "image by image": []}
    for _ in range(args.turns):
        times["bare step"] += bare_seconds(model, batch, args.steps)
        times["train.py"] += fit_seconds(model, batches, args.steps)
        times["image by image"] += fit_seconds(model, single, args.steps)
    alone = {"train.py": batches, "image by image": single}
    operations = 6 * count_multiply_adds(model) * batch_size  # forward, and twice as much backward
    bare = statistics.median(times["bare step"])
    print(f"{args.arch} in {'bfloat16' if options.mixed_precision else 'float32'}, {batch_size} faces a step")
    for name, all_seconds in times.items():
        seconds = statistics.median(all_seconds)
        print(f"{name:15} {batch_size / seconds:6.0f} images a second, {1000 * seconds:5.0f} ms a step", end="")
        print(f", {operations / seconds / 1e9:4.0f} GFLOPS, {bare / seconds:4.0%} of the bare step's rate")
    for name, source in alone.items():
        start = time.perf_counter()
        for _ in range(args.steps):
            next(source)
        seconds = (time.perf_counter() - start) / args.steps
        print(f"A batch of {name!r} takes {1000 * seconds:.1f} ms to make, {seconds / bare:.1%} of a bare step.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
