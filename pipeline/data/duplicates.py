"""Which pictures show the same thing: equal under other exposure, encoding, size or a small shift. Their rows make one group.

Candidates are nearest neighbours of two descriptors (a coarse band-pass picture, and the amplitude spectrum, which a
shift does not change), searched among cells of a k-means (inverted lists: Jegou et al., 2011), then registered: the
largest normalised cross-correlation of locally normalised pictures over all shifts. How large is too large depends on the
data, for chest X-rays are all alike and photographs are not: the bound lies `SIGMAS` spreads above the median of random
pairs of one class, on Fisher's z scale.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline import processes
from pipeline.data.intake import Thumbs

SIDE = 96  # pictures are compared at the scale that brings the median longest side to this, if it is longer
SIGMAS = 8.0  # measured on tiles, chest X-rays, natural photographs and glyphs: see docs/data.md
LEAST = 0.7  # never call two pictures near duplicates below this correlation
OVERLAP = 0.6  # least share of the smaller picture that a shift must leave
NEIGHBOURS = 6
EXACT = 4000  # up to so many rows neighbours are searched among all
PROBES = 6  # cells that are searched beyond


class Found(NamedTuple):
    """Pairs of rows int (P, 2) above the bound, their correlations (P,), the bound, and the median of unrelated pairs."""

    pairs: np.ndarray
    score: np.ndarray
    bound: float
    typical: float


NOTHING = Found(np.empty((0, 2), np.int64), np.empty(0), 1.0, 0.0)


def find(thumbs: Thumbs, longest: np.ndarray, y: np.ndarray, apart: np.ndarray, seed: int) -> Found:
    """Near duplicates among pictures whose longest sides were `longest` (N,) and class indices are y (N,).

    Rows that stand `apart`, bool (N,), are found beside the others and sway neither the bound nor any pair without them;
    their classes do not count. Time grows like N^1.5 at most.
    """
    n, known = len(y), np.flatnonzero(~apart)
    if len(known) < 3:
        return NOTHING
    length = longest * min(1.0, SIDE / np.median(longest[known]))  # of every picture, at the scale of comparison
    jobs = [(thumbs.take(rows), length[rows]) for rows in _parts(n)]
    parts = processes.spread(describe, jobs, processes.cores(), "describe pictures", n)
    near = [neighbours(np.concatenate(p), apart, NEIGHBOURS, seed) for p in zip(*parts, strict=True)]
    edges = np.concatenate([np.stack([np.repeat(np.arange(n), k.shape[1]), k.reshape(-1)], axis=1) for k in near])
    pairs = np.unique(np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1), axis=0)
    unrelated = known[random_pairs(y[known], 2000, np.random.default_rng(seed))]
    both, place = np.unique(np.sort(np.concatenate([unrelated, pairs]), axis=1), axis=0, return_inverse=True)
    jobs = [(thumbs, length, both[rows]) for rows in _parts(len(both))]
    score = np.concatenate(processes.spread(register, jobs, processes.cores(), "compare pictures", len(both)))[place]
    bound, typical = threshold(score[: len(unrelated)])
    score = score[len(unrelated) :]
    return Found(pairs[score > bound], score[score > bound], bound, typical)


def _parts(n: int, size: int = 1024) -> list[np.ndarray]:
    return np.array_split(np.arange(n), range(size, n, size))


def random_pairs(y: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Pairs of different rows of one class, int (count, 2); of any two rows where every class has only one."""
    y = y if np.bincount(y).max() > 1 else np.zeros_like(y)
    first = rng.choice(np.flatnonzero(np.bincount(y)[y] > 1), count)
    order, start, size = (
        np.argsort(y, kind="stable"),
        np.searchsorted(np.sort(y), np.arange(y.max() + 1)),
        np.bincount(y),
    )
    place = np.empty(len(y), np.int64)
    place[order] = np.arange(len(y))
    step = 1 + (rng.random(count) * (size[y[first]] - 1)).astype(np.int64)  # how far on in its class, round the end
    other = order[start[y[first]] + (place[first] - start[y[first]] + step) % size[y[first]]]
    return np.stack([first, other], axis=1)


