"""The audit of the data as people read it: counts, what was checked and found, drift, leaks, how often test was opened."""

from collections.abc import Mapping, Sequence

import pandas as pd

from pipeline.evaluation.words import counted
from pipeline.reporting.tables import Told, chance

COLUMNS = {"mean": "brightness", "spread": "contrast"}  # what statistics of grey levels are called


def counts_table(about: Told) -> pd.DataFrame:
    """Rows per class and split, and which classes are scarce."""
    return pd.DataFrame(
        [
            {"class": c}
            | {s: n[c] for s, n in about["counts"].items()}
            | {"scarce": "yes" if c in about["scarce"] else ""}
            for c in about["classes"]
        ]
    )


def leak_sentence(about: Told) -> str:
    """What must stand in red above everything else; empty if no group stands in two splits."""
    if not about["leaking_groups"]:
        return ""
    return (
        f"The splits leak: rows of {counted(about['leaking_groups'], 'group')} or (near) duplicate images, "
        f"{about['leaking_rows']} in all, stand in more than one split (data.allow_leaks). The figures below are too good, by "
        "an unknown amount."
    )


def openings_sentence(openings: Mapping[str, Sequence[str]], test: str) -> str:
    """How often this test split has been looked at, and others, in this copy of the project."""
    times, others = len(openings[test]), len(openings) - 1
    splits = "splits have" if others > 1 else "split has"
    more = f" {others} other test {splits} been looked at here." if others else ""
    if times <= 1:
        return f"In this copy of the project, this test split has been evaluated under one set of params only.{more}"
    return (
        f"In this copy of the project, this test split has now been evaluated under {times} different sets of params; each "
        f"further one makes its figures less blind, so confirm a gain on rows that were never looked at.{more}"
    )


def audit_sentence(about: Told) -> str:
    """The audit in one line."""
    looked = about["near_bound"] is not None
    near = counted(about["near_pairs"], "near duplicate pair") if looked else "near duplicates not looked for"
    drift = min((d["p"] for d in about["drift"]), default=1.0)
    return (
        f"Audit: {counted(about['quarantined'], 'row')} left out, {counted(about['exact_duplicates'], 'exact duplicate')}, "
        f"{near}, {counted(about['leaking_groups'], 'group')} in more than one split, least p of drift {chance(drift)} in "
        f"{counted(len(about['drift']), 'test')}."
    )


def checks_table(about: Told) -> pd.DataFrame:
    """What the audit looked for and what it found."""
    quarantine = ", ".join(f"{code} {n}" for code, n in about["quarantine"].items()) or "none"
    bound = about["near_bound"]
    rows = {
        "rows left out (quarantine.csv)": quarantine,
        "files not named like images": ", ".join(f"{n} {ending}" for ending, n in about["skipped"].items()) or "none",
        "group column": "yes"
        if about["group_column"]
        else "no: rows are taken to be independent unless found to be duplicates",
        "exact duplicates": about["exact_duplicates"],
        "near duplicates": "not looked for"
        if bound is None
        else f"{about['near_pairs']} pairs with a correlation above {bound:.2f}",
        "groups": f"{about['groups']}; {about['rows_in_groups']} rows share one, the largest has {about['largest_group']}",
        "groups in more than one split": about["leaking_groups"],
        "notes of the decoders": ", ".join(f"{n} {c}" for n, c in about["notes"].items()) or "none",
        "unlabelled pool": f"{about['unlabelled']} rows",
        "set aside (data.heldback)": f"{about['heldback']} rows",
        "what the test split resolves": f"balanced accuracy to ±{100 * about['test_resolution']:.1f} points (95 %, at 80 % recall)",
    }
    return pd.DataFrame(list(rows.items()), columns=["check", "found"])


def statistics_table(about: Told) -> pd.DataFrame:
    """Brightness, contrast and size of the pictures of each split: mean, and from least to most."""
    return pd.DataFrame(
        [
            {"split": split}
            | {COLUMNS.get(n, n): f"{v['mean']:.1f} ({v['min']:.0f} to {v['max']:.0f})" for n, v in found.items()}
            for split, found in about["statistics"].items()
        ]
    )


def drift_table(about: Told) -> pd.DataFrame:
    """Brightness, contrast and size of validation and test beside train."""
    return pd.DataFrame(
        [
            {
                "what": COLUMNS.get(d["what"], d["what"]),
                "split": d["split"],
                "mean in train": f"{d['train_mean']:.1f}",
                "mean in the split": f"{d['split_mean']:.1f}",
                "Kolmogorov-Smirnov distance": f"{d['distance']:.3f}",
                "p": chance(d["p"]),
            }
            for d in about["drift"]
        ]
    )


def pool_table(pool: Told) -> pd.DataFrame:
    """Per class, rows of the unlabelled pool: judged to be of it, from which confidence on taken for it, and learnt from."""
    return pd.DataFrame(
        [
            {
                "class": name,
                "judged to be of it": c["judged"],
                "threshold": "none" if c["threshold"] is None else f"{c['threshold']:.2f}",
                "learnt from": c["kept"],
            }
            for name, c in pool["classes"].items()
        ]
    )


def pool_trials(pool: Told) -> pd.DataFrame:
    """What classifiers that learnt from rows of the pool, under such labels, gained on validation over the line above."""
    return pd.DataFrame(
        [
            {
                "labels": trial["labels"],
                "rows": trial["rows"],
                "log-likelihood": f"{trial['likelihood']:.3f}",
                "gain": f"{trial['gain']:+.3f} (standard error {trial['standard_error']:.3f})"
                if "gain" in trial
                else "",
                "balanced accuracy": f"{100 * trial['correct']:+.1f} points" if "gain" in trial else "",
                "taken": "yes" if trial["labels"] == pool["taken"] else "no",
            }
            for trial in pool["trials"]
        ]
    )
