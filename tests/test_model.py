"""The network's contract: shapes, ranges, what a saved file must be, and what is refused."""

import json
import pickle
import zipfile

import keras
import numpy as np
import pytest
from conftest import answers

from model import (
    EMOTIONS,
    ModelError,
    build_model,
    count_multiply_adds,
    fuse_batch_normalization,
    keras_classifier,
    load_classifier,
    measure_batch_normalization,
    prefers_bfloat16,
)

FACES = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    build_model().save(path)
    return path


def copy_with(saved, tmp_path, description=None):
    path = tmp_path / "model.keras"
    path.write_bytes(saved.read_bytes())
    if description is not None:
        path.with_suffix(".json").write_text(description, encoding="utf-8")
    return path


@pytest.mark.parametrize("arch", ["resnet-symmetric", "resnet", "cnn"])
def test_the_network_is_of_the_promised_size(arch):
    model = build_model(arch)
    assert 80e6 < count_multiply_adds(model) < 150e6
    assert model.count_params() < 3e6


def test_pairs_are_held_together_by_what_the_oldest_keras_takes_as_a_constraint():
    constraints = [weight.constraint for weight in build_model("resnet-symmetric").trainable_variables]
    assert all(isinstance(constraint, keras.constraints.Constraint) for constraint in constraints)


@pytest.mark.parametrize("arch", ["resnet-huge", "resnet-huge-symmetric"])
def test_the_largest_teacher_looks_at_every_pixel_and_in_pairs_at_left_and_right_alike(arch):
    model = build_model(arch)
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    assert first.output.shape == (None, 48, 48, 32)
    same = np.allclose(answers(model, FACES), answers(model, FACES[:, :, ::-1]), atol=1e-5)
    assert same == (arch == "resnet-huge-symmetric")


def test_the_shipped_network_is_what_this_program_builds_and_what_is_said_of_it():
    shipped = load_classifier()
    built = build_model()
    for model in (shipped.model, built):
        assert model.count_params() == shipped.description["parameters"]
        assert count_multiply_adds(model) == shipped.description["multiply_adds"]
    for one, other in zip(shipped.model.layers, built.layers, strict=True):
        assert (type(one), one.output.shape) == (type(other), other.output.shape)
        assert one.get_config() | {"name": ""} == other.get_config() | {"name": ""}  # activations, strides, rates
    built.set_weights(shipped.model.get_weights())
    assert np.allclose(answers(built, FACES), answers(shipped.model, FACES), atol=1e-5)


def test_a_reloaded_network_predicts_the_same_and_plain_keras_loads_it(saved):
    probabilities = load_classifier(saved).probabilities(FACES)
    assert probabilities.shape == (5, 7)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    plain = keras.saving.load_model(saved, compile=False)
    assert np.allclose(plain.predict(FACES, verbose=0), probabilities, atol=1e-6)


def test_any_number_of_faces_goes_through_one_trace(saved, monkeypatch):
    classifier = load_classifier(saved)
    traces, call = [], keras.Model.stateless_call
    monkeypatch.setattr(
        keras.Model,
        "stateless_call",
        lambda self, *args, **options: traces.append(self) or call(self, *args, **options),
    )
    together = classifier.probabilities(FACES)
    for n in range(len(FACES) + 1):
        assert np.allclose(classifier.probabilities(FACES[:n]), together[:n], atol=1e-5)
    if keras.backend.backend() == "tensorflow":
        (traced,) = traces
        assert "HalvedConvolution" in {type(layer).__name__ for layer in traced.layers}  # in half the work


def test_a_classifier_made_anew_answers_with_the_weights_of_now(saved):
    model = load_classifier(saved).model
    before = keras_classifier(model, {}).probabilities(FACES)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, bias + np.log(2) * np.eye(7)[0]])  # angry has twice the odds
    after = keras_classifier(model, {}).probabilities(FACES)
    doubled = before * [2, 1, 1, 1, 1, 1, 1]
    assert np.allclose(after, doubled / doubled.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("faces", [FACES.astype(np.float32), FACES[:, :40], FACES[..., 0], FACES[0]])
def test_faces_of_another_kind_are_refused(saved, faces):
    with pytest.raises(ValueError, match="uint8"):
        load_classifier(saved).probabilities(faces)


def test_the_weights_of_a_residual_network_fit_smaller_faces():
    model, small = build_model(), build_model(image_size=36)
    small.set_weights(model.get_weights())
    assert small.output_shape == (None, 7)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="fused batch normalisation is TensorFlow's")
