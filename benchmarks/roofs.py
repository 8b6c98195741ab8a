"""How many bytes and operations a second this machine reaches, and how long a function takes: for the benchmarks."""

import concurrent.futures
import contextlib
import os
import statistics
import time

import numpy as np


def measure(function, wait, repeat: int, clock=time.perf_counter) -> tuple[float, float]:
    """Seconds of the first call (tracing and compiling), and the median of the others."""
    start = clock()
    wait(function())
    first = clock() - start
    times = []
    for _ in range(repeat):
        start = clock()
        wait(function())
        times.append(clock() - start)
    return first, statistics.median(times)


def roofs(repeat: int = 5) -> dict[str, float]:
    """Bytes copied (read or written) and floating-point operations a second that this machine reaches.

    A copy of 256 MiB by all cores, and a product of square float32 matrices: both near the best that is possible.
    """
    n = 8192 if has_gpu() else 2048
    if has_gpu():
        copy, multiply, wait = _gpu_roofs(n)
    else:
        threads = os.cpu_count()
        source, target = (
            np.ones((threads, 2**26 // threads), "float32"),
            np.empty((threads, 2**26 // threads), "float32"),
        )
        matrix = np.ones((n, n), "float32")
        pool = concurrent.futures.ThreadPoolExecutor(threads)

        def copy():
            list(pool.map(np.copyto, target, source))

        def multiply():
            return matrix @ matrix

        def wait(_):
            pass

    seconds = {"copy": measure(copy, wait, repeat)[1], "multiply": measure(multiply, wait, repeat)[1]}
    return {"bytes_per_s": 2 * 2**28 / seconds["copy"], "flop_per_s": 2 * n**3 / seconds["multiply"]}


def _gpu_roofs(n: int):
    """Functions that copy 256 MiB and multiply matrices on the GPU, by torch where it is installed, else by JAX."""
    try:
        import torch

        source = torch.ones(2**26, device="cuda")
        target, matrix = torch.empty_like(source), torch.ones((n, n), device="cuda")
        return lambda: target.copy_(source), lambda: matrix @ matrix, lambda _: torch.cuda.synchronize()
    except ImportError:
        import jax

        source, matrix = jax.numpy.ones(2**26), jax.numpy.ones((n, n))
        copy = jax.jit(lambda x: x + 1)
        return lambda: copy(source), lambda: matrix @ matrix, jax.block_until_ready


def has_gpu() -> bool:
    """Whether torch or JAX, as far as they are installed, see a GPU."""
    with contextlib.suppress(ImportError):
        import torch

        if torch.cuda.is_available():
            return True
    with contextlib.suppress(ImportError):
        import jax

        return jax.default_backend() != "cpu"
    return False


if __name__ == "__main__":
    found = roofs()
    print(f"copies {found['bytes_per_s'] / 1e9:.1f} GB/s (read and written), {found['flop_per_s'] / 1e9:.0f} GFLOP/s")
