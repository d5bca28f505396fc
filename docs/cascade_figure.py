"""Draw how the Haar cascade finds a face, by walking through the cascade file itself, stage by stage."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

import figures
from faces import CASCADE

WINDOW = 24  # pixels, the side of the cascade's window
SCALE = 1.1  # from one size of the sliding window to the next
FRAME_WIDTH, FRAME_HEIGHT, FACE = 320, 240, 110  # pixels


@dataclass
class Stage:
    """A stage of the cascade: it passes a window whose stumps' votes sum up to the threshold."""

    threshold: float
    stumps: list[tuple[list, float, float, float]]  # rectangles (x, y, width, height, weight), threshold, votes


def read_cascade(path: Path = CASCADE) -> list[Stage]:
    """Read the stages of an OpenCV cascade of stumps."""
    root = ElementTree.parse(path).getroot().find("cascade")
    features = [
        [[float(number) for number in rectangle.text.split()] for rectangle in feature.find("rects")]
        for feature in root.find("features")
    ]
    stages = []
    for stage in root.find("stages"):
        stumps = []
        for stump in stage.find("weakClassifiers"):
            _, _, feature, threshold = stump.find("internalNodes").text.split()
            low, high = (float(number) for number in stump.find("leafValues").text.split())
            stumps.append((features[int(feature)], float(threshold), low, high))
        stages.append(Stage(float(stage.find("stageThreshold").text), stumps))
    return stages


def rectangle_sums(integral: np.ndarray, x, y, width: int, height: int) -> np.ndarray:
    """Return the sums of the pixels in rectangles, from four corners each of the integral image."""
    return (
        integral[y, x]
        - integral[y, x + width]
        - integral[y + height, x]
        + integral[y + height, x + width]
    )  # fmt: skip


def survivors(stages: list[Stage], gray: np.ndarray) -> list[np.ndarray]:
    """Return the windows (n, 2) as corners x, y that are left before the first stage and after each."""
    integral, squares = (values.astype(np.int64) for values in cv2.integral2(gray, sdepth=cv2.CV_64F))
    y, x = (values.ravel() for values in np.mgrid[0 : gray.shape[0] - WINDOW, 0 : gray.shape[1] - WINDOW])
    left = [np.stack([x, y], axis=1)]
    inner = WINDOW - 2  # OpenCV leaves the border out of the contrast
    area = inner * inner
    variance = area * rectangle_sums(squares, x + 1, y + 1, inner, inner)
    variance = np.maximum(variance - rectangle_sums(integral, x + 1, y + 1, inner, inner) ** 2, 0)
    scale = 1 / np.sqrt(np.maximum(variance, 1))
    for stage in stages:
        votes = np.zeros(len(x))
        for rectangles, threshold, low, high in stage.stumps:
            value = sum(
                weight * rectangle_sums(integral, x + int(a), y + int(b), int(width), int(height))
                for a, b, width, height, weight in rectangles
            )
            votes += np.where(value * scale < threshold, low, high)
        kept = votes >= stage.threshold
        x, y, scale = x[kept], y[kept], scale[kept]
        left.append(np.stack([x, y], axis=1))
    return left


def search(stages: list[Stage], gray: np.ndarray) -> tuple[np.ndarray, list[tuple]]:
    """Return how many windows of all sizes are left after each stage (stages + 1), and the boxes of those that stay."""
    counts, boxes, zoom = np.zeros(len(stages) + 1, int), [], 1.0
    while min(gray.shape) / zoom > WINDOW + 1:
        small = cv2.resize(gray, None, fx=1 / zoom, fy=1 / zoom, interpolation=cv2.INTER_AREA)
        left = survivors(stages, small)
        counts += [len(windows) for windows in left]
        boxes += [(x * zoom, y * zoom, WINDOW * zoom) for x, y in left[-1]]
        zoom *= SCALE
    return counts, boxes


def make_frame(face: np.ndarray) -> np.ndarray:
    """Return a gray frame uint8 (240, 320) with the face a little left of the middle, on a shaded ground."""
    rows, columns = np.mgrid[0 : 1 : FRAME_HEIGHT * 1j, 0 : 1 : FRAME_WIDTH * 1j]
    frame = 90 + 50 * rows + 20 * np.sin(9 * columns + 4 * rows)
    y, x = np.mgrid[-1 : 1 : FACE * 1j, -1 : 1 : FACE * 1j]
    mask = np.clip((1 - np.hypot(x / 0.96, y / 1.02)) * 6, 0, 1)
    place = frame[60 : 60 + FACE, 80 : 80 + FACE]
    place += mask * (cv2.resize(face, (FACE, FACE), interpolation=cv2.INTER_AREA) - place)
    return frame.astype(np.uint8)


