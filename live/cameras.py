"""Cameras and streams: always the newest image, and reconnected when they fail."""

import socket
import sys
import threading
import time
import urllib.parse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from common.cli import warn
from live.sources import Frame, Source, SourceError, read_frame, without_secrets

CAMERAS = 5  # camera numbers that are tried when searching for one
FAILED_READS = 5  # in a row, and a camera counts as unplugged; some send their first images late
RETRY_SECONDS = 0.1  # between them
FROZEN_SECONDS = 3.0  # of identical images: a sensor's noise never repeats, an unplugged driver may
SILENT_SECONDS = 2.0  # without a new image before the user is told
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 8.0  # between attempts to reconnect, doubled each time
ERROR_FPS = 10  # how often the last image is repeated while a live source is silent
LOST_SECONDS = 120.0  # without an image, and a stream over HTTP has ended: no server says so
CONNECT_SECONDS = 5.0
# Animated images, and a .png: they end, and no server says when.
ANIMATIONS = [cv2.VideoWriter_fourcc(*name) for name in ("gif ", "apng", "webp", "MPNG")]


class Camera(Source):
    """A camera number or stream URL: always the newest image, read by a thread of its own that reconnects."""

    live = True

    def __init__(self, address: int | str):
        self.address = address
        self.name = f"camera {address}" if isinstance(address, int) else without_secrets(address)
        self._capture, image = self._open_first()
        lowest = sys.platform == "darwin" and isinstance(address, int)  # macOS reports the lowest rate, often 1
        self.fps = 0.0 if lowest else max(self._capture.get(cv2.CAP_PROP_FPS), 0.0)
        animation = self._capture.get(cv2.CAP_PROP_FOURCC) in ANIMATIONS
        self.ends = animation or self._capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0  # a remote file
        self._start_seconds = self._changed_seconds = time.perf_counter()
        self._newest, self._error = Frame(image, 0.0, 0), ""
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read_forever, daemon=True)
        self._thread.start()

    def _open_first(self):
        """Return an opened capture and its first image."""
        capture = _open_capture(self.address)
        ok, image = read_frame(capture)
        for _ in range(FAILED_READS):
            if capture.isOpened() and not ok:
                time.sleep(RETRY_SECONDS)
                ok, image = read_frame(capture)
        if not ok:
            opened = capture.isOpened()
            capture.release()
            raise SourceError(_why_silent(self.address, opened))
        return capture, image

    def _read_forever(self):
        failed_reads, wait_seconds = 0, FIRST_WAIT_SECONDS
        while not self._closing.is_set():
            ok, image = read_frame(self._capture)
            if ok and self._keep(image):
                wait_seconds = FIRST_WAIT_SECONDS
            failed_reads = 0 if ok else failed_reads + 1
            frozen = time.perf_counter() - self._changed_seconds > FROZEN_SECONDS
            if failed_reads >= FAILED_READS or (ok and frozen):
                what = "keeps sending the same image" if ok else "sends no image"
                self._error = f"{self.name} {what}: reconnecting"
                self._capture.release()
                self._closing.wait(wait_seconds)
                wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)
                if not self._closing.is_set():
                    self._capture = _open_capture(self.address)
                    failed_reads = 0 if self._capture.isOpened() else FAILED_READS
            elif not ok:
                self._closing.wait(RETRY_SECONDS)

    def _keep(self, image: np.ndarray) -> bool:
        """Make an image the newest; return whether it is new: from a camera, only if it differs from the last."""
        now = time.perf_counter()
        new = isinstance(self.address, str) or not np.array_equal(image, self._newest.image)
        if new:
            self._changed_seconds, self._error = now, ""
        if new or not self._error:
            with self._changed:
                self._newest = Frame(image, now - self._start_seconds, self._newest.index + 1)
                self._changed.notify_all()
        return new

    def __iter__(self):
        if self._closing.is_set():
            return
        shown = self._newest
        yield _copied(shown)
        while not self._closing.is_set():
            with self._changed:
                if self._newest is shown:
                    self._changed.wait(1 / ERROR_FPS)
            silent_seconds = time.perf_counter() - self._start_seconds - shown.time_seconds
            if self._newest is not shown:
                shown = self._newest
                yield _copied(shown)
            elif silent_seconds > LOST_SECONDS and str(self.address).startswith("http"):
                return warn(f"{self.name} has ended: it has sent nothing for {silent_seconds:.0f} seconds.")
            elif self._error or silent_seconds > SILENT_SECONDS:
                error = self._error or f"{self.name} has sent nothing for {silent_seconds:.0f} seconds"
                yield replace(_copied(shown), time_seconds=shown.time_seconds + silent_seconds, error=error)

    def close(self):
        self._closing.set()
        self._thread.join(2)
        if not self._thread.is_alive():
            self._capture.release()


