"""What a leak is worth, in points: test scores with near duplicates kept in one split and without.

Run: python -m benchmarks.leak <folder of class folders> [splits, default 4]
Each split seed is prepared twice, with data.near_duplicates `group` and `ignore`; the controls `real` and `oversample`
are trained on each with 2 paired seeds. Prints a table as markdown. About 7 minutes per split seed on 2 cores at 32 px.
"""

import sys
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks import project

ARMS, SEEDS = ("real", "oversample"), 2


def trim(params: dict, source: Path, mode: str, seed: int) -> None:
    """Leaves the two arms, which ask for no generator, on this source."""
    params["seed"] = seed
    params["data"].update(source=str(source), near_duplicates=mode)
    params["generators"] = {"nothing": params["generators"]["nothing"]}
    params["arms"] = {a: params["arms"][a] for a in ARMS}
    params["retraining"]["seeds"] = SEEDS


def scores(source: Path, mode: str, seed: int) -> pd.DataFrame:
    """Balanced accuracy on test by arm and training seed."""
    with tempfile.TemporaryDirectory() as folder:
        copy = project.copy(Path(folder), lambda params: trim(params, source, mode, seed))
        project.run(copy, "dvc", "repro", "--quiet", "evaluate")
        table = pd.read_csv(Path(folder) / "results" / "evaluation" / "scores.csv", keep_default_na=False)
    kept = table[(table["metric"] == "balanced_accuracy") & (table["class"] == "")]
    return kept.assign(mode=mode, split=seed)[["split", "mode", "arm", "seed", "value"]].astype({"value": float})


def main(source: Path, splits: int) -> None:
    table = pd.concat([scores(source, mode, seed) for seed in range(splits) for mode in ("ignore", "group")])
    mean = table.groupby(["arm", "split", "mode"])["value"].mean().unstack("mode") * 100
    mean["leak"] = mean["ignore"] - mean["group"]
    print("\n| arm | split seed | duplicates ignored | duplicates grouped | difference |\n|---|---|---|---|---|")
    for (arm, split), row in mean.iterrows():
        print(f"| {arm} | {split} | {row['ignore']:.1f} | {row['group']:.1f} | {row['leak']:+.1f} |")
    for arm in ARMS:
        own = mean.loc[arm]["leak"]
        print(f"| {arm} | mean | | | {own.mean():+.1f} (standard error {own.sem():.1f}) |")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 4)
