"""Batch normalisation that trains by TensorFlow's fused kernel."""

import keras
from keras import ops

# cuDNN's kernel takes no smaller one.
LEAST_EPSILON = 1.001e-5


@keras.saving.register_keras_serializable("keras_stoch")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, in training computed by TensorFlow's fused kernel where there is one for it.

    Keras writes it as a dozen operations and their gradients, each of which reads and writes whole feature maps: a
    tenth more time for a training step of EfficientNet-B0 on a CPU. The kernel stands in for maps (B, H, W, C) in
    float32 or less, with gamma and beta, of one replica or of replicas that do not share statistics; everything else,
    and inference, is Keras's own.

    Arguments, input and output shapes: those of `keras.layers.BatchNormalization`.
    """

    def call(self, inputs, training=None, mask=None):
        if not training or not self.trainable or mask is not None or not self._has_kernel(inputs):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        inputs = ops.cast(inputs, "float32")  # as Keras has it, for the statistics of half precision
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=ops.cast(self.gamma, "float32"),
            offset=ops.cast(self.beta, "float32"),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel returns the variance of a sample, over n - 1, which Keras 2 stored too. Keras 3 stores that over n.
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), "float32")
        variance *= (count - 1) / count
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(ops.cast(moving, "float32") * self.momentum + value * (1.0 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)

    def _has_kernel(self, inputs) -> bool:
        return (
            keras.config.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.epsilon >= LEAST_EPSILON
            and self.scale
            and self.center
            and not self.synchronized
            and not getattr(self, "renorm", False)  # of newer versions of Keras
            and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "float16", "bfloat16")
            and self.variable_dtype == "float32"
        )
