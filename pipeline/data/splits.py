"""Train, val and test: stratified by class, and never through a group."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd


def assign(
    labels: list[str], groups: list[str], given: list[str], fractions: dict[str, float], seed: int
) -> np.ndarray:
    """A split name for each row, str (N,). Splits that the source gives are kept; others are cut from its train rows.

    `fractions`: test is cut first, as a share of the rows that no given split has; val is a share of those left then.
    Raises ValueError for a half-given split or a class without training rows.
    """
    splits = np.array(given, dtype=object)
    if (splits == "").any() and (splits != "").any():
        raise ValueError(
            f"{int((splits == '').sum())} rows have no split while others do; name one for each row, or for none"
        )
    splits[splits == ""] = "train"
    rng = np.random.default_rng(seed)
    for name in ("test", "val"):
        if not (splits == name).any():
            held = set(np.array(groups)[splits != "train"])  # which only a given split that leaks shares with train
            free = np.flatnonzero((splits == "train") & [group not in held for group in groups])
            y, own = np.array(labels)[free], np.array(groups)[free]
            splits[free[_draw(y, own, set(labels), fractions[name], rng)]] = name
    missing = sorted(set(labels) - set(np.array(labels)[splits == "train"]))
    if missing:
        raise ValueError(
            f"classes {missing} have no training rows, for the source gives all they have to val or test; "
            "move some to train, or remove the class"
        )
    for name in ("val", "test"):
        if not (splits == name).any():
            raise ValueError(_nothing_for(name, labels, groups, splits, "test" not in given))
    return splits


def _nothing_for(name: str, labels: list[str], groups: list[str], splits: np.ndarray, cut: bool) -> str:
    """Why no row is left for a split, and what to do; `cut`: the test split is cut too, so another cut can be asked for."""
    free = pd.DataFrame({"label": labels, "group": groups})[splits == "train"]
    counts = free.groupby("label")["group"].nunique()
    many = ", ".join(f"{label} {n}" for label, n in counts[:20].items()) + (" ..." if len(counts) > 20 else "")
    ways = f"data.{name}_fraction" + (" or data.split" if cut else "")
    return (
        f"no row is left for the {name} split: a class needs 3 groups to give one away, and there are {many}. Add data, set "
        f"{ways}, or divide groups that hold several classes; near duplicates are one group, unless data.near_duplicates "
        "is warn or ignore"
    )


def hold_back(
    labels: np.ndarray, groups: np.ndarray, names: np.ndarray, classes: Sequence[str], share: float, seed: int
) -> np.ndarray:
    """The split names (N,) with about this share of each named class's training groups set aside as "heldback"."""
    names, free = names.copy(), np.flatnonzero(names == "train")
    if share:
        names[free[_draw(labels[free], groups[free], classes, share, np.random.default_rng(seed))]] = "heldback"
    return names


def strata(labels: np.ndarray, groups: np.ndarray) -> pd.Series:
    """The class that each group counts under, by group in sorted order: of those it holds, the one with the fewest rows in all.

    Under its commonest class, a group with one row of a rare class would never count for that class.
    """
    rows = pd.DataFrame({"group": groups, "label": labels})
    pairs = rows.assign(size=rows["label"].map(rows["label"].value_counts())).drop_duplicates()
    return pairs.sort_values(["group", "size", "label"]).drop_duplicates("group").set_index("group")["label"]


def _draw(
    labels: np.ndarray, groups: np.ndarray, classes: Iterable[str], fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """Positions of about `fraction` of each of these classes, whole groups at a time.

    A class of under 3 groups gives none, and one group of every class stays, named here or not. No group is taken that is
    larger than what is asked for, unless all are, then the smallest; nor more than half of a class's groups, or this share.
    """
    group, asked = np.unique(groups, return_inverse=True)[1], np.isin(labels, list(classes))
    main = strata(labels[asked], group[asked])
    size = np.bincount(group[labels == main.reindex(group).to_numpy()], minlength=len(group))
    holds = defaultdict(set)
    for g, label in zip(group, labels, strict=True):
        holds[g].add(label)
    left = Counter(label for held in holds.values() for label in held)
    taken: list[int] = []
    for label in sorted(set(main)):
        own = rng.permutation(main.index[main == label])
        if left[label] < 3:
            continue
        goal, got, many = max(1, round(fraction * size[own].sum())), 0, max(1, int(max(fraction, 0.5) * len(own)))
        room = max(1.2 * goal, size[own].min())
        for g in own:
            if got < goal and many and got + size[g] <= room and all(left[c] > 1 for c in holds[g]):
                taken.append(g)
                got, many = got + size[g], many - 1
                left.subtract(holds[g])
    return np.flatnonzero(np.isin(group, taken))


def folds(y: np.ndarray, groups: np.ndarray, k: int, seed: int) -> np.ndarray:
    """A fold number in [0, k) for each row, int (N,): stratified, groups whole (scikit-learn)."""
    from sklearn.model_selection import StratifiedGroupKFold

    fold = np.zeros(len(y), dtype=np.int64)
    if len(np.unique(groups)) < k:
        raise ValueError(f"teachers.folds is {k}, but train has only {len(np.unique(groups))} groups")
    if np.bincount(y).max() < k:
        raise ValueError(f"teachers.folds is {k}, but no class has as many training rows")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # a class of 1 or 2 rows misses a fold
        for number, (_, held) in enumerate(
            StratifiedGroupKFold(k, shuffle=True, random_state=seed % 2**32).split(y, y, groups)
        ):
            fold[held] = number
    return fold
