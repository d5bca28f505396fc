"""Where frames go: a window, a picture, a recording, a log."""

import contextlib
import math
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from files import why_not_writable, written_whole
from video import SILENT_SECONDS, USUAL_FPS, VideoError, unmistakable

WRITTEN_SUFFIXES = (".png", ".jpg", ".jpeg")
CODECS = {".mp4": ("mp4v",), ".webm": ("VP80", "VP90")}  # what OpenCV's wheels write, the fastest first
GAP_SECONDS = SILENT_SECONDS + 1  # between a live source's frames or faults: the machine was asleep, or stopped
HOLD_SECONDS = 60.0  # the same between a file's frames: a time stamp is wrong
SPARE_BYTES = 8 * 2**20  # left free on the disk: an .mp4 needs room to be finished
FLUSH_SECONDS = 0.5
NO_DISPLAY = "There is no display for a window: log in with a desktop."
NO_WINDOWS = (
    f"This OpenCV has no windows: {sys.executable} -m pip uninstall opencv-python-headless, then "
    f'{sys.executable} -m pip install --force-reinstall "opencv-python<5".'
)


def check_output(path, suffixes) -> None:
    """Raise `VideoError` unless a file of one of these suffixes can be written there. Nothing is left behind."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise VideoError(f"{path} should end in {' or '.join(suffixes)}.")
    if why := why_not_writable(path):
        raise VideoError(why)


def write_picture(path, image: np.ndarray) -> None:
    """Write a picture whole or not at all. Raises `VideoError`."""
    path = Path(path)
    encoded, content = cv2.imencode(path.suffix, image)
    if not encoded:
        raise VideoError(f"{path}: a picture as large as this cannot be {path.suffix}. Choose .png, or shrink it.")
    try:
        with written_whole(path) as partial:
            partial.write_bytes(content.tobytes())
    except OSError as error:
        raise VideoError(
            f"{path} cannot be written ({error.strerror}). Free some space or choose another place."
        ) from error


class Recording:
    """A video file of the annotated frames; it is created by the first one and keeps its size.

    Frames are repeated or left out so that ten seconds of the source play for ten seconds, whatever its rate does.
    Where their times go back, as of a film that starts again, the recording goes on.
    """

    def __init__(self, path, fps: float, live: bool):
        self.path = Path(path)
        self.longest_gap_seconds = GAP_SECONDS if live else HOLD_SECONDS
        # OpenCV passes three decimals on, and MPEG-4's clock ticks at most 65,535 times a second.
        self.fps = round(fps, 3 if fps < 65 else 2) if 1 <= fps <= 240 else USUAL_FPS
        self.frames = 0
        self._writer = None
        self._size = None
        self._start_seconds = -math.inf  # of the first frame, moved on by every pause
        self._last_seconds = -math.inf  # of the last frame

    def pause(self) -> None:
        """Leave out the time until the next frame."""
        self._start_seconds = -math.inf

    def write(self, image: np.ndarray, time_seconds: float) -> None:
        """Add a frame, BGR uint8 (height, width, 3). Raises `VideoError` where the disk is (nearly) full."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:  # OpenCV leaves it out without a word
            raise ValueError(f"a frame must be BGR uint8 (height, width, 3), this is {image.dtype} {image.shape}.")
        if self._writer is None:
            self._size = image.shape[1], image.shape[0]
            self._writer = self._open()
        if shutil.disk_usage(self.path.parent).free < SPARE_BYTES:
            raise VideoError(
                f"The disk is full: {self.path} ends after {self.frames / self.fps:.1f} seconds. Free some space."
            )
        if time_seconds < self._last_seconds - 1:
            self.pause()
        self._last_seconds = time_seconds
        gap_seconds = time_seconds - self._start_seconds - self.frames / self.fps
        if gap_seconds > self.longest_gap_seconds:  # the first, or after a pause
            self._start_seconds = time_seconds - self.frames / self.fps
        due = round((time_seconds - self._start_seconds) * self.fps) + 1
        image = fit(image, self._size)
        while self.frames < due:
            self._writer.write(image)
            self.frames += 1

    def _open(self):
        for codec in CODECS[self.path.suffix.lower()]:
            # FFmpeg comes with the wheels; Windows' own writer takes any codec for H.264.
            where = unmistakable(self.path), cv2.CAP_FFMPEG
            writer = cv2.VideoWriter(*where, cv2.VideoWriter_fourcc(*codec), self.fps, self._size)
            if writer.isOpened():
                return writer
            writer.release()
        self.path.unlink(missing_ok=True)
        others = " or ".join(suffix for suffix in CODECS if suffix != self.path.suffix.lower())
        width, height = self._size
        raise VideoError(f"OpenCV cannot write {self.path} with {width}x{height} pixels. Try {others}.")

    def close(self) -> None:
        """Finish the file. Raises `VideoError` where it turns out not to be readable."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        capture = cv2.VideoCapture(unmistakable(self.path))
        readable = capture.isOpened() and capture.grab()
        capture.release()
        if not readable:
            raise VideoError(f"{self.path} could not be finished and is not readable. Is the disk full?")


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the image scaled into (width, height), with black bars where the proportions differ."""
    width, height = size
    if (image.shape[1], image.shape[0]) == size:
        return image
    zoom = min(width / image.shape[1], height / image.shape[0])
    inner = cv2.resize(image, (max(round(image.shape[1] * zoom), 1), max(round(image.shape[0] * zoom), 1)))
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    bottom, right = height - inner.shape[0] - top, width - inner.shape[1] - left
    return cv2.copyMakeBorder(inner, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))


