"""How much of what this processor's convolutions reach is reached: counted operations over the time they take.

Imported by processes of benchmarks/rounds.py alone.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import loop, quality
from benchmarks.denoisers import BATCH, CHANNELS, CLASSES, SIDE, cpu, side, training

SHAPES = ((64, 16), (128, 16), (256, 8))  # channels and side of the convolutions that the limit is sought with
WORK = ("diffusion training", "diffusion sampling", "classifier training")


def convolutions(bf16: bool, seconds: float) -> float:
    """Floating-point operations per CPU second of the best of a few plain 3x3 convolutions of 32 pictures."""
    return max(_convolution(channels, size, bf16, seconds / len(SHAPES)) for channels, size in SHAPES)


@torch.inference_mode()
def _convolution(channels: int, size: int, bf16: bool, seconds: float) -> float:
    torch.set_num_threads(1)
    kind = torch.bfloat16 if bf16 else torch.float32
    x, w = torch.randn(BATCH, channels, size, size).to(kind), torch.randn(channels, channels, 3, 3).to(kind)
    flops, done, spent = 2 * 9 * channels**2 * size**2 * BATCH, 0, 0.0
    F.conv2d(x, w, padding=1)
    while spent < seconds:
        spent += cpu(lambda: F.conv2d(x, w, padding=1))
        done += 1
    return flops * done / spent


def work(name: str, bf16: bool, small: bool) -> Callable[[], object]:
    """One piece of it: a training step of 32 pictures, or a chunk of 64 rows drawn."""
    if name == "classifier training":
        return _classifier(bf16)
    if name == "diffusion sampling":
        return lambda: quality.draw("ours", 0, small)
    rng, model = np.random.default_rng(0), training("ours", bf16, not bf16, small)
    images, y = rng.integers(0, 256, (BATCH, SIDE, SIDE, CHANNELS), np.uint8), rng.integers(0, CLASSES, BATCH)
    return lambda: model.step(images, y)


@cache
def _classifier(bf16: bool) -> Callable[[], object]:
    s = loop.setting(20, "bf16-mixed" if bf16 else "32-true")
    return lambda: loop.by_hand(s, False)


@cache
def operations(name: str, bf16: bool, small: bool) -> int:
    """Multiplications and additions of convolutions and matrix products, forwards and backwards, of one piece of work."""
    side("ours", small)
    with FlopCounterMode(display=False) as counter:
        work(name, bf16, small)()
    return counter.get_total_flops()


def reached(name: str, bf16: bool, pieces: int, small: bool) -> float:
    """Floating-point operations per CPU second."""
    one = work(name, bf16, small)
    flops = operations(name, bf16, small)
    return flops * pieces / cpu(lambda: [one() for _ in range(pieces)])
