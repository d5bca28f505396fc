"""The stages of a training: which epochs see small faces, which the network teaches itself, which are plain.

And what follows from it for an epoch: its options, its learning rate, how far a face is changed.
"""

import argparse
import math

SMALL_SIZE = 36  # pixels of the faces in the first epochs
# The options of the epochs in which the network teaches itself, and of the plain ones after them.
SELF_TAUGHT = {
    "teacher_weight": 0.6, "mixup": 0.4, "augmentation": (1.0, 0.3), "learning_rate": 1.5e-3, "weight_decay": 0.05,
    "label_smoothing": 0.0,
}  # fmt: skip


def choose_stages(args) -> None:
    """Give the stages of the training, where they were not chosen, the epochs that fit the others."""
    staged = args.arch != "cnn" and args.schedule == "cosine"
    if args.self_taught_epochs is None:
        args.self_taught_epochs = args.epochs // 2 if staged and not (args.start or args.teacher) else 0
    if args.plain_epochs is None:
        args.plain_epochs = args.epochs // 30 if args.self_taught_epochs else 0
    if args.small_epochs is None:
        args.small_epochs = max(args.epochs - args.self_taught_epochs - args.plain_epochs, 0) // 2 if staged else 0


def stage_ends(args) -> tuple[int, int, int, int]:
    """Return the epochs in which the stages end: on small faces, on whole ones, taught by itself, on plain faces."""
    plain = args.epochs - args.plain_epochs
    return args.small_epochs, plain - args.self_taught_epochs, plain, args.epochs


def options_of(epoch: int, args) -> argparse.Namespace:
    """Return the options that hold in an epoch: `args`, or SELF_TAUGHT's from where the network teaches itself."""
    alone = stage_ends(args)[1]
    return argparse.Namespace(**vars(args) | SELF_TAUGHT) if args.self_taught_epochs and epoch >= alone else args


def stage_of(epoch: int, args) -> tuple[int, int]:
    """Return the first epoch of an epoch's stage and that after its last; small faces and whole ones are one here."""
    _, *ends = stage_ends(args)
    return max(end for end in (0, *ends) if end <= epoch), min(end for end in ends if end > epoch)


def learning_rate(epoch: int, args) -> float:
    """Return an epoch's rate: a cosine, one where the network teaches itself, one a fifth as high for plain epochs."""
    _, _, plain, _ = stage_ends(args)
    start, end = stage_of(epoch, args)
    highest = options_of(epoch, args).learning_rate
    return cosine_rate(epoch - start, end - start, highest if epoch < plain else highest / 5)


def cosine_rate(epoch: int, epochs: int, highest: float) -> float:
    """Return an epoch's learning rate: rising over the first tenth, then half a cosine down towards 0.

    Warm-up: Goyal et al. 2017; cosine: Loshchilov & Hutter 2016.
    """
    warm_up = epochs // 10
    if epoch < warm_up:
        return highest * (epoch + 1) / (warm_up + 1)
    return highest * (1 + math.cos(math.pi * (epoch - warm_up + 0.5) / (epochs - warm_up))) / 2


def augmentation_share(epoch: int, args) -> float:
    """Return how far the changes to a face go in an epoch, 0..1: in a stage evenly from first to last, plain none."""
    _, _, plain, _ = stage_ends(args)
    if args.no_augmentation or epoch >= plain:
        return 0.0
    start, end = stage_of(epoch, args)
    first, last = options_of(epoch, args).augmentation
    return first + (last - first) * (epoch - start) / max(end - start - 1, 1)
