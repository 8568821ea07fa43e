"""Wording and tables of the report. Run: python -m pytest tests/reporting/test_tables.py"""

import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.statistics import mean_interval
from pipeline.reporting import tables

VERDICT = {
    "verdict": "HELPS",
    "reason": "the whole interval lies above zero",
    "primary_metric": "balanced_accuracy",
    "best_control": "oversample",
    "chosen_arm": "diffusion",
    "difference": 0.0163,
    "ci_low": 0.0071,
    "ci_high": 0.0259,
    "p_value": 0.03125,
    "seeds": 6,
    "test": {"fingerprint": "00ff", "rows": 800},
    "comparisons": [
        {"control": "oversample", "difference": 0.0163, "ci_low": 0.0071, "ci_high": 0.0259, "p_value": 0.03125},
        {"control": "classic", "difference": -0.002, "ci_low": -0.01, "ci_high": 0.006, "p_value": 0.5},
    ],
}


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.93449, "balanced_accuracy", "93.4"),
        (1.0, "accuracy", "100.0"),
        (0.0, "macro_f1", "0.0"),
        (0.93449, "macro_auroc", "0.934"),
        (1.5, "nll", "1.500"),
        (0.93449, "", "0.934"),
        (None, "accuracy", "n/a"),
        (float("nan"), "nll", "n/a"),
    ],
)
def test_numbers_read_as_people_write_them(value, metric, text):
    assert tables.number(value, metric) == text


def test_an_interval_without_ends_is_its_mean():
    nan = float("nan")
    assert tables.interval(0.5, 0.4, 0.6, "accuracy") == "50.0 [40.0, 60.0]"
    assert tables.interval(0.5, 0.4, 0.6, "ece") == "0.500 [0.400, 0.600]"
    assert tables.interval(0.5, nan, nan, "accuracy") == "50.0"
    assert tables.interval(nan, nan, nan) == "n/a"


@pytest.mark.parametrize(("value", "text"), [(0.0163, "+1.6"), (-0.0163, "-1.6"), (0.0, "+0.0")])
def test_differences_carry_their_sign(value, text):
    assert tables.points(value) == text


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("HELPS", "with diffusion helps"),
        ("HURTS", "with diffusion hurts"),
        ("NEUTRAL", "makes no difference worth having"),
        ("CANNOT_TELL", "Cannot tell whether generative augmentation with diffusion helps"),
    ],
)
def test_the_sentence_names_arm_control_change_and_doubt(word, says):
    text = tables.sentence({**VERDICT, "verdict": word}, ["9"])
    facts = ("+1.6 points [+0.7, +2.6] of balanced accuracy", "best control, oversample", "6 paired seeds", "p = 0.031")
    assert says in text and all(f in text for f in facts)
    assert text.endswith(".") and text.count("\n") == 0


def test_the_sentence_without_a_scarce_class_says_that_there_was_nothing_to_do():
    text = tables.sentence(VERDICT, [])
    assert text.startswith("Cannot tell: no class is scarce")


def test_without_a_candidate_the_sentence_is_short_and_the_reason_comes_with_the_advice():
    nothing = {**VERDICT, "verdict": "CANNOT_TELL", "reason": "no arm has the role `candidate`", "chosen_arm": ""}
    nothing |= dict.fromkeys(("difference", "ci_low", "ci_high", "p_value"))
    assert tables.sentence(nothing, ["9"]) == "Cannot tell whether generative augmentation helps."
    assert tables.advice(nothing).startswith("No arm has the role `candidate`. Keep ")


@pytest.mark.parametrize(("word", "arm"), [("HELPS", "diffusion"), ("HURTS", "oversample"), ("NEUTRAL", "oversample")])
def test_advice_gives_the_reason_and_names_the_model_to_use(word, arm):
    assert tables.advice({**VERDICT, "verdict": word})[1:].startswith(VERDICT["reason"][1:])
    assert f"model of arm {arm}" in tables.advice({**VERDICT, "verdict": word})


