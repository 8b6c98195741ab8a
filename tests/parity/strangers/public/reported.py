"""What the collection is made of: a thread, and a pair of small models, right and with the fault that it is about."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import torch

import parity
from parity.errors import Row


@dataclass(frozen=True)
class Reported:
    """A fault that somebody reported, made anew in a pair of small models.

    Attributes:
        name: of the pair.
        thread: where it was reported, a path at github.com.
        what: the fault, in a few words.
        make: from whether the port is to have the fault to (reference, candidate, inputs, arguments of `compare`).
        rungs: the rungs that may fail first.
        places: the canonical names that may be given as the place.
        words: what a cause has to say, all of them.
    """

    name: str
    thread: str
    what: str
    make: Callable[[bool], tuple]
    rungs: frozenset[str]
    places: frozenset[str]
    words: tuple[str, ...]

    @property
    def address(self) -> str:
        return f"https://github.com/{self.thread}"

    @property
    def title(self) -> str:
        """The repository and the thread's number, as people write it."""
        owner, name, _, number = self.thread.split("/")
        return f"{owner}/{name}#{number}"

    def report(self, wrong: bool = True) -> parity.ComparisonReport:
        keras.utils.set_random_seed(0)
        torch.manual_seed(0)
        reference, candidate, inputs, options = self.make(wrong)
        return parity.compare(reference, candidate, inputs, **options)

    def found(self, report: parity.ComparisonReport) -> bool:
        return report.first_failure is not None

    def placed(self, report: parity.ComparisonReport) -> bool:
        row: Row | None = report.first_failure
        return row is not None and row.check in self.rungs and row.first_divergence in self.places

    def explained(self, report: parity.ComparisonReport) -> bool:
        told = "\n".join(f"{finding.name}: {finding.says}" for finding in report.causes if finding.says)
        return bool(told) and all(word in told for word in self.words)


REPORTED: list[Reported] = []


def reported(thread: str, what: str, rungs, places, *words: str):
    """Registers a function that makes a port, right or with the fault of a thread."""

    def register(make):
        names = [frozenset([given] if isinstance(given, str) else given) for given in (rungs, places)]
        assert make.__name__ not in {fault.name for fault in REPORTED}, make.__name__
        REPORTED.append(Reported(make.__name__, thread, what, make, *names, words))
        return make

    return register
