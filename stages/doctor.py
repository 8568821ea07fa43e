"""doctor: can a run start here, what will it need, and what will be slow? In words; it changes nothing. Run: make doctor

Exit 0 if a run can start, 2 if params or the source forbid it, 3 if the machine does.
"""

import json
import math
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline import generators
from pipeline.data import audit, augment, sources
from pipeline.data.sources import folder as class_folders
from pipeline.data.sources import manifest
from pipeline.params import EMBEDDED, Params, borrowing, stands_for
from pipeline.processes import cores
from pipeline.selection.rules import drawn, wanted
from stages import check
from stages.augment import KINDS
from stages.prepare import NO_VERDICT, asked

if TYPE_CHECKING:
    from pipeline.classifier.model import Settings

SHOWN = ("torch", "lightning", "numpy", "dvc", "albumentations", "opencv-python-headless", "safetensors")
GB = 1e9
LEAST_MEMORY = 2 * GB  # below, the first training or a few readers of pictures may already be ended
LARGE, MANY = 32, 20_000  # pixels a side that ask for a GPU; rows that take a while to read and compare


class Known(NamedTuple):
    """What can be told of the data: training rows of each class, all rows, pixels a side, channels, and from where."""

    counts: dict[str, int]
    rows: int
    side: int
    channels: int
    told: str


class Faults(NamedTuple):
    """What forbids a run: mistakes of params or the source, and lacks of the machine."""

    input: list[str]
    machine: list[str]


def main(params: Params, project: Path, about: Path, lock: Path, put_back: Path) -> None:
    faults = Faults([], [])
    show("software", software(lock))
    data = look_at_source(params, about, faults.input)
    show("machine", machine(params, project, data, faults.machine))
    show("run", run(params, project, data, faults))
    show("slow", slow(params, data))
    show("worth knowing", notes(put_back))
    show("wrong", iter(faults.input + faults.machine))
    if faults.input:
        raise ValueError("a run cannot start: " + "; ".join(faults.input))
    if faults.machine:
        raise OSError("a run cannot start: " + "; ".join(faults.machine))
    print("a run can start: make repro")


def show(title: str, lines: Iterator[str]) -> None:
    found = [f"  {line}" for line in lines]
    if found:
        print(title, *found, sep="\n", flush=True)


def software(lock: Path) -> Iterator[str]:
    here = {name: metadata.version(name) for name in SHOWN}
    yield ", ".join([f"python {platform.python_version()}", *(f"{name} {v}" for name, v in here.items())])
    pinned = re.findall(r"(?m)^([a-z0-9.-]+)==([^\s;]+)", lock.read_text())  # some twice, by version of Python
    other = [f"{n} {v}" for n, v in here.items() if n in dict(pinned) and (n, v) not in pinned]
    if other:
        yield f"not as {lock} has it: {', '.join(other)}; figures may differ in the last digits"


def look_at_source(params: Params, about: Path, faults: list[str]) -> Known | None:
    try:
        check.makes_sense(params)
        return known(params, about / "audit.json")
    except ValueError as error:
        faults.append(str(error))
        return None


def known(params: Params, record: Path) -> Known | None:
    """From the audit of an earlier `prepare` with these params, else from a list of it, where one costs little to make."""
    path, data = Path(params.data.source), params.data
    if record.exists():
        told = json.loads(record.read_text())
        if told.get("asked") == asked(params):  # an earlier version did not say
            rows = sum(sum(counts.values()) for counts in told["counts"].values())
            said = "; ".join(["as prepare found it", *(w for w in told["warnings"] if w.startswith(NO_VERDICT))])
            return Known(told["counts"]["train"], rows, told["image_size"], told["channels"], said)
    kind = next(kind for kind in sources.FORMATS if kind.accepts(path))
    digits = stands_for(data.source, EMBEDDED)
    if not digits and kind not in (class_folders, manifest):
        return None  # an archive: it would have to be fetched or unpacked
    with tempfile.TemporaryDirectory() as scratch:
        rows = sources.read(data, params.sources.digits, 0, Path(scratch)).rows
    left = math.prod(
        1 - f for s, f in (("test", data.test_fraction), ("val", data.val_fraction)) if s not in set(rows["split"])
    )
    fit = rows["label"][rows["split"].isin(["train", ""])].value_counts().sort_index()
    if not len(fit):
        raise ValueError(
            f"data.source: {data.source!r} has no training rows, for it gives all to val or test; move some to train"
        )
    side = data.image_size if data.image_size != "auto" else 8 if digits else LARGE
    channels = data.channels if data.channels != "auto" else 1 if digits else 3
    counts = {str(c): max(1, round(n * left)) for c, n in fit.items()}
    return Known(counts, len(rows), side, channels, "counted, no picture opened")


