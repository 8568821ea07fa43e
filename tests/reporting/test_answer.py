"""The answer in words and tables, and the digest for a pull request. Run: python -m pytest tests/reporting/test_answer.py"""

import re
from itertools import pairwise

import pandas as pd
import pytest

from pipeline.reporting import answer, html

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
    "detectable": 0.0123,
    "threshold_shift": False,
    "exchange": None,
    "confidence": 0.95,
    "repeats": None,
    "guardrails": [
        {"name": "macro F1", "difference": 0.01, "ci_low": 0.001, "ci_high": 0.02, "broken": False},
        {"name": "AUPRC", "difference": -0.004, "ci_low": -0.008, "ci_high": 0.001, "broken": False},
        {
            "name": "recall of cat",
            "difference": -0.05,
            "ci_low": -0.07,
            "ci_high": -0.03,
            "broken": True,
            "control": [0.9, 0.85, 0.94],
            "arm": [0.85, 0.8, 0.9],
        },
    ],
    "single_models": {"seeds": [1, 4], "only_arm_right": 19, "only_control_right": 7, "p_value": 0.029},
    "arms": {
        "diffusion": {
            "difference": 0.0163,
            "ci_low": 0.0071,
            "ci_high": 0.0259,
            "p_value": 0.03125,
            "verdict": "HELPS",
            "reason": "the whole interval lies above zero",
        },
        "cvae": {
            "difference": 0.0112,
            "ci_low": 0.0021,
            "ci_high": 0.0207,
            "p_value": 0.03125,
            "p_holm": 0.0625,
            "verdict": "CANNOT_TELL",
            "reason": "6 paired seeds cannot make any of 2 arms sure",
        },
        "classic": {"difference": -0.0004, "ci_low": -0.01, "ci_high": 0.006, "p_value": 0.5},
    },
    "test": {"fingerprint": "00ff", "rows": 800},
    "controls": 2,
    "controls_left_out": [],
    "comparisons": [
        {"control": "oversample", "difference": 0.0163, "ci_low": 0.0071, "ci_high": 0.0259, "p_value": 0.03125},
        {"control": "classic", "difference": -0.002, "ci_low": -0.01, "ci_high": 0.006, "p_value": 0.5},
    ],
}


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
    text = answer.sentence({**VERDICT, "verdict": word}, ["9"])
    facts = (
        "+1.6 points [+0.7, +2.6] of balanced accuracy",
        "best control on validation, oversample",
        "6 paired seeds",
        "p = 0.031",
    )
    assert says in text and all(f in text for f in facts)
    assert text.endswith(".") and text.count("\n") == 0


def test_controls_that_were_not_trained_are_told():
    quick = VERDICT | {"controls_left_out": ["mixup", "cutmix"]}
    assert "against the best of the 2 controls on validation, oversample (" in answer.sentence(quick, ["9"])
    said = "\n".join(answer.beside(quick, "", ["mixup", "gmm", "cutmix"]))
    assert (
        "Not trained in this run (profile, or role: skip): mixup, gmm, cutmix. Among them are controls beside which a gain may "
        "vanish (mixup, cutmix)" in said
    )
    assert "controls" not in "\n".join(answer.beside(VERDICT, "", ["gmm"]))


def test_the_sentence_without_a_scarce_class_says_that_there_was_nothing_to_do():
    text = answer.sentence(VERDICT, [])
    assert text.startswith("Cannot tell: no class is scarce")


def test_without_a_candidate_the_sentence_is_short_and_the_reason_comes_with_the_advice():
    nothing = {**VERDICT, "verdict": "CANNOT_TELL", "reason": "no arm has the role `candidate`", "chosen_arm": ""}
    nothing |= dict.fromkeys(("difference", "ci_low", "ci_high", "p_value"))
    assert answer.sentence(nothing, ["9"]) == "Cannot tell whether generative augmentation helps."
    assert answer.advice(nothing).startswith("No arm has the role `candidate`. Keep ")


@pytest.mark.parametrize(("word", "arm"), [("HELPS", "diffusion"), ("HURTS", "oversample"), ("NEUTRAL", "oversample")])
def test_advice_gives_the_reason_and_names_the_model_to_use(word, arm):
    assert answer.advice({**VERDICT, "verdict": word})[1:].startswith(VERDICT["reason"][1:])
    assert f"model of arm {arm}" in answer.advice({**VERDICT, "verdict": word})


