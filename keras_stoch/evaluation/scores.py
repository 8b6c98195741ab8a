"""The logits of a run, of several as an ensemble, or of a model, for the images of a prepared folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from keras_stoch.contracts import input_sizes
from keras_stoch.data.pipeline import Pipeline, damage_named, read_manifest
from keras_stoch.data.splits import FOLD, manifest_digest, of_run
from keras_stoch.evaluation.calibration import weights_digest
from keras_stoch.evaluation.metrics import Measures
from keras_stoch.evaluation.predictions import draw_logits, mean_logit
from keras_stoch.progress import progress_bar
from keras_stoch.storage import as_path
from keras_stoch.training.runs import data_of, loaded, runs_of


@dataclass
class Scores:
    """Logits, and the images that they are of.

    Attributes:
        images: DataFrame with target, logit (of the mean probability over draws and members), probability, spread
            (standard deviation of the probability over draws and members) and what the manifest knows.
        files: paths of the images.
        members: DataFrame, one row per model on the images that it was asked about: model, fold (where the data have
            folds), images, malignant, and its measures.
    """

    images: pd.DataFrame
    files: list[str]
    members: pd.DataFrame


class Members:
    """The models that are asked together: one, or an ensemble, whose probabilities are averaged.

    Runs that were trained on folds of the data they are asked about are each asked about their own validation fold, so
    that no image is judged by a run that was trained on it.

    Args:
        model: a Keras model with one logit as output; the folder of a run; a folder of runs, `run-0` and so on, which
            are asked together; or a list of models and folders of runs.
        load: False for their names and weights alone.

    Attributes:
        models: Keras models.
        names: what to call them.
        folder: where their calibration is stored, None if they are not one folder.
        weights: digest of their weights, "" without a folder.

    Raises:
        ValueError: for an empty list, or a folder without runs.
    """

    def __init__(self, model, load: bool = True):
        runs = runs_of(model)
        if not runs:
            raise ValueError("No model was given: name a run, a folder of runs, or several runs")
        given = list(model) if isinstance(model, list | tuple) else [model]
        self.folder = as_path(given[0]) if len(given) == 1 and isinstance(given[0], str | Path) else None
        self.names = [str(run) if isinstance(run, str | Path) else getattr(run, "name", "model") for run in runs]
        self.models = [loaded(run) for run in runs] if load else []
        self.data = [data_of(run) for run in runs]
        self.weights = ""
        if self.folder is not None:
            self.weights = weights_digest(*(as_path(run) / "best.weights.h5" for run in runs))

    def score(
        self, data, split, *, root=None, passes: int = 1, batch_size: int = 32, mixed=False, progress=False
    ) -> Scores:
        """Asks all models about the images of a split.

        Args:
            data, split, root, passes, batch_size: see `evaluate`.
            progress: show a bar.
            mixed: let models without a detail branch, which draw nothing, take one pass where others take several.

        Raises:
            ValueError: for a split that runs of different folds do not share.
        """
        manifest, folder = read_manifest(data, root)
        folds = [_fold(manifest, known) for known in self.data]
        apart = len(set(folds)) > 1 and split in ("train", "validation")
        if apart and (split == "train" or None in folds):
            raise ValueError(
                f"The runs are of different folds, and share no images of split {split!r}; evaluate them one by one, "
                "or on other images"
            )
        found, rows = {}, []
        for name, model, fold in zip(self.names, self.models, folds, strict=True):
            table, place = (data, root) if fold is None else (of_run(manifest, fold)[0], folder)
            pipeline, logits = _ask(name, model, table, split, place, passes, batch_size, mixed, progress)
            found.setdefault(fold if apart else None, []).append((pipeline, logits))
            row = {"model": name} | ({} if fold is None else {"fold": fold})
            row |= {"images": len(logits), "malignant": int(pipeline.targets.sum())}
            rows.append(row | {k: float(v) for k, v in Measures(pipeline.targets, mean_logit(logits))().items()})
        parts, files = [], []
        for asked in found.values():
            logits = np.concatenate([logits for _, logits in asked], axis=1)
            draws, pipeline = expit(logits), asked[0][0]
            images = pipeline.rows.drop(columns=["split", "sha256"], errors="ignore")
            images = images.assign(
                target=images["target"].astype(int),
                logit=mean_logit(logits),
                probability=draws.mean(1),
                spread=draws.std(1),
            )
            parts.append(images)
            files.append(pd.Series(pipeline.files, index=images.index))
        # In the order of the manifest, whatever fold they are of.
        images, files = pd.concat(parts).sort_index(kind="stable"), pd.concat(files).sort_index(kind="stable")
        return Scores(images.reset_index(drop=True), files.tolist(), pd.DataFrame(rows))


def _fold(manifest, known: dict) -> int | None:
    """The fold that a run was validated on, if these are the data it was trained with; else None."""
    if known.get("fold") is None or FOLD not in manifest:
        return None
    return known["fold"] if manifest_digest(of_run(manifest, known["fold"])[0]) == known.get("manifest") else None


def _ask(name, model, table, split, root, passes, batch_size, mixed, progress):
    """(the pipeline, logits of every draw) of one model."""
    low_res, high_res = input_sizes(model)
    pipeline = Pipeline(table, split, batch_size=batch_size, low_res=low_res, high_res=high_res, root=root)
    with damage_named(pipeline.files), progress_bar(len(pipeline.rows), f"evaluate {name}", progress) as bar:

        def batches():
            for inputs, targets in pipeline.epoch(0):
                yield inputs
                bar.update(len(targets))

        return pipeline, draw_logits(model, batches(), 1 if mixed and high_res is None else passes)
