"""Batch normalisation: fused, it trains to the same weights; measured, it fits faces without augmentation."""

import keras
import numpy as np
import pytest

from model import build_model
from training.batch_norm import fuse_batch_normalization, measure_batch_normalization, shorten_memory

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.usefixtures("small_and_quiet")
FACES = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 1), dtype=np.uint8)
needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="fusing is TensorFlow's")


def predicted(model, faces):
    return keras.ops.convert_to_numpy(model(faces))


@needs_tensorflow
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
    # The running variance differs by n / (n - 1), the number of pixels: 5 x 12 x 12 at the smallest.
    assert all(np.allclose(a, b, rtol=0.03, atol=2e-3) for a, b in zip(*trained, strict=True))
    reloaded = keras.saving.load_model(tmp_path / "0.keras", compile=False)
    before = predicted(reloaded, FACES)
    assert np.allclose(before, predicted(model, FACES), atol=0.02)
    fuse_batch_normalization(reloaded)
    assert np.allclose(before, predicted(reloaded, FACES), atol=1e-5)


@needs_tensorflow
def test_fused_batch_normalization_is_one_operation():
    import tensorflow as tf

    model = build_model()
    fuse_batch_normalization(model)
    graph = tf.function(model).get_concrete_function(tf.TensorSpec((5, 48, 48, 1))).graph
    fused = sum(operation.type.startswith("FusedBatchNorm") for operation in graph.get_operations())
    assert fused == sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers) > 0


@pytest.mark.parametrize("options", [{"scale": False}, {"center": False}, {"axis": 1}])
def test_batch_normalization_that_cannot_be_fused_stays_as_it_is(options):
    faces = keras.Input((48, 48, 1))
    x = keras.layers.BatchNormalization(**options)(keras.layers.Conv2D(4, 3)(faces))
    model = keras.Model(faces, keras.layers.Dense(7, "softmax")(keras.layers.Flatten()(x)))
    before = predicted(model, FACES)
    fuse_batch_normalization(model)
    assert np.allclose(predicted(model, FACES), before, atol=1e-6)


@pytest.mark.parametrize("steps, momentum", [(8, 0.5), (144, 0.931), (1000, 0.99), (7616, 0.99)])
def test_the_first_statistics_are_forgotten_in_a_short_training_too(steps, momentum):
    network = build_model("cnn")
    shorten_memory(network, steps)
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert [layer.momentum for layer in layers] == pytest.approx([momentum] * len(layers), abs=1e-3)
    assert steps < 100 or momentum**steps < 1e-4


def test_a_small_last_batch_counts_as_much_as_its_faces():
    faces = np.zeros((9, 48, 48, 1), np.uint8)
    faces[8] = 90  # the last one
    normalization = keras.layers.BatchNormalization()
    inputs = keras.Input((48, 48, 1))
    measure_batch_normalization(keras.Model(inputs, normalization(inputs)), faces, batch_size=8)
    assert np.allclose(normalization.moving_mean, 10)


def test_measured_batch_normalization_fits_what_comes_at_inference():
    """Batches of faces of their own brightness: each counts the same, the last no more than the first."""
    keras.utils.set_random_seed(0)
    light = np.linspace(0.2, 1, 4).repeat(8)[:, None, None, None]
    faces = (np.random.default_rng(0).integers(0, 256, (32, 48, 48, 1)) * light).astype(np.uint8)
    dropouts = [keras.layers.SpatialDropout2D(0.5), keras.layers.Dropout(0.4)]
    normalization = keras.layers.BatchNormalization(momentum=0.9)
    inputs = keras.Input((48, 48, 1))
    x = dropouts[0](keras.layers.Conv2D(4, 8, strides=8)(keras.layers.Rescaling(1 / 255)(inputs)))
    x = keras.layers.Dense(8)(dropouts[1](keras.layers.Flatten()(x)))
    measure_batch_normalization(keras.Model(inputs, normalization(x)), faces, batch_size=8)
    # What reaches it with dropout at rest, batch by batch.
    seen = predicted(keras.Model(inputs, x), faces).reshape(4, 8, 8)
    assert np.allclose(normalization.moving_mean, seen.mean(axis=(0, 1)), atol=1e-4)
    assert np.allclose(normalization.moving_variance, seen.var(axis=1).mean(axis=0), rtol=1e-3)
    assert [layer.rate for layer in dropouts] == [0.5, 0.4] and normalization.momentum == 0.9
