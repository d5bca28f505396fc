"""Mirrored pairs of filters: after training they need half of the multiplications, and the answers stay the same."""

import keras
import numpy as np
import pytest
from conftest import answers

import model as model_module
from model import build_model, count_multiply_adds
from symmetry import halve_multiplications

FACES = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 1)).astype(np.float32)


def trained(arch, paired=True, image_size=48):
    """A network whose batch normalisation has measured and learnt something, as it has after a training."""
    keras.utils.set_random_seed(0)
    model = build_model(arch, image_size=image_size)
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            values = generator.uniform(0.3, 1.5, (4, layer.gamma.shape[0]))
            layer.set_weights((values + np.roll(values, values.shape[1] // 2, axis=1)) / 2 if paired else values)
    return model


def kinds(network):
    return [type(layer).__name__ for layer in network.layers]


@pytest.mark.parametrize("arch", ["resnet-symmetric", "resnet-huge-symmetric"])
def test_paired_filters_answer_the_same_with_half_of_the_work(arch, monkeypatch):
    monkeypatch.setitem(model_module.RESNETS, "resnet-huge", ((32, 1), (64, 1), (64, 2)))
    model = trained(arch)
    before = answers(model, FACES)
    copy = halve_multiplications(model)
    assert np.abs(answers(copy, FACES) - before).max() < 1e-5 and np.ptp(before, axis=0).max() > 1e-3
    blocks = kinds(model).count("Multiply")
    halved = [layer for layer in copy.layers if type(layer).__name__ == "HalvedConvolution"]
    assert len(halved) == 3 * blocks
    work = sum(np.prod(layer.output.shape[1:3]) * (layer.to_sums.size + layer.to_differences.size) for layer in halved)
    assert work < 0.51 * count_multiply_adds(model)
    assert np.array_equal(answers(model, FACES), before) and "HalvedConvolution" not in kinds(model)


@pytest.mark.parametrize(("arch", "paired"), [("resnet", True), ("cnn", True), ("resnet-symmetric", False)])
def test_filters_that_are_not_paired_stay_as_they_are(arch, paired):
    model = trained(arch, paired)
    copy = halve_multiplications(model)
    assert kinds(copy) == [{"AveragePooling2D": "ConvolvedMeans"}.get(kind, kind) for kind in kinds(model)]
    assert np.allclose(answers(copy, FACES), answers(model, FACES), atol=1e-6)


def test_a_network_of_other_origin_stays_as_it_is():
    layers = [keras.layers.Conv2D(4, 3, padding="same", use_bias=False), keras.layers.BatchNormalization(scale=False)]
    model = keras.Sequential([keras.Input((48, 48, 1)), *layers, keras.layers.Flatten(), keras.layers.Dense(7)])
    assert np.allclose(answers(halve_multiplications(model), FACES), answers(model, FACES), atol=1e-6)


def test_pooling_over_the_border_stays_as_it_is():
    model, faces = trained("resnet-symmetric", image_size=36), FACES[:, :36, :36]
    copy = halve_multiplications(model)  # of 18 pixels, 9, and 5
    assert [kinds(copy).count(kind) for kind in ("ConvolvedMeans", "AveragePooling2D")] == [1, 2]
    assert np.abs(answers(copy, faces) - answers(model, faces)).max() < 1e-5
