"""The loop of main.py: source -> detector -> overlay -> window, recording, log; and the keys."""

import argparse
import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from common.cli import printable, warn
from emotions import EmotionDetector, Face
from live.logs import Log
from live.opening import find_sources, is_camera, open_entry, repeated_names
from live.sinks import OutputError, Outputs, refuse_overwriting
from live.sources import Frame, Source, SourceError, without_secrets
from live.statistics import Results, Statistics
from live.timeline import Timeline
from live.view import Pace, View
from live.window import DisplayProbe, Window
from model import EMOTIONS, description_path, load_classifier, shipped_model

TITLE = "Emotion Detector"
LOADING = "Loading the network ... (h lists the keys)"
PAUSED = "Paused. Press space to continue."
IMAGE_KEYS = "n: next, b: back, q: close"
END_SECONDS = 3.0  # for which the end of a video is shown


class Loader(threading.Thread):
    """Calls a function in the background: importing TensorFlow takes seconds."""

    def __init__(self, load: Callable[[], EmotionDetector]):
        super().__init__(daemon=True)
        self._load = load
        self._detector = self._error = None

    def run(self):
        try:
            self._detector = self._load()
        except Exception as error:  # raised again by `result`
            self._error = error

    def result(self) -> EmotionDetector:
        """Wait for the function; return its result or raise its exception."""
        while self.is_alive():
            self.join(0.1)  # in steps: on Windows Ctrl-C does not end a longer wait
        if self._error:
            raise self._error
        return self._detector


class App:
    """The loop, and what the keys change. Source, window and outputs are closed by whoever opened them.

    `logs` get every frame with its faces.
    """

    def __init__(self, source: Source, *, window=None, recording=None, logs=(), mirror: bool = False):
        self.window, self.logs = window, logs
        self.view, self.statistics, self.results = View(), Statistics(), Results()
        self.paused = self.quit = False
        self._detector = None
        self.use(source, recording, mirror)

    def use(self, source: Source, recording=None, mirror: bool = False) -> None:
        """Continue with another source."""
        self.source, self.recording, self.mirror, self._pace = source, recording, mirror, Pace(source)
        self._frames, self._ahead = iter(source), None  # the frame that comes next, if it was read already
        self._error = self._name = ""  # of the last frame; of the image that is shown
        self._skip = False  # whether to skip the rest of this image or video
        self.statistics.interrupt()
        self.results.begin(source)

    def preview(self, loader: Loader) -> None:
        """Show the camera, or a file's first frame, in the window until the detector is loaded."""
        first = None
        while self.window and loader.is_alive() and not self.quit:
            if first is None or (self.source.live and not self.paused):
                first = next(self._frames, None)
                if first is None:
                    return
                self.view.update(cv2.flip(first.image, 1) if self.mirror else first.image, [], first.error)
            self._show(0.03, "" if first.error else LOADING)
        if not self.source.live:
            self._ahead = first

    def run(self, detector: EmotionDetector, last: bool = True) -> None:
        """Process the source until it ends or the user quits; after the `last` one the window waits for a moment."""
        self._detector = detector
        detector.reset()
        while not self.quit:
            frame, self._ahead = self._ahead or self._read(), None
            if frame is not None:
                self._process(frame)
                if self.window:
                    self._hold(frame)
            elif not (self.source.still and last and self._wait_for_back()):
                break
            if self._skip and not (self.source.still or (last and self.source.live)):
                break
            self._skip = False
        end_seconds = time.perf_counter() + (END_SECONDS if last and not (self.source.still or self.source.live) else 0)
        while self.window and not self.quit and ((last and self.paused) or time.perf_counter() < end_seconds):
            self._show(0.05, f"The end: {self.results.summary}")

    def _read(self) -> Frame | None:
        with self.statistics.timed("reading"):
            return next(self._frames, None)

    def _wait_for_back(self) -> bool:
        """Show the last image until the window is closed or the user goes back; return whether to go on."""
        while self.window and not self.quit and not self._skip:
            self._show(0.05)
        self._frames = iter(self.source)
        return self._skip and not self.quit

    def _process(self, frame: Frame) -> None:
        """Detect, log, draw, record."""
        image = cv2.flip(frame.image, 1) if self.mirror else frame.image
        faces = [] if frame.error else self._detect(image, frame)
        if frame.error and not self.window and not self._error:
            warn(f"main.py: {frame.error}")
        self._error = frame.error
        if self.window or self.recording:
            with self.statistics.timed("drawing"):
                self.view.update(image, faces, frame.error)
        if self.recording and not frame.again:
            with self.statistics.timed("writing"):
                self.recording.write(self.view.image, frame.time_seconds, frame.name)

    def _detect(self, image: np.ndarray, frame: Frame) -> list[Face]:
        faces = self._detector.detect(image) if frame.still else self._detector.track(image, frame.time_seconds)
        several = f"{frame.index + 1} of {self.source.frame_count}: " * (self.source.frame_count > 1)
        self._name = several + printable(frame.name) if frame.still else ""
        if not frame.again:
            self.statistics.count(faces, self._detector.milliseconds, frame.still)
            for log in (*self.logs, self.results):
                log.write(frame, faces)
        return faces

    def _hold(self, frame: Frame) -> None:
        """Show the frame until it is due to be replaced, and while paused."""
        if not (self.source.still or self.source.live):
            self._ahead = self._read()
        due_seconds = self._pace.due(frame, self._ahead)
        self._show(max(due_seconds - time.perf_counter(), 0.001))
        while not (self.quit or self._skip) and (self.paused or due_seconds - time.perf_counter() > 0.001):
            self._show(0.03 if self.paused else due_seconds - time.perf_counter())

    def _show(self, wait_seconds: float, message: str = "") -> None:
        """Show the frame and wait for a key."""
        status = "" if self._error else self._name or self.statistics.frame_rate
        if self._name and not message:
            message = IMAGE_KEYS if self.source.frame_count > 1 else "q: close"
        self.window.show(self.view.rendered(status, PAUSED if self.paused else message))
        self._handle_key(self.window.wait_key(min(wait_seconds, 0.1)))  # it then notices the close button

    def _handle_key(self, key: str) -> None:
        if key in ("q", "\x1b") or self.window.closed:
            self.quit = True
        elif key == " ":
            self.paused = not self.paused  # a pause counts neither for the frame rate nor in a camera's recording
            self.statistics.interrupt()
            if self.recording and self.source.live:
                self.recording.pause()
        elif key == "s":
            self.view.save_snapshot()
        elif key == "p":
            self.view.bars = not self.view.bars
            self.view.redraw()
        elif key == "m":
            self.mirror = not self.mirror
            if self._detector:
                self._detector.mirror()
            self.view.mirror()
        elif key == "n" or (key == "b" and self.source.still):
            self._skip = True
            if key == "b":
                self.source.back()
        elif key == "h":
            self.view.help = not self.view.help


