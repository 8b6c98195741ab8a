"""The paper's training in PyTorch: its optimiser, schedule and loop. Sections 4.1.8 and 5.1.1.

    torchrun --nproc-per-node 2 -m torch_ref.training split-b0 PREPARED OUT

trains on several processes (DistributedDataParallel, nccl on GPUs, gloo on CPUs); without torchrun, on one.
"""

import contextlib
import csv
import hashlib
import json
import math
import os
import platform
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F

from torch_ref.data import make_loader

CURVES = ("epoch", "train_loss", "val_loss", "train_auc", "val_auc", "learning_rate", "seconds")
PRECISIONS = (None, "bfloat16", "float16")


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are the paper's. The same fields as in `keras_stoch`, see there.

    Attributes:
        mixed_precision: None, "bfloat16" or "float16" (autocast).
    """

    epochs: int = 60
    batch_size: int = 100
    learning_rate: float = 1e-3
    hold_epochs: int = 15
    decay: float = 0.9
    rho: float = 0.99
    momentum: float = 0.0
    epsilon: float = 1e-8
    dropout: float = 0.2
    drop_connect: float = 0.2
    low_res: int | None = None
    high_res: int | None = None
    augment: bool = True
    augment_validation: bool = False
    passes: int = 1
    window_sharing: str = "batch"
    mixed_precision: str | None = None
    sync_batch_norm: bool = True

    def __post_init__(self):
        for name in ("epochs", "batch_size", "passes"):
            self._check(name, _is_int(getattr(self, name)) and getattr(self, name) >= 1, "an integer of at least 1")
        self._check("hold_epochs", _is_int(self.hold_epochs) and self.hold_epochs >= 0, "an integer of at least 0")
        for name in ("learning_rate", "epsilon"):
            value = getattr(self, name)
            self._check(name, _is_number(value) and 0 < value < math.inf, "a positive number")
        self._check("decay", _is_number(self.decay) and 0 < self.decay <= 1, "a number in (0, 1]")
        for name in ("rho", "momentum", "dropout", "drop_connect"):
            value = getattr(self, name)
            self._check(name, _is_number(value) and 0 <= value < 1, "a number in [0, 1)")
        for name in ("augment", "augment_validation", "sync_batch_norm"):
            self._check(name, isinstance(getattr(self, name), bool), "True or False")
        for name in ("low_res", "high_res"):
            value = getattr(self, name)
            self._check(name, value is None or (_is_int(value) and value >= 32), "None or an integer of at least 32")
        self._check("window_sharing", self.window_sharing in ("batch", "image"), "'batch' or 'image'")
        self._check("mixed_precision", self.mixed_precision in PRECISIONS, f"one of {PRECISIONS}")

    def _check(self, name, good, expected):
        if not good:
            raise ValueError(f"{name} must be {expected}. Received: {name}={getattr(self, name)!r}")

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.learning_rate * self.decay ** max(0, epoch + 1 - self.hold_epochs)


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class RMSprop(torch.optim.Optimizer):
    """RMSprop with epsilon inside the square root, as in Keras.

        v <- rho v + (1 - rho) g^2
        m <- momentum m + lr g / sqrt(v + eps)
        w <- w - m

    `torch.optim.RMSprop` divides by `sqrt(v) + eps` instead. The two take the same steps while sqrt(v) is far above
    sqrt(eps), and very different ones below: for a constant gradient of 1e-6 and eps 1e-8, torch's first step is 909
    times as large (measured in tests/torch_ref/test_training.py).

    Args:
        params: iterable of parameters or parameter groups.
        lr: learning rate.
        rho: decay of the average of squared gradients (torch calls it alpha).
        momentum: decay of the accumulated steps; 0 for none.
        eps: added to the average before the root.

    Reference: section 5.1.1 of the paper: lr 1e-3, alpha 0.99, no momentum, no weight decay.
    """

    def __init__(self, params, lr=1e-3, rho=0.99, momentum=0.0, eps=1e-8):
        for name, value, valid in (
            ("lr", lr, lr >= 0),
            ("rho", rho, 0 <= rho < 1),
            ("momentum", momentum, 0 <= momentum < 1),
            ("eps", eps, eps > 0),
        ):
            if not valid:
                raise ValueError(f"{name} is out of range. Received: {name}={value!r}")
        super().__init__(params, {"lr": lr, "rho": rho, "momentum": momentum, "eps": eps})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                state = self.state[w]
                if not state:
                    state["velocity"] = torch.zeros_like(w)
                    if group["momentum"] > 0:
                        state["momentum"] = torch.zeros_like(w)
                v = state["velocity"]
                v.mul_(group["rho"]).addcmul_(w.grad, w.grad, value=1 - group["rho"])
                step = group["lr"] * w.grad * torch.rsqrt(v + group["eps"])
                if group["momentum"] > 0:
                    step = state["momentum"].mul_(group["momentum"]).add_(step)
                w.sub_(step)
        return loss


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> RMSprop:
    """The recipe's optimiser of all parameters."""
    return RMSprop(model.parameters(), recipe.learning_rate, recipe.rho, recipe.momentum, recipe.epsilon)


