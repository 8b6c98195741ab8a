"""One training step and one validation step, on one device, several, or several machines. Section 4.1.8.

A step is a function that every replica runs on its share of the batch, divided by the size of the whole batch and
summed. Keras's own `fit` does not run on several workers today.
"""

import numpy as np

from keras_stoch.training.recipe import Recipe


class Engine:
    """One training step and one validation step of a model under a strategy.

    Args:
        build: function that makes the model; called in the strategy's scope.
        recipe: `Recipe`.
        strategy: tf.distribute.Strategy.

    Attributes:
        model, optimizer: made in the strategy's scope.
    """

    def __init__(self, build, recipe: Recipe, strategy):
        import keras
        import tensorflow as tf

        from keras_stoch.windows import draw_per_replica

        self.recipe, self.strategy = recipe, strategy
        with strategy.scope():
            self.model = build()
            layers = list(self.model._flatten_layers())  # those of nested models too
            if strategy.num_replicas_in_sync > 1:
                for layer in layers:
                    if recipe.sync_batch_norm and isinstance(layer, keras.layers.BatchNormalization):
                        layer.synchronized = True
                    for generator in layer._seed_generators:
                        draw_per_replica(generator)
            optimizer = keras.optimizers.RMSprop(
                recipe.learning_rate, rho=recipe.rho, momentum=recipe.momentum, epsilon=recipe.epsilon
            )
            if any(layer.compute_dtype == "float16" for layer in layers):
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            optimizer.build(self.model.trainable_variables)
        self.optimizer = optimizer
        # Weights, batch-norm statistics, the states of all random generators, and the optimiser's.
        self.variables = [*self.model.variables, *optimizer.variables]
        self.train_step = tf.function(self._train_step, jit_compile=recipe.jit_compile or None)
        self.validation_step = tf.function(self._validation_step, jit_compile=recipe.jit_compile or None)

    def _train_step(self, batch):
        """(loss, logits, targets) of one global batch, after one step of the optimiser."""
        import keras
        import tensorflow as tf

        def replica(inputs, targets, draws):
            targets = tf.reshape(tf.cast(targets, tf.float32), (-1, 1))
            with tf.GradientTape() as tape:
                logits = self.model(inputs, training=True, **draws)
                losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(targets, logits.dtype), logits)
                count = tf.shape(targets)[0] * self.strategy.num_replicas_in_sync
                loss = tf.reduce_sum(losses) / tf.cast(count, losses.dtype)
                extra = self.model.losses
                if extra:
                    loss += tf.add_n(extra) / self.strategy.num_replicas_in_sync
                scaled = self.optimizer.scale_loss(loss)
            variables = self.model.trainable_variables
            gradients = tape.gradient(scaled, [v.value for v in variables])
            if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
                gradients = self._agreed(gradients)
            self.optimizer.apply(gradients, variables)
            return loss, logits, targets

        draws = batch[2] if len(batch) == 3 else {}
        loss, logits, targets = self.strategy.run(replica, (batch[0], batch[1], draws))
        total = self.strategy.reduce("SUM", loss, axis=None)
        return total, self.strategy.gather(logits, 0), self.strategy.gather(targets, 0)

    def _agreed(self, gradients):
        """Their mean over the replicas, on all of them.

        Keras's LossScaleOptimizer asks one replica whether its gradients are finite, before it sums those of all, and
        takes the answer for all. The sum of the means that it then makes is the sum of the gradients.
        """
        import tensorflow as tf

        replicas = self.strategy.num_replicas_in_sync
        if replicas == 1:
            return gradients
        there = [gradient for gradient in gradients if gradient is not None]
        summed = iter(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, there))
        return [None if gradient is None else next(summed) / replicas for gradient in gradients]

    def _validation_step(self, batch):
        """(scores, targets, weights) of one global batch; scores are logits (of the mean probability)."""
        import tensorflow as tf

        from keras_stoch.evaluation.predictions import AveragedPasses

        def replica(inputs, targets, weights):
            if self.recipe.passes == 1:
                logits = self.model(inputs, training=False)
            else:
                outputs = AveragedPasses(self.model)(inputs, self.recipe.passes)
                # The logit of the mean probability, in a form that does not overflow.
                outputs = tf.cast(outputs, tf.float32)
                logits = tf.reduce_logsumexp(tf.math.log_sigmoid(outputs), 0)
                logits -= tf.reduce_logsumexp(tf.math.log_sigmoid(-outputs), 0)
            targets = tf.reshape(tf.cast(targets, tf.float32), (-1, 1))
            return logits, targets, weights

        weights = batch[2] if len(batch) == 3 else self.strategy.run(lambda t: tf.ones_like(t, tf.float32), (batch[1],))
        found = self.strategy.run(replica, (batch[0], batch[1], weights))
        return tuple(self.strategy.gather(value, 0) for value in found)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that decides what comes next, by number."""
        return {f"v{n:05d}": np.asarray(variable) for n, variable in enumerate(self.variables)}

    def restore(self, arrays: dict[str, np.ndarray]):
        """Puts back what `state` gave."""
        with self.strategy.scope():
            for n, variable in enumerate(self.variables):
                array = arrays[f"v{n:05d}"]
                if array.shape != tuple(variable.shape):
                    raise ValueError(f"The checkpoint does not fit the model: {variable.path} has {array.shape} there")
                variable.assign(array)

    @property
    def rate(self) -> float:
        """The learning rate."""
        return float(np.asarray(self.optimizer.learning_rate))

    def set_rate(self, rate: float):
        """Sets the learning rate."""
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        optimizer.learning_rate = rate

    def begin_epoch(self, epoch: int):
        """Sets the rate of an epoch. A factor that a callback put on that of the epoch before is kept."""
        before = self.recipe.rate(epoch - 1)
        factor = 1.0 if not epoch or np.float32(before) == np.float32(self.rate) else self.rate / before
        self.set_rate(self.recipe.rate(epoch) * factor)
