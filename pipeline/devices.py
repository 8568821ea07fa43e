"""Where networks run: device, precision and threads, from the `compute` block."""

import platform
import re
from pathlib import Path

import torch

from pipeline import ranks
from pipeline.params import Compute
from pipeline.processes import beside, cores, worker


def device(compute: Compute) -> torch.device:
    """The device of `compute.accelerator`; `auto` is CUDA where there is one, else the CPU. Raises OSError if it is absent.

    Of several GPUs, each rank has one of its own, and workers take them in turn.
    """
    asked = compute.accelerator
    if asked == "auto":
        asked = "cuda" if has_cuda() else "cpu"
    if (asked == "cuda" and not has_cuda()) or (asked == "mps" and not torch.backends.mps.is_available()):
        raise OSError(
            f"compute.accelerator is {asked}, but torch {torch.__version__} finds no such device here; "
            "set it to auto or cpu"
        )
    here = ranks.here()
    if asked == "cuda" and here.world > 1 and torch.cuda.device_count() < here.beside:
        raise OSError(
            f"{here.beside} ranks on this machine see {torch.cuda.device_count()} GPUs, and each needs one of its own; lower "
            "compute.devices, or give srun GPUs for the node and not for tasks (--gpus-per-node)"
        )
    if asked == "cuda" and (several := torch.cuda.device_count()) > 1:
        return torch.device(asked, here.local if here.world > 1 else worker() % several)
    return torch.device(asked)


def has_cuda() -> bool:
    """Whether there is a GPU. Raises OSError for one that torch counts and cannot use, as under a driver that is too old."""
    if not (torch.cuda.is_available() or torch.cuda.device_count()):  # they may ask driver and card apart
        return False
    try:
        torch.cuda.init()
    except RuntimeError as error:
        raise OSError(
            f"there is a GPU, but torch {torch.__version__} cannot use it ({error}); update its driver, or set "
            "compute.accelerator: cpu"
        ) from error
    archs = (re.match(r"sm_(\d+)", arch) for arch in torch.cuda.get_arch_list())
    least = min((int(found[1]) for found in archs if found), default=0)
    cards = enumerate(capabilities()) if least else ()
    old = [torch.cuda.get_device_name(i) for i, (major, minor) in cards if 10 * major + minor < least]
    if old:
        raise OSError(
            f"torch {torch.__version__} has no kernels for {', '.join(old)}, which came before its oldest, sm_{least}; hide it by "
            "CUDA_VISIBLE_DEVICES, or set compute.accelerator: cpu"
        )
    return True


def capabilities() -> list[tuple[int, int]]:
    """Of each GPU: 8.0 and more have instructions for bf16."""
    return [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]


FEWEST_PIXELS = 16  # a side; below, bf16 on a CPU costs in conversions what it saves in products


def precision(compute: Compute, side: int) -> str:
    """Of training on pictures of so many pixels a side. `auto`: bf16 on a GPU that has instructions for it, and from
    FEWEST_PIXELS on, on a CPU that is faster by them; else fp32."""
    if compute.precision != "auto":
        return compute.precision
    where = device(compute).type
    on_cuda = where == "cuda" and min(capabilities()) >= (8, 0)  # of all alike, whichever a worker has
    fast = on_cuda or (where == "cpu" and side >= FEWEST_PIXELS and fast_bf16())
    return "bf16-mixed" if fast else "32-true"


def fast_bf16() -> bool:
    """Whether this CPU trains faster in bf16: one that multiplies tiles (AMX), or AMD's with avx512_bf16.

    Intel's with avx512_bf16 alone are slower by a third (docs/performance.md), and those with neither several times.
    """
    return torch.cpu._is_amx_tile_supported() or (torch.cpu._is_avx512_bf16_supported() and "AuthenticAMD" in maker())


def maker() -> str:
    """Text that names who made this CPU: of Linux a file, of Windows what it calls a processor."""
    about = Path("/proc/cpuinfo")
    return about.read_text() if about.exists() else platform.processor()


def describe(compute: Compute, side: int) -> dict[str, str]:
    """What numbers depend on beside settings and data: versions of Python and torch, the device by name, the precision."""
    where = device(compute)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": f"{where.type}, {name}",
        "precision": precision(compute, side),
    }


def set_threads(compute: Compute) -> None:
    """The thread count of this process, and kernels that give the same bits each time."""
    torch.set_num_threads(compute.threads)
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports the compiler: a second each time
    # It guards against reading such memory, which costs 5 % of a step; torch's types do not know it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 is fp32


def workers(compute: Compute) -> int:
    """How many processes train or sample side by side: `auto` is one per core, at most 4 per GPU, which share its memory."""
    if compute.processes != "auto":
        return compute.processes
    gpus = torch.cuda.device_count() if device(compute).type == "cuda" else 1
    return cores() if device(compute).type == "cpu" else min(cores(), max(1, 4 * gpus // beside()))
