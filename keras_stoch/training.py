"""`fit`: the paper's training, on one device, several, or several machines. Sections 4.1.7, 4.1.8 and 5.1.1.

One engine for all: a step is a function that every replica runs on its share of the batch, divided by the size of the
whole batch and summed. Keras's own `fit` does not run on several workers today.

What a run has drawn and seen is a function of its seed alone: data order and augmentation follow from seed and epoch
number, and the states of all random generators are part of a checkpoint. So a run that was killed goes on to the very
curves and weights of one that was not.
"""

import contextlib
import functools
import hashlib
import math
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from keras_stoch.recipe import Recipe, TrainingDiverged, is_int, make_recipe

STRATEGIES = ("one", "mirrored", "multiworker")


def fit(
    model,
    data=None,
    out="runs/latest",
    *,
    runs=1,
    seed=0,
    strategy="one",
    validation_data=None,
    callbacks=(),
    progress=False,
    checkpoint_seconds=300.0,
    **recipe,
) -> list[dict]:
    """Trains a model, several times if asked to, and writes everything into a folder.

    The same command again goes on where an earlier one stopped, or was killed, to the same result.

    Args:
        model: the name of a model; a function without arguments that builds a Keras model with logits `(batch, 1)`; or
            such a model itself, for a single run on one device.
        data: a folder written by `prepare` or `write_lesions`; None for generated lesions (in the user's cache); or a
            tf.data.Dataset of batches `(inputs, targets)`, and `validation_data` beside it; or a function that gives
            the Dataset of an epoch, counted from 0, so that a run which goes on sees what it would have seen. A third
            part of a batch, a dict with "windows" and "drop_masks", replaces what the model would draw; all arrays
            have a batch axis. All batches are read once to begin with, and checked.
        out: folder; each run gets a folder below it, `run-0` and so on, and a row in `results.csv`.
        runs: number of runs. Run n has the seed `seed + n`; all have the same split.
        seed: of weights, order, augmentation, windows and dropout.
        strategy: "one" device; "mirrored" (MirroredStrategy over all devices of this machine); "multiworker"
            (MultiWorkerMirroredStrategy, with TF_CONFIG set; `out` must be a folder that all workers see); or a
            tf.distribute.Strategy.
        validation_data: tf.data.Dataset, if `data` is one.
        callbacks: Keras callbacks. What they remember is not part of a checkpoint. A learning rate that they set
            holds for its epoch; a factor that they put on it stays.
        progress: show a bar for each epoch.
        checkpoint_seconds: write a checkpoint in mid-epoch after this time, besides those between epochs.
        **recipe: fields of `Recipe`.

    Returns:
        A dict per run: seed, epochs, best_epoch, best_val_auc, final_val_auc, final_val_loss, seconds.

    Raises:
        ValueError: before the first step, for unknown or wrong options, one class only, targets outside {0, 1}, images
            smaller than a window, an empty split, values that are no numbers, or a folder with another run in it.
        OSError: if the folder can not be written.
        TrainingDiverged: if the loss is no number any more; the last good weights are kept.

    Example:

        keras_stoch.fit("split-b0", data="prepared", out="runs/split", runs=5, strategy="mirrored")
    """
    recipe = make_recipe(recipe)
    if not is_int(runs) or runs < 1:
        raise ValueError(f"runs must be an integer of at least 1. Received: {runs!r}")
    if not is_int(seed) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0. Received: {seed!r}")
    strategy, name = _strategy(strategy)
    replicas = strategy.num_replicas_in_sync
    if recipe.batch_size % replicas:
        raise ValueError(f"batch_size must be a multiple of the {replicas} replicas. Received: {recipe.batch_size}")
    from keras_stoch.data.pipeline import damage_named

    build, identity, sizes = _model(model, recipe, runs, strategy)
    source = _source(data, validation_data, recipe, sizes, replicas)
    results = []
    for run in range(runs):
        config = {
            "model": identity,
            "recipe": asdict(recipe),
            "data": source.identity,
            "seed": seed + run,
            "strategy": name,
            "replicas": replicas,
        }
        with damage_named(source.files):
            results.append(
                _train(
                    *(build, source, Path(out) / f"run-{run}", config, recipe, seed + run, strategy),
                    *(callbacks, progress, checkpoint_seconds),
                )
            )
    return results