def train_step(
    model, optimizer, inputs: dict, targets: torch.Tensor, rate: float, draws=None, scaler=None, precision=None
):
    """One step of the optimiser on one batch.

    Args:
        model: from `create_model`, or anything that takes the same keywords.
        optimizer: `RMSprop`.
        inputs: dict of "low_res" and "high_res" tensors (batch, 3, side, side).
        targets: (batch,).
        rate: the learning rate.
        draws: dict of "windows" and "drop_masks" to use instead of draws.
        scaler: torch.amp.GradScaler, for float16.
        precision: None, or "bfloat16" or "float16" for a forward pass under autocast.

    Returns:
        The mean loss before the step, and the logits (batch, 1), both detached.
    """
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    with _autocast(precision, targets.device):
        logits = model(**inputs, **(draws or {}))
    if precision is not None:
        logits = logits.float()
    loss = F.binary_cross_entropy_with_logits(logits, targets.reshape(-1, 1).to(logits.dtype))
    if scaler is None:
        loss.backward()
        optimizer.step()
    else:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return loss.detach(), logits.detach()


def fit(
    model: str, data, out, *, runs: int = 1, seed: int = 0, device=None, num_workers: int = 0, **recipe
) -> list[dict]:
    """Trains a model by name on a prepared folder, and writes the files that `keras_stoch.fit` writes.

    Under torchrun every process calls this; the first one writes. A run that has ended is not repeated; one that was
    interrupted begins anew.

    Args:
        model: name, see `create_model`.
        data: folder written by `keras-stoch prepare` or `lesions`.
        out: folder; run n goes to `run-n` below it.
        runs: number of runs, with the seeds `seed`, `seed + 1`, ...
        seed: of weights, order, augmentation, windows and dropout.
        device: "cpu", "cuda", ...; CUDA where there is one by default.
        num_workers: processes that read images.
        **recipe: fields of `Recipe`.

    Returns:
        A dict per run, as in result.json.

    Raises:
        ValueError: for unknown options or models, or a folder that is not prepared.
        FloatingPointError: if the loss is no number any more; the last epoch's weights are kept.
    """
    known = [field.name for field in fields(Recipe)]
    unknown = sorted(set(recipe) - set(known))
    if unknown:
        raise ValueError(f"Unknown options: {', '.join(unknown)}. A recipe has: {', '.join(known)}")
    recipe = Recipe(**recipe)
    for name, value, least in (("runs", runs, 1), ("seed", seed, 0)):
        if not _is_int(value) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}. Received: {value!r}")
    world, rank, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    device = torch.device(device or (f"cuda:{local}" if torch.cuda.is_available() else "cpu"))
    began = world > 1 and not torch.distributed.is_initialized()
    if began:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        return [
            _run(model, data, Path(out) / f"run-{n}", recipe, seed + n, device, num_workers, world, rank)
            for n in range(runs)
        ]
    finally:
        if began:
            torch.distributed.destroy_process_group()


_ENVIRONMENT = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))


