"""A finished run as one object, and what the report says and shows of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.evaluation.openings import settings_hash
from pipeline.evaluation.scores import confusion
from pipeline.params import POOL, Params
from pipeline.reporting import answer, cautions, copies, cost, data, figures, html, opinions, selected, tables
from pipeline.samples import Samples
from pipeline.selection.rules import REASONS

CLOSEST = 16  # pairs of a generator that are shown
MEASURED = (
    "balanced_accuracy",
    "macro_f1",
    "accuracy",
    "macro_auroc",
    "macro_auprc",
    "nll",
    "ece",
    "tempered_ece",
    "sensitivity",
)


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
    teachers: Mapping[str, Any]  # how sure they are of training rows that they did not see, and how often right
    selections: Mapping[str, dict[str, Any]]  # by generator: rows wanted, kept, dropped
    pool: Mapping[str, Any]  # what became of the unlabelled rows
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
    pooled = run.params.has_pool  # without a pool nothing is missed by leaving out the arms that learn from it
    skipped = [a for a, arm in run.params.arms.items() if a not in run.params.compared and (pooled or arm.also != POOL)]
    price = cost.sentence(run.times, run.records, run.params, found["chosen_arm"], found["best_control"])
    return {
        "verdict": found,
        "sentence": answer.sentence(found, about["scarce"]),
        "advice": answer.advice(found),
        "beside": answer.beside(found, price, skipped),
        "about": about,
        "warnings": cautions.warnings(run),
        "leaks": data.leak_sentence(about),
        "openings": data.openings_sentence(len(run.openings[found["test"]["fingerprint"]])),
        "metrics": metrics,
        "settings": settings,
        "seeds": run.params.retraining.seeds,
        "confidence": block.confidence,
        "validation_rows": run.choices["validation_rows"],
        "metric": tables.TITLES[found["primary_metric"]],
        "max_class_loss": block.max_class_loss,
        "specificity": block.specificity,
        "binary": len(about["classes"]) == 2,
        "arms": answer.arms_table(metrics, run.records, found),
        "measured": answer.metrics_table(metrics, MEASURED),
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
        "automatic": tables.automatic_table(
            about, settings, next(iter(run.records.values()))["policy"], run.generators
        ),
        "reasons": REASONS,
        "params": run.text,
    } | generated(run)


def generated(run: Run) -> dict[str, Any]:
    """What generators made, how near to real rows, from which weights, and how its use was found."""
    selecting = {g: s for g, s in run.selections.items() if g in cautions.selected_from(run.params)}
    return {
        "kept": selected.kept_table(selecting),
        "selection": selected.selection_table(run.selections),
        "teachers_said": run.teachers,
        "rules": selected.rules_table(run.params.selection, selecting),
        "fidelity": tables.fidelity_table(run.fidelity),
        "fidelity_by_class": {c: tables.fidelity_table(run.fidelity, c) for c in run.about["scarce"]},
        "opinions": opinions.opinions_table(run.opinions),
        "copy_audit": copies.audit_table(run.copies),
        "copies_by_class": copies.class_table(run.copies, run.selections),
        "copies_said": copies.sentences(
            run.selections, cautions.selected_from(run.params), run.params.selection.copy_false_alarms
        ),
        "promises": copies.promises(run.generators),
        "search": tables.search_table(run.tried),
        "pool": data.pool_table(run.pool),
        "pool_trials": data.pool_trials(run.pool),
        "points": tables.points_table(run.generators, run.about["classes"]),
    }


def pictures(run: Run, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Every figure of the page, as markup."""
    arms, classes = list(run.records), run.about["classes"]
    counted = {
        a: np.sum([confusion(guess, run.y, len(classes)) for guess in run.predicted[a]], axis=0) for a in run.chosen
    }
    shown = list(dict.fromkeys([arms[0], *run.chosen]))
    made = {g: rows for g, rows in run.synthetic.items() if len(rows) and may_show(run.params, g)}
    losses = {g: curve for g, curve in run.losses.items() if curve}
    rules = [s["copy_rule"] for s in run.selections.values()]
    shade = figures.colours(arms)
    own = {run.records[a]["arm"]["rows"]: shade[a] for a in reversed(arms)}  # a generator has its first arm's colour
    return {
        "teachers": teachers(run),
        "forest": html.picture(forest(run), "each arm's difference to the best control, with its interval"),
        "dose": dose_curves(run, metrics, shade),
        "no_dose": answer.no_doses(run.params.arms, run.params.compared),
        "reliability": html.picture(
            figures.reliability(run.reliability, run.chosen, shade), "accuracy by confidence: " + ", ".join(run.chosen)
        ),
        "recall": html.picture(figures.recall_bars(metrics, classes, shown, shade), "recall by class and arm"),
        "confusion": html.picture(figures.confusions(counted, classes), f"confusion matrices: {', '.join(run.chosen)}"),
        "curves": html.picture(
            figures.curves(run.curves, arms, run.chosen), "training loss and validation accuracy by step"
        ),
        "losses": html.picture(figures.losses(losses, own), "loss of each generator by step") if losses else "",
        "contact": contact_sheet(run),
        "near": near_duplicates(run),
        "samples": {g: sample_grids(run, rows) for g, rows in made.items()},
        "disputed": {g: picture for g, rows in made.items() if (picture := disputed(run, g, rows))},
        "pairs": {g: closest_pairs(run, rows) for g, rows in made.items()},
        "copy_rule": rules[0] if rules else None,
        "false_alarms": run.params.selection.copy_false_alarms,
        "show_real": run.params.report.show_real_images,
    }


