"""How fast the stochastic convolution is, as ratios to a standard stem in the same run.

    python benchmarks/stochastic_conv.py [--batch 8 32] [--repeat 15] [--forms NAME ...] [--step]

Forward, and forward with gradient of the kernel, of 1024x1024x3 uint8 -> 112x112x32, kernel 3x3, stride 2, by
implementation, framework and sharing of windows; and the standard stem, float32 224x224x3 -> 112x112x32. New windows
are drawn on every call. With --step, whole training steps of the models at 224/1024 and batch 8.

Keras runs on the backend that KERAS_BACKEND names (TensorFlow by default); what is not installed is left out. On a
GPU the same script measures there.
"""

import argparse
import json
import os
import platform
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

FILTERS, OUTPUT, SIZE = 32, 112, 1024
WINDOW = (OUTPUT - 1) * 2 + 3


def measure(function, wait, repeat: int) -> tuple[float, float]:
    """Seconds of the first call (tracing and compiling), and the median of the others."""
    start = time.perf_counter()
    wait(function())
    first = time.perf_counter() - start
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        wait(function())
        times.append(time.perf_counter() - start)
    return first, statistics.median(times)


def expected_coverage() -> float:
    """The fraction of the image that 32 windows drawn uniformly see on average."""
    starts = SIZE - WINDOW + 1
    row = np.array([min(i, starts - 1) - max(0, i - WINDOW + 1) + 1 for i in range(SIZE)]) / starts
    return float(1 - ((1 - np.outer(row, row)) ** FILTERS).mean())


def least_bytes(batch: int) -> int:
    """Bytes that must move whatever the form: the pixels that some window sees, once, and the output."""
    return batch * int(expected_coverage() * SIZE * SIZE * 3 + OUTPUT * OUTPUT * FILTERS * 4)


def keras_cases(batch: int, forms):
    """Yields (framework, implementation, sharing, forward, with_gradient, wait)."""
    import keras

    import keras_stoch

    backend = keras.config.backend()
    rng = np.random.default_rng(0)
    small = keras.ops.convert_to_tensor(rng.normal(size=(batch, 224, 224, 3)).astype("float32"))
    large = keras.ops.convert_to_tensor(rng.integers(0, 256, (batch, SIZE, SIZE, 3)).astype("uint8"))
    standard = keras.layers.Conv2D(FILTERS, 3, 2, "same", use_bias=False)
    standard.build(small.shape)
    layers = [("standard stem", "-", standard, small)]
    for form in forms:
        for sharing in ("batch", "image"):
            layer = keras_stoch.StochasticConv2D(
                FILTERS, 3, OUTPUT, 2, window_sharing=sharing, implementation=form, use_bias=False, rescale=1 / 255
            )
            layer.build(large.shape)
            layers.append((form, sharing, layer, large))
    for name, sharing, layer, x in layers:
        if backend == "tensorflow":
            import tensorflow as tf

            def gradient(layer=layer, x=x):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_sum(layer(x) ** 2)
                return tape.gradient(loss, layer.kernel.value)

            for framework, jit in (("Keras graph", False), ("Keras jit", True)):
                if jit and name in ("naive", "gather") and not _gpu():
                    continue  # a CPU compiles them for minutes
                forward = tf.function(lambda layer=layer, x=x: layer(x), jit_compile=jit)
                yield framework, name, sharing, forward, tf.function(gradient, jit_compile=jit), lambda y: y.numpy()
        elif backend == "jax":
            import jax

            state = [v.value for v in layer.non_trainable_variables]

            def call(kernel, state, layer=layer, x=x):
                outputs, state = layer.stateless_call([kernel], state, x)
                return outputs, state

            def run(function, layer=layer, state=state):
                def once():
                    outputs, new = function(layer.kernel.value, state)
                    state[:] = new
                    return outputs

                return once

            def gradient(kernel, state, call=call):
                def loss(kernel):
                    outputs, new = call(kernel, state)
                    return (outputs**2).sum(), new

                return jax.grad(loss, has_aux=True)(kernel)

            yield "Keras on JAX", name, sharing, run(jax.jit(call)), run(jax.jit(gradient)), jax.block_until_ready
        else:
            import torch

            def gradient(layer=layer, x=x):
                layer.kernel.value.grad = None
                (layer(x) ** 2).sum().backward()
                return layer.kernel.value.grad

            def forward(layer=layer, x=x):
                with torch.no_grad():
                    return layer(x)

            yield "Keras on torch", name, sharing, forward, gradient, _wait_torch


