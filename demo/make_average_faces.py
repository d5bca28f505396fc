"""Make average_faces.png, the demo's faces: an average face of each emotion of FER-2013's training part.

    python demo/make_average_faces.py --data PATH

An average of 300 people shows an expression and nobody in particular. Faces are turned, scaled and shifted onto their
emotion's average first, which would be a blur otherwise. There are several ways to look afraid, and the average of all
shows none of them; so a face is averaged with those most like it. Of many such averages the shipped network chooses a
few that it is surest of, and the cascade of these the one whose box is steadiest. It takes three minutes.
"""

import argparse
import itertools
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from data import DataError, load_fer2013  # noqa: E402
from evaluate import predict  # noqa: E402
from faces import find_faces, load_cascade, to_gray  # noqa: E402
from model import EMOTIONS, ModelError, load_classifier  # noqa: E402
from video import Demo  # noqa: E402

SIZE = 192  # pixels, width and height of a face in the picture
CANDIDATES = 2000  # faces of an emotion, those that the network is surest of
AVERAGED = 300  # of them, in one average
CLOSE = 0.03  # probabilities that differ by less are as good
# Scale (logarithm), degrees, pixels to the right and down; and how likely a face is to be so far from the middle.
POSES = list(itertools.product((-0.12, -0.06, 0, 0.06, 0.12), (-9, -4.5, 0, 4.5, 9), range(-3, 4), range(-3, 4)))
USUAL_POSE = (0.08, 5, 1.5, 1.5)  # one standard deviation


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, metavar="PATH", help="FER-2013: CSV file, folder or archive")
    parser.add_argument("--model", type=Path, default=REPOSITORY / "best_model.keras", help="chooses the faces")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("average_faces.png"))
    return parser.parse_args(argv)


def normalize(images):
    """Return float32 (..., height, width) images with the same brightness and contrast: mean 0, deviation 1."""
    images = np.float32(images) - np.mean(images, (-2, -1), keepdims=True, dtype=np.float32)
    return images / np.maximum(images.std((-2, -1), keepdims=True), 1e-6)


def resize(images, size: int):
    smaller = size < images.shape[-1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.stack([cv2.resize(image, (size, size), interpolation=how) for image in images])


def features(images):
    """Return what makes a face's expression, without light and noise: a band of its frequencies (Marr-Hildreth)."""
    return np.stack([cv2.GaussianBlur(image, (0, 0), 0.8) - cv2.GaussianBlur(image, (0, 0), 4) for image in images])


def unit(rows):
    rows = rows.reshape(len(rows), -1)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def symmetric(images):
    return (images + images[..., ::-1]) / 2


def transformation(pose):
    """Return the float64 (2, 3) matrix that brings an upright 48 x 48 face into a pose."""
    scale, degrees, right, down = pose
    matrix = cv2.getRotationMatrix2D((23.5, 23.5), degrees, np.exp(scale))
    matrix[:, 2] += right, down
    return matrix


def oval():
    """Return float32 (48, 48), 1 within the face and 0 where hair and background are."""
    return cv2.ellipse(np.zeros((48, 48), np.float32), (24, 25), (18, 22), 0, 0, 360, 1, -1)


def align(faces, rounds: int = 5):
    """Return float32 (n, 96, 96) of (n, 48, 48) faces, each turned, scaled and shifted onto the average of all."""
    poses = np.array(POSES)
    unlikely = 0.0075 * ((poses / USUAL_POSE) ** 2).sum(1)
    seen = unit(features(faces))
    double = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])  # to 96 x 96
    average = symmetric(faces.mean(0))
    for _ in range(rounds):
        template = features(average[None])[0] * oval()
        posed = [cv2.warpAffine(template, transformation(pose), (48, 48), flags=cv2.INTER_CUBIC) for pose in POSES]
        chosen = poses[(seen @ unit(np.stack(posed)).T - unlikely).argmax(1)]
        chosen = chosen - chosen.mean(0)  # or the average would wander
        aligned = []
        for face, pose in zip(faces, chosen, strict=True):
            back = double @ np.linalg.inv(np.vstack([transformation(pose), [0, 0, 1]]))
            flags, border = cv2.INTER_CUBIC, cv2.BORDER_REPLICATE
            aligned.append(cv2.warpAffine(face, back[:2], (96, 96), flags=flags, borderMode=border))
        aligned = normalize(np.stack(aligned))
        average = resize(symmetric(aligned.mean(0))[None], 48)[0]
    return aligned


