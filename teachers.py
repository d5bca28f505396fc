"""Distillation: networks that teach another, asked once about each face or about every batch as it was changed."""

import itertools
from pathlib import Path

import numpy as np


class TeacherError(ValueError):
    """A file that cannot teach; the message says what is wrong with it."""


def ask_teachers(paths: list, faces):
    """Return the teachers' mean answer to faces (n, 48, 48, 1) and their mirror images, float32 (n, 7)."""
    from evaluate import predict
    from model import load_classifier

    answers = []
    for path in paths:
        print(f"Asking the teacher {path} about {len(faces):,} faces ...", flush=True)
        if path.suffix == ".npy":
            answers.append(load_soft_labels(path, len(faces)))
        else:
            classify = load_classifier(path).probabilities
            answers.append((predict(classify, faces) + predict(classify, faces[:, :, ::-1])) / 2)
    return np.mean(answers, axis=0, dtype=np.float32)


def load_teacher(path: Path, mixed_precision: bool):
    """Return a teacher to ask about every batch, a function from uint8 faces (n, 48, 48, 1) to answers (n, 7)."""
    import keras

    from model import fuse_batch_normalization, load_classifier

    classifier = load_classifier(path)
    if mixed_precision:
        for layer in classifier.model.layers[:-1]:  # the answers themselves stay float32
            layer.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    fuse_batch_normalization(classifier.model)
    return classifier.probabilities


def load_soft_labels(path: Path, count: int):
    """Return a teacher's answers, (count, 7), from a .npy file, in the order of the training faces."""
    try:
        answers = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise TeacherError(f"--teacher {path} cannot be read ({error}).") from error
    if answers.shape != (count, 7) or not np.allclose(answers.sum(axis=1), 1, atol=0.01):
        raise TeacherError(f"--teacher {path} does not hold seven probabilities for each of the {count:,} faces.")
    return answers


def taught(make_batches, teachers: list, weight: float, first_step: int, size: int):
    """Yield the batches from a step on, their targets blended with what a teacher answers to these very faces.

    The teachers see them whole, (n, 48, 48, 1); they come out shrunk to a size.
    No answer comes twice, so none is learnt by heart (Beyer et al. 2022, "A good teacher is patient and consistent").
    The teachers take turns, with the faces as they are and mirrored: their mean answer for the price of one.
    """
    from data import resize_faces

    turns = itertools.islice(itertools.cycle(itertools.product(teachers, (1, -1))), first_step, None)
    for (faces, targets), (classify, direction) in zip(make_batches(), turns, strict=False):
        pixels = np.uint8(np.round(faces[:, :, ::direction]))
        yield resize_faces(faces, size), distilled(targets, classify(pixels), weight)


def distilled(targets, answers, weight: float):
    """Return targets (n, 7) in which teachers' answers (n, 7) have a share: distillation, Hinton et al. 2015."""
    return (1 - weight) * targets + weight * answers
