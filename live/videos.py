"""Video files: every frame once, in order, at its time."""

import math
import queue
import threading
from pathlib import Path

import cv2
import numpy as np

from common.cli import warn
from live.sources import DEFAULT_FPS, Frame, Source, SourceError, opencv_path, read_frame, short_name, without_secrets
from model import native_stderr_hidden

READ_AHEAD = 8  # frames,
READ_AHEAD_BYTES = 64 * 2**20  # or as many as fit into this, if they are large
FROZEN_FRAMES = 100  # first ones that are all equal: either nothing moves, or OpenCV fails to convert them


class VideoFile(Source):
    """A video file or its URL, decoded ahead by a thread of its own."""

    def __init__(self, name: str, repeated=frozenset()):
        remote, self._repeated = "://" in name, repeated
        self.name, self.paths = without_secrets(name), () if remote else (Path(name),)
        address = name if remote else opencv_path(name)
        with native_stderr_hidden():  # OpenCV prints what is wrong with a damaged .avi
            self._capture = cv2.VideoCapture(address)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceError(
                f"{self.name} is not a video that OpenCV can read, or is damaged. Convert it, for example with ffmpeg."
            )
        get = self._capture.get
        fps = get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else DEFAULT_FPS
        self.frame_count = max(int(get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        self._aspect = _pixel_aspect(self._capture)
        frame_bytes = 3 * get(cv2.CAP_PROP_FRAME_WIDTH) * get(cv2.CAP_PROP_FRAME_HEIGHT)
        self._queue = queue.Queue(max(min(READ_AHEAD, int(READ_AHEAD_BYTES / max(frame_bytes, 1))), 1))
        self._count, self._last_seconds = 0, 0.0  # of the frames that were handed out
        self._first, self._changes = None, False  # the first frame, small; whether another one differed
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read_ahead, daemon=True)
        self._thread.start()

    def _read_ahead(self):
        index, last_seconds, name = 0, -1.0, short_name(self.name, self._repeated)
        while not self._closing.is_set():
            ok, image = read_frame(self._capture)
            if not ok:
                return
            seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if not seconds > last_seconds:  # a container without time stamps
                seconds = index / self.fps if index / self.fps > last_seconds else last_seconds + 1 / self.fps
            if self._aspect != 1:  # enlarged, so that no detail is lost
                stretch = {"fx": max(self._aspect, 1.0), "fy": max(1 / self._aspect, 1.0)}
                image = cv2.resize(image, None, **stretch, interpolation=cv2.INTER_LINEAR)
            self._put(Frame(image, seconds, index, name=name))
            index, last_seconds = index + 1, seconds

    def _put(self, frame: Frame):
        while not self._closing.is_set():
            try:
                return self._queue.put(frame, timeout=0.1)
            except queue.Full:
                pass

    def __iter__(self):
        while not self._closing.is_set() and (self._thread.is_alive() or not self._queue.empty()):
            try:
                frame = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            self._count, self._last_seconds = self._count + 1, frame.time_seconds
            self._refuse_frozen(frame.image)
            yield frame
        if self._closing.is_set():
            return
        if self._count == 0:
            raise SourceError(f"{self.name} contains no readable frame. It is empty or damaged.")
        if not self._changes and self._count > 1:
            self._refuse_frozen(None)
        # Of a file with a varying rate OpenCV counts the frames that its duration would hold at the nominal one.
        missing = max(self._count, self._last_seconds * self.fps) < 0.95 * self.frame_count
        if missing and self.paths and is_cut_off(self.paths[0]):
            warn(f"{self.name} ends early: {self._count} of {self.frame_count} frames could be read.")

    def _refuse_frozen(self, image) -> None:
        """Raise `SourceError` if the first hundred frames, or all if `image` is None, are equal and should not be."""
        if self._changes:
            return
        if image is not None:
            small = image[::8, ::8]
            self._first = small.copy() if self._first is None else self._first
            self._changes = not np.array_equal(small, self._first)
        is_time = image is None or self._count == FROZEN_FRAMES
        if is_time and not self._changes and self.paths and has_changes(self.paths[0]):
            raise SourceError(
                f"OpenCV {cv2.__version__} reads {self.name} as one frame that never changes, as since 4.13 it "
                f"does with interlaced video. Convert it: ffmpeg -i {self.paths[0].name} -vf yadif video.mp4"
            )

    def close(self):
        self._closing.set()
        self._thread.join(2)
        if not self._thread.is_alive():  # a capture must not be released while another thread reads from it
            self._capture.release()


def _pixel_aspect(capture) -> float:
    """Return how many times wider than high the pixels of a video are meant to be, as it is handed out."""
    numerator, denominator = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)
    aspect = numerator / denominator if numerator > 0 and denominator > 0 else 1.0
    if capture.get(cv2.CAP_PROP_ORIENTATION_META) % 180 and capture.get(cv2.CAP_PROP_ORIENTATION_AUTO):
        aspect = 1 / aspect  # OpenCV has turned it
    return aspect if 0.2 < aspect < 5 else 1.0


def has_changes(path: Path) -> bool:
    """Return whether the compressed frames at the start of a video encode changes.

    At 576 lines, a frame that repeats the one before takes 24 to 345 bytes (H.264, VP9, MPEG-4, MPEG-2) or is the same
    image again; one with motion takes at least 565 (H.264 at 150 kbit/s).
    """
    capture = cv2.VideoCapture(opencv_path(str(path)), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])  # not decoded
    try:
        packets = [packet.tobytes() for _ in range(FROZEN_FRAMES) for ok, packet in [capture.read()] if ok]
        size = np.median([len(packet) for packet in packets] or [0])
        return size > 0.75 * capture.get(cv2.CAP_PROP_FRAME_HEIGHT) and len(set(packets)) > len(packets) / 2
    finally:
        capture.release()


def is_cut_off(path: Path) -> bool:
    """Return whether an .avi, .mp4, .mov, .mkv or .webm file ends before its container does.

    Its header may promise more frames than a whole file has: cover images, edit lists and late starts count there.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(4096)
        if start.startswith(b"RIFF"):
            return int.from_bytes(start[4:8], "little") + 8 > size
        at = start.find(b"\x18\x53\x80\x67") + 4  # Matroska's segment
        if start.startswith(b"\x1a\x45\xdf\xa3") and 4 < at < len(start):
            length = 9 - start[at].bit_length()  # the leading zeros of the first byte count the bytes that follow
            segment = int.from_bytes(start[at : at + length], "big") - (1 << 7 * length)
            return at + length + segment > size and segment != (1 << 7 * length) - 1  # all ones: unknown
        end = 0
        while start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):  # atoms of an .mp4
            wide = start[:4] == b"\0\0\0\1"  # the length follows as a larger number
            length = int.from_bytes(start[8:16] if wide else start[:4], "big")
            end += length or size - end  # 0: it goes on to the end of the file
            if end > size:
                break
            file.seek(end)
            start = file.read(16)
        return end > size
