"""Training: a recipe, where batches come from, the steps, what is kept of them, and `fit`, which puts them together."""

from keras_stoch.training.fit import fit
from keras_stoch.training.recipe import Recipe, TrainingDiverged
from keras_stoch.training.runs import load_run

__all__ = ["Recipe", "TrainingDiverged", "fit", "load_run"]
