"""Outputs: recordings, pictures and logs, what is refused, and what a full disk leaves."""

import shutil
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import flat, noise, read_video

import output
from output import Log, Recording, check_output, fit, write_picture
from video import VideoError

# ---- Recordings


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


def test_a_picture_that_its_format_cannot_hold(tmp_path):
    with pytest.raises(VideoError, match=r"Choose \.png"):
        write_picture(tmp_path / "a.jpg", np.zeros((1, 65501, 3), np.uint8))
    write_picture(tmp_path / "a.png", np.zeros((1, 65501, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_what_a_live_recording_leaves_out(tmp_path):
    recording = Recording(tmp_path / "a.mp4", 30, live=True)
    counts = []
    for seconds in (5, 7, 9999, 10000, 10002):
        recording.write(flat(0), seconds)
        counts.append(recording.frames)
        if seconds == 10000:
            recording.pause()
    recording.close()
    assert counts == [1, 61, 62, 92, 93]  # the machine's sleep and the pause, but not a camera's silence


def test_a_film_may_hold_a_picture_longer_than_a_camera_but_not_for_hours(tmp_path):
    recording = Recording(tmp_path / "a.mp4", 30, live=False)
    for seconds in (0, 20, 9999):
        recording.write(flat(0), seconds)
    recording.close()
    assert recording.frames == 602


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
    assert images[-1][height // 2, 2].mean() < 40  # bars beside the square picture


def test_a_full_disk_ends_the_recording_with_a_readable_file(tmp_path, monkeypatch):
    free = iter([10**9] * 20 + [1000] * 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    recording = Recording(tmp_path / "a.mp4", 30, live=False)
    with pytest.raises(VideoError, match=r"The disk is full: .* ends after 0.7 seconds"):
        for i, image in enumerate(noise(30)):
            recording.write(image, i / 30)
    recording.close()
    assert len(read_video(tmp_path / "a.mp4")[0]) == 20


def test_a_missing_codec_is_said_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "CODECS", {".mp4": ("avc9",), ".webm": ("VP90",)})
    recording = Recording(tmp_path / "a.mp4", 30, live=False)
    with pytest.raises(VideoError, match=r"cannot write .*a\.mp4 with 64x48 pixels\. Try \.webm"):
        recording.write(flat(0), 0.0)
    recording.close()
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_recording_is_reported(tmp_path):
    recording = Recording(tmp_path / "a.mp4", 30, live=False)
    recording.write(flat(0), 0.0)
    recording._writer = SimpleNamespace(release=lambda: (tmp_path / "a.mp4").write_bytes(b""))
    with pytest.raises(VideoError, match="is not readable"):
        recording.close()


def test_a_recording_without_a_frame_leaves_no_file(tmp_path):
    Recording(tmp_path / "a.mp4", 30, live=True).close()
    assert list(tmp_path.iterdir()) == []


def test_fit_keeps_proportions():
    assert fit(flat(200), (64, 48)).shape == (48, 64, 3)
    wide = fit(np.full((10, 100, 3), 200, np.uint8), (50, 50))
    assert wide.shape == (50, 50, 3)
    assert wide[25].min() == 200 and wide[:20].max() == 0 and wide[30:].max() == 0


# ---- Pictures and logs


def test_outputs_are_checked_before_anything_is_done(tmp_path):
    for name, suffixes, why in [
        ("a.avi", (".mp4", ".webm"), r"should end in \.mp4 or \.webm"),
        ("missing/a.mp4", (".mp4",), "does not exist"),
        ("folder.mp4", (".mp4",), "cannot be written"),
    ]:
        (tmp_path / "folder.mp4").mkdir(exist_ok=True)
        with pytest.raises(VideoError, match=why):
            check_output(tmp_path / name, suffixes)
    check_output(tmp_path / "a.mp4", (".mp4",))
    assert [path.name for path in tmp_path.iterdir()] == ["folder.mp4"]
    (tmp_path / "b.csv").write_text("kept")
    check_output(tmp_path / "b.csv", (".csv",))
    assert (tmp_path / "b.csv").read_text() == "kept"


def test_a_log_is_on_the_disk_within_a_second_and_in_whole_lines(tmp_path):
    log = Log(tmp_path / "a.csv", "a,b")
    log.write(["1,\udcff"])  # from a file name that is not UTF-8
    assert (tmp_path / "a.csv").read_text() == "a,b\n1,\\udcff\n"
    end = time.monotonic() + 1
    count = 0
    while time.monotonic() < end:
        log.write([f"{count},2"])
        count += 1
        time.sleep(0.01)
    # No close: as after a crash.
    assert len(pd.read_csv(tmp_path / "a.csv")) > 0.3 * count


def test_a_full_disk_keeps_the_whole_lines_of_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "FLUSH_SECONDS", 0)
    log = Log(tmp_path / "a.csv", "a,b")
    log.write(["1,2"])

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, content):
            return self.file.write(content[: len(content) // 2])

        def __getattr__(self, name):
            return getattr(self.file, name)

    log._file = Full(log._file)
    with pytest.raises(VideoError, match="No space left"):
        log.write(["3,4", "5,6", "7,8"])
    log.close()
    assert (tmp_path / "a.csv").read_text() == "a,b\n1,2\n"


def test_an_unwritable_picture_leaves_nothing(tmp_path):
    with pytest.raises(VideoError, match="cannot be written"):
        write_picture(tmp_path / "missing" / "a.png", flat(0))
    (tmp_path / "a.png").mkdir()
    with pytest.raises(VideoError, match="cannot be written"):
        write_picture(tmp_path / "a.png", flat(0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
