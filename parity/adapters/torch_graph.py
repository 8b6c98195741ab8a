"""The graph of a torch module's pass: every function that it called, with the line that called it."""

from dataclasses import dataclass

import numpy as np

from parity.adapters.source import calling_line
from parity.graph import Graph, Node
from parity.shelf import Shelf


@dataclass(frozen=True)
class Slot:
    """The place of an operation's input among its arguments."""

    place: int


def record(adapter, run) -> Graph:
    """Runs `run`, which calls the module and returns its outputs by name, and records what it did.

    Args:
        adapter: a `TorchAdapter`.
        run: a function of one that it is to be told the tensors of the model's inputs by.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    graph, values = Graph("torch"), Shelf()
    fixed = {id(t) for t in (*adapter.model.parameters(), *adapter.model.buffers())}
    numbers, alive, stack, moving = {}, [], [], set()
    kin = {}  # id of a tensor to whether it depends on the inputs, in whatever state it is

    def number(tensor, depends=None):
        key = (id(tensor), tensor._version)
        if key not in numbers:
            alive.append(tensor)
            numbers[key] = len(values)
            values[numbers[key]] = _array(tensor)
            if kin.setdefault(id(tensor), bool(depends)) if depends is None else depends:
                moving.add(numbers[key])
                kin[id(tensor)] = True
        return numbers[key]

    def note(function, args, kwargs, result, before):
        """`before`: id of each tensor that went in, to its number then and its version."""
        returned = list(_tensors(result))
        changed = [t for t in _tensors((args, kwargs)) if id(t) in before and t._version != before[id(t)][1]]
        changed = [t for t in changed if all(t is not made for made in returned)]
        if not returned and not changed:
            return
        given = list(dict.fromkeys(n for n, _ in before.values() if n in moving))
        made = [number(tensor, bool(given)) for tensor in (*returned, *changed)]
        if not given:  # computed of weights and constants alone
            return
        order = {n: place for place, n in enumerate(given)}
        slots = {key: order[n] for key, (n, _) in before.items() if n in order}
        places = [slots[id(t)] for t in changed if id(t) in slots]
        # Lists may grow later, as a DenseNet's list of features does; and what varies need not be kept.
        args, kwargs = (_map(part, lambda t: Slot(slots[id(t)]) if id(t) in slots else t) for part in (args, kwargs))

        def run(arrays):
            new = [adapter.native_tensor(array) for array in arrays]
            with torch.no_grad():
                out = function(*_map(args, swap(new)), **_map(kwargs, swap(new)))
            return [_array(t).copy() for t in (*_tensors(out), *(new[place] for place in places))]

        def swap(new):
            return lambda part: new[part.place] if isinstance(part, Slot) else part

        name = function.__self__ if getattr(function, "__name__", "") == "__get__" else function
        title = getattr(name, "__name__", str(name)).strip("_")
        graph.nodes.append(
            Node(stack[-1] if stack else "", title, calling_line("torch"), tuple(given), tuple(made), run)
        )

    class Recorder(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            free = [t for t in _tensors((args, kwargs)) if id(t) not in fixed]
            before = {id(t): (number(t), t._version) for t in free}
            result = function(*args, **kwargs)
            note(function, args, kwargs, result, before)
            return result

    def sources(*tensors):
        graph.nodes.clear()  # what made the inputs
        graph.sources = tuple(number(tensor) for tensor in tensors)
        moving.update(graph.sources)
        kin.update((id(tensor), True) for tensor in tensors)

    def leave(*_):
        stack.pop()

    handles = []
    try:
        for name, module in adapter.layers().items():
            handles += [
                module.register_forward_pre_hook(lambda *_, name=name: stack.append(name)),
                module.register_forward_hook(leave, always_call=True),
            ]
        with Recorder():
            outputs = run(sources)
    finally:
        for handle in handles:
            handle.remove()
    graph.outputs = {name: number(tensor) for name, tensor in outputs.items()}
    graph.keep(values)
    return graph


def _tensors(value):
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _map(value, function):
    import torch

    if isinstance(value, torch.Tensor | Slot):
        return function(value)
    if isinstance(value, dict):
        return {key: _map(part, function) for key, part in value.items()}
    if isinstance(value, list):
        return [_map(part, function) for part in value]
    if isinstance(value, tuple):
        parts = [_map(part, function) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def _array(tensor) -> np.ndarray:
    import torch

    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return tensor.to(torch.float32).cpu().numpy() if tensor.dtype == torch.bfloat16 else tensor.cpu().numpy()


def like(tensor, array: np.ndarray):
    """An array as a tensor of another's type, on its device."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(tensor)
