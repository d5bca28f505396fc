"""train.py --export and what becomes of its files: both kinds predict as Keras does, in main.py too."""

import json
import os
import subprocess
import sys

import cv2
import keras
import numpy as np
import pytest
from conftest import REPOSITORY, run_code
from made_data import make_rows, write_csv

import main
import model as model_module
import train
from data import load_fer2013
from model import EMOTIONS, ModelError, build_model, load_classifier
from training import export

pytest_plugins = ["training_fixtures"]
NAMES = ("best_model.tflite", "best_model.int8.tflite")
FACES = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a data set in data/, an untrained best_model.keras and what `--export` made of it."""
    folder = tmp_path_factory.mktemp("export")
    write_csv(folder / "data" / "fer2013.csv", make_rows((3, 4, 0)))
    keras.utils.set_random_seed(0)
    (folder / "best_model.json").write_text(json.dumps({"labels": EMOTIONS, "training": {"epochs": 0}, "scores": {}}))
    (folder / NAMES[0]).write_bytes(b"an older export")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(model_module, "RESNETS", {"resnet": ((32, 2), (32, 2))})  # the same layers, in less time
        build_model().save("best_model.keras")
        assert train.main(["--export"]) == 0
    return folder


@pytest.fixture(params=NAMES)
def exported(folder, request):
    return folder / request.param


def moved(probabilities, reference):
    """The share of probability that sits on other emotions."""
    return np.abs(probabilities - reference).sum(axis=1).mean() / 2


def test_an_export_predicts_as_keras_does(folder, exported):
    classifier, reference = load_classifier(exported), load_classifier(folder / "best_model.keras")
    faces = np.concatenate([FACES, load_fer2013(folder / "data")["PublicTest"].faces])
    faces[0, :24], faces[0, 24:] = 0, 255
    probabilities = classifier.probabilities(faces)
    assert probabilities.shape == (len(faces), 7) and probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert moved(probabilities, reference.probabilities(faces)) < (0.02 if "int8" in exported.name else 0.001)
    for n in range(3):
        assert np.array_equal(classifier.probabilities(faces[:n]), probabilities[:n])
    with pytest.raises(ValueError, match="uint8"):
        classifier.probabilities(faces / 255)


def open_lite(path):
    return model_module.import_interpreter()(model_path=str(path))


def test_int8_computes_in_integers_and_takes_pixels_as_they_are(folder):
    interpreter = open_lite(folder / "best_model.int8.tflite")
    kinds = [np.dtype(tensor["dtype"]).name for tensor in interpreter.get_tensor_details()]
    assert kinds.count("float32") == 1 and kinds.count("uint8") == 1  # the output and the input
    assert set(kinds) == {"float32", "uint8", "int8", "int32"}  # int32: sums, and shapes
    assert interpreter.get_input_details()[0]["quantization"] == (1.0, 0)


def test_float16_keeps_its_weights_in_float16(folder):
    interpreter = open_lite(folder / "best_model.tflite")
    kinds = {np.dtype(tensor["dtype"]).name for tensor in interpreter.get_tensor_details()}
    assert "float16" in kinds and "int8" not in kinds


def test_symmetric_kernels_take_half_the_space(folder):
    weights = load_classifier(folder / "best_model.keras").model.count_params()
    assert (folder / "best_model.tflite").stat().st_size < 2 * weights + 25_000  # of two bytes each, and their names


def test_a_description_beside_the_export_tells_how_well_it_agrees(folder, exported):
    description = load_classifier(exported).description
    assert description["labels"] == list(EMOTIONS) and description["pixel_range"] == [0, 255]
    assert description["training"] == {"epochs": 0} and "scores" not in description  # they are the Keras model's
    assert set(description["agreement"]["accuracy"]) == {"fer2013"}
    assert description["agreement"]["n"] == 28 and description["agreement"]["moved_probability"] < 0.02
    assert json.loads((folder / "best_model.json").read_text())["scores"] == {}  # that of the .keras file stays
    assert len(list(folder.iterdir())) == 7 and not list(folder.glob("*partial*"))
    path = exported.with_name(f"{exported.name}.json")
    text = path.read_text()
    path.write_text(json.dumps(description | {"labels": sorted(EMOTIONS)}))
    with pytest.raises(ModelError, match="labels"):
        load_classifier(exported)
    path.write_text(text)


def test_main_runs_an_export(exported, tmp_path, demo, capsys):
    cv2.imwrite(str(tmp_path / "picture.png"), demo[0])
    log = tmp_path / "x.csv"
    options = ["--source", str(tmp_path / "picture.png"), "--no-window", "--log", str(log)]
    assert main.main([*options, "--model", str(exported)]) == 0
    assert capsys.readouterr().err == ""
    assert len(log.read_text().splitlines()) == 2


def test_litert_needs_no_tensorflow(exported):
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed: tf.lite was tested in its place")
    code = (
        "import sys, numpy, model\n"
        f"classifier = model.load_classifier({str(exported)!r})\n"
        "assert classifier.probabilities(numpy.zeros((2, 48, 48, 1), numpy.uint8)).shape == (2, 7)\n"
        "print(*{'tensorflow', 'keras'} & set(sys.modules))"
    )
    done = run_code(code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_threads_may_load_and_share_networks(folder):
    exported = folder / NAMES[0]
    keras_file = folder / "best_model.keras"
    code = (
        "import concurrent.futures, os, sys, warnings, numpy, model\n"
        "faces = numpy.random.default_rng(0).integers(0, 256, (16, 48, 48, 1), numpy.uint8)\n"
        "with concurrent.futures.ThreadPoolExecutor(4) as pool:\n"
        f"    classifiers = list(pool.map(model.load_classifier, [{str(exported)!r}, {str(keras_file)!r}] * 4))\n"
        "    for classifier in classifiers[:2]:\n"
        "        expected = classifier.probabilities(faces)\n"
        "        for answers in pool.map(classifier.probabilities, [faces] * 25):\n"
        "            assert numpy.allclose(answers, expected, atol=1e-6)\n"
        "assert ('ignore', None, Warning, None, 0) not in warnings.filters\n"
        "print('still here', file=sys.stderr)\n"
        "os.write(2, b'and the file itself\\n')"
    )
    done = run_code(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("still here\nand the file itself\n")


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell closes stderr")
def test_a_program_without_stderr_loads_a_network(exported):
    code = f"import model; print(model.load_classifier({str(exported)!r}).description['labels'][0])"
    command = ["sh", "-c", '"$0" -c "$1" 2>&-', sys.executable, code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "angry\n")


def test_litert_and_tensorflows_copy_predict_the_same(exported, monkeypatch):
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed: there is only tf.lite")
    probabilities = load_classifier(exported).probabilities(FACES)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)  # as if it were not installed
    assert "tensorflow" in model_module.import_interpreter().__module__
    assert np.allclose(load_classifier(exported).probabilities(FACES), probabilities, atol=0.01)


# ---- What cannot be used


def refuses(path, message):
    with pytest.raises(ModelError, match=message) as error:
        load_classifier(path)
    assert "\n" not in str(error.value) and "train.py" in str(error.value)


def test_what_is_no_export_is_refused(exported, tmp_path):
    refuses(tmp_path / "best_model.tflite", "There is no model at")
    content, path = exported.read_bytes(), tmp_path / "damaged.tflite"
    for damaged in (b"", b"hello", content[: len(content) // 2], content[:-1], bytes(4) + content[4:]):
        path.write_bytes(damaged)
        refuses(path, "damaged")


def other_network(size, classes, dtype):
    """The content of a `.tflite` file that takes another kind of face, or gives another number of probabilities."""
    import tensorflow as tf

    face = keras.Input(batch_shape=(1, size, size, 1), dtype=dtype)
    x = keras.layers.AveragePooling2D(size)(keras.layers.Rescaling(1 / 255)(face))
    other = keras.Model(face, keras.layers.Dense(classes, "softmax")(keras.layers.Flatten()(x)))
    with model_module.native_stderr_hidden():
        return tf.lite.TFLiteConverter.from_keras_model(other).convert()


@pytest.mark.parametrize(("size", "classes", "dtype"), [(64, 7, "uint8"), (48, 8, "uint8"), (48, 7, "float32")])
def test_a_network_of_another_kind_is_refused(tmp_path, size, classes, dtype):
    (tmp_path / "other.tflite").write_bytes(other_network(size, classes, dtype))
    refuses(tmp_path / "other.tflite", "its tensors are")


def test_an_export_without_a_model_is_refused(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--export", "--data", str(folder / "data")]) == 2
    assert "There is no model at" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_export_that_predicts_differently_is_not_written(folder, tmp_path, monkeypatch, capsys):
    content = {path: path.read_bytes() for path in (folder / name for name in NAMES)}
    by_quantization = dict(zip(("float16", "int8"), content.values(), strict=True))
    monkeypatch.chdir(tmp_path)
    classifier = load_classifier(folder / "best_model.keras")
    before = classifier.probabilities(FACES)
    kernel, bias = classifier.model.layers[-1].get_weights()
    likeliest = np.eye(7)[before.mean(axis=0).argmax()]
    classifier.model.layers[-1].set_weights([kernel, bias - likeliest * np.log(1.5)])  # two thirds of the odds
    classifier.model.save("best_model.keras")
    assert 0.08 < moved(load_classifier("best_model.keras").probabilities(FACES), before) < 0.15
    monkeypatch.setattr(export, "convert", lambda model, quantization, faces: by_quantization[quantization])
    assert train.main(["--export", "--data", str(folder / "data")]) == 2
    assert "predicts differently" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["best_model.keras"]


def test_other_layers_are_tried_before_they_are_converted(folder, tmp_path, monkeypatch, capsys):
    layers = keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(7, "softmax")
    keras.Sequential([keras.Input((48, 48, 1)), *layers]).save(tmp_path / "best_model.keras")
    monkeypatch.setattr(export, "survives", lambda *_: False)  # as with an LSTM
    monkeypatch.chdir(tmp_path)
    assert train.main(["--export", "--data", str(folder / "data")]) == 2
    assert "converter crashes" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["best_model.keras"]


def test_what_cannot_be_converted_or_written_is_reported(folder, tmp_path, monkeypatch, capsys):
    with pytest.raises(ModelError, match="cannot be converted to float16"):
        export.convert(lambda face: keras.ops.erfinv(face), "float16", FACES)
    with monkeypatch.context() as patch:
        patch.setattr(keras.backend, "backend", lambda: "jax")
        assert train.main(["--export", "--data", "read later", "--model", "x.keras"]) == 2
        assert "KERAS_BACKEND" in capsys.readouterr().err
    content = {kind: (folder / name).read_bytes() for kind, name in zip(("float16", "int8"), NAMES, strict=True)}
    monkeypatch.setattr(export, "convert", lambda model, quantization, faces: content[quantization])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.int8.tflite").mkdir()
    words = ["--export", "x.tflite", "--data", str(folder / "data"), "--model", str(folder / "best_model.keras")]
    assert train.main(words) == 2
    assert "x.int8.tflite" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["x.int8.tflite"]  # and no half of an export


def test_calibration_shows_the_whole_range_of_pixels_and_faces_from_first_to_last():
    faces = np.linspace(100, 200, 1000).astype(np.uint8)[:, None, None, None] * np.ones((48, 48, 1), np.uint8)
    chosen = export.calibration_faces(faces)
    assert np.allclose(chosen[:, -1, -1, 0], np.linspace(100, 200, 300), atol=1.5)
    assert chosen.shape == (300, 48, 48, 1) and chosen.dtype == np.float32
    assert (chosen.min(), chosen.max()) == (0, 255) and faces.min() == 100
    assert len(export.calibration_faces(faces[:3])) == 3
