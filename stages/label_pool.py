"""label_pool: the teachers label rows of the unlabelled pool; validation decides which of these labels are learnt from."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from pipeline import processes
from pipeline.evaluation.utility import gain, likelihood, surely_better
from pipeline.params import Params
from pipeline.samples import Samples
from pipeline.seeds import derive
from pipeline.selection.teachers import pseudo_labels, thresholds
from stages import Output, within
from stages._learn import Real
from stages._trials import answers, by_trial
from stages.augment import write_banks
from stages.pseudo_label import ask_teachers

log = logging.getLogger("stages")


class Labels(NamedTuple):
    """What is said of every row of the pool: class indices int (N,), confidence float (N,), whether it is sure, bool (N,)."""

    judged: np.ndarray
    confidence: np.ndarray
    sure: np.ndarray


def main(
    params: Params,
    train: Path,
    val: Path,
    unlabelled: Path,
    views: Path,
    baseline: Path,
    out: Output,
    unfinished: Path | None = None,
) -> None:
    pool, real = Samples.load(unlabelled), Samples.load(train)
    account: dict[str, Any] = {"rows": len(pool), "classes": {}, "trials": [], "taken": "none"}
    if not len(pool):
        pool.save(out)
    else:
        processes.warm(__name__, "pipeline.classifier.train")
        held = np.load(baseline / "held.npy", allow_pickle=False)
        least = thresholds(held, real.y, params.pool.precision, params.pool.least)
        labels = Labels(*pseudo_labels(ask_teachers(params, baseline, pool).mean(axis=0), least))
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out) as folder:  # which goes with the draft if this stage is killed
            trials = Trials(params, Real(train, val, views), unlabelled, Path(folder), unfinished)
            rows, account["taken"] = trials.choose(labels, least, account["trials"])
        rows.save(out)
        write_banks(out / "views", rows, params)
        account["classes"] = by_class(labels, rows, least)
        log.info("%d rows of the pool, learnt from: %d (%s)", len(pool), len(rows), account["taken"])
    (out / "summary.json").write_text(json.dumps(account, indent=1))


def labelled(pool: Samples, real: Samples, labels: Labels) -> Samples:
    """The sure rows under the labels given to them."""
    names = [real.classes[c] for c in labels.judged]
    return pool.with_columns(label=names, judged=names, confidence=labels.confidence).take(labels.sure)


def by_class(first: Labels, rows: Samples, least: np.ndarray) -> dict[str, dict]:
    """Per class: rows that the teachers judged to be of it, the threshold (None: they are never sure), and rows learnt from."""
    counts = np.bincount(first.judged, minlength=len(least))
    return {
        name: {
            "judged": int(counts[c]),
            "threshold": float(least[c]) if np.isfinite(least[c]) else None,
            "kept": int((rows.y == c).sum()),
        }
        for c, name in enumerate(rows.classes)
    }


class Trials:
    """Trains classifiers on the training rows and labelled rows of the pool, and asks the validation rows what they gain."""

    def __init__(self, params: Params, source: Real, unlabelled: Path, folder: Path, unfinished: Path | None) -> None:
        from pipeline.classifier import model

        self.params, self.folder, self.unlabelled, self.unfinished = params, folder, unlabelled, unfinished
        self.source, self.real, self.held = source, Samples.load(source.train), Samples.load(source.val)
        self.pool = Samples.load(unlabelled)
        self.settings = model.settings(params.classifier, self.real.shape, len(self.real.classes), len(self.real))

    def choose(self, labels: Labels, least: np.ndarray, told: list[dict]) -> tuple[Samples, str]:
        """The rows to learn from, under their labels, and where these are from: the teachers, one refinement, or none.

        The teachers' labels are left if validation rows are surely less likely with them (by one standard error) than
        without the pool. Labels by classifiers that learnt from the other rows' labels are taken if validation rows
        are surely likelier with them than with the teachers', and not surely fewer are right.
        """
        rows = labelled(self.pool, self.real, labels)
        nothing = rows.take(np.empty(0, int))
        if not len(rows):
            return nothing, "none"
        alone, sure = self.said([self.put("none", nothing), self.put("teachers", rows)])
        told += [self.line("none", nothing, alone), self.line("teachers", rows, sure, alone)]
        if told[1]["gain"] < -told[1]["standard_error"]:
            return nothing, "none"
        again = labelled(self.pool, self.real, self.refined(labels, least))
        (refined,) = self.said([self.put("refined", again)])
        told.append(self.line("refined", again, refined, sure))
        return (again, "refined") if surely_better(told[2]) else (rows, "teachers")

    def line(self, name: str, rows: Samples, said: np.ndarray, before: np.ndarray | None = None) -> dict[str, Any]:
        """What the report tells of a trial; the gain is over what was said before it."""
        found = {"labels": name, "rows": len(rows), "likelihood": float(likelihood(said, self.held.y).mean())}
        if before is None:
            return found
        return found | gain(said, before, self.held.y, self.held.table["group"].to_numpy())

    def put(self, name: str, rows: Samples) -> Path:
        """A folder with these rows and the views that the teachers' recipe asks for."""
        rows.save(self.folder / name)
        kinds = [self.params.recipes[self.params.teachers.recipe].views]
        write_banks(self.folder / name / "views", rows, self.params, kinds)
        return self.folder / name

    def said(self, folders: Sequence[Path]) -> list[np.ndarray]:
        """What classifiers of each folder's rows say of the validation rows, float (seeds, N, K) each."""
        numbers = range(self.params.pool.seeds)
        every = np.arange(len(self.held))
        said = self.ask(
            [(self.source.val, every, f, derive(self.params.seed, "pool", n)) for f in folders for n in numbers]
        )
        return by_trial(said, len(numbers))

    def refined(self, labels: Labels, least: np.ndarray) -> Labels:
        """New labels: each part of the pool is judged by a classifier that learnt from the others' sure rows."""
        group = np.unique(self.pool.table["group"], return_inverse=True)[1]
        order = np.random.default_rng(derive(self.params.seed, "pool", "folds")).permutation(group.max() + 1)
        fold, jobs = order[group] % self.params.teachers.folds, []
        for k in np.unique(fold):
            others = labels._replace(sure=labels.sure & (fold != k))
            folder = self.put(f"without{k}", labelled(self.pool, self.real, others))
            asked = np.flatnonzero(fold == k)
            jobs.append((self.unlabelled, asked, folder, derive(self.params.seed, "pool", "refine", int(k))))
        probabilities = np.empty((len(self.pool), len(self.real.classes)))
        for k, said in zip(np.unique(fold), self.ask(jobs), strict=True):
            probabilities[fold == k] = said
        return Labels(*pseudo_labels(probabilities, least))

    def ask(self, jobs: Sequence[tuple[Path, np.ndarray, Path, int]]) -> list[np.ndarray]:
        from pipeline import devices

        recipe, given = self.params.recipes[self.params.teachers.recipe], []
        for asked, rows, folder, seed in jobs:
            source, kept = self.source._replace(pool=folder), within(self.unfinished, f"{folder.name}-{seed}")
            given.append(("the pool", self.params, self.settings, recipe, seed, [], source, (asked, rows), kept))
        workers, steps = devices.workers(self.params.compute), len(jobs) * self.settings.steps
        return processes.parallel(answers, given, workers, "label_pool", steps)
