"""The cards of what is handed on: what a model is, learnt from and reached, and what a synthetic set is fit for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.evaluation.words import counted
from pipeline.params import Arm, Params
from pipeline.reporting import answer, data, html, selected, tables
from pipeline.reporting.tables import ByName, Told
from pipeline.selection.rules import REASONS

OUTCOME = {
    "HELPS": "These rows helped",
    "HURTS": "These rows did not help; they made the classifier worse",
    "NEUTRAL": "These rows did not help; they made no difference worth having",
    "CANNOT_TELL": "Whether these rows help is not settled",
}


@dataclass(frozen=True)
class Run:
    """What the cards tell of a finished run."""

    params: Params
    version: str  # of the pipeline
    about: Told  # of the dataset
    verdict: Told  # with its sentence and warnings
    choices: Told
    metrics: ByName  # by arm, means over seeds with intervals, on the test split
    scores: pd.DataFrame  # arm, seed, class, metric, value on the test split
    software: Mapping[str, str]


def advised(verdict: Told) -> str:
    """The arm whose model to use, as the report advises: the chosen one where it HELPS, else the best control."""
    return verdict["chosen_arm"] if verdict["verdict"] == "HELPS" else verdict["best_control"]


def model(run: Run, record: Told, seed: int, files: ByName) -> dict[str, Any]:
    """model.json: what a program or a person needs to use the model of the advised arm; `record` is what it trained with."""
    arm, found, settings = advised(run.verdict), run.verdict, record["settings"]
    return {
        "pipeline_version": run.version,
        "classes": run.about["classes"],
        "input": model_input(run, settings),
        "output": {"name": "logits", "shape": ["batch", settings["classes"]], "class": "classes[argmax]", "probabilities": "softmax"},
        "files": files,
        "network": settings,
        "arm": {"name": arm, **record["arm"]},
        "recipe": record["recipe"],
        "augmentation": record["policy"],
        "seed": seed,
        "seeds_trained": len(record["seeds"]),
        "training_rows": run.about["counts"]["train"],
        "synthetic_rows": {"generators": generators(record), "by_class": record["synthetic_rows"]},
        "pool_rows": record["pool_rows"],
        "verdict": {k: v for k, v in found.items() if k not in ("arms", "comparisons", "guardrails", "single_models")},
        "test": found["test"],
        "validation_rows": run.choices["validation_rows"],
        "confidence": found["confidence"],
        "arm_test_scores": with_ends(run.metrics[arm]),
        "own_test_scores": own(run.scores, arm, seed),
        "intended_use": "Names the class of pictures like those of the training rows: same source, same kind, prepared alike.",
        "limits": model_limits(run, len(record["seeds"])),
        "software": run.software,
    }  # fmt: skip


def model_input(run: Run, settings: Told) -> dict[str, Any]:
    size, channels = settings["size"], settings["channels"]
    return {
        "name": "images",
        "type": "float32",
        "shape": ["batch", channels, size, size],
        "colour": "grey" if channels == 1 else "RGB",
        "pixels": "uint8 / 127.5 - 1, so from -1 to 1",
        "preparation": run.params.data.model_dump(mode="json", include={"fit", "background", "deep"})
        | {"deep_range": run.about["window"], "resampling": "bicubic, as Pillow does it"}
        | ({"padding": "the median colour of the picture"} if run.params.data.fit == "letterbox" else {}),
        "deep": f"clipped to {deep_range(run)}, then scaled to 0 to 255",
    }


def deep_range(run: Run) -> str:
    """Black and white of pictures of more than 8 bits a channel, in words."""
    rule, common = run.params.data.deep, run.about["window"]
    found = str(list(common)) if common else "the 0.5th and 99.5th percentile of their pixels"
    own = f"the window that the file names, or if it names none to {found}"
    return {"window": str(list(rule.window)), "full": "the whole range of their type", "auto": own}.get(
        rule.scale, found
    )


def generators(record: Told) -> list[str]:
    """The generators whose rows an arm learnt from."""
    return Arm.model_validate(record["arm"]).generators if any(record["synthetic_rows"].values()) else []


def with_ends(metrics: Told) -> dict[str, dict[str, Any]]:
    """{metric: mean, ci_low, ci_high}"""
    names = [m for m in metrics if f"{m}_ci_low" in metrics]
    return {m: {"mean": metrics[m], **{end: metrics[f"{m}_{end}"] for end in ("ci_low", "ci_high")}} for m in names}


def own(scores: pd.DataFrame, arm: str, seed: int) -> dict[str, float | None]:
    """What the one model reached on the test split, by the names of `with_ends`."""
    rows = scores[(scores["arm"] == arm) & (scores["seed"] == seed)]
    rows = rows[(rows["class"] == "") | (rows["metric"] == "recall")]
    names = [f"{m}_{c}" if c else m for m, c in zip(rows["metric"], rows["class"], strict=True)]
    return {n: None if pd.isna(v) else round(v, 6) for n, v in zip(names, rows["value"], strict=True)}


def model_limits(run: Run, seeds: int) -> list[str]:
    untested = [name for name, n in run.about["counts"]["test"].items() if not n]
    leaks = data.leak_sentence(run.about)
    return [
        *([leaks] if leaks else []),
        f"Measured on {run.verdict['test']['rows']} test rows of the same source. Pictures of another camera, place or "
        "time were not tested.",
        f"Scores with an interval are means over {counted(seeds, 'model')} of this arm; this one was the best of them on "
        f"{counted(run.choices['validation_rows'], 'validation row')}.",
        *([f"No test rows, so nothing measured, for: {', '.join(untested)}."] if untested else []),
        "Every picture gets one of the classes, also a picture of something else. Probabilities are not calibrated.",
        "Weights can give training rows away: keep them as you keep the data. Licence and consent of the data hold on.",
        "No medical device, and no sole ground for decisions about people.",
    ]


def model_page(run: Run, card: Told) -> str:
    """MODEL_CARD.md."""
    measured, alone = card["arm_test_scores"], card["own_test_scores"]
    shown = [m for m in tables.TITLES if m in measured]
    scores = pd.DataFrame(
        [
            {
                "metric": tables.TITLES[m],
                "mean of the arm": tables.share(*measured[m].values(), metric=m),
                "this model": tables.number(alone.get(m), m),
            }
            for m in shown
        ]
    )
    classes = pd.DataFrame(
        [
            {
                "output": i,
                "class": c,
                "training rows": card["training_rows"][c],
                "synthetic rows": card["synthetic_rows"]["by_class"][c],
                "recall, mean of the arm": tables.share(*measured[f"recall_{c}"].values(), metric="accuracy"),
                "recall, this model": tables.number(alone[f"recall_{c}"], "accuracy"),
            }
            for i, c in enumerate(card["classes"])
        ]
    )
    facts = {"card": card, "scores": scores, "classes": classes, "sentence": run.verdict["sentence"]}
    facts |= {"advice": answer.advice(run.verdict), "limits": card["limits"], "source": run.about["source"]}
    facts |= {"warnings": run.verdict["warnings"]}
    return html.in_markdown("model_card.md.jinja", facts) + "\n"


def dataset_page(run: Run, arm: str, counts: ByName, sources: Sequence[Told], left_out: int) -> str:
    """DATASET_CARD.md of the rows that `arm` learnt from.

    `counts` holds by class its folder and rows; `sources` of each generator its name, family, hash of the weights, rows,
    the summary of its selection and what is promised of it; `left_out` how many rows the arm learnt from though selection
    had dropped them.
    """
    rows = pd.DataFrame([{"class": c, **found} for c, found in counts.items()])
    facts = {
        "run": run,
        "arm": arm,
        "use": run.params.arms[arm].use,
        "outcome": OUTCOME[run.verdict["verdict"]],
        "sentence": run.verdict["sentence"],
        "source": run.about["source"],
        "rows": rows,
        "total": sum(found["rows"] for found in counts.values()),
        "sources": sources,
        "selection": selected.selection_table({s["name"]: s["summary"] for s in sources}),
        "reasons": REASONS,
        "share": run.params.selection.copy_false_alarms,
        "left_out": left_out,
    }
    return html.in_markdown("dataset_card.md.jinja", facts) + "\n"
