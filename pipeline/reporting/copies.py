"""What the copy audit found, as tables and sentences; worded so that nobody takes a search without a find for a proof."""

from collections.abc import Collection

import pandas as pd

from pipeline.reporting import tables
from pipeline.reporting.tables import SPACES, ByName, Told


def audit_table(found: pd.DataFrame) -> pd.DataFrame:
    """Per generator and space, all scarce classes together; `found` has the columns of results/copies.csv."""
    together = found[found["class"] == ""]
    rows = []
    for (name, space), lines in together.groupby(["generator", "space"], sort=False):
        by = {line["measure"]: said(line) for line in lines.to_dict("records")}
        rows.append(
            {
                "generator": name,
                "seen in": SPACES[space],
                "nearer to training": by.get("closer", ""),
                "nearer than 99 % of unseen": by.get("near", ""),
                "membership AUC": by["auc"],
                "TPR at 1 % FPR": by["tpr"],
            }
        )
    return pd.DataFrame(rows)


def class_table(found: pd.DataFrame) -> pd.DataFrame:
    """Per generator and class: the share nearer to training than to unseen rows by space."""
    single = found[(found["class"] != "") & (found["measure"] == "closer")]
    rows = []
    for (name, label), lines in single.groupby(["generator", "class"], sort=False):
        first = lines.iloc[0]
        row = {"generator": name, "class": label, "training, unseen rows": f"{first['train']}, {first['held']}"}
        rows.append(row | {SPACES[line["space"]]: said(line) for line in lines.to_dict("records")})
    return pd.DataFrame(rows)


def said(line: Told) -> str:
    """A share or an AUC with its interval."""
    return tables.share(*(line[k] for k in ("value", "ci_low", "ci_high")), metric="")


def promises(generators: ByName) -> list[str]:
    """Per generator that was fitted with differential privacy, what is promised and what is not."""
    return [f"{name}: {said}." for name, about in generators.items() if (said := promise(about))]


def promise(fitted: Told) -> str:
    """`fitted` is what generator.json holds; empty for a generator that promises nothing."""
    if "guarantee" not in fitted:
        return ""
    said = fitted["guarantee"]
    source = (
        "The noise came from the operating system, so this fit cannot be repeated to the byte"
        if said["secret"]
        else "The noise was drawn from seed in params.yaml: nothing is promised against anybody who knows or guesses that "
        "number; secret: true draws it from the operating system instead"
    )
    return (
        f"fitted with differential privacy, epsilon {said['epsilon']:.2f} at delta {said['delta']:.1e}, which bounds what "
        f"its weights, and all rows drawn from them, tell of any one of the {said['rows']} training rows. Of one person with "
        "k rows it is about k times that epsilon. Not covered are how many rows were drawn of which class and which of them "
        "were kept, for that was decided by looking at real rows, nor what reports and manifests say of them, nor "
        f"classifiers. {source}"
    )


def sentences(summaries: ByName, chosen: Collection[str], false_alarms: float) -> list[str]:
    """Per generator what the search for copies found, at which thresholds and with how many false alarms.

    `chosen` are those of whose rows an arm may use only what passes selection; controls use all rows of the others.
    """
    told = []
    for name, summary in summaries.items():
        classes, rule = summary["classes"].values(), summary["copy_rule"]
        made, copied = sum(c["generated"] for c in classes), sum(c["dropped"]["copy"] for c in classes)
        if not made:
            continue
        if not false_alarms:
            told.append(
                f"{name}: copies were not looked for (selection.copy_false_alarms: 0); any of {made} rows may be one."
            )
            continue
        test = (
            f"by a search among training rows, mirrored, moved and cropped, within {rule['distance']:.3f} of one or "
            f"{rule['ratio']:.2f} times as far as from the next ones (false alarms: about {100 * false_alarms:g} % of real rows)"
        )
        if name not in chosen:
            told.append(
                f"{name}: {copied} of {made} rows are copies or nearly so; arms that use its rows learn from all of them."
            )
        elif summary["refused"]:
            told.append(f"{name}: REFUSED. {summary['refused']}.")
        elif copied:
            told.append(f"{name}: {copied} of {made} rows are copies or nearly so, and are not used, {test}.")
        else:
            told.append(f"{name}: no copy found in {made} rows, {test}.")
    return told
