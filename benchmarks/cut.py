"""How soon the label follows a hard cut from one of the demo's faces to another: python benchmarks/cut.py

Runs the detector on a video that cuts between all 42 ordered pairs of the demo's seven faces. For each face, the label
that a segment of it settles on, and the longest time from a cut until that label appears and stays. Cuts between two
faces that settle on the same label are left out.
"""

import argparse
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from emotions import EmotionDetector
from live.sources import Demo
from model import EMOTIONS, UserError, shipped_model

SEGMENT_SECONDS = 1.5  # between two cuts


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=shipped_model(), help="instead of the included one")
    parser.add_argument("--smoothing", type=float, default=0.18, metavar="SECONDS", help="main.py's --smoothing")
    return parser.parse_args(argv)


def tour(count: int) -> list[int]:
    """Return a walk over 0..count-1 that steps once from each to each other (Hierholzer 1873)."""
    left = {node: [other for other in range(count) if other != node] for node in range(count)}
    path, walk = [0], []
    while path:
        if left[path[-1]]:
            path.append(left[path[-1]].pop())
        else:
            walk.append(path.pop())
    return walk[::-1]


def labels_by_segment(detector: EmotionDetector, order: list[int]) -> list[list[tuple[float, str]]]:
    """Show the demo's faces in this order; return (seconds since the cut, label) of every frame of each segment."""
    faces = Demo().faces
    row = np.hstack([np.uint8(faces[i]) for i in order])
    segments = [[] for _ in order]
    for frame in Demo(SEGMENT_SECONDS * len(order), SEGMENT_SECONDS, row):
        number = int(frame.time_seconds / SEGMENT_SECONDS + 1e-6)
        for face in detector.track(frame.image, frame.time_seconds):
            segments[number].append((frame.time_seconds - number * SEGMENT_SECONDS, face.label))
    return segments


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        detector = EmotionDetector(args.model, smoothing_seconds=args.smoothing)
    except UserError as error:
        sys.exit(f"cut.py: {error}")
    order = tour(len(EMOTIONS))
    segments = labels_by_segment(detector, order)
    settled = [Counter(label for _, label in segment[-20:]).most_common(1)[0][0] for segment in segments]
    seconds = defaultdict(list)  # (face, label) -> time until the label stays, for each cut
    for number in range(1, len(order)):
        if settled[number] != settled[number - 1]:
            others = [time for time, label in segments[number] if label != settled[number]]
            key = EMOTIONS[order[number]], settled[number]
            seconds[key].append(max(others, default=0.0) + 1 / Demo.fps)  # from the next frame on
    print(f"{'face':9} {'settles on':10} {'cuts':>4} longest")
    for (face, label), times in sorted(seconds.items()):
        print(f"{face:9} {label:10} {len(times):4} {max(times):5.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
