"""The graph of a Keras model's pass: every operation that TensorFlow did eagerly, and the layer that asked for it."""

import contextlib

import numpy as np

from parity.adapters.keras_variables import in_place
from parity.adapters.source import calling_line
from parity.graph import Graph, Node
from parity.shelf import Shelf


def record(layers, calling, tensors, run) -> Graph:
    """Runs `run`, which calls the model and returns its outputs by name, and records what TensorFlow did.

    Args:
        layers: canonical name to layer.
        calling: context manager (layer, call) in which the layer's `call` is another function.
        tensors: the model's inputs, as they are given to it.
    """
    from tensorflow.python.framework import op_callbacks

    graph, values = Graph("keras"), Shelf()
    numbers, alive, stack = {}, [], []

    def number(tensor):
        key = id(tensor)
        if key not in numbers:
            alive.append(tensor)
            numbers[key] = len(values)
            values[numbers[key]] = _array(tensor)
        return numbers[key]

    graph.sources = tuple(number(tensor) for tensor in tensors)

    def note(op_type, inputs, attributes, outputs, op_name=None, graph=None, recorded=graph):
        if graph is not None:  # a function is being traced
            return None
        alive.extend(outputs)  # ids are names as long as the tensors live
        given = [n for n in dict.fromkeys(numbers.get(id(t)) for t in inputs) if n is not None]
        if not given or not outputs:
            return None
        title = op_type.decode() if isinstance(op_type, bytes) else op_type
        if title in ("Shape", "Rank", "Size", "ZerosLike", "OnesLike"):
            return None  # of the shape alone
        made = tuple(number(tensor) for tensor in outputs)
        order = {n: place for place, n in enumerate(given)}
        slots = [order.get(numbers.get(id(tensor))) for tensor in inputs]
        fixed = [tensor if slot is None else None for tensor, slot in zip(inputs, slots, strict=True)]
        types = [tensor.dtype for tensor in inputs]
        pairs = zip((attributes or ())[::2], (attributes or ())[1::2], strict=True)
        attributes = tuple(part for pair in pairs if pair[1] is not None for part in pair)  # None stands for a default

        def rerun(arrays):
            import tensorflow as tf
            from tensorflow.python.eager import context, execute

            new = [
                tf.constant(arrays[slot], types[place]) if slot is not None else fixed[place]
                for place, slot in enumerate(slots)
            ]
            return [_array(t) for t in execute.quick_execute(title, len(made), new, attributes, context.context())]

        recorded.nodes.append(
            Node(stack[-1] if stack else "", title, calling_line("tensorflow", "keras"), tuple(given), made, rerun)
        )
        return None

    def entered(name, call):
        def inside(*args, **kwargs):
            stack.append(name)
            try:
                return call(*args, **kwargs)
            finally:
                stack.pop()

        return inside

    with contextlib.ExitStack() as contexts:
        for name, layer in layers.items():
            if name:
                contexts.enter_context(calling(layer, entered(name, layer.call)))
        op_callbacks.add_op_callback(note)
        try:
            outputs = run()
        finally:
            op_callbacks.remove_op_callback(note)
    graph.outputs = {name: number(tensor) for name, tensor in outputs.items()}
    graph.keep(values)
    return graph


def _array(tensor) -> np.ndarray:
    array = in_place(tensor)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