def threshold(unrelated: np.ndarray) -> tuple[float, float]:
    """The bound on correlations and the median of unrelated pairs, from correlations (R,) of random pairs of one class.

    Median and lower decile, so that duplicates among the random pairs cannot raise it. Pairs that no shift lays on one
    another (upright beside across) say nothing about it.
    """
    laid = unrelated[unrelated > -1]
    z = np.arctanh(np.clip(laid if len(laid) else np.zeros(1), -0.999, 0.9999))
    middle, low = np.quantile(z, [0.5, 0.1])
    return float(max(LEAST, np.tanh(middle + SIGMAS * (middle - low) / 1.2816))), float(np.tanh(middle))


def normalised(thumb: np.ndarray, length: float, stretch: tuple[int, int] | None = None) -> np.ndarray:
    """A thumbnail at the scale of comparison, or stretched to (h, w), without exposure: float32, locally of one contrast."""
    import cv2

    height, width = thumb.shape
    factor = min(length, 1.7 * SIDE) / max(height, width)
    size = stretch or (max(4, round(height * factor)), max(4, round(width * factor)))
    x = np.log(cv2.resize(thumb.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) + 8)
    wide = max(1.0, max(size) / 32)
    x = (cv2.GaussianBlur(x, (0, 0), wide / 3) if wide > 1.5 else x) - cv2.GaussianBlur(x, (0, 0), wide)
    return x / (np.sqrt(cv2.GaussianBlur(x * x, (0, 0), 2 * wide)) + 0.01)


