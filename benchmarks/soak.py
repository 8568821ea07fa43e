"""Whether a run that is killed again and again ends with the same numbers. Run: python -m benchmarks.soak [kills] [seed]

A small project is run once in peace. Another copy is killed at random moments: the stage alone, dvc alone, or all of it,
by SIGKILL, SIGTERM or SIGINT; then it is finished, and both must have the same scores, byte for byte. After each kill
nothing of the run may live on. About ten minutes for 30 kills on two cores.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from benchmarks import project

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = ("stage", "dvc", "group")
PATIENCE = 20  # seconds after which a run that was to end has not
SCORES = Path("reports/scores.csv")


class Kill(NamedTuple):
    """After the start of so many stages and so many seconds, this signal for these processes."""

    stages: int
    seconds: float
    target: str
    number: signal.Signals


def plan(kills: int, seed: int) -> list[Kill]:
    rng = random.Random(seed)
    return [Kill(rng.choice((1, 2)), rng.uniform(0, 6), rng.choice(TARGETS), rng.choice(SIGNALS)) for _ in range(kills)]


def toy(folder: Path, change: Callable[[dict], None]) -> Path:
    """A copy of the project with stripes to tell apart; `change` leaves it hardly anything to train."""
    project.copy(folder, change)
    rng, parts = np.random.default_rng(5), {}
    for split, counts in {"train": (24, 6), "val": (8, 8), "test": (12, 12)}.items():
        y = np.repeat([0, 1], counts)
        x = np.arange(8)[None, :, None] * np.where(y == 0, 1, 0)[:, None, None]
        x = 1.6 * (x + np.arange(8)[None, None, :] * np.where(y == 1, 1, 0)[:, None, None])
        images = 128 + 60 * np.sin(x + rng.uniform(0, 6, (len(y), 1, 1))) + rng.normal(0, 40, (len(y), 8, 8))
        parts |= {f"{split}_images": np.clip(images, 0, 255).astype(np.uint8), f"{split}_labels": y[:, None]}
    np.savez(folder / "toy.npz", **parts)
    return folder


def shrink(params: dict) -> None:
    params["data"]["source"] = "toy.npz"
    params["augment"].update(views_per_class=30, views_per_row=[2, 4])
    params["classifier"].update(steps=150, widths=[8], batch=16)
    params["teachers"]["folds"] = 2
    params["selection"].update(unlike=1e6, alike=0.0, third_class=1.0)
    params["retraining"]["seeds"] = 2
    params["search"]["trainings"] = 4
    params["evaluation"]["bootstrap"] = 200
    params["generators"] = {k: v for k, v in params["generators"].items() if k in ("nothing", "cvae")}
    params["generators"]["cvae"].update(epochs=150, width=8)
    params["arms"] = {k: v for k, v in params["arms"].items() if k in ("real", "cvae")}
    params["compute"].update(accelerator="cpu", processes=2)


def start(folder: Path) -> subprocess.Popen:
    """What `make repro` does, `dvc repro` in a group of its own; trainings keep their state as often as they can.

    A file environment.json in the folder says which variables are other ones there, or none.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    other = folder / "environment.json"
    changed = json.loads(other.read_text()) if other.exists() else {}
    every = {**os.environ, "PATH": path, "CHECKPOINT_SECONDS": "0", **changed}
    env = {key: value for key, value in every.items() if value is not None}
    command = [sys.executable, "-m", "dvc", "repro"]
    subprocess.run([sys.executable, "-m", "stages", "check"], cwd=folder, env=env, check=True)
    with (folder / "said.txt").open("a") as said:
        return subprocess.Popen(command, cwd=folder, env=env, start_new_session=True, stdout=said, stderr=said,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip


def finish(folder: Path) -> None:
    """Runs it to its end. Raises RuntimeError with the last that was said if it fails."""
    if start(folder).wait():
        raise RuntimeError(f"the run failed:\n{(folder / 'said.txt').read_text()[-3000:]}")


def stage_of(process: subprocess.Popen) -> psutil.Process | None:
    """The stage that dvc is running, if it is running one."""
    try:
        inner = psutil.Process(process.pid).children(recursive=True)
        return next((p for p in inner if p.cmdline()[1:3] == ["-m", "stages"]), None)
    except psutil.NoSuchProcess:  # ended while it was looked at
        return None


def left(group: int) -> list[psutil.Process]:
    """Processes of this group that live."""
    found = []
    for p in psutil.process_iter(["status"]):
        try:
            if os.getpgid(p.pid) == group and p.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(p)
        except ProcessLookupError:
            continue
    return found


def wait_for_stages(process: subprocess.Popen, count: int) -> psutil.Process | None:
    """The last of so many stages that begin; None if the run ends before."""
    seen: list[psutil.Process] = []
    while process.poll() is None:
        now = stage_of(process)
        if now is not None and now not in seen:
            seen.append(now)
        if len(seen) == count:
            return now
        time.sleep(0.05)
    return None


def named(stage: psutil.Process | None) -> str:
    """A stage by its name and key."""
    try:
        words = [] if stage is None else stage.cmdline()[3:5]
    except psutil.NoSuchProcess:
        words = []
    return " ".join(word for word in words if "/" not in word) or "none, between two stages"


def strike(folder: Path, kill: Kill) -> str:
    """Runs the project until it is killed so, and says what was struck; "" if it was finished before.

    Raises RuntimeError if something of it lives on.
    """
    process = start(folder)
    stage = wait_for_stages(process, kill.stages)
    if stage is None:
        return ""
    time.sleep(kill.seconds)
    stage = stage_of(process)
    what = named(stage)
    if kill.target == "group":
        os.killpg(process.pid, kill.number)
    elif kill.target == "dvc":
        process.send_signal(kill.number)
    elif stage is not None:
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            stage.send_signal(kill.number)
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:  # dvc leaves SIGINT to its stage
        time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    while left(process.pid):
        if time.monotonic() > end + PATIENCE:
            raise RuntimeError(f"after {kill}, these live on: {[p.cmdline() for p in left(process.pid)]}")
        time.sleep(0.05)
    return what


def compare(peace: Path, folder: Path, kills: list[Kill]) -> list[str]:
    """Kills the project in `folder` by plan and finishes it; returns what was struck.

    Raises RuntimeError if its scores are not those of the run in peace.
    """
    struck = []
    for i, kill in enumerate(kills):
        what = strike(folder, kill)
        if not what:
            break
        print(f"{i + 1:3} {kill.number.name:8} {kill.target:6} stage: {what}", flush=True)
        struck.append(what)
    finish(folder)
    if (peace / SCORES).read_bytes() != (folder / SCORES).read_bytes():
        raise RuntimeError(f"after {len(struck)} kills {SCORES} is not what it is without")
    return struck


def main(kills: int = 30, seed: int = 0) -> None:
    with tempfile.TemporaryDirectory() as home:
        peace = toy(Path(home) / "peace", shrink)
        finish(peace)
        struck, every = [], plan(kills, seed)
        while len(struck) < kills:  # a run that is finished before its last kill is begun anew
            struck += compare(peace, toy(Path(home) / f"killed{len(struck)}", shrink), every[len(struck) :])
    print(f"{len(struck)} kills, the same scores")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
