"""Trains one classifier: AdamW, one-cycle learning rate, a recipe's loss; a fixed number of steps, last weights."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipeline import devices, training
from pipeline.classifier import recipes
from pipeline.classifier.model import Network, Settings
from pipeline.data.loaders import Batches
from pipeline.params import Compute, Recipe
from pipeline.pieces import in_pieces
from pipeline.samples import Samples, blocks, spaced, to_network


class OneCycle(training.Module):
    """Trains one network by AdamW, without decay of biases and norms, whose learning rate rises once and falls again."""

    settings: Settings

    def loss(self, batch: training.Batch, step: int) -> torch.Tensor:
        raise NotImplementedError

    def learn(self, batch: training.Batch, step: int) -> torch.Tensor:
        optimiser: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        loss = self.loss(batch, step)
        with self.exactly():
            optimiser.zero_grad()
            self.manual_backward(loss)
            optimiser.step()
            schedule.step()
        return loss.detach()

    def configure_optimizers(self) -> Any:  # as Lightning describes it
        s = self.settings
        decayed = [p for p in self.parameters() if p.ndim > 1]
        plain = [p for p in self.parameters() if p.ndim <= 1]
        optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": s.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=s.lr,
            fused=True,
        )
        rise = max(0.2, 2 / (s.steps + 1))  # at least one step: of four steps, a fifth has none, which divides by zero
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, s.lr, total_steps=s.steps + 1, pct_start=rise)
        return [optimiser], [schedule]


class Training(OneCycle):
    """Trains a classifier by the loss of a recipe."""

    def __init__(self, network: Network, settings: Settings, recipe: Recipe, batches: Batches) -> None:
        super().__init__()
        self.network, self.settings, self.recipe = network, settings, recipe
        self.seed, self.share = batches.seed, batches.mean_share

    def loss(self, batch: training.Batch, step: int) -> torch.Tensor:
        x, y, weight = batch
        rng, how = np.random.default_rng([self.seed, step, 1]), self.recipe.mix
        if how in ("mixup", "cutmix"):
            x, other, left = recipes.mixed(x, self.recipe, rng)
            logits = self.network.classify(in_pieces(self.network.features, x, self.micro_batches))
            return left * self.mean(logits, y, weight) + (1 - left) * self.mean(logits, y[other], weight[other])
        features = in_pieces(self.network.features, x, self.micro_batches)
        if how == "smote":
            features = recipes.between(features, y, rng)
        return self.mean(self.network.classify(features), y, weight)

    def mean(self, logits: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (recipes.losses(logits, y, self.recipe, self.share, self.settings.label_smoothing) * weight).mean()

    def validate(self, batches: Sequence[training.Batch], steps: int) -> None:
        logits = torch.cat([in_pieces(self.network, batch[0], self.micro_batches).float() for batch in batches])
        y = torch.cat([batch[1] for batch in batches])
        hit = (logits.argmax(1) == y).float()
        recall = torch.stack([hit[y == c].mean() for c in y.unique()])
        point = {"val_loss": float(F.cross_entropy(logits, y)), "val_balanced_accuracy": float(recall.mean())}
        self.curve.append({"step": steps} | point)


def train(
    batches: Batches,
    val: Samples,
    settings: Settings,
    recipe: Recipe,
    seed: int,
    compute: Compute,
    report: Callable[..., Any],
    kept: Path | None = None,
) -> tuple[Network, list[dict[str, Any]]]:
    """A trained network on the CPU and its curve. Initial weights depend on `seed` alone, not on rows or recipe.

    `kept`: the file for the state of an unfinished training, see training.fit.
    """
    devices.set_threads(compute)
    torch.manual_seed(seed)
    network = Network(settings)
    first = b"".join(v.numpy().tobytes() for v in network.state_dict().values())
    network.initial = hashlib.blake2b(first, digest_size=8).hexdigest()
    module = Training(network, settings, recipe, batches)
    curve = training.fit(module, batches, compute, seed, report, val=in_batches(holdout(val)), kept=kept)
    network = module.network.cpu()
    network.slowed, network.micro_batches = bool(module.slowed), int(module.micro_batches)
    recipes.adjust(network.head, recipe, batches.mean_share)
    return network, curve


def in_batches(val: Samples, batch: int = 256) -> list[training.Batch]:
    """Images float (B, C, H, W) in [-1, 1] and classes int64 (B,)."""
    return [(to_network(val.images[part]), torch.from_numpy(val.y[part])) for part in blocks(val, batch)]


def holdout(val: Samples, most: int = 2000) -> Samples:
    """At most `most` validation rows, evenly spaced over the classes, for the curve."""
    if len(val) <= most:
        return val
    order = np.argsort(val.y, kind="stable")
    return val.take(np.sort(order[spaced(len(order), most)]))
