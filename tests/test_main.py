"""main.py from the command line: every source and output, every bad input, signals."""

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, noise, read_video, run_code, write_video

import main
from emotions import EmotionDetector, Face, overlay
from live import app, statistics, timeline
from live.sources import Frame
from model import BEST_MODEL, EMOTIONS

README = REPOSITORY / "README.md"
HEADER = "time_seconds,frame,face,x,y,width,height,angry,disgust,fear,happy,sad,surprise,neutral,label,file"


@pytest.fixture
def run(lite_network, capsys):
    """Call main.main with the small network, without a window; return (status, stdout, stderr)."""

    def call(*args, model=lite_network):
        status = main.main([*map(str, args), "--model", str(model), "--no-window"])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def image_file(tmp_path, demo):
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), demo[0])
    return path


@pytest.fixture(scope="session")
def video(tmp_path_factory, demo):
    """Two seconds of the demo as a file of 15 frames a second."""
    return write_video(tmp_path_factory.mktemp("video") / "video.mp4", demo[:60:2], fps=15)


# --- options


def test_help_imports_nothing_heavy():
    code = "import sys, main; main.parse_args([]); print(*{'cv2', 'numpy', 'keras', 'tensorflow'} & set(sys.modules))"
    assert run_code(code).stdout.strip() == ""


@pytest.mark.parametrize(
    "args, sentence",
    [
        (["--threshold", "2"], "--threshold: 2 is not from 0 to 1"),
        (["--threshold", "x"], "invalid number value"),
        (["--smoothing", "-1"], "is not from 0"),
        (["--nonsense"], "There is no option --nonsense. See --help."),
        (["demo", "--no-windwo", "--log", "x.csv"], "Did you mean --no-window?"),
        (["--labels", "x"], "invalid choice"),
    ],
)
def test_wrong_arguments_get_one_sentence_and_status_2(args, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        main.main(args)
    err = capsys.readouterr().err
    assert err.startswith("main.py: ") and sentence in err and err.count("\n") == 1


def test_defaults_are_those_of_the_detector():
    defaults = {name: each.default for name, each in inspect.signature(EmotionDetector).parameters.items()}
    options = vars(main.parse_args([]))
    options["smoothing_seconds"] = options.pop("smoothing")
    assert {name: options[name] for name in defaults} == defaults


# --- sources and outputs


def test_the_demo_end_to_end(run, tmp_path):
    log, output = tmp_path / "x.csv", tmp_path / "x.mp4"
    status, out, err = run("--source", "demo", "--log", log, "--output", output)
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
    assert table["file"].isna().all()
    assert "300 frames" in out and " with a face" in out
    for stage in ("reading", "detecting", "classifying", "drawing", "writing"):
        assert f"{stage} " in out


def test_the_log_has_the_detector_s_results(run, tmp_path, image_file, lite_network):
    run("--source", image_file, "--log", tmp_path / "x.csv")
    (row,) = pd.read_csv(tmp_path / "x.csv").to_dict("records")
    (face,) = EmotionDetector(lite_network).detect(cv2.imread(str(image_file)))
    assert tuple(row[name] for name in ("x", "y", "width", "height")) == face.box and row["label"] == face.label
    assert np.allclose([row[name] for name in EMOTIONS], face.probabilities, atol=1e-4)
    assert (row["time_seconds"], row["frame"], row["face"], row["file"]) == (0, 0, 1, "image.png")


def test_the_labels_of_fer_2013_can_be_chosen(run, tmp_path, image_file):
    for labels in ("fer2013", "ferplus"):
        run(image_file, "--log", tmp_path / "x.csv", "--labels", labels, model=BEST_MODEL.with_suffix(".tflite"))
        (row,) = pd.read_csv(tmp_path / "x.csv").to_dict("records")
        (face,) = EmotionDetector(labels=labels).detect(str(image_file))
        (other,) = EmotionDetector(labels="ferplus" if labels == "fer2013" else "fer2013").detect(str(image_file))
        assert np.allclose([row[name] for name in EMOTIONS], face.probabilities, atol=1e-4)
        assert np.abs(face.probabilities - other.probabilities).max() > 0.001


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_an_image_is_annotated(run, tmp_path, image_file, demo, suffix):
    before = image_file.read_bytes()
    output = tmp_path / f"out{suffix}"
    status, _, _ = run("--source", image_file, "--output", output)
    annotated = cv2.imread(str(output))
    assert status == 0 and annotated.shape == demo[0].shape
    changed = np.abs(annotated.astype(int) - demo[0]).max(axis=2) > 60
    assert 0.002 < changed.mean() < 0.3  # a box and a label, and nothing else
    assert image_file.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"image.png", output.name}


