"""The network's contract: shapes, ranges, what a saved file must be, and what is refused."""

import json
import pickle
import zipfile

import keras
import numpy as np
import pytest
from conftest import predictions

import model as model_module
from model import (
    BEST_MODEL,
    EMOTIONS,
    OUTPUTS,
    ModelError,
    build_model,
    count_multiply_adds,
    fold_symmetric_kernels,
    keras_classifier,
    load_classifier,
    sha256_of,
)

FACES = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 1), dtype=np.uint8)


def save_small(path, **options):
    """Save an untrained resnet of two narrow blocks, and return its path."""
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model_module.RESNETS, "resnet", ((16, 2), (16, 1), (16, 2)))
        build_model(**options).save(path)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("model") / "model.keras")


def copy_with(saved, tmp_path, description=None):
    path = tmp_path / "model.keras"
    path.write_bytes(saved.read_bytes())
    if description is not None:
        path.with_suffix(".json").write_text(description, encoding="utf-8")
    return path


@pytest.mark.parametrize("arch", ["resnet-equivariant", "resnet", "cnn"])
def test_networks_have_at_most_three_million_parameters(arch):
    model = build_model(arch)
    assert 80e6 < count_multiply_adds(model) < 150e6
    assert model.count_params() < 3e6


@pytest.mark.parametrize("arch", ["resnet-huge", "resnet-huge-equivariant"])
def test_only_equivariant_networks_predict_the_same_for_mirrored_faces(arch):
    model = build_model(arch)
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    assert first.output.shape == (None, 48, 48, 32)
    same = np.allclose(predictions(model, FACES), predictions(model, FACES[:, :, ::-1]), atol=1e-5)
    assert same == (arch == "resnet-huge-equivariant")


def test_the_shipped_network_is_what_build_model_builds():
    shipped = load_classifier(BEST_MODEL)
    built = build_model(outputs=shipped.outputs)
    for model in (shipped.model, built):
        assert model.count_params() == shipped.description["parameters"]
        assert count_multiply_adds(model) == shipped.description["multiply_adds"]
    for one, other in zip(shipped.model.layers, built.layers, strict=True):
        assert (type(one), one.output.shape) == (type(other), other.output.shape)
        assert one.get_config() | {"name": ""} == other.get_config() | {"name": ""}  # activations, strides, rates
    built.set_weights(shipped.model.get_weights())
    assert np.allclose(predictions(built, FACES), predictions(shipped.model, FACES), atol=1e-5)


def test_a_saved_network_predicts_the_same(saved):
    probabilities = load_classifier(saved).probabilities(FACES)
    assert probabilities.shape == (5, 7)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    plain = keras.saving.load_model(saved, compile=False)
    assert np.allclose(plain.predict(FACES, verbose=0), probabilities, atol=1e-6)


def test_any_number_of_faces_uses_one_trace(saved, monkeypatch):
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
        assert "FoldedConvolution" in {type(layer).__name__ for layer in traced.layers}


