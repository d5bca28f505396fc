"""What is read from a training's curves, on made ones."""

import numpy as np
import pandas as pd
import pytest

from evaluation.history import best_epoch, describe, last_phase


def history(accuracy, val_accuracy, loss=None, val_loss=None, **columns):
    epochs = len(accuracy)
    down = np.linspace(2, 1, epochs)
    return pd.DataFrame({
        "epoch": np.arange(epochs), "accuracy": accuracy, "val_accuracy": val_accuracy,
        "loss": down if loss is None else loss, "val_loss": down if val_loss is None else val_loss,
        "learning_rate": [1e-3] * epochs,
    } | columns)  # fmt: skip


def described(*args, chance=1 / 7, **columns):
    return " ".join(describe(history(*args, **columns), chance))


def test_best_epoch_is_in_the_last_phase():
    """Self-distillation has to beat what came before it; another image size and fine-tuning start anew."""
    epochs = history(
        [0.9] * 6,
        [0.9, 0.5, 0.8, 0.7, 0.6, 0.65],
        image_size=[36, 48, 48, 48, 48, 48],
        self_distillation=[0, 0, 0, 1, 1, 0],
        fine_tuning=[0, 0, 1, 0, 0, 1],
    )
    assert [best_epoch(epochs[:n]) for n in range(1, 7)] == [0, 1, 2, 2, 2, 5]
    assert len(last_phase(epochs[:5])) == 3
    assert best_epoch(history([0.1] * 3, [0.2, 0.4, 0.4])) == 1


def test_rising_curves_are_still_improving():
    text = described(np.linspace(0.3, 0.5, 12), np.linspace(0.35, 0.55, 12))
    assert "Best epoch: 12 of 12" in text
    assert "5.0 points above training" in text
    assert "augmented" in text and "dropout" in text
    assert "still improving" in text
    assert "overfit" not in text


def test_flat_validation_below_training_is_overfitting():
    flat = np.minimum(np.linspace(0.3, 1.2, 12), 0.6)
    loss = np.concatenate([np.linspace(2, 1, 6), np.linspace(1.05, 1.5, 6)])
    text = described(flat + 0.2, flat, val_loss=loss)
    assert "20.0 points above validation" in text
    assert "converged" in text
    assert "After epoch 6 the validation loss rose by 0.500" in text


@pytest.mark.parametrize(("best", "chance"), [(0.12, 1 / 7), (0.249, 0.2494)])
def test_accuracy_at_chance_is_nothing_learnt(best, chance):
    text = described([0.2] * 12, [0.1] * 11 + [best], chance=chance)
    assert "Nothing was learnt" in text
    assert f"{chance:.1%}" in text
    for wrong in ("converged", "little overfitting", "improving"):
        assert wrong not in text


def test_without_augmentation_only_dropout_explains_the_gap():
    text = described([0.2], [0.3], augmentation=0)
    assert "10.0 points above training" in text and "dropout" in text and "augmented" not in text


def test_distilled_training_accuracy_is_not_compared():
    text = described([0.3] * 9, [0.2] * 9, distilled=1, fine_tuning=[0] * 7 + [1] * 2)
    assert "on augmented faces, against labels blended" in text and "points" not in text  # two epochs show no trend
    assert "augmented" not in described([0.3] * 9, [0.2] * 9, distilled=1, augmentation=0)


def test_a_single_epoch_shows_no_trend():
    assert "One epoch" in described([0.2], [0.2])