def test_a_folder_is_processed(run, tmp_path, demo):
    folder = tmp_path / "folder"
    folder.mkdir()
    quote = "'" if os.name == "nt" else '"'  # Windows allows no other in a name
    for i, image in enumerate([demo[0], np.zeros((100, 100, 3), np.uint8), np.hstack([demo[0], demo[0]])]):
        cv2.imwrite(str(folder / f"{i}, {quote}a{quote}.png"), image)
    (folder / "1a.png").write_text("no image")
    status, out, _ = run("--source", folder, "--log", tmp_path / "x.csv", "--output", tmp_path / "x.mp4")
    table = pd.read_csv(tmp_path / "x.csv")
    names = [f"{i}, {quote}a{quote}.png" for i in range(3)]
    assert status == 0 and list(table["file"]) == [names[0], names[1], names[2], names[2]]
    assert list(table["face"].fillna(0)) == [1, 0, 1, 2] and table["label"][1] == "no face"
    lines = out.splitlines()
    assert re.fullmatch(re.escape(names[0]) + r": 1 face: \w+ \d+%", lines[0]) and lines[1] == f"{names[1]}: no face"
    assert lines[2].startswith(f"{names[2]}: 2 faces: ") and lines[3].startswith("3 images, 3 faces: ")
    assert lines[4].startswith(f"Saved {tmp_path / 'x.mp4'} (3.0 s, 1280x720") and str(tmp_path / "x.csv") in lines[4]
    assert len(read_video(tmp_path / "x.mp4")[0]) == 3


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_file_keeps_its_rate_and_every_frame(run, tmp_path, video, suffix):
    output = tmp_path / f"x{suffix}"
    status, _, _ = run("--source", video, "--output", output, "--log", tmp_path / "x.csv")
    images, fps = read_video(output)
    assert status == 0 and len(images) == 30 and fps == pytest.approx(15)
    assert pd.read_csv(tmp_path / "x.csv")["time_seconds"].max() == pytest.approx(29 / 15, abs=0.01)


def test_threshold_smoothing_and_probabilities_have_an_effect(run, tmp_path, image_file, video):
    def logged(source, *options):
        run("--source", source, "--log", tmp_path / "x.csv", *options)
        return pd.read_csv(tmp_path / "x.csv")

    assert (logged(image_file, "--threshold", 1)["label"] == "uncertain").all()
    assert (logged(image_file, "--threshold", 0)["label"] != "uncertain").all()
    raw, slow = (logged(video, "--smoothing", seconds)[list(EMOTIONS)].to_numpy() for seconds in (0, 10))
    assert np.ptp(raw, axis=0).max() > 3 * np.ptp(slow, axis=0).max()  # the video has a cut
    run("--source", image_file, "--probabilities", "--output", tmp_path / "x.png")
    image = cv2.imread(str(tmp_path / "x.png"))
    assert all((image == overlay.COLORS[name]).all(axis=2).any() for name in EMOTIONS)


