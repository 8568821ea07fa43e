"""How a stage is run by several ranks: which stages can be, and who starts them.

A stage that gains by it has a function `ranked(params, values)`, true if it does with these arguments. Its `main` is
then called by every rank, and what is no rank 0 writes nothing.
"""

import fcntl
import multiprocessing as mp
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from pipeline import ranks
from pipeline.params import Compute

TURN = Path(".work", "ranks.lock")
GRACE = 15  # seconds in which a rank can end by itself


def wanted(compute: Compute) -> int:
    """How many ranks compute.devices asks for on this machine."""
    if compute.devices != "auto":
        return compute.devices
    if not cuda(compute):
        return 1
    import torch

    return torch.cuda.device_count()


def cuda(compute: Compute) -> bool:
    from pipeline import devices

    return devices.device(compute).type == "cuda"


def number(environment: Mapping[str, str]) -> int:
    """Which rank this is, as far as can be told."""
    try:
        return ranks.place(environment).rank
    except ValueError:
        return 0


def check(compute: Compute, at: ranks.Place) -> None:
    """Raises ValueError unless as many ranks are there as `compute` says, on which the last digits of weights depend."""
    nodes = at.world // at.beside
    if at.world > 1 and (nodes != compute.num_nodes or compute.devices not in ("auto", at.beside)):
        raise ValueError(
            f"compute.devices is {compute.devices} and compute.num_nodes {compute.num_nodes}, but {at.beside} ranks were "
            f"started on each of {nodes} machines; set the keys to these numbers, or start other ones"
        )
    if at.world == 1 and compute.num_nodes > 1:
        raise ValueError(
            f"compute.num_nodes is {compute.num_nodes}, but this is one process; start the stage with torchrun or srun on "
            "each machine (docs/scaling.md), or set 1"
        )


def start(argv: Sequence[str], count: int) -> int:
    """Run a stage by so many ranks on this machine; the exit code of the first that failed, which ends the others.

    One stage after the other: each has all GPUs that it asks for. Raises MemoryError if the system ended a rank.
    """
    TURN.parent.mkdir(parents=True, exist_ok=True)
    with TURN.open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        return together(argv, count)


def together(argv: Sequence[str], count: int) -> int:
    context = mp.get_context("spawn")
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    shared |= {"LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0"}
    if sys.platform == "linux" and "GLOO_SOCKET_IFNAME" not in os.environ:
        shared["GLOO_SOCKET_IFNAME"] = "lo"
    begun: list[BaseProcess] = []
    try:
        for rank in range(count):
            told = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = context.Process(target=run, args=(list(argv), told), name=f"rank {rank}")
            process.start()
            begun.append(process)
        return first_failure(begun)
    finally:
        for process in begun:
            process.terminate()
        for process in begun:
            process.join(GRACE)
            process.kill()
            process.join()


def first_failure(begun: Sequence[BaseProcess]) -> int:
    """Waits for the first rank that fails; 0 if none does."""
    left = list(begun)
    while left:
        wait([process.sentinel for process in left])
        ended = [process for process in left if process.exitcode is not None]
        ended.sort(key=lambda one: one.exitcode or 0)  # that which a signal ended first: it took the others along
        for process in ended:
            code = process.exitcode or 0
            if code < 0:
                raise MemoryError(
                    f"{process.name}: the system ended it (signal {-code}), most often for want of memory; the other ranks "
                    "were ended too"
                )
            if code:
                return code
        left = [process for process in left if process not in ended]
    return 0


def run(argv: list[str], told: dict[str, str]) -> None:
    os.environ.update(told)  # here and not in the process that started it, which is no rank
    from stages.__main__ import main

    sys.exit(main(argv))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
