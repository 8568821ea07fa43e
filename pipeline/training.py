"""Every network is trained here: the steps of a training, its curve, progress, divergence, devices (by lightning.Trainer)."""

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from pipeline import checkpoints, pieces, ranks, trainer
from pipeline.averages import Averages
from pipeline.checkpoints import Checkpoints, State
from pipeline.data.loaders import Batches, Pairs
from pipeline.devices import device, precision, set_threads
from pipeline.errors import Diverged, out_of_memory
from pipeline.params import Compute
from pipeline.processes import Report

log = logging.getLogger(__name__)


Batch = tuple[torch.Tensor, ...]


class Module(pl.LightningModule):
    """A network and how it is trained, as `fit` takes it.

    To Lightning the whole training is a single batch, for what it does around each takes about a millisecond.
    """

    network: Any  # what it has in `monitors`, numbers of its last batch by name, stands in the curve too
    micro_batches = 1  # pieces in which each batch is learnt from; losses are of the whole batch
    slowed = False  # whether training diverged, and went on at half the learning rate
    all_steps: Callable[[], None]

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.curve: list[dict[str, Any]] = []  # points of its own

    def learn(self, batch: Batch, step: int) -> torch.Tensor:
        """Take one step; the loss, without a graph, the same on all ranks."""
        raise NotImplementedError

    def validate(self, batches: Sequence[Batch], steps: int) -> None:
        """Ask the network, which is in its mode for that, after so many steps."""
        raise NotImplementedError

    def exactly(self) -> torch.autocast:
        """For gradients and what is done with them: torch advises against half precision there, and is faster without."""
        return torch.autocast(self.device.type, enabled=False)

    def training_step(self, batch: Any, index: int) -> None:
        self.all_steps()


class Adversaries(Module):
    """Trains a network that states its own objective, with one AdamW per player; a plain network is a game of one.

    `network.players()` maps names to parameter lists; `network.losses(batch, progress)` yields (name, loss) in turn,
    each computed after the player before has moved; `progress` runs from 0 to 1. The learning rate rises over the
    first 5 % of the steps and falls to zero over the last 30 %.
    """

    def __init__(
        self, network: torch.nn.Module, steps: int, lr: float, betas: tuple[float, float], clip: float
    ) -> None:
        super().__init__()
        self.network, self.steps, self.lr, self.betas, self.clip = network, steps, lr, betas, clip

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        players = self.network.players()
        self.names = list(players)
        return [
            torch.optim.AdamW([{"params": own, "max_lr": self.lr}], self.lr, self.betas, weight_decay=0.0, fused=True)
            for own in players.values()
        ]

    def learn(self, batch: Batch, step: int) -> torch.Tensor:
        every: Any = self.optimizers()
        optimisers = dict(zip(self.names, every if isinstance(every, list) else [every], strict=True))
        progress = step / self.steps
        total: Any = 0.0
        here = ranks.here()
        for name, losses in pieces.turns(self.network, batch, progress, self.micro_batches, here.rank, here.world):
            optimiser = optimisers[name]
            for group in optimiser.param_groups:
                group["lr"] = group["max_lr"] * min(1.0, (step + 1) / (0.05 * self.steps), (1 - progress) / 0.3)
            optimiser.zero_grad()
            for loss in losses:
                with self.exactly():
                    self.manual_backward(loss)
                total = total + loss.detach()
            with self.exactly():
                torch.nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], self.clip)
                optimiser.step()
        return ranks.mean(total)  # so that all ranks see it alike when it is no number