def test_advice_in_doubt_keeps_the_control():
    assert "arm oversample" in answer.advice({**VERDICT, "verdict": "CANNOT_TELL", "chosen_arm": ""})


def test_the_comparison_table_has_a_line_for_each_contender():
    table = answer.comparison_table(VERDICT)
    assert table["control"].tolist() == ["oversample", "classic"]
    assert table.loc[0, "difference in points"] == "+1.6 [+0.7, +2.6]" and table.loc[0, "p"] == "0.031"
    assert len(answer.comparison_table({**VERDICT, "comparisons": []})) == 0


def test_other_splits_have_a_line_each_and_their_mean():
    one = {"best_control": "smote", "chosen_arm": "cvae", "difference": 0.01, "ci_low": -0.01, "ci_high": 0.03}
    splits = [{"split": k, "verdict": "CANNOT_TELL", **one} for k in (0, 1, 2)]
    mean = {"difference": 0.011, "ci_low": 0.002, "ci_high": 0.02, "left_out": []}
    again = VERDICT | {"repeats": {"splits": splits, **mean}}
    table = answer.repeats_table(again)
    assert table["split"].tolist() == [0, 1, 2, "mean"] and table["best control"].tolist() == ["smote"] * 3 + [""]
    assert table["difference in points"].tolist() == ["+1.0 [-1.0, +3.0]"] * 3 + ["+1.1 [+0.2, +2.0]"]
    assert "mean over 3 splits of the rows: +1.1 [+0.2, +2.0] points." in "\n".join(answer.beside(again, "", []))
    assert len(answer.repeats_table(VERDICT)) == 0 and "splits" not in "\n".join(answer.beside(VERDICT, "", []))


def test_a_split_on_which_no_candidate_could_be_trained_is_shown_and_said_to_be_left_out():
    """Its difference is None, of which no text could be made."""
    one = {"best_control": "smote", "chosen_arm": "cvae", "difference": 0.01, "ci_low": -0.01, "ci_high": 0.03}
    none = {"best_control": "real", "chosen_arm": "", "difference": None, "ci_low": None, "ci_high": None}
    splits = [{"split": k, "verdict": "CANNOT_TELL", **found} for k, found in enumerate((one, none, one))]
    ends = {"difference": 0.01, "ci_low": 0.002, "ci_high": 0.02}
    again = VERDICT | {"repeats": {"splits": splits, **ends, "left_out": [1]}}
    table = answer.repeats_table(again)
    assert table["difference in points"].tolist()[1:] == ["n/a", "+1.0 [-1.0, +3.0]", "+1.0 [+0.2, +2.0]"]
    without = (
        "Left out, for no candidate could be trained there, it had no synthetic row, or a control failed: split 1."
    )
    mean = "In the mean over 2 splits of the rows: +1.0 [+0.2, +2.0] points."
    assert f"{mean} {without}" in answer.beside(again, "", [])
    alone = VERDICT | {"repeats": again["repeats"] | {"splits": splits[:2], "ci_low": None, "ci_high": None}}
    assert answer.repeats_table(alone)["difference in points"].tolist()[2] == "+1.0 [n/a, n/a]"
    assert without in answer.beside(alone, "", [])


def record(role, rows="nothing", also="nothing", use="kept", recipe="plain", added=0):
    about = {"role": role, "rows": rows, "also": also, "use": use, "recipe": recipe, "tuned": False}
    return {"arm": about, "synthetic_rows": {"cat": added, "NA": 0}, "pool_rows": 0}


RECORDS = {
    "oversample": record("control"),
    "classic": record("control", "classic", use="all", added=40),
    "diffusion": record("candidate", "diffusion", added=40),
    "cvae": record("candidate", "cvae", added=40),
    "diffusion_quarter": record("candidate", "diffusion", added=10),
    "mixture": record("candidate", "diffusion", "cgan", added=40),
}


def scored(arms=RECORDS, metric="balanced_accuracy", half=0.02):
    ends = {"": 0.0, "_ci_low": -half, "_ci_high": half}
    names = (metric, f"tuned_{metric}", "nll")
    return {a: {n + e: 0.9 + 0.01 * i + d for n in names for e, d in ends.items()} for i, a in enumerate(arms)}


