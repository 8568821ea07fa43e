"""What a reader is warned of. Run: python -m pytest tests/reporting/test_cautions.py"""

from types import SimpleNamespace

import pytest

from pipeline.reporting import cautions


@pytest.mark.parametrize(("role", "use", "far", "told"), [
    ("candidate", "all", 6, True),
    ("candidate", "all", 5, False),
    ("candidate", "kept", 6, False),
    ("control", "all", 6, False),
])  # fmt: skip
def test_a_candidate_that_learns_from_all_rows_though_most_are_unlike_real_ones_is_warned_of(
    shipped, role, use, far, told
):
    arm = shipped.arms["private"].model_copy(update={"role": role, "use": use})
    params = shipped.model_copy(update={"profile": "full", "arms": {"mine": arm}})
    classes = {c: {"generated": 5, "dropped": {"unlike": n, "copy": 0}} for c, n in (("a", far - 3), ("b", 3))}
    said = cautions.unlike(SimpleNamespace(params=params, selections={"private": {"classes": classes}}))
    words = f"private: {far} of 10 rows are unlike every real row (selection.unlike), and arm mine learnt from all (use: all)"
    assert said == ([words] if told else [])
    assert cautions.unlike(SimpleNamespace(params=params, selections={})) == []


@pytest.mark.parametrize(("role", "refused"), [("candidate", True), ("control", False)])
def test_a_candidate_that_learns_from_all_rows_of_a_generator_that_copies_is_refused_and_warned_of(
    shipped, role, refused
):
    """With `use: all` it escaped the audit: nothing was refused, and the gate stayed open."""
    arm = shipped.arms["private"].model_copy(update={"role": role, "use": "all"})
    params = shipped.model_copy(update={"profile": "full", "arms": {"mine": arm}})
    summary = {"refused": "why", "classes": {"a": {"generated": 100, "dropped": {"unlike": 0, "copy": 95}}}}
    run = SimpleNamespace(params=params, selections={"private": summary})
    assert cautions.refused(run) == (["private"] if refused else [])
    words = ["private: 95 of 100 rows are copies or nearly so, and arm mine learnt from all (use: all)"]
    assert cautions.unlike(run) == (words if refused else [])


MACHINE = {"python": "3.12.1", "torch": "2.9.0", "device": "cpu, x86_64", "precision": "32-true"}


def compared(**machines):
    """A run whose arms were trained by these machines, `real` by MACHINE."""
    records = {"real": {"machine": MACHINE}} | {a: {"machine": MACHINE | m} for a, m in machines.items()}
    return SimpleNamespace(records=records, verdict={"best_control": "real"})


@pytest.mark.parametrize(("key", "other"), [("device", "cuda, Toy"), ("precision", "bf16-mixed"), ("torch", "2.8.0")])
def test_an_arm_that_another_machine_trained_is_told(key, other):
    (said,) = cautions.unequal(compared(cvae={key: other}, cgan={key: other}, smote={}))
    assert said.startswith(
        f"not trained as the best control real was ({key} {other}, not {MACHINE[key]}): arms cvae, cgan. "
    )
    assert "no comparison between equals" in said and "dvc repro --single-item --force retrain" in said


def test_arms_that_differ_otherwise_stand_in_lines_of_their_own_and_equal_ones_in_none():
    apart = {"device": "cuda, Toy", "torch": "2.8.0"}
    said = cautions.unequal(compared(cvae=apart, cgan={"torch": "2.8.0"}))
    assert ["(device cuda, Toy, not cpu, x86_64; torch 2.8.0, not 2.9.0): arms cvae." in line for line in said] == [
        1,
        0,
    ]
    assert cautions.unequal(compared(cvae={}, cgan={"python": "3.11.0"})) == []


def judged(word, ahead, below, p_value=0.0078, use="shuffled"):
    """A run whose judged arm has this word; a negative arm lies so far `ahead` of the best control, and so far `below` it."""
    gain, over = (
        {"difference": d, "ci_low": d - 0.01, "ci_high": d + 0.01, "p_value": p_value} for d in (ahead, below)
    )
    found = {"best_control": "real", "chosen_arm": "cvae", "verdict": word, "confidence": 0.95}
    found |= {"arms": {"other": gain | {"p_holm": 0.07}}, "over_negative": {"other": over}}
    return SimpleNamespace(records={"other": {"arm": {"use": use, "role": "negative"}}}, verdict=found)


def test_a_best_control_that_knows_nothing_is_told():
    told = {"best_control": "real", "primary_metric": "macro_f1"}
    over = {"difference": 0.012, "ci_low": -0.003, "ci_high": 0.027}
    (said,) = cautions.unlearnt(SimpleNamespace(verdict=told | {"over_constant": over}))
    assert said.startswith(
        "the best control real lies +1.2 [-0.3, +2.7] points of macro F1 above one and the same answer"
    )
    assert cautions.unlearnt(SimpleNamespace(verdict=told | {"over_constant": over | {"ci_low": 0.001}})) == []


def test_a_negative_arm_that_wins_is_told():
    """By its own interval and p: adjusted for the many arms of a full run, no p of eight seeds is small enough."""
    (said,) = cautions.unbeaten(judged("CANNOT_TELL", 0.02, -0.01))
    assert said.startswith(
        "negative arm other is surely ahead of real (+2.0 [+1.0, +3.0] points), though it is there to"
    )
    assert said.endswith("need not come from their right labels")
    (said,) = cautions.unbeaten(judged("HELPS", 0.005, 0.001, use="all"))
    assert said.startswith(
        "negative arm other is not surely below cvae, which lies +0.1 [-0.9, +1.1] points above it, though"
    )
    assert said.endswith("need not come from their selection")
    (said,) = cautions.unbeaten(judged("HELPS", 0.029, 0.001))
    assert "ahead of real (+2.9 [+1.9, +3.9] points) and is not surely below cvae, which" in said


@pytest.mark.parametrize("given", [
    ("HELPS", 0.005, 0.02),
    ("HELPS", 0.02, 0.02, 0.07),
    ("CANNOT_TELL", 0.005, -0.02),
    ("NEUTRAL", -0.02, -0.02),
])  # fmt: skip
def test_a_negative_arm_that_is_beaten_is_not_told(given):
    assert cautions.unbeaten(judged(*given)) == []


def test_a_negative_arm_that_wins_is_told_where_there_is_no_candidate_too():
    run = judged("CANNOT_TELL", 0.02, -0.01)
    run.verdict.update(chosen_arm="", over_negative={})
    (said,) = cautions.unbeaten(run)
    assert said.startswith("negative arm other is surely ahead of real")
