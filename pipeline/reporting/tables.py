"""Numbers as people read them, and tables of what was trained, generated, selected and measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.statistics import mean_interval
from pipeline.reporting.markdown import plain

Told = Mapping[str, Any]
ByName = Mapping[str, Told]
TITLES = {
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "macro_auroc": "macro AUROC",
    "macro_auprc": "macro AUPRC",
    "nll": "NLL",
    "ece": "ECE",
    "tempered_ece": "ECE after temperature",
    "sensitivity": "sensitivity at the fixed specificity",
}
ENDS = ("", "_ci_low", "_ci_high")  # of the names of a mean and the ends of its interval
POINTS = {"balanced_accuracy", "macro_f1", "accuracy", "sensitivity"}  # shown in percent, differences in points


def number(value: float | None, metric: str = "") -> str:
    """A score as text: percent with one decimal for the accuracies, three decimals else, n/a for what is not known."""
    if value is None or pd.isna(value):
        return "n/a"
    scale, digits = (100, 1) if metric.removeprefix("tuned_") in POINTS else (1, 3)
    return f"{round(scale * value, digits) + 0.0:.{digits}f}"  # + 0.0: no negative zero


def share(mean: float | None, low: float | None, high: float | None, *, metric: str) -> str:
    """Mean and interval, cut off at 0 and 1, where all metrics but `nll` end; what is not known is None."""
    mean, low, high = (np.nan if v is None else v for v in (mean, low, high))
    low, high = max(low, 0), high if metric == "nll" else min(high, 1)
    return number(mean, metric) + ("" if pd.isna(low) else f" [{number(low, metric)}, {number(high, metric)}]")


def change(found: Told) -> str:
    """A difference and its interval, in points."""
    if found["difference"] is None:
        return "n/a"
    return f"{points(found['difference'])} {ends(found['ci_low'], found['ci_high'])}"


def ends(low: float | None, high: float | None) -> str:
    """The interval of a difference, in points; -0.0 is an end that lies below zero, by less than can be shown."""
    return f"[{', '.join('n/a' if end is None else f'{100 * end + 0.0:+.1f}' for end in (low, high))}]"


def points(value: float | None) -> str:
    return "n/a" if value is None else f"{round(100 * value, 1) + 0.0:+.1f}"  # + 0.0: no negative zero


def chance(p: float) -> str:
    """A p value as text, never 0."""
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def summarise(scores: pd.DataFrame, confidence: float) -> dict[str, dict[str, float | None]]:
    """{arm: {metric: mean, metric_ci_low, metric_ci_high}}: macro metrics, and recall per class as recall_<class>.

    The interval is Student's over seeds: how much the mean would move with other seeds on these same test rows.
    """
    out: dict[str, dict[str, float]] = {}
    kept = scores[(scores["class"] == "") | (scores["metric"] == "recall")]
    for (arm, label, metric), rows in kept.groupby(["arm", "class", "metric"], sort=False):
        name = f"{metric}_{label}" if label else metric
        mean, low, high = mean_interval(rows["value"].to_numpy(), confidence)
        out.setdefault(arm, {}).update({name: mean, f"{name}_ci_low": low, f"{name}_ci_high": high})
    return {arm: {k: None if pd.isna(v) else round(v, 6) for k, v in values.items()} for arm, values in out.items()}


def class_table(
    verdict: Told, metrics: ByName, counts: Mapping[str, Mapping[str, int]], scarce: Sequence[str]
) -> pd.DataFrame:
    """Per class: rows in train and test, recall under the control and the chosen arm, and the change in points.

    With the intervals of the guardrails, which carry seeds and test rows; where no arm was chosen, over seeds alone.
    """
    control, arm = verdict["best_control"], verdict["chosen_arm"]
    rails = {rail["name"]: rail for rail in verdict["guardrails"]}
    rows = []
    for label, n in counts["train"].items():
        rail = rails.get(f"recall of {label}")
        alone = [metrics[control][f"recall_{label}{end}"] for end in ENDS]
        rows.append(
            {
                "class": label,
                "scarce": "yes" if label in scarce else "",
                "train rows": n,
                "test rows": counts["test"][label],
                f"recall, {control}": share(*(rail["control"] if rail else alone), metric="accuracy"),
                f"recall, {arm or 'no arm'}": share(*rail["arm"], metric="accuracy") if rail else "n/a",
                "change": change(rail) if rail else "n/a",
            }
        )
    return pd.DataFrame(rows)


def arm_points(verdict: Told, metrics: ByName) -> pd.DataFrame:
    """One row per arm: the primary metric, and the difference to the best control with its interval (empty for that one)."""
    rows = [
        {"arm": arm, verdict["primary_metric"]: values[verdict["primary_metric"]]}
        | {k: verdict["arms"].get(arm, {}).get(k) for k in ("difference", "ci_low", "ci_high")}
        for arm, values in metrics.items()
    ]
    return pd.DataFrame(rows).round(6)


SPACES = {
    "pixels": "pixels, mirrored and moved",
    "baseline": "features of the baseline",
    "encoder": "features without labels",
    "model": "the model's own loss",
}


def fidelity_table(fidelity: pd.DataFrame, label: str = "") -> pd.DataFrame:
    """Per generator and feature space, over the scarce classes together, or of one class; values with their spread.

    `fidelity` has the columns of results/fidelity.csv.
    """
    rows = []
    for (name, space), lines in fidelity[(fidelity["class"] == label) & (fidelity["space"] != "")].groupby(
        ["generator", "space"], sort=False
    ):
        count = fidelity[(fidelity[["generator", "class", "metric"]] == [name, label, "rows"]).all(axis=1)]["value"]
        row = {"generator": name, "seen in": SPACES[space], "rows": f"{count.iloc[0]:.0f}"}
        rows.append(row | {line["metric"]: with_spread(line) for line in lines.to_dict("records")})
    return pd.DataFrame(rows)


def with_spread(line: Told) -> str:
    value, deviation = line["value"], line["spread"]
    return number(value) + ("" if pd.isna(value) or pd.isna(deviation) else f" ± {number(deviation)}")


def outcomes(y: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """One row per test row and seed, actual and predicted class names, as `dvc plots` counts a confusion matrix."""
    names = np.array(classes)
    return pd.DataFrame({"actual": names[np.tile(y, len(predicted))], "predicted": names[predicted.reshape(-1)]})


def markdown(frame: pd.DataFrame) -> str:
    """A GitHub table that shows every cell as it stands."""

    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(plain(str(c)).replace("|", "\\|") for c in cells) + " |"

    return "\n".join(
        [line(frame.columns), "|" + " --- |" * len(frame.columns), *(line(r) for r in frame.itertuples(index=False))]
    )


def search_table(tried: pd.DataFrame) -> pd.DataFrame:
    """What the search tried, in its order, and what came of it on validation."""
    rows = [
        {
            "generator": t["generator"],
            "tried": f"{t['key']} = {t['value']}" if isinstance(t["key"], str) else "as params say",
            "log-likelihood": f"{t['likelihood']:.3f}",
            "gain": f"{t['gain']:+.3f} (standard error {t['standard_error']:.3f})" if t["gain"] == t["gain"] else "",
            "balanced accuracy": f"{100 * t['correct']:+.1f} points (standard error {100 * t['correct_error']:.1f})"
            if t["correct"] == t["correct"]
            else "",
            "taken": "yes" if t["taken"] else "no",
        }
        for t in tried.to_dict("records")
    ]
    return pd.DataFrame(rows)


def points_table(generators: ByName, classes: Sequence[str], sought: bool = True) -> pd.DataFrame:
    """The weights that each scarce class is drawn with: after how many steps, averaged how, and what the judge said.

    `sought` is whether it looked for copies.
    """
    rows = [
        {
            "generator": name,
            "class": classes[c],
            "step": point["step"],
            "decay of the average": f"{point['ema']:.4f}",
            "distance": number(point["distance"][c]),
            "copies": f"{100 * point['copies'][c]:.0f} %" if sought else "not looked for",
        }
        for name, about in generators.items()
        for point in about.get("points", [])
        for c in point["classes"]
        if point["distance"][c] is not None
    ]
    return pd.DataFrame(rows)
