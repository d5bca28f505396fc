"""What every source is made of, and two of them: images and the demo."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from common.cli import warn
from emotions.images import is_animation, read_image
from model import UserError, native_stderr_hidden

DEMO_FACES = Path(__file__).resolve().parent.parent / "demo" / "average_faces.png"
DEFAULT_FPS = 30.0  # if neither source nor file has a rate
STILL_FPS = 1.0  # images a second, shown or recorded


class SourceError(UserError):
    """A source that cannot be used; the message explains why and what to do."""


@dataclass
class Frame:
    """One image of a source: BGR uint8 (height, width, 3), its time in the source, its number from 0.

    `error` explains why a live source sends nothing new, and the image is the last one; `name` is a file's name;
    `still` is true for an image, `again` for one that was handed out before.
    """

    image: np.ndarray
    time_seconds: float
    index: int
    error: str = ""
    name: str = ""
    still: bool = False
    again: bool = False


class Closable:
    """Close it at the end, or use it in a `with` statement."""

    def close(self) -> None: ...

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Source(Closable):
    """Iterate over it for `Frame`s."""

    live = False  # what is shown must be current: frames may be skipped
    still = False  # images that do not follow each other
    fps = DEFAULT_FPS  # frames a second, 0 if unknown
    frame_count = 0  # 0 if unknown
    name = ""

    def __iter__(self):
        return iter(())


def opencv_path(path) -> str:
    """Return an absolute path: OpenCV would take the 12 of "12:30.mp4" for a protocol, as in a URL."""
    return utf8(str(Path(path).absolute()))


def utf8(name: str) -> str:
    """Return a path or URL that OpenCV can open. Raises `SourceError` if it is not UTF-8: OpenCV would crash."""
    if name != name.encode(errors="replace").decode():
        raise SourceError(f"OpenCV cannot open {without_secrets(name)}: this name is not UTF-8. Rename it.")
    return name


def without_secrets(name: str) -> str:
    """Return a stream's URL without user, password and query, where cameras put their keys; a path unchanged."""
    if "://" not in name:
        return name
    without_user = re.sub(r"//(?![^/:@?#]*[/?#])[^?]*@", "//", name)  # a password may contain a slash
    return re.sub(r"\?.*", "", without_user)


def short_name(path: Path | str, repeated) -> str:
    """Return a file's name, or its path if the name is one of the repeated ones."""
    name = Path(path).name
    return str(path) if name in repeated else name


def read_frame(capture) -> tuple[bool, np.ndarray | None]:
    """Read from an OpenCV capture; an exception counts as no image."""
    try:
        return capture.read()
    except cv2.error:  # from some drivers and damaged files
        return False, None


class Images(Source):
    """Image files, in order. An unreadable one is an error if there is no other, otherwise a line on stderr."""

    still, fps = True, STILL_FPS

    def __init__(self, paths: list[Path], name: str, repeated=frozenset()):
        self.name, self.frame_count, self._repeated = name, len(paths), repeated
        self._unread = iter(paths)
        self._read = []  # paths that are readable, as far as they are known
        self._next = 0  # place in that list

    def back(self) -> None:
        """Continue with the image before the last one."""
        self._next = max(self._next - 2, 0)

    def __iter__(self):
        while True:
            again = self._next < len(self._read)
            path = self._read[self._next] if again else next(self._unread, None)
            if path is None:
                break
            with native_stderr_hidden():  # libpng prints what is wrong with a damaged image
                image = read_image(path)
            if image is not None:
                index, self._next = self._next, self._next + 1
                if not again:
                    self._read.append(path)
                    if is_animation(path):
                        warn(f"{path} is an animation: only its first image is used. Convert it to a video for all.")
                name = short_name(path, self._repeated)
                yield Frame(image, index / self.fps, index, name=name, still=True, again=again)
                continue
            if again:  # it has been removed meanwhile
                del self._read[self._next]
            if self.frame_count > 1:
                warn(f"{path} is skipped: it is not a readable image.")
        if not self._read:
            what = "contains no" if self.frame_count > 1 else "is not a"
            raise SourceError(f"{self.name} {what} readable image. Save it again as .png or .jpg.")


def soft_ellipse(size: int) -> np.ndarray:
    """Return a mask of a face's shape, float32 (size, size): 1 inside, 0 outside, with a soft edge."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    return np.float32(np.clip((1 - np.hypot(x / 0.96, y / 1.02)) * 6, 0, 1))


class Demo(Source):
    """The average face of each emotion, one after the other, moving over a background; 640x480, 30 frames a second.

    `faces` are other ones to show: BGR uint8 (size, n * size, 3), side by side.
    """

    name = "demo"
    width, height = 640, 480  # pixels

    def __init__(self, seconds: float = 10.0, emotion_seconds: float = 10 / 7, faces: np.ndarray | None = None):
        self.seconds, self.emotion_seconds = seconds, emotion_seconds
        self.frame_count = round(self.seconds * self.fps)
        row = read_image(DEMO_FACES) if faces is None else faces
        if row is None:
            raise SourceError(f"The demo's faces are missing at {DEMO_FACES}. Restore the folder demo.")
        size = row.shape[0]
        self.faces = [np.float32(row[:, i : i + size]) for i in range(0, row.shape[1], size)]
        self._mask = soft_ellipse(size)
        y, x = np.mgrid[0 : 1 : self.height * 1j, 0 : 1 : self.width * 1j]
        self._background = np.dstack([96 + 40 * y, 88 + 24 * y + 0 * x, 84 + 12 * y]).astype(np.uint8)

    def frame(self, index: int) -> Frame:
        """Return the frame with this number."""
        seconds = index / self.fps
        face = self.faces[int(seconds / self.emotion_seconds) % len(self.faces)]
        size = face.shape[0]
        zoom = 1.1 + 0.15 * math.sin(0.9 * seconds)  # the head moves towards the camera and back
        x = (self.width - zoom * size) / 2 + 120 * math.sin(1.3 * seconds)
        y = (self.height - zoom * size) / 2 + 40 * math.sin(1.7 * seconds)
        left, top, side = int(x), int(y), int(zoom * size) + 2
        place = np.float32([[zoom, 0, x - left], [0, zoom, y - top]])
        head, mask = (cv2.warpAffine(layer, place, (side, side)) for layer in (face, self._mask))
        image = self._background.copy()
        region = image[top : top + side, left : left + side]
        region[:] = region + mask[..., None] * (head - region)
        return Frame(image, seconds, index)

    def __iter__(self):
        for index in range(self.frame_count):
            yield self.frame(index)
