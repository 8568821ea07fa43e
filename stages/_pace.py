"""How long trainings, fits and drawing of a run will take on this machine, by a few steps and rows of each."""

import time

import numpy as np
import pandas as pd
import torch

from pipeline import devices, generators
from pipeline.classifier.model import Network, Settings
from pipeline.params import Generator as Block
from pipeline.params import Params, borrowing
from pipeline.processes import cores
from pipeline.samples import Facts, Samples

TRIED = 8  # batches that a generator is fitted on, and rows that it then draws, where it has no number of its own


def duration(params: Params, settings: Settings) -> str:
    """How long the trainings of arms and search will take, where those side by side do not slow each other."""
    step, side_by_side, block = pace(params, settings), lanes(params), params.search
    one = settings.steps * step

    def arms(asked: Params) -> str:
        return spelt(len(asked.compared) * asked.retraining.seeds * one / side_by_side)

    quick = "" if params.is_quick else f", those of make quick {arms(params.model_copy(update={'profile': 'quick'}))}"
    search = block.trainings * one / min(side_by_side, block.seeds)  # a trial waits for the one before
    more = f", and the search at most {spelt(search)}" if params.searched else ""
    tried = f"by steps of {1000 * step:.2g} ms, tried just now"
    return f"training all arms will take about {arms(params)}{quick}{more} ({tried})"


def making(params: Params, counts: np.ndarray, drawn: int, settings: Settings) -> str:
    """How long it will take to fit generators on `counts` rows of each class, and to draw so many rows from each; empty if no
    network is fitted."""
    shape = (settings.size, settings.size, settings.channels)
    real, fits, drawing = blank(counts, shape), {}, 0.0
    for name in params.made:
        block = borrowing(params.generators, name)
        model = generators.build(block, params.compute, name)
        if model.uses_device:
            step, row = tried(params, block, name, shape, len(counts))
            fits[block.model] = model.steps(real) * step
            drawing += drawn * row
    if not fits:
        return ""
    longest, side_by_side = max(fits.values()), lanes(params)
    fitting = max(longest, sum(fits.values()) / side_by_side)
    said = f"fitting {', '.join(fits)} will take about {spelt(fitting)}, drawing their rows {spelt(drawing / side_by_side)}"
    return f"{said} (tried just now); to choose among their weights comes on top"


def blank(counts: np.ndarray, shape: tuple[int, int, int]) -> Samples:
    """So many black rows of each class, which take no memory."""
    names = tuple(map(str, range(len(counts))))
    table = pd.DataFrame({"label": np.repeat(names, counts), "split": "train"})
    return Samples(table, np.broadcast_to(np.uint8(0), (len(table), *shape)), Facts(names, ()))


def tried(params: Params, block: Block, name: str, shape: tuple[int, int, int], classes: int) -> tuple[float, float]:
    """Seconds of a step of fitting this generator, and of drawing a row from it."""
    model = generators.build(Block(**(block.model_dump() | {"epochs": 1})), params.compute, name)
    counts = np.bincount(np.arange(TRIED * model.options.batch) % classes, minlength=classes)
    rows = blank(counts, shape)
    noise = np.random.default_rng(0).integers(0, 256, rows.images.shape, np.uint8)
    times: list[float] = []
    model.fit(
        Samples(rows.table, noise, rows.facts), 0, lambda count, note="": times.extend([time.monotonic()] * count)
    )
    labels = np.arange(model.chunk or TRIED) % classes
    start = time.monotonic()
    model.sample(labels, labels)
    return (times[-1] - times[0]) / max(1, len(times) - 1), (time.monotonic() - start) / len(labels)


def lanes(params: Params) -> int:
    """How many trainings share the machine without sharing a core or a GPU."""
    gpus = torch.cuda.device_count() if devices.device(params.compute).type == "cuda" else 0
    return min(devices.workers(params.compute), gpus or cores())


def pace(params: Params, settings: Settings, most: float = 1.5) -> float:
    """Seconds of a classifier's step on this machine, from so many seconds of steps on noise."""
    devices.set_threads(params.compute)
    where, exact = devices.device(params.compute), devices.precision(params.compute, settings.size)
    network = Network(settings).to(where)
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    x = torch.randn(settings.batch, settings.channels, settings.size, settings.size, device=where)
    took, begun = [], time.monotonic()
    while len(took) < 5 or time.monotonic() - begun < most:
        start = time.monotonic()
        with torch.autocast(where.type, torch.bfloat16, enabled=exact == "bf16-mixed"):
            loss = network(x).float().square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        loss.item()  # waits for a GPU
        took.append(time.monotonic() - start)
    return float(np.median(took))


def spelt(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} hours"
