"""Predictions -> scores: pure functions from arrays to numbers.

Labels are Kaggle's codes (n,), probabilities float (n, 7) with rows that sum to 1, faces uint8 (n, 48, 48, 1). The
confidence of a prediction is its largest probability.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from data import VOTE_ORDER, Split, most_voted, vote_targets
from model import EMOTIONS, FER2013, FERPLUS

BINS = 15  # of the expected calibration error
SEED = 2013  # of every random draw in the evaluation, so that it can be repeated
Z_95 = 1.96  # standard errors to each side of a 95 % interval
FOLDS = 10  # of the cross-fitted error
TEMPERATURES = (0.05, 20.0)  # limits of a fitted temperature: only a perfect or a useless model needs more
THRESHOLDS = (0.0, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9)
SHIFT_PIXELS = 2  # of test-time averaging: enough to move the pooling grid, and the crop is still a good one


class Comparison(NamedTuple):
    """One set of labels, and the predictions of the output scored against it."""

    output: str
    rows: np.ndarray  # bool (faces,): those that have a label; the arrays below hold only these
    labels: np.ndarray  # int (n,)
    probabilities: np.ndarray  # float (n, 7)

    @property
    def correct(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1) == self.labels


def compare(classifier, split: Split, probabilities: np.ndarray) -> dict[str, Comparison]:
    """Return a `Comparison` with FER-2013's labels, and with votes another with the emotion that has the most alone.

    `probabilities` are a `model.Classifier`'s for every output, (faces, outputs, 7). A network with one output has
    that compared with both.
    """
    votes = {} if split.votes is None else {FERPLUS: most_voted(split.votes)}  # -1: none of the seven
    result = {}
    for name, labels in ({FER2013: split.labels.astype(int)} | votes).items():
        output, rows = name if name in classifier.outputs else classifier.outputs[0], labels >= 0
        result[name] = Comparison(output, rows, labels[rows], probabilities[rows, classifier.outputs.index(output)])
    return result


def predict(classify: Callable, faces: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Return what `classify` returns for many faces, (n, 7) or (n, outputs, 7), in batches to save memory."""
    starts = range(0, max(len(faces), 1), batch_size)
    return np.concatenate([classify(faces[start : start + batch_size]) for start in starts])


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return counts (7, 7), true emotion by row and predicted by column, of two arrays of codes (n,)."""
    matrix = np.zeros((len(EMOTIONS), len(EMOTIONS)), int)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def score(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """Return accuracy, macro F1, log loss (nats), ECE and per-class scores, with 95 % intervals, of n >= 1 faces.

    A class without faces has no recall (None) and is left out of the macro F1; one never predicted has precision 0.
    """
    n, predicted = len(labels), probabilities.argmax(axis=1)
    matrix = confusion_matrix(labels, predicted)
    # The bootstrap: resampling n faces with replacement is drawing the cells of the matrix from a multinomial.
    drawn = np.random.default_rng(SEED).multinomial(n, matrix.ravel() / n, size=1000)
    return {
        "n": n,
        **share("accuracy", predicted == labels),
        "macro_f1": float(macro_f1(matrix)),
        "macro_f1_interval_95": np.quantile(macro_f1(drawn.reshape(-1, *matrix.shape)), [0.025, 0.975]).tolist(),
        **log_loss("log_loss", np.eye(len(EMOTIONS))[labels], probabilities),
        "ece": expected_calibration_error(labels, probabilities),
        "per_class": per_class_scores(matrix),
    }


def vote_scores(votes: np.ndarray, probabilities: np.ndarray) -> dict:
    """Return the scores that need all votes (n, 10), of faces whose most votes go to one of the seven emotions.

    `accuracy_majority` is that on the faces where more than half of the people agree, `vote_log_loss` (nats) compares
    the probabilities with the shares of the votes as `vote_targets` has them, without single votes, and `vote_entropy`
    is the least that it can be. See `with_nine`.
    """
    majority = votes.max(axis=1) > votes.sum(axis=1) / 2
    correct, shares = probabilities.argmax(axis=1) == most_voted(votes), vote_targets(votes)
    return {
        "n_majority": int(majority.sum()),
        **share("accuracy_majority", correct[majority]),
        **log_loss("vote_log_loss", shares, probabilities),
        "vote_entropy": log_loss("entropy", shares, shares)["entropy"],
        **with_nine(votes, probabilities),
    }


def with_nine(votes: np.ndarray, probabilities: np.ndarray) -> dict:
    """Return how often one person votes as most of the other nine do, and how often the network predicts what they see.

    Over all votes on the faces, votes (n, 10), for which one of the seven emotions has the most of the other nine votes
    alone; `n_with_nine` is their number. A vote for none of the seven agrees with nobody's. The shares are None without
    any.
    """
    votes, predicted, columns = votes.astype(int), probabilities.argmax(axis=1), np.array(VOTE_ORDER)
    n = person = network = 0
    for column, vote in enumerate(np.eye(votes.shape[1], dtype=int)):
        voted = votes[:, column] > 0
        most = most_voted(votes[voted] - vote)
        counts = np.where(most >= 0, votes[voted, column], 0)
        n += int(counts.sum())
        person += int(counts[columns[most] == column].sum())
        network += int(counts[predicted[voted] == most].sum())
    shares = {"person_with_nine": person, "network_with_nine": network}
    return {"n_with_nine": n} | {name: count / n if n else None for name, count in shares.items()}


def log_loss(name: str, targets: np.ndarray, probabilities: np.ndarray) -> dict:
    """Return the mean cross-entropy with targets (n, 7), in nats, under a name, and its 95 % interval."""
    losses = -(targets * np.log(np.clip(probabilities.astype(np.float64), 1e-7, 1))).sum(axis=1)
    half = Z_95 * losses.std() / np.sqrt(len(losses))
    return {name: float(losses.mean()), f"{name}_interval_95": [float(losses.mean() + d) for d in (-half, half)]}


def per_class_scores(matrix: np.ndarray) -> dict:
    """Return precision, recall (with interval), F1 and support of each emotion of a confusion matrix (7, 7)."""
    support, predicted, correct = matrix.sum(axis=1), matrix.sum(axis=0), matrix.diagonal()
    return {
        name: {
            "precision": float(correct[i] / max(predicted[i], 1)),
            "recall": float(correct[i] / support[i]) if support[i] else None,
            "recall_interval_95": wilson_interval(correct[i], support[i]),
            "f1": float(2 * correct[i] / max(support[i] + predicted[i], 1)),
            "support": int(support[i]),
        }
        for i, name in enumerate(EMOTIONS)
    }


def macro_f1(matrices: np.ndarray) -> np.ndarray:
    """Return the mean F1 over the classes that have faces, of confusion matrices (..., 7, 7)."""
    support, predicted = matrices.sum(axis=-1), matrices.sum(axis=-2)
    f1 = 2 * np.diagonal(matrices, axis1=-2, axis2=-1) / np.maximum(support + predicted, 1)
    return f1.sum(axis=-1, where=support > 0) / (support > 0).sum(axis=-1)


def wilson_interval(correct: int, n: int) -> list[float] | None:
    """Return the 95 % interval of a share, None for n = 0 (Wilson 1927, doi.org/10.2307/2276774)."""
    if n == 0:
        return None
    share = correct / n
    centre = (share + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 * np.sqrt(share * (1 - share) / n + (Z_95 / (2 * n)) ** 2) / (1 + Z_95**2 / n)
    return [max(float(centre - half), 0.0), min(float(centre + half), 1.0)]


def share(name: str, flags: np.ndarray) -> dict:
    """Return the share of True in bool (n,) under a name, None for n = 0, and its 95 % interval."""
    interval = wilson_interval(int(flags.sum()), len(flags))
    return {name: float(flags.mean()) if len(flags) else None, f"{name}_interval_95": interval}


def chance_accuracy(labels: np.ndarray) -> float:
    """Return the accuracy that needs no learning, 0..1.

    It is the share of the largest class, which a constant prediction reaches, or the upper end of the 95 % interval of
    random guessing where that is higher, as it is for few faces.
    """
    n = len(labels)
    largest = np.bincount(labels, minlength=len(EMOTIONS)).max() / n
    return float(max(largest, wilson_interval(n / len(EMOTIONS), n)[1]))


def nested(scores: dict[str, dict]) -> dict:
    """Merge scores into one dict: those against FER-2013's labels at the top, those against votes under "ferplus"."""
    return scores[FER2013] | {name: each for name, each in scores.items() if name != FER2013}


