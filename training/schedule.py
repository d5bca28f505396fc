"""What every epoch trains on: its phase, learning rate and augmentation strength.

A training has phases, in this order: small images (progressive resizing), full-size ones, then rounds of
self-distillation, in which the network also learns from its own earlier predictions (born-again networks, Furlanello
et al. 2018). Fine-tuning epochs without augmentation end every round, or a training without rounds.
"""

import math
from dataclasses import dataclass, replace

IMAGE_SIZE, SMALL_IMAGE_SIZE = 48, 36  # pixels; model.IMAGE_SIZE, without its imports
ROUNDS = 2
PATIENCE = 10  # epochs without a better validation loss until --schedule plateau stops
SOFT_LABEL_WEIGHT = 0.6  # of the network's own predictions, beside the labels
SELF_DISTILLATION = {"weight_decay": 0.1, "label_smoothing": 0.0, "mixup": 0.4}
SELF_DISTILLATION_RATE = 0.75  # times --learning-rate
SELF_DISTILLATION_AUGMENTATION = 0.3  # times --augmentation, reached at the end of a round
TEACHER_AUGMENTATION = 0.5  # times --augmentation, reached at the end of a training with a --teacher
FINE_TUNING_SLOWDOWN = 5  # the rate of the phase before is divided by this


@dataclass(frozen=True)
class Phase:
    """Epochs `first` to before `end`, counted from 0, and what holds in them."""

    first: int
    end: int
    cycle: tuple[int, int]  # the first epoch of the cosine, and the one after its last: two phases may share one
    learning_rate: float  # the highest
    augmentation: tuple[float, float]  # strength in the first and last epoch of the cycle
    mixup: float
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    image_size: int = IMAGE_SIZE
    round: int = 0  # of self-distillation, counted from 1; 0 outside
    fine_tuning: bool = False

    @property
    def self_distillation(self) -> bool:
        """Whether these are epochs of a round before its fine-tuning."""
        return self.round > 0 and not self.fine_tuning


def self_distillation_epochs(options) -> int:
    """Return the epochs of all rounds without their fine-tuning, with which they are two thirds of the training."""
    rounds = options.self_distillation_rounds
    return options.epochs * 2 // 3 - rounds * options.fine_tuning_epochs if rounds else 0


def first_epochs(options) -> int:
    """Return how many epochs come before self-distillation, or before the fine-tuning of a training without it."""
    fine_tuning = options.fine_tuning_epochs * max(options.self_distillation_rounds, 1)
    return options.epochs - self_distillation_epochs(options) - fine_tuning


def phases(options) -> list[Phase]:
    """Return the phases of complete `TrainingOptions` in their order."""
    full, strength, rounds = first_epochs(options), options.augmentation, options.self_distillation_rounds
    phase = Phase(0, full, (0, full), options.learning_rate, (strength, strength), options.mixup)
    if options.teacher:  # soft labels need no smoothing, and less augmentation in the end
        phase = replace(phase, label_smoothing=0.0, augmentation=(strength, strength * TEACHER_AUGMENTATION))
    small = replace(phase, end=options.small_image_epochs, image_size=SMALL_IMAGE_SIZE)
    planned = [small, replace(phase, first=small.end)]
    for number in range(1, max(rounds, 1) + 1):
        if rounds:
            first, tuned = planned[-1].end, options.fine_tuning_epochs * (number - 1)
            end = full + self_distillation_epochs(options) * number // rounds + tuned
            rate, last = options.learning_rate * SELF_DISTILLATION_RATE, strength * SELF_DISTILLATION_AUGMENTATION
            phase = Phase(first, end, (first, end), rate, (strength, last), **SELF_DISTILLATION, round=number)
            planned.append(phase)
        first, end = phase.end, phase.end + options.fine_tuning_epochs
        rate = phase.learning_rate / FINE_TUNING_SLOWDOWN
        phase = replace(phase, first=first, end=end, cycle=(first, end), learning_rate=rate, augmentation=(0.0, 0.0))
        planned.append(replace(phase, mixup=0.0, fine_tuning=True))
    return [phase for phase in planned if phase.first < phase.end]


def phase_at(epoch: int, options) -> Phase:
    """Return the phase of an epoch; after the last epoch, of which batches are made in advance, the last one."""
    planned = phases(options)
    return next((phase for phase in planned if epoch < phase.end), planned[-1])


def learning_rate(epoch: int, options) -> float:
    """Return an epoch's rate: rising over a tenth of its cycle (Goyal et al. 2017), then half a cosine to almost 0."""
    phase = phase_at(epoch, options)
    first, end = phase.cycle
    done, warm_up = epoch - first, (end - first) // 10
    if done < warm_up:
        return phase.learning_rate * (done + 1) / (warm_up + 1)
    return phase.learning_rate * (1 + math.cos(math.pi * (done - warm_up + 0.5) / (end - first - warm_up))) / 2


def augmentation_strength(epoch: int, options) -> float:
    """Return how strong the augmentation is in an epoch, 0..1, changing evenly over a cycle."""
    phase = phase_at(epoch, options)
    (first, end), (start, last) = phase.cycle, phase.augmentation
    return start + (last - start) * (epoch - first) / max(end - first - 1, 1)


def history_columns(epoch: int, options) -> dict:
    """Return what the history notes of an epoch beside its scores."""
    phase = phase_at(epoch, options)
    return {
        "image_size": phase.image_size,
        "augmentation": augmentation_strength(epoch, options),
        "self_distillation": int(phase.self_distillation),
        "fine_tuning": int(phase.fine_tuning),
        "distilled": int(bool(phase.round or options.teacher)),
    }