class Log:
    """A CSV file, whole lines only, brought to the disk twice a second so that a crash loses little."""

    def __init__(self, path, header: str):
        self.path = Path(path)
        self._lines = [header]
        self._good_bytes = 0
        self._flushed_seconds = -math.inf
        self._file = None

    def write(self, lines) -> None:
        """Add lines. Raises `VideoError` where the disk is full; the lines before stay."""
        self._lines.extend(lines)
        if time.monotonic() - self._flushed_seconds >= FLUSH_SECONDS:
            self._flush()

    def _flush(self):
        self._flushed_seconds = time.monotonic()
        content = "".join(line + "\n" for line in self._lines).encode(errors="backslashreplace")
        self._lines = []
        try:
            if self._file is None:
                self._file = self.path.open("wb", buffering=0)
            written = self._file.write(content)
            if written != len(content):
                raise OSError(0, "No space left on device")
            self._good_bytes += written
        except OSError as error:
            if self._file is not None:
                self._file.truncate(self._good_bytes)
            raise VideoError(
                f"{self.path} cannot be written any further ({error.strerror}). Free some space."
            ) from error

    def close(self) -> None:
        """Write what is left. A log without a frame is not created."""
        if self._file is not None:
            try:
                if self._lines:
                    self._flush()
            finally:
                self._file.close()


def window_toolkit() -> str:
    """Return by what this OpenCV shows windows, such as "QT5"; "NONE" of opencv-python-headless."""
    found = re.search(r"GUI:\s+(\w+)", cv2.getBuildInformation())
    return found[1] if found else "NONE"


class DisplayProbe:
    """Finds out whether a window can be opened, by a process of its own: OpenCV aborts where it cannot.

    It stays connected until `close`: a bare X server starts anew when the last program goes, and throws others out.
    """

    COMMAND = (
        "import cv2, sys; cv2.namedWindow('probe', cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL); "
        "cv2.destroyAllWindows(); print('yes', flush=True); sys.stdin.read()"
    )

    def __init__(self):
        self._process = None
        if sys.platform == "linux":  # elsewhere a desktop is always there, or OpenCV raises
            pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
            command = [sys.executable, "-c", self.COMMAND]
            here = Path(__file__).parent  # not the user's folder, which may hold a cv2.py
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=quiet, cwd=here)

    def answer(self) -> str:
        """Wait for the outcome: why no window opened and what to do, "" where one did."""
        if window_toolkit() == "NONE":
            return NO_WINDOWS
        opened = self._process is None or self._process.stdout.readline().strip() == b"yes"
        return "" if opened else NO_DISPLAY

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class Window:
    """A window that shows frames and hears keys. Only where `DisplayProbe` says that there is a display."""

    LARGEST = (1280, 680)  # pixels: larger frames are shown smaller,
    SMALLEST_WIDTH = 640  # narrower ones larger

    def __init__(self, title: str):
        self.title = title
        self.closed = False
        self._size = None  # that the window was given
        self._was_visible = False
        cv2.namedWindow(self.title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)

    def show(self, image: np.ndarray) -> None:
        """Show a frame; the window takes its size whenever that changes, and else keeps what a person made of it."""
        height, width = image.shape[:2]
        zoom = min(self.LARGEST[0] / width, self.LARGEST[1] / height, max(self.SMALLEST_WIDTH / width, 1.0))
        size = max(round(width * zoom), 1), max(round(height * zoom), 1)
        if size != self._size:
            cv2.resizeWindow(self.title, *size)
            self._size = size
        if zoom < 1:  # the window itself would leave out lines of boxes and letters
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        cv2.imshow(self.title, image)

    def wait_key(self, seconds: float) -> str:
        """Wait for a key and return it as text ("" for none, "\\x1b" for Esc); notice a press of the window's X."""
        code = cv2.waitKey(max(round(seconds * 1000), 1))
        try:
            visible = cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE)
        except cv2.error:  # Qt, where the window is gone
            visible = 0
        self._was_visible = self._was_visible or visible >= 1
        # GTK never says that it is visible; on macOS, where it has no button to close it, "invisible" is "minimised".
        self.closed = self._was_visible and visible < 1 and sys.platform != "darwin"
        key = chr(code & 0xFF) if code >= 0 else ""
        return key if sys.platform == "linux" else key.lower()  # Caps Lock; on Linux "Q" may be the left arrow

    def close(self) -> None:
        with contextlib.suppress(cv2.error):  # it is gone already
            cv2.destroyWindow(self.title)
