"""report: everything a run writes for people and for CI; the only stage whose outputs git tracks."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.params import Params
from pipeline.reporting import figures, html, tables
from pipeline.samples import Samples
from pipeline.selection import copies
from pipeline.selection.rules import REASONS
from stages import Output
from stages.evaluate import read_scores

log = logging.getLogger("stages")
MAIN = ("balanced_accuracy", "macro_f1", "accuracy", "macro_auroc", "macro_auprc", "nll", "ece")


def main(
    params: Params,
    real: Path,
    selected: Path,
    models: Path,
    results: Path,
    times: Path,
    metrics: Output,
    verdict: Output,
    scores: Output,
    curves: Output,
    recall: Output,
    confusion: Output,
    figure: Output,
    markdown: Output,
    page: Output,
) -> None:
    facts = gather(params, real, selected, models, results)
    facts["verdict"]["sentence"] = facts["sentence"]
    frame, arms = facts["scores"], list(params.arms)
    metrics.write_text(json.dumps(facts["metrics"], indent=1))
    verdict.write_text(json.dumps(facts["verdict"], indent=1))
    frame.to_csv(scores, index=False)
    curve = pd.concat([pd.read_csv(models / "arms" / a / "curves.csv") for a in arms])
    curve.groupby(["arm", "step"], sort=False).mean(numeric_only=True).drop(columns="seed").round(
        6
    ).reset_index().to_csv(curves, index=False)
    by_class = frame[frame["metric"] == "recall"].groupby(["arm", "class"], sort=False)["value"].mean().round(6)
    by_class.reset_index().rename(columns={"value": "recall"}).to_csv(recall, index=False)
    confusion_rows(facts, results).to_csv(confusion, index=False)
    figure.write_bytes(figures.forest(facts["metrics"], facts["verdict"]["primary_metric"], chosen_arms(facts)))
    markdown.write_text(tables.report_md(facts))
    page.write_text(
        html.page(
            facts | pictures(params, facts, curve, real, selected, models, results) | {"times": read_times(times)}
        )
    )
    log.info("%s", facts["sentence"])


def gather(params: Params, real: Path, selected: Path, models: Path, results: Path) -> dict:
    """All numbers and words of the report."""
    about = json.loads((real / "about" / "summary.json").read_text())
    found = json.loads((results / "evaluation" / "verdict.json").read_text())
    choices = json.loads((results / "evaluation" / "choices.json").read_text())
    records = {a: json.loads((models / "arms" / a / "record.json").read_text()) for a in params.arms}
    made = {g: json.loads((selected / g / "summary.json").read_text()) for g in params.generators}
    frame = read_scores(results / "evaluation" / "scores.csv")
    metrics = tables.summarise(frame, params.evaluation.confidence)
    used = {arm.rows for arm in params.arms.values() if arm.use == "kept"}
    warnings = about["warnings"] + [f"{g}: {w}" for g, s in made.items() if g in used for w in s["warnings"]]
    if not about["scarce"]:
        warnings.append(
            "no class is scarce by the rule in data.scarce: nothing was generated, and arms with synthetic rows equal `real`"
        )
    settings = next(iter(records.values()))["settings"]
    return {
        "verdict": found,
        "sentence": tables.sentence(found, about["scarce"]),
        "advice": tables.advice(found),
        "about": about,
        "warnings": warnings,
        "metrics": metrics,
        "scores": frame,
        "records": records,
        "made": made,
        "settings": settings,
        "seeds": params.retraining.seeds,
        "confidence": params.evaluation.confidence,
        "test_rows": found["test"]["rows"],
        "validation_rows": choices["validation_rows"],
        "metric": tables.TITLES[found["primary_metric"]],
        "arms": tables.arms_table(metrics, records, MAIN),
        "comparisons": tables.comparison_table(found),
        "classes": tables.class_table(
            frame, about["counts"], about["scarce"], found["best_control"], found["chosen_arm"]
        ),
        "selection": tables.selection_table(made),
        "reasons": REASONS,
        "automatic": automatic(about, settings, records, models, params),
        "params": Path("params.yaml").read_text(),
    }


def chosen_arms(facts: dict) -> list[str]:
    return [a for a in (facts["verdict"]["best_control"], facts["verdict"]["chosen_arm"]) if a]


def automatic(about: dict, settings: dict, records: dict, models: Path, params: Params) -> pd.DataFrame:
    policy = next(iter(records.values()))["policy"]
    rows = {
        "data.image_size": about["image_size"],
        "data.channels": about["channels"],
        "data.scarce.classes": ", ".join(about["scarce"]),
        "augment.policy": policy["policy"],
        "augment.flips": ", ".join(policy["flips"]) or "none",
        "classifier.widths": settings["widths"],
        "classifier.batch": settings["batch"],
        "classifier.steps": settings["steps"],
    }
    for name in params.generators:
        state = json.loads((models / "generators" / name / "generator.json").read_text())
        if "steps" in state:
            rows[f"generators.{name}"] = f"{state['steps']} steps, {state['parameters']:,} parameters"
    return pd.DataFrame(list(rows.items()), columns=["key", "value"])


def confusion_rows(facts: dict, results: Path) -> pd.DataFrame:
    """True and predicted class names of the chosen arm, or the best control where there is none, over all seeds."""
    with np.load(results / "evaluation" / "predictions.npz", allow_pickle=False) as file:
        y, guess = file["y"], file["arm_" + (facts["verdict"]["chosen_arm"] or facts["verdict"]["best_control"])]
    names = np.array(facts["about"]["classes"])
    return pd.DataFrame({"actual": names[np.tile(y, len(guess))], "predicted": names[guess.reshape(-1)]})


def pictures(
    params: Params, facts: dict, curve: pd.DataFrame, real: Path, selected: Path, models: Path, results: Path
) -> dict:
    """Every figure of the page, as markup."""
    found, classes = facts["verdict"], facts["about"]["classes"]
    chosen = chosen_arms(facts)
    shown = list(dict.fromkeys([next(iter(params.arms)), *chosen]))
    with np.load(results / "evaluation" / "predictions.npz", allow_pickle=False) as file:
        tables_of = {a: sum(table_of(file["y"], g, len(classes)) for g in file[f"arm_{a}"]) for a in chosen}
    loss = {g: json.loads((models / "generators" / g / "curve.json").read_text()) for g in params.generators}
    loss = {g: c for g, c in loss.items() if c}
    train = Samples.load(real / "train")
    sets = {g: Samples.load(selected / g) for g in params.generators}
    sets = {g: s for g, s in sets.items() if len(s)}
    floors = [s["copy_floor"] for s in facts["made"].values()]
    return {
        "forest": html.picture(
            figures.forest(facts["metrics"], found["primary_metric"], chosen), "each arm's mean and interval"
        ),
        "recall": html.picture(
            figures.recall_bars(facts["metrics"], classes, shown, figures.colours(list(params.arms))),
            "recall by class and arm",
        ),
        "confusion": html.picture(
            figures.confusions(tables_of, classes), "confusion matrices of " + " and ".join(chosen)
        ),
        "curves": html.picture(
            figures.curves(curve, list(params.arms)), "training loss and validation accuracy by step"
        ),
        "losses": html.picture(figures.losses(loss), "loss of each generator by step") if loss else "",
        "samples": {g: sample_grids(params, s) for g, s in sets.items()},
        "pairs": {g: closest(params, s, train) for g, s in sets.items()},
        "floor": floors[0] if floors else None,
        "floor_share": params.selection.copy_floor,
        "show_real": params.report.show_real_images,
        "fidelity": fidelity_table(results / "fidelity.csv"),
        "counts": counts_table(facts["about"]),
    }


def table_of(y: np.ndarray, guess: np.ndarray, k: int) -> np.ndarray:
    from pipeline.evaluation.scores import confusion

    return confusion(guess, y, k)


def sample_grids(params: Params, rows: Samples) -> list[tuple[str, object]]:
    """A grid of kept rows by class and one of dropped rows by reason; copies count as pictures of real rows."""
    n, keep, reason = params.report.examples, rows.table["keep"].to_numpy(), rows.table["reason"].to_numpy()
    kept = [(rows.classes[c], np.flatnonzero((rows.y == c) & keep)) for c in rows.scarce]
    reasons = [r for r in REASONS if r != "copy" or params.report.show_real_images]
    dropped = [(r.replace("_", " "), np.flatnonzero(reason == r)) for r in reasons]
    grids = []
    for title, lines in (("kept, by class", kept), ("dropped, by reason", dropped)):
        lines = [(name, chosen[:n]) for name, chosen in lines if len(chosen)]
        if lines:
            names, chosen = zip(*lines, strict=True)
            grids.append(
                (title, html.picture(figures.grid(rows.images, chosen, names, n), f"{title}: {', '.join(names)}"))
            )
    return grids


def closest(params: Params, rows: Samples, train: Samples) -> object:
    if not params.report.show_real_images:
        rows = rows.take(rows.table["reason"].to_numpy() != "copy")
    distance, position = copies.nearest(rows.images, train.images)
    order = np.argsort(distance[:, 0], kind="stable")[: params.report.examples]
    captions = [f"{rows.table['label'][i]}\n{distance[i, 0]:.1f}" for i in order]
    real = train.images[position[order, 0]] if params.report.show_real_images else None
    return (
        ""
        if not len(order)
        else html.picture(
            figures.pairs(rows.images[order], real, captions), "synthetic rows and their nearest training rows"
        )
    )


def fidelity_table(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, keep_default_na=False, na_values={"value": [""]}, dtype={"class": str})
    wide = frame[frame["class"] == ""].pivot(index="generator", columns="metric", values="value")
    columns = [
        c for c in ("rows", "frechet", "kernel", "precision", "recall", "density", "coverage", "copies") if c in wide
    ]
    text = wide[columns].map(lambda v: "n/a" if pd.isna(v) else f"{v:.3f}").reset_index()
    return text.assign(rows=[f"{v:.0f}" for v in wide["rows"]]) if "rows" in wide else text


def counts_table(about: dict) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "class": c,
                **{s: about["counts"][s][c] for s in ("train", "val", "test")},
                "scarce": "yes" if c in about["scarce"] else "",
            }
            for c in about["classes"]
        ]
    )


def read_times(folder: Path) -> pd.DataFrame:
    found = [json.loads(f.read_text()) for f in sorted(folder.glob("*.json"))]
    found.sort(key=lambda t: -t["seconds"])
    total = [{"stage": "all stages", "seconds": sum(t["seconds"] for t in found)}] if found else []
    return pd.DataFrame(
        [{"stage": t["stage"], "seconds": f"{t['seconds']:.1f}"} for t in total + found], columns=["stage", "seconds"]
    )
