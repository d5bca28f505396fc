"""Windows, and whether this machine can open one."""

import contextlib
import re
import subprocess
import sys

import cv2
import numpy as np

from live.sources import Closable

NO_DISPLAY = "There is no display for a window: log in with a desktop."
NO_WINDOWS = (
    f"This OpenCV has no windows: {sys.executable} -m pip uninstall opencv-python-headless, then "
    f'{sys.executable} -m pip install --force-reinstall "opencv-python<5".'
)
# Left and right arrow: X11, Windows, macOS; and X11's Esc.
SPECIAL_KEYS = {65307: "\x1b", 65361: "b", 65363: "n", 2424832: "b", 2555904: "n", 63234: "b", 63235: "n"}


def window_toolkit() -> str:
    """Return the toolkit of OpenCV's windows, such as "QT5"; "NONE" for opencv-python-headless."""
    found = re.search(r"GUI:\s+(\w+)", cv2.getBuildInformation())
    return found[1] if found else "NONE"


class DisplayProbe(Closable):
    """Finds out in a separate process whether a window can be opened: OpenCV aborts the process if it cannot.

    It stays connected until it is closed: a bare X server restarts when its last program leaves, and drops others.
    """

    COMMAND = (
        "import sys; sys.path = [folder for folder in sys.path if folder]; "  # the user's may contain a cv2.py
        "import cv2; cv2.namedWindow('probe', cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL); "
        "cv2.destroyAllWindows(); print('yes', flush=True); sys.stdin.read()"
    )

    def __init__(self):
        self._process = None
        if sys.platform == "linux":  # elsewhere a desktop is always there, or OpenCV raises
            pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
            command = [sys.executable, "-c", self.COMMAND]
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=quiet)

    def error(self) -> str:
        """Wait for the result; return why no window can be opened and what to do, "" if one can."""
        if window_toolkit() == "NONE":
            return NO_WINDOWS
        opened = self._process is None or self._process.stdout.readline().strip() == b"yes"
        return "" if opened else NO_DISPLAY

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class Window(Closable):
    """A window that shows frames and receives keys. Open it only if `DisplayProbe` has found a display."""

    LARGEST = (1280, 680)  # pixels: larger frames are shrunk,
    SMALLEST_WIDTH = 640  # narrower ones enlarged

    def __init__(self, title: str):
        self.title = title
        self.closed = False  # by its close button
        self._size = None  # as last set by `show`
        self._was_visible = False
        cv2.namedWindow(self.title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)

    def show(self, image: np.ndarray) -> None:
        """Show a frame; the window takes its size when that changes, and otherwise keeps the user's."""
        height, width = image.shape[:2]
        zoom = min(self.LARGEST[0] / width, self.LARGEST[1] / height, max(self.SMALLEST_WIDTH / width, 1.0))
        size = max(round(width * zoom), 1), max(round(height * zoom), 1)
        if size != self._size:
            cv2.resizeWindow(self.title, *size)
            self._size = size
        if zoom < 1:  # the window itself would drop lines of boxes and letters
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        cv2.imshow(self.title, image)

    def wait_key(self, seconds: float) -> str:
        """Wait for a key and return it as text ("" for none, "\\x1b" for Esc); notice a press of the close button."""
        code = cv2.waitKeyEx(max(round(seconds * 1000), 1))
        try:
            visible = cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE)
        except cv2.error:  # Qt, if the window is gone
            visible = 0
        self._was_visible = self._was_visible or visible >= 1
        # GTK never reports it as visible; on macOS, where it has no close button, "invisible" means minimised.
        self.closed = self._was_visible and visible < 1 and sys.platform != "darwin"
        if code < 0:
            return ""
        key = SPECIAL_KEYS.get(code) or SPECIAL_KEYS.get(code & 0xFFFF) or chr(code & 0xFFFF)
        return key.lower()  # with Caps Lock, too

    def close(self) -> None:
        with contextlib.suppress(cv2.error):  # it is gone already
            cv2.destroyWindow(self.title)
