"""Which rows of an unlabelled pool may be learnt from as the class that the teachers see in them.

Pseudo-labels (Lee, 2013) above a confidence of each class's own, as in FlexMatch (Zhang et al., 2021); here it is set by
how often the teachers are right, at that confidence, about training rows that they never saw.
"""

import numpy as np

from pipeline.selection.pseudo_label import likeliest


def thresholds(held: np.ndarray, y: np.ndarray, precision: float, least: float) -> np.ndarray:
    """The confidence from which on a row judged to be of a class is taken for one, float (K,); infinite for none.

    `held` (N, K) are out-of-fold probabilities of rows with labels y (N,). Of the rows judged to be of the class at
    least so surely, and never less surely than `least`, the share `precision` is right; the lowest such confidence counts.
    """
    judged, confidence = likeliest(held)
    found = np.full(held.shape[1], np.inf)
    for c in range(held.shape[1]):
        own = np.flatnonzero((judged == c) & (confidence >= least))
        own = own[np.argsort(-confidence[own], kind="stable")]
        right = np.cumsum(y[own] == c) / np.arange(1, len(own) + 1)
        last = np.append(np.diff(confidence[own]) != 0, True)[: len(own)]  # rows of equal confidence stand together
        good = np.flatnonzero((right >= precision) & last)
        if len(good):
            found[c] = confidence[own[good[-1]]]
    return found


def pseudo_labels(probabilities: np.ndarray, threshold: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class index int (N,), confidence float (N,) and whether it reaches the class's threshold, bool (N,)."""
    judged, confidence = likeliest(probabilities)
    return judged, confidence, confidence >= threshold[judged]
