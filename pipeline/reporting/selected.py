"""What the rules of selection kept and dropped of the rows of each generator, and by which thresholds."""

import pandas as pd

from pipeline.params import Selection
from pipeline.reporting.tables import ByName
from pipeline.selection.teachers import neighbour_count


def selection_table(summaries: ByName) -> pd.DataFrame:
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


def rules_table(block: Selection, summaries: ByName, classes: int) -> pd.DataFrame:
    """Every rule: its threshold, how it was set, and how many rows of these generators it dropped; for so many classes."""
    asked = block.copy_false_alarms > 0
    rule = next((s["copy_rule"] for s in summaries.values() if asked), None)
    said = {
        "copy": (
            f"distance {rule['distance']:.3f}, ratio {rule['ratio']:.2f}" if rule else "",
            f"by real rows of other groups, of which {100 * block.copy_false_alarms:g} % would be dropped (copy_false_alarms)"
            if asked
            else "copies are not looked for (copy_false_alarms: 0)",
        ),
        "unlike": (
            f"distance {block.unlike:g}",
            "selection.unlike; 1 is as far as 95 % of real rows lie at most from those of other groups",
        ),
        "alike": (f"spread {block.alike:g}", "selection.alike; 1 is the spread of the real rows of a class"),
        "third_class": (
            f"confidence {block.third_class:g}",
            f"selection.third_class; neighbours are the {neighbour_count(classes, block.neighbours)} classes that unseen training "
            "rows are most taken for",
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


def kept_table(summaries: ByName, most: int = 6) -> pd.DataFrame:
    """Per generator: rows generated, kept and dropped by each rule; of many generators the first, then all others together."""
    rows = []
    for name, summary in summaries.items():
        classes = summary["classes"].values()
        dropped = {r: sum(c["dropped"][r] for c in classes) for c in classes for r in c["dropped"]}
        why = ", ".join(f"{r.replace('_', ' ')} {n}" for r, n in dropped.items() if n)
        counts = {k: sum(c[k] for c in classes) for k in ("generated", "kept")}
        rows.append({"generator": name} | counts | {"dropped, by rule": why or "none"})
    rows = [r for r in rows if r["generated"]]
    shown, rest = (rows, []) if len(rows) <= most else (rows[: most - 1], rows[most - 1 :])
    sums = {k: sum(r[k] for r in rest) for k in ("generated", "kept")}
    more = {"generator": f"{len(rest)} more"} | sums | {"dropped, by rule": "see the full report"}
    return pd.DataFrame([*shown, more] if rest else shown)
