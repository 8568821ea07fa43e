"""Doses and rules: how many rows a class should get, and which generated rows are kept, each dropped one with a reason."""

from collections.abc import Sequence

import numpy as np

from pipeline.params import Selection
from pipeline.params.sections import Cap

REASONS = {
    "copy": "nearer to a training row, mirrored, moved or cropped, than real rows are to one another",
    "unlike": "unlike every real row in brightness, contrast or how much of it is coarse and how much fine",
    "alike": "all rows of its class are nearly one picture: the generator collapsed",
    "third_class": "the teachers are sure of a class neither asked for nor neighbouring",
    "refused": "too many of its generator's rows are copies (selection.max_copy_share), so none may be used",
    "quota": "fit for use, but the class already has the rows aimed for",
}

REMEDIES = {  # what can be done where a rule leaves too few rows
    "copy": "the generator repeats training rows: fit it for a shorter time, or on more of them",
    "unlike": "its pictures are not yet like real ones: fit it for longer, and look at them before selection.unlike is raised",
    "alike": "it collapsed there: fit it with another seed, for longer, or at a lower learning rate",
    "third_class": "they are taken for other classes: fit it for longer, or raise selection.third_class if teachers are wrong",
}


def wanted(counts: np.ndarray, scarce: np.ndarray, dose: str, cap: Cap) -> np.ndarray:
    """Synthetic rows to add per class, int (K,); zero for classes that are not scarce.

    `full` fills to the largest class, `double` to twice as many, `quarter` a quarter of the way to the largest, `median` to the
    median class, `sqrt` to the geometric mean of the class and the largest; never more than the cap's ratio per real row, which falls
    log-linearly between the cap's two row counts.
    """
    n = np.maximum(counts, 1)
    goal = {
        "double": np.full(len(n), 2 * counts.max()),
        "full": np.full(len(n), counts.max()),
        "median": np.full(len(n), np.median(counts)),
        "sqrt": np.sqrt(n * counts.max()),
        "quarter": n + (counts.max() - n) / 4,
    }[dose]
    ratio = np.exp(np.interp(np.log(n), np.log(cap.rows), np.log(cap.ratio)))
    added = np.minimum(np.maximum(goal - counts, 0), ratio * counts * (1 + 1e-12)).astype(np.int64)
    return np.where(np.isin(np.arange(len(n)), scarce), added, 0)


def drawn(goal: np.ndarray, oversupply: float) -> np.ndarray:
    """Rows to generate per class, int (K,), so that selection has a choice of `oversupply` for each one aimed for."""
    return np.ceil(goal * oversupply - 1e-9).astype(int)  # 110 for 100 times 1.1, which is a little more in floats


def reasons(
    label: np.ndarray,
    judged: np.ndarray,
    confidence: np.ndarray,
    distance: np.ndarray,
    spread: np.ndarray,
    copied: np.ndarray,
    neighbours: np.ndarray,
    block: Selection,
) -> np.ndarray:
    """Why each row must be dropped, str (N,), "" if it may be kept; the first of REASONS that applies gives the reason.

    `neighbours` bool (K, K) as `neighbouring` gives it. `distance` (N,) is that of `spectra`, `spread` (K,) that of the rows
    of a class, see `samples.spread`; where they are not known, they cannot object.
    """
    why = np.full(len(label), "", dtype=object)
    third = ~neighbours[label, judged] & (confidence >= block.third_class)
    alike, unlike = (spread < block.alike)[label], distance > block.unlike
    for reason, hit in (("third_class", third), ("alike", alike), ("unlike", unlike), ("copy", copied)):
        why[hit] = reason
    return why


def refuse(why: np.ndarray, most: float) -> np.ndarray:
    """The reasons with "refused" for all rows that had none, str (N,), if a larger share than `most` are copies."""
    return np.where(why == "", "refused", why) if refused(why, most) else why


def refused(why: np.ndarray, most: float) -> bool:
    """Whether a larger share than `most` of the rows with these reasons (N,) are copies."""
    return bool(len(why)) and (why == "copy").mean() > most


def fill(label: np.ndarray, why: np.ndarray, quota: np.ndarray) -> np.ndarray:
    """The reasons with "quota" for rows beyond the first quota[c] fit ones of their class, str (N,)."""
    out = why.copy()
    for c in np.unique(label):
        out[np.flatnonzero((label == c) & (why == ""))[quota[c] :]] = "quota"
    return out


def most_dropped(why: np.ndarray) -> str:
    """Of the reasons (N,) of rows of one class: how many one rule dropped, the one that dropped most, and what can be done."""
    counts = {rule: int((why == rule).sum()) for rule in REMEDIES}
    rule = max(counts, key=counts.__getitem__)
    if not counts[rule]:
        return f"only {len(why)} were generated (generation.oversupply)"
    return f"of {len(why)}, {rule.replace('_', ' ')} dropped {counts[rule]}: {REMEDIES[rule]}"


def shared(goal: np.ndarray, there: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Rows to take per class from each of one or two generators, int (K,): half of the goal each, or what the other lacks.

    `there` says how many rows each of them has.
    """
    if len(there) == 1:
        return [np.minimum(goal, there[0])]
    first = np.minimum(there[0], np.maximum(goal - there[1], (goal + 1) // 2))
    return [first, np.minimum(there[1], goal - first)]


def first_rows(label: np.ndarray, usable: np.ndarray, quota: np.ndarray) -> np.ndarray:
    """Positions, in order, of the first quota[c] usable rows of each class."""
    rows = [np.flatnonzero((label == c) & usable)[: quota[c]] for c in range(len(quota))]
    return np.sort(np.concatenate(rows)) if rows else np.empty(0, np.int64)
