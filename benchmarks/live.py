"""main.py's loop against the baseline loop: default detectMultiScale on the full frame, one predict a face.

    python benchmarks/live.py VIDEO

Both decode, detect and classify the clip in one run, alternately, the baseline only its first --baseline-frames;
neither draws or shows. The table has medians over the repeats: frames a second of both, their ratio, main.py's
milliseconds by stage, the 95th percentile from a frame in memory to its labels, and how many faces a frame each finds.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np

from emotions import EmotionDetector
from emotions.faces import load_cascade
from live.app import App
from live.sinks import fit
from live.statistics import Statistics
from live.videos import VideoFile
from model import BEST_MODEL, UserError, load_classifier

CASES = ((None, 1), ((640, 480), 1), ((1280, 720), 1), ((1280, 720), 4), ((1280, 720), 8), ((1920, 1080), 1))
TILES = {1: (1, 1), 4: (2, 2), 8: (4, 2)}  # columns and rows


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("video", help="a clip with one face that is always in view")
    parser.add_argument(
        "--model",
        type=Path,
        help="a .keras file for both (default: best_model.keras, and the export that main.py runs)",
    )
    parser.add_argument("--frames", type=int, default=300, help="how many frames of the clip")
    parser.add_argument("--baseline-frames", type=int, default=60, help="how many of them the baseline loop processes")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args(argv)


def run_baseline(path: Path, cascade, model, limit: int) -> tuple[float, float]:
    """Run the baseline loop; return (frames a second, faces a frame)."""
    capture = cv2.VideoCapture(str(path))
    stamps, faces = [], 0
    while len(stamps) < limit:
        ok, frame = capture.read()
        if not ok:
            break
        gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        for x, y, width, height in cascade.detectMultiScale(gray):
            face = cv2.resize(gray[y : y + height, x : x + width], (48, 48))
            model.predict(face.reshape(1, 48, 48, 1), verbose=0).argmax()
            faces += 1
        stamps.append(time.perf_counter())
    capture.release()
    return (len(stamps) - 1) / (stamps[-1] - stamps[0]), faces / len(stamps)


def run_ours(path: Path, detector: EmotionDetector) -> Statistics:
    """Run main.py's loop on the whole file."""
    detector.reset()
    with VideoFile(str(path)) as source:
        app = App(source)
        app.run(detector)
    return app.statistics


def make_clip(source: Path, path: Path, size: tuple[int, int] | None, faces: int, frames: int) -> str:
    """Write the clip at a size (None: its own), tiled so that it shows this many faces; return its size as text."""
    capture = cv2.VideoCapture(str(source))
    fps = capture.get(cv2.CAP_PROP_FPS)
    columns, rows = TILES[faces]
    writer = None
    for _ in range(frames):
        ok, frame = capture.read()
        if not ok:
            break
        if size is not None:
            frame = np.tile(fit(frame, (size[0] // columns, size[1] // rows)), (rows, columns, 1))
        if writer is None:
            written = frame.shape[1::-1]
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, written)
        writer.write(frame)
    capture.release()
    if writer is None:
        sys.exit(f"live.py: {source} is not a video that OpenCV can read.")
    writer.release()
    return f"{written[0]}x{written[1]}"


def measure(path: Path, detector: EmotionDetector, model, baseline_frames: int) -> list[float]:
    """Run both loops once; return the columns of the table, without the ratio."""
    baseline, baseline_faces = run_baseline(path, load_cascade(), model, baseline_frames)
    statistics = run_ours(path, detector)
    stages = [np.array(statistics.milliseconds[stage]) for stage in ("reading", "detecting", "classifying")]
    tail = np.percentile(stages[1] + stages[2], 95)
    found = statistics.labels.total() / statistics.frames
    return [baseline, statistics.fps, *(np.median(stage) for stage in stages), tail, found, baseline_faces]


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        classifier = load_classifier(args.model or BEST_MODEL)
        detector = EmotionDetector(args.model)
    except UserError as error:
        sys.exit(f"live.py: {error}")
    if classifier.model is None:
        sys.exit(f"live.py: {args.model} is an export, which the baseline cannot call. Give --model a .keras file.")
    classifier.model.predict(np.zeros((1, 48, 48, 1)), verbose=0)  # the first call is slow
    print(
        "size        faces  baseline  main.py   ratio   read  detect  classify  to label 95 %  faces a frame (baseline)"
    )
    with tempfile.TemporaryDirectory() as folder:
        for size, faces in CASES:
            path = Path(folder) / "clip.mp4"
            name = make_clip(args.video, path, size, faces, args.frames)
            results = [measure(path, detector, classifier.model, args.baseline_frames) for _ in range(args.repeats)]
            baseline, rate, read, detect, classify, tail, found, baseline_found = np.median(results, axis=0)
            print(
                f"{name:11} {faces:5} {baseline:9.1f} {rate:8.1f} {rate / baseline:7.1f} {read:6.1f} {detect:7.1f} "
                f"{classify:9.1f} {tail:11.1f} ms {found:14.2f} ({baseline_found:.2f})",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
