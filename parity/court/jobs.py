"""Work shared out among processes, whose results come one by one and not when a whole job is through.

A job is a generator function and its arguments. A worker keeps what a job has built for the next one of the same key,
so that a model is built once a process.
"""

import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, get_context


@dataclass(frozen=True)
class Job:
    """A piece of work.

    Attributes:
        function: a generator function; what it yields are the results.
        arguments: for it; picklable.
        key: jobs of one key go to one worker, where that leaves none idle: they share what they build.
        seconds: about how long it takes on one core, for the order and for the time left.
        title: what to call it while it runs.
    """

    function: Callable
    arguments: tuple = ()
    key: str = ""
    seconds: float = 1.0
    title: str = ""


def default_processes() -> int:
    """Two processes where there are two cores. More would need more than the 4 GB that each takes."""
    return min(2, os.cpu_count() or 1)


def run(jobs: list[Job], processes: int = 1, begun: Callable[[Job], None] = lambda job: None) -> Iterator:
    """Runs jobs and yields (job, result) as results come, and (job, None) when a job is through.

    Args:
        jobs: in the order in which to begin them, but for keys.
        processes: with 1 all is done here.
        begun: is called with each job that begins.

    Raises:
        ValueError: if processes is less than 1.
        RuntimeError: if a worker fails or dies, with the words of what it raised; the other workers are ended.
    """
    if processes < 1:
        raise ValueError(f"jobs must be at least 1. Received: {processes}")
    if processes == 1 or len(jobs) <= 1:
        for job in jobs:
            begun(job)
            for result in job.function(*job.arguments):
                yield job, result
            yield job, None
        return
    waiting = list(jobs)
    workers = [_Worker(max(1, (os.cpu_count() or 1) // processes)) for _ in range(min(processes, len(jobs)))]
    try:
        while True:
            for worker in workers:
                if worker.job is None and waiting:
                    worker.begin(_next(worker, workers, waiting))
                    begun(worker.job)
            busy = {worker.pipe: worker for worker in workers if worker.job is not None}
            if not busy:
                break
            for pipe in connection.wait(list(busy)):
                worker = busy[pipe]
                job, result = worker.job, worker.receive()
                yield job, result
        for worker in workers:
            worker.pipe.send_bytes(pickle.dumps(None))
            worker.process.join()
    finally:
        for worker in workers:  # after an error or Ctrl-C: what they are at would take minutes to end
            worker.end()


def _next(worker, workers, waiting) -> Job:
    """The first job that waits of a key that this worker has had, or else of one that no worker has, or else any."""
    taken = set().union(*(other.keys for other in workers if other is not worker))
    for wanted in (lambda job: job.key in worker.keys, lambda job: job.key not in taken, lambda job: True):
        for job in waiting:
            if wanted(job):
                waiting.remove(job)
                return job
    raise AssertionError("no job waits")


class _Worker:
    """A process that does one job after the other."""

    def __init__(self, threads):
        context = get_context("spawn")
        self.pipe, far = context.Pipe()
        # What frameworks write to the terminal is kept, to be shown if the process dies.
        self.log = tempfile.NamedTemporaryFile(suffix=".log")  # noqa: SIM115
        self.process = context.Process(target=_work, args=(far, threads, os.getpid(), self.log.name), daemon=True)
        self.process.start()
        far.close()
        self.job, self.keys = None, set()

    def begin(self, job):
        self.job = job
        self.keys.add(job.key)
        self.pipe.send_bytes(pickle.dumps((job.function, job.arguments)))

    def receive(self):
        try:
            kind, value = pickle.loads(self.pipe.recv_bytes())
        except EOFError:
            self.process.join()
            last = open(self.log.name, errors="replace").read()[-2000:]  # noqa: SIM115
            code = self.process.exitcode
            reason = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            raise RuntimeError(f"The process that was at '{self.job.title}' {reason}. It wrote:\n{last}") from None
        if kind == "error":
            raise RuntimeError(f"'{self.job.title}' failed:\n{value}")
        if kind == "done":
            self.job = None
        return value

    def end(self):
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()
        self.pipe.close()
        self.log.close()


def _work(pipe, threads: int, parent: int, log: str) -> None:
    """In a new process: its share of the cores, no chatter, and the terminal's Ctrl-C left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # Read by TensorFlow and torch when a job imports them.
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(threads)
    while (job := pickle.loads(pipe.recv_bytes())) is not None:
        function, arguments = job
        try:
            for result in function(*arguments):
                pipe.send_bytes(pickle.dumps(("result", result)))
        except Exception:
            pipe.send_bytes(pickle.dumps(("error", traceback.format_exc())))
            return
        pipe.send_bytes(pickle.dumps(("done", None)))


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent, if that was killed and could not end it."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
