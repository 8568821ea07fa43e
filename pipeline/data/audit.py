"""What a dataset is and what is wrong with it: rows that cannot be used, duplicates, leaks, counts, scarce classes, drift."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline import csvs
from pipeline.data.sources.base import REPEATED, Problem, listed, refusal
from pipeline.params import Data
from pipeline.params.sections import Scarce

SPLITS = ("train", "val", "test")
TINY = 3  # with fewer training rows than this, what is generated can hardly differ from them
FEW = 5  # fewer rows than this of a class in validation or test, and its figures mean little
NOT_CHECKED = (
    "wrong labels, except those of identical images",
    "subjects or objects that are shared between splits but look different, unless a group column names them",
    "copies that are rotated by less than a quarter turn, stretched, cropped by more than about a third, or cropped and brought "
    "back to their size; mirrored ones under another label",
    "text, marks or devices in the picture that give the class away",
    "whether train and test come from the population that the classifier will meet",
)


def check_losses(
    labels: Sequence[str], classes: Sequence[str], left: Iterable[str], lost: list[Problem], most: float
) -> None:
    """Raises ValueError if too many rows cannot be used, or all of a class, or if there is one class only.

    `labels` are those of all rows of the source, `left` those of the rows that can be used.

    A row that stands there twice is listed and is no loss: its picture is used.
    """
    if len(set(classes)) < 2:
        raise ValueError(f"all rows are of one class, {listed(classes)}; a classifier needs two or more")
    if absent := sorted(set(classes) - set(labels)):
        raise ValueError(f"there is no image of {listed(absent)}; correct data.classes or add some")
    bad = [p for p in lost if p.code != REPEATED]
    lines, files = [p.said() for p in bad], {"quarantine.csv": quarantine(lost)}
    if len(bad) > most * len(labels):
        raise refusal(
            f"{len(bad)} of {len(labels)} images cannot be used, more than data.max_quarantined = {most:g} allows. "
            "Mend or remove them, or raise it:",
            lines,
            files,
        )
    if gone := sorted(set(classes) - set(left)):
        raise refusal(f"no usable image is left in {listed(gone)}. These cannot be used:", lines, files)


def noted(notes: pd.Series, note: str) -> np.ndarray:
    """Rows whose decoder left this note among its own, bool (N,)."""
    return np.array([note in words.split() for words in notes], bool)


def refuse_synthetic(rows: pd.DataFrame) -> None:
    """Raises ValueError where pictures that are marked as synthetic would stand in validation or test, or might.

    `rows` have columns path, row, notes, and split as the source gives it.
    """
    cut = sorted({"val", "test"} - set(rows["split"]))
    wrong = rows[noted(rows["notes"], "synthetic") & (bool(cut) | rows["split"].isin(["val", "test"]).to_numpy())]
    if len(wrong):
        where = f"the source gives no {' and no '.join(cut)} split, and rows of train" if cut else "they"
        raise refusal(
            f"{len(wrong)} of {len(rows)} pictures are marked as synthetic (a PNG text `synthetic: true`, as `make export` "
            f"writes it), and {where} would be judged as if they were real. Remove them from the source; or, to learn from "
            "them as from real rows, give val and test splits of real pictures alone and keep them in train:",
            (Problem(p, row, "synthetic", "marked").said() for p, row in zip(wrong["path"], wrong["row"], strict=True)),
        )


def quarantine(lost: list[Problem]) -> str:
    """The list of what is left out and why, as .csv."""
    return csvs.text(pd.DataFrame(lost, columns=list(Problem._fields)))


def conflicts(hashes: pd.Series, labels: pd.Series) -> np.ndarray:
    """Rows whose very pixels stand under another label too, bool (N,)."""
    return labels.groupby(hashes).transform("nunique").to_numpy() > 1


def conflict_problems(rows: pd.DataFrame) -> list[Problem]:
    """What the quarantine list says of rows with columns path, row, label and hash that conflict with one another."""
    others = rows.groupby("hash")["path"].agg(lambda paths: sorted(set(paths)))

    def beside(path: str, same: list[str]) -> str:
        """The first few others of many."""
        first = [p for p in same[:4] if p != path][:3]
        return listed(first) + (f" and {len(same) - 1 - len(first)} more" if len(same) - 1 > len(first) else "")

    said = "labelled {!r}; the same pixels are labelled otherwise in {}"
    told = [(r.path, r.row, said.format(r.label, beside(r.path, others[r.hash]))) for r in rows.itertuples()]
    return [Problem(path, row, "conflict", words) for path, row, words in told]


def leaks(split: np.ndarray, group: np.ndarray, path: np.ndarray) -> pd.DataFrame:
    """One row per group that stands in several splits: group, splits, rows, and one path of each split."""
    frame = pd.DataFrame({"split": pd.Categorical(split, ("", *SPLITS, "heldback")), "group": group, "path": path})
    wide = frame[frame.groupby("group")["split"].transform("nunique") > 1]
    rows = wide.groupby("group", sort=False).size().rename("rows")
    first = wide.drop_duplicates(["group", "split"]).sort_values("split", kind="stable").groupby("group")
    found = first.agg(splits=("split", list), paths=("path", list)).join(rows).reindex(rows.index)
    return found.reset_index()[["group", "splits", "rows", "paths"]]


def refuse_leaks(found: pd.DataFrame, named: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError that names the leaking pairs, the ways out, and what the source calls the groups of each."""
    names = [listed(sorted(set(named[g]) - {""}), 3) for g in found["group"]]
    raise refusal(
        f"the splits that the source gives share {len(found)} groups or (near) duplicate images, which may be mirrored or "
        f"turned, {int(found['rows'].sum())} rows, so the test would not be independent. Mend the splits, or let the earlier "
        "split give such rows up with data.drop_leaks: true, or use them as they are, with a warning on every report, with "
        "data.allow_leaks: true:",
        (
            f"{' = '.join(map(repr, r.paths))} ({', '.join(r.splits)}{f'; group {name}' if name else ''})"
            for r, name in zip(found.itertuples(), names, strict=True)
        ),
    )


