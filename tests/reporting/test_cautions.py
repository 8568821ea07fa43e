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


def judged(word, gain, negative_word, negative_gain, role="negative", use="shuffled"):
    """A run whose judged arm and one other have these words and differences to the best control."""
    arms = {"cvae": ("candidate", "kept", word, gain), "other": (role, use, negative_word, negative_gain)}
    records = {a: {"arm": {"role": r, "use": u}} for a, (r, u, *_) in arms.items()}
    found = {"best_control": "real", "chosen_arm": "cvae", "verdict": word, "difference": gain}
    found["arms"] = {a: {"verdict": w, "difference": d} for a, (*_, w, d) in arms.items()}
    return SimpleNamespace(records={"real": {"arm": {"role": "control"}}} | records, verdict=found)


def test_a_negative_arm_that_wins_is_told():
    (said,) = cautions.unbeaten(judged("CANNOT_TELL", 0.01, "HELPS", 0.02))
    assert said.startswith("negative arm other HELPS against real, though it is there to be beaten")
    assert said.endswith("need not come from their right labels")
    (said,) = cautions.unbeaten(judged("HELPS", 0.02, "CANNOT_TELL", 0.02, use="all"))
    assert said.startswith("negative arm other is not below cvae (+2.0 and +2.0 points), though")
    assert said.endswith("need not come from their selection")
    (said,) = cautions.unbeaten(judged("HELPS", 0.02, "HELPS", 0.03))
    assert "HELPS against real and is not below cvae (+3.0 and +2.0 points)" in said


@pytest.mark.parametrize("given", [
    ("HELPS", 0.02, "CANNOT_TELL", 0.019),
    ("CANNOT_TELL", 0.01, "CANNOT_TELL", 0.02),
    ("HELPS", 0.02, "HELPS", 0.03, "oracle"),
    ("HELPS", 0.02, "HELPS", 0.03, "candidate"),
])  # fmt: skip
def test_a_negative_arm_that_is_beaten_is_not_told_nor_one_that_is_none(given):
    assert cautions.unbeaten(judged(*given)) == []
