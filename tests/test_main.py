"""main.py from the command line's side: every source and output, every bad input, keys, signals, a real window."""

import ctypes.util
import importlib.metadata
import itertools
import os
import re
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, noise, read_video, run_code, write_video

import faces
import main
import output
import overlay
import video
from faces import crop_faces
from model import EMOTIONS, load_classifier

README = REPOSITORY / "README.md"
HEADER = "time_seconds,frame,face,x,y,width,height,angry,disgust,fear,happy,sad,surprise,neutral,label,picture"


@pytest.fixture
def run(network, capsys):
    """Call main.main with the small network; return (status, stdout, stderr)."""

    def call(*args, model=network):
        status = main.main([*map(str, args), "--model", str(model)])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def picture(tmp_path, demo):
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), demo[0])
    return path


@pytest.fixture(scope="session")
def film(tmp_path_factory, demo):
    """Two seconds of the demo as a file of 15 frames a second."""
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", demo[:60:2], fps=15)


# ---- Sources and outputs


def test_the_demo_end_to_end(run, tmp_path):
    log, output = tmp_path / "x.csv", tmp_path / "x.mp4"
    status, out, err = run("--source", "demo", "--no-window", "--log", log, "--output", output)
    assert status == 0 and err == ""
    assert log.read_text().splitlines()[0] == HEADER
    table = pd.read_csv(log)
    assert len(table) >= 298 and list(table["face"].unique()) == [1]
    assert table["frame"].is_monotonic_increasing and np.allclose(table["time_seconds"], table["frame"] / 30, atol=1e-3)
    assert np.allclose(table[list(EMOTIONS)].sum(axis=1), 1, atol=1e-3)
    assert (table["x"] >= 0).all() and (table["x"] + table["width"] <= 640).all()
    assert set(table["label"]) <= {*EMOTIONS, "uncertain"}
    images, fps = read_video(output)
    assert len(images) == 300 and fps == pytest.approx(30)
    assert table["picture"].isna().all()
    assert "300 frames" in out and "of the frames show a face" in out
    for stage in ("reading", "detecting", "classifying", "drawing"):
        assert f"{stage} " in out


def test_what_the_log_says_is_what_the_network_says(run, tmp_path, picture, network):
    from faces import crop_faces
    from model import load_classifier

    run("--source", picture, "--no-window", "--log", tmp_path / "x.csv")
    (row,) = pd.read_csv(tmp_path / "x.csv").to_dict("records")
    gray = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2GRAY)
    box = [row[name] for name in ("x", "y", "width", "height")]
    expected = load_classifier(network).probabilities(crop_faces(gray, [box]))[0]
    assert np.allclose([row[name] for name in EMOTIONS], expected, atol=1e-4)
    assert row["time_seconds"] == 0 and row["frame"] == 0 and row["face"] == 1


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_is_annotated(run, tmp_path, picture, demo, suffix):
    before = picture.read_bytes()
    output = tmp_path / f"out{suffix}"
    status, _, _ = run("--source", picture, "--no-window", "--output", output)
    annotated = cv2.imread(str(output))
    assert status == 0 and annotated.shape == demo[0].shape
    changed = np.abs(annotated.astype(int) - demo[0]).max(axis=2) > 60
    assert 0.002 < changed.mean() < 0.3  # a box and a label, and nothing else
    assert picture.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["picture.png", output.name])


def test_a_folder_is_worked_through(run, tmp_path, demo):
    folder = tmp_path / "folder"
    folder.mkdir()
    quote = "'" if os.name == "nt" else '"'  # Windows allows no other in a name
    for i, image in enumerate([demo[0], np.zeros((100, 100, 3), np.uint8), np.hstack([demo[0], demo[0]])]):
        cv2.imwrite(str(folder / f"{i}, {quote}a{quote}.png"), image)
    (folder / "1a.png").write_text("no picture")
    status, out, _ = run("--source", folder, "--no-window", "--log", tmp_path / "x.csv", "--output", tmp_path / "x.mp4")
    table = pd.read_csv(tmp_path / "x.csv")
    assert status == 0 and list(table["frame"]) == [0, 2, 2] and list(table["face"]) == [1, 1, 2]
    assert list(table["picture"]) == [f"{i}, {quote}a{quote}.png" for i in (0, 2, 2)]
    assert "67% of the frames show a face" in out
    shares = {label: float(share) for label, share in re.findall(r"^(\w+) +([\d.]+)%$", out, re.MULTILINE)}
    assert shares == pytest.approx((100 * table["label"].value_counts(normalize=True)).to_dict(), abs=0.1)
    assert len(read_video(tmp_path / "x.mp4")[0]) == 3


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_file_keeps_its_rate_and_every_frame(run, tmp_path, film, suffix):
    output = tmp_path / f"x{suffix}"
    status, _, _ = run("--source", film, "--no-window", "--output", output, "--log", tmp_path / "x.csv")
    images, fps = read_video(output)
    assert status == 0 and len(images) == 30 and fps == pytest.approx(15)
    assert pd.read_csv(tmp_path / "x.csv")["time_seconds"].max() == pytest.approx(29 / 15, abs=0.01)


