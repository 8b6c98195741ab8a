"""A model of some kind behind one face: `adapt` finds the adapter of a Keras model or a torch module."""

from parity.adapters.base import Adapter
from parity.naming import Rules


def is_torch(model) -> bool:
    """Whether `model` is a torch module, asked without importing torch for a Keras model."""
    return any(f"{cls.__module__}.{cls.__name__}" == "torch.nn.modules.module.Module" for cls in type(model).__mro__)


def adapt(model, name: str | None = None, names: Rules = None, groups=()) -> Adapter:
    """Wraps a Keras model or a torch module; an `Adapter` is returned as it is.

    Raises:
        TypeError: if it is neither.
        ValueError: if a Keras model has no weights yet.
    """
    if isinstance(model, Adapter):
        return model
    if is_torch(model):
        from parity.adapters.torch import TorchAdapter

        return TorchAdapter(model, name, names, groups)
    import keras

    if isinstance(model, keras.Layer):
        if not model.built:
            raise ValueError(
                f"The Keras model {model.name!r} has no weights yet; call it once on an input of the right shape."
            )
        from parity.adapters.keras import KerasAdapter

        return KerasAdapter(model, name, None, groups)
    raise TypeError(f"Expected a Keras model or a torch.nn.Module. Received: {type(model).__name__}")
