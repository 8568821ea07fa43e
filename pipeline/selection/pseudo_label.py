"""What probabilities say of a row, and which classes are neighbours in the eyes of the teachers."""

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
