"""Sources: order, times, errors of cameras and files."""

import itertools
import os
import struct
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import PIL.Image
import pytest
from conftest import REAL_CAPTURE, flat, noise, open_source, read_video, write_video

from live import cameras as camera_module
from live import sources, videos
from live.cameras import Camera
from live.opening import find_sources
from live.sinks import Recording, write_image
from live.sources import Images, SourceError
from live.videos import VideoFile

# --- files


def test_a_file_gives_every_frame_in_order_with_its_time(tmp_path):
    source = open_source(str(write_video(tmp_path / "a.mp4", [flat(8 * i) for i in range(30)], fps=10)))
    frames = []
    for frame in source:
        time.sleep(0.005)  # slower than the reader: none may be skipped
        frames.append(frame)
    source.close()
    assert [frame.index for frame in frames] == list(range(30))
    assert np.allclose([frame.time_seconds for frame in frames], np.arange(30) / 10, atol=0.002)
    assert np.allclose([frame.image.mean() for frame in frames], 8 * np.arange(30), atol=4)
    assert source.fps == pytest.approx(10) and not source.live and not source.still


NO_COLON = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")


@pytest.mark.parametrize("name", ["видео.mp4", "with space.mp4", "顔 ü.mp4", pytest.param("12:30.mp4", marks=NO_COLON)])
def test_paths_may_have_any_letters(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recording = Recording(Path(name), 30, live=False)
    for i, image in enumerate(noise(3)):
        recording.write(image, i / 30)
    recording.close()
    source = open_source(name)
    assert len(list(source)) == 3
    source.close()
    image = tmp_path / name.replace(".mp4", ".png")
    write_image(image, flat(100))
    (frame,) = open_source(str(image))
    assert np.array_equal(frame.image, flat(100))


def test_a_truncated_video_is_used_as_far_as_it_goes(tmp_path, capsys):
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 30, (64, 48))
    for image in noise(60):
        writer.write(image)
    writer.release()
    content = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    source = open_source(str(tmp_path / "cut.avi"))
    count = len(list(source))
    source.close()
    assert 10 < count < 60
    assert f"ends early: {count} of" in capsys.readouterr().err


def stretched(content: bytes) -> bytes:
    """Return a .webm whose frames come at half the rate that it names: every time in it is doubled."""
    content = bytearray(content)

    def number(at, keep_marker):  # EBML's numbers: the leading zeros of the first byte say how many bytes follow
        length = 9 - content[at].bit_length()
        value = int.from_bytes(content[at : at + length], "big")
        return value if keep_marker else value - (1 << 7 * length), at + length

    def double(at, end):
        while at < end:
            element, at = number(at, keep_marker=True)
            size, at = number(at, keep_marker=False)
            if element in (0x18538067, 0x1549A966, 0x1F43B675):  # segment, information, cluster
                double(at, min(at + size, end))
            elif element == 0x4489:  # duration
                content[at : at + size] = struct.pack(">d", 2 * struct.unpack(">d", content[at : at + size])[0])
            elif element in (0xE7, 0xA3):  # a cluster's time, a frame's time within it, after the track's number
                place = slice(at, at + size) if element == 0xE7 else slice(at + 1, at + 3)
                doubled = 2 * int.from_bytes(content[place], "big")
                content[place] = doubled.to_bytes(place.stop - place.start, "big")
            at += size

    double(0, len(content))
    return bytes(content)


def test_a_file_whose_rate_is_not_the_named_one_is_whole_and_keeps_its_pace(tmp_path, capsys):
    recording = Recording(tmp_path / "a.webm", 30, live=False)
    for i, image in enumerate(noise(60)):
        recording.write(image, i / 30)
    recording.close()
    (tmp_path / "slow.webm").write_bytes(stretched((tmp_path / "a.webm").read_bytes()))
    source = open_source(str(tmp_path / "slow.webm"))
    copy = Recording(tmp_path / "copy.mp4", source.fps, live=False)
    for frame in source:
        copy.write(frame.image, frame.time_seconds)
    source.close()
    copy.close()
    assert frame.index == 59 and frame.time_seconds == pytest.approx(2 * 59 / 30, abs=0.01)
    assert source.fps == pytest.approx(30, abs=0.1) and source.frame_count > 100 and capsys.readouterr().err == ""
    images, fps = read_video(tmp_path / "copy.mp4")
    assert len(images) / fps == pytest.approx(2 * 60 / 30, abs=0.05)


