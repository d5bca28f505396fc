"""The options of train.py, and what is wrong with those that do not go together; what main.py's share with them."""

import argparse
import contextlib
import math
import sys
from pathlib import Path

from files import why_not_writable
from runs import BEST
from stages import SMALL_SIZE, first_epochs, is_staged, rounds


class OptionsError(ValueError):
    """Options that cannot be had; the message says what is wrong and what to do."""


BELOW_1 = math.nextafter(1, 0)
OPTIMIZERS = {  # what fits each of them
    "muon": {"batch_size": 256, "learning_rate": 2.8e-3},
    "adamw": {"batch_size": 128, "learning_rate": 2e-3},
}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names every default that there is."""

    def _get_help_string(self, action):
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train the emotion network on FER-2013 and write best_model.keras.",
        formatter_class=HelpFormatter,
    )
    count, share, amount = number(1, kind=int), number(0, 1), number(0)
    below_1 = number(0, BELOW_1)  # at 1 the labels would count for nothing
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, help="FER-2013: .csv, .zip or folder (default: data/ or fer2013/)")
    data.add_argument("--fraction", type=number(0.001, 1), default=1.0, help="share of the training faces to use")
    data.add_argument(
        "--fold", type=count, nargs=2, metavar=("PART", "PARTS"),
        help="leave one of several equal parts of the training faces out; as --teacher, the network then answers for "
        "these faces alone, which it has not met",
    )  # fmt: skip
    data.add_argument("--no-augmentation", action="store_true", help="show the training faces as they are")
    data.add_argument(
        "--augmentation", type=share, nargs=2, default=[1.0, 1.0], metavar=("FIRST", "LAST"),
        help="share of the usual changes to a face, 0 to 1, in the first and in the last epoch before self-taught ones",
    )  # fmt: skip
    data.add_argument(
        "--filmed", action="store_true", help="also blur half of the faces, and add noise to half, as cameras do"
    )
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=count, default=68, help="passes over the training faces, at most")
    training.add_argument(
        "--arch", default="resnet-symmetric",
        choices=("resnet-symmetric", "resnet", "resnet-large", "resnet-huge", "resnet-huge-symmetric", "cnn"),
        help="residual network of mirrored pairs of filters, of single ones, three larger to teach, a plain one",
    )  # fmt: skip
    training.add_argument(
        "--optimizer", choices=tuple(OPTIMIZERS),
        help="muon: hidden convolutions learn as fast in all of their directions, the rest by AdamW (default: for a "
        "resnet from random weights on the cosine, else adamw)",
    )  # fmt: skip
    training.add_argument("--batch-size", type=count, help=f"faces a step (default: {default_of('batch_size')})")
    training.add_argument("--learning-rate", type=amount, help=f"the highest (default: {default_of('learning_rate')})")
    training.add_argument(
        "--schedule", choices=("cosine", "plateau"), default="cosine",
        help="cosine: warm up, then fall to nothing; plateau: halve where the validation loss stands still, stop early",
    )  # fmt: skip
    training.add_argument("--patience", type=count, default=10, help="plateau: epochs without better loss to stop")
    training.add_argument(
        "--weight-decay", type=amount, default=0.02, help="share of the weights taken off, times rate"
    )
    training.add_argument("--label-smoothing", type=below_1, default=0.1, help="share of a label given to all emotions")
    training.add_argument(
        "--small-epochs", type=number(0, kind=int), metavar="EPOCHS",
        help=f"train the first epochs on faces of {SMALL_SIZE} pixels, which takes about 0.7 of the time "
        "(default: two thirds of those before the self-taught and plain ones for resnets on the cosine, 0 with "
        "--start; cnn cannot)",
    )  # fmt: skip
    training.add_argument(
        "--self-taught-epochs", type=number(0, kind=int), metavar="EPOCHS",
        help="epochs that learn also from what the best network so far answers, in two rounds, with options of their "
        "own (default: with the plain ones two thirds of all for resnets on the cosine, 0 with --start or --teacher)",
    )  # fmt: skip
    training.add_argument(
        "--mixup", type=amount, default=0.0, metavar="ALPHA", help="blend faces, by Beta(ALPHA, ALPHA)"
    )
    training.add_argument(
        "--plain-epochs", type=number(0, kind=int), metavar="EPOCHS",
        help="last epochs on faces that are only mirrored (and, with --filmed, filmed), at up to a fifth of the rate; "
        "the best of these is kept (default: a thirtieth of all at the end of both self-taught rounds, else 0)",
    )  # fmt: skip
    training.add_argument(
        "--start", type=Path, nargs="+", metavar="MODEL.keras",
        help="begin with its weights, or with the mean of several networks' of one origin, not with random ones",
    )  # fmt: skip
    training.add_argument(
        "--start-blocks", type=count, metavar="BLOCKS",
        help="take only the first residual blocks of --start, which both have in common, and draw the rest anew",
    )  # fmt: skip
    training.add_argument(
        "--teacher", type=Path, nargs="+", metavar="FILE",
        help="learn not only from the labels but also from what these models answer on average (distillation); a .npy "
        "file holds answers to the training faces, (n, 7), such as an earlier run's soft_labels.npy",
    )  # fmt: skip
    training.add_argument(
        "--consistent", action="store_true",
        help="ask the teachers in turn about every batch as it is changed: slower; .npy and .tflite files, and those "
        "trained with --fold, still answer once",
    )  # fmt: skip
    training.add_argument(
        "--teacher-weight", type=below_1, default=0.5,
        help="share of the teachers who answer once, beside the labels', and then of the others, beside both",
    )  # fmt: skip
    seed = number(0, 2**32 - 1, int)
    training.add_argument("--seed", type=seed, default=0, help="fixes weights, order and augmentation")
    training.add_argument(
        "--mixed-precision", action=argparse.BooleanOptionalAction,
        help="bfloat16: faster on some hardware only (default: on TensorFlow under Linux, without a GPU, where the "
        "processor has AMX or is an AMD of Zen 4 or later)",
    )  # fmt: skip
    training.add_argument("--distribute", action="store_true", help="on all GPUs; under JAX also of several machines")
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, help=f"where a finished training puts its model (default: {BEST})")
    output.add_argument(
        "--resume", nargs="?", type=Path, const="latest", metavar="RUN",
        help="go on with this run folder, the latest unfinished one by default, with the options it was started with",
    )  # fmt: skip
    scoring = parser.add_argument_group("evaluation and export")
    scoring.add_argument("--evaluate", action="store_true", help="train nothing: score --model and write a report")
    scoring.add_argument("--model", type=Path, default=Path(BEST), help="the model to score or export")
    scoring.add_argument("--split", choices=("PublicTest", "PrivateTest"), default="PublicTest", help="faces to score")
    scoring.add_argument(
        "--export", nargs="?", type=Path, const=Path("best_model.tflite"), metavar="FILE.tflite",
        help="train nothing: write --model for phones, with float16 weights and, as FILE.int8.tflite, in int8",
    )  # fmt: skip
    return parser.parse_args(argv)


def default_of(name: str) -> str:
    """Return what an option is by default, for --help, by optimizer."""
    return ", ".join(f"{fitting[name]} with {optimizer}" for optimizer, fitting in OPTIMIZERS.items())


def choose_optimizer(args) -> None:
    """Give the training its optimizer, the size of its batches and its rate, where they were not chosen."""
    if args.optimizer is None:
        args.optimizer = "muon" if is_staged(args) and not args.start else "adamw"
    for name, value in OPTIMIZERS[args.optimizer].items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def words_of(arguments: dict) -> list[str]:
    """Return the options, as words of a command, of which `parse_args` makes these arguments.

    The defaults too, so that it still does when another version has others.
    """
    words, defaults = [], vars(parse_args([]))
    for name, value in arguments.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is False and defaults[name] is None:  # a flag with an opposite
            words.append(option.replace("--", "--no-", 1))
        elif value is not None and value is not False:
            words += [option, *map(str, value if isinstance(value, list) else [value])]
    return words


def print_all_letters() -> None:
    """Let a redirected stdout take all letters: in a file, Windows knows those of one language."""
    with contextlib.suppress(AttributeError):  # there may be none
        sys.stdout.reconfigure(errors="backslashreplace")


def explained(error: ImportError) -> str:
    """Return what to do about a package that cannot be imported."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error}. Install what is needed: {sys.executable} -m pip install -r requirements.txt"
    reason = str(error).strip().split("\n")[0]
    return f"{reason}. A package is there but does not load; see README.md, When something goes wrong."


