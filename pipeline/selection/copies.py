"""Is a synthetic row a copy of a training row? Nearest distances in pixels against what real rows show among themselves."""

import numpy as np
from sklearn.neighbors import NearestNeighbors


def nearest(rows: np.ndarray, reference: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Distances float (N, k) and positions int (N, k) of the k nearest reference rows; root-mean-square grey levels."""
    if not len(rows):
        return np.empty((0, k)), np.empty((0, k), np.int64)
    flat = [np.asarray(x).reshape(len(x), -1).astype(np.float32) for x in (rows, reference)]
    found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(flat[1]).kneighbors(flat[0])
    return found[0] / np.sqrt(flat[0].shape[1]), found[1]


def real_to_real(images: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Distance of each row to the nearest row of another group, float (N,); NaN where there is only one group."""
    largest = int(np.unique(groups, return_counts=True)[1].max())
    if len(np.unique(groups)) < 2:
        return np.full(len(images), np.nan)
    distance, position = nearest(images, images, min(largest + 1, len(images)))
    other = groups[position] != groups[:, None]
    return np.where(other, distance, np.inf).min(axis=1)


def floor(images: np.ndarray, groups: np.ndarray, quantile: float) -> float:
    """The distance below which only this share of real rows have a neighbour from another group: nearer is a copy."""
    distances = real_to_real(images, groups)
    return float(np.nanquantile(distances, quantile)) if np.isfinite(distances).any() else 0.0
