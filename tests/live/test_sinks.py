"""Outputs: recordings, images and logs, what is refused, and what a full disk leaves."""

import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import flat, noise, read_video

from common import files, signals
from emotions import Face
from live import logs, sinks
from live.logs import Log
from live.sinks import OutputError, Outputs, Recording, check_output, fit, refuse_overwriting, write_image
from live.sources import Frame, Images, Source, SourceError

# --- recordings


def test_a_recording_of_a_file_keeps_frames_and_rate(tmp_path):
    recording = Recording(tmp_path / "a.mp4", 12.5, live=False)
    for i in range(25):
        recording.write(flat(10 * i), i / 12.5)
    recording.close()
    images, fps = read_video(tmp_path / "a.mp4")
    assert len(images) == 25 and fps == pytest.approx(12.5)
    assert np.allclose([image.mean() for image in images], 10 * np.arange(25), atol=5)


@pytest.mark.parametrize("frames_a_second", [7, 30, 55])
def test_ten_seconds_recorded_live_play_for_ten_seconds(tmp_path, frames_a_second):
    recording = Recording(tmp_path / "a.mp4", 30, live=True)
    for i in range(10 * frames_a_second + 1):
        recording.write(flat(i % 250), 5.0 + i / frames_a_second)
    recording.close()
    images, fps = read_video(tmp_path / "a.mp4")
    assert len(images) / fps == pytest.approx(10, abs=0.1)


def test_a_source_that_starts_again_is_recorded_on(tmp_path):
    recording = Recording(str(tmp_path / "a.mp4"), 25, live=False)
    for i, image in enumerate(noise(100)):
        recording.write(image, i % 50 / 25)
    recording.close()
    assert len(read_video(tmp_path / "a.mp4")[0]) == 100


@pytest.mark.parametrize("image", [flat(0)[..., 0], np.zeros((48, 64, 4), np.uint8), np.zeros((48, 64, 3), np.float32)])
def test_only_color_is_recorded(tmp_path, image):
    with pytest.raises(ValueError, match="must be BGR uint8"):
        Recording(tmp_path / "a.mp4", 30, live=False).write(image, 0.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "rate, kept",
    [*((rate, rate) for rate in (29.97, 64.999, 66.123, 89.527, 119.347, 239.973)), (0.0, 30), (1000.0, 30)],
)
def test_odd_rates_are_kept_and_impossible_ones_are_not(tmp_path, rate, kept):
    recording = Recording(tmp_path / "a.mp4", rate, live=False)
    recording.write(flat(0), 0.0)
    recording.close()
    assert read_video(tmp_path / "a.mp4")[1] == pytest.approx(kept, abs=0.006)


