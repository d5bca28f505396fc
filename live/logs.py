"""A log of every face, as CSV or JSON."""

import json
import math
import time
from pathlib import Path

from live.sinks import OutputError, check_output
from live.sources import Closable, Frame
from live.statistics import NO_FACE, plural
from model import EMOTIONS

LOG_FORMATS = (".csv", ".json", ".jsonl")
LOG_COLUMNS = ("time_seconds", "frame", "face", "x", "y", "width", "height", *EMOTIONS, "label", "file")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that starts with one of these
FLUSH_SECONDS = 0.5


class Log(Closable):
    """A line for every face, as CSV or, in a .json file, as JSON; on the disk twice a second so a crash loses little.

    It always ends with a complete line. Without any frame it is not created. `marked` puts Unicode's byte order mark
    at the start of a CSV file: a spreadsheet needs it for names that are not ASCII.
    """

    def __init__(self, path, marked: bool = False):
        self.path, self._rows, self._saved = Path(path), 0, 0  # rows written, and those on the disk
        check_output(self.path, LOG_FORMATS)
        self._csv = self.path.suffix.lower() == ".csv"
        self._lines = ["\ufeff" * marked + ",".join(LOG_COLUMNS)] if self._csv else []
        self._complete_bytes = 0
        self._flushed_seconds = -math.inf
        self._file = None

    def write(self, frame: Frame, faces) -> None:
        """Add a frame's faces. Raises `OutputError` if the disk is full; the lines before it stay."""
        line = self._csv_line if self._csv else self._json_line
        lines = [line(frame, face) for face in faces] or [line(frame, None)] * frame.still
        self._rows += len(lines)
        self._lines += lines
        if time.monotonic() - self._flushed_seconds >= FLUSH_SECONDS:
            self._flush()

    def _csv_line(self, frame: Frame, face) -> str:
        name = frame.name.startswith(FORMULA) * "'" + frame.name
        name = name and '"' + name.replace('"', '""') + '"'  # it may contain a comma
        cells = [""] * (1 + 4 + len(EMOTIONS)) + [NO_FACE]
        if face:
            cells = [face.id, *face.box, *(f"{probability:.4f}" for probability in face.probabilities), face.label]
        return ",".join(map(str, [f"{frame.time_seconds:.3f}", frame.index, *cells, name]))

    def _json_line(self, frame: Frame, face) -> str:
        row = {"time_seconds": round(frame.time_seconds, 3), "frame": frame.index, "file": frame.name}
        return json.dumps(row | (face.to_dict() if face else {"id": None, "label": NO_FACE}))

    def _flush(self):
        self._flushed_seconds = time.monotonic()
        content = "".join(line + "\n" for line in self._lines).encode(errors="backslashreplace")
        self._lines = []
        try:
            if self._file is None:
                self._file = self.path.open("wb", buffering=0)
            if self._file.write(content) != len(content):
                raise OSError(0, "No space left on device")
            self._complete_bytes, self._saved = self._complete_bytes + len(content), self._rows
        except OSError as error:
            if self._file is not None:
                self._file.truncate(self._complete_bytes)
            raise OutputError(
                f"{self.path} cannot be written any further ({error.strerror}). Free some space."
            ) from error

    @property
    def summary(self) -> str:
        """What was written, "" if nothing."""
        return f"{self.path.resolve()} ({plural(self._saved, 'line')})" if self._file else ""

    def close(self) -> None:
        """Write the last lines."""
        if self._file is not None:
            try:
                if self._lines:
                    self._flush()
            finally:
                self._file.close()
