"""`fit`: the paper's training, on one device, several, or several machines. Sections 4.1.7, 4.1.8 and 5.1.1.

`sources` gives the batches, `engine` takes the steps, `runs` keeps what comes of them; here is what happens when.

What a run has drawn and seen is a function of its seed alone: data order and augmentation follow from seed and epoch
number, and the states of all random generators are part of a checkpoint. So a run that was killed goes on to the very
curves and weights of one that was not.
"""

import contextlib
import math
import time
import warnings
from dataclasses import asdict

import numpy as np

from keras_stoch.files import full_disk_told
from keras_stoch.progress import duration, progress_bar, tell
from keras_stoch.storage import as_path, is_remote
from keras_stoch.training.arguments import check_arguments
from keras_stoch.training.engine import Engine
from keras_stoch.training.interrupts import Interruption
from keras_stoch.training.recipe import TrainingDiverged
from keras_stoch.training.runs import RunFolder, Spectator
from keras_stoch.training.sources import make_source
from keras_stoch.training.strategies import get_strategy, is_chief
from keras_stoch.training.subjects import make_subject


def fit(
    model,
    data,
    out="runs/latest",
    *,
    recipe="paper",
    runs=1,
    run=None,
    seed=0,
    strategy="one",
    validation_data=None,
    weights=None,
    shards=False,
    loss=None,
    callbacks=(),
    progress=False,
    checkpoint_seconds=300.0,
    **fields,
) -> list[dict]:
    """Trains a model, several times if asked to, and writes everything into a folder.

    The same command again goes on where an earlier one stopped, or was killed, to the same result. Ctrl-C and SIGTERM
    end it after the step it is at, with a checkpoint.

    Args:
        model: the name of a model; a function without arguments that builds a Keras model with logits `(batch, 1)`,
            with `add_detail` for instance; or such a model itself, for a single run on one device.
        data: a folder written by `prepare` or `write_lesions`; "lesions" for generated ones in the user's cache, where
            there is no folder of that name; or a tf.data.Dataset of batches `(inputs, targets)`, and `validation_data`
            beside it; or a function that gives the Dataset of an epoch, counted from 0, so that a run which goes on
            sees what it would have seen. A third part of a batch, a dict with "windows" and "drop_masks", replaces what
            the model would draw; all arrays have a batch axis. All batches are read once to begin with, and checked;
            every pass must give batches of that form.
        out: folder; each run gets a folder below it, `run-0` and so on, and a row in `results.csv`. It may be in object
            storage (gs://bucket/runs), which has no locks: nothing there keeps another process from the same folder.
        recipe: the name of one, "paper" or "fine-tune" (see `keras_stoch.RECIPES`), or a `Recipe`.
        runs: number of runs. Run n has the seed `seed + n`; all have the same split, but in a folder with folds (see
            `keras_stoch.data.splits.split`) run n is validated on fold n and trained on the others.
        run: number of the one run to train, so that several machines share them; all of `runs` by default.
        seed: of weights, order, augmentation, windows and dropout.
        strategy: "one" device; "mirrored" (MirroredStrategy over all devices of this machine); "multiworker"
            (MultiWorkerMirroredStrategy, with TF_CONFIG set; `out` must be a folder that all workers see); or a
            tf.distribute.Strategy: make one for the whole process, as TensorFlow mixes up the operations of two.
        validation_data: tf.data.Dataset, if `data` is one.
        weights: official weights to start every run from, of a model by name: a `keras.applications` EfficientNet, or
            the `.h5`, `.weights.h5` or `.keras` file of one. Every branch that has the shape for them is given them;
            what was loaded, and what was not, is told and stands in config.json.
        shards: read the TFRecord files of the folder, which `prepare(shards=)` wrote, instead of its images, and each
            worker its own. The order of images is another one.
        loss: a Keras loss of logits, or a function of targets and logits, both (batch, 1), that gives losses per image
            or their mean; the recipe's cross-entropy by default, which validation tells in any case.
        callbacks: Keras callbacks. What they remember is not part of a checkpoint. A learning rate that they set
            holds for its epoch; a factor that they put on it stays.
        progress: say on stderr what is trained on what, with a line for each epoch, and a bar on a terminal.
        checkpoint_seconds: write a checkpoint in mid-epoch after this time, besides those between epochs; at least 0.
        **fields: fields of `Recipe` that differ from the recipe's. `optimizer` may also be a Keras optimizer, which is
            copied for every run and keeps its own learning rate, or a function that makes one; `learning_rate` a Keras
            LearningRateSchedule, or any function of the step, counted from 0 over the whole run.

    Returns:
        A dict per run: seed, epochs, best_epoch, best_val_auc, final_val_auc, final_val_loss, seconds.

    Raises:
        ValueError: before the first step, for unknown or wrong options, one class only, targets outside {0, 1}, images
            smaller than a window, an empty split, values that are no numbers, or a folder with another run in it, or
            one that another process trains in.
        OSError: if the folder can not be written.
        TrainingDiverged: if the loss is no number any more; the last good weights are kept.
        KeyboardInterrupt: after Ctrl-C, once the checkpoint is written.
        Terminated: a SystemExit with code 143, after SIGTERM likewise.

    Example:

    ```python
    keras_stoch.fit("split-b0", data="prepared", out="runs/split", runs=5, strategy="mirrored")
    ```
    """
    recipe, own = check_arguments(
        *(model, data, out),
        recipe=recipe,
        runs=runs,
        run=run,
        seed=seed,
        strategy=strategy,
        validation_data=validation_data,
        weights=weights,
        shards=shards,
        loss=loss,
        checkpoint_seconds=checkpoint_seconds,
        **fields,
    )
    numbers = range(runs) if run is None else [run]
    strategy, name = get_strategy(strategy)  # before all else of TensorFlow, as several workers demand
    replicas = strategy.num_replicas_in_sync
    replaced = own.identity()
    subject = make_subject(model, recipe, runs, weights)
    if recipe.batch_size % replicas:
        raise ValueError(f"batch_size must be a multiple of the {replicas} replicas. Received: {recipe.batch_size}")
    if replicas > 1 and recipe.jit_compile:
        raise ValueError(f"jit_compile=True is for one device; XLA can't compile steps of {replicas} replicas together")
    if replicas > 1 and not subject.rebuilds:
        raise ValueError("For several replicas, pass a function that builds the model, not the model itself")
    from keras_stoch.data.pipeline import damage_named

    chief = is_chief(strategy)
    given = (data, validation_data, recipe, subject, replicas, shards, progress and chief)
    if is_remote(out):
        tell(f"{out} is in object storage, which has no locks: let no other process train there", progress and chief)
    source, results = None, []
    for number in numbers:
        if source is None or "fold" in source.identity:
            source = make_source(*given, number)
            devices = f"{replicas} replica{'s' * (replicas > 1)}"
            tell(f"{subject.told}, trained on {source.told}, {devices}, {out}", progress and chief)
        config = {
            "model": subject.identity,
            "recipe": asdict(recipe),
            "data": source.identity,
            "seed": seed + number,
            "strategy": name,
            "replicas": replicas,
        } | ({"own": replaced} if replaced else {})
        path = as_path(out) / f"run-{number}"
        with (
            damage_named(source.files),
            contextlib.closing(RunFolder(path, config) if chief else Spectator(path)) as folder,
        ):
            results.append(
                _train(
                    *(subject.build, source, folder, recipe, own, seed + number, strategy),
                    *(callbacks, progress and chief, checkpoint_seconds),
                )
            )
    return results


