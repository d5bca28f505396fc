"""Compile and fit: one call of Keras's `fit` for each phase, the model passed on in memory."""

import contextlib
import io
import math
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

import data
from common import signals
from common.cli import printable
from common.files import atomic_path
from model import FER2013, FERPLUS, OUTPUTS, UserError, build_model, keras_classifier, load_classifier
from training import checkpoints
from training.batch_norm import fuse_batch_normalization, shorten_memory
from training.checkpoints import Run
from training.distillation import distilled, load_teacher, mean_weights, online_teacher, soft_labels
from training.distribution import Share
from training.finish import calibrate
from training.losses import Agreement, VoteCrossentropy
from training.muon import Muon
from training.schedule import PATIENCE, SOFT_LABEL_WEIGHT, Phase, augmentation_strength, learning_rate, phase_at, phases

CPU_INFORMATION = Path("/proc/cpuinfo")


class OutOfMemory(UserError):
    """The memory is not enough for a training."""


def choose_faces(dataset: data.Dataset, options) -> data.Split:
    """Return the training faces that --fraction leaves: the same share of every emotion."""
    training = dataset[data.TRAINING]
    if options.fraction < 1:
        training = training[data.stratified(training.labels, options.fraction, options.seed)]
    if len(training) == 0:
        raise UserError("No training face is left. Use a larger --fraction.")
    return training


