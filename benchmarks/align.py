"""Does levelling the eyes pay? Accuracy on PublicTest faces rotated by -30 to 30 degrees, with and without.

python benchmarks/align.py --data PATH [--faces 1000]
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np

from data import PUBLIC_TEST, load_fer2013
from emotions.faces import crop_faces, find_tilt, load_cascade
from model import BEST_MODEL, UserError, load_classifier

SIDE = 192  # pixels, width and height of a face before it is rotated
ANGLES = (-30, -20, -10, 0, 10, 20, 30)  # degrees


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="PATH", help="FER-2013: CSV file, folder or archive")
    parser.add_argument("--faces", type=int, default=1000, help="how many faces of PublicTest, from its start")
    parser.add_argument("--model", type=Path, default=BEST_MODEL)
    return parser.parse_args(argv)


def rotated(face: np.ndarray, degrees: float) -> np.ndarray:
    """Return a face uint8 (48, 48) enlarged and rotated clockwise, its edges continued."""
    face = cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    rotation = cv2.getRotationMatrix2D(((SIDE - 1) / 2,) * 2, -degrees, 1.0)
    return cv2.warpAffine(face, rotation, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        classifier = load_classifier(args.model)
        split = load_fer2013(args.data)[PUBLIC_TEST]
    except UserError as error:
        sys.exit(f"align.py: {error}")
    eyes = load_cascade(Path(cv2.data.haarcascades) / "haarcascade_eye.xml")
    faces, labels = split.faces[: args.faces, :, :, 0], split.labels[: args.faces]
    box = (0, 0, SIDE, SIDE)
    print(f"{len(faces)} faces of PublicTest; eyes that are exactly level count as not found")
    print("rotated   unchanged   level   eyes found   mean error   ms a face")
    for angle in ANGLES:
        images = [rotated(face, angle) for face in faces]
        start = time.perf_counter()
        tilts = np.array([find_tilt(eyes, image, box) for image in images])
        milliseconds = 1000 * (time.perf_counter() - start) / len(images)
        unchanged = np.concatenate([crop_faces(image, [box]) for image in images])
        level = np.concatenate([crop_faces(image, [box], [tilt]) for image, tilt in zip(images, tilts, strict=True)])
        accuracy = [(classifier.probabilities(crops).argmax(1) == labels).mean() for crops in (unchanged, level)]
        found = tilts != 0
        error = np.abs(tilts[found] - angle).mean() if found.any() else float("nan")
        print(
            f"{angle:+6d}°  {accuracy[0]:9.1%}  {accuracy[1]:6.1%}   {found.mean():10.0%}   {error:9.1f}°   "
            f"{milliseconds:9.1f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
