"""Whether synthetic rows lie nearer to the rows a generator was fitted on than unseen rows allow: distances in, numbers out.

A generator that learnt what a class is like comes as near to unseen rows as to training rows: half of its rows are nearer to
either. One that repeats training rows does not (distance to closest record: Park et al., 2018), and then whoever has a row can
tell whether it was trained on (membership inference: Shokri et al., 2017; true positives at few false ones: Carlini et al.,
2022). Nothing here proves that a set is safe: it is what these tests find, with these numbers of rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 200  # resamples behind an interval
FALSE_ALARMS = 0.01  # of held-out rows, for the share of rows that lie nearer than unseen rows do
LEAST_HELD = 100  # held-out rows, without which one in a hundred cannot be told
LEAST_OF_CLASS = 3  # of them, without which a class has no scale of its own


@dataclass(frozen=True)
class Distances:
    """Of one class: from synthetic to training rows (S, T), to held-out rows (S, H), and from these to training rows (H, T)."""

    train: np.ndarray
    held: np.ndarray
    between: np.ndarray
    train_groups: np.ndarray
    held_groups: np.ndarray

    @property
    def rows(self) -> tuple[int, int, int]:
        """How many rows are synthetic, of train, and held out."""
        return len(self.train), *self.between.shape[::-1]


def measures(
    parts: Mapping[str, Distances], seed: int, confidence: float
) -> Iterator[tuple[str, str, dict[str, float]]]:
    """All that distances in one space tell: (class or "" for all together, measure, value with ci_low and ci_high).

    `closer`, of every class and together; `near`, `auc` and `tpr` together. A training row seems the better known the nearer
    a synthetic row of its class comes to it.
    """
    if not parts:
        return
    for label, part in parts.items():
        yield label, "closer", closer([part], seed, confidence)
    yield "", "closer", closer(list(parts.values()), seed, confidence)
    made, held = [np.empty(0)], [np.empty(0)]
    for part in parts.values():
        nearest, unseen = part.train.min(axis=1), part.between.min(axis=1)
        if len(unseen) >= LEAST_OF_CLASS:
            unit = np.maximum([np.median(np.delete(unseen, i)) for i in range(len(unseen))], 1e-12)
            made.append(nearest / unit[np.arange(len(nearest)) % len(unit)])  # by as many rows as a held-out one
            held.append(unseen / unit)
    yield "", "near", nearer_than_unseen(np.concatenate(made), np.concatenate(held), confidence)
    for name, found in membership(_seen(parts, "train"), _seen(parts, "held"), seed, confidence).items():
        yield "", name, found


def _seen(parts: Mapping[str, Distances], side: str) -> "Scores":
    """How near a synthetic row of its class comes to each real row of one side."""
    known = [-getattr(part, side).min(axis=0) for part in parts.values()]
    y = np.repeat(np.arange(len(known)), [len(k) for k in known])
    return Scores(np.concatenate(known), y, np.concatenate([getattr(p, f"{side}_groups") for p in parts.values()]))


def pixel_distances(rows: np.ndarray, reference: np.ndarray, flips: Sequence[str]) -> np.ndarray:
    """Root mean squared difference of grey levels, float (N, M) in [0, 255], of uint8 images (N, H, W, C) and (M, H, W, C).

    The least over the mirror images that the dataset allows and over shifts by up to a sixteenth of the side.
    """
    from scipy.spatial.distance import cdist

    step = max(1, round(min(rows.shape[1:3]) / 16))
    known = reference.reshape(len(reference), -1).astype(np.float32)
    best = np.full((len(rows), len(reference)), np.inf)
    for view in _mirrored(rows, flips):
        padded = np.pad(view, ((0, 0), (step, step), (step, step), (0, 0)), mode="edge")
        for top in (0, step, 2 * step):
            for left in (0, step, 2 * step):
                moved = padded[:, top : top + rows.shape[1], left : left + rows.shape[2]]
                np.minimum(best, cdist(moved.reshape(len(rows), -1).astype(np.float32), known), out=best)
    return best / np.sqrt(known.shape[1])


def _mirrored(rows: np.ndarray, flips: Sequence[str]) -> list[np.ndarray]:
    views = [rows] + ([rows[:, :, ::-1]] if "horizontal" in flips else [])
    return views + ([view[:, ::-1] for view in views] if "vertical" in flips else [])


def closer(parts: Sequence[Distances], seed: int, confidence: float) -> dict[str, float]:
    """The share of synthetic rows nearer to training than to held-out rows of their class, and its interval; 0.5 is no copying.

    Both sides of a class are cut to the same number of groups, and these to as many rows as either side has in most, at
    random, a mean over such cuts. The interval carries which rows there are: it has the spread of shares among half of the
    groups, as much as that of the whole (delete-half jackknife: Shao and Tu, 1995), and among synthetic rows drawn with
    replacement.
    """
    rng = np.random.default_rng(seed)
    value = float(np.mean([_closer_once(parts, rng) for _ in range(DRAWS)]))
    halves = np.array([_closer_once(parts, rng, half=True) for _ in range(DRAWS)])
    return {"value": value} | {
        k: min(max(v, 0.0), 1.0) for k, v in _ends(value + halves - halves.mean(), confidence).items()
    }


def _closer_once(parts: Sequence[Distances], rng: np.random.Generator, half: bool = False) -> float:
    found = []
    for part in parts:
        sides = [(part.train, part.train_groups), (part.held, part.held_groups)]
        codes = [np.unique(groups, return_inverse=True)[1] for _, groups in sides]
        n, many = (min(int(tell(np.bincount(code))) for code in codes) for tell in (len, np.median))
        rows = np.arange(len(part.train))
        if half:
            n, rows = max(1, n // 2), rng.choice(rows, len(rows))
        chosen = [_some(code, n, many, rng) for code in codes]
        near = [side[np.ix_(rows, own)].min(axis=1) for (side, _), own in zip(sides, chosen, strict=True)]
        found.append((near[0] < near[1]) + 0.5 * (near[0] == near[1]))
    return float(np.concatenate(found).mean())


def _some(code: np.ndarray, groups: int, many: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of at most so many rows each of so many groups, at random."""
    kept = rng.choice(code.max() + 1, groups, replace=False)
    mixed = rng.permutation(len(code))
    mixed = mixed[np.isin(code[mixed], kept)]
    mixed = mixed[np.argsort(code[mixed], kind="stable")]
    place = np.arange(len(mixed)) - np.searchsorted(code[mixed], code[mixed])
    return mixed[place < many]


