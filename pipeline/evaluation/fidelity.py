"""How synthetic rows lie beside real ones in a feature space: functions of two feature matrices.

The features are those of networks trained on this very dataset, so the values compare generators within one run
and never with published figures.
"""

from collections.abc import Mapping

import numpy as np
from scipy.spatial.distance import cdist, pdist

from pipeline.samples import spaced


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of Gaussians fitted to a (N, D) and b (M, D) (Heusel et al., 2017).

    The trace of the root of the covariance product comes from its eigenvalues, real and non-negative but for rounding.
    """
    cov = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b)]
    eigen = np.linalg.eigvals(cov[0] @ cov[1]).real
    root = np.sqrt(np.maximum(eigen, 0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov[0]) + np.trace(cov[1]) - 2 * root)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared MMD with the cubic kernel (x.y / D + 1)^3 (Binkowski et al., 2018); may fall below zero."""
    n, m, d = len(a), len(b), a.shape[1]
    aa, bb, ab = ((x @ z.T / d + 1) ** 3 for x, z in ((a, a), (b, b), (a, b)))
    return float((aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1)) - 2 * ab.mean())


def manifold(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """Precision and recall (Kynkaanniemi et al., 2019), density and coverage (Naeem et al., 2020), k-th neighbour balls."""
    between = cdist(real, fake)
    balls = [np.sort(cdist(x, x), axis=1)[:, min(k, len(x) - 1)] for x in (real, fake)]
    inside = between <= balls[0][:, None]
    return {
        "precision": float(inside.any(axis=0).mean()),
        "recall": float((between <= balls[1][None]).any(axis=1).mean()),
        "density": float(inside.sum(axis=0).mean() / k),
        "coverage": float(inside.any(axis=1).mean()),
    }


def diversity(real: np.ndarray, fake: np.ndarray) -> float:
    """The mean distance of two fake rows, as a part of that of two real rows; 1 is as varied as these."""
    return float(pdist(fake).mean() / max(pdist(real).mean(), 1e-12))


def compare(real: np.ndarray, fake: np.ndarray, k: int, least: int, most: int = 1000) -> dict[str, float]:
    """All of the above; NaN where either side has fewer than `least` rows. Of more than `most` rows a side, evenly spaced ones."""
    names = ("frechet", "kernel", "precision", "recall", "density", "coverage", "diversity")
    if min(len(real), len(fake)) < max(least, k + 1, 2):
        return dict.fromkeys(names, float("nan"))
    real, fake = (side[spaced(len(side), most)] for side in (real, fake))
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    values = {"frechet": frechet(real, fake), "kernel": kernel_distance(real, fake), **manifold(real, fake, k)}
    return values | {"diversity": diversity(real, fake)}


def deviation(
    real: np.ndarray,
    groups: np.ndarray,
    fake: np.ndarray,
    k: int,
    least: int,
    seed: int,
    draws: int = 20,
    most: int = 1000,
) -> Mapping[str, float]:
    """The standard deviation of each value of `compare` over other samples of rows, real ones (N, D) by their groups (N,).

    That of values from half of the groups and of the fake rows, of at most so many rows, which is as large (delete-half
    jackknife: Shao and Tu, 1995). NaN where half of the rows are fewer than `least`.
    """
    rng, found = np.random.default_rng(seed), []
    kept = spaced(len(real), most)
    (names, group), real, fake = np.unique(groups[kept], return_inverse=True), real[kept], fake[spaced(len(fake), most)]
    for _ in range(draws):
        some = real[np.isin(group, rng.permutation(len(names))[: len(names) // 2])]
        others = fake[rng.permutation(len(fake))[: len(fake) // 2]]
        found.append(compare(some, others, k, least))
    return {name: float(np.std([one[name] for one in found], ddof=1)) for name in found[0]}


def transfer(
    train: np.ndarray, y: np.ndarray, test: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> tuple[float, float]:
    """Balanced accuracy on real rows of a linear classifier that learnt from these features (N, D), and its standard error.

    Train on synthetic, test on real (Esteban et al., 2017), where `train` holds synthetic rows. Test rows of one group count
    as one draw. NaN with one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(y)) < 2:
        return float("nan"), float("nan")
    scale = StandardScaler().fit(train)
    model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(scale.transform(train), y)
    right = model.predict(scale.transform(test)) == labels
    present, which, count = np.unique(labels, return_inverse=True, return_counts=True)
    recall = np.bincount(which, right) / count
    strays = np.bincount(np.unique(groups, return_inverse=True)[1], (right - recall[which]) / count[which])
    return float(recall.mean()), float(np.sqrt(np.square(strays).sum()) / len(present))


def distances(
    real: np.ndarray, y: np.ndarray, fake: np.ndarray, labels: np.ndarray, classes: int, rows: float = 10.0
) -> np.ndarray:
    """Kernel distance of each class, float (K,), pulled towards the mean of all by so many pseudo-rows; NaN if unknown.

    Features are scaled so that real rows have a mean square of one per dimension. A class counts for as many rows as it
    has here, of the real or the other ones, whichever are fewer; one with fewer than two has the mean of the others.
    """
    unit = np.sqrt(np.square(real.astype(np.float64)).mean()) or 1.0
    real, fake = real / unit, fake / unit
    own, count = np.full(classes, np.nan), np.zeros(classes)
    for c in np.unique(labels):
        a, b = real[y == c], fake[labels == c]
        if min(len(a), len(b)) > 1:
            own[c], count[c] = kernel_distance(a, b), min(len(a), len(b))
    if not count.any():
        return own
    common = np.nansum(own * count) / count.sum()
    out = np.full(classes, np.nan)
    for c in np.unique(labels):
        out[c] = (np.nan_to_num(own[c]) * count[c] + rows * common) / (count[c] + rows)
    return out
