"""`fit`: the paper's training, on one device, several, or several machines. Sections 4.1.7, 4.1.8 and 5.1.1.

`sources` gives the batches, `engine` takes the steps, `runs` keeps what comes of them; here is what happens when.

What a run has drawn and seen is a function of its seed alone: data order and augmentation follow from seed and epoch
number, and the states of all random generators are part of a checkpoint. So a run that was killed goes on to the very
curves and weights of one that was not.
"""

import hashlib
import math
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np

from keras_stoch.files import progress_bar
from keras_stoch.training.engine import Engine
from keras_stoch.training.recipe import Recipe, TrainingDiverged, is_int, make_recipe
from keras_stoch.training.runs import RunFolder, Spectator
from keras_stoch.training.sources import make_source
from keras_stoch.training.strategies import get_strategy, is_chief


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
            tf.distribute.Strategy: make one for the whole process, as TensorFlow mixes up the operations of two.
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
    strategy, name = get_strategy(strategy)
    replicas = strategy.num_replicas_in_sync
    if recipe.batch_size % replicas:
        raise ValueError(f"batch_size must be a multiple of the {replicas} replicas. Received: {recipe.batch_size}")
    from keras_stoch.data.pipeline import damage_named

    build, identity, sizes = _model(model, recipe, runs, strategy)
    source = make_source(data, validation_data, recipe, sizes, replicas)
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


def _model(model, recipe: Recipe, runs, strategy):
    """(function that builds it, what identifies it, function that tells (low_res, high_res))."""
    import keras

    from keras_stoch.contracts import check_logit, input_sizes

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


def _train(build, source, path, config, recipe, seed, strategy, callbacks, progress, checkpoint_seconds) -> dict:
    """One run, from where it stands to its end."""
    import keras
    import tensorflow as tf

    from keras_stoch.evaluation.metrics import roc_auc

    chief = is_chief(strategy)
    folder = RunFolder(path, config) if chief else Spectator(path)
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
        title = f"epoch {epoch + 1}/{recipe.epochs}"
        with progress_bar(source.steps, title, progress and chief, "batch", done=batch) as bar:
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


def _validate(engine, source, strategy, seed, epoch) -> tuple[float, float]:
    """(loss, ROC AUC) over the validation images."""
    from keras_stoch.evaluation.metrics import roc_auc

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
