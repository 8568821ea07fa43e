"""A run that is killed again and again ends with the same scores. Run: python -m pytest tests/test_soak.py [-m slow]"""

import pytest

from benchmarks import soak


def test_the_same_seed_kills_at_the_same_moments_in_all_ways():
    kills = soak.plan(30, 0)
    assert kills == soak.plan(30, 0) != soak.plan(30, 1)
    assert {kill.target for kill in kills} == set(soak.TARGETS) and {kill.number for kill in kills} == set(soak.SIGNALS)


def test_a_run_with_other_scores_is_found_out(tmp_path, monkeypatch):
    for name, text in {"peace": "1", "killed": "2"}.items():
        (tmp_path / name / soak.SCORES.parent).mkdir(parents=True)
        (tmp_path / name / soak.SCORES).write_text(text)
    monkeypatch.setattr(soak, "strike", lambda folder, kill: "prepare")
    monkeypatch.setattr(soak, "finish", lambda folder: None)
    with pytest.raises(RuntimeError, match=r"after 3 kills reports/scores\.csv is not what it is without"):
        soak.compare(tmp_path / "peace", tmp_path / "killed", soak.plan(3, 0))
    (tmp_path / "killed" / soak.SCORES).write_text("1")
    assert len(soak.compare(tmp_path / "peace", tmp_path / "killed", soak.plan(3, 0))) == 3


@pytest.mark.slow
def test_three_kills_change_no_score(tmp_path):
    soak.finish(soak.toy(tmp_path / "peace"))
    struck = soak.compare(tmp_path / "peace", soak.toy(tmp_path / "killed"), soak.plan(3, 1))
    assert len(struck) == 3
