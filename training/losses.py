"""Loss and metric of the output that learns votes: faces without votes have targets of zero.

They add nothing to the loss, though they count in its mean, and are left out of the metric.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable("emotions")
class VoteCrossentropy(keras.losses.Loss):
    """Cross-entropy (nats) of probabilities (B, 7) against vote shares (B, 7); 0, with no gradient, for rows of zeros.

    Keras's own takes TensorFlow's gradient for rows that sum to 1, which is wrong for zeros and makes training diverge.
    """

    def call(self, y_true, y_pred):
        return -ops.sum(y_true * ops.log(ops.clip(y_pred, 1e-7, 1)), axis=-1)


@keras.saving.register_keras_serializable("emotions")
class Agreement(keras.metrics.CategoricalAccuracy):
    """Accuracy on the faces that have votes."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_true, y_pred, ops.any(y_true > 0, axis=-1))
