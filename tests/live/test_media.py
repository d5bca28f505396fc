"""Files and servers that make other programs wrong without a word; each is made here, by ffmpeg or byte by byte."""

import http.server
import json
import os
import shutil
import socketserver
import struct
import subprocess
import threading

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import flat, noise, open_source, read_video, run_code, write_video
from PIL import Image

import main
import model
from live.opening import find_sources
from live.sources import SourceError, read_image
from live.videos import is_cut_off

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def ffmpeg(path, source, *options):
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, *options, str(path)]
    subprocess.run(command, check=True, timeout=60)
    return path


@pytest.fixture
def run(lite_network, capsys):
    """Call main.main with the small network, without a window; return (status, stdout, stderr)."""

    def call(*args):
        status = main.main([*map(str, args), "--model", str(lite_network), "--no-window"])
        return status, *capsys.readouterr()

    return call


# --- videos


@needs_ffmpeg
@pytest.mark.parametrize(
    "name, codec, rate",
    [
        ("a.mpg", "mpeg2video", "4M"),
        ("a.mpg", "mpeg2video", "150k"),
        ("a.mts", "libx264", "150k"),
        ("a.dv", "dvvideo", "4M"),
    ],
)
def test_interlaced_video_is_read_or_refused(run, tmp_path, name, codec, rate):
    options = ["-flags", "+ilme+ildct", "-top", "1", "-c:v", codec, "-b:v", rate, "-pix_fmt", "yuv420p"]
    ffmpeg(tmp_path / name, "testsrc2=duration=2:size=720x576:rate=25", *options)
    (tmp_path / "x.mp4").write_bytes(b"older")
    status, _, err = run(tmp_path / name, "--output", tmp_path / "x.mp4")
    assert (status == 2) == ((tmp_path / "x.mp4").read_bytes() == b"older")  # no recording of black frames
    with open_source(tmp_path / name) as source:
        images = [frame.image for frame in source] if status == 0 else []
    assert (len({image.tobytes() for image in images}) > 10) if status == 0 else ("-vf yadif" in err and status == 2)


@pytest.mark.parametrize("image", [flat(90, 240, 320), noise(1, 240, 320)[0]], ids=["flat", "detailed"])
@pytest.mark.parametrize("name, codec", [("a.mp4", "mp4v"), ("a.webm", "VP80"), ("a.avi", "MJPG")])
def test_a_video_that_stands_still_is_no_reason_to_refuse_it(tmp_path, capsys, name, codec, image):
    with open_source(write_video(tmp_path / name, [image] * 120, codec=codec)) as source:
        assert len(list(source)) == 120
    assert capsys.readouterr().err == ""


@needs_ffmpeg
def test_pixels_that_are_not_square_are_made_so(tmp_path):
    ffmpeg(tmp_path / "a.mp4", "testsrc=duration=0.2:size=720x576:rate=25", "-vf", "setsar=16/15", "-c:v", "mpeg4")
    ffmpeg(tmp_path / "b.mp4", "testsrc=duration=0.2:size=720x480:rate=25", "-vf", "setsar=8/9", "-c:v", "mpeg4")
    for name, shape in (("a.mp4", (576, 768, 3)), ("b.mp4", (540, 720, 3))):
        with open_source(tmp_path / name) as source:
            assert {frame.image.shape for frame in source} == {shape}


@needs_ffmpeg
def test_a_screen_recording_with_pauses_and_sound_is_whole_and_keeps_its_length(tmp_path, lite_network):
    """While nothing moves, thousands of packets of sound follow each other; OpenCV is loaded with a limit for them."""
    pauses = "select='lt(t,2)+gt(t,118)'", "-vsync", "vfr", "-c:v", "mpeg4"
    sound = "-f", "lavfi", "-i", "anullsrc=r=44100:d=120", "-c:a", "aac", "-b:a", "8k"
    ffmpeg(tmp_path / "a.mp4", "testsrc=duration=120:size=64x48:rate=10", *sound, "-vf", *pauses)
    options = [
        "--no-window",
        "--model",
        str(lite_network),
        "--output",
        str(tmp_path / "b.mp4"),
        str(tmp_path / "a.mp4"),
    ]
    done = run_code(f"import sys, main; sys.exit(main.main({options}))")
    assert done.returncode == 0 and done.stderr == "" and "39 frames" in done.stdout
    images, fps = read_video(tmp_path / "b.mp4")
    assert len(images) / fps == pytest.approx(120, abs=1)


@needs_ffmpeg
def test_a_whole_file_does_not_end_early_whatever_its_header_promises(tmp_path, capsys):
    late = "-output_ts_offset", "30", "-c:v", "mpeg2video"
    ffmpeg(tmp_path / "late.ts", "testsrc=duration=1:size=64x48:rate=25", *late)
    cover = "-f", "lavfi", "-i", "testsrc=duration=30:size=64x48:rate=25", "-map", "0", "-map", "1", "-c:v", "mpeg4"
    ffmpeg(tmp_path / "long.mkv", "testsrc=duration=1:size=64x48:rate=25", *cover[:-2], "-c:v", "mpeg4")
    ffmpeg(tmp_path / "long.mp4", "testsrc=duration=1:size=64x48:rate=25", *cover[:-2], "-c:v", "mpeg4")
    for name in ("late.ts", "long.mkv", "long.mp4"):
        with open_source(tmp_path / name) as source:
            assert len(list(source)) >= 24
    assert capsys.readouterr().err == ""


