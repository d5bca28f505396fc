"""Show the emotions of everybody in front of a camera, or in a video, a picture or a folder of pictures.

python main.py                       webcam 0
python main.py --source demo         without a camera
"""

import argparse
import contextlib
import itertools
import math
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import NamedTuple

from options import HelpFormatter, explained, number, print_all_letters

HERE = Path(__file__).resolve().parent
TITLE = "Emotion Detector"
LOG_HEADER = "time_seconds,frame,face,x,y,width,height,angry,disgust,fear,happy,sad,surprise,neutral,label,picture"
STAGES = ("reading", "detecting", "classifying", "drawing", "writing")
TIMED_FRAMES = 20_000  # the last ones, over which the milliseconds are told: a program may run for months
SAVED_SECONDS = 1.5  # for which the window says that a snapshot was saved


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Show the emotions of everybody in front of a camera, in a video or in pictures.",
        epilog="Keys in the window: q or Esc quits, space pauses, s saves a snapshot, p shows probabilities, "
        "m mirrors, h lists the keys.",
        formatter_class=HelpFormatter,
    )
    group = parser.add_argument_group("input")
    group.add_argument("--source", default="0", help="camera number, video, picture, folder, stream URL, or demo")
    group.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="mirror the picture (default: of a camera number)",
        default=None,
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output", type=Path, metavar="FILE", help="annotated .mp4 or .webm, for a picture .png or .jpg"
    )
    group.add_argument(
        "--log", type=Path, metavar="FILE.csv", help="a line for every face in every frame, with a picture's name"
    )
    group.add_argument("--no-window", action="store_true", help="work without a window, as fast as possible")
    group = parser.add_argument_group("emotions")
    group.add_argument("--model", type=Path, default=HERE / "best_model.keras", help="network made by train.py")
    group.add_argument(
        "--threshold",
        type=number(0, 1),
        default=0.35,
        help="below this probability the label is uncertain; of PublicTest, 96 %% of the faces reach 0.35 and 74 %% of "
        "them are named right (92 %% and 76 %% at 0.4)",
    )
    group.add_argument(
        "--smoothing",
        type=number(0, 3600),
        default=0.18,
        metavar="SECONDS",
        help="time constant of what is shown and logged of a face; 0: none",
    )
    group.add_argument("--probabilities", action="store_true", help="show the seven bars of each face")
    group = parser.add_argument_group("faces")
    group.add_argument(
        "--cascade", type=Path, default=HERE / "haarcascade_frontalface_default.xml", help="Haar cascade"
    )
    group.add_argument("--align", action="store_true", help="level the eyes first; costs about 5 ms a face")
    group = parser.add_argument_group("help")
    group.add_argument(
        "--check", action="store_true", help="say what is well on this machine, and how to mend the rest"
    )
    return parser.parse_args(argv)


class Reading(NamedTuple):
    """What is shown of a face: its id, its box (x, y, width, height), probabilities (7,) and label."""

    face: int
    box: tuple[int, int, int, int]
    probabilities: object
    label: str

    def mirrored(self, frame_width: int) -> "Reading":
        x, y, width, height = self.box
        return self._replace(box=(frame_width - x - width, y, width, height))


class Loader(threading.Thread):
    """Loads the network in the background: importing TensorFlow takes seconds."""

    def __init__(self, path: Path):
        super().__init__(daemon=True)
        self.path = path
        self._classifier = self._error = None

    def run(self):
        try:
            import numpy as np

            from model import load_classifier

            self._classifier = load_classifier(self.path)
            self._classifier.probabilities(np.zeros((1, 48, 48, 1), np.uint8))  # the first call is slow
        except Exception as error:  # raised again where it is wanted
            self._error = error

    def result(self):
        """Wait, and return the classifier or raise what went wrong."""
        while self.is_alive():
            self.join(0.1)  # in steps: on Windows Ctrl-C does not end a longer wait
        if self._error:
            raise self._error
        return self._classifier


