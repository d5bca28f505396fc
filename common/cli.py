"""What the command lines of both scripts share."""

import argparse
import contextlib
import difflib
import os
import shlex
import sys
import threading
from pathlib import Path


class Parser(argparse.ArgumentParser):
    """Reports errors in one sentence; reads a recipe, `@FILE`: options, comments after `#`, paths with spaces in ""."""

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        words = shlex.shlex(arg_line.removeprefix("\ufeff"), posix=True)  # Windows's editors begin with that
        words.whitespace_split, words.quotes, words.escape = True, '"', ""  # its paths have backslashes
        return list(words)

    def parse_known_args(self, args=None, namespace=None):
        try:
            return super().parse_known_args(args, namespace)
        except (ValueError, RecursionError):
            self.error('A recipe is not text in UTF-8, names itself, or lacks a ". The included ones are in recipes/.')

    def error(self, message: str):
        unknown = (message.removeprefix("unrecognized arguments: ").split("=")[0].split() or ["''"])[0]
        if message.startswith("unrecognized arguments: "):
            options = [option for action in self._actions for option in action.option_strings]
            similar = difflib.get_close_matches(unknown, options, 1)
            hint = f"Did you mean {similar[0]}?" if similar else "See --help."
            if "--data" in options and not unknown.startswith("-"):
                hint = f"For data, write --data {unknown}."
            message = f"There is no option {unknown}. {hint}"
        if message.startswith("[Errno"):
            message = f"The recipe cannot be read:{message.partition(']')[2]}. The included ones are in recipes/."
        lines = map(printable, message.split("\n"))  # ours has some; a file's name hardly ever
        self.exit(2, f"{self.prog}: " + "\n".join(lines) + "\n")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of every option that has one."""

    def _get_help_string(self, action):
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def number(low: float, high: float = sys.float_info.max, kind: type = float):
    """Return an argparse type: a number of a kind (float or int) from low to high, both included."""

    def parse(text: str):
        if not low <= (value := kind(text)) <= high:
            limits = f"{low} or more" if high == sys.float_info.max else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"{text} is not {limits}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"  # argparse's word for it in its error message
    return parse


def printable(text) -> str:
    """Return text with escapes for characters that a terminal would obey or cannot show, as a file's name may have."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text))


def warn(text) -> None:
    """Print a sentence on stderr, if somebody is there to read it."""
    with contextlib.suppress(OSError):
        print(printable(text), file=sys.stderr)


def requirements_path(live: bool = False) -> str:
    """Return the path of the requirements, those of main.py alone or all, as a word of a command."""
    path = Path(__file__).resolve().parent.parent / f"requirements{'-live' * live}.txt"
    return f'"{path}"' if " " in str(path) else str(path)


def explain_import_error(error: Exception, live: bool = False) -> str:
    """Return what to do about a package that cannot be imported, that main.py needs or that train.py does."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error}. Install the requirements: {sys.executable} -m pip install -r {requirements_path(live)}"
    reason = str(error).partition("\n")[0] or repr(error)
    return f"{reason}. A package is installed but does not load; see Troubleshooting in README.md."


def prepare_streams() -> None:
    """Let a redirected stdout take every character: on Windows it knows those of one language only."""
    with contextlib.suppress(AttributeError):  # there may be no stdout
        sys.stdout.reconfigure(errors="backslashreplace")


def end_process(status: int) -> None:
    """End Python with an exit status; at once where a thread might delay a normal end, or crash in it.

    It may still import TensorFlow, tune how TensorFlow reads batches ahead, or wait for a camera that hangs.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError):  # it is full, or its reader has gone: Python would complain once more
            with contextlib.suppress(AttributeError, OSError, ValueError):  # there may be none
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    stopped_training = status == 130 and "tensorflow" in sys.modules  # everything is kept
    if stopped_training or any(thread.daemon for thread in threading.enumerate()):
        os._exit(status)
    sys.exit(status)
