"""Drawing on a frame: boxes, labels, bars, messages.

Every function draws on the BGR uint8 image it is given, which must be contiguous (`.copy()` of a view is).
"""

import unicodedata

import cv2
import numpy as np

from emotions.faces import intersection
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
PANEL_SIZES, MIN_PANEL_SCALE = (1.0, 0.8, 0.65, 0.5), 0.3  # of bars: tried in turn until there is room; font scale
HELP_PLACES = ((0.5, 0.5), (1, 0.5), (0, 0.5), (1, 1), (0, 1), (1, 0), (0, 0))  # shares of the room beside it
KEYS = (
    ("q, Esc", "quit"),
    ("space", "pause"),
    ("n, b", "next file, back"),
    ("s", "save a snapshot"),
    ("p", "probabilities"),
    ("m", "mirror"),
    ("h", "this help"),
)


def text_scale(shape) -> float:
    """Return the font scale for a frame of this shape: 0.6 at 480 lines, never too small to read."""
    return min(max(min(shape[0], shape[1] * 0.75) / 800, 0.4), 4.0)


def draw_faces(image: np.ndarray, faces, bars: bool = False) -> None:
    """Draw the boxes and labels of faces (`emotions.Face`), their ids if there are several, and with `bars` their bars.

    Bars never cover a face, a label or other bars; where there is no room for them, they are left out.
    """
    labels = [_label(image.shape, face, numbered=len(faces) > 1) for face in faces]
    taken = [area for _, area in labels] + [_area(image.shape, face) for face in faces]
    for face in faces if bars else []:
        if panel := _place_panel(image.shape, face, taken):
            _draw_bars(image, *panel, face.probabilities)
            taken.append(panel[0])
    for face, (text, area) in zip(faces, labels, strict=True):
        scale, color = _face_scale(image.shape, face.box[2]), COLORS[face.label]
        thickness, corners = max(round(3 * scale), 2), np.round(_corners(face)).astype(np.int32)
        cv2.polylines(image, [corners], True, BLACK, thickness + 2)
        cv2.polylines(image, [corners], True, color, thickness)
        blue, green, red = color
        ink = BLACK if 0.114 * blue + 0.587 * green + 0.299 * red > 100 else WHITE  # on a light color, on a dark one
        draw_text(image, text, area[:2], scale, ink, color)


def draw_status(image: np.ndarray, text: str, faces=()) -> None:
    """Write a line, such as the frame rate, in the upper left corner, or in the right one if a label is there."""
    scale = 0.8 * text_scale(image.shape)
    width, height, _ = _text_size(drawable(text), scale)
    labels = [_label(image.shape, face, numbered=len(faces) > 1)[1] for face in faces]
    lefts = (0, max(image.shape[1] - width, 0))
    covered = [sum(intersection((left, 0, width, height), label) for label in labels) for left in lefts]
    draw_text(image, text, (lefts[covered[1] < covered[0]], 0), scale, WHITE, BLACK)


def draw_message(image: np.ndarray, text: str) -> None:
    """Write a sentence on a black band along the lower edge, wrapped into as many lines as it needs."""
    scale = text_scale(image.shape)
    lines = _wrap(text, scale, image.shape[1])
    line_height = _text_size("x", scale)[1]
    top = max(image.shape[0] - line_height * len(lines), 0)
    image[top:] = BLACK  # not only darker: there may be another message below
    for i, line in enumerate(lines):
        draw_text(image, line, (0, top + i * line_height), scale, WHITE)