def test_a_cut_file_is_told_from_a_whole_one(tmp_path):
    whole = write_video(tmp_path / "a.mp4", noise(30))
    avi = write_video(tmp_path / "a.avi", noise(30), codec="MJPG")
    webm = write_video(tmp_path / "a.webm", noise(30), codec="VP80")
    for path in (whole, avi, webm):
        assert not is_cut_off(path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])
        assert is_cut_off(path)


@pytest.mark.parametrize("length", [2**64 - 1, 2**62])
def test_a_length_beyond_the_end_of_a_video_means_that_it_is_cut(tmp_path, length):
    atoms = struct.pack(">I4s", 8, b"ftyp") + struct.pack(">I4sQ", 1, b"mdat", length) + bytes(99)
    (tmp_path / "a.mp4").write_bytes(atoms)
    assert is_cut_off(tmp_path / "a.mp4")
    matroska = b"\x1a\x45\xdf\xa3".ljust(4092, b"\0") + b"\x18\x53\x80\x67"  # it ends where its length begins
    (tmp_path / "a.mkv").write_bytes(matroska + bytes(99))
    assert not is_cut_off(tmp_path / "a.mkv")


# --- images


def test_an_iphone_s_photo_is_refused_by_name_and_counted_in_a_folder(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), flat(9))
    for name in ("b.heic", "c.HEIF", "d.hif"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
        with pytest.raises(SourceError, match="cannot read HEIC"):
            open_source(tmp_path / name)
    assert find_sources([tmp_path]) == [[tmp_path / "a.png"]]
    assert "3 of 4 files" in (err := capsys.readouterr().err) and "3 are HEIC" in err


@pytest.mark.parametrize("suffix", [".png", ".webp", ".avif"])
def test_an_animation_among_images_is_said(tmp_path, capsys, suffix):
    moving, still = [Image.fromarray(flat(level)) for level in (9, 99, 200)], tmp_path / f"still{suffix}"
    moving[0].save(still)
    moving[0].save(tmp_path / f"moving{suffix}", save_all=True, append_images=moving[1:])
    frames = list(open_source(tmp_path))
    assert len(frames) == 2 and np.abs(frames[0].image.astype(int) - 9).max() < 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(str(tmp_path / f"moving{suffix}")) and "only its first image is used" in line


@pytest.mark.parametrize("suffix, bits", [(".png", 8), (".png", 16), (".tiff", 8), (".tiff", 16), (".webp", 8)])
def test_what_is_transparent_stays_hidden(run, tmp_path, demo, suffix, bits):
    dtype = np.uint8 if bits == 8 else np.uint16
    image = np.dstack([demo[0], np.zeros(demo[0].shape[:2], np.uint8)])
    image[:, :40, 3] = 255
    image = image.astype(dtype) * (257 if dtype == np.uint16 else 1)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), image)
    read = read_image(tmp_path / f"a{suffix}")
    assert (
        read.dtype == np.uint8
        and (read[:, 40:] == 255).all()
        and np.abs(read[:, :40] - 1.0 * demo[0][:, :40]).max() < 9
    )
    assert "no face" in run(tmp_path / f"a{suffix}")[1]


def turned(avif: bytes, quarters: int) -> bytes:
    """Return an .avif that is to be shown turned to the left: with a property `irot` of its only image."""

    def box(kind, start=0):
        at = avif.index(kind, start) - 4
        return at, int.from_bytes(avif[at : at + 4], "big")

    (meta, _), (iprp, _), (ipco, ipco_size), (ipma, ipma_size) = (
        box(kind) for kind in (b"meta", b"iprp", b"ipco", b"ipma")
    )
    properties, at = 0, ipco + 8
    while at < ipco + ipco_size:
        properties, at = properties + 1, at + int.from_bytes(avif[at : at + 4], "big")
    content = bytearray(avif)
    for start, added in ((meta, 10), (iprp, 10), (ipco, 9), (ipma, 1)):
        size = int.from_bytes(content[start : start + 4], "big")
        content[start : start + 4] = (size + added).to_bytes(4, "big")
    count = ipma + 18  # size, type, version, number of items, item's number, number of its properties
    content[count] += 1
    place = avif.index(b"iloc")
    mdat = box(b"mdat")[0] + 8
    offset = avif.index(struct.pack(">I", mdat), place)
    content[offset : offset + 4] = struct.pack(">I", mdat + 10)
    content.insert(ipma + ipma_size, 0x80 | (properties + 1))
    content[ipco + ipco_size : ipco + ipco_size] = struct.pack(">I", 9) + b"irot" + bytes([quarters])
    return bytes(content)


