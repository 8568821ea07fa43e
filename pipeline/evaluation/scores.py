"""Scores of one model on one split, as tidy rows (class, metric, value); a macro row has class ""."""

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score


def scores(probabilities: np.ndarray, y: np.ndarray, classes: tuple[str, ...]) -> list[tuple[str, str, float]]:
    """Per class recall, precision, F1, AUROC and AUPRC (one against the rest), their means, accuracy, NLL and ECE.

    `probabilities` (N, K), y int (N,). A class without rows in y has NaN and is left out of every mean; a binary set
    has the same AUROC for both classes.
    """
    present = np.array([(y == c).any() for c in range(len(classes))])
    guess = probabilities.argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        y, guess, labels=np.arange(len(classes)), zero_division=0
    )
    rank = {"auroc": roc_auc_score, "auprc": average_precision_score}
    per_class = {"recall": recall, "precision": precision, "f1": f1}
    ranked = present & (np.bincount(y, minlength=len(classes)) < len(y))
    for name, score in rank.items():
        per_class[name] = np.array([score(y == c, p) if ranked[c] else np.nan for c, p in enumerate(probabilities.T)])
    per_class = {name: np.where(present, values, np.nan) for name, values in per_class.items()}
    rows = [(c, name, float(v)) for name, values in per_class.items() for c, v in zip(classes, values, strict=True)]
    macro = {"balanced_accuracy": "recall"} | {f"macro_{n}": n for n in ("precision", "f1", "auroc", "auprc")}
    rows += [("", name, _mean(per_class[base])) for name, base in macro.items()]
    whole = {"accuracy": float((guess == y).mean()), "nll": nll(probabilities, y), "ece": ece(probabilities, y)}
    return rows + [("", name, value) for name, value in whole.items()]


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def nll(probabilities: np.ndarray, y: np.ndarray) -> float:
    """Mean negative log-likelihood in nats, probabilities floored at 1e-12."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(y)), y], 1e-12)).mean())


def binned(probabilities: np.ndarray, y: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of rows (..., N, K) the probability of the top class, whether it is right, and its bin of equal width, each (..., N)."""
    confidence, hit = probabilities.max(axis=-1), probabilities.argmax(axis=-1) == y
    return confidence, hit, np.minimum((confidence * bins).astype(int), bins - 1)


def ece(probabilities: np.ndarray, y: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of the top class over equal-width bins (Guo et al., 2017)."""
    confidence, hit, which = binned(probabilities, y, bins)
    return float(np.abs(np.bincount(which, hit - confidence, minlength=bins)).sum() / len(y))


def confusion(guess: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """Counts int (K, K): rows true class, columns predicted."""
    return np.bincount(y * k + guess, minlength=k * k).reshape(k, k)


def from_confusion(metric: str, table: np.ndarray) -> np.ndarray:
    """A primary metric, or `recall` by class (..., K), from confusion tables (..., K, K).

    Classes without true rows are left out of macro means and have the recall 0.
    """
    hit, true, said = np.diagonal(table, axis1=-2, axis2=-1), table.sum(axis=-1), table.sum(axis=-2)
    if metric == "recall":
        return hit / np.maximum(true, 1e-12)
    if metric == "accuracy":
        return hit.sum(axis=-1) / np.maximum(true.sum(axis=-1), 1e-12)
    value = {"balanced_accuracy": hit / np.maximum(true, 1e-12), "macro_f1": 2 * hit / np.maximum(true + said, 1e-12)}[
        metric
    ]
    return np.where(true > 0, value, 0).sum(axis=-1) / np.maximum((true > 0).sum(axis=-1), 1)


def reliability(probabilities: np.ndarray, y: np.ndarray, bins: int = 10) -> list[tuple[float, float, float]]:
    """Per bin of the top class's probability (S, N, K), over all seeds: mean confidence, accuracy, share of the rows."""
    confidence, hit, which = (values.ravel() for values in binned(probabilities, y, bins))
    return [
        (float(confidence[which == b].mean()), float(hit[which == b].mean()), float((which == b).mean()))
        for b in np.unique(which)
    ]
