"""Several trainings at once, each in a process of its own with few threads, and one progress bar over all of them."""

import ctypes
import logging
import multiprocessing as mp
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from time import monotonic
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)
Report = Callable[[int, str], None]  # (steps done since the last call, what is going on)


class Progress:
    """A bar on a terminal; elsewhere a log line at most every ten seconds. `step` may be called from any thread."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done, self.last = title, total, 0, monotonic()
        self.bar = tqdm(
            total=total, desc=title, unit="step", leave=False, disable=not sys.stderr.isatty(), file=sys.stderr
        )

    def __enter__(self) -> "Progress":
        return self

    def step(self, count: int, note: str = "") -> None:
        self.done += count
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(count)
        if self.bar.disable and monotonic() - self.last >= 10:
            self.last = monotonic()
            share = 100 * self.done / max(self.total, 1)
            log.info("%s: %3.0f %% (%d of %d) %s", self.title, share, self.done, self.total, note)

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def cores() -> int:
    """How many processor cores this stage may use: of those there are, its part if the environment has SIDE_BY_SIDE stages."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(there, granted() or there) // beside())


def granted(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int | None:
    """How many cores' time a container may take, by its control group; None where it does not say."""
    quota, _, period = limit.read_text().partition(" ") if limit.exists() else ("max", "", "")
    return None if quota.strip() == "max" else max(1, int(quota) // int(period))


def beside() -> int:
    """How many stages share the machine: SIDE_BY_SIDE of the environment, or this one alone."""
    return _told("SIDE_BY_SIDE", 1, "how many stages run at once")


def _told(key: str, least: int, meaning: str) -> int:
    told = os.environ.get(key, str(least))
    if not (told.isdecimal() and int(told) >= least):
        raise ValueError(f"{key} is {told!r} in the environment; expected {meaning}, {least} or more")
    return int(told)


def warm(*modules: str) -> None:
    """Start to import modules for all workers of this stage, once and beside what the stage itself does first."""
    mp.get_context("forkserver").set_forkserver_preload(list(modules))
    forkserver.ensure_running()


def parallel(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], most: int, title: str, steps: int
) -> list[Any]:
    """[function(*job, report=...) for job in jobs], in at most `most` processes; results in the order of jobs.

    `steps` is the sum of what the jobs will report. The first exception ends the others and is raised here.
    """
    context = mp.get_context("forkserver")
    warm(function.__module__)
    queue, numbers = context.SimpleQueue(), context.SimpleQueue()
    with Progress(title, steps) as progress:
        listener = threading.Thread(target=_listen, args=(queue, progress), daemon=True)
        listener.start()
        pool = ProcessPoolExecutor(min(len(jobs), most), context, _start, (queue, numbers))
        try:
            waiting = [pool.submit(_call, function, job) for job in jobs]
            # Only now do workers begin: the pool loses processes if one dies while it still starts others.
            for number in range(most):
                numbers.put(number)
            pool.submit(bool)  # does nothing; with any call the pool takes note of the worker that it started last
            done, _ = futures.wait(waiting, return_when=futures.FIRST_EXCEPTION)
            for future in done:
                future.result()
            results = [future.result() for future in waiting]
        except BrokenProcessPool:
            raise MemoryError(f"{title}: the system ended a worker process, most often for want of memory") from None
        except BaseException:
            for child in mp.active_children():
                child.kill()  # SIGTERM is for Lightning to note while it starts a training, which then goes on
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        queue.put(None)  # only when all went well: a terminated worker may have left the queue locked
        listener.join()
        return results


def _listen(queue: Any, progress: Progress) -> None:
    while (message := queue.get()) is not None:
        progress.step(*message)


_queue: Any = None
_number: int | None = None


def worker() -> int:
    """Which worker of its stage this process is, from 0 on; of the stage itself, its LANE among stages side by side."""
    return _told("LANE", 0, "which of the stages side by side this is") if _number is None else _number


def _start(queue: Any, numbers: Any) -> None:
    """Set a worker up: default signals, an end of its own when the stage is gone, a place to report to, and a number."""
    global _queue, _number
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the stage ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow, daemon=True).start()
    _queue, _number = queue, numbers.get()


def _follow() -> None:
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(128 + signal.SIGTERM)


def _call(function: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    return function(*job, report=lambda count, note="": _queue.put((count, note)))


def die_with_parent() -> None:
    """Ask Linux to send SIGTERM when the parent process ends, so that no stage outlives a killed `dvc`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
