"""Draw the README's figures from the shipped model and the demo's average faces, into docs/.

    python docs/make_figures.py [--run runs/TIME]

With --run, the folder of a training or an evaluation, also copy its figures without faces: curves, confusion matrices,
reliability, end to end. No figure shows a single face of FER-2013.
"""

import argparse
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

import cascade_figure  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

from data import Augmentation, augment  # noqa: E402
from emotions import EmotionDetector  # noqa: E402
from evaluation import figures, robustness  # noqa: E402
from evaluation.grad_cam import grad_cam  # noqa: E402
from live.sources import soft_ellipse  # noqa: E402
from live.view import View  # noqa: E402
from model import BEST_MODEL, EMOTIONS, IMAGE_SIZE, OUTPUTS, UserError, count_multiply_adds, load_classifier  # noqa: E402

FROM_RUN = ("curves", "ten_people", "confusion_matrix", "reliability", "end_to_end")
SHOWN = EMOTIONS.index("surprise")  # the average face in the figures of one: its mouth is wide open


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=BEST_MODEL, help="a .keras model")
    parser.add_argument("--run", type=Path, help="a run folder to copy the figures of scores from")
    parser.add_argument("--output", type=Path, default=DOCS, help="the folder for the figures")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        classifier = load_classifier(args.model)
    except UserError as error:
        print(f"make_figures.py: {error}", file=sys.stderr)
        return 2
    strip = cv2.imread(str(DOCS.parent / "demo" / "average_faces.png"), cv2.IMREAD_GRAYSCALE)
    large = np.stack(np.hsplit(strip, len(EMOTIONS)))  # (7, 192, 192)
    small = [cv2.resize(face, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA) for face in large]
    faces = np.stack(small)[..., None]  # (7, 48, 48, 1)
    shown = faces[SHOWN : SHOWN + 1]
    draw_emotions(large, classifier.probabilities(faces), args.output / "emotions.png")
    draw_window(classifier, large, args.output / "window.png")
    draw_augmentation(shown, args.output / "augmentation.png")
    draw_network(classifier.model, args.output / "network.png")
    draw_activations(classifier.model, shown, args.output / "activations.png")
    maps = grad_cam(classifier.model, faces, range(len(EMOTIONS)), classifier.labels)
    title = "Image regions that support each emotion, on the average faces (Grad-CAM, bright yellow: most)"
    figures.draw_grad_cam(faces, maps, list(EMOTIONS), title, args.output / "grad_cam.png")
    draw_conditions(shown, args.output / "conditions.png")
    cascade_figure.draw(large[EMOTIONS.index("neutral")], args.output / "cascade.png")
    for name in FROM_RUN if args.run else ():
        if (args.run / f"{name}.png").exists():
            shutil.copyfile(args.run / f"{name}.png", args.output / f"{name}.png")
    return 0


def draw_emotions(large: np.ndarray, probabilities: np.ndarray, path: Path) -> None:
    """Draw the average faces (7, h, w) with the model's predictions (7, 7)."""
    captions = [
        f"{name}\n→ {EMOTIONS[row.argmax()]} {row.max():.0%}" for name, row in zip(EMOTIONS, probabilities, strict=True)
    ]
    title = "The average of many similar faces of each emotion (→ the model's prediction and its confidence)"
    figures.draw_faces(large[..., None], captions, title, path)


def draw_window(classifier, large: np.ndarray, path: Path) -> None:
    """Draw what main.py shows of two average faces (7, h, w), one of them tilted, after the key p."""
    frame, view = np.linspace((96, 88, 84), (136, 112, 96), 400 * 900).reshape(400, 900, 3), View()
    size = large.shape[1]
    ellipse = soft_ellipse(size)
    for emotion, column, zoom, tilt_degrees in (("happy", 160, 1.2, 18), ("surprise", 600, 1.0, 0)):
        place = cv2.getRotationMatrix2D((size / 2, size / 2), -tilt_degrees, zoom)
        place[:, 2] += column - size / 2, 210 - size / 2
        face = np.float32(large[EMOTIONS.index(emotion)])
        face, mask = (cv2.warpAffine(layer, place, (900, 400))[..., None] for layer in (face, ellipse))
        frame += mask * (face - frame)
    frame = np.uint8(frame.round())
    view.bars = True
    view.update(frame, EmotionDetector(classifier).track(frame, 0.0))
    cv2.imwrite(str(path), view.rendered("30 fps", ""))