def leaking_rows(split: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Rows to give up so that no group stands in two splits, bool (N,): those of all but the last of train, val, test."""
    rank = pd.Series(split).map({s: i for i, s in enumerate(SPLITS)})
    return (rank < rank.groupby(group).transform("max")).to_numpy()


def find_scarce(counts: Mapping[str, int], rule: Scarce) -> tuple[str, ...]:
    """The classes rows are generated for: those listed, or those below `rule.below` of the largest or median count."""
    if rule.classes != "auto":
        unknown = sorted(set(rule.classes) - set(counts))
        if unknown:
            raise ValueError(f"data.scarce.classes: {unknown} are no classes of this dataset; it has {list(counts)}")
        return tuple(c for c in counts if c in rule.classes)
    reference = max(counts.values()) if rule.of == "largest" else float(np.median(list(counts.values())))
    return tuple(c for c, n in counts.items() if n < rule.below * reference)


def count(table: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Rows per split and class."""
    return {
        s: table["label"][table["split"] == s].value_counts().reindex(list(classes), fill_value=0).astype(int).to_dict()
        for s in SPLITS
    }


def check_classes(
    counts: Mapping[str, Mapping[str, int]], groups: Mapping[str, int], cut: Collection[str] = ()
) -> list[str]:
    """Warnings for classes with few rows to be judged on. Raises ValueError for one that could have some and has none.

    `groups` counts the groups of each class in train: of fewer than three none is given away. `cut` are the splits
    that the source does not give.
    """
    found = []
    for s in ("val", "test"):
        for c, n in counts[s].items():
            if n == 0 and groups[c] >= 3:
                raise ValueError(
                    f"class {c!r} has no row in {s}, so nothing could be said of it; {_way_out(s, cut)}. Rows: "
                    f"{', '.join(f'{t} {counts[t][c]}' for t in SPLITS)}"
                )
            if n == 0:
                found.append(
                    f"class {c} has no row in {s}, having too few groups to give any ({groups[c]}): not evaluable there"
                )
            elif n < FEW:
                found.append(f"class {c} has {n} rows in {s}: its figures there mean little")
    tiny = [f"{c} ({n})" for c, n in counts["train"].items() if n < TINY]
    if tiny:
        found.append(f"too few training rows to generate anything but near copies of them: {', '.join(tiny)}")
    return found


def _way_out(split: str, cut: Collection[str]) -> str:
    """What to do about a class that a split lacks. Another cut can be asked for only where test is cut too."""
    if split not in cut:
        return "the source gives that split: add some, or remove the class"
    other = "another data.split or " if "test" in cut else ""
    return (
        f"the cut came out so: set {other}a larger data.{split}_fraction, or divide groups that hold several classes, "
        "for each counts under its rarest alone"
    )


def resolution(counts: Mapping[str, int], recall: float = 0.8) -> float:
    """Half-width of the 95 % interval of balanced accuracy on so many groups per class, if every recall were `recall`."""
    n = np.array([v for v in counts.values() if v], float)
    return float(1.96 * np.sqrt((recall * (1 - recall) / n).sum()) / max(len(n), 1))


def drift(seen: pd.DataFrame, split: np.ndarray, group: np.ndarray, label: np.ndarray) -> list[dict[str, Any]]:
    """Brightness, contrast, height and width of val and test beside train: means and Kolmogorov-Smirnov distances.

    That a split has more rows of a class is no drift: both sides are weighted to one mix of classes (as Mantel and Haenszel do),
    the distance is of what is apart from the mean of the class, and p of as many rows as the weights leave. Of groups, each
    counts by the mean of its rows, for these are not independent.
    """
    from scipy.stats import kstwo

    out, names = [], ["mean", "spread", "height", "width"]
    rows = seen[names].reset_index(drop=True).groupby([split, label, group]).mean()
    counts = rows.groupby(level=[0, 1]).size().unstack(fill_value=0)  # by split and class
    for name, s in itertools.product(names, ("val", "test")):
        train, other = rows.loc["train", name], rows.loc[s, name]
        both = pd.concat([train, other])
        apart = both - both.groupby(level=0).transform("mean")
        mix = counts.loc["train"] * counts.loc[s] / counts.loc[["train", s]].sum().clip(lower=1)
        w = (mix / mix.sum() / counts.loc["train"]).reindex(train.index, level=0).to_numpy()
        v = (mix / mix.sum() / counts.loc[s]).reindex(other.index, level=0).to_numpy()
        distance = float(pd.Series([*w, *-v]).groupby(apart.to_numpy()).sum().cumsum().abs().max())
        a, b = 1 / (w**2).sum(), 1 / (v**2).sum()
        p = float(kstwo.sf(distance, max(1, round(a * b / (a + b)))))
        means = {"train_mean": float(w @ train), "split_mean": float(v @ other)}
        out.append({"what": name, "split": s, **means, "distance": distance, "p": p})
    return out


def statistics(seen: pd.DataFrame, split: np.ndarray) -> dict[str, dict[str, dict[str, float]]]:
    """Least, mean and most of brightness, contrast, height and width of the pictures of every split that has some."""
    return {
        s: {
            n: {q: float(v) for q, v in seen[n][split == s].agg(["min", "mean", "max"]).items()}
            for n in ("mean", "spread", "height", "width")
        }
        for s in (*SPLITS, "heldback")
        if (split == s).any()
    }


def account(
    table: pd.DataFrame,
    seen: pd.DataFrame,
    classes: tuple[str, ...],
    scarce: tuple[str, ...],
    grouped: bool,
    data: Data,
    cut: Collection[str] = (),
) -> dict[str, Any]:
    """The audit as plain numbers: `table` as in Samples beside what the first pass saw of the same rows, and the splits cut."""
    counts = count(table, classes)
    sizes = table["group"].map(table["group"].value_counts())
    found = leaks(table["split"].to_numpy(), table["group"].to_numpy(), table["source_path"].to_numpy())
    fit = table[table["split"] == "train"]
    groups = fit.groupby("label")["group"].nunique().reindex(list(classes), fill_value=0).to_dict()
    tested = table[table["split"] == "test"].groupby("label")["group"].nunique()
    told = check_classes(counts, groups, cut)
    train = counts["train"].values()
    return {
        "counts": counts,
        "scarce": list(scarce),
        "imbalance_ratio": max(train) / max(min(train), 1),
        "test_resolution": resolution(tested.to_dict()),
        "group_column": grouped,
        "groups": int(table["group"].nunique()),
        "rows_in_groups": int((sizes > 1).sum()),
        "largest_group": int(sizes.max()),
        "exact_duplicates": int(seen["hash"].duplicated().sum()),
        "leaks": found.head(100).to_dict("records"),
        "leaking_groups": len(found),
        "leaking_rows": int(found["rows"].sum()),
        "notes": seen["notes"].str.split().explode().value_counts().sort_index().to_dict(),
        "statistics": statistics(seen, table["split"].to_numpy()),
        "drift": drift(seen, *(table[column].to_numpy() for column in ("split", "group", "label"))),
        "near_duplicates": data.near_duplicates,
        "not_checked": list(NOT_CHECKED),
        "warnings": told,
    }