def run(args: argparse.Namespace) -> None:
    """Run main.py with its options: open everything, loop, close everything, print results. Raises `UserError`."""
    app, sinks = App(Source()), []
    try:
        with contextlib.ExitStack() as stack:
            probe = None if args.no_window else stack.enter_context(DisplayProbe())
            entries = find_sources(args.sources)
            sinks = _open_sinks(args, entries, stack)
            loader = Loader(lambda: _load(args))
            loader.start()
            app.window = _open_window(args, probe, stack) if probe else None
            app.view.bars, app.logs = args.probabilities, sinks[1:]
            app.results.needed = not (app.window or args.output or args.log or args.timeline)
            _run_all(app, entries, sinks[0], loader, args.mirror)
    finally:
        app.results.end()
        if app.statistics.frames > (app.statistics.images == 1):
            app.results.print(app.statistics)  # a full disk is an error here and not only at exit
        if summaries := [sink.summary for sink in sinks if sink.summary]:
            app.results.print(printable(f"Saved {', '.join(summaries)}"))


def _run_all(app: App, entries: list, outputs: Outputs, loader: Loader, mirror: bool | None) -> None:
    """Run one source after the other. Of several, one that cannot be read does not stop the others."""
    failed = 0
    repeated = repeated_names(entries)
    for number, entry in enumerate(entries, 1):
        try:
            with open_entry(entry, repeated) as source, outputs.open(source) as recording:
                app.use(source, recording, is_camera(entry) if mirror is None else mirror)  # people expect a mirror
                try:
                    app.preview(loader)
                    if not app.quit:
                        app.run(loader.result(), last=number == len(entries))
                except SourceError as error:
                    if not isinstance(error, OutputError):
                        outputs.discard(recording)
                    raise
        except OutputError:
            raise
        except SourceError as error:
            if len(entries) == 1:
                raise
            failed += 1
            warn(f"main.py: {error}")
        if app.quit:
            return
    if failed:
        raise SourceError(f"{failed} of {len(entries)} sources could not be used.")


def _load(args: argparse.Namespace) -> EmotionDetector:
    path = args.model or shipped_model()
    classifier = load_classifier(path, args.labels)
    if not classifier.description:
        warn(
            f"{path} has no description beside it ({description_path(path).name}): if train.py did not make it, its "
            f"emotions may have another order than {', '.join(EMOTIONS)}. See --check."
        )
    settings = {"cascade": args.cascade, "threshold": args.threshold}
    return EmotionDetector(classifier, smoothing_seconds=args.smoothing, **settings)


def _open_sinks(args: argparse.Namespace, entries: list, stack: contextlib.ExitStack) -> list:
    """Return the outputs, then a log and a timeline where wanted, after a check that all can be written."""
    images = [file for entry in entries if isinstance(entry, list) for file in entry]
    files = images + [entry for entry in entries if isinstance(entry, Path)]
    outputs = [Path(path) for path in (args.output, args.log, args.timeline) if path]
    refuse_overwriting(outputs, files)
    count = len(files) + sum(isinstance(entry, str) for entry in entries)
    sinks = [stack.enter_context(Outputs(args.output, files, images=len(images) == count, single=count == 1))]
    if args.log:
        sinks.append(stack.enter_context(Log(args.log, marked=not all(str(file).isascii() for file in files))))
    if args.timeline:
        if len(entries) > 1 or images:
            raise OutputError("--timeline shows the faces of one video, camera or stream. Give a single one.")
        title = "" if is_camera(entries[0]) else Path(without_secrets(str(entries[0]))).name
        sinks.append(stack.enter_context(Timeline(args.timeline, title)))
    return sinks


def _open_window(args: argparse.Namespace, probe: DisplayProbe, stack: contextlib.ExitStack) -> Window | None:
    """Return a window, or None if none can be opened but there are other outputs."""
    error = probe.error()
    if not error:
        window = stack.enter_context(Window(TITLE))
        probe.close()
        return window
    if not (args.output or args.log or args.timeline):
        raise SourceError(f"{error} Or use --no-window, with --output or --log for the results.")
    warn(f"{error} Continuing without a window.")
    return None