def load_run(folder, which="best"):
    """The trained model of a run that `fit` made by name.

    Args:
        folder: of the run, such as runs/split/run-0.
        which: "best" (by validation AUC) or "last".

    Raises:
        ValueError: if there is no run, or it trained a model that was not made by name.
    """
    import json

    from keras_stoch.models import create_model

    folder = Path(folder)
    if which not in ("best", "last"):
        raise ValueError(f"which must be 'best' or 'last'. Received: {which!r}")
    if not (folder / "config.json").is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
        hint = f"; it holds {', '.join(inside)}" if inside else ""
        raise ValueError(f"{folder} is no run: there is no config.json{hint}")
    config = json.loads((folder / "config.json").read_text())
    if not (folder / f"{which}.weights.h5").exists():
        raise ValueError(f"{folder} has no {which}.weights.h5 yet: not one epoch has ended")
    if config["model"]["kind"] != "name":
        raise ValueError(f"{folder} trained a model that was not made by name; build it and load {which}.weights.h5")
    model = create_model(config["model"]["name"], **config["model"]["arguments"])
    model.load_weights(folder / f"{which}.weights.h5")
    return model


def _strategy(strategy):
    """(tf.distribute.Strategy, its name)."""
    import tensorflow as tf

    if isinstance(strategy, tf.distribute.Strategy):
        return strategy, type(strategy).__name__
    if strategy == "one":
        return tf.distribute.get_strategy(), strategy
    if strategy in ("mirrored", "multiworker"):
        return _shared_strategy(strategy), strategy
    raise ValueError(
        f"strategy must be one of {', '.join(STRATEGIES)} or a tf.distribute.Strategy. Received: {strategy!r}"
    )


@functools.cache
def _shared_strategy(name):
    """One strategy per process: TensorFlow numbers the collective operations of each from 100, and those of a second
    strategy meet those of the first ("Shape mismatch in the collective instance 100")."""
    import tensorflow as tf

    if name == "multiworker":
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            raise ValueError(
                f"{error}. Make a tf.distribute.MultiWorkerMirroredStrategy() before all else, and pass it as strategy"
            ) from error
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _model(model, recipe: Recipe, runs, strategy):
    """(function that builds it, what identifies it, function that tells (low_res, high_res))."""
    import keras

    from keras_stoch.evaluation import check_logit, input_sizes

    if isinstance(model, str):
        from keras_stoch.architectures import get_architecture
        from keras_stoch.models import create_model

        architecture = get_architecture(model)
        low_res = recipe.low_res or architecture.low_res
        high_res = None
        arguments = {"low_res": low_res, "dropout": recipe.dropout, "drop_connect": recipe.drop_connect}
        if architecture.join is not None:
            high_res = recipe.high_res or architecture.high_res
            arguments |= {"high_res": high_res, "window_sharing": recipe.window_sharing}
        elif recipe.high_res is not None:
            raise ValueError(f"{model!r} has no high-resolution input. Received: high_res={recipe.high_res}")
        if recipe.mixed_precision:
            arguments["dtype"] = recipe.mixed_precision
        identity = {"kind": "name", "name": model, "arguments": arguments}
        return (lambda seed: create_model(model, **arguments, seed=seed)), identity, lambda: (low_res, high_res)
    if isinstance(model, keras.Model):
        if runs > 1 or strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "For several runs or replicas, pass a function that builds the model, not the model itself"
            )
        example, build = model, lambda seed: model
    elif callable(model):
        example, build = model(), lambda seed: model()
    else:
        raise ValueError(f"model must be a name, a Keras model, or a function that makes one. Received: {model!r}")
    check_logit(example)
    # Shapes and not names: Keras numbers the layers of a second model differently.
    shapes = [(v.name, tuple(v.shape)) for v in example.trainable_variables]
    digest = hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]
    identity = {"kind": "own", "class": type(example).__name__, "weights": digest}
    return build, identity, lambda: input_sizes(example)


@dataclass
class _Source:
    """Where batches come from.

    Attributes:
        identity: plain values that tell one source from another.
        train, validation: functions of (strategy, seed, epoch, first batch) that give a distributed data set.
        steps: batches of an epoch, None if unknown.
        repeats: whether an epoch's batches are known to be the same when it is begun again.
        files: that the batches are made of, if any.
    """

    identity: dict
    train: object
    validation: object
    steps: int | None
    repeats: bool
    files: tuple[str, ...] = ()


