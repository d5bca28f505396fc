"""After the last epoch: calibrate the best model, describe it, put it in place and report on it."""

import importlib
import json
import os
import platform
import time
from pathlib import Path

import keras
import pandas as pd

import data
from common.cli import printable
from common.files import atomic_path, copy_together
from emotions.faces import load_cascade
from evaluation.history import best_epoch
from evaluation.metrics import by_labels, raise_logits, score_table
from evaluation.report import NAMES, fold_temperatures, headline, score_splits, write_report
from model import (
    BEST_MODEL,
    EMOTIONS,
    FER2013,
    FERPLUS,
    ModelError,
    UserError,
    count_multiply_adds,
    first_line,
    keras_classifier,
    load_classifier,
    read_json,
    sha256_of,
)
from training.batch_norm import fit_batch_normalization
from training.checkpoints import ARGUMENTS, HISTORY, Run, new_folder, read_history, remove, write_json
from training.export import export, refuse_other_backends
from training.options import BEST, command_words, shell_command

ENOUGH_FACES = 20_000  # training faces from which on a model replaces best_model.keras
SUFFIXES = (".keras", ".json", *(f"{kind}{end}" for kind in (".tflite", ".int8.tflite") for end in ("", ".json")))
# Of emotions with 1 and 3 % of FER+'s votes (logit adjustment, Menon et al. 2021): a network trained on so few of them
# predicts them too rarely. Chosen on PublicTest: recall rises, and the agreement stays within 0.1 points.
LOGIT_ADJUSTMENT = {"disgust": 0.4, "fear": 0.8}
TRAINED_ON = {FER2013: "the labels of FER-2013", FERPLUS: "the votes of ten people (FER+)"}


def finish(run: Run, dataset: data.Dataset, training: data.Split) -> None:
    """Calibrate the best model, describe it, put it in place, then report on it.

    `training` is the part of the data set's training faces that it learned from.
    """
    classifier = load_classifier(run.best)
    if "sha256" not in classifier.description:  # else an interrupted finish came so far
        if FERPLUS in classifier.outputs:
            raise_logits(classifier.model, LOGIT_ADJUSTMENT, FERPLUS)
        classifier, calibrated = calibrate(classifier, training, dataset[data.PUBLIC_TEST])
        if FERPLUS in classifier.outputs:
            calibrated[FERPLUS]["logit_adjustment"] = LOGIT_ADJUSTMENT
        classifier.description = describe(classifier, run, dataset, len(training)) | {
            "calibration": calibrated,
            "scores": score_splits(classifier, dataset.splits | {data.TRAINING: training}),
        }
        with atomic_path(run.best) as temporary:
            classifier.model.save(temporary)
            classifier.description["sha256"] = sha256_of(temporary)
            # First: killed in between, a resume ignores it by its hash and calibrates the same network again.
            write_json(run.best.with_suffix(".json"), classifier.description)
    placed = run.options.output is None and len(training) >= ENOUGH_FACES
    if placed and keras.backend.backend() == "tensorflow":
        try:  # what main.py runs; it runs the .keras file where this one is missing
            export(classifier, run.best, dataset, run.best.with_suffix(".tflite"), int8=False)
        except ModelError as error:
            print(f"No {BEST_MODEL.with_suffix('.tflite').name} was made: {error}")
    outcome = put_in_place(run, len(training))
    run.finish()
    try:
        report(run.folder, run.best, classifier, dataset, history=pd.read_csv(run.folder / HISTORY))
    finally:
        print(outcome)


def calibrate(classifier, training: data.Split, validation: data.Split) -> tuple:
    """Measure a classifier's batch normalisation without augmentation, then fold in the temperature that fits.

    Returns a new classifier, and what the description has of its calibration. Calibrating twice changes nothing.
    """
    fit_batch_normalization(classifier.model, training.faces)
    calibrated = fold_temperatures(keras_classifier(classifier.model, classifier.description), validation)
    return keras_classifier(classifier.model, classifier.description), calibrated


def describe(classifier, run: Run, dataset: data.Dataset, training_faces: int) -> dict:
    """Return what `best_model.json` holds: a model's contract, and how it came about."""
    history = pd.read_csv(run.folder / HISTORY)
    packages = ("keras", keras.backend.backend(), "numpy")
    versions = {name: importlib.import_module(name).__version__ for name in packages}
    training = {
        "command": shell_command("train.py", *command_words(run.options)),
        "arguments": {name: value for name, value in vars(run.options).items() if name not in ("data", "output")},
        "epochs": len(history),
        "best_epoch": best_epoch(history) + 1,
        "faces": training_faces,
        "data": dataset.counts()["all"].to_dict(),
        "data_sha256": run.state["data_sha256"],
        "versions": versions | {"python": platform.python_version()},
    }
    return {
        "labels": list(EMOTIONS),
        "pixel_range": [0, 255],
        "input": "uint8 gray faces (n, 48, 48, 1)",
        "outputs": {name: TRAINED_ON[name] for name in classifier.outputs},
        "parameters": classifier.model.count_params(),
        "multiply_adds": count_multiply_adds(classifier.model),
        "training": training,
    }


