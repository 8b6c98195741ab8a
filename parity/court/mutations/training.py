"""Faults of an optimiser, a trainer or a study: nothing that looks at a model alone can see them."""

import dataclasses

import numpy as np

from parity.court import study
from parity.court.mutations.registry import MUTATIONS, Later, Mutation, training_mutation
from parity.court.rungs import optimizer

torch = Later("torch")


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


def _torch_adamw(parameters, learning_rate, beta_1, beta_2, epsilon, weight_decay):
    betas = (beta_1, beta_2)
    return torch.optim.AdamW(parameters, learning_rate, betas, epsilon, weight_decay)


def _adam(parameters, learning_rate, beta_1, beta_2, epsilon, weight_decay):
    """Adam with L2 regularisation, as torch.optim.Adam's weight_decay is: part of the gradient."""
    from torch_ref.training import AdamW

    class Coupled(AdamW):
        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for w in group["params"]:
                    w.grad.add_(w, alpha=weight_decay)
            return super().step(closure)

    return Coupled(parameters, learning_rate, (beta_1, beta_2), epsilon, 0.0)


MUTATIONS += [
    Mutation("RMSprop with epsilon outside the root (torch.optim)", "optimizer", "gradient scale 1e-09",
             optimizer=_torch_rmsprop),
    Mutation("RMSprop with torch's default decay for the paper's 0.99", "optimizer", "gradient scale 1e-09",
             optimizer=_wrong_rho),
    Mutation("a learning rate off by 1e-4 from the second step", "optimizer", "gradient scale 1e-09",
             optimizer=_late_rate),
    Mutation("AdamW with epsilon after the correction of bias (torch.optim)", "optimizer", "gradient scale 1e-09",
             optimizer=_torch_adamw, settings="AdamW"),
    Mutation("weight decay as part of the gradient (Adam)", "optimizer", "gradient scale 1e-09",
             optimizer=_adam, settings="AdamW"),
]  # fmt: skip


@training_mutation("learning-rate schedule off by one epoch", "step 7")
def _(trainer):
    rate = trainer.inner.rate_of
    trainer.inner.rate_of = lambda epoch, batch: rate(max(0, epoch - 1), batch)


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
    step, model, train = trainer.step, trainer.adapter.model, trainer.adapter.model.train

    def after_validation(inputs, targets, epoch, draws):
        model.train = train if epoch == 0 else lambda mode=True: train(False)
        return step(inputs, targets, epoch, draws)

    trainer.step = after_validation


@training_mutation("drop connect missing", "step 1")
def _(trainer):
    step = trainer.step

    def kept(inputs, targets, epoch, draws):
        masks = {n: m if n == "top_dropout" else np.ones_like(m) for n, m in draws["drop_masks"].items()}
        for module in trainer.adapter.model.modules():
            if getattr(module, "per_image", False):
                module.rate = 0.0
        return step(inputs, targets, epoch, draws | {"drop_masks": masks})

    trainer.step = kept


@training_mutation("dropout after the dense layer", "step 1")
def _(trainer):
    model = trainer.adapter.model
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


@training_mutation("warm-up a step late", "step 3", "fine-tune")
def _(trainer):
    rate = trainer.inner.rate_of
    trainer.inner.rate_of = lambda epoch, batch: rate(epoch, max(0, batch - 1))


@training_mutation("cosine by epochs, not by steps", "step 2", "fine-tune")
def _(trainer):
    recipe = trainer.recipe
    trainer.inner.rate_of = lambda epoch, batch: recipe.rate(epoch)


@training_mutation("targets not smoothed", "step 1", "fine-tune")
def _(trainer):
    trainer.inner.recipe = dataclasses.replace(trainer.recipe, label_smoothing=0.0)


@training_mutation("malignant images weigh as benign ones", "step 1", "fine-tune")
def _(trainer):
    trainer.inner.recipe = dataclasses.replace(trainer.recipe, pos_weight=1.0)


@training_mutation("images as they are instead of a balanced draw", "step 1", "fine-tune")
def _(trainer):
    trainer.drawn = lambda epoch: np.arange(len(trainer.course.targets))


@training_mutation("weight decay of norms and biases too", "step 2", "fine-tune")
def _(trainer):
    for group in trainer.optimizer.param_groups:
        group["weight_decay"] = trainer.recipe.weight_decay


@training_mutation("batch norm of frozen blocks in training mode", "step 1", "fine-tune")
def _(trainer):
    for module in trainer.adapter.model.modules():
        module.frozen = False


@training_mutation("the first blocks not frozen", "step 2", "fine-tune")
def _(trainer):
    for parameter in trainer.adapter.model.parameters():
        parameter.requires_grad_(True)


@training_mutation("the optimiser of the first stage kept for the second", "step 7", "fine-tune")
def _(trainer):
    first = trainer.optimizer
    trainer.inner._make_optimizer = lambda thawed: first


@training_mutation("weights averaged over epochs, not over steps", "weights after step 10", "fine-tune")
def _(trainer):
    update = trainer.inner.averages.update

    def first_of_epoch():
        if trainer.taken % trainer.course.steps_per_epoch == 1:
            update()

    trainer.inner.averages.update = first_of_epoch


# Faults that only independent runs show: the name that `study.train_package` knows each by, and how many whole runs and
# runs of the first steps it takes to see it.
RUNS = {
    "torch's default initialisers": (study.CONTROL, 2, 4),
    "a third of the targets wrong": (study.MISLABELLED, 4, 0),
    "validation images in BGR": (study.SWAPPED, 3, 0),
}
MUTATIONS.append(Mutation("torch's default initialisers", "statistics", "early_loss"))
MUTATIONS.append(Mutation("a third of the targets wrong", "statistics", "batch_loss"))
MUTATIONS.append(Mutation("validation images in BGR", "statistics", "best_auc"))