def _source(data, validation_data, recipe: Recipe, sizes, replicas) -> _Source:
    import tensorflow as tf

    if isinstance(data, tf.data.Dataset) or callable(data):
        if not isinstance(validation_data, tf.data.Dataset):
            raise ValueError(f"data is a Dataset, so validation_data must be one. Received: {validation_data!r}")
        of_epoch = data if callable(data) else lambda epoch: data
        if not isinstance(of_epoch(0), tf.data.Dataset):
            raise ValueError(f"The function data must give a tf.data.Dataset. Received: {of_epoch(0)!r}")
        steps = _check_dataset(of_epoch(0), "data", replicas)
        _check_dataset(validation_data, "validation_data", replicas)

        def own(of_epoch):
            def make(strategy, seed, epoch, start):
                dataset = of_epoch(epoch).skip(start)
                return strategy.distribute_datasets_from_function(lambda context: _pieces(dataset, context))

            return make

        identity = {"kind": "dataset", "batches": steps}
        return _Source(
            *(identity, own(of_epoch), own(lambda epoch: validation_data), steps),
            repeats=callable(data),
        )
    if validation_data is not None:
        raise ValueError("validation_data goes with a Dataset; a prepared folder holds its own validation split")
    from keras_stoch.data.audit import check_split
    from keras_stoch.data.pipeline import Pipeline, read_manifest

    low_res, high_res = sizes()
    if data is None:
        from keras_stoch.data.synthetic import default_lesions

        data = default_lesions(size=high_res or 1024)
    manifest, _ = read_manifest(data)
    check_split(manifest["target"].to_numpy(), (manifest["split"] == "validation").to_numpy())
    common = {"batch_size": recipe.batch_size, "low_res": low_res, "high_res": high_res}

    def pipeline(split, context=None, seed=0, **options):
        if context is not None:
            local = context.num_replicas_in_sync // context.num_input_pipelines
            options |= {"worker": context.input_pipeline_id, "workers": context.num_input_pipelines, "replicas": local}
        return Pipeline(data, split, **common, seed=seed, **options)

    training = {"augment": recipe.augment, "shuffle": True, "remainder": "drop"}
    watching = {"augment": recipe.augment_validation, "remainder": "pad"}

    def distribute(split, options):
        def make(strategy, seed, epoch, start):
            return strategy.distribute_datasets_from_function(
                lambda context: pipeline(split, context, seed, **options).epoch(epoch, start)
            )

        return make

    both = pipeline("train", **training), pipeline("validation", **watching)  # checked before anything is begun
    identity = {
        "kind": "prepared",
        "images": len(manifest),
        "manifest": hashlib.sha256(manifest[["file", "target", "split"]].to_csv().encode()).hexdigest()[:16],
    }
    train, validation = distribute("train", training), distribute("validation", watching)
    files = (*both[0].files, *both[1].files)
    return _Source(identity, train, validation, both[0].steps, repeats=True, files=files)


def _pieces(dataset, context):
    """Cuts every batch into one piece per replica, and keeps this worker's. So batches are the same for any number."""
    import tensorflow as tf

    replicas = context.num_replicas_in_sync
    local = replicas // context.num_input_pipelines
    if replicas == 1:
        return dataset

    def cut(*batch):
        def pieces(x):
            parts = tf.reshape(x, tf.concat([[replicas, -1], tf.shape(x)[1:]], 0))
            parts = parts[context.input_pipeline_id * local : (context.input_pipeline_id + 1) * local]
            return tf.ensure_shape(parts, (local, None, *x.shape[1:]))

        return tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(pieces, batch))

    return dataset.flat_map(cut).prefetch(2 * local)


