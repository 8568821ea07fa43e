"""The whole run on the embedded set, cuts of three public ones and drawn textures, as docs/results.md reports them: every arm.

Run: python -m benchmarks.results <cut> <folder of the set> <folder to work in>
Cuts: pneumonia_60, pneumonia_388 (folder with pneumoniamnist.npz), cifar10_lt_10 (folder with train/ and test/, a folder
per class in each), tile_64 (folder with manifest.csv), digits (sets/digits.yaml), textures (folder that benchmarks.textures
filled). Called again with the same folders it goes on where it was. At the end docs/results/ holds the report of the cut, a
picture of its rows and the keys that differ from params.yaml.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks import project
from pipeline.reporting import answer, tables
from pipeline.samples import Samples

SHOWN = ("classic", "smote", "gmm", "cvae", "cgan", "diffusion", "translate")
EACH = 12  # rows of a class and a generator in the picture
TEST = 300  # test rows of a class of CIFAR-10
SIX = {"retraining": {"seeds": 6}}  # the fewest that can give a verdict, as hours on a CPU count


def x_rays(normals: int) -> Callable[[Path, Path], Path]:
    """The published splits with so many normal rows for training; validation and test are whole."""

    def cut(source: Path, out: Path) -> Path:
        out.mkdir(parents=True, exist_ok=True)
        with np.load(source / "pneumoniamnist.npz", allow_pickle=False) as arrays:
            made = {name: arrays[name] for name in arrays}
        normal = np.flatnonzero(made["train_labels"].ravel() == 0)
        gone = np.random.default_rng(0).permutation(normal)[normals:]
        for name in ("train_images", "train_labels"):
            made[name] = np.delete(made[name], gone, axis=0)
        np.savez_compressed(out / "x_rays.npz", **made)
        return out / "x_rays.npz"

    return cut


def photographs(source: Path, out: Path) -> Path:
    """A tenth of the long tail (500 to 5 rows of a class), 30 of the other training rows of each class for validation."""
    for split in ("train", "test"):
        for folder in sorted(p for p in (source / split).iterdir() if p.is_dir()):
            files = sorted(folder.iterdir())
            order = np.random.default_rng(0).permutation(len(files))
            few = round(len(files) / 10)
            parts = {"test": order[:TEST]} if split == "test" else {"train": order[:few], "val": order[few : few + 30]}
            for name, places in parts.items():
                (out / name / folder.name).mkdir(parents=True, exist_ok=True)
                for place in places:
                    shutil.copy(files[place], out / name / folder.name)
    return out


def whole(source: Path, out: Path) -> Path:
    return source


class Cut(NamedTuple):
    """How the rows are made from the published set, and the keys of params.yaml that differ from what is shipped."""

    rows: Callable[[Path, Path], Path]
    keys: dict


CUTS = {
    "pneumonia_60": Cut(x_rays(60), {"data": {"drop_leaks": True}, "classifier": {"steps": 1500}, **SIX}),
    "pneumonia_388": Cut(x_rays(388), {"data": {"drop_leaks": True}, "classifier": {"steps": 1500}, **SIX}),
    "cifar10_lt_10": Cut(photographs, {"data": {"drop_leaks": True}, **SIX}),
    "tile_64": Cut(  # without a search: of so large pictures it takes an hour to draw what it tries
        whole,
        {
            "data": {"image_size": 64, "manifest": {"file": "manifest.csv"}},
            "classifier": {"steps": 800},
            "search": {"trainings": 0},
            **SIX,
        },
    ),
    "digits": Cut(whole, {"data": {}}),
    "textures": Cut(whole, {"data": {}, "classifier": {"steps": 1500}, **SIX}),
}


def settings(params: dict, keys: dict) -> None:
    for key, value in keys.items():
        if isinstance(value, dict):
            settings(params[key], value)
        else:
            params[key] = value


def picture(copy: Path, file: Path) -> None:
    """For each scarce class, its training rows first and then kept rows of each generator, a line each."""
    train = Samples.load(copy / "data" / "real" / "train")
    banks = [copy / "data" / "selected" / name for name in SHOWN]
    lines = []
    for label in train.scarce:
        for some in [train, *(Samples.load(bank) for bank in banks if bank.exists())]:
            kept = some.table["keep"].to_numpy() & (some.y == label)
            images = some.images[np.flatnonzero(kept)[:EACH]]
            if len(images):
                blank = np.full((EACH - len(images), *train.shape), 255, np.uint8)
                lines.append(np.concatenate([*images, *blank], axis=1))
    scale = max(1, 48 // train.shape[0])
    sheet = np.concatenate(lines).repeat(scale, 0).repeat(scale, 1)
    Image.fromarray(sheet.squeeze()).save(file)


def publish(cut: str, copy: Path, out: Path) -> None:
    """The report, its figure, a table of all arms, a picture of rows, all that the search tried, and how long it all took."""
    out.mkdir(parents=True, exist_ok=True)
    picture(copy, out / f"{cut}-rows.png")
    shutil.copy(copy / "reports" / "arms.png", out / f"{cut}-arms.png")
    times = [json.loads(f.read_text()) for f in (copy / ".work" / "times").glob("*.json")]
    seconds, kinds = sum(t["seconds"] for t in times), sorted({t["device"] for t in times if t["device"]})
    tried = pd.read_csv(copy / "results" / "search" / "tried.csv", dtype={"generator": str})
    metrics, verdict = (json.loads((copy / "reports" / f"{name}.json").read_text()) for name in ("metrics", "verdict"))
    records = {arm: json.loads((copy / "models" / "arms" / arm / "record.json").read_text()) for arm in metrics}
    head = [
        f"`python -m benchmarks.results {cut} /path/to/set /path/to/work`; other keys than shipped: "
        f"`{json.dumps({**CUTS[cut].keys, 'profile': 'full'})}`.",
        f"All stages added up: {seconds / 60:.0f} minutes on {', '.join(kinds)}, several of them side by side.",
        f"Rows of each scarce class, a line each of train, then kept ones of {', '.join(SHOWN)} where fitted:",
        f"![rows]({cut}-rows.png)",
        f"![arms]({cut}-arms.png)",
    ]
    tail = [
        "## All arms",
        tables.markdown(answer.arms_table(metrics, records, verdict)),
        "## What the search tried, on validation",
        (tables.markdown(tables.search_table(tried)) if len(tried) else "Nothing.") + "\n",
    ]
    (out / f"{cut}.md").write_text("\n\n".join([*head, (copy / "reports" / "report.md").read_text().strip(), *tail]))


def main(cut: str, source: Path, work: Path) -> None:
    copy = work / cut / "project"
    if not copy.exists():
        rows = CUTS[cut].rows(source, work / cut / "rows")
        data = {**CUTS[cut].keys["data"], "source": str(rows)}
        project.whole(copy, lambda params: settings(params, {**CUTS[cut].keys, "profile": "full", "data": data}))
    if not (opened := copy / "reports" / "test_opened.json").exists():
        opened.parent.mkdir(exist_ok=True)
        shutil.copy(project.ROOT / "reports" / opened.name, opened)  # where looks at the same test split count on
    project.run(copy, "python", "-m", "stages", "check")  # mends what a run that was killed left half written
    project.run(copy, "make", "--no-print-directory", "-f", str(project.ROOT / "Makefile"), "side-by-side")
    project.run(copy, "dvc", "repro")
    publish(cut, copy, project.ROOT / "docs" / "results")


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in CUTS:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve())