def test_a_new_classifier_uses_the_current_weights(saved):
    model = load_classifier(saved).model
    before = keras_classifier(model, {}).probabilities(FACES)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, bias + np.log(2) * np.eye(7)[0]])  # angry has twice the odds
    after = keras_classifier(model, {}).probabilities(FACES)
    doubled = before * [2, 1, 1, 1, 1, 1, 1]
    assert np.allclose(after, doubled / doubled.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("faces", [FACES.astype(np.float32), FACES[:, :40], FACES[..., 0], FACES[0]])
def test_refuses_faces_of_another_kind(saved, faces):
    with pytest.raises(ValueError, match="uint8"):
        load_classifier(saved).probabilities(faces)


def test_the_weights_of_a_residual_network_fit_smaller_faces():
    model, small = build_model(), build_model(image_size=36)
    small.set_weights(model.get_weights())
    assert small.output_shape == (None, 7)


def refused(path, message):
    with pytest.raises(ModelError, match=message) as error:
        load_classifier(path)
    assert "\n" not in str(error.value)


def test_refuses_invalid_model_files(saved, tmp_path):
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


def test_refuses_damaged_weights(saved, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content[: len(content) // 2] if name.endswith(".h5") else content)
    refused(path, "cannot be loaded")


def rewritten(source, path, change, **options):
    """Write a copy of an archive in which `change(name, content)` has replaced every member."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", **options) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return path


def in_config(make):
    return lambda name, content: make(content) if name == "config.json" else content


def crowded(path):
    with zipfile.ZipFile(path, "a") as archive:
        for i in range(101):
            archive.writestr(str(i), "")
    return path


def claiming(path, offset, value):
    """Change a field of every member in an archive's directory: 8 flags, 24 unpacked size."""
    content = bytearray(path.read_bytes())
    place = content.find(b"PK\1\2")
    while place >= 0:
        content[place + offset : place + offset + len(value)] = value
        place = content.find(b"PK\1\2", place + 1)
    path.write_bytes(content)
    return path


ARCHIVES = {  # from a sound archive and a path to a file to refuse
    "LZMA": lambda old, path: rewritten(old, path, lambda name, content: content, compression=zipfile.ZIP_LZMA),
    "encrypted": lambda old, path: claiming(rewritten(old, path, lambda name, content: content), 8, b"\1"),
    "huge": lambda old, path: claiming(rewritten(old, path, lambda name, content: content), 24, b"\0\0\0\x7f"),
    "crowded": lambda old, path: crowded(rewritten(old, path, lambda name, content: content)),
    "long config": lambda old, path: rewritten(old, path, in_config(lambda content: content + b" " * 2**24)),
    "deep config": lambda old, path: rewritten(old, path, in_config(lambda content: b"[" * 10**6)),
    "config is a list": lambda old, path: rewritten(old, path, in_config(lambda content: b"[]")),
    "config of bytes": lambda old, path: rewritten(old, path, in_config(lambda content: b"\xff")),
}


@pytest.mark.parametrize("archive", ARCHIVES)
def test_refuses_archives_before_they_are_unpacked(network, tmp_path, archive, monkeypatch):
    monkeypatch.setattr(keras.saving, "load_model", None)  # not reached
    refused(ARCHIVES[archive](network, tmp_path / "bad.keras"), "is damaged")


def places(part, place=()):
    """Yield the path of every value in parsed JSON."""
    yield place
    for key in part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
        yield from places(part[key], (*place, key))


def test_a_value_of_another_kind_anywhere_in_the_configuration_is_refused_or_harmless(network, tmp_path):
    config = json.loads(zipfile.ZipFile(network).read("config.json"))
    generator = np.random.default_rng(0)
    everywhere = list(places(config))[1:]
    for i in generator.permutation(len(everywhere))[:40]:
        changed = json.loads(json.dumps(config))
        *above, key = everywhere[i]
        part = changed
        for step in above:
            part = part[step]
        part[key] = [None, 7, "x", [1], {"a": {}}, -1, 1e400][generator.integers(7)]
        text = json.dumps(changed).encode()
        path = rewritten(network, tmp_path / "bad.keras", in_config(lambda content, text=text: text))
        try:
            assert np.isfinite(load_classifier(path).probabilities(FACES)).all()
        except ModelError as error:
            assert "\n" not in str(error)


def test_damage_anywhere_in_a_file_is_refused_or_harmless(network, tmp_path):
    generator, content = np.random.default_rng(0), network.read_bytes()
    for i in range(40):
        damaged = bytearray(content[: generator.integers(len(content))] if i % 2 else content)
        for place in generator.integers(len(damaged), size=3 * (1 - i % 2)):
            damaged[-(place % 1500) if i % 4 else place] ^= 1 << int(generator.integers(8))
        (tmp_path / "bad.keras").write_bytes(damaged)
        try:
            load_classifier(tmp_path / "bad.keras")
        except ModelError as error:
            assert "\n" not in str(error)


def test_refuses_layers_whose_memory_is_not_seen_in_their_outputs(tmp_path):
    face = keras.Input((48, 48, 1))
    x = keras.layers.Reshape((64, 36))(face)
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.MultiHeadAttention(2, 4)(x, x))
    keras.Model(face, keras.layers.Dense(7, "softmax")(x)).save(tmp_path / "a.keras")
    refused(tmp_path / "a.keras", "has a layer MultiHeadAttention, which may fill any memory")


def test_a_folded_network_computes_in_the_precision_of_the_network():
    folded = fold_symmetric_kernels(build_model(dtype="mixed_bfloat16"))
    computed = {layer.compute_dtype for layer in folded.layers if isinstance(layer, keras.layers.Identity)}
    assert computed == {"bfloat16"}


def in_layers(make):
    """Change the parsed list of layers in a configuration, whose last one is a dense layer."""

    def change(content):
        config = json.loads(content)
        make(config["config"]["layers"])
        return json.dumps(config).encode()

    return in_config(change)


def grow(layers, **config):
    layers.insert(-1, {**layers[-1], "config": {**layers[-1]["config"], "name": "huge", **config}})
    for layer in layers:
        layer.pop("build_config", None)


def pad(layers, size):
    padding = {"module": "keras.layers", "class_name": "ZeroPadding2D", "config": {"padding": [[size, size]] * 2}}
    layers.insert(1, padding)
    layers[-1].pop("build_config")


HUGE = {
    "37 GB": lambda layers: grow(layers, units=4_000_000),
    "more than 64 bits": lambda layers: grow(layers, units=10**30),
    "an output": lambda layers: pad(layers, 10**5),
    "layers": lambda layers: layers.extend(layers[-1:] * 1500),
}


@pytest.mark.parametrize("kind", HUGE)
def test_refuses_a_huge_network_before_it_is_built(network, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(keras.saving, "load_model", None)  # not reached
    refused(rewritten(network, tmp_path / "bad.keras", in_layers(HUGE[kind])), "more memory|more layers")
    keras.layers.Dense(1).build((None, 1))  # nothing is left that the next network would allocate


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_refuses_weights_that_are_no_numbers(network, tmp_path, number):
    model = keras.saving.load_model(network)
    model.layers[-1].set_weights([np.where(np.arange(7), weight, number) for weight in model.layers[-1].get_weights()])
    model.save(tmp_path / "bad.keras")
    refused(tmp_path / "bad.keras", "NaN or infinity")


@pytest.mark.parametrize("activation", [None, "sigmoid", "tanh"])
def test_refuses_outputs_that_are_no_probabilities(tmp_path, activation):
    layers = [keras.layers.Flatten(), keras.layers.Dense(7, activation)]
    keras.Sequential([keras.Input((48, 48, 1)), *layers]).save(tmp_path / "bad.keras")
    refused(tmp_path / "bad.keras", "not probabilities")


def test_refuses_outputs_in_a_dict(tmp_path):
    inputs = keras.Input((48, 48, 1))
    outputs = {"a": keras.layers.Dense(7, "softmax", name="a")(keras.layers.Flatten()(inputs))}
    keras.Model(inputs, outputs).save(tmp_path / "bad.keras")
    refused(tmp_path / "bad.keras", "cannot be used")


@pytest.mark.parametrize("path", ["", ".", "/", "..", "no\nfolder/x.keras", "x.tflite"])
def test_refuses_what_is_no_file(path):
    with pytest.raises(ModelError, match="There is no model at"):
        load_classifier(path)


def test_a_description_of_another_network_is_noticed(network, tmp_path, capsys):
    path = copy_with(network, tmp_path, json.dumps({"sha256": sha256_of(network), "calibration": {}}))
    assert load_classifier(path).description and not capsys.readouterr().err
    rewritten(network, path, lambda name, content: content)
    assert load_classifier(path).description == {}
    assert "describes another network" in capsys.readouterr().err


def test_refuses_code_in_a_model_file(tmp_path):
    inputs = keras.Input((48, 48, 1))
    x = keras.layers.Lambda(lambda x: x * 2)(inputs)
    outputs = keras.layers.Dense(7)(keras.layers.Flatten()(x))
    keras.Model(inputs, outputs).save(tmp_path / "lambda.keras")
    refused(tmp_path / "lambda.keras", "carries code")


def test_refuses_foreign_layers(saved, tmp_path):
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
def test_refuses_a_network_of_another_shape(tmp_path, size, classes):
    inputs = keras.Input((size, size, 1))
    outputs = keras.layers.Dense(classes)(keras.layers.Flatten()(inputs))
    keras.Model(inputs, outputs).save(tmp_path / "other.keras")
    refused(tmp_path / "other.keras", "this program needs a network from")
    with pytest.warns(UserWarning, match="not yet been built"):
        keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(7, "softmax")]).save(tmp_path / "unbuilt.keras")
    refused(tmp_path / "unbuilt.keras", "maps None to None; this program needs a network from")


def test_reads_the_description_beside_the_model(saved, tmp_path):
    text = json.dumps({"labels": EMOTIONS, "pixel_range": [0, 255], "scores": {"accuracy": 0.5}})
    assert load_classifier(copy_with(saved, tmp_path, text)).description["scores"] == {"accuracy": 0.5}
    assert load_classifier(saved).description == {}


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (json.dumps({"labels": sorted(EMOTIONS)}), "has labels"),
        (json.dumps({"labels": EMOTIONS, "pixel_range": [0, 1]}), "pixels"),
        ("not json", "is not a description"),
        ("[]", "is not a description"),
        ("[" * 10**6, "is not a description"),
        ('{"labels": null}', "is not a description"),
        ('{"exported_from": []}', "is not a description"),
        ('{"sha256": 7}', "is not a description"),
        ('{"scores": "good"}', "is not a description"),
        ('{"training": 1}', "is not a description"),
        ('{"calibration": []}', "is not a description"),
        ('{"calibration": {"temperature": "x"}}', "is not a description"),
        ('{"calibration": {"temperature": NaN}}', "is not a description"),
        ('{"calibration": {"temperature": 0}}', "is not a description"),
        ('{"calibration": {"ferplus": 1}}', "is not a description"),
    ],
)
def test_refuses_a_description_that_contradicts_the_contract(saved, tmp_path, description, message):
    refused(copy_with(saved, tmp_path, description), message)


