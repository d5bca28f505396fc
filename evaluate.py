"""Predictions -> scores: functions from arrays to numbers. No drawing, no files, no command line.

Labels are Kaggle's codes (n,), probabilities float (n, 7) with rows summing to 1, faces uint8 (n, 48, 48, 1).
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from model import EMOTIONS

BINS = 15  # of the expected calibration error
SEED = 2013  # of every draw in here, so that a second evaluation says the same
Z_95 = 1.96  # standard errors to each side of a 95 % interval
HALVINGS = 20  # draws of the two halves over which a cross-fitted error is averaged
TEMPERATURES = (0.05, 20.0)  # no temperature outside is fitted: it would call for a perfect or a blind model
COPY_LEVELS = 8  # gray levels
MOST_COPIED = 10  # groups of copies that the audit names
THRESHOLDS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SHIFT_PIXELS = 2  # test-time averaging: far enough to change the pooling grid, near enough to stay a good crop


def predict(classify: Callable, faces: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Return the probabilities (n, 7) of many faces, batch by batch: all at once would need gigabytes."""
    starts = range(0, len(faces), batch_size)
    batches = [classify(faces[start : start + batch_size]) for start in starts]
    return np.concatenate(batches) if batches else np.zeros((0, len(EMOTIONS)), np.float32)