def test_the_arms_table_has_a_line_for_each_arm_and_names_the_best_control():
    arms = {a: RECORDS[a] for a in ("oversample", "classic", "diffusion", "cvae")}
    table = answer.arms_table(scored(arms), arms, VERDICT).set_index("arm")
    assert table.loc["oversample", "points against oversample"] == "the best control"
    assert table["recipe"].tolist() == [arm["arm"]["recipe"].replace("_", " ") for arm in arms.values()]
    assert table.loc["diffusion"].tolist()[2:] == ["40", "92.0 [90.0, 94.0]", "+1.6 [+0.7, +2.6]", "0.031", "",
                                                      "HELPS: the whole interval lies above zero"]  # fmt: skip
    assert table.loc["classic", "points against oversample"] == "+0.0 [-1.0, +0.6]", "no negative zero"
    assert table.loc["cvae", "p (Holm)"] == "0.062"
    assert table.loc["cvae", "verdict, why"] == "CANNOT TELL: 6 paired seeds cannot make any of 2 arms sure"
    assert table.loc["classic", ["p (Holm)", "verdict, why"]].tolist() == ["", ""], "controls are not judged"


def test_an_interval_of_a_share_stays_between_0_and_100_but_that_of_a_loss_does_not():
    found = scored(half=0.3)
    table = answer.metrics_table(found, "balanced_accuracy", dict.fromkeys(found, 0.876))
    assert (table["balanced accuracy on validation"] == "87.6").all()
    assert table.loc[0, "balanced accuracy"] == "90.0 [60.0, 100.0]" and table.loc[0, "NLL"] == "0.900 [0.600, 1.200]"
    assert list(table.columns) == ["arm", "balanced accuracy on validation", "balanced accuracy", "NLL"], (
        "a metric that was not measured has no column"
    )


def test_what_stands_beside_the_sentence():
    lines = "\n".join(answer.beside(VERDICT, "Cost: 90 s for diffusion.", ["mixup", "cutmix"]))
    for fact in ("recall of cat", "A true difference of 1.2 points would keep the interval", "beside oversample away",
                 "diffusion (seed 1) against oversample (seed 4)",
                 "test rows (or groups of them) that the first gets right more often 19, the second 7", "p = 0.029",
                 "Cost: 90 s for diffusion.", "Not trained in this run (profile, or role: skip): mixup, cutmix"):  # fmt: skip
        assert fact in lines, fact
    assert "threshold" not in lines
    assert "shifted threshold" in "\n".join(answer.beside(VERDICT | {"threshold_shift": True}, "", []))
    whole = VERDICT | {"guardrails": [g for g in VERDICT["guardrails"] if not g["broken"]], "detectable": 0.0}
    lines = "\n".join(answer.beside(whole, "", []))
    assert "No guardrail broke" in lines and "four of five" not in lines and "Cost" not in lines
    assert answer.beside(VERDICT | {"guardrails": []}, "", []) == []
    unknown = VERDICT | {"guardrails": [g | {"broken": None} for g in VERDICT["guardrails"]]}
    lines = "\n".join(answer.beside(unknown, "", []))
    assert "Guardrails were not judged" in lines and "No guardrail broke" not in lines
    assert answer.guardrail_table(unknown)["broken"].tolist() == ["", "not judged", "not judged"]


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((61.6, 20.2, 110.0), "are worth 62 more real rows of the scarce classes (95 % interval: 20 to 110)"),
        ((100.0, 30.0, None), "are worth 100 more real rows of the scarce classes (95 % interval: 30 to over 120)"),
        ((None, 90.0, None), "are worth over 120 more real rows"),
        ((0.0, 0.0, 12.0), "are worth 0 more real rows of the scarce classes (95 % interval: 0 to 12)"),
    ],
)
def test_the_exchange_rate_is_one_sentence_with_an_interval(ends, words):
    rate = dict(zip(("real_rows", "ci_low", "ci_high"), ends, strict=True)) | {
        "synthetic_rows": 426,
        "most_real_rows": 120,
    }
    (line,) = [one for one in answer.beside(VERDICT | {"exchange": rate}, "", []) if one.startswith("Exchange rate")]
    assert line.startswith("Exchange rate: the 426 synthetic rows of diffusion") and words in line
    assert "up to 120 real rows set aside." in line and line.count(". ") == 0
    assert "Exchange" not in "\n".join(answer.beside(VERDICT, "", []))


def test_a_tiny_p_is_not_called_zero():
    tiny = VERDICT | {"p_value": 1e-5, "single_models": VERDICT["single_models"] | {"p_value": 0.0}}
    assert "p < 0.001" in answer.sentence(tiny, ["NA"]) and "McNemar p < 0.001" in "".join(answer.beside(tiny, "", []))
    assert (
        answer.comparison_table({"comparisons": [VERDICT["comparisons"][0] | {"p_value": 1e-9}]}).loc[0, "p"]
        == "<0.001"
    )


