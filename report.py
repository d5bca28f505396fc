"""A model and the data -> report.md, its pictures and scorecard.json in a run folder."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

import evaluate
import figures
import live_path
from data import PRIVATE_TEST, PUBLIC_TEST, TRAINING
from faces import CASCADE, SAME_FACE, CascadeError, load_cascade
from model import EMOTIONS

LIVE_FACES = 1000
SHOWN = 14  # faces in a picture of errors


class ReportError(ValueError):
    """Something the user can mend that a report needs; the message says what to do."""


def write_report(run: Path, classifier, dataset, split_name: str, origin: dict, history=None) -> dict:
    """Score a `model.Classifier` on a named split; write scorecard.json, report.md and its pictures; return the card.

    `dataset` is a `data.Dataset`; `origin` names what is scored (`model`, `data`, `model_sha256`, `data_sha256`,
    `date`) and goes into the card; `history` is the training's (columns of Keras's CSVLogger), None where it is not
    known. Two to three minutes on two cores.
    """
    splits, split = dataset.splits, dataset[split_name]
    probabilities = evaluate.predict(classifier.probabilities, split.faces)
    card = origin | make_scorecard(classifier, splits, split_name, probabilities)
    if history is not None:
        with contextlib.suppress(OSError):  # on Windows a viewer may hold the picture
            figures.draw_curves(history, run / "curves.png")
    (run / "scorecard.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    frame = evaluate.per_class_frame(card)
    frame.to_csv(run / "classification_report.csv", index_label="emotion")
    draw_scores(run, split.labels, probabilities, card)
    draw_split_faces(run, classifier.model, split, probabilities)
    oddities = evaluate.audit(splits)
    draw_data(run, dataset, oddities)
    parts = [
        title_part(card), class_part(frame), calibration_part(card), live_part(card), face_part(run),
        training_part(history), data_part(dataset, oddities),
    ]  # fmt: skip
    (run / "report.md").write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return card


def check_cascade() -> None:
    """Raise `ReportError` where the live path cannot be measured, before the hours that a training takes."""
    try:
        load_cascade(CASCADE)
    except CascadeError as error:
        raise ReportError(str(error)) from error


def score_splits(classifier, splits: dict) -> dict:
    """Return what `best_model.json` says of PublicTest, of Training as it is, and of PrivateTest where it is there."""
    scores = {}
    for name, split in splits.items():
        scores[name] = evaluate.score(split.labels, evaluate.predict(classifier.probabilities, split.faces))
        print("{}: accuracy {accuracy:.2%}, loss {log_loss:.3f}, n = {n:,}".format(name, **scores[name]))
    result = {"split": PUBLIC_TEST, "protocol": "single crop", **scores[PUBLIC_TEST]}
    result["training"] = {key: scores[TRAINING][key] for key in ("n", "accuracy", "log_loss")}
    return result | ({"private_test": scores[PRIVATE_TEST]} if PRIVATE_TEST in scores else {})


def make_scorecard(classifier, splits: dict, split_name: str, probabilities: np.ndarray) -> dict:
    """Return everything measured on the split, ready for JSON."""
    faces, labels = splits[split_name].faces, splits[split_name].labels
    matrix = evaluate.confusion_matrix(labels, probabilities.argmax(axis=1))
    right_averaged = evaluate.averaged(classifier.probabilities, faces).argmax(axis=1) == labels
    own = ~evaluate.is_copy(faces, splits[TRAINING].faces)
    right_own = probabilities[own].argmax(axis=1) == labels[own]
    chosen = np.sort(np.random.default_rng(evaluate.SEED).permutation(len(faces))[:LIVE_FACES])
    return {
        "split": split_name,
        **evaluate.score(labels, probabilities),
        **_accuracy("accuracy_averaged", right_averaged),
        **_accuracy("accuracy_without_copies", right_own),
        "n_without_copies": int(own.sum()),
        "confusion_matrix": matrix.tolist(),
        "calibration": calibration(labels, probabilities, folded_temperature(classifier)),
        "coverage": json.loads(evaluate.coverage(labels, probabilities).to_json(orient="records")),
        "live_path": live_path.measure(classifier.probabilities, faces[chosen], labels[chosen]),
    }


def _accuracy(name: str, right: np.ndarray) -> dict:
    """Return a share with its interval under two names; None for no faces."""
    interval = evaluate.wilson_interval(int(right.sum()), len(right))
    return {name: float(right.mean()) if len(right) else None, f"{name}_interval_95": interval}


def folded_temperature(classifier) -> float:
    """Return the temperature that `train.py` folded into the model, 1.0 where its description names none."""
    return classifier.description.get("calibration", {}).get("temperature", 1.0)


def calibration(labels: np.ndarray, probabilities: np.ndarray, folded: float) -> dict:
    """Return the ECE before the folded temperature, with it, and with one from the other half of these faces."""
    before = evaluate.with_temperature(probabilities, 1 / folded)
    return {
        "temperature": folded,
        "fitted_on": PUBLIC_TEST,
        "ece_before": evaluate.expected_calibration_error(labels, before),
        "ece_after": evaluate.expected_calibration_error(labels, probabilities),
        "ece_cross_fitted": evaluate.cross_fitted_error(labels, before),
        "ece_of_a_perfect_model": evaluate.perfect_model_ece(probabilities),
    }


# --- pictures ---------------------------------------------------------------------------------------------------


def draw_scores(run: Path, labels: np.ndarray, probabilities: np.ndarray, card: dict) -> None:
    """Draw what needs no single face: confusion, reliability, coverage, live path."""
    title = f"{card['split']}, n = {card['n']:,}, accuracy {card['accuracy']:.2%} (single crop)"
    figures.draw_confusion(np.array(card["confusion_matrix"]), title, run / "confusion_matrix.png")
    temperature = card["calibration"]["temperature"]
    before = evaluate.with_temperature(probabilities, 1 / temperature)
    tables = {
        f"{name}, ECE {card['calibration'][key]:.1%}, n = {len(labels):,}": evaluate.reliability(labels, values)
        for name, key, values in (
            ("before calibration", "ece_before", before),
            (f"temperature {temperature:.2f} folded in", "ece_after", probabilities),
        )
    }
    figures.draw_reliability(tables, run / "reliability.png")
    figures.draw_coverage(labels, probabilities, run / "coverage.png")
    figures.draw_live_path(card["live_path"], run / "live_path.png")


def draw_split_faces(run: Path, model, split, probabilities: np.ndarray) -> None:
    """Draw samples, the worst errors, the least certain faces, Grad-CAM, and a face under the live conditions."""
    certainty, answers = probabilities.max(axis=1), probabilities.argmax(axis=1)
    right = answers == split.labels
    captions = [
        f"{EMOTIONS[label]}\nsays {EMOTIONS[answer]} {share:.0%}"
        for label, answer, share in zip(split.labels, answers, certainty, strict=True)
    ]
    errors = np.argsort(np.where(right, 2, -certainty))[: min(SHOWN, (~right).sum())]
    unsure = np.argsort(certainty)[:SHOWN]
    for name, rows, title in (
        ("worst_errors.png", errors, "The most certain errors: the label, and below it the answer and its certainty"),
        ("least_certain.png", unsure, "The least certain faces: the label, and below it the answer and its certainty"),
    ):
        if len(rows):
            figures.draw_faces(split.faces[rows], [captions[row] for row in rows], title, run / name)
    samples = sample_rows(split.labels, 4)
    names = [EMOTIONS[label] for label in split.labels[samples]]
    figures.draw_faces(split.faces[samples], names, "Faces of each emotion, drawn at random", run / "samples.png", 8)
    draw_looks(run / "grad_cam.png", model, split, certainty, right, captions)
    frames = [live_path.make_frames(split.faces[samples[:1]], name)[0] for name in live_path.CONDITIONS]
    title = "A face in the frames of the live path, under each condition"
    figures.draw_faces(frames, list(live_path.CONDITIONS), title, run / "live_conditions.png", 5)


def sample_rows(labels: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` seeded rows of each class, class by class."""
    order = np.random.default_rng(evaluate.SEED).permutation(len(labels))
    return np.concatenate([order[labels[order] == code][:count] for code in range(len(EMOTIONS))])


