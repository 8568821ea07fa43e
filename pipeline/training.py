"""Every network is trained here: weight averaging, divergence, curves, progress (around lightning.Trainer)."""

import gc
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Sampler

from pipeline import checkpoints, pieces, ranks, trainer
from pipeline.checkpoints import Checkpoints, State
from pipeline.data.loaders import Batches, Pairs
from pipeline.devices import device, precision, seed_everything, set_threads
from pipeline.errors import Diverged
from pipeline.params import Compute
from pipeline.processes import Report

log = logging.getLogger(__name__)


class Module(pl.LightningModule):
    """A network and how it is trained, as `fit` takes it."""

    network: Any  # what it has in `monitors`, numbers of its last batch by name, stands in the curve too
    micro_batches = 1  # pieces in which each batch is learnt from; losses are of the whole batch
    slowed = False  # whether training diverged, and went on at half the learning rate


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
        self.automatic_optimization = False
        self.network, self.steps, self.lr, self.betas, self.clip = network, steps, lr, betas, clip

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        players = self.network.players()
        self.names = list(players)
        return [
            torch.optim.AdamW([{"params": own, "max_lr": self.lr}], self.lr, self.betas, weight_decay=0.0, fused=True)
            for own in players.values()
        ]

    def training_step(self, batch: tuple[torch.Tensor, ...], step: int) -> torch.Tensor:
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
                self.manual_backward(loss)
                total = total + loss.detach()
            torch.nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], self.clip)
            optimiser.step()
        return ranks.mean(total)  # so that all ranks see it alike when it is no number


