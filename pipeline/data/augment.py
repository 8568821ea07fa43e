"""The one definition of an augmentation policy (albumentations), and the bank of augmented views made from it once.

Small networks train faster than albumentations augments, and every arm and seed would repeat the same work, so each
row's views are drawn once with the row's own seed and all trainings pick from them. A row of a rare class gets more
views than one of a common class, because balanced sampling asks for it more often.
"""

import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.params import Augment
from pipeline.samples import CHUNK, room


def choose_policy(asked: str, size: int) -> str:
    """`auto`: glyph up to 16 pixels a side, else safe."""
    return asked if asked != "auto" else "glyph" if size <= 16 else "safe"


def choose_flips(
    asked: str, images: np.ndarray, rows: np.ndarray, y: np.ndarray, groups: np.ndarray, tolerance: float
) -> tuple[str, ...]:
    """The flips that augmentation may use, among "horizontal" and "vertical", for the images at `rows`, int (M,).

    y and groups (M,) are those of these rows. Only a probe of the images is read, and that a chunk at a time.

    `auto`: a flip is allowed if a 5-nearest-neighbour rule in 32 principal components, cross-validated on these rows,
    loses at most `tolerance` balanced accuracy when the held-out rows are flipped. A rule that hardly beats guessing can lose
    nothing: then horizontal alone, for most pictures have an up and few have a left.
    """
    if asked != "auto":
        return {"none": (), "both": ("horizontal", "vertical")}.get(asked, (asked,))
    plain, flipped = _neighbour_accuracy(images, rows, y, groups)
    if flipped and plain < 1 / len(np.unique(y)) + 2 * tolerance:
        return ("horizontal",)
    return tuple(name for name, accuracy in flipped.items() if accuracy >= plain - tolerance)


def _neighbour_accuracy(
    images: np.ndarray, rows: np.ndarray, y: np.ndarray, groups: np.ndarray, most: int = 3000
) -> tuple[float, dict[str, float]]:
    """Balanced accuracy of the rule as the rows are, and by flip; of no flip where they are too few to find out."""
    from sklearn.decomposition import PCA
    from sklearn.metrics import recall_score
    from sklearn.neighbors import KNeighborsClassifier

    from pipeline.data.splits import folds

    probe = np.random.default_rng(0).permutation(len(y))[:most]  # fixed by the data, not a result
    rows, y, groups = rows[probe], y[probe], groups[probe]
    if len(np.unique(y)) < 2 or np.bincount(y).max() < 3 or len(np.unique(groups)) < 5:
        return 0.0, {}
    parts = np.array_split(rows, range(CHUNK, len(rows), CHUNK))
    small = np.concatenate([_shrink(images[part], 32) for part in parts])
    views = {"plain": small, "horizontal": small[:, :, ::-1], "vertical": small[:, ::-1]}
    fold, guess = folds(y, groups, 3, 0), {name: np.zeros_like(y) for name in views}
    for k in range(3):
        fit, held = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        flat = {name: v.reshape(len(v), -1) for name, v in views.items()}
        pca = PCA(min(32, len(fit), flat["plain"].shape[1]), random_state=0).fit(flat["plain"][fit])
        near = KNeighborsClassifier(min(5, len(fit)), weights="distance").fit(pca.transform(flat["plain"][fit]), y[fit])
        for name in views:
            guess[name][held] = near.predict(pca.transform(flat[name][held]))
    accuracy = {name: recall_score(y, g, average="macro", zero_division=0) for name, g in guess.items()}
    return accuracy.pop("plain"), accuracy


def _shrink(images: np.ndarray, most: int) -> np.ndarray:
    """Means over whole squares of pixels, float32 (N, h, w, C), of images (N, H, W, C) with more than `most` pixels a side."""
    n, height, width, channels = images.shape
    k = max(1, math.ceil(min(height, width) / most))
    h, w = height // k, width // k
    cut = images[:, : h * k, : w * k].reshape(n, h, k, w, k, channels)
    return cut.mean(axis=(2, 4), dtype=np.float32)


