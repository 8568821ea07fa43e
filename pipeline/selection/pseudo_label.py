"""What the teachers say of a row: their mean probability, how far it lies from its class, and what classes are neighbours."""

import numpy as np

PSEUDO_ROWS = 5  # how many rows the common spread counts for when a class has few of its own


def judge(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class index int (N,) and confidence float (N,) from the teachers' probabilities (T, N, K), averaged."""
    mean = probabilities.mean(axis=0)
    return mean.argmax(axis=1), mean.max(axis=1) if mean.shape[0] else np.zeros(0)


def neighbouring(held: np.ndarray, y: np.ndarray, count: int) -> np.ndarray:
    """Bool (K, K): entry (c, j) is true if j is c itself or among the `count` classes that rows of c most resemble.

    At most half of the other classes are neighbours, so that there always is one that is not. `held` (N, K) are
    out-of-fold probabilities of real rows with labels y (N,).
    """
    k = held.shape[1]
    count = min(count, (k - 1) // 2)
    mean = np.stack([held[y == c].mean(axis=0) if (y == c).any() else np.full(k, 1 / k) for c in range(k)])
    np.fill_diagonal(mean, np.inf)
    rank = np.argsort(np.argsort(-mean, axis=1, kind="stable"), axis=1, kind="stable")
    return rank <= count


def band_distance(
    real: np.ndarray, y: np.ndarray, fold: np.ndarray, synthetic: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far synthetic rows (M,) and real rows (N,) lie from the centre of their class, as the teachers see it.

    Distances are relative: 1 is as far as 95 % of real rows lie in the eyes of a teacher that never saw them, so a
    teacher's habit of pulling its own training rows together does not count against new rows. `real` (T, N, D) and
    `synthetic` (T, M, D) are features by teacher; teacher t did not see the real rows with fold == t. A class's spread
    is pulled to that of all classes by PSEUDO_ROWS rows. Rows of a class that no teacher saw get NaN.
    """
    new, held = np.full((len(real), len(labels)), np.nan), np.full(len(y), np.nan)
    for t, features in enumerate(real):
        seen = fold != t
        centre, spread = _centres(features[seen], y[seen], int(max(y.max(), labels.max(initial=0))) + 1)
        out = np.linalg.norm(features[~seen] - centre[y[~seen]], axis=1) / spread[y[~seen]]
        unit = np.nanquantile(out, 0.95) if np.isfinite(out).any() else 1.0
        held[~seen] = out / max(unit, 1e-12)
        new[t] = np.linalg.norm(synthetic[t] - centre[labels], axis=1) / spread[labels] / max(unit, 1e-12)
    known = np.isfinite(new).any(axis=0)
    mean = np.full(len(labels), np.nan)
    mean[known] = np.nanmean(new[:, known], axis=0)
    return mean, held


def centre_distance(real: np.ndarray, y: np.ndarray, synthetic: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The same by one encoder that was not trained on labels, float (M,); features (N, D) and (M, D).

    1 is as far as 95 % of real rows lie from the centre of the others of their class.
    """
    centre, spread = _centres(real, y, int(max(y.max(), labels.max(initial=0))) + 1)
    count = np.bincount(y)[y]
    own = np.linalg.norm(real - centre[y], axis=1) * count / np.maximum(count - 1, 1) / spread[y]
    unit = np.quantile(own[count > 1], 0.95) if (count > 1).any() else 1.0
    return np.linalg.norm(synthetic - centre[labels], axis=1) / spread[labels] / max(unit, 1e-12)


def _centres(features: np.ndarray, y: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Class means (K, D) and spreads (K,): leave-one-out root-mean-square distances to the mean, shrunk."""
    centre, square, n = np.full((classes, features.shape[1]), np.nan), np.zeros(classes), np.zeros(classes)
    for c in range(classes):
        own = features[y == c]
        if len(own):
            centre[c] = own.mean(axis=0)
        if len(own) > 1:
            loo = np.linalg.norm(own - centre[c], axis=1) * len(own) / (len(own) - 1)
            square[c], n[c] = np.mean(loo**2), len(own)
    common = (square * n).sum() / max(n.sum(), 1)
    shrunk = (square * n + common * PSEUDO_ROWS) / (n + PSEUDO_ROWS)
    return centre, np.sqrt(np.maximum(shrunk, 1e-12))