def _train(build, source, folder, recipe, own, seed, strategy, callbacks, progress, checkpoint_seconds) -> dict:
    """One run, from where it stands to its end."""
    import keras
    import tensorflow as tf

    from keras_stoch.evaluation.metrics import roc_auc

    path = folder.path
    ended = folder.ended(recipe.epochs)
    if ended is not None:
        tell(f"{path} has ended: {ended['epochs']} epochs", progress)
        return ended
    keras.utils.set_random_seed(seed)
    engine = Engine(lambda: build(seed), recipe, strategy, own, source.steps)
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
        elif folder.contents not in (None, source.identity.get("contents")):
            warnings.warn(
                f"{path} goes on with other images or targets in epoch 0 of data than it began with", stacklevel=4
            )
        engine.restore(arrays)
        epoch, batch, seconds = position["epoch"], position["batch"], position["seconds"]
        best, best_epoch = position["best"], position["best_epoch"]
        if batch:
            seen = [(arrays["seen_loss"], arrays["seen_logits"], arrays["seen_targets"])]
        tell(f"{path} goes on in epoch {epoch + 1}, batch {batch + 1}", progress)
    folder.begin(epoch, batch)
    folder.save_architecture(model)
    listeners = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=recipe.epochs, steps=source.steps)
    listeners.on_train_begin()
    model.stop_training = False
    model.optimizer = engine.optimizer  # where callbacks look for it
    writer = tf.summary.create_file_writer(str(path / "tensorboard")) if folder.writes else None

    pending = None  # arguments of `save`, whenever all parts of the state are of one moment

    def save(epoch, batch, arrays=None, so_far=None):
        nonlocal pending
        arrays = engine.state() if arrays is None else arrays
        if batch:
            losses, logits, targets = (np.concatenate(parts) for parts in zip(*seen, strict=True))
            arrays |= {"seen_loss": losses, "seen_logits": logits, "seen_targets": targets}
        position = {"epoch": epoch, "batch": batch}
        position |= dict(zip(("seconds", "best", "best_epoch"), so_far or (seconds, best, best_epoch), strict=True))
        folder.save(arrays, position)
        interruption.unsaved, pending = False, None

    @contextlib.contextmanager
    def saved_in_the_end():
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            if pending is not None:
                save(*pending)
            raise

    with Interruption() as interruption, saved_in_the_end():
        while epoch < recipe.epochs and not model.stop_training and not recipe.stale(epoch, best_epoch):
            started = saved = time.monotonic()
            if batch:
                engine.resume_epoch(epoch)
            else:
                engine.begin_epoch(epoch)
            listeners.on_epoch_begin(epoch)
            title = f"{path.name}, epoch {epoch + 1}/{recipe.epochs}"
            with progress_bar(source.steps, title, progress, "batch", done=batch) as bar:
                for step in source.train(strategy, seed, epoch, batch):
                    listeners.on_train_batch_begin(batch)
                    pending = None
                    if batch:
                        engine.begin_step(epoch, batch)
                    loss, logits, targets = engine.train_step(step)
                    loss = float(loss)
                    if not math.isfinite(loss):
                        raise TrainingDiverged(
                            f"The loss became {loss} in epoch {epoch}, batch {batch}. {_kept(path, epoch)}"
                        )
                    seen.append((np.array([loss]), logits.numpy(), targets.numpy()))
                    folder.add_batch(epoch, batch, loss)
                    batch += 1
                    interruption.unsaved, pending = True, (epoch, batch)
                    listeners.on_train_batch_end(batch - 1, {"loss": loss})
                    bar.update()
                    bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                    if time.monotonic() - saved > checkpoint_seconds:
                        save(epoch, batch)
                        saved = time.monotonic()
                    if interruption.wanted:
                        interruption.end()
            losses, logits, targets = (np.concatenate(parts) for parts in zip(*seen, strict=True))
            # Validation draws windows, and what follows it changes the best.
            pending = (epoch, batch, engine.state(), (seconds, best, best_epoch))
            with engine.averaged():
                val_loss, val_auc = _validate(engine, source, strategy, seed, epoch, interruption)
                if interruption.wanted:
                    interruption.end()
                if not math.isfinite(val_loss):
                    raise TrainingDiverged(
                        f"The validation loss became {val_loss} in epoch {epoch}. {_kept(path, epoch)}"
                    )
                spent = time.monotonic() - started
                seconds += spent
                row = {
                    "epoch": epoch,
                    "train_loss": float(losses.mean()),
                    "val_loss": val_loss,
                    "train_auc": roc_auc(targets, logits),
                    "val_auc": val_auc,
                    "learning_rate": engine.told_rate(epoch),
                    "seconds": round(spent, 2),
                }
                folder.add_epoch(row)
                # One class only has no AUC; the first weights are then the best that are known.
                if val_auc > best or best_epoch < 0:
                    best, best_epoch = max(best, val_auc), epoch
                    folder.save_weights(model, "best")
                folder.save_weights(model, "last")
                if writer is not None:
                    with full_disk_told(), writer.as_default(step=epoch):
                        for name in ("train_loss", "val_loss", "train_auc", "val_auc", "learning_rate"):
                            tf.summary.scalar(name, row[name])
                        writer.flush()
                tell(_line(title, row, best, best_epoch, spent * (recipe.epochs - epoch - 1)), progress)
                logs = {"loss": row["train_loss"], "auc": row["train_auc"], "val_loss": val_loss, "val_auc": val_auc}
                pending = (epoch + 1, 0)
                listeners.on_epoch_end(epoch, logs)
            epoch, batch, seen = epoch + 1, 0, []
            save(epoch, 0)
            if interruption.wanted and epoch < recipe.epochs:
                interruption.end()
        if epoch < recipe.epochs and not model.stop_training:
            tell(f"{path.name}: no better validation AUC in {recipe.patience} epochs, which ends training", progress)
        listeners.on_train_end()
        last = folder.curves()[-1]
        result = {
            "seed": seed,
            "epochs": epoch,
            "best_epoch": best_epoch,
            "best_val_auc": best if math.isfinite(best) else math.nan,
            "final_val_auc": last["val_auc"],
            "final_val_loss": last["val_loss"],
            "seconds": round(seconds, 1),
        }
        folder.finish(result, recipe.epochs)
        if interruption.wanted:
            interruption.end()
    return result


