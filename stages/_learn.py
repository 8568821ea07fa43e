"""How a stage trains a classifier, be it an arm, a teacher or a trial: folders and a recipe in, a network out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.data.augment import Views
from pipeline.data.loaders import Batches, Rows, mean_weight
from pipeline.params import Params, Recipe
from pipeline.samples import Samples

if TYPE_CHECKING:
    from pipeline.classifier.model import Network, Settings


class Real(NamedTuple):
    """Folders of real rows: training and validation rows, the views of the first, and rows of a pool with theirs."""

    train: Path
    val: Path
    views: Path
    pool: Path | None = None


def learn(
    params: Params,
    settings: "Settings",
    recipe: Recipe,
    seed: int,
    made: Rows | None,
    source: Real,
    report: Callable,
    kept: Path | None = None,
    some: np.ndarray | None = None,
) -> tuple["Network", list[dict]]:
    """A classifier of real rows, or of some of them, bool (N,), and synthetic ones, and its curve."""
    from pipeline.classifier.train import train as fit

    real, held = Samples.load(source.train), Samples.load(source.val)
    own = Rows(real.y, Views.load(source.views / recipe.views), real.table["weight"].to_numpy())
    own = own if some is None else own.take(some)
    if source.pool is not None and len(more := Samples.load(source.pool)):
        bank = Views.joined([own.views, Views.load(source.pool / "views" / recipe.views)])
        beside = mean_weight(own, len(real.classes))[more.y]
        own = Rows(np.concatenate([own.y, more.y]), bank, np.concatenate([own.weight, beside]))
    batches = mix(recipe, own, len(real.classes), settings, seed, made)
    return fit(batches, held, settings, recipe, seed, params.compute, report, kept)


def mix(recipe: Recipe, real: Rows, classes: int, settings: "Settings", seed: int, made: Rows | None) -> Batches:
    """The batches of one training: real rows and synthetic ones, as the recipe draws them.

    The loss weight of a synthetic row is one beside a real row of its class, whatever those of the class weigh.
    """
    size = (settings.batch, settings.steps)
    if made is not None:
        made = replace(made, weight=made.weight * mean_weight(real, classes)[made.y])
    return Batches(real, classes, *size, seed, recipe.balance, made, recipe.share)


def synthetic_rows(recipe: Recipe, parts: list[tuple[Path, np.ndarray]]) -> Rows | None:
    """The chosen rows of each folder as one set to draw from."""
    parts = [(folder, chosen) for folder, chosen in parts if len(chosen)]
    if not parts:
        return None
    y = np.concatenate([Samples.load(folder).y[chosen] for folder, chosen in parts])
    weight = np.full(len(y), recipe.weight)
    if len(parts) == 1:  # without a copy of the bank
        folder, chosen = parts[0]
        return Rows(y, Views.load(folder / "views" / recipe.views), weight, chosen)
    banks = [Views.load(folder / "views" / recipe.views).take(chosen) for folder, chosen in parts]
    return Rows(y, Views.joined(banks), weight)


def titled(report: Callable, who: str, count: int, note: str) -> None:
    """Reports under the name of one of several trainings."""
    report(count, f"{who}, {note}")
