"""How many bytes and operations a second this machine reaches, and how long a function takes: for the benchmarks."""

import concurrent.futures
import contextlib
import os
import statistics
import time

import numpy as np


class Host:
    """Where calls are timed one by one."""

    queued = None

    def wait(self, outputs):
        """Returns when the outputs are there."""


class TensorFlow(Host):
    def wait(self, outputs):
        if outputs is not None:
            outputs.numpy()


class Torch(Host):
    """A GPU, or none."""

    def __init__(self):
        import torch

        if torch.cuda.is_available():
            self.queued = self._queued

    def wait(self, outputs):
        if self.queued:
            import torch

            torch.cuda.synchronize()

    def _queued(self, function, calls: int) -> float:
        """Seconds of the GPU for one of many calls, by its own clock."""
        import torch

        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(100_000_000)  # cycles: about 60 ms
        start.record()
        for _ in range(calls):
            function()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3 / calls

    def busy(self, function, repeat: int = 5) -> float:
        """Seconds that the kernels of a function take a GPU, which waits for Python in between."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            for _ in range(repeat):
                function()
        return sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6 / repeat


class JAX(Host):
    """A GPU, or none."""

    def __init__(self):
        import jax

        if jax.default_backend() != "cpu":
            self.queued = self._queued
            self._matrix = jax.random.normal(jax.random.key(0), (4096, 4096)) / 64
            self._multiply = jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda _, y: y @ x, x))
            self.wait(self._multiply(self._matrix))

    def wait(self, outputs):
        import jax

        jax.block_until_ready(outputs)

    def _queued(self, function, calls: int) -> float:
        """Seconds of the GPU for one of many calls: what they add to a program that it is busy with meanwhile."""
        seconds = []
        for n in (0, calls):
            start = time.perf_counter()
            outputs = self._multiply(self._matrix)
            for _ in range(n):
                outputs = function()
            self.wait(outputs)
            seconds.append(time.perf_counter() - start)
        return (seconds[1] - seconds[0]) / calls


def measure(function, device, repeat: int, clock=time.perf_counter) -> tuple[float, float]:
    """Seconds of the first call (tracing and compiling), and of one of the others.

    Without a GPU that is the median of calls one by one. A GPU would wait for Python most of that time: so calls are
    queued while it is busy, and what they take is its own time, the median of five times `repeat` calls.

    Args:
        function: takes nothing and returns what `device` can wait for.
        device: a `Host`, `TensorFlow`, `Torch` or `JAX`.
        repeat: how many calls.
        clock: of the calls one by one.
    """
    start = clock()
    device.wait(function())
    first = clock() - start
    if device.queued:
        device.wait(function())
        return first, statistics.median(device.queued(function, repeat) for _ in range(5))
    times = []
    for _ in range(repeat):
        start = clock()
        device.wait(function())
        times.append(clock() - start)
    return first, statistics.median(times)


def roofs(repeat: int = 5) -> dict[str, float]:
    """Bytes copied (read or written) and floating-point operations a second that this machine reaches.

    A copy of 256 MiB by all cores, and a product of square float32 matrices: both near the best that is possible.
    """
    n = 8192 if has_gpu() else 2048
    if has_gpu():
        copy, multiply, device = _gpu_roofs(n)
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

        device = Host()

    seconds = {"copy": measure(copy, device, repeat)[1], "multiply": measure(multiply, device, repeat)[1]}
    return {"bytes_per_s": 2 * 2**28 / seconds["copy"], "flop_per_s": 2 * n**3 / seconds["multiply"]}


def _gpu_roofs(n: int):
    """Functions that copy 256 MiB and multiply matrices on the GPU, by torch where it sees one, else by JAX."""
    if _torch_has_gpu():
        import torch

        source = torch.ones(2**26, device="cuda")
        target, matrix = torch.empty_like(source), torch.ones((n, n), device="cuda")
        return lambda: target.copy_(source), lambda: matrix @ matrix, Torch()
    import jax

    source, matrix = jax.numpy.ones(2**26), jax.numpy.ones((n, n))
    copy = jax.jit(lambda x: x + 1)
    return lambda: copy(source), lambda: matrix @ matrix, JAX()


def has_gpu() -> bool:
    """Whether torch or JAX, as far as they are installed, see a GPU."""
    if _torch_has_gpu():
        return True
    with contextlib.suppress(ImportError):
        import jax

        return jax.default_backend() != "cpu"
    return False


def _torch_has_gpu() -> bool:
    with contextlib.suppress(ImportError):
        import torch

        return torch.cuda.is_available()
    return False


if __name__ == "__main__":
    found = roofs()
    print(f"copies {found['bytes_per_s'] / 1e9:.1f} GB/s (read and written), {found['flop_per_s'] / 1e9:.0f} GFLOP/s")