def draw_looks(path: Path, model, split, certainty: np.ndarray, right: np.ndarray, captions: list[str]) -> None:
    """Draw Grad-CAM for one face a class: the most certain right one, else the most certain."""
    codes = np.unique(split.labels)
    rows = [int(np.argmax(np.where(split.labels == code, certainty + right, -1))) for code in codes]
    try:
        maps = evaluate.grad_cam(model, split.faces[rows], codes)
    except ValueError:  # another architecture: the report does without this picture
        return
    title = "Where the network looks for the true emotion (Grad-CAM: bright and yellow most)"
    figures.draw_grad_cam(split.faces[rows], maps, [captions[row] for row in rows], title, path)


def draw_data(run: Path, dataset, oddities: dict) -> None:
    """Draw the counts, the faces with the most copies, and those with different labels."""
    figures.draw_counts(dataset.counts(), run / "data_counts.png")
    for name, groups, title in (
        (
            "copies.png",
            oddities["most_copied"],
            "The faces with the most exact copies (in Training where no other split is named)",
        ),
        (
            "label_conflicts.png",
            oddities["conflicts"][:10],
            "The same face, byte by byte, under different labels (in Training where no other is named)",
        ),
    ):
        if groups:
            faces = np.stack([dataset[group[0][0]].faces[group[0][1]] for group in groups])
            figures.draw_faces(faces, [group_caption(group) for group in groups], title, run / name, columns=5)