def test_refuses_files_that_are_no_video(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello")
    content = write_video(tmp_path / "a.mp4", noise(20)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])  # its index is at the end
    for name in ("empty.mp4", "text.mp4", "cut.mp4"):
        with pytest.raises(SourceError, match="is not a video that OpenCV can read"):
            open_source(str(tmp_path / name))
    with pytest.raises(SourceError, match="There is no file"):
        open_source(str(tmp_path / "missing.mp4"))
    with pytest.raises(SourceError, match="The source is empty"):
        open_source("")


def test_refuses_a_video_without_a_frame(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 30, (64, 48))
    writer.release()
    with pytest.raises(SourceError, match=r"no readable frame|is not a video"):
        list(open_source(str(tmp_path / "a.avi")))


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names are always Unicode there")
def test_names_that_are_not_utf_8_are_refused_where_opencv_opens_them(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    write_video(tmp_path / "a.mp4", noise(3)).rename(path)
    for name in (path, "rtsp://\udcff/", "rtsp://admin:\udcff@cam/"):
        with pytest.raises(SourceError, match="not UTF-8") as error:
            open_source(name)
        assert "admin" not in str(error.value)


def test_closing_a_file_in_the_middle_ends_its_thread(tmp_path):
    before = set(threading.enumerate())
    with VideoFile(str(write_video(tmp_path / "a.mp4", noise(60)))) as source:
        next(iter(source))
        assert (new := set(threading.enumerate()) - before)
    assert not any(thread.is_alive() for thread in new)


def test_a_file_is_over_after_its_end_and_once_it_is_closed(tmp_path, capsys):
    path = write_video(tmp_path / "a.mp4", noise(60))
    source = VideoFile(str(path))
    assert (len(list(source)), len(list(source))) == (60, 0)
    source.close()
    source = open_source(path)
    frames = iter(source)
    next(frames)
    closing = threading.Timer(0.2, source.close)  # by another thread, as from a button
    closing.start()
    closing.join()
    assert list(frames) == [] and list(source) == [] and capsys.readouterr().err == ""


def test_of_large_frames_fewer_are_read_ahead(tmp_path, monkeypatch):
    class CountingCapture:  # OpenCV's own class cannot be extended safely
        reads = 0

        def __init__(self, *address):
            self.capture = REAL_CAPTURE(*address)

        def read(self):
            CountingCapture.reads += 1
            return self.capture.read()

        def __getattr__(self, name):
            return getattr(self.capture, name)

    images = noise(20)
    path = write_video(tmp_path / "a.mp4", images)
    monkeypatch.setattr(cv2, "VideoCapture", CountingCapture)
    monkeypatch.setattr(videos, "READ_AHEAD_BYTES", 2 * images[0].nbytes)
    with VideoFile(str(path)):
        time.sleep(0.3)
    assert CountingCapture.reads == 3  # the third waits for a place


# --- images


def test_a_folder_gives_its_images_in_order_and_names_the_unreadable(tmp_path, capsys):
    for i in (2, 1, 3):
        write_image(tmp_path / f"{i}.png", flat(10 * i))
    (tmp_path / "1b.jpg").write_text("no image")
    (tmp_path / "notes.txt").write_text("left alone")
    write_image(tmp_path / ".a.partial.png", flat(40))  # as a crash may leave
    source = open_source(str(tmp_path))
    assert [(frame.image.max(), frame.name) for frame in source] == [(10, "1.png"), (20, "2.png"), (30, "3.png")]
    assert source.still and not source.live
    error = capsys.readouterr().err
    assert "1b.jpg is skipped" in error and "1 of 5 files" in error


def test_an_image_that_was_removed_is_skipped_on_the_way_back(tmp_path):
    paths = [write_image(tmp_path / f"{i}.png", flat(i)) or tmp_path / f"{i}.png" for i in range(3)]
    source = Images(paths, "images")
    frames = iter(source)
    assert [next(frames).name for _ in paths] == ["0.png", "1.png", "2.png"]
    paths[1].unlink()
    source.back()
    assert next(frames).name == "2.png"
    source.back()
    assert next(frames).name == "0.png"


def test_a_pattern_takes_every_file_once_and_names_what_is_none(tmp_path, capsys):
    (tmp_path / "photos" / "empty").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "photos" / name, flat(0))
    (tmp_path / "photos" / "c.heic").touch()
    for pattern in ("photos/*", "photos/**"):
        (images,) = find_sources([tmp_path / pattern])
        assert [path.name for path in images] == ["a.png", "b.png"]
        error = capsys.readouterr().err
        assert "cannot read HEIC" in error and "contains no images" in error
    with pytest.raises(SourceError, match="HEIC"):
        find_sources([tmp_path / "photos" / "*.heic"])


