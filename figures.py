"""Scores and arrays -> pictures: pure functions that write one PNG each, in one style, wide enough for a README.

Drawn with matplotlib's Figure, not pyplot: no window system is needed and nothing has to be closed.
"""

from dataclasses import fields
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from model import EMOTIONS

# Okabe and Ito's colours, told apart by colour-blind readers as well (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"
GRAY, LIGHT = "#595959", "#DDDDDD"
WIDTH, DPI = 8.3, 150  # inches and dots an inch: text is at its nominal size where a README shows 830 pixels
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRAY,
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "grid.color": LIGHT,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
}
styled = matplotlib.rc_context(STYLE)  # decorates what draws: matplotlib's settings stay as they were


def new_figure(height: float, rows: int = 1, columns: int = 1, **kwargs):
    """Return a figure of README width, `height` inches high, and its axes."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, **kwargs)


def show_image(axis, image: np.ndarray, caption: str = "", **kwargs) -> None:
    """Put a picture (h, w) or (h, w, 1), 0..255 gray unless told otherwise, on an axis, with its caption above."""
    options = {"cmap": "gray", "vmin": 0, "vmax": 255} | kwargs
    axis.imshow(image.squeeze(), **options)
    axis.set_axis_off()
    axis.set_title(caption, fontsize=8.5, loc="center")


# --- training ---------------------------------------------------------------------------------------------------


def last_stage(history: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a training's last stage: not the epochs on small faces, nor those before the plain ones.

    Self-taught epochs begin none: they have to be better than what came before them.
    """
    stage = history[history.columns.intersection(["face_pixels", "plain"])]
    begins = (stage != stage.shift()).any(axis=1)
    if "self_taught" in history:
        begins &= history["self_taught"] == 0
    number = begins.cumsum()
    return history[number == number.iloc[-1]]


def best_epoch(history: pd.DataFrame) -> int:
    """Return the row of the highest validation accuracy, of two the first, in the training's last stage."""
    return int(last_stage(history)["val_accuracy"].idxmax())


def rate_drops(history: pd.DataFrame) -> tuple[np.ndarray, bool]:
    """Return the epochs, counted from 1, with a lower learning rate, and whether it is another one in every epoch."""
    changes = history["learning_rate"].diff().to_numpy()[1:]
    return np.flatnonzero(changes < 0) + 2, len(changes) > 0 and bool((changes != 0).all())


def draw_augmentation(face: np.ndarray, path: Path) -> None:
    """Draw a face (1, 48, 48, 1) under a strong draw of each augmentation, and under all by chance."""
    from keras import ops

    from data import Augmentation, augment

    def draws(settings, count):
        return ops.convert_to_numpy(augment(np.repeat(face, count, axis=0), np.random.default_rng(0), settings))

    off = {field.name: type(field.default)(0) for field in fields(Augmentation)}
    full = Augmentation()
    faces, captions = [face[0]], ["as it is"]
    for name, text in (
        ("rotation_degrees", f"turned (±{full.rotation_degrees:.0f}°)"),
        ("zoom", f"zoomed (±{full.zoom:.0%})"),
        ("shift", f"shifted (±{full.shift:.0%})"),
        ("flip", "mirrored"),
        ("brightness", f"darker or brighter (±{full.brightness:.0%})"),
        ("contrast", f"contrast (±{full.contrast:.0%})"),
        ("erase", "a part erased"),
    ):
        if name == "flip" and np.array_equal(face, face[:, :, ::-1]):
            continue  # as the averages are: a mirror shows nothing of them
        settings = Augmentation(**off | {name: getattr(full, name)})
        variants = draws(settings, 40)
        changes = np.abs(variants - face).mean(axis=(1, 2, 3))
        faces.append(variants[np.argmax(changes)])  # a strong one: most are drawn near the middle
        captions.append(text)
    rest = -len(faces) % 5 + 5
    faces.extend(draws(full, rest))
    captions.extend(f"all, draw {number + 1}" for number in range(rest))
    draw_faces(np.stack(faces), captions, "One face under each augmentation, and under all", path, 5)


