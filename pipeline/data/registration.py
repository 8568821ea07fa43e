"""How alike are two pictures once they lie on one another? The largest normalised cross-correlation of locally normalised
pictures over all shifts."""

from functools import lru_cache
from typing import Any

import numpy as np
from scipy import fft

from pipeline import processes
from pipeline.data.intake import Thumbs

SIDE = 96  # pictures are compared at the scale that brings the median longest side to this, if it is longer
OVERLAP = 0.6  # least share of the smaller picture that a shift must leave


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
def _shifts(a: tuple[int, int], b: tuple[int, int]) -> tuple[Any, ...] | None:
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
