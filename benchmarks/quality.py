"""Sampling: diffusion models after an equal number of CPU seconds, and how far what they draw lies from unseen rows.

The rows are scikit-learn's digits, enlarged to 32x32, each in a colour of its own. Distances are Frechet distances in the
features of a small classifier trained here on the same training rows. Imported by processes of benchmarks/rounds.py alone.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.denoisers import BATCH, CLASSES, SIDE, Training, cpu, side
from pipeline import devices, params
from pipeline.classifier import predict
from pipeline.classifier.model import Network, Settings
from pipeline.evaluation.fidelity import frechet
from pipeline.samples import to_network

TRAIN = 1200  # rows that are learnt from; the others are the reference


class Digits(NamedTuple):
    images: np.ndarray
    y: np.ndarray
    held: np.ndarray
    held_y: np.ndarray


@cache
def digits() -> Digits:
    """uint8 (N, 32, 32, 3) and classes, of training and of held-out rows."""
    import cv2
    from sklearn.datasets import load_digits

    found, rng = load_digits(), np.random.default_rng(0)
    grey = [cv2.resize(i.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for i in found.images]
    colour = rng.uniform(0.5, 1, (len(grey), 1, 1, 3))
    images = np.round(np.clip(np.stack(grey)[..., None] / 16, 0, 1) * colour * 255).astype(np.uint8)
    order = rng.permutation(len(images))
    fit, held = order[:TRAIN], order[TRAIN:]
    return Digits(images[fit], found.target[fit], images[held], found.target[held])


@cache
def judge(steps: int) -> Network:
    """A small classifier of the training rows, whose features are the space that distances are measured in."""
    devices.set_threads(
        params.Compute(accelerator="cpu", precision="auto", processes=1, threads=1, devices=1, num_nodes=1)
    )
    torch.manual_seed(0)
    sizes = {"size": SIDE, "channels": 3, "classes": CLASSES, "widths": (16, 32), "depth": 1, "fold": 2}
    rates = {"lr": 0.003, "weight_decay": 0.05, "dropout": 0.0, "label_smoothing": 0.0}
    network, rows, rng = Network(Settings(**sizes, **rates, batch=64, steps=steps)), digits(), np.random.default_rng(0)
    optimiser = torch.optim.AdamW(network.parameters(), 0.003, weight_decay=0.05, fused=True)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.003 * (1 - step / steps)
        some = rng.integers(0, TRAIN, 64)
        loss = torch.nn.functional.cross_entropy(network(to_network(rows.images[some])), torch.from_numpy(rows.y[some]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


class Far(NamedTuple):
    """Frechet distance to held-out rows, the share of pictures that the judge takes for the class asked for, and their number."""

    frechet: float
    agreed: float
    rows: int


def distance(images: np.ndarray, y: np.ndarray, steps: int) -> Far:
    reference = predict.run(judge(steps), digits().held, torch.device("cpu"))[1]
    logits, features = predict.run(judge(steps), images, torch.device("cpu"))
    return Far(frechet(reference.astype(float), features.astype(float)), float((logits.argmax(1) == y).mean()), len(y))


def of_chunks(chunks: Sequence[tuple[np.ndarray, np.ndarray]], steps: int) -> Far:
    """Of all pictures of these chunks together."""
    images, y = (np.concatenate(part) for part in zip(*chunks, strict=True))
    return distance(images, y, steps)


def floor(rows: int, steps: int) -> Far:
    """Of so many training rows themselves: what a perfect model would reach."""
    return distance(digits().images[:rows], digits().y[:rows], steps)


def fit(name: str, seconds: float, bf16: bool, small: bool) -> int:
    """Trains for so many CPU seconds, and returns how many steps that were."""
    model, rows, rng, spent = Training(side(name, small), bf16, False), digits(), np.random.default_rng(1), 0.0

    def step() -> None:
        some = rng.integers(0, TRAIN, BATCH)
        model.step(rows.images[some], rows.y[some], min(spent / seconds, 0.999))

    while spent < seconds:
        spent += cpu(step)
    model.settle()
    return model.steps


def draw(name: str, start: int, small: bool) -> tuple[float, np.ndarray, np.ndarray]:
    """A chunk of pictures: CPU seconds, uint8 (N, H, W, C) and the classes asked for."""
    model = side(name, small)
    seeds = np.arange(start, start + model.chunk)
    labels, made = seeds % CLASSES, []
    seconds = cpu(lambda: made.append(model.sample(labels, seeds)))
    return seconds, made[0], labels
