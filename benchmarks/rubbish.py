"""What the rules of selection do with rows that no generator should make: noise, blank sheets, blurred and mixed pictures.

Run: python -m benchmarks.rubbish <folder of a run whose `label_pool` is done>
Rows of scarce classes are taken from validation, spoilt, and judged as if a generator had made them. The first line is of
unspoilt ones: what honest rows lose. As a Markdown table.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline.params import load
from pipeline.reporting import tables
from pipeline.samples import Samples, with_pool
from pipeline.selection import copies, rules
from stages.pseudo_label import judge

MOST = 300  # rows of each kind


def spoilt(images: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Rows (N, H, W, C) by what was done to them, uint8."""
    shape, side = images.shape, images.shape[1]
    noise = rng.integers(0, 256, shape)
    kinds = {
        "as they are": images,
        "noise": noise,
        "half noise": (images.astype(int) + noise) // 2,
        "pixels shuffled": np.stack([rng.permutation(x.reshape(-1, shape[3])).reshape(shape[1:]) for x in images]),
        "blank, as bright as the mean": np.full(shape, images.mean()),
        "black": np.zeros(shape),
        "blurred by an eighth of the side": np.stack(
            [cv2.GaussianBlur(x, (0, 0), side / 8).reshape(shape[1:]) for x in images]
        ),
        "negatives": 255 - images,
        "mean of two": (images.astype(int) + images[rng.permutation(len(images))]) // 2,
    }
    return {name: rows.astype(np.uint8) for name, rows in kinds.items()}


def main(folder: Path) -> pd.DataFrame:
    """The share of rows that each rule drops, one line per kind."""
    params, real = load(folder / "params.yaml"), Samples.load(folder / "data" / "real" / "train")
    held, baseline = Samples.load(folder / "data" / "real" / "val"), folder / "models" / "baseline"
    fitted_on = (folder / "data" / "real" / "train", folder / "data" / "selected" / "pool")
    seen = with_pool(*fitted_on)
    rule = copies.told_by(seen, params.selection.copy_false_alarms)
    rng = np.random.default_rng(0)
    held = held.take(rng.permutation(np.flatnonzero(np.isin(held.y, real.scarce)))[:MOST])
    goal = np.full(len(real.classes), len(held))
    lines = []
    for kind, images in spoilt(held.images, rng).items():
        rows = judge(params, fitted_on, Samples(held.table, images, held.facts), baseline, rule, goal)
        reason = rows.table["reason"].replace("refused", "")
        dropped = {r: f"{100 * np.mean(reason == r):.0f} %" for r in rules.REASONS if r not in ("refused", "quota")}
        lines.append({"rows": kind, **dropped, "none": f"{100 * np.mean(reason == ''):.0f} %"})
    return pd.DataFrame(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(tables.markdown(main(Path(sys.argv[1]))))
