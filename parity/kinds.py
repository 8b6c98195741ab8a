"""The table of layer kinds: what each is called in both frameworks, its variables, and the settings that must agree.

Canonical names are `layer/variable` in Keras's words: the torch parameter `block2a.se_reduce.weight` and the Keras
variable `block2a_se_reduce/kernel` are both `block2a_se_reduce/kernel`. A layer of no known kind goes by its class.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

_KERNEL = {"weight": "kernel"}
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Attributes:
        name: of the kind.
        torch, keras: names of classes, those of the framework itself bare, others with their module
            ("mypackage.layers.MyConv"). A class that derives from one of them is of this kind too.
        variables: torch's name of a variable to the canonical one; others keep theirs.
        settings: name of a setting in Keras's words to two functions that tell it, of a torch module and of a Keras
            layer.
    """

    name: str
    torch: tuple[str, ...]
    keras: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=lambda: _KERNEL)
    settings: Mapping[str, tuple[Callable, Callable]] = field(default_factory=dict)


def _dimensions(pattern: str, dimensions="123") -> tuple[str, ...]:
    return tuple(pattern.format(n) for n in dimensions)


CONVOLUTION_SETTINGS = {
    "kernel_size": (lambda m: tuple(m.kernel_size), lambda k: tuple(k.kernel_size)),
    "strides": (lambda m: tuple(m.stride), lambda k: tuple(k.strides)),
    "use_bias": (lambda m: m.bias is not None, lambda k: k.use_bias),
}
_EPSILON = {"epsilon": (lambda m: m.eps, lambda k: k.epsilon)}
# torch's None is an average over all batches, which Keras has not.
_MOMENTUM = {"momentum": (lambda m: None if m.momentum is None else 1.0 - m.momentum, lambda k: k.momentum)}
# What acts at random in training only, by what it is called: no attribute tells (a pooling's exponent is called p too).
_DROPS = re.compile(r"(?i)drop|stochastic_?depth|noise|^random")
_RATES = ("rate", "p", "drop_prob", "drop_rate", "prob")

_TABLE: list[Kind] = [
    Kind("conv_transpose", _dimensions("ConvTranspose{}d"), _dimensions("Conv{}DTranspose"),
         settings=CONVOLUTION_SETTINGS),
    Kind("depthwise", (), _dimensions("DepthwiseConv{}D", "12"), settings=CONVOLUTION_SETTINGS),
    Kind("conv", _dimensions("Conv{}d"), _dimensions("Conv{}D"), settings=CONVOLUTION_SETTINGS),
    Kind("dense", ("Linear",), ("Dense", "EinsumDense")),
    Kind("batch_norm", (*_dimensions("BatchNorm{}d"), "SyncBatchNorm"), ("BatchNormalization",), _NORM,
         _EPSILON | _MOMENTUM),
    Kind("layer_norm", ("LayerNorm",), ("LayerNormalization",), _NORM, _EPSILON),
    Kind("rms_norm", ("RMSNorm",), ("RMSNormalization",), {"weight": "scale"}),
    Kind("group_norm", ("GroupNorm", *_dimensions("InstanceNorm{}d")), ("GroupNormalization",), _NORM, _EPSILON),
    Kind("embedding", ("Embedding",), ("Embedding",), {"weight": "embeddings"}),
    Kind("prelu", ("PReLU",), ("PReLU",), {"weight": "alpha"}),
    Kind("attention", ("MultiheadAttention",), ("MultiHeadAttention",), {},
         {"num_heads": (lambda m: m.num_heads, lambda k: k.num_heads)}),
    Kind("lstm", ("LSTM", "LSTMCell"), ("LSTM", "LSTMCell"), {}),
    Kind("gru", ("GRU", "GRUCell"), ("GRU", "GRUCell"), {}),
    Kind("rnn", ("RNN", "RNNCell"), ("SimpleRNN", "SimpleRNNCell"), {}),
]  # fmt: skip


