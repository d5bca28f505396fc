"""The loop with a scripted window: keys, pauses, pace, snapshots, cameras that fail, loading in the background."""

import re
import runpy
import time
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, flat, noise, open_source, read_video, write_video

from emotions import Face, overlay
from live import app as application
from live import cameras as camera_module
from live import view
from live.app import App, Loader
from live.logs import Log
from live.opening import find_sources, open_entry
from live.sinks import Recording
from live.sources import Demo, Frame, Source
from model import EMOTIONS


def test_the_help_is_whole_beside_a_message():
    """A large face leaves room for one of them only, at the lower edge: the help."""
    shown, face = view.View(), Face(1, (60, 40, 360, 360), np.full(7, 1 / 7), "happy")
    shown.update(flat(90, 640, 480), [face])
    plain = shown.rendered("", "")
    shown.help = True
    help_alone, both = shown.rendered("", ""), shown.rendered("", application.IMAGE_KEYS)
    drawn = (help_alone != plain).any(axis=2)
    assert drawn[-20:].any() and np.array_equal(help_alone[drawn], both[drawn])
    assert not np.array_equal(help_alone, both)


class ScriptedWindow:
    """Stands in for a window: presses these keys, one a wait, then q ("X": the close button), and keeps what was shown.

    As in a real one, a key ends a wait, and without one ("") it takes its time.
    """

    def __init__(self, keys, show_seconds=0.0):
        self.keys, self.show_seconds = iter(keys), show_seconds
        self.closed = False
        self.shown, self.stamps = [], []

    def show(self, image):
        self.shown.append(image.copy())
        self.stamps.append(time.perf_counter())
        time.sleep(self.show_seconds)

    def wait_key(self, seconds):
        key = next(self.keys, "q")
        time.sleep(0 if key else max(seconds, 0.001))
        self.closed = key == "X"
        return "" if key == "X" else key


class FrameList(Source):
    """Frames that are given, as from a file."""

    fps = 30.0

    def __init__(self, frames):
        self.frames = frames

    def __iter__(self):
        return iter(self.frames)


@pytest.fixture
def play(detector, tmp_path, monkeypatch):
    """Run the app on a source with scripted keys; return (window, app). Log: x.csv, recording: x.mp4."""

    monkeypatch.setattr(application, "END_SECONDS", 0.2)

    def call(source, keys, recorded=False, **options):
        window = ScriptedWindow(keys, options.pop("show_seconds", 0.0))
        opener = open_entry if isinstance(source, list) else open_source
        with source if isinstance(source, Source) else opener(source) as opened, Log(tmp_path / "x.csv") as log:
            recording = Recording(tmp_path / "x.mp4", opened.fps, opened.live) if recorded else None
            app = App(opened, window=window, recording=recording, logs=[log], **options)
            app.run(detector)
            if recording:
                recording.close()
        return window, app

    return call


@pytest.fixture
def image_file(tmp_path, demo):
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), demo[30])  # the face is right of the middle
    return path


def read_log(tmp_path):
    return pd.read_csv(tmp_path / "x.csv")


# --- keys


@pytest.mark.parametrize("key", ["q", "\x1b", "X"])
def test_the_window_ends_the_loop(play, key):
    window, app = play("demo", [""] * 3 + [key])
    assert len(window.shown) == 4 and str(app.statistics).startswith("4 frames")


def test_space_pauses_and_continues_with_the_next_frame(play, tmp_path):
    window, app = play("demo", ["", "", " ", "", "", "", " ", "", "q"])
    assert app.statistics.frames == 5 and len(window.shown) == 9
    assert list(read_log(tmp_path)["frame"]) == [0, 1, 2, 3, 4]
    assert np.array_equal(window.shown[3], window.shown[5])
    assert not np.array_equal(window.shown[2], window.shown[3])  # a message


def test_p_m_and_h_toggle_bars_mirror_and_help(play, image_file, tmp_path):
    window, app = play(image_file, ["h", "h", "p", "p", "m", "m", "q"])
    plain, with_help, without, bars, no_bars, mirrored, back = window.shown  # each after the key before it
    assert (plain != with_help).any(axis=2).mean() > 0.05 and (bars != plain).any(axis=2).mean() > 0.02
    assert all(np.array_equal(plain, image) for image in (without, no_bars, back))
    assert [(image == overlay.COLORS["fear"]).all(axis=2).any() for image in (plain, bars)] == [False, True]
    x, y, width, height = read_log(tmp_path).loc[0, ["x", "y", "width", "height"]]
    face, mirrored_face = plain[y : y + height, x : x + width], mirrored[y : y + height, 640 - x - width : 640 - x]
    assert np.abs(face[:, ::-1].astype(int) - mirrored_face).mean() < 2  # the box moved with the face
    assert app.statistics.frames == len(read_log(tmp_path)) == 1  # and it was counted once


