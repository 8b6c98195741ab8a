"""What `parity.compare` says of small models ported by strangers, rightly or with one fault: a table by kind.

    python benchmarks/strangers.py [--kind WORD] [--reports]

Each pair of tests/parity/strangers/corpus has its verdict decided by hand. A right pair counts if every rung that was
asked for passes; a fault is *found* if some rung fails, and *placed* if the first that fails is one of those that may,
at the layer or operation where the fault was made. What is missed is listed by name.
"""

import argparse
import os
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.parity.strangers.corpus import PAIRS, Pair


@dataclass
class Tally:
    """Counts of one kind: right pairs and those judged equal, faults, those found, those found in their place."""

    right: int = 0
    equal: int = 0
    faults: int = 0
    found: int = 0
    placed: int = 0
    missed: list[str] = field(default_factory=list)

    def __iadd__(self, other):
        for name in ("right", "equal", "faults", "found", "placed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def cells(self) -> str:
        shares = ((self.equal, self.right), (self.found, self.faults), (self.placed, self.faults))
        return " | ".join(f"{some} of {all_}" if all_ else "" for some, all_ in shares)


def judge(pair: Pair, tally: Tally) -> str:
    """Counts what is said of a pair; returns the printed report where that is not right, else ""."""
    try:
        report = pair.report()
    except Exception as error:  # a crash is a miss
        report, failure, said = f"{type(error).__name__}: {error}", None, type(error).__name__
    else:
        failure = report.first_failure
        said = f"{failure.check} at {failure.first_divergence}" if failure else report.status
    if pair.equal:
        right = not isinstance(report, str) and report.passed
        tally.right += 1
        tally.equal += right
    else:
        right = failure is not None and pair.allows(failure)
        tally.faults += 1
        tally.found += failure is not None
        tally.placed += right
    if right:
        return ""
    tally.missed.append(f"`{pair.name}` ({said})")
    return str(report)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="", help="only kinds whose name contains this")
    parser.add_argument("--reports", action="store_true", help="print the report of every miss to stderr")
    options = parser.parse_args()
    tallies = defaultdict(Tally)
    for pair in PAIRS:
        if options.kind not in pair.kind:
            continue
        report = judge(pair, tallies[pair.kind])
        if report and options.reports:
            print(f"{pair.name}\n{report}\n", file=sys.stderr, flush=True)
    if not tallies:
        parser.error(f"no kind contains {options.kind!r}; there are {', '.join(dict.fromkeys(p.kind for p in PAIRS))}")
    print("| kind | right pairs judged equal | faults found | faults placed |")
    print("|---|---:|---:|---:|")
    total = Tally()
    for kind in sorted(tallies, key=str.lower):
        total += tallies[kind]
        print(f"| {kind} | {tallies[kind].cells()} |")
    print(f"| **all** | {total.cells()} |")
    missed = [name for kind in sorted(tallies, key=str.lower) for name in tallies[kind].missed]
    print(f"\nMisjudged, and what is said instead: {', '.join(missed) or 'none'}.")


if __name__ == "__main__":
    main()
