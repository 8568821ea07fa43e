"""The published yardstick: long-tailed CIFAR-10, 100 : 1, with ResNet-32, top-1 on the balanced test split.

Run: python -m benchmarks.yardstick <folder with train/ and test/, a folder per class in each> <folder to work in> [share]
A share below 1 takes so much of the rows of each class and of the steps, smaller batches and a narrower diffusion model:
0.01 shows on a CPU that it all runs, and says nothing about accuracy. Called again with the same folder to work in, it
goes on where it was: stages that had finished are kept.
"""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd

from benchmarks import project

ARMS = ("real", "oversample", "balanced_softmax", "cutmix", "strong", "diffusion", "diffusion_cutmix")
SEEDS, EPOCHS, BATCH, ROWS = 3, 200, 128, 12_406  # as published: 200 epochs of batches of 128
DIFFUSION_STEPS = 60_000
LEAST = {"train": 8, "test": 30}  # rows of a class, however small the share


def settings(params: dict, source: Path, share: float) -> None:
    """ResNet-32 for 200 epochs, a diffusion model of 32 million parameters, two arms that learn from its rows."""
    steps = max(20, round(share * EPOCHS * ROWS / BATCH))
    params["profile"] = "full"
    params["data"].update(source=str(source), image_size=32, val_fraction=0.1)
    batch, seeds = (BATCH, SEEDS) if share == 1 else (32, 2)
    params["classifier"].update(widths=[16, 32, 64], depth=5, fold=1, batch=batch, steps=steps)
    params["retraining"]["seeds"] = seeds
    params["search"]["trainings"] = 0
    params["generation"]["cap"] = {"rows": [64, 5000], "ratio": [100.0, 1.0]}
    width, depth = (128, 2) if share == 1 else (16, 1)
    epochs = max(1, round(share * DIFFUSION_STEPS * batch / (share * ROWS)))
    params["generators"] = {name: params["generators"][name] for name in ("nothing", "diffusion")}
    params["generators"]["diffusion"].update(width=width, depth=depth, batch=batch, epochs=epochs)
    recipes, arms = params["recipes"], params["arms"]
    recipes["synthetic_cutmix"] = {**recipes["synthetic"], "mix": "cutmix"}
    arms["diffusion_cutmix"] = {**arms["diffusion"], "recipe": "synthetic_cutmix"}
    params["arms"] = {name: arms[name] for name in ARMS}


def part(source: Path, share: float, folder: Path) -> Path:
    """A copy of the first rows of each class."""
    for split, least in LEAST.items():
        for label in sorted(p for p in (source / split).iterdir() if p.is_dir()):
            files = sorted(label.iterdir())
            (folder / split / label.name).mkdir(parents=True, exist_ok=True)
            for file in files[: max(least, round(share * len(files)))]:
                shutil.copy(file, folder / split / label.name)
    return folder


def table(folder: Path) -> str:
    """Top-1 of each arm, as markdown, and how long the stages took."""
    scores = pd.read_csv(folder / "reports" / "scores.csv", keep_default_na=False)
    top = scores[(scores["metric"] == "accuracy") & (scores["class"] == "")].astype({"value": float})
    lines = ["| arm | top-1, mean of seeds | standard deviation |", "|---|---|---|"]
    for arm, values in top.groupby("arm", sort=False)["value"]:
        lines.append(f"| {arm} | {100 * values.mean():.2f} | {100 * values.std():.2f} |")
    times = [json.loads(f.read_text()) for f in (folder / ".work" / "times").glob("*.json")]
    hours = sum(t["seconds"] for t in times) / 3600
    kinds = sorted({t["device"] for t in times if t["device"]})
    verdict = json.loads((folder / "reports" / "verdict.json").read_text())
    return "\n".join([*lines, "", f"{hours:.2f} hours of all stages on {', '.join(kinds)}. {verdict['sentence']}"])


def main(source: Path, work: Path, share: float) -> None:
    if not all((source / split).is_dir() for split in LEAST):
        sys.exit(f"{source} has no folders train/ and test/")
    copy = work / "project"
    if not copy.exists():
        rows = source if share == 1 else part(source, share, work / "rows")
        project.whole(copy, lambda params: settings(params, rows, share))
    project.run(copy, "python", "-m", "stages", "check")  # mends what a run that was killed left half written
    project.run(copy, "dvc", "repro")
    print(table(copy))


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), float(sys.argv[3]) if len(sys.argv) == 4 else 1.0)