# --- scores -----------------------------------------------------------------------------------------------------


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return counts (7, 7), true emotion by row and predicted by column, for two arrays of codes (n,)."""
    matrix = np.zeros((len(EMOTIONS), len(EMOTIONS)), int)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def score(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """Return accuracy, macro F1, log loss (nats), ECE and per-class figures, with 95 % intervals; n is at least 1.

    A class without faces has no recall (None) and stays out of the macro F1; one never predicted has precision 0.
    """
    n = len(labels)
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1))
    losses = -np.log(np.clip(probabilities[np.arange(n), labels].astype(np.float64), 1e-7, 1))
    return {
        "n": n,
        "accuracy": float(matrix.trace() / n),
        "accuracy_interval_95": wilson_interval(matrix.trace(), n),
        "macro_f1": float(macro_f1(matrix)),
        "macro_f1_interval_95": macro_f1_interval(matrix),
        "log_loss": float(losses.mean()),
        "log_loss_interval_95": mean_interval(losses),
        "ece": expected_calibration_error(labels, probabilities),
        "per_class": per_class_scores(matrix),
    }


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
    """Return the mean F1 over the classes that have faces, for confusion matrices (..., 7, 7)."""
    support, predicted = matrices.sum(axis=-1), matrices.sum(axis=-2)
    f1 = 2 * np.diagonal(matrices, axis1=-2, axis2=-1) / np.maximum(support + predicted, 1)
    return f1.sum(axis=-1, where=support > 0) / (support > 0).sum(axis=-1)


def macro_f1_interval(matrix: np.ndarray) -> list[float]:
    """Return the 95 % bootstrap interval of the macro F1 (percentiles).

    Drawing n faces anew with replacement is drawing the cells of the confusion matrix from a multinomial.
    """
    n = matrix.sum()
    drawn = np.random.default_rng(SEED).multinomial(n, matrix.ravel() / n, size=1000)
    return np.quantile(macro_f1(drawn.reshape(-1, *matrix.shape)), [0.025, 0.975]).tolist()


def wilson_interval(correct: int, n: int) -> list[float] | None:
    """Return the 95 % interval of a share, None for n = 0 (Wilson 1927, doi.org/10.2307/2276774)."""
    if n == 0:
        return None
    share = correct / n
    centre = (share + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 * np.sqrt(share * (1 - share) / n + (Z_95 / (2 * n)) ** 2) / (1 + Z_95**2 / n)
    return [max(float(centre - half), 0.0), min(float(centre + half), 1.0)]


def mean_interval(values: np.ndarray) -> list[float]:
    """Return the 95 % interval of a mean by the normal approximation."""
    half = Z_95 * values.std() / np.sqrt(len(values))
    return [float(values.mean() - half), float(values.mean() + half)]


def score_table(scores: dict) -> str:
    """Return the per-class figures of `score` as text to print."""
    return per_class_frame(scores).to_string(float_format="{:.3f}".format)


def per_class_frame(scores: dict) -> pd.DataFrame:
    """Return precision, recall, F1 and support with a row an emotion."""
    frame = pd.DataFrame(scores["per_class"]).T[["precision", "recall", "f1", "support"]]
    return frame.astype({"precision": float, "recall": float, "f1": float, "support": int})


# --- calibration ------------------------------------------------------------------------------------------------


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Return a row for each of the equal bins of certainty: `low`, `high`, `n`, mean `certainty`, `accuracy`.

    Certainty is the probability of the answer. Empty bins have NaN in the last two.
    """
    certainty, correct = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    rows = np.minimum((certainty * BINS).astype(int), BINS - 1)
    n = np.bincount(rows, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return pd.DataFrame({
            "low": np.arange(BINS) / BINS,
            "high": (np.arange(BINS) + 1) / BINS,
            "n": n,
            "certainty": np.bincount(rows, certainty, BINS) / n,
            "accuracy": np.bincount(rows, correct, BINS) / n,
        })  # fmt: skip


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean gap between certainty and accuracy over equal bins, 0..1 (Guo et al. 2017, arXiv:1706.04599)."""
    table = reliability(labels, probabilities)
    return float((table["n"] * (table["certainty"] - table["accuracy"]).abs().fillna(0)).sum() / table["n"].sum())


def perfect_model_ece(probabilities: np.ndarray) -> float:
    """Return the mean ECE that chance alone gives a model whose probabilities are true, at this n."""
    generator = np.random.default_rng(SEED)
    certainty, answers = probabilities.max(axis=1), probabilities.argmax(axis=1)
    # Only right or wrong counts for the ECE, so a wrong label may be any other code.
    right = generator.random((100, len(answers))) < certainty
    drawn = np.where(right, answers, (answers + 1) % len(EMOTIONS))
    return float(np.mean([expected_calibration_error(labels, probabilities) for labels in drawn]))


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax(logits / temperature), float64 (n, 7); above 1 softens, below 1 sharpens, the answers stay."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-30)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the temperature (Guo et al. 2017, arXiv:1706.04599) with the least Brier score, within `TEMPERATURES`.

    The log loss, which that paper takes, is ruled by the few faces that a network is sure of and wrong about; after
    label smoothing it fits the many worse. The search halves the interval in the logarithm of the temperature.
    """
    truth = np.eye(probabilities.shape[1])[labels]

    def brier_score(log_temperature: float) -> float:
        return ((with_temperature(probabilities, np.exp(log_temperature)) - truth) ** 2).sum(axis=1).mean()

    low, high = np.log(TEMPERATURES)
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if brier_score(middle) <= brier_score(middle + 1e-5) else (middle, high)
    return float(np.exp(low))


def cross_fitted_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the expected calibration error where each half of the faces has the temperature fitted on the other.

    Both halves are pooled; the mean over `HALVINGS` draws of the halves, for one draw moves it by 0.1 points.
    """
    generator = np.random.default_rng(SEED)
    errors = []
    for _ in range(HALVINGS):
        halves = np.array_split(generator.permutation(len(labels)), 2)
        calibrated = np.empty(probabilities.shape)
        for fitted, measured in (halves, halves[::-1]):
            temperature = fit_temperature(labels[fitted], probabilities[fitted])
            calibrated[measured] = with_temperature(probabilities[measured], temperature)
        errors.append(expected_calibration_error(labels, calibrated))
    return float(np.mean(errors))


def fold_temperature(model, temperature: float) -> None:
    """Divide a Keras model's logits by the temperature for good, in the kernel and bias of its last dense layer."""
    last = model.layers[-1]
    last.set_weights([weights / np.float32(temperature) for weights in last.get_weights()])


def coverage(labels: np.ndarray, probabilities: np.ndarray, thresholds=THRESHOLDS) -> pd.DataFrame:
    """Return, for each threshold on the certainty, the share of faces answered and the accuracy on them."""
    certainty, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    rows = []
    for threshold in thresholds:
        kept = certainty >= threshold
        accuracy = float(correct[kept].mean()) if kept.any() else None
        rows.append({"threshold": threshold, "coverage": float(kept.mean()), "accuracy": accuracy})
    return pd.DataFrame(rows).astype({"accuracy": float})


# --- test-time averaging ----------------------------------------------------------------------------------------


def views(faces: np.ndarray):
    """Yield the ten views of test-time averaging: in place, shifted to the four sides, and the mirror of each."""
    steps = ((0, 0), (SHIFT_PIXELS, 0), (-SHIFT_PIXELS, 0), (0, SHIFT_PIXELS), (0, -SHIFT_PIXELS))
    pad = SHIFT_PIXELS
    height, width = faces.shape[1:3]
    padded = np.pad(faces, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    for x, y in steps:
        view = padded[:, pad + y : pad + y + height, pad + x : pad + x + width]
        yield np.ascontiguousarray(view)
        yield np.ascontiguousarray(view[:, :, ::-1])


def averaged(classify: Callable, faces: np.ndarray) -> np.ndarray:
    """Return the mean probabilities (n, 7) over the `views` of each face."""
    return np.mean([predict(classify, view) for view in views(faces)], axis=0)


# --- the data ---------------------------------------------------------------------------------------------------


def is_constant(faces: np.ndarray) -> np.ndarray:
    """Return which faces (n,) have a single gray value."""
    pixels = faces.reshape(len(faces), -1)
    return pixels.min(axis=1) == pixels.max(axis=1)


def is_copy(faces: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which faces (n,) are copies of the nearest of the others, at least one: no pixel over `COPY_LEVELS` off.

    Saving a photograph again as JPEG leaves such copies. The nearest is found on means over 4 x 4 pixels.
    """
    small, known = (_blocks(each) for each in (faces, others))
    lengths = (known**2).sum(axis=1)
    rows = np.array_split(np.arange(len(faces)), len(faces) // 256 + 1)
    nearest = np.concatenate([(lengths - 2 * small[some] @ known.T).argmin(axis=1) for some in rows])
    return np.abs(faces.astype(int) - others[nearest]).max(axis=(1, 2, 3)) <= COPY_LEVELS


def _blocks(faces: np.ndarray) -> np.ndarray:
    size = faces.shape[1] // 4
    return faces.reshape(-1, size, 4, size, 4).mean(axis=(2, 4), dtype=np.float32).reshape(-1, size * size)


def copy_groups(splits: dict) -> list[list[tuple[str, int, int]]]:
    """Return the groups of equal faces over all splits: (split, row, label) for each face, two or more a group."""
    groups = {}
    for name, split in splits.items():
        for row, (face, label) in enumerate(zip(split.faces, split.labels, strict=True)):
            groups.setdefault(face.tobytes(), []).append((name, row, int(label)))
    return [group for group in groups.values() if len(group) > 1]


def audit(splits: dict) -> dict:
    """Return what is odd in the splits: constant images, copies, copies with different labels.

    `splits` maps names to objects with `faces` and `labels`. `conflicts` lists the groups whose labels differ.
    """
    groups = copy_groups(splits)
    within = {name: sum(max(sum(f[0] == name for f in group) - 1, 0) for group in groups) for name in splits}
    return {
        "constant": {name: int(is_constant(split.faces).sum()) for name, split in splits.items()},
        "groups": len(groups),
        "copies_within": within,
        "most_copied": sorted(groups, key=len, reverse=True)[:MOST_COPIED],
        "conflicts": [group for group in groups if len({face[2] for face in group}) > 1],
    }


# --- where the network looks ------------------------------------------------------------------------------------


def grad_cam(model, faces: np.ndarray, codes) -> np.ndarray:
    """Return where a Keras model looks for the emotions `codes` (n,): maps (n, 48, 48), 0..1, 1 where most.

    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) on the last ReLU of at least 6 x 6. Its weights, the mean
    gradients of the logit by channel, are taken as differences, so that every Keras backend can do it.
    Raises `ValueError` where the network has no such layer, or another way around it.
    """
    import keras

    last = model.layers[-1]  # dense, before its softmax
    kernel, bias = last.get_weights()
    rectified = [layer for layer in model.layers if isinstance(layer, keras.layers.ReLU)]
    large_maps = [layer for layer in rectified if len(layer.output.shape) == 4 and layer.output.shape[1] >= 6]
    if not large_maps:
        raise ValueError("The network has no ReLU with maps of at least 6 x 6.")
    layer = large_maps[-1]
    features = keras.Model(model.input, layer.output)
    rest = keras.Model(layer.output, last.input)
    maps = keras.ops.convert_to_numpy(features(faces))  # (n, h, w, c)
    step = 3e-3 * np.eye(maps.shape[-1], dtype=np.float32)[:, None, None, :]  # one channel after the other
    looked = []
    for channels, code in zip(maps, codes, strict=True):
        up, down = (keras.ops.convert_to_numpy(rest(channels + sign * step)) @ kernel + bias for sign in (1, -1))
        looked.append(np.maximum((channels * (up - down)[:, code]).sum(axis=-1), 0))
    looked = np.stack(looked)[..., None]
    looked = looked / np.maximum(looked.max(axis=(1, 2, 3), keepdims=True), 1e-12)
    large = keras.ops.image.resize(looked, faces.shape[1:3], interpolation="bilinear", data_format="channels_last")
    return keras.ops.convert_to_numpy(large)[..., 0]
