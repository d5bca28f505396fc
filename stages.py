"""The stages of a training: which epochs see small faces, which the network teaches itself, which are plain.

And what follows from it for an epoch: its options, its learning rate, how far a face is changed.
"""

import argparse
import math
from typing import NamedTuple

SMALL_SIZE = 36  # pixels of the faces in the first epochs
WHOLE_SIZE = 48  # of all others; model.IMAGE_SIZE, but --help need not wait for NumPy
ROUNDS = 2  # how often a network teaches itself, each time as the plain epochs before have left it
# Options of the epochs in which the network teaches itself, and of the plain ones after them.
SELF_TAUGHT = {
    "teacher_weight": 0.6, "mixup": 0.4, "augmentation": (1.0, 0.3), "weight_decay": 0.1, "label_smoothing": 0.0,
}  # fmt: skip
SELF_TAUGHT_RATE = 0.75  # their highest learning rate, in shares of that before


class Stage(NamedTuple):
    """Epochs, from `first` to before `end`, counted from 0, that differ from those before."""

    first: int
    end: int
    size: int = WHOLE_SIZE  # pixels of the faces
    self_taught: bool = False
    plain: bool = False


def is_staged(args) -> bool:
    """Return whether a training has stages unless told otherwise: of a resnet, whose last epoch is known."""
    return args.arch != "cnn" and args.schedule == "cosine"


def choose_stages(args) -> None:
    """Give the stages of the training, where they were not chosen, the epochs that fit the others."""
    staged = is_staged(args)
    alone = staged and not (args.start or args.teacher) if args.self_taught_epochs is None else args.self_taught_epochs
    if args.plain_epochs is None:
        args.plain_epochs = args.epochs // 30 if alone else 0
    if args.self_taught_epochs is None:  # with the plain ones, two thirds of all
        args.self_taught_epochs = max(args.epochs * 2 // 3 - ROUNDS * args.plain_epochs, 0) if alone else 0
    if args.small_epochs is None:
        args.small_epochs = max(first_epochs(args), 0) * 2 // 3 if staged and not args.start else 0


def first_epochs(args) -> int:
    """Return how many epochs come before the network teaches itself, or before the plain ones."""
    return args.epochs - args.self_taught_epochs - args.plain_epochs * rounds(args)


def rounds(args) -> int:
    """Return how often plain epochs come: at the end of every round in which the network teaches itself, or once."""
    return max(1, min(args.self_taught_epochs, ROUNDS))


def stages_of(args) -> list[Stage]:
    """Return the stages in their order: small faces, whole ones, then rounds of self-taught and of plain epochs."""
    whole = first_epochs(args)
    stages = [Stage(0, args.small_epochs, SMALL_SIZE), Stage(args.small_epochs, whole)]
    for number in range(1, rounds(args) + 1):
        end = whole + args.self_taught_epochs * number // rounds(args) + args.plain_epochs * number
        stages.append(Stage(stages[-1].end, end - args.plain_epochs, self_taught=True))
        stages.append(Stage(end - args.plain_epochs, end, plain=True))
    return [stage for stage in stages if stage.first < stage.end]


def stage_at(epoch: int, args) -> Stage:
    """Return an epoch's stage; of those after the last epoch, of which batches are read ahead, the last one."""
    stages = stages_of(args)
    return next((stage for stage in stages if epoch < stage.end), stages[-1])


def is_taught(epoch: int, args) -> bool:
    """Return whether a teacher has a share of what is learnt in an epoch."""
    return bool(args.teacher) or options_of(epoch, args) is not args


def options_of(epoch: int, args) -> argparse.Namespace:
    """Return the options that hold in an epoch: `args`, or other ones from where the network teaches itself."""
    alone = args.self_taught_epochs and epoch >= first_epochs(args)
    return argparse.Namespace(**vars(args) | self_taught_options(args)) if alone else args


def self_taught_options(args) -> dict:
    """Return the options of the epochs in which the network teaches itself that differ from those before."""
    return SELF_TAUGHT | {"learning_rate": SELF_TAUGHT_RATE * args.learning_rate}


def learning_rate(epoch: int, args) -> float:
    """Return an epoch's rate: a cosine, one in each round of teaching itself, one a fifth as high for plain epochs."""
    start, end = rate_cycle(epoch, args)
    highest = options_of(epoch, args).learning_rate
    return cosine_rate(epoch - start, end - start, highest / 5 if stage_at(epoch, args).plain else highest)


def rate_cycle(epoch: int, args) -> tuple[int, int]:
    """Return the first epoch of an epoch's cosine and that after its last: small faces and whole ones share one."""
    stage = stage_at(epoch, args)
    return (stage.first, stage.end) if stage.self_taught or stage.plain else (0, first_epochs(args))


def cosine_rate(epoch: int, epochs: int, highest: float) -> float:
    """Return an epoch's learning rate: rising over the first tenth, then half a cosine down towards 0.

    Warm-up: Goyal et al. 2017; cosine: Loshchilov & Hutter 2016.
    """
    warm_up = epochs // 10
    if epoch < warm_up:
        return highest * (epoch + 1) / (warm_up + 1)
    return highest * (1 + math.cos(math.pi * (epoch - warm_up + 0.5) / (epochs - warm_up))) / 2


def augmentation_share(epoch: int, args) -> float:
    """Return how far the changes to a face go in an epoch, 0..1: evenly over a cosine, none in plain epochs."""
    if args.no_augmentation or stage_at(epoch, args).plain:
        return 0.0
    start, end = rate_cycle(epoch, args)
    first, last = options_of(epoch, args).augmentation
    return first + (last - first) * (epoch - start) / max(end - start - 1, 1)
