"""A model and the data -> report.md, its figures and scorecard.json in a run folder."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from data import PRIVATE_TEST, PUBLIC_TEST, TRAINING
from emotions.faces import SAME_FACE
from evaluation import figures, metrics, robustness
from evaluation.audit import audit, is_copy
from evaluation.grad_cam import grad_cam
from evaluation.history import describe
from evaluation.metrics import Comparison, by_labels, compare, nested
from model import EMOTIONS, FER2013, FERPLUS

END_TO_END_FACES = 1000
SHOWN = 14  # faces in a figure of errors
NAMES = {FER2013: "FER-2013's labels", FERPLUS: "ten people's votes"}


def write_report(run: Path, classifier, dataset, split_name: str, origin: dict, history=None) -> dict:
    """Score a `model.Classifier` on a split, write scorecard.json, report.md and its figures, and return the scorecard.

    `dataset` is a `data.Dataset`; `origin` says what is scored (`model`, `data`, `model_sha256`, `data_sha256`,
    `date`) and becomes part of the scorecard; `history` is the training's (see `evaluation.history`), None where it
    is not known. Takes six to ten minutes on two cores.
    """
    split = dataset[split_name]
    compared = compare(classifier, split, metrics.predict(classifier.all_probabilities, split.faces))
    card = origin | make_scorecard(classifier, dataset.splits, split_name, compared)
    (run / "scorecard.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    metrics.per_class_frame(card).to_csv(run / "classification_report.csv")
    draw_scores(run, compared, card)
    draw_split_faces(run, classifier, split, compared)
    sections = [
        title_section(card),
        section("By emotion", f"```\n{metrics.score_table(card)}\n```", images(run, "confusion_matrix", "ten_people")),
        calibration_section(run, card),
        end_to_end_section(run, card),
        section("Single faces", images(run, "worst_errors", "grad_cam")),
    ]
    if history is not None:
        with contextlib.suppress(OSError):  # on Windows a viewer may lock the file
            figures.draw_curves(history, run / "curves.png")
        chances = [each["chance_accuracy"] for name, each in by_labels(card).items() if name in classifier.outputs]
        sentences = "\n".join(f"- {sentence}" for sentence in describe(history, np.mean(chances)))
        sections.append(section("Training", sentences, images(run, "curves")))
    sections.append(data_section(dataset))
    report = "\n\n".join(sections) + "\n"
    (run / "report.md").write_bytes(report.encode(errors="backslashreplace"))  # a path may be no Unicode
    return card


def score_splits(classifier, splits: dict) -> dict:
    """Return the scores for best_model.json: of PublicTest, the unchanged training faces, PrivateTest if there is one.

    Those against votes are under "ferplus". Prints one line per split.
    """
    scores = {}
    for name, split in splits.items():
        compared = compare(classifier, split, metrics.predict(classifier.all_probabilities, split.faces))
        scores[name] = nested({key: {"output": c.output} | metrics.score(*c[2:]) for key, c in compared.items()})
        print(f"{name}: {headline(scores[name])}")
    others = {"training": TRAINING, "private_test": PRIVATE_TEST}
    others = {key: scores[name] for key, name in others.items() if name in scores}
    return {"split": PUBLIC_TEST, "protocol": "single crop", **scores[PUBLIC_TEST], **others}


def headline(card: dict) -> str:
    """Return the accuracy on FER-2013's labels, and on votes where there are any, as text."""
    return "; ".join(
        f"accuracy {percent(each['accuracy'], each['accuracy_interval_95'])} on {NAMES[name]}, n = {each['n']:,}"
        for name, each in by_labels(card).items()
    )