def libraries() -> tuple[Any, Any]:
    """albumentations and cv2, imported where they are used alone."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks a package index for its version otherwise
    import albumentations
    import cv2

    cv2.setNumThreads(0)
    return albumentations, cv2


def flipped(flips: tuple[str, ...]) -> list[Any]:
    """Each of these flips in every other picture."""
    A, _ = libraries()
    return [A.HorizontalFlip(p=0.5)] * ("horizontal" in flips) + [A.VerticalFlip(p=0.5)] * ("vertical" in flips)


@dataclass(frozen=True)
class Mirrored:
    """Each of some images (N, H, W, C) as it is and mirrored, in turn: 1, 2 or 4 N images, made as they are read.

    What augmentation may mirror counts as a row of its class either way round.
    """

    images: np.ndarray
    flips: tuple[str, ...]

    @property
    def ways(self) -> int:
        return 2 ** len(self.flips)

    def __len__(self) -> int:
        return self.ways * len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.images.shape[1:])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        part, way = self.images[rows // self.ways], rows % self.ways
        for i, kind in enumerate(self.flips):
            turned, axis = way >> i & 1 == 1, {"horizontal": 1, "vertical": 0}[kind]
            part[turned] = np.flip(part[turned], axis + 1)
        return part


def policy(name: str, flips: tuple[str, ...], strength: float) -> Any:
    """An albumentations pipeline, uint8 (H, W, C) -> same; magnitudes grow with `strength`."""
    A, cv2 = libraries()
    s, turns = strength, flipped(flips)
    if name == "none" or s == 0:
        return A.Compose(turns)
    shift, turn, zoom, light = {
        "glyph": (0.08, 10, 0.1, 0.15),
        "safe": (0.06, 10, 0.1, 0.2),
        "texture": (0.1, 20, 0.25, 0.25),
    }[name]
    steps = [
        moved(
            translate_percent=(-shift * s, shift * s),
            rotate=(-turn * s, turn * s),
            shear=(-5 * s, 5 * s),
            scale=(1 / (1 + zoom * s), 1 + zoom * s),
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.9,
        ),
        A.RandomBrightnessContrast(light * s, light * s, p=0.7),
        A.RandomGamma(gamma_limit=(int(100 / (1 + light * s)), int(100 * (1 + light * s))), p=0.3),
        A.GaussNoise(std_range=(0.0, 0.06 * s), p=0.3),
        A.CoarseDropout(
            num_holes_range=(1, 2),
            hole_height_range=(0.1, 0.25),
            hole_width_range=(0.1, 0.25),
            fill="random_uniform",
            p=0.25 * min(s, 2),
        ),
    ]
    if name != "glyph":
        steps.insert(1, A.GaussianBlur(blur_limit=(3, 3), p=0.15 * min(s, 2)))
    if name == "texture" and {"horizontal", "vertical"} <= set(flips):
        steps.insert(0, A.RandomRotate90(p=0.5))
    return A.Compose(turns + steps)


def randaugment(flips: tuple[str, ...], transforms: int, magnitude: float) -> Any:
    """RandAugment (Cubuk et al., 2020) as an albumentations pipeline: so many random transforms of one magnitude in [0, 1]."""
    A, cv2 = libraries()
    m, edge = magnitude, {"border_mode": cv2.BORDER_REFLECT_101, "p": 1.0}
    light, solar, bits = 0.9 * m, 1 - m, 8 - round(4 * m)
    some = [
        A.NoOp(p=1.0),
        A.AutoContrast(method="pil", p=1.0),  # the other method is Equalize once more
        A.Equalize(p=1.0),
        A.Affine(rotate=(-30 * m, 30 * m), **edge),
        A.Affine(shear={"x": (-17 * m, 17 * m), "y": (0, 0)}, **edge),
        A.Affine(shear={"x": (0, 0), "y": (-17 * m, 17 * m)}, **edge),
        moved(translate_percent={"x": (-0.45 * m, 0.45 * m), "y": (0, 0)}, **edge),
        moved(translate_percent={"x": (0, 0), "y": (-0.45 * m, 0.45 * m)}, **edge),
        A.RandomBrightnessContrast(light, (0, 0), p=1.0),
        A.RandomBrightnessContrast((0, 0), light, p=1.0),
        A.Solarize(threshold_range=(solar, solar), p=1.0),
        A.Posterize(num_bits=bits, p=1.0) if bits < 8 else A.NoOp(p=1.0),
        A.Sharpen(alpha=(0, m), p=1.0),
    ]
    return A.Compose([*flipped(flips), A.RandomOrder(some, n=transforms, replace=True, p=1.0)])


def moved(**options: Any) -> Any:
    """albumentations.Affine that moves by parts of a pixel too; its own moves are cut down to whole ones, at 8 px mostly to none."""

    class Affine(libraries()[0].Affine):  # type: ignore[misc]
        def _get_translate_params(self, image_shape: tuple[int, int]) -> dict[str, float]:
            sides = {"x": image_shape[1], "y": image_shape[0]}
            return {key: self.py_random.uniform(*self.translate_percent[key]) * n for key, n in sides.items()}

    return Affine(**options)


def augmented(image: np.ndarray, pipeline: Any, seed: int, count: int) -> np.ndarray:
    """`count` augmented versions of one image, uint8 (count, H, W, C): a function of the seed alone.

    All transforms share the row's one stream: reseeding them one by one, as `Compose.set_random_seed` does, would
    give them equal draws, so that they all fired together.
    """
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return np.stack([pipeline(image=image)["image"].reshape(image.shape) for _ in range(count)])


@dataclass(frozen=True)
class Views:
    """Views of all rows behind one another, uint8 (M, H, W, C); row i owns start[i] to start[i + 1], the first being itself."""

    images: np.ndarray
    start: np.ndarray

    def take(self, rows: np.ndarray) -> "Views":
        """The views of these rows alone, read into memory."""
        counts = self.start[rows + 1] - self.start[rows]
        start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        places = np.repeat(self.start[rows] - start[:-1], counts) + np.arange(start[-1])
        return Views(self.images[places], start)

    @classmethod
    def joined(cls, parts: Sequence["Views"]) -> "Views":
        """One bank of several, in order, in memory."""
        ends = np.cumsum([0] + [p.start[-1] for p in parts])
        start = [p.start[:-1] + end for p, end in zip(parts, ends, strict=False)]
        return cls(np.concatenate([p.images for p in parts]), np.concatenate([*start, ends[-1:]]))

    @classmethod
    def load(cls, folder: Path) -> "Views":
        return cls(
            np.load(folder / "views.npy", mmap_mode="r", allow_pickle=False),
            np.load(folder / "start.npy", allow_pickle=False),
        )


def views_per_row(y: np.ndarray, block: Augment) -> np.ndarray:
    """How many views each row gets, int (N,): the class's share of `views_per_class`, within `views_per_row`."""
    counts = np.bincount(y) if len(y) else np.zeros(1, int)
    return np.clip(block.views_per_class // np.maximum(counts[y], 1), *block.views_per_row)


def write_views(folder: Path, images: np.ndarray, counts: np.ndarray, seeds: np.ndarray, pipeline: Any) -> Views:
    """The bank for these rows: `counts[i]` views of image i, the image itself and then draws from its own seed.

    It is written to `folder` as it grows, so that memory need not hold it, and comes back as `Views.load` gives it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    np.save(folder / "start.npy", start)
    bank = room(folder / "views.npy", np.uint8, (int(start[-1]), *images.shape[1:]))
    for i, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        bank[start[i]] = image
        if counts[i] > 1:
            bank[start[i] + 1 : start[i + 1]] = augmented(
                np.ascontiguousarray(image), pipeline, int(seed), int(counts[i]) - 1
            )
    bank.flush()
    return Views.load(folder)
