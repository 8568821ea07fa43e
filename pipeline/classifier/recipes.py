"""How a batch becomes a loss: mixed pictures, class weights, shifted logits, interpolated features; arrays and tensors in."""

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.params import Recipe


def mixed(x: torch.Tensor, recipe: Recipe, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Images (B, C, H, W), each mixed with another of the batch; which one, int (B,); and how much of the first is left.

    mixup: Zhang et al., 2018, a weighted mean. CutMix: Yun et al., 2019, a rectangle of the other. One weight a batch.
    """
    other = torch.from_numpy(rng.permutation(len(x))).to(x.device)
    left = float(rng.beta(recipe.alpha, recipe.alpha))
    if recipe.mix == "mixup":
        return left * x + (1 - left) * x[other], other, left
    height, width = x.shape[2:]
    top, end = _span(height, left, rng)
    begin, stop = _span(width, left, rng)
    x, cut = x.clone(), x[other, :, top:end, begin:stop]
    x[:, :, top:end, begin:stop] = cut
    return x, other, 1 - (end - top) * (stop - begin) / (height * width)


def _span(length: int, left: float, rng: np.random.Generator) -> tuple[int, int]:
    """A stretch of sqrt(1 - left) of the length around a random centre, cut off at the ends."""
    half, centre = length * np.sqrt(1 - left) / 2, rng.uniform(0, length)
    return round(max(centre - half, 0)), round(min(centre + half, length))


def between(features: torch.Tensor, y: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """SMOTE on features (B, D): half of the rows move part of the way to the nearest other row of their class.

    Chawla et al., 2002, within the batch; a row that is alone in its class stays where it is.
    """
    with torch.no_grad():
        distance = torch.cdist(features.float(), features.float())
        distance[(y[:, None] != y[None]) | torch.eye(len(y), dtype=torch.bool, device=y.device)] = torch.inf
        nearest, place = distance.min(dim=1)
    part = rng.uniform(0, 1, len(y)) * (rng.uniform(0, 1, len(y)) < 0.5)
    step = torch.from_numpy(part).to(features) * nearest.isfinite()
    return features + step[:, None] * (features[place] - features)


def class_weights(share: np.ndarray) -> np.ndarray:
    """Loss weight of each class, float (K,), inverse to the share (K,) of the rows drawn; 1 on average over rows."""
    return np.where(share > 0, 1 / np.maximum(share, 1e-12), 0) / (share > 0).sum()


def log_prior(share: np.ndarray) -> np.ndarray:
    """Logarithm of class shares, float (K,); a class that is never drawn counts as the rarest."""
    return np.log(np.where(share > 0, share, share[share > 0].min()))


def losses(logits: torch.Tensor, y: torch.Tensor, recipe: Recipe, share: np.ndarray, smoothing: float) -> torch.Tensor:
    """Loss of each row, float (B,), from logits (B, K), classes (B,) and class shares (K,).

    Balanced softmax (Ren et al., 2020) adds the log prior to the logits, as the logit-adjusted loss of Menon et al.,
    2021 does with tau = 1. Where the prior shifts the logits, in the loss or afterwards, labels are not smoothed: smoothing
    bounds how far a logit leads, and the prior of a common class would outweigh the surest of its rows.
    """
    logits = logits.float()  # in bf16 a logarithm of small probabilities is off in the second digit
    if recipe.loss == "balanced_softmax" or recipe.tau:
        smoothing = 0.0
    if recipe.loss == "balanced_softmax":
        logits = logits + torch.from_numpy(log_prior(share)).to(logits)
    loss = F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)
    if recipe.loss == "class_weighted":
        loss = loss * torch.from_numpy(class_weights(share)).to(loss)[y]
    return loss


@torch.no_grad()
def adjust(head: torch.nn.Linear, recipe: Recipe, share: np.ndarray) -> None:
    """Post-hoc logit adjustment (Menon et al., 2021): tau times the log prior leaves the bias of a trained network."""
    head.bias.sub_(recipe.tau * torch.from_numpy(log_prior(share)).to(head.bias))
