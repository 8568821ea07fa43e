"""Which pictures show the same thing: equal under other exposure, encoding, size or a small shift. Their rows make one group.

Candidates are nearest neighbours of two descriptors, searched among cells of a k-means (inverted lists: Jegou et al., 2011),
then registered: the largest normalised cross-correlation of locally normalised pictures over all shifts. How large is too
large depends on the data, for chest X-rays are all alike and photographs are not: the bound lies `SIGMAS` spreads above the
median of random pairs of one class, on Fisher's z scale; and no higher than it would for any class alone, for where one
class is all alike and another is not, the spread of both together is that between them. Mirrored and quarter-turned copies
within a class are found likewise, once one rule has put every picture upright.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline import processes
from pipeline.data import registration
from pipeline.data.descriptors import alike, described, reduced, stood, upright
from pipeline.data.intake import Thumbs
from pipeline.samples import blocks

SIGMAS = 8.0  # measured on tiles, chest X-rays, natural photographs and glyphs: see docs/data.md
LEAST = 0.7  # never call two pictures near duplicates below this correlation
TURNED = 0.85  # nor below this one if one was turned: tried in so many ways, others of a class come to 0.8 by chance
PAIRS = 2000  # random ones that tell what unrelated pictures have in common
FEWEST, MOST = 8, 40  # rows of a class that tell it of their class, and classes that are asked
NEIGHBOURS = 6
EXACT = 4000  # up to so many rows neighbours are searched among all
PROBES = 24  # cells that are searched beyond


class Found(NamedTuple):
    """Pairs of rows int (P, 2) above the bound, their correlations (P,), the bound, and the median of unrelated pairs, of all
    classes and of each (K,), NaN for one with too few rows."""

    pairs: np.ndarray
    score: np.ndarray
    bound: float
    typical: float
    medians: np.ndarray


NOTHING = Found(np.empty((0, 2), np.int64), np.empty(0), 1.0, 0.0, np.empty(0))


class Look(NamedTuple):
    """Thumbnails as they are laid over one another, and descriptors (N, D) to find neighbours by.

    With the classes y, int (N,), -1 for one that is not known: those alone count that were turned, of one class, and as alike
    as copies are.
    """

    thumbs: Thumbs
    spaces: list[np.ndarray]
    y: np.ndarray | None = None

    def worth(self, pairs: np.ndarray) -> np.ndarray:
        """Which pairs (P, 2) are worth a comparison, bool (P,)."""
        near = alike(self.spaces, pairs)
        if self.y is None or self.thumbs.turns is None:
            return near
        (a, b), (one, other) = self.thumbs.turns[pairs].T, self.y[pairs].T
        return near & (a != b) & ((one == other) | (one < 0) | (other < 0))

    def bound(self, common: float) -> float:
        return common if self.y is None else max(common, TURNED)


def find(thumbs: Thumbs, longest: np.ndarray, y: np.ndarray, apart: np.ndarray, seed: int) -> Found:
    """Near duplicates among pictures whose longest sides were `longest` (N,) and class indices are y (N,), -1 if not known.

    Rows that stand `apart`, int (N,), are found beside those of their own number and of lower ones, and sway neither the
    bound nor any pair of lower ones; the classes of rows above 0 count for turned pairs alone. Pairs compared grow like
    N^1.5, and those registered like N.
    """
    known = np.flatnonzero(apart == 0)
    if len(known) < 3:
        return NOTHING
    scale = min(1.0, registration.SIDE / np.median(longest[known]))
    length = longest * scale  # of every picture where they are compared
    with tempfile.TemporaryDirectory(dir=thumbs.files[0].parent) as folder:
        coarse, spectral, shades = described(thumbs, length, Path(folder))
        looks = [Look(thumbs, [reduced(x, known, seed) for x in (coarse, spectral)])]
        turns = upright(shades)
        looks.append(Look(replace(thumbs, turns=turns), [reduced(stood(coarse, turns, Path(folder)), known, seed)], y))
    bound, typical, medians = told(thumbs, length, known, y, seed)
    pairs, score = np.empty((0, 2), np.int64), np.empty(0)
    for own in np.unique(apart):
        for look in looks:
            more = among(look, length, apart, own, pairs, bound, seed)
            pairs, score = np.concatenate([pairs, more[0]]), np.concatenate([score, more[1]])
    order = np.lexsort(pairs.T[::-1])
    return Found(pairs[order], score[order], bound, typical, medians)


def told(
    thumbs: Thumbs, length: np.ndarray, known: np.ndarray, y: np.ndarray, seed: int
) -> tuple[float, float, np.ndarray]:
    """The bound, the median of unrelated pairs, and that of each class (K,), by random pairs of the `known` rows (M,).

    Of many classes, those with most rows tell of their own.
    """
    rng, count = np.random.default_rng(seed), np.bincount(y[known], minlength=y.max() + 1)
    many = np.argsort(-count, kind="stable")[: min(MOST, (count >= FEWEST).sum())]
    own, each = [known[y[known] == c] for c in many], PAIRS // max(len(many), 1)
    pairs = [known[random_pairs(y[known], PAIRS, rng)]]
    pairs += [rows[random_pairs(np.zeros(len(rows), np.int64), each, rng)] for rows in own]
    said = correlated(thumbs, length, np.concatenate(pairs))
    bound, typical = threshold(said[:PAIRS])
    alone = [threshold(part) for part in said[PAIRS:].reshape(-1, each)]
    medians = np.full(len(count), np.nan)
    medians[many] = [median for _, median in alone]
    return min(bound, max((most for most, _ in alone), default=1.0)), typical, medians


def among(
    look: Look, length: np.ndarray, apart: np.ndarray, own: int, known: np.ndarray, bound: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (P, 2) above the bound, and their correlations (P,), of each row whose `apart` is `own` and any up to it.

    Many pictures of one thing fill each other's neighbours: rows that have none left are searched for again, apart from
    all that they belong with by these pairs and the `known` ones (Q, 2), until nothing more is found.
    """
    n, asking, answering = len(apart), np.flatnonzero(apart == own), np.flatnonzero(apart <= own)
    pairs, score, part = np.empty((0, 2), np.int64), np.empty(0), connected(n, known)
    bound = look.bound(bound)
    while len(asking):
        near = [neighbours(x, asking, answering, part, NEIGHBOURS, seed) for x in look.spaces]
        new = np.unique(np.concatenate([candidates(asking, k, n) for k in near]))
        new = np.stack(np.divmod(new, n), axis=1)
        new = new[look.worth(new)]
        found = correlated(look.thumbs, length, new)
        pairs, score = np.concatenate([pairs, new[found > bound]]), np.concatenate([score, found[found > bound]])
        part = connected(n, np.concatenate([known, pairs]))
        full = [(part[k] == part[asking][:, None]).all(axis=1) for k in near]
        asking = asking[np.any(full, axis=0)] if (found > bound).any() else asking[:0]
    return pairs, score


