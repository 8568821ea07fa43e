"""Trains one classifier: AdamW, one-cycle learning rate, weighted cross-entropy; a fixed number of steps, last weights."""

from collections.abc import Callable

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from pipeline import devices, training
from pipeline.classifier.model import Network, Settings
from pipeline.data.loaders import Batches
from pipeline.params import Compute
from pipeline.samples import Samples, to_network


class Training(pl.LightningModule):
    def __init__(self, network: Network, settings: Settings) -> None:
        super().__init__()
        self.network, self.settings = network, settings
        self.curve: list[dict] = []
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def training_step(self, batch: tuple[torch.Tensor, ...], _: int) -> torch.Tensor:
        x, y, weight = batch
        loss = F.cross_entropy(self.network(x), y, reduction="none", label_smoothing=self.settings.label_smoothing)
        return (loss * weight).mean()

    def validation_step(self, batch: tuple[torch.Tensor, ...], _: int) -> None:
        self.seen.append((self.network(batch[0]).float(), batch[1]))

    def on_validation_epoch_end(self) -> None:
        logits, y = (torch.cat(part) for part in zip(*self.seen, strict=True))
        self.seen.clear()
        hit = (logits.argmax(1) == y).float()
        recall = [hit[y == c].mean() for c in y.unique()]
        self.curve.append(
            {
                "step": self.trainer.global_step,
                "val_loss": float(F.cross_entropy(logits, y)),
                "val_balanced_accuracy": float(torch.stack(recall).mean()),
            }
        )

    def configure_optimizers(self) -> dict:
        s = self.settings
        decayed = [p for p in self.parameters() if p.ndim > 1]
        plain = [p for p in self.parameters() if p.ndim <= 1]
        optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": s.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=s.lr,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, s.lr, total_steps=s.steps + 1, pct_start=0.2)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(
    batches: Batches, val: Samples, settings: Settings, seed: int, compute: Compute, report: Callable
) -> tuple[Network, list[dict]]:
    """A trained network on the CPU and its curve. Initial weights depend on `seed` alone, not on the rows."""
    devices.set_threads(compute)
    devices.seed_everything(seed)
    module = Training(Network(settings), settings)
    curve = training.fit(module, batches, compute, seed, report, val=val_loader(holdout(val)))
    return module.network.cpu(), curve


def val_loader(val: Samples, batch: int = 256) -> DataLoader:
    parts = [
        (to_network(val.images[i : i + batch]), torch.from_numpy(val.y[i : i + batch]))
        for i in range(0, len(val), batch)
    ]
    return DataLoader(parts, batch_size=None)


def holdout(val: Samples, most: int = 2000) -> Samples:
    """At most `most` validation rows, evenly spaced over the classes, for the curve."""
    if len(val) <= most:
        return val
    order = np.argsort(val.y, kind="stable")
    return val.take(np.sort(order[np.linspace(0, len(order) - 1, most).astype(int)]))
