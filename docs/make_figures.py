"""Make the README's explanatory pictures from the shipped model and the demo's average faces, into docs/.

    python docs/make_figures.py [--run runs/TIME]

With --run, the folder of a training or an evaluation, also its pictures that show no single person: curves, confusion,
reliability, coverage, live path. No picture holds a single face of FER-2013.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

import cascade_figure  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

import evaluate  # noqa: E402
import figures  # noqa: E402
import live_path  # noqa: E402
import main as main_program  # noqa: E402
import video  # noqa: E402
from model import EMOTIONS, IMAGE_SIZE, ModelError, count_multiply_adds, load_classifier  # noqa: E402

FROM_RUN = ("curves.png", "confusion_matrix.png", "reliability.png", "coverage.png", "live_path.png")
SHOWN = EMOTIONS.index("surprise")  # the average face that is augmented and looked through: its mouth is wide open


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=DOCS.parent / "best_model.keras", help="the model to look into")
    parser.add_argument("--run", type=Path, help="a run folder to take the pictures of scores from")
    parser.add_argument("--output", type=Path, default=DOCS, help="the folder for the pictures")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        classifier = load_classifier(args.model)
    except ModelError as error:
        print(error, file=sys.stderr)
        return 2
    large = read_average_faces()
    faces = np.stack([cv2.resize(face, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA) for face in large])
    faces = faces[..., None]  # (7, 48, 48, 1)
    draw_emotions(large, classifier, faces, args.output / "emotions.png")
    figures.draw_augmentation(faces[SHOWN : SHOWN + 1], args.output / "augmentation.png")
    draw_network(classifier.model, args.output / "network.png")
    draw_activations(classifier.model, faces[SHOWN : SHOWN + 1], args.output / "activations.png")
    captions = list(EMOTIONS)
    title = "Where the network looks for each emotion, on the average faces (Grad-CAM: bright and yellow most)"
    maps = evaluate.grad_cam(classifier.model, faces, range(len(EMOTIONS)))
    figures.draw_grad_cam(faces, maps, captions, title, args.output / "grad_cam.png")
    frames = [live_path.make_frames(faces[SHOWN : SHOWN + 1], name)[0] for name in live_path.CONDITIONS]
    title = "The conditions of the live path's evaluation, on an average face"
    figures.draw_faces(frames, list(live_path.CONDITIONS), title, args.output / "live_conditions.png", 5)
    cascade_figure.draw(large[EMOTIONS.index("neutral")], args.output / "cascade.png")
    draw_overlay(args.model, args.output / "overlay.png")
    for name in FROM_RUN if args.run else ():
        if (args.run / name).exists():
            shutil.copyfile(args.run / name, args.output / name)
    return 0


def read_average_faces() -> np.ndarray:
    """Return the demo's faces, uint8 (7, size, size)."""
    strip = cv2.imread(str(DOCS.parent / "demo" / "average_faces.png"), cv2.IMREAD_GRAYSCALE)
    return np.stack(np.hsplit(strip, len(EMOTIONS)))


def draw_emotions(large: np.ndarray, classifier, faces: np.ndarray, path: Path) -> None:
    """Draw the average face of each emotion with what the model says of it."""
    probabilities = classifier.probabilities(faces)
    captions = [
        f"{name}\n(“{EMOTIONS[row.argmax()]}” {row.max():.0%})"
        for name, row in zip(EMOTIONS, probabilities, strict=True)
    ]
    title = "An average face of each emotion, of 300 alike; below the name, what the model says"
    figures.draw_faces(large[..., None], captions, title, path)


def draw_overlay(model: Path, path: Path) -> None:
    """Draw what main.py shows in the demo, a second after each face came."""
    emotion_seconds = video.Demo().emotion_seconds
    with tempfile.TemporaryDirectory() as folder:
        film, log = Path(folder) / "demo.mp4", Path(folder) / "demo.csv"
        options = ["--model", str(model), "--output", str(film), "--log", str(log)]
        main_program.main(["--source", "demo", "--no-window", *options])
        faces = pd.read_csv(log).set_index("frame")
        capture, tiles = cv2.VideoCapture(str(film)), []
        for number in range(len(EMOTIONS)):
            frame = round((number * emotion_seconds + 1) * video.Demo.fps)
            capture.set(cv2.CAP_PROP_POS_FRAMES, frame)
            image, face = capture.read()[1], faces.loc[frame]
            x, y, side = face["x"] - 32, face["y"] - 32, face["width"] + 64  # the label is above
            tiles.append(cv2.resize(image[y : y + side, x : x + side], (200, 200), interpolation=cv2.INTER_AREA))
        capture.release()
    path.write_bytes(cv2.imencode(".png", np.hstack(tiles))[1].tobytes())


# --- the network ------------------------------------------------------------------------------------------------


def layer_groups(model) -> list[dict]:
    """Return the network block by block: what it does, its output shape, its parameters and multiply-adds."""
    groups, current = [], []
    for layer, following in zip(model.layers, [*model.layers[1:], None], strict=True):
        current.append(layer)
        kinds = [type(part).__name__ for part in current]
        block_ends = kinds[-1] in ("InputLayer", "SpatialDropout2D", "Flatten")
        block_ends |= kinds[-1] == "ReLU" and ("Add" in kinds or len(layer.output.shape) == 2 or len(groups) == 1)
        if following is not None and block_ends and type(following).__name__ != "SpatialDropout2D":
            groups.append(current)
            current = []
    groups.append(current)
    return [describe_group(group) for group in groups]


def describe_group(layers: list) -> dict:
    import types

    return {
        "lines": residual_lines(layers) if any(type(layer).__name__ == "Add" for layer in layers) else lines(layers),
        "shape": tuple(layers[-1].output.shape[1:]),
        "parameters": sum(layer.count_params() for layer in layers),
        "multiply_adds": count_multiply_adds(types.SimpleNamespace(layers=layers)),
    }