def test_an_image_that_its_format_cannot_store(tmp_path):
    with pytest.raises(SourceError, match=r"Choose \.png"):
        write_image(tmp_path / "a.jpg", np.zeros((1, 65501, 3), np.uint8))
    write_image(tmp_path / "a.png", np.zeros((1, 65501, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_live_recording_leaves_out_what_was_not_seen(tmp_path):
    recording = Recording(tmp_path / "a.mp4", 30, live=True)
    counts = []
    for seconds in (5, 7, 9999, 10000, 10002):
        recording.write(flat(0), seconds)
        counts.append(recording.frames)
        if seconds == 10000:
            recording.pause()
    recording.close()
    assert counts == [1, 61, 62, 92, 93]  # the machine's sleep and the pause, but not a camera's silence


def test_a_frame_lasts_until_the_next_one(tmp_path):
    with Recording(tmp_path / "a.mp4", 10, live=False) as recording:
        for seconds, gray in ((0.0, 50), (1.0, 200), (1.5, 50)):
            recording.write(flat(gray), seconds)
    images, _ = read_video(tmp_path / "a.mp4")
    assert [image.mean() > 125 for image in images] == [False] * 10 + [True] * 5 + [False]


def test_a_video_may_have_longer_gaps_than_a_camera_but_not_for_hours(tmp_path):
    recording = Recording(tmp_path / "a.mp4", 30, live=False)
    for seconds in (0, 65, 9999):
        recording.write(flat(0), seconds)
    recording.close()
    assert recording.frames == 1952


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("size", [(64, 48), (65, 47)])
def test_another_resolution_goes_on_in_the_same_file(tmp_path, suffix, size):
    width, height = size
    recording = Recording(tmp_path / f"a{suffix}", 30, live=False)
    for i, image in enumerate([flat(50, height, width)] * 5 + [flat(200, 300, 300)] * 5):
        recording.write(image, i / 30)
    recording.close()
    images, _ = read_video(tmp_path / f"a{suffix}")
    assert len(images) == 10 and {image.shape for image in images} == {images[0].shape}
    assert images[-1][height // 2, width // 2].mean() == pytest.approx(200, abs=12)
    assert images[-1][height // 2, 2].mean() < 40  # bars beside the square image


def test_a_full_disk_ends_the_recording_with_a_readable_file(tmp_path, monkeypatch):
    free = iter([10**9] * 20 + [1000] * 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    recording = Recording(tmp_path / "a.mp4", 30, live=False)
    with pytest.raises(SourceError, match=r"The disk is full: .* ends after 0.7 seconds"):
        for i, image in enumerate(noise(30)):
            recording.write(image, i / 30)
    recording.close()
    assert len(read_video(tmp_path / "a.mp4")[0]) == 20


@pytest.mark.parametrize("damage", ["full", "limited", "size", "unreadable"])
def test_an_older_video_stays_where_a_new_one_cannot_be_written(tmp_path, monkeypatch, damage):
    path = tmp_path / "a.mp4"
    path.write_text("older")
    if damage == "full":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    elif damage == "limited":
        monkeypatch.setattr(sinks, "resource", SimpleNamespace(RLIMIT_FSIZE=1, getrlimit=lambda _: (10**6, 10**6)))
    elif damage == "unreadable":  # what a quota leaves
        unreadable = SimpleNamespace(isOpened=lambda: False, release=lambda: None)
        monkeypatch.setattr(cv2, "VideoCapture", lambda *_: unreadable)
    with pytest.raises(SourceError, match=r"full|larger|cannot write"), Recording(path, 30, live=False) as recording:
        recording.write(flat(0, 1, 1) if damage == "size" else flat(0), 0.0)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"] and path.read_text() == "older"
    assert recording.summary == ""


def test_a_limit_on_the_size_of_files_ends_a_recording_that_plays(tmp_path, monkeypatch):
    limits = SimpleNamespace(RLIMIT_FSIZE=1, getrlimit=lambda _: (sinks.SPARE_BYTES + 20_000,) * 2)
    monkeypatch.setattr(sinks, "resource", limits)
    (tmp_path / "a.mp4").write_text("older")
    with (
        pytest.raises(SourceError, match=r"ends after 0\.\d seconds"),
        Recording(tmp_path / "a.mp4", 30, False) as recording,
    ):
        for i, image in enumerate(noise(60, 240, 320)):
            recording.write(image, i / 30)
    assert len(read_video(tmp_path / "a.mp4")[0]) == recording.frames > 0


def test_only_what_was_written_counts_as_saved(tmp_path, monkeypatch):
    def named(name):
        source = Source()
        source.name = name
        return source

    (tmp_path / "out").mkdir()
    for name in ("a.mp4", "b.png"):
        (tmp_path / "out" / name).write_text("older")
    with Outputs(tmp_path / "out", [], images=False, single=False) as outputs:
        with outputs.open(named("a.mp4")):  # ended before its first frame
            pass
        monkeypatch.setattr(sinks, "atomic_path", lambda path: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(OutputError), outputs.open(Images([], "b.png")) as images:
            images.write(flat(0), 0.0, "b.png")
        assert outputs.summary == ""
        monkeypatch.undo()
        with outputs.open(named("c.mp4")) as recording:
            recording.write(flat(0), 0.0)
        assert outputs.summary.endswith("(1 file)")
    assert (tmp_path / "out" / "a.mp4").read_text() == "older"


def test_a_file_is_no_folder_for_copies(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file, not a folder"):
        Outputs(f"{tmp_path / 'file'}/", [], images=False, single=True)


def test_two_outputs_in_one_file_are_refused(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.csv").hardlink_to(tmp_path / "a.mp4")
    for one, other in (("a.mp4", "a.csv"), ("new.png", "./new.png")):
        with pytest.raises(SourceError, match=f"{other} would overwrite .*{one}"):
            refuse_overwriting([tmp_path / one, tmp_path / other], [])
    refuse_overwriting([tmp_path / "a.mp4", tmp_path / "b.csv"], [])


def test_a_missing_codec_is_an_error_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "CODECS", {".mp4": ("avc9",), ".webm": ("VP90",)})
    recording = Recording(tmp_path / "a.mp4", 30, live=False)
    with pytest.raises(SourceError, match=r"cannot write .*a\.mp4 with 64x48 pixels\. Try \.webm"):
        recording.write(flat(0), 0.0)
    recording.close()
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_recording_is_an_error(tmp_path, monkeypatch):
    recording = Recording(tmp_path / "a.mp4", 30, live=False)
    recording.write(flat(0), 0.0)
    unreadable = SimpleNamespace(isOpened=lambda: False, release=lambda: None)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: unreadable)
    with pytest.raises(SourceError, match="is not readable"):
        recording.close()


def test_a_recording_without_a_frame_leaves_no_file(tmp_path):
    Recording(tmp_path / "a.mp4", 30, live=True).close()
    assert list(tmp_path.iterdir()) == []


def test_fit_keeps_proportions():
    assert fit(flat(200), (64, 48)).shape == (48, 64, 3)
    wide = fit(np.full((10, 100, 3), 200, np.uint8), (50, 50))
    assert wide.shape == (50, 50, 3)
    assert wide[25].min() == 200 and wide[:20].max() == 0 and wide[30:].max() == 0


# --- images and logs


def test_outputs_are_checked_before_anything_is_done(tmp_path):
    for name, suffixes, why in [
        ("a.avi", (".mp4", ".webm"), r"must end in \.mp4 or \.webm"),
        ("missing/a.mp4", (".mp4",), "does not exist"),
        ("folder.mp4", (".mp4",), "cannot be written"),
    ]:
        (tmp_path / "folder.mp4").mkdir(exist_ok=True)
        with pytest.raises(SourceError, match=why):
            check_output(tmp_path / name, suffixes)
    check_output(tmp_path / "a.mp4", (".mp4",))
    assert [path.name for path in tmp_path.iterdir()] == ["folder.mp4"]
    (tmp_path / "b.csv").write_text("kept")
    check_output(tmp_path / "b.csv", (".csv",))
    assert (tmp_path / "b.csv").read_text() == "kept"


def faces(count=1):
    return [Face(i + 1, (1, 2, 3, 4), np.full(7, 1 / 7), "uncertain") for i in range(count)]


HEADER = "time_seconds,frame,face,x,y,width,height,angry,disgust,fear,happy,sad,surprise,neutral,label,file\n"
PROBABILITIES = ",".join(["0.1429"] * 7)


def test_a_log_has_a_line_for_every_face(tmp_path):
    with Log(tmp_path / "a.csv") as log:
        log.write(Frame(None, 1.23456, 7, name='a, "b".png'), faces(2))
        log.write(Frame(None, 2, 8), [])
    lines = [f'1.235,7,{face},1,2,3,4,{PROBABILITIES},uncertain,"a, ""b"".png"\n' for face in (1, 2)]
    assert (tmp_path / "a.csv").read_text() == HEADER + "".join(lines)
    assert pd.read_csv(tmp_path / "a.csv")["file"].tolist() == ['a, "b".png'] * 2


def test_a_log_tells_how_many_lines_it_has_with_those_of_images_without_a_face(tmp_path):
    with Log(tmp_path / "a.json") as log:
        log.write(Frame(None, 0, 0, name="a.png", still=True), [])
        log.write(Frame(None, 1, 1, name="b.png", still=True), faces(2))
    assert "(3 lines)" in log.summary and len((tmp_path / "a.json").read_text().splitlines()) == 3


def test_a_copy_has_no_characters_that_windows_or_opencv_refuse(tmp_path):
    with Outputs(tmp_path / "copies", [], images=True, single=False) as outputs:
        outputs.open(Images([], "a")).write(noise(1)[0], 0.0, "12:30 <now>?.png")
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["12_30 _now__.png"]


@pytest.mark.parametrize("rate, kept", [(5, 30), (12, 12)])
def test_a_copy_of_a_slow_video_has_a_rate_that_players_know(tmp_path, rate, kept):
    source = SimpleNamespace(still=False, live=False, fps=rate, name="a")
    with Outputs(tmp_path / "a.mp4", [], images=False, single=True) as outputs, outputs.open(source) as recording:
        for i, image in enumerate(noise(5)):
            recording.write(image, i / rate)
    assert read_video(tmp_path / "a.mp4")[1] == pytest.approx(kept)


@pytest.mark.parametrize("name", ["Tom & Anna #1.png", "50% – off!.png", "Müller=1.png"])
def test_a_copy_in_a_folder_keeps_its_name_and_a_slash_makes_a_folder(tmp_path, name):
    write_image(tmp_path / name, noise(1)[0])
    with Outputs(f"{tmp_path}/copies.v1/", [tmp_path / name], images=True, single=True) as outputs:
        outputs.open(Images([tmp_path / name], name)).write(noise(1)[0], 0.0, name)
    assert [path.name for path in (tmp_path / "copies.v1").iterdir()] == [name]


@pytest.fixture
def own_signals():
    """Signals as main.py has them, and afterwards as they were."""
    usual = {code: signal.getsignal(code) for code in signals.STOPS}
    for code in usual:
        signal.signal(code, signals.interrupt_once)
    yield
    for code, handler in usual.items():
        signal.signal(code, handler)


def test_ctrl_c_does_not_stop_a_recording_from_being_finished(tmp_path, monkeypatch, own_signals):
    recording = Recording(tmp_path / "a.webm", 30, live=False)
    for i, image in enumerate(noise(9)):
        recording.write(image, i / 30)
    sync = files.sync

    def slow_disk(path):
        signal.raise_signal(signal.SIGINT)
        sync(path)

    monkeypatch.setattr(files, "sync", slow_disk)
    with pytest.raises(KeyboardInterrupt):
        recording.close()
    signal.raise_signal(signal.SIGINT)  # at once: other files are being finished
    assert len(read_video(tmp_path / "a.webm")[0]) == 9 and "a.webm" in recording.summary
    assert [path.name for path in tmp_path.iterdir()] == ["a.webm"]


def test_a_recording_that_may_not_replace_an_older_one_stays_beside_it(tmp_path, monkeypatch):
    (tmp_path / "a.webm").write_text("open in a player")
    recording = Recording(tmp_path / "a.webm", 30, live=False)
    for i, image in enumerate(noise(9)):
        recording.write(image, i / 30)
    replace = Path.replace

    def held(path, target):  # as on Windows
        if target == tmp_path / "a.webm":
            raise PermissionError(13, "Access is denied")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", held)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(PermissionError, match=r"may be open in another program; the new file is a .*\.webm"):
        recording.close()
    assert recording.summary == "" and (tmp_path / "a.webm").read_text() == "open in a player"
    (kept,) = (path for path in tmp_path.iterdir() if path.name != "a.webm")
    assert len(read_video(kept)[0]) == 9


def test_an_empty_output_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="--output is empty"):
        Outputs("", [], images=True, single=False)
    with Outputs(".", [], images=True, single=False) as outputs:
        outputs.open(Images([], "a.png")).write(noise(1)[0], 0.0, "a.png")
    assert (tmp_path / "a.png").exists()


def test_the_gaps_of_a_file_are_kept_after_a_camera_in_the_same_recording(tmp_path):
    def source(live):
        return SimpleNamespace(still=False, live=live, fps=10, name="a")

    with Outputs(tmp_path / "a.mp4", [], images=False, single=False) as outputs:
        for live in (True, False):  # five seconds without a frame: a suspended laptop, or a screen where nothing moves
            with outputs.open(source(live)) as recording:
                for seconds in (0.0, 5.0):
                    recording.write(noise(1)[0], seconds)
    images, fps = read_video(tmp_path / "a.mp4")
    assert len(images) / fps == pytest.approx(5.3, abs=0.5)


def test_copies_do_not_replace_each_other_on_a_disk_without_case(tmp_path):
    files = [tmp_path / "a" / "IMG.jpg", tmp_path / "b" / "img.jpg"]
    with Outputs(tmp_path / "copies", files, images=True, single=False) as outputs:
        for file in files:
            outputs.open(Images([file], file.name)).write(noise(1)[0], 0.0, file.name)
    assert {path.name.lower() for path in (tmp_path / "copies").iterdir()} == {"img.jpg", "img (2).jpg"}


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_the_room_on_a_recording_s_own_disk_counts_not_that_of_a_link(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "a.mp4").symlink_to(tmp_path / "full" / "a.mp4")
    free = {tmp_path: 10**9, tmp_path / "full": 0}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[Path(folder)]))
    with pytest.raises(OutputError, match="The disk is full"):
        Recording(tmp_path / "a.mp4", 30, live=False).write(flat(9), 0.0)


def test_a_crash_leaves_what_a_webm_has_so_far_and_the_older_file(tmp_path):
    (tmp_path / "a.webm").write_bytes(b"older")
    recording = Recording(tmp_path / "a.webm", 30, live=False)
    for i, image in enumerate(noise(60, 240, 320)):
        recording.write(image, i / 30)
    (partial,) = tmp_path.glob(".*.partial.webm")  # it is never closed
    shutil.copy(partial, tmp_path / "left.webm")
    assert len(read_video(tmp_path / "left.webm")[0]) > 10 and (tmp_path / "a.webm").read_bytes() == b"older"


def test_a_log_without_a_frame_is_not_created(tmp_path):
    Log(tmp_path / "a.csv").close()
    assert list(tmp_path.iterdir()) == []


def test_a_log_is_on_the_disk_within_a_second_and_in_complete_lines(tmp_path):
    log = Log(tmp_path / "a.csv")
    log.write(Frame(None, 0, 0, name="\udcff"), faces())  # of a file name that is not UTF-8
    assert (tmp_path / "a.csv").read_text().endswith(',uncertain,"\\udcff"\n')
    end, count = time.monotonic() + 1, 0
    while time.monotonic() < end:
        log.write(Frame(None, count, count), faces())
        count += 1
        time.sleep(0.01)
    assert len(pd.read_csv(tmp_path / "a.csv")) > 0.3 * count  # not closed: as after a crash


def test_a_full_disk_keeps_the_complete_lines_of_the_log(tmp_path, monkeypatch):
    class Full:
        """A file with room for its first content only; the next is cut."""

        def __init__(self, file):
            self.file, self.first = file, True

        def write(self, content):
            length, self.first = len(content) if self.first else len(content) // 2, False
            return self.file.write(content[:length])

        def __getattr__(self, name):
            return getattr(self.file, name)

    monkeypatch.setattr(logs, "FLUSH_SECONDS", 0)
    opened = Path.open
    log = Log(tmp_path / "a.csv")
    monkeypatch.setattr(Path, "open", lambda *args, **options: Full(opened(*args, **options)))
    log.write(Frame(None, 0, 0), faces())
    with pytest.raises(SourceError, match="No space left"):
        log.write(Frame(None, 1, 1), faces(3))
    log.close()
    monkeypatch.undo()
    assert (tmp_path / "a.csv").read_text() == f"{HEADER}0.000,0,1,1,2,3,4,{PROBABILITIES},uncertain,\n"


def test_an_image_file_gets_the_annotated_image(tmp_path):
    photo = tmp_path / "photo.png"
    with Outputs(tmp_path / "a.png", [photo], images=True, single=True).open(Images([photo], "photo.png")) as sink:
        sink.write(flat(70), 0.0)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png")), flat(70))
    with pytest.raises(SourceError, match=r"must end in \.png"):
        Outputs(tmp_path / "a.mp4", [photo], images=True, single=True)


def test_an_unwritable_image_leaves_nothing(tmp_path):
    with pytest.raises(SourceError, match="cannot be written"):
        write_image(tmp_path / "missing" / "a.png", flat(0))
    (tmp_path / "a.png").mkdir()
    with pytest.raises(SourceError, match="cannot be written"):
        write_image(tmp_path / "a.png", flat(0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
