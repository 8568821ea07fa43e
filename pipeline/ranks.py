"""Ranks: processes that work on one stage together. Which one this is, its part of the rows, and what they tell each other.

A process that nobody started as one of several is rank 0 of 1, and everything here is then nothing.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import torch

PATIENCE = timedelta(hours=24)  # rank 0 works alone while others wait; one that is gone is noticed by its connection
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused")  # what gloo says


class Place(NamedTuple):
    """Which of `world` ranks this is, which of the `beside` ranks of its machine, and which machine that is."""

    rank: int = 0
    world: int = 1
    local: int = 0
    beside: int = 1
    node: int = 0


_here = Place()


def here() -> Place:
    return _here


def first() -> bool:
    """Whether this is the rank that writes, logs and decides."""
    return _here.rank == 0


def place(environment: Mapping[str, str]) -> Place:
    """What torchrun or srun say of this process. Raises ValueError for machines with unequal numbers of ranks."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        keys = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
        told = {key: _number(environment, key) for key in keys if key in environment}
        rank, world = told["RANK"], told["WORLD_SIZE"]
        beside = told.get("LOCAL_WORLD_SIZE", world)
        return Place(rank, world, told.get("LOCAL_RANK", rank % beside), beside, told.get("GROUP_RANK", rank // beside))
    if "SLURM_STEP_NUM_TASKS" in environment:  # not SLURM_NTASKS, which a batch script itself has too
        keys = ("PROCID", "STEP_NUM_TASKS", "LOCALID", "STEP_NUM_NODES", "NODEID")
        rank, world, local, nodes, node = (
            _number(environment, f"SLURM_{key}", 1 if "NUM" in key else 0) for key in keys
        )
        if world % nodes:
            raise ValueError(f"srun started {world} tasks on {nodes} nodes; start as many on each (--ntasks-per-node)")
        return Place(rank, world, local, world // nodes, node)
    return Place()


def _number(environment: Mapping[str, str], key: str, otherwise: int = 0) -> int:
    said = environment.get(key, str(otherwise))
    if not said.strip().isdecimal():
        raise ValueError(
            f"{key} is {said!r} in the environment; expected a whole number as torchrun or srun set it; unset it"
        )
    return int(said)


def begin(at: Place, cuda: bool) -> None:
    """Meet the other ranks; returns when all are there. Raises ValueError if it is not said where rank 0 is."""
    global _here
    import torch.distributed as dist

    if "MASTER_ADDR" not in os.environ and at.world > at.beside:
        raise ValueError(
            f"{at.world} ranks on {at.world // at.beside} machines, but MASTER_ADDR is not set; export the name of the first "
            "machine (docs/scaling.md)"
        )
    job = int(os.environ.get("SLURM_JOB_ID", "0"))
    for key, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(20_000 + job % 10_000),
        "RANK": str(at.rank),
        "WORLD_SIZE": str(at.world),
        "LOCAL_RANK": str(at.local),
        "LOCAL_WORLD_SIZE": str(at.beside),
        "GROUP_RANK": str(at.node),
    }.items():
        os.environ.setdefault(key, value)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    _here = at


def end() -> None:
    """Part from the other ranks, if there are any."""
    global _here
    if _here.world > 1:
        import torch.distributed as dist

        dist.destroy_process_group()
        _here = Place()


def told(value: int) -> int:
    """What rank 0 says of this."""
    if _here.world == 1:
        return value
    import torch
    import torch.distributed as dist

    said = torch.tensor([value])
    dist.broadcast(said, 0)
    return int(said)


def mean(value: "torch.Tensor") -> "torch.Tensor":
    """The mean over ranks, the same bits on each."""
    if _here.world == 1:
        return value
    import torch.distributed as dist

    summed = value.detach().clone()
    dist.all_reduce(summed)
    return summed / _here.world


def span(rows: int, chunk: int, rank: int | None = None) -> slice:
    """The rows of a rank (of this one): whole chunks, evenly shared, so that each is worked on as it is by one process."""
    rank, chunks = _here.rank if rank is None else rank, -(-rows // chunk)
    start, stop = (chunks * r // _here.world * chunk for r in (rank, rank + 1))
    return slice(min(start, rows), min(stop, rows))


def gathered(part: "np.ndarray", rows: int, chunk: int) -> "np.ndarray":
    """On rank 0 all rows, of which each rank has its `span`, in order; on others zeros in their place."""
    if _here.world == 1:
        return part
    import numpy as np  # not above: its BLAS takes its number of threads when it is imported, before params.yaml is read
    import torch
    import torch.distributed as dist

    if _here.rank:
        if len(part):
            dist.send(torch.from_numpy(np.ascontiguousarray(part)), 0)
        return np.broadcast_to(np.zeros((), part.dtype), (rows, *part.shape[1:]))
    whole = np.empty((rows, *part.shape[1:]), part.dtype)
    whole[: len(part)] = part
    for rank in range(1, _here.world):
        own = span(rows, chunk, rank)
        if own.stop > own.start:
            dist.recv(torch.from_numpy(whole[own]), rank)
    return whole


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another rank is gone."""
    return _here.world > 1 and (
        type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")
        or (isinstance(error, RuntimeError) and any(words in str(error) for words in LOST))
    )
