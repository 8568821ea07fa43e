"""Figures as PNG bytes: equal inputs give equal bytes. One colour per arm throughout a report."""

import io
import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.reporting.tables import ENDS, ByName, Told

INK = "#555555"  # of what belongs to no arm
WIDEST = 60.0  # inches, and as high: a matrix of hundreds of classes would take gigabytes to draw
NAMED = 60  # classes; the names of more would lie on one another
# Each 3 : 1 or more on white and on the dark page (WCAG 2.1, 1.4.11), and far from all others: a search over sRGB.
PALETTE = (
    "#4078A8", "#F86010", "#30A810", "#A830A8", "#886000", "#E860C0", "#889878", "#8088F8",
    "#007830", "#C83000", "#7850D8", "#C88080", "#C08000", "#E84068", "#10A0C8", "#A868C0",
    "#3070F0", "#A06060", "#009870", "#9090B8", "#808800", "#B83068", "#587060", "#785898",
)  # fmt: skip
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "text.parse_math": False,  # a class may be called $5
}
OTHERS = [
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
]
LONG = 10  # letters that fit over a picture; wide ones, as of Chinese, count twice


def subplots(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure of that many inches and its axes, (rows, columns)."""
    there = set(font_manager.get_font_names())
    plt.rcParams.update(STYLE | {"font.family": ["DejaVu Sans", *(name for name in OTHERS if name in there)]})
    return plt.subplots(rows, columns, figsize=(min(width, WIDEST), min(height, WIDEST)), squeeze=False)


def colours(arms: Sequence[str]) -> dict[str, str]:
    return {arm: PALETTE[i % len(PALETTE)] for i, arm in enumerate(arms)}


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def forest(found: ByName, control: str, metric: str, arms: Sequence[str], chosen: Sequence[str]) -> bytes:
    """Each arm's difference to the best control in points with its interval; the arms named in `chosen` are drawn bold."""
    shade = colours(arms)
    figure, ((axes,),) = subplots(1, 1, 7, 0.3 * len(arms) + 0.9)
    axes.axvline(0, color=INK, lw=1)
    for i, arm in enumerate(arms):
        if arm in found:
            mean, low, high = (100 * found[arm][k] for k in ("difference", "ci_low", "ci_high"))
            axes.plot([low, high], [i, i], color=shade[arm], lw=4 if arm in chosen else 2, solid_capstyle="butt")
            axes.plot(mean, i, "o", color=shade[arm], ms=8 if arm in chosen else 5)
        else:
            axes.plot(0, i, "D", color=shade[arm], ms=7)
    axes.set_yticks(range(len(arms)), arms)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in chosen else "normal")
    axes.invert_yaxis()
    axes.set_xlabel(f"points of {metric} against {control}, the best control, on the test split")
    axes.grid(axis="x", alpha=0.3)
    return png(figure)


def doses(points: pd.DataFrame, metric: str, level: float, control: str, shade: Mapping[str, str]) -> bytes:
    """The metric by the number of rows added, a line with intervals per curve, and the best control as a level.

    A curve has the colour of its arm with the most rows.
    """
    figure, ((axes,),) = subplots(1, 1, 6, 3)
    axes.axhline(level, color=INK, lw=1, ls="--", label=f"{control} (best control)")
    for name, line in points.groupby("curve", sort=False):
        ends = np.abs(line[["ci_low", "ci_high"]].to_numpy().T - line[metric].to_numpy())
        style = {"color": shade[line["arm"].iloc[-1]], "marker": "o", "lw": 1.3, "capsize": 3}
        axes.errorbar(line["rows"], line[metric], ends, label=name, **style)
    axes.set(xlabel="rows added to the training rows", ylabel=metric.replace("_", " "))
    axes.legend(fontsize=7, frameon=False)
    return png(figure)


