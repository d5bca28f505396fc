"""The one way from an image to labelled faces."""

import copy
import math
import time
from collections.abc import Callable

import numpy as np

from emotions.face import Face, Faces
from emotions.faces import CASCADE, brighten, centred, clip_box, crop_faces, find_faces, load_cascade, to_gray
from emotions.images import load_image
from emotions.smoothing import Smoother
from emotions.tracker import Tracker
from model import IMAGE_SIZE, Classifier, UserError, load_classifier


class EmotionDetector:
    """Finds faces and predicts their emotions, in images and in videos. Use one object per thread.

        detector = EmotionDetector()
        faces = detector.detect("photo.jpg")
        for face in faces:
            print(face.box, face.label, face.probabilities)
        cv2.imwrite("annotated.jpg", faces.plot())

    `box` is x, y, width, height in pixels; `probabilities` is float32 (7,) in the order angry, disgust, fear, happy,
    sad, surprise, neutral; `faces.to_dict()` is ready for JSON. For a video's frames, call `track` instead.

    `model` is the path of a .keras or .tflite file or a `model.Classifier`, which threads may share, by default the
    included network; `labels` chooses its output, "ferplus" or "fer2013". Below the probability `threshold` a label is
    "uncertain"; `smoothing_seconds` is the time constant of a tracked face's probabilities, 0 for none. Images are
    paths or uint8 (h, w), or (h, w, 1, 3 or 4) as gray, BGR or BGRA; any other raises `ValueError`. A file
    that cannot be used raises `model.UserError`, a subclass of it.
    """

    def __init__(self, model=None, *, labels=None, cascade=CASCADE, threshold=0.35, smoothing_seconds=0.18):
        if not 0 <= threshold <= 1 or not 0 <= smoothing_seconds < math.inf:
            raise ValueError(f"threshold {threshold} must be 0 to 1, smoothing_seconds {smoothing_seconds} 0 or more.")
        self.milliseconds: dict[str, float] = {}  # of the last call, by stage: "detecting", "classifying"
        self._threshold, self._smoothing_seconds = threshold, smoothing_seconds
        self._cascade = load_cascade(cascade)
        ready = isinstance(model, Classifier)
        if ready and labels not in (None, model.labels):
            raise UserError(f"This network was loaded for {model.labels}. Use load_classifier(path, {labels!r}).")
        self._classifier = model if ready else load_classifier(model or None, labels)
        self._classifier.probabilities(np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 1), np.uint8))  # the first call is slow
        self.reset()

    def detect(self, image) -> Faces:
        """Return the faces of a single image, from left to right, with ids from 1 on: a list with `.plot()`."""
        return self._process(image, self._find, 0.0)

    def track(self, image, time_seconds: float) -> Faces:
        """Return the faces of a video's next frame, by id.

        `time_seconds` must increase from call to call: `ValueError` is raised if it stays the same or is not finite,
        and an earlier one starts anew. Call `reset` before another video. A face keeps its id while it is out of view
        for at most a second, or for three behind another face; after a pause of more than three seconds, ids are new.
        """
        if not math.isfinite(time_seconds) or time_seconds == self._time_seconds:
            raise ValueError(
                f"time_seconds is {time_seconds}, but must be finite and later than the frame before. If a video "
                "has no time stamps, pass the frame's number divided by the frames per second."
            )
        faces = self._process(image, lambda gray: self._tracker.update(gray, time_seconds), time_seconds)
        self._time_seconds = time_seconds
        return faces

    def crop(self, image: np.ndarray, faces: list[Face] | None = None) -> tuple[list[Face], np.ndarray]:
        """Return faces and the uint8 (n, 48, 48, 1) crops that the network sees; by default of all that it finds."""
        gray = brighten(to_gray(load_image(image)))
        faces = self._find(gray) if faces is None else faces
        return faces, crop_faces(gray, [face.whole_box for face in faces], [face.tilt_degrees for face in faces])

    def mirror(self) -> None:
        """Expect the next images to be mirrored: the faces of the last call change sides and keep their ids."""
        self._tracker.mirror()
        if self._faces is not None:
            for face in self._faces:
                face.mirror(self._faces.image.shape[1])
            self._faces.image = self._faces.image[:, ::-1]

    def reset(self) -> None:
        """Forget all faces; ids start at 1 again."""
        self._tracker = Tracker(self._cascade)
        self._faces = None  # of the last call
        self._time_seconds = None  # of the last call of `track`

    def _find(self, gray: np.ndarray) -> list[Face]:
        found = enumerate(find_faces(self._cascade, gray), 1)
        return [
            Face(i, clip_box(box, gray.shape), tilt_degrees=tilt, smooth_box=centred(box))
            for i, (box, tilt, *_) in found
        ]

    def _process(self, image, find: Callable, time_seconds: float) -> Faces:
        """Find an image's faces; set probabilities and label of those seen now: not all are searched in every frame."""
        start = time.perf_counter()
        image = load_image(image)
        gray = brighten(to_gray(image))
        faces = find(gray)
        detected = time.perf_counter()
        found = [face for face in faces if face.seen_seconds == time_seconds or face.probabilities is None]
        crops = crop_faces(gray, [face.whole_box for face in found], [face.tilt_degrees for face in found])
        for face, crop, row in zip(found, crops, self._classifier.probabilities(crops), strict=True):
            face.smoother = face.smoother or Smoother(self._smoothing_seconds, self._threshold)
            face.probabilities, face.label = face.smoother.update(row, time_seconds)
            face.remember(crop)
        end = time.perf_counter()
        self.milliseconds = {"detecting": 1000 * (detected - start), "classifying": 1000 * (end - detected)}
        faces = Faces(map(copy.copy, faces), image)  # the tracker goes on with its own
        for face in faces:
            face.probabilities = face.probabilities.copy()  # and the smoother
        self._faces = faces
        return faces
