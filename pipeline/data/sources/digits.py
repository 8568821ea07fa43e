"""The embedded set: scikit-learn's 1,797 handwritten digits, 8x8, made scarce by params."""

from functools import partial

import numpy as np

from pipeline.data.sources.base import Picture, Source, table
from pipeline.params.sections import Digits


def load(images: np.ndarray, row: int) -> Picture:
    """A digit by its row in scikit-learn's array."""
    return Picture(images[row][..., None])


def read_digits(block: Digits, seed: int) -> Source:
    """Train rows fall exponentially from `commonest` in class 0 to `rarest` in class 9. Raises ValueError if they run out."""
    from sklearn.datasets import load_digits

    pixels, y = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    keep = np.round(np.geomspace(block.commonest, block.rarest, 10)).astype(int)
    test, val = (np.bincount(np.arange(n) % 10, minlength=10) for n in (block.test_rows, block.val_rows))
    rng, rows, splits = np.random.default_rng(seed), [], []
    for c in range(10):
        own = rng.permutation(np.flatnonzero(y == c))
        if test[c] + val[c] + keep[c] > len(own):
            raise ValueError(
                f"sources.digits: class {c} has {len(own)} rows, but test_rows, val_rows and the "
                f"{keep[c]} rows left by commonest and rarest ask for {test[c] + val[c] + keep[c]}; lower one"
            )
        rows += own[: test[c] + val[c] + keep[c]].tolist()
        splits += ["test"] * test[c] + ["val"] * val[c] + ["train"] * keep[c]
    names = tuple(str(c) for c in range(10))
    frame = table(label=[names[y[i]] for i in rows], split=splits, path=[f"digits/{i}" for i in rows])
    return Source(names, frame, rows, partial(load, images))
