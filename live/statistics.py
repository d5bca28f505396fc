"""What main.py prints, and the frame rate that it shows."""

import contextlib
import errno
import sys
import time
from collections import Counter, deque

import numpy as np

from common.cli import printable
from emotions.smoothing import UNCERTAIN
from live.sources import Frame, Source

STAGES = ("reading", "detecting", "classifying", "drawing", "writing")
TIMED_FRAMES = 20_000  # the last ones, for the milliseconds: a program may run for months
NO_FACE = "no face"  # of an image without one
BAR_FRAMES = 100  # from which number of frames on there is a progress bar,
BAR_SECONDS = 0.2  # and how often it is drawn
RATE_FRAMES = 31  # the last ones, for the frame rate
GONE = (errno.EPIPE, errno.EIO, errno.EINVAL)  # of a pipe whose reader has ended, a terminal; a pipe on Windows


class Statistics:
    """Counts frames and labels, and measures the milliseconds of each stage."""

    def __init__(self):
        self.milliseconds = {stage: deque(maxlen=TIMED_FRAMES) for stage in STAGES}
        self.labels = Counter()
        self.frames = self.images = 0
        self._stamps = deque(maxlen=RATE_FRAMES)  # when the last frames were counted, since an interruption
        self._seconds = self._intervals = 0

    @contextlib.contextmanager
    def timed(self, stage: str):
        """Measure a block; one that raises is not counted."""
        start = time.perf_counter()
        yield
        self.milliseconds[stage].append(1000 * (time.perf_counter() - start))

    def count(self, faces, milliseconds: dict[str, float], still: bool = False) -> None:
        """Add a frame's faces and the milliseconds of the stages that found them."""
        now = time.perf_counter()
        if self._stamps:
            self._seconds, self._intervals = self._seconds + now - self._stamps[-1], self._intervals + 1
        self._stamps.append(now)
        self.frames, self.images = self.frames + 1, self.images + still
        self.labels.update(face.label for face in faces)
        for stage, value in milliseconds.items():
            self.milliseconds[stage].append(value)

    def interrupt(self) -> None:
        """Do not count the time until the next frame: a pause, or another file."""
        self._stamps.clear()

    @property
    def fps(self) -> float:
        """Frames a second, 0 if unknown."""
        return self._intervals / self._seconds if self._seconds > 0 else 0.0

    @property
    def frame_rate(self) -> str:
        """The rate of the last frames, such as "30 fps", "" if unknown."""
        stamps = self._stamps
        return f"{(len(stamps) - 1) / (stamps[-1] - stamps[0]):.0f} fps" if len(stamps) > 1 else ""

    def __str__(self):
        if self.images == self.frames:
            counts = ", ".join(f"{label} {count}" for label, count in self.labels.most_common())
            faces = plural(self.labels.total(), "face")
            return f"{plural(self.frames, 'image')}, {faces}" + (f": {counts}" if counts else "")
        lines = [plural(self.frames, "frame") + (f", {self.fps:.1f} frames a second" if self.fps else "")]
        for stage in STAGES:
            if self.milliseconds[stage]:
                median, tail = np.percentile(self.milliseconds[stage], [50, 95])
                lines.append(f"{stage:12}{median:7.1f} ms a frame, 95 % within {tail:.1f} ms")
        return "\n".join(lines)


class Results:
    """A line on stdout for each image and video as it is done, and on a terminal a progress bar for a long one."""

    needed = True  # whether they are all that is wanted

    def __init__(self):
        self._frames = 0
        self._bar, self._lines = (stream is not None and stream.isatty() for stream in (sys.stderr, sys.stdout))

    def begin(self, source: Source) -> None:
        """Begin another source."""
        self.end()
        self._source, self._with_face, self._labels = source, 0, Counter()
        self._start_seconds = self._drawn_seconds = time.monotonic()

    def write(self, frame: Frame, faces) -> None:
        """Count a frame's faces; print those of an image, from left to right."""
        self._frames += 1
        self._with_face += bool(faces)
        self._labels.update(face.label for face in faces)
        if frame.still:
            shares = ("" if face.label == UNCERTAIN else f" {max(face.probabilities):.0%}" for face in faces)
            labels = ", ".join(face.label + share for face, share in zip(faces, shares, strict=True))
            result = f"{plural(len(faces), 'face')}: {labels}" if faces else NO_FACE
            self.print(f"{printable(frame.name)}: {result}")
        total, now = self._source.frame_count, time.monotonic()
        shows_progress = frame.still and self._lines  # which would be printed over the bar
        if self._bar and not shows_progress and total >= BAR_FRAMES and now > self._drawn_seconds + BAR_SECONDS:
            self._drawn_seconds, rate = now, self._frames / (now - self._start_seconds)
            minutes, seconds = divmod(round(max(total - self._frames, 0) / rate), 60)
            bar = ("#" * round(20 * self._frames / total))[:20].ljust(20, "-")
            line = f"[{bar}] {self._frames} of {total} frames, {rate:.0f} a second, {minutes}:{seconds:02} left"
            self._draw_bar(line)

    @property
    def summary(self) -> str:
        """How many frames of a video show a face, and which share each label has of all that were shown."""
        total = self._labels.total()
        shares = ", ".join(f"{label} {count / total:.0%}" for label, count in self._labels.most_common())
        faces = f"{self._with_face / self._frames:.0%} with a face"
        return f"{plural(self._frames, 'frame')}, {faces}" + (f": {shares}" if shares else "")

    def end(self) -> None:
        """Print what the source showed, if it is a video."""
        if self._bar:
            self._draw_bar("")
        if self._frames and not self._source.still:
            self.print(f"{printable(self._source.name)}: {self.summary}")
        self._frames = 0

    def print(self, text) -> None:
        """Print on stdout; where results are elsewhere, too, a reader that has gone, as after `| head`, is no error."""
        try:
            print(text, flush=True)
        except OSError as error:
            if self.needed or error.errno not in GONE:
                raise

    def _draw_bar(self, line: str) -> None:
        try:
            print(f"{line:78}", end="\r", file=sys.stderr, flush=True)
        except OSError:  # the terminal has gone
            self._bar = False


def plural(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
