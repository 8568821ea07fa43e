"""Numbers as people read them, and tables of what was trained, generated, selected and measured."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.evaluation.statistics import mean_interval
from pipeline.params import Selection
from pipeline.reporting.markdown import plain

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
POINTS = {"balanced_accuracy", "macro_f1", "accuracy", "sensitivity"}  # shown in percent, differences in points


def number(value: float | None, metric: str = "") -> str:
    """A score as text: percent with one decimal for the accuracies, three decimals else, n/a for what is not known."""
    if value is None or pd.isna(value):
        return "n/a"
    percent = metric.removeprefix("tuned_") in POINTS
    return (
        f"{round(100 * value, 1) + 0.0:.1f}" if percent else f"{round(value, 3) + 0.0:.3f}"
    )  # + 0.0: no negative zero


def interval(mean: float, low: float, high: float, metric: str = "") -> str:
    ends = "" if pd.isna(low) else f" [{number(low, metric)}, {number(high, metric)}]"
    return number(mean, metric) + ends


def share(mean: float | None, low: float | None, high: float | None, metric: str) -> str:
    """Mean and interval of what lies between 0 and 1, where the interval is cut off; an end that is not known is None."""
    mean, low, high = (np.nan if v is None else v for v in (mean, low, high))
    return interval(mean, max(low, 0), min(high, 1), metric)


def change(found: Mapping) -> str:
    """A difference and its interval, in points."""
    if found["difference"] is None:
        return "n/a"
    return f"{points(found['difference'])} [{points(found['ci_low'])}, {points(found['ci_high'])}]"


def points(value: float | None) -> str:
    return "n/a" if value is None else f"{round(100 * value, 1) + 0.0:+.1f}"  # + 0.0: no negative zero


def chance(p: float) -> str:
    """A p value as text, never 0."""
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def summarise(scores: pd.DataFrame, confidence: float) -> dict[str, dict[str, float]]:
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
    verdict: Mapping, metrics: Mapping[str, Mapping], counts: Mapping[str, Mapping[str, int]], scarce: Sequence[str]
) -> pd.DataFrame:
    """Per class: rows in train and test, recall under the control and the chosen arm, and the change in points.

    With the intervals of the guardrails, which carry seeds and test rows; where no arm was chosen, over seeds alone.
    """
    control, arm = verdict["best_control"], verdict["chosen_arm"]
    rails = {rail["name"]: rail for rail in verdict["guardrails"]}
    rows = []
    for label, n in counts["train"].items():
        rail = rails.get(f"recall of {label}")
        alone = [metrics[control][f"recall_{label}{end}"] for end in ("", "_ci_low", "_ci_high")]
        rows.append(
            {
                "class": label,
                "scarce": "yes" if label in scarce else "",
                "train rows": n,
                "test rows": counts["test"][label],
                f"recall, {control}": share(*(rail["control"] if rail else alone), "accuracy"),
                f"recall, {arm or 'no arm'}": share(*rail["arm"], "accuracy") if rail else "n/a",
                "change": change(rail) if rail else "n/a",
            }
        )
    return pd.DataFrame(rows)


def arm_points(verdict: Mapping, metrics: Mapping[str, Mapping]) -> pd.DataFrame:
    """One row per arm: the primary metric, and the difference to the best control with its interval (empty for that one)."""
    rows = [
        {"arm": arm, verdict["primary_metric"]: values[verdict["primary_metric"]]}
        | {k: verdict["arms"].get(arm, {}).get(k) for k in ("difference", "ci_low", "ci_high")}
        for arm, values in metrics.items()
    ]
    return pd.DataFrame(rows).round(6)


def selection_table(summaries: Mapping[str, Mapping]) -> pd.DataFrame:
    """Per generator and class: rows aimed for, generated, kept, agreed on by the teachers, and dropped by each rule."""
    return pd.DataFrame(
        [
            {
                "generator": g,
                "class": c,
                "aimed for": v["wanted"],
                "generated": v["generated"],
                "kept": v["kept"],
                "teachers agree": f"{100 * v['agreed'] / v['generated']:.0f} %",
                **{r.replace("_", " "): n for r, n in v["dropped"].items()},
            }
            for g, s in summaries.items()
            for c, v in s["classes"].items()
        ]
    )


def rules_table(block: Selection, summaries: Mapping[str, Mapping]) -> pd.DataFrame:
    """Every rule: its threshold, how it was set, and how many rows of these generators it dropped."""
    rule = next((s["copy_rule"] for s in summaries.values()), None)
    said = {
        "copy": (
            f"distance {rule['distance']:.3f}, ratio {rule['ratio']:.2f}" if rule else "",
            f"by real rows of other groups, of which {100 * block.copy_false_alarms:g} % would be dropped (copy_false_alarms)",
        ),
        "unlike": (
            f"distance {block.unlike:g}",
            "selection.unlike; 1 is as far as 95 % of real rows lie at most from those of other groups",
        ),
        "alike": (
            f"spread {block.alike:g}",
            "selection.alike; 1 is the spread of the real rows of a class",
        ),
        "third_class": (
            f"confidence {block.third_class:g}",
            f"selection.third_class; {block.neighbours} classes that unseen training rows are most taken for are neighbours",
        ),
        "refused": (f"{100 * block.max_copy_share:g} % copies", "selection.max_copy_share"),
        "quota": ("rows aimed for", "generation.dose and generation.cap"),
    }
    dropped = [c["dropped"] for s in summaries.values() for c in s["classes"].values()]
    return pd.DataFrame(
        [
            {
                "rule": r.replace("_", " "),
                "threshold": t,
                "set by": how,
                "dropped for arms that select": sum(d[r] for d in dropped),
            }
            for r, (t, how) in said.items()
        ]
    )


def kept_table(summaries: Mapping[str, Mapping], most: int = 6) -> pd.DataFrame:
    """Per generator: rows generated, kept and dropped by each rule; of many generators the first."""
    rows = []
    for name, summary in summaries.items():
        classes = summary["classes"].values()
        dropped = {r: sum(c["dropped"][r] for c in classes) for c in classes for r in c["dropped"]}
        why = ", ".join(f"{r.replace('_', ' ')} {n}" for r, n in dropped.items() if n)
        counts = {k: sum(c[k] for c in classes) for k in ("generated", "kept")}
        rows.append({"generator": name} | counts | {"dropped, by rule": why or "none"})
    return pd.DataFrame([r for r in rows if r["generated"]][:most])


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


def with_spread(line: Mapping) -> str:
    value, deviation = line["value"], line["spread"]
    return number(value) + ("" if pd.isna(value) or pd.isna(deviation) else f" ± {number(deviation)}")


def automatic_table(
    about: Mapping, settings: Mapping, policy: Mapping, generators: Mapping[str, Mapping]
) -> pd.DataFrame:
    """What each `auto` in params.yaml came to."""
    rows = {
        "data.image_size": about["image_size"],
        "data.channels": about["channels"],
        "data.scarce.classes": ", ".join(about["scarce"]) or "none",
        "augment.policy": policy["policy"],
        "augment.flips": ", ".join(policy["flips"]) or "none",
        "classifier.widths": ", ".join(map(str, settings["widths"])),
        "classifier.fold": settings["fold"],
        "classifier.batch": settings["batch"],
        "classifier.steps": settings["steps"],
    } | {
        f"generators.{g}": f"{s['steps']} steps, {s['parameters']:,} parameters"
        + (", begun again because its rows were all alike" if s.get("restarts") else "")
        + (", at half the learning rate from where it diverged" if s.get("slowed") else "")
        + (f", each batch in {s['micro_batches']} pieces for want of memory" if s.get("micro_batches", 1) > 1 else "")
        for g, s in generators.items()
        if "steps" in s
    }
    return pd.DataFrame(list(rows.items()), columns=["key", "value"])


def mean_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds by arm and step."""
    mean = curves.groupby(["arm", "step"], sort=False).mean(numeric_only=True)
    return mean.drop(columns="seed").round(6).reset_index()


