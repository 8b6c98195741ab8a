"""How fast the stochastic convolution is, as ratios to a standard stem in the same run.

    python benchmarks/stochastic_conv.py [--batch 8 32] [--repeat 15] [--forms NAME ...] [--step] [--cpu-seconds]

Forward, and forward with gradient of the kernel, of 1024x1024x3 uint8 -> 112x112x32, kernel 3x3, stride 2, by
implementation, framework and sharing of windows; and the standard stem, float32 224x224x3 -> 112x112x32. New windows
are drawn on every call. With --step, whole training steps of the models at 224/1024 and batch 8.

Keras runs on the backend that KERAS_BACKEND names (TensorFlow by default); what is not installed is left out. On a
GPU the same script measures torch and JAX there; TensorFlow it times call by call, with the way of outputs to the host.

The machine's roofs are measured first: bytes copied and multiply-adds a second, by NumPy on a CPU and by torch or JAX
on a GPU. "MB" are the bytes that must move whatever the form (the pixels that some window sees, once, and the output),
"roof" is the time that the binding roof asks for at least, as a share of the time measured. --cpu-seconds counts the
processor's seconds instead of those of the clock, for a machine that others use at the same time.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch wants some of a GPU's memory too

import numpy as np
from roofs import JAX, TensorFlow, Torch, has_gpu, measure, roofs

FILTERS, OUTPUT, SIZE = 32, 112, 1024
WINDOW = (OUTPUT - 1) * 2 + 3
PACKAGES = ["keras_stoch", "torch_ref"]
MODELS = ("b0", "b0-stem64", "stem-b0", "skip-b0", "split-b0")
OWN_NORM = "b0, batch norm of Keras's own"


def bound(batch: int, roof: dict[str, float], gradient: bool) -> float:
    """Seconds that the binding roof asks for at least; with the gradient everything is read and done once more."""
    passes = 2 if gradient else 1
    operations = 2 * 27 * batch * OUTPUT * OUTPUT * FILTERS
    return passes * max(least_bytes(batch) / roof["bytes_per_s"], operations / roof["flop_per_s"])


def expected_coverage() -> float:
    """The fraction of the image that 32 windows drawn uniformly see on average."""
    starts = SIZE - WINDOW + 1
    row = np.array([min(i, starts - 1) - max(0, i - WINDOW + 1) + 1 for i in range(SIZE)]) / starts
    return float(1 - ((1 - np.outer(row, row)) ** FILTERS).mean())


def least_bytes(batch: int) -> int:
    """Bytes that must move whatever the form: the pixels that some window sees, once, and the output."""
    return batch * int(expected_coverage() * SIZE * SIZE * 3 + OUTPUT * OUTPUT * FILTERS * 4)


def keras_cases(batch: int, forms):
    """Yields (framework, implementation, sharing, forward, with_gradient, device)."""
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
                if jit and name in ("naive", "slices", "blocks", "gather") and not has_gpu():
                    continue  # a CPU compiles them for minutes, or for every draw anew
                forward = tf.function(lambda layer=layer, x=x: layer(x), jit_compile=jit)
                yield framework, name, sharing, forward, tf.function(gradient, jit_compile=jit), TensorFlow()
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

            yield "Keras on JAX", name, sharing, run(jax.jit(call)), run(jax.jit(gradient)), JAX()
        else:
            import torch

            def gradient(layer=layer, x=x):
                layer.kernel.value.grad = None
                (layer(x) ** 2).sum().backward()
                return layer.kernel.value.grad

            def forward(layer=layer, x=x):
                with torch.no_grad():
                    return layer(x)

            yield "Keras on torch", name, sharing, forward, gradient, Torch()


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
        if name not in ("naive", "slices", "slices_copied"):  # these make Python numbers of drawn tensors
            torch._dynamo.reset()  # else the sixth layer counts as the eighth program of one
            variants.append(("torch.compile", torch.compile(layer)))
        for framework, run in variants:

            def forward(run=run, x=x):
                with torch.no_grad():
                    return run(x)

            def gradient(run=run, x=x, layer=layer):
                layer.weight.grad = None
                (run(x) ** 2).sum().backward()
                return layer.weight.grad

            yield framework, name, sharing, forward, gradient, Torch()


def training_steps(options, clock):
    """Whole training steps at 224/1024: Keras's models and torch_ref's B0, or all of torch_ref's without Keras.

    Round after round, so that a slow minute of the machine hits all of them. With `jit`, the models are compiled by
    XLA, and only the standard and the stochastic stem are compared.
    """
    rng, batch = np.random.default_rng(0), options.step_batch
    low = rng.uniform(0, 255, (batch, 224, 224, 3)).astype("float32")
    high = rng.integers(0, 256, (batch, SIZE, SIZE, 3)).astype("uint8")
    target = rng.integers(0, 2, (batch, 1)).astype("float32")
    steps = {}
    if "keras_stoch" in options.packages:
        steps = _keras_steps(low, high, target, options.jit)
    if "torch_ref" in options.packages and not options.jit:
        with contextlib.suppress(ImportError):
            for name in ("b0",) if steps else MODELS:
                steps[f"torch_ref {name}"] = _torch_step(name, low, high, target)
    times = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(options.repeat):
        for name, step in steps.items():
            start = clock()
            step()
            times[name].append(clock() - start)
    times = {name: statistics.median(seconds) for name, seconds in times.items()}
    busy = {}
    if any(name.startswith("torch_ref") for name in steps) and Torch().queued:
        busy = {name: Torch().busy(step) for name, step in steps.items() if name.startswith("torch_ref")}
    return times, busy


def _keras_steps(low, high, target, jit: bool) -> dict:
    import keras

    import keras_stoch

    steps = {}
    for name in ("b0-stem64", "stem-b0") if jit else ("b0", OWN_NORM, *MODELS[1:]):
        model = keras_stoch.create_model(name.partition(",")[0])
        if name == OWN_NORM:
            model = keras.models.clone_model(model, clone_function=_with_keras_norm)
        model.compile("rmsprop", keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=jit)
        inputs = {"low_res": low, "high_res": high} if "high_res" in str(model.input) else low
        steps[name] = lambda model=model, inputs=inputs: model.train_on_batch(inputs, target)
    return steps


def _with_keras_norm(layer):
    """A copy of a layer, batch norm as Keras has it and not by the fused kernel."""
    import keras

    norm = isinstance(layer, keras.layers.BatchNormalization)
    return (keras.layers.BatchNormalization if norm else type(layer)).from_config(layer.get_config())


def _torch_step(name, low, high, target):
    """A training step as torch_ref.training does it, channels_last and RMSprop; the batch lies on the device."""
    import torch

    import torch_ref
    from torch_ref.training.optimizer import RMSprop

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = torch_ref.create_model(name).train().to(device, memory_format=torch.channels_last)
    optimizer = RMSprop(model.parameters(), lr=1e-3)
    images = [low] if name in ("b0", "b0-stem64") else [low, high]
    images = [torch.from_numpy(image).permute(0, 3, 1, 2).to(device) for image in images]
    labels = torch.from_numpy(target).to(device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.binary_cross_entropy_with_logits(model(*images), labels).backward()
        optimizer.step()
        Torch().wait(None)

    return step


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


def sources_of(batch, options, skipped) -> list:
    """The generators of cases of the packages asked for; what is not installed is added to `skipped`."""
    sources = []
    try:
        if "keras_stoch" in options.packages:
            import keras

            from keras_stoch.stochastic import IMPLEMENTATIONS

            forms = options.forms or ["taps", "blocks", "slices", "gather", "indexed"]
            if keras.config.backend() != "tensorflow":
                forms = [f for f in forms if f != "taps"]
            sources.append(keras_cases(batch, [f for f in forms if f in IMPLEMENTATIONS]))
    except ImportError as error:
        skipped.append(str(error))
    try:
        if "torch_ref" in options.packages:
            from torch_ref.stochastic import IMPLEMENTATIONS

            forms = options.forms or ["slices", "slices_copied", "gather", "indexed", "triton"]
            if not has_gpu():
                forms = [f for f in forms if f != "triton"]
            sources.append(torch_cases(batch, [f for f in forms if f in IMPLEMENTATIONS]))
    except ImportError as error:
        skipped.append(str(error))
    return sources


def rows_of(batch, sources, options, roof, clock, skipped):
    """Yields the record of every case of a batch size; what fails is added to `skipped`."""
    standard = None
    for source in sources:
        for framework, form, sharing, forward, gradient, device in source:
            slow = form in ("naive", "gather", "indexed") and not has_gpu()
            repeat = 3 if slow else options.repeat
            try:
                first, ahead = measure(forward, device, repeat, clock)
                first_gradient, both = measure(gradient, device, repeat, clock)
            except Exception as error:
                skipped.append(f"{framework} {form} {sharing}: {type(error).__name__}: {str(error)[:120]}")
                continue
            if standard is None:
                standard = (ahead, both)  # the first row: the standard stem of the first framework
            stochastic = form != "standard stem"
            yield {
                "framework": framework,
                "form": form,
                "sharing": sharing,
                "batch": batch,
                "first_s": max(first, first_gradient),
                "forward_ms": ahead * 1e3,
                "forward_ratio": ahead / standard[0],
                "forward_roof": bound(batch, roof, False) / ahead if stochastic else None,
                "gradient_ms": both * 1e3,
                "gradient_ratio": both / standard[1],
                "gradient_roof": bound(batch, roof, True) / both if stochastic else None,
                "least_bytes": least_bytes(batch) if stochastic else None,
            }


def shown(row) -> str:
    """A record as a row of the table."""

    def share(value):
        return "-" if value is None else f"{value:.0%}"

    def milliseconds(value):
        return f"{value:.1f}" if value > 10 else f"{value:.3f}"

    moved = "-" if row["least_bytes"] is None else f"{row['least_bytes'] / 1e6:.0f}"
    return (
        f"| {row['framework']} | {row['form']} | {row['sharing']} | {row['batch']} | {row['first_s']:.1f} | {moved} "
        f"| {milliseconds(row['forward_ms'])} | {row['forward_ratio']:.1f} | {share(row['forward_roof'])} "
        f"| {milliseconds(row['gradient_ms'])} | {row['gradient_ratio']:.1f} | {share(row['gradient_roof'])} |"
    )


def show_steps(title, steps, options):
    """A table over the first, and over the standard stem that the paper compares the stochastic one with."""
    first, *others = steps
    over = [first, *[name for name in others if name.endswith("-stem64") or options.jit][:1]]
    print("\n| " + " | ".join([title, "ms", *(f"over {name}" for name in over)]) + " |")
    print("|---|---:|" + "---:|" * len(over))
    for name, seconds in steps.items():
        ratios = (f"{seconds / steps[other]:.2f}" for other in over)
        print("| " + " | ".join([name, f"{seconds * 1e3:.0f}", *ratios]) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--step", action="store_true", help="also time whole training steps")
    parser.add_argument("--only-step", action="store_true", help="time whole training steps alone")
    parser.add_argument("--jit", action="store_true", help="whole training steps compiled by XLA, which takes minutes")
    parser.add_argument("--step-batch", type=int, default=8, help="images of a whole training step")
    parser.add_argument("--cpu-seconds", action="store_true", help="count the processor's seconds, not the clock's")
    parser.add_argument("--forms", nargs="+", help="names; default: all but naive, which takes seconds per call")
    parser.add_argument("--packages", nargs="+", choices=PACKAGES, default=PACKAGES, help="default: both")
    parser.add_argument("--out", default="build/stochastic_conv.json")
    options = parser.parse_args()
    if options.cpu_seconds and has_gpu():
        parser.error("--cpu-seconds counts a processor's; a GPU is timed by its own clock")
    if options.jit and "keras_stoch" not in options.packages:
        parser.error("--jit is for keras_stoch, which --packages leaves out")
    clock = time.process_time if options.cpu_seconds else time.perf_counter
    rows, skipped, roof = [], [], roofs()
    gigabytes, gigaflop = roof["bytes_per_s"] / 1e9, roof["flop_per_s"] / 1e9
    print(f"{machine()}: copies {gigabytes:.1f} GB/s (read and written), {gigaflop:.0f} GFLOP/s")
    print(f"milliseconds are {'the processor' if options.cpu_seconds else 'the clock'}'s\n")
    if not options.only_step:
        names = ["framework", "form", "windows per", "batch", "first s", "MB"]
        names += ["forward ms", "ratio", "roof", "+grad ms", "ratio", "roof"]
        print(f"| {' | '.join(names)} |")
        print("|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for batch in [] if options.only_step else options.batch:
        sources = sources_of(batch, options, skipped)
        for row in rows_of(batch, sources, options, roof, clock, skipped):
            rows.append(row)
            print(shown(row), flush=True)
    result = {"machine": machine(), "roofs": roof, "rows": rows, "skipped": skipped}
    if options.step or options.only_step:
        result["steps"], busy = training_steps(options, clock)
        compiled = "compiled by XLA, " if options.jit else ""
        show_steps(f"training step, {compiled}batch {options.step_batch}, 224/1024", result["steps"], options)
        if busy:
            result["steps_busy"] = busy
            show_steps("its kernels on the GPU alone", busy, options)
    for line in skipped:
        print(f"left out: {line}")
    os.makedirs(os.path.dirname(os.path.abspath(options.out)), exist_ok=True)
    with open(options.out, "w") as file:
        json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
