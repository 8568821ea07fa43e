"""What the stages' training loop costs beside a hand-written one: a ResNet-8 at 28 px, batches of 32, one thread.

Imported by processes of benchmarks/rounds.py alone.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.denoisers import cpu
from benchmarks.rounds import ROOT
from pipeline import devices, params
from pipeline.classifier import train
from pipeline.classifier.model import Network, Settings, settings
from pipeline.data.loaders import Batches, Rows
from pipeline.params import Compute
from pipeline.samples import Facts, Samples, table
from pipeline.training import by_channel

SIDE, CLASSES, ROWS, VAL = 28, 10, 2000, 150
VARIANTS = ("stage", "by hand", "by hand, no validation")


class Setting(NamedTuple):
    """One training: what both loops are given. `tensors` are the batches, made beforehand, for the loop by hand."""

    batches: Batches
    val: Samples
    settings: Settings
    recipe: params.Recipe
    compute: Compute
    tensors: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

    @property
    def bf16(self) -> bool:
        return devices.precision(self.compute, self.batches.side) == "bf16-mixed"


def pictures(rows: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Coarse coloured noise with a bar at a height of its own for each class: uint8 (N, H, W, 1) and classes (N,)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, rows)
    coarse = rng.integers(0, 160, (rows, 7, 7)).repeat(-(-side // 7), axis=1).repeat(-(-side // 7), axis=2)
    images = coarse[:, :side, :side].astype(np.uint8)
    for c in range(CLASSES):
        top = c * side // CLASSES
        images[y == c, top : top + 2] = 250
    return images[..., None], y


@cache
def setting(steps: int, precision: str) -> Setting:
    shipped = params.load(ROOT / "params.yaml")
    images, y = pictures(ROWS, SIDE, 0)
    block = shipped.classifier.model_copy(update={"widths": [16, 32, 64], "fold": 1, "batch": 32, "steps": steps})
    chosen = settings(block, (SIDE, SIDE, 1), CLASSES, ROWS)
    batches = Batches(Rows.plain(images, y), CLASSES, chosen.batch, steps, seed=0)
    compute = Compute(accelerator="cpu", precision=precision, processes=1, threads=1, devices=1, num_nodes=1)
    held, labels = pictures(VAL, SIDE, 1)
    classes = tuple(str(c) for c in range(CLASSES))
    columns = table(id=[str(i) for i in range(VAL)], label=[classes[c] for c in labels], split=["val"] * VAL)
    made = Setting(batches, Samples(columns, held, Facts(classes, ())), chosen, shipped.recipes["plain"], compute, [])
    made.tensors.extend(by_channel(batches[i]) if made.bf16 else batches[i] for i in range(steps))
    return made


def stage(s: Setting) -> Network:
    """As the stages train: batches, curve, validation, states to go back to, Lightning."""
    return train.train(s.batches, s.val, s.settings, s.recipe, 0, s.compute, lambda count, note: None)[0]


def by_hand(s: Setting, validate: bool) -> Network:
    """The same network, batches, optimiser and schedule, and if asked for the same validation at the same steps."""
    torch.manual_seed(0)
    network = Network(s.settings)
    torch.manual_seed(0)
    decayed, plain = ([p for p in network.parameters() if (p.ndim > 1) == many] for many in (True, False))
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": s.settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=s.settings.lr,
        fused=True,
    )
    rise = max(0.2, 2 / (s.settings.steps + 1))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, s.settings.lr, total_steps=s.settings.steps + 1, pct_start=rise
    )
    held, every = train.in_batches(s.val), max(1, len(s.tensors) // 12)
    for step, (x, y, weight) in enumerate(s.tensors, 1):
        with torch.autocast("cpu", torch.bfloat16, enabled=s.bf16):
            each = F.cross_entropy(network(x), y, reduction="none", label_smoothing=s.settings.label_smoothing)
            loss = (each * weight).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if validate and step % every == 0:
            check(network, held, s.bf16)
    return network.eval()


@torch.no_grad()
def check(network: Network, held: list[tuple[torch.Tensor, torch.Tensor]], bf16: bool) -> float:
    network.eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = torch.cat([network(x).float() for x, _ in held])
    network.train()
    return float(F.cross_entropy(logits, torch.cat([y for _, y in held])))


def speed(variant: str, steps: int, precision: str) -> float:
    """Steps per CPU second, of a whole training from its start to its end."""
    s = setting(steps, precision)
    devices.set_threads(s.compute)
    run = {
        "stage": lambda: stage(s),
        "by hand": lambda: by_hand(s, True),
        "by hand, no validation": lambda: by_hand(s, False),
    }[variant]
    return steps / cpu(run)


def shipped_steps() -> int:
    """What `classifier.steps: auto` asks for on rows like these."""
    return settings(params.load(ROOT / "params.yaml").classifier, (SIDE, SIDE, 1), CLASSES, ROWS).steps
