"""One training step and one validation step, on one device, several, or several machines. Section 4.1.8.

A step is a function that every replica runs on its share of the batch, divided by the size of the whole batch and
summed. Keras's own `fit` does not run on several workers today.
"""

import contextlib

import numpy as np

from keras_stoch.training.own import Own, has_rate_of_its_own
from keras_stoch.training.recipe import Recipe


class Engine:
    """One training step and one validation step of a model under a strategy.

    Args:
        build: function that makes the model; called in the strategy's scope.
        recipe: `Recipe`.
        strategy: tf.distribute.Strategy.
        own: `Own`, what replaces parts of the recipe.
        steps: batches of an epoch, for rates that change by step.

    Attributes:
        model, optimizer: made in the strategy's scope.
    """

    def __init__(self, build, recipe: Recipe, strategy, own: Own | None = None, steps: int = 1):
        import keras

        from keras_stoch.training.freezing import Freezer
        from keras_stoch.training.optimizer import Averages, make_optimizer
        from keras_stoch.windows import draw_per_replica

        self.recipe, self.strategy, self.own, self.steps = recipe, strategy, own or Own(), steps
        with strategy.scope():
            self.model = build()
            layers = list(self.model._flatten_layers())  # those of nested models too
            if strategy.num_replicas_in_sync > 1:
                for layer in layers:
                    if recipe.sync_batch_norm and isinstance(layer, keras.layers.BatchNormalization):
                        layer.synchronized = True
                    for generator in layer._seed_generators:
                        draw_per_replica(generator)
            optimizer = make_optimizer(self.model, recipe) if self.own.optimizer is None else self.own.make_optimizer()
            half = any(layer.compute_dtype == "float16" for layer in layers)
            if half and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            optimizer.build(self.model.trainable_variables)
            self.averages = Averages(self.model, recipe.average, strategy) if recipe.average else None
        self.optimizer = optimizer
        # Weights, batch-norm statistics, the states of all random generators, the optimiser's, and averages.
        self.variables = [*self.model.variables, *optimizer.variables]
        self.variables += self.averages.variables if self.averages else []
        self._freezer = Freezer(self.model, recipe.freeze) if recipe.freeze else None
        self._fresh = [np.asarray(variable) for variable in optimizer.variables] if recipe.freeze else None
        self.train_step = self._compiled(self._train_step)
        self.validation_step = self._compiled(self._validation_step)

    def _compiled(self, step):
        import tensorflow as tf

        return tf.function(step, jit_compile=self.recipe.jit_compile or None)

    def _train_step(self, batch):
        """(loss, logits, targets) of one global batch, after one step of the optimiser."""
        import keras
        import tensorflow as tf

        from keras_stoch.training.optimizer import cross_entropy

        def replica(inputs, targets, draws):
            targets = tf.reshape(tf.cast(targets, tf.float32), (-1, 1))
            with tf.GradientTape() as tape:
                logits = self.model(inputs, training=True, **draws)
                if self.own.loss is None:
                    losses = cross_entropy(targets, logits, self.recipe)
                    count = tf.shape(targets)[0] * self.strategy.num_replicas_in_sync
                    loss = tf.reduce_sum(losses) / tf.cast(count, losses.dtype)
                else:
                    losses = self.own.loss(tf.cast(targets, logits.dtype), logits)
                    loss = tf.cast(tf.reduce_mean(losses), logits.dtype) / self.strategy.num_replicas_in_sync
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
        if self.averages is not None:
            self.averages.update(self.optimizer.iterations)
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

    def rate_of(self, epoch: int, batch: int) -> float | None:
        """The rate of a step by recipe or schedule; None if an optimizer of one's own has its own."""
        if self.own.schedule is not None:
            return self.own.rate(epoch * self.steps + batch)
        return None if self.own.optimizer is not None else self.recipe.rate(epoch, batch, self.steps)

    def told_rate(self, epoch: int) -> float:
        """The rate of an epoch's last step: the recipe's own number, where no callback has changed it, for the
        optimiser's is rounded to float32."""
        expected = self.rate_of(epoch, self.steps - 1)
        return self.rate if expected is None or np.float32(expected) != np.float32(self.rate) else expected

    def begin_epoch(self, epoch: int):
        """Sets the rate of an epoch, and begins the second stage where it is time."""
        if epoch and self.recipe.frozen(epoch - 1) and not self.recipe.frozen(epoch):
            self._thaw()
        if epoch:
            self._set_rate_after((epoch - 1, self.steps - 1), (epoch, 0))
        elif self.rate_of(0, 0) is not None:
            self.set_rate(self.rate_of(0, 0))
        self.resume_epoch(epoch)

    def resume_epoch(self, epoch: int):
        """Freezes and thaws as an epoch asks for, in whatever stage the model was."""
        if self._freezer is not None and self._freezer.set(self.recipe.frozen(epoch)):
            self.train_step = self._compiled(self._train_step)  # a graph holds what was trained when it was made

    def begin_step(self, epoch: int, batch: int):
        """Sets the rate of a step but the first, if that is another than of the one before."""
        if self.own.schedule is not None or self.recipe.by_step:
            self._set_rate_after((epoch, batch - 1), (epoch, batch))

    def _set_rate_after(self, earlier, now):
        """A factor that a callback put on the rate of the step before is kept."""
        before = self.rate_of(*earlier)
        if before is not None:
            factor = 1.0 if not before or np.float32(before) == np.float32(self.rate) else self.rate / before
            self.set_rate(self.rate_of(*now) * factor)

    def _thaw(self):
        """A new optimiser for the second stage; an optimizer of one's own begins anew at a lower rate, if it can."""
        rate = self.rate
        with self.strategy.scope():
            for variable, array in zip(self.optimizer.variables, self._fresh, strict=True):
                variable.assign(array)
        if not has_rate_of_its_own(self.optimizer):
            self.set_rate(rate * (self.recipe.thaw_factor if self.rate_of(0, 0) is None else 1))
        if self.averages is not None:
            self.averages.begin()

    @contextlib.contextmanager
    def averaged(self):
        """Context in which the model has the averaged weights, if the recipe asks for them."""
        undo = self.averages.swap() if self.averages is not None else lambda: None
        try:
            yield
        finally:
            undo()
