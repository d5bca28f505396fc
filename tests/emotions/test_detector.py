"""EmotionDetector: stills, videos, mirroring, and what stays the same between them."""

import json
import pydoc

import cv2
import numpy as np
import pytest

import emotions
from emotions import EmotionDetector, Face, overlay
from emotions.faces import crop_faces, overlap, to_gray
from live.sources import Demo
from model import EMOTIONS, UserError


@pytest.fixture(scope="module")
def off_centre(demo):
    """A frame whose face is left of the middle, BGR (480, 1040, 3)."""
    return np.hstack([demo[9], np.full_like(demo[9][:, :400], 90)])


def test_a_still_gives_every_face_from_left_to_right(detector, classifier, demo):
    image = np.hstack([demo[0], demo[60]])
    faces = detector.detect(image)
    assert [face.id for face in faces] == [1, 2] and faces[0].box[0] < 640 < faces[1].box[0]
    expected = classifier.probabilities(crop_faces(to_gray(image), [face.box for face in faces]))
    assert np.array_equal([face.probabilities for face in faces], expected)
    assert all(isinstance(face, Face) and face.in_view and face.label in (*EMOTIONS, "uncertain") for face in faces)
    assert [face.id for face in detector.detect(image)] == [1, 2]


def test_a_video_gives_ids_and_smoothed_probabilities(classifier, demo):
    smooth, raw = EmotionDetector(classifier, smoothing_seconds=0.5), EmotionDetector(classifier, smoothing_seconds=0)
    spread = []
    for detector in (smooth, raw):
        faces = [face for i in range(60) for face in detector.track(demo[i], i / 30)]  # has a cut between two faces
        assert len(faces) == 60 and {face.id for face in faces} == {1}
        spread.append(np.ptp([face.probabilities for face in faces], axis=0).max())
    assert 0 < spread[0] < spread[1]


def test_results_do_not_change_when_tracking_goes_on(detector, demo):
    (first,) = detector.track(demo[0], 0.0)
    box, probabilities = first.box, first.probabilities.copy()
    for i in range(1, 20):
        (last,) = detector.track(demo[i], i / 30)
    assert (first.box, last.id) == (box, first.id) and last.box != box
    assert np.array_equal(first.probabilities, probabilities)


def test_the_threshold_decides_about_uncertain(classifier, demo):
    labels = [EmotionDetector(classifier, threshold=value).detect(demo[0])[0].label for value in (0, 1)]
    assert labels[0] in EMOTIONS and labels[1] == "uncertain"


def test_milliseconds_are_those_of_the_last_call(detector, demo):
    detector.detect(np.zeros((8, 8), np.uint8))
    small = detector.milliseconds
    detector.detect(np.hstack([demo[0]] * 3))
    assert set(detector.milliseconds) == {"detecting", "classifying"}
    assert detector.milliseconds["detecting"] > small["detecting"] > 0


@pytest.mark.parametrize("call", ["detect", "track"])
def test_mirror_moves_the_last_faces_and_keeps_their_ids(detector, off_centre, call):
    for i in range(20):
        faces = detector.detect(off_centre) if call == "detect" else detector.track(off_centre, i / 30)
        if call == "detect":
            break
    (face,) = faces
    x, _, width, _ = face.box
    detector.mirror()
    assert face.box[0] == 1040 - x - width
    flipped = np.ascontiguousarray(off_centre[:, ::-1])
    (again,) = detector.detect(flipped) if call == "detect" else detector.track(flipped, 20 / 30)
    assert again.id == face.id and again.box[0] == pytest.approx(face.box[0], abs=15)


def test_reset_forgets_all_faces(detector, demo):
    detector.track(demo[0], 0.0)
    detector.track(np.zeros((100, 100), np.uint8), 1.0)  # another size
    assert detector.track(demo[0], 2.0)[0].id == 2
    detector.reset()
    assert detector.track(demo[0], 3.0)[0].id == 1


def test_crop_returns_what_the_network_sees(detector, classifier, demo):
    (found,), crops = detector.crop(demo[0])
    (face,) = detector.detect(demo[0])
    assert found.box == face.box and crops.shape == (1, 48, 48, 1) and crops.dtype == np.uint8
    assert np.array_equal(classifier.probabilities(crops)[0], face.probabilities)
    given, crops = detector.crop(demo[0], [Face(1, (10, 20, 48, 48)), Face(2, (-5, 0, 100, 100))])
    assert len(given) == len(crops) == 2
    assert np.array_equal(crops[0, :, :, 0], to_gray(demo[0])[20:68, 10:58])


