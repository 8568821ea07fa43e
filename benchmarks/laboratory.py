"""One split of a dataset in a folder of its own, where the stages are run under many settings, each no more than once.

What a stage made is kept under a key of the params it depends on, as the graph keeps it, but in one process: hundreds of
short trainings would otherwise wait longer for imports than they take.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import generators
from pipeline.params import Params, borrowing
from pipeline.samples import Samples
from pipeline.seeds import derive
from stages import (
    augment,
    fit_generator,
    generate,
    label_pool,
    prepare,
    pseudo_label,
    retrain,
    train_baseline,
)


class NotMade(ValueError):
    """Asked of a closed laboratory, which runs nothing."""


class Laboratory:
    """Classifiers of one arm under given params: only what no earlier setting has made is run."""

    def __init__(self, folder: Path, params: Params, closed: bool = False) -> None:
        """In a closed one nothing is run: what is not there yet raises NotMade."""
        self.closed = closed
        self.folder, real = folder.resolve(), folder.resolve() / "real"
        self.train, self.val, self.heldback = (real / name for name in ("train", "val", "heldback"))
        self.views, self.baseline = self.folder / "views", self.folder / "baseline"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.plan, self.found = self.folder / "plan.json", self.folder / "found.json"
        self.plan.write_text('{"wanted": true}')
        self.found.write_text("{}")
        self._claim(params)
        self._once(real, lambda out: _prepare(params, out))
        self._once(self.views, lambda out: _augment(params, self.train, self.heldback, out))
        self.pool, bank, unlabelled = self.folder / "pool", self.views / "bank", real / "unlabelled"
        self._once(self.baseline, lambda out: train_baseline.main(params, self.train, self.val, bank, out))
        self._once(
            self.pool,
            lambda out: label_pool.main(params, self.train, self.val, unlabelled, bank, self.baseline, out),
        )

    def trained(self, params: Params, name: str) -> Path:
        """validation.npz of this arm: probabilities (S, N, K) of the validation rows, y and groups (N,)."""
        arm = params.arms[name]
        folders = [self.selected(params, rows) for rows in (arm.rows, arm.also)]
        recipe = params.recipes[arm.recipe]
        rest = (arm, recipe, params.retraining, params.classifier, params.generation)
        key = [name, *(f.name for f in folders), *(block.model_dump(mode="json") for block in rest)]

        def make(out: Path) -> None:
            retrain.main(params, name, self.plan, self.train, self.val, self.views / "bank", *folders, self.found, out)

        return self._made(f"arms/{name}", key, make) / "validation.npz"

    def selected(self, params: Params, name: str) -> Path:
        """The folder of a generator's rows, judged by the teachers."""
        made = self.drawn(params, name)
        key = [made.name, params.selection.model_dump(mode="json")]
        return self._made(
            f"selected/{name}",
            key,
            lambda out: pseudo_label.main(params, name, self.train, self.pool, made, self.baseline, out),
        )

    def drawn(self, params: Params, name: str) -> Path:
        """The folder of its rows, as it makes them."""
        model, block = self.fitted(params, name), borrowing(params.generators, name)
        key = [model.name, block.model_dump(mode="json"), params.generation.model_dump(mode="json")]
        return self._made(
            f"drawn/{name}",
            key,
            lambda out: generate.main(params, name, self.plan, self.train, self.pool, model, self.found, out),
        )

    def fitted(self, params: Params, name: str) -> Path:
        """The folder of the model it draws from. Options of sampling alone ask for no model of their own."""
        name = params.generators[name].model
        model = generators.build(params.generators[name], params.compute, name)
        key = [params.selection.copy_false_alarms, model.fixed(model.options.model_dump(mode="json"))]
        return self._made(
            f"fitted/{name}",
            key,
            lambda out: fit_generator.main(
                params, name, self.plan, self.train, self.pool, self.val, self.baseline, out
            ),
        )

    def distance(self, params: Params, name: str) -> float:
        """How far the rows that this arm may use lie from those of validation, as the baseline sees them; mean of classes.

        The kernel distance by which a network's weights are chosen, too. NaN if it learns from none, or of two generators.
        """
        from pipeline import devices
        from pipeline.classifier import predict
        from pipeline.evaluation.fidelity import distances

        arm, held = params.arms[name], Samples.load(self.val)
        made = Samples.load(self.selected(params, arm.rows))
        usable = made.table["keep"].to_numpy() | (arm.use == "all") if len(made) else np.zeros(0, bool)
        if arm.also != "nothing" or not usable.any():
            return float("nan")
        network, where = predict.load(self.baseline / "baseline"), devices.device(params.compute)
        seen, new = (predict.run(network, images, where)[1] for images in (held.images, made.images[usable]))
        return float(np.nanmean(distances(seen, held.y, new, made.y[usable], len(held.classes))))

    def rows(self) -> tuple[tuple[str, int, int, int], ...]:
        """Of each class its name, its rows in train and in validation, and its groups in validation."""
        train, val = Samples.load(self.train), Samples.load(self.val)
        groups = [val.table["group"][val.y == c].nunique() for c in range(len(val.classes))]
        return tuple(zip(train.classes, train.counts.tolist(), val.counts.tolist(), groups, strict=True))

    def held(self) -> tuple[str, ...]:
        """Which rows are for validation."""
        return tuple(Samples.load(self.val).table["id"])

    def _claim(self, params: Params) -> None:
        """Raises ValueError if the folder holds what was made under other params of what no key tells apart."""
        sections = ("seed", "data", "sources", "augment", "classifier", "teachers", "pool")
        own = json.dumps({s: params.model_dump(mode="json")[s] for s in sections}, indent=1)
        file = self.folder / "params.json"
        if file.exists() and file.read_text() != own:
            raise ValueError(f"{self.folder} was made with other params ({', '.join(sections)}): name another folder")
        file.write_text(own)

    def _made(self, name: str, key: list[Any], make: Callable[[Path], None]) -> Path:
        folder = self.folder / f"{name}-{derive(0, json.dumps(key, sort_keys=True))}"
        return self._once(folder, make)

    def _once(self, folder: Path, make: Callable[[Path], None]) -> Path:
        """The folder, made if it is not there; one that was not finished has another name."""
        if not folder.exists():
            if self.closed:
                raise NotMade(f"{folder} has not been made yet")
            draft = folder.with_name(folder.name + ".draft")
            shutil.rmtree(draft, ignore_errors=True)
            draft.parent.mkdir(parents=True, exist_ok=True)
            make(draft)
            os.replace(draft, folder)
        return folder


def _prepare(params: Params, out: Path) -> None:
    """The splits, of which that for tests is thrown away unread."""
    out.mkdir()
    names = ("train", "val", "test", "heldback", "unlabelled", "quarantine.csv", "about")
    prepare.main(params, *(out / name for name in names))
    shutil.rmtree(out / "test")


def _augment(params: Params, train: Path, heldback: Path, out: Path) -> None:
    out.mkdir()
    augment.main(params, train, heldback, out / "bank", out / "set_aside")
