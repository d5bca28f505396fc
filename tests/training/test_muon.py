"""Muon: the step of a convolution is orthogonal, everything else is trained as by AdamW."""

import keras
import numpy as np
import pytest

from model import build_model
from training.muon import Muon, is_hidden_convolution, orthogonal


@pytest.mark.parametrize("shape", [(3, 3, 4, 24), (3, 3, 2, 40)])  # fewer filters than weights of one, and more
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_step_of_a_convolution_is_the_nearest_orthogonal_matrix(shape, dtype):
    gradient = 1e-4 * np.random.default_rng(0).normal(size=shape).astype(np.float32)
    step = keras.ops.convert_to_numpy(orthogonal(keras.ops.convert_to_tensor(gradient), dtype))
    assert step.shape == shape and 0.1 < step.std() < 0.25
    matrix = step.reshape(-1, shape[-1])
    left, _, right = np.linalg.svd(gradient.reshape(matrix.shape), full_matrices=False)
    values = np.linalg.svd(matrix, compute_uv=False) / (0.2 * max(matrix.shape) ** 0.5)
    assert 0.6 < values.min() <= values.max() < 1.3
    assert np.corrcoef((left @ right).ravel(), matrix.ravel())[0, 1] > 0.95


def test_everything_but_hidden_convolutions_is_trained_as_by_adamw():
    generator = np.random.default_rng(0)
    shapes = [(3, 3, 1, 8), (1, 1, 8, 8), (8,), (8, 7), (3, 3, 8, 8)]
    first = [np.float32(generator.normal(size=shape)) for shape in shapes]
    # None is near 0, where Adam's epsilon counts.
    gradients = [[keras.ops.convert_to_tensor(np.float32(generator.uniform(0.5, 1.5, shape))) for shape in shapes]] * 3
    weights = []
    for kind in (Muon, keras.optimizers.AdamW):
        variables = [keras.Variable(values) for values in first]
        optimizer = kind(learning_rate=0.01, weight_decay=0.1)
        for gradient in gradients:
            optimizer.apply(gradient, variables)
        weights.append([keras.ops.convert_to_numpy(variable) for variable in variables])
    same = [np.allclose(a, b, atol=1e-6) for a, b in zip(*weights, strict=True)]  # of 0.03
    assert same == [True, True, True, True, False]


def test_an_equivariant_kernel_is_trained_by_the_mean_of_the_gradients_of_its_halves():
    generator = np.random.default_rng(0)
    model = build_model("resnet-equivariant", image_size=8)
    weights = next(filter(is_hidden_convolution, model.trainable_variables))
    before = keras.ops.convert_to_numpy(weights)
    gradient = np.float32(generator.normal(size=weights.shape))
    mirrored = np.roll(gradient[:, ::-1], (weights.shape[2] // 2, weights.shape[3] // 2), axis=(2, 3))
    Muon(learning_rate=0.01).apply([keras.ops.convert_to_tensor(gradient)], [weights])
    expected = orthogonal(keras.ops.convert_to_tensor((gradient + mirrored) / 2), "float32")
    step = (before - keras.ops.convert_to_numpy(weights)) / 0.01
    np.testing.assert_allclose(step, keras.ops.convert_to_numpy(expected), atol=1e-3)
