"""From a face's probabilities, frame after frame, to steady ones and a label that does not flicker."""

import numpy as np

from model import EMOTIONS

UNCERTAIN = "uncertain"  # the label where no emotion is likely enough
LABEL_MARGIN = 0.1  # a new emotion has to lead by so much before it takes the label over
CERTAIN_MARGIN = 0.08  # an uncertain label has to pass the threshold by so much, at most half the way to 1


class Steadier:
    """Keeps one face's probabilities and label steady: exponential in seconds, with hysteresis on the label.

    The time constant 0 turns both off.
    """

    def __init__(self, smoothing_seconds: float, threshold: float):
        self.smoothing_seconds, self.threshold = smoothing_seconds, threshold
        self.probabilities, self.label = None, ""
        self._time_seconds = 0.0
        self._emotion = 0
        self._certain = True

    def update(self, probabilities, time_seconds: float) -> tuple[np.ndarray, str]:
        """Take a frame's probabilities (7,); return the steadied ones and the label, an emotion or "uncertain"."""
        steady = self.smoothing_seconds > 0 and self.probabilities is not None
        if steady:
            elapsed = max(time_seconds - self._time_seconds, 0.0)
            share = 1 - np.exp(-elapsed / self.smoothing_seconds)
            probabilities = self.probabilities + share * (probabilities - self.probabilities)
        best = int(np.argmax(probabilities))
        if not steady or probabilities[best] >= probabilities[self._emotion] + LABEL_MARGIN:
            self._emotion = best
        margin = min(CERTAIN_MARGIN, (1 - self.threshold) / 2)
        needed = self.threshold + (margin if steady and not self._certain else 0.0)
        self._certain = bool(probabilities[self._emotion] >= needed)
        self.probabilities, self._time_seconds = probabilities, time_seconds
        self.label = EMOTIONS[self._emotion] if self._certain else UNCERTAIN
        return probabilities, self.label