def correlated(thumbs: Thumbs, length: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The correlation of each pair (P, 2) at its best shift, float (P,); pairs that come twice are compared once."""
    if not len(pairs):
        return np.empty(0)
    both, place = np.unique(numbered(pairs, len(length)), return_inverse=True)
    both = np.stack(np.divmod(both, len(length)), axis=1)
    jobs = []
    for rows in blocks(both, 1024):
        used, at = np.unique(both[rows], return_inverse=True)
        jobs.append((thumbs.take(used), length[used], at.reshape(-1, 2)))
    found = processes.parallel(registration.register, jobs, processes.cores(), "compare pictures", len(both))
    return np.concatenate(found)[place]


def numbered(pairs: np.ndarray, n: int) -> np.ndarray:
    """One number for each pair (P, 2) of n rows, whichever comes first, int (P,); its quotient by n is the lower row."""
    return pairs.min(axis=1) * n + pairs.max(axis=1)


def candidates(rows: np.ndarray, near: np.ndarray, n: int) -> np.ndarray:
    """The distinct pairs of each of the rows (M,) of N and another among its neighbours (M, k), by their numbers, int (P,)."""
    return np.unique(np.concatenate([numbered(np.stack([rows, c], axis=1), n)[rows != c] for c in near.T]))


def random_pairs(y: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Pairs of different rows of one class, int (count, 2); of any two rows where every class has only one."""
    y = y if np.bincount(y).max() > 1 else np.zeros_like(y)
    first = rng.choice(np.flatnonzero(np.bincount(y)[y] > 1), count)
    order, size = np.argsort(y, kind="stable"), np.bincount(y)
    start = np.cumsum(size) - size
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


def neighbours(
    x: np.ndarray, asking: np.ndarray, answering: np.ndarray, part: np.ndarray, k: int, seed: int
) -> np.ndarray:
    """The k nearest of the rows `answering` of x (N, D) by cosine to each of the rows `asking`, int (M, k).

    None is of the same part, int (N,), as the row itself, which stands in for those that are not there. Above EXACT rows
    only those PROBES cells of a k-means are looked into whose centres are nearest to the row.
    """
    from sklearn.cluster import MiniBatchKMeans

    centres = x[:1]
    if len(answering) > EXACT:
        means = MiniBatchKMeans(round(np.sqrt(len(answering))), random_state=seed % 2**32, n_init=1, batch_size=4096)
        centres = means.fit(x[answering]).cluster_centers_
    nearest = np.concatenate([_best(x[rows] @ centres.T, PROBES).astype(np.int32) for rows in blocks(x, 1024)])
    order = np.argsort(nearest[asking], axis=None, kind="stable")  # places in the flat array, cell by cell
    ends = np.searchsorted(nearest[asking].reshape(-1)[order], np.arange(len(centres) + 1))
    out = np.tile(asking[:, None], (1, min(k, len(x) - 1)))
    found = np.full(out.shape, -np.inf, x.dtype)
    for c in range(len(centres)):
        members = answering[nearest[answering, 0] == c]
        looking = order[ends[c] : ends[c + 1]] // nearest.shape[1]
        for start in range(0, len(looking), 256):
            places = looking[start : start + 256]
            rows = asking[places]
            likeness = x[rows] @ x[members].T
            likeness[part[rows][:, None] == part[members]] = -np.inf
            likeness = np.concatenate([found[places], likeness], axis=1)  # beside the best of the cells before
            best = _best(likeness, out.shape[1])
            columns = np.concatenate([out[places], np.broadcast_to(members, (len(rows), len(members)))], axis=1)
            out[places], found[places] = np.take_along_axis(columns, best, 1), np.take_along_axis(likeness, best, 1)
    return np.where(np.isneginf(found), asking[:, None], out)


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
    _, place, back = np.unique(connected(n + len(code), edges)[:n], return_index=True, return_inverse=True)
    return [names[place[k]] for k in back]


def connected(n: int, pairs: np.ndarray) -> np.ndarray:
    """A number for each of n rows, int (n,), the same for rows that pairs (P, 2) join, one after the other."""
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(n, n))
    return connected_components(graph, directed=False)[1]