def test_advice_in_doubt_keeps_the_control():
    assert "arm oversample" in tables.advice({**VERDICT, "verdict": "CANNOT_TELL", "chosen_arm": ""})


def scores(seeds=6):
    rng = np.random.default_rng(0)
    keys = [("", "balanced_accuracy"), ("", "nll"), ("cat", "recall"), ("cat", "f1"), ("NA", "recall")]
    rows = [(a, s, c, m, rng.random()) for a in ("real", "new") for s in range(seeds) for c, m in keys]
    return pd.DataFrame(rows, columns=["arm", "seed", "class", "metric", "value"])


def test_summaries_are_means_with_students_intervals_over_seeds():
    frame = scores()
    found = tables.summarise(frame, 0.9)
    assert set(found) == {"real", "new"}
    for arm, values in found.items():
        for (label, metric), name in {("", "nll"): "nll", ("cat", "recall"): "recall_cat"}.items():
            own = frame[(frame["arm"] == arm) & (frame["class"] == label) & (frame["metric"] == metric)]["value"]
            ends = [values[name], values[f"{name}_ci_low"], values[f"{name}_ci_high"]]
            assert ends == pytest.approx(mean_interval(own.to_numpy(), 0.9), abs=1e-6)


def test_summaries_hold_the_macro_scores_and_the_recall_of_every_class_only():
    names = {n for n in tables.summarise(scores(), 0.95)["real"] if not n.endswith(("_low", "_high"))}
    assert names == {"balanced_accuracy", "nll", "recall_cat", "recall_NA"}


def test_what_is_not_known_is_null_in_a_summary():
    assert tables.summarise(scores(seeds=1), 0.95)["real"]["nll_ci_low"] is None
    frame = scores()
    frame.loc[frame["class"] == "cat", "value"] = np.nan
    assert tables.summarise(frame, 0.95)["new"]["recall_cat"] is None


def test_markdown_is_a_table_whatever_the_names_hold():
    frame = pd.DataFrame({"a|b": ["x|y", "two\nlines"], "n": [1, 2]})
    lines = tables.markdown(frame).splitlines()
    assert len(lines) == 4
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines)
    assert r"a\|b" in lines[0] and r"x\|y" in lines[2] and "two lines" in lines[3]


def arm_records():
    roles = (("real", "control", 0), ("new", "candidate", 40))
    return {a: {"arm": {"role": role}, "synthetic_rows": {"cat": n, "NA": 1}} for a, role, n in roles}


def test_the_arms_table_has_a_line_for_each_arm():
    table = tables.arms_table(tables.summarise(scores(), 0.95), arm_records(), ["balanced_accuracy", "nll"])
    assert table["arm"].tolist() == ["real", "new"] and table["role"].tolist() == ["control", "candidate"]
    assert table["synthetic rows"].tolist() == [1, 41]
    assert table["balanced accuracy"].str.fullmatch(r"\d+\.\d \[-?\d+\.\d, \d+\.\d\]").all()
    assert table["NLL"].str.fullmatch(r"\d\.\d{3} \[-?\d\.\d{3}, \d\.\d{3}\]").all()


def test_the_class_table_shows_both_recalls_and_the_change():
    frame, counts = scores(), {"train": {"cat": 50, "NA": 3}, "test": {"cat": 20, "NA": 4}}
    frame.loc[frame["class"] == "cat", "value"] = np.where(frame[frame["class"] == "cat"]["arm"] == "new", 0.75, 0.5)
    table = tables.class_table(frame, counts, ["NA"], "real", "new").set_index("class")
    assert table.loc["cat"].tolist() == ["", 50, 20, "50.0", "75.0", "+25.0"]
    assert table.loc["NA", "scarce"] == "yes"


def test_the_class_table_without_an_arm_or_without_test_rows_says_so():
    frame, counts = scores(), {"train": {"cat": 50, "NA": 3}, "test": {"cat": 20, "NA": 0}}
    frame.loc[frame["class"] == "NA", "value"] = np.nan
    assert tables.class_table(frame, counts, [], "real", "")["change"].tolist() == ["n/a", "n/a"]
    assert tables.class_table(frame, counts, [], "real", "new").set_index("class").loc["NA", "change"] == "n/a"


