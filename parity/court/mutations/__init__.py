"""Ports broken on purpose, as people really break them, which the ladder must catch where they were broken.

Each mutation takes a correct `torch_ref` model that already has the reference's weights and breaks it. It states
the lowest rung that must fail, and the layer that this rung must name. `trials` judges them;
`python -m parity mutations` prints the table.
"""

from parity.court.mutations import models, pairs, training
from parity.court.mutations.causes import CAUSES
from parity.court.mutations.registry import MUTATIONS, Mutation
from parity.court.mutations.training import RUNS

__all__ = ["CAUSES", "MUTATIONS", "RUNS", "Mutation", "models", "pairs", "training"]