def test_a_face_at_the_edge_is_completed_and_not_stretched(detector, demo):
    (whole,) = detector.detect(demo[0])
    _, y, _, height = whole.box
    cut = demo[0][: y + round(0.85 * height)]
    faces, crops = detector.crop(cut)
    (face,) = detector.detect(cut)
    assert face.box[1] + face.box[3] <= len(cut) < face.whole_box[1] + face.whole_box[3]
    assert face.whole_box[2] == pytest.approx(face.whole_box[3])
    larger = cv2.copyMakeBorder(cut, 0, height, 0, 0, cv2.BORDER_REPLICATE)
    expected = crop_faces(to_gray(larger), [face.whole_box], [face.tilt_degrees])
    assert np.abs(crops.astype(int) - expected).mean() < 2 and faces[0].box == face.box
    x, y, width, height = face.whole_box
    detector.mirror()
    assert face.whole_box == pytest.approx((cut.shape[1] - x - width, y, width, height))


def test_probabilities_are_float32_in_every_frame(detector, demo):
    for i in range(3):
        (face,) = detector.track(demo[i], i / 30)
        assert face.probabilities.dtype == np.float32 and face.probabilities.shape == (7,)


@pytest.mark.parametrize("light", [0.1, 0.2, 0.3])
def test_a_face_in_the_dark_is_found_and_darkness_is_no_face(detector, demo, light):
    def dim(image):
        return np.clip(light * image + np.random.default_rng(0).normal(0, 1, image.shape), 0, 255).astype(np.uint8)

    (face,), (dark,) = detector.detect(demo[0]), detector.track(dim(demo[0]), 0.0)
    assert overlap(dark.box, face.box) > 0.5
    _, crops = detector.crop(dim(demo[0]), [face])
    assert crops.std() > 0.3 * detector.crop(demo[0], [face])[1].std()
    assert detector.detect(dim(np.full_like(demo[0], 114))) == []


@pytest.mark.parametrize("share", [0.15, 0.25, 0.4])
def test_a_face_in_haze_is_found_and_cropped_as_in_clear_air_and_haze_is_no_face(detector, demo, share):
    def hazy(image):
        noise = np.random.default_rng(0).normal(0, 0.5, image.shape)
        return np.uint8(np.rint(np.clip(share * image + 120 + noise, 0, 255)))

    (face,), (found,) = detector.detect(demo[0]), detector.detect(hazy(demo[0]))
    assert overlap(found.box, face.box) > 0.5
    clear, crop = (detector.crop(image, [face])[1] for image in (demo[0], hazy(demo[0])))
    assert crop.std() > 0.6 * clear.std()
    assert detector.detect(hazy(np.full_like(demo[0], 114))) == []


def test_a_face_that_is_gone_is_not_classified(classifier, demo):
    detector = EmotionDetector(classifier, smoothing_seconds=0)
    shown = [detector.track(demo[0] if i < 10 else np.full_like(demo[0], 90), i / 30) for i in range(20)]
    faces = [face for faces in shown[9:] for face in faces]
    assert 1 < len(faces) < 10  # it is shown a little longer
    assert all(np.array_equal(face.probabilities, faces[0].probabilities) for face in faces)


def test_smoothing_belongs_to_the_face(detector, classifier, demo):
    old, new = (cv2.resize(part, (240, 240)) for part in (demo[0][90:390, 170:470], demo[60][50:410, 203:563]))
    first = None
    for i in range(70):
        image = np.hstack([old, np.full_like(old, 90) if i < 20 else new])
        faces = {face.id: face for face in detector.track(image, i / 30)}
        assert faces[1].box[0] < 200
        if 2 in faces and first is None:  # nothing of the other face is in its first probabilities
            first = faces[2]
            assert first.box[0] > 200
            raw = classifier.probabilities(crop_faces(to_gray(image), [first.box]))[0]
            assert np.allclose(first.probabilities, raw, atol=1e-6)
    assert first is not None


@pytest.mark.parametrize("settings", [{"threshold": 5}, {"threshold": np.nan}, {"smoothing_seconds": -1}])
def test_refuses_settings_without_a_meaning(classifier, settings):
    with pytest.raises(ValueError, match="must be 0 to 1"):
        EmotionDetector(classifier, **settings)


def test_refuses_missing_files(tmp_path, classifier):
    with pytest.raises(UserError, match="There is no model"):
        EmotionDetector(tmp_path / "none.keras")
    with pytest.raises(UserError, match="There is no cascade"):
        EmotionDetector(classifier, cascade=tmp_path / "none.xml")
    with pytest.raises(ValueError, match=r"must be uint8|is None"):
        EmotionDetector(classifier).detect(None)


def test_the_package_exports_two_names():
    assert set(emotions.__all__) == {"EmotionDetector", "Face"}


