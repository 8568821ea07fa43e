"""Wording and tables of the report. Run: python -m pytest tests/reporting/test_tables.py"""

import re

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.statistics import mean_interval
from pipeline.reporting import selected, tables


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
    assert tables.share(0.5, 0.4, 0.6, metric="accuracy") == "50.0 [40.0, 60.0]"
    assert tables.share(0.5, 0.4, 0.6, metric="ece") == "0.500 [0.400, 0.600]"
    assert tables.share(0.5, nan, nan, metric="accuracy") == "50.0"
    assert tables.share(nan, nan, nan, metric="") == "n/a"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0163, "+1.6"), (-0.0163, "-1.6"), (0.0, "+0.0"), (-1e-9, "+0.0"), (-0.0004, "+0.0")]
)
def test_differences_carry_their_sign(value, text):
    assert tables.points(value) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (-0.0002, 0.013, "[-0.0, +1.3]"),
        (0.0, 0.0, "[+0.0, +0.0]"),
        (-0.0, 0.0004, "[+0.0, +0.0]"),
        (None, None, "[n/a, n/a]"),
    ],
)
def test_an_end_that_lies_below_zero_is_seen_to(low, high, text):
    """ "[+0.0, +1.3]" stood beside "too wide to tell a gain from a loss"."""
    assert tables.ends(low, high) == text


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
    assert r"a\|b" in lines[0] and r"x\|y" in lines[2] and r"two\\nlines" in lines[3]


def rail(label, change, control=0.5, half=0.1):
    ends = {who: [v, v - half, v + half] for who, v in (("control", control), ("arm", control + change))}
    return {
        "name": f"recall of {label}",
        "difference": change,
        "ci_low": change - half,
        "ci_high": change + half,
    } | ends


JUDGED = {"best_control": "real", "chosen_arm": "new", "guardrails": [rail("cat", 0.25), rail("NA", -0.1, 0.95)]}
COUNTS = {"train": {"cat": 50, "NA": 3}, "test": {"cat": 20, "NA": 4}}


def test_the_class_table_shows_both_recalls_and_the_change_with_intervals():
    table = tables.class_table(JUDGED, tables.summarise(scores(), 0.95), COUNTS, ["NA"]).set_index("class")
    assert table.loc["cat"].tolist() == ["", 50, 20, "50.0 [40.0, 60.0]", "75.0 [65.0, 85.0]", "+25.0 [+15.0, +35.0]"]
    assert table.loc["NA"].tolist() == ["yes", 3, 4, "95.0 [85.0, 100.0]", "85.0 [75.0, 95.0]", "-10.0 [-20.0, +0.0]"]


def test_the_class_table_without_an_arm_or_without_test_rows_says_so():
    frame = scores()
    frame.loc[frame["class"] == "NA", "value"] = np.nan
    found, nobody = tables.summarise(frame, 0.95), {"best_control": "real", "chosen_arm": "", "guardrails": []}
    table = tables.class_table(nobody, found, COUNTS, []).set_index("class")
    mean, low, high = mean_interval(
        frame[(frame["arm"] == "real") & (frame["class"] == "cat") & (frame["metric"] == "recall")]["value"], 0.95
    )
    assert table.loc["cat", "recall, real"] == tables.share(mean, low, high, metric="accuracy")
    assert table.loc["NA", "recall, real"] == "n/a" and (table[["recall, no arm", "change"]] == "n/a").all(axis=None)
    unseen = tables.class_table(JUDGED | {"guardrails": [rail("cat", 0.1)]}, found, COUNTS, []).set_index("class")
    assert unseen.loc["NA", ["recall, real", "recall, new", "change"]].tolist() == ["n/a"] * 3


def test_the_selection_table_counts_each_reason():
    dropped = {"copy": 1, "unlike": 3, "third_class": 4, "quota": 0}
    one = {"wanted": 10, "generated": 20, "kept": 10, "agreed": 15, "dropped": dropped}
    table = selected.selection_table({"cvae": {"classes": {"cat": one}}, "nothing": {"classes": {}}})
    assert len(table) == 1 and table.loc[0, "teachers agree"] == "75 %"
    assert [table.loc[0, r.replace("_", " ")] for r in dropped] == list(dropped.values())
    assert len(selected.selection_table({"nothing": {"classes": {}}})) == 0


def test_kept_and_dropped_rows_are_counted_for_each_generator():
    one = {"generated": 20, "kept": 12, "dropped": {"copy": 1, "unlike": 7, "quota": 0}}
    clean = {"generated": 5, "kept": 5, "dropped": {"copy": 0, "unlike": 0, "quota": 0}}
    table = selected.kept_table(
        {"cvae": {"classes": {"a": one, "b": one}}, "cgan": {"classes": {"a": clean}}, "nothing": {"classes": {}}}
    )
    assert table.to_numpy().tolist() == [["cvae", 40, 24, "copy 2, unlike 14"], ["cgan", 5, 5, "none"]]
    many = selected.kept_table({str(i): {"classes": {"a": one}} for i in range(20)})
    assert len(many) == 6 and many.iloc[-1].tolist() == ["15 more", 15 * 20, 15 * 12, "see the full report"]
    assert len(selected.kept_table({str(i): {"classes": {"a": one}} for i in range(6)})) == 6
    assert len(selected.kept_table({"nothing": {"classes": {}}})) == 0


def test_the_points_of_the_arms_leave_the_best_control_without_a_difference():
    values = {"real": {"nll": 0.5}, "new": {"nll": 0.25}}
    ends = {"difference": -0.25, "ci_low": -0.3, "ci_high": -0.2}
    frame = tables.arm_points({"primary_metric": "nll", "arms": {"new": ends}}, values).set_index("arm")
    assert frame.loc["new"].tolist() == [0.25, -0.25, -0.3, -0.2]
    assert frame.loc["real", "nll"] == 0.5 and frame.loc["real", ["difference", "ci_low"]].isna().all()


def test_what_was_searched_is_told_with_its_error_and_what_was_taken():
    tried = pd.DataFrame(
        {
            "generator": ["cvae", "cvae"],
            "key": [None, "share"],
            "value": [None, "0.3"],
            "likelihood": [-0.5, -0.45],
            "gain": [np.nan, 0.05],
            "standard_error": [np.nan, 0.01],
            "correct": [np.nan, 0.002],
            "correct_error": [np.nan, 0.004],
            "taken": [True, False],
        }
    )
    first, second = tables.search_table(tried).to_numpy().tolist()
    assert first == ["cvae", "as params say", "-0.500", "", "", "yes"]
    assert second == [
        "cvae",
        "share = 0.3",
        "-0.450",
        "+0.050 (standard error 0.010)",
        "+0.2 points (standard error 0.4)",
        "no",
    ]
    assert tables.search_table(tried[:0]).empty


def test_the_weights_of_each_judged_class_are_told():
    point = {"step": 60, "ema": 0.99, "classes": [1, 2], "distance": [None, 0.25, None], "copies": [None, 0.02, None]}
    found = tables.points_table({"smote": {}, "cvae": {"points": [point]}}, ["a", "b", "c"])
    assert found.to_numpy().tolist() == [["cvae", "b", 60, "0.9900", tables.number(0.25), "2 %"]]
    blind = tables.points_table({"cvae": {"points": [point]}}, ["a", "b", "c"], sought=False)
    assert blind["copies"].tolist() == ["not looked for"]
