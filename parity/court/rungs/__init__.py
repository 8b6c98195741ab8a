"""The rungs that only this project's models have, and all of the ladder for them."""

from parity import rungs
from parity.court.rungs import windows

# Those that take two traces: the instrument's, and what stochastic layers draw by themselves behind the weights.
RUNGS = {}
for _name, _check in rungs.RUNGS.items():
    RUNGS[_name] = _check
    if _name == "weights":
        RUNGS["windows"] = windows.check
