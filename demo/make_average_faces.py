"""Make average_faces.png, the demo's faces: an average face of each emotion from FER-2013's training faces.

    python demo/make_average_faces.py --data PATH

An average of 60 people shows an expression but nobody in particular. The shipped network selects the faces, by its
confidence times the share of FER+'s votes where these are beside the data. Faces are first rotated, scaled and shifted
onto the average of their emotion, to avoid blur. Because there are several ways to look afraid, each face is averaged
with those most similar to it. Of many such averages the network selects the ten of highest confidence, and the cascade
the one of these with the steadiest box. Takes two minutes.
"""

import argparse
import itertools
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from data import TRAINING, load_fer2013  # noqa: E402
from emotions.faces import find_faces, load_cascade, to_gray  # noqa: E402
from evaluation.metrics import predict  # noqa: E402
from live.sources import Demo  # noqa: E402
from model import BEST_MODEL, EMOTIONS, UserError, load_classifier  # noqa: E402

SIZE = 192  # pixels, width and height of a face in the result
CANDIDATES = 200  # faces of an emotion, the most suitable: people see fear and disgust in few
AVERAGED = 60  # of them, in one average
CLOSE = 0.03  # probabilities that differ by less count as equal
# Scale (logarithm), degrees, pixels to the right and down; and the prior of these: one standard deviation.
POSES = list(itertools.product((-0.12, -0.06, 0, 0.06, 0.12), (-9, -4.5, 0, 4.5, 9), range(-3, 4), range(-3, 4)))
POSE_DEVIATION = (0.08, 5, 1.5, 1.5)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, metavar="PATH", help="FER-2013: CSV file, folder or archive")
    parser.add_argument("--model", type=Path, default=BEST_MODEL, help="selects the faces")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("average_faces.png"))
    return parser.parse_args(argv)


def normalize(images):
    """Return float32 (..., height, width) images of the same brightness and contrast: mean 0, deviation 1."""
    images = np.float32(images) - np.mean(images, (-2, -1), keepdims=True, dtype=np.float32)
    return images / np.maximum(images.std((-2, -1), keepdims=True), 1e-6)


def resize(images, size: int):
    interpolation = cv2.INTER_AREA if size < images.shape[-1] else cv2.INTER_CUBIC
    return np.stack([cv2.resize(image, (size, size), interpolation=interpolation) for image in images])


def features(images):
    """Return a band of spatial frequencies (Marr-Hildreth): the expression without light and noise."""
    return np.stack([cv2.GaussianBlur(image, (0, 0), 0.8) - cv2.GaussianBlur(image, (0, 0), 4) for image in images])


def unit(images):
    """Return images as rows (n, pixels) of length 1."""
    rows = images.reshape(len(images), -1)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def symmetric(images):
    return (images + images[..., ::-1]) / 2


def pose_matrix(pose):
    """Return the float64 (2, 3) matrix from an upright 48 x 48 face to a pose."""
    scale, degrees, right, down = pose
    matrix = cv2.getRotationMatrix2D((23.5, 23.5), degrees, np.exp(scale))
    matrix[:, 2] += right, down
    return matrix


def oval():
    """Return float32 (48, 48), 1 within the face and 0 on hair and background."""
    return cv2.ellipse(np.zeros((48, 48), np.float32), (24, 25), (18, 22), 0, 0, 360, 1, -1)


