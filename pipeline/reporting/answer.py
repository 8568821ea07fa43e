"""The answer in words and tables: the sentence, what to do, every arm against the best control, guardrails, doses."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.words import counted
from pipeline.params import POOL, Arm
from pipeline.reporting.tables import ENDS, TITLES, ByName, Told, chance, change, ends, number, points, share

RAILS = {"macro F1": "macro_f1", "AUPRC": "macro_auprc", "ECE": "tempered_ece"}  # the scores that guardrails compare


def sentence(verdict: Told, scarce: Sequence[str]) -> str:
    """The one-sentence answer."""
    if not scarce:
        return "Cannot tell: no class is scarce by the rule in data.scarce, so there was nothing to generate rows for."
    if verdict["difference"] is None:
        return "Cannot tell whether generative augmentation helps."
    metric = TITLES[verdict["primary_metric"]]
    gain = f"{points(verdict['difference'])} points {ends(verdict['ci_low'], verdict['ci_high'])} of {metric}"
    doubt = f"{counted(verdict['seeds'], 'paired seed')}, {_p(verdict['p_value'])} over these"
    best = f"the best of the {verdict['controls']} controls" if verdict["controls_left_out"] else "the best control"
    best = "the only control trained" if verdict["controls"] == 1 else best
    against = f"against {best} on validation, {verdict['best_control']} ({doubt})"
    arm = verdict["chosen_arm"]
    return {
        "HELPS": f"Generative augmentation with {arm} helps: {gain} {against}.",
        "HURTS": f"Generative augmentation with {arm} hurts: {gain} {against}.",
        "NEUTRAL": f"Generative augmentation with {arm} makes no difference worth having: {gain} {against}.",
        "CANNOT_TELL": f"Cannot tell whether generative augmentation with {arm} helps: {gain} {against}.",
    }[verdict["verdict"]]


def _p(value: float) -> str:
    text = chance(value)
    return f"p {text[0]} {text[1:]}" if text[0] == "<" else f"p = {text}"


def advice(verdict: Told) -> str:
    """Why the answer is what it is, and what to do with it."""
    what = {
        "HELPS": f"Use the model of arm {verdict['chosen_arm']}.",
        "HURTS": f"Use the model of arm {verdict['best_control']}; leave the synthetic rows out.",
        "NEUTRAL": f"Use the model of arm {verdict['best_control']}; the synthetic rows are not worth their cost.",
        "CANNOT_TELL": f"Keep the model of arm {verdict['best_control']} for now.",
    }[verdict["verdict"]]
    return f"{verdict['reason'][:1].upper()}{verdict['reason'][1:]}. {what}"


def guarded(rails: Sequence[Told]) -> str:
    """What came of the guardrails, in a sentence."""
    if all(rail["broken"] is None for rail in rails):
        return (
            "Guardrails were not judged: with one seed, no synthetic row or so few test rows not even a loss is sure."
        )
    if broken := [rail["name"] for rail in rails if rail["broken"]]:
        return f"Guardrails broken: {', '.join(broken)}."
    return (
        "No guardrail broke: no class surely loses more recall than evaluation.max_class_loss allows, ranking (AUPRC) and "
        "calibration (ECE) do not surely get worse."
    )


def beside(verdict: Told, price: str, skipped: Sequence[str]) -> list[str]:
    """What a reader should know beside the sentence, a line each: guardrails, power, single models, arms left out.

    `price` is what the arms cost, in a sentence; empty if it is not known.
    """
    lines = []
    if verdict["guardrails"]:
        lines.append(guarded(verdict["guardrails"]))
        if verdict["threshold_shift"]:
            lines.append("Macro F1 rises while AUPRC falls: that is a shifted threshold, not a better model.")
        if verdict["detectable"] is not None and 100 * verdict["detectable"] >= 0.05:
            lines.append(
                f"A true difference of {100 * verdict['detectable']:.1f} points would keep the interval beside "
                f"{verdict['best_control']} away from zero in four of five such runs; a smaller one may well go unseen. HELPS takes "
                "more: the seeds and every contender have to agree."
            )
        one = verdict["single_models"]
        lines.append(
            f"What make export hands on is one model, not the mean of the seeds: the best of its arm on validation. "
            f"{verdict['chosen_arm']} (seed {one['seeds'][0]}) against {verdict['best_control']} (seed {one['seeds'][1]}), one "
            f"model each: test rows (or groups of them) that the first gets right more often {one['only_arm_right']}, the second "
            f"{one['only_control_right']} (McNemar {_p(one['p_value'])})."
        )
    if verdict["exchange"]:
        lines.append(exchange(verdict["exchange"], verdict["chosen_arm"], verdict["confidence"]))
    lines += [price] if price else []
    if verdict["repeats"]:
        lines.append(elsewhere(verdict["repeats"]))
    if skipped:
        left_out = verdict["controls_left_out"]
        doubt = (
            f" Among them are controls beside which a gain may vanish ({', '.join(left_out)}): have them trained (profile: "
            "full in params.yaml, then make repro) before you rely on one."
        )
        lines.append(
            f"Not trained in this run (profile, or role: skip): {', '.join(skipped)}.{doubt if left_out else ''}"
        )
    return lines


def elsewhere(again: Told) -> str:
    """What other splits say, in the mean of those on which an arm could be judged."""
    lost = [str(split) for split in again["left_out"]]
    judged = len(again["splits"]) - len(lost)
    mean = f"In the mean over {judged} splits of the rows: {change(again)} points." if judged > 1 else ""
    why = "no candidate could be trained there, it had no synthetic row, or a control failed"
    without = f"Left out, for {why}: split {', '.join(lost)}." if lost else ""
    return " ".join(filter(None, (mean, without)))


def exchange(rate: Told, arm: str, confidence: float) -> str:
    """What the synthetic rows are worth in real ones, in one sentence."""
    most = rate["most_real_rows"]
    worth, low, high = (
        f"over {most}" if rate[k] is None else f"{rate[k]:.0f}" for k in ("real_rows", "ci_low", "ci_high")
    )
    return (
        f"Exchange rate: the {rate['synthetic_rows']} synthetic rows of {arm}, with the recipe of that arm, are worth {worth} "
        f"more real rows of the scarce classes ({100 * confidence:g} % interval: {low} to {high}), by the arms that learnt "
        f"from up to {most} real rows set aside."
    )


def arms_table(metrics: ByName, records: ByName, verdict: Told) -> pd.DataFrame:
    """One row per arm: role, recipe, rows added, primary metric and interval, difference to the best control, its word."""
    metric, rows = verdict["primary_metric"], []
    title = TITLES[metric]
    for arm, values in metrics.items():
        found = verdict["arms"].get(arm)
        rows.append(
            {
                "arm": arm,
                "role": records[arm]["arm"]["role"],
                "recipe": records[arm]["arm"]["recipe"].replace("_", " "),
                "rows added": _rows_added(records[arm]),
                title: _score(values, metric),
                f"points against {verdict['best_control']}": "the best control" if found is None else change(found),
                "p": "" if found is None else chance(found["p_value"]),
                "p (Holm)": "" if found is None or "p_holm" not in found else chance(found["p_holm"]),
                "verdict, why": "" if found is None or "verdict" not in found else _word(found),
            }
        )
    return pd.DataFrame(rows)


def _rows_added(record: Told) -> str:
    pool = [f"{record['pool_rows']} of the pool"] if record["arm"]["also"] == POOL else []
    synthetic = sum(record["synthetic_rows"].values())
    return " + ".join(([str(synthetic)] if synthetic or not pool else []) + pool)


def metrics_table(metrics: ByName, metric: str, validation: Mapping[str, float]) -> pd.DataFrame:
    """One row per arm: the mean of the primary metric on validation, by which arms were chosen, and each metric that was
    measured on the test split, with its interval over seeds."""
    names = [m for m in TITLES if all(m in values for values in metrics.values())]
    return pd.DataFrame(
        [
            {"arm": arm, f"{TITLES[metric]} on validation": number(validation[arm], metric)}
            | {TITLES[m]: _score(v, m) for m in names}
            for arm, v in metrics.items()
        ]
    )


def _score(values: Told, metric: str) -> str:
    return share(*(values[f"{metric}{end}"] for end in ENDS), metric=metric)


def _word(found: Told) -> str:
    return f"{found['verdict'].replace('_', ' ')}: {found['reason']}"


def comparison_table(verdict: Told) -> pd.DataFrame:
    """The chosen arm against the best control and every control that validation cannot tell from it."""
    return pd.DataFrame(
        [
            {"control": c["control"], "difference in points": change(c), "p": chance(c["p_value"])}
            for c in verdict["comparisons"]
        ]
    )


def repeats_table(verdict: Told) -> pd.DataFrame:
    """What the whole run says on each split of the rows, and in the mean."""
    again = verdict["repeats"] or {"splits": []}
    names = {"split": "split", "best_control": "best control", "chosen_arm": "arm to judge", "verdict": "verdict"}
    rows = [{names[k]: s[k] for k in names} | {"difference in points": change(s)} for s in again["splits"]]
    mean = [{"split": "mean", "difference in points": change(again)}] if rows else []
    return pd.DataFrame(rows + mean).fillna("")


def guardrail_table(verdict: Told) -> pd.DataFrame:
    """What the chosen arm gains and loses beside the primary metric, against the best control."""
    rows = []
    for rail in verdict["guardrails"]:
        in_points = rail["name"] not in ("AUPRC", "ECE")
        told = change(rail) if in_points else "{difference:+.3f} [{ci_low:+.3f}, {ci_high:+.3f}]".format(**rail)
        free = rail["name"] == "macro F1"  # which stands beside AUPRC and forbids nothing
        broken = "" if free else {None: "not judged", True: "yes", False: "no"}[rail["broken"]]
        rows.append({"guardrail": rail["name"], "change": told, "broken": broken})
    return pd.DataFrame(rows, columns=["guardrail", "change", "broken"])


def rails_table(verdict: Told, metrics: ByName, rows: Mapping[str, int], most: int = 5) -> pd.DataFrame:
    """Guardrails of ranking and calibration, and the broken ones of recall with those that change most, in their order.

    `rows` counts the training rows of each class. Beside the change stand the scores of both arms.
    """
    control, arm = verdict["best_control"], verdict["chosen_arm"]
    said = guardrail_table(verdict).set_index("guardrail")
    size = {r["name"]: (not r["broken"], -abs(r["difference"])) for r in verdict["guardrails"] if "arm" in r}
    shown, lines = sorted(size, key=size.__getitem__)[:most], []
    for rail in verdict["guardrails"]:
        name = rail["name"]
        if name in size:
            scores = [share(*rail[who], metric="accuracy") for who in ("control", "arm")]
            label = name.removeprefix("recall of ")
            title = f"{name} ({counted(rows[label], 'training row')})"
        else:
            title, scores = name, [_score(metrics[a], RAILS[name]) for a in (control, arm)]
        if name in shown or name not in size:
            lines.append([title, *scores, *said.loc[name, ["change", "broken"]]])
    return pd.DataFrame(lines, columns=["guardrail", control, arm, "change", "broken"])


def no_doses(named: Mapping[str, Arm], trained: Mapping[str, Arm]) -> str:
    """What stands in the place of dose curves where there are none."""
    kinds = [_kind(arm.model_dump()) for arm in trained.values()]
    missing = [
        a for a, arm in named.items() if a not in trained and _kind(arm.model_dump()) in kinds and arm.rows != "nothing"
    ]
    more = f" Not trained in this run: {', '.join(missing)}." if missing else ""
    return f"No curve: no two arms of this run differ in their dose alone.{more}"


def _kind(arm: Told) -> tuple[Any, ...]:
    """What arms on one dose curve share."""
    return arm["rows"], arm["also"], arm["use"], arm["recipe"], arm["tuned"]


def doses(metrics: ByName, records: ByName, metric: str) -> pd.DataFrame:
    """Points of the dose curves: arms that differ in their dose alone, by the rows they learnt from; `curve` names them."""
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for arm, record in records.items():
        kinds.setdefault(_kind(record["arm"]), []).append(arm)
    rows = []
    curves = {kind: arms for kind, arms in kinds.items() if len(arms) > 1 and kind[0] != "nothing"}
    for kind, arms in curves.items():
        name = _curve(kind, alone=sum(other[:3] == kind[:3] for other in curves) == 1)
        for arm in arms:
            values = [metrics[arm][f"{metric}{end}"] for end in ENDS]
            added = sum(records[arm]["synthetic_rows"].values())
            rows.append((name, arm, added, *(np.nan if v is None else v for v in values)))
    frame = pd.DataFrame(rows, columns=["curve", "arm", "rows", metric, "ci_low", "ci_high"])
    return frame.sort_values(["curve", "rows"], kind="stable", ignore_index=True)


def _curve(kind: tuple[Any, ...], alone: bool) -> str:
    """What a dose curve is called; one that is not alone with its rows, by its recipe too."""
    rows, also, use, recipe, tuned = kind
    parts = [" + ".join([rows, *([] if also == "nothing" else [also])])] + ([use] if use != "kept" else [])
    return ", ".join(parts + ([] if alone else [recipe, *(["tuned"] if tuned else [])]))


def tuned_table(metrics: ByName, metric: str) -> pd.DataFrame:
    """The primary metric as the models decide, and with thresholds per class tuned on validation."""
    name = f"tuned_{metric}"
    return pd.DataFrame(
        [
            {"arm": arm, TITLES[metric]: _score(v, metric), "with tuned thresholds": _score(v, name)}
            | {"change": points(None if v[name] is None else v[name] - v[metric])}
            for arm, v in metrics.items()
        ]
    )
