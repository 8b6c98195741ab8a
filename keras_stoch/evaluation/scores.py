"""The logits of a run, of several as an ensemble, or of a model, for the images of a prepared folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from keras_stoch.contracts import input_sizes
from keras_stoch.data.pipeline import Pipeline, damage_named
from keras_stoch.evaluation.calibration import weights_digest
from keras_stoch.evaluation.predictions import draw_logits, mean_logit
from keras_stoch.progress import progress_bar
from keras_stoch.training.runs import loaded


@dataclass
class Scores:
    """Logits, and the images that they are of.

    Attributes:
        images: DataFrame with target, logit (of the mean probability over draws and members), probability, spread
            (standard deviation of the probability over draws and members) and what the manifest knows.
        files: paths of the images.
    """

    images: pd.DataFrame
    files: list[str]


class Members:
    """The models that are asked together: one, or an ensemble, whose probabilities are averaged.

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
        given = list(model) if isinstance(model, list | tuple) else [model]
        if not given:
            raise ValueError("No model was given: name a run, a folder of runs, or several runs")
        self.folder = Path(given[0]) if len(given) == 1 and isinstance(given[0], str | Path) else None
        runs = [run for one in given for run in _runs(one)]
        self.names = [str(run) if isinstance(run, str | Path) else getattr(run, "name", "model") for run in runs]
        self.models = [loaded(run) for run in runs] if load else []
        self.weights = ""
        if self.folder is not None:
            self.weights = weights_digest(*(Path(run) / "best.weights.h5" for run in runs))

    def score(
        self, data, split, *, root=None, passes: int = 1, batch_size: int = 32, mixed=False, progress=False
    ) -> Scores:
        """Asks all models about the images of a split.

        Args:
            data, split, root, passes, batch_size: see `evaluate`.
            progress: show a bar.
            mixed: let models without a detail branch, which draw nothing, take one pass where others take several.
        """
        parts, pipeline = [], None
        for name, model in zip(self.names, self.models, strict=True):
            low_res, high_res = input_sizes(model)
            pipeline = Pipeline(data, split, batch_size=batch_size, low_res=low_res, high_res=high_res, root=root)
            own = 1 if mixed and high_res is None else passes
            with damage_named(pipeline.files), progress_bar(len(pipeline.rows), f"evaluate {name}", progress) as bar:

                def batches(pipeline=pipeline, bar=bar):
                    for inputs, targets in pipeline.epoch(0):
                        yield inputs
                        bar.update(len(targets))

                parts.append(draw_logits(model, batches(), own))
        logits = np.concatenate(parts, axis=1)
        draws = expit(logits)
        images = pipeline.rows.drop(columns=["split", "sha256"], errors="ignore").reset_index(drop=True)
        images["target"] = images["target"].astype(int)
        images["logit"] = mean_logit(logits)
        images["probability"], images["spread"] = draws.mean(1), draws.std(1)
        return Scores(images, pipeline.files)


def _runs(model) -> list:
    """A folder of runs as those runs, in order; everything else as it is."""
    if not isinstance(model, str | Path) or (Path(model) / "config.json").is_file():
        return [model]
    inside = [path.parent for path in Path(model).glob("run-*/config.json")]
    return sorted(inside, key=lambda path: (len(path.name), path.name)) or [model]
