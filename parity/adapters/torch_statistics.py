"""Moving variances of torch's batch norm as Keras would keep them."""

import contextlib

from parity.adapters.torch_variables import as_array


@contextlib.contextmanager
def biased_variances(layers: dict):
    """See `Adapter.biased_variances`; of layers by name. A batch norm keeps n values' variance times n / (n - 1)."""
    from torch.nn.modules.batchnorm import _BatchNorm

    told, handles = {}, []

    def follow(name, module):
        old = []

        def before(module, args):
            old.append(as_array(module.running_var).copy())

        def after(module, args, output):
            was, new, x = old.pop(), as_array(module.running_var), args[0]
            if not module.training:
                return
            part = 1 / int(module.num_batches_tracked) if module.momentum is None else module.momentum
            n = x.numel() // x.shape[1]
            seen = (new - (1 - part) * was) * ((n - 1) / n)
            told[name] = (1 - part) * told.get(name, was) + seen

        return module.register_forward_pre_hook(before), module.register_forward_hook(after)

    for layer, module in layers.items():
        if isinstance(module, _BatchNorm) and module.running_var is not None:
            handles += follow(f"{layer}/moving_variance", module)
    try:
        yield told
    finally:
        for handle in handles:
            handle.remove()
