"""What a reader of the report must know before believing a number."""

from typing import TYPE_CHECKING

from pipeline.params import Params
from pipeline.reporting.tables import TITLES, change

if TYPE_CHECKING:
    from pipeline.reporting.run import Run

SPOILT = {"shuffled": "their right labels", "all": "their selection"}  # what a negative arm does without, by its `use`


def warnings(run: "Run") -> list[str]:
    """A sentence each, what makes the verdict doubtful first, then what went wrong."""
    used = selected_from(run.params)
    found = [f"{g}: {w}" for g, s in run.selections.items() if g in used for w in s["warnings"]]
    slowed = [
        f"arm {a}: training diverged and went on at half the learning rate, in seeds {', '.join(map(str, r['slowed']))}"
        for a, r in run.records.items()
        if r["slowed"]
    ]
    slowed += [
        f"{name}: training diverged and went on at half the learning rate"
        for name, once in {**run.teachers["slowed"], "encoder": run.encoder["slowed"]}.items()
        if once
    ]
    cut = [
        f"arm {a}: there was not memory for whole batches, which were learnt from in up to {max(r['micro_batches'])} "
        f"pieces, in seeds {', '.join(str(s) for s, n in zip(r['seeds'], r['micro_batches'], strict=True) if n > 1)}"
        for a, r in run.records.items()
        if max(r["micro_batches"]) > 1
    ]
    cut += [
        f"{name}: there was not memory for whole batches, which were learnt from in {pieces} pieces"
        for name, pieces in {**run.teachers["micro_batches"], "encoder": run.encoder["micro_batches"]}.items()
        if pieces > 1
    ]
    if not run.about["scarce"]:
        found.append(
            "no class is scarce by the rule in data.scarce: nothing was generated, and arms with synthetic rows "
            "learnt from real rows only"
        )
    judged = sum(n > 0 for n in run.about["counts"]["test"].values())
    if judged < len(run.about["classes"]):
        found.append(
            f"only {judged} of {len(run.about['classes'])} classes have test rows: every mean over classes is over those"
        )
    if (few := run.verdict["few_rows"]) and run.params.evaluation.margin:
        found.append(
            f"{few} to see a difference as small as the margin. Intervals may be too narrow, for arms that agree "
            "on a few rows have no spread there"
        )
    lost = [
        f"arm {a} could not be trained and is not compared: {reason}" for a, reason in run.verdict["failed"].items()
    ]
    doubts = unequal(run) + unlearnt(run) + unbeaten(run) + failed(run) + unlike(run)
    return doubts + lost + slowed + cut + run.about["warnings"] + found


def unequal(run: "Run") -> list[str]:
    """Which arms were trained on another device, at another precision or by another torch than the best control."""
    control = run.verdict["best_control"]
    own, found = run.records[control]["machine"], dict[str, list[str]]()
    for a, record in run.records.items():
        machine = record["machine"]
        apart = [f"{k} {machine[k]}, not {own[k]}" for k in ("device", "precision", "torch") if machine[k] != own[k]]
        if apart:
            found.setdefault("; ".join(apart), []).append(a)
    return [
        f"not trained as the best control {control} was ({apart}): arms {', '.join(arms)}. What they differ in may come "
        "from that, so this is no comparison between equals; `dvc repro --single-item --force retrain`, then `dvc repro`, "
        "trains all of them here"
        for apart, arms in found.items()
    ]


def unlearnt(run: "Run") -> list[str]:
    """That even the best control does not surely know more than nothing of rows it has not seen, if it is so."""
    over, metric = run.verdict["over_constant"], TITLES[run.verdict["primary_metric"]]
    if over["ci_low"] > 0:
        return []
    return [
        f"the best control {run.verdict['best_control']} lies {change(over)} points of {metric} above one and the same answer "
        "to every test row, which is not surely more than nothing: no difference between arms means much before it is. Are "
        "labels right, are there enough rows and groups of each class to learn it from, and enough classifier.steps?"
    ]


def unbeaten(run: "Run") -> list[str]:
    """Which negative arms, which are there to be beaten, are surely ahead of the best control, or not surely below an arm
    that HELPS. Each is asked as if it were alone: a warning too many costs less than one that is missing."""
    found, told = [], run.verdict
    for a, record in run.records.items():
        if record["arm"]["role"] != "negative":
            continue
        own, over, said = told["arms"][a], told["over_negative"].get(a), []
        if own["ci_low"] > 0 and own["p_value"] <= 1 - told["confidence"]:
            said.append(f"is surely ahead of {told['best_control']} ({change(own)} points)")
        if told["verdict"] == "HELPS" and over and over["ci_low"] <= 0:
            said.append(f"is not surely below {told['chosen_arm']}, which lies {change(over)} points above it")
        if said:
            spoilt = SPOILT.get(record["arm"]["use"], "what it does without")
            found.append(
                f"negative arm {a} {' and '.join(said)}, though it is there to be beaten: a gain by synthetic rows need "
                f"not come from {spoilt}"
            )
    return found


def failed(run: "Run") -> list[str]:
    """Which generators could not be fitted, why, and which arms had to do without their rows."""
    found = []
    for name, about in run.generators.items():
        if "reason" in about:
            without = [
                a
                for a, arm in run.params.compared.items()
                if a in run.records
                and any(run.params.generators[g].model == name for g in arm.generators if g in run.params.generators)
            ]
            found.append(
                f"generator {name} failed and made no rows: {about['reason']}; arms that learnt without its rows: "
                + (", ".join(without) or "none")
            )
    return found


def unlike(run: "Run") -> list[str]:
    """Which candidates learnt from all rows of a generator, though some are copies or most are unlike any real one."""
    found = []
    for a, arm in run.params.compared.items():
        for name in arm.generators if arm.role == "candidate" and arm.use == "all" else ():
            classes = run.selections.get(name, {"classes": {}})["classes"].values()
            far, copied = (sum(c["dropped"][why] for c in classes) for why in ("unlike", "copy"))
            made = sum(c["generated"] for c in classes)
            if copied:
                found.append(
                    f"{name}: {copied} of {made} rows are copies or nearly so, and arm {a} learnt from all (use: all)"
                )
            if far > made / 2:
                found.append(
                    f"{name}: {far} of {made} rows are unlike every real row (selection.unlike), and arm {a} learnt from "
                    "all (use: all)"
                )
    return found


def refused(run: "Run") -> list[str]:
    """The generators that the copy audit keeps from being used, of those whose rows a candidate or another arm would select from."""
    judged = {g for arm in run.params.compared.values() if arm.role == "candidate" for g in arm.generators}
    return [g for g, s in run.selections.items() if g in judged | selected_from(run.params) and s["refused"]]


def selected_from(params: Params) -> set[str]:
    """The generators of whose rows an arm uses those alone that selection kept."""
    return {g for arm in params.compared.values() if arm.use != "all" for g in arm.generators}
