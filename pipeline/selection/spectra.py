"""Does a synthetic row look like a picture of this set at all? How bright it is, and how much of it is coarse and how much fine.

A network that learnt from few pictures may see noise or a blank sheet near to them, for nothing ever taught it otherwise; the
power spectrum of a picture cannot be mistaken so (what natural pictures have in common: Field, 1987). Distances are to the
nearest real row of any class, in units of how far real rows lie from those of other groups, so no network and no training
is asked, and two dozen rows will do.
"""

import numpy as np

from pipeline.samples import blocks, spaced
from pipeline.selection import copies

RINGS = 6  # of spatial frequencies up to one wave in two pixels, and one beyond; at most one per two pixels of the side
FAINT = 1e-4  # power that is added before the logarithm: that of noise of 1 % of the range
USUAL = 0.95  # 1 is as far as so many real rows lie at most
KNOWN = 10_000  # real rows that others are held against at most, so that time grows like the number of the others alone
SAMPLE = 2000  # of them asked how far they lie
BLOCK = 2048  # rows that are described or compared at a time


def described(images: np.ndarray) -> np.ndarray:
    """Mean, spread and log power by ring of frequencies of each channel, float (N, D), of uint8 images (N, H, W, C)."""
    height, width = images.shape[1:3]
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    edges = np.linspace(0, 0.5, min(RINGS, min(height, width) // 2) + 1)
    ring = np.digitize(radius, edges, right=True).ravel()  # 0: the mean itself
    rings = np.unique(ring[ring > 0])
    share = (ring[:, None] == rings) / np.bincount(ring)[rings]
    parts = []
    for part in blocks(images, BLOCK):
        pixels = np.moveaxis(images[part], 3, 1) / 255.0  # (n, C, H, W)
        power = np.abs(np.fft.rfft2(pixels)) ** 2 / (height * width)
        power = power.reshape(*pixels.shape[:2], -1) @ share
        levels = np.stack([pixels.mean(axis=(2, 3)), pixels.std(axis=(2, 3))], axis=2)
        parts.append(np.concatenate([levels, np.log10(power + FAINT)], axis=2).reshape(len(pixels), -1))
    return np.concatenate(parts) if parts else np.empty((0, images.shape[3] * (2 + len(rings))))


def distance(rows: np.ndarray, real: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """How far each of the rows lies from the nearest of the real ones, float (N,); images uint8, `groups` (M,) of the real ones.

    1 is as far as USUAL of real rows lie from those of other groups. NaN where fewer than three have another group.
    """
    some = spaced(len(real), KNOWN)
    known, groups = described(real[some]), groups[some]
    centre, spread = known.mean(axis=0), np.maximum(known.std(axis=0), 0.01)
    return relative((described(rows) - centre) / spread, (known - centre) / spread, groups)


def relative(rows: np.ndarray, known: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """How far each row (N, D) lies from the nearest known one (M, D), float (N,), in the unit of `distance`; NaN as there."""
    some = spaced(len(known), KNOWN)
    known, groups = known[some], groups[some]
    asked = spaced(len(known), SAMPLE)
    usual = closest(known[asked], known, groups, groups[asked])
    closeness = copies.lower(1 / np.maximum(usual[np.isfinite(usual)], 0.01), 1 - USUAL)
    return closest(rows, known) * closeness if closeness else np.full(len(rows), np.nan)


def closest(
    rows: np.ndarray, known: np.ndarray, groups: np.ndarray | None = None, own: np.ndarray | None = None
) -> np.ndarray:
    """Euclidean distance float (N,) from rows (N, D) to the nearest of (M, D), but for those of a row's own group; else inf."""
    best = np.full(len(rows), np.inf)
    for some in blocks(rows, BLOCK):
        for part in blocks(known, BLOCK):
            square = (
                (rows[some] ** 2).sum(axis=1)[:, None] + (known[part] ** 2).sum(axis=1) - 2 * rows[some] @ known[part].T
            )
            if own is not None and groups is not None:
                square[own[some, None] == groups[part]] = np.inf
            best[some] = np.minimum(best[some], np.sqrt(np.maximum(square, 0)).min(axis=1))
    return best