class _Watch:
    """Keeps the loss curve, stops at a loss that is no number, and reports progress.

    Losses on another device than the CPU are only looked at where the curve has a point: each look waits for the device.
    """

    def __init__(self, steps: int, report: Report, points: int = 40) -> None:
        self.steps, self.every, self.report = steps, max(1, steps // points), report
        self.sum: Any = 0.0  # a tensor once there was a loss
        self.since = 0
        self.curve: list[dict[str, Any]] = []

    def after(self, module: Module, step: int, loss: torch.Tensor) -> None:
        self.sum, self.since = self.sum + loss, self.since + 1
        point = self.since == self.every or step + 1 == self.steps
        if (point or loss.is_cpu) and not torch.isfinite(self.sum):
            name, mean = type(module).__name__, float(self.sum) / self.since
            raise Diverged(f"the loss of {name} is {mean} by step {step + 1}; lower its learning rate (lr)")
        if point:
            mean = float(self.sum) / self.since
            more = {k: float(ranks.mean(v)) for k, v in getattr(module.network, "monitors", {}).items()}
            self.curve.append({"step": step + 1, "loss": mean} | more)
            self.report(self.since, f"loss {mean:.3f}")
            self.sum, self.since = 0.0, 0

    def state(self) -> State:
        return {"sum": checkpoints.copied(self.sum), "since": self.since, "curve": [*self.curve]}

    def restore(self, state: State) -> None:
        told, now = (curve[-1]["step"] if curve else 0 for curve in (state["curve"], self.curve))
        self.report(told - now, f"on from step {told + state['since']}")
        self.sum, self.since, self.curve = state["sum"], state["since"], [*state["curve"]]


def by_channel(batch: Batch) -> Batch:
    """The batch with its images in memory channel by channel: bf16 convolutions of a CPU are then almost twice as fast."""
    images = batch[0].clone(memory_format=torch.contiguous_format)  # of one channel, contiguous() copies none
    return (images, *batch[1:])


def fit(
    module: Module,
    batches: Batches | Pairs,
    compute: Compute,
    seed: int,
    report: Report,
    averages: Averages | None = None,
    val: Sequence[Batch] | None = None,
    val_points: int = 12,
    kept: Path | None = None,
) -> list[dict[str, Any]]:
    """Train `module` for all of `batches`, alone or as a rank; `averages` keeps averaged weights of its network on the way.

    Returns the curve: a dict per point with `step` and `loss`, and those that the module put into its own `curve`.
    Where the file `kept` holds a state of this training, it goes on from there, to the same end. At a loss that is no
    number it goes back to the last good state, once, and on at half the learning rate, which `module.slowed` then says.
    Raises Diverged at a second one. Out of memory it goes back likewise, and on with each batch in twice as many pieces,
    `module.micro_batches`, of one row at least; raises torch's error where one does not fit.
    """
    set_threads(compute)
    torch.manual_seed(seed)  # for dropout, which is handed no generator
    where, exact, steps = device(compute), precision(compute, batches.side), len(batches)
    watch = _Watch(steps, report)
    parts = {"watch": watch} | ({"averages": averages} if averages is not None else {})
    state = Checkpoints(kept, _about(module, seed, steps, where, exact), steps, parts)
    if state.step == steps and state.start is not None:
        checkpoints.resume(module, state.start, parts)
    while state.step < steps:
        if state.micro_batches > module.micro_batches:
            gc.collect()  # what the failed step has left behind
            torch.cuda.empty_cache()
        module.micro_batches = state.micro_batches
        loop = _Loop(module, batches, val, max(1, steps // val_points), watch, averages, state)
        module.all_steps = loop.play
        try:
            trainer.build(where, exact).fit(module, [0])
            state.finish(module)
        except (Diverged, RuntimeError) as error:
            known = isinstance(error, Diverged) or out_of_memory(error)
            if not known or not _goes_on(state, error, batches):
                raise
    module.eval()
    module.slowed, module.micro_batches = state.slowed, state.micro_batches
    return watch.curve + module.curve


@dataclass(frozen=True)
class _Loop:
    """All steps of a training from that of `state` on."""

    module: Module
    batches: Batches | Pairs
    val: Sequence[Batch] | None
    val_every: int
    watch: _Watch
    averages: Averages | None
    state: Checkpoints

    def play(self) -> None:
        module, where, here = self.module, self.module.device, ranks.here()
        regroup = where.type == "cpu" and module.trainer.precision == "bf16-mixed"
        val = [tuple(part.to(where) for part in batch) for batch in self.val or ()]
        if self.averages is not None:
            self.averages.begin(module.network)
        module.train()  # which it is not if validation ran out of memory
        for step in range(self.state.step, len(self.batches)):
            batch = _share(self.batches[step], here)
            self.state.before(module, step)
            loss = module.learn(_on(where, by_channel(batch) if regroup else batch), step)
            self.watch.after(module, step, loss)
            if self.averages is not None:
                self.averages.after(step)
            if val and (step + 1) % self.val_every == 0:
                module.eval()
                with torch.inference_mode():
                    module.validate(val, step + 1)
                module.train()


def _on(where: torch.device, batch: Batch) -> Batch:
    if where.type != "cuda":
        return tuple(part.to(where) for part in batch)
    return tuple(_pinned(part).to(where, non_blocking=True) for part in batch)


def _pinned(part: torch.Tensor) -> torch.Tensor:
    """In memory that a GPU copies from while the next batch is prepared; as it is where no more can be had, as under WSL2."""
    try:
        return part.pin_memory()
    except RuntimeError as error:
        log.debug("not pinned: %s", error)
        return part


def _share(batch: Batch, here: ranks.Place) -> Batch:
    """This rank's rows of a batch, as `pieces.turns` expects them."""
    assert len(batch[0]) % here.world == 0, (len(batch[0]), here)
    return batch if here.world == 1 else tuple(part[here.rank :: here.world] for part in batch)


def _about(module: Module, seed: int, steps: int, where: torch.device, exact: str) -> State:
    """What a state must have been taken under for a training to go on from it. Several ranks may have cards of several kinds."""
    named = where.type == "cuda" and ranks.here().world == 1
    return {
        "of": type(module.network).__name__,
        "seed": seed,
        "steps": steps,
        "torch": torch.__version__,
        "ranks": ranks.here().world,
        "device": torch.cuda.get_device_name(where) if named else where.type,
        "precision": exact,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _goes_on(state: Checkpoints, error: Exception, batches: Batches | Pairs) -> bool:
    """Whether there is a state to go back to, and something that can be done about the error from there on."""
    if isinstance(error, Diverged):
        able = state.go_back()
        how = f"once more from step {state.step}, at half of it"
    else:
        able = ranks.here().world == 1 and state.cut(len(batches[state.step][0]))  # other ranks would wait for this one
        how = f"on from step {state.step}, with {state.micro_batches} micro-batches a step"
    if able:
        log.warning("warning: %s; %s", error, how)
    return able
