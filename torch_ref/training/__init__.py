"""Training: a recipe, where batches come from, the steps, what is kept of them, and `fit`, which puts them together."""

from torch_ref.training.engine import train_step, validation_step
from torch_ref.training.fit import fit
from torch_ref.training.optimizer import AdamW, RMSprop, make_optimizer
from torch_ref.training.recipe import RECIPES, Recipe

__all__ = ["RECIPES", "AdamW", "RMSprop", "Recipe", "fit", "make_optimizer", "train_step", "validation_step"]
