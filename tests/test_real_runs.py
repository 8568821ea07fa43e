"""A few hundred rows of each public set through the whole graph, and handed on, by edits of params.yaml alone.

Run: REAL_DATA=<folder holding magnetic_tile/, pneumoniamnist/ and cifar10_lt/> python -m pytest -m slow tests/test_real_runs.py
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import project

ARMS = {"real": "control", "duplicate": "control", "cvae": "candidate"}
SEEDS = 2


def tiles(real: Path, out: Path) -> Counter:
    """All photographs of some tiles, with their table; returns rows by folder."""
    table = pd.read_csv(real / "magnetic_tile" / "manifest.csv", dtype=str, keep_default_na=False)
    tiles = table.drop_duplicates("group")
    place = tiles.groupby("label").cumcount()
    kept = table[table["group"].isin(tiles["group"][place < np.where(tiles["label"] == "free", 24, 7)])]
    for path in kept["path"]:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(real / "magnetic_tile" / path, out / path)
    kept.to_csv(out / "manifest.csv", index=False)
    return Counter(Path(path).parent.name for path in kept["path"])


def tiles_of_a_table(real: Path, out: Path) -> Counter:
    return Counter({name.removeprefix("MT_").lower(): n for name, n in tiles(real, out).items()})


def x_rays(real: Path, out: Path) -> Counter:
    out.mkdir(parents=True)
    with np.load(real / "pneumoniamnist" / "pneumoniamnist.npz", allow_pickle=False) as arrays:
        part = {name: arrays[name][::10] for name in arrays}
    np.savez_compressed(out / "few.npz", **part)
    return Counter(str(c) for name in part if name.endswith("labels") for c in part[name].ravel())


def photographs(real: Path, out: Path) -> Counter:
    """A long tail: every 20th picture of a class for training, and at least 12; 15 of each for the test."""
    count: Counter = Counter()
    for folder in sorted((real / "cifar10_lt").glob("*/*")):
        files = sorted(folder.iterdir())
        some = files[:: len(files) // 15][:15] if folder.parent.name == "test" else files[:: min(20, len(files) // 12)]
        (out / folder.parent.name / folder.name).mkdir(parents=True)
        for file in some:
            shutil.copy(file, out / folder.parent.name / folder.name)
        count[folder.name] += len(some)
    return count


class Layout(NamedTuple):
    """How a part of a set is stored, what params say of it, and the size and channels that come of it."""

    store: Callable[[Path, Path], Counter]
    data: dict[str, Any]
    shape: tuple[int, int]
    grouped: bool = False


TABLE = {
    "file": "manifest.csv",
    "path": "path",
    "label": "label",
    "group": "group",
    "split": "split",
    "weight": "weight",
}
LAYOUTS = {
    "tiles in class folders": Layout(tiles, {"source": "set"}, (32, 1)),
    "tiles of a table": Layout(tiles_of_a_table, {"source": "set", "manifest": TABLE}, (32, 1), grouped=True),
    "chest X-rays of an npz": Layout(x_rays, {"source": "set/few.npz", "drop_leaks": True}, (28, 1)),
    "CIFAR-10 in split folders": Layout(photographs, {"source": "set", "drop_leaks": True}, (32, 3)),
}


def small(params: dict) -> None:
    """Hardly any training: what is tried is that everything fits together."""
    params["augment"].update(views_per_class=40, views_per_row=[2, 4])
    params["classifier"].update(steps=30, widths=[16])
    params["teachers"]["folds"] = 2
    params["selection"].update(unlike=1e6, alike=0.0, third_class=1.0)
    params["retraining"]["seeds"] = SEEDS
    params["evaluation"]["bootstrap"] = 200
    params["generators"] = {name: params["generators"][name] for name in ("nothing", "duplicate", "cvae")}
    params["generators"]["cvae"].update(epochs=4, width=16)
    params["arms"] = {name: params["arms"][name] | {"quick": True} for name in ARMS}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_part_of_a_public_set_runs_to_report_and_export(real: Path, tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    folder = tmp_path / "project"
    rows = layout.store(real, folder / "set")
    project.copy(folder, lambda params: (small(params), params["data"].update(layout.data)))
    project.run(folder, "dvc", "repro")
    check_data(folder, layout, rows)
    check_reports(folder / "reports", set(rows))
    shutil.copy(project.ROOT / "pyproject.toml", folder)
    project.run(folder, sys.executable, "-m", "stages", "export", *EXPORTED)
    check_export(folder, set(rows))


MADE = next(m for m in (project.ROOT / "Makefile").read_text().splitlines() if "stages export" in m)
EXPORTED = MADE.split("stages export")[1].split()  # as make gives them


def check_data(folder: Path, layout: Layout, rows: Counter) -> None:
    """Every row is in a split or in quarantine, no group in two splits, and the scarce classes are those with few rows."""
    parts = [pd.read_parquet(folder / "data" / "real" / s / "table.parquet") for s in ("train", "val", "test")]
    whole, audit = pd.concat(parts), json.loads((folder / "reports" / "data.json").read_text())
    quarantine = pd.read_csv(folder / "data" / "real" / "quarantine.csv", dtype=str, keep_default_na=False)
    assert len(whole) + len(quarantine) == sum(rows.values()) and audit["leaking_groups"] == 0
    assert len(whole) >= 0.97 * sum(rows.values()) and set(whole["label"]) == set(rows)
    assert (whole.groupby("group")["split"].nunique() == 1).all() and audit["group_column"] == layout.grouped
    assert (audit["image_size"], audit["channels"]) == layout.shape
    train = parts[0]["label"].value_counts()
    assert set(audit["scarce"]) == set(train.index[train < train.max() / 2]) != set()


def check_reports(reports: Path, classes: set[str]) -> None:
    verdict = json.loads((reports / "verdict.json").read_text())
    assert verdict["verdict"] == "CANNOT_TELL" and verdict["reason"], "two seeds, and few rows to judge on"
    assert verdict["chosen_arm"] == "cvae" and verdict["best_control"] in ("real", "duplicate")
    scores = pd.read_csv(reports / "scores.csv", dtype={"class": str}, keep_default_na=False, na_values={"value": [""]})
    assert set(scores["arm"]) == set(ARMS) and set(scores["seed"]) == set(range(SEEDS))
    assert set(scores["class"]) == {"", *classes}
    assert scores.loc[scores["metric"] == "balanced_accuracy", "value"].between(0, 1).all()
    page, text = (reports / "report.html").read_text(), (reports / "report.md").read_text()
    assert "Cannot tell" in page and "Cannot tell" in text and all(f"<td>{c}</td>" in page for c in classes)


def check_export(folder: Path, classes: set[str]) -> None:
    """The model knows the classes, and the pictures of the set are there, of scarce classes, and say what they are."""
    out = folder / "export"
    assert set(json.loads((out / "model.json").read_text())["classes"]) == classes
    assert all((out / name).stat().st_size for name in ("model.onnx", "model.safetensors", "MODEL_CARD.md"))
    made = pd.read_csv(out / "synthetic" / "manifest.csv", dtype=str, keep_default_na=False)
    scarce = json.loads((folder / "data" / "real" / "train" / "facts.json").read_text())["scarce"]
    assert len(made) and set(made["label"]) <= set(scarce) and set(made["generator"]) == {"cvae"}
    with Image.open(out / "synthetic" / made["path"][0]) as image:
        assert image.text["synthetic"] == "true" and image.text["class"] == made["label"][0]
