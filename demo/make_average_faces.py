"""Make average_faces.png, the demo's faces: an average face of each emotion of FER-2013's training part.

    python demo/make_average_faces.py --data PATH

An average of hundreds (disgust) to thousands of people shows an expression and nobody in particular. Many photographs
show an emotion weakly, or another one than their label says, and blur the average; so of each emotion it takes the
half that best_model.keras is most certain of.
"""

import argparse
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SIZE = 192  # pixels, width and height of a face in the picture


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, metavar="PATH", help="FER-2013: CSV file, folder or archive")
    parser.add_argument("--model", type=Path, default=REPOSITORY / "best_model.keras", help="chooses the faces")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("average_faces.png"))
    return parser.parse_args(argv)


def average_faces(faces, labels, exaggeration=1.35, sharpening=4.0):
    """Return uint8 (7, 192, 192) average faces of uint8 (n, 48, 48, 1) faces and their labels, Kaggle's codes.

    Every face counts with the same brightness and contrast, and with its mirror image. The differences of the
    classes from their common mean are exaggerated, for an average expression is a weak one.
    """
    import cv2
    import numpy as np

    def normalize(images):
        images = images - images.mean((-2, -1), keepdims=True)
        return images / np.maximum(images.std((-2, -1), keepdims=True), 1e-6)

    normal = normalize(faces[..., 0].astype(np.float32))
    means = np.stack([normal[labels == label].mean(0) for label in range(7)])  # (7, 48, 48)
    means = (means + means[:, :, ::-1]) / 2
    common = means.mean(0)
    images = []
    for image in normalize(common + exaggeration * (means - common)):
        image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        images.append(image + sharpening * (image - cv2.GaussianBlur(image, (0, 0), SIZE / 24)))
    return np.clip(128 + 50 * normalize(np.stack(images)), 0, 255).astype(np.uint8)


def typical(labels, probabilities):
    """Return the rows of the faces whose own label has the highest of its probabilities (n, 7): half of each."""
    import numpy as np

    own = probabilities[np.arange(len(labels)), labels]
    rows = [np.flatnonzero(labels == label) for label in range(7)]
    return np.concatenate([of_class[np.argsort(-own[of_class])[: len(of_class) // 2]] for of_class in rows])


def main(argv=None):
    args = parse_args(argv)
    sys.path.insert(0, str(REPOSITORY))
    import cv2
    import numpy as np

    from data import DataError, load_fer2013
    from evaluate import predict
    from model import ModelError, load_classifier

    try:
        training = load_fer2013(args.data)["Training"]
        classifier = load_classifier(args.model)
    except (DataError, ModelError) as error:
        print(f"make_average_faces.py: {error}", file=sys.stderr)
        return 2
    training = training[typical(training.labels, predict(classifier.probabilities, training.faces))]
    average = average_faces(training.faces, training.labels)
    _, encoded = cv2.imencode(".png", np.hstack(list(average)))
    args.output.write_bytes(encoded.tobytes())
    print(f"{args.output}: 7 averages of {len(training)} faces")
    return 0


if __name__ == "__main__":
    sys.exit(main())