def may_show(params: Params, generator: str) -> bool:
    """Whether pictures of its rows may be seen: if real rows are hidden, then those too that controls make from them."""
    return params.report.show_real_images or any(
        generator in arm.generators and arm.role == "candidate" for arm in params.compared.values()
    )


def forest(run: Run) -> bytes:
    metric = tables.TITLES[run.verdict["primary_metric"]]
    return figures.forest(run.verdict["arms"], run.verdict["best_control"], metric, list(run.records), run.chosen)


def dose_curves(run: Run, metrics: Mapping[str, Mapping[str, Any]], shade: Mapping[str, str]) -> Markup:
    """The primary metric by the number of synthetic rows; nothing where no two arms differ in their dose alone."""
    metric = run.verdict["primary_metric"]
    points = answer.doses(metrics, run.records, metric)
    if points.empty:
        return Markup("")
    level = metrics[run.verdict["best_control"]][metric]
    picture = figures.doses(points, metric, level, run.verdict["best_control"], shade)
    return html.picture(picture, f"{tables.TITLES[metric]} by dose: {', '.join(points['arm'])}")


def plots(run: Run, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    """The figures' numbers by name, for `dvc plots` and for whoever draws their own."""
    metric = run.verdict["primary_metric"]
    return {
        "arms": tables.arm_points(run.verdict, metrics),
        "doses": answer.doses(metrics, run.records, metric),
        "curves": tables.mean_curves(run.curves),
        "recall": tables.recalls(run.scores),
        "reliability": run.reliability[run.reliability["arm"].isin(run.chosen)].round(6),
        "confusion": tables.outcomes(run.y, run.predicted[run.chosen[-1]], run.about["classes"]),
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


def sample_grids(run: Run, rows: Samples) -> list[tuple[str, Markup]]:
    """Grids of kept rows by class, of dropped rows by reason; a copy is a picture of a real row."""
    n, keep, reason = run.params.report.examples, rows.table["keep"].to_numpy(), rows.table["reason"].to_numpy()
    kept = [(rows.classes[c], np.flatnonzero((rows.y == c) & keep)) for c in rows.scarce]
    shown = [r for r in REASONS if r != "copy" or run.params.report.show_real_images]
    dropped = [(r.replace("_", " "), np.flatnonzero(reason == r)) for r in shown]
    pictures = {
        title: lines_of(rows, lines, n, title)
        for title, lines in (("kept, by class", kept), ("dropped, by reason", dropped))
    }
    return [(title, picture) for title, picture in pictures.items() if picture]


def disputed(run: Run, generator: str, rows: Samples) -> Markup:
    """The rows on which two networks disagree most; a copy is a picture of a real row."""
    rows = rows if run.params.report.show_real_images else rows.take(rows.table["reason"].to_numpy() != "copy")
    lines = opinions.disputed(run.opinions[run.opinions["generator"] == generator], rows.table["id"])
    return lines_of(rows, lines, run.params.report.examples, "rows on which the two networks disagree")


def lines_of(rows: Samples, lines: Sequence[tuple[str, np.ndarray]], most: int, title: str) -> Markup:
    """A grid, a named line of at most so many of these positions each; nothing where there are no rows at all."""
    lines = [(name, chosen[:most]) for name, chosen in lines if len(chosen)]
    if not lines:
        return Markup("")
    names, chosen = zip(*lines, strict=True)
    return html.picture(figures.grid(rows.images, chosen, names, most), f"{title}: {', '.join(names)}")


def teachers(run: Run) -> Markup:
    """How often the teachers are right about training rows they did not see, by their confidence."""
    frame = pd.DataFrame(run.teachers["reliability"], columns=["confidence", "accuracy", "share"]).assign(
        arm="teachers"
    )
    picture = figures.reliability(frame, ["teachers"], {"teachers": figures.INK})
    return html.picture(picture, "accuracy of the teachers by confidence")


def contact_sheet(run: Run) -> Markup:
    """Training rows of each class, evenly spaced in their order; nothing if real rows are hidden."""
    if not run.params.report.show_real_images:
        return Markup("")
    n = 2 * run.params.report.examples
    lines = [(name, np.flatnonzero(run.train.y == c)) for c, name in enumerate(run.train.classes)]
    spaced = [(name, own[np.linspace(0, len(own) - 1, min(n, len(own))).astype(int)]) for name, own in lines]
    return lines_of(run.train, spaced, n, "training rows by class")


def near_duplicates(run: Run) -> Markup:
    """Pairs of training rows that were taken for near duplicates, the least alike first; nothing if real rows are hidden."""
    found = run.about["near_examples"]
    if not found or not run.params.report.show_real_images:
        return Markup("")
    place = pd.Series(np.arange(len(run.train)), run.train.table["id"])
    left, right = (run.train.images[place[[pair[side] for pair in found]]] for side in (0, 1))
    return html.picture(figures.pairs(left, right, [f"{s:.2f}" for *_, s in found]), "pairs of near duplicates")


def closest_pairs(run: Run, rows: Samples) -> Markup:
    """The synthetic rows nearest to a real row fitted on, over that row; without copies and real rows if those are hidden."""
    show = run.params.report.show_real_images
    rows = rows if show else rows.take(rows.table["reason"].to_numpy() != "copy")
    if not len(rows):
        return Markup("")
    distance = rows.table["copy_distance"].to_numpy()
    order = np.argsort(distance, kind="stable")[:CLOSEST]
    captions = [f"{rows.table['label'][i]}\n{distance[i]:.3f}" for i in order]
    place = pd.Series(np.arange(len(run.fitted_on)), run.fitted_on.table["id"])
    real = run.fitted_on.images[place[rows.table["nearest"].iloc[order]]] if show else None
    return html.picture(figures.pairs(rows.images[order], real, captions), "synthetic rows and their nearest real rows")