def _wait_torch(_):
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def torch_cases(batch: int, forms):
    import torch

    from torch_ref.layers import Conv2d, StochasticConv2d

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    small = torch.randn((batch, 3, 224, 224), generator=generator).to(device)
    large = torch.randint(0, 256, (batch, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8).to(device)
    large = large.contiguous(memory_format=torch.channels_last)  # as decoded images are
    layers = [("standard stem", "-", Conv2d(3, FILTERS, 3, stride=2), small)]
    for form in forms:
        for sharing in ("batch", "image"):
            layer = StochasticConv2d(
                3, FILTERS, 3, OUTPUT, 2, window_sharing=sharing, implementation=form, bias=False, rescale=1 / 255
            )
            layers.append((form, sharing, layer, large))
    for name, sharing, layer, x in layers:
        layer = layer.to(device)
        variants = [("torch eager", layer)]
        if name == "gather" or name == "standard stem":  # the forms without Python numbers drawn from tensors
            variants.append(("torch.compile", torch.compile(layer)))
        for framework, run in variants:

            def forward(run=run, x=x):
                with torch.no_grad():
                    return run(x)

            def gradient(run=run, x=x, layer=layer):
                layer.weight.grad = None
                (run(x) ** 2).sum().backward()
                return layer.weight.grad

            yield framework, name, sharing, forward, gradient, _wait_torch


def training_steps(repeat: int, batch: int = 8):
    """Whole training steps of the models at 224/1024 on the TensorFlow backend."""
    import keras

    import keras_stoch

    rng = np.random.default_rng(0)
    low = rng.uniform(0, 255, (batch, 224, 224, 3)).astype("float32")
    high = rng.integers(0, 256, (batch, SIZE, SIZE, 3)).astype("uint8")
    target = rng.integers(0, 2, (batch, 1)).astype("float32")
    steps = {}
    for name in ("b0", "b0-stem64", "stem-b0", "skip-b0", "split-b0"):
        model = keras_stoch.create_model(name)
        model.compile("rmsprop", keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False)
        inputs = {"low_res": low, "high_res": high} if "high_res" in str(model.input) else low
        steps[name] = lambda model=model, inputs=inputs: model.train_on_batch(inputs, target)
        steps[name]()
    # Round after round, so that a slow minute of the machine hits all of them.
    times = {name: [] for name in steps}
    for _ in range(repeat):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def machine() -> str:
    try:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    except ImportError:
        pass
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--step", action="store_true", help="also time whole training steps")
    parser.add_argument("--only-step", action="store_true", help="time whole training steps alone")
    parser.add_argument("--forms", nargs="+", help="names; default: all but naive, which takes seconds per call")
    parser.add_argument("--out", default="build/stochastic_conv.json")
    options = parser.parse_args()
    rows, skipped = [], []
    print(f"{machine()}\n")
    print("| framework | form | windows per | batch | first call s | forward ms | ratio | +grad ms | ratio | GB/s |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for batch in [] if options.only_step else options.batch:
        sources = []
        try:
            import keras

            from keras_stoch.stochastic import IMPLEMENTATIONS

            forms = options.forms or ["taps", "slices", "gather"]
            forms = [f for f in forms if f in IMPLEMENTATIONS]
            if keras.config.backend() != "tensorflow":
                forms = [f for f in forms if f != "taps"]
            sources.append(keras_cases(batch, forms))
        except ImportError as error:
            skipped.append(str(error))
        try:
            from torch_ref.stochastic import IMPLEMENTATIONS

            forms = options.forms or ["slices", "slices_copied", "gather"]
            sources.append(torch_cases(batch, [f for f in forms if f in IMPLEMENTATIONS]))
        except ImportError as error:
            skipped.append(str(error))
        standard = None
        for source in sources:
            for framework, form, sharing, forward, gradient, wait in source:
                try:
                    jit = framework == "Keras jit" and form != "standard stem"
                    slow = (jit or form in ("naive", "gather")) and not _gpu()
                    repeat = 3 if slow else options.repeat
                    first, ahead = measure(forward, wait, repeat)
                    first_gradient, both = measure(gradient, wait, repeat)
                except Exception as error:
                    skipped.append(f"{framework} {form} {sharing}: {type(error).__name__}: {str(error)[:120]}")
                    continue
                if standard is None:
                    standard = (ahead, both)  # the first row: the standard stem of the first framework
                rate = least_bytes(batch) / ahead / 1e9 if form != "standard stem" else None
                row = {
                    "framework": framework,
                    "form": form,
                    "sharing": sharing,
                    "batch": batch,
                    "first_s": max(first, first_gradient),
                    "forward_ms": ahead * 1e3,
                    "forward_ratio": ahead / standard[0],
                    "gradient_ms": both * 1e3,
                    "gradient_ratio": both / standard[1],
                    "least_bytes": least_bytes(batch),
                    "gb_per_s": rate,
                }
                rows.append(row)
                print(
                    f"| {framework} | {form} | {sharing} | {batch} | {row['first_s']:.1f} | {row['forward_ms']:.1f} "
                    f"| {row['forward_ratio']:.1f} | {row['gradient_ms']:.1f} | {row['gradient_ratio']:.1f} "
                    f"| {'-' if rate is None else f'{rate:.1f}'} |",
                    flush=True,
                )
    result = {"machine": machine(), "rows": rows, "skipped": skipped}
    if options.step or options.only_step:
        steps = training_steps(options.repeat)
        result["steps"] = steps
        print("\n| training step, batch 8, 224/1024 | ms | over b0 | over b0-stem64 |\n|---|---:|---:|---:|")
        for name, seconds in steps.items():
            print(
                f"| {name} | {seconds * 1e3:.0f} | {seconds / steps['b0']:.2f} | {seconds / steps['b0-stem64']:.2f} |"
            )
    for line in skipped:
        print(f"left out: {line}")
    os.makedirs(os.path.dirname(os.path.abspath(options.out)), exist_ok=True)
    with open(options.out, "w") as file:
        json.dump(result, file, indent=1)


def _gpu() -> bool:
    try:
        import torch

        return torch.cuda.is_available()
    except ImportError:
        return False


if __name__ == "__main__":
    main()
