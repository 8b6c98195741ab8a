"""Ctrl-C and SIGTERM, which schedulers send: training ends after the step it is at, with a checkpoint."""

import contextlib
import os
import signal
import threading


class Terminated(SystemExit):
    """Ended by SIGTERM; the code is 143, as of a process that the signal itself ended."""

    def __init__(self):
        super().__init__(128 + signal.SIGTERM)


def raise_terminated(*_):
    """A handler of SIGTERM."""
    raise Terminated


@contextlib.contextmanager
def terminations_raised():
    """SIGTERM unwinds the program as Ctrl-C does, where it has no handler of its own: nothing is left half-written."""
    main = threading.current_thread() is threading.main_thread()
    ours = main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Interruption:
    """What a signal asks for, as a context around training.

    Only in the main thread, and where the program has no handler of its own. A signal while nothing is unsaved, and
    the second one in any case, ends training at once.

    Attributes:
        unsaved: whether steps were taken since the last checkpoint.
        wanted: whether an end is asked for; to be looked at between steps.
    """

    def __init__(self):
        self.unsaved, self.wanted = False, False
        self._number, self._before = None, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL, raise_terminated):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        again, self._number = self.wanted, number
        if again or not self.unsaved:
            self.end()
        self.wanted = True
        # Not by way of sys.stderr, which this may have come in the midst of.
        os.write(2, b"\nending after this step, with a checkpoint; once more ends at once\n")

    def end(self):
        """Raises what the signal would have raised."""
        raise Terminated if self._number == signal.SIGTERM else KeyboardInterrupt
