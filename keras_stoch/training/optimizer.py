"""The recipe's optimiser and loss: Keras's and TensorFlow's own, with the recipe's values."""

import keras
import tensorflow as tf

from keras_stoch.training.recipe import Recipe


def make_optimizer(model, recipe: Recipe):
    """The recipe's optimiser of a Keras model, not built yet.

    Weight decay is of kernels: of variables of two or more dimensions, which biases, gamma and beta have not.
    """
    decay = {"weight_decay": recipe.weight_decay} if recipe.weight_decay else {}
    if recipe.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(
            recipe.learning_rate,
            beta_1=recipe.beta_1,
            beta_2=recipe.beta_2,
            epsilon=recipe.epsilon,
            weight_decay=recipe.weight_decay,
        )
    else:
        optimizer = keras.optimizers.RMSprop(
            recipe.learning_rate, rho=recipe.rho, momentum=recipe.momentum, epsilon=recipe.epsilon, **decay
        )
    if recipe.weight_decay:
        optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) < 2])
    return optimizer


def cross_entropy(targets, logits, recipe: Recipe):
    """The loss of every image, (batch, 1), of targets and logits of that shape.

        -(p t log s(z) + (1 - t) log(1 - s(z)))

    for the smoothed target t, the logit z and `pos_weight` p.
    """
    targets = tf.cast(targets, logits.dtype)
    if recipe.label_smoothing:
        targets = targets * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
    if recipe.pos_weight == 1:
        return tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    return tf.nn.weighted_cross_entropy_with_logits(targets, logits, recipe.pos_weight)


class Averages:
    """Averages of a model's trainable variables over the steps, w' <- w' + (1 - d) (w - w').

    d is the smaller of the recipe's decay and (1 + t) / (10 + t) after t steps, so that the first weights are forgotten
    in a short training too (as in tf.train.ExponentialMovingAverage). A weight that does not change stays as it is, to
    the bit, which the form of Keras's `use_ema` does not give.

    Args:
        model: Keras model, built under the strategy.
        decay: in (0, 1).
        strategy: tf.distribute.Strategy, in whose scope this is made.

    Attributes:
        variables: the averages.
    """

    def __init__(self, model, decay: float, strategy):
        self.decay, self.strategy = decay, strategy
        self._weights = list(model.trainable_variables)
        self.variables = [
            keras.Variable(keras.ops.convert_to_numpy(w), dtype=w.dtype, trainable=False, name="average")
            for w in self._weights
        ]

    def update(self, steps):
        """Takes in the weights after a number of steps; outside of replicas."""
        steps = tf.cast(steps, tf.float64)
        rate = 1 - tf.minimum(tf.constant(self.decay, tf.float64), (1 + steps) / (10 + steps))

        def towards(average, weight):
            average.assign_add(tf.cast(rate, average.dtype) * (weight - average))

        for average, weight in zip(self.variables, self._weights, strict=True):
            self.strategy.extended.update(average.value, towards, args=(weight.value,))

    def begin(self):
        """Begins anew from the weights as they are."""
        self._assign(self.variables, [keras.ops.convert_to_numpy(w) for w in self._weights])

    def swap(self):
        """Puts the averages in the place of the weights, and returns the function that undoes it."""
        before = [keras.ops.convert_to_numpy(w) for w in self._weights]
        self._assign(self._weights, [keras.ops.convert_to_numpy(a) for a in self.variables])
        return lambda: self._assign(self._weights, before)

    def _assign(self, variables, arrays):
        with self.strategy.scope():
            for variable, array in zip(variables, arrays, strict=True):
                variable.assign(array)