class ClosingWindow:
    """Stands in for a window that is closed after twenty frames."""

    def __init__(self, title):
        self.frames, self.closed = 0, False

    def show(self, image): ...

    def wait_key(self, seconds):
        time.sleep(max(seconds, 0.001))
        self.frames += 1
        self.closed = self.frames > 20
        return ""

    def close(self): ...

    def error(self):  # of a probe
        return ""

    def __enter__(self):
        return self

    def __exit__(self, *_): ...


@pytest.mark.parametrize(
    "source, option, mirrored", [("0", [], True), ("0", ["--no-mirror"], False), ("rtsp://camera/live", [], False)]
)
def test_a_camera_is_mirrored_by_default_and_a_stream_is_not(
    monkeypatch, capsys, lite_network, cameras, tmp_path, source, option, mirrored
):
    images = [np.uint8(image // 16) for image in noise(200, 120, 160)]
    for image in images:
        image[:, :80] += 200  # the left half is light
    cameras(images, seconds_a_frame=0.02)
    monkeypatch.setattr(app, "DisplayProbe", lambda: ClosingWindow(""))
    monkeypatch.setattr(app, "Window", ClosingWindow)
    options = ["--source", source, "--output", tmp_path / "x.mp4", "--model", lite_network, *option]
    assert main.main(list(map(str, options))) == 0
    image = read_video(tmp_path / "x.mp4")[0][0]
    assert (image[:, 80:].mean() > image[:, :80].mean()) == mirrored


def test_files_are_mirrored_only_on_request(run, tmp_path, image_file, demo):
    cv2.imwrite(str(image_file), demo[20])  # the face is right of the middle
    boxes = []
    for option in ([], ["--mirror"]):
        run("--source", image_file, "--log", tmp_path / "x.csv", *option)
        boxes.append(pd.read_csv(tmp_path / "x.csv").loc[0])
    plain, mirrored = boxes
    assert mirrored["x"] == pytest.approx(640 - plain["x"] - plain["width"], abs=6) and mirrored["x"] < plain["x"] - 50


def test_several_sources_folders_and_patterns_get_annotated_copies(run, tmp_path, image_file, video, demo, monkeypatch):
    folder, copies = tmp_path / "photos", tmp_path / "copies"
    folder.mkdir()
    cv2.imwrite(str(folder / "image.png"), demo[5])
    cv2.imwrite(str(folder / "b.bmp"), demo[5])
    shutil.copy(video, folder / "c.webm.mp4")
    (folder / "d.heic").touch()
    status, out, err = run(image_file, folder, tmp_path / "im*.png", "--output", copies, "--log", tmp_path / "x.json")
    assert status == 0 and "HEIC" in err
    assert {path.name for path in copies.iterdir()} == {
        "image.png", "b.png", "c.webm.mp4", "image (2).png", "image (3).png",
    }  # fmt: skip
    assert len(read_video(copies / "c.webm.mp4")[0]) == 30
    rows = [json.loads(line) for line in (tmp_path / "x.json").read_text().splitlines()]
    names = {row["file"] for row in rows}
    assert names == {"b.bmp", str(folder / "image.png"), str(image_file), "c.webm.mp4"}
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1, abs=0.001) and len(rows[0]["box"]) == 4
    assert f"{copies}{os.sep} (5 files)" in out.splitlines()[-1]
    monkeypatch.chdir(folder)
    status, _, err = run(folder, "--output", folder)
    assert status == 2 and "would overwrite the source" in err


@pytest.mark.parametrize("piped", [False, True])
def test_a_progress_bar_is_not_drawn_over_the_lines_of_images(tmp_path, run, demo, monkeypatch, piped):
    monkeypatch.setattr(statistics, "BAR_FRAMES", 3)
    monkeypatch.setattr(statistics, "BAR_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: not piped)
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), demo[i])
    assert (" of 4 frames" in run(tmp_path)[2]) == piped


