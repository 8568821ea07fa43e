"""What every arm says of a split, and whether its rows are enough to tell anything by."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.scores import confusion, from_confusion
from pipeline.evaluation.statistics import breadth, by_confusion, differences, resamples
from pipeline.params import Evaluation

LEAST_GROUPS = 30  # of test rows: resamples of fewer know too little of how wrong they may be
LEAST_OF_CLASS = 5  # likewise: a few that happen to agree have no spread


@dataclass(frozen=True)
class Outcomes:
    """What each arm says of one split: probabilities (S, N, K) by arm; true classes and groups of the rows (N,); class names,
    and those of the scarce ones."""

    probabilities: Mapping[str, np.ndarray]
    y: np.ndarray
    groups: np.ndarray
    labels: Sequence[str]
    calibrated: Mapping[str, np.ndarray] | None = None  # the probabilities after a temperature fitted on validation
    scarce: Sequence[str] = ()

    @property
    def seeds(self) -> int:
        return len(next(iter(self.probabilities.values())))

    def predicted(self, arm: str) -> np.ndarray:
        """Predicted classes, int (S, N)."""
        return self.probabilities[arm].argmax(axis=2)

    def score(self, arm: str, metric: str) -> np.ndarray:
        """A primary metric by seed, float (S,)."""
        tables = np.stack([confusion(guess, self.y, len(self.labels)) for guess in self.predicted(arm)])
        return from_confusion(metric, tables)

    def compare(self, pairs: Sequence[tuple[str, str]], block: Evaluation, seed: int) -> list[np.ndarray]:
        """Draws of the mean paired difference of the primary metric, first arm - second, float (R,) for each pair."""
        metric, k = block.primary_metric, len(self.labels)
        ask = {a: by_confusion(self.predicted(a), self.y, k, metric) for pair in pairs for a in pair}
        drawn = resamples(self.y, self.groups, block.bootstrap, seed)
        classes = np.zeros_like(self.y) if metric == "accuracy" else self.y
        stretch = [breadth(classes, self.groups, block.confidence)] * len(pairs)
        return differences([(ask[a], ask[b]) for a, b in pairs], drawn, seed, stretch)


def too_small(test: Outcomes) -> str:
    """Why this test split can tell nothing whatever the figures say; empty if it can."""
    there, groups = [test.labels[c] for c in np.unique(test.y)], len(np.unique(test.groups))
    if len(there) < 2:
        return f"all rows of the test split are of one class, {there[0]}, beside which no other can be mistaken"
    if test.scarce and not set(test.scarce) & set(there):
        return f"no scarce class has a test row ({', '.join(test.scarce)}), so what helps or hurts them cannot be seen"
    if groups < LEAST_GROUPS:
        return (
            f"the test split has only {groups} independent rows or groups, and a verdict needs at least {LEAST_GROUPS}"
        )
    alone = [test.labels[c] for c in np.unique(test.y) if len(np.unique(test.groups[test.y == c])) < LEAST_OF_CLASS]
    return f"fewer than {LEAST_OF_CLASS} independent test rows or groups stand for {', '.join(alone)}" if alone else ""


def untested(test: Outcomes) -> str:
    """Of which scarce classes no word can be, as an end of its reason."""
    unseen = sorted(set(test.scarce) - {test.labels[c] for c in test.y})
    return f"; no test row is of {', '.join(unseen)}, so nothing is known of that" if unseen else ""


def blind(test: Outcomes, block: Evaluation) -> str:
    """Why a difference within the margin cannot be told from none on this test split; empty if it can.

    Two arms that agree on all groups of a class have no spread there, and may yet differ on as many others as would, with
    the chance left by the confidence, not be among these: -ln((1 - confidence) / 2) of n, the rule of three.
    """
    classes = [(test.labels[c], len(np.unique(test.groups[test.y == c]))) for c in np.unique(test.y)]
    if block.primary_metric == "accuracy":
        classes = [("the test split", len(np.unique(test.groups)))]
    if not block.margin:
        return "no number of test rows tells a difference from one of nothing (evaluation.margin is 0)"
    least = math.ceil(-math.log((1 - block.confidence) / 2) / (block.margin * len(classes)))
    few = [f"{name} ({n})" for name, n in classes if n < least]
    return f"of {', '.join(few)} there are too few test rows or groups; it takes {least}" if few else ""