def align(faces, rounds: int = 5):
    """Return float32 (n, 96, 96) of faces (n, 48, 48), each rotated, scaled and shifted onto the average of all."""
    poses = np.array(POSES)
    penalty = 0.0075 * ((poses / POSE_DEVIATION) ** 2).sum(1)
    rows = unit(features(faces))
    double = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])  # to 96 x 96
    average = symmetric(faces.mean(0))
    for _ in range(rounds):
        template = features(average[None])[0] * oval()
        posed = [cv2.warpAffine(template, pose_matrix(pose), (48, 48), flags=cv2.INTER_CUBIC) for pose in POSES]
        chosen = poses[(rows @ unit(np.stack(posed)).T - penalty).argmax(1)]
        chosen = chosen - chosen.mean(0)  # or the average would drift
        aligned = []
        for face, pose in zip(faces, chosen, strict=True):
            back = double @ np.linalg.inv(np.vstack([pose_matrix(pose), [0, 0, 1]]))
            flags, border = cv2.INTER_CUBIC, cv2.BORDER_REPLICATE
            aligned.append(cv2.warpAffine(face, back[:2], (96, 96), flags=flags, borderMode=border))
        aligned = normalize(np.stack(aligned))
        average = resize(symmetric(aligned.mean(0))[None], 48)[0]
    return aligned


def render(averages, sharpening: float = 1.0):
    """Return averages as uint8 (n, 192, 192), sharpened a little because averages are soft."""
    images = resize(normalize(averages), SIZE)
    soft = np.stack([cv2.GaussianBlur(image, (0, 0), SIZE / 24) for image in images])
    return np.clip(128 + 50 * normalize(images + sharpening * (images - soft)), 0, 255).astype(np.uint8)


def best_average(faces, label: int, classify):
    """Return uint8 (192, 192): the average of AVERAGED similar faces (n, 48, 48) that shows the label best."""
    aligned = symmetric(align(normalize(faces)))
    rows = unit(resize(features(resize(aligned, 48)), 24)[:, 1:-1, 3:-3])  # without hair and background
    similar = np.argsort(-rows @ rows.T, axis=1)[:, :AVERAGED]
    averages = render(np.stack([aligned[group].mean(0) for group in similar[::2]]))
    confidence = np.min([predict(classify, crop[..., None])[:, label] for crop in demo_crops(averages)], axis=0)
    best = [row for row in np.argsort(-confidence)[:10] if confidence[row] >= confidence.max() - CLOSE]
    return min(averages[best], key=box_instability)


def demo_crops(averages):
    """Yield uint8 (n, 48, 48) crops as in the demo: ovals on a dark background, in boxes of several sizes."""
    ovals = np.where(oval(), resize(averages, 48), 96).astype(np.uint8)
    for margin in range(0, 8, 3):  # pixels
        border = [(0, 0), (margin, margin), (margin, margin)]
        yield resize(np.pad(ovals, border, constant_values=96), 48)


def box_instability(face) -> float:
    """Return by how many pixels at most the cascade's box moves when a frame of the demo is mirrored."""
    cascade, demo, errors = load_cascade(), Demo(faces=cv2.cvtColor(face, cv2.COLOR_GRAY2BGR)), []
    for index in range(0, 42, 7):
        gray = to_gray(demo.frame(index).image)
        found, mirrored = find_faces(cascade, gray), find_faces(cascade, np.ascontiguousarray(gray[:, ::-1]))
        if len(found) != 1 or len(mirrored) != 1:
            return np.inf
        errors.append(abs(found[0].box[0] - mirrored[0].mirrored(demo.width).box[0]))
    return max(errors)


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        training = load_fer2013(args.data)[TRAINING]
        classify = load_classifier(args.model).probabilities
    except UserError as error:
        print(f"make_average_faces.py: {error}", file=sys.stderr)
        return 2
    training = training[np.unique(training.faces.reshape(len(training), -1), axis=0, return_index=True)[1]]
    targets = training.targets()  # (n, 7), or with votes (n, 2, 7)
    suitable = predict(classify, training.faces) * (targets if targets.ndim == 2 else targets[:, 1])
    averages = []
    for label, emotion in enumerate(EMOTIONS):
        rows = np.argsort(-suitable[:, label])[:CANDIDATES]
        rows = rows[suitable[rows, label] > 0]
        averages.append(best_average(training.faces[rows, ..., 0], label, classify))
        print(f"{emotion}: {AVERAGED} of {len(rows)} faces")
    args.output.write_bytes(cv2.imencode(".png", np.hstack(averages))[1].tobytes())
    print(f"written to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
