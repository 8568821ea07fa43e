"""What near duplicates are looked for by: two descriptors of each picture, and how it stands.

A coarse band-pass picture, and the amplitude spectrum, which a shift does not change. A picture is put upright so that, of
its eight orientations, a fixed smooth pattern correlates most with the one it then has: its mirrored and quarter-turned
copies, which published sets have that were augmented before they were split, then lie on it. The pattern meets the coarsest
shades, which a small shift hardly changes; a picture that is nearly its own mirror image may yet be put otherwise than its copy.
"""

from pathlib import Path

import numpy as np
from scipy import fft

from pipeline import processes
from pipeline.data import registration
from pipeline.data.intake import Thumbs, turned
from pipeline.samples import blocks, room

SMALL = 24  # pixels a side of the coarse picture
SMOOTH = 4.0  # pixels, of the pattern
PLACES = np.stack([turned(np.arange(SMALL**2).reshape(SMALL, SMALL), how).reshape(-1) for how in range(8)])
SAMPLE = 5000  # rows whose principal components stand for all
ALIKE = 0.5  # least cosine of either descriptor for a pair to be compared


def described(thumbs: Thumbs, length: np.ndarray, folder: Path) -> list[np.ndarray]:
    """Two descriptors of each picture, float16 (N, SMALL^2) and (N, 512), each row of length 1, and its coarsest shades
    (N, SMALL^2); memory-mapped from the folder."""
    files = [folder / f"{name}.npy" for name in ("coarse", "spectral", "shades")]
    for file, width in zip(files, (SMALL**2, 512, SMALL**2), strict=True):
        room(file, np.float16, (len(length), width)).flush()
    jobs = [(thumbs.take(rows), length[rows], files, rows.start) for rows in blocks(length, 1024)]
    processes.parallel(describe, jobs, processes.cores(), "describe pictures", len(length))
    return [np.load(file, mmap_mode="r", allow_pickle=False) for file in files]


def describe(thumbs: Thumbs, length: np.ndarray, files: list[Path], start: int, report: processes.Report) -> None:
    """Writes the descriptors of these pictures into the files, from row `start` on."""
    import cv2

    coarse, spectral, shades = (np.load(file, mmap_mode="r+", allow_pickle=False)[start:] for file in files)
    for i in range(len(length)):
        thumb = thumbs[i]
        x = np.log(cv2.resize(thumb.astype(np.float32), (SMALL, SMALL), interpolation=cv2.INTER_AREA) + 8)
        shades[i] = (x - x.mean()).reshape(-1)
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


def reduced(features: np.ndarray, known: np.ndarray, seed: int) -> np.ndarray:
    """Principal components of the `known` rows, of length 1 for each row, float32 (N, at most 64)."""
    from sklearn.decomposition import PCA

    sample = known[np.random.default_rng(seed).permutation(len(known))[:SAMPLE]]
    pca = PCA(min(64, len(sample), features.shape[1]), random_state=seed % 2**32)
    pca.fit(features[sample].astype(np.float32))
    x = np.concatenate([pca.transform(features[rows].astype(np.float32)) for rows in blocks(features, 1024)])
    return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-9)


def alike(spaces: list[np.ndarray], pairs: np.ndarray) -> np.ndarray:
    """Whether a pair is near enough in any of the spaces (N, D) to be worth a comparison, bool (P,)."""
    out = np.empty(len(pairs), bool)
    for rows in blocks(pairs, 8192):
        one, other = pairs[rows].T
        out[rows] = np.max([(x[one] * x[other]).sum(axis=1) for x in spaces], axis=0) > ALIKE
    return out


def upright(shades: np.ndarray) -> np.ndarray:
    """How each of the pictures (N, SMALL^2) is to be turned, int (N,), as `intake.turned` has it."""
    import cv2

    noise = np.random.default_rng(1).normal(size=(SMALL, SMALL)).astype(np.float32)
    each = np.empty((8, SMALL**2), np.float32)
    np.put_along_axis(each, PLACES, cv2.GaussianBlur(noise, (0, 0), SMOOTH).reshape(1, -1), axis=1)
    return np.concatenate([(shades[rows].astype(np.float32) @ each.T).argmax(axis=1) for rows in blocks(shades, 1024)])


def stood(coarse: np.ndarray, turns: np.ndarray, folder: Path) -> np.ndarray:
    """The pictures (N, SMALL^2) turned so, memory-mapped from the folder."""
    out = room(folder / "stood.npy", np.float16, coarse.shape)
    for rows in blocks(coarse, 1024):
        out[rows] = np.take_along_axis(coarse[rows], PLACES[turns[rows]], axis=1)
    return out
