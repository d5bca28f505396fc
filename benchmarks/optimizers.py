"""Compare SGD, RMSprop and Adam from the same start on a part of FER-2013, and draw the picture in docs/.

    python benchmarks/optimizers.py --data PATH

Every optimizer sees the same weights at the start and the same batches. A few epochs show which one starts faster at
these rates, not which one ends higher.
"""

import argparse
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="FER-2013: .csv, .zip or folder")
    parser.add_argument("--fraction", type=float, default=0.2, help="share of the training faces")
    parser.add_argument("--epochs", type=int, default=6, help="passes over them, for each optimizer")
    parser.add_argument("--batch-size", type=int, default=64, help="faces a step")
    parser.add_argument("--seed", type=int, default=0, help="fixes weights, order and augmentation")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "optimizers.png", help="the picture")
    return parser.parse_args(argv)


def make_optimizers(keras) -> dict:
    """Return the optimizers by the name the picture gives them, each with its usual rate."""
    return {
        "SGD, Nesterov momentum 0.9, rate 0.01": keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        "RMSprop, rate 0.001": keras.optimizers.RMSprop(1e-3),
        "Adam, rate 0.001": keras.optimizers.Adam(1e-3),
    }


def train_with(optimizer, training, validation, args):
    """Return the history of a training from the seed's start: a row an epoch, the columns of Keras's CSVLogger.

    Batch normalisation is measured before every score. With its running means, of which an epoch of 90 steps leaves
    0.4 of the values from before training, the first epochs would score by how far these have come.
    """
    import keras
    import pandas as pd

    from data import BatchSettings, make_batches, one_hot
    from model import build_model
    from training.batch_norm import measure_batch_normalization

    rows = []

    def score(epoch, logs):
        measure_batch_normalization(model, training.faces)
        scores = model.evaluate(validation.faces, one_hot(validation.labels), 256, verbose=0, return_dict=True)
        rows.append({"epoch": epoch, **logs, **{f"val_{name}": value for name, value in scores.items()}})

    keras.utils.set_random_seed(args.seed)  # the same weights and the same dropout for all
    model = build_model("cnn")
    model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        make_batches(
            training, BatchSettings(batch_size=args.batch_size, seed=args.seed), targets=one_hot(training.labels)
        ),
        steps_per_epoch=-(-len(training) // args.batch_size),
        epochs=args.epochs,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=score)],
        shuffle=False,
        verbose=2,
    )
    return pd.DataFrame(rows)


def draw_optimizers(curves: dict, title: str, path: Path) -> None:
    """Draw validation accuracy and training loss against epochs, one line per optimizer's history."""
    from evaluation.figures import BLUE, GREEN, ORANGE, new_figure

    figure, axes = new_figure(3.3, 1, 2)
    for (name, history), color, marker in zip(curves.items(), (BLUE, ORANGE, GREEN), "osD", strict=False):
        for axis, column in zip(axes, ("val_accuracy", "loss"), strict=True):
            axis.plot(history["epoch"] + 1, history[column], color=color, marker=marker, markersize=4, label=name)
    for axis, ylabel in zip(axes, ("validation accuracy", "training loss (nats)"), strict=True):
        axis.set(xlabel="epoch", ylabel=ylabel)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(True)
    axes[0].legend()
    figure.suptitle(title, fontsize=10)
    figure.savefig(path)


def main(argv=None) -> int:
    args = parse_args(argv)

    from data import PUBLIC_TEST, TRAINING, DataError, load_fer2013, stratified
    from evaluation.figures import styled
    from model import import_keras

    keras = import_keras()
    try:
        dataset = load_fer2013(args.data)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    training, validation = dataset[TRAINING], dataset[PUBLIC_TEST]
    if args.fraction < 1:
        training = training[stratified(training.labels, args.fraction, args.seed)]

    histories = {}
    for name, optimizer in make_optimizers(keras).items():
        print(name)
        start = time.perf_counter()
        histories[name] = train_with(optimizer, training, validation, args)
        print(f"{time.perf_counter() - start:.0f} s")
    title = f"{len(training):,} training faces, {len(validation):,} of PublicTest, the same start, one run each"
    styled(draw_optimizers)(histories, title, args.output)

    print(
        f"\n{title}\n\n| optimizer | validation accuracy | validation loss | training loss |\n| --- | --- | --- | --- |"
    )
    for name, history in histories.items():
        last = history.iloc[-1]
        print(f"| {name} | {last['val_accuracy']:.1%} | {last['val_loss']:.3f} | {last['loss']:.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