def test_a_terminal_that_has_gone_ends_no_run_whose_results_go_to_files(tmp_path, run, video, monkeypatch):
    def gone(*args, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(statistics, "BAR_FRAMES", 3)
    monkeypatch.setattr(statistics, "BAR_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(statistics, "print", gone, raising=False)
    assert run(video, "--log", tmp_path / "x.csv")[0] == 0
    assert len(pd.read_csv(tmp_path / "x.csv")) == 30


def test_a_closed_stdout_does_not_cut_the_files_short(tmp_path, lite_network, demo):
    for i in range(30):
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), demo[i])
    log = tmp_path / "x.csv"
    process = start(tmp_path, "--no-window", "--model", lite_network, "--log", log)
    process.stdout.readline()
    process.stdout.close()  # as `| head -1`
    assert (process.stderr.read(), process.wait(timeout=60)) == ("", 0)
    assert len(pd.read_csv(log)) == 30


def test_one_bad_file_does_not_stop_the_others(run, tmp_path, image_file, video):
    (tmp_path / "bad.mp4").write_text("hello")
    status, out, err = run(tmp_path / "bad.mp4", video)
    assert status == 2 and "bad.mp4 is not a video" in err and "1 of 2 sources could not be used" in err
    assert "video.mp4: 30 frames, " in out


def test_a_video_s_timeline_is_drawn(run, tmp_path, video, image_file):
    status, out, _ = run(video, "--timeline", tmp_path / "x.png")
    image = cv2.imread(str(tmp_path / "x.png"))
    assert status == 0 and image.shape[1] == 1600 and f"Saved {tmp_path / 'x.png'}" in out
    assert all((image == overlay.COLORS[name]).all(axis=2).sum() > 300 for name in EMOTIONS)
    status, _, err = run(image_file, "--timeline", tmp_path / "y.png")
    assert status == 2 and "--timeline" in err
    empty = write_video(tmp_path / "empty.mp4", noise(10))
    status, _, err = run(empty, "--timeline", tmp_path / "z.png")
    assert status == 0 and "z.png was not written: no face was seen" in err and not (tmp_path / "z.png").exists()


def test_the_timeline_of_a_long_video_is_thinned_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(timeline, "MOST_ROWS", 6000)
    drawn, face = timeline.Timeline(tmp_path / "x.png"), Face(1, (0, 0, 9, 9), np.full(7, 1 / 7), "happy")
    for i in range(20_000):
        drawn.write(Frame(None, i / 5, i), [face] if i < 19_000 else [])
    strip = drawn.image()[timeline.TOP + timeline.CHART + timeline.STRIP - 3, timeline.LEFT : -timeline.RIGHT]
    columns = (strip == overlay.COLORS["happy"]).all(axis=1)
    assert columns[: int(0.94 * len(columns))].all() and not columns[int(0.97 * len(columns)) :].any()


def test_the_timeline_shows_the_four_faces_seen_longest(tmp_path):
    def image(count):
        drawn = timeline.Timeline(tmp_path / "x.png")
        for i in range(6):
            faces = [Face(each + 1, (0, 0, 9, 9), np.full(7, 1 / 7), EMOTIONS[each]) for each in range(count)]
            drawn.write(Frame(None, i, i), [face for face in faces if face.id + i <= 6 or face.id == 1])
        return drawn.image()

    assert image(6).shape == image(4).shape != image(3).shape
    place = timeline.TOP + timeline.CHART + timeline.STRIP - 3  # the strip of labels, below each chart
    rows = [image(6)[place + i * (timeline.CHART + timeline.STRIP + timeline.GAP)] for i in range(4)]
    strips = [row[timeline.LEFT + 3] for row in rows]
    assert [tuple(pixel) for pixel in strips] == [overlay.COLORS[name] for name in EMOTIONS[:4]]


