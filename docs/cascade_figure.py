"""Draw how the Haar cascade finds a face, by running the cascade file stage by stage."""

from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from matplotlib.patches import Rectangle

from emotions.faces import CASCADE
from evaluation import figures
from live.sources import soft_ellipse

WINDOW = 24  # pixels, the side of the cascade's window
SCALE = 1.1  # from one size of the sliding window to the next
FRAME_WIDTH, FRAME_HEIGHT, FACE = 320, 240, 110  # pixels


def read_cascade(path: Path = CASCADE) -> list[tuple[float, list]]:
    """Return the stages of an OpenCV cascade of stumps: (threshold, stumps).

    A stump is (rectangles (x, y, width, height, weight), threshold, vote below it, vote from it on). A window passes a
    stage if the sum of its stumps' votes reaches the stage's threshold.
    """
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
            below, above = (float(number) for number in stump.find("leafValues").text.split())
            stumps.append((features[int(feature)], float(threshold), below, above))
        stages.append((float(stage.find("stageThreshold").text), stumps))
    return stages


def rectangle_sums(integral: np.ndarray, x, y, width: int, height: int) -> np.ndarray:
    """Return the sums of the pixels in rectangles, each from four corners of the integral image."""
    low = y + height
    return integral[y, x] - integral[y, x + width] - integral[low, x] + integral[low, x + width]


def survivors(stages: list, gray: np.ndarray) -> list[np.ndarray]:
    """Return the windows (n, 2) as corners x, y that are left before the first stage and after each."""
    integral, squares = (values.astype(np.int64) for values in cv2.integral2(gray, sdepth=cv2.CV_64F))
    y, x = (values.ravel() for values in np.mgrid[0 : gray.shape[0] - WINDOW, 0 : gray.shape[1] - WINDOW])
    left = [np.stack([x, y], axis=1)]
    inner = WINDOW - 2  # OpenCV measures the contrast without the border
    variance = inner**2 * rectangle_sums(squares, x + 1, y + 1, inner, inner)
    variance = np.maximum(variance - rectangle_sums(integral, x + 1, y + 1, inner, inner) ** 2, 0)
    scale = 1 / np.sqrt(np.maximum(variance, 1))
    for stage_threshold, stumps in stages:
        votes = np.zeros(len(x))
        for rectangles, threshold, below, above in stumps:
            value = sum(
                weight * rectangle_sums(integral, x + int(a), y + int(b), int(width), int(height))
                for a, b, width, height, weight in rectangles
            )
            votes += np.where(value * scale < threshold, below, above)
        kept = votes >= stage_threshold
        x, y, scale = x[kept], y[kept], scale[kept]
        left.append(np.stack([x, y], axis=1))
    return left


def search(stages: list, gray: np.ndarray) -> tuple[np.ndarray, list[tuple]]:
    """Return how many windows of all sizes are left after each stage (stages + 1), and the boxes left at the end."""
    counts, boxes, zoom = np.zeros(len(stages) + 1, int), [], 1.0
    while min(gray.shape) / zoom > WINDOW + 1:
        small = cv2.resize(gray, None, fx=1 / zoom, fy=1 / zoom, interpolation=cv2.INTER_AREA)
        left = survivors(stages, small)
        counts += [len(windows) for windows in left]
        boxes += [(x * zoom, y * zoom, WINDOW * zoom) for x, y in left[-1]]
        zoom *= SCALE
    return counts, boxes


def make_frame(face: np.ndarray) -> np.ndarray:
    """Return a gray frame uint8 (240, 320) with the face left of the middle, on a shaded background."""
    rows, columns = np.mgrid[0 : 1 : FRAME_HEIGHT * 1j, 0 : 1 : FRAME_WIDTH * 1j]
    frame = 90 + 50 * rows + 20 * np.sin(9 * columns + 4 * rows)
    place = frame[60 : 60 + FACE, 80 : 80 + FACE]
    place += soft_ellipse(FACE) * (cv2.resize(face, (FACE, FACE), interpolation=cv2.INTER_AREA) - place)
    return frame.astype(np.uint8)


