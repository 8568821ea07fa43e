"""Is a synthetic row a copy of a training row: the same, mirrored, moved, cropped, noisy, or of another exposure?

How unlike two pictures are: one minus their largest normalised cross-correlation in grey, over mirror images, small shifts
and crops (template matching: Lewis, 1995). Brightness and contrast drop out. Which training rows are worth it is told by
small sketches of all their crops. A row is a copy if it is nearer to a training row than real rows are to those of other
groups, or so much nearer to one than to the next ones as real rows are not. Memory grows with neither set: rows are
compared a block with a block, and images may stay memory-mapped. Time grows like the product of both, for every sketch meets
every other, and like the number of rows, which are then laid over their shortlists.
"""

from typing import NamedTuple

import numpy as np

from pipeline.processes import Report
from pipeline.samples import Samples, blocks, spaced

BLOCK = 256  # most rows of either side that are compared at once: so many fit into a processor's cache
ROWS = 4096  # rows that share one pass over the reference, whose crops take longer to sketch than to compare with a few
SKETCH = 8  # pixels a side of a sketch
SHORTLIST = 16  # training rows that are laid over a row
NEIGHBOURS = 4  # of them kept, each of another group
CROPS = {0.92: 3, 0.84: 3, 0.76: 5}  # sides of crops, and how many places of each are tried along a side
SIDES = np.linspace(0.97, 0.74, 9)  # of crops when a row is laid over another
LEAST = 0.005  # as near as that is a copy wherever real rows do not lie nearer
SURE = 200  # so many real rows show by themselves how near they come; of fewer a normal tail is assumed
FEWEST = 3  # real rows that tell anything
TINY = 1e-4  # distances below it are alike
SAMPLE = 600  # real rows that are asked at most


class Rule(NamedTuple):
    """A row is a copy if it is as near as `distance`, or if this over that of the next ones is at most `ratio`."""

    distance: float
    ratio: float

    def copied(self, distance: np.ndarray) -> np.ndarray:
        """Of distances (N, NEIGHBOURS) as `nearest` gives them, bool (N,)."""
        return (distance[:, 0] <= self.distance) | (ratios(distance) <= self.ratio)


