"""A line on the terminal that tells how far a hearing is, and about how long it will still take."""

import sys
import threading
import time


class Progress:
    """The line: share, time gone, time left, what runs now.

    On a terminal it stands below the table and is renewed every second; elsewhere it is printed every half minute.

    Args:
        stream: where to; standard error by default.
    """

    def __init__(self, stream=None):
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.lock = threading.Lock()
        self.thread = None

    def start(self, jobs, processes: int) -> None:
        """Begins to count."""
        self.begin = time.monotonic()
        self.processes = min(processes, max(1, len(jobs)))
        # By the job itself: several may have one title.
        self.left, self.running = {id(job): job.seconds for job in jobs}, {}
        self.total = sum(self.left.values())
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._tick, daemon=True)
        self.thread.start()

    def begun(self, job) -> None:
        """A job has begun."""
        self.running[id(job)] = (job.title, time.monotonic())

    def done(self, job) -> None:
        """A job is through."""
        self.left.pop(id(job), None)
        self.running.pop(id(job), None)

    def stop(self) -> None:
        """Ends the line."""
        if self.thread is not None:
            self.ended.set()
            self.thread.join()
            self.clear()

    def write(self, line: str) -> None:
        """Prints a line of the table to standard output, above the line of progress."""
        with self.lock:
            self.clear()
            print(line, flush=True)
            if self.live and self.thread is not None and not self.ended.is_set():
                self._draw()

    def clear(self) -> None:
        """Wipes the line from a terminal."""
        if self.live:
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def line(self) -> str:
        """The line as text."""
        now = time.monotonic()
        gone = now - self.begin
        left = sum(self.left.values()) - sum(
            _share(now - since, self.left.get(job, 0)) for job, (_, since) in list(self.running.items())
        )
        done = max(self.total - left, 0.0)
        # By the seconds of the table at first; by the pace of this machine as soon as it is known.
        known = done / self.total if self.total else 1.0
        pace = gone * self.processes / done if done > 0 else 1.0
        expected = left / self.processes * ((1 - known) + known * pace)
        now = ", ".join(dict.fromkeys(title for title, _ in list(self.running.values()))) or "the rest"
        return f"{known:4.0%}  {_clock(gone)} gone, about {_clock(expected)} left; now: {now}"

    def _draw(self):
        self.stream.write("\r\x1b[K" + self.line()[:118])
        self.stream.flush()

    def _tick(self):
        while not self.ended.wait(1.0 if self.live else 30.0):
            with self.lock:
                if self.live:
                    self._draw()
                else:
                    print(self.line(), file=self.stream, flush=True)


def _share(gone: float, seconds: float) -> float:
    """How much of a job of `seconds` is done: what has gone, but ever less of it near the end, which may be late."""
    if gone <= 0.7 * seconds:
        return gone
    return seconds * (1 - 0.09 / (gone / seconds - 0.4)) if seconds else 0.0


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