def number(low: float, high: float = sys.float_info.max, kind: type = float):
    """Return what reads an option's number of a kind, from low to high, for argparse."""

    def parse(text: str):
        if not low <= (value := kind(text)) <= high:
            limits = {sys.float_info.max: f"{low} or more", BELOW_1: f"{low} or more and below 1"}
            raise argparse.ArgumentTypeError(f"{text} is not {limits.get(high, f'from {low} to {high}')}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"  # what argparse calls it where the text is none
    return parse


def check_command(args) -> None:
    """Refuse options that say to do different things."""
    named = [f"--{name}" for name in ("evaluate", "export", "resume") if getattr(args, name)]
    if len(named) > 1:
        raise OptionsError(f"{' and '.join(named)} exclude each other: one after the other.")
    defaults = parse_args([])
    if not named and (args.model, args.split) != (defaults.model, defaults.split):
        raise OptionsError("--model and --split belong to --evaluate and --export. To train a model on, use --start.")


def check_options(args) -> None:
    """Refuse options that do not go together, before anything is read."""
    defaults = parse_args([])
    if args.patience != defaults.patience and args.schedule != "plateau":
        raise OptionsError("--patience needs --schedule plateau: a cosine runs to its end.")
    if args.no_augmentation and args.augmentation != defaults.augmentation:
        raise OptionsError("--augmentation and --no-augmentation exclude each other: leave one of them out.")
    if args.fold and not args.fold[0] <= args.fold[1] != 1:
        raise OptionsError(f"--fold {args.fold[0]} {args.fold[1]}: there is no such part to leave out.")
    if args.start_blocks and len(args.start or []) != 1:
        raise OptionsError("--start-blocks needs one model as --start, to take these blocks from.")
    if args.consistent and not any(path.suffix == ".keras" for path in args.teacher or []):
        raise OptionsError("--consistent needs a .keras file as --teacher, to ask it about every changed face.")
    if args.teacher_weight != defaults.teacher_weight and not args.teacher:
        raise OptionsError("--teacher-weight needs --teacher; self-taught epochs have a share of their own.")
    if args.self_taught_epochs and args.teacher:
        raise OptionsError("--self-taught-epochs and --teacher exclude each other: leave one of them out.")
    if args.small_epochs and args.arch == "cnn":
        raise OptionsError("--small-epochs needs a resnet: the dense layer of a cnn fits one size of faces.")
    if args.small_epochs >= first_epochs(args):
        raise OptionsError(
            f"The small ({args.small_epochs}), self-taught ({args.self_taught_epochs}) and plain epochs "
            f"({rounds(args)} x {args.plain_epochs}) together must be fewer than --epochs ({args.epochs}): others come "
            "between."
        )
    if (args.small_epochs or args.self_taught_epochs or args.plain_epochs) and args.schedule != "cosine":
        raise OptionsError(
            "Small, self-taught and plain epochs need --schedule cosine: with plateau nobody knows when it ends."
        )


def check_resumed(args) -> None:
    """Refuse options that a resumed run would not heed."""
    defaults, heeded = vars(parse_args([])), ("resume", "data", "output")
    for name, value in vars(args).items():
        if value != defaults[name] and name not in heeded:
            option = f"--{name.replace('_', '-')}"
            raise OptionsError(f"--resume goes on with the options of the run: leave {option} out, or start a new one.")


def check_output(output: Path, option: str = "--output", suffix: str = ".keras") -> None:
    """See before the training, not after it, that its model can be written."""
    if output.suffix != suffix:
        raise OptionsError(f"{option} {output} must end in {suffix}.")
    if why := why_not_writable(output):
        raise OptionsError(why)