@styled
def draw_curves(history: pd.DataFrame, path: Path) -> None:
    """Draw accuracy and loss against epochs, training and validation, best epoch and rate drops marked.

    `history` has a row an epoch and the columns of Keras's CSVLogger, epochs counted from 0.
    """
    figure, axes = new_figure(3.3, 1, 2)
    epochs = history["epoch"] + 1
    best = best_epoch(history)
    drops, always = rate_drops(history)
    nowhere = pd.Series(0, history.index)
    sizes, taught, plain = (history.get(name, nowhere) for name in ("face_pixels", "self_taught", "plain"))
    stages = [(epoch, f" {sizes.max()} pixels", "left", 0.98) for epoch in epochs[sizes.diff() > 0]]
    rounds = enumerate(epochs[taught.diff() > 0])
    stages += [(epoch, " again" if number else " self-taught", "left", 0.91) for number, epoch in rounds]
    stages += [(epoch, "plain faces → ", "right", 0.84) for epoch in epochs[plain.diff() > 0]]
    with_teacher = history.get("taught", taught).any()  # then "right" is what label and teacher say together
    changed = "augmented" if history.get("augmentation", nowhere + 1).any() else "not augmented"
    measured = f"{changed};\nwhere taught, against\nlabels and teacher" if with_teacher else f"{changed}, with dropout"
    for axis, name in zip(axes, ("accuracy", "loss"), strict=True):
        for epoch in () if always else drops:
            axis.axvline(epoch, color=GRAY, linewidth=0.6, linestyle=":")
        for epoch, *_ in stages:
            axis.axvline(epoch - 0.5, color=GRAY, linewidth=0.8)
        axis.plot(epochs, history[name], color=BLUE, linestyle="--", label=f"training ({measured})")
        axis.plot(epochs, history["val_" + name], color=ORANGE, label="validation")
        axis.plot(epochs[best], history["val_" + name][best], "o", color=ORANGE)
        axis.set(xlabel="epoch", ylabel="accuracy" if name == "accuracy" else "loss (cross-entropy, nats)")
        axis.grid(True)
    for epoch, text, side, height in stages:  # beside the legend there is no room for it
        place = {"transform": axes[1].get_xaxis_transform(), "va": "top", "ha": side}
        axes[1].text(epoch - 0.5, height, text, fontsize=9, color=GRAY, **place)
    axes[0].set_title(f"best: {history['val_accuracy'][best]:.2%} in epoch {epochs[best]} of {len(epochs)}")
    dropped = "dotted: the learning rate drops" if len(drops) else "one learning rate throughout"
    axes[1].set_title("the learning rate changes with every epoch" if always else dropped)
    # Where curves that rise leave room, before the lines of the stages.
    axes[0].legend(loc="lower right", frameon=True, framealpha=1, edgecolor="none")
    figure.savefig(path)


@styled
def draw_optimizers(curves: dict[str, pd.DataFrame], title: str, path: Path) -> None:
    """Draw validation accuracy and training loss against epochs, a line for each optimizer's history."""
    figure, axes = new_figure(3.3, 1, 2)
    for (name, history), color, marker in zip(curves.items(), (BLUE, ORANGE, GREEN), "osD", strict=False):
        for axis, column in zip(axes, ("val_accuracy", "loss"), strict=True):
            axis.plot(history["epoch"] + 1, history[column], color=color, marker=marker, markersize=4, label=name)
    for axis, ylabel in zip(axes, ("validation accuracy", "training loss (nats)"), strict=True):
        axis.set(xlabel="epoch", ylabel=ylabel)
        axis.grid(True)
    axes[0].legend()
    figure.suptitle(title, fontsize=10)
    figure.savefig(path)


# --- scores -----------------------------------------------------------------------------------------------------