def machine(params: Params, project: Path, data: Known | None, faults: list[str]) -> Iterator[str]:
    import torch

    from pipeline import devices

    yield f"{cores()} cores; in bf16 they train {'faster' if devices.fast_bf16() else 'slower'}"
    try:
        where = devices.device(params.compute).type
        for number in range(torch.cuda.device_count() if where == "cuda" else 0):
            card = torch.cuda.get_device_properties(number)
            yield f"GPU {number}: {card.name}, {size(card.total_memory)}"
        yield f"networks run on {where}, in {devices.precision(params.compute, data.side if data else LARGE)}"
    except OSError as error:
        faults.append(str(error))
    free, memory = shutil.disk_usage(project).free, available()
    if memory is not None:
        little = ", which is little: set compute.processes: 1" if memory < LEAST_MEMORY else ""
        yield f"free: {size(memory)} of memory{little}; {size(free)} of disk"
    needed = sum(needs(params, data).values()) if data else 0
    if needed > free:
        faults.append(
            f"the run writes about {size(needed)}, and {size(free)} of disk are free; make room, or lower "
            "augment.views_per_class or data.image_size"
        )
    try:
        tempfile.TemporaryFile(dir=project).close()
    except OSError as error:
        faults.append(f"this folder cannot be written ({error.strerror}), and a run writes to it")


def available() -> int | None:
    """Bytes of memory that may still be taken, of the machine or of this container; None where neither is told."""
    told, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if not told.exists():
        return None
    free = int(re.search(r"MemAvailable:\s+(\d+) kB", told.read_text())[1]) * 1024
    if limit.exists() and (most := limit.read_text().strip()).isdigit():
        free = min(free, int(most) - int((limit.parent / "memory.current").read_text()))
    return free


def settings_of(params: Params, data: Known) -> "Settings":
    from pipeline.classifier import model

    shape = (data.side, data.side, data.channels)
    return model.settings(params.classifier, shape, len(data.counts), sum(data.counts.values()))


def asked_of_each(params: Params, data: Known) -> np.ndarray:
    """The rows of each class that a generator draws."""
    counts, scarce = np.array(list(data.counts.values())), audit.find_scarce(data.counts, params.data.scarce)
    places = np.array([i for i, name in enumerate(data.counts) if name in scarce], int)
    goal = wanted(counts, places, params.generation.dose, params.generation.cap)
    return drawn(goal, params.generation.oversupply)


def needs(params: Params, data: Known) -> dict[str, float]:
    """What a run writes, and how many bytes of it: without a pool's rows, networks of generators, and reports."""
    from pipeline.classifier.model import Network

    counts, many = np.array(list(data.counts.values())), asked_of_each(params, data)
    blocks = [generators.build(borrowing(params.generators, name), params.compute, name) for name in params.made]
    making = sum(block.makes_rows for block in blocks)

    def views(rows: np.ndarray) -> int:
        return len(KINDS) * int(augment.views_per_row(np.repeat(np.arange(len(rows)), rows), params.augment).sum())

    network = sum(p.numel() for p in Network(settings_of(params, data)).parameters()) * 4
    trained = len(params.compared) * params.retraining.seeds + params.teachers.folds + 1
    pictures = {
        "rows": data.rows,
        "their views": views(counts),
        "synthetic rows": making * 2 * int(many.sum()),  # before and after selection
        "views of these": making * views(many),
    }
    found = {what: n * data.side**2 * data.channels for what, n in pictures.items()} | {
        "classifiers": trained * network
    }
    whole, others = sum(found.values()), params.evaluation.repeats - 1
    found |= {"a copy of all that in .dvc/cache": whole}
    return found | ({"other splits, one after the other": (others + 1) * whole} if others else {})


