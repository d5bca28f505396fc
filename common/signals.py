"""Ctrl-C, a kill and a closed terminal end a script in the same way: it keeps what it has."""

import contextlib
import math
import os
import signal
import time

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # Windows has no SIGHUP, other systems no SIGBREAK
STOPS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
FINISH_SECONDS = 2.0  # in which main.py finishes its files, undisturbed
_received, _held, _finishing = [], [], []
_interrupted_seconds = [-math.inf]


def handle_stops(handler, instead_of=(signal.SIG_DFL, signal.default_int_handler)) -> None:
    """Let a handler have these signals instead of earlier ones; those that nohup or a shell ignores stay ignored."""
    for code in STOPS:
        if signal.getsignal(code) in instead_of:
            signal.signal(code, handler)


def leave(number, frame) -> None:
    """End the process at once, while there is nothing to keep: an import might lose a `KeyboardInterrupt`."""
    with contextlib.suppress(OSError):  # the terminal may be closed
        os.write(1, b"\nStopped.\n")
    os._exit(130)


def interrupt(number, frame) -> None:
    """Raise `KeyboardInterrupt`, while it is held back only at the second signal; remember both."""
    _received.append(number)
    if not _held or len(_received) > 1:
        raise KeyboardInterrupt


def interrupt_once(number, frame) -> None:
    """Raise `KeyboardInterrupt`, but not again in two seconds: a second Ctrl-C would leave half of a file."""
    if _finishing:
        _finishing.append(number)
    elif time.monotonic() > _interrupted_seconds[0] + FINISH_SECONDS:
        _interrupted_seconds[0] = time.monotonic()
        raise KeyboardInterrupt


@contextlib.contextmanager
def undisturbed():
    """Let a file be finished before `interrupt_once` raises `KeyboardInterrupt`, however long a slow disk takes."""
    _finishing.append(None)
    try:
        yield
    finally:
        stopped = len(_finishing) > 1
        _finishing.clear()
        if stopped:
            _interrupted_seconds[0] = time.monotonic()
            raise KeyboardInterrupt


@contextlib.contextmanager
def held_back():
    """Hold the first Ctrl-C back until the function that this yields is called: a step of TensorFlow can lose it."""

    def pass_on(*args, **options) -> None:
        if _received:
            raise KeyboardInterrupt

    pass_on()  # received before, and lost by somebody else's code
    _held.append(True)
    try:
        yield pass_on
        pass_on()
    finally:
        _held.clear()
