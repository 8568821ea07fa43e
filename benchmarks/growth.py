"""How the library's calls grow with the rows: CPU seconds and memory of each at several sizes, in one process each.

N real rows meet N synthetic ones, of ten classes, three of them scarce, at 28 px. Imported by processes of
benchmarks/rounds.py alone; what the stages spread over processes runs here in one, so that its CPU seconds are counted.
"""

import math
import resource
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.loop import CLASSES, SIDE
from benchmarks.rounds import ROOT
from pipeline import params, processes
from pipeline.samples import Facts, Samples, spread, table

SIZES = (1_000, 3_000, 10_000)
FEATURES, TEACHERS = 64, 3
NAMES = tuple(str(c) for c in range(CLASSES))


def pictures(rows: int, seed: int) -> np.ndarray:
    """Smooth noise without two alike, uint8 (N, 28, 28, 1)."""
    rng, size = np.random.default_rng(seed), -(-SIDE // 7)
    coarse = rng.integers(0, 256, (rows, 7, 7), np.uint8)
    fine = coarse.repeat(size, axis=1).repeat(size, axis=2)[:, :SIDE, :SIDE]
    return np.ascontiguousarray((fine // 2 + rng.integers(0, 40, fine.shape, np.uint8))[..., None])


def samples(rows: int, seed: int) -> Samples:
    """One row in three has a group with others."""
    y = np.random.default_rng(seed).integers(0, CLASSES, rows)
    names = [f"{seed}-{i // 3 if i % 3 else i}" for i in range(rows)]
    split = [("train", "train", "train", "val", "test")[i % 5] for i in range(rows)]
    columns = table(id=[f"{seed}-{i}" for i in range(rows)], group=names, label=[NAMES[c] for c in y], split=split)
    return Samples(columns, pictures(rows, seed), Facts(NAMES, NAMES[-3:]))


def features(rows: Samples, seed: int) -> np.ndarray:
    """Float (N, FEATURES), around a centre for each class."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(CLASSES, FEATURES))[rows.y] + rng.normal(size=(len(rows), FEATURES))).astype(np.float32)


def audit(real: Samples, _: Samples) -> Callable[[], object]:
    """Conflicts, leaks, splits and counts, as `prepare` makes them of its tables."""
    from pipeline.data import audit, splits

    rng, data = np.random.default_rng(0), params.load(ROOT / "params.yaml").data
    frame, n = real.table, len(real)
    seen = pd.DataFrame({"hash": frame["id"], "notes": "", "height": SIDE, "width": SIDE})
    seen = seen.assign(mean=rng.normal(size=n), spread=rng.normal(size=n))

    def run() -> None:
        audit.conflicts(seen["hash"], frame["label"])
        lists = [frame[c].tolist() for c in ("label", "group")]
        splits.assign(*lists, [""] * n, {"test": 0.25, "val": 0.15}, 0)
        audit.account(frame, seen, NAMES, NAMES[-3:], True, data)

    return run


def duplicates(real: Samples, _: Samples) -> Callable[[], object]:
    """Near duplicates among all rows, and their groups."""
    from pipeline.data import duplicates
    from pipeline.data.intake import Thumbs

    processes.parallel = lambda function, jobs, *_: [function(*job, report=lambda count, note: None) for job in jobs]
    folder = tempfile.mkdtemp(dir=ROOT / ".work" / "bench")
    file, n, area = Path(folder) / "thumbs.bin", len(real), SIDE * SIDE
    real.images.tofile(file)
    thumbs = Thumbs([file], np.array([(0, i * area, SIDE, SIDE) for i in range(n)]))
    given = (thumbs, np.full(n, SIDE), real.y, np.zeros(n, bool), 0)
    return lambda: duplicates.groups(real.table["group"].tolist(), duplicates.find(*given).pairs)


def labelling(_: Samples, made: Samples) -> Callable[[], object]:
    """One teacher's logits and features of the synthetic rows."""
    import torch

    from pipeline.classifier import predict
    from pipeline.classifier.model import Network, settings

    torch.set_num_threads(1)
    block = params.load(ROOT / "params.yaml").classifier
    network = Network(settings(block, made.shape, CLASSES, len(made)))
    return lambda: predict.run(network, made.images, torch.device("cpu"))


def copy_rule(real: Samples, _: Samples) -> Callable[[], object]:
    from pipeline.selection import copies

    return lambda: copies.told_by(real, 0.01)


def copy_search(real: Samples, made: Samples) -> Callable[[], object]:
    """The nearest real rows of every synthetic row."""
    from pipeline.selection import copies

    return lambda: copies.nearest(made.images, real.images, real.table["group"].to_numpy())


def copy_audit(real: Samples, made: Samples) -> Callable[[], object]:
    """Pixel distances and what they tell of scarce classes, of as many rows as the stage `audit_copies` takes."""
    from functools import partial

    from pipeline.evaluation import privacy
    from stages.audit_copies import MADE, REAL, distances, some

    def run() -> None:
        sides = [some(made, MADE), some(real, REAL), some(samples(len(real), 2), REAL)]
        between = partial(privacy.pixel_distances, flips=())
        parts = {NAMES[c]: distances(c, sides, [s.images for s in sides], between) for c in real.scarce}
        list(privacy.measures(parts, 0, 0.95))

    return run


def selection(real: Samples, made: Samples) -> Callable[[], object]:
    """Likeness, neighbours, reasons and quota of every synthetic row."""
    from pipeline.selection import rules, spectra, teachers

    rng, block = np.random.default_rng(0), params.load(ROOT / "params.yaml").selection
    held = rng.dirichlet(np.ones(CLASSES), len(real))
    said = rng.dirichlet(np.ones(CLASSES), (TEACHERS, len(made)))

    def run() -> None:
        judged, confidence = teachers.likeliest(said.mean(axis=0))
        distance = spectra.distance(made.images, real.images, real.table["group"].to_numpy())
        near = teachers.neighbouring(held, real.y, block.neighbours)
        spreads, copied = spread(made.images, made.y, real), np.zeros(len(made), bool)
        why = rules.reasons(made.y, judged, confidence, distance, spreads, copied, near, block)
        rules.fill(made.y, rules.refuse(why, 0.25), np.full(CLASSES, len(made) // 20))

    return run


def fidelity(real: Samples, made: Samples) -> Callable[[], object]:
    """All distances with their spread, and what synthetic rows alone teach."""
    from pipeline.evaluation import fidelity

    a, b, groups = features(real, 0), features(made, 1), np.arange(len(real))

    def run() -> None:
        fidelity.compare(a, b, 3, 10)
        fidelity.deviation(a, groups, b, 3, 10, 0)
        fidelity.transfer(b, made.y, a, real.y, groups)

    return run


CALLS = {f.__name__: f for f in (audit, duplicates, labelling, copy_rule, copy_search, copy_audit, selection, fidelity)}


def cost(name: str, rows: int) -> tuple[float, float]:
    """CPU seconds of one call, and how much more memory its process held at most than before it, in MB."""
    from benchmarks.denoisers import cpu

    run = CALLS[name](samples(rows, 0), samples(rows, 1))
    before = peak()
    return cpu(run), peak() - before


def peak() -> float:
    """The most memory that this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The power of the rows that the seconds grow with: the slope of a line through their logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def steep(sizes: Sequence[int], seconds: Sequence[float]) -> bool:
    """Whether they grow faster than n log n does between these sizes, by more than a tenth in the exponent."""
    return exponent(sizes, seconds) > exponent(sizes, [n * math.log(n) for n in sizes]) + 0.1
