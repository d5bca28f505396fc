"""Run main.py's loop on a very long demo and see whether its memory grows: python benchmarks/memory.py

Prints the resident memory after every thousand frames, and how far it has grown since the first thousand.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from emotions import EmotionDetector
from live.app import App
from live.sources import Demo
from model import UserError, shipped_model


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000, help="frames to process (default: 100000)")
    parser.add_argument("--model", type=Path, default=shipped_model(), help="instead of the included one")
    return parser.parse_args(argv)


def resident_mebibytes() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class MeasuredDemo(Demo):
    """A demo that measures the memory after every thousand frames."""

    def __init__(self, frames: int):
        super().__init__(seconds=frames / self.fps)
        self.mebibytes = []

    def __iter__(self):
        for frame in super().__iter__():
            yield frame
            if (frame.index + 1) % 1000 == 0:
                self.mebibytes.append(resident_mebibytes())
                print(f"{frame.index + 1:,} frames: {self.mebibytes[-1]:.1f} MiB", flush=True)


def main(argv=None) -> int:
    args = parse_args(argv)
    if not Path("/proc/self/statm").exists():
        sys.exit("memory.py reads /proc, which only Linux has.")
    source = MeasuredDemo(args.frames)
    try:
        App(source).run(EmotionDetector(args.model))
    except UserError as error:
        sys.exit(f"memory.py: {error}")
    if not source.mebibytes:
        sys.exit("memory.py: --frames must be 1000 or more.")
    first, growth = source.mebibytes[0], max(source.mebibytes) - source.mebibytes[0]
    print(f"{first:.1f} MiB after 1,000 frames, at most {growth:+.1f} MiB since then")
    return 0


if __name__ == "__main__":
    sys.exit(main())
