"""What is shown of a frame, and for how long."""

import math
import time
from pathlib import Path

import numpy as np

from common.cli import printable, warn
from emotions import overlay
from live.sinks import FILE_GAP_SECONDS, write_image
from live.sources import Frame, Source, SourceError

NOTICE_SECONDS = 1.5  # for which a notice stays in the window


class View:
    """The annotated frame, and what the window shows on top of it."""

    def __init__(self):
        self.bars = self.help = False  # whether they are shown
        self.image = None  # the annotated frame, BGR uint8 (height, width, 3): what is recorded and saved
        self._frame, self._faces, self._error = None, [], ""
        self._notice, self._notice_seconds = "", -math.inf

    def update(self, frame: np.ndarray, faces, error: str = "") -> None:
        """Annotate a copy of the next frame, BGR uint8 (height, width, 3)."""
        self._frame, self._faces, self._error = frame, faces, error
        self.redraw()

    def redraw(self) -> None:
        """Annotate the same frame again, after `bars` or a face was changed."""
        self.image = self._frame.copy()
        overlay.draw_faces(self.image, self._faces, self.bars)
        if self._error:
            overlay.draw_message(self.image, self._error)

    def mirror(self) -> None:
        """Mirror the frame; its faces have been mirrored already."""
        self._frame = self._frame[:, ::-1]
        self.redraw()

    def notify(self, notice: str) -> None:
        """Show a notice for a moment, before any message."""
        self._notice, self._notice_seconds = notice, time.perf_counter()

    def save_snapshot(self) -> None:
        """Save the annotated frame in the current folder; say so on the screen and in the window."""
        path = Path(time.strftime("snapshot-%Y%m%d-%H%M%S.png"))
        while path.exists():  # saved in the same second
            path = path.with_stem(path.stem + "_")
        try:
            write_image(path, self.image)
            self.notify(f"Saved {path}")
            print(printable(f"Saved {path.resolve()}"))
        except SourceError as error:  # no reason to stop
            self.notify(str(error))
            warn(f"main.py: {error}")

    def rendered(self, status: str, message: str) -> np.ndarray:
        """Return what the window shows: the annotated frame with status, help and message."""
        shown = self.image.copy()
        if status:
            overlay.draw_status(shown, status, self._faces)
        if time.perf_counter() < self._notice_seconds + NOTICE_SECONDS:
            message = f"{self._notice}  {message}".strip()
        if message:
            overlay.draw_message(shown, message)
        if self.help:  # last: what a small image has no room for is hidden behind it
            overlay.draw_help(shown, self._faces)
        return shown


class Pace:
    """Until when a frame is shown: an image for a second, a video's frame until the next one, a live one not at all."""

    def __init__(self, source: Source):
        self._source = source
        self._due_seconds = 0.0  # of the last frame, 0 if there is none

    def due(self, frame: Frame, following: Frame | None) -> float:
        """Return when, by `time.perf_counter`, a frame is to be replaced by the one that follows in its file."""
        now = time.perf_counter()
        if self._source.live:
            return now
        if self._source.still:
            return now + 1 / self._source.fps
        seconds = following.time_seconds - frame.time_seconds if following else 0.0
        due_seconds = (self._due_seconds or now) + (seconds if seconds < FILE_GAP_SECONDS else 0.0)
        self._due_seconds = max(due_seconds, now)  # a frame that is late delays the rest
        return self._due_seconds