def register_kind(kind: Kind) -> None:
    """Adds a row to the table, before all others; one of the same name and classes is replaced."""
    _TABLE[:] = [row for row in _TABLE if (row.name, row.torch, row.keras) != (kind.name, kind.torch, kind.keras)]
    _TABLE.insert(0, kind)
    _row_of_class.cache_clear()


def _row(thing, framework: str) -> Kind | None:
    row = _row_of_class(type(thing), framework)
    if row is None and framework == "torch" and {"running_mean", "running_var"} <= set(getattr(thing, "_buffers", ())):
        return next(row for row in _TABLE if row.name == "batch_norm")  # frozen, with a class of its own
    return row


@functools.cache
def _row_of_class(cls, framework) -> Kind | None:
    names = set()
    for base in cls.__mro__:
        own = base.__module__.partition(".")[0] == framework
        names |= {f"{base.__module__}.{base.__name__}", *([base.__name__] if own else [])}
    return next((row for row in _TABLE if any(name in getattr(row, framework) for name in names)), None)


def torch_kind(module) -> str:
    """The kind of a torch module: conv, depthwise, conv_transpose, dense, batch_norm, ... or its class name."""
    row = _row(module, "torch")
    if row is None:
        return type(module).__name__
    if row.name == "conv" and getattr(module, "groups", 1) == getattr(module, "in_channels", None) > 1:
        return "depthwise"
    return row.name


def keras_kind(layer) -> str:
    """The kind of a Keras layer, in the same words as `torch_kind`."""
    row = _row(layer, "keras")
    if row is None:
        return type(layer).__name__
    if row.name == "conv" and layer.built and getattr(layer, "groups", 1) > 1 and layer.kernel.shape[-2] == 1:
        return "depthwise"
    return row.name


def drops(layer) -> bool:
    """Whether a layer is one that drops or disturbs values at random in training, by the names of its classes."""
    return any(_DROPS.search(cls.__name__) for cls in type(layer).__mro__)


def canonical_variable(module, variable: str) -> str:
    """The canonical name of a parameter or buffer of a torch module."""
    row = _row(module, "torch")
    return (_KERNEL if row is None else row.variables).get(variable, variable)


def settings(layer, framework: str) -> dict:
    """What a layer says of itself, in Keras's conventions: epsilon, momentum, strides, a rate of dropout, ...

    Args:
        layer: a torch module or Keras layer.
        framework: "torch" or "keras".
    """
    row = _row(layer, framework)
    if row is not None:
        found = {}
        for name, told in row.settings.items():
            with contextlib.suppress(AttributeError):  # a class of somebody's own may lack some
                found[name] = told[framework == "keras"](layer)
        return found
    if not drops(layer):
        return {}
    rates = (getattr(layer, name, None) for name in _RATES)
    rate = next((rate for rate in rates if isinstance(rate, int | float)), None)
    dropped = _dropped(layer, framework)
    return ({} if rate is None else {"rate": rate}) | ({"drops": dropped} if dropped and rate else {})


def _dropped(layer, framework: str) -> str:
    """What a layer drops at once, as far as its class tells; "" if it does not."""
    names = [cls.__name__ for cls in type(layer).__mro__]
    own = type(layer).__module__.partition(".")[0] == framework
    shape = getattr(layer, "noise_shape", None)
    if isinstance(shape, tuple | list) and "Dropout" in names:
        kept = [axis for axis, size in enumerate(shape) if size != 1]
        return {(0,): "whole examples", (0, len(shape) - 1): "whole channels"}.get(tuple(kept), f"shape {tuple(shape)}")
    if own and re.fullmatch(r"SpatialDropout\dD|Dropout\dd", names[0]):
        return "whole channels"
    if own and names[0] == "Dropout":
        return "single numbers"
    # torchvision's may drop whole batches, which it tells.
    paths = re.search(r"(?i)drop_?path|stochastic_?depth|drop_?connect", names[0])
    return "whole examples" if paths and getattr(layer, "mode", "row") == "row" else ""


def as_float32(values) -> tuple[float, ...]:
    """Numbers as float32 holds them, for settings that a framework keeps in that type."""
    return tuple(np.float32(np.atleast_1d(values)).tolist())
