"""Scores and arrays -> figures: functions that write one PNG each, in one style, at the width of a README.

Drawn with matplotlib's Figure instead of pyplot, which needs no window system and leaves nothing open.
"""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from evaluation.history import CHANCE, best_epoch, flag
from evaluation.metrics import by_labels, expected_calibration_error, reliability
from model import EMOTIONS

# Okabe and Ito's colours, which colour-blind readers can tell apart (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"
GRAY, LIGHT = "#595959", "#DDDDDD"
WIDTH, DPI = 8.3, 150  # inches, dots per inch: text has its nominal size where a README shows 830 pixels
STYLE = {
    "font.size": 10, "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": GRAY, "axes.axisbelow": True, "axes.grid.axis": "y",
    "grid.color": LIGHT, "legend.frameon": False, "legend.fontsize": 9, "figure.facecolor": "white",
}  # fmt: skip
styled = matplotlib.rc_context(STYLE)  # a decorator: matplotlib's global settings stay as they were


def new_figure(height: float, rows: int = 1, columns: int = 1, **kwargs):
    """Return a figure of README width, `height` inches high, and its axes."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, **kwargs)


def show_image(axis, image: np.ndarray, caption: str = "", **kwargs) -> None:
    """Show an image (h, w) or (h, w, 1), by default gray 0..255, with its caption above."""
    axis.imshow(image.squeeze(), **{"cmap": "gray", "vmin": 0, "vmax": 255} | kwargs)
    axis.set_axis_off()
    axis.set_title(caption, fontsize=8.5, loc="center")


# --- training ---------------------------------------------------------------------------------------------------


def phase_changes(history: pd.DataFrame) -> list[tuple[float, str]]:
    """Return where (between two epochs, counted from 1) a new image size, self-distillation or fine-tuning starts."""
    sizes, before = history.get("image_size", pd.Series(0, history.index)), history["epoch"] + 0.5
    changes = [(place, f"{sizes.max()} px") for place in before[sizes.diff() > 0]]
    for name in ("self_distillation", "fine_tuning"):
        starts = flag(history, name).astype(int).diff() > 0
        changes += [(place, name.replace("_", "-")) for place in before[starts]]
    return changes


@styled
def draw_curves(history: pd.DataFrame, path: Path) -> None:
    """Draw accuracy and loss against epochs for training and validation; see `evaluation.history` for the columns."""
    figure, axes = new_figure(3.6, 1, 2)
    epochs = history["epoch"] + 1
    best = best_epoch(history)
    drops = epochs[history["learning_rate"].diff() < 0] - 0.5
    drops = drops if len(drops) < len(epochs) / 4 else ()  # else a schedule changes it in every epoch
    augmented = "augmented, dropout" if history.get("augmentation", pd.Series([1])).any() else "dropout"
    measured = f"{augmented}, soft labels" if flag(history, "distilled").any() else augmented
    mean, added = (", mean of both outputs", ", both outputs added") if "val_ferplus_loss" in history else ("", "")
    for axis, name in zip(axes, ("accuracy", "loss"), strict=True):
        for drop in drops:
            axis.axvline(drop, color=GRAY, linewidth=0.6, linestyle=":")
        for place, _ in phase_changes(history):
            axis.axvline(place, color=GRAY, linewidth=0.8)
        marker = "o" if len(epochs) == 1 else ""
        axis.plot(epochs, history[name], color=BLUE, linestyle="--", marker=marker, label=f"training ({measured})")
        axis.plot(epochs, history["val_" + name], color=ORANGE, label=f"validation{mean}")
        axis.plot(epochs[best], history["val_" + name][best], "o", color=ORANGE, label="best epoch")
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axis.set(xlabel="epoch", xlim=(0.5, len(epochs) + 0.5))
        axis.grid(True)
    for name, style in (("fer2013", ":"), ("ferplus", "-.")):  # of a network with two outputs
        if f"val_{name}_accuracy" in history:
            axes[0].plot(epochs, history[f"val_{name}_accuracy"], style, color=ORANGE, label=f"validation, {name}")
    axes[0].plot(epochs, 0 * epochs + CHANCE, color=GREEN, linewidth=0.8, label="chance (1 in 7)")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    axes[0].set_title(f"accuracy, best {history['val_accuracy'][best]:.2%} in epoch {epochs[best]} of {len(epochs)}")
    drops_dotted = "; dotted: learning rate drops" if len(drops) else ""
    axes[1].set_title(f"loss (cross-entropy, nats{added}){drops_dotted}")
    for place, text in phase_changes(history):
        side = "right" if text == "fine-tuning" else "left"  # it is short, and self-distillation may follow at once
        style = {"fontsize": 8.5, "color": GRAY, "rotation": 90, "va": "top", "ha": side}
        axes[1].text(place, 0.98, text, transform=axes[1].get_xaxis_transform(), **style)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path)


# --- scores -----------------------------------------------------------------------------------------------------


@styled
def draw_confusion(matrices: dict[str, list], labels: tuple[str, str], path: Path) -> None:
    """Draw confusion matrices (7, 7) by title: each cell's share of its row, blue where both agree.

    `labels` say what rows and columns are. A single matrix has the number of faces in its cells as well.
    """
    single, diagonal = len(matrices) == 1, np.eye(len(EMOTIONS), dtype=bool)
    blue, orange = (matplotlib.colormaps[name] for name in ("Blues", "Oranges"))
    figure, axes = new_figure(5.6 if single else 4.6, 1, len(matrices), squeeze=False, sharey=True)
    for axis, (title, matrix) in zip(axes[0], matrices.items(), strict=True):
        matrix = np.array(matrix)
        support = matrix.sum(axis=1)
        shares = matrix / np.maximum(support[:, None], 1)
        axis.imshow(np.where(diagonal[..., None], blue(0.85 * shares), orange(shares)), aspect="auto")
        for (row, column), share in np.ndenumerate(shares):
            text = f"{share:.0%}\n{matrix[row, column]:,}" if single else f"{share:.0%}"
            style = {"color": "white" if share > 0.75 else "black", "fontsize": 9}
            if matrix[row, column]:
                axis.text(column, row, text, ha="center", va="center", **style)
        axis.set_xticks(range(len(EMOTIONS)), EMOTIONS, fontsize=10 if single else 8)
        axis.set(xlabel=labels[1], title=title)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    names = [f"{name}\nn = {n:,}" for name, n in zip(EMOTIONS, support, strict=True)]
    axes[0, 0].set_yticks(range(len(EMOTIONS)), names)
    axes[0, 0].set_ylabel(labels[0])
    figure.savefig(path)


@styled
def draw_reliability(predictions: dict[str, tuple], path: Path) -> None:
    """Draw accuracy against confidence, one panel for each (labels, probabilities); a dot's area shows its n."""
    figure, axes = new_figure(3.9, 1, len(predictions), squeeze=False, sharey=True)
    for axis, (title, (labels, probabilities)) in zip(axes[0], predictions.items(), strict=True):
        table, error = reliability(labels, probabilities), expected_calibration_error(labels, probabilities)
        axis.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle="--", label="confidence = accuracy")
        filled = table[table["n"] > 0]
        axis.bar(filled["low"], filled["accuracy"], width=1 / len(table), align="edge", color=SKY, edgecolor="white")
        area = 220 * filled["n"] / filled["n"].max() + 8
        style = {"color": BLUE, "clip_on": False, "label": "faces (area: how many)"}
        axis.scatter(filled["confidence"], filled["accuracy"], s=area, **style)
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence (largest probability)", title=f"{title}: ECE {error:.1%}")
        axis.grid(True)
    axes[0, 0].set_ylabel("accuracy in the bin")
    axes[0, 0].legend(loc="upper left", labelspacing=0.8)
    figure.savefig(path)


