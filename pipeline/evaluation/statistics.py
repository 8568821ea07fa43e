"""Intervals and tests for paired seeds: Student's interval, exact sign-flip test, hierarchical bootstrap."""

from itertools import product

import numpy as np
from scipy import sparse, stats

from pipeline.evaluation.scores import from_confusion


def mean_interval(values: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """Mean of values (S,) and Student's t interval over seeds; with one value the ends are NaN."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return (float(values[0]) if len(values) else float("nan")), float("nan"), float("nan")
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def sign_flip(differences: np.ndarray, most: int = 16) -> float:
    """Two-sided p of the mean of paired differences (S,) under random signs: exact up to `most` pairs.

    Above that, 2^16 draws from a fixed stream with the usual +1 correction. NaN if a
    difference is missing. Phipson and Smyth, 2010.
    """
    d = np.asarray(differences, float)
    if not np.isfinite(d).all():
        return float("nan")
    if len(d) <= most:
        signs, extra = np.array(list(product((1.0, -1.0), repeat=len(d)))), 0
    else:
        signs, extra = np.random.default_rng(0).choice((1.0, -1.0), size=(2**16, len(d))), 1
    means = np.abs(signs @ d)
    return float(((means >= np.abs(d.sum()) - 1e-12).sum() + extra) / (len(signs) + extra))


def bootstrap_difference(
    a: np.ndarray,
    b: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    classes: int,
    metric: str,
    resamples: int,
    seed: int,
) -> np.ndarray:
    """Resampled mean paired differences metric(a) - metric(b), float (R,).

    a and b int (S, N): predicted classes by seed. Each resample draws seeds, and within each class test groups, with
    replacement, the same ones for both arms, so it carries both kinds of variance (Davison and Hinkley, 1997, ch. 3.8).
    """
    rng, s = np.random.default_rng(seed), len(a)
    names, group = np.unique(groups, return_inverse=True)
    stratum = np.zeros(len(names), np.int64)
    stratum[group] = y
    tables = [
        [
            sparse.csr_array((np.ones(len(y)), (np.arange(len(y)), y * classes + guess)), shape=(len(y), classes**2))
            for guess in arm
        ]
        for arm in (a, b)
    ]
    out = np.empty(resamples)
    for start in range(0, resamples, 100):
        count = min(100, resamples - start)
        weight = np.zeros((count, len(names)))
        for c in np.unique(stratum):
            own = np.flatnonzero(stratum == c)
            weight[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=count)
        rows = weight[:, group]
        value = [
            np.stack([from_confusion(metric, (rows @ t).reshape(count, classes, classes)) for t in arm], axis=1)
            for arm in tables
        ]
        drawn = rng.multinomial(s, np.full(s, 1 / s), size=count) / s
        out[start : start + count] = ((value[0] - value[1]) * drawn).sum(axis=1)
    return out