class Summary:
    """Counts what went by, for the lines at the end."""

    def __init__(self):
        self.milliseconds = {stage: deque(maxlen=TIMED_FRAMES) for stage in STAGES}
        self.labels = Counter()
        self.frames = self.frames_with_face = 0
        self.first_seconds = self.last_seconds = 0.0

    @contextlib.contextmanager
    def timed(self, stage: str):
        start = time.perf_counter()
        yield
        self.milliseconds[stage].append(1000 * (time.perf_counter() - start))

    def count(self, readings) -> None:
        self.last_seconds = time.perf_counter()
        self.first_seconds = self.first_seconds or self.last_seconds
        self.frames += 1
        self.frames_with_face += bool(readings)
        self.labels.update(reading.label for reading in readings)

    def leave_out(self, seconds: float) -> None:
        """Do not count the seconds of a pause."""
        if self.frames:
            self.first_seconds += seconds

    def __str__(self):
        import numpy as np

        lines = ["1 frame" if self.frames == 1 else f"{self.frames} frames"]
        if self.last_seconds > self.first_seconds:
            lines[0] += f", {(self.frames - 1) / (self.last_seconds - self.first_seconds):.1f} frames a second"
        for stage in STAGES:
            if self.milliseconds[stage]:
                median, tail = np.percentile(self.milliseconds[stage], [50, 95])
                lines.append(f"{stage:12}{median:7.1f} ms a frame, 95 % within {tail:.1f} ms")
        lines.append(f"{self.frames_with_face / self.frames:.0%} of the frames show a face")
        faces = sum(self.labels.values())
        lines.extend(f"{label:12}{count / faces:7.1%}" for label, count in self.labels.most_common())
        return "\n".join(lines)


