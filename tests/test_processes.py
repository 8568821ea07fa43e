"""Jobs in processes of their own: order, progress and failures. Run: python -m pytest tests/test_processes.py"""

import logging
import multiprocessing as mp
import os
import time
from collections.abc import Callable

import pytest

from pipeline import processes


def late_square(x: int, delay: float, report: Callable) -> tuple[int, int]:
    for _ in range(4):
        report(1, f"job {x}")
    time.sleep(delay)
    return x * x, os.getpid()


def fail_on_two(x: int, report: Callable) -> int:
    if x == 2:
        raise ArithmeticError(f"job {x} failed")
    time.sleep(0.1)
    return x


def vanish(report: Callable) -> None:
    os._exit(7)


def test_results_come_in_the_order_of_the_jobs_from_other_processes():
    jobs = [(x, 0.2 - 0.05 * x) for x in range(4)]  # the first takes longest
    results = processes.parallel(late_square, jobs, 2, "squares", 16)
    assert [square for square, _ in results] == [0, 1, 4, 9]
    pids = {pid for _, pid in results}
    assert os.getpid() not in pids and len(pids) <= 2


def test_every_step_that_jobs_report_is_counted(monkeypatch):
    seen = []
    monkeypatch.setattr(processes.Progress, "step", lambda self, count, note="": seen.append((count, note)))
    processes.parallel(late_square, [(x, 0.0) for x in range(3)], 2, "squares", 12)
    assert sorted(seen) == [(1, f"job {x}") for x in range(3) for _ in range(4)]


def test_the_exception_of_a_job_is_raised_here():
    with pytest.raises(ArithmeticError, match="job 2 failed"):
        processes.parallel(fail_on_two, [(x,) for x in range(5)], 2, "failing", 5)


def test_a_job_that_dies_is_an_error_and_not_a_wait_without_end():
    with pytest.raises(MemoryError, match="vanishing: the system ended a worker"):
        processes.parallel(vanish, [(), ()], 2, "vanishing", 2)


def begin(report: Callable) -> float:
    return time.monotonic()


def test_no_job_begins_before_every_worker_is_started(monkeypatch):
    """A worker that died meanwhile would break the pool's own bookkeeping: a traceback, and processes left behind."""

    class Slow(processes.ProcessPoolExecutor):
        def submit(self, *call):
            future = super().submit(*call)
            time.sleep(0.2)
            started.append(time.monotonic())
            return future

    started: list[float] = []
    monkeypatch.setattr(processes, "ProcessPoolExecutor", Slow)
    begun = processes.parallel(begin, [()] * 3, 3, "toy", 0)
    assert len(begun) == 3 and min(begun) >= started[2]
    assert not mp.active_children()


def vanish_alone(which: int, report: Callable) -> None:
    if processes.worker() == which:
        os._exit(7)
    time.sleep(600)


@pytest.mark.parametrize("which", [0, 1])
def test_the_death_of_any_worker_is_noticed_at_once(which):
    """The pool did not know the worker that it had started last, until another ended its job."""
    begun = time.monotonic()
    with pytest.raises(MemoryError, match="the system ended a worker"):
        processes.parallel(vanish_alone, [(which,)] * 2, 2, "vanishing", 2)
    assert time.monotonic() - begun < 300


def test_progress_away_from_a_terminal_is_logged_at_most_every_ten_seconds(monkeypatch, caplog):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(processes, "monotonic", lambda: next(clock))
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with caplog.at_level(logging.INFO), processes.Progress("train", 8) as progress:
        for _ in range(8):
            progress.step(1, "loss 0.5")
    assert progress.done == 8
    assert 1 <= len(caplog.messages) <= 3 and "train:" in caplog.messages[0] and "of 8" in caplog.messages[0]


@pytest.mark.parametrize(("beside", "share"), [("1", 8), ("2", 4), ("3", 2), ("20", 1), (None, 8)])
def test_stages_that_run_side_by_side_share_the_cores(monkeypatch, beside, share):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("SIDE_BY_SIDE", raising=False)
    if beside:
        monkeypatch.setenv("SIDE_BY_SIDE", beside)
    assert processes.cores() == share


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", None), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), (None, None)],
)
def test_a_container_says_how_many_cores_it_may_use(tmp_path, limit, cores):
    file = tmp_path / "cpu.max"
    if limit:
        file.write_text(f"{limit}\n")
    assert processes.granted(file) == cores


def test_a_container_has_no_more_workers_than_cores_granted(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(processes, "granted", lambda: 3)
    monkeypatch.delenv("SIDE_BY_SIDE", raising=False)
    assert processes.cores() == 3


@pytest.mark.parametrize("beside", ["0", "two", "", "-1", "1.5"])
def test_a_number_of_stages_that_is_none_is_named(monkeypatch, beside):
    """0 was said to be a training that diverged."""
    monkeypatch.setenv("SIDE_BY_SIDE", beside)
    with pytest.raises(ValueError, match=r"SIDE_BY_SIDE is .* expected how many stages"):
        processes.cores()


def number(seconds: float, report: Callable) -> tuple[int, int]:
    time.sleep(seconds)
    return processes.worker(), os.getpid()


def test_a_stage_has_the_number_of_its_lane_among_stages_side_by_side(monkeypatch):
    """Fits side by side all took the first GPU."""
    monkeypatch.setenv("LANE", "3")
    assert processes.worker() == 3
    monkeypatch.setenv("LANE", "-1")
    with pytest.raises(ValueError, match=r"LANE is '-1' in the environment; expected which of the stages"):
        processes.worker()


def test_workers_are_numbered():
    found = processes.parallel(number, [(0.3,)] * 5, 3, "numbers", 5)
    assert processes.worker() == 0 and {n for n, _ in found} <= set(range(3))
    assert len({n for n, _ in found}) == len({pid for _, pid in found}) == len(set(found)) > 1