@figures.styled
def draw(face: np.ndarray, path: Path) -> None:
    """Draw features on a face (h, w), the integral image, the stages and the sliding window."""
    stages = read_cascade()
    frame = make_frame(face)
    counts, boxes = search(stages, frame)
    figure = figures.Figure(figsize=(figures.WIDTH, 6.3), dpi=figures.DPI, layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.3))
    draw_features(top.subplots(1, 4), cv2.resize(face, (240, 240)), stages)
    sliding, rejected = bottom.subplots(1, 2)
    draw_sliding(sliding, frame, boxes)
    draw_counts(rejected, counts)
    figure.savefig(path)


def draw_features(axes, face: np.ndarray, stages: list[Stage]) -> None:
    """Draw the first stages' first features on the face, and its integral image."""
    scale = len(face) / WINDOW
    for axis, number in zip(axes[:3], (0, 1, 2), strict=True):
        figures.show_image(axis, face, f"feature of stage {number + 1}:\nwhite less black")
        rectangles = stages[number].stumps[0][0]
        for i, (x, y, width, height, weight) in enumerate(rectangles):
            color = "black" if weight < 0 else "white"
            axis.add_patch(box_patch(x * scale, y * scale, width * scale, height * scale, color, alpha=0.62 + 0.2 * i))
    integral = cv2.integral(face)[1:, 1:]
    figures.show_image(axes[3], integral, "integral image: each point\nsums up all above and left", vmax=integral.max())
    x, y, width, height = 70, 90, 110, 60
    axes[3].add_patch(box_patch(x, y, width, height, "none", edge=figures.ORANGE))
    for corner, name in (((x, y), "A"), ((x + width, y), "B"), ((x, y + height), "C"), ((x + width, y + height), "D")):
        axes[3].plot(*corner, "o", color=figures.ORANGE, markersize=5)
        axes[3].annotate(name, corner, (4, 4), textcoords="offset points", color="white", fontsize=10, weight="bold")
    axes[3].text(120, 20, "any rectangle: A − B − C + D", ha="center", fontsize=8.5, va="top", color="white")


def box_patch(x, y, width, height, color, edge="white", alpha=1.0):
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, facecolor=color, edgecolor=edge, linewidth=1.2, alpha=alpha)


def draw_sliding(axis, frame: np.ndarray, boxes: list[tuple]) -> None:
    """Draw the frame with the path of the sliding window, the windows that pass every stage, and their mean."""
    figures.show_image(axis, frame)
    for side, y in ((WINDOW, 6), (2 * WINDOW, 14), (4 * WINDOW, 24)):
        for step in range(3):
            x = 200 + step * side / 8 if side == 4 * WINDOW else 6 + step * side / 4 + (0 if side == WINDOW else 60)
            axis.add_patch(box_patch(x, y, side, side, "none", edge="white", alpha=0.9))
    for x, y, side in boxes:
        axis.add_patch(box_patch(x, y, side, side, "none", edge=figures.SKY, alpha=0.25))
    if boxes:
        x, y, side = np.median(boxes, axis=0)
        axis.add_patch(box_patch(x, y, side, side, "none", edge=figures.ORANGE))
    text = f"a window slides over the frame in all sizes (white: a few);\nblue: the {len(boxes)} that pass every stage"
    axis.set_title(f"{text}; orange: the face, their middle", fontsize=8.5, loc="left")


def draw_counts(axis, counts: np.ndarray) -> None:
    """Draw how many windows are left after each stage, on a logarithmic scale."""
    axis.bar(range(len(counts)), np.maximum(counts, 0.8), color=figures.SKY)
    axis.bar([0], counts[:1], color=figures.GRAY)
    axis.set_yscale("log")
    axis.set(xlabel="stage", ylabel="windows that are left")
    axis.grid(True)
    gone = 1 - counts[3] / counts[0]
    axis.set_title(
        f"{counts[0]:,} windows (gray), {gone:.0%} of them\nrejected by the first three of {len(counts) - 1} stages",
        fontsize=8.5,
    )
    axis.set_ylim(top=counts[0] * 4)
    for stage in (0, 5, 10, len(counts) - 1):
        axis.text(stage, counts[stage] * 1.15, f"{counts[stage]:,}", ha="center", fontsize=8)
