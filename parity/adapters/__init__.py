"""A model of some kind behind one face: `adapt` finds the adapter of a Keras model or a torch module."""

import os

from parity.adapters.base import Adapter
from parity.naming import Rules
from parity.tracefile import Reader, is_trace

# Class of a wrapper to the attribute that holds the module.
_WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


EXPECTED = "Expected a Keras model or a torch.nn.Module, or the path of a trace or of a deployed model"


def is_torch(model) -> bool:
    """Whether `model` is a torch module, asked without importing torch for a Keras model."""
    return any(f"{cls.__module__}.{cls.__name__}" == "torch.nn.modules.module.Module" for cls in type(model).__mro__)


def adapt(model, name: str | None = None, names: Rules = None, groups=()) -> Adapter:
    """Wraps a Keras model, a torch module, or the path of a trace or a deployed model; an `Adapter` stays as it is.

    What torch wraps around a module to run it elsewhere (DataParallel, torch.compile) is taken off.

    Raises:
        TypeError: if it is none of these.
        ValueError: if there is no such file, or it is of no known format; if a Keras model has no weights yet or does
            not run on TensorFlow, or a module is TorchScript.
    """
    if isinstance(model, Adapter):
        return model
    if isinstance(model, str | os.PathLike):
        if is_trace(model):
            from parity.adapters.recorded import RecordedAdapter

            return RecordedAdapter(Reader(model), "own", name, names)
        from parity.adapters.artefact import opened

        return opened(model)
    classes = {f"{cls.__module__}.{cls.__name__}" for cls in type(model).__mro__}
    if any(name.startswith("keras.") for name in classes):
        import keras

        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                "Keras models are compared on TensorFlow, whose float64 is exact; set KERAS_BACKEND=tensorflow. "
                f"Received: KERAS_BACKEND={keras.backend.backend()}"
            )
    elif is_torch(model):
        from parity.adapters.torch import TorchAdapter

        while type(model).__name__ in _WRAPPERS:
            model = getattr(model, _WRAPPERS[type(model).__name__])
        if "torch.jit._script.ScriptModule" in classes:
            raise ValueError(
                "A TorchScript module shows neither layers nor settings; give the module that it was made of. "
                f"Received: {type(model).__name__}"
            )
        return TorchAdapter(model, name, names, groups)
    elif not any("keras" in name for name in classes):
        raise TypeError(f"{EXPECTED}. Received: {type(model).__name__}")
    import keras

    if isinstance(model, keras.Layer):
        if not model.built:
            raise ValueError(
                f"The Keras model {model.name!r} has no weights yet; call it once on an input of the right shape."
            )
        from parity.adapters.keras import KerasAdapter

        return KerasAdapter(model, name, None, groups)
    raise TypeError(f"{EXPECTED}. Received: {type(model).__name__}")
