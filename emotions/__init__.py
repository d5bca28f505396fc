"""Faces and their emotions in images and videos. No window or camera is touched here."""

from emotions.detector import EmotionDetector
from emotions.face import Face

__all__ = ["EmotionDetector", "Face"]
