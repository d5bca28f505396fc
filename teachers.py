"""Distillation: networks that teach another, asked once about each face or about every batch as it was changed."""

import itertools
from pathlib import Path

import numpy as np


class TeacherError(ValueError):
    """A file that cannot teach; the message says what is wrong with it."""


def ask_teachers(paths: list, training):
    """Return the teachers' mean answer to the faces of a `data.Split` and their mirror images, float32 (n, 7).

    A teacher that was trained with `--fold` answers for the faces of that part alone: what it has met it knows by
    heart, and says little of it that the labels do not.
    """
    answers, heard = np.zeros((len(training), 7)), np.zeros((len(training), 1))
    for path in paths:
        if path.suffix == ".npy":
            asked, answer = slice(None), load_soft_labels(path, training.labels)
        else:
            asked, answer = ask_teacher(path, training.faces)
        answers[asked] += answer
        heard[asked] += 1
    if not heard.all():
        raise TeacherError(
            f"No --teacher answers for {(heard == 0).sum():,} of the training faces: name those of all parts of --fold."
        )
    return np.float32(answers / heard)


def ask_teacher(path: Path, faces) -> tuple:
    """Return which faces a network answers for, bool (n,), and its mean answers to these and their mirror images."""
    from data import in_part
    from model import load_classifier

    classifier, fold = load_classifier(path), fold_of(path)
    asked = in_part(faces, *fold) if fold else np.ones(len(faces), bool)
    print(f"Asking the teacher {path} about {asked.sum():,} faces ...", flush=True)
    return asked, mirrored_mean(classifier, faces[asked])


def mirrored_mean(classifier, faces):
    """Return a network's mean answers, (n, 7), to faces (n, 48, 48, 1) and their mirror images."""
    from evaluate import predict
    from model import split_arch

    answers = predict(classifier.probabilities, faces)
    if classifier.model and split_arch(classifier.model.name)[1]:  # it says the same of both
        return answers
    return (answers + predict(classifier.probabilities, faces[:, :, ::-1])) / 2


def fold_of(path: Path) -> list[int] | None:
    """Return the part of the training faces that a network was trained without, and of how many parts, or None."""
    from model import description_path, read_description

    return read_description(description_path(path)).get("training", {}).get("arguments", {}).get("fold")


def answers_once(path: Path) -> bool:
    """Return whether a teacher can be asked about the training faces as they are, but not about every batch."""
    return path.suffix != ".keras" or fold_of(path) is not None


def load_teacher(path: Path, mixed_precision: bool):
    """Return a teacher to ask about every batch, a function from uint8 faces (n, 48, 48, 1) to answers (n, 7)."""
    import keras

    from model import load_classifier

    classifier = load_classifier(path)
    if mixed_precision:
        for layer in classifier.model.layers[:-1]:  # the answers themselves stay float32
            layer.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    return classifier.probabilities


def load_soft_labels(path: Path, labels):
    """Return a teacher's answers, (n, 7), from a .npy file: to the training faces, whose labels (n,) they follow."""
    try:
        answers = np.asarray(np.load(path), np.float32)
    except (OSError, TypeError, ValueError, EOFError) as error:  # an .npz, and text, are no array of numbers
        raise TeacherError(f"--teacher {path} cannot be read ({error}).") from error
    if answers.shape != (len(labels), 7) or not np.allclose(answers.sum(axis=1), 1, atol=0.01):
        raise TeacherError(f"--teacher {path} does not hold seven probabilities for each of the {len(labels):,} faces.")
    right = np.mean(answers.argmax(axis=1) == labels)
    if right < 0.2:  # of FER-2013's faces in another order, 0.17 would be
        raise TeacherError(
            f"--teacher {path} names the label of only {right:.0%} of these faces: it answers for others, or in "
            "another order. Give it the --data, --fraction, --fold and --seed that it was made with."
        )
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
