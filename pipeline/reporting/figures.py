"""Figures as PNG bytes: equal inputs give equal bytes. One colour per arm throughout a report."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

PALETTE = (
    "#4477AA",
    "#EE6677",
    "#228833",
    "#CCBB44",
    "#66CCEE",
    "#AA3377",
    "#BBBBBB",
    "#997700",
    "#EE7733",
    "#009988",
    "#7a5195",
    "#555555",
)
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "text.parse_math": False,  # a class may be called $5
}


def subplots(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure of that many inches and its axes, (rows, columns)."""
    plt.rcParams.update(STYLE)
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False)


def colours(arms: Sequence[str]) -> dict[str, str]:
    return {arm: PALETTE[i % len(PALETTE)] for i, arm in enumerate(arms)}


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def forest(metrics: Mapping[str, Mapping], metric: str, chosen: Sequence[str]) -> bytes:
    """Each arm's mean of the metric with its interval; the arms named in `chosen` are drawn bold."""
    arms, shade = list(metrics), colours(list(metrics))
    figure, ((axes,),) = subplots(1, 1, 7, 0.36 * len(arms) + 0.9)
    for i, arm in enumerate(arms):
        mean, low, high = (metrics[arm][k] for k in (metric, f"{metric}_ci_low", f"{metric}_ci_high"))
        if low is not None:
            axes.plot([low, high], [i, i], color=shade[arm], lw=4 if arm in chosen else 2, solid_capstyle="butt")
        axes.plot(mean, i, "o", color=shade[arm], ms=8 if arm in chosen else 5)
    axes.set_yticks(range(len(arms)), arms)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in chosen else "normal")
    axes.invert_yaxis()
    axes.set_xlabel(f"{metric.replace('_', ' ')} on the test split")
    axes.grid(axis="x", alpha=0.3)
    return png(figure)


def recall_bars(
    metrics: Mapping[str, Mapping], classes: Sequence[str], arms: Sequence[str], shade: Mapping[str, str]
) -> bytes:
    """Recall per class with intervals over seeds, one bar per arm."""
    figure, ((axes,),) = subplots(1, 1, max(6, 0.34 * len(classes) * len(arms) + 1.5), 3.2)
    width = 0.8 / len(arms)
    for k, arm in enumerate(arms):
        for i, label in enumerate(classes):
            mean, low, high = (metrics[arm].get(f"recall_{label}{end}") for end in ("", "_ci_low", "_ci_high"))
            if mean is None:
                continue
            place = i + (k - (len(arms) - 1) / 2) * width
            axes.bar(place, mean, width * 0.95, color=shade[arm])
            if low is not None:
                axes.plot([place, place], [low, min(high, 1)], color="black", lw=1)
    axes.set_xticks(range(len(classes)), classes, rotation=0 if max(map(len, classes)) < 8 else 30, ha="center")
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("recall")
    axes.legend(
        handles=[Patch(color=shade[a], label=a) for a in arms],
        loc="lower left",
        ncols=len(arms),
        frameon=False,
        bbox_to_anchor=(0, 1.0),
    )
    return png(figure)


def confusions(tables: Mapping[str, np.ndarray], classes: Sequence[str]) -> bytes:
    """Confusion matrices side by side, as shares of each true class (K, K), summed over seeds."""
    side = 0.38 * len(classes)
    figure, all_axes = subplots(1, len(tables), side * len(tables) + 3, side + 1.4)
    for axes, (arm, table) in zip(all_axes[0], tables.items(), strict=True):
        share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (i, j), v in np.ndenumerate(share):
            if v >= 0.005 and len(classes) <= 20:
                axes.text(
                    j, i, f"{100 * v:.0f}", ha="center", va="center", fontsize=7, color="white" if v > 0.5 else "black"
                )
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
        axes.set_title(arm, fontsize=9)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true, shown in percent of each class")
    return png(figure)


def curves(frame: pd.DataFrame, arms: Sequence[str]) -> bytes:
    """Training loss and validation balanced accuracy by step, averaged over seeds."""
    shade = colours(arms)
    figure, ((left, right),) = subplots(1, 2, 10, 3)
    for arm in arms:
        mean = frame[frame["arm"] == arm].groupby("step").mean(numeric_only=True)
        for axes, column in ((left, "loss"), (right, "val_balanced_accuracy")):
            line = mean[column].dropna()
            axes.plot(line.index, line, color=shade[arm], lw=1.3, label=arm)
    left.set(xlabel="step", ylabel="training loss")
    right.set(xlabel="step", ylabel="balanced accuracy on validation")
    right.legend(fontsize=7, frameon=False, ncols=2)
    return png(figure)


def losses(generators: Mapping[str, Sequence[Mapping]]) -> bytes:
    """The loss of each trained generator by step, each on its own scale."""
    figure, all_axes = subplots(1, len(generators), 3.3 * len(generators), 2.4)
    for axes, (name, curve) in zip(all_axes[0], generators.items(), strict=True):
        axes.plot([p["step"] for p in curve], [p["loss"] for p in curve], color="#4477AA", lw=1.3)
        axes.set(xlabel="step", title=name)
    return png(figure)


def grid(images: np.ndarray, rows: Sequence[Sequence[int]], names: Sequence[str], columns: int) -> bytes:
    """Images uint8 (N, H, W, C) in labelled lines: line i shows images[rows[i]], at most `columns` of them."""
    figure, all_axes = subplots(len(rows), 1, 0.62 * columns + 1.8, 0.66 * len(rows))
    height, width = images.shape[1:3]
    for axes, chosen, name in zip(all_axes[:, 0], rows, names, strict=True):
        strip = np.full((height, columns * (width + 1) - 1, 3), 255, np.uint8)
        for k, i in enumerate(list(chosen)[:columns]):
            strip[:, k * (width + 1) : k * (width + 1) + width] = images[i]
        axes.imshow(strip, interpolation="nearest", aspect="equal")
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
    return png(figure)


def pairs(left: np.ndarray, right: np.ndarray | None, captions: Sequence[str]) -> bytes:
    """Images over their counterparts, uint8 (N, H, W, C), with a caption each; `right` None hides the counterparts."""
    lines = [left] if right is None else [left, right]
    figure, all_axes = subplots(len(lines), len(left), 0.95 * len(left), 1.05 * len(lines) + 0.2)
    for row, images in zip(all_axes, lines, strict=True):
        for axes, image in zip(row, images, strict=True):
            axes.imshow(np.broadcast_to(image, (*image.shape[:2], 3)), interpolation="nearest")
            axes.axis("off")
    for axes, caption in zip(all_axes[0], captions, strict=True):
        axes.set_title(caption, fontsize=7)
    return png(figure)