def _copied(frame: Frame) -> Frame:
    """Return a frame to draw on: the camera compares its own image with the next to notice a frozen one."""
    return replace(frame, image=frame.image.copy())


def _open_capture(address: int | str):
    if isinstance(address, int):
        return cv2.VideoCapture(address)
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 5000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 5000]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, timeouts)


def list_cameras() -> list[tuple[int, object]]:
    """Return (number, opened capture) of every camera that opens; the caller releases them."""
    captures = [(number, cv2.VideoCapture(number)) for number in range(CAMERAS)]
    return [(number, capture) for number, capture in captures if capture.isOpened()]


def _why_silent(address: int | str, opened: bool) -> str:
    if isinstance(address, str):
        return _why_no_stream(address)
    if opened:
        return (
            f"Camera {address} opens but sends no images. Close other programs that use it, allow this terminal "
            "to use the camera (macOS, Windows: privacy settings), or plug it in again."
        )
    others = []
    for number, capture in list_cameras():
        capture.release()
        others.append(str(number))
    found = f"Cameras found: {', '.join(others)}." if others else "No camera was found."
    device = Path(f"/dev/video{address}")
    if device.exists():
        return (
            f"Camera {address} ({device}) is busy, or you lack permission (group video): close other programs that use "
            f"it. Or it is the second device of another camera, which sends no images. {found}"
        )
    if not others and sys.platform == "darwin":  # a camera without permission is not listed there
        found += " Allow this terminal to use it (System Settings, Privacy & Security, Camera) and start again."
    return f"There is no camera {address}. {found} Without a camera, run: python main.py demo"


def _why_no_stream(url: str) -> str:
    """Return why a URL gives no video, by what its server responds to a request without OpenCV."""
    name = without_secrets(url)
    status, content_type = _response(url)
    if status in ("401", "403"):
        scheme, _, rest = name.partition("://")
        return f"{name} needs a user name and password, and the right ones: {scheme}://USER:PASSWORD@{rest}"
    if status.startswith("2") and content_type.startswith("text/html"):
        return f"{name} is a web page, not a video. Give the address of the video or stream itself."
    if status.startswith("2"):
        return f"OpenCV finds no video at {name}. Check the address, or download it and give the file."
    if status:
        return f"OpenCV finds no video at {name}, which responds with status {status}. Check the address."
    return f"The stream {name} does not respond. Check the address and the network."


def _response(url: str) -> tuple[str, str]:
    """Return status and content type that a server responds with over HTTP or RTSP, "" for each without a response."""
    import http.client  # not at the top: they take longer than a camera needs to open
    import ssl
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        parts = urllib.parse.urlsplit(url)
        address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        if parts.scheme == "rtsp":
            with socket.create_connection((parts.hostname, parts.port or 554), CONNECT_SECONDS) as connection:
                connection.sendall(f"DESCRIBE {address} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
                with connection.makefile("r", encoding="latin-1") as lines:
                    version, status, *_ = next(lines).split()
                    return (status, "") if version.startswith("RTSP/") else ("", "")
        if parts.scheme not in ("http", "https"):
            return "", ""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # as FFmpeg, which has no certificates
        with urlopen(address, timeout=CONNECT_SECONDS, context=context) as response:
            return str(response.status), response.headers.get_content_type()
    except HTTPError as error:
        return str(error.code), ""
    except (OSError, ValueError, LookupError, StopIteration, http.client.HTTPException):
        return "", ""