def _check_dataset(dataset, name, replicas) -> int:
    """Reads all batches once, refuses what would spoil training, and returns their number."""
    import tensorflow as tf

    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f"{name} never ends, but an epoch is one pass over it; take(n) of its batches")
    seen, count = set(), 0
    for batch in dataset:
        where = f"in batch {count} of {name}"
        if not isinstance(batch, tuple) or len(batch) not in (2, 3):
            raise ValueError(f"{name} must give batches (inputs, targets). Received: {type(batch).__name__}")
        for value in tf.nest.flatten(batch[0]):
            if value.dtype.is_floating and not np.isfinite(value.numpy()).all():
                raise ValueError(f"Inputs must be numbers. Received: NaN or infinite {where}")
        targets = np.asarray(batch[1])
        if not np.isin(targets, (0, 1)).all():
            wrong = targets[~np.isin(targets, (0, 1))].ravel()[0]
            raise ValueError(f"Targets must be 0 or 1. Received: {wrong!r} {where}")
        if len(targets) % replicas:
            raise ValueError(f"Batches must be divisible by the {replicas} replicas. Received: {len(targets)} {where}")
        seen |= set(np.unique(targets).tolist())
        count += 1
    if not count:
        raise ValueError(f"{name} is empty")
    if len(seen) < 2:
        raise ValueError(f"{name} has targets {sorted(map(int, seen))} only; both classes are needed")
    return count


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

        self.recipe, self.strategy = recipe, strategy
        with strategy.scope():
            self.model = build()
            layers = list(self.model._flatten_layers())  # those of nested models too
            if recipe.sync_batch_norm and strategy.num_replicas_in_sync > 1:
                for layer in layers:
                    if isinstance(layer, keras.layers.BatchNormalization):
                        layer.synchronized = True
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
            self.optimizer.apply(tape.gradient(scaled, [v.value for v in variables]), variables)
            return loss, logits, targets

        draws = batch[2] if len(batch) == 3 else {}
        loss, logits, targets = self.strategy.run(replica, (batch[0], batch[1], draws))
        total = self.strategy.reduce("SUM", loss, axis=None)
        return total, self.strategy.gather(logits, 0), self.strategy.gather(targets, 0)

    def _validation_step(self, batch):
        """(scores, targets, weights) of one global batch; scores are logits (of the mean probability)."""
        import tensorflow as tf

        from keras_stoch.evaluation import AveragedPasses

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


def _train(build, source, path, config, recipe, seed, strategy, callbacks, progress, checkpoint_seconds) -> dict:
    """One run, from where it stands to its end."""
    import keras
    import tensorflow as tf

    from keras_stoch.runs import RunFolder

    chief = _is_chief(strategy)
    folder = RunFolder(path, config) if chief else _Spectator(path)
    ended = folder.ended(recipe.epochs)
    if ended is not None:
        return ended
    keras.utils.set_random_seed(seed)
    engine = Engine(lambda: build(seed), recipe, strategy)
    model = engine.model
    epoch, batch, best, seconds = 0, 0, -math.inf, 0.0
    best_epoch, seen = -1, []
    found = folder.load()
    if found is not None:
        arrays, position = found
        if not source.repeats:
            warnings.warn(
                f"{path} goes on with a Dataset of your own. If that shuffles, or draws otherwise, the batches are not "
                "those of a run that was not interrupted; a function of the epoch that gives a Dataset is exact",
                stacklevel=4,
            )
        engine.restore(arrays)
        epoch, batch, seconds = position["epoch"], position["batch"], position["seconds"]
        best, best_epoch = position["best"], position["best_epoch"]
        if batch:
            seen = [(arrays["seen_loss"], arrays["seen_logits"], arrays["seen_targets"])]
    folder.cut(epoch, batch)
    listeners = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=recipe.epochs, steps=source.steps)
    listeners.on_train_begin()
    model.stop_training = False
    model.optimizer = engine.optimizer  # where callbacks look for it
    writer = tf.summary.create_file_writer(str(path / "tensorboard")) if chief else None

    def save(epoch, batch):
        arrays = engine.state()
        if batch:
            losses, logits, targets = (np.concatenate(parts) for parts in zip(*seen, strict=True))
            arrays |= {"seen_loss": losses, "seen_logits": logits, "seen_targets": targets}
        position = {"epoch": epoch, "batch": batch, "seconds": seconds, "best": best, "best_epoch": best_epoch}
        folder.save(arrays, position)

    while epoch < recipe.epochs and not model.stop_training:
        started = saved = time.monotonic()
        if not batch:
            engine.begin_epoch(epoch)
        listeners.on_epoch_begin(epoch)
        with _bar(source.steps, batch, epoch, recipe.epochs, progress and chief) as bar:
            for step in source.train(strategy, seed, epoch, batch):
                listeners.on_train_batch_begin(batch)
                loss, logits, targets = engine.train_step(step)
                loss = float(loss)
                if not math.isfinite(loss):
                    raise TrainingDiverged(
                        f"The loss became {loss} in epoch {epoch}, batch {batch}. {_kept(path, epoch)}"
                    )
                seen.append((np.array([loss]), logits.numpy(), targets.numpy()))
                folder.add_batch(epoch, batch, loss)
                batch += 1
                listeners.on_train_batch_end(batch - 1, {"loss": loss})
                bar.update()
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                if time.monotonic() - saved > checkpoint_seconds:
                    save(epoch, batch)
                    saved = time.monotonic()
        if not seen:
            raise ValueError("The training data are empty")
        losses, logits, targets = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        val_loss, val_auc = _validate(engine, source, strategy, seed, epoch)
        if not math.isfinite(val_loss):
            raise TrainingDiverged(f"The validation loss became {val_loss} in epoch {epoch}. {_kept(path, epoch)}")
        spent = time.monotonic() - started
        seconds += spent
        # The recipe's own number, where no callback has changed it: the optimiser's is rounded to float32.
        rate = engine.rate if np.float32(recipe.rate(epoch)) != np.float32(engine.rate) else recipe.rate(epoch)
        row = {
            "epoch": epoch,
            "train_loss": float(losses.mean()),
            "val_loss": val_loss,
            "train_auc": roc_auc(targets, logits),
            "val_auc": val_auc,
            "learning_rate": rate,
            "seconds": round(spent, 2),
        }
        folder.add_epoch(row)
        if val_auc > best:
            best, best_epoch = val_auc, epoch
            folder.save_weights(model, "best")
        folder.save_weights(model, "last")
        if writer is not None:
            with writer.as_default(step=epoch):
                for name in ("train_loss", "val_loss", "train_auc", "val_auc", "learning_rate"):
                    tf.summary.scalar(name, row[name])
            writer.flush()
        logs = {"loss": row["train_loss"], "auc": row["train_auc"], "val_loss": val_loss, "val_auc": val_auc}
        listeners.on_epoch_end(epoch, logs)
        epoch, batch, seen = epoch + 1, 0, []
        save(epoch, 0)
    listeners.on_train_end()
    last = folder.curves()[-1]
    result = {
        "seed": seed,
        "epochs": epoch,
        "best_epoch": best_epoch,
        "best_val_auc": best,
        "final_val_auc": last["val_auc"],
        "final_val_loss": last["val_loss"],
        "seconds": round(seconds, 1),
    }
    folder.finish(result, recipe.epochs)
    return result