def test_the_guardrail_table_says_what_is_surely_worse():
    table = answer.guardrail_table(VERDICT).set_index("guardrail")
    assert table["broken"].tolist() == ["", "no", "yes"]
    assert table.loc["AUPRC", "change"] == "-0.004 [-0.008, +0.001]"
    assert table.loc["recall of cat", "change"] == "-5.0 [-7.0, -3.0]"
    assert len(answer.guardrail_table({"guardrails": []})) == 0


def test_a_dose_curve_joins_arms_that_differ_in_their_dose_alone():
    points = answer.doses(scored(), RECORDS, "balanced_accuracy")
    assert points["arm"].tolist() == ["diffusion_quarter", "diffusion"] and points["rows"].tolist() == [10, 40]
    assert set(points["curve"]) == {"diffusion"}
    assert answer.doses(scored(), {a: RECORDS[a] for a in ("oversample", "mixture")}, "balanced_accuracy").empty


def wide(classes=10, broken=()):
    """A verdict with guardrails of so many classes, whose recall changes the more the higher their number."""
    ends = {"ci_low": -0.2, "ci_high": 0.2, "control": [0.5, 0.4, 0.6], "arm": [0.6, 0.5, 0.7]}
    recall = [{"name": f"recall of {c}", "difference": 0.01 * c, "broken": c in broken} | ends for c in range(classes)]
    ece = {"name": "ECE", "difference": 0.0, "ci_low": -0.001, "ci_high": 0.002, "broken": False}
    return VERDICT | {"guardrails": [*VERDICT["guardrails"][:2], ece, *recall]}


def measured(arms=RECORDS):
    rest = {
        f"{m}{e}": 0.8 + d
        for m in ("macro_f1", "macro_auprc", "tempered_ece")
        for e, d in (("", 0), ("_ci_low", -0.01), ("_ci_high", 0.01))
    }
    return {a: values | rest for a, values in scored(arms).items()}


def test_the_digest_shows_guardrails_with_broken_recalls_and_those_that_change_most():
    table = answer.rails_table(wide(broken=[1]), measured(), {str(c): 9 - c for c in range(10)}).set_index("guardrail")
    assert list(table.index[:3]) == ["macro F1", "AUPRC", "ECE"]
    assert [name.split()[2] for name in table.index[3:]] == ["1", "6", "7", "8", "9"]
    assert table.loc["recall of 1 (8 training rows)"].tolist() == [
        "50.0 [40.0, 60.0]",
        "60.0 [50.0, 70.0]",
        "+1.0 [-20.0, +20.0]",
        "yes",
    ]
    assert table.loc["AUPRC"].tolist() == ["0.800 [0.790, 0.810]"] * 2 + ["-0.004 [-0.008, +0.001]", "no"]
    assert answer.rails_table(VERDICT | {"guardrails": []}, measured(), {}).empty


def test_where_no_dose_curve_is_drawn_a_line_says_why(shipped):
    quick = {a: arm for a, arm in shipped.arms.items() if arm.quick}
    line = answer.no_doses(shipped.arms, quick)
    assert line.startswith("No curve: no two arms of this run differ in their dose alone.")
    assert "diffusion_sqrt, diffusion_quarter." in line and "oversample" not in line and "mixture" not in line
    assert "Not trained" not in answer.no_doses(quick, quick)


def test_tuned_thresholds_stand_beside_the_models_own():
    values = scored()
    values["classic"]["tuned_balanced_accuracy"] = 0.95
    table = answer.tuned_table(values, "balanced_accuracy").set_index("arm")
    assert table.loc["classic", "change"] == "+4.0" and table.loc["oversample", "change"] == "+0.0"
    values["classic"] |= dict.fromkeys(("tuned_balanced_accuracy", "tuned_balanced_accuracy_ci_low"))
    assert answer.tuned_table(values, "balanced_accuracy").set_index("arm").loc["classic", "change"] == "n/a"


KEPT = pd.DataFrame(
    {"generator": list("abcd"), "generated": [20] * 4, "kept": [10] * 4, "dropped, by rule": ["copy 10"] * 4}
)


