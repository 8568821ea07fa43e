"""What a gain must not cost: recall of any class, ranking, calibration. Each is compared as the primary metric is."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.statistics import Statistic, breadth, by_auprc, by_confusion, by_ece, differences, resamples
from pipeline.params import Evaluation

DRAWS = 500  # at most so many resamples for these intervals; average precision is slow to resample


def check(
    arm: np.ndarray,
    control: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    labels: Sequence[str],
    block: Evaluation,
    seed: int,
    calibrated: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[dict[str, Any]]:
    """Differences arm - control of macro F1, macro AUPRC, ECE and the recall of each class, with intervals; which are broken.

    `arm` and `control` are probabilities (S, N, K), `calibrated` both after a temperature fitted on validation, for the
    ECE: without one a better model that was trained with smoothed labels looks worse calibrated. Broken means that the
    whole interval lies on the wrong side: below zero for AUPRC, above zero for ECE, below -max_class_loss for a class,
    whose interval is widened for that until all classes together are as sure as one alone: see `together`.
    Macro F1 is there to be read beside AUPRC. For each class the recalls themselves are told too, with intervals from the
    same resamples: mean and ends of the arm's and the control's.
    """
    tail, both, guess = (1 - block.confidence) / 2, (arm, control), (arm.argmax(axis=2), control.argmax(axis=2))
    f1, recalls = ([by_confusion(g, y, len(labels), metric) for g in guess] for metric in ("macro_f1", "recall"))
    asked = [f1, [by_auprc(p, y) for p in both], [by_ece(p, y) for p in calibrated or both], recalls]
    pairs: list[tuple[Statistic, Statistic]] = [(a, b) for a, b in [*asked, *([one, nothing] for one in recalls)]]
    macro, rows = (breadth(classes, groups, block.confidence) for classes in (y, np.zeros_like(y)))
    each = np.array([breadth(y[y == c], groups[y == c], block.confidence) for c in range(len(labels))])
    stretch: list[float | np.ndarray] = [macro, macro, rows, *[each] * 3]
    drawn = differences(pairs, resamples(y, groups, min(block.bootstrap, DRAWS), seed), seed, stretch)
    whole = np.ones((1, len(y)))
    means = [(a(whole) - b(whole)).mean(axis=1)[0] for a, b in pairs]
    drawn[2] += means[2] - drawn[2].mean()  # too few rows a bin raise an ECE by chance, and resampled rows once more

    def ends(draws: np.ndarray) -> list[float]:
        return [float(q) for q in np.quantile(draws, [tail, 1 - tail])]

    def rail(name: str, mean: float, draws: np.ndarray, kindest: float = 0.0) -> dict[str, Any]:
        low, high = ends(draws)
        return {"name": name, "difference": float(mean), "ci_low": low, "ci_high": high, "broken": bool(kindest < 0)}

    def recall(c: int, kindest: float) -> dict[str, Any]:
        own = {who: [float(means[i][c]), *ends(drawn[i][:, c])] for i, who in ((4, "arm"), (5, "control"))}
        return rail(f"recall of {labels[c]}", means[3][c], drawn[3][:, c], kindest + block.max_class_loss) | own

    there = np.unique(y)
    return [
        rail("macro F1", means[0], drawn[0]),
        rail("AUPRC", means[1], drawn[1], kindest=ends(drawn[1])[1]),
        rail("ECE", means[2], drawn[2], kindest=-ends(drawn[2])[0]),
        *(recall(c, end) for c, end in zip(there, together(drawn[3][:, there], tail), strict=True)),
    ]


def together(draws: np.ndarray, tail: float) -> np.ndarray:
    """Upper ends (K,) of draws (R, K), above which none of the K values lies but with this chance; of one, its quantile.

    The largest of all distances from the middle, each in widths of its own interval (Westfall and Young, 1993, max T).
    """
    middle = draws.mean(axis=0)
    width = np.maximum(np.ptp(np.quantile(draws, [tail, 1 - tail], axis=0), axis=0), 1e-12)
    return middle + np.quantile(((draws - middle) / width).max(axis=1), 1 - tail) * width


def nothing(rows: np.ndarray) -> np.ndarray:
    """The statistic that is zero, to compare another with."""
    return np.zeros((len(rows), 1, 1))


def threshold_shift(rails: Sequence[dict[str, Any]]) -> bool:
    """Whether macro F1 surely rises while AUPRC surely falls: another threshold, not a better model."""
    return bool(rails[0]["ci_low"] > 0 and rails[1]["broken"])
