"""An encoder that never sees a label: two views of a picture are to be alike and unlike those of others (SimCLR).

Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020. Its features are those of the
network below the head; the projection is of no use once it is trained.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pipeline import devices, training
from pipeline.classifier.model import Network, Settings
from pipeline.classifier.train import OneCycle
from pipeline.data.loaders import Pairs
from pipeline.params import Compute
from pipeline.pieces import in_pieces
from pipeline.processes import Report


class Contrast(OneCycle):
    """Trains a network to tell pictures apart by the projections of their features."""

    def __init__(self, network: Network, settings: Settings, temperature: float) -> None:
        super().__init__()
        width = settings.widths[-1]
        self.network, self.settings, self.temperature = network, settings, temperature
        self.project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def loss(self, batch: training.Batch, step: int) -> torch.Tensor:
        features = in_pieces(self.network.features, batch[0], self.micro_batches)
        projected = self.project(features).float()
        with self.exactly():
            return contrast(projected, self.temperature)


def contrast(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent, eq. 1 of the paper: projections (2 B, D), where rows i and B + i show the same picture."""
    half, z = len(z) // 2, F.normalize(z, dim=1)
    like = z @ z.T / temperature
    like.fill_diagonal_(-torch.inf)
    return F.cross_entropy(like, torch.arange(2 * half, device=z.device).roll(half))


def train(
    pairs: Pairs, settings: Settings, temperature: float, compute: Compute, report: Report, kept: Path | None = None
) -> tuple[Network, list[dict[str, Any]]]:
    """A trained network on the CPU, whose head is of no use, and its curve. `kept`: see training.fit."""
    devices.set_threads(compute)
    torch.manual_seed(pairs.seed)
    module = Contrast(Network(settings), settings, temperature)
    curve = training.fit(module, pairs, compute, pairs.seed, report, kept=kept)
    network = module.network.cpu()
    network.slowed, network.micro_batches = bool(module.slowed), int(module.micro_batches)
    return network, curve