def test_keys_work_on_a_paused_frame(play, tmp_path, demo):
    window, _ = play(write_video(tmp_path / "a.mp4", demo[30:40]), [" ", "m", "p", "q"])
    _, paused, mirrored, bars = (image[:400].astype(int) for image in window.shown)
    assert np.abs(paused[:, ::-1] - mirrored).mean() < 0.5 * np.abs(paused - mirrored).mean()
    assert (mirrored != bars).any(axis=2).mean() > 0.02


def test_m_keeps_every_face_s_id(play, tmp_path, demo):
    images = [np.hstack([demo[9], np.full_like(demo[9][:, :400], 90)])] * 40  # left of the middle
    play(write_video(tmp_path / "a.mp4", images), [""] * 20 + ["m"] + [""] * 19)
    table = read_log(tmp_path)
    assert list(table["frame"]) == list(range(40)) and set(table["face"]) == {1}
    before, after = table["x"].iloc[20], table["x"].iloc[21]
    assert after == pytest.approx(1040 - before - table["width"].iloc[20], abs=15) and after > before + 200


def test_s_saves_what_is_shown(play, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda _: "snapshot-1.png")  # twice within a second
    monkeypatch.setattr(overlay, "draw_status", lambda image, text, faces: None)
    monkeypatch.setattr(view, "NOTICE_SECONDS", 60)
    window, _ = play("demo", ["", "s", "", "s", "q"])
    out = capsys.readouterr().out
    everything, upper = slice(None), slice(400)  # below, later frames say for a while that one was saved
    for name, shown, rows in (
        ("snapshot-1.png", window.shown[1], everything),
        ("snapshot-1_.png", window.shown[3], upper),
    ):
        saved = cv2.imread(str(tmp_path / name))
        assert np.array_equal(saved[rows], shown[rows])
        assert f"Saved {tmp_path / name}" in out
    assert (saved[400:] != window.shown[3][400:]).any(axis=2).mean() > 0.2


def test_a_snapshot_that_cannot_be_saved_is_no_reason_to_stop(play, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda _: "missing/snapshot.png")
    _, app = play("demo", ["s", "", "q"])
    assert app.statistics.frames >= 2 and "cannot be written" in capsys.readouterr().err


# --- pace


def test_a_key_does_not_shorten_an_image(play, tmp_path):
    (tmp_path / "images").mkdir()
    for i in (0, 1):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), flat(80 * i, 240, 320))
    window, _ = play(tmp_path / "images", ["h", "h"] + [""] * 12 + ["q"])
    first, _, *others = window.shown
    same = [np.array_equal(first, image) for image in others]
    assert same == sorted(same, reverse=True) and 3 < sum(same) < len(same)  # it is shown for a second


def test_n_and_b_go_through_the_images_and_each_is_logged_once(play, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), flat(80 * i, 240, 320))
    names, messages = [], []
    monkeypatch.setattr(overlay, "draw_status", lambda image, text, faces: names.append(text))
    monkeypatch.setattr(overlay, "draw_message", lambda image, text: messages.append(text))
    _, app = play(find_sources([tmp_path / "images"])[0], ["n", "b", "n", "n", "", "b", "b", "b", "q"])
    places = [1, 2, 1, 2, 3, 3, 2, 1, 1]
    assert names == [f"{place} of 3: {place - 1}.png" for place in places]
    assert set(messages) == {"n: next, b: back, q: close"}
    assert app.statistics.frames == 3 and list(read_log(tmp_path)["frame"]) == [0, 1, 2]