def draw_help(image: np.ndarray, faces=()) -> None:
    """List the keys in the middle of the frame, or beside the faces and smaller, so that none is covered."""
    areas = [_area(image.shape, face) for face in faces]
    for size in PANEL_SIZES:
        scale = max(size * text_scale(image.shape), MIN_PANEL_SCALE)
        key_width = max(_text_size(key, scale)[0] for key, _ in KEYS)
        line_height = _text_size("x", scale)[1]
        width = key_width + max(_text_size(what, scale)[0] for _, what in KEYS) + line_height
        height = line_height * (len(KEYS) + 1)
        room = max(image.shape[1] - width, 0), max(image.shape[0] - height, 0)
        panels = [(round(x * room[0]), round(y * room[1]), width, height) for x, y in HELP_PLACES]
        covered = [sum(intersection(panel, area) for area in areas) for panel in panels]
        left, top, *_ = panels[covered.index(min(covered))]
        if not min(covered):
            break
    image[top : top + height, left : left + width] = BLACK  # not only darker: there may be bars below
    for i, (key, what) in enumerate(KEYS):
        line = top + line_height // 2 + i * line_height
        draw_text(image, key, (left + line_height // 2, line), scale, COLORS["happy"])
        draw_text(image, what, (left + line_height // 2 + key_width, line), scale, WHITE)


def draw_text(image: np.ndarray, text: str, corner, scale: float, ink, background=None) -> None:
    """Write a line with its upper left corner at `corner`, moved so that it stays inside the frame.

    On a filled rectangle of the color `background`, or without one with a dark outline.
    """
    text = drawable(text)
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


def drawable(text: str) -> str:
    """Return text in the letters that OpenCV's font has: without accents, and ? for all others."""
    letters = unicodedata.normalize("NFKD", text)
    return "".join(letter if letter.isascii() else "?" for letter in letters if not unicodedata.combining(letter))


def _label(shape, face, numbered: bool) -> tuple:
    """Return a face's text and area (x, y, width, height): above the box, or at its top if the frame ends there."""
    probability = "" if face.label == UNCERTAIN else f" {face.probabilities[EMOTIONS.index(face.label)]:.0%}"
    text = f"{face.id}: " * numbered + face.label + probability
    width, height, _ = _text_size(text, _face_scale(shape, face.box[2]))
    return text, _inside(shape, (face.box[0], _corners(face)[:, 1].min() - height, width, height))


def _place_panel(shape, face, taken) -> tuple | None:
    """Return the first free area (x, y, width, height) for a face's bars and their font scale; None if there is none.

    It is right, left, below or above the face, or else smaller.
    """
    left, top, width, height = _area(shape, face)
    label_height = _text_size("x", _face_scale(shape, face.box[2]))[1]
    for size in PANEL_SIZES:
        scale = max(size * 0.75 * _face_scale(shape, face.box[2]), MIN_PANEL_SCALE)
        panel_width, panel_height = sum(_columns(scale)), _text_size("x", scale)[1] * len(EMOTIONS)
        right, lower, upper = left + width, top + height, top - label_height - panel_height
        beside = [(x, y) for y in (top, lower - panel_height) for x in (right, left - panel_width)]
        stacked = [(x, y) for x in (left, right - panel_width) for y in (lower, upper)]
        for corner in beside + stacked:
            area = _inside(shape, (*corner, panel_width, panel_height))
            fits = panel_width <= shape[1] and panel_height <= shape[0]
            if fits and not any(intersection(area, other) for other in taken):
                return area, scale
    return None


def _draw_bars(image: np.ndarray, area, scale: float, probabilities) -> None:
    """Draw a bar and the percentage of each of the probabilities (7,)."""
    left, top, width, height = area
    name_width, bar_width, _ = _columns(scale)
    line_height = _text_size("x", scale)[1]
    part = image[top : top + height, left : left + width]
    part[:] = part // 4  # so that text on it can be read
    for i, (name, probability) in enumerate(zip(EMOTIONS, probabilities, strict=True)):
        line = top + i * line_height
        draw_text(image, name, (left, line), scale, WHITE)
        draw_text(image, f"{probability:.0%}", (left + name_width + bar_width, line), scale, WHITE)
        start = left + name_width, line + line_height // 4
        end = start[0] + round((bar_width - 4) * float(probability)), line + 3 * line_height // 4
        cv2.rectangle(image, start, end, COLORS[name], cv2.FILLED)


def _corners(face) -> np.ndarray:
    """Return the corners of a face's box, rotated by its tilt, float (4, 2)."""
    x, y, width, height = face.box
    return cv2.boxPoints(((x + (width - 1) / 2, y + (height - 1) / 2), (width - 1, height - 1), face.tilt_degrees))


def _area(shape, face) -> tuple[int, int, int, int]:
    """Return the box (x, y, width, height) around all that is drawn of a face's box."""
    line = 2 + round(2 * _face_scale(shape, face.box[2]))
    left, top = np.floor(_corners(face).min(axis=0)).astype(int) - line
    right, bottom = np.ceil(_corners(face).max(axis=0)).astype(int) + line
    return int(left), int(top), int(right - left + 1), int(bottom - top + 1)


def _columns(scale: float) -> tuple[int, int, int]:
    """Return the widths of a panel's columns: names, bars, percentages."""
    return max(_text_size(name, scale)[0] for name in EMOTIONS), round(110 * scale), _text_size("100%", scale)[0]


def _inside(shape, area) -> tuple[int, int, int, int]:
    """Return the area (x, y, width, height) moved into a frame of this shape."""
    x, y, width, height = (round(float(value)) for value in area)
    return max(min(x, shape[1] - width), 0), max(min(y, shape[0] - height), 0), width, height


def _face_scale(shape, width: int) -> float:
    """Return the font scale for a label of a face of this width: smaller for distant faces."""
    return min(text_scale(shape), max(width / 200, 0.4))


def _text_size(text: str, scale: float) -> tuple[int, int, int]:
    """Return the width and height of a line with its margins, and the height of the part below its baseline."""
    (width, height), baseline = cv2.getTextSize(text, FONT, scale, max(round(2 * scale), 1))
    height = height + baseline
    return width + height // 2, round(1.25 * height), round(baseline + 0.125 * height)


def _wrap(text: str, scale: float, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _text_size(longer, scale)[0] > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
