"""Real windows on a virtual display, and machines without one."""

import ctypes.util
import os
import shutil
import struct
import subprocess
import sys
import time

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, run_code

import main
from live import window as window_module


def test_no_special_key_is_taken_for_a_letter(monkeypatch):
    """X11 numbers Home, F1 and the others from 0xFF00 on, the last eight bits of Home being those of P."""
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1)
    window, others = window_module.Window("x"), {*range(0xFF00, 0xFFFF)} - {*window_module.SPECIAL_KEYS}
    for code in others:
        monkeypatch.setattr(cv2, "waitKeyEx", lambda _, code=code: code)
        assert window.wait_key(0) not in "q\x1b nbspmh"


@pytest.fixture(scope="module")
def display():
    """A virtual display of its own."""
    for tool in ("Xvfb", "xdotool"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-noreset", "-displayfd", str(write), "-screen", "0", "1024x768x24"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as numbers:
        yield f":{numbers.readline().strip()}"
    server.terminate()
    server.wait()


@pytest.fixture
def image_file(tmp_path, demo):
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), demo[0])
    return path


def start(*args, **environment):
    """Start main.py; a variable that is None is removed from its environment."""
    env = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    command = [sys.executable, str(REPOSITORY / "main.py"), *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def xdotool(display, *args):
    return subprocess.run(
        ["xdotool", *args], env={**os.environ, "DISPLAY": display}, capture_output=True, text=True
    ).stdout.split()


def press_x(display, window):
    """Ask a window to close, as a window manager does when its X is pressed."""
    x11 = ctypes.CDLL(ctypes.util.find_library("X11"))
    x11.XOpenDisplay.restype = ctypes.c_void_p
    connection = ctypes.c_void_p(x11.XOpenDisplay(display.encode()))
    atoms = [x11.XInternAtom(connection, name, 0) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW")]
    # XClientMessageEvent: type, serial, send_event, display, window, message_type, format, data
    event = struct.pack("@iLiPLLi5l", 33, 0, 1, 0, window, atoms[0], 32, atoms[1], 0, 0, 0, 0)
    x11.XSendEvent(connection, ctypes.c_ulong(window), 0, ctypes.c_long(0), event.ljust(256, b"\0"))
    x11.XCloseDisplay(connection)


@pytest.mark.parametrize("how", ["q", "Escape", "X"])
def test_a_real_window_ends_the_program(display, lite_network, image_file, tmp_path, how):
    source = image_file if how == "X" else "demo"
    process = start("--source", source, "--log", tmp_path / "x.csv", "--model", lite_network, DISPLAY=display)
    windows = []
    wait_until(lambda: windows.extend(xdotool(display, "search", "--name", f"^{'Emotion Detector'}$")) or windows)
    wait_until(lambda: (tmp_path / "x.csv").exists())
    if how == "X":
        time.sleep(0.3)
        press_x(display, int(windows[0]))
    else:
        xdotool(display, "key", "--window", windows[0], how)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and err == ""
    frames = len(pd.read_csv(tmp_path / "x.csv"))
    assert frames == 1 if how == "X" else 0 < frames < 300
    assert out.startswith("image.png: 1 face: " if how == "X" else f"demo: {frames} frame")


def test_an_arrow_key_shows_the_next_image(display, lite_network, demo, tmp_path):
    """The last one stays, so that no time is short; each image is known by its height."""
    heights, log = {"a.png": 480, "b.png": 400, "c.png": 320}, tmp_path / "x.csv"
    for name, height in heights.items():
        cv2.imwrite(str(tmp_path / name), demo[0][:height])
    process = start(*(tmp_path / name for name in heights), "--log", log, "--model", lite_network, DISPLAY=display)
    wait_until(log.exists)
    [window] = xdotool(display, "search", "--name", "^Emotion Detector$")

    def wait_for(height):
        wait_until(lambda: f"640x{height}" in xdotool(display, "getwindowgeometry", window))

    wait_for(320)
    xdotool(display, "key", "--window", window, "space")
    for key, height in (("Left", 400), ("Left", 480), ("Right", 400)):
        xdotool(display, "key", "--window", window, key)
        wait_for(height)
    xdotool(display, "key", "--window", window, "q")
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert list(pd.read_csv(log)["file"]) == ["a.png", "b.png", "c.png"]


def test_a_window_fits_every_image_and_the_screen_and_closes_alone(display):
    sizes = [(2048, 1536), (320, 240), (320, 240), (2000, 100), (450, 2000), (64, 64), (5000, 1)]
    windows = [(907, 680), (640, 480), (640, 480), (1280, 64), (153, 680), (640, 640), (1280, 1)]
    code = (
        "import cv2, numpy\n"
        "from live.window import Window\n"
        "cv2.namedWindow('mine')\n"
        "window = Window('theirs')\n"
        f"for width, height in {sizes}:\n"
        "    for _ in range(5):\n"
        "        window.show(numpy.full((height, width, 3), 200, numpy.uint8))\n"
        "        window.wait_key(0.05)\n"
        "    print(*cv2.getWindowImageRect('theirs')[2:])\n"
        "window.close()\n"
        "window.close()\n"
        "cv2.waitKey(1)\n"
        "print(cv2.getWindowProperty('mine', cv2.WND_PROP_AUTOSIZE), 0)"
    )
    done = run_code(code, DISPLAY=display)
    assert done.returncode == 0, done.stderr
    *found, (mine, _) = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    assert np.abs(np.subtract(found, windows)).max() <= 1
    assert mine >= 0  # a window of another name is still open


def test_files_of_the_user_do_not_hide_the_display(display, tmp_path, monkeypatch):
    (tmp_path / "cv2.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISPLAY", display)
    with window_module.DisplayProbe() as probe:
        assert probe.error() == ""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a desktop is always there")
def test_without_a_display_it_explains_what_to_do(monkeypatch, capsys, lite_network):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main.main(["--source", "demo", "--model", str(lite_network)]) == 2
    assert capsys.readouterr().err == (
        "main.py: There is no display for a window: log in with a desktop. "
        "Or use --no-window, with --output or --log for the results.\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a desktop is always there")
def test_with_a_dead_display_it_continues_without_a_window(monkeypatch, capsys, tmp_path, lite_network, image_file):
    monkeypatch.setenv("DISPLAY", ":4321")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    log = tmp_path / "x.csv"
    assert main.main(["--source", str(image_file), "--log", str(log), "--model", str(lite_network)]) == 0
    assert "Continuing without a window" in capsys.readouterr().err
    assert len(pd.read_csv(log)) == 1


def test_an_opencv_without_windows_names_the_one_with_them(monkeypatch, capsys, lite_network):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    assert main.main(["--source", "demo", "--model", str(lite_network)]) == 2
    err = capsys.readouterr().err
    assert "pip uninstall opencv-python-headless" in err and "display" not in err


def test_caps_lock_disables_no_key(monkeypatch):
    monkeypatch.setattr(cv2, "namedWindow", lambda *args: None)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *args: 1.0)
    monkeypatch.setattr(cv2, "waitKeyEx", lambda _: ord("Q"))
    assert window_module.Window("x").wait_key(0) == "q"
