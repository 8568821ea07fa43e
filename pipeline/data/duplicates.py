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
PROBES = 24  # cells that are searched beyond
ALIKE = 0.5  # least cosine of either descriptor for a pair to be compared


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
    their classes do not count. Pairs compared grow like N^1.5, and those registered like N.
    """
    n, known = len(y), np.flatnonzero(~apart)
    if len(known) < 3:
        return NOTHING
    length = longest * min(1.0, SIDE / np.median(longest[known]))  # of every picture, at the scale of comparison
    jobs = [(thumbs.take(rows), length[rows]) for rows in _parts(n)]
    parts = processes.spread(describe, jobs, processes.cores(), "describe pictures", n)
    spaces = [reduced(np.concatenate(p), known, seed) for p in zip(*parts, strict=True)]
    near = [neighbours(x, apart, NEIGHBOURS, seed) for x in spaces]
    edges = np.concatenate([np.stack([np.repeat(np.arange(n), k.shape[1]), k.reshape(-1)], axis=1) for k in near])
    pairs = np.unique(np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1), axis=0)
    pairs = np.concatenate([pairs[rows][alike(spaces, pairs[rows])] for rows in _parts(len(pairs), 65536)])
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


def alike(spaces: list[np.ndarray], pairs: np.ndarray) -> np.ndarray:
    """Whether a pair is near enough in any of the spaces (N, D) to be worth a comparison, bool (P,)."""
    return np.max([(x[pairs[:, 0]] * x[pairs[:, 1]]).sum(axis=1) for x in spaces], axis=0) > ALIKE


def reduced(features: np.ndarray, known: np.ndarray, seed: int) -> np.ndarray:
    """Principal components of the `known` rows, of length 1 for each row, float32 (N, at most 64)."""
    from sklearn.decomposition import PCA

    sample = known[np.random.default_rng(seed).permutation(len(known))[:5000]]
    pca = PCA(min(64, len(sample), features.shape[1]), random_state=seed % 2**32)
    pca.fit(features[sample].astype(np.float32))
    x = np.concatenate([pca.transform(features[rows].astype(np.float32)) for rows in _parts(len(features), 4096)])
    return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-9)


def neighbours(x: np.ndarray, apart: np.ndarray, k: int, seed: int) -> np.ndarray:
    """The k nearest rows of each row of x (N, D) by cosine, int (N, k); a row may stand among its own.

    Rows `apart`, bool (N,), are nobody's neighbours but each other's.
    """
    n = len(x)
    out = np.tile(np.arange(n)[:, None], (1, min(k, n - 1)))
    _search(x, np.flatnonzero(~apart), np.flatnonzero(~apart), out, seed)
    _search(x, np.flatnonzero(apart), np.arange(n), out, seed)
    return out


def _search(x: np.ndarray, asking: np.ndarray, answering: np.ndarray, out: np.ndarray, seed: int) -> None:
    """Writes the nearest of the rows `answering` into out (N, k) for the rows `asking`.

    Above EXACT rows it looks only into those PROBES cells of a k-means whose centres are nearest to the row.
    """
    from sklearn.cluster import MiniBatchKMeans

    centres = x[:1]
    if len(answering) > EXACT and len(asking):
        means = MiniBatchKMeans(round(np.sqrt(len(answering))), random_state=seed % 2**32, n_init=1, batch_size=4096)
        centres = means.fit(x[answering]).cluster_centers_
    nearest = np.concatenate([_best(x[rows] @ centres.T, PROBES) for rows in _parts(len(x), 4096)])
    order = np.argsort(nearest[asking], axis=None, kind="stable")  # places in the flat array, cell by cell
    ends = np.searchsorted(nearest[asking].reshape(-1)[order], np.arange(len(centres) + 1))
    found = np.full(out.shape, -np.inf, x.dtype)
    for c in range(len(centres)):
        members = answering[nearest[answering, 0] == c]
        looking = asking[order[ends[c] : ends[c + 1]] // nearest.shape[1]]
        for start in range(0, len(looking), 256):
            rows = looking[start : start + 256]
            likeness = x[rows] @ x[members].T
            likeness[rows[:, None] == members] = -np.inf
            likeness = np.concatenate([likeness, found[rows]], axis=1)  # beside the best of the cells before
            best = _best(likeness, out.shape[1])
            columns = np.concatenate([np.broadcast_to(members, (len(rows), len(members))), out[rows]], axis=1)
            out[rows], found[rows] = np.take_along_axis(columns, best, 1), np.take_along_axis(likeness, best, 1)


def _best(likeness: np.ndarray, k: int) -> np.ndarray:
    """The columns of the k largest values of each row, int (rows, k), the largest first."""
    k = min(k, likeness.shape[1])
    best = np.argpartition(-likeness, k - 1, axis=1)[:, :k]
    return np.take_along_axis(
        best, np.argsort(-np.take_along_axis(likeness, best, axis=1), axis=1, kind="stable"), axis=1
    )


def register(thumbs: Thumbs, length: np.ndarray, pairs: np.ndarray, report: processes.Report) -> np.ndarray:
    """The correlation of each pair (P, 2) at its best shift, float (P,); also stretched to one size where sizes differ.

    Pairs come sorted by their first row; all that share it, and the shape of the second, are correlated at once.
    """
    out = np.empty(len(pairs))
    for places in np.split(np.arange(len(pairs)), np.flatnonzero(np.diff(pairs[:, 0])) + 1):
        i = pairs[places[0], 0]
        a = normalised(thumbs[i], length[i])
        others = {p: normalised(thumbs[j], length[j]) for p, j in zip(places, pairs[places, 1], strict=True)}
        for shape in sorted({b.shape for b in others.values()}):
            same = [p for p, b in others.items() if b.shape == shape]
            out[same] = correlate(a, np.stack([others[p] for p in same]))
            ratio = np.array(a.shape) / shape
            if np.abs(np.log(ratio)).max() > 0.15 and abs(np.log(ratio[0] / ratio[1])) < 0.15:
                stretched = [normalised(thumbs[j], length[j], a.shape) for j in pairs[same, 1]]
                out[same] = np.maximum(out[same], correlate(a, np.stack(stretched)))
        report(len(places), "")
    return out


def correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Largest normalised cross-correlation of a (H, W) with each of b (M, h, w) over all shifts that leave OVERLAP of the
    smaller one, float (M,); -1 if none does.

    Products come from a Fourier transform, sums over the overlap from summed areas (Lewis, 1995).
    """
    shifts = _shifts(a.shape, b.shape[1:])
    if shifts is None:
        return np.full(len(b), -1.0)
    size, rows, cols, n = shifts
    ab = fft.irfft2(fft.rfft2(a, size) * fft.rfft2(b, size).conj(), size)[:, rows[0]][:, :, cols[0]]
    (sa, aa), (sb, bb) = _sums(a, rows[1], cols[1]), _sums(b, rows[2], cols[2])
    spread = np.maximum(aa - sa * sa / n, 1e-3) * np.maximum(bb - sb * sb / n, 1e-3)
    found = (ab - sa * sb / n) / np.sqrt(spread)
    return found[:, n >= OVERLAP * min(a.size, b[0].size)].max(axis=1)