def draw_augmentation(face: np.ndarray, path: Path) -> None:
    """Draw a face (1, 48, 48, 1) under a strong draw of each augmentation, then under all of them at random."""
    full = Augmentation()
    off = {field.name: type(field.default)(0) for field in fields(Augmentation)}
    names = {
        "rotation_degrees": f"rotation (±{full.rotation_degrees:.0f}°)",
        "zoom": f"zoom (±{full.zoom:.0%})",
        "shift": f"shift (±{full.shift:.0%})",
        "flip": "flip",
        "brightness": f"brightness (±{full.brightness:.0%})",
        "contrast": f"contrast (±{full.contrast:.0%})",
        "erase": "random erasing",
    }
    if np.array_equal(face, face[:, :, ::-1]):
        del names["flip"]  # it changes nothing

    def draws(settings: Augmentation, count: int) -> np.ndarray:
        return augment(np.repeat(face, count, axis=0), np.random.default_rng(0), settings)

    faces, captions = [face[0]], ["original"]
    for name, caption in names.items():
        variants = draws(Augmentation(**off | {name: getattr(full, name)}), 40)
        changes = np.abs(variants - face).mean(axis=(1, 2, 3))
        faces.append(variants[np.argmax(changes)])  # a strong draw; most are weak
        captions.append(caption)
    rest = -len(faces) % 5 + 5
    faces.extend(draws(full, rest))
    captions.extend(f"all, draw {number + 1}" for number in range(rest))
    figures.draw_faces(np.stack(faces), captions, "One face under each augmentation, and under all of them", path, 5)


def draw_conditions(face: np.ndarray, path: Path) -> None:
    """Draw the frame of a face (1, 48, 48, 1) under each condition of the end-to-end evaluation."""
    frames = {name: robustness.make_frames(face, name)[0] for name in robustness.CONDITIONS}
    shifted, box = frames[robustness.CLEAN].copy(), robustness.true_box(robustness.FACE_PIXELS)
    x, y, width, height = map(round, robustness.shift_box(box, np.random.default_rng(0)))
    frames[robustness.SHIFTED] = cv2.rectangle(shifted, (x, y), (x + width, y + height), 255)
    figures.draw_faces(list(frames.values()), list(frames), "End to end: the conditions, on one face", path, 6)


# --- the network ------------------------------------------------------------------------------------------------


def kind(layer) -> str:
    return type(layer).__name__


def layer_groups(model) -> list[list]:
    """Return the layers block by block: the input, the stem, every residual block or pooling block, the head."""
    groups, current = [], []
    for layer, following in zip(model.layers, [*model.layers[1:], None], strict=True):
        current.append(layer)
        kinds = [kind(part) for part in current]
        ends = kinds[-1] in ("InputLayer", "SpatialDropout2D", "Flatten")
        ends |= kinds[-1] == "ReLU" and ("Add" in kinds or len(layer.output.shape) == 2 or len(groups) == 1)
        if following is not None and ends and kind(following) != "SpatialDropout2D":
            groups.append(current)
            current = []
    return [group for group in [*groups, current] if kind(group[-1]) != "Flatten"]


def describe_layers(layers: list) -> list[str]:
    """Return a line per layer; a residual block in short, without its squeeze-and-excitation and shortcut layers."""
    if any(kind(layer) == "Add" for layer in layers):
        convolutions = [layer for layer in layers if kind(layer) == "Conv2D" and layer.kernel_size == (3, 3)]
        first, second = map(describe_convolution, convolutions)
        pooled = any(kind(layer) == "AveragePooling2D" for layer in layers) and convolutions[0].strides[0] == 1
        pooling = ["mean pool 2×2"] if pooled else []
        return [*pooling, first, "batch norm", "ReLU", second, "batch norm", "squeeze, excite", "+ shortcut", "ReLU"]
    if [layer.name for layer in layers[-2:]] == list(OUTPUTS):
        return [*describe_layers(layers[:-2]), "dense 7, softmax:", " | ".join(OUTPUTS)]
    names = {
        "Rescaling": "÷ 255", "MaxPooling2D": "max pool 2×2", "BatchNormalization": "batch norm", "ReLU": "ReLU",
        "InputLayer": "gray face", "GlobalAveragePooling2D": "global mean",
    }  # fmt: skip
    result = []
    for layer in layers:
        if kind(layer) == "Conv2D":
            result.append(describe_convolution(layer))
        elif kind(layer) == "Dense":
            result += [f"dense {layer.units}"] + ["softmax"] * (layer.units == len(EMOTIONS))
        else:
            result.append(
                f"dropout {layer.rate:g}" if "Dropout" in kind(layer) else names.get(kind(layer), kind(layer))
            )
    return result


