"""search: how each generator's rows are best used, tried on validation with training seeds and synthetic rows that no arm sees."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from pipeline import csvs, processes
from pipeline.evaluation.utility import gain, likelihood, surely_better, surely_worse
from pipeline.generators.base import failure
from pipeline.params import GUIDING, HELDBACK, Arm, Params, guided
from pipeline.samples import Samples, with_pool
from pipeline.seeds import derive
from pipeline.selection import copies
from pipeline.selection.rules import drawn, wanted
from stages import Output
from stages._learn import Real
from stages._space import Found, space, spelt_out
from stages._trials import answers, by_trial
from stages.augment import write_banks
from stages.generate import ask
from stages.pseudo_label import judge
from stages.retrain import added_rows, settle

log = logging.getLogger("stages")


def main(
    params: Params,
    train: Path,
    pool: Path,
    val: Path,
    views: Path,
    models: Path,
    baseline: Path,
    out: Output,
    unfinished: Path | None = None,
) -> None:
    out.mkdir(parents=True)
    found: dict[str, Found] = {name: {} for name in [*params.generators, HELDBACK]}
    table: list[dict] = []
    names = [n for n in params.searched if not failure(models / params.generators[n].model)]
    if names and len(Samples.load(train).scarce):
        processes.warm(__name__, "pipeline.classifier.train")
        with TemporaryDirectory(dir=out) as folder:
            source = Real(train, val, views)
            trials = Trials(params, source, pool, models, baseline, unfinished or Path(folder))
            climbs = best_first(trials, names)
            climb(trials, climbs)
        found |= {one.name: one.found for one in climbs}
        table = [one.table[0] for one in climbs] + [line for one in climbs for line in one.table[1:]]
    (out / "drawn").mkdir()
    for name, settings in found.items():
        (out / f"{name}.json").write_text(json.dumps(settings))
        guiding = {k: v for k, v in settings.items() if k in GUIDING}  # apart: another recipe asks for no other rows
        (out / "drawn" / f"{name}.json").write_text(json.dumps(guiding))
    csvs.write(pd.DataFrame(table, columns=COLUMNS), out / "tried.csv")


@dataclass
class Climb:
    """What was found so far for a generator, what its classifiers say with it, and all that was tried."""

    name: str
    said: np.ndarray
    table: list[dict]
    found: Found = field(default_factory=dict)


def best_first(trials: "Trials", names: Sequence[str]) -> list[Climb]:
    """Each generator with what comes of its use as params have it, the best first; those beyond the budget are left out."""
    starts = [(name, trials.run(name, [{}])[0]) for name in names if trials.affords(1)]
    means = [likelihood(said, trials.held.y).mean() for _, said in starts]
    rows = [
        {"generator": name, "likelihood": mean, "taken": True} for (name, _), mean in zip(starts, means, strict=True)
    ]
    return [Climb(*starts[i], [rows[i]]) for i in np.argsort([-mean for mean in means], kind="stable")]


def climb(trials: "Trials", climbs: Sequence[Climb]) -> None:
    """One key of the space after the other, each for all generators, so that a budget that ends leaves the last keys untried.

    Of doses, those are tried that come to other rows; of weights and shares, those that are not in use anyway.
    """
    for key in trials.params.search.space.model_dump():
        if key == "recipe":
            if not agree(trials, climbs):
                return
            continue
        for one in climbs:
            if not trials.affords(1):
                return
            values = [v for v in space(trials.params, one.name).get(key, []) if trials.matters(key, v)]
            values = [v for v in values if v != standing(trials.params, one, key)]
            values = [v for v in values if key not in GUIDING or trials.passes(one.name, one.found | {key: v})]
            if values := values[: trials.affords(len(values))]:
                step(trials, one, key, values)


def agree(trials: "Trials", climbs: Sequence[Climb]) -> bool:
    """One recipe for all: each is tried with the rows of the `JUDGES` best at the start, and judged over these together.

    What a recipe is worth hardly depends on whose rows are added, and two trainings tell too little of it; and where
    all have the same one, no arm is ahead for its recipe. Only with whose rows it is surely worse, be it a control or a
    candidate, goes without. False if the budget allows no recipe for all.
    """
    recipes = trials.params.search.space.recipe
    judges = [one for one in climbs if trials.passes(one.name, one.found)][:JUDGES] if recipes else []
    if not judges:
        return True
    others = [one for one in climbs if one not in judges]
    many = (trials.affords(len(recipes) * len(judges) + len(others)) - len(others)) // len(judges)
    if many < 1:
        return False
    recipes = recipes[:many]
    tried = [spelt_out(trials.params, "recipe", recipe) for recipe in recipes]
    said = {one.name: trials.run(one.name, tried) for one in judges}
    together = [np.concatenate(several) for several in zip(*said.values(), strict=True)]
    pooled = Climb(", ".join(said), np.concatenate([one.said for one in judges]), climbs[0].table)
    taken = best(trials, pooled, "recipe", recipes, together, len(judges))
    for one in climbs if taken is not None else ():
        new = said[one.name][taken] if one in judges else trials.run(one.name, [tried[taken]])[0]
        line = row(trials, one.name, "recipe", recipes[taken], new, one.said)
        one.table.append(line | {"taken": not surely_worse(line)})
        if not surely_worse(line):
            one.found, one.said = tried[taken], new
    return True


def standing(params: Params, one: Climb, key: str) -> Any:
    """What a key of the recipe is without a trial of it; None for other keys."""
    return getattr(settle(params, stand_in(params, one.name), one.found)[1], key, None)


def step(trials: "Trials", one: Climb, key: str, values: list) -> None:
    """Tries these values, and takes the best, if any is better."""
    tried = [one.found | spelt_out(trials.params, key, value) for value in values]
    results = trials.run(one.name, tried)
    taken = best(trials, one, key, values, results)
    if taken is not None:
        one.found, one.said = tried[taken], results[taken]


def best(
    trials: "Trials", one: Climb, key: str, values: list, results: Sequence[np.ndarray], several: int = 1
) -> int | None:
    """Which of these values is the likeliest that is surely better and has not surely fewer rows right; all are noted.

    `several`: of how many generators the trainings are.
    """
    told = zip(values, results, strict=True)
    rows = [row(trials, one.name, key, value, said, one.said, several) for value, said in told]
    fit = [r["gain"] if surely_better(r, len(rows)) else 0.0 for r in rows]
    taken = int(np.argmax(fit)) if any(fit) else None
    one.table += [r | {"taken": i == taken} for i, r in enumerate(rows)]
    return taken


def row(
    trials: "Trials", name: str, key: str, value: Any, said: np.ndarray, before: np.ndarray, several: int = 1
) -> dict[str, Any]:
    """A line of tried.csv, but for whether the value was taken."""
    held = trials.held
    found = gain(said, before, held.y, held.table["group"].to_numpy(), several)
    mean = likelihood(said, held.y).mean()
    return {"generator": name, "key": key, "value": json.dumps(value), "likelihood": mean} | found


COLUMNS = "generator", "key", "value", "likelihood", "gain", "standard_error", "correct", "correct_error", "taken"
JUDGES = 3  # generators over which a recipe is judged


class Trials:
    """Trains classifiers with the rows of a generator under given settings, as long as the budget lasts.

    What it has judged and trained lies in `kept`, where it is found again if the stage is killed.
    """

    def __init__(self, params: Params, source: Real, pool: Path, models: Path, baseline: Path, kept: Path) -> None:
        self.params, self.source, self.fitted_on = params, source, (source.train, pool)
        self.models, self.baseline, self.kept = models, baseline, kept
        self.real, self.held, self.left = Samples.load(source.train), Samples.load(source.val), params.search.trainings
        self.goal = wanted(self.real.counts, self.real.scarce, params.generation.dose, params.generation.cap)
        seen = with_pool(*self.fitted_on)
        self.rule = copies.told_by(seen, params.selection.copy_false_alarms)

    def affords(self, several: int) -> int:
        """How many of several trials the budget still allows."""
        return min(several, self.left // self.params.search.seeds)

    def matters(self, key: str, value: Any) -> bool:
        """Whether other rows are learnt from with this value: the cap may leave no dose a choice."""
        if key != "dose":
            return True
        return bool((wanted(self.real.counts, self.real.scarce, value, self.params.generation.cap) < self.goal).any())

    def passes(self, name: str, found: Found) -> bool:
        """Whether there is a row to learn from under these settings; without, an arm may be likelier, and is no gain of theirs."""
        every = stand_in(self.params, name).use == "all"
        kept = every or bool(Samples.load(self.judged(name, found)).table["keep"].any())
        if not kept:
            log.warning("%s is not tried with %s: of its rows none passes selection", name, json.dumps(found))
        return kept

    def run(self, name: str, several: Sequence[Found]) -> list[np.ndarray]:
        """What the classifiers of each trial say of the validation rows, float (seeds, N, K)."""
        from pipeline import devices
        from pipeline.classifier import model

        settings = model.settings(self.params.classifier, self.real.shape, len(self.real.classes), len(self.real))
        numbers, jobs = range(self.params.search.seeds), []
        for found in several:
            rows, (arm, recipe) = self.judged(name, found), settle(self.params, stand_in(self.params, name), found)
            parts = [(rows, added_rows(self.params, arm, recipe, self.real, [Samples.load(rows)])[0])]
            for n in numbers:
                seed, kept = derive(self.params.seed, "search", n), self.kept / f"{label(name, found)}-{n}"
                jobs.append((name, self.params, settings, recipe, seed, parts, self.source, None, kept))
        self.left -= len(jobs)
        workers, steps = devices.workers(self.params.compute), len(jobs) * settings.steps
        said = processes.parallel(answers, jobs, workers, f"search {name}", steps)
        return by_trial(said, len(numbers))

    def judged(self, name: str, found: Found) -> Path:
        """The folder of judged rows that a generator gives under these settings, made if it is not there yet."""
        options = {k: v for k, v in found.items() if k in GUIDING}
        folder, draft = self.kept / "rows" / label(name, options), self.kept / "rows" / "draft"
        if not folder.exists():
            params = guided(self.params, name, options)
            many = drawn(self.goal, params.generation.oversupply)
            made = ask(params, name, self.fitted_on, self.models / params.generators[name].model, many, "search")
            rows = judge(params, self.fitted_on, made, self.baseline, self.rule, self.goal)
            if draft.exists():  # of a run that was killed meanwhile
                rmtree(draft)
            rows.save(draft)
            write_banks(draft / "views", rows, params)
            os.sync()  # or after a power cut the name may be there, and not the rows
            draft.rename(folder)
        return folder


def label(name: str, settings: Found) -> str:
    """A folder's name for a generator under these settings."""
    return f"{name}-{derive(0, json.dumps(settings, sort_keys=True))}"


def stand_in(params: Params, name: str) -> Arm:
    """Of the arms that the search is for, the plainest of this generator: its rows alone, in the dose of all."""
    arms = [a for a in params.compared.values() if a.tuned and a.role in ("candidate", "control") and a.rows == name]
    return min(arms, key=lambda arm: (arm.also != "nothing", arm.dose != params.generation.dose))
