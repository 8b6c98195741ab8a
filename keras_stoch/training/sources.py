"""Where the batches of a training run come from: a prepared folder, or Datasets of one's own, checked beforehand."""

from dataclasses import dataclass
from pathlib import Path

from keras_stoch.files import check_no_file, check_prepared
from keras_stoch.progress import tell
from keras_stoch.storage import as_path
from keras_stoch.training.datasets import check_dataset, distributed
from keras_stoch.training.recipe import Recipe
from keras_stoch.training.subjects import Subject


@dataclass
class Source:
    """Where batches come from.

    Attributes:
        identity: plain values that tell one source from another.
        train, validation: functions of (strategy, seed, epoch, first batch) that give a distributed data set.
        steps: batches of an epoch.
        told: what is trained on, in words.
        repeats: whether an epoch's batches are known to be the same when it is begun again.
        files: that the batches are made of, if any.
    """

    identity: dict
    train: object
    validation: object
    steps: int
    told: str
    repeats: bool
    files: tuple[str, ...] = ()


def check_place(data, validation_data, out, shards=False):
    """What can be known of the data and the folder to write without TensorFlow, and without reading them.

    Args:
        data, validation_data, out, shards: as `fit` takes them.

    Raises:
        ValueError: for data that are not named or not there, or an `out` that is no folder.
    """
    if data is None:
        raise ValueError(
            "data must be named: a folder written by prepare or write_lesions, a Dataset, or 'lesions' for generated "
            "ones. Received: None"
        )
    if isinstance(data, str | Path):
        if validation_data is not None:
            raise ValueError("validation_data goes with a Dataset; a prepared folder holds its own validation split")
        if not _is_generated(data):
            check_prepared(data)
    if not isinstance(shards, bool):
        raise ValueError(f"shards must be True or False. Received: {shards!r}")
    if shards and (not isinstance(data, str | Path) or _is_generated(data)):
        raise ValueError("shards=True needs a prepared folder that has shards as data")
    if shards and not any((as_path(data) / "shards").glob("train-*.tfrecord")):
        raise ValueError(f"{data} has no shards; `keras-stoch prepare RAW LABELS {data} --shards 16` writes them")
    check_no_file(out, "The run's folder")


def _is_generated(data) -> bool:
    """Whether lesions are to be generated: a folder of that name is a folder."""
    return isinstance(data, str) and data == "lesions" and not Path(data).exists()


def make_source(
    data,
    validation_data,
    recipe: Recipe,
    subject: Subject,
    replicas: int,
    shards: bool = False,
    progress: bool = False,
    run: int = 0,
) -> Source:
    """Checks all that can be known of the data beforehand, and makes a `Source` of them.

    Args:
        data, validation_data: as `fit` takes them.
        recipe: `Recipe`.
        subject: `Subject`, that will be trained.
        replicas: number that every batch must be divisible by.
        shards: read the TFRecord files of a prepared folder.
        progress: show a bar while lesions are drawn.
        run: number of the run, which decides on its fold where the folder has folds.

    Raises:
        ValueError: for data that nothing can be trained with, naming what is wrong.
    """
    import tensorflow as tf

    if isinstance(data, tf.data.Dataset) or callable(data):
        if not isinstance(validation_data, tf.data.Dataset):
            raise ValueError(f"data is a Dataset, so validation_data must be one. Received: {validation_data!r}")
        of_epoch = data if callable(data) else lambda epoch: data
        if not isinstance(of_epoch(0), tf.data.Dataset):
            raise ValueError(f"The function data must give a tf.data.Dataset. Received: {of_epoch(0)!r}")
        takes = subject.shapes()
        steps, digest = check_dataset(of_epoch(0), "data", replicas, takes)
        check_dataset(validation_data, "validation_data", replicas, takes)
        identity = {"kind": "dataset", "batches": steps}
        if callable(data):
            identity["contents"] = digest
        return Source(
            identity,
            distributed(of_epoch, "data", takes),
            distributed(lambda epoch: validation_data, "validation_data", takes),
            steps,
            f"a Dataset of {steps} batches",
            repeats=callable(data),
        )
    from keras_stoch.data.audit import check_split
    from keras_stoch.data.identity import identify
    from keras_stoch.data.pipeline import Pipeline, read_manifest
    from keras_stoch.data.splits import of_run

    low_res, high_res = subject.sizes()
    if _is_generated(data):
        from keras_stoch.data.synthetic import default_lesions

        size = high_res or 1024
        if low_res > size:
            raise ValueError(f"Generated lesions have {size} pixels a side. Received: low_res={low_res}")
        tell(f"data: generated lesions of {size} pixels, in the user's cache", progress)
        data = default_lesions(size=size, progress=progress)
    manifest, folder = read_manifest(data)
    manifest, fold = of_run(manifest, run)
    seen = manifest[manifest["split"].isin(["train", "validation"])]
    check_split(seen["target"].to_numpy(), (seen["split"] == "validation").to_numpy())
    table, root = (data, None) if fold is None else (manifest, folder)
    made = {}
    common = {"batch_size": recipe.batch_size, "low_res": low_res, "high_res": high_res}
    common["source"] = "shards" if shards else "files"

    def pipeline(split, context=None, seed=0, **options):
        if context is not None:
            local = context.num_replicas_in_sync // context.num_input_pipelines
            options |= {"worker": context.input_pipeline_id, "workers": context.num_input_pipelines, "replicas": local}
        key = (split, seed, *options.items())
        if key not in made:  # read and checked once, and not in every epoch
            made[key] = Pipeline(table, split, **common, seed=seed, root=root, **options)
        return made[key]

    training = {"augment": recipe.augment, "shuffle": True, "balanced": recipe.balanced, "remainder": "drop"}
    watching = {"augment": recipe.augment_validation, "remainder": "pad"}

    def distribute(split, options):
        def make(strategy, seed, epoch, start):
            return strategy.distribute_datasets_from_function(
                lambda context: pipeline(split, context, seed, **options).epoch(epoch, start)
            )

        return make

    both = pipeline("train", **training), pipeline("validation", **watching)  # checked before anything is begun
    identity = identify(data, manifest, [str(folder / name) for name in manifest["file"]])
    train, validation = distribute("train", training), distribute("validation", watching)
    counts = [f"{len(side.targets)} ({int(side.targets.sum())} malignant)" for side in both]
    if fold is not None:
        identity["fold"] = fold
    if shards:
        identity["shards"] = True  # in which images have another order
    told = f"fold {fold}, " if fold is not None else ""
    told += (
        f"{identity['kind']} images of {identity['folder'] or 'a table'}: {counts[0]} for training, {counts[1]} for "
    )
    files = (*both[0].files, *both[1].files)
    return Source(identity, train, validation, both[0].steps, told + "validation", repeats=True, files=files)
