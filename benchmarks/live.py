"""main.py's loop against the usual one: default detectMultiScale on the full frame, one predict a face.

    python benchmarks/live.py VIDEO

Both decode, detect and classify the clip in one run, alternately, the usual loop only its first --usual-frames; neither
draws or shows. The table has medians over the repeats: frames a second of both, their ratio, main.py's milliseconds by
stage, the 95th percentile from a frame in memory to its labels, and how many faces a frame each of the two sees.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CASES = ((None, 1), ((640, 480), 1), ((1280, 720), 1), ((1280, 720), 4), ((1280, 720), 8), ((1920, 1080), 1))
TILES = {1: (1, 1), 4: (2, 2), 8: (4, 2)}  # columns and rows


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("video", help="a clip with one face that is always in view")
    parser.add_argument("--model", type=Path, default=REPOSITORY / "best_model.keras")
    parser.add_argument("--frames", type=int, default=300, help="how many frames of the clip")
    parser.add_argument("--usual-frames", type=int, default=60, help="on how many of them the usual loop is timed")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args(argv)


def usual_loop(path, cascade, model, limit):
    """Run the usual loop; return (frames a second, faces a frame)."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    stamps, faces = [], 0
    while len(stamps) < limit:
        read, frame = capture.read()
        if not read:
            break
        gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        for x, y, width, height in cascade.detectMultiScale(gray):
            face = cv2.resize(gray[y : y + height, x : x + width], (48, 48))
            model.predict(face.reshape(1, 48, 48, 1), verbose=0).argmax()
            faces += 1
        stamps.append(time.perf_counter())
    capture.release()
    return (len(stamps) - 1) / (stamps[-1] - stamps[0]), faces / len(stamps)


class Loaded:
    """Stands in for main.Loader, so that the network is loaded once."""

    def __init__(self, classifier):
        self.classifier = classifier

    def is_alive(self):
        return False

    def result(self):
        return self.classifier


def our_loop(path, cascade, classifier):
    """Run main.py's loop on the whole file; return its summary."""
    import main
    from video import VideoFile

    source = VideoFile(str(path))
    try:
        args = main.parse_args(["--source", str(path), "--no-window"])
        live = main.Live(args, source, cascade, None, None, None, None, None)
        live.run(Loaded(classifier))
    finally:
        source.close()
    return live.summary


def make_clip(source_path, path, size, faces, frames) -> str:
    """Write the clip at a size (None: its own), tiled so that it shows so many faces; return what it is."""
    import cv2
    import numpy as np

    from output import fit

    capture = cv2.VideoCapture(str(source_path))
    fps = capture.get(cv2.CAP_PROP_FPS)
    columns, rows = TILES[faces]
    writer = None
    for _ in range(frames):
        read, frame = capture.read()
        if not read:
            break
        if size is not None:
            frame = np.tile(fit(frame, (size[0] // columns, size[1] // rows)), (rows, columns, 1))
        if writer is None:
            written = frame.shape[1::-1]
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, written)
        writer.write(frame)
    capture.release()
    if writer is None:
        sys.exit(f"live.py: {source_path} is not a video that OpenCV can read.")
    writer.release()
    return f"{written[0]}x{written[1]}"


def main(argv=None):
    args = parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.insert(0, str(REPOSITORY))
    import numpy as np

    from faces import load_cascade
    from model import ModelError, load_classifier

    try:
        classifier = load_classifier(args.model)
    except ModelError as error:
        sys.exit(f"live.py: {error}")
    if classifier.model is None:
        sys.exit(f"live.py: {args.model} is an export, which the usual loop cannot call. Give --model a .keras file.")
    for count in (1, 4, 8):
        classifier.probabilities(np.zeros((count, 48, 48, 1), np.uint8))  # warm
        classifier.model.predict(np.zeros((1, 48, 48, 1)), verbose=0)
    cascade = load_cascade()
    print(
        "size        faces   usual   main.py   ratio   read  detect  classify   to label 95 %   faces a frame (usual)"
    )
    with tempfile.TemporaryDirectory() as folder:
        for size, faces in CASES:
            path = Path(folder) / "clip.mp4"
            name = make_clip(args.video, path, size, faces, args.frames)
            results = []
            for _ in range(args.repeats):
                usual, usual_faces = usual_loop(path, cascade, classifier.model, args.usual_frames)
                summary = our_loop(path, cascade, classifier)
                rate = (summary.frames - 1) / (summary.last_seconds - summary.first_seconds)
                stages = [np.array(summary.milliseconds[stage]) for stage in ("reading", "detecting", "classifying")]
                tail = np.percentile(stages[1] + stages[2], 95)
                seen = sum(summary.labels.values()) / summary.frames
                results.append([usual, rate, *(np.median(stage) for stage in stages), tail, seen, usual_faces])
            usual, rate, read, detect, classify, tail, seen, usual_seen = np.median(results, axis=0)
            print(
                f"{name:11} {faces:5} {usual:7.1f} {rate:9.1f} {rate / usual:7.1f} {read:6.1f} {detect:7.1f} "
                f"{classify:9.1f} {tail:12.1f} ms {seen:12.2f} ({usual_seen:.2f})",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
