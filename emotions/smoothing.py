"""One face's probabilities over time: a low-pass filter, and a label with hysteresis."""

import math

import numpy as np

from model import EMOTIONS

UNCERTAIN = "uncertain"  # the label when no emotion is likely enough
LABEL_MARGIN = 0.1  # a new emotion must lead by this much before it becomes the label
CERTAIN_MARGIN = 0.08  # an uncertain label must exceed the threshold by this much, at most half the way to 1


class Smoother:
    """Exponential smoothing in seconds, so that it does not depend on the frame rate.

    Hysteresis acts on the probabilities, so that label and probabilities always agree: the label is the emotion of the
    highest one, and "uncertain" if that is below the threshold. A time constant of 0 turns off both.
    """

    def __init__(self, smoothing_seconds: float, threshold: float):
        self.smoothing_seconds, self.threshold = smoothing_seconds, threshold
        self._smooth = None  # (7,) without hysteresis
        self._time_seconds = 0.0
        self._emotion = 0  # index of the leading emotion
        self._certain = True

    def update(self, probabilities: np.ndarray, time_seconds: float) -> tuple[np.ndarray, str]:
        """Take a frame's probabilities (7,); return those to show and the label, an emotion or "uncertain"."""
        smooth = self.smoothing_seconds > 0 and self._smooth is not None
        if smooth:
            elapsed = max(time_seconds - self._time_seconds, 0.0)
            weight = 1 - math.exp(-elapsed / self.smoothing_seconds)
            probabilities = self._smooth + weight * (probabilities - self._smooth)
        self._smooth, self._time_seconds = probabilities, time_seconds
        best = int(np.argmax(probabilities))
        if not smooth or probabilities[best] >= probabilities[self._emotion] + LABEL_MARGIN:
            self._emotion = best
        shown = _keep_leader(probabilities, self._emotion)
        if smooth and not self._certain:
            margin = min(CERTAIN_MARGIN, (1 - self.threshold) / 2)
            shown = _keep_below(shown, self.threshold, margin)
        self._certain = bool(shown[self._emotion] >= self.threshold)
        return shown, EMOTIONS[self._emotion] if self._certain else UNCERTAIN


def _keep_leader(probabilities: np.ndarray, leader: int) -> np.ndarray:
    """Return the probabilities with the leader's highest: it is averaged with those that are slightly above it."""
    higher = probabilities > probabilities[leader]
    if not higher.any():
        return probabilities
    higher[leader] = True
    shared = np.where(higher, probabilities[higher].mean(), probabilities)
    shared[leader] += 0.01  # enough to be seen
    return shared / shared.sum()


def _keep_below(probabilities: np.ndarray, threshold: float, margin: float) -> np.ndarray:
    """Return probabilities of which the highest, if it exceeds the threshold by less than the margin, is just below."""
    highest, even = probabilities.max(), 1 / len(probabilities)
    if not threshold <= highest < threshold + margin or threshold <= even:
        return probabilities
    return probabilities + (highest - threshold + 1e-6) / (highest - even) * (even - probabilities)
