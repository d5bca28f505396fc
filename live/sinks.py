"""Where annotated frames go: an image file, a video file, a folder."""

import contextlib
import math
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np

from common import signals
from common.files import atomic_path, why_not_writable, written_through
from live.sources import DEFAULT_FPS, Closable, Source, SourceError, opencv_path
from live.statistics import plural
from model import native_stderr_hidden

try:
    import resource
except ImportError:  # Windows
    resource = None

IMAGE_FORMATS = (".png", ".jpg", ".jpeg")  # that are written
CODECS = {".mp4": ("avc1", "mp4v"), ".webm": ("VP80", "VP90")}  # where OpenCV has them, the best or fastest first
LIVE_GAP_SECONDS = 3.0  # a longer gap between a live source's frames: the machine was suspended
FILE_GAP_SECONDS = 600.0  # a longer one between a file's frames: a time stamp is wrong
LOWEST_FPS = 10.0  # of a recorded video: a lower rate is the mean of one that varies
STILL_SIZE = (1280, 720)  # pixels of a video of images
SPARE_BYTES = 8 * 2**20  # left free: an .mp4 needs space to be finished


class OutputError(SourceError):
    """An output that cannot be written; the message explains why and what to do."""


def check_output(path: Path, suffixes) -> None:
    """Raise `OutputError` unless a file with one of these suffixes can be written there. Leaves nothing behind."""
    if path.suffix.lower() not in suffixes:
        *others, last = suffixes
        raise OutputError(f"{path} must end in {', '.join(others) + ' or ' if others else ''}{last}.")
    if why := why_not_writable(path):
        raise OutputError(why)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image file completely or not at all. Raises `OutputError`."""
    encoded, content = cv2.imencode(path.suffix, image)
    if not encoded:
        raise OutputError(f"{path}: an image of this size cannot be {path.suffix}. Choose .png, or shrink it.")
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.tobytes())
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}). Free some space or choose another place."
        ) from error


class Recording(Closable):
    """A video file of the annotated frames; the first one creates it and sets its size. Raises `OutputError`.

    It is written beside its place and moved there when it is closed, whole or cut short: an older file stays so long.
    Frames are repeated or left out so that ten seconds of the source play for ten seconds, whatever its rate.
    If their times jump back, as in the next file, the recording continues. `size` is (width, height) in pixels.
    """

    def __init__(self, path, fps: float, live: bool, size: tuple[int, int] | None = None):
        self.path, self._size = Path(path), size
        check_output(self.path, tuple(CODECS))
        opencv_path(self.path)  # raises an error before anything is written
        # OpenCV passes on three decimals, and MPEG-4's clock ticks at most 65,535 times a second.
        self.fps = round(fps, 3 if fps < 65 else 2) if 1 <= fps <= 240 else DEFAULT_FPS
        self.frames = 0  # written so far
        self.repeats = 1  # frames that the first image after a pause takes
        self.live = live
        self._writer, self._image, self._codec = None, None, ""
        self._place = self._temporary = None  # what moves the finished file into its place; the file beside it
        self._start_seconds = -math.inf  # of the first frame, moved on by every pause
        self._last_seconds = -math.inf  # of the last frame

    def pause(self) -> None:
        """Leave out the time until the next frame."""
        self._start_seconds = -math.inf

    def write(self, image: np.ndarray, time_seconds: float, name: str = "") -> None:
        """Add a frame, BGR uint8 (height, width, 3). Raises `OutputError` if no more can be written."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:  # OpenCV would silently skip it
            raise ValueError(f"a frame must be BGR uint8 (height, width, 3), this is {image.dtype} {image.shape}.")
        self._refuse_full()
        if self._writer is None:
            self._size = self._size or (image.shape[1], image.shape[0])
            self._writer = self._open()
        if time_seconds < self._last_seconds - 1:
            self.pause()
        self._last_seconds = time_seconds
        gap_seconds = time_seconds - self._start_seconds - self.frames / self.fps
        if gap_seconds > (LIVE_GAP_SECONDS if self.live else FILE_GAP_SECONDS):  # the first frame, or one after a pause
            self._start_seconds = time_seconds - self.frames / self.fps
        due = round((time_seconds - self._start_seconds) * self.fps)
        before, self._image = self._image, fit(image, self._size)
        while self.frames < due + self.repeats:
            self._writer.write(before if self.frames < due else self._image)
            self.frames += 1

    def _refuse_full(self) -> None:
        """Raise `OutputError` while there is still room to finish the file: OpenCV hides what it cannot write."""
        written = self._temporary.stat().st_size if self._temporary else 0
        largest = resource.getrlimit(resource.RLIMIT_FSIZE)[0] if resource else -1
        full = shutil.disk_usage((self._temporary or written_through(self.path)).parent).free < SPARE_BYTES
        if full or (largest >= 0 and largest - written < SPARE_BYTES):
            ends = f"{self.path} ends after {self.frames / self.fps:.1f} seconds"
            what = "The disk is full" if full else "Files may not become larger (ulimit -f)"
            remedy = "Free some space." if full else "Raise the limit."
            raise OutputError(f"{what}: {ends if self.frames else 'nothing is recorded'}. {remedy}")

    def _open(self):
        with contextlib.ExitStack() as place:
            self._temporary = place.enter_context(atomic_path(self.path, keep=True))
            for codec in CODECS[self.path.suffix.lower()]:
                # FFmpeg comes with the wheels; Windows' own writer takes any codec for H.264.
                target = opencv_path(self._temporary), cv2.CAP_FFMPEG
                with native_stderr_hidden():  # most wheels lack H.264
                    writer = cv2.VideoWriter(*target, cv2.VideoWriter_fourcc(*codec), self.fps, self._size)
                if writer.isOpened():
                    self._codec, self._place = codec, place.pop_all()
                    return writer
                writer.release()
            others = " or ".join(suffix for suffix in CODECS if suffix != self.path.suffix.lower())
            width, height = self._size
            raise OutputError(f"OpenCV cannot write {self.path} with {width}x{height} pixels. Try {others}.")

    def close(self, keep: bool = True) -> None:
        """Finish the file. Raises `OutputError` if it is not to be kept, or not readable; an older one stays then."""
        if self._writer is None:
            return
        frames, self.frames = self.frames, 0
        with signals.undisturbed():
            with self._place:
                self._writer.release()
                self._writer = None
                capture = cv2.VideoCapture(opencv_path(self._temporary))
                readable = keep and capture.isOpened() and capture.grab()
                capture.release()
                if not readable:
                    raise OutputError(f"{self.path} could not be finished: it is not readable. Is the disk full?")
            self.frames = frames

    @property
    def summary(self) -> str:
        """What was written, "" if nothing."""
        if not self.frames:
            return ""
        width, height = self._size
        browsers = "; browsers play only a .webm" if self._codec == "mp4v" else ""
        return f"{self.path.resolve()} ({self.frames / self.fps:.1f} s, {width}x{height}{browsers})"


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the image scaled into (width, height), with black bars if the proportions differ."""
    width, height = size
    if (image.shape[1], image.shape[0]) == size:
        return image
    zoom = min(width / image.shape[1], height / image.shape[0])
    inner = cv2.resize(image, (max(round(image.shape[1] * zoom), 1), max(round(image.shape[0] * zoom), 1)))
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    bottom, right = height - inner.shape[0] - top, width - inner.shape[1] - left
    return cv2.copyMakeBorder(inner, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))


class Outputs(Closable):
    """What --output names: an image, a video, or a folder of annotated copies. Raises `OutputError` if it cannot be.

    `files` are the paths of all sources that are files; `images` tells whether all sources are images, `single` whether
    there is only one.
    """

    def __init__(self, path: Path | str | None, files: list[Path], images: bool, single: bool):
        slash = str(path).endswith(("/", os.sep))  # which a Path would drop
        if str(path) == "":
            raise OutputError("--output is empty. Give a file or a folder.")
        path = self.path = None if path is None else Path(path)
        self._images, self._single = images, single
        self._written, self._recording = set(), None  # the paths that are taken, without case: not all disks know it
        self._images_saved, self._recordings = 0, []
        if path is None:
            return
        known = path.suffix.lower() in (*IMAGE_FORMATS, *CODECS)
        is_folder = path.is_dir() or not (path.suffix or path.exists())
        self._folder = slash or (not known and is_folder)
        if not self._folder:
            check_output(path, IMAGE_FORMATS if images and single else tuple(CODECS))
        elif path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file, not a folder. Choose another name.")
        elif why := why_not_writable((path if path.is_dir() else path.parent) / f"{path.name}.partial"):
            raise OutputError(why)
        refuse_overwriting({path / file.name for file in files} if self._folder else {path}, files)

    def open(self, source: Source):
        """Return a context manager for where the frames of the next source go: a recording, images, or None."""
        if self.path is None:
            return contextlib.nullcontext()
        if source.still and (self._folder or self._single):
            return self  # `write` makes a file of every image
        rate = source.fps if source.still or source.live or source.fps >= LOWEST_FPS else DEFAULT_FPS
        if self._folder:
            self._recordings.append(Recording(self._place(source.name, tuple(CODECS)), rate, source.live))
            return self._recordings[-1]
        if self._recording is None:
            rate = rate if self._images or self._single else DEFAULT_FPS
            self._recording = Recording(self.path, rate, source.live, STILL_SIZE if source.still else None)
        self._recording.live = source.live
        self._recording.repeats = round(self._recording.fps / source.fps) if source.still else 1
        self._recording.pause()
        return contextlib.nullcontext(self._recording)

    def write(self, image: np.ndarray, time_seconds: float, name: str = "") -> None:
        """Write an annotated image, BGR uint8 (height, width, 3), as a file. Raises `OutputError`."""
        write_image(self._place(name, IMAGE_FORMATS), image)
        self._images_saved += 1

    def discard(self, recording) -> None:
        """Leave no recording of a source that was refused; one of several sources keeps what it has."""
        if isinstance(recording, Recording) and (self._single or recording is not self._recording):
            with contextlib.suppress(OutputError):
                recording.close(keep=False)
            self._recordings = [each for each in self._recordings if each is not recording]
            self._written.discard(str(recording.path).casefold())

    def _place(self, name: str, suffixes: tuple) -> Path:
        """Return where the annotated copy of a source goes: under its name, with a number if that is used."""
        path, number = self.path, 2
        if self._folder:
            path.mkdir(exist_ok=True)
            stem, suffix = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", Path(name).stem), Path(name).suffix.lower()
            suffix = suffix if suffix in suffixes else suffixes[0]
            path = path / f"{stem}{suffix}"
            while str(path).casefold() in self._written:
                path, number = path.with_name(f"{stem} ({number}){suffix}"), number + 1
        self._written.add(str(path).casefold())
        return path

    @property
    def summary(self) -> str:
        """What was written, "" if nothing."""
        if self._recording:
            return self._recording.summary
        written = self._images_saved + sum(recording.frames > 0 for recording in self._recordings)
        if not written:
            return ""
        return f"{self.path.resolve()}" + f"{os.sep} ({plural(written, 'file')})" * self._folder

    def close(self) -> None:
        if self._recording:
            self._recording.close()


def refuse_overwriting(outputs, sources) -> None:
    """Raise `OutputError` if one of the output paths is one of the source files, or another output."""

    def identity(path: Path):  # a hard link is the same file under another name
        stat = path.stat() if path.exists() else None
        return (stat.st_dev, stat.st_ino) if stat else os.path.realpath(path)

    taken = dict.fromkeys(map(identity, sources), "the source")
    for path in outputs:
        if other := taken.get(identity(path)):
            raise OutputError(f"{path} would overwrite {other}. Choose another name.")
        taken[identity(path)] = path
