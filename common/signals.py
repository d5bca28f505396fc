"""Ctrl-C, a kill and a closed terminal end a script in the same way: it keeps what it has."""

import contextlib
import math
import os
import signal
import time

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # Windows has no SIGHUP, other systems no SIGBREAK
STOPS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
FINISH_SECONDS = 2.0  # in which main.py finishes its files, undisturbed
_received = []
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
    """Raise `KeyboardInterrupt` and remember it, should somebody else's code lose it."""
    _received.append(number)
    raise KeyboardInterrupt


def interrupt_once(number, frame) -> None:
    """Raise `KeyboardInterrupt`, but not again in two seconds: a second Ctrl-C would leave half of a file."""
    if time.monotonic() > _interrupted_seconds[0] + FINISH_SECONDS:
        _interrupted_seconds[0] = time.monotonic()
        raise KeyboardInterrupt


def interrupted() -> list:
    """Return the numbers of the signals received and raised so far."""
    return list(_received)
