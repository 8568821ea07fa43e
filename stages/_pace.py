"""How long the trainings of a run will take on this machine, by a few steps of one."""

import time

import numpy as np
import torch

from pipeline import devices
from pipeline.classifier.model import Network, Settings
from pipeline.params import Params
from pipeline.processes import cores


def duration(params: Params, settings: Settings) -> str:
    """How long the trainings of arms and search will take, where those side by side do not slow each other."""
    step, side_by_side, block = pace(params, settings), lanes(params), params.search
    one = settings.steps * step
    arms = len(params.compared) * params.retraining.seeds * one / side_by_side
    search = block.trainings * one / min(side_by_side, block.seeds)  # a trial waits for the one before
    more = f", and the search at most {spelt(search)}" if params.searched else ""
    tried = f"by steps of {1000 * step:.2g} ms, tried just now"
    return f"training all arms will take about {spelt(arms)}{more} ({tried}); to fit generators and to draw rows comes on top"


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