def nearer_than_unseen(nearest: np.ndarray, held: np.ndarray, confidence: float) -> dict[str, float]:
    """The share of synthetic rows whose nearest training row (M,) is nearer than those of all but 1 % of held-out rows (N,).

    With Wilson's interval for that threshold; NaN with fewer than LEAST_HELD held-out rows.
    """
    from scipy.stats import binomtest

    if len(held) < LEAST_HELD or not len(nearest):
        return dict.fromkeys(("value", "ci_low", "ci_high"), float("nan"))
    found = binomtest(int((nearest < np.quantile(held, FALSE_ALARMS, method="weibull")).sum()), len(nearest))
    ends = found.proportion_ci(confidence, method="wilson")
    return {"value": found.statistic, "ci_low": ends.low, "ci_high": ends.high}


@dataclass(frozen=True)
class Scores:
    """How well known a generator seems to be with real rows (N,), the higher the better; their classes and groups (N,)."""

    known: np.ndarray
    y: np.ndarray
    groups: np.ndarray

    def take(self, rows: np.ndarray) -> "Scores":
        return Scores(self.known[rows], self.y[rows], self.groups[rows])


def membership(train: Scores, held: Scores, seed: int, confidence: float) -> dict[str, dict[str, float]]:
    """How well these scores tell training rows from held-out rows of the same class: `auc`, and `tpr` at 1 % false positives.

    Each with an interval, over groups. An AUC of 0.5 is guessing, and so is a rate of 0.01. The rate is NaN with fewer than
    LEAST_HELD held-out rows, an AUC without a class that has rows on both sides.
    """
    both = np.intersect1d(train.y, held.y)
    train, held = (s.take(np.flatnonzero(np.isin(s.y, both))) for s in (train, held))
    rng = np.random.default_rng(seed)
    found = {"auc": auc(train, held), "tpr": rate(train, held)}
    drawn = [(_resampled(train, rng), _resampled(held, rng)) for _ in range(DRAWS)] if len(both) else []
    return {
        name: {"value": found[name]} | _ends([measure(*pair) for pair in drawn], confidence)
        for name, measure in (("auc", auc), ("tpr", rate))
    }


def _resampled(scores: Scores, rng: np.random.Generator) -> Scores:
    """As many groups of each class, drawn with replacement."""
    rows = []
    for c in np.unique(scores.y):
        own = np.flatnonzero(scores.y == c)
        names, code = np.unique(scores.groups[own], return_inverse=True)
        members = [own[code == g] for g in range(len(names))]
        rows += [members[g] for g in rng.integers(len(names), size=len(names))]
    return scores.take(np.concatenate(rows))


def auc(train: Scores, held: Scores) -> float:
    """Mean over classes, weighted by training rows, of the chance that a training row scores above a held-out one."""
    parts, weights = [], []
    for c in np.intersect1d(train.y, held.y):
        own, other = train.known[train.y == c], np.sort(held.known[held.y == c])
        below = np.searchsorted(other, own, "left") + np.searchsorted(other, own, "right")
        parts.append(below.mean() / (2 * len(other)))
        weights.append(len(own))
    return float(np.average(parts, weights=weights)) if parts else float("nan")


def rate(train: Scores, held: Scores) -> float:
    """The share of training rows above all but 1 % of the held-out rows, scores standardised by those of held-out rows of a class.

    Each by all but one of these, a held-out row by the others: by itself it would never lie far off where a class has few.
    """
    if len(held.known) < LEAST_HELD:
        return float("nan")
    own, others = [np.empty(0)], [np.empty(0)]
    for c in np.unique(held.y):
        known, beside = (scores.known[scores.y == c].astype(float) for scores in (train, held))
        if len(beside) < LEAST_OF_CLASS:
            continue
        center = beside.mean()
        known, beside = known - center, beside - center
        many = len(beside) - 1  # all but one
        mean = -beside / many
        spread = np.sqrt(np.maximum((np.square(beside).sum() - np.square(beside)) / many - np.square(mean), 1e-24))
        turn = np.arange(len(known)) % len(beside)
        own.append((known - mean[turn]) / spread[turn])
        others.append((beside - mean) / spread)
    both = [np.concatenate(side) for side in (own, others)]
    if len(both[1]) < LEAST_HELD or not len(both[0]):
        return float("nan")
    return float((both[0] > np.quantile(both[1], 1 - FALSE_ALARMS, method="weibull")).mean())


def _ends(drawn: Sequence[float], confidence: float) -> dict[str, float]:
    values = np.asarray(drawn, float)
    if not np.isfinite(values).any():
        return {"ci_low": float("nan"), "ci_high": float("nan")}
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"ci_low": float(low), "ci_high": float(high)}