def test_threshold_smoothing_and_probabilities_are_heeded(run, tmp_path, picture, film):
    def logged(source, *options):
        run("--source", source, "--no-window", "--log", tmp_path / "x.csv", *options)
        return pd.read_csv(tmp_path / "x.csv")

    assert (logged(picture, "--threshold", 1)["label"] == "uncertain").all()
    assert (logged(picture, "--threshold", 0)["label"] != "uncertain").all()
    raw, slow = (np.ptp(logged(film, "--smoothing", s)[list(EMOTIONS)].to_numpy(), axis=0).max() for s in (0, 10))
    assert raw > 3 * slow  # the film holds a cut
    run("--source", picture, "--no-window", "--probabilities", "--output", tmp_path / "x.png")
    image = cv2.imread(str(tmp_path / "x.png"))
    assert all((image == overlay.COLORS[name]).all(axis=2).any() for name in EMOTIONS)


def test_a_face_in_the_dark_is_found(run, tmp_path, picture, demo):
    cv2.imwrite(str(picture), demo[0] // 8)
    run("--source", picture, "--no-window", "--log", tmp_path / "x.csv")
    assert len(pd.read_csv(tmp_path / "x.csv")) == 1


@pytest.mark.parametrize(
    "source, option, mirrored", [("0", [], True), ("0", ["--no-mirror"], False), ("rtsp://camera/live", [], False)]
)
def test_a_camera_is_mirrored_unless_told_otherwise_and_a_stream_is_not(
    run, install, cameras, tmp_path, source, option, mirrored
):
    images = [np.uint8(image // 16) for image in noise(40, 120, 160)]
    for image in images:
        image[:, :80] += 200  # the left half is light
    cameras(images, seconds_a_frame=0.02)
    window = scripted_window([""] * 20 + ["q"])
    install(window)
    run("--source", source, "--output", tmp_path / "x.mp4", *option)
    image = read_video(tmp_path / "x.mp4")[0][0]
    assert (image[:, 80:].mean() > image[:, :80].mean()) == mirrored


def test_files_are_mirrored_only_when_asked(run, tmp_path, picture, demo):
    cv2.imwrite(str(picture), demo[20])  # the face is right of the middle
    boxes = []
    for option in ([], ["--mirror"]):
        run("--source", picture, "--no-window", "--log", tmp_path / "x.csv", *option)
        boxes.append(pd.read_csv(tmp_path / "x.csv").loc[0])
    plain, mirrored = boxes
    assert mirrored["x"] == pytest.approx(640 - plain["x"] - plain["width"], abs=6) and mirrored["x"] < plain["x"] - 50


# ---- Bad input: one sentence, status 2, nothing written


def bad_inputs(folder, picture, film):
    model, cascade = folder / "m.keras", folder / "c.xml"
    (folder / "text.mp4").write_text("hello")
    (folder / "empty.mp4").touch()
    (folder / "bad.png").write_text("hello")
    (folder / "nothing").mkdir()
    (folder / "no.keras").write_text("hello")
    (folder / "old.h5").write_text("hello")
    (folder / "wrong.xml").write_text("<a/>")
    (folder / "one").mkdir()
    shutil.copy(picture, folder / "one")
    (folder / "link.mp4").hardlink_to(film)
    mp4, png, csv = folder / "out.mp4", folder / "out.png", folder / "out.csv"
    return [
        (["--source", folder / "missing.mp4", "--output", mp4], "There is no file"),
        (["--source", folder / "text.mp4", "--output", mp4], "is not a video"),
        (["--source", folder / "empty.mp4", "--output", mp4], "is not a video"),
        (["--source", folder / "bad.png", "--output", png], "is not a readable picture"),
        (["--source", folder / "nothing", "--output", mp4], "holds no pictures"),
        (["--source", "demo", "--model", model, "--output", mp4], "python train.py"),
        (["--source", "demo", "--model", folder / "no.keras", "--log", csv], "is not a .keras file"),
        (["--source", "demo", "--model", folder / "old.h5", "--log", csv], "is not a .keras file"),
        (["--source", "demo", "--cascade", cascade, "--log", csv], "There is no cascade"),
        (["--source", "demo", "--cascade", folder / "wrong.xml", "--log", csv], "is not a Haar cascade"),
        (["--source", "demo", "--output", folder / "missing" / "x.mp4"], "does not exist"),
        (["--source", "demo", "--output", folder / "x.avi"], "should end in .mp4 or .webm"),
        (["--source", "demo", "--output", png], "should end in .mp4 or .webm"),
        (["--source", picture, "--output", mp4], "should end in .png"),
        (["--source", "demo", "--log", folder / "x.txt"], "should end in .csv"),
        (["--source", film, "--output", film], "would overwrite the source"),
        (["--source", film.as_uri(), "--output", film], "without file://"),
        (["--source", film, "--output", folder / "link.mp4"], "would overwrite the source"),
        (["--source", folder / "one", "--output", folder / "one" / picture.name], "would overwrite the source"),
        (["--source", "rtsp://127.0.0.1:9/x", "--log", csv], "does not answer"),
    ]


def test_bad_input_gets_one_sentence_and_leaves_nothing(network, capsys, tmp_path, picture, film):
    for args, sentence in bad_inputs(tmp_path, picture, film):
        before = {path: path.stat().st_mtime_ns for path in [*tmp_path.rglob("*"), film]}
        defaults = [] if "--model" in args else ["--model", network]
        status = main.main([str(arg) for arg in ["--no-window", *args, *defaults]])
        out, err = capsys.readouterr()
        assert status == 2, args
        assert err.count("\n") == 1 and err.startswith("main.py: ") and sentence in err, err
        assert out == ""
        assert {path: path.stat().st_mtime_ns for path in [*tmp_path.rglob("*"), film]} == before


def test_an_output_that_may_not_be_written(run, tmp_path, monkeypatch):
    if os.name == "nt" or os.geteuid() == 0:  # root may write everywhere: a folder stands in the way instead
        (tmp_path / "x.mp4").mkdir()
    else:
        tmp_path.chmod(0o500)
    status, _, err = run("--source", "demo", "--no-window", "--output", tmp_path / "x.mp4")
    assert status == 2 and "cannot be written" in err
    tmp_path.chmod(0o700)


def test_a_missing_camera(run, cameras, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")  # a Mac adds that it may be forbidden
    cameras()
    status, _, err = run("--source", "3", "--no-window")
    assert status == 2 and err == (
        "main.py: There is no camera 3. No camera answers. Without a camera, add: --source demo\n"
    )


def test_a_network_of_another_shape_is_refused(run, tmp_path):
    import keras

    path = tmp_path / "other.keras"
    keras.Sequential([keras.Input((48, 48, 1)), keras.layers.Flatten(), keras.layers.Dense(5)]).save(path)
    status, _, err = run("--source", "demo", "--no-window", "--log", tmp_path / "x.csv", model=path)
    assert status == 2 and "needs a network" in err and err.count("\n") == 1
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize("args", [["--threshold", "2"], ["--threshold", "x"], ["--smoothing", "-1"], ["--nonsense"]])
def test_wrong_arguments_end_with_status_2(args, capsys):
    with pytest.raises(SystemExit, match="2"):
        main.main(args)
    assert "error:" in capsys.readouterr().err


def test_a_full_disk_is_said_and_what_was_recorded_stays(run, tmp_path, monkeypatch):
    room = iter([True] * 50)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**9 if next(room, False) else 0))
    status, _, err = run("--source", "demo", "--no-window", "--output", tmp_path / "x.mp4", "--log", tmp_path / "x.csv")
    assert status == 2 and "The disk is full" in err and err.count("\n") == 1
    assert len(read_video(tmp_path / "x.mp4")[0]) == 50
    assert len(pd.read_csv(tmp_path / "x.csv")) >= 50


def test_opencv_5_without_cascades_ends_with_a_sentence():
    code = "import sys, cv2; del cv2.CascadeClassifier; import main; sys.exit(main.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--source", "demo", "--no-window"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and f'Run: {sys.executable} -m pip install "opencv-python<5"' in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_a_file_that_knows_no_such_letters_gets_them_all_the_same():
    process = start("--check", network="нет.keras", PYTHONIOENCODING="ascii")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "\\u043d\\u0435\\u0442.keras" in out and "Traceback" not in err


def test_an_old_keras_ends_with_a_sentence(tmp_path):
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "__init__.py").write_text('__version__ = "2.15.0"')
    command = [sys.executable, REPOSITORY / "main.py", "--source", "demo", "--no-window"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 2 and "Keras 2.15.0 is too old" in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_help_imports_nothing_heavy():
    code = "import sys, main; main.parse_args([]); print(*{'cv2', 'numpy', 'keras', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ---- Keys


def scripted_window(keys):
    """A class that stands in for output.Window: presses these keys, one a wait, and keeps what was shown.

    As in a real one, a key ends a wait, and without one ("") it takes its time.
    """

    class ScriptedWindow:
        closed = False
        shown, waits = [], []

        def __init__(self, title):
            self.keys = iter(keys)

        def show(self, image):
            self.shown.append(image.copy())

        def wait_key(self, seconds):
            self.waits.append(seconds)
            key = next(self.keys, "q")
            time.sleep(0 if key else max(seconds, 0.001))
            ScriptedWindow.closed = key == "X"
            return "" if key == "X" else key

        def close(self):
            pass

    return ScriptedWindow


@pytest.fixture(scope="module")
def ready(network):
    """A loader that has already loaded: no picture of that is shown, and no camera's goes by meanwhile."""
    loader = main.Loader(network)
    loader.run()
    loader.start = lambda: None
    return loader


@pytest.fixture
def install(ready, monkeypatch):
    """Call with a class to open in the place of output.Window; its keys fall on known frames."""

    class Probe:
        def answer(self):
            return ""

        def close(self):
            pass

    def call(window):
        monkeypatch.setattr(main, "Loader", lambda path: ready)
        monkeypatch.setattr(output, "DisplayProbe", Probe)
        monkeypatch.setattr(output, "Window", window)

    return call


@pytest.mark.parametrize("key", ["q", "\x1b", "X"])
def test_the_window_ends_the_program(run, install, key):
    window = scripted_window([""] * 3 + [key])
    install(window)
    status, out, _ = run("--source", "demo")
    assert status == 0 and len(window.shown) == 4 and out.startswith("4 frames")


def test_space_holds_the_picture_and_goes_on_where_it_was(run, install, tmp_path):
    window = scripted_window(["", "", " ", "", "", "", " ", "", "q"])
    install(window)
    _, out, _ = run("--source", "demo", "--log", tmp_path / "x.csv")
    assert out.startswith("5 frames")  # of nine pictures shown
    assert list(pd.read_csv(tmp_path / "x.csv")["frame"]) == [0, 1, 2, 3, 4]
    assert np.array_equal(window.shown[3], window.shown[5])
    assert not np.array_equal(window.shown[2], window.shown[3])  # it says that it is paused


def test_p_m_and_h_switch_bars_mirror_and_help(run, install, tmp_path, picture, demo):
    cv2.imwrite(str(picture), demo[30])  # the face is right of the middle
    window = scripted_window(["h", "h", "p", "p", "m", "m", "q"])
    install(window)
    _, out, _ = run("--source", picture, "--log", tmp_path / "x.csv")
    plain, with_help, without, bars, no_bars, mirrored, back = window.shown  # a picture answers the key before it
    assert (plain != with_help).any(axis=2).mean() > 0.05 and (bars != plain).any(axis=2).mean() > 0.02
    assert all(np.array_equal(plain, image) for image in (without, no_bars, back))
    fear = [(image == overlay.COLORS["fear"]).all(axis=2).any() for image in (plain, bars)]
    assert fear == [False, True]
    x, y, width, height = pd.read_csv(tmp_path / "x.csv").loc[0, ["x", "y", "width", "height"]]
    face, mirrored_face = plain[y : y + height, x : x + width], mirrored[y : y + height, 640 - x - width : 640 - x]
    assert np.abs(face[:, ::-1].astype(int) - mirrored_face).mean() < 2  # the box went with the face
    assert out.startswith("1 frame\n") and len(pd.read_csv(tmp_path / "x.csv")) == 1  # and it was counted once


def test_keys_work_on_a_paused_frame(run, install, tmp_path, demo):
    window = scripted_window([" ", "m", "p", "q"])
    install(window)
    run("--source", write_video(tmp_path / "x.mp4", demo[30:40]))
    _, paused, mirrored, bars = (image[:400].astype(int) for image in window.shown)
    assert np.abs(paused[:, ::-1] - mirrored).mean() < 0.5 * np.abs(paused - mirrored).mean()
    assert (mirrored != bars).any(axis=2).mean() > 0.02


def test_a_key_does_not_skip_a_picture(run, install, tmp_path, demo):
    for i in (0, 1):
        cv2.imwrite(str(tmp_path / f"{i}.png"), demo[50 * i])
    window = scripted_window(["h", "h"] + [""] * 12 + ["q"])
    install(window)
    run("--source", tmp_path)
    first, _, *others = window.shown
    same = [np.array_equal(first, image) for image in others]
    assert same == sorted(same, reverse=True) and 3 < sum(same) < len(same)  # it has its second


def test_s_saves_what_is_shown(run, install, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda _: "snapshot-1.png")  # twice within a second
    monkeypatch.setattr(overlay, "draw_status", lambda image, text: None)
    monkeypatch.setattr(main, "SAVED_SECONDS", 60)
    window = scripted_window(["", "s", "", "s", "q"])
    install(window)
    _, out, _ = run("--source", "demo")
    whole, free = slice(None), slice(400)  # later frames say below that one was saved, for a while
    for name, shown, rows in (("snapshot-1.png", window.shown[1], whole), ("snapshot-1_.png", window.shown[3], free)):
        saved = cv2.imread(str(tmp_path / name))
        assert np.array_equal(saved[rows], shown[rows])
        assert f"Saved {tmp_path / name}" in out
    assert (saved[400:] != window.shown[3][400:]).any(axis=2).mean() > 0.2


def test_the_frame_rate_is_shown_and_not_recorded(run, install, monkeypatch, tmp_path):
    monkeypatch.setattr(overlay, "draw_status", lambda image, text: image[:60, :60].fill(255))
    window = scripted_window([""] * 5 + ["q"])
    install(window)
    run("--source", "demo", "--output", tmp_path / "x.mp4")
    assert window.shown[-1][:60, :60].min() == 255
    assert max(image[:60, :60].max() for image in read_video(tmp_path / "x.mp4")[0]) < 200


def test_a_pause_does_not_count_as_slowness(run, install, monkeypatch, tmp_path, demo):
    rates = []
    monkeypatch.setattr(overlay, "draw_status", lambda image, text: rates.append(int(text.removesuffix(" fps"))))
    install(scripted_window([""] * 20 + [" "] + [""] * 100 + [" "] + [""] * 20))  # three seconds
    _, out, _ = run("--source", write_video(tmp_path / "a.mp4", demo[:40]))
    assert min(rates) >= 10  # of 30; with the pause it would be 5
    assert float(re.search(r"40 frames, ([\d.]+) frames a second", out)[1]) > 12  # with the pause it would be 9


def test_m_leaves_every_face_its_id(run, install, tmp_path, demo):
    images = [np.hstack([demo[9], np.full_like(demo[9][:, :400], 90)])] * 40  # left of the middle
    install(scripted_window([""] * 20 + ["m"] + [""] * 19))
    run("--source", write_video(tmp_path / "a.mp4", images), "--log", tmp_path / "x.csv")
    table = pd.read_csv(tmp_path / "x.csv")
    assert list(table["frame"]) == list(range(40)) and set(table["face"]) == {1}
    before, after = table["x"].iloc[20], table["x"].iloc[21]
    assert after == pytest.approx(1040 - before - table["width"].iloc[20], abs=3) and after > before + 200


def test_a_pause_takes_nothing_from_the_recording_of_a_film(run, install, monkeypatch, tmp_path):
    class Sparse(video.Demo):
        def __iter__(self):
            yield self.frame(0)
            yield self.frame(60)

    monkeypatch.setattr(video, "Demo", Sparse)
    install(scripted_window([" ", " "] + [""] * 200))
    run("--source", "demo", "--output", tmp_path / "x.mp4")
    assert len(read_video(tmp_path / "x.mp4")[0]) == 61


def test_a_picture_stays_in_the_window_until_it_is_closed(run, install, picture):
    window = scripted_window([""] * 6 + ["q"])
    install(window)
    status, out, _ = run("--source", picture)
    assert status == 0 and len(window.waits) == 7 and out.startswith("1 frame\n")


def test_a_file_plays_at_its_own_pace_in_the_window(run, install, monkeypatch, film):
    class Slow(scripted_window([""] * 100)):
        def show(self, image):
            super().show(image)
            stamps.append(time.perf_counter())
            time.sleep(0.02)  # as a large picture does

    stamps = []
    install(Slow)
    monkeypatch.setattr(faces.Tracker, "update", lambda *_: [])  # which a busy machine may take too long for
    run("--source", film)
    assert len(stamps) == 30
    assert -0.1 < stamps[-1] - stamps[1] - 28 / 15 < 0.4  # 0.56 if the time of showing came on top


class SlowLoader(main.Loader):
    def run(self):
        time.sleep(0.3)
        super().run()


def test_the_camera_is_shown_while_the_network_loads(run, install, monkeypatch, cameras):
    cameras(noise(200, 240, 320) * 10, seconds_a_frame=0.005)
    window = scripted_window([""] * 200 + ["q"])
    install(window)
    monkeypatch.setattr(main, "Loader", SlowLoader)
    status, _, _ = run("--source", "0")
    assert status == 0
    says_so = [shown[-8:].mean() < 80 for shown in window.shown]  # a dark band with the message
    assert says_so[0] and sum(says_so) >= 5 and not says_so[-1]
    assert len({shown.tobytes() for shown in window.shown[:5]}) == 5  # moving pictures


def test_a_snapshot_while_the_network_loads_is_of_the_picture(run, install, monkeypatch, cameras, tmp_path):
    monkeypatch.chdir(tmp_path)
    images = noise(200, 240, 320)
    cameras(images, seconds_a_frame=0.005)
    install(scripted_window(["", "s", "", "q"]))
    monkeypatch.setattr(main, "Loader", SlowLoader)
    run("--source", "0", "--no-mirror")
    (snapshot,) = tmp_path.glob("*.png")
    assert cv2.imread(str(snapshot)).tobytes() in {image.tobytes() for image in images}


def test_a_face_that_is_gone_is_not_classified(run, monkeypatch, tmp_path, demo):
    class Leaving(video.Demo):
        def __iter__(self):
            for i in range(20):
                yield video.Frame(demo[0] if i < 10 else np.full_like(demo[0], 90), i / 30, i)

    monkeypatch.setattr(video, "Demo", Leaving)
    run("--source", "demo", "--no-window", "--smoothing", "0", "--log", tmp_path / "x.csv")
    table = pd.read_csv(tmp_path / "x.csv")
    assert 10 < len(table) < 20  # it is shown a little longer
    assert len(table.loc[table["frame"] >= 9, list(EMOTIONS)].drop_duplicates()) == 1


def test_a_wrong_time_stamp_does_not_hold_the_picture(run, install, monkeypatch):
    frame = video.Demo.frame

    def late(self, index):
        return replace(frame(self, index), time_seconds=index / 30 + (9999 if index > 3 else 0))

    monkeypatch.setattr(video.Demo, "frame", late)
    install(scripted_window([""] * 8 + ["q"]))
    assert run("--source", "demo")[1].startswith("9 frames")


def test_a_pause_that_begins_while_the_network_loads_is_no_speed(run, install, monkeypatch):
    install(scripted_window([" "] + [""] * 50 + [" "] + [""] * 20 + ["q"]))
    monkeypatch.setattr(main, "Loader", SlowLoader)
    _, out, _ = run("--source", "demo")
    assert float(re.search(r"([\d.]+) frames a second", out)[1]) < 40


# ---- Faults of a camera


def test_a_reconnected_camera_goes_on_in_the_same_outputs(run, install, monkeypatch, cameras, tmp_path, demo):
    monkeypatch.setattr(video, "FIRST_WAIT_SECONDS", 0.3)
    cameras(demo[:20], (demo[20:80] + demo[80:20:-1]) * 2, seconds_a_frame=0.02)
    install(scripted_window([""] * 45 + ["q"]))
    status, _, _ = run("--source", "0", "--log", tmp_path / "x.csv", "--output", tmp_path / "x.mp4")
    assert status == 0
    table = pd.read_csv(tmp_path / "x.csv")
    gaps = np.diff(table["time_seconds"])
    assert gaps.max() > 0.3 and (table["time_seconds"] > table["time_seconds"][gaps.argmax()]).sum() > 3
    assert table["face"].nunique() == 1  # the same face, before and after
    images, fps = read_video(tmp_path / "x.mp4")
    seconds = table["time_seconds"].iloc[-1] - table["time_seconds"].iloc[0]
    assert len(images) / fps == pytest.approx(seconds, abs=0.3)
    assert any(image[-10:].mean() < 60 for image in images)  # the message is on the picture


def test_a_pause_is_left_out_of_a_camera_s_recording(run, install, cameras, tmp_path, demo):
    cameras(demo * 3, seconds_a_frame=0.02)
    install(scripted_window([""] * 20 + [" "] + [""] * 40 + [" "] + [""] * 20 + ["q"]))
    run("--source", "0", "--log", tmp_path / "x.csv", "--output", tmp_path / "x.mp4")
    times = pd.read_csv(tmp_path / "x.csv")["time_seconds"].to_numpy()
    pause = np.diff(times).max()
    images, fps = read_video(tmp_path / "x.mp4")
    assert pause > 1 and len(images) / fps == pytest.approx(times[-1] - times[0] - pause, abs=0.3)


def test_without_a_window_a_fault_is_said_once(run, cameras, monkeypatch):
    cameras(noise(10))
    frames = video.Camera.__iter__
    monkeypatch.setattr(video.Camera, "__iter__", lambda self: itertools.islice(frames(self), 20))
    _, out, err = run("--source", "0", "--no-window")
    assert err == "main.py: camera 0 sends no picture: connecting again\n"
    assert int(out.split()[0]) <= 10  # of 20, the rest are faults


def test_the_benchmark_runs_this_loop(film, network):
    our_loop = runpy.run_path(str(REPOSITORY / "benchmarks" / "live.py"))["our_loop"]
    summary = our_loop(film, faces.load_cascade(), load_classifier(network))
    assert summary.frames == 30 and len(summary.milliseconds["detecting"]) == 30


# ---- Steadiness


def test_the_shipped_network_follows_the_cuts_of_the_demo(tmp_path):
    assert main.main(["--source", "demo", "--no-window", "--log", str(tmp_path / "x.csv")]) == 0
    table = pd.read_csv(tmp_path / "x.csv")
    seconds = video.Demo().emotion_seconds
    segments = [table[table["time_seconds"] // seconds == k] for k in range(7)]
    settled = [segment["label"].tail(20).mode()[0] for segment in segments]
    assert settled == list(EMOTIONS)
    for k in range(1, 7):
        first = segments[k][segments[k]["label"] == settled[k]]["time_seconds"].iloc[0]
        assert first - k * seconds <= 0.4


def test_smoothing_belongs_to_the_face(run, tmp_path, demo, network):
    from faces import crop_faces, to_gray
    from model import load_classifier

    faces = demo[0][90:390, 170:470], demo[60][50:410, 203:563]  # angry, disgust
    old, new = (cv2.resize(face, (240, 240)) for face in faces)
    images = [np.hstack([old, np.full_like(old, 90) if i < 20 else new]) for i in range(70)]
    path = write_video(tmp_path / "a.mp4", images)
    run("--source", path, "--no-window", "--log", tmp_path / "x.csv")
    table = pd.read_csv(tmp_path / "x.csv")
    left, right = (table[table["face"] == face] for face in (1, 2))
    assert len(left) == 70 and len(right) >= 20 and right["frame"].min() >= 20
    assert (left["x"] < 200).all() and (right["x"] > 200).all()
    first = right.iloc[0]  # nothing of the other face is in it
    gray = to_gray(read_video(path)[0][first["frame"]])
    raw = load_classifier(network).probabilities(crop_faces(gray, [first[["x", "y", "width", "height"]]]))[0]
    assert np.allclose(first[list(EMOTIONS)].astype(float), raw, atol=1e-4)


def test_level_eyes_on_request(run, tmp_path, monkeypatch, demo):
    turn = cv2.getRotationMatrix2D((320, 240), 8, 1.0)  # to the left
    film = write_video(tmp_path / "turned.mp4", [cv2.warpAffine(image, turn, (640, 480)) for image in demo[45:75]])
    crops = []
    monkeypatch.setattr(faces, "crop_faces", lambda *args: crops.append((args, crop_faces(*args))) or crops[-1][1])
    status, _, err = run("--source", film, "--no-window", "--align", "--log", tmp_path / "x.csv")
    assert status == 0 and err == "" and len(pd.read_csv(tmp_path / "x.csv")) == len(crops) == 30
    assert -15 < np.median([tilts for (_, _, tilts), _ in crops]) < -5


# ---- --check


def test_check_says_what_is_well(run, cameras, install):
    cameras(None, noise(50, 120, 160))
    install(scripted_window([]))
    status, out, _ = run("--check")
    assert status == 0 and "FAIL" not in out and "All is well." in out
    assert "1: 160x120, " in out and "finds the demo's face" in out


def test_check_says_how_to_mend_what_is_not(run, install, cameras, tmp_path):
    cameras()
    install(scripted_window([]))
    status, out, _ = run("--check", "--cascade", tmp_path / "none.xml", model=tmp_path / "none.keras")
    assert status == 2
    failures = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert len(failures) == 3
    for line, mend in zip(failures, ("--cascade PATH", "--source demo", "python train.py"), strict=True):
        assert mend in line


def hide_package(monkeypatch, hidden):
    """Let a package look as if it were not installed."""
    version = importlib.metadata.version

    def version_of_others(name):
        if name == hidden:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", version_of_others)


def test_check_takes_any_package_of_opencv_and_tensorflow(run, install, cameras, monkeypatch, tmp_path):
    for name in ("opencv-python", "tensorflow"):
        hide_package(monkeypatch, name)
    (tmp_path / "tensorflow_cpu-2.20.0.dist-info").mkdir()
    (tmp_path / "tensorflow_cpu-2.20.0.dist-info" / "METADATA").write_text("Name: tensorflow-cpu\nVersion: 2.20.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"tensorflow": ["tensorflow-cpu"]})
    cameras(None, noise(50, 120, 160))
    install(scripted_window([]))
    status, out, _ = run("--check")
    assert status == 0 and f"opencv-python {cv2.__version__}" in out and "tensorflow 2.20.0" in out


def test_check_wants_tensorflow_only_where_it_is_used(run, install, cameras, monkeypatch, tmp_path):
    def packages(**options):
        cameras(None, noise(50, 120, 160))
        install(scripted_window([]))
        _, out, _ = run("--check", **options)
        return next(line for line in out.splitlines() if " packages " in line)

    hide_package(monkeypatch, "tensorflow")
    assert packages().startswith("FAIL") and "tensorflow is missing" in packages()
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert packages().startswith("ok") and "jax" in packages()
    monkeypatch.setenv("KERAS_BACKEND", "no-such-backend")
    assert packages().startswith("FAIL") and packages().endswith("pip install 'no-such-backend'")
    monkeypatch.delenv("KERAS_BACKEND")
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    line = packages(model=tmp_path / "best_model.tflite")
    assert line.startswith("ok") and "ai-edge-litert" in line


# ---- As a process of its own: signals, displays, a window


@pytest.mark.parametrize("program", re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL))
def test_the_programs_of_the_readme_run_from_anywhere(tmp_path, picture, program):
    shutil.copy(picture, tmp_path / "photo.jpg")
    done = run_code(program, cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 0, done.stderr
    assert "angry" in done.stdout  # the first of the average faces


def start(*args, network, code=None, **environment):
    script = ["-c", code] if code else [str(REPOSITORY / "main.py")]
    command = [sys.executable, *script, *map(str, args), "--model", str(network)]
    env = {**os.environ, **environment}
    env = {name: value for name, value in env.items() if value is not None}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def long_film(tmp_path_factory, demo):
    images = [cv2.resize(image, (320, 240)) for image in demo]
    return write_video(tmp_path_factory.mktemp("film") / "long.mp4", images * 15)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    ("name", "ctrl_c"),
    [
        ("SIGINT", signal.default_int_handler),
        ("SIGTERM", signal.default_int_handler),
        ("SIGTERM", signal.SIG_IGN),  # as a shell's background job gets it
        ("SIGHUP", signal.default_int_handler),  # the terminal was closed
    ],
)
def test_files_are_whole_after_a_signal(tmp_path, network, long_film, name, ctrl_c):
    log, output = tmp_path / "x.csv", tmp_path / "x.mp4"
    handlers = {signal.SIGINT: ctrl_c, signal.SIGHUP: signal.SIG_DFL}  # whatever these tests were started under
    inherited = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        process = start("--source", long_film, "--no-window", "--log", log, "--output", output, network=network)
    finally:
        for number, handler in inherited.items():
            signal.signal(number, handler)
    wait_until(lambda: log.exists() and log.stat().st_size > 3000)
    process.send_signal(signal.Signals[name])
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err == "" and "frames a second" in out
    assert len(read_video(output)[0]) > 10
    assert pd.read_csv(log).drop(columns="picture").notna().all(axis=None)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("after_seconds", [0.3, 1.0, 2.0])
def test_ctrl_c_at_any_moment_of_the_start(tmp_path, network, after_seconds):
    code = "import runpy, main; print('up', flush=True); runpy.run_path(main.__file__, run_name='__main__')"
    options = ["--source", "demo", "--no-window", "--log", tmp_path / "x.csv"]
    process = start(*options, network=network, code=code, PYTHONPATH=str(REPOSITORY))
    assert process.stdout.readline() == "up\n"  # Python itself is not ours to end
    time.sleep(after_seconds)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err == ""
    assert time.monotonic() - began < 3


def test_a_backend_that_keras_does_not_know_is_named(tmp_path, network, picture):
    process = start("--source", picture, "--no-window", network=network, KERAS_BACKEND="pytorch")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "KERAS_BACKEND to tensorflow, jax or torch" in err and err.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a desktop is always there")
def test_without_a_display_it_says_what_to_do(network):
    process = start("--source", "demo", network=network, DISPLAY=None, WAYLAND_DISPLAY=None)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err == (
        "main.py: There is no display for a window: log in with a desktop. "
        "Or use --no-window with --output FILE or --log FILE.csv.\n"
    )


def test_an_opencv_without_windows_says_how_to_get_one_with_them(run, monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    status, _, err = run("--source", "demo")
    assert status == 2 and "pip uninstall opencv-python-headless" in err and "display" not in err


@pytest.mark.parametrize("platform, heard", [("win32", "q"), ("darwin", "q"), ("linux", "Q")])
def test_caps_lock_keeps_no_key_from_working(monkeypatch, platform, heard):
    """OpenCV makes small letters of keys on Linux alone, where an arrow key's last byte is that of a capital."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(cv2, "namedWindow", lambda *args: None)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *args: 1.0)
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("Q"))
    assert output.Window("x").wait_key(0) == heard


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a desktop is always there")
def test_with_a_dead_display_it_goes_on_without_a_window(tmp_path, network, picture):
    process = start("--source", picture, "--log", tmp_path / "x.csv", network=network, DISPLAY=":4321")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Going on without a window" in err
    assert len(pd.read_csv(tmp_path / "x.csv")) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_output_that_nobody_reads_or_that_is_full(network, picture):
    options = [sys.executable, str(REPOSITORY / "main.py"), "--source", picture, "--no-window", "--model", network]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipe = {"stderr": subprocess.PIPE, "text": True, "env": buffered}
    with subprocess.Popen(options, stdout=subprocess.PIPE, **pipe) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=60)) == ("", 0)
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(options, stdout=full, timeout=60, **pipe)
    assert process.returncode == 2 and process.stderr.count("\n") == 1 and "No space left" in process.stderr


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


def find_window(display, process):
    windows = []
    wait_until(lambda: windows.extend(xdotool(display, "search", "--name", "^Emotion Detector$")) or windows)
    assert process.poll() is None
    return windows[0]


@pytest.mark.parametrize("key", ["q", "Escape"])
def test_a_real_key_ends_the_real_window(display, network, tmp_path, key):
    process = start("--source", "demo", "--log", tmp_path / "x.csv", network=network, DISPLAY=display)
    window = find_window(display, process)
    wait_until(lambda: (tmp_path / "x.csv").exists())
    xdotool(display, "key", "--window", window, key)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and "frames" in out
    assert 0 < len(pd.read_csv(tmp_path / "x.csv")) < 300
    assert "Traceback" not in err


@pytest.mark.parametrize(("sizes", "windows"), [
    ([(2048, 1536), (320, 240), (320, 240), (2000, 100)], [(907, 680), (640, 480), (640, 480), (1280, 64)]),
    ([(450, 2000), (64, 64), (5000, 1)], [(153, 680), (640, 640), (1280, 1)]),
])  # fmt: skip
def test_a_window_fits_every_picture_and_the_screen(display, sizes, windows):
    code = (
        "import cv2, numpy, output\n"
        "window = output.Window('x')\n"
        f"for width, height in {sizes}:\n"
        "    for _ in range(5):\n"
        "        window.show(numpy.full((height, width, 3), 200, numpy.uint8))\n"
        "        window.wait_key(0.1)\n"
        "    print(*cv2.getWindowImageRect('x')[2:])\n"
    )
    done = run_code(code, DISPLAY=display)
    assert done.returncode == 0, done.stderr
    found = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert np.abs(np.subtract(found, windows)).max() <= 1


def test_files_of_the_user_do_not_hide_the_display(display, tmp_path, monkeypatch):
    (tmp_path / "cv2.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISPLAY", display)
    probe = output.DisplayProbe()
    try:
        assert probe.answer() == ""
    finally:
        probe.close()


def test_closing_a_window_leaves_those_of_others(display):
    code = (
        "import cv2, numpy, output\n"
        "cv2.namedWindow('mine')\n"
        "window = output.Window('theirs')\n"
        "window.show(numpy.zeros((48, 64, 3), numpy.uint8))\n"
        "window.wait_key(0.1)\n"
        "window.close()\n"
        "window.close()\n"
        "cv2.waitKey(1)\n"
        "print(cv2.getWindowProperty('mine', cv2.WND_PROP_AUTOSIZE))"
    )
    done = run_code(code, DISPLAY=display)
    assert done.returncode == 0 and float(done.stdout) >= 0, done.stderr


def test_the_x_of_the_window_ends_it(display, network, picture, tmp_path):
    process = start("--source", picture, "--log", tmp_path / "x.csv", network=network, DISPLAY=display)
    window = find_window(display, process)
    wait_until(lambda: (tmp_path / "x.csv").exists())
    time.sleep(0.5)
    press_x(display, int(window))
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and out.startswith("1 frame\n"), err
