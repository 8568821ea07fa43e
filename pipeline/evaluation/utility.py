"""What the search compares settings by: how likely the validation rows are to a classifier, class by class.

The likelihood of a row changes a little with every change of a classifier, its being right rarely does: of few rows it
tells more.
"""

from collections.abc import Mapping

import numpy as np
from scipy.stats import norm

SURELY_WORSE = 2.0  # standard errors, beyond which what all others do with a gain is left


def likelihood(said: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean log-likelihood of each row, float (N,), over trainings; `said` (S, N, K) are the probabilities.

    Rows are weighted so that the mean over rows is the mean over the classes there are.
    """
    rows = np.arange(len(y))
    logs = np.mean([np.log(np.maximum(p[rows, y], 1e-12)) for p in said], axis=0)
    return logs * balance(y)


def balance(y: np.ndarray) -> np.ndarray:
    """Weights (N,) of mean one that give every class the same sum."""
    counts = np.bincount(y)
    return len(y) / (np.count_nonzero(counts) * counts[y])


def gain(said: np.ndarray, before: np.ndarray, y: np.ndarray, groups: np.ndarray, several: int = 1) -> dict[str, float]:
    """The gains in mean log-likelihood and in balanced accuracy over `before`, each with its standard error.

    Both (S, N, K), trainings of the same seeds: first all of one generator, then of the next, if of `several`. An error is over
    groups of rows and, where there is more than one, over seeds.
    """
    likelier = np.stack([likelihood(a[None], y) - likelihood(b[None], y) for a, b in zip(said, before, strict=True)])
    more = [(a.argmax(axis=1) == y).astype(float) - (b.argmax(axis=1) == y) for a, b in zip(said, before, strict=True)]
    right = np.stack(more) * balance(y)
    return {
        "gain": float(likelier.mean()),
        "standard_error": _error(by_seed(likelier, several), groups),
        "correct": float(right.mean()),
        "correct_error": _error(by_seed(right, several), groups),
    }


def surely_better(found: Mapping[str, float], among: int = 1) -> bool:
    """Whether rows are likelier by more than a standard error, and not by as much fewer are right; of what `gain` found.

    The best of several has to be ahead by more, so that one of them is so by chance no more often than a single one by one
    standard error (Sidak, 1967): of six by 1.9.
    """
    errors = norm.ppf(norm.cdf(1.0) ** (1 / among))
    return found["gain"] > errors * found["standard_error"] and found["correct"] >= -found["correct_error"]


def surely_worse(found: Mapping[str, float]) -> bool:
    """Whether rows are less likely, or fewer are right, by more than two standard errors."""
    return any(
        found[value] < -SURELY_WORSE * found[error]
        for value, error in (("gain", "standard_error"), ("correct", "correct_error"))
    )


def by_seed(changes: np.ndarray, several: int) -> np.ndarray:
    """The mean over generators, (S, N), for what a seed does it does to all of them alike."""
    return changes.reshape(several, -1, changes.shape[1]).mean(axis=0)


def _error(changes: np.ndarray, groups: np.ndarray) -> float:
    """The standard error of the mean of changes (S, N), of seeds and rows."""
    change = changes.mean(axis=0)
    _, group = np.unique(groups, return_inverse=True)
    sums = np.bincount(group, change - change.mean())
    error = np.sqrt(np.square(sums).sum() * len(sums) / max(len(sums) - 1, 1)) / len(change)
    if len(changes) > 1:
        error = np.hypot(error, changes.mean(axis=1).std(ddof=1) / np.sqrt(len(changes)))
    return float(error)