def make_scorecard(classifier, splits: dict, split_name: str, compared: dict[str, Comparison]) -> dict:
    """Return everything that is measured on a split, ready for JSON; `compared` are its predictions, single crop."""
    split = splits[split_name]
    averaged = compare(classifier, split, metrics.averaged(classifier.all_probabilities, split.faces))
    unique = ~is_copy(split.faces, splits[TRAINING].faces)
    scores = {}
    for name, comparison in compared.items():
        output, rows, labels, probabilities = comparison
        scores[name] = {
            "output": output,
            **metrics.score(labels, probabilities),
            **metrics.share("accuracy_averaged", averaged[name].correct),
            **metrics.share("accuracy_without_copies", comparison.correct[unique[rows]]),
            "n_without_copies": int(unique[rows].sum()),
            "chance_accuracy": metrics.chance_accuracy(labels),
            "confusion_matrix": metrics.confusion_matrix(labels, probabilities.argmax(axis=1)).tolist(),
            "calibration": calibration(labels, probabilities, folded_temperature(classifier, output)),
            "coverage": metrics.coverage(labels, probabilities),
        }
    if FERPLUS in compared:
        _, rows, labels, probabilities = compared[FERPLUS]
        scores[FERPLUS] |= metrics.vote_scores(split.votes[rows], probabilities)
        scores[FERPLUS]["label_confusion_matrix"] = metrics.confusion_matrix(labels, split.labels[rows]).tolist()
    chosen = np.sort(np.random.default_rng(metrics.SEED).permutation(len(split))[:END_TO_END_FACES])
    end_to_end = robustness.measure(classifier, split[chosen])
    return {"split": split_name, **nested(scores), "end_to_end": end_to_end}


# --- calibration ------------------------------------------------------------------------------------------------


def fold_temperatures(classifier, split) -> dict:
    """Fit the temperature of each output of a Keras classifier on its own labels of a split and fold it in.

    Returns what the description has under "calibration": FER-2013's, in it that of "ferplus" where it is an output.
    Doing it twice changes nothing: the second temperature is 1, and is multiplied with the one in the description.
    """
    compared = compare(classifier, split, metrics.predict(classifier.all_probabilities, split.faces))
    result = {}
    for name, (output, _, labels, probabilities) in compared.items():
        if output == name:
            temperature = metrics.fit_temperature(labels, probabilities)
            metrics.fold_temperature(classifier.model, temperature, output)
            total = temperature * (folded_temperature(classifier, output) or 1)
            result[name] = calibration(labels, metrics.with_temperature(probabilities, temperature), total)
    return nested(result)


def folded_temperature(classifier, output: str = FER2013) -> float | None:
    """Return the temperature that training folded into an output, None where the description has none."""
    return by_labels(classifier.description.get("calibration", {})).get(output, {}).get("temperature")


def calibration(labels: np.ndarray, probabilities: np.ndarray, folded: float | None) -> dict:
    """Return the ECE as it is and cross-fitted on these faces; where a temperature is folded in, also without it."""
    before = metrics.with_temperature(probabilities, 1 / (folded or 1))
    fitted = {
        "temperature": folded,
        "fitted_on": PUBLIC_TEST,
        "ece_before": metrics.expected_calibration_error(labels, before),
    }
    return (fitted if folded else {}) | {
        "ece_after": metrics.expected_calibration_error(labels, probabilities),
        "ece_cross_fitted": metrics.cross_fitted_error(labels, before),
    }


# --- figures ----------------------------------------------------------------------------------------------------


def draw_scores(run: Path, compared: dict[str, Comparison], card: dict) -> None:
    """Draw the figures without faces: confusion matrices, reliability, end to end."""
    title = f"{card['split']}, n = {card['n']:,}: {card['accuracy']:.1%} correct"
    axes = "FER-2013's label", "prediction (blue: correct)"
    figures.draw_confusion({title: card["confusion_matrix"]}, axes, run / "confusion_matrix.png")
    axes = f"most frequent of ten people's votes ({card['split']})", "blue: agrees with them, orange: does not"
    if FERPLUS in card:
        people = card[FERPLUS]
        pairs = ("FER-2013's label", "label_confusion_matrix"), ("the network", "confusion_matrix")
        matrices = {f"{name}: {agreement(people[key]):.1%} agree": people[key] for name, key in pairs}
        figures.draw_confusion(matrices, axes, run / "ten_people.png")
    named = {f"{NAMES[name]}, n = {len(c.labels):,}": c[2:] for name, c in compared.items()}
    figures.draw_reliability(named, run / "reliability.png")
    figures.draw_end_to_end(card["end_to_end"], NAMES, run / "end_to_end.png")


def agreement(matrix: list) -> float:
    """Return the share of the diagonal of a confusion matrix."""
    return np.trace(matrix) / np.sum(matrix)