def group_caption(group: list[tuple[str, int, int]]) -> str:
    """Return a line for each label of a group of equal faces: how often, and where if not in Training."""
    where = {name: "" if name == TRAINING else f" ({name.removesuffix('Test')})" for name, _, _ in group}
    lines = pd.Series([EMOTIONS[label] + where[name] for name, _, label in group])
    return "\n".join(f"{count} × {what}" for what, count in lines.value_counts().items())


# --- text -------------------------------------------------------------------------------------------------------


def markdown_table(header: list[str], rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def percent(value, interval=None) -> str:
    """Return a share as text, with its interval where there is one."""
    if value is None:
        return "-"
    return f"{value:.1%}" + (f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else "")


def title_part(card: dict) -> str:
    rows = [
        ["accuracy, single crop", percent(card["accuracy"], card["accuracy_interval_95"]), f"{card['n']:,}"],
        ["macro F1", percent(card["macro_f1"], card["macro_f1_interval_95"]), f"{card['n']:,}"],
        ["log loss (nats)", "{:.3f} ({:.3f} to {:.3f})".format(card["log_loss"], *card["log_loss_interval_95"]),
         f"{card['n']:,}"],
        ["accuracy, ten views averaged (mirror and shifts)",
         percent(card["accuracy_averaged"], card["accuracy_averaged_interval_95"]), f"{card['n']:,}"],
        ["accuracy, single crop, without faces that also stand in Training",
         percent(card["accuracy_without_copies"], card["accuracy_without_copies_interval_95"]),
         f"{card['n_without_copies']:,}"],
        ["expected calibration error, 15 bins", percent(card["ece"]), f"{card['n']:,}"],
    ]  # fmt: skip
    chosen = (
        " The model was chosen on this split (the epoch, the temperature of its probabilities, with "
        "`--schedule plateau` the learning rate too), so these figures are a little kind to it."
        if card["split"] == PUBLIC_TEST
        else ""
    )
    return f"""# Scores on {card["split"]}

- model: `{card["model"]}`, SHA-256 {card["model_sha256"][:16]}…
- data: `{card["data"]}`, SHA-256 of its faces and labels {card["data_sha256"][:16]}…
- measured: {card["date"]}

{markdown_table(["figure", "value (95 % interval)", "faces"], rows)}

Intervals: Wilson for accuracies, bootstrap for F1, normal for the loss.{chosen}"""


def class_part(frame: pd.DataFrame) -> str:
    rows = [[name, f"{p:.3f}", f"{r:.3f}", f"{f:.3f}", f"{n:,.0f}"] for name, p, r, f, n in frame.itertuples()]
    return f"""## By emotion

{markdown_table(["emotion", "precision", "recall", "F1", "faces"], rows)}

![Confusion matrix](confusion_matrix.png)"""


def calibration_part(card: dict) -> str:
    c = card["calibration"]
    if c["temperature"] == 1:
        error = f"{c['ece_after']:.1%}; no temperature is folded into the model."
    else:
        error = f"""{c["ece_before"]:.1%} before calibration, {c["ece_after"]:.1%} with the
temperature {c["temperature"]:.3f} that is folded into the model (fitted on {c["fitted_on"]})."""
    rows = [[f"{row['threshold']:.1f}", percent(row["coverage"]), percent(row["accuracy"])] for row in card["coverage"]]
    return f"""## What the probabilities mean

Expected calibration error (15 equal bins): {error} With a temperature from
one half of these faces, measured on the other, pooled over both, mean of {evaluate.HALVINGS} draws:
{c["ece_cross_fitted"]:.1%}. Chance alone gives a perfect model {c["ece_of_a_perfect_model"]:.1%} at this n.

![Reliability](reliability.png)

Accuracy against coverage: answers only where the certainty reaches the threshold (`main.py --threshold`).

{markdown_table(["threshold", "faces answered", "accuracy on them"], rows)}

![Coverage](coverage.png)"""


def live_part(card: dict) -> str:
    rows = [
        [name, percent(r["found"], r["found_interval_95"]), percent(r["accuracy_found"]), percent(r["accuracy_cut"])]
        for name, r in card["live_path"].items()
    ]
    n = card["live_path"][live_path.CLEAN]["n"]
    header = ["condition", "found (95 % interval)", "accuracy, live", "the same faces, ready-cut"]
    return f"""## The live path

{n:,} faces of {card["split"]}, set into frames of {live_path.FRAME_WIDTH} x {live_path.FRAME_HEIGHT} pixels,
{live_path.FACE_PIXELS} pixels wide, their border continued and blurred, and taken through `faces.py`:
brightened where dark, the search of a still picture, then the crop. Found: a box overlaps the true one by at least
{SAME_FACE:.0%} (intersection over union). Accuracies are of the found faces.

{markdown_table(header, rows)}

![Live path](live_path.png)

![Conditions](live_conditions.png)"""


def face_part(run: Path) -> str:
    pictures = (
        ("The most certain errors", "worst_errors.png"),
        ("The least certain faces", "least_certain.png"),
        ("Where the network looks", "grad_cam.png"),
        ("Samples", "samples.png"),
    )
    shown = [f"![{title}]({name})" for title, name in pictures if (run / name).exists()]
    return "\n\n".join(["## Single faces", *shown])


def training_part(history: pd.DataFrame | None) -> str:
    if history is None:
        return ""
    lines = "\n".join(f"- {sentence}" for sentence in read_history(history))
    return f"## The training\n\n![Accuracy and loss against epochs](curves.png)\n\n{lines}"


def read_history(history: pd.DataFrame) -> list[str]:
    """Return what a training's curves say, a sentence each, from its numbers alone (columns of Keras's CSVLogger)."""
    best = history.loc[figures.best_epoch(history)]
    last, epochs = history.iloc[-1], len(history)
    lines = [
        f"Best epoch: {best['epoch'] + 1:.0f} of {epochs}, with {best['val_accuracy']:.1%} of the validation faces "
        f"right (loss {best['val_loss']:.3f}); training stood at {best['accuracy']:.1%} (loss {best['loss']:.3f}).",
        _read_gap(
            best["accuracy"] - best["val_accuracy"], bool(best.get("taught", 0)), bool(best.get("augmentation", 1))
        ),
    ]
    stage = figures.last_stage(history)
    if len(stage) >= min(len(history), 6):  # a step between stages says nothing on convergence
        lines.append(_read_progress(stage))
    lowest = stage.loc[stage["val_loss"].idxmin()]
    rise = last["val_loss"] - lowest["val_loss"]
    if rise > 0.02 and last["loss"] < min(lowest["loss"], last["val_loss"]):
        lines.append(
            f"After epoch {lowest['epoch'] + 1:.0f} the validation loss rose by {rise:.3f} while the training loss "
            "fell below it: overfitting, the network began to learn its training faces by heart."
        )
    taught, plain = (history.get(name, pd.Series(0, history.index)) > 0 for name in ("self_taught", "plain"))
    alone = history[~taught & ~plain]
    return [
        *lines, *_read_rates(alone), *_read_sizes(alone), *_read_augmentation(alone), *_read_taught(history[taught]),
        *_read_plain(history[plain]),
    ]  # fmt: skip


def _read_rates(history: pd.DataFrame) -> list[str]:
    rates = history["learning_rate"]
    drops, always = figures.rate_drops(history)
    if len(drops) == 0:
        return []
    if always:
        return [f"The learning rate was highest in epoch {rates.argmax() + 1}, {rates.max():.1e}, and fell epoch by "
                f"epoch after it, to {rates.iloc[-1]:.1e}: smaller steps let the weights settle."]  # fmt: skip
    named = ", ".join(map(str, drops))
    return [f"The learning rate was lowered after the validation loss had stood still: from epoch {named} on "
            f"({rates.iloc[0]:.0e} to {rates.iloc[-1]:.1e})."]  # fmt: skip


def _read_sizes(history: pd.DataFrame) -> list[str]:
    small = history[history["face_pixels"] < history["face_pixels"].max()] if "face_pixels" in history else []
    if len(small) == 0:
        return []
    pixels = small["face_pixels"].iloc[0]
    return [f"Epochs 1 to {len(small)} saw faces of {pixels} pixels, in training and validation, to save time."]


def _read_augmentation(history: pd.DataFrame) -> list[str]:
    shares = history.get("augmentation", pd.Series([1.0]))
    if shares.nunique() == 1:
        return []
    return [f"The changes to a training face went from {shares.iloc[0]:.0%} of the usual ones in the first epoch to "
            f"{shares.iloc[-1]:.0%} in epoch {history['epoch'].iloc[-1] + 1}."]  # fmt: skip


def _read_taught(history: pd.DataFrame) -> list[str]:
    if len(history) == 0:
        return []
    rate, shares = history["learning_rate"].max(), history["augmentation"]
    return [f"In {_named(history)} the network learned from its own answers, too, those of the best one before them; "
            f"the rate rose once more, to {rate:.1e}, and the changes to a training face went from "
            f"{shares.iloc[0]:.0%} to {shares.iloc[-1]:.0%} of the usual ones. Losses before and after do not compare: "
            "from there on labels are not smoothed, and the training loss counts these answers."]  # fmt: skip


def _read_plain(history: pd.DataFrame) -> list[str]:
    if len(history) == 0:
        return []
    rate = history["learning_rate"].max()
    return [f"In {_named(history)} the faces were plain, at most mirrored and filmed, the rate {rate:.1e} or "
            "less, to sharpen what was learnt; the best of the last of these epochs is kept."]  # fmt: skip


def _named(history: pd.DataFrame) -> str:
    """Return which epochs are left of a history: epochs 3 to 5 and 7."""
    epochs = history["epoch"] + 1
    rows = [group.tolist() for _, group in epochs.groupby((epochs.diff() != 1).cumsum())]
    ranges = " and ".join(f"{row[0]} to {row[-1]}" if len(row) > 1 else f"{row[0]}" for row in rows)
    return f"epoch{'s' if len(epochs) > 1 else ''} {ranges}"


def _read_gap(gap: float, taught: bool, augmented: bool) -> str:
    if taught:
        return (
            "Training counts as right what labels and teachers say together, on changed faces, so its distance from "
            "validation says nothing on overfitting; best_model.json has the accuracy on the training faces unchanged."
        )
    if gap < 0:
        return (
            f"Validation stands {-gap * 100:.1f} points above training: training is measured "
            f"{'on augmented faces ' if augmented else ''}with dropout at work and while the weights still change, "
            "validation on plain faces with the whole network."
        )
    kind = "little overfitting" if gap < 0.05 else "overfitting" if gap > 0.12 else "some overfitting"
    return f"Training stands {gap * 100:.1f} points above validation at the best epoch: {kind}."


def _read_progress(history: pd.DataFrame) -> str:
    span = min(5, len(history) - 1)
    if span < 1:
        return "One epoch says nothing on convergence."
    gain = history["val_accuracy"].cummax().diff(span).iloc[-1]
    state = "still improving, more epochs may help" if gain > 0.005 else "converged"
    return f"The best validation accuracy rose by {gain * 100:.1f} points over the last {span} epochs: {state}."


def data_part(dataset, oddities: dict) -> str:
    rows = [[name, *(f"{n:,}" for n in row)] for name, row in dataset.counts().iterrows()]
    within = ", ".join(f"{name} {n:,}" for name, n in oddities["copies_within"].items())
    constant = ", ".join(f"{name} {n:,}" for name, n in oddities["constant"].items())
    said = "\n".join(f"- {note}" for note in dataset.notes)
    pictures = [f"![{name}]({name}.png)" for name, has in (
        ("data_counts", True), ("copies", oddities["groups"]), ("label_conflicts", oddities["conflicts"])
    ) if has]  # fmt: skip
    return f"""## The data

{markdown_table(["split", *EMOTIONS, "all"], rows)}

{said}
- Constant images that remain: {constant}. Training leaves its own out; a test split keeps them, as everybody's does.
- Exact copies within a split, beyond the first: {within}. They stay: they weigh a face a little more.
- Copies across splits stay in Training; the accuracy without them, and without those that are a few gray levels
  off, stands above.
- {oddities["groups"]:,} groups of equal faces, {len(oddities["conflicts"]):,} of them with different labels. They
  stay: the network learns to divide its certainty between the labels.

""" + "\n\n".join(pictures)
