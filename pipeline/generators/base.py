"""What every generator family promises, and the checks that no family has to repeat."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline.params import Compute
from pipeline.samples import Samples


def quiet(count: int, note: str = "") -> None:
    """Reports to nobody."""


# Of images uint8 (N, H, W, C) and their class indices (N,): how far each class lies from held-out rows, and the share of
# rows that are copies of training rows, both float (K,), NaN for a class that cannot be judged.
Judge = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


# Stands in the header of every file of weights: whether they hold copies is known only once rows of theirs were judged. One
# key, for safetensors writes several in any order.
MARK = {
    "sharing": "fitted on real pictures, which these weights may remember: not to be shared before their rows were judged, "
    "which writes `refused` into the summary.json of this generator's selected rows"
}


def failure(folder: Path) -> str:
    """Why nothing could be fitted that would lie in this folder; empty if it was, or if nobody asked for it."""
    return json.loads((folder / "generator.json").read_text()).get("reason", "")


class Options(BaseModel):
    """A family's own settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Generator(ABC):
    """A class-conditional source of images.

    Image i of `sample(labels, seeds)` depends on the fitted state, labels[i] and seeds[i] alone, never on its
    neighbours in the call; and `sample` after `load` equals `sample` before `save`. The fitted state is what `save`
    wrote and the rows fitted on, which `load` is handed again. A family writes `_fit`, `_sample`, `_save` and `_load`;
    `chunk` is the fixed number of rows that `_sample` is called with, None for any number.
    """

    chunk: ClassVar[int | None] = None
    makes_rows: ClassVar[bool] = True
    uses_device: ClassVar[bool] = False
    drawn: ClassVar[frozenset[str]] = frozenset()  # options of sampling, which may differ from those at fitting

    def __init__(self, options: Options, compute: Compute) -> None:
        self.options, self.compute = options, compute
        self.shape: tuple[int, int, int] = (0, 0, 0)
        self.classes: int = 0

    def ready(self) -> None:
        """Raises ValueError if something that fitting needs is not installed."""
        return

    def steps(self, real: Samples) -> int:
        """How many steps `fit` will report; zero where there is nothing to wait for."""
        return 0

    def fit(
        self,
        real: Samples,
        seed: int,
        report: Callable[[int, str], None] = quiet,
        judge: Judge | None = None,
        unfinished: Path | None = None,
    ) -> list[dict[str, Any]]:
        """Fit on all rows of `real`; returns the training curve. Raises ValueError for a set without rows.

        `judge` tells a family that can stop at several points which of them is best. `unfinished` is a folder for what
        a later call with the same arguments can go on from if this one is killed.
        """
        if not len(real):
            raise ValueError("a generator needs at least one real row to fit on")
        self.shape, self.classes, self.judge, self.unfinished = real.shape, len(real.classes), judge, unfinished
        return self._fit(real, seed, report)

    def sample(self, labels: np.ndarray, seeds: np.ndarray, report: Callable[[int, str], None] = quiet) -> np.ndarray:
        """Images uint8 (N, H, W, C) for class indices (N,) and one seed per row (N,)."""
        labels, seeds = np.asarray(labels, np.int64), np.asarray(seeds, np.int64)
        if labels.shape != seeds.shape or labels.ndim != 1:
            raise ValueError(f"labels {labels.shape} and seeds {seeds.shape} must be two vectors of one length")
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.classes):
            raise ValueError(f"labels must lie in [0, {self.classes}), got {labels.min()} to {labels.max()}")
        out, size = np.empty((len(labels), *self.shape), np.uint8), self.chunk or max(len(labels), 1)
        for start in range(0, len(labels), size):
            part = np.arange(start, min(start + size, len(labels)))
            rows = np.pad(part, (0, size - len(part)), mode="edge") if self.chunk else part
            images = self._sample(labels[rows], seeds[rows])
            assert images.dtype == np.uint8 and images.shape == (len(rows), *self.shape), (images.dtype, images.shape)
            out[part] = images[: len(part)]
            report(len(part), "")
        return out

    def learns_from(self, real: Samples) -> Samples:
        """Those of the rows it is handed that it is fitted on; all of them, unless a family says otherwise."""
        return real

    def known(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
        """How well known real rows of these classes seem to the fitted state, float (N,), the higher the better.

        None where a family cannot tell. For membership inference.
        """
        return None

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {"options": self.options.model_dump(), "shape": self.shape, "classes": self.classes, **self._state()}
        (folder / "generator.json").write_text(json.dumps(state, indent=1))
        self._save(folder)

    def load(self, folder: Path, real: Samples) -> "Generator":
        """Read what `save` wrote into this object; `real` are the rows it was fitted on.

        Raises ValueError if it was fitted with other options, or if a file is damaged.
        """
        state = json.loads((folder / "generator.json").read_text())
        if self.fixed(state["options"]) != self.fixed(json.loads(json.dumps(self.options.model_dump()))):
            raise ValueError(f"{folder.name} was fitted with other options than params.yaml has now; run `dvc repro`")
        self.shape, self.classes = tuple(state["shape"]), state["classes"]
        self._load(folder, state, real)
        return self

    def fixed(self, options: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in options.items() if k not in self.drawn}

    def _state(self) -> dict[str, Any]:
        """What a reader of generator.json should see besides the options."""
        return {}

    @abstractmethod
    def _fit(self, real: Samples, seed: int, report: Callable[[int, str], None]) -> list[dict[str, Any]]: ...

    @abstractmethod
    def _sample(self, labels: np.ndarray, seeds: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _save(self, folder: Path) -> None: ...

    @abstractmethod
    def _load(self, folder: Path, state: dict[str, Any], real: Samples) -> None: ...