def fit(run: Run, training: data.Split, dataset: data.Dataset, share: Share) -> None:
    """Train a new or resumed run to its last epoch; nothing is written before everything it needs has been read.

    `training` is the part of the data set's training faces to learn from. Raises `UserError`, or `OutOfMemory`.
    """
    sha256 = dataset.sha256()
    if run.state and run.state["data_sha256"] != sha256:
        raise UserError(
            f"{run.options.data} is not the data of {run.folder}, or has other votes. Point --data and --votes to what "
            "it began with."
        )
    if run.state.get("stopped") or run.epochs >= run.options.epochs:  # at most the finish is missing
        return
    run.outputs = OUTPUTS if training.votes is not None else (FER2013,)
    validation, compiled_for = dataset[data.PUBLIC_TEST], None
    validated = validation.faces, data.by_output(validation_targets(validation, run.outputs))
    with explained_out_of_memory():
        model, weights, teachers = prepare(run)
    options = run.options
    keras.utils.set_random_seed(options.seed)
    precision = " in bfloat16" if options.mixed_precision else ""
    print(f"{len(training):,} training and {len(validation):,} validation faces, {options.arch}{precision}")
    print(
        f"Everything of this run is kept in {printable(run.folder)}; Ctrl-C stops it and keeps the best model so far."
    )
    if dataset.drawn and options.init_from and not run.state:
        print(
            "The validation faces are a tenth of Training. If the model of --init-from has learned from these faces, "
            "the scores will be too high."
        )
    callbacks = make_callbacks(run, sha256)
    with explained_out_of_memory():
        for phase in phases(options):
            if run.epochs >= phase.end:
                continue
            targets = phase_targets(run, phase, training, validation)
            settings = (phase.image_size, phase.weight_decay, phase.label_smoothing)
            if compiled_for != settings:  # else the same model goes on
                compiled_for = settings
                with share.scope():
                    previous, model = model, compiled_model(options, phase, run.outputs)
                    shorten_memory(model, options.epochs * -(-len(training) // options.batch_size))
                    if previous is not None:
                        checkpoints.hand_over(previous, model)
                    elif weights:
                        model.set_weights(weights)
            if run.state and run.epochs == phase.first and not phase.self_distillation:
                # Accuracies on small images do not compare; and the best fine-tuning epoch is to be kept.
                run.state["counters"] = {"best": {"best": None}}
            fit_phase(run, phase, model, (training, targets), validated, share, callbacks, teachers)


def prepare(run: Run) -> tuple:
    """Return the model of a resumed run or None, the weights to start with or None, and the teachers' functions."""
    if run.options.mixed_precision is None:
        run.options = replace(run.options, mixed_precision=prefers_bfloat16())
    if keras.backend.backend() not in ("tensorflow", "jax", "torch"):
        raise UserError(
            f"Keras's {keras.backend.backend()} cannot train. Set KERAS_BACKEND to tensorflow, jax or torch."
        )
    options, named = run.options, run.options.teacher or ()
    paths = sorted(run.folder.glob("teacher-*.keras")) if run.state else named
    if len(paths) < len(named):
        raise UserError(f"{run.folder} cannot be resumed: its teachers are gone. Start again.")
    teachers = [load_teacher(path, run.outputs, options.mixed_precision) for path in paths]
    if run.state:
        return checkpoints.load_backup(run), None, teachers
    weights = mean_weights(options.init_from, options.arch, run.outputs)
    if run.folder is None:
        run.folder = checkpoints.new_folder(vars(options))
        run.lock()
    for number, path in enumerate(named):  # a resume may find another model in its place
        copy = run.folder / f"teacher-{number:02}.keras"
        shutil.copyfile(path, copy)
        if (description := path.with_suffix(".json")).exists():
            shutil.copyfile(description, copy.with_suffix(".json"))
    return None, weights, teachers


def prefers_bfloat16() -> bool:
    """Return whether TensorFlow trains faster in bfloat16 here: with AMX or AMD's AVX-512 (on Linux), without a GPU.

    With AMX it takes half the time, on AMD's Zen 4 two thirds; on other processors it is slower, even on Intel's with
    bfloat16 in AVX-512. Of GPUs, and of the other backends, nothing is assumed.
    """
    if keras.backend.backend() != "tensorflow" or not CPU_INFORMATION.exists():
        return False
    import tensorflow as tf

    words = set(CPU_INFORMATION.read_text(encoding="utf-8").split())
    faster = "amx_bf16" in words or {"AuthenticAMD", "avx512_bf16"} <= words
    return faster and not tf.config.list_physical_devices("GPU")


def phase_targets(run: Run, phase: Phase, training: data.Split, validation: data.Split) -> np.ndarray:
    """Return what a phase learns from each training face: labels and votes, or a blend of them with soft labels.

    float32 (n, 7) for one output, (n, 2, 7) for two.

    The soft labels of a round are what the best network before it predicts, calibrated as a finished one is. They are
    kept in the run's folder for a resume in the middle of the round.
    """
    targets, path = training.targets(), run.folder / f"soft_labels-{phase.round}.npy"
    if not phase.round:
        return targets
    if not path.exists():
        if run.epochs > phase.first or phase.fine_tuning:
            raise UserError(f"{run.folder} cannot be resumed: {path.name} is gone. Start again.")
        print("Predicting soft labels for self-distillation ...", flush=True)
        if run.best_weights:
            best = build_model(run.options.arch, outputs=run.outputs)
            best.set_weights(run.best_weights)
            classifier = keras_classifier(best, {})
        else:  # after a resume
            classifier = load_classifier(run.best)
        classifier, _ = calibrate(classifier, training, validation)
        kept = io.BytesIO()
        np.save(kept, soft_labels(classifier, training.faces))
        with atomic_path(path) as temporary:  # not by NumPy, whose error on a full disk has no number
            temporary.write_bytes(kept.getvalue())
        checkpoints.remove([path.with_name(f"soft_labels-{phase.round - 1}.npy")])
    return distilled(targets, load_soft_labels(path, (len(training), len(run.outputs), 7)), SOFT_LABEL_WEIGHT)


def load_soft_labels(path: Path, shape: tuple) -> np.ndarray:
    """Return soft labels that were kept for a resume, float32 (n, outputs, 7). Raises `UserError` for others."""
    try:
        kept = np.array(np.load(path, mmap_mode="r"))  # mapped: a wrong size in its header takes no memory
        if (kept.shape, kept.dtype) != (shape, np.float32) or not (kept.min() >= 0 and kept.max() <= 1.001):
            raise ValueError("of another kind")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read, so this run cannot be resumed. Start again.") from error
    return kept


def compiled_model(options, phase: Phase, outputs: tuple = (FER2013,)):
    """Return a new network for the faces of a phase, compiled; the losses of two outputs are added."""
    dtype, compute_dtype = ("mixed_bfloat16", "bfloat16") if options.mixed_precision else ("float32", "float32")
    model = build_model(options.arch, dtype, phase.image_size, outputs)
    if options.optimizer == "muon":
        optimizer = Muon(phase.learning_rate, compute_dtype, weight_decay=phase.weight_decay)
    else:
        optimizer = keras.optimizers.AdamW(phase.learning_rate, weight_decay=phase.weight_decay)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=phase.label_smoothing)
    metrics = [keras.metrics.CategoricalAccuracy("accuracy")]
    if FERPLUS in outputs:  # votes are soft already
        loss = {FER2013: loss, FERPLUS: VoteCrossentropy()}
        metrics = {FER2013: metrics, FERPLUS: [Agreement("accuracy")]}
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics)
    model.optimizer.build(model.trainable_variables)  # else TensorFlow traces the first step twice
    fuse_batch_normalization(model)
    return model


