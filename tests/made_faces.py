"""Scenes with the demo's average faces, at any place, size and tilt, each frame with a little noise."""

import cv2
import numpy as np
from conftest import REPOSITORY

from live.sources import soft_ellipse

STRIP = cv2.imread(str(REPOSITORY / "demo" / "average_faces.png"), cv2.IMREAD_GRAYSCALE)
SIDE = STRIP.shape[0]
FACES = np.hsplit(STRIP, STRIP.shape[1] // SIDE)  # in the order of EMOTIONS
OVAL = soft_ellipse(SIDE)

NOISE = np.random.default_rng(0).normal(0, 2, 480 * 360)


def scene(*faces, width=480, height=360, seed=0):
    """Return a gray frame with faces (emotion's code, centre, width, tilt in degrees), the last one in front."""
    frame = np.repeat(np.linspace(90, 120, height, dtype=np.float32)[:, None], width, axis=1)
    for code, (x, y), pixels, tilt in faces:
        place = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), -tilt, pixels / SIDE)  # clockwise on the screen
        place[:, 2] += np.array([x, y]) - SIDE / 2
        oval = cv2.warpAffine(OVAL, place, (width, height))
        frame += oval * (cv2.warpAffine(FACES[code].astype(np.float32), place, (width, height)) - frame)
    noise = np.resize(np.roll(NOISE, 7919 * seed), frame.shape)  # quickly another one for every seed
    return np.clip(np.round(frame + noise), 0, 255).astype(np.uint8)


def box_of(centre, pixels):
    """Return the box of a face with this centre and width."""
    return centre[0] - pixels / 2, centre[1] - pixels / 2, pixels, pixels
