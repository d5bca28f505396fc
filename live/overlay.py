"""Drawing on a frame: boxes, labels, bars, messages.

Every function draws on the BGR uint8 image it is given, which must be contiguous (`.copy()` of a view is).
"""

import cv2
import numpy as np

from emotions.smoothing import UNCERTAIN
from model import EMOTIONS

# Okabe and Ito's palette, distinguishable for colour-blind people, as BGR.
COLORS = {
    "angry": (0, 94, 213),  # vermilion
    "disgust": (115, 158, 0),  # green
    "fear": (167, 121, 204),  # purple
    "happy": (66, 228, 240),  # yellow
    "sad": (178, 114, 0),  # blue
    "surprise": (0, 159, 230),  # orange
    "neutral": (233, 180, 86),  # sky blue
    UNCERTAIN: (170, 170, 170),  # gray
}
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
FONT = cv2.FONT_HERSHEY_SIMPLEX
KEYS = (
    ("q, Esc", "quit"),
    ("space", "pause"),
    ("s", "save a snapshot"),
    ("p", "probabilities"),
    ("m", "mirror"),
    ("h", "this help"),
)


def text_scale(shape) -> float:
    """Return the font scale for a frame of this shape: 0.6 at 480 lines, never too small to read."""
    return min(max(min(shape[0], shape[1] * 0.75) / 800, 0.4), 4.0)


def draw_faces(image: np.ndarray, faces, bars: bool = False) -> None:
    """Draw the boxes and labels of faces (`emotions.Face`), and with `bars` their probabilities."""
    for face in faces if bars else []:  # first, so that no label is hidden by another face's bars
        draw_bars(image, face.box, face.probabilities, [other.box for other in faces if other is not face])
    for face in faces:
        draw_face(image, face.box, face.label, face.probabilities)


def draw_face(image: np.ndarray, box, label: str, probabilities) -> None:
    """Draw a box (x, y, width, height) and its label: an emotion with its probability of the (7,), or "uncertain"."""
    x, y, width, height = box
    scale = _face_scale(image.shape, width)
    color = COLORS[label]
    thickness = max(round(3 * scale), 2)
    cv2.rectangle(image, (x, y), (x + width - 1, y + height - 1), BLACK, thickness + 2)
    cv2.rectangle(image, (x, y), (x + width - 1, y + height - 1), color, thickness)
    text = label if label == UNCERTAIN else f"{label} {probabilities[EMOTIONS.index(label)]:.0%}"
    _, line_height, _ = _text_size(text, scale)
    draw_text(image, text, (x, y - line_height), scale, _ink(color), color)


def draw_bars(image: np.ndarray, box, probabilities, other_boxes=()) -> None:
    """Draw a bar for each of the probabilities (7,) beside the box, away from the nearest other box at that height.

    Without other boxes they are on the right, or else on the left. At the frame's edge they cover the face.
    """
    x, y, width, _ = box
    scale = 0.75 * _face_scale(image.shape, width)
    name_width = max(_text_size(name, scale)[0] for name in EMOTIONS)
    line_height = _text_size("x", scale)[1]
    bar_width = round(110 * scale)
    panel_width, panel_height = name_width + bar_width, line_height * len(EMOTIONS)
    left_side, right_side, last_left = x - panel_width - 4, x + width + 4, max(image.shape[1] - panel_width, 0)
    top = min(max(y, 0), max(image.shape[0] - panel_height, 0))
    beside = [other for other in other_boxes if other[1] < top + panel_height and other[1] + other[3] > top]
    nearest = min((other[0] - x for other in beside), key=abs, default=0)
    on_the_left = nearest > 0 or (nearest == 0 and left_side >= 0 and right_side > last_left)
    left = min(max(left_side if on_the_left else right_side, 0), last_left)
    darken(image, (left, top, panel_width, panel_height))
    for i, (name, probability) in enumerate(zip(EMOTIONS, probabilities, strict=True)):
        line = top + i * line_height
        draw_text(image, name, (left, line), scale, WHITE)
        start = left + name_width, line + line_height // 4
        end = start[0] + round((bar_width - 4) * float(probability)), line + 3 * line_height // 4
        cv2.rectangle(image, start, end, COLORS[name], cv2.FILLED)