@pytest.mark.parametrize(
    ("use", "survived"),
    [("open(path).read()", True), ("1 / 0", True), ("os.abort()", False), ("any(iter(int, 1))", False)],
)
def test_a_trial_tells_crashes_and_hangs_from_exceptions(tmp_path, use, survived):
    (tmp_path / "a.txt").touch()
    assert model_module.survives("import os", use, tmp_path / "a.txt", "", 0.5) == survived


def test_too_little_memory_for_tensorflow_is_said_before_it_is_tried(network, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2 * 2**30, -1))
    refused(network, "Only 2.0 GB")


def test_refuses_a_lite_network_that_crashes(lite_network, tmp_path, monkeypatch):
    monkeypatch.setattr(model_module, "survives", lambda *_: False)
    path = tmp_path / "a.tflite"
    path.write_bytes(lite_network.read_bytes())
    refused(path, "crashes the program")


# --- two outputs


@pytest.fixture(scope="module")
def two_outputs(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("model") / "two.keras", outputs=OUTPUTS)


def test_a_network_with_two_outputs_predicts_what_people_see_by_default(two_outputs):
    classifier = load_classifier(two_outputs)
    assert (classifier.outputs, classifier.labels) == (("fer2013", "ferplus"), "ferplus")
    both = classifier.all_probabilities(FACES)
    assert both.shape == (5, 2, 7) and np.allclose(both.sum(axis=2), 1, atol=1e-5)
    assert np.array_equal(classifier.probabilities(FACES), both[:, 1])
    labels = load_classifier(two_outputs, labels="fer2013")
    assert np.array_equal(labels.probabilities(FACES), both[:, 0]) and not np.allclose(both[:, 0], both[:, 1])
    expected = keras.saving.load_model(two_outputs, compile=False).predict(FACES, verbose=0)
    assert np.allclose(np.stack(expected, axis=1), both, atol=1e-5)


