"""How well near duplicates are found. Run: python -m benchmarks.groups <source> [table with columns path and group]

Prepares the source as it is, without using a group column, and prints the groups that were found; with a table of the
true groups also the share of same-group and of different-group pairs within a class that ended in one group.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import project


def prepared(source: str) -> tuple[pd.DataFrame, dict]:
    """All rows with their group and split, and the audit; splits that leak are let through."""

    def change(params: dict) -> None:
        params["data"].update(source=source, allow_leaks=True, near_duplicates="group")

    with tempfile.TemporaryDirectory() as folder:
        out = project.prepare(project.copy(Path(folder), change))
        rows = pd.concat([pd.read_parquet(out / s / "table.parquet") for s in ("train", "val", "test")])
        return rows, json.loads((out / "about" / "audit.json").read_text())


def agreement(rows: pd.DataFrame, true: pd.Series) -> pd.DataFrame:
    """Per class and in all: pairs of one true group, and of two, and the share of each that is in one group."""
    out = []
    for label, own in [("all classes", None), *((c, c) for c in sorted(rows["label"].unique()))]:
        sums = np.zeros(4)
        for _, part in rows[rows["label"] == own].groupby("label") if own else rows.groupby("label"):
            upper = np.triu_indices(len(part), 1)
            truth, found = true.loc[part["source_path"]].to_numpy(), part["group"].to_numpy()
            same, together = truth[upper[0]] == truth[upper[1]], found[upper[0]] == found[upper[1]]
            sums += same.sum(), (same & together).sum(), (~same).sum(), (~same & together).sum()
        out.append((label, int(sums[0]), sums[1] / max(sums[0], 1), int(sums[2]), sums[3] / max(sums[2], 1)))
    return pd.DataFrame(out, columns=["class", "same", "same_together", "different", "different_together"])


def main(source: str, table: str = "") -> None:
    rows, audit = prepared(str(Path(source).resolve()) if Path(source).exists() and "sets/" not in source else source)
    names = (
        "near_pairs",
        "near_bound",
        "exact_duplicates",
        "rows_in_groups",
        "largest_group",
        "leaking_groups",
        "leaking_rows",
    )
    print(f"{len(rows)} rows; " + ", ".join(f"{n} {audit[n]}" for n in names))
    if table:
        true = pd.read_csv(table, dtype=str, keep_default_na=False).set_index("path")["group"]
        print(agreement(rows, true).round(4).to_string(index=False))
        print(
            int((rows.groupby(true.loc[rows["source_path"]].to_numpy())["split"].nunique() > 1).sum()),
            "true groups in two splits",
        )


if __name__ == "__main__":
    main(*sys.argv[1:3])