def draw_status(image: np.ndarray, text: str) -> None:
    """Write a line, such as the frame rate, in the upper left corner."""
    draw_text(image, text, (0, 0), 0.8 * text_scale(image.shape), WHITE, BLACK)


def draw_message(image: np.ndarray, text: str) -> None:
    """Write a sentence on a black band along the lower edge, wrapped into as many lines as it needs."""
    scale = text_scale(image.shape)
    lines = _wrap(text, scale, image.shape[1])
    line_height = _text_size("x", scale)[1]
    top = max(image.shape[0] - line_height * len(lines), 0)
    image[top:] = BLACK  # not only darker: there may be another message below
    for i, line in enumerate(lines):
        draw_text(image, line, (0, top + i * line_height), scale, WHITE)


def draw_help(image: np.ndarray) -> None:
    """List the keys in the middle of the frame."""
    scale = text_scale(image.shape)
    key_width = max(_text_size(key, scale)[0] for key, _ in KEYS)
    width = key_width + max(_text_size(what, scale)[0] for _, what in KEYS)
    line_height = _text_size("x", scale)[1]
    left = max((image.shape[1] - width) // 2, 0)
    top = max((image.shape[0] - line_height * len(KEYS)) // 2, 0)
    darken(image, (left - line_height // 2, top - line_height // 2, width + line_height, line_height * (len(KEYS) + 1)))
    for i, (key, what) in enumerate(KEYS):
        draw_text(image, key, (left, top + i * line_height), scale, COLORS["happy"])
        draw_text(image, what, (left + key_width, top + i * line_height), scale, WHITE)


def draw_text(image: np.ndarray, text: str, corner, scale: float, ink, background=None) -> None:
    """Write a line with its upper left corner at `corner`, moved so that it stays inside the frame.

    On a filled rectangle of the color `background`, or without one with a dark outline.
    """
    width, height, baseline = _text_size(text, scale)
    x = max(min(corner[0], image.shape[1] - width), 0)
    y = max(min(corner[1], image.shape[0] - height), 0)
    thickness = max(round(2 * scale), 1)
    start = x + height // 4, y + height - baseline
    if background is not None:
        cv2.rectangle(image, (x, y), (x + width - 1, y + height - 1), background, cv2.FILLED)
    else:
        cv2.putText(image, text, start, FONT, scale, BLACK, thickness + 2, cv2.LINE_AA)
    cv2.putText(image, text, start, FONT, scale, ink, thickness, cv2.LINE_AA)


def darken(image: np.ndarray, box) -> None:
    """Darken a part of the frame, so that text on it can be read."""
    x, y, width, height = box
    part = image[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)]
    part[:] = part // 4


def _face_scale(shape, width: int) -> float:
    """Return the font scale for a label of a face of this width: smaller for distant faces."""
    return min(text_scale(shape), max(width / 200, 0.4))


def _text_size(text: str, scale: float) -> tuple[int, int, int]:
    """Return the width and height of a line with its margins, and the height of the part below its baseline."""
    (width, height), baseline = cv2.getTextSize(text, FONT, scale, max(round(2 * scale), 1))
    height = height + baseline
    return width + height // 2, round(1.25 * height), round(baseline + 0.125 * height)


def _ink(color) -> tuple[int, int, int]:
    """Return black for a light color, white for a dark one."""
    blue, green, red = color
    return BLACK if 0.114 * blue + 0.587 * green + 0.299 * red > 100 else WHITE


def _wrap(text: str, scale: float, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _text_size(longer, scale)[0] > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