def by_labels(card: dict) -> dict[str, dict]:
    """Return the parts of what `nested` returned."""
    return {FER2013: card} | ({FERPLUS: card[FERPLUS]} if FERPLUS in card else {})


def per_class_frame(card: dict) -> pd.DataFrame:
    """Return precision, recall, F1 and support of a scorecard, one row for each of the labels and each emotion."""
    frames = {name: pd.DataFrame(scores["per_class"]).T for name, scores in by_labels(card).items()}
    frame = pd.concat(frames, names=["labels", "emotion"])[["precision", "recall", "f1", "support"]]
    return frame.astype({"precision": float, "recall": float, "f1": float, "support": int})


def score_table(card: dict) -> str:
    """Return the per-class scores of a scorecard as text to print."""
    return per_class_frame(card).to_string(float_format="{:.3f}".format)


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Return one row per equal bin of confidence: `low`, `n`, mean `confidence`, `accuracy`.

    The last two are NaN in an empty bin.
    """
    confidence, correct = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    rows = np.minimum((confidence * BINS).astype(int), BINS - 1)
    n = np.bincount(rows, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return pd.DataFrame({
            "low": np.arange(BINS) / BINS,
            "n": n,
            "confidence": np.bincount(rows, confidence, BINS) / n,
            "accuracy": np.bincount(rows, correct, BINS) / n,
        })  # fmt: skip


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean gap between confidence and accuracy over the bins, 0..1 (Guo et al. 2017, arXiv:1706.04599)."""
    table = reliability(labels, probabilities)
    return float((table["n"] * (table["confidence"] - table["accuracy"]).abs().fillna(0)).sum() / table["n"].sum())


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax(logits / temperature), float64 (n, 7): above 1 softens, below 1 sharpens; the order stays."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-30)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the temperature (Guo et al. 2017, arXiv:1706.04599) with the lowest Brier score, within `TEMPERATURES`.

    The log loss, which the paper takes, is dominated by a few confident errors; after label smoothing it fits the
    other faces worse. Found by bisection of the temperature's logarithm.
    """
    truth = np.eye(probabilities.shape[1])[labels]

    def brier_score(log_temperature: float) -> float:
        return ((with_temperature(probabilities, np.exp(log_temperature)) - truth) ** 2).sum()

    low, high = np.log(TEMPERATURES)
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if brier_score(middle) <= brier_score(middle + 1e-5) else (middle, high)
    return float(np.exp(low))


def cross_fitted_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the ECE where each tenth of the faces, drawn at random, has the temperature fitted on all others."""
    rows, calibrated = np.random.default_rng(SEED).permutation(len(labels)), np.empty(probabilities.shape)
    for measured in np.array_split(rows, FOLDS):
        fitted = np.setdiff1d(rows, measured)
        temperature = fit_temperature(labels[fitted], probabilities[fitted])
        calibrated[measured] = with_temperature(probabilities[measured], temperature)
    return expected_calibration_error(labels, calibrated)


