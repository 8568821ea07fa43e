"""Is a synthetic row a copy of a training row? Nearest distances in pixels against what real rows show among themselves.

Rows are compared a block with a block, so memory grows with neither set, and images may stay memory-mapped. Of bytes the
sums are whole numbers that doubles hold exactly: block size and order change nothing.
"""

from collections.abc import Iterator

import numpy as np

BLOCK = 512  # most rows of either side that are compared at once
BYTES = 2**24  # and most memory for the pixels of those of one side


def nearest(rows: np.ndarray, reference: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Distances float (N, k) and positions int (N, k) of the k nearest reference rows; root-mean-square grey levels.

    Of equally near ones the first counts.
    """
    assert not len(rows) or k <= len(reference), (k, len(reference))
    found, position = np.full((len(rows), k), np.inf), np.zeros((len(rows), k), np.int64)
    for asking in _blocks(rows):
        x = _flat(rows[asking])
        for answering in _blocks(reference):
            least, place = _least(_squares(x, _flat(reference[answering])), k)
            both = np.concatenate([found[asking], least], axis=1)  # those of the blocks before come first
            places = np.concatenate([position[asking], place + answering.start], axis=1)
            order = np.argsort(both, axis=1, kind="stable")[:, :k]
            found[asking] = np.take_along_axis(both, order, axis=1)
            position[asking] = np.take_along_axis(places, order, axis=1)
    return np.sqrt(found) / np.sqrt(np.prod(rows.shape[1:])), position


def real_to_real(images: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Distance of each row to the nearest row of another group, float (N,); NaN where there is only one group."""
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return np.full(len(images), np.nan)
    least = np.full(len(images), np.inf)
    for one in _blocks(images):
        x = _flat(images[one])
        for other in _blocks(images):
            if other.start < one.start:
                continue  # that pair of blocks was compared the other way round
            squares = _squares(x, x if other == one else _flat(images[other]))
            squares[group[one][:, None] == group[other]] = np.inf
            least[one] = np.minimum(least[one], squares.min(axis=1))
            least[other] = np.minimum(least[other], squares.min(axis=0))
    return np.sqrt(least) / np.sqrt(np.prod(images.shape[1:]))


def floor(images: np.ndarray, groups: np.ndarray, quantile: float) -> float:
    """The distance below which only this share of real rows have a neighbour from another group: nearer is a copy."""
    distances = real_to_real(images, groups)
    return float(np.nanquantile(distances, quantile)) if np.isfinite(distances).any() else 0.0


def _blocks(images: np.ndarray) -> Iterator[slice]:
    step = max(1, min(BLOCK, BYTES // (8 * int(np.prod(images.shape[1:])))))
    return (slice(start, min(start + step, len(images))) for start in range(0, len(images), step))


def _flat(images: np.ndarray) -> np.ndarray:
    return np.asarray(images).reshape(len(images), -1).astype(np.float64)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances (N, M) of rows (N, D) and (M, D)."""
    out = a @ b.T
    out *= -2
    out += np.einsum("nd,nd->n", a, a)[:, None]
    out += np.einsum("md,md->m", b, b)
    return np.maximum(out, 0, out=out)  # floats that are no bytes may round to less


def _least(squares: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k smallest values of each row and their columns, in order; k is small, so the least of all, k times."""
    across, found = np.arange(len(squares)), []
    for _ in range(min(k, squares.shape[1])):
        column = squares.argmin(axis=1)
        found.append((squares[across, column], column))
        squares[across, column] = np.inf
    value, column = zip(*found, strict=True)
    return np.stack(value, axis=1), np.stack(column, axis=1)
