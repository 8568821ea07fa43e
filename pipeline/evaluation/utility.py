"""What the search compares settings by: how likely the validation rows are to a classifier, class by class.

The likelihood of a row changes a little with every change of a classifier, its being right rarely does: of few rows it
tells more.
"""

import numpy as np


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


def gain(said: np.ndarray, before: np.ndarray, y: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """The gain in mean log-likelihood over `before`, its standard error, and the gain in balanced accuracy.

    Both (S, N, K), trainings of the same seeds. The error is over groups of rows and, where there are several, over trainings.
    """
    changes = np.stack([likelihood(a[None], y) - likelihood(b[None], y) for a, b in zip(said, before, strict=True)])
    change = changes.mean(axis=0)
    _, group = np.unique(groups, return_inverse=True)
    sums = np.bincount(group, change - change.mean())
    error = np.sqrt(np.square(sums).sum() * len(sums) / max(len(sums) - 1, 1)) / len(y)
    if len(changes) > 1:
        error = np.hypot(error, changes.mean(axis=1).std(ddof=1) / np.sqrt(len(changes)))
    correct = [((p.argmax(axis=2) == y) * balance(y)).mean() for p in (said, before)]
    return {"gain": float(change.mean()), "standard_error": float(error), "correct": float(correct[0] - correct[1])}
