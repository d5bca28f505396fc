"""What every epoch of a training trains on, by its options."""

from dataclasses import replace

import numpy as np
import pytest

from training.options import TrainingOptions, complete
from training.schedule import augmentation_strength, history_columns, learning_rate, phases


def planned(**options):
    """First epoch, end, image size, round and fine-tuning of each phase."""
    found = phases(complete(TrainingOptions(**options)))
    return [(phase.first, phase.end, phase.image_size, phase.round, phase.fine_tuning) for phase in found]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {},  # 68 epochs
            [(0, 15, 36, 0, False), (15, 23, 48, 0, False), (23, 43, 48, 1, False), (43, 45, 48, 1, True),
             (45, 66, 48, 2, False), (66, 68, 48, 2, True)],
        ),
        ({"epochs": 12}, [(0, 2, 36, 0, False), (2, 4, 48, 0, False), (4, 8, 48, 1, False), (8, 12, 48, 2, False)]),
        (
            {"epochs": 9, "self_distillation_rounds": 1, "small_image_epochs": 0, "fine_tuning_epochs": 1},
            [(0, 3, 48, 0, False), (3, 8, 48, 1, False), (8, 9, 48, 1, True)],
        ),
        ({"epochs": 2}, [(0, 1, 48, 0, False), (1, 2, 48, 1, False)]),
        ({"epochs": 1}, [(0, 1, 48, 0, False)]),
        ({"epochs": 6, "teacher": ("a.keras",)}, [(0, 2, 36, 0, False), (2, 6, 48, 0, False)]),
        (
            {"epochs": 6, "init_from": ("a.keras",), "fine_tuning_epochs": 2},
            [(0, 4, 48, 0, False), (4, 6, 48, 0, True)],
        ),
        ({"epochs": 30, "arch": "cnn"}, [(0, 30, 48, 0, False)]),
        ({"epochs": 30, "schedule": "plateau"}, [(0, 30, 48, 0, False)]),
    ],
)  # fmt: skip
def test_phases_follow_from_the_options(options, expected):
    assert planned(**options) == expected


def test_each_phase_has_its_own_hyperparameters():
    options = complete(TrainingOptions(epochs=8, fine_tuning_epochs=1, mixup=0.2, learning_rate=0.01, augmentation=0.8))
    small, full, distilled, tuned, *_ = phases(options)
    assert (small.weight_decay, small.label_smoothing, small.mixup, small.learning_rate) == (0.02, 0.1, 0.2, 0.01)
    assert small.cycle == full.cycle == (0, 3)  # one cosine for both image sizes
    for phase in (distilled, tuned):
        assert (phase.weight_decay, phase.label_smoothing) == (0.1, 0)
    assert (distilled.mixup, tuned.mixup) == (0.4, 0)
    assert (distilled.learning_rate, tuned.learning_rate) == (0.0075, 0.0015)
    strengths = [augmentation_strength(epoch, options) for epoch in range(8)]
    assert np.allclose(strengths, [0.8, 0.8, 0.8, 0.8, 0, 0.8, 0.24, 0])


def test_soft_labels_of_a_teacher_are_not_smoothed():
    taught = phases(complete(TrainingOptions(teacher=("a.keras",))))
    assert {phase.label_smoothing for phase in taught} == {0}


def test_the_cosine_schedule_warms_up_and_falls_to_nearly_nothing():
    def rates_of(epochs):
        plain = {"self_distillation_rounds": 0, "small_image_epochs": 0, "fine_tuning_epochs": 0, "learning_rate": 1.0}
        return [learning_rate(epoch, complete(TrainingOptions(epochs=epochs, **plain))) for epoch in range(epochs)]

    rates = rates_of(50)
    assert np.allclose(rates[:5], np.arange(1, 6) / 6)
    assert (np.diff(rates[5:]) < 0).all()
    assert max(rates) > 0.99
    assert rates[-1] < 0.001
    assert rates_of(1)[0] > 0


def test_augmentation_fades_to_half_with_a_teacher_and_to_three_tenths_in_a_round():
    teacher = complete(TrainingOptions(epochs=9, teacher=("a.keras",)))
    assert [augmentation_strength(epoch, teacher) for epoch in (0, 8)] == pytest.approx([1, 0.5])
    rounds = complete(TrainingOptions())
    assert [augmentation_strength(epoch, rounds) for epoch in (22, 23, 42, 43)] == pytest.approx([1, 1, 0.3, 0])


def test_every_round_has_a_cosine_of_its_own():
    options = complete(TrainingOptions(epochs=8, fine_tuning_epochs=1, learning_rate=1.0))
    rates = [learning_rate(epoch, options) for epoch in range(8)]
    assert rates[0] > rates[1] > rates[2]
    assert np.allclose(rates[3:], [0.375, 0.075, 0.75 * 0.8535534, 0.75 * 0.1464466, 0.075])
    assert learning_rate(8, options) == pytest.approx(0.0, abs=0.08)  # batches are made in advance


def test_the_history_notes_the_phase_of_every_epoch():
    options = complete(TrainingOptions(epochs=8, fine_tuning_epochs=1))
    columns = [history_columns(epoch, options) for epoch in range(8)]
    assert [row["image_size"] for row in columns] == [36, 36, 48, 48, 48, 48, 48, 48]
    assert [row["self_distillation"] for row in columns] == [0, 0, 0, 1, 0, 1, 1, 0]
    assert [row["fine_tuning"] for row in columns] == [0, 0, 0, 0, 1, 0, 0, 1]
    assert [row["distilled"] for row in columns] == [0, 0, 0, 1, 1, 1, 1, 1]
    taught = complete(replace(options, teacher=("a.keras",), self_distillation_rounds=0))
    assert history_columns(0, taught)["distilled"] == 1