def _is_chief(strategy) -> bool:
    """Whether this process is the one that writes: the "chief" of TF_CONFIG, or else the first worker."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None or resolver.task_type is None:
        return True
    if "chief" in resolver.cluster_spec().jobs:
        return resolver.task_type == "chief"
    return resolver.task_id == 0


def _validate(engine, source, strategy, seed, epoch) -> tuple[float, float]:
    """(loss, ROC AUC) over the validation images."""
    parts = [engine.validation_step(step) for step in source.validation(strategy, seed, epoch, 0)]
    scores, targets, weights = (np.concatenate([np.asarray(p[n]).ravel() for p in parts]) for n in range(3))
    scores, targets = scores[weights > 0].astype(np.float64), targets[weights > 0]
    # The cross-entropy of a logit, in the form that does not overflow.
    loss = np.maximum(scores, 0) - scores * targets + np.log1p(np.exp(-np.abs(scores)))
    return float(loss.mean()), roc_auc(targets, scores)


def _kept(path, epoch) -> str:
    """What a run that diverged leaves."""
    kept = f"{path} keeps the weights of epoch {epoch - 1}" if epoch else "No epoch had ended, so no weights are kept"
    return f"{kept}; a smaller learning_rate may help"


def roc_auc(targets, scores) -> float:
    """The exact area under the ROC curve, by scikit-learn; NaN if there is one class only, or a score is no number."""
    from sklearn.metrics import roc_auc_score

    targets = np.asarray(targets).ravel()
    if len(np.unique(targets)) < 2 or np.isnan(scores).any():
        return math.nan
    return float(roc_auc_score(targets, np.asarray(scores, np.float64).ravel()))


@contextlib.contextmanager
def _bar(steps, done, epoch, epochs, progress):
    from tqdm import tqdm

    title = f"epoch {epoch + 1}/{epochs}"
    with tqdm(total=steps, initial=done, desc=title, unit="batch", disable=not progress) as bar:
        yield bar


class _Spectator:
    """What a worker that is not the chief does with the run's folder: it reads checkpoints and writes nothing."""

    def __init__(self, path):
        self.path = Path(path)
        self.rows = []

    def ended(self, epochs):
        from keras_stoch.runs import RunFolder

        return RunFolder.ended(self, epochs)

    def load(self):
        from keras_stoch.runs import RunFolder

        self.checkpoints = self.path / "checkpoints"
        return RunFolder.load(self)

    def curves(self):
        from keras_stoch.runs import RunFolder

        return self.rows or RunFolder.curves(self)  # of the chief, if this process came back after the last epoch

    def add_epoch(self, row):
        self.rows.append(row)

    def cut(self, *_):
        pass

    save = add_batch = save_weights = finish = cut
