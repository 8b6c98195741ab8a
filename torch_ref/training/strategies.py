"""The devices that a training runs on, as processes of torchrun, and which of them writes. Section 4.1.8."""

import contextlib
import os
from dataclasses import dataclass

import torch
import torch.distributed

from torch_ref.norms import BatchNorm2d


@dataclass(frozen=True)
class Strategy:
    """The processes of a training.

    Attributes:
        world: their number.
        rank: the number of this one.
        device: that this one computes on.
    """

    world: int
    rank: int
    device: torch.device

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def distribute(self, model, sync_batch_norm: bool):
        """The model to train, whose gradients are averaged over the processes."""
        if self.world == 1:
            return model
        for module in model.modules():
            if isinstance(module, BatchNorm2d):
                module.synchronized = sync_batch_norm
        devices = [self.device.index] if self.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(model, devices)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean over the processes."""
        if self.world == 1:
            return value
        torch.distributed.all_reduce(value)
        return value / self.world

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        """The parts of all processes, one after the other."""
        if self.world == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.world)]
        torch.distributed.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    def of_chief(self, value: float) -> float:
        """The number that the chief has."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(shared, 0)
        return float(shared)

    def wait(self):
        """Until all processes are here."""
        if self.world > 1:
            torch.distributed.barrier()


@contextlib.contextmanager
def get_strategy(device=None):
    """The `Strategy` that torchrun's environment asks for: one process without it.

    Args:
        device: "cpu", "cuda", ...; CUDA where there is one by default.
    """
    names = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))
    world, rank, local = (int(os.environ.get(name, default)) for name, default in names)
    device = torch.device(device or (f"cuda:{local}" if torch.cuda.is_available() else "cpu"))
    began = world > 1 and not torch.distributed.is_initialized()
    if began:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Strategy(world, rank, device)
    finally:
        if began:
            torch.distributed.destroy_process_group()