def test_n_goes_on_to_the_next_video_and_the_end_is_told(detector, demo, tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr(overlay, "draw_message", lambda image, text: messages.append(text))
    app = App(FrameList([]), window=ScriptedWindow(["", "n"] + [""] * 6 + ["q"]))
    for frames, last in ((40, False), (4, True)):
        app.use(FrameList([Frame(image, i / 30, i) for i, image in enumerate(demo[:frames])]))
        app.run(detector, last)
    assert app.statistics.frames == 6 and app.quit
    assert messages[-1].startswith("The end: 4 frames, 100% with a face: ")


def test_a_pause_holds_the_end(detector, demo, monkeypatch):
    monkeypatch.setattr(application, "END_SECONDS", 0.2)
    frames = [Frame(image, i / 30, i) for i, image in enumerate(demo[:2])]
    app = App(FrameList(frames), window=ScriptedWindow(["", "", " ", *[""] * 10, "q"]))
    app.run(detector)
    assert app.paused and app.quit  # by the last key, half a second later
    app = App(FrameList(frames), window=ScriptedWindow(["", " ", "", "n"]))
    app.run(detector, last=False)
    assert app.paused and not app.quit  # the next video comes


def test_paused_is_seen_after_a_snapshot(play, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    messages = []
    monkeypatch.setattr(overlay, "draw_message", lambda image, text: messages.append(text))
    play("demo", [" ", "s", "", "q"])
    assert "Saved" in messages[-1] and "Paused" in messages[-1]


def test_an_image_stays_in_the_window_until_it_is_closed(play, image_file):
    window, app = play(image_file, [""] * 6 + ["q"])
    assert len(window.shown) == 7 and app.statistics.frames == 1


def test_a_video_plays_at_its_own_pace(play):
    frames = [Frame(image, i / 15, i) for i, image in enumerate(noise(20))]
    window, _ = play(FrameList(frames), [""] * 100, show_seconds=0.04)  # as a large image takes
    assert len(window.stamps) > 20  # the end stays for a moment
    assert -0.1 < window.stamps[19] - window.stamps[1] - 18 / 15 < 0.5  # 0.72 if showing came on top


def test_every_image_of_a_slideshow_is_seen_for_its_own_time(play):
    times, grays = (0.0, 0.5, 0.6, 1.4), (0, 80, 160, 240)
    frames = [Frame(flat(gray), time, i) for i, (gray, time) in enumerate(zip(grays, times, strict=True))]
    window, _ = play(FrameList(frames), [""] * 100)
    seen = np.array([image[-5:, -5:].mean() for image in window.shown])
    starts = [window.stamps[np.flatnonzero(np.abs(seen - gray) < 20)[0]] for gray in grays]
    assert np.diff(starts) == pytest.approx(np.diff(times), abs=0.15)


def test_n_goes_on_with_the_only_camera(play, cameras, demo):
    cameras(demo)
    _, app = play(0, ["", "n", "", "n", "", "q"])
    assert app.statistics.frames >= 3


def test_a_wrong_time_stamp_does_not_hold_the_frame(play):
    frames = [Frame(flat(0), i / 30 + (9999 if i > 3 else 0), i) for i in range(20)]
    _, app = play(FrameList(frames), [""] * 8 + ["q"])
    assert app.statistics.frames == 9


def test_the_frame_rate_is_shown_and_not_recorded(play, monkeypatch, tmp_path):
    monkeypatch.setattr(overlay, "draw_status", lambda image, text, faces: image[:60, :60].fill(255))
    window, _ = play("demo", [""] * 5 + ["q"], recorded=True)
    assert window.shown[-1][:60, :60].min() == 255
    assert max(image[:60, :60].max() for image in read_video(tmp_path / "x.mp4")[0]) < 200


def test_a_pause_does_not_lower_the_frame_rate(play, monkeypatch):
    rates = []
    monkeypatch.setattr(overlay, "draw_status", lambda image, text, faces: rates.append(int(text.removesuffix(" fps"))))
    frames = [Frame(flat(0), i / 30, i) for i in range(40)]
    _, app = play(FrameList(frames), [""] * 20 + [" "] + [""] * 60 + [" "] + [""] * 20)  # two seconds
    assert min(rates) >= 10  # of 30; with the pause it would be 7
    assert float(re.search(r"40 frames, ([\d.]+) frames a second", str(app.statistics))[1]) > 14  # with it below 12


def test_a_pause_takes_nothing_from_the_recording_of_a_video(play, tmp_path):
    demo = Demo()
    play(FrameList([demo.frame(0), demo.frame(20)]), [" ", " "] + [""] * 200, recorded=True)
    assert len(read_video(tmp_path / "x.mp4")[0]) == 21


# --- loading in the background


def preview(source, keys, detector, load_seconds=0.3, **options):
    """Show a source while the detector is loaded, then with it; return (window, app)."""

    def load():
        time.sleep(load_seconds)
        return detector

    window = ScriptedWindow(keys)
    with source if isinstance(source, Source) else open_source(source) as opened:
        app = App(opened, window=window, **options)
        loader = Loader(load)
        loader.start()
        app.preview(loader)
        if not app.quit:
            app.run(loader.result())
    return window, app


def test_the_camera_is_shown_while_the_network_loads(detector, cameras):
    cameras(noise(200, 240, 320) * 100, seconds_a_frame=0.005)
    window, app = preview(0, [""] * 60 + ["q"], detector)
    loading = [shown[-8:].mean() < 80 for shown in window.shown]  # a dark band with the message
    assert loading[0] and sum(loading) >= 5 and not loading[-1] and app.statistics.frames > 10
    assert len({shown.tobytes() for shown in window.shown[:5]}) == 5  # it moves


def test_the_first_frame_of_a_video_is_not_lost_while_the_network_loads(detector, tmp_path):
    with Log(tmp_path / "x.csv") as log:
        window, _ = preview("demo", [""] * 30 + ["q"], detector, logs=[log])
    assert all(np.array_equal(window.shown[0], shown) for shown in window.shown[1:4])
    assert list(read_log(tmp_path)["frame"][:3]) == [0, 1, 2]


def test_a_snapshot_while_the_network_loads_is_of_the_image(detector, cameras, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = noise(200, 240, 320)
    cameras(images, seconds_a_frame=0.005)
    preview(0, ["", "s", "", "m", "q"], detector)
    (snapshot,) = tmp_path.glob("*.png")
    assert cv2.imread(str(snapshot)).tobytes() in {image.tobytes() for image in images}


def test_a_pause_that_begins_while_the_network_loads_is_excluded(detector):
    _, app = preview("demo", [" "] + [""] * 25 + [" "] + [""] * 20 + ["q"], detector)
    assert 24 < app.statistics.fps < 40


def test_a_failed_load_is_raised_where_the_result_is_used(detector):
    def load():
        raise RuntimeError("no network")

    loader = Loader(load)
    loader.start()
    with pytest.raises(RuntimeError, match="no network"):
        loader.result()


# --- cameras


def test_a_reconnected_camera_continues_in_the_same_outputs(play, cameras, monkeypatch, tmp_path, demo):
    monkeypatch.setattr(camera_module, "FIRST_WAIT_SECONDS", 0.3)
    cameras(demo[:20], (demo[20:80] + demo[80:20:-1]) * 2, seconds_a_frame=0.02)
    play(0, [""] * 45 + ["q"], recorded=True)
    table = read_log(tmp_path)
    gaps = np.diff(table["time_seconds"])
    assert gaps.max() > 0.3 and (table["time_seconds"] > table["time_seconds"][gaps.argmax()]).sum() > 3
    assert table["face"].nunique() == 1  # the same face, before and after
    images, fps = read_video(tmp_path / "x.mp4")
    seconds = table["time_seconds"].iloc[-1] - table["time_seconds"].iloc[0]
    assert len(images) / fps == pytest.approx(seconds, abs=0.3)
    assert any(image[-10:].mean() < 60 for image in images)  # the message is in the recording


def test_a_pause_is_left_out_of_a_camera_s_recording(play, cameras, tmp_path, demo):
    cameras(demo * 3, seconds_a_frame=0.02)
    play(0, [""] * 20 + [" "] + [""] * 40 + [" "] + [""] * 20 + ["q"], recorded=True)
    times = read_log(tmp_path)["time_seconds"].to_numpy()
    pause = np.diff(times).max()
    images, fps = read_video(tmp_path / "x.mp4")
    assert pause > 1 and len(images) / fps == pytest.approx(times[-1] - times[0] - pause, abs=0.3)


def test_without_a_window_an_error_is_printed_once(detector, capsys):
    good = [Frame(image, i / 30, i) for i, image in enumerate(noise(5))]
    bad = [replace(good[-1], error="camera 0 sends no image: reconnecting")] * 5
    app = App(FrameList([*good, *bad, *good[:2], *bad]))
    app.run(detector)
    assert capsys.readouterr().err == "main.py: camera 0 sends no image: reconnecting\n" * 2
    assert app.statistics.frames == 7


# --- the benchmark


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(REPOSITORY / "benchmarks" / "live.py"))


def test_the_benchmark_runs_this_loop(benchmark, detector, tmp_path, demo):
    statistics = benchmark["run_ours"](write_video(tmp_path / "a.mp4", demo[:30]), detector)
    assert statistics.frames == 30 and len(statistics.milliseconds["detecting"]) == 30


def test_a_clip_may_be_shorter_than_the_benchmark_expects(benchmark, tmp_path):
    clip = write_video(tmp_path / "a.mp4", noise(3))
    assert benchmark["make_clip"](clip, tmp_path / "b.mp4", None, 1, frames=5) == "64x48"


def test_statistics_count_frames_faces_and_milliseconds(detector, demo):
    frames = [Frame(image, i / 30, i) for i, image in enumerate([*demo[:3], flat(90)])]
    app = App(FrameList(frames))
    app.run(detector)
    text = str(app.statistics)
    assert text.startswith("4 frames, ") and " frames a second" in text
    assert [stage for stage in application.Statistics().milliseconds if f"{stage} " in text] == [
        "reading", "detecting", "classifying",
    ]  # fmt: skip
    assert set(app.statistics.labels) <= {*EMOTIONS, "uncertain"}
    summary = app.results.summary
    assert summary.startswith("4 frames, 75% with a face: ")
    assert sum(map(int, re.findall(r"(\d+)%", summary.partition(": ")[2]))) == 100
