"""The classifier network and the automatic choice of its size: a small pre-activation ResNet without normalisation layers.

Residual blocks: He et al., Identity Mappings in Deep Residual Networks, 2016. In place of activations, weights are
normalised, and what a block adds to the variance is divided out as it is at the start: Brock et al., Characterizing Signal
Propagation to Close the Performance Gap in Unnormalized ResNets, 2021. Batch statistics would let synthetic rows shift how
real ones are seen, and statistics of each picture, as of group normalisation, hide its colours and contrast.
"""

import math

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


GAIN = math.sqrt(2 / (1 - 1 / math.pi))  # of a ReLU, so that what has variance 1 keeps it


class Convolution(nn.Conv2d):
    """Each output channel's weights have mean 0 and variance gain**2 / fan-in, whatever they are learnt to be."""

    def __init__(self, inner: int, outer: int, side: int = 3, stride: int = 1) -> None:
        super().__init__(inner, outer, side, stride, side // 2, bias=False)
        self.gain, self.bias = nn.Parameter(torch.ones(outer)), nn.Parameter(torch.zeros(outer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.weight.flatten(1)
        flat = F.layer_norm(flat, flat.shape[1:], eps=1e-6) * (self.gain / math.sqrt(flat.shape[1]))[:, None]
        return self._conv_forward(x, flat.view_as(self.weight), self.bias)


def rectified(x: torch.Tensor, variance: float) -> torch.Tensor:
    """ReLU of an input with this variance: what comes out has variance 1."""
    return F.relu(x) * (GAIN / math.sqrt(variance))


class Block(nn.Module):
    """`variance`: of its input at the start of training; `outgoing`: of its output."""

    def __init__(self, inner: int, outer: int, stride: int, variance: float) -> None:
        super().__init__()
        self.conv1, self.conv2 = Convolution(inner, outer, stride=stride), Convolution(outer, outer)
        self.skip = Convolution(inner, outer, 1, stride) if (inner, stride) != (outer, 1) else None
        self.variance, self.outgoing = variance, 1.0 + (variance if self.skip is None else 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = rectified(x, self.variance)
        skip = x if self.skip is None else self.skip(h)
        return skip + self.conv2(rectified(self.conv1(h), 1.0))


class Network(nn.Module):
    """Images (N, C, H, W) in [-1, 1] -> logits (N, K). A space-to-depth stem of fold 2 saves most of the cost."""

    slowed = False  # whether its training diverged and went on at half the learning rate
    initial = ""  # a hash of the weights that its training began with
    micro_batches = 1  # pieces that a batch of its training was cut into for want of memory

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.PixelUnshuffle(s.fold), Convolution(s.channels * s.fold**2, s.widths[0]))
        self.blocks = nn.Sequential()
        inner, self.variance = s.widths[0], 1.0
        for level, outer in enumerate(s.widths):
            for place in range(s.depth):
                block = Block(inner, outer, 2 if level and not place else 1, self.variance)
                self.blocks.append(block)
                inner, self.variance = outer, block.outgoing
        self.drop = nn.Dropout(s.dropout)
        self.head = nn.Linear(s.widths[-1], s.classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, D): what the head sees."""
        if x.shape[-1] % 2 and self.stem[0].downscale_factor == 2:
            x = F.pad(x, (0, 1, 0, 1), mode="replicate")
        return rectified(self.blocks(self.stem(x)), self.variance).mean(dim=(2, 3))

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """(N, D) -> logits (N, K)."""
        return self.head(self.drop(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.features(x))
