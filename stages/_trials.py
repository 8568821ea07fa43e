"""Classifiers trained to be asked and not to be kept: so `search` and `label_pool` learn what validation gains by something."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import Diverged
from pipeline.params import Params, Recipe
from pipeline.samples import Samples
from stages._learn import Real, learn, synthetic_rows

if TYPE_CHECKING:
    from pipeline.classifier.model import Settings

log = logging.getLogger("stages")


def answers(
    what: str,
    params: Params,
    settings: "Settings",
    recipe: Recipe,
    seed: int,
    parts: list[tuple[Path, np.ndarray]],
    source: Real,
    asked: tuple[Path, np.ndarray] | None,
    kept: Path | None,
    report: Callable,
) -> np.ndarray:
    """Probabilities (N, K) by a classifier that learnt from these rows; `what` names the trial.

    Of the rows `asked` of a folder, or of the validation rows. At the temperature that suits the validation rows best, so
    that more or less caution is no gain. All classes alike if it diverged.
    """
    from pipeline import devices
    from pipeline.classifier import predict

    held, where = Samples.load(source.val), devices.device(params.compute)
    images = held.images if asked is None else Samples.load(asked[0]).images[asked[1]]
    try:
        network = learn(params, settings, recipe, seed, synthetic_rows(recipe, parts), source, report, kept)[0]
    except Diverged as error:
        log.warning("warning: a trial of %s counts as one that knows nothing: %s", what, error)
        return np.full((len(images), settings.classes), 1 / settings.classes)
    logits = predict.run(network, held.images, where)[0]
    told = logits if asked is None else predict.run(network, images, where)[0]
    return predict.probabilities(told, predict.fit_temperature(logits, held.y))


def by_trial(said: Sequence[np.ndarray], seeds: int) -> list[np.ndarray]:
    """What the classifiers of each trial say, float (seeds, N, K), from one after the other, (N, K) each."""
    return [np.stack(said[i : i + seeds]) for i in range(0, len(said), seeds)]
