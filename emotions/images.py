"""Image files -> arrays."""

import os
from pathlib import Path

import cv2
import numpy as np

from model import UserError

IGNORE_ORIENTATION = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
PAPER = 255  # gray level behind transparent parts of an image
FILE_BYTES = 2**30  # of an image file, at most
ROWS = 256  # that are blended at once: floats of a whole image may not fit the memory


def load_image(image) -> np.ndarray:
    """Return an array as it is, or read a path. Raises `UserError` for a file that is missing or no image, and None."""
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        if not path.is_file():
            raise UserError(f"There is no image at {path}.")
        image = read_image(path)
        if image is None:
            raise UserError(f"{path} is not an image that OpenCV can read. Save it again as .png or .jpg.")
    if image is None:
        raise UserError("The image is None: cv2.imread returns that for a file that is missing or no image.")
    return image


def is_animation(path) -> bool:
    """Return whether an image file holds more images, one after the other, of which `read_image` returns the first."""
    with Path(path).open("rb") as file:
        start = file.read(4096)
    animated_webp = start[8:16] == b"WEBPVP8X" and start[20] & 2
    return bool(animated_webp or start[8:12] == b"avis" or (start.startswith(b"\x89PNG") and b"acTL" in start))


def read_image(path) -> np.ndarray | None:
    """Return an image file as BGR uint8 (height, width, 3), upright and on white, or None."""
    try:  # `imread` cannot open every path on Windows
        if Path(path).stat().st_size > FILE_BYTES:
            return None
        content = np.fromfile(path, np.uint8)
        image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
        if image is None or Path(path).suffix.lower() not in (".png", ".webp", ".avif", ".tif", ".tiff"):
            return image
        alpha, plain = (cv2.imdecode(content, kind) for kind in (cv2.IMREAD_UNCHANGED, IGNORE_ORIENTATION))
        if alpha.ndim == 3 and alpha.shape[2] == 4:
            _hide(image, plain, alpha)
    except (OSError, MemoryError, cv2.error):
        return None
    turn = content[:4096].tobytes().find(b"\0\0\0\x09irot") if Path(path).suffix.lower() == ".avif" else -1
    return image if turn < 0 else np.ascontiguousarray(np.rot90(image, content[turn + 8] & 3))


def _hide(image: np.ndarray, plain: np.ndarray, alpha: np.ndarray) -> None:
    """Put paper behind an image, in place; `plain` is the same as it is stored, `alpha` (h, w, 4) with its alpha.

    OpenCV turns and mirrors an image as its EXIF data say only where it has no alpha.
    """
    for turn in range(8):
        if np.array_equal(plain, image):
            break
        plain, alpha = np.rot90(plain), np.rot90(alpha)
        if turn == 3:
            plain, alpha = plain[::-1], alpha[::-1]
    whole = np.float32(np.iinfo(alpha.dtype).max if alpha.dtype != np.float32 else 1)
    for top in range(0, len(image), ROWS):
        part = image[top : top + ROWS]
        part[:] = np.rint(PAPER + alpha[top : top + ROWS, :, 3:] / whole * (part - np.float32(PAPER)))
