"""One face's probabilities over time: a low-pass filter, and a label with hysteresis."""

import numpy as np

from model import EMOTIONS

UNCERTAIN = "uncertain"  # the label when no emotion is likely enough
LABEL_MARGIN = 0.1  # a new emotion must lead by this much before it becomes the label
CERTAIN_MARGIN = 0.08  # an uncertain label must exceed the threshold by this much, at most half the way to 1


class Smoother:
    """Exponential smoothing in seconds, so that it does not depend on the frame rate.

    A time constant of 0 turns off both smoothing and hysteresis.
    """

    def __init__(self, smoothing_seconds: float, threshold: float):
        self.smoothing_seconds, self.threshold = smoothing_seconds, threshold
        self.probabilities, self.label = None, ""
        self._time_seconds = 0.0
        self._emotion = 0  # index of the leading emotion
        self._certain = True

    def update(self, probabilities: np.ndarray, time_seconds: float) -> tuple[np.ndarray, str]:
        """Take a frame's probabilities (7,); return the smoothed ones and the label, an emotion or "uncertain"."""
        smooth = self.smoothing_seconds > 0 and self.probabilities is not None
        if smooth:
            elapsed = max(time_seconds - self._time_seconds, 0.0)
            weight = 1 - np.exp(-elapsed / self.smoothing_seconds)
            probabilities = self.probabilities + weight * (probabilities - self.probabilities)
        best = int(np.argmax(probabilities))
        if not smooth or probabilities[best] >= probabilities[self._emotion] + LABEL_MARGIN:
            self._emotion = best
        margin = min(CERTAIN_MARGIN, (1 - self.threshold) / 2)
        required = self.threshold + (margin if smooth and not self._certain else 0.0)
        self._certain = bool(probabilities[self._emotion] >= required)
        self.probabilities, self._time_seconds = probabilities, time_seconds
        self.label = EMOTIONS[self._emotion] if self._certain else UNCERTAIN
        return probabilities, self.label