def draw(averages, sharpening: float = 1.0):
    """Return uint8 (n, 192, 192) pictures of average faces, a little sharpened, for averages are soft."""
    images = resize(normalize(averages), SIZE)
    soft = np.stack([cv2.GaussianBlur(image, (0, 0), SIZE / 24) for image in images])
    return np.clip(128 + 50 * normalize(images + sharpening * (images - soft)), 0, 255).astype(np.uint8)


def surest_average(faces, label: int, probabilities):
    """Return uint8 (192, 192), the average of AVERAGED faces that are alike which is surest to have the label."""
    aligned = symmetric(align(normalize(faces)))
    expression = unit(resize(features(resize(aligned, 48)), 24)[:, 1:-1, 3:-3])  # without hair and background
    alike = np.argsort(-expression @ expression.T, axis=1)[:, :AVERAGED]
    pictures = draw(np.stack([aligned[rows].mean(0) for rows in alike[::2]]))
    certainty = np.min(
        [predict(probabilities, shown[..., None])[:, label] for shown in as_the_demo_shows(pictures)], axis=0
    )
    surest = [row for row in np.argsort(-certainty)[:10] if certainty[row] >= certainty.max() - CLOSE]
    return min(pictures[surest], key=unsteadiness)


def as_the_demo_shows(pictures):
    """Yield uint8 (n, 48, 48): ovals on a dark background, in boxes of the cascade that are more or less wide."""
    ovals = np.where(oval(), resize(pictures, 48), 96).astype(np.uint8)
    for margin in range(0, 8, 3):  # pixels
        border = [(0, 0), (margin, margin), (margin, margin)]
        yield resize(np.pad(ovals, border, constant_values=96), 48)


def unsteadiness(picture) -> float:
    """Return by how many pixels at most the cascade's box lies elsewhere when a frame of the demo is mirrored."""
    cascade, demo, errors = load_cascade(), Demo(faces=cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)), []
    for index in range(0, 42, 7):
        gray = to_gray(demo.frame(index).image)
        found, mirrored = find_faces(cascade, gray), find_faces(cascade, np.ascontiguousarray(gray[:, ::-1]))
        if len(found) != 1 or len(mirrored) != 1:
            return np.inf
        x, _, width, _ = mirrored[0]
        errors.append(abs(found[0][0] - (demo.width - x - width)))
    return max(errors)


def main(argv=None):
    args = parse_args(argv)
    try:
        training = load_fer2013(args.data)["Training"]
        classifier = load_classifier(args.model)
    except (DataError, ModelError) as error:
        print(f"make_average_faces.py: {error}", file=sys.stderr)
        return 2
    training = training[np.unique(training.faces.reshape(len(training), -1), axis=0, return_index=True)[1]]
    certainty = predict(classifier.probabilities, training.faces)[np.arange(len(training)), training.labels]
    pictures = []
    for label, emotion in enumerate(EMOTIONS):
        rows = np.flatnonzero(training.labels == label)
        rows = rows[np.argsort(-certainty[rows])[:CANDIDATES]]
        pictures.append(surest_average(training.faces[rows, ..., 0], label, classifier.probabilities))
        print(f"{emotion}: {AVERAGED} of {len(rows)} faces")
    args.output.write_bytes(cv2.imencode(".png", np.hstack(pictures))[1].tobytes())
    print(f"written to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
