"""Looks at the test split are counted. Run: python -m pytest tests/evaluation/test_openings.py"""

import json

import pytest

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


BROKEN = ["", "{", '{"test": "00ff"}', "[]", '{"test": "00ff", "settings": "a", "at": null}']


@pytest.mark.parametrize("text", BROKEN)
def test_a_look_whose_note_was_cut_short_is_counted_by_its_name(tmp_path, text, caplog):
    """An empty one, of a kill or a full disk, stopped every report."""
    note(tmp_path, "00ff", "b")
    (tmp_path / "00ff-a.json").write_text(text)
    assert set(opened({}, tmp_path, "00ff", "c")["00ff"]) == {"a", "b", "c"}
    assert "00ff-a.json cannot be read" in caplog.text and "00ff-b" not in caplog.text


@pytest.mark.parametrize("text", BROKEN)
def test_a_note_that_cannot_be_read_is_written_again_and_others_stay(tmp_path, text):
    (tmp_path / "00ff-a.json").write_text(text)
    note(tmp_path, "00ff", "a")
    first = (tmp_path / "00ff-a.json").read_text()
    assert {k: v for k, v in json.loads(first).items() if k != "at"} == {"test": "00ff", "settings": "a"}
    note(tmp_path, "00ff", "a")
    assert (tmp_path / "00ff-a.json").read_text() == first and len(list(tmp_path.iterdir())) == 1


def test_a_note_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space"):
        note(tmp_path, "00ff", "a")
    monkeypatch.undo()
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        note(tmp_path, "00ff", "a")
    assert list(tmp_path.glob("*.json")) == []


def test_a_file_that_is_no_note_and_has_no_name_of_one_is_refused_by_name(tmp_path):
    (tmp_path / "stray.json").write_text("")
    with pytest.raises(
        ValueError, match=r"stray\.json is no note of a look at the test split: expected <fingerprint>-"
    ):
        opened({}, tmp_path, "00ff", "a")
