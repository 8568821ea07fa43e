"""A finished run as one object, and what the report says of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.openings import settings_hash
from pipeline.params import Params
from pipeline.reporting import answer, cautions, copies, cost, data, opinions, selected, tables
from pipeline.reporting.tables import ByName, Told
from pipeline.samples import Samples
from pipeline.selection.rules import REASONS


@dataclass(frozen=True)
class Run:
    """What the stages before `report` wrote, read into memory; images stay memory-mapped."""

    params: Params
    text: str  # params.yaml as it stands
    about: dict[str, Any]  # of the dataset
    verdict: dict[str, Any]
    code: Mapping[str, str]  # versions of the project's code, and of what it needs
    openings: Mapping[str, list[str]]  # by fingerprint of a test split, under which settings it was evaluated
    choices: dict[str, Any]
    scores: pd.DataFrame  # arm, seed, class, metric, value on the test split
    y: np.ndarray  # true classes of the test rows
    predicted: Mapping[str, np.ndarray]  # by arm, class indices (S, N)
    reliability: pd.DataFrame  # arm, confidence, accuracy, share of the rows
    records: Mapping[str, dict[str, Any]]  # by arm
    curves: pd.DataFrame  # arm, seed, step, ...
    generators: Mapping[str, dict[str, Any]]  # by generator: what it was fitted with
    tried: pd.DataFrame  # what the search tried
    losses: Mapping[str, list[dict[str, Any]]]  # by generator
    encoder: Told  # its curve, and whether it was slowed
    teachers: Told  # how sure they are of training rows that they did not see, and how often right
    selections: Mapping[str, dict[str, Any]]  # by generator: rows wanted, kept, dropped
    pool: Told  # what became of the unlabelled rows
    fidelity: pd.DataFrame
    opinions: pd.DataFrame  # how far from training rows two networks find each row
    copies: pd.DataFrame  # what the copy audit found
    train: Samples
    fitted_on: Samples  # train, and the rows of the pool that generators learnt from too
    synthetic: Mapping[str, Samples]
    times: list[dict[str, Any]]

    @property
    def chosen(self) -> list[str]:
        """The best control and the arm to judge, where there is one."""
        return [a for a in (self.verdict["best_control"], self.verdict["chosen_arm"]) if a]


def facts(run: Run) -> dict[str, Any]:
    """All numbers and words of the report."""
    found, about, block = run.verdict, run.about, run.params.evaluation
    metrics = tables.summarise(run.scores, block.confidence)
    settings = next(iter(run.records.values()))["settings"]
    price = cost.sentence(run.times, run.records, run.params, found["chosen_arm"], found["best_control"])
    return {
        "verdict": found,
        "sentence": answer.sentence(found, about["scarce"]),
        "advice": answer.advice(found),
        "beside": answer.beside(found, price, run.params.left_out),
        "about": about,
        "warnings": cautions.warnings(run),
        "leaks": data.leak_sentence(about),
        "openings": data.openings_sentence(run.openings, found["test"]["fingerprint"]),
        "metrics": metrics,
        "settings": settings,
        "validation_rows": run.choices["validation_rows"],
        "metric": tables.TITLES[found["primary_metric"]],
        "max_class_loss": block.max_class_loss,
        "specificity": block.specificity,
        "binary": len(about["classes"]) == 2,
        "arms": answer.arms_table(metrics, run.records, found),
        "measured": answer.metrics_table(metrics, found["primary_metric"], run.choices["validation_means"]),
        "comparisons": answer.comparison_table(found),
        "repeats": answer.repeats_table(found),
        "guardrails": answer.guardrail_table(found),
        "tuned": answer.tuned_table(metrics, found["primary_metric"]),
        "classes": tables.class_table(found, metrics, about["counts"], about["scarce"]),
        "rails": answer.rails_table(found, metrics, about["counts"]["train"]),
        "counts": data.counts_table(about),
        "audit": data.audit_sentence(about),
        "statistics": data.statistics_table(about),
        "drift": data.drift_table(about),
        "checks": data.checks_table(about),
        "costs": cost.cost_table(run.times, run.records, run.params),
        "times": cost.times_table(run.times),
        "hashes": hashes(run),
        "automatic": automatic(run),
        "reasons": REASONS,
        "params": run.text,
    } | generated(run)


def automatic(run: Run) -> pd.DataFrame:
    """What each `auto` in params.yaml came to, and the steps of each network that generates."""
    about, first = run.about, next(iter(run.records.values()))
    settings, policy = first["settings"], first["policy"]
    rows = {
        "profile": "quick" if run.params.is_quick else "full",
        "encoder.steps": run.encoder["steps"],
        "data.image_size": about["image_size"],
        "data.channels": about["channels"],
        "data.scarce.classes": ", ".join(about["scarce"]) or "none",
        "augment.policy": policy["policy"],
        "augment.flips": ", ".join(policy["flips"]) or "none",
        "classifier.widths": ", ".join(map(str, settings["widths"])),
        **{f"classifier.{key}": settings[key] for key in ("fold", "batch", "steps")},
    }
    rows = {key: value for key, value in rows.items() if asked(run.params, key) == "auto"} | {
        f"generators.{g}": f"{s['steps']} steps, {s['parameters']:,} parameters"
        + (", begun again because its rows were all alike" if s.get("restarts") else "")
        + (", at half the learning rate from where it diverged" if s.get("slowed") else "")
        + (f", each batch in {s['micro_batches']} pieces for want of memory" if s.get("micro_batches", 1) > 1 else "")
        for g, s in run.generators.items()
        if "steps" in s
    }
    return pd.DataFrame(list(rows.items()), columns=["key", "value"])


def asked(params: Params, key: str) -> Any:
    """The value of a key of params.yaml, such as classifier.steps."""
    value: Any = params
    for part in key.split("."):
        value = getattr(value, part)
    return value


def generated(run: Run) -> dict[str, Any]:
    """What generators made, how near to real rows, from which weights, and how its use was found."""
    used = cautions.selected_from(run.params)
    selecting = {g: s for g, s in run.selections.items() if g in used}
    return {
        "kept": selected.kept_table(selecting),
        "selection": selected.selection_table(run.selections),
        "teachers_said": run.teachers,
        "rules": selected.rules_table(run.params.selection, selecting, len(run.about["classes"])),
        "fidelity": tables.fidelity_table(run.fidelity),
        "fidelity_by_class": {c: tables.fidelity_table(run.fidelity, c) for c in run.about["scarce"]},
        "opinions": opinions.opinions_table(run.opinions),
        "copy_audit": copies.audit_table(run.copies),
        "copies_by_class": copies.class_table(run.copies),
        "copies_said": copies.sentences(run.selections, used, run.params.selection.copy_false_alarms),
        "promises": copies.promises(run.generators),
        "search": tables.search_table(run.tried),
        "pool": data.pool_table(run.pool),
        "pool_trials": data.pool_trials(run.pool),
        "points": tables.points_table(run.generators, run.about["classes"], run.params.selection.copy_false_alarms > 0),
    }


def plots(run: Run, metrics: ByName) -> dict[str, pd.DataFrame]:
    """The numbers that `dvc plots` draws, by name: a line or bars of one arm, the one to judge or the best control without one."""
    metric, shown = run.verdict["primary_metric"], run.chosen[-1]
    doses = answer.doses(metrics, run.records, metric).rename(columns={metric: "score"})
    own = doses.loc[doses["arm"] == shown, "curve"].to_list() or doses["curve"].to_list()
    curves = run.curves[run.curves["arm"] == shown].groupby(["arm", "step"], sort=False).mean(numeric_only=True)
    recall = run.scores[(run.scores["arm"] == shown) & (run.scores["metric"] == "recall")]
    recall = recall.groupby(["arm", "class"], sort=False)["value"].mean().round(6).rename("recall")
    return {
        "arms": tables.arm_points(run.verdict, metrics),
        "doses": doses[doses["curve"].isin(own[:1])],
        "curves": curves.drop(columns="seed").round(6).reset_index().dropna(subset=["val_balanced_accuracy"]),
        "recall": recall.reset_index(),
        "reliability": run.reliability[run.reliability["arm"] == shown].round(6),
        "confusion": tables.outcomes(run.y, run.predicted[shown], run.about["classes"]),
    }


def hashes(run: Run) -> pd.DataFrame:
    """What tells this run from another: splits, settings, code, machine, initial weights, and the weights that came of them."""
    first, machines = next(iter(run.records.values())), [r["machine"] for r in run.records.values()]
    words = {"train": "training", "val": "validation", "test": "test", "heldback": "set aside"}
    rows = {
        **{f"{words[split]} rows": found for split, found in run.about["fingerprints"].items()},
        "settings": settings_hash(run.params),
        **run.code,
        **{f"arms: {key}": "; ".join(dict.fromkeys(m[key] for m in machines)) for key in machines[0]},
        "initial weights by seed": ", ".join(first["initial_weights"]),
        **{f"weights of generator {name}": g["weights"] for name, g in run.generators.items() if "weights" in g},
    }
    return pd.DataFrame(list(rows.items()), columns=["what", "version or hash"])
