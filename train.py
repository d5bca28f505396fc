"""Train the network on FER-2013 and write best_model.keras.

python train.py --data PATH      PATH: fer2013.csv, a folder with it or with train/ and test/, or Kaggle's .zip
python train.py --resume         go on with the latest run after Ctrl-C, a crash or a power cut
python train.py --data PATH --evaluate    score best_model.keras and write a report on it, changing nothing
python train.py --data PATH --export      write best_model.tflite and best_model.int8.tflite, for phones
"""

import argparse
import atexit
import contextlib
import functools
import hashlib
import io
import json
import math
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from files import written_whole
from options import (
    OptionsError,
    check_command,
    check_options,
    check_output,
    check_resumed,
    choose_optimizer,
    explained,
    parse_args,
    print_all_letters,
    words_of,
)
from runs import (
    BEST,
    BEST_PARTIAL,
    RUNS,
    STATE,
    closing_files,
    command,
    ctrl_c_between_steps,
    describe,
    make_run_keeper,
    new_run,
    note_steps,
    publish,
    read_state,
    save_model,
    trim_history,
    write_json,
)
from stages import augmentation_share, choose_stages, is_taught, learning_rate, options_of, stage_at, stages_of

SOFT_LABELS = "soft_labels.npy"  # what the teachers answer, kept in the run's folder for a resume
TEACHERS = "teacher-*.keras"  # copies of those that are asked about every batch, kept there as long as it trains
STATISTICS_FACES = 4096  # training faces, each twice, over which batch normalisation is measured in the end
NO_DATA = """There is no training data in data/ or fer2013/. FER-2013 is free after signing in at Kaggle:
    https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge
    https://www.kaggle.com/datasets/msambare/fer2013
Download it and run: python train.py --data PATH   (the .zip as it is, a .csv, or the unpacked folder)"""


class TrainError(ValueError):
    """Something the user can mend; the message says what is wrong and what to do."""


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        return run_command(args)
    except ImportError as error:
        print(f"train.py: {explained(error)}", file=sys.stderr)
        return 2
    except OSError as error:  # something is not permitted, or the disk is full
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before the training began; what it has kept, `interrupted` says
        print("\nStopped.", file=sys.stderr)
        return 130