def test_the_timeline_of_a_slow_video_has_no_gaps(tmp_path):
    drawn, face = timeline.Timeline(tmp_path / "x.png"), Face(1, (0, 0, 9, 9), np.full(7, 1 / 7), "happy")
    for i in range(40):  # a frame every three seconds, and none of the face for half a minute
        drawn.write(Frame(None, 3 * i, i), [] if 20 <= i < 30 else [face])
    strip = drawn.image()[timeline.TOP + timeline.CHART + timeline.STRIP - 3, timeline.LEFT : -timeline.RIGHT]
    columns = (strip == overlay.COLORS["happy"]).all(axis=1)
    n = len(columns)
    assert (
        columns[: n // 2 - n // 40].all()
        and not columns[n * 21 // 40 : n * 29 // 40].any()
        and columns[n * 31 // 40 :].all()
    )


def test_files_of_one_name_are_told_apart_in_the_log(run, tmp_path, demo):
    clips = [tmp_path / folder / "clip.mp4" for folder in ("one", "two")]
    for clip in clips:
        clip.parent.mkdir()
        write_video(clip, demo[:1])
    assert run(*clips, "--log", tmp_path / "log.csv")[0] == 0
    table = pd.read_csv(tmp_path / "log.csv")
    assert table["file"].unique().tolist() == [str(clip) for clip in clips] and set(table["face"]) == {1}
    assert run(clips[0], "--log", tmp_path / "log.csv")[0] == 0
    assert pd.read_csv(tmp_path / "log.csv")["file"].unique().tolist() == ["clip.mp4"]


def test_a_photo_and_a_video_share_a_recording_and_the_photo_lasts_a_second(run, image_file, video, tmp_path):
    (tmp_path / "bad.avi").write_text("hello")
    status, out, _ = run(image_file, video, tmp_path / "bad.avi", "--output", tmp_path / "both.mp4")
    images, fps = read_video(tmp_path / "both.mp4")
    assert status == 2 and "both.mp4 (3.0 s" in out and fps == 30 and len(images) in (89, 90)
    changes = [i for i in range(1, 60) if np.abs(images[i].astype(int) - images[i - 1]).mean() > 0.5]
    assert changes[0] == 30


# --- bad input: one sentence, status 2, nothing written


def bad_inputs(folder, image_file, video):
    model, cascade = folder / "m.keras", folder / "c.xml"
    (folder / "text.mp4").write_text("hello")
    (folder / "a.HEIC").touch()
    (folder / "empty.mp4").touch()
    (folder / "bad.png").write_text("hello")
    (folder / "nothing").mkdir()
    (folder / "no.keras").write_text("hello")
    (folder / "old.h5").write_text("hello")
    (folder / "no.tflite").write_text("hello")
    (folder / "wrong.xml").write_text("<a/>")
    (folder / "one").mkdir()
    shutil.copy(image_file, folder / "one")
    (folder / "link.mp4").hardlink_to(video)
    mp4, png, csv = folder / "out.mp4", folder / "out.png", folder / "out.csv"
    return [
        (["--source", folder / "missing.mp4", "--output", mp4], "There is no file"),
        (["--source", folder / "text.mp4", "--output", mp4], "is not a video"),
        (["--source", folder / "empty.mp4", "--output", mp4], "is not a video"),
        (["--source", folder / "bad.png", "--output", png], "is not a readable image"),
        (["--source", folder / "nothing", "--output", mp4], "contains no images"),
        (["--source", "demo", "--model", model, "--output", mp4], "python train.py"),
        (["--source", "demo", "--model", folder / "no.keras", "--log", csv], "is not a .keras file"),
        (["--source", "demo", "--model", folder / "old.h5", "--log", csv], "is not a .keras file"),
        (["--source", "demo", "--model", folder / "no.tflite", "--log", csv], "cannot be used"),
        (["--source", "demo", "--cascade", cascade, "--log", csv], "There is no cascade"),
        (["--source", "demo", "--cascade", folder / "wrong.xml", "--log", csv], "is not a Haar cascade"),
        (["--source", "demo", "--output", folder / "missing" / "x.mp4"], "does not exist"),
        (["--source", "demo", "--output", folder / "x.avi"], "must end in .mp4 or .webm"),
        (["--source", "demo", "--output", png], "must end in .mp4 or .webm"),
        (["--source", image_file, "--output", mp4], "must end in .png"),
        (["--source", "demo", "--log", folder / "x.txt"], "must end in .csv"),
        ([folder / "x*.jpg", "--log", csv], "There is no file"),
        ([folder / "a.HEIC", "--log", csv], "cannot read HEIC"),
        (["demo", "--labels", "ferplus", "--log", csv], "has no output ferplus"),
        (["--source", video, "--output", video], "would overwrite the source"),
        (["--source", video.as_uri(), "--output", video], "without file://"),
        (["--source", video, "--output", folder / "link.mp4"], "would overwrite the source"),
        (["--source", folder / "one", "--output", folder / "one" / image_file.name], "would overwrite the source"),
        (["--source", "rtsp://127.0.0.1:9/x", "--log", csv], "does not respond"),
    ]


def test_bad_input_gets_one_sentence_and_leaves_nothing(lite_network, capsys, tmp_path, image_file, video):
    for args, sentence in bad_inputs(tmp_path, image_file, video):
        before = {path: path.stat().st_mtime_ns for path in [*tmp_path.rglob("*"), video]}
        defaults = [] if "--model" in args else ["--model", lite_network]
        status = main.main([str(arg) for arg in ["--no-window", *args, *defaults]])
        out, err = capsys.readouterr()
        assert status == 2, args
        assert err.count("\n") == 1 and err.startswith("main.py: ") and sentence in err, err
        assert out == ""
        assert {path: path.stat().st_mtime_ns for path in [*tmp_path.rglob("*"), video]} == before


@pytest.mark.skipif(os.name == "nt", reason="such names are not allowed there")
def test_names_never_reach_the_terminal_as_they_are(run, tmp_path, image_file, video):
    nasty = "a\n\x1b[31m\u202e" + (os.fsdecode(b"\xff") if sys.platform != "darwin" else "")
    folder = tmp_path / nasty
    folder.mkdir()
    shutil.copy(image_file, folder / f"{nasty}.png")
    for args in ([folder], [folder / "none.mp4"], [folder, "--output", tmp_path / f"{nasty}.png"]):
        _, out, err = run(*args)
        shown = out + err
        assert shown.isprintable() or set(filter(lambda each: not each.isprintable(), shown)) == {"\n"}
        assert "a\\n\\x1b[31m\\u202e" in shown


def test_an_output_without_write_permission(run, tmp_path):
    if os.name == "nt" or os.geteuid() == 0:  # root may write everywhere: a folder is in the way instead
        (tmp_path / "x.mp4").mkdir()
    else:
        tmp_path.chmod(0o500)
    status, _, err = run("--source", "demo", "--output", tmp_path / "x.mp4")
    tmp_path.chmod(0o700)
    assert status == 2 and "cannot be written" in err


def test_a_missing_camera(run, cameras, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")  # on a Mac it may lack permission
    cameras()
    status, _, err = run("--source", "3")
    assert status == 2 and err == (
        "main.py: There is no camera 3. No camera was found. Without a camera, run: python main.py demo\n"
    )


def test_a_full_disk_is_an_error_and_the_recording_so_far_stays(run, tmp_path, monkeypatch):
    room = iter([True] * 50)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**9 if next(room, False) else 0))
    status, _, err = run("--source", "demo", "--output", tmp_path / "x.mp4", "--log", tmp_path / "x.csv")
    assert status == 2 and "The disk is full" in err and err.count("\n") == 1
    assert len(read_video(tmp_path / "x.mp4")[0]) == 50
    assert len(pd.read_csv(tmp_path / "x.csv")) >= 50


def test_opencv_5_without_cascades_ends_with_a_sentence():
    code = (
        "import sys, cv2; del cv2.CascadeClassifier; import main; sys.exit(main.main(['--source=demo', '--no-window']))"
    )
    done = run_code(code)
    assert done.returncode == 2 and f'Run: {sys.executable} -m pip install "opencv-python<5"' in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


# --- as a process: packages, streams, signals


def start(*args, **environment):
    env = {**os.environ, **environment}
    command = [sys.executable, str(REPOSITORY / "main.py"), *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_ascii_stdout_gets_every_character(tmp_path):
    process = start("--check", "--model", "нет.tflite", PYTHONIOENCODING="ascii")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "\\u043d\\u0435\\u0442.tflite" in out and "Traceback" not in err


@pytest.mark.parametrize(
    "package, error, message",
    [
        ("cv2", "SystemError('one')", "one. A package is installed but does not load"),
        ("numpy", "ValueError('numpy.dtype size changed')", "numpy.dtype size changed. A package"),
        ("keras", "AttributeError('two')", "Keras cannot be used (two)"),
        (
            "ai_edge_litert",
            "ImportError('DLL load failed')",
            "DLL load failed. A package is installed but does not load",
        ),
        (
            "ai_edge_litert",
            "ValueError('of another NumPy')",
            "of another NumPy. A package is installed but does not load",
        ),
    ],
)
def test_a_package_that_is_broken_in_any_way_is_one_sentence(tmp_path, network, lite_network, package, error, message):
    (tmp_path / f"{package}.py").write_text(f"raise {error}")
    model = network
    if package == "ai_edge_litert":  # with TensorFlow it would not be needed
        (tmp_path / "tensorflow.py").write_text("raise ModuleNotFoundError(\"No module named 'tensorflow'\")")
        model = lite_network
    process = start("--source", "demo", "--no-window", "--model", model, PYTHONPATH=str(tmp_path))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and message in err and err.count("\n") == 1 and out == ""


@pytest.mark.parametrize("package, message", [("keras", "Keras 2.15.0 is too old"), ("cv2", "is not installed")])
def test_a_package_that_is_missing_or_too_old_is_named(tmp_path, network, package, message):
    content = '__version__ = "2.15.0"' if package == "keras" else 'raise ModuleNotFoundError("cv2 is not installed")'
    (tmp_path / f"{package}.py").write_text(content)
    process = start("--source", "demo", "--no-window", "--model", network, PYTHONPATH=str(tmp_path))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and message in err and err.count("\n") == 1 and out == ""
    assert "-m pip install -r " in err and "requirements" in err


def test_a_normal_end_runs_exit_handlers(lite_network, image_file):
    code = (
        "import atexit, runpy, sys\n"
        "atexit.register(print, 'handler')\n"
        f"sys.argv[1:] = ['--source', {str(image_file)!r}, '--no-window', '--model', {str(lite_network)!r}]\n"
        f"runpy.run_path({str(REPOSITORY / 'main.py')!r}, run_name='__main__')"
    )
    done = run_code(code)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "handler" and done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")  # noqa: PTH110
def test_a_stdout_that_nobody_reads_or_that_is_full(lite_network, image_file):
    options = ["--source", image_file, "--no-window", "--model", lite_network]
    command = [sys.executable, str(REPOSITORY / "main.py"), *map(str, options)]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipe = {"stderr": subprocess.PIPE, "text": True, "env": buffered}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **pipe) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=60)) == ("", 0)
    with open("/dev/full", "w") as full:  # noqa: PTH123
        process = subprocess.run(command, stdout=full, timeout=60, **pipe)
    assert process.returncode == 2 and process.stderr.count("\n") == 1 and "No space left" in process.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")  # noqa: PTH110