def run(params: Params, project: Path, data: Known | None, faults: Faults) -> Iterator[str]:
    arms, seeds = len(params.compared), params.retraining.seeds
    yield f"profile {'quick' if params.is_quick else 'full'}: {arms} arms x {seeds} seeds"
    yield f"generators: {', '.join(params.made)}"
    if data and not audit.find_scarce(data.counts, params.data.scarce):
        yield "no class is scarce by data.scarce: nothing is generated, and the answer can only be CANNOT_TELL"
    if data:
        settings, needed = settings_of(params, data), needs(params, data)
        yield f"{data.rows} rows ({data.told}), {sum(data.counts.values())} to train on, {len(data.counts)} classes"
        yield f"{data.side} px, {data.channels} channel(s)"
        yield f"{settings.steps} steps of {settings.batch} rows a seed, {arms * seeds * settings.steps} in all arms"
        if not faults.machine:
            from stages import _pace

            yield _pace.duration(params, settings)
            rows = int(asked_of_each(params, data).sum())
            if rows and (said := _pace.making(params, np.array(list(data.counts.values())), rows, settings)):
                yield said
        parts = ", ".join(f"{what} {size(n)}" for what, n in needed.items())
        yield f"writes about {size(sum(needed.values()))}: {parts}"
    else:
        yield "rows are not known before prepare has run"
    if not faults.input:  # dvc reads the source, and would wait for a pipe in it
        yield state(project, faults.machine)


def size(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count < GB else f"{count / GB:.1f} GB"


def state(project: Path, faults: list[str]) -> str:
    """What dvc says of the run; a fault if it cannot say anything."""
    if check.half_written(project / check.NOTES):
        return f"a dvc was killed while it wrote {check.NOTES}, and none runs before make repro has removed it"
    if check.cut_short(project / check.RECORD):
        return f"a dvc was killed while it wrote {check.RECORD}, and none runs before make repro has mended it"
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        with Repo(str(project)) as repo:
            stale = list(repo.status())
    except LockError:
        return "another dvc is at work in this folder; its run is not finished"
    except (DvcException, SCMError) as error:
        faults.append(f"dvc cannot work here: {error}")
        return "dvc cannot say what is up to date"
    few = ", ".join(stale[:8]) + (f" and {len(stale) - 8} more" if len(stale) > 8 else "")
    return f"{len(stale)} stages are not up to date: {few}" if stale else "up to date: make repro has nothing to do"


def slow(params: Params, data: Known | None) -> Iterator[str]:
    import torch

    from pipeline import devices

    alone = params.compute.accelerator == "cpu" or (
        params.compute.accelerator == "auto" and not torch.cuda.is_available()
    )
    side = data.side if data else 0 if params.data.image_size == "auto" else params.data.image_size
    if alone and side > LARGE:
        yield f"pictures of {side} px without a GPU; data.image_size: {LARGE} is faster by far"
    if alone and params.compute.precision == "bf16-mixed" and not devices.fast_bf16():
        yield "compute.precision is bf16-mixed, which is the slower on this CPU; auto is faster"
    if cores() == 1:
        yield "one core: nothing is trained side by side"
    if not params.is_quick:
        search = f" and a search of up to {params.search.trainings} trainings" if params.searched else ""
        yield f"{len(params.compared)} arms x {params.retraining.seeds} seeds{search}; make quick has fewer, try it first"
    if params.evaluation.repeats > 1:
        yield f"evaluation.repeats: the whole run {params.evaluation.repeats} times"
    if data and data.rows > MANY:
        yield f"{data.rows} rows, of which two cores read and compare about {MANY} a minute"


def notes(put_back: Path) -> Iterator[str]:
    if put_back.exists():
        yield f"a make quick was killed, and params.yaml still has its keys; the next make quick or make repro puts {put_back} back"
