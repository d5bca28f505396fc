"""Where frames come from: camera, stream, file, pictures, demo.

A source is iterated over for `Frame`s and closed at the end. Its attributes: `fps` (frames a second, 0 where
unknown); `live` (what is shown has to be now: frames may be skipped); `still` (pictures that do not follow each other).
"""

import math
import queue
import re
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from files import PICTURE_SUFFIXES

DEMO_FACES = Path(__file__).resolve().parent / "demo" / "average_faces.png"
CAMERAS = 5  # camera numbers that are tried when one is looked for
USUAL_FPS = 30.0  # where neither source nor file says its rate
STILL_FPS = 1.0  # pictures a second, shown or recorded
READ_AHEAD = 8  # frames,
READ_AHEAD_BYTES = 64 * 2**20  # or as many as this holds, of large ones
FAILED_READS = 5  # in a row, and a camera counts as unplugged; the first pictures of some are late
RETRY_SECONDS = 0.1  # between them
FROZEN_SECONDS = 3.0  # of the very same picture: a sensor's noise never repeats, an unplugged driver may
SILENT_SECONDS = 2.0  # without a new picture before the person is told
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 8.0  # between attempts to reconnect, doubled each time
FAULT_FPS = 10  # how often the last picture comes again while a live source is silent


class VideoError(ValueError):
    """A source or an output that cannot be used; the message says why and what to do."""


@dataclass
class Frame:
    """One picture of a source: BGR uint8 (height, width, 3), its time in the source, its number from 0.

    `fault` says why a live source sends nothing new; the image is then the last one. `name` is a picture's file name.
    """

    image: np.ndarray
    time_seconds: float
    index: int
    fault: str = ""
    name: str = ""


def open_source(address):
    """Open a camera number, stream URL, video, picture, folder of pictures, or "demo". Raises `VideoError`."""
    text = str(address)
    if not text:
        raise VideoError("The source is empty. Give a camera number, a video, a picture, a folder, a URL or demo.")
    if text == "demo":
        return Demo()
    if text.isdecimal() and len(text) < 10:  # a longer one is too large for OpenCV
        return Camera(int(text))
    if text.startswith("file:"):
        raise VideoError(f"{text} lies on this machine. Give its path, without file://.")
    if "://" in text:
        return _open_url(text)
    path = Path(text)
    if path.is_dir():
        files = sorted(child for child in path.iterdir() if child.is_file() and not child.name.startswith("."))
        pictures = [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES]
        if not pictures:
            raise VideoError(f"The folder {path} holds no pictures ({', '.join(PICTURE_SUFFIXES)}).")
        if len(files) > len(pictures):
            others = len(files) - len(pictures)
            print(
                f"{others} of {len(files)} files in {path} are left out: no pictures, by their names.", file=sys.stderr
            )
        return Pictures(pictures, str(path))
    if not path.exists():
        raise VideoError(f"There is no file {path}. Give a camera number, a video, a picture, a folder, a URL or demo.")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return Pictures([path], str(path))
    return VideoFile(str(path))


def _open_url(url: str):
    """A stream that knows its length is a file that lies elsewhere; any other is live."""
    source = Camera(url)
    if source.frame_count > 0:
        source.close()
        return VideoFile(url)
    return source


def read_picture(path) -> np.ndarray | None:
    """Return a picture file as BGR uint8 (height, width, 3), turned as its EXIF says, or None where it is none."""
    try:  # `imread` cannot open every path on Windows
        content = np.fromfile(path, np.uint8)
        return cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    except (OSError, cv2.error):
        return None


class Pictures:
    """Picture files, in order. One that cannot be read is an error if it is the only one, else a line on stderr."""

    live, still, fps = False, True, STILL_FPS

    def __init__(self, paths, name: str):
        self.paths, self.name = paths, name

    def __iter__(self):
        readable = 0
        for path in self.paths:
            image = read_picture(path)
            if image is not None:
                yield Frame(image, readable / self.fps, readable, name=path.name)
                readable += 1
            elif len(self.paths) > 1:
                print(f"{path} is left out: it is not a readable picture.", file=sys.stderr)
        if not readable:
            what = "holds no" if len(self.paths) > 1 else "is not a"
            raise VideoError(f"{self.name} {what} readable picture. Save it again as .png or .jpg.")

    def close(self):
        pass


