"""How much memory a comparison takes: its peak, in multiples of one model's weights and activations in float64.

    python benchmarks/memory.py [--size 112] [--batch 1] [--fault activation | weights] [--no-training]

keras.applications' VGG16 and a port of it to PyTorch, whose weights are most of it. Weights: all parameters.
Activations: what the port's convolutions and dense layers return for one batch; what lies between them is not counted.
The peak is that of the process (Linux), less what it held before, when both models were there in float32.
"""

import argparse
import json
import os
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import torch
from torch import nn

import parity

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # filters, convolutions


class VGG16(nn.Module):
    """As keras.applications has it, with Keras's order of what is flattened."""

    def __init__(self, size: int):
        super().__init__()
        before = 3
        for block, (filters, repeats) in enumerate(BLOCKS, start=1):
            for place in range(1, repeats + 1):
                setattr(self, f"block{block}_conv{place}", nn.Conv2d(before, filters, 3, padding=1))
                before = filters
        self.fc1, self.fc2 = nn.Linear(512 * (size // 32) ** 2, 4096), nn.Linear(4096, 4096)
        self.predictions = nn.Linear(4096, 10)

    def forward(self, x):
        for block, (_, repeats) in enumerate(BLOCKS, start=1):
            for place in range(1, repeats + 1):
                x = torch.relu(getattr(self, f"block{block}_conv{place}")(x))
            x = nn.functional.max_pool2d(x, 2)
        x = torch.relu(self.fc1(x.permute(0, 2, 3, 1).flatten(1)))
        return self.predictions(torch.relu(self.fc2(x)))


def make_pair(size: int, fault: str | None):
    """(port, original): the port is the reference here, so that a fault stands in the Keras model."""
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    port = VGG16(size)
    original = keras.applications.VGG16(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    parity.torch_to_keras(port, original)
    if fault == "activation":
        original.get_layer("fc1").activation = keras.activations.elu
    if fault == "weights":
        original.get_layer("fc1").kernel.assign(original.get_layer("fc1").kernel * 1.01)
    return port, original


def count_activations(port: nn.Module, images: np.ndarray) -> int:
    """Numbers that the leaves among its modules return."""
    counts = []
    leaves = [module for module in port.modules() if next(module.children(), None) is None]
    hooks = [leaf.register_forward_hook(lambda module, args, output: counts.append(output.numel())) for leaf in leaves]
    with torch.no_grad():
        port(torch.from_numpy(np.moveaxis(images, -1, 1).astype(np.float32)))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watch:
    """A thread that looks at the memory of the process every few milliseconds; `peak` is the most it saw, in bytes."""

    def __enter__(self):
        self.peak, self._ended = resident(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self):
        while not self._ended.wait(0.005):
            self.peak = max(self.peak, resident())

    def __exit__(self, *exception):
        self._ended.set()
        self._thread.join()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=112, help="pixels (default 112)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--fault", choices=("activation", "weights"), help="one fault, at the largest layer")
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--out", default="build/benchmarks/memory.json")
    options = parser.parse_args()
    pair = make_pair(options.size, options.fault)
    images = np.random.default_rng(0).uniform(size=(options.batch, options.size, options.size, 3))
    weights = sum(parameter.numel() for parameter in pair[0].parameters()) * 8
    activations = count_activations(pair[0], images) * 8
    before, start = resident(), time.process_time()
    with Watch() as watch:
        report = parity.compare(*pair, images, training=not options.no_training)
    if report.passed == bool(options.fault):
        raise SystemExit(str(report))
    peak = watch.peak - before
    times, seconds = peak / (weights + activations), time.process_time() - start
    told = [size / 2**30 for size in (weights, activations, peak)]
    print("| pixels | batch | fault | weights | activations | peak of the comparison | times | CPU seconds |")
    print("|---:|---:|---|---:|---:|---:|---:|---:|")
    print(
        f"| {options.size} | {options.batch} | {options.fault or 'none'} | {told[0]:.2f} GB | {told[1]:.2f} GB "
        f"| {told[2]:.2f} GB | {times:.1f} | {seconds:.0f} |"
    )
    record = vars(options) | {"weights": weights, "activations": activations, "peak": peak, "times": times}
    path = Path(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | {"cpu_seconds": seconds}, indent=2))


if __name__ == "__main__":
    main()
