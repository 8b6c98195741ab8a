"""Faults that people reported in public threads of porting tools and model libraries: `REPORTED`, a theme a file."""

from tests.parity.strangers.public import efficientnets, images, sequences  # noqa: F401
from tests.parity.strangers.public.reported import REPORTED, Reported

__all__ = ["REPORTED", "Reported"]