def _line(title, row, best, best_epoch, left) -> str:
    """What the log says of an epoch.

    Args:
        title, row: of the epoch.
        best, best_epoch: the best validation AUC so far, and where.
        left: seconds, if all epochs take as long as this one.
    """
    numbers = f"loss {row['train_loss']:.4f}, AUC {row['train_auc']:.4f}, validation loss {row['val_loss']:.4f}, "
    numbers += f"AUC {row['val_auc']:.4f} (best {best:.4f} in epoch {best_epoch + 1})"
    remaining = f", {duration(left)} left" if left else ""
    return f"{title}: {numbers}, rate {row['learning_rate']:.3g}, {duration(row['seconds'])}{remaining}"


def _validate(engine, source, strategy, seed, epoch, interruption) -> tuple[float, float]:
    """(loss, ROC AUC) over the validation images; NaN for both where an interruption came in between."""
    from keras_stoch.evaluation.metrics import roc_auc

    parts = []
    for step in source.validation(strategy, seed, epoch, 0):
        parts.append(engine.validation_step(step))
        if interruption.wanted:
            return math.nan, math.nan
    scores, targets, weights = (np.concatenate([np.asarray(p[n]).ravel() for p in parts]) for n in range(3))
    scores, targets = scores[weights > 0].astype(np.float64), targets[weights > 0]
    # The cross-entropy of a logit, in the form that does not overflow.
    loss = np.maximum(scores, 0) - scores * targets + np.log1p(np.exp(-np.abs(scores)))
    return float(loss.mean()), roc_auc(targets, scores)


def _kept(path, epoch) -> str:
    """What a run that diverged leaves."""
    kept = f"{path} keeps the weights of epoch {epoch - 1}" if epoch else "No epoch had ended, so no weights are kept"
    return f"{kept}; a smaller learning_rate may help"
