"""Small models ported by people in their ways, rightly or with one fault: `PAIRS`, a theme a file."""

from tests.parity.strangers.corpus import (  # noqa: F401
    activations,
    attention,
    convolutions,
    graphs,
    interfaces,
    norms,
    parametrised,
    pooling,
    ports,
    recurrent,
    training,
    whole,
)
from tests.parity.strangers.corpus.pairs import PAIRS, Pair

__all__ = ["PAIRS", "Pair"]
