"""Run main.py on the demo for very long and see whether its memory grows: python benchmarks/memory.py

Prints the resident memory after the first thousand frames, and at the end, where it stood highest since.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000, help="frames to run through (default: 100000)")
    return parser.parse_args(argv)


def resident_mebibytes() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(argv=None) -> int:
    args = parse_args(argv)
    if not Path("/proc/self/statm").exists():
        sys.exit("memory.py reads /proc, which only Linux has.")

    import main as program
    import video

    measured = []

    class LongDemo(video.Demo):
        def __init__(self):
            super().__init__(seconds=args.frames / self.fps)

        def __iter__(self):
            for frame in super().__iter__():
                yield frame
                if (frame.index + 1) % 1000 == 0:
                    measured.append(resident_mebibytes())
                    print(f"{frame.index + 1:,} frames: {measured[-1]:.1f} MiB", flush=True)

    video.Demo = LongDemo
    status = program.main(["--source", "demo", "--no-window"])
    if not measured:
        sys.exit(status or "memory.py: --frames must be 1000 or more.")
    print(f"{measured[0]:.1f} MiB after 1,000 frames, at most {max(measured) - measured[0]:+.1f} MiB since then")
    return status


if __name__ == "__main__":
    sys.exit(main())