@pytest.mark.parametrize("told", ['"temperature": 1' + 400 * "0", '"logit_adjustment": {"fear": 1' + 400 * "0" + "}"])
def test_refuses_a_description_with_a_number_beyond_all_floats(saved, tmp_path, told):
    refused(copy_with(saved, tmp_path, '{"calibration": {"ferplus": {' + told + "}}}"), "not a description")


def test_refuses_labels_that_a_network_does_not_predict(saved, tmp_path):
    assert load_classifier(saved).labels == "fer2013"
    with pytest.raises(ModelError, match="has no output ferplus, only fer2013"):
        load_classifier(saved, labels="ferplus")


def test_refuses_two_outputs_of_other_names(tmp_path):
    inputs = keras.Input((48, 48, 1))
    flat = keras.layers.Flatten()(inputs)
    outputs = [keras.layers.Dense(7, "softmax", name=name)(flat) for name in ("ferplus", "fer2013")]
    keras.Model(inputs, outputs).save(tmp_path / "swapped.keras")
    refused(tmp_path / "swapped.keras", "named fer2013 and ferplus")


# --- folded kernels

FACES_32 = FACES.astype(np.float32)


def trained(arch, symmetric=True, image_size=48):
    """A network whose batch normalisation has measured and learnt something, as it has after a training."""
    keras.utils.set_random_seed(0)
    model = build_model(arch, image_size=image_size)
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            values = generator.uniform(0.3, 1.5, (4, layer.gamma.shape[0]))
            layer.set_weights((values + np.roll(values, values.shape[1] // 2, axis=1)) / 2 if symmetric else values)
    return model


def kinds(network):
    return [type(layer).__name__ for layer in network.layers]


@pytest.mark.parametrize("arch", ["resnet-equivariant", "resnet-huge-equivariant"])
def test_folded_kernels_predict_the_same_with_half_the_multiplications(arch, monkeypatch):
    monkeypatch.setitem(model_module.RESNETS, "resnet-huge", ((32, 1), (64, 1), (64, 2)))
    model = trained(arch)
    before = predictions(model, FACES_32)
    copy = fold_symmetric_kernels(model)
    assert np.abs(predictions(copy, FACES_32) - before).max() < 1e-5 and np.ptp(before, axis=0).max() > 1e-3
    blocks = kinds(model).count("Multiply")
    halved = [layer for layer in copy.layers if type(layer).__name__ == "FoldedConvolution"]
    assert len(halved) == 3 * blocks
    assert np.array_equal(predictions(model, FACES_32), before) and "FoldedConvolution" not in kinds(model)


@pytest.mark.parametrize(("arch", "symmetric"), [("resnet", True), ("cnn", True), ("resnet-equivariant", False)])
def test_does_not_fold_kernels_that_are_not_symmetric(arch, symmetric):
    model = trained(arch, symmetric)
    copy = fold_symmetric_kernels(model)
    assert kinds(copy) == [{"AveragePooling2D": "DepthwiseConv2D"}.get(kind, kind) for kind in kinds(model)]
    assert np.allclose(predictions(copy, FACES_32), predictions(model, FACES_32), atol=1e-6)


def test_does_not_fold_a_network_of_other_origin():
    layers = [keras.layers.Conv2D(4, 3, padding="same", use_bias=False), keras.layers.BatchNormalization(scale=False)]
    model = keras.Sequential([keras.Input((48, 48, 1)), *layers, keras.layers.Flatten(), keras.layers.Dense(7)])
    assert np.allclose(predictions(fold_symmetric_kernels(model), FACES_32), predictions(model, FACES_32), atol=1e-6)


def test_keeps_pooling_over_the_border():
    model, faces = trained("resnet-equivariant", image_size=36), FACES_32[:, :36, :36]
    copy = fold_symmetric_kernels(model)  # of 18 pixels, 9, and 5
    assert [kinds(copy).count(kind) for kind in ("DepthwiseConv2D", "AveragePooling2D")] == [1, 2]
    assert np.abs(predictions(copy, faces) - predictions(model, faces)).max() < 1e-5
