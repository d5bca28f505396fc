"""The options of train.py: one frozen dataclass that functions take, and its parser. Imports nothing heavy."""

import argparse
import os
import shlex
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from common.cli import HelpFormatter, Parser, number
from common.files import why_not_writable
from training import schedule

BEST = "best_model.keras"
PLACES = ("data", "votes", "output")  # options that a resume may change: the files may have moved
ARCHITECTURES = ("resnet-equivariant", "resnet", "resnet-huge-equivariant", "resnet-huge", "cnn")
OPTIMIZERS = {  # what fits each of them
    "muon": {"batch_size": 256, "learning_rate": 2.8e-3},
    "adamw": {"batch_size": 128, "learning_rate": 2e-3},
}
NO_DATA = """There is no training data in data/ or fer2013/. FER-2013 is free after signing in at Kaggle:
    https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge
    https://www.kaggle.com/datasets/msambare/fer2013
Download it and run: python train.py --data PATH   (the .zip as it is, a .csv, or the unpacked folder)"""


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; one field for each option, None where `complete` chooses what fits the others."""

    data: Path | None = None
    votes: Path | None = None
    fraction: float = 1.0
    augmentation: float = 1.0
    camera_noise: bool = False
    mixup: float = 0.0
    epochs: int = 68
    arch: str = ARCHITECTURES[0]
    optimizer: str | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    schedule: str = "cosine"
    small_image_epochs: int | None = None
    self_distillation_rounds: int | None = None
    fine_tuning_epochs: int | None = None
    init_from: list[Path] | None = None
    teacher: list[Path] | None = None
    seed: int = 0
    mixed_precision: bool | None = None  # chosen when the training starts: it depends on the machine
    distribute: bool = False
    output: Path | None = None

    @classmethod
    def from_json(cls, saved: dict) -> "TrainingOptions":
        """Return options from `asdict` by way of JSON, checked as those of a command line are.

        Raises `KeyError` if they are another version's, `ValueError` if they are damaged.
        """
        if saved.keys() != vars(cls()).keys():
            raise KeyError("options")
        paths = {name: Path(saved[name]) for name in PLACES if isinstance(saved[name], str)}
        several = {n: [Path(path) for path in saved[n]] for n in ("init_from", "teacher") if isinstance(saved[n], list)}
        options = cls(**saved | paths | several)
        parser = make_parser()
        parser.error, parser.fromfile_prefix_chars = _raise_value_error, None  # it neither ends the program nor reads
        args = parser.parse_args(command_words(options))
        parsed = {name: getattr(args, name) for name in vars(options)}
        if any((type(value), value) != (type(parsed[name]), parsed[name]) for name, value in vars(options).items()):
            raise ValueError("an option is not of its type")
        if options != complete(options):
            raise ValueError("an option has no value")
        for problem in phase_problems(options):
            raise ValueError(problem)
        return options


def _raise_value_error(message: str):
    raise ValueError(message)


def make_parser() -> Parser:
    parser = Parser(
        prog="train.py",
        description="Train the emotion network on FER-2013; evaluate or export a trained one.",
        epilog="A recipe is a file of options: python train.py '@recipes/cnn.txt' --data PATH --output cnn.keras",
        formatter_class=HelpFormatter,
        fromfile_prefix_chars="@",
    )
    add_training_options(parser.add_argument_group("training").add_argument)
    add = parser.add_argument_group("data and run").add_argument
    seed, model = number(0, 2**32 - 1, int), {"type": Path, "metavar": "MODEL.keras"}
    add("--data", type=Path, metavar="PATH", help="FER-2013: .csv, .zip or folder (default: data/ or fer2013/)")
    add("--votes", type=Path, metavar="FILE.csv", help="FER+'s votes (default: fer2013new.csv beside the data)")
    add("--fraction", type=number(0.001, 1), metavar="SHARE", help="share of the training faces to use")
    add("--augmentation", type=number(0, 1), metavar="STRENGTH", help="strength of random changes, 0 (none) to 1")
    add("--camera-noise", action="store_true", help="also blur half of the faces and add noise to half")
    add("--mixup", type=number(0), metavar="ALPHA", help="blend pairs of faces, with shares from Beta(ALPHA, ALPHA)")
    add("--seed", type=seed, help="fixes the first weights, the order of the faces and their augmentation")
    add("--distribute", action="store_true", help="train on all GPUs; on JAX on those of several machines, too")
    add(
        "--output",
        **model,
        help=f"where to save the model (default: {BEST}; with under 20,000 training faces, the run folder)",
    )
    resume = {"nargs": "?", "type": Path, "const": Path("latest"), "metavar": "RUN"}
    add("--resume", **resume, help="continue this run's folder, or the latest unfinished one, with its options")
    add = parser.add_argument_group("evaluation and export").add_argument
    add("--evaluate", action="store_true", help="train nothing: score --model and write a report")
    add("--model", **model, default=Path(BEST), help="the model to evaluate or export")
    add("--split", choices=("PublicTest", "PrivateTest"), default="PublicTest", help="faces to score")
    export = {"nargs": "?", "type": Path, "const": True, "metavar": "FILE.tflite"}
    add("--export", **export, help="train nothing: convert --model for phones, in float16 and (FILE.int8.tflite) int8")
    parser.set_defaults(**vars(TrainingOptions()))
    return parser


def add_training_options(add) -> None:
    """Add the options of the network, of how it learns and of its phases."""
    batch_size, rate = (
        ", ".join(f"{fitting[name]} with {optimizer}" for optimizer, fitting in OPTIMIZERS.items())
        for name in ("batch_size", "learning_rate")
    )
    epochs = {"type": number(0, kind=int), "metavar": "N"}
    models = {"type": Path, "nargs": "+", "metavar": "MODEL.keras"}
    new = "for a resnet from random weights with --schedule cosine"
    add("--epochs", type=number(1, kind=int), metavar="N", help="passes over the training faces, at most")
    add("--arch", choices=ARCHITECTURES, help="the network; an equivariant one predicts the same for a mirrored face")
    add("--optimizer", choices=tuple(OPTIMIZERS), help=f"default: muon {new}, else adamw")
    add("--batch-size", type=number(1, kind=int), metavar="N", help=f"faces per training step (default: {batch_size})")
    add("--learning-rate", type=number(0), metavar="RATE", help=f"peak learning rate (default: {rate})")
    schedules = (
        "cosine: warm up, then fall to zero; plateau: halve the rate when the validation loss stalls, stop early"
    )
    add("--schedule", choices=("cosine", "plateau"), help=schedules)
    small = f"first epochs, on {schedule.SMALL_IMAGE_SIZE}-pixel faces (default: two thirds of those before rounds, at "
    small += f"most a third of all, {new})"
    add("--small-image-epochs", **epochs, help=small)
    rounds = f"rounds of learning from its own predictions, in the last two thirds (default: {schedule.ROUNDS} {new}"
    rounds += " and no teacher)"
    add("--self-distillation-rounds", **epochs, help=rounds)
    tuning = (
        "last epochs of each round or of the training, without augmentation (default: --epochs / 30; 0 without rounds)"
    )
    add("--fine-tuning-epochs", **epochs, help=tuning)
    add("--init-from", **models, help="start with the weights of a model, or the mean of several, not random ones")
    add("--teacher", **models, help="learn half from the labels, half from what these models predict (distillation)")
    either = argparse.BooleanOptionalAction
    add("--mixed-precision", action=either, help="train in bfloat16 (default: where the processor is faster in it)")


def parse_args(argv=None) -> argparse.Namespace:
    """Return `options`, complete; the names that were `given`; and `resume`, `evaluate`, `model`, `split`, `export`.

    Options that are impossible or do not go together end the program with a sentence and status 2.
    """
    parser = make_parser()
    names = list(vars(TrainingOptions()))
    args = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(names)))  # None: it was not given
    args.given = [name for name in names if getattr(args, name) is not None]
    if args.export is True:  # without a name
        args.export = args.model.with_suffix(".tflite") if args.model.name else Path("model.tflite")
    given = TrainingOptions(**{name: getattr(args, name) for name in args.given})
    args.options = complete(given)
    try:
        if not (given.data or args.resume):
            usual = (folder for folder in (Path("data"), Path("fer2013")) if folder.is_dir())
            found = (folder for folder in usual if any(not child.name.startswith(".") for child in folder.iterdir()))
            args.options = replace(args.options, data=next(found, None))
        for problem in problems(args, given):
            parser.error(problem)
    except OSError as error:  # a folder without permission, a name that is too long
        parser.error(f"{error.filename} cannot be used ({error.strerror}). Choose another place.")
    return args


def complete(options: TrainingOptions) -> TrainingOptions:
    """Return the options with a value for all but files and `mixed_precision`; given values stay."""
    is_new = options.arch != "cnn" and options.schedule == "cosine" and not options.init_from
    optimizer = options.optimizer or ("muon" if is_new else "adamw")
    rounds = options.self_distillation_rounds
    if rounds is None:
        rounds = min(schedule.ROUNDS, options.epochs * 2 // 3) if is_new and not options.teacher else 0
    fine_tuning = options.epochs // 30 if rounds else 0
    chosen = {"optimizer": optimizer, **OPTIMIZERS[optimizer]}
    chosen |= {"self_distillation_rounds": rounds, "fine_tuning_epochs": fine_tuning}
    options = replace(options, **{name: value for name, value in chosen.items() if getattr(options, name) is None})
    if options.small_image_epochs is None:
        small = min(max(schedule.first_epochs(options), 0) * 2 // 3, options.epochs // 3) if is_new else 0
        options = replace(options, small_image_epochs=small)
    return options


def problems(args, given: TrainingOptions):
    """Yield what is wrong with the options that were given, and with the complete ones, a sentence each."""
    modes = [f"--{name}" for name in ("evaluate", "export", "resume") if getattr(args, name)]
    if len(modes) > 1:
        yield f"{' and '.join(modes)} exclude each other: run one after the other."
    if args.model != Path(BEST) and not (args.evaluate or args.export):
        yield "--model belongs to --evaluate and --export. To continue from a model, use --init-from."
    if args.split != "PublicTest" and not args.evaluate:
        yield "--split belongs to --evaluate: a training and an export are scored on PublicTest."
    kept = PLACES if args.resume else ("data", "votes")
    for name in args.given:
        if modes and name not in kept:
            yield f"--{name.replace('_', '-')} has no effect with {modes[0]}: leave it out, or start a new training."
    if args.evaluate or args.export:
        if args.model.suffix == ".tflite":
            yield f"{args.model} is an export. Give --model the .keras file that it was made from."
        if args.export:
            yield from output_problems(args.export, "--export", ".tflite")
            if args.export.name.endswith(".int8.tflite"):
                yield f"--export {args.export} names the int8 file. Give the float16 one, without .int8: both are made."
    elif not args.resume:
        for path in (*(given.init_from or ()), *(given.teacher or ())):
            if path.suffix != ".keras":
                yield f"{path} must be a .keras file to start from it or to learn from it."
        yield from output_problems(given.output or Path(BEST))
        yield from phase_problems(args.options)
    if not (args.options.data or args.resume):
        yield NO_DATA


def output_problems(output: Path, option: str = "--output", suffix: str = ".keras"):
    """Yield why a file cannot be written, before the training and not after it."""
    if output.suffix != suffix:
        yield f"{option} {output} must end in {suffix}."
    elif suffix == ".keras" and (year := time.localtime().tm_year) < 1980:
        yield f"The clock of this machine says {year}, which a .keras file cannot hold. Set it."
    else:  # the model, its description and what is kept of older ones
        previous = output.with_name(f"{output.stem}.previous{suffix}")
        descriptions = [path.with_suffix(".json") for path in (output, previous)]
        for path in (output, *((previous, *descriptions) if suffix == ".keras" else ())):
            yield from filter(None, [why_not_writable(path)])


def phase_problems(options: TrainingOptions):
    """Yield which phases of complete options do not fit together."""
    small, rounds, tuning = options.small_image_epochs, options.self_distillation_rounds, options.fine_tuning_epochs
    if (small or rounds or tuning) and options.schedule != "cosine":
        yield "Phases need --schedule cosine: with plateau nobody knows when the training ends."
    if small and options.arch == "cnn":
        yield "--small-image-epochs needs a resnet: the dense layer of a cnn fits one image size."
    if rounds and options.teacher:
        yield "--self-distillation-rounds and --teacher exclude each other: leave one of them out."
    if (rounds and schedule.self_distillation_epochs(options) < rounds) or small >= schedule.first_epochs(options):
        each = " each" if rounds else ""
        parts = {"on small images": small, "rounds of self-distillation": rounds, f"fine-tuning epochs{each}": tuning}
        wanted = ", ".join(f"{count} {part}" for part, count in parts.items() if count)
        yield f"{options.epochs} epochs are too few for {wanted}. Use more --epochs, or fewer of these."


def command_words(options: TrainingOptions) -> list[str]:
    """Return the command-line words that give these options, those at their default left out."""
    words, defaults = [], vars(TrainingOptions())
    for name, value in vars(options).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool) and value != defaults[name]:
            words.append(option if value else option.replace("--", "--no-", 1))
        elif value != defaults[name]:
            words += [option, *map(str, value if isinstance(value, list) else [value])]
    return words


def shell_command(*words) -> str:
    """Return a command that can be pasted into a shell, with quotes where a path needs them."""
    words = ["python", *map(str, words)]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