def test_an_avif_is_turned_as_it_says(tmp_path):
    image = np.zeros((64, 96, 3), np.uint8)
    image[:32, :48] = 200
    encoded, content = cv2.imencode(".avif", image)
    if not encoded:
        pytest.skip("this OpenCV writes no AVIF")
    for quarters in (0, 1, 3):
        (tmp_path / "a.avif").write_bytes(turned(content.tobytes(), quarters) if quarters else content.tobytes())
        read = read_image(tmp_path / "a.avif")
        assert (
            read.shape == np.rot90(image, quarters).shape and np.abs(read - 1.0 * np.rot90(image, quarters)).mean() < 9
        )


# --- the log in a spreadsheet


def test_a_spreadsheet_runs_nothing_and_reads_every_letter(run, tmp_path):
    names = ["-1+1.png", "=1+1.png", "@a.png", "é.png"]
    for name in names:
        (tmp_path / name).write_bytes(cv2.imencode(".png", flat(9))[1].tobytes())
    run(tmp_path, "--log", tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_bytes().startswith(b"\xef\xbb\xbftime_seconds,")
    table = pd.read_csv(tmp_path / "x.csv")
    assert table.columns[0] == "time_seconds"
    assert list(table["file"]) == ["'-1+1.png", "'=1+1.png", "'@a.png", "é.png"]


# --- networks of other origin


def test_a_network_without_a_description_is_a_warning(tmp_path, lite_network, capsys):
    shutil.copy(lite_network, tmp_path / "other.tflite")
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", flat(9))[1].tobytes())
    assert main.main([str(tmp_path / "a.png"), "--no-window", "--model", str(tmp_path / "other.tflite")]) == 0
    assert "has no description" in capsys.readouterr().err


def test_the_included_network_is_run_without_tensorflow(tmp_path, demo):
    cv2.imwrite(str(tmp_path / "a.png"), demo[20])
    code = (
        "import sys, main\n"
        f"main.main([{str(tmp_path / 'a.png')!r}, '--no-window', '--log', {str(tmp_path / 'x.json')!r}])\n"
        "print(*{'keras', 'tensorflow', 'matplotlib', 'pandas'} & set(sys.modules))"
    )
    done = run_code(code)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.splitlines()[-1] == ""
    assert json.loads((tmp_path / "x.json").read_text().splitlines()[0])["label"] == "angry"


def test_the_included_network_has_the_names_that_the_docs_give_to_apps():
    interpreter = model.import_interpreter()(model_path=str(model.BEST_MODEL.with_suffix(".tflite")))
    (signature,) = interpreter.get_signature_list().values()
    assert signature["inputs"] == ["faces"] and sorted(signature["outputs"]) == ["fer2013", "ferplus"]


def test_without_an_export_that_belongs_to_it_the_included_network_runs_in_tensorflow(tmp_path, monkeypatch, capsys):
    for suffix in (".keras", ".tflite", ".tflite.json"):
        shutil.copy(model.BEST_MODEL.with_suffix(suffix), tmp_path)
    monkeypatch.setattr(model, "BEST_MODEL", tmp_path / "best_model.keras")
    assert model.shipped_model() == tmp_path / "best_model.tflite" and capsys.readouterr().err == ""
    with (tmp_path / "best_model.keras").open("ab") as file:
        file.write(b"another")
    assert model.shipped_model() == tmp_path / "best_model.keras"
    assert "train.py --export" in (err := capsys.readouterr().err) and err.count("\n") == 1


# --- servers


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): ...

    def do_GET(self):  # http.server's name
        if self.path == "/page":
            content = b"<html>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        elif self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/page")
            self.end_headers()
        elif self.path == "/secret":
            self.send_error(401)
        else:
            super().do_GET()


class RtspHandler(socketserver.StreamRequestHandler):
    def handle(self):
        self.rfile.readline()
        self.wfile.write(b"RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\n\r\n")


@pytest.fixture
def serve(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    servers = []

    def start(handler):
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.skipif(os.name == "nt", reason="a socket that is reset there is reported late")
def test_a_server_that_sends_no_video_is_named(run, serve):
    host = serve(Handler)
    for path, sentence in (
        ("page", "is a web page"),
        ("moved", "is a web page"),
        ("secret", "needs a user name"),
        ("none", "status 404"),
    ):
        status, _, err = run(f"http://{host}/{path}")
        assert status == 2 and sentence in err and err.count("\n") == 1
    status, _, err = run(f"rtsp://{serve(RtspHandler)}/live")
    assert status == 2 and "needs a user name" in err


@needs_ffmpeg
def test_an_animation_over_http_ends(run, serve, tmp_path):
    ffmpeg(tmp_path / "a.gif", "testsrc=duration=1:size=64x48:rate=10")
    status, out, _ = run(f"http://{serve(Handler)}/a.gif")
    assert status == 0 and "10 frames" in out