def test_fused_batch_normalization_trains_to_the_same_weights_and_file(tmp_path):
    labels = np.eye(7, dtype=np.float32)[:5]
    trained = []
    for fuse in (fuse_batch_normalization, lambda model: None):
        keras.utils.set_random_seed(0)
        model = build_model()
        model.compile(optimizer=keras.optimizers.SGD(0.01), loss="categorical_crossentropy")
        fuse(model)
        losses = [model.train_on_batch(FACES.astype(np.float32), labels) for _ in range(3)]
        assert losses[0] != losses[2]
        model.save(tmp_path / f"{len(trained)}.keras")
        trained.append(model.get_weights())
    pairs = zip(*trained, strict=True)
    # The running variance differs by n / (n - 1), the number of pixels: 5 x 3 x 3 at the smallest.
    assert all(np.allclose(a, b, rtol=0.03, atol=2e-3) for a, b in pairs)
    reloaded = keras.saving.load_model(tmp_path / "0.keras", compile=False)
    before = answers(reloaded, FACES)
    assert np.allclose(before, answers(model, FACES), atol=0.02)
    fuse_batch_normalization(reloaded)
    assert np.allclose(before, answers(reloaded, FACES), atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="fused batch normalisation is TensorFlow's")
def test_fused_batch_normalization_is_one_operation():
    import tensorflow as tf

    model = build_model()
    fuse_batch_normalization(model)
    graph = tf.function(model).get_concrete_function(tf.TensorSpec((5, 48, 48, 1))).graph
    fused = sum(operation.type.startswith("FusedBatchNorm") for operation in graph.get_operations())
    assert fused == sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="known of TensorFlow alone")
@pytest.mark.parametrize("vendor, flags, gpus, preferred", [
    ("GenuineIntel", "avx2 amx_bf16 amx_tile", [], True),
    ("GenuineIntel", "avx2 amx_bf16 amx_tile", ["GPU"], False),
    ("GenuineIntel", "avx2 avx512_bf16", [], False),
    ("AuthenticAMD", "avx2 avx512_bf16", [], True),
    ("AuthenticAMD", "avx2", [], False),
])  # fmt: skip
def test_bfloat16_is_preferred_where_it_is_faster(tmp_path, monkeypatch, vendor, flags, gpus, preferred):
    information = tmp_path / "cpuinfo"
    information.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags} clflush\n")
    monkeypatch.setattr("model.CPU_INFORMATION", information)
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: gpus)
    assert prefers_bfloat16() is preferred
    information.unlink()
    assert not prefers_bfloat16()


@pytest.mark.parametrize("options", [{"scale": False}, {"center": False}, {"axis": 1}])
def test_batch_normalization_that_cannot_be_fused_answers_as_before(options):
    faces = keras.Input((48, 48, 1))
    x = keras.layers.BatchNormalization(**options)(keras.layers.Conv2D(4, 3)(faces))
    model = keras.Model(faces, keras.layers.Dense(7, "softmax")(keras.layers.Flatten()(x)))
    before = answers(model, FACES)
    fuse_batch_normalization(model)
    assert np.allclose(answers(model, FACES), before, atol=1e-6)


