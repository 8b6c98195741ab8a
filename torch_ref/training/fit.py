"""`fit`: the paper's training, on one device or several processes. Sections 4.1.7, 4.1.8 and 5.1.1.

    torchrun --nproc-per-node 2 -m torch_ref.training split-b0 PREPARED OUT

trains on several processes (DistributedDataParallel, nccl on GPUs, gloo on CPUs); without torchrun, on one. `sources`
gives the batches, `engine` takes the steps, `runs` keeps what comes of them; here is what happens when.
"""

import contextlib
import hashlib
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from torch_ref.architectures import get_architecture
from torch_ref.checkpoints import load_official_weights, read_official_weights
from torch_ref.files import of_this_machine
from torch_ref.models import create_model
from torch_ref.training.engine import validation_step
from torch_ref.training.freezing import places_until
from torch_ref.training.own import Own, split_own
from torch_ref.training.recipe import Recipe, is_int
from torch_ref.training.runs import RunFolder, Spectator
from torch_ref.training.sources import make_source
from torch_ref.training.stages import Trainer
from torch_ref.training.strategies import Strategy, get_strategy


def fit(
    model: str,
    data,
    out,
    *,
    recipe="paper",
    runs: int = 1,
    run: int | None = None,
    seed: int = 0,
    weights=None,
    loss=None,
    device=None,
    num_workers: int = 0,
    progress=False,
    **fields,
) -> list[dict]:
    """Trains a model by name on a prepared folder, and writes the files that `keras_stoch.fit` writes.

    Under torchrun every process calls this; the first one writes. A run that has ended is not repeated; one that was
    interrupted begins anew.

    Args:
        model: name, see `create_model`.
        data: folder written by `keras-stoch prepare` or `lesions`.
        out: folder; run n goes to `run-n` below it.
        recipe: the name of one, "paper" or "fine-tune" (see `torch_ref.training.RECIPES`), or a `Recipe`.
        runs: number of runs, with the seeds `seed`, `seed + 1`, ...; in a folder with folds run n is validated on fold
            n and trained on the others.
        run: number of the one run to train, so that several machines share them; all of `runs` by default.
        seed: of weights, order, augmentation, windows and dropout.
        weights: official weights to start every run from, see `create_model`; what was loaded, and what was not, stands
            in config.json.
        loss: a function of (targets, logits), both (batch, 1), that gives losses per image or their mean; the recipe's
            cross-entropy by default, which validation tells in any case.
        device: "cpu", "cuda", ...; CUDA where there is one by default.
        num_workers: processes that read images.
        progress: say on stderr what is trained on what, with a line for each epoch.
        **fields: fields of `Recipe` that differ from the recipe's. `optimizer` may also be a function of the parameters
            that gives a torch.optim.Optimizer, which keeps its own learning rate; `learning_rate` a function of the
            step, counted from 0 over the whole run.

    Returns:
        A dict per run, as in result.json.

    Raises:
        ValueError: for unknown options or models, a folder that is not prepared, or one that another process trains in,
            or weights that do not fit.
        FloatingPointError: if the loss is no number any more; the last epoch's weights are kept.
    """
    recipe, own = split_own(fields, recipe, loss)
    if recipe.freeze is not None:
        places_until(get_architecture(model), recipe.freeze)
    if get_architecture(model).join is None:
        for name, unset in (("high_res", None), ("passes", 1)):
            if getattr(recipe, name) != unset:
                raise ValueError(f"{model!r} draws no windows. Received: {name}={getattr(recipe, name)}")
    for name, value, least in (("runs", runs, 1), ("seed", seed, 0)):
        if not is_int(value) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}. Received: {value!r}")
    if run is not None and (not is_int(run) or run < 0 or (runs > 1 and run >= runs)):
        raise ValueError(f"run must be an integer of at least 0, and less than runs where there are several: {run!r}")
    replaced = own.identity()
    official = None if weights is None else read_official_weights(weights)
    with get_strategy(device) as strategy:
        progress = progress and strategy.is_chief
        return [
            _run(
                *(model, data, out, number, recipe, own, replaced, seed + number),
                *(official, num_workers, strategy, progress),
            )
            for number in (range(runs) if run is None else [run])
        ]


def _model(name, recipe: Recipe, seed, official, strategy: Strategy):
    """The model by name, with weights of this seed or official ones, and what is recorded of the latter."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(_draws_seed(seed, strategy))
    sizes = {key: getattr(recipe, key) for key in ("low_res", "high_res") if getattr(recipe, key)}
    rates = {"dropout": recipe.dropout, "drop_connect": recipe.drop_connect}
    options = {"window_sharing": recipe.window_sharing, "generator": generator}
    if official is None:
        return create_model(name, **sizes, **rates, **options).to(strategy.device), {}
    model = create_model(name, **sizes, **rates, **options, imagenet_rescaling=official.imagenet_rescaling)
    report = load_official_weights(model, official)
    record = {
        "source": Path(official.source).name,
        "digest": _digest(official.tensors),
        "imagenet_rescaling": official.imagenet_rescaling,
        "loaded": len(report.loaded),
        "kept": sorted(report.kept),
        "unused": list(report.unused),
    }
    return model.to(strategy.device), {"weights": record}


def _digest(tensors: dict) -> str:
    """16 hexadecimal digits of what a file holds, whatever its format."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape} {tensors[name].dtype}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()[:16]


def _draws_seed(seed, strategy: Strategy) -> int:
    """The seed of what every process draws by itself."""
    return seed * 1_000_003 + strategy.rank


