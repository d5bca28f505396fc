"""Distillation (Hinton et al. 2015): targets that blend labels with the predictions of trained networks."""

import itertools
from pathlib import Path

import keras
import numpy as np

from evaluation.metrics import predict, raise_logits
from model import (
    ARCHITECTURES,
    FERPLUS,
    Classifier,
    UserError,
    build_model,
    is_equivariant,
    load_classifier,
)

TEACHER_WEIGHT = 0.5  # of the teachers' predictions, beside the labels


def load_unadjusted(path: Path) -> Classifier:
    """Load a network with the logits that it learned: those that `finish` raised after its training are lowered again.

    Else a network that starts or learns from it would have them raised twice.
    """
    classifier = load_classifier(path)
    calibration = classifier.description.get("calibration", {}).get(FERPLUS, {})
    if FERPLUS in classifier.outputs and (raised := calibration.get("logit_adjustment")):
        lowered = {emotion: -amount / calibration.get("temperature", 1) for emotion, amount in raised.items()}
        raise_logits(classifier.model, lowered, FERPLUS)
    return classifier


def load_teacher(path: Path, outputs: tuple, mixed_precision: bool) -> Classifier:
    """Return a trained network as a classifier, fast where training is. Raises `UserError` if it lacks an output."""
    classifier = load_unadjusted(path)
    if classifier.outputs[: len(outputs)] != outputs:
        raise UserError(f"--teacher {path} has no output {outputs[-1]}. Use one that was trained with votes.")
    if mixed_precision:
        for layer in classifier.model.layers[: -len(classifier.outputs)]:  # the probabilities stay float32
            layer.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    return classifier


def online_teacher(teachers: list):
    """Return `BatchSettings.teacher`: it blends a batch's targets with what a teacher predicts for these very faces.

    No prediction comes twice, so none is memorised (Beyer et al. 2022, "A good teacher is patient and consistent").
    The teachers take turns, on the faces and on their mirror images: their mean prediction for the price of one.
    """
    turns = list(itertools.product(teachers, (1, -1)))

    def blend(faces: np.ndarray, targets: np.ndarray, step: int) -> np.ndarray:
        teacher, direction = turns[step % len(turns)]
        pixels = np.uint8(np.round(faces[:, :, ::direction]))  # (B, 48, 48, 1)
        return distilled(targets, teacher.all_probabilities(pixels), TEACHER_WEIGHT)

    return blend


def distilled(targets: np.ndarray, probabilities: np.ndarray, weight: float) -> np.ndarray:
    """Return targets (n, 7) or (n, 2, 7) in which probabilities (n, outputs, 7) have this weight, 0..1.

    A face without votes has targets of zero for that output, and learns from the probabilities alone.
    """
    probabilities = probabilities[:, 0] if targets.ndim == 2 else probabilities[:, : targets.shape[1]]
    known = targets.any(axis=-1, keepdims=True)
    kept, added = (np.where(known, *np.float32(weights)) for weights in ((1 - weight, 0), (weight, 1)))
    return kept * targets + added * probabilities


def soft_labels(classifier, faces: np.ndarray) -> np.ndarray:
    """Return a classifier's mean probabilities (n, outputs, 7) for faces (n, 48, 48, 1) and their mirror images."""
    probabilities = predict(classifier.all_probabilities, faces)
    if is_equivariant(classifier.model.name):  # the same for both
        return probabilities
    return (probabilities + predict(classifier.all_probabilities, faces[:, :, ::-1])) / 2


def mean_weights(paths: list | None, arch: str, outputs: tuple) -> list | None:
    """Return the mean weights of trained models of an architecture, None for no models.

    Networks that were fine-tuned from the same one are often as good in the mean of their weights as in the mean of
    their predictions (Wortsman et al. 2022, "Model soups"). A model may have an output more than are trained. Raises
    `UserError` for another architecture.
    """
    if not paths:
        return None
    weights, shapes = [], [weight.shape for weight in build_model(arch, outputs=outputs).get_weights()]
    for path in paths:
        classifier = load_unadjusted(path)
        name = classifier.model.name
        if name != arch:
            hint = f"Add --arch {name}, or use" if name in ARCHITECTURES else "Use"
            raise UserError(f"{path} is a {name}, not a {arch}. {hint} another model.")
        if classifier.outputs[: len(outputs)] != outputs:
            raise UserError(f"{path} predicts {', '.join(classifier.outputs)}, this training {', '.join(outputs)}.")
        network = classifier.model
        weights.append(keras.Model(network.inputs[0], network.outputs[: len(outputs)]).get_weights())
        if [weight.shape for weight in weights[-1]] != shapes:
            raise UserError(f"{path} has other layers than the {arch} of this train.py. Use another model.")
    return [np.mean(of_one_layer, axis=0) for of_one_layer in zip(*weights, strict=True)]