@styled
def draw_confusion(matrix: np.ndarray, title: str, path: Path) -> None:
    """Draw a confusion matrix (7, 7): each cell's share of its true emotion, and below it the count of faces."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure, axis = new_figure(6.2)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        color = "white" if share > 0.5 else "black"
        text = f"{share:.0%}\n{matrix[row, column]:,}"
        axis.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    axis.set_xticks(range(len(EMOTIONS)), EMOTIONS)
    support = matrix.sum(axis=1)
    axis.set_yticks(range(len(EMOTIONS)), [f"{name}\n(n = {n:,})" for name, n in zip(EMOTIONS, support, strict=True)])
    axis.set(xlabel="predicted emotion", ylabel="true emotion", title=title)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axis, fraction=0.04, pad=0.01)
    bar.set_label("share of the true emotion (below it: faces)")
    bar.ax.yaxis.set_major_formatter("{x:.0%}")
    figure.savefig(path)


@styled
def draw_reliability(tables: dict[str, pd.DataFrame], path: Path) -> None:
    """Draw accuracy against certainty, a panel for each table of `evaluate.reliability`; dots as large as their n."""
    figure, axes = new_figure(3.9, 1, len(tables), squeeze=False, sharey=True)
    for axis, (title, table) in zip(axes[0], tables.items(), strict=True):
        axis.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle="--", label="certainty = accuracy")
        filled = table[table["n"] > 0]
        axis.bar(filled["low"], filled["accuracy"], width=1 / len(table), align="edge", color=SKY, edgecolor="white")
        area = 220 * filled["n"] / filled["n"].max() + 8
        axis.scatter(filled["certainty"], filled["accuracy"], s=area, color=BLUE, label="faces (area: how many)")
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="certainty (probability of the answer)", title=title)
        axis.grid(True)
    axes[0, 0].set_ylabel("accuracy in the bin")
    axes[0, 0].legend(loc="upper left", labelspacing=0.8)
    figure.savefig(path)


@styled
def draw_coverage(labels: np.ndarray, probabilities: np.ndarray, path: Path) -> None:
    """Draw the accuracy on the answered faces against the share answered, for codes (n,), probabilities (n, 7)."""
    certainty, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    order = np.argsort(-certainty)
    share = np.arange(1, len(order) + 1) / len(order)
    accuracy = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    shown = share >= 0.05  # fewer faces say nothing
    figure, axis = new_figure(3.6)
    axis.plot(share[shown], accuracy[shown], color=BLUE)
    for threshold in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        count = int((certainty >= threshold).sum())
        if count and shown[count - 1]:
            axis.plot(share[count - 1], accuracy[count - 1], "o", color=ORANGE)
            axis.annotate(
                f"{threshold:.1f}", (share[count - 1], accuracy[count - 1]), (4, 6), textcoords="offset points"
            )
    axis.xaxis.set_major_formatter("{x:.0%}")
    axis.yaxis.set_major_formatter("{x:.0%}")
    axis.grid(True)
    axis.set(xlabel="share of the faces that get an answer", ylabel="accuracy on them")
    axis.set_title(f"answers only from a certainty on (orange: the threshold), n = {len(labels):,}")
    figure.savefig(path)


@styled
def draw_live_path(results: dict, path: Path) -> None:
    """Draw the results of `live_path.measure`: share found, and accuracy on the found beside the ready-cut crops."""
    figure, axes = new_figure(0.33 * len(results) + 1.2, 1, 2, sharey=True)
    names = list(results)
    rows = np.arange(len(names))
    found = [results[name]["found"] for name in names]
    axes[0].barh(rows, found, color=SKY, height=0.62)
    for row, value in zip(rows, found, strict=True):
        axes[0].text(value + 0.015, row, f"{value:.0%}", va="center", fontsize=9)
    axes[0].set_yticks(rows, names)
    axes[0].invert_yaxis()
    axes[0].set(xlim=(0, 1.12), xlabel=f"share found (n = {results[names[0]]['n']:,} faces each)")
    # Where no face was found, there is none: NaN.
    live, cut = (np.array([r[key] for r in results.values()], float) for key in ("accuracy_found", "accuracy_cut"))
    axes[1].hlines(rows, live, cut, color=LIGHT, linewidth=3)
    axes[1].plot(cut, rows, "D", color=GRAY, markersize=5, label="undisturbed crops")
    axes[1].plot(live, rows, "o", color=ORANGE, label="through the live path")
    axes[1].set(xlabel="accuracy on the found faces")
    axes[1].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for axis in axes:
        axis.xaxis.set_major_formatter("{x:.0%}")
        axis.grid(True, axis="x")
    figure.savefig(path)


@styled
def draw_counts(counts: pd.DataFrame, path: Path) -> None:
    """Draw the number of faces of each emotion, a panel for each split (row) of the table."""
    figure, axes = new_figure(2.6, 1, len(counts), squeeze=False)
    for axis, (name, row) in zip(axes[0], counts.iterrows(), strict=True):
        values = row[list(EMOTIONS)]
        axis.barh(range(len(EMOTIONS)), values, color=SKY)
        for i, value in enumerate(values):
            axis.text(value, i, f" {value:,}", va="center", fontsize=9)
        axis.set_yticks(range(len(EMOTIONS)), EMOTIONS)
        axis.invert_yaxis()
        axis.set(xlabel="faces", xlim=(0, values.max() * 1.22), title=f"{name}, n = {values.sum():,}")
    figure.savefig(path)


# --- faces ------------------------------------------------------------------------------------------------------


@styled
def draw_faces(faces: np.ndarray, captions: list[str], title: str, path: Path, columns: int = 7) -> None:
    """Draw gray faces (n, h, w, 1), 0..255, row by row, each with its caption above."""
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
    """Draw faces (n, 48, 48, 1) above themselves with their maps (n, 48, 48), 0..1, laid over."""
    figure, axes = new_figure(3.1, 2, len(faces), squeeze=False)
    for column, (face, where, caption) in enumerate(zip(faces, maps, captions, strict=True)):
        show_image(axes[0, column], face, caption)
        show_image(axes[1, column], face)
        axes[1, column].imshow(where, cmap="inferno", vmin=0, vmax=1, alpha=0.55)
    figure.suptitle(title, fontsize=10.5)
    figure.savefig(path)