def _run(name, data, path, recipe, seed, device, num_workers, world, rank) -> dict:
    from torch_ref.layers import BatchNorm2d
    from torch_ref.models import create_model

    # Weights come from the same seed in every process; what is drawn later must differ.
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + rank)
    sizes = {key: getattr(recipe, key) for key in ("low_res", "high_res") if getattr(recipe, key)}
    options = {"window_sharing": recipe.window_sharing, "generator": generator}
    net = create_model(name, **sizes, dropout=recipe.dropout, drop_connect=recipe.drop_connect, **options).to(device)
    model = net
    if world > 1:
        for module in net.modules():
            if isinstance(module, BatchNorm2d):
                module.synchronized = recipe.sync_batch_norm
        model = torch.nn.parallel.DistributedDataParallel(net, [device.index] if device.type == "cuda" else None)
    torch.manual_seed(seed * 1_000_003 + rank)
    optimizer = make_optimizer(net, recipe)
    scaler = torch.amp.GradScaler(device.type) if recipe.mixed_precision == "float16" else None
    low_res, high_res = _sizes(name, recipe)
    common = {"low_res": low_res, "high_res": high_res, "seed": seed, "num_workers": num_workers}
    train = make_loader(
        data, "train", recipe.batch_size, augment=recipe.augment, shuffle=True, drop_remainder=True,
        rank=rank, world=world, **common,
    )  # fmt: skip
    validation = make_loader(data, "validation", recipe.batch_size, augment=recipe.augment_validation, **common)
    for side, loader in (("train", train), ("validation", validation)):
        found = set(loader.dataset.targets.tolist())
        if found != {0.0, 1.0}:
            raise ValueError(f"Split {side!r} must have images of both targets, 0 and 1. Received: {sorted(found)}")
    if len(train.batch_sampler) == 0:
        raise ValueError(f"{len(train.dataset)} training images fill no batch of {recipe.batch_size}")
    manifest = hashlib.sha256((Path(data) / "manifest.csv").read_bytes()).hexdigest()[:16]
    config = {"model": name, "recipe": asdict(recipe), "data": manifest, "seed": seed}
    config |= {"processes": world, "device": device.type}
    if (path / "config.json").exists():
        before = json.loads((path / "config.json").read_text())
        if before != config:
            told = [f"{key}: {before.get(key)!r} there, {value!r} now" for key, value in config.items()]
            told = "; ".join(line for line, key in zip(told, config, strict=True) if before.get(key) != config[key])
            raise ValueError(f"{path} holds a run with other settings ({told}). Choose another folder, or delete it")
    if (path / "result.json").exists():
        return json.loads((path / "result.json").read_text())
    if rank == 0:
        path.mkdir(parents=True, exist_ok=True)
        _write(path / "config.json", json.dumps(config, indent=1) + "\n")
        versions = {"python": platform.python_version(), "torch": torch.__version__, "platform": platform.platform()}
        _write(path / "environment.json", json.dumps(versions, indent=1) + "\n")
    curves, batches, best = [], [], (-math.inf, -1)
    for epoch in range(recipe.epochs):
        start = time.monotonic()
        train.dataset.set_epoch(epoch)
        train.batch_sampler.set_epoch(epoch)
        losses, seen = [], []
        for step, (inputs, targets) in enumerate(train):
            inputs, targets = _to(inputs, device), targets.to(device)
            loss, logits = train_step(
                *(model, optimizer, inputs, targets, recipe.rate(epoch)),
                scaler=scaler,
                precision=recipe.mixed_precision,
            )
            if world > 1:
                torch.distributed.all_reduce(loss)
                loss = loss / world
                logits, targets = (_gathered(part, world) for part in (logits, targets))
            losses.append(float(loss))
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"The loss became {losses[-1]} in epoch {epoch}, batch {step}. {_kept(path, epoch)}"
                )
            seen.append((targets.cpu().numpy(), logits.float().cpu().numpy()[:, 0]))
            batches.append((epoch, step, losses[-1]))
        scores, targets = _predict(net, validation, recipe, device, epoch)
        loss = np.maximum(scores, 0) - scores * targets + np.log1p(np.exp(-np.abs(scores)))
        if not np.isfinite(loss).all():
            raise FloatingPointError(f"The validation loss became no number in epoch {epoch}. {_kept(path, epoch)}")
        train_targets, train_scores = (np.concatenate(part) for part in zip(*seen, strict=True))
        row = (
            epoch,
            float(np.mean(losses)),
            float(loss.mean()),
            _auc(train_targets, train_scores),
            _auc(targets, scores),
            recipe.rate(epoch),
            round(time.monotonic() - start, 2),
        )
        curves.append(row)
        if rank == 0:
            if row[4] > best[0]:
                best = (row[4], epoch)
                _save(net, path / "best.pt")
            _save(net, path / "last.pt")
            _table(path / "curves.csv", CURVES, curves)
            _table(path / "batches.csv", ("epoch", "batch", "loss"), batches)
    result = {
        "seed": seed,
        "epochs": recipe.epochs,
        "best_epoch": best[1],
        "best_val_auc": best[0],
        "final_val_auc": curves[-1][4],
        "final_val_loss": curves[-1][2],
        "seconds": round(sum(row[6] for row in curves), 1),
    }
    if rank == 0:
        _write(path / "result.json", json.dumps(result, indent=1) + "\n")
        lines = [json.loads(p.read_text()) | {"run": p.parent.name} for p in path.parent.glob("run-*/result.json")]
        lines.sort(key=lambda line: line["seed"])
        names = ("run", *result)
        _table(path.parent / "results.csv", names, [[line[key] for key in names] for line in lines])
    if world > 1:
        torch.distributed.barrier()
    return result