def test_a_stderr_that_is_full_and_a_source_that_is_a_pipe(run, tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    status, _, err = run(tmp_path / "a.mp4")
    assert status == 2 and "is a pipe or a device" in err
    with open("/dev/full", "w") as full:  # noqa: PTH123
        command = [sys.executable, str(REPOSITORY / "main.py"), str(tmp_path / "a.mp4"), "--no-window"]
        assert subprocess.run(command, stderr=full, timeout=60).returncode == 2


@pytest.fixture(scope="module")
def long_video(tmp_path_factory, demo):
    images = [cv2.resize(image, (320, 240)) for image in demo]
    return write_video(tmp_path_factory.mktemp("video") / "long.mp4", images * 15)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    ("name", "ctrl_c"),
    [
        ("SIGINT", signal.default_int_handler),
        ("SIGTERM", signal.SIG_IGN),  # as a shell's background job gets it
        ("SIGHUP", signal.default_int_handler),  # the terminal was closed
    ],
)
def test_files_are_complete_after_a_signal(tmp_path, lite_network, long_video, name, ctrl_c):
    log, output = tmp_path / "x.csv", tmp_path / "x.mp4"
    handlers = {signal.SIGINT: ctrl_c, signal.SIGHUP: signal.SIG_DFL}  # whatever these tests were started under
    inherited = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        process = start(
            "--source", long_video, "--no-window", "--log", log, "--output", output, "--model", lite_network
        )
    finally:
        for number, handler in inherited.items():
            signal.signal(number, handler)
    end = time.monotonic() + 30
    while not (log.exists() and log.stat().st_size > 3000):
        assert time.monotonic() < end, "it logs nothing"
        time.sleep(0.05)
    for _ in range(3):  # who is in a hurry cuts no file
        process.send_signal(signal.Signals[name])
        time.sleep(0.005)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err == "" and "frames a second" in out
    assert len(read_video(output)[0]) > 10
    assert pd.read_csv(log).drop(columns="file").notna().all(axis=None)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_closed_terminal_does_not_end_what_nohup_started(tmp_path, lite_network, long_video):
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(long_video, "--no-window", "--log", tmp_path / "x.csv", "--model", lite_network)
    finally:
        signal.signal(signal.SIGHUP, usual)
    end = time.monotonic() + 30
    while not (tmp_path / "x.csv").exists():
        assert time.monotonic() < end, "it logs nothing"
        time.sleep(0.05)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == ""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("after_seconds", [0.2, 1.2])
