"""A training's history -> what its curves show, in sentences.

A history has a row per epoch and the columns of Keras's CSVLogger (epochs count from 0, accuracies 0..1, losses in
nats), and where they are known `image_size`, `augmentation` (its strength, 0..1), `self_distillation`, `fine_tuning`
and `distilled` (0 or 1). With two outputs, `accuracy` and `val_accuracy` are the means of both, and
`val_fer2013_accuracy` and `val_ferplus_accuracy` are there too.
"""

import pandas as pd

from model import EMOTIONS

CHANCE = 1 / len(EMOTIONS)  # accuracy of guessing


def flag(history: pd.DataFrame, name: str) -> pd.Series:
    """Return a column of 0 and 1 as bool (epochs,), False throughout where it is absent."""
    return history.get(name, pd.Series(0, history.index)) > 0


def last_phase(history: pd.DataFrame) -> pd.DataFrame:
    """Return the rows from the last change of image size or the last start of fine-tuning on.

    Self-distillation starts no phase: its epochs compete with those before them.
    """
    phase = history[history.columns.intersection(["image_size", "fine_tuning"])]
    starts = (phase != phase.shift()).any(axis=1) & ~flag(history, "self_distillation")
    number = starts.cumsum()
    return history[number == number.iloc[-1]]


def best_epoch(history: pd.DataFrame) -> int:
    """Return the row of the last phase's highest validation accuracy, the first of equal ones."""
    return int(last_phase(history)["val_accuracy"].idxmax())


def describe(history: pd.DataFrame, chance: float = CHANCE) -> list[str]:
    """Return what the curves show, a sentence each; `chance` is the validation accuracy that needs no learning."""
    best, phase = history.loc[best_epoch(history)], last_phase(history)
    first = (
        f"Best epoch: {best['epoch'] + 1:.0f} of {len(history)}, validation accuracy {best['val_accuracy']:.1%} (loss "
        f"{best['val_loss']:.3f}), training accuracy {best['accuracy']:.1%} (loss {best['loss']:.3f})."
    )
    if history["val_accuracy"].max() <= chance:
        nothing = f"Nothing was learnt: the validation accuracy is not above chance, {chance:.1%} for these faces."
        return [first, nothing]
    trend = [_trend(phase)] if len(phase) >= min(len(history), 6) else []  # fewer epochs show none
    return [first, _gap(best), *trend, *_overfitting(phase)]


def _gap(best: pd.Series) -> str:
    gap = best["accuracy"] - best["val_accuracy"]
    if best.get("distilled", 0):
        faces = "on augmented faces, " if best.get("augmentation", 1) else ""
        return (
            f"Training accuracy is measured {faces}against labels blended with predictions, so its distance from "
            "validation says nothing about overfitting; best_model.json has the final network's accuracy on unchanged "
            "training faces."
        )
    if gap < 0:
        return (
            f"Validation stands {-gap * 100:.1f} points above training: training accuracy is measured "
            f"{'on augmented faces, ' if best.get('augmentation', 1) else ''}with dropout and while the weights still "
            "change, validation accuracy on unchanged faces with the whole network."
        )
    kind = "little overfitting" if gap < 0.05 else "overfitting" if gap > 0.12 else "some overfitting"
    return f"Training stands {gap * 100:.1f} points above validation at the best epoch: {kind}."


def _trend(phase: pd.DataFrame) -> str:
    span = min(5, len(phase) - 1)
    if span < 1:
        return "One epoch shows no trend."
    gain = phase["val_accuracy"].cummax().diff(span).iloc[-1]
    state = "still improving, more epochs may help" if gain > 0.005 else "converged"
    return f"The best validation accuracy rose by {gain * 100:.1f} points over the last {span} epochs: {state}."


def _overfitting(phase: pd.DataFrame) -> list[str]:
    last, lowest = phase.iloc[-1], phase.loc[phase["val_loss"].idxmin()]
    rise = last["val_loss"] - lowest["val_loss"]
    if rise <= 0.02 or last["loss"] >= min(lowest["loss"], last["val_loss"]):
        return []
    text = f"After epoch {lowest['epoch'] + 1:.0f} the validation loss rose by {rise:.3f} while the training loss fell"
    return [f"{text} below it: the network overfitted."]
