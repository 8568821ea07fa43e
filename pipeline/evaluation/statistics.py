"""Intervals and tests for paired seeds: Student's interval, sign-flip test, hierarchical bootstrap, Holm, McNemar."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
from scipy import sparse, stats

from pipeline.evaluation.scores import from_confusion

Statistic = Callable[[np.ndarray], np.ndarray]  # weights of the rows (R, N) -> values (R, S), or (R, S, K) by class


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


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for their number so that the chance of any false finding is bounded (Holm, 1979); NaN stays."""
    p = np.asarray(p, float)
    out, known = np.full(len(p), np.nan), np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * (len(order) - np.arange(len(order)))
    out[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return out.tolist()


def mcnemar(a: np.ndarray, b: np.ndarray) -> tuple[int, int, float]:
    """Rows that only the first and only the second of two models has right, bool (N,) each, and the exact two-sided p."""
    first, second = int((a & ~b).sum()), int((b & ~a).sum())
    p = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    return first, second, float(p)


def detectable(draws: np.ndarray, confidence: float, power: float = 0.8) -> float:
    """The smallest true difference that an interval of this confidence would find with this power, from its resamples (R,)."""
    return float((stats.norm.ppf((1 + confidence) / 2) + stats.norm.ppf(power)) * draws.std())


def resamples(
    y: np.ndarray, groups: np.ndarray, seeds: int, count: int, seed: int, confidence: float, chunk: int = 100
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weights of rows (R, N) and of seeds (R, S), in chunks: a hierarchical bootstrap (Davison and Hinkley, 1997, ch. 3.8).

    Test groups are drawn with replacement within each class, seeds with replacement. A resample of few seeds strays
    too little from their mean; its way from there is stretched by sqrt(S / (S - 1)) and by Student's over the normal
    quantile, so that the interval becomes Student's where only the seeds vary.
    """
    rng = np.random.default_rng(seed)
    names, group = np.unique(groups, return_inverse=True)
    stratum = np.zeros(len(names), np.int64)
    stratum[group] = y
    tail, stretch = (1 + confidence) / 2, 1.0
    if seeds > 1:
        stretch = np.sqrt(seeds / (seeds - 1)) * stats.t.ppf(tail, seeds - 1) / stats.norm.ppf(tail)
    for start in range(0, count, chunk):
        n = min(chunk, count - start)
        weight = np.zeros((n, len(names)))
        for c in np.unique(stratum):
            own = np.flatnonzero(stratum == c)
            weight[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=n)
        drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=n) / seeds
        yield weight[:, group], 1 / seeds + stretch * (drawn - 1 / seeds)


def differences(pairs: Sequence[tuple[Statistic, Statistic]], draws: Iterator) -> list[np.ndarray]:
    """Resampled mean paired differences first - second of several statistics, the same draws for all: (R,) or (R, K) each."""
    out: list[list[np.ndarray]] = [[] for _ in pairs]
    for rows, seeds in draws:
        for (a, b), found in zip(pairs, out, strict=True):
            found.append(np.einsum("rs...,rs->r...", a(rows) - b(rows), seeds))
    return [np.concatenate(found) for found in out]


def by_confusion(predicted: np.ndarray, y: np.ndarray, classes: int, metric: str) -> Statistic:
    """A primary metric, or `recall` by class, of predicted classes (S, N)."""
    place = np.arange(len(y))
    counts = [
        sparse.csr_array((np.ones(len(y)), (place, y * classes + guess)), shape=(len(y), classes**2))
        for guess in predicted
    ]

    def statistic(rows: np.ndarray) -> np.ndarray:
        tables = np.stack([(rows @ c).reshape(len(rows), classes, classes) for c in counts], axis=1)
        return from_confusion(metric, tables)

    return statistic


def by_auprc(probabilities: np.ndarray, y: np.ndarray) -> Statistic:
    """Macro average precision, one class against the rest, of probabilities (S, N, K); equal ones count as one threshold."""
    present = np.unique(y)

    def statistic(rows: np.ndarray) -> np.ndarray:
        out = np.zeros((len(rows), len(probabilities)))
        for s, one in enumerate(probabilities):
            for c in present:
                order = np.argsort(-one[:, c], kind="stable")
                last = np.searchsorted(-one[order, c], -one[order, c], side="right") - 1  # of the rows tied with each
                weight, hit = rows[:, order], y[order] == c
                found = np.cumsum(weight * hit, axis=1)
                precision = (found / np.maximum(np.cumsum(weight, axis=1), 1e-12))[:, last]
                out[:, s] += (precision * weight * hit).sum(axis=1) / np.maximum(found[:, -1], 1e-12)
        return out / len(present)

    return statistic


def by_ece(probabilities: np.ndarray, y: np.ndarray, bins: int = 15) -> Statistic:
    """Expected calibration error, as `scores.ece`, of probabilities (S, N, K)."""
    parts = []
    for one in probabilities:
        confidence, hit = one.max(axis=1), one.argmax(axis=1) == y
        which = np.minimum((confidence * bins).astype(int), bins - 1)
        parts.append(sparse.csr_array((hit - confidence, (np.arange(len(y)), which)), shape=(len(y), bins)))

    def statistic(rows: np.ndarray) -> np.ndarray:
        gaps = np.stack([np.abs(rows @ part).sum(axis=1) for part in parts], axis=1)
        return gaps / rows.sum(axis=1, keepdims=True)

    return statistic
