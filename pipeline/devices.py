"""Where networks run: device, precision and threads, from the `compute` block."""

import platform
import random

import numpy as np
import torch

from pipeline.params import Compute
from pipeline.processes import cores


def device(compute: Compute) -> torch.device:
    """The device of `compute.accelerator`; `auto` is CUDA where there is one, else the CPU. Raises OSError if it is absent."""
    asked = compute.accelerator
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if (asked == "cuda" and not torch.cuda.is_available()) or (
        asked == "mps" and not torch.backends.mps.is_available()
    ):
        raise OSError(
            f"compute.accelerator is {asked}, but torch {torch.__version__} finds no such device here; "
            "set it to auto or cpu"
        )
    return torch.device(asked)


def precision(compute: Compute) -> str:
    """`auto`: bf16 on CUDA, fp32 elsewhere (bf16 is several times slower on most CPUs)."""
    if compute.precision != "auto":
        return compute.precision
    return "bf16-mixed" if device(compute).type == "cuda" else "32-true"


def describe(compute: Compute) -> dict[str, str]:
    """What numbers depend on beside settings and data: versions of Python and torch, the device by name, the precision."""
    where = device(compute)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": f"{where.type}, {name}",
        "precision": precision(compute),
    }


def set_threads(compute: Compute) -> None:
    """The thread count of this process, and kernels that give the same bits each time."""
    torch.set_num_threads(compute.threads)
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports the compiler: a second each time
    torch.utils.deterministic.fill_uninitialized_memory = False  # guards against reading it, which costs 5 % of a step
    torch.backends.cudnn.benchmark = False


def workers(compute: Compute) -> int:
    """How many processes train or sample side by side: `auto` is one per core, on a GPU at most 4, which share its memory."""
    if compute.processes != "auto":
        return compute.processes
    return cores() if device(compute).type == "cpu" else min(cores(), 4)


def seed_everything(seed: int) -> None:
    """Seed what draws without being handed a generator: initial weights and dropout."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
