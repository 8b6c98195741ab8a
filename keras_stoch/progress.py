"""What people see of long work: a bar on a terminal, a line now and then in a log, and sentences above both."""

import contextlib
import os
import sys
import time

LINE_SECONDS = 30.0  # between the lines of a log


def progress_bar(total: int, title: str, show: bool, unit: str = "image", done: int = 0):
    """Rate and time left, as a context; `update()` it once per unit. On a terminal a bar, in a log a line now and then.

    Args:
        total: units altogether.
        title: what stands in front of it.
        show: False for none, which takes the same calls.
        unit: what is counted.
        done: units that are done already.
    """
    if show and not _on_terminal():
        return _Lines(total, title, unit, done)
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc=title, unit=unit, disable=not show)


def tell(text: str, show: bool = True):
    """A line on stderr, above any bar.

    Args:
        text: the line.
        show: False for none.
    """
    if show:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()


@contextlib.contextmanager
def terminal_muted():
    """Nothing reaches stderr, not even what libraries write past Python whatever their log level; exceptions do."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def duration(seconds: float) -> str:
    """A time as people tell it: "12.3 s", "4 min", "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _on_terminal() -> bool:
    return sys.stderr.isatty() or os.environ.get("KERAS_STOCH_PROGRESS") == "1"


class _Lines:
    """Takes the calls of a bar, and writes a line every `LINE_SECONDS`."""

    def __init__(self, total, title, unit, done):
        self.total, self.title, self.unit, self.done, self.before = total, title, unit, done, done
        self.started = self.told = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, count: int = 1):
        """Counts units that are done."""
        self.done += count
        now = time.monotonic()
        if now - self.told >= LINE_SECONDS and self.done < self.total:
            self.told = now
            rate = (self.done - self.before) / (now - self.started)
            left = duration((self.total - self.done) / rate) if rate else "?"
            units = self.unit + ("es" if self.unit.endswith("tch") else "s")
            tell(f"{self.title}: {self.done} of {self.total} {units}, {rate:.1f} a second, {left} left")

    def set_postfix(self, **_):
        """What a bar shows at its end; a log does without."""