def _kept(path, epoch):
    return f"{path} keeps the weights of epoch {epoch - 1}" if epoch else "No epoch had ended, so no weights are kept"


def _gathered(part, world):
    """The parts of all processes, one after the other."""
    parts = [torch.empty_like(part) for _ in range(world)]
    torch.distributed.all_gather(parts, part.contiguous())
    return torch.cat(parts)


def _sizes(name, recipe):
    from torch_ref.architectures import get_architecture

    architecture = get_architecture(name)
    high_res = None if architecture.join is None else recipe.high_res or architecture.high_res
    return recipe.low_res or architecture.low_res, high_res


def _to(inputs, device):
    return {key: value.to(device, non_blocking=True) for key, value in inputs.items()}


def _autocast(precision, device):
    if precision is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


@torch.no_grad()
def _predict(net, loader, recipe, device, epoch):
    """Logits (of the mean probability over the passes) and targets of all images of a loader."""
    net.eval()
    loader.dataset.set_epoch(epoch)
    scores, targets = [], []
    for inputs, target in loader:
        inputs = _to(inputs, device)
        with _autocast(recipe.mixed_precision, device):
            logits = torch.stack([net(**inputs).double()[:, 0] for _ in range(recipe.passes)])
        # The logit of the mean probability, in a form that does not overflow.
        mean = torch.logsumexp(F.logsigmoid(logits), 0) - torch.logsumexp(F.logsigmoid(-logits), 0)
        scores.append((logits[0] if recipe.passes == 1 else mean).cpu().numpy())
        targets.append(target.numpy())
    return np.concatenate(scores), np.concatenate(targets)


def _auc(targets, scores) -> float:
    """The exact area under the ROC curve; NaN if there is one class only."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(targets, scores)) if len(np.unique(targets)) == 2 else math.nan


def _write(path: Path, text: str):
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def _table(path: Path, names, rows):
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)
    os.replace(partial, path)


def _save(net, path: Path):
    partial = path.with_name(f".{path.name}.partial")
    torch.save(net.state_dict(), partial)
    os.replace(partial, path)


def make_parser():
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m torch_ref.training", description="Train a model in PyTorch.", allow_abbrev=False
    )
    parser.add_argument("model")
    parser.add_argument("data", help="folder written by keras-stoch prepare or lesions")
    parser.add_argument("out")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    for field in fields(Recipe):
        name, kind = "--" + field.name.replace("_", "-"), type(field.default)
        if kind is bool:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            kind = {"low_res": int, "high_res": int}.get(field.name, str if field.default is None else kind)
            parser.add_argument(name, type=kind, default=field.default)
    return parser


def main():
    options = vars(make_parser().parse_args())
    for result in fit(options.pop("model"), options.pop("data"), options.pop("out"), **options):
        if os.environ.get("RANK", "0") == "0":
            print(result)


if __name__ == "__main__":
    main()
