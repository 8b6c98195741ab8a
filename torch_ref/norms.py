"""Batch normalisation that stores what Keras stores."""

import torch
from torch import nn
from torch.nn import functional as F


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm as in Keras: epsilon 1e-3, momentum 0.01 (Keras: 0.99), *biased* running variance.

    `nn.BatchNorm2d` normalises by the biased variance of the batch but stores the unbiased one.

    Attributes:
        synchronized: whether the processes of `torch.distributed` share their statistics in training, as
            `keras.layers.BatchNormalization(synchronized=True)` does; False by default. `nn.SyncBatchNorm` does not run
            on a CPU, and stores the unbiased variance too.
        frozen: whether training leaves the statistics as they are and normalises by them, as a Keras layer that is not
            trainable does; False by default.
    """

    def __init__(self, channels):
        super().__init__(channels, eps=1e-3, momentum=0.01)
        self.synchronized, self.frozen = False, False

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        if self.frozen:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        if self.synchronized:
            return self._forward_synchronized(x)
        # Into copies, since autograd keeps the tensors it was given.
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        out = F.batch_norm(x, mean, variance, self.weight, self.bias, True, self.momentum, self.eps)
        n = x.numel() // x.shape[1]
        with torch.no_grad():
            kept = self.running_var * (1 - self.momentum)
            self.running_mean.copy_(mean)
            self.running_var.copy_(kept + (variance - kept) * ((n - 1) / n))  # undo Bessel's correction
        return out

    def _forward_synchronized(self, x):
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        axes, shape = (0, 2, 3), (1, -1, 1, 1)
        # A process may have fewer images than another.
        count = values.new_full((1,), values.numel() // values.shape[1])
        sums = _AllReduce.apply(torch.cat([values.sum(axes), count]))
        mean, total = sums[:-1] / sums[-1], sums[-1]
        centred = values - mean.view(shape)
        variance = _AllReduce.apply(centred.square().sum(axes)) / total
        scale = (self.weight * torch.rsqrt(variance + self.eps)).view(shape)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        return (centred * scale + self.bias.view(shape)).to(x.dtype)


class _AllReduce(torch.autograd.Function):
    """The sum over all processes; what each process then makes of it counts in the gradient of all."""

    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        torch.distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous().clone()
        torch.distributed.all_reduce(gradient)
        return gradient