@figures.styled
def draw(face: np.ndarray, path: Path) -> None:
    """Draw features on a face (h, w), the integral image, the sliding window and the stages."""
    stages, frame = read_cascade(), make_frame(face)
    counts, boxes = search(stages, frame)
    figure = figures.Figure(figsize=(figures.WIDTH, 6.3), dpi=figures.DPI, layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.3))
    features = top.subplots(1, 4)
    face = cv2.resize(face, (240, 240))
    draw_features(features[:3], face, stages)
    draw_integral_image(features[3], face)
    sliding, stage_counts = bottom.subplots(1, 2)
    draw_sliding(sliding, frame, boxes)
    draw_counts(stage_counts, counts)
    figure.savefig(path)


def draw_features(axes, face: np.ndarray, stages: list) -> None:
    """Draw the first feature of the first stages on the face."""
    scale = len(face) / WINDOW
    for number, (axis, (_, stumps)) in enumerate(zip(axes, stages, strict=False), 1):
        figures.show_image(axis, face, f"feature of stage {number}:\nwhite minus black")
        for i, (x, y, width, height, weight) in enumerate(stumps[0][0]):
            color = "black" if weight < 0 else "white"
            corner = x * scale, y * scale
            axis.add_patch(box_patch(corner, width * scale, height * scale, color=color, alpha=0.62 + 0.2 * i))


def draw_integral_image(axis, face: np.ndarray) -> None:
    """Draw the integral image and the four corners that a rectangle's sum needs."""
    integral = cv2.integral(face)[1:, 1:]
    caption = "integral image: each pixel is\nthe sum of all above and left"
    figures.show_image(axis, integral, caption, vmax=integral.max())
    x, y, width, height = 70, 90, 110, 60
    axis.add_patch(box_patch((x, y), width, height, edge=figures.ORANGE))
    for corner, name in (((x, y), "A"), ((x + width, y), "B"), ((x, y + height), "C"), ((x + width, y + height), "D")):
        axis.plot(*corner, "o", color=figures.ORANGE, markersize=5)
        axis.annotate(name, corner, (4, 4), textcoords="offset points", color="white", weight="bold")
    axis.text(120, 20, "any rectangle: A − B − C + D", ha="center", fontsize=8.5, va="top", color="white")


def box_patch(corner, width, height, color="none", edge="white", alpha=1.0) -> Rectangle:
    return Rectangle(corner, width, height, facecolor=color, edgecolor=edge, linewidth=1.2, alpha=alpha)


def draw_sliding(axis, frame: np.ndarray, boxes: list[tuple]) -> None:
    """Draw the frame with a few sliding windows, the windows that pass every stage, and their median."""
    figures.show_image(axis, frame)
    for side, x, y in ((WINDOW, 6, 6), (2 * WINDOW, 66, 14), (4 * WINDOW, 200, 24)):
        for step in range(3):
            axis.add_patch(box_patch((x + step * side / (8 if side > 50 else 4), y), side, side, alpha=0.9))
    for x, y, side in boxes:
        axis.add_patch(box_patch((x, y), side, side, edge=figures.SKY, alpha=0.25))
    x, y, side = np.median(boxes, axis=0)
    axis.add_patch(box_patch((x, y), side, side, edge=figures.ORANGE))
    text = f"a window slides over the frame in all sizes (white: a few);\nblue: the {len(boxes)} that pass every stage"
    axis.set_title(f"{text}; orange: their median, the face", fontsize=8.5, loc="left")


def draw_counts(axis, counts: np.ndarray) -> None:
    """Draw how many windows are left after each stage, on a logarithmic scale."""
    axis.bar(range(len(counts)), counts, color=[figures.GRAY] + [figures.SKY] * (len(counts) - 1))
    axis.set_yscale("log")
    axis.set(xlabel="stage", ylabel="windows that are left")
    axis.set_ylim(top=counts[0] * 4)
    axis.grid(True)
    rejected = f"{1 - counts[3] / counts[0]:.0%} of them\nrejected by the first three of {len(counts) - 1} stages"
    axis.set_title(f"{counts[0]:,} windows (gray), {rejected}", fontsize=8.5)
    for stage in (0, 5, 10, len(counts) - 1):
        axis.text(stage, counts[stage] * 1.15, f"{counts[stage]:,}", ha="center", fontsize=8)