def put_in_place(run: Run, training_faces: int) -> str:
    """Copy the model and its description to where they belong; return what was replaced and how to undo it.

    Without --output, a model that saw few faces stays in its folder. What it replaces is kept as *.previous.*, once:
    also where a full disk or a kill cut this short and a resume does it again.
    """
    output = run.options.output or Path(BEST)
    if run.options.output is None and training_faces < ENOUGH_FACES:
        return (
            f"{printable(run.best)} is new. On PublicTest: {accuracy_of(run.best)}.\n"
            f"It saw only {training_faces:,} training faces, so {BEST} stays as it is; --output would place it.\n"
            f"Try it with: {shell_command('main.py', '--model', run.best)}"
        )
    previous, place = output.with_name(f"{output.stem}.previous.keras"), str(output.resolve())
    if run.state.get("kept_for") != place:
        if replaced := any(output.with_suffix(suffix).exists() for suffix in SUFFIXES):
            copy_model(output, previous)
        run.update(kept_for=place, replaced=replaced)
    copy_model(run.best, output)
    model_option = () if output.resolve() == BEST_MODEL else ("--model", output)
    text = f"{printable(output)} is new. On PublicTest: {accuracy_of(output)}.\n"
    if run.state.get("replaced"):
        text += f"It replaces a model with {accuracy_of(previous)}, kept as {printable(previous.with_suffix('.*'))}.\n"
        text += f"Undo with:   {undo_command(previous, output)}\n"
    return f"{text}Try it with: {shell_command('main.py', *model_option)}"


def copy_model(source: Path, path: Path) -> None:
    """Copy a model with its export and their descriptions over another one; what only that had would describe it."""
    pairs = [(source.with_suffix(suffix), path.with_suffix(suffix)) for suffix in SUFFIXES]
    copy_together((old, new) for old, new in pairs if old.exists())
    remove(new for old, new in pairs if not old.exists())


def accuracy_of(model: Path) -> str:
    """Return the scores on PublicTest that a model's description names, as text."""
    try:
        scores = read_json(model.with_suffix(".json"))["scores"]
        if scores["split"] == data.PUBLIC_TEST:
            each = by_labels(scores).items()
            return ", ".join(f"{part['accuracy']:.2%} on {NAMES[name]} (n = {part['n']:,})" for name, part in each)
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        pass
    return "an unknown accuracy"


def undo_command(previous: Path, output: Path) -> str:
    """Return one command, for any shell, that puts a replaced model and its description back."""
    quoted = repr if os.name == "nt" else json.dumps  # a shell's own quotes come around it
    steps = ["import os"]  # the first of them fails if it was done already
    for suffix in SUFFIXES:
        old, new = (path.with_suffix(suffix) for path in (previous, output))
        if old.exists():
            steps.append(f"os.replace({quoted(str(old))}, {quoted(str(new))})")
        elif new.exists():
            steps.append(f"os.remove({quoted(str(new))})")
    return shell_command("-c", "; ".join(steps))


def report(folder: Path, path: Path, classifier, dataset: data.Dataset, split=data.PUBLIC_TEST, history=None) -> None:
    """Write report.md, its figures and scorecard.json on a model's file into a folder; print the scores."""
    print(f"Evaluating on {split}, which takes a few minutes ...", flush=True)
    origin = {"model": str(path), "model_sha256": sha256_of(path)}
    origin |= {"data": dataset.source, "data_sha256": dataset.sha256(), "date": time.strftime("%Y-%m-%d %H:%M")}
    card = write_report(folder, classifier, dataset, split, origin, history)
    print(f"{split}, single crop: {headline(card)}")
    print(f"{score_table(card)}\nReport: {folder / 'report.md'}, for programs: {folder / 'scorecard.json'}")


def evaluate_or_export(args) -> None:
    """Do what --evaluate or --export asks for; the model stays as it is."""
    if args.export:
        refuse_other_backends()
    classifier = load_classifier(args.model)  # an error in it is reported before the data is read
    dataset = data.load_fer2013(args.options.data, args.options.votes)
    print(dataset.summary())
    learned_from = classifier.description.get("training", {}).get("data_sha256")
    if args.evaluate and args.split == data.PUBLIC_TEST and dataset.drawn and learned_from != dataset.sha256():
        raise UserError(
            f"{dataset.source} has no PublicTest, and the model may have learned from any of its faces. Give data with "
            "PublicTest, or exactly the data that it was trained on."
        )
    if args.export:
        print(f"Converting {printable(args.model)} and comparing, about a minute ...", flush=True)
        print(export(classifier, args.model, dataset, args.export))
        print(printable(f"{args.export} is ready: {shell_command('main.py', '--model', args.export)}"))
        return
    load_cascade()  # without it there is no report
    if args.split not in dataset.splits:
        raise UserError(f"{dataset.source} has no {args.split}. Choose another --split, or the whole data set.")
    curves, history = args.model.with_name(HISTORY), None
    if curves.exists() and args.model.with_name(ARGUMENTS).exists():  # the model is still in the folder of its training
        try:
            history = read_history(curves.parent)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{curves} is damaged ({first_line(error)}). Delete it: the report has no curves then."
            ) from error
    folder = new_folder({"data": dataset.source, "model": args.model, "split": args.split})
    report(folder, args.model, classifier, dataset, args.split, history)