def fit_phase(
    run: Run, phase: Phase, model, learned: tuple, validated: tuple, share: Share, callbacks, teachers
) -> None:
    """Train a model from the run's last finished epoch to a phase's end, on faces and their targets."""
    (training, targets), settings, first_epoch = learned, batch_settings(run.options, phase, teachers), run.epochs
    faces, known = validated
    with signals.held_back() as stop_if_asked:
        ctrl_c = keras.callbacks.LambdaCallback(on_train_batch_end=stop_if_asked, on_epoch_end=stop_if_asked)
        model.fit(
            share.of_batches(lambda: data.make_batches(training, settings, first_epoch, targets)),
            steps_per_epoch=-(-len(training) // settings.batch_size),
            epochs=phase.end,
            initial_epoch=first_epoch,
            validation_data=share.of(data.resize_faces(faces, phase.image_size), known),
            validation_batch_size=-(-256 // share.devices) * share.devices // share.processes,
            callbacks=[*callbacks, ctrl_c],
            shuffle=False,  # make_batches has done it
            verbose=0,  # Progress prints
        )


def batch_settings(options, phase: Phase, teachers: list) -> data.BatchSettings:
    """Return how the batches of a phase are made, with classifiers as teachers."""
    return data.BatchSettings(
        batch_size=options.batch_size,
        seed=options.seed,
        image_size=phase.image_size,
        augmentation=data.Augmentation() if options.augmentation else None,
        strength=lambda epoch: augmentation_strength(epoch, options),
        mixup=phase.mixup,
        camera_noise=options.camera_noise,
        teacher=online_teacher(teachers) if teachers else None,
    )


def validation_targets(validation: data.Split, outputs: tuple) -> np.ndarray:
    """Return the labels one-hot (n, 7), or (n, 2, 7) with the vote shares of faces whose most votes are clear."""
    if FERPLUS not in outputs:
        return data.one_hot(validation.labels)
    if validation.votes is None:
        raise UserError("The votes have no rows of PublicTest, which a training with votes needs. Use the whole file.")
    targets = validation.targets()
    targets[data.most_voted(validation.votes) < 0, 1] = 0
    return targets


class Progress(keras.callbacks.ProgbarLogger):
    """Counts the epochs of the whole training, where fit's own would count to the end of the phase; tells its time."""

    def __init__(self, options):
        super().__init__()
        self.options, self.start_seconds = options, None  # when the first epoch of this process began

    def set_params(self, params):
        super().set_params(params | {"epochs": self.options.epochs, "verbose": 1 if sys.stdout.isatty() else 2})

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self.start_seconds = self.start_seconds or time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if self.start_seconds < math.inf:
            pixels = [phase_at(each, self.options).image_size ** 2 for each in range(epoch, self.options.epochs)]
            minutes = round((time.monotonic() - self.start_seconds) * sum(pixels[1:]) / pixels[0] / 60)
            self.start_seconds = math.inf  # said once
            if minutes:
                print(f"The training takes about {minutes // 60} h {minutes % 60:02} min more.", flush=True)


def make_callbacks(run: Run, data_sha256: str) -> list:
    """Return Keras's callbacks and, last, the one that saves what a resume needs."""

    def refuse_nan(epoch: int, logs: dict) -> None:
        if math.isfinite(logs["loss"] + logs["val_loss"]):
            return
        kept = ""
        if run.state:
            run.finish()  # a resume would come to the same
            kept = f" The best model until then is {run.best}."
        raise UserError(f"The loss became NaN or infinite. Start again with a lower --learning-rate.{kept}")

    def add_mean(epoch: int, logs: dict) -> None:
        """Add the mean accuracy of two outputs, by which the best epoch is chosen."""
        if len(run.outputs) > 1:
            for prefix in ("", "val_"):
                logs[f"{prefix}accuracy"] = np.mean([logs[f"{prefix}{name}_accuracy"] for name in run.outputs])

    options, counters = run.options, {"best": checkpoints.BestModel(run)}
    callbacks = [
        keras.callbacks.LambdaCallback(on_epoch_end=add_mean),
        Progress(options),
        keras.callbacks.LambdaCallback(on_epoch_end=refuse_nan),
    ]
    if options.schedule == "plateau":
        counters["stopping"] = keras.callbacks.EarlyStopping(monitor="val_loss", patience=PATIENCE, verbose=1)
        counters["plateau"] = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=3, verbose=1)
    else:
        callbacks.insert(0, keras.callbacks.LearningRateScheduler(lambda epoch: learning_rate(epoch, options)))
    return [*callbacks, *counters.values(), checkpoints.RunKeeper(run, counters, data_sha256)]


@contextlib.contextmanager
def explained_out_of_memory():
    """Turn an out-of-memory error of NumPy, TensorFlow, JAX or PyTorch into `OutOfMemory`."""
    try:
        yield
    except Exception as error:
        if not checkpoints.is_out_of_memory(error):
            raise
        raise OutOfMemory(
            "There is not enough memory. Close other programs and resume, or start again with a smaller --batch-size "
            "or --arch."
        ) from error