class VideoFile:
    """A video file: every frame once, in order, decoded ahead by a thread of its own."""

    live, still = False, False

    def __init__(self, name: str):
        self.name = _without_secrets(name)
        self._capture = cv2.VideoCapture(name if "://" in name else unmistakable(name))
        if not self._capture.isOpened():
            self._capture.release()
            raise VideoError(
                f"{self.name} is not a video that OpenCV can read. Convert it to .mp4, for example with ffmpeg."
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else USUAL_FPS
        self.frame_count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        frame_bytes = 3 * self._capture.get(cv2.CAP_PROP_FRAME_WIDTH) * self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        self._queue = queue.Queue(max(min(READ_AHEAD, int(READ_AHEAD_BYTES / max(frame_bytes, 1))), 1))
        self._count, self._last_seconds = 0, 0.0  # of the frames that were handed out
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read_ahead, daemon=True)
        self._thread.start()

    def _read_ahead(self):
        index, last_seconds = 0, -1.0
        while not self._closing.is_set():
            read, image = _read(self._capture)
            if not read:
                return
            seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if not seconds > last_seconds:  # a container without time stamps
                seconds = index / self.fps if index / self.fps > last_seconds else last_seconds + 1 / self.fps
            self._put(Frame(image, seconds, index))
            index, last_seconds = index + 1, seconds

    def _put(self, item):
        while not self._closing.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                pass

    def __iter__(self):
        while not self._closing.is_set() and (self._thread.is_alive() or not self._queue.empty()):
            try:
                frame = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            self._count, self._last_seconds = self._count + 1, frame.time_seconds
            yield frame
        if self._closing.is_set():
            return
        if self._count == 0:
            raise VideoError(f"{self.name} holds no picture that can be read. It is empty or damaged.")
        # Of a file with a varying rate OpenCV gives the frames that its duration would hold at the nominal one.
        if max(self._count, self._last_seconds * self.fps) < 0.95 * self.frame_count:
            print(f"{self.name} ends early: {self._count} of {self.frame_count} frames could be read.", file=sys.stderr)

    def close(self):
        self._closing.set()
        self._thread.join(2)
        if not self._thread.is_alive():  # a capture that another thread reads must not be released
            self._capture.release()


class Camera:
    """A camera number or a stream URL: a thread reads all the time and keeps the newest frame only.

    When reads fail, or a camera sends the very same picture for three seconds, it is opened again, with growing
    pauses; meanwhile the last picture comes again and again with its `fault`. Times are seconds since the first frame.
    """

    live, still = True, False

    def __init__(self, address: int | str):
        self.address = address
        self.name = f"camera {address}" if isinstance(address, int) else _without_secrets(address)
        self._capture = _open_capture(address)
        read, image = _read(self._capture)
        for _ in range(FAILED_READS):
            if self._capture.isOpened() and not read:
                time.sleep(RETRY_SECONDS)
                read, image = _read(self._capture)
        if not read:
            opened = self._capture.isOpened()
            self._capture.release()
            raise VideoError(_why_silent(address, opened))
        lowest = sys.platform == "darwin" and isinstance(address, int)  # there a camera tells its lowest rate, often 1
        self.fps = 0.0 if lowest else max(self._capture.get(cv2.CAP_PROP_FPS), 0.0)
        self.frame_count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._start_seconds = self._changed_seconds = time.perf_counter()
        self._newest = Frame(image, 0.0, 0)
        self._fault = ""
        self._failed_reads = 0
        self._news = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read_forever, daemon=True)
        self._thread.start()

    def _read_forever(self):
        wait_seconds = FIRST_WAIT_SECONDS
        while not self._closing.is_set():
            read, image = _read(self._capture)
            if read:
                fresh = self._keep(image)
                wait_seconds = FIRST_WAIT_SECONDS if fresh else wait_seconds
            self._failed_reads = 0 if read else self._failed_reads + 1
            frozen = time.perf_counter() - self._changed_seconds > FROZEN_SECONDS
            if self._failed_reads >= FAILED_READS or (read and frozen):
                what = "sends the same picture all the time" if read else "sends no picture"
                self._fault = f"{self.name} {what}: connecting again"
                self._capture.release()
                self._closing.wait(wait_seconds)
                wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)
                if not self._closing.is_set():
                    self._capture = _open_capture(self.address)
                    self._failed_reads = 0 if self._capture.isOpened() else FAILED_READS
            elif not read:
                self._closing.wait(RETRY_SECONDS)

    def _keep(self, image) -> bool:
        """Make an image the newest one; return whether it is news: from a camera, only if it differs from the last."""
        now = time.perf_counter()
        fresh = isinstance(self.address, str) or not np.array_equal(image, self._newest.image)
        if fresh:
            self._changed_seconds, self._fault = now, ""
        if fresh or not self._fault:
            with self._news:
                self._newest = Frame(image, now - self._start_seconds, self._newest.index + 1)
                self._news.notify_all()
        return fresh

    def __iter__(self):
        if self._closing.is_set():
            return
        shown = self._newest
        yield _copied(shown)
        while not self._closing.is_set():
            with self._news:
                if self._newest is shown:
                    self._news.wait(1 / FAULT_FPS)
            silent_seconds = time.perf_counter() - self._start_seconds - shown.time_seconds
            if self._newest is not shown:
                shown = self._newest
                yield _copied(shown)
            elif self._fault or silent_seconds > SILENT_SECONDS:
                fault = self._fault or f"{self.name} has sent nothing for {silent_seconds:.0f} seconds"
                yield replace(_copied(shown), time_seconds=shown.time_seconds + silent_seconds, fault=fault)

    def close(self):
        self._closing.set()
        self._thread.join(2)
        if not self._thread.is_alive():
            self._capture.release()