@styled
def draw_end_to_end(results: dict, names: dict[str, str], path: Path) -> None:
    """Draw the results of `robustness.measure`: share found, and accuracy on these end to end and pre-cropped.

    `names` has the text for each of the labels.
    """
    conditions, rows = list(results), np.arange(len(results))
    parts = [by_labels(result) for result in results.values()]
    figure, axes = new_figure(0.33 * len(results) + 1.2, 1, 1 + len(parts[0]), sharey=True)
    for row, result in enumerate(results.values()):
        axes[0].barh(row, result["found"], color=SKY, height=0.7)
        axes[0].text(result["found"], row, f" {result['found']:.0%}", va="center", fontsize=9)
    axes[0].set_yticks(rows, conditions)
    axes[0].invert_yaxis()
    axes[0].set(xlim=(0, 1.2), xlabel=f"share found\n(n = {results[conditions[0]]['n']:,} faces each)")
    keys = ("accuracy_found", "accuracy_pre_cropped")  # None, drawn as a gap, where no face was found
    for axis, name in zip(axes[1:], parts[0], strict=True):
        end_to_end, pre_cropped = (np.array([part[name][key] for part in parts], float) for key in keys)
        axis.hlines(rows, end_to_end, pre_cropped, color=LIGHT, linewidth=3)
        axis.plot(pre_cropped, rows, "D", color=GRAY, markersize=5, label="pre-cropped")
        axis.plot(end_to_end, rows, "o", color=ORANGE, label="end to end")
        axis.sharex(axes[1])
        axis.set(xlabel=f"accuracy on found faces,\n{names[name]}")
    axes[1].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for axis in axes:
        axis.xaxis.set_major_formatter("{x:.0%}")
        axis.grid(True, axis="x")
    figure.savefig(path)


# --- faces ------------------------------------------------------------------------------------------------------


@styled
def draw_faces(faces: np.ndarray, captions: list[str], title: str, path: Path, columns: int = 7) -> None:
    """Draw gray faces (n, h, w, 1), 0..255, in rows, each with its caption above."""
    columns = min(columns, len(faces))
    rows = -(-len(faces) // columns)
    lines = max(caption.count("\n") + 1 for caption in captions)
    height, width = np.shape(faces[0])[:2]
    side = WIDTH / max(columns, 5) * height / width
    figure, axes = new_figure(rows * (side + 0.14 * lines) + 0.3, rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, face, caption in zip(axes.flat, faces, captions, strict=False):
        show_image(axis, face, caption)
    figure.suptitle(title, fontsize=10.5)
    figure.savefig(path)


@styled
def draw_grad_cam(faces: np.ndarray, maps: np.ndarray, captions: list[str], title: str, path: Path) -> None:
    """Draw faces (n, 48, 48, 1), and below each the face with its map (48, 48), 0..1, over it."""
    figure, axes = new_figure(3.1, 2, len(faces), squeeze=False)
    for column, (face, cam, caption) in enumerate(zip(faces, maps, captions, strict=True)):
        show_image(axes[0, column], face, caption)
        show_image(axes[1, column], face)
        axes[1, column].imshow(cam, cmap="inferno", vmin=0, vmax=1, alpha=0.55)
    figure.suptitle(title, fontsize=10.5)
    figure.savefig(path)