def digest(arms=RECORDS, verdict=VERDICT, **change):
    return html.digest(
        {
            "verdict": verdict,
            "sentence": answer.sentence(verdict, ["NA"]),
            "advice": answer.advice(verdict),
            "beside": answer.beside(verdict, "Cost: 90 s for diffusion.", ["mixup"]),
            "warnings": ["class NA has 4 rows in test: its figures there mean little"],
            "about": {"source": "photos", "image_size": 32},
            "audit": "Audit: 0 rows left out.",
            "leaks": "",
            "openings": "Evaluated under one set of params only.",
            "validation_rows": 150,
            "seeds": 6,
            "confidence": 0.95,
            "arms": answer.arms_table(scored(arms), arms, verdict),
            "rails": answer.rails_table(verdict, measured(arms), {"cat": 12} | {str(c): 9 for c in range(10)}),
            "kept": KEPT,
            "promises": ["private: fitted with differential privacy."],
        }
        | change
    )


def test_the_digest_holds_every_fact():
    text = digest()
    facts = ["# HELPS", answer.sentence(VERDICT, ["NA"]), answer.advice(VERDICT), "**Warning:** class NA has 4 rows"]
    facts += ["photos, 32 px", "800 test rows", "150 validation rows", "6 paired seeds", "95 %", "`00ff`", "mixup"]
    facts += [
        f"| {a} | {said} |"
        for a, said in (("oversample", "control | plain | 0"), ("diffusion", "candidate | plain | 40"))
    ]
    facts += ["| recall of cat (12 training rows) |"]
    facts += [
        "\nAudit: 0 rows left out.\n",
        "<summary>Synthetic rows: 40 of 80 kept</summary>",
        "| a | 20 | 10 | copy 10 |",
    ]
    assert [f for f in facts if f not in text] == []
    assert text.count("<details>") == 2 and text.count("<details open>") == text.count("</details>") - 2 == 1


def test_the_digest_of_a_full_profile_is_short_and_shows_every_arm_that_is_no_control(shipped):
    trained = {a: one for a, one in shipped.arms.items() if one.role != "skip" and one.also != "pool"}
    arms = {a: {"arm": one.model_dump(), "synthetic_rows": {"cat": 9}, "pool_rows": 0} for a, one in trained.items()}
    text = digest(arms, wide(), warnings=["first", "second"])
    assert len(arms) > 20 and len(text.splitlines()) < 60
    for name, one in trained.items():
        assert f"| {name} | {one.role} |" in text or one.role == "control", name
    assert "| oversample | control" in text, "the best control"


def test_the_digest_is_short_however_many_arms_and_warnings_there_are():
    many = {f"arm{i}": record("candidate", "diffusion", added=i) for i in range(25)}
    many |= RECORDS | {f"control{i}": record("control") for i in range(15)}
    long = digest(many, wide(), warnings=[f"warning {i}" for i in range(40)], leaks="The splits leak.")
    assert (
        len(long.splitlines()) < 60
        and "More warnings in the full report: 36." in long
        and re.search(r"intervals, without \w+, \w+, ", long)
    )
    assert "| oversample | control" in long and "| diffusion | candidate" in long, "those of the verdict, though last"
    assert "| control3 |" not in long and "| classic |" not in long
    assert "<details open><summary>Arms" in digest()


def test_a_leak_stands_above_the_verdict_in_the_digest():
    text = digest(leaks="The splits leak: 3 groups.")
    assert text.index("> [!CAUTION]\n> The splits leak: 3 groups.\n\n") < text.index(answer.sentence(VERDICT, ["NA"]))


def test_the_digest_has_a_blank_line_before_every_table_and_list():
    lines = digest(warnings=["first", "second"]).splitlines()
    for before, line in pairwise(lines):
        if line.startswith(("|", ">", "- ")):
            assert before == "" or before[0] == line[0], line
    assert "- **Warning:** first" in lines and "- **Warning:** second" in lines


def test_dose_curves_of_two_recipes_are_two():
    """One line went through the points of both."""
    records = {}
    for recipe in ("mixup", "plain"):
        for name, added in (("few", 10), ("many", 40)):
            records[f"{name}_{recipe}"] = record("candidate", "cvae", recipe=recipe, added=added)
    for name, added in (("some", 5), ("all", 20)):
        records[name] = record("candidate", "gmm", added=added)
    drawn = answer.doses(scored(records), records, "balanced_accuracy")
    assert drawn.groupby("curve")["rows"].apply(list).to_dict() == {
        "cvae, mixup": [10, 40],
        "cvae, plain": [10, 40],
        "gmm": [5, 20],
    }