def test_ctrl_c_while_the_network_loads(tmp_path, network, after_seconds):
    """It ends at once, also while another thread imports TensorFlow."""
    code = "import runpy, main; print('up', flush=True); runpy.run_path(main.__file__, run_name='__main__')"
    options = ["--source", "demo", "--no-window", "--log", str(tmp_path / "x.csv"), "--model", str(network)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *options],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "up\n"  # before that, Python itself is starting
    time.sleep(after_seconds)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err == ""
    assert time.monotonic() - began < 3


DOCS = "".join(path.read_text(encoding="utf-8") for path in (README, REPOSITORY / "docs" / "training.md"))


@pytest.mark.parametrize("program", re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL))
def test_the_programs_of_the_docs_run_from_anywhere(tmp_path, image_file, video, program):
    program = program.replace("VideoCapture(0)", "VideoCapture('video.mp4')")
    for name in re.findall(r"\w+\.(?:jpg|mp4)", program):
        shutil.copy(image_file if name.endswith(".jpg") else video, tmp_path / name)
    done = run_code(program, cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 0, done.stderr
    crops = [cv2.imread(str(path)).shape for path in tmp_path.glob("train/*/*.png")]
    assert "angry" in done.stdout or crops == [(48, 48, 3)]  # the first of the average faces


def test_a_keras_network_runs_and_leaves_stderr_open(image_file, network):
    code = (
        "import logging, runpy, sys\n"
        f"sys.argv[1:] = ['--source', {str(image_file)!r}, '--no-window', '--model', {str(network)!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(REPOSITORY / 'main.py')!r}, run_name='__main__')\n"
        "finally:\n"
        "    logging.getLogger('tensorflow').warning('late warning')"
    )
    done = run_code(code)
    assert done.returncode == 0 and "image.png: 1 face" in done.stdout
    assert done.stderr.count("\n") == 1 and "late warning" in done.stderr
