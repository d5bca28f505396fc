"""Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): which parts of a face speak for an emotion."""

import numpy as np

from evaluation.metrics import output_layer
from model import FER2013

STEP = 3e-3  # of the finite differences, in units of the feature maps


def grad_cam(model, faces: np.ndarray, codes, labels: str = FER2013) -> np.ndarray:
    """Return maps (n, 48, 48), 0..1, 1 where a Keras model's logits of the emotions `codes` (n,) depend on most.

    `labels` names the output. Taken at the last ReLU of at least 6 x 6. The weights, the mean gradients of the logit by
    channel, are computed as finite differences, which works on every Keras backend.
    Raises `ValueError` where the network has no such layer or a path around it.
    """
    import keras

    last = output_layer(model, labels)
    kernel, bias = last.get_weights()
    relu = keras.activations.relu  # a layer of its own or a layer's activation
    outputs = [
        layer.output
        for layer in model.layers
        if isinstance(layer, keras.layers.ReLU) or getattr(layer, "activation", None) is relu
    ]
    large = [output for output in outputs if len(output.shape) == 4 and output.shape[1] >= 6]  # smaller: no place
    if not large:
        raise ValueError("The network has no ReLU with maps of at least 6 x 6.")
    maps = keras.ops.convert_to_numpy(keras.Model(model.inputs[0], large[-1])(faces))  # (n, h, w, c)
    rest = keras.Model(large[-1], last.input)
    step = STEP * np.eye(maps.shape[-1], dtype=np.float32)[:, None, None, :]  # one channel after the other
    cams = []
    for channels, code in zip(maps, codes, strict=True):
        up, down = (keras.ops.convert_to_numpy(rest(channels + sign * step)) @ kernel + bias for sign in (1, -1))
        cams.append(np.maximum((channels * (up - down)[:, code]).sum(axis=-1), 0))
    cams = np.stack(cams)[..., None]
    cams = cams / np.maximum(cams.max(axis=(1, 2, 3), keepdims=True), 1e-12)
    large = keras.ops.image.resize(cams, faces.shape[1:3], interpolation="bilinear", data_format="channels_last")
    return keras.ops.convert_to_numpy(large)[..., 0]