def describe(thumbs: Thumbs, length: np.ndarray, report: processes.Report) -> tuple[np.ndarray, np.ndarray]:
    """Two descriptors of each picture, float16 (N, 576) and (N, 512), each row of length 1."""
    import cv2

    coarse, spectral = np.empty((len(length), 576), np.float16), np.empty((len(length), 512), np.float16)
    for i in range(len(length)):
        thumb = thumbs[i]
        x = np.log(cv2.resize(thumb.astype(np.float32), (24, 24), interpolation=cv2.INTER_AREA) + 8)
        x = cv2.GaussianBlur(x, (0, 0), 0.5) - cv2.GaussianBlur(x, (0, 0), 2.0)
        coarse[i] = _unit(x / (np.sqrt(cv2.GaussianBlur(x * x, (0, 0), 4.0)) + 0.001))
        x = normalised(thumb, length[i])
        x = (x - x.mean()) * np.outer(*(np.hanning(n + 2)[1:-1] for n in x.shape))
        m = fft.next_fast_len(max(128, *x.shape))
        strength = fft.fftshift(np.abs(fft.fft2(x, (m, m))).astype(np.float32))
        half = strength[m // 2 : m // 2 + m // 4, m // 2 - m // 4 : m // 2 + m // 4]  # the other half is its mirror
        half = cv2.resize(half, (32, 16), interpolation=cv2.INTER_AREA)
        spectral[i] = _unit(np.log(half / (half.mean() + 1e-9) + 0.1))
        report(1, "")
    return coarse, spectral


def _unit(x: np.ndarray) -> np.ndarray:
    flat = (x - x.mean()).reshape(-1)
    return flat / (np.linalg.norm(flat) + 1e-9)


def neighbours(features: np.ndarray, apart: np.ndarray, k: int, seed: int) -> np.ndarray:
    """The k nearest rows of each row by cosine, int (N, k), after principal components; a row may stand among its own.

    Rows `apart`, bool (N,), are nobody's neighbours but each other's.
    """
    from sklearn.decomposition import PCA

    n, known = len(features), np.flatnonzero(~apart)
    sample = known[np.random.default_rng(seed).permutation(len(known))[:5000]]
    pca = PCA(min(64, len(sample), features.shape[1]), random_state=seed % 2**32).fit(
        features[sample].astype(np.float32)
    )
    x = np.concatenate([pca.transform(features[rows].astype(np.float32)) for rows in _parts(n, 4096)])
    x /= np.linalg.norm(x, axis=1, keepdims=True) + 1e-9
    out = np.tile(np.arange(n)[:, None], (1, min(k, n - 1)))
    _search(x, known, known, out, seed)
    _search(x, np.flatnonzero(apart), np.arange(n), out, seed)
    return out


def _search(x: np.ndarray, asking: np.ndarray, answering: np.ndarray, out: np.ndarray, seed: int) -> None:
    """Writes the nearest of the rows `answering` into out (N, k) for the rows `asking`.

    Above EXACT rows it looks only into those cells of a k-means whose centres are nearest.
    """
    from sklearn.cluster import MiniBatchKMeans

    centres = x[:1]
    if len(answering) > EXACT and len(asking):
        means = MiniBatchKMeans(round(np.sqrt(len(answering))), random_state=seed % 2**32, n_init=1, batch_size=4096)
        centres = means.fit(x[answering]).cluster_centers_
    nearest = np.concatenate([_best(x[rows] @ centres.T, PROBES) for rows in _parts(len(x), 4096)])
    members = [answering[nearest[answering, 0] == c] for c in range(len(centres))]
    for c in range(len(centres)):
        own = asking[nearest[asking, 0] == c]
        for start in range(0, len(own), 256):
            rows = own[start : start + 256]
            columns = np.concatenate([members[p] for p in np.unique(nearest[rows])])
            likeness = x[rows] @ x[columns].T
            likeness[rows[:, None] == columns] = -np.inf
            best = columns[_best(likeness, out.shape[1])]
            out[rows, : best.shape[1]] = best


def _best(likeness: np.ndarray, k: int) -> np.ndarray:
    """The columns of the k largest values of each row, int (rows, k), the largest first."""
    k = min(k, likeness.shape[1])
    best = np.argpartition(-likeness, k - 1, axis=1)[:, :k]
    return np.take_along_axis(
        best, np.argsort(-np.take_along_axis(likeness, best, axis=1), axis=1, kind="stable"), axis=1
    )


def register(thumbs: Thumbs, length: np.ndarray, pairs: np.ndarray, report: processes.Report) -> np.ndarray:
    """The correlation of each pair (P, 2) at its best shift, float (P,); also stretched to one size where sizes differ."""
    kept: dict[int, np.ndarray] = {}
    out = np.empty(len(pairs))
    for p, (i, j) in enumerate(pairs):
        kept = {r: x for r, x in kept.items() if r == i}  # pairs come sorted by their first row
        a = kept.setdefault(i, normalised(thumbs[i], length[i]))
        b = normalised(thumbs[j], length[j])
        out[p] = correlate(a, b)
        ratio = np.array(a.shape) / b.shape
        if np.abs(np.log(ratio)).max() > 0.15 and abs(np.log(ratio[0] / ratio[1])) < 0.15:
            out[p] = max(out[p], correlate(a, normalised(thumbs[j], length[j], a.shape)))
        report(1, "")
    return out


def correlate(a: np.ndarray, b: np.ndarray) -> float:
    """Largest normalised cross-correlation of two pictures over all shifts that leave OVERLAP of the smaller one; -1 if none."""
    size = tuple(fft.next_fast_len(n + m - 1, real=True) for n, m in zip(a.shape, b.shape, strict=True))
    one_a, one_b, n = _masks(a.shape, b.shape, size)
    fa, fa2, fb, fb2 = fft.rfft2(_padded([a, a * a, b, b * b], size))
    products = np.stack([fa * one_b, fa2 * one_b, one_a * fb.conj(), one_a * fb2.conj(), fa * fb.conj()])
    sa, aa, sb, bb, ab = fft.irfft2(products, size)
    spread = np.maximum(aa - sa * sa / n, 1e-3) * np.maximum(bb - sb * sb / n, 1e-3)
    return float(np.where(n >= OVERLAP * min(a.size, b.size), (ab - sa * sb / n) / np.sqrt(spread), -1).max())


def _padded(pictures: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    out = np.zeros((len(pictures), *size), np.float32)
    for plane, x in zip(out, pictures, strict=True):
        plane[: x.shape[0], : x.shape[1]] = x
    return out


@lru_cache(maxsize=256)
def _masks(a: tuple[int, int], b: tuple[int, int], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Transforms of the two outlines, the second conjugate, and how many pixels overlap at each shift, at least 1."""
    one_a, one_b = fft.rfft2(_padded([np.ones(a), np.ones(b)], size))
    return one_a, one_b.conj(), np.maximum(fft.irfft2(one_a * one_b.conj(), size), 1)


def groups(names: list[str], pairs: np.ndarray) -> list[str]:
    """Group names (N,) after joining rows of equal name and the rows of each pair (P, 2); the first name of each wins."""
    code, first = np.unique(names, return_inverse=True)
    n = len(names)
    edges = np.concatenate([np.stack([np.arange(n), n + first], axis=1), pairs])
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(n + len(code),) * 2)
    part = connected_components(graph, directed=False)[1][:n]
    _, place, back = np.unique(part, return_index=True, return_inverse=True)
    return [names[place[k]] for k in back]
