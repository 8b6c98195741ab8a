"""The steps of a run in their order: rates, the stage that leaves the first blocks as they are, averaged weights."""

import contextlib

from torch_ref.training.engine import train_step
from torch_ref.training.freezing import places_until, set_frozen
from torch_ref.training.optimizer import Averages, make_optimizer
from torch_ref.training.own import Own
from torch_ref.training.recipe import Recipe
from torch_ref.training.strategies import Strategy


class Trainer:
    """Takes the steps of a recipe.

    Args:
        net: from `create_model`.
        recipe: `Recipe`.
        own: `Own`, what replaces parts of it.
        architecture: of the model; tells what `recipe.freeze` means.
        strategy: `Strategy`.
        steps: batches of an epoch.

    Attributes:
        model: the net as the strategy has it.
        optimizer: of the stage.
        averages: `Averages`, or None.
        rate: the learning rate of the last step.
    """

    def __init__(self, net, recipe: Recipe, own: Own, architecture, strategy: Strategy, steps: int):
        self.net, self.recipe, self.own, self.strategy, self.steps = net, recipe, own, strategy, steps
        self._first = None if recipe.freeze is None else places_until(architecture, recipe.freeze)
        self._frozen, self.rate = None, None
        self.averages = Averages(net, recipe.average) if recipe.average else None

    def begin_epoch(self, epoch: int):
        """Begins a stage where it is time, with a new optimiser."""
        frozen, before = self.recipe.frozen(epoch), self._frozen
        if frozen == before:
            return
        self._frozen, self.model = frozen, None
        if self._first is not None:
            set_frozen(self.net, self._first, frozen)
        # The processes exchange the gradients of what is trained now.
        self.model = self.strategy.distribute(self.net, self.recipe.sync_batch_norm)
        self.optimizer = self._make_optimizer(thawed=before is not None)
        if self.averages is not None and before is not None:
            self.averages.begin()

    def _make_optimizer(self, thawed: bool):
        if self.own.optimizer is None:
            return make_optimizer(self.net, self.recipe)
        optimizer = self.own.make_optimizer(list(self.net.parameters()))
        for group in optimizer.param_groups if thawed else ():
            group["lr"] *= self.recipe.thaw_factor
        return optimizer

    def rate_of(self, epoch: int, batch: int) -> float | None:
        """The rate of a step by recipe or schedule; None if an optimizer of one's own has its own."""
        if self.own.schedule is not None:
            return self.own.rate(epoch * self.steps + batch)
        return None if self.own.optimizer is not None else self.recipe.rate(epoch, batch, self.steps)

    def step(self, inputs: dict, targets, epoch: int, batch: int, scaler=None, draws=None):
        """One step of the optimiser: (loss before it, logits), see `train_step`."""
        rate = self.rate_of(epoch, batch)
        found = train_step(self.model, self.optimizer, inputs, targets, rate, draws, scaler, self.recipe, self.own.loss)
        self.rate = self.optimizer.param_groups[0]["lr"] if rate is None else rate
        if self.averages is not None:
            self.averages.update()
        return found

    @contextlib.contextmanager
    def averaged(self):
        """Context in which the net has the averaged weights, if the recipe asks for them."""
        if self.averages is not None:
            self.averages.swap()
        try:
            yield
        finally:
            if self.averages is not None:
                self.averages.swap()
