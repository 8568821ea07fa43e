"""A run that is killed again and again ends with the same scores. Run: python -m pytest tests/test_soak.py"""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from signal import SIGKILL, SIGTERM

import pytest

from benchmarks import soak
from stages.__main__ import remove


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


def tiny(params: dict) -> None:
    soak.shrink(params)
    params["augment"].update(views_per_class=12)
    params["classifier"].update(steps=60)
    params["encoder"].update(steps=20)
    params["search"].update(trainings=2, seeds=1)
    params["generators"]["cvae"].update(epochs=60)


MOMENTS = [  # in the midst of the first training, of a generator's, and of the search for copies
    soak.Kill(4, 1.0, "stage", SIGKILL),
    soak.Kill(5, 1.0, "dvc", SIGKILL),
    soak.Kill(7, 1.0, "group", SIGTERM),
]


ELSEWHERE = {"LC_ALL": "C", "LANG": None, "PYTHONUTF8": "0", "PYTHONHASHSEED": "11", "HOME": None, "TZ": "Asia/Tokyo"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run in peace; and one that is killed at three moments, where the locale, the hash seed, the home and the number of
    processes are other ones, and finished. 130 seconds of the processor: most of it is what every stage imports."""
    home = tmp_path_factory.mktemp("runs")
    peace, killed = soak.toy(home / "peace", tiny), soak.toy(home / "in one process", alone)
    (killed / "environment.json").write_text(json.dumps(ELSEWHERE))
    with ThreadPoolExecutor() as pool:
        undisturbed = pool.submit(soak.finish, peace)
        struck = [soak.strike(killed, kill) for kill in MOMENTS]
        undisturbed.result()
    assert all(struck), struck
    soak.finish(killed)
    return peace, killed


def alone(params: dict) -> None:
    tiny(params)
    params["compute"].update(processes=1)


def test_a_run_killed_at_three_moments_in_another_environment_ends_with_the_scores_of_one_that_was_not(runs):
    peace, killed = runs
    assert len(soak.compare(peace, killed, [])) == 0
    assert (killed / soak.SCORES).read_bytes().count(b"\n") > 20


def test_two_runs_at_once_corrupt_nothing(runs):
    """Either may be told that the other is at work; what is left to do is done by the next."""
    peace, killed = runs
    expected = (killed / soak.SCORES).read_bytes()
    for output in ("models/baseline", "models/arms/cvae", "results/evaluation", "reports/scores.csv"):
        remove(peace / output)
    shutil.rmtree(peace / ".dvc" / "cache")
    both = [soak.start(peace) for _ in range(2)]
    try:
        codes = [one.wait(timeout=900) for one in both]
    finally:
        for one in both:
            if one.poll() is None:
                os.killpg(one.pid, SIGKILL)
    said = (peace / "said.txt").read_text()
    busy = ("another process is writing", "another DVC process is running", "is busy, it is being blocked by")
    assert 0 in codes or any(words in said for words in busy), said[-3000:]
    soak.finish(peace)
    assert (peace / soak.SCORES).read_bytes() == expected
    assert not [f for f in (peace / ".work" / "drafts").glob("*") if f.suffix != ".lock"]
