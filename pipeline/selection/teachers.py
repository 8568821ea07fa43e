"""What the teachers' probabilities say: the likeliest class, which classes are neighbours, which rows of a pool to learn from.

Pseudo-labels (Lee, 2013) above a confidence of each class's own, as in FlexMatch (Zhang et al., 2021); here it is set by
how often the teachers are right, at that confidence, about training rows that they never saw.
"""

import numpy as np


def likeliest(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class index int (N,) and confidence float (N,) from probabilities (N, K)."""
    return probabilities.argmax(axis=1), probabilities.max(axis=1)


def neighbour_count(classes: int, asked: int) -> int:
    """How many neighbours a class of so many can have."""
    return min(asked, (classes - 1) // 2)


def neighbouring(held: np.ndarray, y: np.ndarray, count: int) -> np.ndarray:
    """Bool (K, K): entry (c, j) is true if j is c itself or among the `count` classes that rows of c most resemble.

    At most half of the other classes are neighbours, so that there always is one that is not. `held` (N, K) are
    out-of-fold probabilities of real rows with labels y (N,).
    """
    k = held.shape[1]
    count = neighbour_count(k, count)
    mean = np.stack([held[y == c].mean(axis=0) if (y == c).any() else np.full(k, 1 / k) for c in range(k)])
    np.fill_diagonal(mean, np.inf)
    rank = np.argsort(np.argsort(-mean, axis=1, kind="stable"), axis=1, kind="stable")
    return rank <= count


def thresholds(held: np.ndarray, y: np.ndarray, precision: float, least: float) -> np.ndarray:
    """The confidence from which on a row judged to be of a class is taken for one, float (K,); infinite for none.

    `held` (N, K) are out-of-fold probabilities of rows with labels y (N,). Of the rows judged to be of the class at
    least so surely, and never less surely than `least`, the share `precision` is right; the lowest such confidence counts.
    """
    judged, confidence = likeliest(held)
    found = np.full(held.shape[1], np.inf)
    for c in range(held.shape[1]):
        own = np.flatnonzero((judged == c) & (confidence >= least))
        own = own[np.argsort(-confidence[own], kind="stable")]
        right = np.cumsum(y[own] == c) / np.arange(1, len(own) + 1)
        last = np.append(np.diff(confidence[own]) != 0, True)[: len(own)]  # rows of equal confidence stand together
        good = np.flatnonzero((right >= precision) & last)
        if len(good):
            found[c] = confidence[own[good[-1]]]
    return found


def pseudo_labels(probabilities: np.ndarray, threshold: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class index int (N,), confidence float (N,) and whether it reaches the class's threshold, bool (N,)."""
    judged, confidence = likeliest(probabilities)
    return judged, confidence, confidence >= threshold[judged]
