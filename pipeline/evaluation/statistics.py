"""Intervals and tests for paired seeds: Student's interval, sign-flip test, hierarchical bootstrap, Holm, McNemar."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
from scipy import sparse, stats

from pipeline.data.splits import strata
from pipeline.evaluation.scores import binned, from_confusion

Statistic = Callable[[np.ndarray], np.ndarray]  # weights of the rows (R, N) -> values (R, S), or (R, S, K) by class


def mean_interval(values: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """Mean of values (S,) and Student's t interval over seeds; with one value the ends are NaN."""
    known = np.asarray(values, float)[np.isfinite(values)]
    return resampled_interval(known, 0.0, confidence) if len(known) else (float("nan"),) * 3


def resampled_interval(values: np.ndarray, ratio: float, confidence: float) -> tuple[float, float, float]:
    """Mean of differences (R,) on R random splits of the same rows, and its interval.

    Splits share most of their rows, so that their mean strays further than that of R independent ones: the corrected
    resampled t (Nadeau and Bengio, 2003), with `ratio` = test rows per training row. The ends of a single one are NaN.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), float("nan"), float("nan")
    spread = np.sqrt((1 / len(values) + ratio) * values.var(ddof=1))
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * spread
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
    raw = np.asarray(p, float)
    out, known = np.full(len(raw), np.nan), np.flatnonzero(np.isfinite(raw))
    order = known[np.argsort(raw[known], kind="stable")]
    scaled = raw[order] * (len(order) - np.arange(len(order)))
    out[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return out.tolist()


def mcnemar(a: np.ndarray, b: np.ndarray) -> tuple[int, int, float]:
    """Rows that only the first and only the second of two models has right, bool (N,) each, and the exact two-sided p."""
    first, second = int((a & ~b).sum()), int((b & ~a).sum())
    p = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    return first, second, float(p)


def detectable(draws: np.ndarray, confidence: float, power: float = 0.8) -> float:
    """The smallest true difference that an interval of this confidence would find with this power, from its draws (R,).

    From the width of the interval: the draws of few seeds are Student's, whose spread may be infinite.
    """
    tail = (1 + confidence) / 2
    low, high = np.quantile(draws, [1 - tail, tail])
    return float((high - low) / 2 * (1 + stats.norm.ppf(power) / stats.norm.ppf(tail)))


def resamples(y: np.ndarray, groups: np.ndarray, count: int, seed: int, chunk: int = 100) -> Iterator[np.ndarray]:
    """Weights of rows (R, N), in chunks: groups are drawn with replacement within each class.

    Of the G groups of a class G - 1 are drawn, each with the weight G / (G - 1), so that the spread of a small class is
    not too small (Rao and Wu, 1988); a class of one group always has the weight 1. A group of several classes counts
    under its rarest.
    """
    rng = np.random.default_rng(seed)
    names, group = np.unique(groups, return_inverse=True)
    stratum = strata(y, group).to_numpy()
    for start in range(0, count, chunk):
        n = min(chunk, count - start)
        weight = np.ones((n, len(names)))
        for c in np.unique(stratum):
            own = np.flatnonzero(stratum == c)
            if (many := len(own)) > 1:
                drawn = rng.multinomial(many - 1, np.full(many, 1 / many), size=n)
                weight[:, own] = drawn * (many / (many - 1))
        yield weight[:, group]


def breadth(y: np.ndarray, groups: np.ndarray, confidence: float) -> float:
    """How much wider Student's quantile is than the normal one for a mean over classes of so many groups (Welch, 1947).

    The fewest groups of a class weigh most in such a mean. Of a mean over rows, or over those of one class, y is all alike.
    """
    sizes = np.array([n for c in np.unique(y) if (n := len(np.unique(groups[y == c]))) > 1])
    if not len(sizes):
        return 1.0
    freedom = np.square((1 / sizes).sum()) / (1 / (np.square(sizes) * (sizes - 1.0))).sum()
    tail = (1 + confidence) / 2
    return float(stats.t.ppf(tail, freedom) / stats.norm.ppf(tail))


def differences(
    pairs: Sequence[tuple[Statistic, Statistic]],
    draws: Iterator[np.ndarray],
    seed: int,
    stretch: Sequence[float | np.ndarray] = (),
) -> list[np.ndarray]:
    """Draws of the mean paired difference first - second of several statistics, (R,) or (R, K) each, the same for all.

    A hierarchical bootstrap (Davison and Hinkley, 1997, ch. 3.8) over seeds and test groups. A handful of seeds cannot
    be resampled: how far their mean strays is drawn from Student's distribution, for each class by itself, for a seed that
    is lucky with one is not with all. To it comes the way of the mean over seeds when groups are resampled as `draws`
    says, without the part that is each seed's own luck with the rows: the variance between seeds has that already, and
    resampling both would count it three times (Owen, 2007). Where only the seeds vary, or only their luck, the interval
    is Student's; where only the rows do, the bootstrap's, with its draws `stretch` times as far from their mean (for each
    pair a number, or one by class (K,): see `breadth`), as a few rows know little of their spread.
    """
    out = []
    for (seen, drawn), wider in zip(_resampled(pairs, draws), stretch or [1.0] * len(pairs), strict=True):
        mean, count = drawn.mean(axis=1), len(seen)
        center = mean.mean(axis=0)
        if count == 1:
            mean = mean + (wider - 1) * (mean - center)
        else:
            luck = (drawn - mean[:, None]).var(axis=0).mean(axis=0) / (count - 1)  # in the mean over seeds
            common = np.sqrt(np.maximum(1 - luck / np.maximum(mean.var(axis=0), 1e-300), 0))
            sem = seen.std(axis=0, ddof=1) / np.sqrt(count)
            stray = [_student(len(drawn), count - 1, [seed, 1, *c]) * one for c, one in np.ndenumerate(sem)]
            mean = mean + (common * wider - 1) * (mean - center) + np.stack(stray, axis=-1).reshape(mean.shape)
        out.append(mean.round(12) + 0.0)  # a difference of rounding alone is none
    return out


def _resampled(
    pairs: Sequence[tuple[Statistic, Statistic]], draws: Iterator[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each pair its differences on the rows as they are, (S,) or (S, K), and on the draws of them, (R, S) or (R, S, K)."""
    found: dict[Statistic, list[np.ndarray]] = {one: [] for pair in pairs for one in pair}  # each is asked once
    size = 0
    for rows in draws:
        size = rows.shape[1]
        for one, values in found.items():
            values.append(one(rows))
    whole = np.ones((1, size))
    drawn = {one: np.concatenate(values) for one, values in found.items()}
    for a, b in pairs:
        yield (a(whole) - b(whole))[0], drawn[a] - drawn[b]


def _student(count: int, freedom: int, seed: Sequence[int]) -> np.ndarray:
    """Student's quantiles (R,), evenly spaced, in random order: an interval's ends then carry no noise of theirs."""
    quantiles = stats.t.ppf((np.arange(count) + 0.5) / count, freedom)
    return np.random.default_rng(seed).permutation(quantiles)


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
        confidence, hit, which = binned(one, y, bins)
        parts.append(sparse.csr_array((hit - confidence, (np.arange(len(y)), which)), shape=(len(y), bins)))

    def statistic(rows: np.ndarray) -> np.ndarray:
        gaps = np.stack([np.abs(rows @ part).sum(axis=1) for part in parts], axis=1)
        return gaps / rows.sum(axis=1, keepdims=True)

    return statistic
