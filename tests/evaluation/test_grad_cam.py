"""Grad-CAM against the gradients that it approximates, and the temperature in a network's last layer."""

import numpy as np
import pytest

from evaluation.grad_cam import grad_cam
from evaluation.metrics import fold_temperature, with_temperature
from model import build_model

FACES = np.random.default_rng(0).integers(0, 256, (7, 48, 48, 1), np.uint8)


@pytest.fixture(scope="module")
def untrained():
    import keras

    keras.utils.set_random_seed(0)
    return build_model("resnet")


def test_grad_cam_equals_its_gradients(untrained):
    tf = pytest.importorskip("tensorflow")
    import keras

    faces = FACES[:1].repeat(7, axis=0)
    maps = grad_cam(untrained, faces, range(7))
    assert maps.shape == (7, 48, 48)
    assert maps.min() >= 0
    assert maps.max() <= 1
    rectified = [layer for layer in untrained.layers if isinstance(layer, keras.layers.ReLU)]
    layer = [layer for layer in rectified if layer.output.shape[1] == 6][-1]  # 6 x 6 x 192
    both = keras.Model(untrained.input, [layer.output, untrained.layers[-1].input])
    kernel, bias = untrained.layers[-1].get_weights()
    rest = keras.Model(layer.output, untrained.layers[-1].input)
    channels = both(faces.astype(np.float32))[0]
    with tf.GradientTape() as tape:
        tape.watch(channels)
        logits = rest(channels) @ kernel + bias
        chosen = tf.linalg.trace(logits)  # of each face, its own emotion
    weights = tape.gradient(chosen, channels).numpy().mean(axis=(1, 2))
    expected = np.maximum((channels.numpy() * weights[:, None, None, :]).sum(axis=-1), 0)
    assert expected.any(axis=(1, 2)).sum() >= 2  # the map of an emotion without support is empty
    expected /= np.maximum(expected.max(axis=(1, 2), keepdims=True), 1e-12)
    large = keras.ops.image.resize(expected[..., None], (48, 48), interpolation="bilinear")
    difference = np.abs(maps - np.asarray(large)[..., 0])  # not 0: a step may cross the kink of a ReLU
    assert difference.max() < 0.1
    assert difference.mean() < 0.02


def test_a_sequential_network_with_activations_in_its_layers_has_the_map_of_the_same_network_with_relu_layers():
    import keras

    inside, apart = (
        keras.Sequential([keras.Input((48, 48, 1)), *convolution, keras.layers.Flatten(), keras.layers.Dense(7)])
        for convolution in (
            [keras.layers.Conv2D(4, 3, activation="relu")],
            [keras.layers.Conv2D(4, 3), keras.layers.ReLU()],
        )
    )
    apart.set_weights(inside.get_weights())
    assert np.array_equal(grad_cam(inside, FACES, range(7)), grad_cam(apart, FACES, range(7)))


def test_grad_cam_refuses_a_network_without_large_maps():
    import keras

    layers = [keras.Input((48, 48, 1)), keras.layers.Flatten(), keras.layers.Dense(7, "softmax")]
    with pytest.raises(ValueError, match="6 x 6"):
        grad_cam(keras.Sequential(layers), FACES, range(7))


def test_folded_temperature_divides_the_logits(untrained):
    before = untrained.predict_on_batch(FACES)
    fold_temperature(untrained, 2.0)
    after = untrained.predict_on_batch(FACES)
    fold_temperature(untrained, 0.5)
    assert after == pytest.approx(with_temperature(before, 2.0), abs=1e-5)


def test_each_of_two_outputs_has_a_temperature_and_a_map_of_its_own():
    model = build_model("cnn", outputs=("fer2013", "ferplus"))
    before = model.predict_on_batch(FACES)
    fold_temperature(model, 2.0, "ferplus")
    after = model.predict_on_batch(FACES)
    assert after[0] == pytest.approx(before[0], abs=1e-6)
    assert after[1] == pytest.approx(with_temperature(before[1], 2.0), abs=1e-5)
    maps = [grad_cam(model, FACES[:2], [3, 5], labels) for labels in ("fer2013", "ferplus")]
    assert not np.allclose(*maps)
