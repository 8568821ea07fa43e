"""Decision thresholds per class, tuned on validation: how much of a gain is a better model, and how much a shifted threshold."""

import numpy as np

from pipeline.evaluation.scores import confusion, from_confusion

STEPS = np.linspace(-3, 3, 25)  # of a class's log odds


def tune(probabilities: np.ndarray, y: np.ndarray, metric: str, rounds: int = 2) -> np.ndarray:
    """What to add to each class's log probability, float (K,), so that `metric` is highest on these rows (N, K).

    Coordinate ascent over a grid, from zero on; of equally good steps the smallest is taken.
    """
    logits, classes = np.log(np.maximum(probabilities, 1e-12)), probabilities.shape[1]
    offset, steps = np.zeros(classes), STEPS[np.argsort(np.abs(STEPS), kind="stable")]
    for _ in range(rounds):
        for c in np.unique(y):
            others = logits + offset
            others[:, c] = -np.inf
            rival, best = others.argmax(axis=1), others.max(axis=1)
            values = []
            for step in steps:
                own = logits[:, c] + step
                wins = (own > best) | ((own == best) & (c < rival))  # ties as argmax breaks them
                values.append(float(from_confusion(metric, confusion(np.where(wins, c, rival), y, classes))))
            offset[c] = steps[int(np.argmax(values))]
    return offset


def shifted(probabilities: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Predicted classes int (N,) with these offsets of the log probabilities (N, K)."""
    return (np.log(np.maximum(probabilities, 1e-12)) + offset).argmax(axis=1)


def sensitivity(score: np.ndarray, positive: np.ndarray, specificity: float) -> float:
    """The largest share of positives, bool (N,), above a threshold of score (N,) with this share of negatives below it.

    NaN if all rows are of one class.
    """
    from sklearn.metrics import roc_curve

    if positive.all() or not positive.any():
        return float("nan")
    false, true, _ = roc_curve(positive, score, drop_intermediate=False)
    return float(true[false <= 1 - specificity + 1e-12].max())