def residual_lines(layers: list) -> list[str]:
    """Return a residual block in short: pooling, its two convolutions, the weighting of channels, the shortcut."""
    convolutions = [layer for layer in layers if type(layer).__name__ == "Conv2D" and layer.kernel_size == (3, 3)]
    first, second = (f"conv 3×3, {layer.filters}" + step(layer) for layer in convolutions)
    pooled = any(type(layer).__name__ == "AveragePooling2D" for layer in layers) and convolutions[0].strides[0] == 1
    pooling = ["mean pool 2×2"] if pooled else []
    return [*pooling, first, "batch norm", "ReLU", second, "batch norm", "squeeze, excite", "+ shortcut", "ReLU"]


def step(convolution) -> str:
    """Return by how much a convolution shrinks its maps, as diagrams of residual networks write it."""
    return f", /{convolution.strides[0]}" if convolution.strides[0] > 1 else ""


def lines(layers: list) -> list[str]:
    names = {
        "Rescaling": "÷ 255", "MaxPooling2D": "max pool 2×2", "BatchNormalization": "batch norm", "ReLU": "ReLU",
        "InputLayer": "gray face", "Flatten": "flatten", "GlobalAveragePooling2D": "mean of places",
    }  # fmt: skip
    result = []
    for layer in layers:
        kind = type(layer).__name__
        if kind == "Conv2D":
            result.append(f"conv {layer.kernel_size[0]}×{layer.kernel_size[1]}, {layer.filters}" + step(layer))
        elif kind == "Dense":
            result.append(f"dense {layer.units}")
        elif "Dropout" in kind:
            result.append(f"dropout {layer.rate:g}")
        else:
            result.append(names.get(kind, kind))
    return [*result, "softmax"] if result[-1] == "dense 7" else result


@figures.styled
def draw_network(model, path: Path) -> None:
    """Draw the network block by block: its maps to scale, what happens in it, parameters, multiply-adds."""
    groups = [group for group in layer_groups(model) if group["lines"] != ["flatten"]]
    figure, axis = figures.new_figure(4.1)
    axis.set(xlim=(0, len(groups)), ylim=(-3.05, 1.2))
    axis.set_axis_off()
    for column, group in enumerate(groups):
        shape = group["shape"]
        height = shape[0] / IMAGE_SIZE if len(shape) == 3 else 0.05
        layers = min(1 + int(np.log2(shape[-1])), 9) if len(shape) == 3 else 1
        for depth in range(layers):
            corner = column + 0.1 + 0.035 * depth, 0.02 * depth
            width = 0.72 * height if len(shape) == 3 else 0.7
            axis.add_patch(patch(corner, width, height))
        axis.text(column + 0.5, -0.16, " × ".join(map(str, shape)), ha="center", va="top", fontsize=10, weight="bold")
        axis.text(column + 0.5, -0.5, "\n".join(group["lines"]), ha="center", va="top", fontsize=8.5, linespacing=1.45)
        if group["parameters"]:
            text = f"{thousands(group['parameters'])}\n{thousands(group['multiply_adds'])}"
            axis.text(column + 0.5, -2.5, text, ha="center", va="top", fontsize=9, color=figures.BLUE)
    axis.text(0.5, -2.5, "parameters\nmultiply-adds", ha="center", va="top", fontsize=9, color=figures.BLUE)
    total = f"{model.count_params() / 1e6:.2f} million parameters, {count_multiply_adds(model) / 1e6:.0f} million"
    axis.set_title(f"The network, from a face to seven probabilities: {total} multiply-adds a face")
    figure.savefig(path)


def patch(corner, width: float, height: float):
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, facecolor=figures.SKY, edgecolor="white", linewidth=0.8)


def thousands(count: int) -> str:
    """Return a count in the unit that keeps it short: 1,234 as 1.2 k, 28311552 as 28 M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return str(count)


@figures.styled
def draw_activations(model, face: np.ndarray, path: Path, shown: int = 8) -> None:
    """Draw the channels of a low, a middle and a high layer that a face (1, 48, 48, 1) varies most in."""
    import keras

    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.ReLU) and len(layer.output.shape) == 4]
    large = [layer for layer in layers if layer.output.shape[1] >= 6]  # smaller maps show nothing to the eye
    low, middle, high = large[0], large[len(large) // 2], large[-1]
    rows = (("low: edges", low), ("middle: parts", middle), ("high: patterns", high))
    outputs = keras.Model(model.input, [layer.output for _, layer in rows])(face)
    figure, axes = figures.new_figure(3.4, len(rows), shown + 1)
    for row, ((name, layer), output) in enumerate(zip(rows, outputs, strict=True)):
        maps = keras.ops.convert_to_numpy(output)[0]  # (h, w, channels)
        _, height, width, channels = layer.output.shape
        axes[row, 0].set_axis_off()
        text = f"{name}\n{height} × {width} × {channels}"
        axes[row, 0].text(0, 0.5, text, va="center", fontsize=10, transform=axes[row, 0].transAxes, linespacing=1.5)
        border = height // 12  # where the padding sets off edges that are none
        inner = maps[border : height - border, border : width - border]
        strongest = np.argsort(-inner.std(axis=(0, 1)))[:shown]
        for axis, channel in zip(axes[row, 1:], strongest, strict=True):
            figures.show_image(axis, maps[:, :, channel], vmin=0, vmax=inner[:, :, channel].max(), cmap="inferno")
    figure.suptitle(f"What the layers see in the average face of {EMOTIONS[SHOWN]}: their eight liveliest channels")
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
