"""Faults of a model: settings, weights, layers, windows, gradients."""

import types

from parity.court.mutations.registry import Later, mutation

torch, nn, F = Later("torch"), Later("torch.nn"), Later("torch.nn.functional")


def _each(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


def _patch(module, forward):
    """Replaces a module's forward by `forward(original, *args)`; hooks still see the module."""
    original = module.forward
    module.forward = lambda *args: forward(original, *args)


@mutation("batch-norm epsilon 1e-5", "configuration", "stem_bn")
def _(model):
    for bn in _each(model, nn.BatchNorm2d):
        bn.eps = 1e-5


@mutation("batch-norm momentum 0.99 by torch's convention", "configuration", "stem_bn")
def _(model):
    for bn in _each(model, nn.BatchNorm2d):
        bn.momentum = 0.99


@mutation("drop-connect rate by the unscaled block count", "configuration", "block1b_drop", model="b4")
def _(model):
    for module in model.modules():
        if getattr(module, "per_image", False):
            module.rate *= 32 / 16  # B4 has 32 blocks, the table before scaling has 16


@mutation("dropout 0.3 instead of 0.2", "configuration", "top_dropout")
def _(model):
    model.top_dropout.rate = 0.3


@mutation("squeeze-excite without bias", "configuration", "block2b_se_reduce")
def _(model):
    model.block2b.se_reduce.bias = None


@mutation("squeeze width from expanded channels", "structure", "block2a_se_reduce")
def _(model):
    from torch_ref.layers import Conv2d

    block = model.block2a
    channels = block.se_reduce.in_channels
    like = block.se_reduce.weight.dtype
    block.se_reduce = Conv2d(channels, channels // 4, bias=True, activation=F.silu).to(like)
    block.se_expand = Conv2d(channels // 4, channels, bias=True, activation=torch.sigmoid).to(like)


@mutation("repeated blocks share one module", "configuration", "block5c_drop")
def _(model):
    model.block5c = model.block5b


@mutation("depthwise 3x3 kernel with rows and columns swapped", "weights", "block1a_dwconv")
def _(model):
    model.block1a.dwconv.weight.data = model.block1a.dwconv.weight.data.transpose(2, 3).contiguous()


@mutation("stem kernel reshaped instead of transposed", "weights", "stem_conv")
def _(model):
    keras_layout = model.stem_conv.weight.data.permute(2, 3, 1, 0).contiguous()
    model.stem_conv.weight.data = keras_layout.reshape(model.stem_conv.weight.shape)


@mutation("kernels flipped, for a true convolution", "weights", "block3a_dwconv")
def _(model):
    model.block3a.dwconv.weight.data = model.block3a.dwconv.weight.data.flip(2, 3)


@mutation("gamma and beta loaded in the wrong order", "weights", "block4a_bn")
def _(model):
    bn = model.block4a.bn
    bn.weight.data, bn.bias.data = bn.bias.data, bn.weight.data


@mutation("moving averages not transferred", "weights", "stem_bn")
def _(model):
    for bn in _each(model, nn.BatchNorm2d):
        bn.reset_running_stats()


@mutation("symmetric stride-2 padding in the stem", "forward", "stem_conv")
def _(model):
    conv = model.stem_conv
    _patch(conv, lambda original, x: F.conv2d(x, conv.weight, None, 2, 1))


@mutation("symmetric stride-2 padding in one block", "forward", "block4a_dwconv")
def _(model):
    conv = model.block4a.dwconv
    _patch(conv, lambda original, x: F.conv2d(x, conv.weight, None, 2, 1, groups=conv.groups))


@mutation("missing top activation", "forward", "top_activation")
def _(model):
    _patch(model.top_activation, lambda original, x: x)


@mutation("activation after one block's output convolution", "forward", "block3b_project_bn")
def _(model):
    _patch(model.block3b.project_bn, lambda original, x: F.silu(original(x)))


@mutation("activation after a block, outside every module", "forward", "block4a")
def _(model):
    _patch(model.block4a, lambda original, x, masks: F.silu(original(x, masks)))


@mutation("input scaled twice", "forward", "rescaling")
def _(model):
    _patch(model.rescaling, lambda original, x: original(original(x)))


@mutation("normalised before it is rescaled", "forward", "rescaling")
def _(model):
    rescale = model.rescaling.forward
    model.rescaling.forward = lambda x: x
    _patch(model.normalization, lambda original, x: rescale(original(x)))


@mutation("average pool before the activation", "forward", "top_activation")
def _(model):
    _patch(model.top_activation, lambda original, x: x)
    _patch(model.avg_pool, lambda original, x: F.silu(original(x)))


@mutation("tanh-GELU for swish", "forward", "stem_activation")
def _(model):
    for activation in _each(model, nn.SiLU):
        _patch(activation, lambda original, x: F.gelu(x, approximate="tanh"))


@mutation("swish with a slope of 1.0001", "forward", "block6a_activation")
def _(model):
    _patch(model.block6a.activation, lambda original, x: x * torch.sigmoid(1.0001 * x))


@mutation("hard sigmoid in one squeeze-excite gate", "forward", "block1a_se_expand")
def _(model):
    model.block1a.se_expand.activation = F.hardsigmoid


@mutation("residual left out of one block", "forward", "block3b_add")
def _(model):
    _patch(model.block3b.add, lambda original, x, inputs: x)


@mutation("residual in a block whose channels happen to allow it", "forward", "block7a")
def _(model):
    _patch(model.block7a, lambda original, x, masks: original(x, masks) + F.pad(x, (0, 0, 0, 0, 0, 128)))


@mutation("global maximum for the average in squeeze-excite", "forward", "block5a_se_squeeze")
def _(model):
    _patch(model.block5a.se_squeeze, lambda original, x: x.amax((2, 3)))


@mutation("unbiased running variance", "batch_norm", "stem_bn")
def _(model):
    for bn in _each(model, nn.BatchNorm2d):
        bn.forward = types.MethodType(nn.BatchNorm2d.forward, bn)


@mutation("one batch norm frozen while training", "batch_norm", "block2a_bn")
def _(model):
    bn = model.block2a.bn
    _patch(
        bn,
        lambda original, x: F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0.0, bn.eps),
    )


@mutation("drop connect without dividing by the keep probability", "batch_norm", "block6d_drop")
def _(model):
    drop = model.block6d.drop
    _patch(drop, lambda original, x, masks: original(x, masks) * (1 - drop.rate if drop.training else 1))


@mutation("squeeze-excite gate cut from the gradient", "gradients", "block5a_se_expand")
def _(model):
    _patch(model.block5a.se_expand, lambda original, x: original(x).detach())


@mutation("a stop-gradient in the residual", "gradients", "block6c_project_bn")
def _(model):
    _patch(model.block6d.add, lambda original, x, inputs: original(x, inputs.detach()))


def _patch_windows(model, change):
    """Makes the stochastic stem use changed windows."""
    stem = model.detail.stem_conv
    original = stem.forward
    stem.forward = lambda images, windows=None: original(images, windows=change(windows))


@mutation("windows transposed, row for column", "forward", "detail_stem_conv", model="stem-b0")
def _(model):
    _patch_windows(model, lambda windows: windows.flip(-1))


@mutation("kernels permuted among windows", "forward", "detail_stem_conv", model="stem-b0")
def _(model):
    _patch_windows(model, lambda windows: windows.roll(1, -2))


@mutation("windows of the first image for the whole batch", "forward", "detail_stem_conv", model="stem-b0")
def _(model):
    _patch_windows(model, lambda windows: windows[:1].expand_as(windows))


@mutation("normalisation folded twice", "forward", "detail_stem_conv", model="stem-b0")
def _(model):
    stem = model.detail.stem_conv
    std = stem.variance.sqrt().view(1, -1, 1, 1)
    folded = stem.folded
    stem.folded = lambda: (folded()[0] / std, folded()[1])


@mutation("normalisation without its mean", "forward", "detail_stem_conv", model="stem-b0")
def _(model):
    stem = model.detail.stem_conv
    folded = stem.folded
    stem.folded = lambda: (folded()[0], None)


@mutation("window too large by one", "configuration", "detail_stem_conv", model="stem-b0")
def _(model):
    model.detail.stem_conv.window = tuple(n + 1 for n in model.detail.stem_conv.window)


def _patch_draw(model, change):
    """Makes the stochastic stem draw its windows in another way: change(image_size, window, filters, batch)."""
    stem = model.detail.stem_conv
    stem.draw_windows = lambda size, batch=None, device=None: change(size, stem.window, stem.filters, batch)


def _randint(size, window, shape, one_less=0):
    spans = [n - w + 1 - one_less for n, w in zip(size, window, strict=True)]
    return torch.stack([torch.randint(0, span, shape) for span in spans], -1)


@mutation("end of the range never drawn", "windows", "detail_stem_conv", model="stem-b0")
def _(model):
    _patch_draw(model, lambda size, window, filters, batch: _randint(size, window, (batch, filters), one_less=1))


@mutation("the same offset for row and column", "windows", "detail_stem_conv", model="stem-b0")
def _(model):
    def draw(size, window, filters, batch):
        unit = torch.rand(batch, filters, 1)
        spans = torch.tensor([n - w + 1 for n, w in zip(size, window, strict=True)])
        return (unit * spans).long()

    _patch_draw(model, draw)


@mutation("one window for all filters", "windows", "detail_stem_conv", model="stem-b0")
def _(model):
    def draw(size, window, filters, batch):
        return _randint(size, window, (batch, 1)).expand(batch, filters, 2)

    _patch_draw(model, draw)


@mutation("windows per image asked for, per batch drawn", "windows", "detail_stem_conv", model="stem-b0")
def _(model):
    def draw(size, window, filters, batch):
        return _randint(size, window, (1, filters)).expand(batch, filters, 2)

    _patch_draw(model, draw)