def draw_split_faces(run: Path, classifier, split, compared: dict[str, Comparison]) -> None:
    """Draw the most confident errors and Grad-CAM.

    They are of the output that the classifier predicts by default, where its labels are at hand.
    """
    name = classifier.labels if classifier.labels in compared else FER2013
    output, known, labels, probabilities = compared[name]
    faces, correct, confidence = split.faces[known], compared[name].correct, probabilities.max(axis=1)
    captions = [
        f"{EMOTIONS[label]}\n→ {EMOTIONS[row.argmax()]} {row.max():.0%}"
        for label, row in zip(labels, probabilities, strict=True)
    ]
    errors = np.argsort(np.where(correct, 2, -confidence))[: min(SHOWN, (~correct).sum())]
    if len(errors):
        title = f"The most confident errors ({NAMES[name]} → prediction with its confidence)"
        figures.draw_faces(faces[errors], [captions[row] for row in errors], title, run / "worst_errors.png")
    codes = np.unique(labels)
    rows = [int(np.argmax(np.where(labels == code, confidence + correct, -1))) for code in codes]
    with contextlib.suppress(ValueError):  # an architecture without suitable maps
        maps = grad_cam(classifier.model, faces[rows], codes, output)
        title = "Image regions that support the true emotion (Grad-CAM, bright yellow: most)"
        figures.draw_grad_cam(faces[rows], maps, [captions[row] for row in rows], title, run / "grad_cam.png")


# --- text -------------------------------------------------------------------------------------------------------


def markdown_table(header: list[str], rows) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def section(title: str, *parts: str) -> str:
    """Return a section in Markdown; empty parts are left out."""
    return "\n\n".join([f"## {title}", *filter(None, parts)])


def images(run: Path, *names: str) -> str:
    """Return Markdown for those of the images (names without suffix) that are in the run folder."""
    return "\n\n".join(f"![{n.replace('_', ' ')}]({n}.png)" for n in names if (run / f"{n}.png").exists())


def percent(value, interval=None, number_format: str = ".1%") -> str:
    """Return a share, or with another format a score, as text, with its interval where there is one."""
    if value is None:
        return "-"
    low_high = " ({:{f}} to {:{f}})".format(*interval, f=number_format) if interval else ""
    return f"{value:{number_format}}{low_high}"


def score_rows(scores: dict[str, dict], texts: dict[str, str]) -> list[list[str]]:
    """Return the rows of a table: for each key that there is its text and, for each of the labels, its score."""
    formats = {key: ".3f" if key in ("log_loss", "vote_log_loss", "temperature") else ".1%" for key in texts}
    return [
        [text, *(percent(each.get(key), each.get(f"{key}_interval_95"), formats[key]) for each in scores.values())]
        for key, text in texts.items()
        if any(key in each for each in scores.values())
    ]


def title_section(card: dict) -> str:
    scores, people = by_labels(card), card.get(FERPLUS, {"n_majority": 0, "vote_entropy": 0.0})
    counts = "; ".join(f"{each['n_without_copies']:,}" for each in scores.values())
    rows = score_rows(scores, {
        "accuracy": "**accuracy or agreement, single crop**",
        "accuracy_majority": f"where more than half of the people agree, n = {people['n_majority']:,}",
        "accuracy_averaged": "ten views averaged (flip and shifts)",
        "accuracy_without_copies": f"without copies of training faces, n = {counts}",
        "macro_f1": "macro F1",
        "log_loss": "log loss (nats)",
        "vote_log_loss": f"log loss against the shares of the votes, at best {people['vote_entropy']:.3f}",
        "ece": "expected calibration error, 15 bins",
    })  # fmt: skip
    notes = "Intervals are 95 %: Wilson for accuracies, bootstrap for F1, normal approximation for the loss."
    if card["accuracy"] <= card["chance_accuracy"]:
        notes += f" **The accuracy is not above chance, {card['chance_accuracy']:.1%} here.**"
    if card["split"] == card["calibration"].get("fitted_on"):
        notes += " The best epoch and the temperature were chosen on this split, so its scores are slightly optimistic."
    if FERPLUS in card:
        notes += f"""

FER-2013's labels come from the words of a web search; FER+ (Barsoum et al. 2016) has the votes of ten people on the
same faces. The second column is the agreement with the emotion that most of them see, on the faces where that is one
of the seven and leads alone. FER-2013's own label agrees with it on {agreement(people["label_confusion_matrix"]):.1%}.
For comparison: a single person's vote is the most frequent one of the other nine in \
{percent(people["person_with_nine"])} of {people["n_with_nine"]:,} cases,
the network's label in {percent(people["network_with_nine"])}.
The first column scores the network's output {card["output"]}, the second its output {people["output"]}."""
    return f"""# Scores on {card["split"]}

- model: `{card["model"]}`, SHA-256 {card["model_sha256"][:16]}…
- data: `{card["data"]}`, SHA-256 of its faces and labels {card["data_sha256"][:16]}…
- date: {card["date"]}

{markdown_table(["score", *(f"{NAMES[name]}, n = {each['n']:,}" for name, each in scores.items())], rows)}

{notes}"""


