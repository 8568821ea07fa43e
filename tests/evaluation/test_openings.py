"""Looks at the test split are counted. Run: python -m pytest tests/evaluation/test_openings.py"""

import os

import pytest

from pipeline.evaluation.openings import note, opened, settings_hash


def test_the_same_settings_count_once_and_others_are_added_in_order(tmp_path):
    first = opened({}, tmp_path, "test", "a")
    assert first == {"test": ["a"]} and opened(first, tmp_path, "test", "a") == first
    assert opened(opened(first, tmp_path, "test", "b"), tmp_path, "test", "a") == {"test": ["a", "b"]}


def test_another_test_split_has_a_count_of_its_own_and_nothing_is_forgotten(tmp_path):
    assert opened({"old": ["a", "b"]}, tmp_path, "new", "a") == {"old": ["a", "b"], "new": ["a"]}


def test_looks_that_no_report_was_made_of_count_in_the_order_they_were_made(tmp_path):
    for time, settings in enumerate(("b", "a", "c")):
        note(tmp_path / "noted", "test", settings)
        os.utime(tmp_path / "noted" / f"test-{settings}.json", (time, time))
    note(tmp_path / "noted", "other", "a")
    before = {"test": ["a"]}
    found = opened(before, tmp_path / "noted", "test", "d")
    assert found == {"test": ["a", "b", "c", "d"], "other": ["a"]} and before == {"test": ["a"]}


def test_only_what_can_change_a_result_makes_other_settings(shipped):
    shown = shipped.model_copy(update={"report": shipped.report.model_copy(update={"examples": 3})})
    moved = shipped.model_copy(update={"compute": shipped.compute.model_copy(update={"threads": 2})})
    other = shipped.model_copy(update={"seed": shipped.seed + 1})
    assert settings_hash(shown) == settings_hash(moved) == settings_hash(shipped) != settings_hash(other)


def test_where_the_data_lie_and_what_a_profile_is_called_make_no_other_settings(shipped):
    """A split that evaluation.repeats had looked at counted again when it was asked for by its number."""
    quick = shipped.model_copy(update={"profile": "quick"})
    assert (
        settings_hash(quick) == settings_hash(shipped) != settings_hash(shipped.model_copy(update={"profile": "full"}))
    )
    here, there, other = (
        shipped.model_copy(update={"data": shipped.data.model_copy(update={"source": source})})
        for source in ("scans", "/data/jo/scans", "other")
    )
    assert settings_hash(here) == settings_hash(there) != settings_hash(other)


def test_a_note_is_counted_by_its_name_whatever_is_in_it(tmp_path):
    """One that was cut short by a kill or a full disk stopped every report."""
    (tmp_path / "00ff-a.json").write_text("{")
    note(tmp_path, "00ff", "a")
    note(tmp_path, "00ff", "b")
    assert set(opened({}, tmp_path, "00ff", "c")["00ff"]) == {"a", "b", "c"}


def test_a_look_at_what_was_looked_at_before_keeps_its_time(tmp_path):
    note(tmp_path, "00ff", "a")
    os.utime(tmp_path / "00ff-a.json", (1, 1))
    note(tmp_path, "00ff", "a")
    assert (tmp_path / "00ff-a.json").stat().st_mtime == 1


def test_a_file_that_is_no_note_and_has_no_name_of_one_is_refused_by_name(tmp_path):
    (tmp_path / "stray.json").write_text("")
    with pytest.raises(
        ValueError, match=r"stray\.json is no note of a look at the test split: expected <fingerprint>-"
    ):
        opened({}, tmp_path, "00ff", "a")