def describe_convolution(layer) -> str:
    stride = f", /{layer.strides[0]}" if layer.strides[0] > 1 else ""  # as diagrams of residual networks write it
    return f"conv {layer.kernel_size[0]}×{layer.kernel_size[1]}, {layer.filters}{stride}"


@figures.styled
def draw_network(model, path: Path) -> None:
    """Draw the network block by block: its maps to scale, its layers, parameters, multiply-adds."""
    groups = layer_groups(model)
    figure, axis = figures.new_figure(4.1)
    axis.set(xlim=(0, len(groups)), ylim=(-3.05, 1.2))
    axis.set_axis_off()
    for column, layers in enumerate(groups):
        outputs = [layer.output for layer in layers if layer.output in model.outputs]
        draw_maps(axis, column, (len(outputs),) * (len(outputs) > 1) + layers[-1].output.shape[1:])
        text = {"ha": "center", "va": "top"}
        lines = "\n".join(describe_layers(layers))
        axis.text(column + 0.5, -0.5, lines, fontsize=8.5, linespacing=1.45, **text)
        parameters = sum(layer.count_params() for layer in layers)
        counts = "parameters\nmultiply-adds"
        if parameters:
            counts = f"{short(parameters)}\n{short(count_multiply_adds(SimpleNamespace(layers=layers)))}"
        axis.text(column + 0.5, -2.5, counts, fontsize=9, color=figures.BLUE, **text)
    total = f"{model.count_params() / 1e6:.2f} million parameters, {count_multiply_adds(model) / 1e6:.0f} million"
    axis.set_title(f"The network, from a face to its probabilities: {total} multiply-adds per face")
    figure.savefig(path)


def draw_maps(axis, column: int, shape) -> None:
    """Draw maps (h, w, channels) to scale, one behind the other, or a bar for (units,), and below it their shape."""
    is_map = len(shape) == 3
    height = shape[0] / IMAGE_SIZE if is_map else 0.05
    for depth in range(min(1 + int(np.log2(shape[-1])), 9) if is_map else 1):
        corner = column + 0.1 + 0.035 * depth, 0.02 * depth
        width = 0.72 * height if is_map else 0.7
        axis.add_patch(Rectangle(corner, width, height, facecolor=figures.SKY, edgecolor="white", linewidth=0.8))
    axis.text(column + 0.5, -0.16, " × ".join(map(str, shape)), ha="center", va="top", weight="bold")


def short(count: int) -> str:
    """Return a count in the unit that keeps it short: 1,234 as 1.2 k, 28311552 as 28 M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return str(count)


@figures.styled
def draw_activations(model, face: np.ndarray, path: Path, shown: int = 8) -> None:
    """Draw the channels with the highest contrast of a low, a middle and a high layer, for a face (1, 48, 48, 1)."""
    import keras

    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.ReLU) and len(layer.output.shape) == 4]
    large = [layer for layer in layers if layer.output.shape[1] >= 6]  # smaller maps show nothing to the eye
    rows = (("low: edges", large[0]), ("middle: parts", large[len(large) // 2]), ("high: patterns", large[-1]))
    outputs = keras.Model(model.input, [layer.output for _, layer in rows])(face)
    figure, axes = figures.new_figure(3.4, len(rows), shown + 1)
    for row, ((name, layer), output) in enumerate(zip(rows, outputs, strict=True)):
        maps = keras.ops.convert_to_numpy(output)[0]  # (h, w, channels)
        _, height, width, channels = layer.output.shape
        axes[row, 0].set_axis_off()
        text = f"{name}\n{height} × {width} × {channels}"
        axes[row, 0].text(0, 0.5, text, va="center", transform=axes[row, 0].transAxes, linespacing=1.5)
        border = height // 12  # padding causes false edges there
        inner = maps[border : height - border, border : width - border]
        strongest = np.argsort(-inner.std(axis=(0, 1)))[:shown]
        for axis, channel in zip(axes[row, 1:], strongest, strict=True):
            figures.show_image(axis, maps[:, :, channel], vmin=0, vmax=inner[:, :, channel].max(), cmap="inferno")
    figure.suptitle(f"Feature maps of the average face of {EMOTIONS[SHOWN]}: the eight channels of highest contrast")
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
