"""Looks at the test split are counted. Run: python -m pytest tests/evaluation/test_openings.py"""

from pipeline.evaluation.openings import opened, settings_hash


def test_the_same_settings_count_once_and_others_are_added_in_order():
    first = opened({}, "test", "a")
    assert first == {"test": ["a"]} and opened(first, "test", "a") == first
    assert opened(opened(first, "test", "b"), "test", "a") == {"test": ["a", "b"]}


def test_another_test_split_has_a_count_of_its_own_and_nothing_is_forgotten():
    assert opened({"old": ["a", "b"]}, "new", "a") == {"old": ["a", "b"], "new": ["a"]}


def test_only_what_can_change_a_result_makes_other_settings(shipped):
    shown = shipped.model_copy(update={"report": shipped.report.model_copy(update={"examples": 3})})
    moved = shipped.model_copy(update={"compute": shipped.compute.model_copy(update={"threads": 2})})
    other = shipped.model_copy(update={"seed": shipped.seed + 1})
    assert settings_hash(shown) == settings_hash(moved) == settings_hash(shipped) != settings_hash(other)
