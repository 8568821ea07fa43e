"""Gaussian mixture per class in the principal components of the pixels (Tipping and Bishop, 1999; Fraley and Raftery, 2002).

What it makes shows whether a network is needed at all. The number of Gaussians is chosen by BIC, and each covariance is
shrunk towards the one pooled within them all (Friedman, 1989; the pooled one by Ledoit and Wolf, 2004), so that a class
of five rows varies as the others do instead of repeating its rows. What the components leave out is left out: white noise
in its place made texture easier to tell from real.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from safetensors.numpy import load_file, save_file

from pipeline import weights
from pipeline.generators import base
from pipeline.generators._rows import RowByRow
from pipeline.samples import CHUNK, Samples, spaced

FEWEST = 10  # distinct rows that each Gaussian of a class must have on average


class Options(base.Options):
    variance: Annotated[float, Field(gt=0, le=1)]  # share of the pixels' variance that principal components keep ...
    components: Annotated[int, Field(ge=1, le=1024)]  # ... but at most so many of them
    rows: Annotated[int, Field(ge=2)]  # most rows, evenly taken, for the components, and again for a class's Gaussians
    mixtures: Annotated[int, Field(ge=1, le=100)]  # most Gaussians in a class
    shrink: Annotated[float, Field(gt=0)]  # pseudo-rows that pull a covariance to the one pooled within all Gaussians


class Model(RowByRow):
    """Per class `y` (G,): how many `rows` (G,) a Gaussian has, its `centres` (G, D) and a `factors` F F' (G, D, D)."""

    options: Options

    def _fit(self, real: Samples, seed: int, report: Callable[[int, str], None]) -> list[dict[str, Any]]:
        mean, basis = principal(real.images, self.options, seed)
        scores, y = project(real.images, mean, basis), real.y
        groups = [(c, part) for c in np.unique(y) for part in clusters(scores[y == c], self.options, seed)]
        parts = [part for _, part in groups]
        self.arrays = {
            "mean": mean,
            "basis": basis,
            "y": np.array([c for c, _ in groups], np.int64),
            "rows": np.array([len(part) for part in parts], np.int64),
            "centres": np.stack([part.mean(axis=0) for part in parts]),
            "factors": np.stack([root(s) for s in covariances(parts, self.options.shrink)]).astype(np.float32),
        }
        return []

    def one(self, label: int, rng: np.random.Generator) -> np.ndarray:
        """One image uint8 (H, W, C); row by row, since a product of matrices may round differently with its size."""
        a = self.arrays
        own = np.flatnonzero(a["y"] == label)
        if not len(own):
            raise ValueError(f"class index {label} has no real row to start from")
        g = rng.choice(own, p=a["rows"][own] / a["rows"][own].sum())
        score = a["centres"][g] + a["factors"][g] @ rng.standard_normal(len(a["basis"]))
        return np.round(a["mean"] + score @ a["basis"]).clip(0, 255).astype(np.uint8).reshape(self.shape)

    def _state(self) -> dict[str, Any]:
        y = self.arrays["y"]
        return {"components": len(self.arrays["basis"]), "gaussians": np.bincount(y, minlength=self.classes).tolist()}

    def _save(self, folder: Path) -> None:
        save_file(self.arrays, folder / "weights.safetensors", base.MARK)

    def _load(self, folder: Path, state: dict[str, Any], real: Samples) -> None:
        self.arrays = weights.read(folder / "weights.safetensors", load_file)


def principal(images: np.ndarray, o: Options, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (P,) in grey levels and orthonormal principal components (D, P) of images uint8 (N, H, W, C)."""
    from sklearn.decomposition import PCA

    flat = images[spaced(len(images), o.rows)].reshape(-1, images[0].size).astype(np.float32)
    if (flat == flat[0]).all():  # nothing varies, and shares of no variance are undefined
        return flat[0].astype(np.float64), np.zeros((1, flat.shape[1]))
    pca = PCA(min(o.components, *flat.shape), random_state=seed % 2**32).fit(flat)
    enough = 1 + np.searchsorted(np.cumsum(pca.explained_variance_ratio_), o.variance)
    return pca.mean_.astype(np.float64), np.ascontiguousarray(pca.components_[:enough], np.float64)


def project(images: np.ndarray, mean: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Scores (N, D) in grey levels of images uint8 (N, H, W, C), of which a few at a time become floats."""
    scores = np.empty((len(images), len(basis)))
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        scores[part] = (images[part].reshape(-1, len(mean)) - mean) @ basis.T
    return scores


def clusters(scores: np.ndarray, o: Options, seed: int) -> list[np.ndarray]:
    """The rows (n, D) of one class, parted among as many Gaussians as BIC prefers.

    They share a covariance here: with one each, BIC would count so many numbers that it would never choose two.
    """
    from sklearn.mixture import GaussianMixture

    some = scores[spaced(len(scores), o.rows)]
    most = min(o.mixtures, len(np.unique(some, axis=0)) // FEWEST)
    if most < 2:
        return [scores]
    floor = some.var(axis=0).mean() * o.shrink / len(some)  # as if `shrink` rows more varied alike in every direction
    tried = [
        GaussianMixture(k, covariance_type="tied", reg_covar=floor, random_state=seed % 2**32).fit(some)
        for k in range(1, most + 1)
    ]
    member = min(tried, key=lambda mixture: mixture.bic(some)).predict(scores)
    return [scores[member == k] for k in np.unique(member)]


def covariances(parts: list[np.ndarray], shrink: float) -> list[np.ndarray]:
    """Covariance (D, D) about the mean of each part (n, D), as if `shrink` more rows had the one pooled within all parts.

    It is that of the next row, not of the n known ones: 1 + 1/n as wide, since their mean is not yet that of the class.
    """
    from sklearn.covariance import ledoit_wolf

    inner = [part - part.mean(axis=0) for part in parts]
    rows = np.concatenate(inner)
    scale = np.maximum(rows.std(axis=0), 1e-6)  # Ledoit-Wolf pulls to equal variances, which the scores do not have
    pooled = ledoit_wolf(rows / scale, assume_centered=True)[0] * np.outer(scale, scale)
    pooled *= len(rows) / max(len(rows) - len(parts), 1)  # a part's mean is its own
    return [(1 + 1 / len(d)) * (d.T @ d + shrink * pooled) / (len(d) - 1 + shrink) for d in inner]


def root(covariance: np.ndarray) -> np.ndarray:
    """A factor F (D, D) with F F' = covariance, of which rounding may have made one eigenvalue barely negative."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(values.clip(0))