class Live:
    """The loop from frames to window, file and log, and what the keys have set."""

    def __init__(self, args, source, cascade, eyes, window, picture: Path | None, recording, log):
        from faces import Tracker

        self.args, self.source, self.cascade, self.eyes = args, source, cascade, eyes
        self.window, self.picture, self.recording, self.log = window, picture, recording, log
        self.tracker = Tracker(cascade)
        self.steadiers = {}  # by the face's id
        self.mirror = args.mirror if args.mirror is not None else source.live and args.source.isdecimal()
        self.bars, self.help = args.probabilities, False
        self.paused = self.quit = False
        self.summary = Summary()
        self._fault = ""
        self._stamps = deque(maxlen=31)
        self._due_seconds, self._time_seconds = -math.inf, 0.0  # of the last frame: when it has to go, its time
        self._paused_seconds = 0.0  # when the pause began
        self._saved, self._saved_seconds = "", -math.inf  # what became of a snapshot, and when

    def run(self, loader: Loader) -> None:
        """Work through the source until it ends or the person does."""
        frames = self._show_while_loading(iter(self.source), loader)
        if self.quit:
            return
        classifier = loader.result()
        while not self.quit:
            with self.summary.timed("reading"):
                frame = next(frames, None)
            if frame is None:
                self.summary.milliseconds["reading"].pop()  # there was nothing to read
                break
            self._process(frame, classifier)
            if self.window:
                self._show(frame.time_seconds)
        while self.window and self.source.still and not self.quit:
            self._key_while_showing(0.05)  # a picture stays until it is closed

    def _show_while_loading(self, frames, loader: Loader):
        """Show the camera's picture, or a file's first, until the network is there; return the frames to come."""
        first = None
        while self.window and loader.is_alive() and not self.quit:
            if first is None or (self.source.live and not self.paused):
                first = next(frames, None)
                if first is None:
                    break
                self._draw(self._mirrored(first.image), [], first)
            self._key_while_showing(0.03, "" if first.fault else "Loading the network ... (h lists the keys)")
        return frames if first is None or self.source.live else itertools.chain([first], frames)

    def _process(self, frame, classifier) -> None:
        """Find, classify, log, draw, record."""
        image = self._mirrored(frame.image)
        readings = []
        if not frame.fault:
            readings = self._read_faces(image, frame, classifier)
            self.summary.count(readings)
            if self.log:
                self.log.write(_log_line(frame, reading) for reading in readings)
        elif not self.window and not self._fault:
            print(f"main.py: {frame.fault}", file=sys.stderr)
        self._fault = frame.fault
        if self.window or self.picture or self.recording:
            self._stamps.append(time.perf_counter())
            with self.summary.timed("drawing"):
                self._draw(image, readings, frame)
        if self.picture or self.recording:
            with self.summary.timed("writing"):
                self._write(self.image, frame.time_seconds)

    def _draw(self, bare, readings, frame) -> None:
        """Draw on a copy of the bare image, `self.image`. A key that changes what is drawn calls it again."""
        import overlay

        self._scene = bare, readings, frame
        self.image = image = bare.copy()
        for reading in readings if self.bars else []:  # first, so that no label is hidden by another face's bars
            others = [other.box for other in readings if other is not reading]
            overlay.draw_bars(image, reading.box, reading.probabilities, others)
        for reading in readings:
            overlay.draw_face(image, reading.box, reading.label, reading.probabilities)
        if frame.fault:
            overlay.draw_message(image, frame.fault)

    def _mirrored(self, image):
        import cv2

        return cv2.flip(image, 1) if self.mirror else image

    def _read_faces(self, image, frame, classifier) -> list[Reading]:
        from faces import Face, brighten, crop_faces, find_faces, find_tilt, to_gray
        from smoothing import Steadier

        now = frame.time_seconds
        with self.summary.timed("detecting"):
            gray = brighten(to_gray(image))
            if self.source.still:
                self.steadiers = {}
                found = [Face(i, box, now, now, None) for i, box in enumerate(find_faces(self.cascade, gray), 1)]
            else:
                found = self.tracker.update(gray, now)
                known = {face.id for face in self.tracker.faces}
                self.steadiers = {id: steadier for id, steadier in self.steadiers.items() if id in known}
            fresh = [face for face in found if face.seen_seconds == now]  # of many, some take turns; others turned away
            boxes = [face.box for face in fresh]
            tilts = [find_tilt(self.eyes, gray, box) for box in boxes] if self.eyes else None
        with self.summary.timed("classifying"):
            probabilities = classifier.probabilities(crop_faces(gray, boxes, tilts))
            for face, row in zip(fresh, probabilities, strict=True):
                new = Steadier(self.args.smoothing, self.args.threshold)
                self.steadiers.setdefault(face.id, new).update(row, now)
        steady = [self.steadiers[face.id] for face in found]
        return [Reading(face.id, face.box, s.probabilities, s.label) for face, s in zip(found, steady, strict=True)]

    def _write(self, image, time_seconds: float) -> None:
        from output import write_picture

        if self.recording:
            self.recording.write(image, time_seconds)
        if self.picture:
            write_picture(self.picture, image)

    def _show(self, time_seconds: float) -> None:
        """Show a frame until it is due to go, hear the keys, and hold it while paused."""
        from output import HOLD_SECONDS

        due = now = time.perf_counter()
        if self.source.still:
            due += 1 / self.source.fps
        elif not self.source.live:  # at the film's own pace; a frame that is late delays the rest
            step = time_seconds - self._time_seconds
            due = max(self._due_seconds + (step if step < HOLD_SECONDS else 0), now)
        self._due_seconds, self._time_seconds = due, time_seconds
        self._key_while_showing(max(due - now, 0.001))
        while not self.quit and (self.paused or due - time.perf_counter() > 0.001):  # a key ended the wait
            self._key_while_showing(0.03 if self.paused else due - time.perf_counter())

    def _key_while_showing(self, wait_seconds: float, message: str = "") -> None:
        import overlay

        shown = self.image.copy()  # what follows is not for the recording
        if len(self._stamps) > 1 and not self.source.still and not self._fault:
            rate = (len(self._stamps) - 1) / (self._stamps[-1] - self._stamps[0])
            overlay.draw_status(shown, f"{rate:.0f} fps")
        if self.help:
            overlay.draw_help(shown)
        if self.paused:
            message = "Paused. Press space to go on."
        if time.perf_counter() < self._saved_seconds + SAVED_SECONDS:
            message = self._saved
        if message:
            overlay.draw_message(shown, message)
        self.window.show(shown)
        self._key(self.window.wait_key(min(wait_seconds, 0.1)))  # the window's X is noticed after it

    def _key(self, key: str) -> None:
        bare, readings, frame = self._scene
        if key in ("q", "\x1b") or self.window.closed:
            self.quit = True
        elif key == " ":
            self._pause()
        elif key == "s":
            self._snapshot()
        elif key == "p":
            self.bars = not self.bars
            self._draw(bare, readings, frame)
        elif key == "m":
            self.mirror = not self.mirror
            self.tracker.mirror()
            self._draw(bare[:, ::-1], [reading.mirrored(bare.shape[1]) for reading in readings], frame)
        elif key == "h":
            self.help = not self.help

    def _pause(self) -> None:
        """Hold or go on; what was held does not count as slowness, nor into a camera's recording."""
        self.paused = not self.paused
        if self.paused:
            self._paused_seconds = time.perf_counter()
        else:
            began = max(self._paused_seconds, self.summary.first_seconds)  # it may begin before the first frame
            self.summary.leave_out(time.perf_counter() - began)
            self._stamps.clear()
        if self.recording and self.source.live:
            self.recording.pause()

    def _snapshot(self) -> None:
        from output import write_picture
        from video import VideoError

        path = Path(time.strftime("snapshot-%Y%m%d-%H%M%S.png"))
        while path.exists():  # of the same second
            path = path.with_stem(path.stem + "_")
        try:
            write_picture(path, self.image)
            self._saved = f"Saved {path}"
            print(f"Saved {path.resolve()}")
        except VideoError as error:  # no reason to stop
            self._saved = str(error)
            print(f"main.py: {error}", file=sys.stderr)
        self._saved_seconds = time.perf_counter()


