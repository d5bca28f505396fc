"""Muon, the optimizer of a new resnet."""

import keras
from keras import ops

COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5  # of the polynomial that takes singular values towards 1
MOMENTUM = 0.95
EPSILON = 1e-7


@keras.saving.register_keras_serializable("emotions")
class Muon(keras.optimizers.Adam):
    """Orthogonalised momentum for hidden convolutions, AdamW for all other weights.

    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", with steps as large as Adam's (Liu
    et al. 2025, "Muon is scalable for LLM training"). Keras has one for matrices, but not for convolutions.
    `compute_dtype` is that of the matrix products, "float32" or "bfloat16".
    """

    def __init__(self, learning_rate, compute_dtype: str = "float32", **options):
        super().__init__(learning_rate, **options)
        self.compute_dtype = compute_dtype

    def apply(self, gradients, variables=None):
        """Update the variables; gradients go through their constraints, too, which must be linear projections.

        So the step of an equivariant kernel comes from the gradients of both of its halves before it is made
        orthogonal.
        """
        variables = self._trainable_variables if variables is None else list(variables)
        pairs = zip(gradients, variables, strict=True)
        super().apply([v.constraint(g) if v.constraint and g is not None else g for g, v in pairs], variables)

    def update_step(self, gradient, variable, learning_rate):
        if not is_hidden_convolution(variable):
            return super().update_step(gradient, variable, learning_rate)
        mean = self._momentums[self._get_variable_index(variable)]
        self.assign(mean, MOMENTUM * mean + gradient)
        self.assign_sub(variable, learning_rate * orthogonal(gradient + MOMENTUM * mean, self.compute_dtype))

    def get_config(self):
        return super().get_config() | {"compute_dtype": self.compute_dtype}


def is_hidden_convolution(variable) -> bool:
    """Return whether weights are of a convolution wider than one pixel that does not read the face itself."""
    return len(variable.shape) == 4 and variable.shape[0] > 1 and variable.shape[2] > 1


def orthogonal(gradient, dtype: str):
    """Return roughly the nearest orthogonal matrix to a convolution's gradient, scaled to a root mean square of 0.2.

    Newton-Schulz iterations take all singular values to 0.7 to 1.2. One row of the matrix is the kernel of an output.
    """
    filters = gradient.shape[-1]
    x = ops.transpose(ops.reshape(gradient, (-1, filters)))  # (outputs, rows * columns * inputs)
    x = ops.cast(x / (ops.norm(x) + EPSILON), dtype)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = ops.matmul(x, ops.transpose(x))
        x = a * x + ops.matmul(b * square + c * ops.matmul(square, square), x)
    return 0.2 * max(x.shape) ** 0.5 * ops.reshape(ops.transpose(ops.cast(x, gradient.dtype)), gradient.shape)
