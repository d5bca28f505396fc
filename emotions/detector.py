"""The one way from an image to labelled faces."""

import copy
import time
from pathlib import Path

import cv2
import numpy as np

from emotions.faces import CASCADE, brighten, crop_faces, find_faces, find_tilt, load_cascade, to_gray
from emotions.smoothing import Smoother
from emotions.tracker import Face, Tracker
from model import BEST_MODEL, IMAGE_SIZE, Classifier, load_classifier


class EmotionDetector:
    """Finds faces and predicts their emotions, in images and in videos. Use one object per thread.

        detector = EmotionDetector()
        for face in detector.detect(cv2.imread("photo.jpg")):
            print(face.box, face.label, face.probabilities)

    `model` is the path of a .keras or .tflite file or a `model.Classifier`, which threads may share. Below the
    probability `threshold` a label is "uncertain"; `smoothing_seconds` is the time constant of a tracked face's
    probabilities, 0 for none; `align` levels the eyes before the crop. Images are uint8 (h, w), or (h, w, 1, 3 or 4)
    as gray, BGR or BGRA; any other raises `ValueError`. Raises `UserError` if a file cannot be used.
    """

    def __init__(self, model=BEST_MODEL, *, cascade=CASCADE, threshold=0.35, smoothing_seconds=0.18, align=False):
        self.milliseconds: dict[str, float] = {}  # of the last call, by stage: "detecting", "classifying"
        self._threshold, self._smoothing_seconds = threshold, smoothing_seconds
        self._cascade = load_cascade(cascade)
        self._eyes = load_cascade(Path(cv2.data.haarcascades) / "haarcascade_eye.xml") if align else None
        self._classifier = model if isinstance(model, Classifier) else load_classifier(model)
        self._classifier.probabilities(np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 1), np.uint8))  # the first call is slow
        self.reset()

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces of a single image, from left to right, with ids from 1 on."""
        start = time.perf_counter()
        gray = brighten(to_gray(image))
        faces = [Face(i, box) for i, box in enumerate(find_faces(self._cascade, gray), 1)]
        self._classify(gray, faces, 0.0, start)
        return self._remember(faces, gray)

    def track(self, image: np.ndarray, time_seconds: float) -> list[Face]:
        """Return the faces of a video's next frame, by id; `time_seconds` is the frame's time in the video.

        A face keeps its id while it is out of view for at most a second.
        """
        start = time.perf_counter()
        gray = brighten(to_gray(image))
        faces = self._tracker.update(gray, time_seconds)
        found = [face for face in faces if face.seen_seconds == time_seconds]  # not all are searched in every frame
        self._classify(gray, found, time_seconds, start)
        return self._remember([copy.copy(face) for face in faces], gray)

    def crop(self, image: np.ndarray, boxes=None) -> tuple[list[tuple[int, int, int, int]], np.ndarray]:
        """Return boxes and the uint8 (n, 48, 48, 1) crops that the network sees; by default of all faces it finds."""
        gray = brighten(to_gray(image))
        boxes = find_faces(self._cascade, gray) if boxes is None else boxes
        return boxes, crop_faces(gray, boxes, self._find_tilts(gray, boxes))

    def mirror(self) -> None:
        """Expect the next images to be mirrored: the faces of the last call change sides and keep their ids."""
        self._tracker.mirror()
        for face in self._faces:
            face.mirror(self._frame_width)

    def reset(self) -> None:
        """Forget all faces; ids start at 1 again."""
        self._tracker = Tracker(self._cascade)
        self._faces, self._frame_width = [], 0  # of the last call

    def _classify(self, gray: np.ndarray, faces: list[Face], time_seconds: float, start: float) -> None:
        """Set tilt, probabilities and label of faces whose box is known; `start` is when the call began."""
        boxes = [face.box for face in faces]
        tilts = self._find_tilts(gray, boxes)
        detected = time.perf_counter()
        probabilities = self._classifier.probabilities(crop_faces(gray, boxes, tilts))  # (n, 7)
        for face, tilt, row in zip(faces, tilts, probabilities, strict=True):
            face.smoother = face.smoother or Smoother(self._smoothing_seconds, self._threshold)
            face.probabilities, face.label = face.smoother.update(row, time_seconds)
            face.tilt_degrees = tilt
        end = time.perf_counter()
        self.milliseconds = {"detecting": 1000 * (detected - start), "classifying": 1000 * (end - detected)}

    def _find_tilts(self, gray: np.ndarray, boxes) -> list[float]:
        return [find_tilt(self._eyes, gray, box) if self._eyes else 0.0 for box in boxes]

    def _remember(self, faces: list[Face], gray: np.ndarray) -> list[Face]:
        self._faces, self._frame_width = faces, gray.shape[1]
        return faces