def test_the_shipped_network_follows_the_cuts_of_the_demo():
    detector, demo = EmotionDetector(), Demo()
    tracked = [(frame.time_seconds, detector.track(frame.image, frame.time_seconds)) for frame in demo]
    labels = [(seconds, faces[0].label) for seconds, faces in tracked if faces]
    for number, emotion in enumerate(EMOTIONS):
        start = number * demo.emotion_seconds
        segment = [(seconds, label) for seconds, label in labels if start <= seconds < start + demo.emotion_seconds]
        assert {label for _, label in segment[-20:]} == {emotion}
        assert next(seconds for seconds, label in segment if label == emotion) - start <= 0.4


# --- in one's own program


def test_a_path_an_array_and_what_is_neither(detector, tmp_path, demo):
    cv2.imwrite(str(tmp_path / "photo.png"), demo[0])
    (tmp_path / "notes.txt").write_text("hello")
    of_path, of_array = (detector.detect(image) for image in (tmp_path / "photo.png", demo[0]))
    assert of_path.to_dict() == of_array.to_dict() == detector.detect(str(tmp_path / "photo.png")).to_dict()
    for image, sentence in (
        (tmp_path / "none.jpg", "There is no image at "),
        (tmp_path / "notes.txt", "is not an image"),
        (None, "cv2.imread returns that for a file that is missing"),
    ):
        for find in (detector.detect, lambda image: detector.track(image, 0.0)):
            with pytest.raises(UserError, match=sentence):
                find(image)


def test_a_time_that_stands_still_or_is_no_number_is_refused(detector, demo):
    detector.track(demo[0], 1.0)
    for seconds in (1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="frame's number divided by the frames per second"):
            detector.track(demo[1], seconds)
    detector.track(demo[1], 1.1)
    detector.track(demo[0], 0.0)  # the video begins again
    detector.reset()
    assert len(detector.track(demo[0], 0.0)) == 1  # and here another


def test_what_is_done_to_a_result_changes_no_later_one(detector, demo):
    changed, untouched = EmotionDetector(detector._classifier), detector
    for i in range(4):
        (face,), (expected,) = changed.track(demo[i], i / 30), untouched.track(demo[i], i / 30)
        assert np.array_equal(face.probabilities, expected.probabilities)
        face.probabilities *= 100


def test_a_mirrored_result_is_drawn_where_its_face_is(detector, off_centre):
    faces = detector.track(off_centre, 0.0)
    before = faces.plot()
    detector.mirror()
    after = faces.plot()
    x, y, width, height = faces[0].box
    drawn = (after != off_centre[:, ::-1]).any(axis=2)
    assert drawn[y : y + height, x - 3 : x + width + 3].any() and not drawn[:, : x // 2].any()
    assert before.shape == after.shape


def test_after_an_interruption_every_face_has_probabilities(detector, classifier, demo, monkeypatch):
    def interrupted(crops):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(classifier, "probabilities", interrupted)
        with pytest.raises(KeyboardInterrupt):
            detector.track(demo[0], 0.0)
    faces = detector.track(np.full_like(demo[0], 90), 0.1)  # the face is not found
    assert len(faces) == 1 and json.dumps(faces.to_dict()) and faces.plot() is not None


def test_results_are_plotted_and_saved_as_json(detector, demo):
    gray = cv2.cvtColor(demo[0], cv2.COLOR_BGR2GRAY)
    for image in (demo[0], gray, gray[..., None], cv2.cvtColor(demo[0], cv2.COLOR_BGR2BGRA)):
        before = image.copy()
        faces = detector.detect(image)
        plotted = faces.plot(bars=True)
        assert plotted.shape == demo[0].shape and np.array_equal(image, before)
        assert (plotted == overlay.COLORS[faces[0].label]).all(axis=2).sum() > 100
    (face,) = json.loads(json.dumps(faces.to_dict()))["faces"]
    assert face["box"] == list(faces[0].box) and face["label"] == faces[0].label and face["id"] == 1
    assert face["probabilities"] == pytest.approx(dict(zip(EMOTIONS, faces[0].probabilities, strict=True)), abs=1e-4)


def test_the_included_network_is_the_default_and_help_tells_how_to_use_it(classifier):
    detector = EmotionDetector()
    assert [face.label for face in detector.detect(Demo().frame(20).image)] == ["angry"]
    with pytest.raises(UserError, match="no output"):
        EmotionDetector(labels="nonsense")
    with pytest.raises(UserError, match="load_classifier"):
        EmotionDetector(classifier, labels="ferplus")
    for word in ("detect", "track", "plot", "threshold", "labels"):
        assert word in pydoc.plain(pydoc.render_doc(EmotionDetector))
