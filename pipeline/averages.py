"""Averages of a network's weights in the course of its training, of which generators choose."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline import checkpoints
from pipeline.checkpoints import State


@dataclass(frozen=True)
class Snapshot:
    """Weights after so many steps, averaged with this decay; on the CPU."""

    step: int
    decay: float
    weights: dict[str, torch.Tensor]


class Averages:
    """Exponential moving averages of a network's weights, one per decay (0: the weights themselves), kept at some steps.

    An average is short at first: after n steps its decay is (1 + n) / (10 + n) or, once that is larger, its own.
    """

    def __init__(self, decays: Sequence[float], at: Sequence[int]) -> None:
        self.decays, self.at = list(decays), set(at)
        self.kept: list[Snapshot] = []
        self.means: list[list[torch.Tensor]] = []

    def begin(self, network: torch.nn.Module) -> None:
        state = network.state_dict()  # shares memory with the weights that are trained
        self.live = {k: t for k, t in state.items() if t.is_floating_point()}
        self.counts = {k: t for k, t in state.items() if not t.is_floating_point()}
        self.means = [[t.clone() for t in self.live.values()] for _ in self.decays]

    @torch.no_grad()
    def after(self, step: int) -> None:
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