def run_command(args) -> int:
    """Train, score or export, as the options say; return the exit status."""
    from data import DataError
    from distribution import DistributionError
    from model import ModelError, use_onednn
    from report import ReportError, check_cascade
    from teachers import TeacherError

    use_onednn()
    try:
        check_command(args)
        if (args.evaluate or args.export) and args.model.suffix == ".tflite":
            raise TrainError(f"{args.model} is an export. Give --model the .keras file that it was made of.")
        if args.export:
            return export_model(args)
        check_cascade()  # without it there is no report
        if args.evaluate:
            return score_model(args)
        return train(*open_run(args))
    except (DataError, DistributionError, ModelError, OptionsError, ReportError, TeacherError, TrainError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2


def open_run(args) -> tuple[Path | None, argparse.Namespace, dict]:
    """Return the folder, arguments and state of the run to resume; else None, the arguments of a new one, and {}."""
    if args.resume is None:
        args.output = args.output or Path(BEST)
        check_output(args.output)
        choose_optimizer(args)
        choose_stages(args)
        check_options(args)
        args.data = args.data or find_data()
        return None, args, {}
    check_resumed(args)
    run = latest_run() if str(args.resume) == "latest" else args.resume
    try:
        saved = json.loads((run / "arguments.json").read_text(encoding="utf-8"))
        state = read_state(run)
    except (OSError, ValueError) as error:
        raise TrainError(f"{run} cannot be resumed: no epoch of it was finished ({error}). Start again.") from error
    if state["finished"]:
        raise TrainError(f"{run} is finished; its model is {run / BEST}. Start a new training without --resume.")
    if saved.keys() != vars(args).keys():
        raise TrainError(f"{run} was begun by another version of train.py. Go on with that one, or start again.")
    # The data may have moved, the output's folder may be gone; everything else stays as it was.
    paths = {name: Path(getattr(args, name) or saved[name]) for name in ("data", "output")}
    args = parse_args(words_of(saved | paths))
    check_output(args.output)
    return run, args, state


def latest_run() -> Path:
    """Return the run that was worked on last, of those that are not finished."""
    states = sorted(RUNS.glob(f"*/{STATE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for state in states:
        with contextlib.suppress(OSError, ValueError, KeyError):  # a damaged one is none to go on from
            if not read_state(state.parent)["finished"]:
                return state.parent
    raise TrainError("There is no unfinished run in runs/. Start one with: python train.py --data PATH")


def find_data() -> Path:
    for folder in (Path("data"), Path("fer2013")):
        if folder.is_dir() and any(folder.iterdir()):
            return folder
    raise TrainError(NO_DATA)


def train(run: Path | None, args, state: dict) -> int:
    import data
    from distribution import Share, distribute, part

    share = distribute(args.seed, args.batch_size) if args.distribute else Share()
    if share.process:
        run = shadow_run(run)
    dataset = data.load_fer2013(args.data)
    print(dataset.summary())
    sha256 = dataset.sha256()
    if state and state["data_sha256"] != sha256:
        raise TrainError(f"The data at {args.data} is not what {run} was trained on. Point --data to that.")
    training, validation = chosen_faces(dataset[data.TRAINING], args), dataset[data.PUBLIC_TEST]
    fitted = state.get("stopped") or state.get("epochs", 0) >= args.epochs  # then only the finish was cut short
    if not fitted:
        run, start, teachers = prepare(run, args, state, training)
    try:
        if not fitted:
            fit(run, args, state, start, teachers, training, validation, sha256, share)
        if args.distribute:
            part(share)
        return 0 if share.process else finish(run, args, dataset, training, sha256)
    except KeyboardInterrupt:
        return interrupted(run, args)
    except OSError as error:
        print(f"\ntrain.py: {error}", file=sys.stderr)
        interrupted(run, args)
        return 2
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        interrupted(run, args)
        raise TrainError("The memory is not enough for this training. Use a smaller --batch-size or --arch.") from error


def chosen_faces(training, args):
    """Return the training faces that --fraction and --fold leave."""
    import data

    if args.fraction < 1:
        training = training[data.stratified(training.labels, args.fraction, args.seed)]
    if args.fold:
        training = training[~data.in_part(training.faces, *args.fold)]
    if len(training) == 0:
        raise TrainError("No training face is left. Use a larger --fraction, or another --fold.")
    return training


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that the memory is full: NumPy's, TensorFlow's, JAX's or PyTorch's."""
    said = f"{type(error).__name__} {error}".lower()
    full = ("resource_exhausted", "resourceexhausted", "out of memory", "tried to allocate")
    return isinstance(error, MemoryError) or any(words in said for words in full)


def prepare(run: Path | None, args, state: dict, training) -> tuple[Path, list | None, list]:
    """Return the run's folder, the weights to start with (None: random ones), the teachers to ask about every batch.

    What is missing or cannot be used is said before anything is written.
    """
    from model import import_keras, prefers_bfloat16
    from teachers import answers_once, ask_teachers, load_teacher

    import_keras()
    if args.mixed_precision is None:
        args.mixed_precision = prefers_bfloat16()
    named = args.teacher or []
    if state:
        asked = sorted(run.glob(TEACHERS))
        was_taught = state.get("taught") or is_taught(state["epochs"] - 1, args)
        if was_taught and not asked and not (run / SOFT_LABELS).exists():
            raise TrainError(f"{run} cannot be resumed: its teachers, or their answers, are gone. Start again.")
        return run, None, [load_teacher(path, args.mixed_precision) for path in asked]
    once = [path for path in named if not args.consistent or answers_once(path)]
    asked = [path for path in named if path not in once]
    teachers = [load_teacher(path, args.mixed_precision) for path in asked]
    start = starting_weights(args)
    soft_labels = ask_teachers(once, training) if once else None
    run = run or new_run(args)
    note_steps(run, [*(args.start or []), *named])
    for number, path in enumerate(asked):  # a resume may find another model in its place
        shutil.copyfile(path, run / TEACHERS.replace("*", f"{number:02}"))
    if soft_labels is not None:
        keep_soft_labels(run, soft_labels)
    return run, start, teachers


def keep_soft_labels(run: Path, answers) -> None:
    """Keep what teachers answer about the training faces (n, 7): whole, before a state says that it is there."""
    import numpy as np

    with written_whole(run / SOFT_LABELS) as partial:
        np.save(partial, answers)


def shadow_run(run: Path | None) -> Path:
    """Return where a process that leaves no files keeps its run while it lasts, and keep it from printing.

    So all processes do the same, as they must: where one went another way, the others would wait for it.
    """
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if run:
        shutil.copytree(run, folder, dirs_exist_ok=True)
    sys.stdout = io.StringIO()
    return folder


def fit(run: Path, args, state: dict, start, teachers, training, validation, sha256: str, share) -> None:
    """Train to its end the network that the state of a resumed run names, or a new one: small faces first, plain last.

    A new one begins with the weights `start`, or with random ones where that is None. The `teachers` are asked about
    every batch.
    """
    import data
    from model import import_keras

    keras = import_keras()
    keras.utils.set_random_seed(args.seed)
    precision = " in bfloat16" if args.mixed_precision else ""
    print(f"{len(training):,} training and {len(validation):,} validation faces, {args.arch}{precision}")
    print(f"Everything of this run is kept in {run}; Ctrl-C stops it and keeps the best model so far.")
    steps = -(-len(training) // args.batch_size)
    compiled_for = None
    for stage in stages_of(args):
        first_epoch = state.get("epochs", 0)
        if first_epoch >= stage.end:
            continue
        options, begins = options_of(first_epoch, args), first_epoch == stage.first
        if stage.self_taught and begins and not state.get("taught"):
            teach_itself(run, training, validation)
            write_json(run / STATE, state | {"taught": True})  # a kill may leave the stage's first epoch as the best
        if compiled_for != (options, stage.size):  # else the network goes on as it is
            compiled_for = options, stage.size
            with share.scope():
                model = compiled_model(options, stage.size, run / state["backup"] if state else None, start)
        # Scores on small faces say nothing of large ones; and the best of the plain epochs is what they are for.
        if state and begins and not stage.self_taught:
            state = state | {"counters": {}}
        batches = stage_batches(run, args, training, teachers, first_epoch, steps)
        callbacks = make_callbacks(run, args, state, sha256)
        with ctrl_c_between_steps() as ctrl_c, closing_files(callbacks):
            model.fit(
                share.of_batches(batches),
                steps_per_epoch=steps,
                epochs=stage.end,
                initial_epoch=first_epoch,
                validation_data=share.of(
                    data.resize_faces(validation.faces, stage.size), data.one_hot(validation.labels)
                ),
                validation_batch_size=-(-256 // share.devices) * share.devices // share.processes,
                callbacks=[*callbacks, ctrl_c],
                shuffle=False,  # make_batches has done it
                verbose=0,  # the callbacks say it
            )
        state = read_state(run)  # what follows goes on as a resumed run does


def stage_batches(run: Path, args, training, teachers: list, first_epoch: int, steps: int):
    """Return what yields the batches from an epoch on, as they are in its stage: changed, blended, taught, filmed."""
    import numpy as np

    import data
    from model import IMAGE_SIZE
    from teachers import distilled, taught

    options, stage = options_of(first_epoch, args), stage_at(first_epoch, args)
    targets = data.one_hot(training.labels)
    if (run / SOFT_LABELS).exists():
        targets = distilled(targets, np.load(run / SOFT_LABELS), options.teacher_weight)
    batches = functools.partial(
        data.make_batches, training, args.batch_size, args.seed, None if args.no_augmentation else data.Augmentation(),
        first_epoch, IMAGE_SIZE if teachers else stage.size, targets, mixup=0 if stage.plain else options.mixup,
        augmentation_share=functools.partial(augmentation_share, args=args),
    )  # fmt: skip
    if teachers:
        batches = functools.partial(taught, batches, teachers, args.teacher_weight, first_epoch * steps, stage.size)
    return functools.partial(data.filmed, batches, args.seed, first_epoch * steps) if args.filmed else batches


def starting_weights(args) -> list | None:
    """Return the mean weights of the models to start with, of the architecture that is to be trained.

    Networks that went on from one and the same are often as good in the mean of their weights as in that of their
    answers (Wortsman et al. 2022, "Model soups").
    """
    import numpy as np

    from model import load_classifier

    weights = []
    for path in args.start or []:
        if path.suffix != ".keras":
            raise TrainError(f"--start {path} must be a .keras file: an export cannot be trained further.")
        network = load_classifier(path).model
        if args.start_blocks:
            return first_blocks(network, path, args)
        if network.name != args.arch:
            raise TrainError(
                f"--start {path} is a {network.name}. Add --arch {network.name}, or start with another model."
            )
        weights.append(network.get_weights())
    return [np.mean(of_one_layer, axis=0) for of_one_layer in zip(*weights, strict=True)] or None


def first_blocks(network, path: Path, args) -> list:
    """Return the weights of a residual network's first blocks, which the one to train has to have in common."""
    import keras

    from model import RESNETS, split_arch

    count = args.start_blocks
    archs = map(split_arch, (args.arch, network.name))
    first, others = ((symmetric, RESNETS.get(name, ())[: count + 1]) for name, symmetric in archs)
    if first != others or len(first[1]) <= count:
        raise TrainError(f"--start {path} and a {args.arch} do not have the first {count} blocks in common.")
    ends = [i for i, layer in enumerate(network.layers) if isinstance(layer, keras.layers.Add)]
    return [weight for layer in network.layers[: ends[count - 1]] for weight in layer.get_weights()]


def teach_itself(run: Path, training, validation) -> None:
    """Keep as a run's soft labels what its best network so far, finished and calibrated as the last one is, answers."""
    from teachers import mirrored_mean

    print("Asking the best network so far, to learn from its answers, too ...", flush=True)
    classifier, _ = calibrate(run / BEST, training, validation)
    keep_soft_labels(run, mirrored_mean(classifier, training.faces))


def compiled_model(args, image_size: int, backup: Path | None = None, weights: list | None = None):
    """Return the network of `args` for faces of a size with a backup's weights and optimizer or these first weights."""
    import keras

    from model import build_model, fuse_batch_normalization

    model = build_model(args.arch, "mixed_bfloat16" if args.mixed_precision else "float32", image_size)
    model.compile(
        optimizer=make_optimizer(args),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=args.label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
    )
    model.optimizer.build(model.trainable_variables)  # what the first step has to make, TensorFlow traces it twice for
    if backup:
        old = load_backup(backup)
        model.set_weights(old.get_weights())
        for variable, value in zip(model.optimizer.variables, old.optimizer.variables, strict=True):
            variable.assign(value)
    elif weights:
        model.set_weights([*weights, *model.get_weights()[len(weights) :]])
    fuse_batch_normalization(model)
    return model


def make_optimizer(args):
    """Return the optimizer that the options name."""
    import keras

    from optimizer import Muon

    if args.optimizer == "adamw":
        return keras.optimizers.AdamW(args.learning_rate, weight_decay=args.weight_decay)
    compute_dtype = "bfloat16" if args.mixed_precision else "float32"
    return Muon(args.learning_rate, compute_dtype, weight_decay=args.weight_decay)


def load_backup(path: Path):
    """Return the model and optimizer of a run's last epoch."""
    import keras

    import optimizer  # noqa: F401  (Keras must know Muon to load it)

    try:
        return keras.saving.load_model(path)
    except (OSError, ValueError) as error:
        raise TrainError(f"{path} cannot be read, so this run cannot be resumed. Start again.") from error


def make_callbacks(run: Path, args, state: dict, sha256: str) -> list:
    """Return Keras's callbacks and, last, the one that keeps the run's files whole and their state for a resume."""
    from keras import callbacks

    class Progress(callbacks.ProgbarLogger):
        """Counts the epochs of the whole training, where fit's own would count to the end of the stage."""

        def set_params(self, params):
            super().set_params(params | {"epochs": args.epochs, "verbose": 1 if sys.stdout.isatty() else 2})

    checkpoint = callbacks.ModelCheckpoint(run / BEST_PARTIAL, monitor="val_accuracy", mode="max", save_best_only=True)
    counters, schedule = {"best": checkpoint}, []
    if args.schedule == "plateau":
        counters["stopping"] = callbacks.EarlyStopping(monitor="val_loss", patience=args.patience, verbose=1)
        counters["plateau"] = callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=3, verbose=1)
    else:
        schedule = [callbacks.LearningRateScheduler(lambda epoch: learning_rate(epoch, args))]
    trim_history(run / "history.csv", state.get("epochs", 0))
    history = callbacks.CSVLogger(run / "history.csv", append=bool(state))

    def note_stage(epoch: int, logs: dict) -> None:
        """Add to an epoch's line of the history what is its own."""
        stage = stage_at(epoch, args)
        logs.update(
            face_pixels=stage.size, augmentation=augmentation_share(epoch, args), self_taught=int(stage.self_taught),
            plain=int(stage.plain), taught=int(is_taught(epoch, args)),
        )  # fmt: skip

    def refuse_nan(epoch: int, logs: dict) -> None:
        if math.isfinite(logs["loss"] + logs["val_loss"]):
            return
        kept = ""
        if (run / STATE).exists():
            write_json(run / STATE, read_state(run) | {"finished": True})  # a resume would come to the same
            kept = f" The best model until then is {run / BEST}."
        raise TrainError(f"The loss is no number any more. Start again with a lower --learning-rate.{kept}")

    sane, settings = (callbacks.LambdaCallback(on_epoch_end=function) for function in (refuse_nan, note_stage))
    keeper = make_run_keeper(run, args, state, counters, sha256)
    return [*schedule, Progress(), sane, *counters.values(), settings, history, keeper]


def interrupted(run: Path, args) -> int:
    """Say what an interrupted run leaves and how to go on; the exit status is that of Ctrl-C."""
    state = read_state(run) if (run / STATE).exists() else None
    if state and state["finished"]:
        print("\nStopped before the report was whole; the model is ready. For the report:")
        print(command("train.py", "--data", args.data, "--evaluate", "--model", run / BEST))
    elif state:
        print(f"\nStopped. The best model so far is {run / BEST}, the curves are {run / 'curves.png'}.")
        print(f"Go on with:  {command('train.py', '--resume', run)}")
        print(f"Try it with: {command('main.py', '--model', run / BEST)}")
    else:
        print("\nStopped before the first epoch was finished; nothing is kept.")
        shutil.rmtree(run, ignore_errors=True)
    return 130


def finish(run: Path, args, dataset, training, sha256: str) -> int:
    """Calibrate the best model, describe it, put it in its place, then report on it.

    `training` is the part of the data set's training faces that it learnt from.
    """
    import pandas as pd

    from data import PUBLIC_TEST, TRAINING
    from figures import draw_augmentation
    from report import score_splits

    classifier, calibration = calibrate(run / BEST, training, dataset[PUBLIC_TEST])
    description = describe(classifier.model, run, args, dataset, len(training), sha256)
    scores = score_splits(classifier, dataset.splits | {TRAINING: training})
    description |= {"calibration": calibration, "scores": scores}
    classifier.description = description
    save_model(classifier.model, run / BEST)  # at once followed by the .json, which names the temperature in it
    write_json((run / BEST).with_suffix(".json"), description)
    if (args.fraction < 1 or args.fold) and args.output == Path(BEST):
        try_it = command("main.py", "--model", run / BEST)
        print(f"Trained on a part of the data, so {args.output} stays. Try it: {try_it}")
    else:
        publish(run, args.output)
        print(f"{args.output} is ready: {command('main.py', *model_option(args.output))}")
    write_json(run / STATE, read_state(run) | {"finished": True})
    for file in (*run.glob("backup-*.keras"), *run.glob(TEACHERS)):
        with contextlib.suppress(OSError):  # another program may hold it on Windows
            file.unlink()
    draw_augmentation(training.faces[:1], run / "augmentation.png")
    make_report(run, run / BEST, classifier, dataset, PUBLIC_TEST, pd.read_csv(run / "history.csv"))
    return 0


def model_option(path: Path) -> list:
    """Return what main.py must be told to use a model: nothing where it is the one that it takes by itself."""
    return [] if path.resolve() == Path(__file__).resolve().with_name(BEST) else ["--model", path]


def calibrate(path: Path, training, validation) -> tuple:
    """Load a model, fit its batch normalisation to faces as they are, fold in the temperature that fits its answers.

    Return the model as a classifier, and what was done: the error after it is measured with the temperature of the
    other half of the validation faces. Done to a model that has been through it, it finds the same statistics, and a
    temperature of 1 that it multiplies to the one that the description names.
    """
    from evaluate import fit_temperature, fold_temperature, predict, with_temperature
    from model import keras_classifier, load_classifier
    from report import calibration, folded_temperature

    classifier = load_classifier(path)
    fit_batch_normalization(classifier.model, training)
    probabilities = predict(classifier.probabilities, validation.faces)
    temperature = fit_temperature(validation.labels, probabilities)
    fold_temperature(classifier.model, temperature)
    total = temperature * folded_temperature(classifier)
    classifier = keras_classifier(classifier.model, classifier.description)  # answers with the temperature
    return classifier, calibration(validation.labels, with_temperature(probabilities, temperature), total)


def fit_batch_normalization(model, training) -> None:
    """Measure a model's batch normalisation over training faces as they are, each beside its mirror image."""
    import numpy as np

    from model import measure_batch_normalization

    faces = training.faces[np.random.default_rng(0).permutation(len(training))[:STATISTICS_FACES]]
    pairs = np.stack([faces, faces[:, :, ::-1]], axis=1)
    measure_batch_normalization(model, pairs.reshape(-1, *faces.shape[1:]))


def make_report(run: Path, path: Path, classifier, dataset, split: str, history=None) -> None:
    """Write report.md, its pictures and scorecard.json on a model's file into a run folder; say what is in them."""
    from evaluate import score_table
    from report import write_report

    print(f"Evaluating on {split}, which takes a few minutes ...", flush=True)
    origin = {
        "model": str(path), "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "data": dataset.source, "data_sha256": dataset.sha256(), "date": time.strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip
    card = write_report(run, classifier, dataset, split, origin, history)
    low, high = card["accuracy_interval_95"]
    print(f"{split}, n = {card['n']:,}: accuracy {card['accuracy']:.2%} ({low:.2%} to {high:.2%}), single crop")
    print(f"{score_table(card)}\nReport: {run / 'report.md'}, for programs: {run / 'scorecard.json'}")


def score_model(args) -> int:
    """Report on a given model and a named split, changing nothing in the model; the exit status is 0."""
    import pandas as pd

    import data
    from model import load_classifier

    args.data = args.data or find_data()
    classifier = load_classifier(args.model)  # what is wrong with it is said before anything is read or written
    dataset = data.load_fer2013(args.data)
    print(dataset.summary())
    if args.split not in dataset.splits:
        raise TrainError(f"{args.data} has no {args.split}. Choose another --split, or the whole data set.")
    run = new_run(argparse.Namespace(data=args.data, model=args.model, split=args.split))
    curves = args.model.with_name("history.csv")  # there where the model is still in the folder of its training
    history = pd.read_csv(curves) if curves.exists() and (curves.parent / "arguments.json").exists() else None
    make_report(run, args.model, classifier, dataset, args.split, history)
    return 0


def export_model(args) -> int:
    """Write a given model for phones and say how well both files agree with it; the exit status is 0."""
    import data
    from export import export
    from model import load_classifier

    check_output(args.export, "--export", ".tflite")
    args.data = args.data or find_data()
    classifier = load_classifier(args.model)  # what is wrong with it is said before the data is read
    dataset = data.load_fer2013(args.data)
    print(f"{dataset.summary()}\nConverting {args.model} and comparing, about a minute ...", flush=True)
    print(export(classifier, args.model, dataset, args.export))
    print(f"{args.export} is ready: {command('main.py', '--model', args.export)}")
    return 0


def leave(status: int) -> None:
    """End Python with an exit status; after Ctrl-C at once, for everything is kept and TensorFlow might not hurry.

    A thread of its own that tunes how batches are read ahead sleeps up to a minute and can miss that it is to end.
    """
    if status == 130 and "tensorflow" in sys.modules:
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    print_all_letters()
    leave(main())