def ratios(distance: np.ndarray) -> np.ndarray:
    """The nearest distance over the mean of the next ones, float (N,); 1 where there are none."""
    known = np.isfinite(distance[:, 1:])
    after = np.where(known, distance[:, 1:], 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.where(known.any(axis=1), distance[:, 0] / np.maximum(after, 1e-9), 1.0)


def told_by(real: Samples, share: float) -> Rule:
    """The rule that these real rows give."""
    return rule(real.images, real.table["group"].to_numpy(), np.isin(real.y, real.scarce), share)


def rule(images: np.ndarray, groups: np.ndarray, scarce: np.ndarray, share: float) -> Rule:
    """What tells copies of these rows, so that about this share of real rows, of groups of their own, passes for copies.

    The distance is less where the `scarce` rows, bool (N,), lie nearer than all do (by their geometric means): they may be
    more alike than the others, and like them are those made.
    """
    if not share:
        return Rule(-1.0, -1.0)
    every, some = spaced(len(images), SAMPLE), np.flatnonzero(scarce)
    some = some[spaced(len(some), SAMPLE)]
    asked = np.union1d(every, some)
    distance = nearest(images[asked], images, groups, groups[asked])[0]
    known, ratio = np.isfinite(distance[:, 0]), ratios(distance)
    own, scarce_ones = (known & np.isin(asked, rows) for rows in (every, some))
    by_distance, by_ratio = (lower(x[own], share / 2) for x in (distance[:, 0], ratio))
    if scarce_ones.sum() >= FEWEST:
        by_distance *= min(1.0, typical(distance[scarce_ones, 0]) / typical(distance[own, 0]))
    return Rule(max(by_distance, LEAST), by_ratio if np.isfinite(distance[:, 1]).any() else -1.0)


def typical(values: np.ndarray) -> float:
    """The geometric mean of values like these (N,), which are positive."""
    return float(np.exp(np.log(np.maximum(values, TINY)).mean()))


def lower(values: np.ndarray, share: float) -> float:
    """Below it comes about this share of values like these (N,), which are positive; 0 if there are too few to tell.

    Their quantile, where there are SURE of them; else, if less, the lower prediction bound of a log-normal value.
    """
    from scipy.stats import t

    if len(values) < FEWEST:
        return 0.0
    logs = np.log(np.maximum(values, TINY))
    wide = logs.std(ddof=1) * np.sqrt(1 + 1 / len(logs))
    assumed = float(np.exp(logs.mean() - t.ppf(1 - share, len(logs) - 1) * wide))
    return float(np.quantile(values, share)) if len(values) >= SURE else assumed


def nearest(
    rows: np.ndarray,
    reference: np.ndarray,
    groups: np.ndarray,
    own: np.ndarray | None = None,
    report: Report = lambda count, note: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Distances float (N, NEIGHBOURS) to the nearest reference rows, one of a group, and their positions int.

    `groups` (M,) are those of the reference; with `own` (N,) rows of a row's own group do not count. Where there are
    fewer groups, inf and -1.
    """
    code = np.unique(np.concatenate([groups, groups if own is None else own]), return_inverse=True)[1]
    known, mine = code[: len(groups)], None if own is None else code[len(groups) :]
    distance, position = np.full((len(rows), NEIGHBOURS), np.inf), np.full((len(rows), NEIGHBOURS), -1)
    for part in blocks(rows, ROWS):
        places, mirror = _shortlist(rows[part], reference, known, None if mine is None else mine[part])
        for i, own_places in enumerate(places):
            row = rows[part.start + i]
            grey = _grey(row[None])[0]
            pieces = {m: _pieces(_mirrored(grey, m)) for m in np.unique(mirror[i])}
            found = [
                (_distance(pieces[m], _grey(reference[p][None])[0]) if pieces[m] else _faint(row, reference[p]), p)
                for p, m in zip(own_places, mirror[i], strict=True)
                if p >= 0
            ]
            best: dict[int, tuple[float, int]] = {}
            for pair in sorted(found):
                best.setdefault(known[pair[1]], pair)
            for k, pair in enumerate(list(best.values())[:NEIGHBOURS]):
                distance[part.start + i, k], position[part.start + i, k] = pair
            report(1, "")
    return distance, position


def _shortlist(
    rows: np.ndarray, reference: np.ndarray, groups: np.ndarray, own: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """For rows (N, H, W, C) the positions of reference rows with a crop that is most like them, int (N, SHORTLIST), and how
    the row is mirrored for it; -1 where there are fewer."""
    asked = np.concatenate([_turned(_grey(rows[part])) for part in blocks(rows, BLOCK)], axis=1)  # (4, N, D)
    like = np.full((len(rows), SHORTLIST), -np.inf, np.float32)
    place, mirror = np.full((2, len(rows), SHORTLIST), -1)
    for part in blocks(reference, BLOCK):
        views, here = _sketches(_grey(reference[part])), np.arange(part.start, part.stop)
        for some in blocks(rows, BLOCK):
            each = _likeness(asked[:, some], views)  # (4, n, B)
            best, turned = each.max(axis=0), each.argmax(axis=0)
            if own is not None:
                best[own[some, None] == groups[part]] = -np.inf
            both = np.concatenate([like[some], best], axis=1)
            order = np.argsort(-both, axis=1, kind="stable")[:, :SHORTLIST]
            known = np.where(np.isfinite(best), here, -1)
            like[some], place[some], mirror[some] = (
                np.take_along_axis(pair, order, axis=1)
                for pair in (both, np.hstack([place[some], known]), np.hstack([mirror[some], turned]))
            )
    return place, mirror


def _turned(grey: np.ndarray) -> np.ndarray:
    """Sketches of pictures (N, H, W), each mirrored in all four ways: (4, N, D)."""
    return np.stack([_sketch(_mirrored(grey, m)) for m in range(4)])


def _likeness(asked: np.ndarray, views: list[np.ndarray]) -> np.ndarray:
    """For sketches (4, N, D) their largest product with any of the views, each (B, D), of each reference row: (4, N, B)."""
    flat = asked.reshape(-1, asked.shape[2])
    most, product = flat @ views[0].T, np.empty((len(flat), len(views[0])), flat.dtype)
    for view in views[1:]:
        np.maximum(most, np.matmul(flat, view.T, out=product), out=most)
    return most.reshape(*asked.shape[:2], -1)


def _grey(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W, C) without colour, float32 (N, H, W), smoothed a little from 16 px on, so that noise weighs less."""
    import cv2

    grey = np.asarray(images).astype(np.float32).mean(axis=3)
    wide = min(grey.shape[1:]) / 48
    return np.stack([cv2.GaussianBlur(one, (0, 0), wide) for one in grey]) if len(grey) and wide > 0.3 else grey


def _mirrored(grey: np.ndarray, mirror: int) -> np.ndarray:
    """Pictures (..., H, W), upside down where bit 0 of `mirror` is set, left to right where bit 1 is."""
    grey = grey[..., ::-1, :] if mirror & 1 else grey
    return np.ascontiguousarray(grey[..., ::-1] if mirror & 2 else grey)


def _sketch(grey: np.ndarray) -> np.ndarray:
    """Pictures (N, H, W) in a few pixels without brightness and contrast, float32 (N, SKETCH^2) of length 1."""
    import cv2

    small = [cv2.resize(one, (SKETCH, SKETCH), interpolation=cv2.INTER_AREA).reshape(-1) for one in grey]
    flat = np.stack(small) if small else np.empty((0, SKETCH**2), np.float32)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-3)


def _sketches(grey: np.ndarray) -> list[np.ndarray]:
    """Sketches of small shifts and of crops of pictures (N, H, W)."""
    height, width = grey.shape[1:]
    step = max(1, round(min(height, width) / 14))
    padded = np.pad(grey, ((0, 0), (step, step), (step, step)), mode="edge")
    shifts = (0, step, 2 * step)
    views = [padded[:, top : top + height, left : left + width] for top in shifts for left in shifts]
    for side, places in CROPS.items():
        h, w = max(4, round(side * height)), max(4, round(side * width))
        tops, lefts = (np.unique(np.linspace(0, n, places).round().astype(int)) for n in (height - h, width - w))
        views += [grey[:, top : top + h, left : left + w] for top in tops for left in lefts]
    return [_sketch(np.ascontiguousarray(view)) for view in views]


def _pieces(row: np.ndarray) -> list[np.ndarray]:
    """What is laid over another picture: the middle of a picture (H, W), and the whole at several smaller sizes."""
    import cv2

    height, width = row.shape
    edge = max(1, round(min(height, width) / 10))
    sizes = {(max(4, round(width * side)), max(4, round(height * side))) for side in SIDES}
    smaller = [cv2.resize(row, size, interpolation=cv2.INTER_AREA) for size in sorted(sizes)]
    pieces = [np.ascontiguousarray(row[edge : height - edge, edge : width - edge]), *smaller]
    return [p for p in pieces if p.std() >= 1]  # else there is nothing to see in it, and the correlation is not defined


def _faint(row: np.ndarray, other: np.ndarray) -> float:
    """How unlike a picture in which there is hardly anything to see is another one: alike if both are the same and not blank."""
    return 0.0 if np.ptp(row) and np.array_equal(row, other) else 2.0


def _distance(pieces: list[np.ndarray], other: np.ndarray) -> float:
    """How unlike a picture, of these pieces, and another one (H, W) are: 0 alike, 1 nothing in common, 2 a negative."""
    import cv2

    best = -1.0
    for piece in pieces:
        found = cv2.matchTemplate(other, piece, cv2.TM_CCOEFF_NORMED)
        most = float(found.max())
        best = max(best, min(most if np.isfinite(most) else float(np.where(np.isfinite(found), found, -1).max()), 1.0))
    return max(0.0, 1 - best)