def test_a_pattern_takes_a_file_for_a_file_whatever_its_name(tmp_path, monkeypatch):
    for name in ("0", "demo"):
        write_video(tmp_path / f"{name}.mp4", noise(2)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert find_sources(["*"]) == [Path("0"), Path("demo")] and find_sources(["0", "demo"]) == ["0", "demo"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_to_nowhere_is_no_file(tmp_path):
    (tmp_path / "a.mp4").symlink_to(tmp_path / "gone.mp4")
    for source in ("a.mp4", "*.mp4"):
        with pytest.raises(SourceError, match=r"There is no file .*a\.mp4"):
            find_sources([tmp_path / source])


def test_refuses_unusable_images(tmp_path):
    with pytest.raises(SourceError, match="contains no images"):
        open_source(str(tmp_path))
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").write_text("hello")
    for path, what in ((tmp_path / "a.png", "is not a"), (tmp_path / "b.png", "is not a"), (tmp_path, "contains no")):
        with pytest.raises(SourceError, match=f"{what} readable image"):
            list(open_source(str(path)))


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 4)])
def test_gray_and_transparent_images_are_read_as_color(tmp_path, shape):
    cv2.imwrite(str(tmp_path / "a.png"), np.full(shape, 200, np.uint8))
    (frame,) = Images([tmp_path / "a.png"], "a.png")
    assert frame.image.shape == (20, 30, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_transparent_is_turned_with_the_image(tmp_path, orientation):
    """OpenCV turns an image as its EXIF data say, but not if it has alpha."""
    image = np.full((20, 30, 4), (40, 80, 120, 255), np.uint8)
    image[:, :10, 2], image[:5, :, 1] = 200, 10
    image[12:, :, 3] = 0
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(image[..., [2, 1, 0, 3]]).save(tmp_path / "a.png", exif=exif)
    (frame,) = open_source(str(tmp_path / "a.png"))
    whole = np.where(image[..., 3:] == 0, 255, image[..., :3])
    turns = {1: whole, 2: whole[:, ::-1], 3: whole[::-1, ::-1], 4: whole[::-1], 5: np.swapaxes(whole, 0, 1)}
    turns |= {6: np.rot90(whole, -1), 7: np.rot90(whole, 2).swapaxes(0, 1), 8: np.rot90(whole)}
    assert np.array_equal(frame.image, turns[orientation])


def test_a_file_that_is_too_large_is_skipped(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("emotions.images.FILE_BYTES", 1000)
    write_image(tmp_path / "a.png", flat(9))
    write_image(tmp_path / "b.png", noise(1)[0])
    assert [frame.name for frame in open_source(tmp_path)] == ["a.png"]
    assert "b.png is skipped" in capsys.readouterr().err


def test_a_large_transparent_image_takes_no_multiple_of_its_memory(tmp_path):
    image = np.zeros((3000, 1000, 4), np.uint16)
    image[..., 3] = 40000
    cv2.imwrite(str(tmp_path / "a.png"), image)
    tracemalloc.start()
    (frame,) = open_source(tmp_path / "a.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (frame.image == round(255 * (1 - 40000 / 65535))).all() and peak < 20 * 3e6


def test_what_is_transparent_is_not_turned_where_every_pixel_has_the_same_color(tmp_path):
    image = np.zeros((30, 30, 4), np.uint8)
    image[:8, :, 3] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    (frame,) = open_source(str(tmp_path / "a.png"))
    assert (frame.image[:8] == 0).all() and (frame.image[8:] == 255).all()


def test_an_image_is_rotated_according_to_its_exif_data(tmp_path):
    jpeg = cv2.imencode(".jpg", flat(100, 20, 30))[1].tobytes()
    entry = struct.pack("<HHHIII", 1, 0x0112, 3, 1, 6, 0)  # one entry: the orientation, a quarter turn
    exif = b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + entry
    header = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + header + jpeg[2:])
    (frame,) = open_source(str(tmp_path / "a.jpg"))
    assert frame.image.shape == (30, 20, 3)


# --- cameras


def test_a_camera_shows_the_newest_frame(cameras):
    cameras(noise(100), seconds_a_frame=0.01)
    source = Camera(0)
    frames = []
    for frame in itertools.islice(source, 8):
        frames.append(frame)
        time.sleep(0.05)  # as slow as five frames
    source.close()
    gaps = np.diff([frame.index for frame in frames])
    assert np.median(gaps[1:]) >= 3
    assert not any(frame.error for frame in frames)
    assert np.all(np.diff([frame.time_seconds for frame in frames]) > 0)


@pytest.fixture
def impatient(monkeypatch):
    """Errors are noticed and reconnecting starts in hundredths of a second."""
    monkeypatch.setattr(camera_module, "FROZEN_SECONDS", 0.1)
    monkeypatch.setattr(camera_module, "SILENT_SECONDS", 0.15)
    monkeypatch.setattr(camera_module, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(camera_module, "FIRST_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(camera_module, "ERROR_FPS", 50)


def watch(source, seconds=5.0):
    """Return the errors until images come again (or the time is over), and the first frame after them."""
    errors, last, end = [], None, time.monotonic() + seconds
    for frame in source:
        if frame.error:
            errors.append(frame.error)
        elif errors:
            last = frame
            break
        if time.monotonic() > end:
            break
    source.close()
    return errors, last


def test_an_unplugged_camera_is_reconnected(cameras, impatient):
    scripted = cameras(noise(10), None, None, noise(200, seed=1))
    errors, frame = watch(open_source(0))
    assert "camera 0 sends no image: reconnecting" in errors
    assert frame is not None and scripted.openings == 4
    assert scripted.releases >= 3


def test_a_stream_over_http_that_stays_away_has_ended(cameras, impatient, monkeypatch, capsys):
    monkeypatch.setattr(camera_module, "LOST_SECONDS", 0.3)
    cameras(noise(5))
    with open_source("http://cam/live") as source:
        assert [frame for frame in source][-1].error
    assert "has ended" in capsys.readouterr().err


def test_a_camera_that_repeats_one_image_is_reconnected(cameras, impatient):
    image = noise(1)[0]
    scripted = cameras(noise(5) + [image] * 10_000, noise(200, seed=1))
    errors, frame = watch(Camera(0))
    assert "camera 0 keeps sending the same image: reconnecting" in errors
    assert frame is not None and scripted.openings == 2


def test_a_frozen_camera_is_noticed_though_its_frames_are_drawn_on(cameras, impatient):
    image = noise(1)[0]
    scripted = cameras([image] * 10_000, noise(200, seed=1))
    source, drawn = Camera(0), 0
    for frame in source:
        assert np.array_equal(frame.image, image) or scripted.openings > 1
        frame.image[:] = drawn = drawn + 1
        if scripted.openings > 1 or drawn > 250:
            break
    source.close()
    assert scripted.openings == 2


def test_a_driver_that_raises_counts_as_sending_nothing(cameras, impatient):
    def fail():
        yield from noise(10)
        raise cv2.error("from the driver")

    cameras(fail(), noise(200, seed=1))
    errors, frame = watch(Camera(0))
    assert "camera 0 sends no image: reconnecting" in errors and frame is not None


def test_a_few_failed_reads_are_forgiven(cameras, impatient, monkeypatch):
    monkeypatch.setattr(camera_module, "SILENT_SECONDS", 60)  # a busy machine may hold the reader up
    images = noise(400)
    images[10:13] = [None] * 3
    scripted = cameras(images)
    source = Camera(0)
    frames = list(itertools.islice(source, 15))
    source.close()
    assert scripted.openings == 1 and not any(frame.error for frame in frames)
    assert list(source) == []  # it is closed


def test_a_reopened_camera_may_be_late_with_its_first_image(cameras, impatient):
    scripted = cameras(noise(10), [None] * 3 + noise(200, seed=1))
    _, frame = watch(Camera(0))
    assert frame is not None and scripted.openings == 2


def test_attempts_to_reconnect_come_more_and_more_rarely(cameras, impatient, monkeypatch):
    monkeypatch.setattr(camera_module, "LONGEST_WAIT_SECONDS", 0.4)
    scripted = cameras(noise(5))
    errors, frame = watch(Camera(0), seconds=1.5)
    assert frame is None and errors
    assert 4 <= scripted.openings <= 8  # pauses of 0.05, 0.1, 0.2, 0.4, 0.4 seconds, and the failed reads


def test_a_camera_that_hangs_is_reported(cameras, impatient):
    class Hanging(list):
        def __iter__(self):
            yield from noise(3)
            time.sleep(0.6)
            yield from noise(3, seed=2)

    cameras(Hanging())
    errors, frame = watch(Camera(0))
    assert "has sent nothing" in errors[0]
    assert frame is not None


def test_a_static_stream_is_not_taken_for_a_frozen_camera(cameras, impatient, monkeypatch):
    monkeypatch.setattr(camera_module, "SILENT_SECONDS", 60)
    scripted = cameras([noise(1)[0]] * 200)
    source = open_source("rtsp://somewhere/live")
    end = time.monotonic() + 0.5
    frames = list(itertools.takewhile(lambda _: time.monotonic() < end, source))
    source.close()
    assert scripted.openings == 1 and not any(frame.error for frame in frames)


def test_a_static_stream_that_was_gone_is_shown_again(cameras, impatient):
    image = noise(1)[0]
    scripted = cameras([image] * 5, [image] * 10_000)
    errors, frame = watch(open_source("rtsp://somewhere/live"))
    assert "sends no image" in errors[-1] and frame is not None and scripted.openings == 2


@pytest.mark.parametrize("platform, fps", [("linux", 30), ("darwin", 0)])
def test_the_lowest_rate_of_a_camera_that_macos_tells_is_not_taken(cameras, monkeypatch, platform, fps):
    monkeypatch.setattr(sys, "platform", platform)
    cameras(noise(5))
    source = Camera(0)
    source.close()
    assert source.fps == fps


def test_the_resolution_may_change(cameras):
    cameras(noise(20) + noise(40, height=96, width=128))
    source = Camera(0)
    shapes = {frame.image.shape for frame in itertools.islice(source, 40)}
    source.close()
    assert shapes == {(48, 64, 3), (96, 128, 3)}


def test_a_missing_camera_names_those_found(cameras):
    cameras(None, None, noise(5), None, noise(5))  # number 7, then 0, 1, 2, ...
    with pytest.raises(SourceError, match=r"no camera 7.*Cameras found: 1, 3"):
        Camera(7)


def test_a_missing_camera_where_there_is_none_points_to_the_demo(cameras):
    cameras()
    with pytest.raises(SourceError, match=r"No camera was found.*main.py demo"):
        Camera(7)


def test_on_a_mac_a_missing_camera_may_be_one_that_is_not_permitted(cameras, monkeypatch):
    cameras()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SourceError, match="Privacy & Security"):
        Camera(0)


def test_a_busy_camera_is_named(cameras, monkeypatch):
    cameras()
    monkeypatch.setattr(camera_module, "Path", lambda _: SimpleNamespace(exists=lambda: True))
    with pytest.raises(SourceError, match=r"is busy, or you lack permission.*second device"):
        Camera(0)
    cameras([])  # opens, but every read fails
    with pytest.raises(SourceError, match="opens but sends no images"):
        Camera(0)


@pytest.fixture
def no_server(monkeypatch):
    """No host responds, and none is asked for."""
    monkeypatch.setattr(camera_module, "_response", lambda url: ("", ""))


def test_refuses_a_dead_stream(cameras, no_server):
    cameras()
    with pytest.raises(SourceError, match="does not respond"):
        open_source("rtsp://nowhere/live")


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://admin:s@cret@cam/live",
        "rtsp://admin:s/cr/et@cam/live",
        "rtsp://admin:s/cr@et@cam/live?password=s@cret",
        "rtsp://cam/live?user=admin&password=s@cret",
    ],
)
def test_the_password_of_a_stream_is_not_shown(cameras, impatient, no_server, url):
    cameras(noise(3))
    errors, _ = watch(open_source(url), seconds=0.4)
    assert errors[-1] == "rtsp://cam/live sends no image: reconnecting"
    with pytest.raises(SourceError, match="The stream rtsp://cam/live does"):
        open_source(url)
    cameras(noise(3), noise(3), frame_count=3)
    source = open_source(url.replace("rtsp", "http"))
    assert not source.live and [frame.index for frame in source] == [0, 1, 2]  # a remote file
    source.close()
    assert source.name == "http://cam/live"


# --- the demo


def test_the_demo_shows_seven_faces_for_ten_seconds():
    source = open_source("demo")
    frames = list(source)
    assert len(source.faces) == 7 and len(frames) == 300 and frames[-1].time_seconds == pytest.approx(10, abs=0.1)
    assert {frame.image.shape for frame in frames} == {(480, 640, 3)}
    assert all(frame.image.dtype == np.uint8 for frame in frames)


def test_the_demo_needs_its_faces(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "DEMO_FACES", tmp_path / "none.png")
    with pytest.raises(SourceError, match="demo's faces are missing"):
        open_source("demo")