class _Watch(pl.Callback):
    """Keeps the loss curve, stops at a loss that is no number, and reports progress.

    Losses on another device than the CPU are only looked at where the curve has a point: each look waits for the device.
    """

    def __init__(self, steps: int, report: Report, points: int = 40) -> None:
        self.steps, self.every, self.report = steps, max(1, steps // points), report
        self.sum: Any = 0.0  # a tensor once there was a loss
        self.since, self.told = 0, 0
        self.curve: list[dict[str, Any]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        loss = (outputs["loss"] if isinstance(outputs, dict) else outputs).detach()
        self.sum, self.since = self.sum + loss, self.since + 1
        point = self.since == self.every or step + 1 == self.steps
        if (point or loss.is_cpu) and not torch.isfinite(self.sum):
            name, mean = type(module).__name__, float(self.sum) / self.since
            raise Diverged(f"the loss of {name} is {mean} by step {step + 1}; lower its learning rate (lr)")
        if point:
            mean = float(self.sum) / self.since
            more = {k: float(ranks.mean(v)) for k, v in getattr(module.network, "monitors", {}).items()}
            self.curve.append({"step": step + 1, "loss": mean} | more)
            self.told += self.since
            self.report(self.since, f"loss {mean:.3f}")
            self.sum, self.since = 0.0, 0

    def state(self) -> State:
        return {"sum": checkpoints.copied(self.sum), "since": self.since, "told": self.told, "curve": [*self.curve]}

    def restore(self, state: State) -> None:
        self.report(state["told"] - self.told, f"on from step {state['told'] + state['since']}")
        self.sum, self.since, self.told, self.curve = state["sum"], state["since"], state["told"], [*state["curve"]]


@dataclass(frozen=True)
class Snapshot:
    """Weights after so many steps, averaged with this decay; on the CPU."""

    step: int
    decay: float
    weights: dict[str, torch.Tensor]


class Averages(pl.Callback):
    """Exponential moving averages of a network's weights, one per decay (0: the weights themselves), kept at some steps.

    An average is short at first: after n steps its decay is (1 + n) / (10 + n) or, once that is larger, its own.
    """

    def __init__(self, decays: Sequence[float], at: Sequence[int]) -> None:
        self.decays, self.at = list(decays), set(at)
        self.kept: list[Snapshot] = []
        self.means: list[list[torch.Tensor]] = []

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        network: Any = module.network
        state = network.state_dict()  # shares memory with the weights that are trained
        self.live = {k: t for k, t in state.items() if t.is_floating_point()}
        self.counts = {k: t for k, t in state.items() if not t.is_floating_point()}
        self.means = [[t.clone() for t in self.live.values()] for _ in self.decays]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        for decay, mean in zip(self.decays, self.means, strict=True):
            torch._foreach_lerp_(mean, list(self.live.values()), 1 - min(decay, (1 + step) / (10 + step)))
            if step + 1 in self.at:
                weights = dict(zip(self.live, mean, strict=True)) | self.counts
                self.kept.append(Snapshot(step + 1, decay, {k: t.to("cpu", copy=True) for k, t in weights.items()}))

    def state(self) -> State:
        kept = [(s.step, s.decay, s.weights) for s in self.kept]  # nobody changes these any more
        return {"means": checkpoints.copied(self.means), "kept": kept}

    @torch.no_grad()
    def restore(self, state: State) -> None:
        self.kept = [Snapshot(*parts) for parts in state["kept"]]
        if self.means:  # there are none where all steps were taken before
            for mean, known in zip(self.means, state["means"], strict=True):
                torch._foreach_copy_(mean, known)


def by_channel(batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The batch with its images in memory channel by channel: bf16 convolutions of a CPU are then almost twice as fast."""
    images = batch[0].clone(memory_format=torch.contiguous_format)  # of one channel, contiguous() copies none
    return (images, *batch[1:])


class _Rest(Sampler[int]):
    """The steps from `begin` on; as long as all of them, for Lightning counts those before too."""

    def __init__(self, steps: int, begin: int) -> None:
        self.steps, self.begin = steps, begin

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.begin, self.steps))

    def __len__(self) -> int:
        return self.steps


def fit(
    module: Module,
    batches: Batches | Pairs,
    compute: Compute,
    seed: int,
    report: Report,
    averages: Averages | None = None,
    val: Iterable[Any] | None = None,
    val_points: int = 12,
    kept: Path | None = None,
) -> list[dict[str, Any]]:
    """Train `module` for all of `batches`, alone or as a rank; `averages` keeps averaged weights of its network on the way.

    Returns the curve: a dict per point with `step` and `loss`, and those that the module put into its own `curve`.
    Where the file `kept` holds a state of this training, it goes on from there, to the same end. At a loss that is no
    number it goes back to the last good state, once, and on at half the learning rate, which `module.slowed` then says.
    Raises Diverged at a second one. Out of memory it goes back likewise, and on with each batch in twice as many pieces,
    `module.micro_batches`, of one row at least; raises torch's OutOfMemoryError where one does not fit.
    """
    set_threads(compute)
    seed_everything(seed)
    where, exact, steps = device(compute), precision(compute, batches.side), len(batches)
    watch = _Watch(steps, report)
    parts = {"watch": watch} | ({"averages": averages} if averages is not None else {})
    state = Checkpoints(kept, _about(module, seed, steps, where, exact), steps, parts)
    if state.step == steps and state.start is not None:
        checkpoints.resume(module, state.start, parts)
    while state.step < steps:
        every = max(1, steps // val_points) if val is not None else None
        player = trainer.build(where, exact, [*parts.values(), state, trainer.Signals()], every)
        if state.micro_batches > module.micro_batches:
            gc.collect()  # what the failed step has left behind
            torch.cuda.empty_cache()
        module.micro_batches = state.micro_batches
        try:
            _play(player, module, batches, val, state.step)
            state.finish(module)
        except (Diverged, torch.OutOfMemoryError) as error:
            if not _goes_on(state, error, batches):
                raise
    module.eval()
    module.slowed, module.micro_batches = state.slowed, state.micro_batches
    return watch.curve + getattr(module, "curve", [])


def _about(module: Module, seed: int, steps: int, where: torch.device, exact: str) -> State:
    """What a state must have been taken under for a training to go on from it."""
    return {
        "of": type(module.network).__name__,
        "seed": seed,
        "steps": steps,
        "torch": torch.__version__,
        "ranks": ranks.here().world,
        "device": where.type,
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


@dataclass(frozen=True)
class _Slices:
    """This rank's rows of each batch, as `pieces.turns` expects them."""

    batches: Batches | Pairs
    here: ranks.Place

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> tuple[torch.Tensor, ...]:
        batch, here = self.batches[step], self.here
        assert len(batch[0]) % here.world == 0, (len(batch[0]), here)
        return tuple(part[here.rank :: here.world] for part in batch)


def _play(player: pl.Trainer, module: Module, batches: Batches | Pairs, val: Iterable[Any] | None, begin: int) -> None:
    """All steps from `begin` on."""
    where, exact = player.strategy.root_device.type, player.precision
    sampler = _Rest(len(batches), begin)
    if begin:
        checkpoints.start_at(player, begin)
    own: Any = batches if ranks.here().world == 1 else _Slices(batches, ranks.here())
    gather: Any = by_channel if (where, exact) == ("cpu", "bf16-mixed") else None
    loader: DataLoader[Any] = DataLoader(own, None, sampler=sampler, pin_memory=where == "cuda", collate_fn=gather)
    player.fit(module, loader, val)