def reliability(frame: pd.DataFrame, arms: Sequence[str], shade: Mapping[str, str]) -> bytes:
    """Accuracy by confidence; points on the diagonal are well calibrated, their area is the share of the rows."""
    figure, ((axes,),) = subplots(1, 1, 3.8, 3.6)
    axes.plot([0, 1], [0, 1], color=INK, lw=1, ls="--")
    for arm in arms:
        line = frame[frame["arm"] == arm]
        axes.plot(line["confidence"], line["accuracy"], color=shade[arm], lw=1.3, label=arm)
        axes.scatter(line["confidence"], line["accuracy"], 8 + 200 * line["share"], color=shade[arm], alpha=0.6)
    axes.set(xlabel="confidence of the model", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(fontsize=7, frameon=False)
    return png(figure)


def recall_bars(metrics: ByName, classes: Sequence[str], arms: Sequence[str], shade: Mapping[str, str]) -> bytes:
    """Recall per class with intervals over seeds, one bar per arm."""
    figure, ((axes,),) = subplots(1, 1, max(6, 0.34 * len(classes) * len(arms) + 1.5), 3.2)
    width = 0.8 / len(arms)
    for k, arm in enumerate(arms):
        for i, label in enumerate(classes):
            ends: list[Any] = [metrics[arm].get(f"recall_{label}{end}") for end in ENDS]
            mean, low, high = ends
            if mean is None:
                continue
            place = i + (k - (len(arms) - 1) / 2) * width
            axes.bar(place, mean, width * 0.95, color=shade[arm])
            if low is not None:
                axes.plot([place, place], [low, min(high, 1.0)], color="black", lw=1)
    if len(classes) <= NAMED:
        axes.set_xticks(range(len(classes)), classes, rotation=0 if max(map(len, classes)) < 8 else 30, ha="center")
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("recall")
    bars = [Patch(color=shade[a], label=a) for a in arms]
    axes.legend(handles=bars, loc="lower left", ncols=len(arms), frameon=False, bbox_to_anchor=(0, 1.0))
    return png(figure)


def confusions(tables: Mapping[str, np.ndarray], classes: Sequence[str]) -> bytes:
    """Confusion matrices side by side, as shares of each true class (K, K), summed over seeds."""
    side = 0.38 * len(classes)
    figure, all_axes = subplots(1, len(tables), side * len(tables) + 3, side + 1.4)
    figure.set_layout_engine("constrained")  # long names would lie over the matrix beside
    for axes, (arm, table) in zip(all_axes[0], tables.items(), strict=True):
        share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (i, j), v in np.ndenumerate(share):
            if v >= 0.005 and len(classes) <= 20:
                axes.text(
                    j, i, f"{100 * v:.0f}", ha="center", va="center", fontsize=7, color="white" if v > 0.5 else "black"
                )
        if len(classes) <= NAMED:
            axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
            axes.set_yticks(range(len(classes)), classes, fontsize=7)
        axes.set_title(arm, fontsize=9)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
    return png(figure)


def curves(frame: pd.DataFrame, arms: Sequence[str], chosen: Sequence[str]) -> bytes:
    """Training loss and validation balanced accuracy by step, averaged over seeds; of many arms only `chosen` are named."""
    shade, named = colours(arms), arms if len(arms) <= 12 else chosen
    figure, ((left, right),) = subplots(1, 2, 10, 3)
    for arm in arms:
        mean = frame[frame["arm"] == arm].groupby("step").mean(numeric_only=True)
        for axes, column in ((left, "loss"), (right, "val_balanced_accuracy")):
            line, front = mean[column].dropna(), arm in named
            label, width = (arm, 1.3) if front else (None, 0.6)
            axes.plot(line.index, line, color=shade[arm], lw=width, alpha=1 if front else 0.4, label=label)
    left.set(xlabel="step", ylabel="training loss")
    right.set(xlabel="step", ylabel="balanced accuracy on validation")
    right.legend(fontsize=7, frameon=False, ncols=2)
    return png(figure)


def losses(generators: Mapping[str, Sequence[Told]], shade: Mapping[str, str]) -> bytes:
    """The loss of each trained generator by step, each on its own scale, and below it what else its family watches.

    `shade` is by generator.
    """
    watched = {name: sorted({k for p in curve for k in p} - {"step", "loss"}) for name, curve in generators.items()}
    lines = 1 + max(map(len, watched.values()))
    figure, all_axes = subplots(lines, len(generators), 3.3 * len(generators), 0.6 + 1.9 * lines)
    for column, (name, curve) in zip(all_axes.T, generators.items(), strict=True):
        for axes, what in itertools.zip_longest(column, ["loss", *watched[name]]):
            if what is None:
                axes.axis("off")
                continue
            axes.plot([p["step"] for p in curve], [p[what] for p in curve], color=shade.get(name, INK), lw=1.3)
            axes.set(xlabel="step", title=name if what == "loss" else "", ylabel=what)
    figure.tight_layout()
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
    """Images over their counterparts, uint8 (N, H, W, C), eight a line, with a caption each; `right` None hides these."""
    columns, gap = min(8, len(left)), np.full((max(1, left.shape[1] // 8), *left.shape[2:]), 255, np.uint8)
    both = left if right is None else [np.concatenate([a, gap, b]) for a, b in zip(left, right, strict=True)]
    lines, high = -(-len(left) // columns), 1.25 if right is None else 2.3
    figure, all_axes = subplots(lines, columns, 0.95 * columns, lines * high)
    for axes in all_axes.flat:
        axes.axis("off")
    for axes, image, caption in zip(all_axes.flat, both, captions, strict=False):
        axes.imshow(np.broadcast_to(image, (*image.shape[:2], 3)), interpolation="nearest")
        axes.set_title("\n".join(map(short, caption.split("\n"))), fontsize=7)
    return png(figure)


def short(text: str) -> str:
    """Its beginning and its end, if it is longer than what fits over a picture."""
    wide = np.cumsum([2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text])
    if not len(text) or wide[-1] <= LONG:
        return text
    return f"{text[: (wide <= LONG // 2).sum()]}…{text[len(text) - (wide[-1] - wide < LONG // 2 - 1).sum() :]}"