def calibration_section(run: Path, card: dict) -> str:
    scores = {name: each["calibration"] for name, each in by_labels(card).items()}
    rows = score_rows(scores, {
        "temperature": f"temperature folded into the output, fitted on {PUBLIC_TEST}",
        "ece_before": "expected calibration error (15 bins) without it",
        "ece_after": "expected calibration error (15 bins) of the network",
        "ece_cross_fitted": "with a temperature fitted on the other nine tenths of these faces",
    })  # fmt: skip
    table = markdown_table(["calibration", *(NAMES[name] for name in scores)], rows)
    covered = [
        [row[0]["threshold"], *(percent(each[key]) for each in row for key in ("coverage", "accuracy"))]
        for row in zip(*(each["coverage"] for each in by_labels(card).values()), strict=True)
    ]
    header = [text for name in scores for text in ("coverage", f"accuracy, {NAMES[name]}")]
    thresholds = "Accuracy on the predictions whose confidence reaches a threshold (`main.py --threshold`):"
    covered = markdown_table(["threshold", *header], covered)
    return section("Calibration", table, images(run, "reliability"), thresholds, covered)


def end_to_end_section(run: Path, card: dict) -> str:
    results = card["end_to_end"]
    text = f"""{results[robustness.CLEAN]["n"]:,} faces of {card["split"]} are set into frames of \
{robustness.FRAME_WIDTH} x {robustness.FRAME_HEIGHT} pixels, {robustness.FACE_PIXELS} pixels wide,
their border extended and blurred, and go through `EmotionDetector` as a still image does: brightened if dark or hazy,
searched, cropped. A face is found if a box overlaps the true one by at least {SAME_FACE:.0%} (intersection over union).
The accuracies are of the found faces: end to end, and on the data set's own crops of the same faces."""
    keys = [(name, key) for name in by_labels(card) for key in ("accuracy_found", "accuracy_pre_cropped")]
    accuracies = {name: [by_labels(result)[labels][key] for labels, key in keys] for name, result in results.items()}
    rows = [
        [name, percent(result["found"], result["found_interval_95"]), *map(percent, accuracies[name])]
        for name, result in results.items()
    ]
    means = pd.DataFrame(accuracies, dtype=float).mean(axis=1)  # without the conditions in which no face was found
    rows.append(["**mean**", "", *(percent(None if np.isnan(mean) else mean) for mean in means)])
    words = {"accuracy_found": "end to end", "accuracy_pre_cropped": "pre-cropped"}
    header = ["condition", "found (95 % interval)", *(f"{NAMES[name]}, {words[key]}" for name, key in keys)]
    return section("End to end", text, markdown_table(header, rows), images(run, "end_to_end"))


def data_section(dataset) -> str:
    found = audit(dataset.splits)
    rows = [[name, *(f"{n:,}" for n in row)] for name, row in dataset.counts().iterrows()]
    within, constant = (
        ", ".join(f"{name} {n:,}" for name, n in found[key].items()) for key in ("copies_within", "constant")
    )
    notes = [
        *dataset.notes,
        f"Constant images that remain: {constant}. Only Training is cleaned of them; test splits stay as published.",
        f"Exact copies within a split, beyond the first: {within}. They stay.",
        "Copies across splits stay in Training; the score without them, near copies included, is in the first table.",
        f"{found['groups']:,} groups of identical faces, {found['conflicts']:,} of them with "
        "different labels. They stay.",
    ]
    text = "\n".join(f"- {note}" for note in notes)
    table = markdown_table(["split", *EMOTIONS, "all"], rows)
    return section("Data", table, text)
