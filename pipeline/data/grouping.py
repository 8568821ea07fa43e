"""Which rows show the same thing, the unlabelled pool's among them, and so stand in one split: groups of a table of rows."""

import logging
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data import duplicates, intake
from pipeline.data.sources.base import REPEATED, Problem, Source, refusal
from pipeline.params import Data
from pipeline.samples import Samples, spaced

BLIND = 0.995  # a bound above it lets most re-encoded copies pass
log = logging.getLogger(__name__)


def find_near(
    rows: pd.DataFrame, spare: pd.DataFrame, thumbs: intake.Thumbs, data: Data, seed: int
) -> duplicates.Found:
    """Near duplicates among the rows of both tables, the second's counted on from the first's; thumbs in that order.

    A given test split sways nothing that is found among the others, and the pool nothing but what is found of itself.
    """
    if data.near_duplicates == "ignore":
        return duplicates.NOTHING
    test = (rows["split"] == "test").astype(int)
    both = pd.concat([rows.assign(apart=test), spare.assign(apart=2)], ignore_index=True)
    one = both.sort_values("apart", kind="stable")
    one = one[~one["hash"].duplicated()]  # equal pictures would crowd all others out of a picture's neighbours
    longest, y = one[["height", "width"]].max(axis=1).to_numpy(), np.searchsorted(labels(rows), one["label"])
    y[one["apart"] == 2] = -1
    found = duplicates.find(thumbs.take(one.index.to_numpy()), longest, y, one["apart"].to_numpy(), seed)
    log.info("%d pairs of near duplicates, correlation above %.2f (typical: %.2f)", len(found.pairs), *found[2:4])
    return found._replace(pairs=one.index.to_numpy()[found.pairs])


def labels(rows: pd.DataFrame) -> list[str]:
    """The classes, in the order in which near duplicates are told by class."""
    return sorted(rows["label"].unique())


def grouped(rows: pd.DataFrame, near: np.ndarray, data: Data) -> list[str]:
    """A group name for each row, of rows that belong together, are equal, or show the same: pairs int (P, 2)."""
    names = rows["group"].where(rows["group"] != "", rows["hash"]).tolist()
    same = equal(rows["hash"])
    every = np.concatenate([same, near])
    if data.near_duplicates == "error" and len(every):
        raise refusal(
            f"{len(every)} pairs of images are equal or near duplicates (data.near_duplicates: error):",
            (f"{rows['path'][i]!r} = {rows['path'][j]!r}" for i, j in every),
        )
    return duplicates.groups(names, every if data.near_duplicates == "group" else same)


def equal(values: pd.Series) -> np.ndarray:
    """Pairs int (P, 2) that join all rows of equal value."""
    order = np.argsort(values.to_numpy(), kind="stable")
    same = values.to_numpy()[order[1:]] == values.to_numpy()[order[:-1]]
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


def join_pool(rows: pd.DataFrame, spare: pd.DataFrame, near: np.ndarray) -> list[str]:
    """Groups of the rows of both tables, in this order: by the groups of the first, by names of groups that the sources give
    in either (`named` and `group`), equal pictures and the pairs (P, 2).
    """
    names, given = rows["group"].tolist() + spare["hash"].tolist(), pd.concat([rows["named"], spare["group"]])
    said = np.flatnonzero(given != "")
    same = [said[equal(given.iloc[said])], equal(pd.concat([rows["hash"], spare["hash"]]))]
    return duplicates.groups(names, np.concatenate([*same, near]))


def left_over(spare: pd.DataFrame, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """The rows of the pool that belong to nothing in validation, test and the rows set aside and are none of train, and the others."""
    held = spare["group"].isin(rows["joined"][rows["split"] != "train"])
    twice = spare["hash"].isin(rows["hash"][rows["split"] == "train"]) & ~held
    why = "shows the same as a row of validation or test, or as one set aside, or is of its group"
    gone = lost(spare[held], "leak", why) + lost(spare[twice], REPEATED, "the same pixels stand in train, with a label")
    return spare[~held & ~twice].assign(split="unlabelled"), gone


def lost(rows: pd.DataFrame, code: str, why: str) -> list[Problem]:
    """A line of quarantine.csv for each of the rows."""
    return [Problem(path, row, code, why) for path, row in rows[["path", "row"]].to_numpy().tolist()]


def unnamed(pool: Source) -> list[str]:
    """What to say of a pool without groups, where the source names them."""
    if pool.grouped or not len(pool.rows):
        return []
    return [
        "the source says which rows belong together and data.unlabelled does not (it can be a table with the column "
        "data.manifest.group): other pictures of a patient or object of validation or test may be learnt from"
    ]


def listing(rows: pd.DataFrame, spare: pd.DataFrame, near: duplicates.Found) -> pd.DataFrame:
    """Pairs of rows of both tables that show the same, a line each with path and label of both; the pool has no labels.

    Of several equal rows each stands beside the next one.
    """
    both = pd.concat([rows, spare.assign(label="")], ignore_index=True)
    same = equal(both["hash"])
    one, other = (both.loc[k, ["path", "label"]].reset_index(drop=True) for k in np.concatenate([same, near.pairs]).T)
    kinds = ["equal"] * len(same) + ["near"] * len(near.pairs)
    score = np.concatenate([np.ones(len(same)), near.score]).round(4)
    return one.join(other.add_prefix("other_")).assign(kind=kinds, correlation=score)


def account(near: duplicates.Found, pairs: pd.DataFrame, samples: Samples, data: Data) -> dict[str, Any]:
    """For the audit: the bound above which two pictures were taken for the same, if any were compared, and examples."""
    bound = None if data.near_duplicates == "ignore" else near.bound
    return {"near_bound": bound, "near_examples": examples(pairs, samples)}


def examples(pairs: pd.DataFrame, samples: Samples, most: int = 8) -> list[tuple[str, str, float]]:
    """Some pairs of near duplicates that both are in train, from the least alike on: two ids and their correlation."""
    train = samples.table[samples.table["split"] == "train"]
    ids = dict(zip(train["source_path"], train["id"], strict=True))
    near = pairs[(pairs["kind"] == "near") & (pairs["label"] != "") & (pairs["other_label"] != "")]
    names = zip(near["correlation"], near["path"].map(ids), near["other_path"].map(ids), strict=True)
    found = sorted((s, a, b) for s, a, b in names if isinstance(a, str) and isinstance(b, str))
    return [(a, b, s) for s, a, b in (found[k] for k in spaced(len(found), most))]


def too_alike(near: duplicates.Found, rows: pd.DataFrame) -> list[str]:
    """What to say where near duplicates can hardly be told from other pictures of a class."""
    way_out = "say in a table which rows belong together (data.manifest.file and data.manifest.group)"
    if near.typical >= duplicates.LEAST:
        return [
            f"two pictures of one class have a correlation of {near.typical:.2f} at the median, so near duplicates cannot be told "
            f"from others: if a class was recorded in a few sessions, {way_out}"
        ]
    if near.bound > BLIND and np.isfinite(near.medians).any():
        return [
            f"near duplicates are noticed only above a correlation of {near.bound:.4f}, for some pictures of a class are all alike "
            f"and others are not: {way_out}"
        ]
    alike = [(label, m) for label, m in zip(labels(rows), near.medians, strict=False) if m > near.bound]
    return [
        f"two pictures of class {label} have a correlation of {median:.2f} at the median, and above {near.bound:.2f} pictures are "
        f"taken for near duplicates, so most of the class is one group: if they show different things, {way_out} and set "
        "data.near_duplicates: ignore"
        for label, median in alike
    ]