def test_the_selection_table_counts_each_reason():
    dropped = {"copy": 1, "too_near": 2, "too_far": 3, "third_class": 4, "quota": 0}
    one = {"wanted": 10, "generated": 20, "kept": 10, "agreed": 15, "dropped": dropped}
    table = tables.selection_table({"cvae": {"classes": {"cat": one}}, "nothing": {"classes": {}}})
    assert len(table) == 1 and table.loc[0, "teachers agree"] == "75 %"
    assert [table.loc[0, r.replace("_", " ")] for r in dropped] == list(dropped.values())
    assert len(tables.selection_table({"nothing": {"classes": {}}})) == 0


def test_the_comparison_table_has_a_line_for_each_contender():
    table = tables.comparison_table(VERDICT)
    assert table["control"].tolist() == ["oversample", "classic"]
    assert table.loc[0, "difference in points"] == "+1.6 [+0.7, +2.6]" and table.loc[0, "p"] == "0.031"
    assert len(tables.comparison_table({**VERDICT, "comparisons": []})) == 0


def report(**change):
    frame, counts = scores(), {"train": {"cat": 50, "NA": 3}, "test": {"cat": 20, "NA": 4}}
    return tables.report_md(
        {
            "verdict": VERDICT,
            "sentence": tables.sentence(VERDICT, ["NA"]),
            "advice": tables.advice(VERDICT),
            "warnings": ["class NA has 4 rows in test: its figures there mean little"],
            "about": {"source": "photos", "image_size": 32},
            "leaks": "",
            "openings": "Evaluated under one set of params only.",
            "test_rows": 800,
            "validation_rows": 150,
            "seeds": 6,
            "confidence": 0.95,
            "arms": tables.arms_table(tables.summarise(frame, 0.95), arm_records(), ["balanced_accuracy", "nll"]),
            "quality": tables.arms_table(tables.summarise(frame, 0.95), arm_records(), ["nll"]),
            "comparisons": tables.comparison_table(VERDICT),
            "classes": tables.class_table(frame, counts, ["NA"], "real", "new"),
        }
        | change
    )


def test_the_markdown_report_is_short_and_holds_every_fact():
    text = report()
    assert len(text.splitlines()) < 60
    facts = ["# HELPS", tables.sentence(VERDICT, ["NA"]), tables.advice(VERDICT), "**Warning:** class NA has 4 rows"]
    facts += ["photos, 32 px", "800 test rows", "150 validation rows", "6 paired seeds", "95%", "`00ff`"]
    facts += ["| real | control | 1 |", "| new | candidate | 41 |", "| classic |", "| NA | yes | 3 | 4 |"]
    assert [f for f in facts if f not in text] == []


def test_a_leak_stands_above_the_verdict_in_the_markdown_report():
    text = report(leaks="The splits leak: 3 groups.")
    assert text.index("> [!CAUTION]\n> The splits leak: 3 groups.\n\n") < text.index(tables.sentence(VERDICT, ["NA"]))


def test_the_markdown_report_shows_comparisons_only_where_there_are_several():
    assert "difference in points" in report()
    one = tables.comparison_table({**VERDICT, "comparisons": VERDICT["comparisons"][:1]})
    assert "difference in points" not in report(comparisons=one)
    none = tables.comparison_table({**VERDICT, "comparisons": []})
    assert "difference in points" not in report(comparisons=none)


def test_the_markdown_report_has_a_blank_line_before_every_table_and_line_of_quotes():
    lines = report().splitlines()
    for before, line in pairwise(lines):
        if line.startswith(("|", ">")):
            assert before == "" or before[0] == line[0], line


def test_a_warning_cannot_break_out_of_its_quote():
    text = report(warnings=["first", "second"])
    assert "> **Warning:** first\n> **Warning:** second" in text
