"""Predictions -> scores; scores and training history -> figures. Pure functions, no command line."""

from pathlib import Path

import numpy as np
import pandas as pd

from model import EMOTIONS

# Okabe and Ito's colours, told apart by colour-blind readers as well (jfly.uni-koeln.de/color).
BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#666666"


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return counts (7, 7), true emotion by row and predicted by column, for two arrays of codes (n,)."""
    matrix = np.zeros((len(EMOTIONS), len(EMOTIONS)), int)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def score(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """Return accuracy, macro F1, log loss (nats) and per-class figures for codes (n,) and probabilities (n, 7).

    A class without faces has no recall (None) and stays out of the macro F1; one never predicted has precision 0.
    """
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1))
    support, predicted, correct = matrix.sum(axis=1), matrix.sum(axis=0), matrix.diagonal()
    precision = correct / np.maximum(predicted, 1)
    f1 = 2 * correct / np.maximum(support + predicted, 1)
    of_truth = np.clip(probabilities[np.arange(len(labels)), labels], 1e-7, 1)
    per_class = {
        name: {
            "precision": float(precision[i]),
            "recall": float(correct[i] / support[i]) if support[i] else None,
            "f1": float(f1[i]),
            "support": int(support[i]),
        }
        for i, name in enumerate(EMOTIONS)
    }
    return {
        "n": len(labels),
        "accuracy": float(correct.sum() / len(labels)),
        "macro_f1": float(f1[support > 0].mean()),
        "log_loss": float(-np.log(of_truth).mean()),
        "per_class": per_class,
    }


def score_table(scores: dict) -> str:
    """Return the per-class figures of `score` as text to print."""
    table = pd.DataFrame(scores["per_class"]).T.astype({"support": int})
    return table.to_string(float_format="{:.3f}".format)


def _figure(width: float, height: float, columns: int):
    from matplotlib.figure import Figure  # not pyplot: no window system, nothing to close

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, figure.subplots(1, columns)


def draw_curves(history: pd.DataFrame, path: Path) -> None:
    """Draw accuracy and loss against epochs, training and validation, best epoch and rate drops marked.

    `history` has a row an epoch and the columns of Keras's CSVLogger, epochs counted from 0.
    """
    figure, axes = _figure(10, 3.8, 2)
    epochs = history["epoch"] + 1
    best = history["val_accuracy"].idxmax()
    drops = epochs[history["learning_rate"].diff() < 0]
    for axis, name in zip(axes, ("accuracy", "loss"), strict=True):
        for epoch in drops:
            axis.axvline(epoch, color=GRAY, linewidth=0.6, linestyle=":")
        axis.plot(epochs, history[name], color=BLUE, label="training (augmented, with dropout)")
        axis.plot(epochs, history["val_" + name], color=ORANGE, label="validation")
        axis.plot(epochs[best], history["val_" + name][best], "o", color=ORANGE)
        axis.set(xlabel="epoch", ylabel=name)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_title(f"best: {history['val_accuracy'][best]:.2%} in epoch {epochs[best]}", fontsize=10)
    axes[1].set_title("dotted: the learning rate drops", fontsize=10)
    axes[0].legend(frameon=False, fontsize=9)
    figure.savefig(path)


def draw_confusion(labels: np.ndarray, probabilities: np.ndarray, title: str, path: Path) -> None:
    """Draw the confusion matrix, each row as shares of its true emotion, for codes (n,) and probabilities (n, 7)."""
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure, axis = _figure(6, 5.2, 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        color = "white" if share > 0.5 else "black"
        axis.text(column, row, f"{share:.0%}", ha="center", va="center", color=color, fontsize=9)
    axis.set_xticks(range(len(EMOTIONS)), EMOTIONS, rotation=35, ha="right")
    axis.set_yticks(
        range(len(EMOTIONS)), [f"{name} ({n})" for name, n in zip(EMOTIONS, matrix.sum(axis=1), strict=True)]
    )
    axis.set(xlabel="predicted", ylabel="true (faces)")
    axis.set_title(title, fontsize=10)
    figure.savefig(path)
