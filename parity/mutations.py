"""Ports broken on purpose, as people really break them, which the ladder must catch where they were broken.

Each mutation takes a correct `torch_ref` model that already has the reference's weights and breaks it. It states
the lowest rung that must fail, and the layer that this rung must name. `court` judges them;
`python -m parity mutations` prints the table.
"""

import types
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from parity import study
from parity.checks import optimizer


@dataclass(frozen=True)
class Mutation:
    """A fault.

    Attributes:
        name: of the fault.
        rung: the lowest rung that must fail.
        layer: what that rung must name as the place.
        apply: breaks a model in place.
        model: the architecture to break.
        optimizer: a broken optimiser instead of a broken model.
        trainer: breaks a `lockstep.TorchTrainer` in place, instead of a model.
    """

    name: str
    rung: str
    layer: str
    apply: Callable[[nn.Module], None] | None = None
    model: str = "b0"
    optimizer: Callable | None = None
    trainer: Callable | None = None


MUTATIONS: list[Mutation] = []


def mutation(name: str, rung: str, layer: str, model: str = "b0"):
    """Registers a function that breaks a model."""

    def register(function):
        MUTATIONS.append(Mutation(name, rung, layer, function, model))
        return function

    return register


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


def _torch_rmsprop(parameters, learning_rate, rho, epsilon, momentum):
    return torch.optim.RMSprop(parameters, lr=learning_rate, alpha=rho, eps=epsilon, momentum=momentum)


def _wrong_rho(parameters, learning_rate, rho, epsilon, momentum):
    return optimizer.torch_rmsprop(parameters, learning_rate, 0.9, epsilon, momentum)


def _late_rate(parameters, learning_rate, rho, epsilon, momentum):
    """Momentum gathers raw steps; the rate is applied at the end, and one step late."""
    from torch_ref.training import RMSprop

    class Late(RMSprop):
        def step(self, closure=None):
            super().step(closure)
            for group in self.param_groups:
                group["lr"] = learning_rate * 1.0001

    return Late(parameters, lr=learning_rate, rho=rho, eps=epsilon, momentum=momentum)


MUTATIONS += [
    Mutation("RMSprop with epsilon outside the root (torch.optim)", "optimizer", "gradient scale 1e-09",
             optimizer=_torch_rmsprop),
    Mutation("RMSprop with torch's default decay for the paper's 0.99", "optimizer", "gradient scale 1e-09",
             optimizer=_wrong_rho),
    Mutation("a learning rate off by 1e-4 from the second step", "optimizer", "gradient scale 1e-09",
             optimizer=_late_rate),
]  # fmt: skip


def training_mutation(name: str, layer: str):
    """Registers a function that breaks a trainer: nothing that looks at a model alone can see it."""

    def register(function):
        MUTATIONS.append(Mutation(name, "lockstep", layer, trainer=function))
        return function

    return register


@training_mutation("learning-rate schedule off by one epoch", "step 7")
def _(trainer):
    rate = trainer.rate
    trainer.rate = lambda epoch: rate(max(0, epoch - 1))


@training_mutation("learning rate decayed by step, not by epoch", "step 2")
def _(trainer):
    step, done = trainer.step, []

    def by_step(inputs, targets, epoch, draws):
        done.append(None)
        return step(inputs, targets, len(done), draws)

    trainer.step = by_step


@training_mutation("images not shuffled", "step 1")
def _(trainer):
    trainer.batches.shuffle = False


@training_mutation("the same order in every epoch (set_epoch forgotten)", "step 6")
def _(trainer):
    order = trainer.order
    trainer.order = lambda epoch: order(0)


@training_mutation("gradients not cleared between steps", "step 3")
def _(trainer):
    trainer.optimizer.zero_grad = lambda set_to_none=True: None


@training_mutation("batch norm left in inference mode after the first validation", "step 6")
def _(trainer):
    step, model, train = trainer.step, trainer.subject.model, trainer.subject.model.train

    def after_validation(inputs, targets, epoch, draws):
        model.train = train if epoch == 0 else lambda mode=True: train(False)
        return step(inputs, targets, epoch, draws)

    trainer.step = after_validation


@training_mutation("drop connect missing", "step 1")
def _(trainer):
    step = trainer.step

    def kept(inputs, targets, epoch, draws):
        masks = {n: m if n == "top_dropout" else np.ones_like(m) for n, m in draws["drop_masks"].items()}
        for module in trainer.subject.model.modules():
            if getattr(module, "per_image", False):
                module.rate = 0.0
        return step(inputs, targets, epoch, draws | {"drop_masks": masks})

    trainer.step = kept


@training_mutation("dropout after the dense layer", "step 1")
def _(trainer):
    model = trainer.subject.model
    dropout, dense = model.top_dropout.forward, model.predictions.forward
    given = []

    def remember(x, drop_masks=None):
        given.append(drop_masks)
        return x

    def drop_after(x):
        masks = {name: mask[:, :1] for name, mask in given.pop().items() if name == "top_dropout"}
        return dropout(dense(x), masks)

    model.top_dropout.forward, model.predictions.forward = remember, drop_after


@training_mutation("weight decay of 1e-2", "step 2")
def _(trainer):
    step = trainer.optimizer.step

    def decayed(closure=None):
        for group in trainer.optimizer.param_groups:
            for w in group["params"]:
                w.grad.add_(w.detach(), alpha=1e-2)
        return step(closure)

    trainer.optimizer.step = decayed


# Faults that only independent runs show: the name that `study.train_package` knows each by, and how many whole runs and
# runs of the first steps it takes to see it.
RUNS = {
    "torch's default initialisers": (study.CONTROL, 2, 4),
    "a third of the targets wrong": (study.MISLABELLED, 6, 0),
    "validation images in BGR": (study.SWAPPED, 2, 0),
}
MUTATIONS.append(Mutation("torch's default initialisers", "statistics", "early_loss"))
MUTATIONS.append(Mutation("a third of the targets wrong", "statistics", "batch_loss"))
MUTATIONS.append(Mutation("validation images in BGR", "statistics", "final_auc"))
