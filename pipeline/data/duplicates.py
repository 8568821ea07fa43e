"""Which pictures show the same thing: equal under other exposure, encoding, size or a small shift. Their rows make one group.

Candidates are nearest neighbours of two descriptors (a coarse band-pass picture, and the amplitude spectrum, which a
shift does not change), searched among cells of a k-means (inverted lists: Jegou et al., 2011), then registered: the
largest normalised cross-correlation of locally normalised pictures over all shifts. How large is too large depends on the
data, for chest X-rays are all alike and photographs are not: the bound lies `SIGMAS` spreads above the median of random
pairs of one class, on Fisher's z scale.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline import processes
from pipeline.data import registration
from pipeline.data.intake import Thumbs
from pipeline.samples import blocks, room

SIGMAS = 8.0  # measured on tiles, chest X-rays, natural photographs and glyphs: see docs/data.md
LEAST = 0.7  # never call two pictures near duplicates below this correlation
SAMPLE = 5000  # rows whose principal components stand for all
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
    length = longest * min(
        1.0, registration.SIDE / np.median(longest[known])
    )  # of every picture, at the scale of comparison
    with tempfile.TemporaryDirectory(dir=thumbs.files[0].parent) as folder:
        spaces = [reduced(x, known, seed) for x in described(thumbs, length, Path(folder))]
    near = np.unique(np.concatenate([candidates(neighbours(x, apart, NEIGHBOURS, seed)) for x in spaces]))
    pairs = np.stack(np.divmod(near, n), axis=1)
    pairs = np.concatenate([pairs[rows][alike(spaces, pairs[rows])] for rows in blocks(pairs, 8192)])
    unrelated = known[random_pairs(y[known], 2000, np.random.default_rng(seed))]
    both, place = np.unique(np.concatenate([numbered(unrelated, n), numbered(pairs, n)]), return_inverse=True)
    both = np.stack(np.divmod(both, n), axis=1)
    jobs = [(thumbs, length, both[rows]) for rows in blocks(both, 1024)]
    score = np.concatenate(
        processes.parallel(registration.register, jobs, processes.cores(), "compare pictures", len(both))
    )[place]
    bound, typical = threshold(score[: len(unrelated)])
    score = score[len(unrelated) :]
    return Found(pairs[score > bound], score[score > bound], bound, typical)


def numbered(pairs: np.ndarray, n: int) -> np.ndarray:
    """One number for each pair (P, 2) of n rows, whichever comes first, int (P,); its quotient by n is the lower row."""
    return pairs.min(axis=1) * n + pairs.max(axis=1)


def candidates(near: np.ndarray) -> np.ndarray:
    """The distinct pairs of each row and another that stands among its neighbours (N, k), by their numbers, int (P,)."""
    own = np.arange(len(near))
    return np.unique(np.concatenate([numbered(np.stack([own, c], axis=1), len(near))[own != c] for c in near.T]))


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


def described(thumbs: Thumbs, length: np.ndarray, folder: Path) -> list[np.ndarray]:
    """Two descriptors of each picture, float16 (N, 576) and (N, 512), each row of length 1; memory-mapped from the folder."""
    files = [folder / "coarse.npy", folder / "spectral.npy"]
    for file, width in zip(files, (576, 512), strict=True):
        room(file, np.float16, (len(length), width)).flush()
    jobs = [(thumbs.take(rows), length[rows], files, rows.start) for rows in blocks(length, 1024)]
    processes.parallel(describe, jobs, processes.cores(), "describe pictures", len(length))
    return [np.load(file, mmap_mode="r", allow_pickle=False) for file in files]


def describe(thumbs: Thumbs, length: np.ndarray, files: list[Path], start: int, report: processes.Report) -> None:
    """Writes the descriptors of these pictures into the files, from row `start` on."""
    import cv2

    coarse, spectral = (np.load(file, mmap_mode="r+", allow_pickle=False)[start:] for file in files)
    for i in range(len(length)):
        thumb = thumbs[i]
        x = np.log(cv2.resize(thumb.astype(np.float32), (24, 24), interpolation=cv2.INTER_AREA) + 8)
        x = cv2.GaussianBlur(x, (0, 0), 0.5) - cv2.GaussianBlur(x, (0, 0), 2.0)
        coarse[i] = _unit(x / (np.sqrt(cv2.GaussianBlur(x * x, (0, 0), 4.0)) + 0.001))
        x = registration.normalised(thumb, length[i])
        x = (x - x.mean()) * np.outer(*(np.hanning(n + 2)[1:-1] for n in x.shape))
        m = fft.next_fast_len(max(128, *x.shape))
        strength = fft.fftshift(np.abs(fft.fft2(x, (m, m))).astype(np.float32))
        half = strength[m // 2 : m // 2 + m // 4, m // 2 - m // 4 : m // 2 + m // 4]  # the other half is its mirror
        half = cv2.resize(half, (32, 16), interpolation=cv2.INTER_AREA)
        spectral[i] = _unit(np.log(half / (half.mean() + 1e-9) + 0.1))
        report(1, "")


def _unit(x: np.ndarray) -> np.ndarray:
    flat = (x - x.mean()).reshape(-1)
    return flat / (np.linalg.norm(flat) + 1e-9)


def alike(spaces: list[np.ndarray], pairs: np.ndarray) -> np.ndarray:
    """Whether a pair is near enough in any of the spaces (N, D) to be worth a comparison, bool (P,)."""
    return np.max([(x[pairs[:, 0]] * x[pairs[:, 1]]).sum(axis=1) for x in spaces], axis=0) > ALIKE


def reduced(features: np.ndarray, known: np.ndarray, seed: int) -> np.ndarray:
    """Principal components of the `known` rows, of length 1 for each row, float32 (N, at most 64)."""
    from sklearn.decomposition import PCA

    sample = known[np.random.default_rng(seed).permutation(len(known))[:SAMPLE]]
    pca = PCA(min(64, len(sample), features.shape[1]), random_state=seed % 2**32)
    pca.fit(features[sample].astype(np.float32))
    x = np.concatenate([pca.transform(features[rows].astype(np.float32)) for rows in blocks(features, 1024)])
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
    nearest = np.concatenate([_best(x[rows] @ centres.T, PROBES).astype(np.int32) for rows in blocks(x, 1024)])
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


def groups(names: list[str], pairs: np.ndarray) -> list[str]:
    """Group names (N,) after joining rows of equal name and the rows of each pair (P, 2); the first name of each wins."""
    code, first = np.unique(names, return_inverse=True)
    n = len(names)
    edges = np.concatenate([np.stack([np.arange(n), n + first], axis=1), pairs])
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(n + len(code),) * 2)
    part = connected_components(graph, directed=False)[1][:n]
    _, place, back = np.unique(part, return_index=True, return_inverse=True)
    return [names[place[k]] for k in back]