def test_measured_batch_normalization_fits_what_comes_at_inference():
    """Batches of faces of their own light: each counts the same, the last no more than the first."""
    keras.utils.set_random_seed(0)
    light = np.linspace(0.2, 1, 4).repeat(8)[:, None, None, None]
    faces = (np.random.default_rng(0).integers(0, 256, (32, 48, 48, 1)) * light).astype(np.uint8)
    dropouts = [keras.layers.SpatialDropout2D(0.5), keras.layers.Dropout(0.4)]
    normalisation = keras.layers.BatchNormalization(momentum=0.9)
    inputs = keras.Input((48, 48, 1))
    x = dropouts[0](keras.layers.Conv2D(4, 8, strides=8)(keras.layers.Rescaling(1 / 255)(inputs)))
    x = keras.layers.Dense(8)(dropouts[1](keras.layers.Flatten()(x)))
    measure_batch_normalization(keras.Model(inputs, normalisation(x)), faces, batch_size=8)
    # What reaches it with dropout at rest, batch by batch.
    seen = answers(keras.Model(inputs, x), faces).reshape(4, 8, 8)
    assert np.allclose(normalisation.moving_mean, seen.mean(axis=(0, 1)), atol=1e-4)
    assert np.allclose(normalisation.moving_variance, seen.var(axis=1).mean(axis=0), rtol=1e-3)
    assert [layer.rate for layer in dropouts] == [0.5, 0.4] and normalisation.momentum == 0.9


def refused(path, message):
    with pytest.raises(ModelError, match=message) as error:
        load_classifier(path)
    assert "\n" not in str(error.value)


def test_what_is_no_model_is_refused(saved, tmp_path):
    refused(tmp_path / "best_model.keras", "There is no model at")
    path = tmp_path / "model.h5"
    path.write_bytes(saved.read_bytes())
    refused(path, "not a .keras file")
    path = tmp_path / "pickle.keras"
    path.write_bytes(pickle.dumps({"a": 1}))
    refused(path, "not a .keras file")
    path = tmp_path / "truncated.keras"
    path.write_bytes(saved.read_bytes()[:-5000])
    refused(path, "not a .keras file|damaged")
    path = tmp_path / "empty.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    refused(path, "damaged")


def test_damaged_weights_are_refused(saved, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content[: len(content) // 2] if name.endswith(".h5") else content)
    refused(path, "cannot be loaded")


def test_code_in_a_model_file_is_refused(tmp_path):
    inputs = keras.Input((48, 48, 1))
    x = keras.layers.Lambda(lambda x: x * 2)(inputs)
    outputs = keras.layers.Dense(7)(keras.layers.Flatten()(x))
    keras.Model(inputs, outputs).save(tmp_path / "lambda.keras")
    refused(tmp_path / "lambda.keras", "carries code")


def test_a_foreign_layer_is_refused_before_anything_is_imported(saved, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                config["config"]["layers"][1] |= {"module": "os", "class_name": "system"}
                content = json.dumps(config).encode()
            new.writestr(name, content)
    refused(path, "carries code")


@pytest.mark.parametrize(("size", "classes"), [(64, 7), (48, 8)])
def test_a_network_of_another_shape_is_refused(tmp_path, size, classes):
    inputs = keras.Input((size, size, 1))
    outputs = keras.layers.Dense(classes)(keras.layers.Flatten()(inputs))
    keras.Model(inputs, outputs).save(tmp_path / "other.keras")
    refused(tmp_path / "other.keras", "this program needs a network from")
    with pytest.warns(UserWarning, match="not yet been built"):
        keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(7, "softmax")]).save(tmp_path / "unbuilt.keras")
    refused(tmp_path / "unbuilt.keras", "takes None to None; this program needs a network from")


def test_a_description_beside_the_model_is_read(saved, tmp_path):
    text = json.dumps({"labels": EMOTIONS, "pixel_range": [0, 255], "scores": {"accuracy": 0.5}})
    assert load_classifier(copy_with(saved, tmp_path, text)).description["scores"] == {"accuracy": 0.5}
    assert load_classifier(saved).description == {}


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (json.dumps({"labels": sorted(EMOTIONS)}), "says labels"),
        (json.dumps({"labels": EMOTIONS, "pixel_range": [0, 1]}), "pixels"),
        ("not json", "is no description"),
        ("[]", "is no description"),
    ],
)
def test_a_description_that_contradicts_is_refused(saved, tmp_path, description, message):
    refused(copy_with(saved, tmp_path, description), message)