def output_layer(model, labels: str = FER2013):
    """Return the dense layer of a Keras model's output `labels`; of a model with one output, that one."""
    names = [layer.name for layer in model.layers]
    return model.layers[names.index(labels) if labels in names else -1]


def fold_temperature(model, temperature: float, labels: str = FER2013) -> None:
    """Divide a Keras model's logits by the temperature, in the weights of the output layer."""
    layer = output_layer(model, labels)
    layer.set_weights([weights / np.float32(temperature) for weights in layer.get_weights()])


def raise_logits(model, amounts: dict[str, float], labels: str) -> None:
    """Raise a Keras model's logits of some emotions by these amounts, in the weights of the output layer."""
    layer = output_layer(model, labels)
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel, bias + np.float32([amounts.get(emotion, 0.0) for emotion in EMOTIONS])])


def coverage(labels: np.ndarray, probabilities: np.ndarray, thresholds=THRESHOLDS) -> list[dict]:
    """Return for each threshold on the confidence the share of faces that reach it and the accuracy on these."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    return [
        {
            "threshold": threshold,
            "coverage": float((kept := confidence >= threshold).mean()),
            "accuracy": float(correct[kept].mean()) if kept.any() else None,
        }
        for threshold in thresholds
    ]


def views(faces: np.ndarray):
    """Yield the ten views of test-time averaging: unshifted, shifted to the four sides, and each of them mirrored."""
    pad = SHIFT_PIXELS
    height, width = faces.shape[1:3]
    padded = np.pad(faces, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    for x, y in ((0, 0), (pad, 0), (-pad, 0), (0, pad), (0, -pad)):
        view = padded[:, pad + y : pad + y + height, pad + x : pad + x + width]
        yield np.ascontiguousarray(view)
        yield np.ascontiguousarray(view[:, :, ::-1])


def averaged(classify: Callable, faces: np.ndarray) -> np.ndarray:
    """Return the mean probabilities (n, 7) over the `views` of each face."""
    return np.mean([predict(classify, view) for view in views(faces)], axis=0)
