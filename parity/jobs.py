"""Work shared out among processes: one model's comparison does not wait for another's."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context


def default_jobs() -> int:
    """Two processes where there are two cores. More would need more than the 4 GB that each takes."""
    return min(2, os.cpu_count() or 1)


def run(calls: list[tuple[Callable, tuple]], jobs: int = 1) -> Iterator[tuple[int, object]]:
    """Calls functions and yields (number of the call, what it returned), in the order in which they end.

    Args:
        calls: (function, arguments); for more than one job all must be picklable.
        jobs: processes; with 1 all is done here, in order.

    Raises:
        Whatever a function raises; what has not begun by then is dropped.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1. Received: {jobs}")
    if jobs == 1 or len(calls) <= 1:
        for number, (function, arguments) in enumerate(calls):
            yield number, function(*arguments)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    pool = ProcessPoolExecutor(min(jobs, len(calls)), get_context("spawn"), _prepare, (threads, os.getpid()))
    try:
        futures = {pool.submit(function, *arguments): number for number, (function, arguments) in enumerate(calls)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:
        processes = list(pool._processes.values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:  # what they are at would take minutes to end
            process.terminate()
        raise
    pool.shutdown()


def _end_with(parent: int):
    """Ends this process soon after its parent, if that was killed and could not end it."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _prepare(threads: int, parent: int):
    """In a new process: its share of the cores, no chatter, and the terminal's Ctrl-C left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import parity
    from parity.__main__ import import_tensorflow_quietly

    assert parity.__file__  # imported first, for it sets the environment that Keras reads
    import_tensorflow_quietly()
    import tensorflow as tf
    import torch

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    torch.set_num_threads(threads)
