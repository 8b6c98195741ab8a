"""The variables of a torch module as Keras would hold them: several to one, one to several, or made of others."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from parity import kinds, layout
from parity.shelf import Shelf


@dataclass(frozen=True)
class Variable:
    """One variable in Keras's words.

    Attributes:
        part: which part of the layer holds it, appended to the layer's name: "query" of an attention; "" for the layer.
        name: canonical name of the variable.
        kind: of the layer or part.
        native: its own name in torch, within the module; joined by " + " if it is made of several.
        tensors: what it is made of.
        value: its array in canonical layout.
        assign: sets it from such an array.
        parts: the arrays that are added, in canonical layout; None if it is no sum.
        gradient: from the gradients of `tensors`, as arrays, to its own; None where that is not known.
    """

    part: str
    name: str
    kind: str
    native: str
    tensors: tuple
    value: Callable[[], np.ndarray] = field(repr=False)
    assign: Callable[[np.ndarray], None] = field(repr=False)
    gradient: Callable | None = field(repr=False, default=None)
    parts: Callable | None = field(repr=False, default=None)

    @property
    def exact(self) -> bool:
        """Whether it is kept as it stands, and not computed of others."""
        return self.gradient is not None and len(self.tensors) == 1

    @property
    def trainable(self) -> bool:
        import torch

        return any(isinstance(tensor, torch.nn.Parameter) for tensor in self.tensors)


def as_array(tensor) -> np.ndarray:
    """A tensor of any type and device as an array; NumPy has no bfloat16."""
    import torch

    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.cpu().numpy()


@contextlib.contextmanager
def restored(tensors: list):
    """Context after which tensors hold the numbers that they held before."""
    import torch

    arrays, clones = Shelf(), {}
    for place, tensor in enumerate(tensors):
        try:
            arrays[place] = as_array(tensor)
        except (TypeError, RuntimeError):  # NumPy has no such type
            clones[place] = tensor.detach().clone()
    try:
        yield
    finally:
        with torch.no_grad():
            for place, tensor in enumerate(tensors):
                if place in clones:
                    tensor.copy_(clones[place])
                    continue
                old = arrays[place]
                if not np.array_equal(as_array(tensor), old):
                    tensor.copy_(torch.from_numpy(old))


def variables(module) -> list[Variable]:
    """What a module itself holds, not its parts; statistics of batches among them, counters not."""
    kind = kinds.torch_kind(module)
    if kind == "attention":
        return _attention(module)
    if kind in _RECURRENT:
        return _recurrent(module, kind)
    made, hidden = _reparametrised(module, kind)
    skip = module._non_persistent_buffers_set | {"num_batches_tracked"} | hidden
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    plain = [_plain(module, kind, name, tensor) for name, tensor in own if name not in skip]
    return made + plain


def claimed(module) -> set[int]:
    """Ids of parts of a module that are none of their own: what they hold is told with it."""
    found = set()
    if kinds.torch_kind(module) == "attention":
        found |= {id(part) for part in module.modules() if part is not module}
    if hasattr(module, "parametrizations"):
        found |= {id(part) for part in module.parametrizations.modules()}
    return found


def _plain(module, kind, name, tensor) -> Variable:
    short = kinds.canonical_variable(module, name)
    channels = getattr(module, "in_channels", 0)

    def canonical(array):
        return layout.torch_to_canonical(kind, short, array, channels)

    def assign(array):
        _set(tensor, layout.canonical_to_torch(kind, short, array))

    return Variable("", short, kind, name, (tensor,), lambda: canonical(as_array(tensor)), assign,
                    lambda found: canonical(found[0]))  # fmt: skip


def _set(tensor, array) -> None:
    import torch

    array = np.array(array, order="C").reshape(tuple(tensor.shape))
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(array))


def _reparametrised(module, kind) -> tuple[list[Variable], set[str]]:
    """(variables that a module computes of others: weight norm, spectral norm; names of those others)."""
    import torch

    channels, found, hidden = getattr(module, "in_channels", 0), [], set()

    def add(name, sources, effective, assign):
        short = kinds.canonical_variable(module, name)

        def value():
            with torch.no_grad():
                return layout.torch_to_canonical(kind, short, as_array(effective()), channels)

        def put(array):
            tensor = torch.from_numpy(np.array(layout.canonical_to_torch(kind, short, array), order="C"))
            with torch.no_grad():
                assign(tensor.reshape(effective().shape).to(effective().dtype))

        found.append(Variable("", short, kind, f"{name} (computed)", tuple(sources), value, put))

    for name, parts in getattr(module, "parametrizations", {}).items():
        add(name, parts.parameters(), lambda name=name: getattr(module, name),
            lambda tensor, name=name: setattr(module, name, tensor))  # fmt: skip
    for hook in module._forward_pre_hooks.values():  # torch.nn.utils.weight_norm, spectral_norm
        name, make = getattr(hook, "name", None), getattr(hook, "compute_weight", None)
        if not isinstance(name, str) or make is None:
            continue
        own = {part for part in (*module._parameters, *module._buffers) if part.startswith(f"{name}_")}
        hidden |= own
        spectral = f"{name}_orig" in own

        def effective(make=make, spectral=spectral):
            return make(module, False) if spectral else make(module)

        def assign(tensor, name=name, spectral=spectral, hook=hook):
            if spectral:
                getattr(module, f"{name}_orig").copy_(tensor)
            else:
                getattr(module, f"{name}_v").copy_(tensor)
                getattr(module, f"{name}_g").copy_(torch.norm_except_dim(tensor, 2, hook.dim))

        add(name, [module._parameters[part] for part in own if part in module._parameters], effective, assign)
    return found, hidden


def _attention(module) -> list[Variable]:
    """A MultiheadAttention as Keras holds it: query, key, value and attention_output, with the heads apart."""
    heads, found = module.num_heads, []
    fused = module.in_proj_weight
    width = module.embed_dim
    for place, part in enumerate(("query", "key", "value")):
        weight = fused if fused is not None else getattr(module, f"{part[0]}_proj_weight")
        rows = slice(place * width, (place + 1) * width) if fused is not None else slice(None)
        name = f"in_proj_weight[{part}]" if fused is not None else f"{part[0]}_proj_weight"
        found.append(_slice(part, "kernel", name, weight, rows, lambda a: a.T.reshape(a.shape[1], heads, -1),
                            lambda c: c.reshape(c.shape[0], -1).T))  # fmt: skip
        if module.in_proj_bias is not None:
            rows = slice(place * width, (place + 1) * width)
            found.append(_slice(part, "bias", f"in_proj_bias[{part}]", module.in_proj_bias, rows,
                                lambda a: a.reshape(heads, -1), lambda c: c.reshape(-1)))  # fmt: skip
    out = module.out_proj
    found.append(_slice("attention_output", "kernel", "out_proj.weight", out.weight, slice(None),
                        lambda a: a.T.reshape(heads, -1, a.shape[0]),
                        lambda c: c.reshape(-1, c.shape[-1]).T))  # fmt: skip
    if out.bias is not None:
        found.append(_slice("attention_output", "bias", "out_proj.bias", out.bias, slice(None), np.array, np.array))
    for name in ("bias_k", "bias_v"):
        if getattr(module, name) is not None:
            found.append(_plain(module, "attention", name, getattr(module, name)))
    return found


def _slice(part, name, native, tensor, rows, canonical, native_order, kind="dense") -> Variable:
    """Rows of a tensor, brought into canonical layout by one function and back by another."""

    def assign(array):
        whole = as_array(tensor).copy()
        whole[rows] = native_order(np.asarray(array)).reshape(whole[rows].shape)
        _set(tensor, whole)

    return Variable(part, name, kind, native, (tensor,), lambda: canonical(as_array(tensor)[rows]), assign,
                    lambda found: canonical(found[0][rows]))  # fmt: skip


# Kind to the places of Keras's gates among torch's: LSTM i, f, g, o in both; GRU z, r, h of r, z, n.
_RECURRENT = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2), "rnn": (0,)}


def _recurrent(module, kind) -> list[Variable]:
    """LSTM, GRU and RNN as Keras's cells hold them: transposed, gates in its order, biases added (GRU: stacked).

    Parts: "l0", "l1" for stacked layers, "forward" and "backward" for directions, as far as there are several.
    """
    gates = _RECURRENT[kind]
    back = tuple(np.argsort(gates))
    found = []

    def ordered(array, places):
        return np.concatenate([np.split(array, len(places))[place] for place in places])

    levels, both = getattr(module, "num_layers", 1), getattr(module, "bidirectional", False)
    cell = not hasattr(module, "num_layers")
    for level in range(levels):
        for suffix, direction in (("", "forward"), ("_reverse", "backward"))[: 1 + both]:
            end = "" if cell else f"_l{level}{suffix}"
            parts = ([f"l{level}"] if levels > 1 else []) + ([direction] if both else [])
            part = "_".join(parts)
            for short, native in (("kernel", f"weight_ih{end}"),
                                  ("recurrent_kernel", f"weight_hh{end}")):  # fmt: skip
                found.append(_slice(part, short, native, getattr(module, native), slice(None),
                                    lambda a: ordered(a, gates).T, lambda c: ordered(c.T, back), kind))  # fmt: skip
            if module.bias:
                names = [f"bias_{which}{end}" for which in ("ih", "hh")]
                tensors = tuple(getattr(module, name) for name in names)

                def value(tensors=tensors):
                    both = [ordered(as_array(tensor), gates) for tensor in tensors]
                    return np.stack(both) if kind == "gru" else both[0] + both[1]

                def assign(array, tensors=tensors):
                    both = list(array) if kind == "gru" else [array, np.zeros_like(array)]
                    for tensor, new in zip(tensors, both, strict=True):
                        _set(tensor, ordered(np.asarray(new), back))

                def gradient(given):
                    both = [ordered(array, gates) for array in given]
                    return np.stack(both) if kind == "gru" else both[0]

                def parts_of(tensors=tensors):
                    return [ordered(as_array(tensor), gates) for tensor in tensors]

                native = " + ".join(names)
                more = (value, assign, gradient, None if kind == "gru" else parts_of)
                found.append(Variable(part, "bias", kind, native, tensors, *more))
    return found