def _sums(x: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Sums of x (..., H, W) and of its squares over rows[0]:rows[1], cols[0]:cols[1] for all shifts: (2, ..., S, T)."""
    areas = np.zeros((2, *x.shape[:-2], x.shape[-2] + 1, x.shape[-1] + 1))
    np.cumsum(np.stack([x, x * x]), axis=-2, dtype=np.float64, out=areas[..., 1:, 1:])
    np.cumsum(areas[..., 1:, 1:], axis=-1, out=areas[..., 1:, 1:])
    strips = areas[..., rows[1], :] - areas[..., rows[0], :]
    return strips[..., cols[1]] - strips[..., cols[0]]


@lru_cache(maxsize=256)
def _shifts(a: tuple[int, int], b: tuple[int, int]) -> tuple | None:
    """For two shapes: the size of a transform without wrapping, what rows and columns overlap at each shift that leaves
    enough in its own direction, and how many pixels overlap; None if no shift leaves enough.

    Rows and columns, each int (3, ...): the shift's place in the transform, and first and last + 1 in a and in b.
    """
    least = OVERLAP * min(a[0] * a[1], b[0] * b[1])
    size, parts, widths = [], [], []
    for m, k, across in ((a[0], b[0], min(a[1], b[1])), (a[1], b[1], min(a[0], b[0]))):
        shift = np.arange(1 - k, m)
        first, last = np.maximum(shift, 0), np.minimum(shift + k, m)
        enough = (last - first) * across >= least
        if not enough.any():
            return None
        shift, first, last = shift[enough], first[enough], last[enough]
        size.append(fft.next_fast_len(int(max(m - shift[0], shift[-1] + k)), real=True))
        parts.append((shift % size[-1], np.stack([first, last]), np.stack([first, last]) - shift))
        widths.append(last - first)
    return tuple(size), *parts, np.outer(*widths)


def groups(names: list[str], pairs: np.ndarray) -> list[str]:
    """Group names (N,) after joining rows of equal name and the rows of each pair (P, 2); the first name of each wins."""
    code, first = np.unique(names, return_inverse=True)
    n = len(names)
    edges = np.concatenate([np.stack([np.arange(n), n + first], axis=1), pairs])
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(n + len(code),) * 2)
    part = connected_components(graph, directed=False)[1][:n]
    _, place, back = np.unique(part, return_index=True, return_inverse=True)
    return [names[place[k]] for k in back]
