"""The probabilities of each face over a video's time, as an image for a slide."""

import itertools
from pathlib import Path

import cv2
import numpy as np

from common.cli import warn
from emotions.overlay import COLORS, drawable
from emotions.smoothing import UNCERTAIN
from live.sinks import IMAGE_FORMATS, check_output, write_image
from live.sources import Closable, Frame
from model import EMOTIONS

ZOOM = 2  # it is drawn larger and then reduced, which smooths lines and letters
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1600, 100, 200, 110, 60  # pixels of the image and its margins
CHART, STRIP, GAP = 240, 40, 80  # heights of a face's probabilities and its labels, and the space below
FACES = 4  # that are drawn: those in view for the longest
MOST_ROWS = 50_000  # of one face: from more on, only every second, fourth, ... frame is kept
SHORT_SECONDS = 0.3  # for which a face may be missing without a gap
WHITE, GRAY, DARK, LINE = (255, 255, 255), (110, 110, 110), (50, 50, 50), (215, 215, 215)
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 86400)  # seconds between marks


class Timeline(Closable):
    """Collects the faces of a video; draws them when it is closed: stacked probabilities, and the label below."""

    def __init__(self, path, title: str = ""):
        self.path, self.title, self.summary = Path(path), title, ""
        check_output(self.path, IMAGE_FORMATS)
        self._rows, self._frames, self._step = {}, 0, 1  # face's id -> [(seconds, label, probabilities (7,))]
        self._end_seconds = 0.0

    def write(self, frame: Frame, faces) -> None:
        """Add a frame's faces."""
        self._end_seconds, self._frames = frame.time_seconds, self._frames + 1
        for face in faces if self._frames % self._step == 0 else ():
            row = frame.time_seconds, face.label, np.float32(face.probabilities)
            self._rows.setdefault(face.id, []).append(row)
        if any(len(self._rows.get(face.id, ())) > MOST_ROWS for face in faces):
            self._step *= 2
            for rows in self._rows.values():
                del rows[1::2]

    def close(self) -> None:
        """Draw and write the image; without a face there is none, which is told."""
        if self._rows:
            write_image(self.path, self.image())
            self.summary = str(self.path.resolve())
        elif self._frames:
            warn(f"main.py: {self.path} was not written: no face was seen.")

    def image(self) -> np.ndarray:
        """Return the image, BGR uint8 (height, 1600, 3)."""
        shown = sorted(sorted(self._rows, key=lambda face: -len(self._rows[face]))[:FACES])
        height = TOP + len(shown) * (CHART + STRIP + GAP) - GAP + BOTTOM
        canvas = np.full((height * ZOOM, WIDTH * ZOOM, 3), 255, np.uint8)
        others = len(self._rows) - len(shown)
        title = f"{self.title} ({others} more faces were seen for shorter)" if others else self.title
        width = cv2.getTextSize(drawable(title), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)[0][0]
        _text(canvas, title, (LEFT, 52), min(1.0, (WIDTH - LEFT - 20) / width if width else 1.0), DARK)
        for place, face in enumerate(shown):
            top = TOP + place * (CHART + STRIP + GAP)
            if len(self._rows) > 1:
                _text(canvas, f"face {face}", (LEFT, top - 12), 0.65, GRAY)
            self._draw_face(canvas[top * ZOOM :, LEFT * ZOOM : (WIDTH - RIGHT) * ZOOM], self._rows[face])
            self._draw_axes(canvas, top)
        for i, name in enumerate((*EMOTIONS[::-1], UNCERTAIN)):
            x, y = WIDTH - RIGHT + 28, TOP + 31 * i
            cv2.rectangle(canvas, (x * ZOOM, y * ZOOM), ((x + 22) * ZOOM, (y + 22) * ZOOM), COLORS[name], cv2.FILLED)
            _text(canvas, name, (x + 34, y + 18), 0.65, DARK)
        return cv2.resize(canvas, (WIDTH, height), interpolation=cv2.INTER_AREA)

    def _draw_face(self, area: np.ndarray, rows: list) -> None:
        """Draw a face's probabilities and labels into the upper part of an area as wide as the video is long."""
        times, labels, probabilities = (np.array(values) for values in zip(*rows, strict=True))
        columns = np.linspace(0, max(self._end_seconds, 1e-3), area.shape[1])
        nearest = np.rint(np.interp(columns, times, np.arange(len(times)))).astype(int)
        usual = np.median(np.diff(times)) if len(times) > 1 else 0.0  # between two frames
        seen = np.abs(times[nearest] - columns) <= max(SHORT_SECONDS, columns[1], 0.6 * usual)
        tops = [np.interp(columns, times, column) for column in np.cumsum(probabilities, axis=1).T]
        tops = np.stack(tops, axis=1)  # (columns, 7): where the area of each emotion ends
        tops = np.rint((1 - tops / tops[:, -1:]) * CHART * ZOOM).astype(int)
        chart, y = area[: CHART * ZOOM], np.arange(CHART * ZOOM)[:, None]
        for i in reversed(range(len(EMOTIONS))):  # each covers the lower part of the one before
            chart[(y >= tops[:, i]) & seen] = COLORS[EMOTIONS[i]]
            chart[(np.abs(y - tops[:, i]) < ZOOM / 2) & seen] = WHITE
        strip = area[(CHART + 6) * ZOOM : (CHART + STRIP) * ZOOM]
        names = np.where(seen, labels[nearest], "")
        for name, run in itertools.groupby(range(len(names)), key=names.__getitem__):
            run = list(run)
            if name:
                strip[:, run[0] : run[-1] + 1] = COLORS[name]
                width = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.65, 1)[0][0]
                if width + 12 < len(run) / ZOOM:
                    ink = WHITE if sum(COLORS[name]) < 320 else DARK
                    _text(strip, name, ((run[0] + run[-1]) / 2 / ZOOM - width / 2, 23), 0.65, ink)

    def _draw_axes(self, canvas: np.ndarray, top: int) -> None:
        left, right, end = LEFT, WIDTH - RIGHT, max(self._end_seconds, 1e-3)
        for percent in (0, 50, 100):
            y = top + round((1 - percent / 100) * CHART)
            cv2.line(canvas, ((left - 8) * ZOOM, y * ZOOM), (left * ZOOM - 4, y * ZOOM), GRAY, ZOOM)
            _text(canvas, f"{percent} %", (left - 74, y + 7), 0.6, GRAY)
        step = next((step for step in STEPS if end / step <= 12), end)
        for i in range(int(end / step) + 1):
            x, y = left + i * step / end * (right - left), top + CHART + STRIP
            cv2.line(canvas, (round(x * ZOOM), (y + 4) * ZOOM), (round(x * ZOOM), (y + 10) * ZOOM), GRAY, ZOOM)
            minutes, seconds = divmod(round(i * step), 60)
            _text(canvas, f"{minutes}:{seconds:02}", (x - 18, y + 32), 0.6, GRAY)


def _text(canvas: np.ndarray, text: str, corner, scale: float, color) -> None:
    """Write a line with its lower left corner at `corner`, in pixels of the reduced image."""
    place = round(corner[0] * ZOOM), round(corner[1] * ZOOM)
    cv2.putText(canvas, drawable(text), place, cv2.FONT_HERSHEY_SIMPLEX, scale * ZOOM, color, ZOOM, cv2.LINE_AA)
