"""Filters in mirrored pairs: how they are held together in training, and how they halve the work afterwards.

A mirrored face only swaps the halves of what a layer puts out, until the mean over the face makes both the same: a
group convolution (Cohen & Welling 2016, "Group equivariant convolutional networks").
"""

import numpy as np


def pair_filters(model) -> None:
    """Make the second half of every layer's filters mirror images of the first half, now and throughout training."""
    import keras

    class Paired(keras.constraints.Constraint):  # Keras 3.12 takes no other function
        def __init__(self, answers: bool):
            self.answers = answers

        def __call__(self, weight):
            return _paired(weight, self.answers)

    for layer in model.layers:
        answers = isinstance(layer, keras.layers.Dense)  # the emotions have no halves
        for weight in layer.trainable_variables:
            weight.constraint = Paired(answers)
            spread = 2**0.5 if len(weight.shape) > 1 else 1  # the mean of two random numbers varies less
            weight.assign(spread * weight.constraint(weight))


def _paired(weight, answers: bool = False):
    """Return the mean of a layer's weights and of those that answer to a mirrored face with swapped halves."""
    from keras import ops

    weight = ops.convert_to_tensor(weight)
    mirrored = ops.flip(weight, axis=1) if len(weight.shape) == 4 else weight  # rows, columns, inputs, outputs
    for axis in range(-min(len(weight.shape), 2), -1 if answers else 0):
        if weight.shape[axis] > 1:  # a gray face is one input
            mirrored = ops.roll(mirrored, weight.shape[axis] // 2, axis=axis)
    return (weight + mirrored) / 2


def halve_multiplications(model):
    """Return a copy of a trained Keras model that answers the same; where filters are paired, with half the work.

    Such a convolution is worked out for the sums and the differences of paired channels. A mirrored face mirrors the
    sums, and the differences with the opposite sign; so the filters from sums to sums and from differences to
    differences are symmetric, and the two between them antisymmetric. Of three columns, symmetric ones need two
    multiplications: for the pixel, and for its neighbours' mean. Antisymmetric ones need one, for half of what the
    neighbours differ by. Together that is half of what single filters need.

    Means of two by two pixels become convolutions as well, for LiteRT is slow at them in int8. The copy is there to be
    run or converted: its convolutions are constants, and it cannot be saved.
    """
    import keras
    from keras import ops

    class HalvedConvolution(keras.layers.Layer):
        def __init__(self, kernel, offset, rectified: bool, dtype):
            super().__init__(dtype=dtype)
            self.to_sums, self.to_differences = _split_kernel(kernel)
            self.offset, self.rectified = offset[: len(offset) // 2], rectified

        def compute_output_shape(self, shape):
            return *shape[:-1], 2 * len(self.offset)

        def call(self, x, mask=None):  # as batch normalisation is called
            one, other = ops.split(x, 2, axis=-1)
            sums, differences = one + other, one - other
            if len(self.to_sums) == 3:  # rows
                sums, differences = (
                    ops.concatenate([sums, _neighbours(sums, 0.5), _neighbours(differences, -0.5)], axis=-1),
                    ops.concatenate([differences, _neighbours(differences, 0.5), _neighbours(sums, -0.5)], axis=-1),
                )
            sums = ops.conv(sums, ops.cast(self.to_sums, x.dtype), padding="same") + ops.cast(self.offset, x.dtype)
            differences = ops.conv(differences, ops.cast(self.to_differences, x.dtype), padding="same")
            halves = [sums + differences, sums - differences]
            if self.rectified:  # before the halves are joined: in int8 that costs nothing there
                halves = [ops.relu(half) for half in halves]
            return ops.concatenate(halves, axis=-1)

    class ConvolvedMeans(keras.layers.Layer):
        def call(self, x):
            return ops.depthwise_conv(x, ops.full((2, 2, x.shape[-1], 1), 0.25, x.dtype), strides=2, padding="valid")

    replaced = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.AveragePooling2D) and _halves_evenly(layer):
            replaced[layer.name] = ConvolvedMeans(dtype=layer.dtype_policy)
        normalization = _follower(layer)
        if isinstance(layer, keras.layers.Conv2D) and normalizes_maps(normalization):
            kernel, offset = _folded(layer, normalization)
            if _can_be_halved(layer, kernel, offset):
                activation = _follower(normalization)
                rectified = isinstance(activation, keras.layers.ReLU)
                replaced[normalization.name] = HalvedConvolution(kernel, offset, rectified, layer.dtype_policy)
                for absorbed in (layer, activation) if rectified else (layer,):
                    replaced[absorbed.name] = keras.layers.Identity()

    def replace(layer):
        return replaced[layer.name] if layer.name in replaced else layer.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=replace)
    for layer in copy.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return copy


def normalizes_maps(layer) -> bool:
    """Return whether a layer is batch normalisation as `build_model` makes it; a network of other origin has others."""
    import keras

    usual = isinstance(layer, keras.layers.BatchNormalization) and layer.scale and layer.center
    return usual and len(layer.output.shape) == 4 and layer.axis in (-1, 3)


def _follower(layer):
    """Return the layer that takes what this one puts out, None if several do."""
    followers = {node.operation for node in layer._outbound_nodes}
    return followers.pop() if len(followers) == 1 else None


def _folded(convolution, normalization):
    """Return kernel and offset of the convolution that does what a convolution and batch normalisation do."""
    gamma, beta, mean, variance = (weight.astype(np.float64) for weight in normalization.get_weights())
    scale = gamma / np.sqrt(variance + normalization.epsilon)
    kernel = convolution.get_weights()[0] * scale
    return kernel.astype(np.float32), (beta - mean * scale).astype(np.float32)


def _can_be_halved(convolution, kernel, offset) -> bool:
    """Return whether a convolution is of one pixel or three by three, takes every pixel, and has paired filters."""
    return (
        kernel.shape[:2] in ((1, 1), (3, 3))
        and kernel.shape[2] > 1
        and (convolution.strides, convolution.padding, convolution.use_bias) == ((1, 1), "same", False)
        and all(np.allclose(weight, _paired(weight), atol=1e-5) for weight in (kernel, offset))
    )


def _halves_evenly(pooling) -> bool:
    """Return whether pooling takes two by two pixels, and none beyond the border."""
    (_, height, width, _), halved = pooling.input.shape, pooling.output.shape[1:3]
    return pooling.pool_size == pooling.strides == (2, 2) and (height, width) == (2 * halved[0], 2 * halved[1])


def _split_kernel(kernel):
    """Return the filters, float32 (rows, 1, inputs, pairs), to the sums of paired channels and to the differences."""
    half = kernel.shape[2] // 2, kernel.shape[3] // 2
    of_one, of_other = kernel[:, :, : half[0], : half[1]], kernel[:, :, half[0] :, : half[1]]
    of_sums, of_differences = (of_one + of_other) / 2, (of_one - of_other) / 2
    if kernel.shape[1] == 1:
        return of_sums, of_differences
    return tuple(
        np.concatenate([symmetric[:, 1:2], symmetric[:, 2:] + symmetric[:, :1], other[:, 2:] - other[:, :1]], axis=2)
        for symmetric, other in ((of_sums, of_differences), (of_differences, of_sums))
    )


def _neighbours(x, left: float):
    """Return half of every pixel's right neighbour, and of its left one or less that: for x (n, height, width, c)."""
    from keras import ops

    kernel = np.zeros((1, 3, x.shape[-1], 1), np.float32)
    kernel[:, 0], kernel[:, 2] = left, 0.5
    return ops.depthwise_conv(x, ops.cast(kernel, x.dtype), padding="same")
