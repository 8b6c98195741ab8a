"""torch's dropout functions silenced, wherever they are called."""


def nothing_dropped():
    """Context in which torch's dropout functions, called anywhere, return what they are given."""
    import torch
    from torch.nn import functional as F
    from torch.overrides import TorchFunctionMode

    names = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
    functions = {getattr(F, name) for name in names} | {torch.dropout, torch.dropout_}

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            if function in functions:
                return args[0] if args else kwargs["input"]
            if function is F.scaled_dot_product_attention:
                args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
                kwargs = {name: 0.0 if name == "dropout_p" else value for name, value in kwargs.items()}
            return function(*args, **kwargs)

    return Mode()