def _copied(frame: Frame) -> Frame:
    """Return a frame to draw on: the camera's own picture is compared with the next, to tell a frozen one."""
    return replace(frame, image=frame.image.copy())


def _read(capture) -> tuple[bool, np.ndarray | None]:
    try:
        return capture.read()
    except cv2.error:  # from some drivers and damaged files
        return False, None


def _open_capture(address):
    if isinstance(address, int):
        return cv2.VideoCapture(address)
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 5000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 5000]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, timeouts)


def unmistakable(path) -> str:
    """Return a path as OpenCV takes it for one: of "12:30.mp4" it would take the 12 for a protocol, as of a URL."""
    return str(Path(path).absolute())


def _without_secrets(name: str) -> str:
    """Return a stream's URL without user, password and query, where cameras take their keys; a path as it is."""
    return re.sub(r"\?.*", "", re.sub(r"//[^/?#]*@", "//", name)) if "://" in name else name


def list_cameras() -> list[tuple[int, object]]:
    """Return (number, opened capture) of every camera that opens; the caller releases them."""
    captures = [(number, cv2.VideoCapture(number)) for number in range(CAMERAS)]
    return [(number, capture) for number, capture in captures if capture.isOpened()]


def _why_silent(address, opened: bool) -> str:
    if isinstance(address, str):
        return f"The stream {_without_secrets(address)} does not answer. Check the address and the network."
    if opened:
        return (
            f"Camera {address} opens but sends no picture. Close other programs that use it, allow this terminal "
            "to use the camera (macOS, Windows: privacy settings), or plug it in again."
        )
    others = []
    for number, capture in list_cameras():
        capture.release()
        others.append(str(number))
    answer = f"These answer: {', '.join(others)}." if others else "No camera answers."
    device = Path(f"/dev/video{address}")
    if device.exists():
        return (
            f"Camera {address} ({device}) is busy or not permitted to you (group video): close other programs that use "
            f"it. Or it is the second device of another camera, which sends no pictures. {answer}"
        )
    if not others and sys.platform == "darwin":  # where a camera that is not permitted is none
        answer += " Allow this terminal to use it (System Settings, Privacy & Security, Camera) and start again."
    return f"There is no camera {address}. {answer} Without a camera, add: --source demo"


class Demo:
    """The average face of each emotion moving over a background, one after the other; 640x480, 30 frames a second."""

    live, still, fps = False, False, 30.0
    width, height = 640, 480  # pixels

    def __init__(self, seconds: float = 10.0, emotion_seconds: float = 10 / 7, faces: np.ndarray | None = None):
        self.seconds, self.emotion_seconds = seconds, emotion_seconds
        row = read_picture(DEMO_FACES) if faces is None else faces  # BGR uint8 (size, n * size, 3)
        if row is None:
            raise VideoError(f"The demo's faces are missing at {DEMO_FACES}. Restore the folder demo.")
        size = row.shape[0]
        self.faces = [np.float32(row[:, i : i + size]) for i in range(0, row.shape[1], size)]
        y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
        self._mask = np.float32(np.clip((1 - np.hypot(x / 0.96, y / 1.02)) * 6, 0, 1))  # a soft ellipse
        y, x = np.mgrid[0 : 1 : self.height * 1j, 0 : 1 : self.width * 1j]
        self._background = np.dstack([96 + 40 * y, 88 + 24 * y + 0 * x, 84 + 12 * y]).astype(np.uint8)

    def frame(self, index: int) -> Frame:
        """Return the frame of a number."""
        seconds = index / self.fps
        face = self.faces[int(seconds / self.emotion_seconds) % len(self.faces)]
        size = face.shape[0]
        zoom = 1.1 + 0.15 * math.sin(0.9 * seconds)  # the head comes nearer and goes
        x = (self.width - zoom * size) / 2 + 120 * math.sin(1.3 * seconds)
        y = (self.height - zoom * size) / 2 + 40 * math.sin(1.7 * seconds)
        left, top, side = int(x), int(y), int(zoom * size) + 2
        place = np.float32([[zoom, 0, x - left], [0, zoom, y - top]])
        head, mask = (cv2.warpAffine(layer, place, (side, side)) for layer in (face, self._mask))
        image = self._background.copy()
        around = image[top : top + side, left : left + side]
        around[:] = around + mask[..., None] * (head - around)
        return Frame(image, seconds, index)

    def __iter__(self):
        for index in range(round(self.seconds * self.fps)):
            yield self.frame(index)

    def close(self):
        pass