def recalls(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean recall over seeds by arm and class."""
    mean = scores[scores["metric"] == "recall"].groupby(["arm", "class"], sort=False)["value"].mean()
    return mean.round(6).rename("recall").reset_index()


def outcomes(y: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """One row per test row and seed, actual and predicted class names, as `dvc plots` counts a confusion matrix."""
    names = np.array(classes)
    return pd.DataFrame({"actual": names[np.tile(y, len(predicted))], "predicted": names[predicted.reshape(-1)]})


def markdown(frame: pd.DataFrame) -> str:
    """A GitHub table that shows every cell as it stands."""

    def line(cells: Sequence) -> str:
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
            "balanced accuracy": f"{100 * t['correct']:+.1f} points" if t["correct"] == t["correct"] else "",
            "taken": "yes" if t["taken"] else "no",
        }
        for t in tried.to_dict("records")
    ]
    return pd.DataFrame(rows)


def points_table(generators: Mapping[str, Mapping], classes: Sequence[str]) -> pd.DataFrame:
    """The weights that each scarce class is drawn with: after how many steps, averaged how, and what the judge said."""
    rows = [
        {
            "generator": name,
            "class": classes[c],
            "step": point["step"],
            "decay of the average": f"{point['ema']:.4f}",
            "distance": number(point["distance"][c]),
            "copies": f"{100 * point['copies'][c]:.0f} %",
        }
        for name, about in generators.items()
        for point in about.get("points", [])
        for c in point["classes"]
        if point["distance"][c] is not None
    ]
    return pd.DataFrame(rows)
