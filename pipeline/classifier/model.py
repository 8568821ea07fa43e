"""The classifier network and the automatic choice of its size: a small pre-activation ResNet with group normalisation.

Residual blocks: He et al., Identity Mappings in Deep Residual Networks, 2016. Group normalisation (Wu and He, 2018)
keeps no batch statistics, so synthetic rows in a batch cannot shift how real rows are normalised.
"""

import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import nn

from pipeline.params import Classifier


class Settings(BaseModel):
    """What `auto` came to: everything needed to build the network and to train it."""

    size: int
    channels: int
    classes: int
    widths: tuple[int, ...]
    depth: int
    fold: int
    batch: int
    steps: int
    lr: float
    weight_decay: float
    dropout: float
    label_smoothing: float


def settings(block: Classifier, shape: tuple[int, int, int], classes: int, rows: int) -> Settings:
    """The block with each `auto` replaced by its rule, which params.yaml states beside the key."""
    size, _, channels = shape
    widths = ([32, 64] if size <= 32 else [32, 64, 128]) if block.widths == "auto" else block.widths
    batch = (32 if rows <= 5000 else 64 if rows <= 20_000 else 128) if block.batch == "auto" else block.batch
    fold = (2 if size >= 24 else 1) if block.fold == "auto" else block.fold
    steps = min(20_000, 75 * size + rows // 4) if block.steps == "auto" else block.steps
    chosen = {"widths": tuple(widths), "fold": fold, "batch": batch, "steps": steps}
    return Settings(size=size, channels=channels, classes=classes, **(block.model_dump() | chosen))


class Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, inner), nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.GroupNorm(8, outer), nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.skip = nn.Conv2d(inner, outer, 1, stride, bias=False) if (inner, stride) != (outer, 1) else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.norm1(x))
        skip = x if self.skip is None else self.skip(h)
        h = self.conv1(h)
        return skip + self.conv2(F.relu(self.norm2(h)))


class Network(nn.Module):
    """Images (N, C, H, W) in [-1, 1] -> logits (N, K). A space-to-depth stem of fold 2 saves most of the cost."""

    slowed = False  # whether its training diverged and went on at half the learning rate
    initial = ""  # a hash of the weights that its training began with
    micro_batches = 1  # pieces that a batch of its training was cut into for want of memory

    def __init__(self, s: Settings) -> None:
        super().__init__()
        stem = nn.Conv2d(s.channels * s.fold**2, s.widths[0], 3, padding=1, bias=False)
        self.stem = nn.Sequential(nn.PixelUnshuffle(s.fold), stem)
        outer = [w for w in s.widths for _ in range(s.depth)]
        stride = [2 if i and i % s.depth == 0 else 1 for i in range(len(outer))]
        self.blocks = nn.Sequential(*map(Block, [s.widths[0], *outer], outer, stride))
        self.norm = nn.GroupNorm(8, s.widths[-1])
        self.drop = nn.Dropout(s.dropout)
        self.head = nn.Linear(s.widths[-1], s.classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, D): what the head sees."""
        if x.shape[-1] % 2 and self.stem[0].downscale_factor == 2:
            x = F.pad(x, (0, 1, 0, 1), mode="replicate")
        return F.relu(self.norm(self.blocks(self.stem(x)))).mean(dim=(2, 3))

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """(N, D) -> logits (N, K)."""
        return self.head(self.drop(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.features(x))
