"""Looks at the test split are counted. Run: python -m pytest tests/evaluation/test_openings.py"""

import json

from pipeline.evaluation.openings import note, opened, settings_hash


def test_the_same_settings_count_once_and_others_are_added_in_order(tmp_path):
    first = opened({}, tmp_path, "test", "a")
    assert first == {"test": ["a"]} and opened(first, tmp_path, "test", "a") == first
    assert opened(opened(first, tmp_path, "test", "b"), tmp_path, "test", "a") == {"test": ["a", "b"]}


def test_another_test_split_has_a_count_of_its_own_and_nothing_is_forgotten(tmp_path):
    assert opened({"old": ["a", "b"]}, tmp_path, "new", "a") == {"old": ["a", "b"], "new": ["a"]}


def test_looks_that_no_report_was_made_of_count_in_the_order_they_were_made(tmp_path):
    for settings in ("b", "a", "b", "c"):
        note(tmp_path / "noted", "test", settings)
    note(tmp_path / "noted", "other", "a")
    before = {"test": ["a"]}
    found = opened(before, tmp_path / "noted", "test", "d")
    assert found == {"test": ["a", "b", "c", "d"], "other": ["a"]} and before == {"test": ["a"]}
    assert [json.loads(f.read_text())["settings"] for f in (tmp_path / "noted").glob("other-*")] == ["a"]


def test_only_what_can_change_a_result_makes_other_settings(shipped):
    shown = shipped.model_copy(update={"report": shipped.report.model_copy(update={"examples": 3})})
    moved = shipped.model_copy(update={"compute": shipped.compute.model_copy(update={"threads": 2})})
    other = shipped.model_copy(update={"seed": shipped.seed + 1})
    assert settings_hash(shown) == settings_hash(moved) == settings_hash(shipped) != settings_hash(other)