def _log_line(frame, reading: Reading) -> str:
    numbers = ",".join(f"{probability:.4f}" for probability in reading.probabilities)
    box = ",".join(str(value) for value in reading.box)
    name = frame.name and '"' + frame.name.replace('"', '""') + '"'  # it may hold a comma
    return f"{frame.time_seconds:.3f},{frame.index},{reading.face},{box},{numbers},{reading.label},{name}"


def run(args: argparse.Namespace) -> int:
    """Open everything, loop, close everything, say what went by; return the exit status."""
    import cv2

    import output
    import video
    from faces import load_cascade

    live = None
    try:
        with contextlib.ExitStack() as stack:
            probe = None if args.no_window else output.DisplayProbe()
            if probe:
                stack.callback(probe.close)
            cascade = load_cascade(args.cascade)
            eyes = load_cascade(Path(cv2.data.haarcascades) / "haarcascade_eye.xml") if args.align else None
            source = video.open_source(args.source)
            stack.callback(source.close)
            picture, recording, log = _open_outputs(args, source, stack)
            loader = Loader(args.model)
            loader.start()
            window = _open_window(args, probe, stack)
            live = Live(args, source, cascade, eyes, window, picture, recording, log)
            live.run(loader)
    finally:
        if live and live.summary.frames:
            print(live.summary, flush=True)  # a full disk is an error, and not only at the exit
    return 0


def _open_outputs(args, source, stack):
    """Check where the outputs are to go; return (picture path, recording, log), None for each that is not wanted."""
    import output
    from video import VideoError

    picture = recording = log = None
    inputs = getattr(source, "paths", [] if "://" in args.source else [Path(args.source)])
    for path in (args.output, args.log):
        if path and path.exists() and any(used.exists() and path.samefile(used) for used in inputs):
            raise VideoError(f"{path} would overwrite the source. Choose another name.")
    if args.log:
        output.check_output(args.log, (".csv",))
        log = output.Log(args.log, LOG_HEADER)
        stack.callback(log.close)
    if args.output and source.still and Path(args.source).is_file():
        output.check_output(args.output, output.WRITTEN_SUFFIXES)
        picture = args.output
    elif args.output:
        output.check_output(args.output, tuple(output.CODECS))
        recording = output.Recording(args.output, source.fps, source.live)
        stack.callback(recording.close)
    return picture, recording, log


def _open_window(args, probe, stack):
    """Return a window, or None where none is wanted or, with other outputs, none can be opened."""
    import output
    from video import VideoError

    if probe is None:
        return None
    why_not = probe.answer()
    if not why_not:
        window = output.Window(TITLE)
        stack.callback(window.close)
        probe.close()
        return window
    if not (args.output or args.log):
        raise VideoError(f"{why_not} Or use --no-window with --output FILE or --log FILE.csv.")
    print(f"{why_not} Going on without a window.", file=sys.stderr)
    return None


def main(argv=None) -> int:
    args = parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", "0")  # else cameras take long on Windows
    try:
        if args.check:
            from check import check

            return 0 if check(args.cascade, args.model) else 2
        from faces import CascadeError
        from model import ModelError
        from video import VideoError

        try:
            return run(args)
        except (CascadeError, ModelError, VideoError) as error:
            print(f"main.py: {error}", file=sys.stderr)
            return 2
    except BrokenPipeError:  # nobody reads on, as after `| head`
        return 0
    except OSError as error:  # something is not permitted, or too long a name
        print(f"main.py: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"main.py: {explained(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _end(status: int) -> None:
    """End at once: a thread that is still importing TensorFlow would hold up or crash a normal exit."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):  # there may be none, or nobody who reads it
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    print_all_letters()
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):  # a kill, a closed terminal, Ctrl-Break: as after Ctrl-C
        code = getattr(signal, name, None)  # Windows, which ends us with its terminal, has no SIGHUP, others no BREAK
        if code and signal.getsignal(code) != signal.SIG_IGN:  # nohup's
            signal.signal(code, signal.default_int_handler)
    _end(main())
