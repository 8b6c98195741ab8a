"""What `parity.compare` says of faults that people reported in public threads of porting tools and model libraries.

    python benchmarks/public_faults.py [--name WORD] [--reports]

Each is made anew in a pair of small models of tests/parity/strangers/public. It is *found* if some rung fails,
*placed* if the first that fails names the layer or operation where the fault was made, *explained* if a cause says what
was done.
A right port of the same models has to pass without a cause, or it is listed.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.parity.strangers.public import REPORTED

COLUMNS = ("found", "placed", "explained")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="", help="only pairs whose name contains this")
    parser.add_argument("--reports", action="store_true", help="print the report of every fault to stderr")
    options = parser.parse_args()
    chosen = [fault for fault in REPORTED if options.name in fault.name]
    if not chosen:
        parser.error(f"no name contains {options.name!r}; there are {', '.join(fault.name for fault in REPORTED)}")
    print(f"| thread | fault | {' | '.join(COLUMNS)} |")
    print("|---|---|:---:|:---:|:---:|")
    counts, alarms = dict.fromkeys(COLUMNS, 0), []
    for fault in chosen:
        report, right = fault.report(), fault.report(wrong=False)
        if not right.passed or right.causes:
            alarms.append(fault.name)
        seen = {name: getattr(fault, name)(report) for name in COLUMNS}
        for name in COLUMNS:
            counts[name] += seen[name]
        cells = " | ".join("yes" if seen[name] else "**no**" for name in COLUMNS)
        print(f"| [{fault.title}]({fault.address}) | {fault.what} | {cells} |", flush=True)
        if options.reports:
            print(f"{fault.name}\n{report}\n", file=sys.stderr, flush=True)
    print(f"| **all** | | {' | '.join(f'{counts[name]} of {len(chosen)}' for name in COLUMNS)} |")
    print(f"\nRight ports that were not judged equal: {', '.join(alarms) or 'none'}.")


if __name__ == "__main__":
    main()
