"""See how soon main.py's label follows a hard cut from one of the demo's faces to another: python benchmarks/cut.py

Runs main.py on a film that cuts between all 42 ordered pairs of the demo's seven faces. For each face, the label in
which a segment of it settles, and the longest time from a cut until that label stands. Cuts between two faces that
settle in the same label are left out.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
SEGMENT_SECONDS = 1.5  # between two cuts


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="instead of best_model.keras")
    parser.add_argument("--smoothing", help="main.py's --smoothing, instead of its default")
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


def main(argv=None) -> int:
    args = parse_args(argv)

    import pandas as pd

    import main as program
    import video
    from model import EMOTIONS

    order = tour(len(EMOTIONS))

    class Cuts(video.Demo):
        def __init__(self):
            super().__init__(SEGMENT_SECONDS * len(order), SEGMENT_SECONDS)
            self.faces = [self.faces[i] for i in order]

    video.Demo = Cuts
    options = [f"--{name}={value}" for name, value in vars(args).items() if value]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.csv"
        if status := program.main(["--source", "demo", "--no-window", "--log", str(log), *options]):
            return status
        table = pd.read_csv(log)
    table["segment"] = (table["time_seconds"] / SEGMENT_SECONDS + 1e-6).astype(int)
    settled = {number: segment["label"].tail(20).mode()[0] for number, segment in table.groupby("segment")}
    seconds = {}
    for number in range(1, len(order)):
        segment = table[table["segment"] == number]
        if settled[number] != settled[number - 1]:
            others = segment.loc[segment["label"] != settled[number], "time_seconds"]
            stands = max(others, default=number * SEGMENT_SECONDS) + 1 / video.Demo.fps  # from the next frame on
            key = EMOTIONS[order[number]], settled[number]
            seconds.setdefault(key, []).append(stands - number * SEGMENT_SECONDS)
    print(f"{'face':9} {'settles in':10} {'cuts':>4} longest")
    for (face, label), times in sorted(seconds.items()):
        print(f"{face:9} {label:10} {len(times):4} {max(times):5.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
