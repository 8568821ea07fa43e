"""Batches: which rows, views and loss weights each optimiser step sees, as a pure function of (seed, step)."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.augment import Views
from pipeline.samples import to_network

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rows:
    """Labelled rows to draw from: class indices int (N,), the bank of their views, a loss weight and a place in the bank each."""

    y: np.ndarray
    views: Views
    weight: np.ndarray
    place: np.ndarray | None = None  # which row of the bank each row is; None: the same

    def take(self, rows: np.ndarray) -> "Rows":
        """The rows at these positions, or where a mask is true; the bank stays whole."""
        place = np.arange(len(self.y)) if self.place is None else self.place
        return Rows(self.y[rows], self.views, self.weight[rows], place[rows])

    def view(self, rows: np.ndarray, u: np.ndarray) -> np.ndarray:
        """The view of each row that a number u in [0, 1) points at, as a position in the bank."""
        place, start = rows if self.place is None else self.place[rows], self.views.start
        return start[place] + (u * (start[place + 1] - start[place])).astype(np.int64)

    @classmethod
    def plain(cls, images: Any, y: np.ndarray, each: int = 1) -> "Rows":
        """Rows without augmentation: so many images each, one after the other, in an array or what is indexed like one."""
        return cls(y, Views(images, np.arange(len(y) + 1) * each), np.ones(len(y)))


@dataclass(frozen=True)
class Batches:
    """The batches of one training, a map-style dataset of length `steps`.

    Every step draws classes, then a real row and a view for each place, then which places become synthetic rows of the
    same class: two trainings with the same seed and class shares see the same real rows in the same places. `balance` b
    gives class c the share n_c^b of all rows, real and synthetic; a pair (b, e) goes evenly from the shares of b to
    those of e (progressively balanced sampling, Kang et al., 2020). `share` bounds the synthetic part of a class and of
    a batch. Loss weights say how much a synthetic row counts beside a real row of its class: a class as a whole weighs as
    much in the loss as without synthetic rows, but for what the bound on a batch cuts off.
    """

    real: Rows
    classes: int
    batch: int
    steps: int
    seed: int
    balance: float | tuple[float, float] = 1.0
    synthetic: Rows | None = None
    share: float = 0.5

    def __len__(self) -> int:
        return self.steps

    @property
    def side(self) -> int:
        """Height of the images, in pixels."""
        return self.real.views.images.shape[1]

    @cached_property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        added = self.synthetic.y if self.synthetic is not None else np.zeros(0, np.int64)
        return np.bincount(self.real.y, minlength=self.classes), np.bincount(added, minlength=self.classes)

    @cached_property
    def _ends(self) -> np.ndarray:
        """Class shares at the first and the last step, float (2, K)."""
        real, added = self.counts
        exponents = self.balance if isinstance(self.balance, tuple) else (self.balance, self.balance)
        mass = np.stack([np.where(real > 0, (real + added).astype(float) ** b, 0.0) for b in exponents])
        return mass / mass.sum(axis=1, keepdims=True)

    def class_share(self, step: int) -> np.ndarray:
        """Probability of each class at a step, float (K,); a class without real rows is never drawn."""
        first, last = self._ends
        return first + (last - first) * (step / max(self.steps - 1, 1))

    @property
    def mean_share(self) -> np.ndarray:
        """Probability of each class over all steps, float (K,)."""
        return self._ends.mean(axis=0)

    def ladder(self, step: int) -> np.ndarray:
        """Upper ends of the classes' parts of [0, 1), float (K,); the last class with rows ends at exactly 1."""
        sums = np.cumsum(self.class_share(step))
        return sums / sums[-1]

    @cached_property
    def synthetic_share(self) -> np.ndarray:
        real, added = self.counts
        return np.minimum(self.share, added / np.maximum(real + added, 1))

    @cached_property
    def scale(self) -> np.ndarray:
        """What loss weights are multiplied by, float (K,): keeps each class's expected sum.

        But for what the bound on a batch cuts off.
        """
        if self.synthetic is None:
            return np.ones(self.classes)
        real, made = (mean_weight(rows, self.classes) for rows in (self.real, self.synthetic))
        mixed = (1 - self.synthetic_share) * real + self.synthetic_share * made
        return real / np.where(mixed > 0, mixed, 1)

    @cached_property
    def order(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """For real and synthetic rows: positions sorted by class, and where each class begins."""
        parts = [self.real.y] + ([self.synthetic.y] if self.synthetic is not None else [])
        return tuple(
            (np.argsort(y, kind="stable"), np.searchsorted(np.sort(y), np.arange(self.classes))) for y in parts
        )

    def draw(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """For each place of the batch, int (B,): class, row, whether the row is synthetic (bool), view."""
        u = np.random.default_rng([self.seed, step]).random((6, self.batch))
        c = np.searchsorted(self.ladder(step), u[0], side="right")
        real, added = self.counts
        order, first = self.order[0]
        row = order[first[c] + (u[1] * real[c]).astype(np.int64)]
        view = self.real.view(row, u[2])
        swap = u[3] < self.synthetic_share[c]
        swap &= np.cumsum(swap) <= int(self.share * self.batch)
        if self.synthetic is not None and swap.any():
            order, first = self.order[1]
            other = order[first[c[swap]] + (u[4][swap] * added[c[swap]]).astype(np.int64)]
            row[swap], view[swap] = other, self.synthetic.view(other, u[5][swap])
        return c, row, swap, view

    def __getitem__(self, step: int) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        """Images float (B, C, H, W) in [-1, 1], classes int64 (B,), loss weights float (B,)."""
        import torch

        c, row, swap, view = self.draw(step)
        images = np.empty((self.batch, *self.real.views.images.shape[1:]), np.uint8)
        weight = np.empty(self.batch, np.float32)
        for rows, mask in ((self.real, ~swap), (self.synthetic, swap)):
            if rows is not None and mask.any():
                images[mask], weight[mask] = rows.views.images[view[mask]], rows.weight[row[mask]]
        weight *= self.scale[c].astype(np.float32)
        return to_network(images), torch.from_numpy(c.astype(np.int64)), torch.from_numpy(weight)


@dataclass(frozen=True)
class Pairs:
    """Batches of two different views each of `rows` distinct rows (fewer if there are not so many), without labels."""

    views: Views
    rows: int
    steps: int
    seed: int

    def __len__(self) -> int:
        return self.steps

    @property
    def side(self) -> int:
        """Height of the images, in pixels."""
        return self.views.images.shape[1]

    def draw(self, step: int) -> np.ndarray:
        """Positions in the bank, int (2, B): in column i two views of a row; of a row with one view the same twice."""
        rng, start = np.random.default_rng([self.seed, step]), self.views.start
        row = rng.choice(len(start) - 1, min(self.rows, len(start) - 1), replace=False)
        many, u = start[row + 1] - start[row], rng.random((2, len(row)))
        one = (u[0] * many).astype(np.int64)
        other = (one + 1 + (u[1] * (many - 1)).astype(np.int64)) % many
        return start[row] + np.stack([one, other])

    def __getitem__(self, step: int) -> "tuple[torch.Tensor]":
        """Images float (2 B, C, H, W) in [-1, 1]: row i and row B + i show the same."""
        return (to_network(self.views.images[self.draw(step).reshape(-1)]),)


def mean_weight(rows: Rows, classes: int) -> np.ndarray:
    """Mean loss weight of each class, float (K,); zero for a class without rows."""
    count = np.bincount(rows.y, minlength=classes)
    return np.bincount(rows.y, rows.weight, minlength=classes) / np.maximum(count, 1)
