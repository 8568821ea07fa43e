"""What the report shows of a finished run: every picture of its page."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.evaluation.scores import confusion
from pipeline.params import Params
from pipeline.reporting import answer, figures, html, opinions, tables
from pipeline.reporting.tables import ByName
from pipeline.samples import Samples, spaced
from pipeline.selection.rules import REASONS

if TYPE_CHECKING:
    from pipeline.reporting.run import Run

CLOSEST = 16  # pairs of a generator that are shown


def pictures(run: "Run", metrics: ByName) -> dict[str, Any]:
    """Every figure of the page, as markup."""
    arms, classes = list(run.records), run.about["classes"]
    counted = {
        a: np.sum([confusion(guess, run.y, len(classes)) for guess in run.predicted[a]], axis=0) for a in run.chosen
    }
    shown = list(dict.fromkeys([arms[0], *run.chosen]))
    made = {g: rows for g, rows in run.synthetic.items() if len(rows) and may_show(run.params, g)}
    losses = {g: curve for g, curve in run.losses.items() if curve}
    rules = [s["copy_rule"] for s in run.selections.values() if run.params.selection.copy_false_alarms]
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
        "some_made": any(len(rows) for rows in run.synthetic.values()),
        "samples": {g: sample_grids(run, rows) for g, rows in made.items()},
        "disputed": {g: picture for g, rows in made.items() if (picture := disputed(run, g, rows))},
        "pairs": {g: closest_pairs(run, rows) for g, rows in made.items()},
        "copy_rule": rules[0] if rules else None,
        "false_alarms": run.params.selection.copy_false_alarms,
        "show_real": run.params.report.show_real_images,
    }


def may_show(params: Params, generator: str) -> bool:
    """Whether pictures of its rows may be seen: if real rows are hidden, not those that controls make from them.

    And none at all if copies are not looked for (selection.copy_false_alarms: 0), for any row may be one.
    """
    asked = params.selection.copy_false_alarms > 0
    roles = {arm.role for arm in params.compared.values() if generator in arm.generators}
    return params.report.show_real_images or (asked and "candidate" in roles and "control" not in roles)


def forest(run: "Run") -> bytes:
    metric = tables.TITLES[run.verdict["primary_metric"]]
    return figures.forest(run.verdict["arms"], run.verdict["best_control"], metric, list(run.records), run.chosen)


def dose_curves(run: "Run", metrics: ByName, shade: Mapping[str, str]) -> Markup:
    """The primary metric by the number of synthetic rows; nothing where no two arms differ in their dose alone."""
    metric = run.verdict["primary_metric"]
    points = answer.doses(metrics, run.records, metric)
    if points.empty:
        return Markup("")
    level = metrics[run.verdict["best_control"]][metric]
    picture = figures.doses(points, metric, level, run.verdict["best_control"], shade)
    return html.picture(picture, f"{tables.TITLES[metric]} by dose: {', '.join(points['arm'])}")


def sample_grids(run: "Run", rows: Samples) -> list[tuple[str, Markup]]:
    """Grids of kept rows by class, of dropped rows by reason; a copy is a picture of a real row."""
    n, keep, reason = run.params.report.examples, rows.table["keep"].to_numpy(), rows.table["reason"].to_numpy()
    kept = [(rows.classes[c], np.flatnonzero((rows.y == c) & keep)) for c in rows.scarce]
    shown = [r for r in REASONS if r != "copy" or run.params.report.show_real_images]
    places = {r: np.flatnonzero(reason == r) for r in shown}  # class by class
    dropped = [(r.replace("_", " "), own[spaced(len(own), n)]) for r, own in places.items()]
    pictures = {
        title: lines_of(rows, lines, n, title)
        for title, lines in (("kept, by class", kept), ("dropped, by reason", dropped))
    }
    return [(title, picture) for title, picture in pictures.items() if picture]


def disputed(run: "Run", generator: str, rows: Samples) -> Markup:
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


def teachers(run: "Run") -> Markup:
    """How often the teachers are right about training rows they did not see, by their confidence."""
    frame = pd.DataFrame(run.teachers["reliability"], columns=["confidence", "accuracy", "share"]).assign(
        arm="teachers"
    )
    picture = figures.reliability(frame, ["teachers"], {"teachers": figures.INK})
    return html.picture(picture, "accuracy of the teachers by confidence")


def contact_sheet(run: "Run") -> Markup:
    """Training rows of each class, evenly spaced in their order; nothing if real rows are hidden."""
    if not run.params.report.show_real_images:
        return Markup("")
    n = 2 * run.params.report.examples
    lines = [(name, np.flatnonzero(run.train.y == c)) for c, name in enumerate(run.train.classes)]
    shown = [(name, own[spaced(len(own), n)]) for name, own in lines]
    return lines_of(run.train, shown, n, "training rows by class")


def near_duplicates(run: "Run") -> Markup:
    """Pairs of training rows that were taken for near duplicates, the least alike first; nothing if real rows are hidden."""
    found = run.about["near_examples"]
    if not found or not run.params.report.show_real_images:
        return Markup("")
    place = pd.Series(np.arange(len(run.train)), run.train.table["id"])
    left, right = (run.train.images[place[[pair[side] for pair in found]]] for side in (0, 1))
    return html.picture(figures.pairs(left, right, [f"{s:.2f}" for *_, s in found]), "pairs of near duplicates")


def closest_pairs(run: "Run", rows: Samples) -> Markup:
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
