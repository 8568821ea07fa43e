"""What classifiers of one setting say of validation rows, against those of another with the same seeds: a paired difference."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.evaluation.statistics import Statistic, breadth, by_confusion, differences, resamples
from pipeline.evaluation.utility import likelihood

DRAWS, CONFIDENCE = 2000, 0.95


class Said(NamedTuple):
    """What an arm's classifiers say of the validation rows of one split: (S, N, K), and classes and groups (N,)."""

    probabilities: np.ndarray
    y: np.ndarray
    groups: np.ndarray

    @classmethod
    def load(cls, file: Path) -> "Said":
        """Probabilities at the temperature that suits these rows best, so that more or less caution is no gain."""
        from pipeline.classifier.predict import fit_temperature, probabilities

        with np.load(file, allow_pickle=False) as arrays:
            raw, y, groups = (arrays[k] for k in ("probabilities", "y", "groups"))
        logits = np.log(np.maximum(raw, 1e-12))
        return cls(np.stack([probabilities(one, fit_temperature(one, y)) for one in logits]), y, groups)

    def statistics(self) -> list[Statistic]:
        """Balanced accuracy, and the mean over classes of the mean log-likelihood of a class."""
        classes = self.probabilities.shape[2]
        right = by_confusion(self.probabilities.argmax(axis=2), self.y, classes, "balanced_accuracy")
        logs = np.stack([likelihood(one[None], self.y) for one in self.probabilities], axis=1)  # (N, S), balanced

        def likely(rows: np.ndarray) -> np.ndarray:
            """Weights (R, N) of rows, of which every class has the same sum as without them -> (R, S)."""
            return rows @ logs / len(self.y)

        return [right, likely]


class Found(NamedTuple):
    """A mean difference over splits and seeds with its interval, of balanced accuracy and of log-likelihood."""

    accuracy: tuple[float, float, float]
    likelihood: tuple[float, float, float]

    @property
    def verdict(self) -> str:
        """By the measures whose interval leaves zero out."""
        sure = {np.sign(low) for _, low, high in self if low > 0 or high < 0}
        return {1.0: "helps", -1.0: "hurts"}[sure.pop()] if len(sure) == 1 else "cannot tell"


def compare(pairs: Sequence[tuple[Said, Said]]) -> Found:
    """First against second, one pair for each split, by the bootstrap over seeds and groups that the verdict has too.

    Splits count alike and as if they were independent.
    """
    seen, drawn = [], []
    for split, (one, other) in enumerate(pairs):
        assert np.array_equal(one.y, other.y) and np.array_equal(one.groups, other.groups), "not the same rows"
        both = list(zip(one.statistics(), other.statistics(), strict=True))
        whole = np.ones((1, len(one.y)))
        seen.append([(a(whole) - b(whole)).mean() for a, b in both])
        again = resamples(one.y, one.groups, DRAWS, split)
        drawn.append(differences(both, again, split, [breadth(one.y, one.groups, CONFIDENCE)] * len(both)))
    ends = np.quantile(np.mean(drawn, axis=0), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)  # (2, measures)
    means = np.mean(seen, axis=0)
    return Found(*((float(m), float(low), float(high)) for m, low, high in zip(means, *ends, strict=True)))


def cell(value: float, low: float, high: float, scale: float, digits: int) -> str:
    """A value with the ends of its interval, scaled, with so many digits."""
    value, low, high = (scale * v for v in (value, low, high))
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