def _run(
    name, data, out, run, recipe, own: Own, replaced, seed, official, num_workers, strategy: Strategy, progress
) -> dict:
    """One run: what is known of it, and what comes of it."""
    path = of_this_machine(out) / f"run-{run}"
    net, began = _model(name, recipe, seed, official, strategy)
    source = make_source(name, data, recipe, seed, num_workers, strategy, run)
    config = {"model": name, "recipe": asdict(recipe), "data": source.identity, "seed": seed}
    config |= {"processes": strategy.world, "device": strategy.device.type} | began
    config |= {"own": replaced} if replaced else {}
    with contextlib.closing((RunFolder if strategy.is_chief else Spectator)(path, config)) as folder:
        ended = folder.ended()
        if progress:
            told = f"has ended: {ended['epochs']} epochs" if ended else f"on {source.told}"
            print(f"{name}, {path}, {told}", file=sys.stderr, flush=True)
        if ended is not None:
            return ended
        return _train(net, source, folder, recipe, own, get_architecture(name), seed, strategy, progress)


def _train(net, source, folder, recipe, own, architecture, seed, strategy: Strategy, progress) -> dict:
    """One run, from its beginning to its end."""
    path = folder.path
    trainer = Trainer(net, recipe, own, architecture, strategy, len(source.train))
    # Weights come from the same seed in every process; what is drawn from here on must differ.
    torch.manual_seed(_draws_seed(seed, strategy))
    device = strategy.device
    scaler = torch.amp.GradScaler(device.type) if recipe.mixed_precision == "float16" else None
    folder.begin()
    best, best_epoch, seconds = -math.inf, -1, 0.0
    epoch = 0
    while epoch < recipe.epochs and not recipe.stale(epoch, best_epoch):
        started = time.monotonic()
        source.begin_epoch(epoch)
        trainer.begin_epoch(epoch)
        seen = []
        for batch, (inputs, targets) in enumerate(source.train):
            inputs, targets = _to(inputs, device), targets.to(device)
            loss, logits = trainer.step(inputs, targets, epoch, batch, scaler)
            loss = float(strategy.mean(loss))
            logits, targets = strategy.gather(logits), strategy.gather(targets)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"The loss became {loss} in epoch {epoch}, batch {batch}. {_kept(path, epoch)}"
                )
            seen.append(([loss], logits.float().cpu().numpy()[:, 0], targets.cpu().numpy()))
            folder.add_batch(epoch, batch, loss)
        losses, logits, targets = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        with trainer.averaged():
            val_loss, val_auc = map(strategy.of_chief, _validate(net, source, recipe, device))
            if not math.isfinite(val_loss):
                raise FloatingPointError(f"The validation loss became no number in epoch {epoch}. {_kept(path, epoch)}")
            # One class only has no AUC; the first weights are then the best that are known.
            if val_auc > best or best_epoch < 0:
                best, best_epoch = max(best, val_auc), epoch
                folder.save_weights(net, "best")
            folder.save_weights(net, "last")
        spent = round(time.monotonic() - started, 2)
        seconds += spent
        row = {
            "epoch": epoch,
            "train_loss": float(losses.mean()),
            "val_loss": val_loss,
            "train_auc": _roc_auc(targets, logits),
            "val_auc": val_auc,
            "learning_rate": trainer.rate,
            "seconds": spent,
        }
        folder.add_epoch(row)
        if progress:
            print(_line(row, recipe.epochs), file=sys.stderr, flush=True)
        epoch += 1
    if progress and epoch < recipe.epochs:
        print(f"no better validation AUC in {recipe.patience} epochs, which ends training", file=sys.stderr, flush=True)
    result = {
        "seed": seed,
        "epochs": epoch,
        "best_epoch": best_epoch,
        "best_val_auc": best if math.isfinite(best) else math.nan,
        "final_val_auc": row["val_auc"],
        "final_val_loss": row["val_loss"],
        "seconds": round(seconds, 1),
    }
    folder.finish(result)
    strategy.wait()
    return result


def _validate(net, source, recipe: Recipe, device) -> tuple[float, float]:
    """(loss, ROC AUC) over the validation images."""
    net.eval()
    parts = [
        (validation_step(net, _to(inputs, device), recipe).cpu().numpy(), targets.numpy())
        for inputs, targets in source.validation
    ]
    scores, targets = (np.concatenate(part) for part in zip(*parts, strict=True))
    # The cross-entropy of a logit, in the form that does not overflow.
    loss = np.maximum(scores, 0) - scores * targets + np.log1p(np.exp(-np.abs(scores)))
    if not np.isfinite(loss).all():
        return math.nan, math.nan
    return float(loss.mean()), _roc_auc(targets, scores)


def _to(inputs, device):
    return {key: value.to(device, non_blocking=True) for key, value in inputs.items()}


def _line(row, epochs) -> str:
    """What the log says of an epoch; the time left is that of as many epochs as this one."""
    left = row["seconds"] * (epochs - row["epoch"] - 1)
    return (
        f"epoch {row['epoch'] + 1}/{epochs}: loss {row['train_loss']:.4f}, AUC {row['train_auc']:.4f}, validation loss "
        f"{row['val_loss']:.4f}, AUC {row['val_auc']:.4f}, rate {row['learning_rate']:.3g}, {row['seconds']:.1f} s, "
        f"{left / 60:.0f} min left"
    )


def _kept(path, epoch) -> str:
    """What a run that diverged leaves."""
    return f"{path} keeps the weights of epoch {epoch - 1}" if epoch else "No epoch had ended, so no weights are kept"


def _roc_auc(targets, scores) -> float:
    """The exact area under the ROC curve, by scikit-learn; NaN if there is one class only."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(targets, scores)) if len(np.unique(targets)) == 2 else math.nan
