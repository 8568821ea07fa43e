"""The run on other splits of the rows. Run: python -m pytest tests/test_repeat.py"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import repeat

ROOT = Path(__file__).parents[1]
FOUND = {
    "best_control": "real",
    "chosen_arm": "cvae",
    "difference": 0.02,
    "ci_low": 0.0,
    "ci_high": 0.04,
    "verdict": "CANNOT_TELL",
    "reason": "why",
    "synthetic_rows": 9,
    "controls_failed": [],
    "seeds": 6,
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """What the stage copies, in an empty folder; `dvc repro` there is played by `runs`, which notes the params it saw."""
    for name in ("pipeline", "stages", "sets"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(project: Path, **data: object) -> None:
    yaml = YAML(typ="safe")
    raw = yaml.load(project / "params.yaml")
    raw["data"].update(data)
    with (project / "params.yaml").open("w") as file:
        yaml.dump(raw, file)


def played(monkeypatch, found=FOUND) -> list[dict]:
    """Lets the copies be set up by dvc itself, and plays their runs: the params of each, in order."""
    real, seen = repeat.dvc, []

    def dvc(folder: Path, *words: str) -> None:
        if words[0] != "repro":
            real(folder, *words)
            return
        assert words == ("repro", "evaluate")
        seen.append(YAML(typ="safe").load(folder / "params.yaml"))
        for name, text in (
            (f".work/opened/look{len(seen)}.json", {}),
            ("results/evaluation/verdict.json", found),
            ("data/real/about/audit.json", COUNTS),
        ):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_text(json.dumps(text))

    monkeypatch.setattr(repeat, "dvc", dvc)
    return seen


COUNTS = {"counts": {"train": {"a": 30, "b": 6}, "val": {"a": 5, "b": 5}, "test": {"a": 10, "b": 2}}}


def main(shipped, repeats: int, split: int = 0) -> list[dict]:
    params = shipped.model_copy(
        update={
            "evaluation": shipped.evaluation.model_copy(update={"repeats": repeats}),
            "data": shipped.data.model_copy(update={"split": split}),
        }
    )
    repeat.main(
        params,
        *map(
            Path,
            (
                ".work/repeats",
                ".work/opened",
                "results/evaluation",
                "data/real/about",
                "dvc.yaml",
                "pipeline",
                "stages",
                "sets",
                "results/repeats.json",
            ),
        ),
    )
    return json.loads(Path("results/repeats.json").read_text())


def test_one_split_starts_nothing(project, shipped, monkeypatch):
    monkeypatch.setattr(repeat, "dvc", lambda *_: pytest.fail("dvc was started"))
    assert main(shipped, 1) == [] and not Path(".work/repeats").exists()


def test_each_further_split_is_run_once_with_its_number_and_nothing_else_changed(project, shipped, monkeypatch):
    seen = played(monkeypatch)
    found = main(shipped, 3, split=4)
    assert [one["split"] for one in found] == [5, 6]
    assert all(one["difference"] == 0.02 and (one["train_rows"], one["test_rows"]) == (36, 12) for one in found)
    expected = YAML(typ="safe").load(project / "params.yaml")
    expected["data"]["downloads"] = str(project / "downloads")
    for number, raw in zip((5, 6), seen, strict=True):
        expected["data"]["split"] = number
        assert raw == expected
    assert not Path(".work/repeats").exists()
    assert {f.name for f in Path(".work/opened").iterdir()} == {"look1.json", "look2.json"}


def test_the_users_own_folders_are_found_from_the_copy(project, shipped, monkeypatch):
    settings(project, source="my images/scans.csv", unlabelled="/elsewhere/pool")
    seen = played(monkeypatch)
    main(shipped, 2)
    assert seen[0]["data"]["source"] == str(project / "my images/scans.csv")
    assert seen[0]["data"]["unlabelled"] == "/elsewhere/pool"


def test_the_copies_share_the_cache(project, shipped, monkeypatch):
    caches = []
    played(monkeypatch)
    inner = repeat.said

    def said(evaluation: Path, about: Path) -> dict:
        folder = about.parents[2]
        done = subprocess.run(["dvc", "cache", "dir"], cwd=folder, capture_output=True, text=True, check=True)
        caches.append(Path(folder, done.stdout.strip()).resolve())
        return inner(evaluation, about)

    monkeypatch.setattr(repeat, "said", said)
    main(shipped, 2)
    assert caches == [(project / ".dvc" / "cache").resolve()]


def test_a_run_that_fails_stops_the_stage_and_says_where(project, shipped):
    settings(project, image_size=5000)
    told = r"see above, details in \.work/repeats/1/\.work/error-plan\.txt; what it finished"
    with pytest.raises(ValueError, match=rf"`dvc repro evaluate` failed in \.work/repeats/1, {told}"):
        main(shipped, 2)
    assert "image_size" in Path(".work/repeats/1/.work/error-plan.txt").read_text()
    assert not Path("results").exists()


def test_a_project_that_dvc_does_not_know_is_told_in_words(project, shipped):
    """It was a traceback of subprocess."""
    shutil.rmtree(".dvc")
    with pytest.raises(
        ValueError, match=r"(?s)`dvc cache dir` failed, so the copies .+: ERROR: .+; expected a project that dvc knows"
    ):
        main(shipped, 2)


def test_dvc_reports_to_nobody_from_the_copies(project, monkeypatch):
    """`dvc init` in a folder without settings would; it writes here what the process said that it started for that."""
    noted = project / "daemon.txt"
    monkeypatch.setenv("DVC_DAEMON_LOGFILE", str(noted))
    monkeypatch.setenv("DVC_ANALYTICS_ENDPOINT", "http://127.0.0.1:9")
    (project / "bare").mkdir()
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=project / "bare", check=True)
    assert noted.exists(), "otherwise this test would notice nothing"
    noted.unlink()
    repeat.set_up(project / "copy", [Path("dvc.yaml")])
    assert not noted.exists()


def test_what_a_killed_run_had_in_hand_and_had_looked_at_is_not_lost(project, shipped, monkeypatch):
    folder = Path(".work/repeats/1")

    def killed(place: Path, *words: str) -> None:
        if words[0] == "repro":
            for name in (".work/unfinished/models__arms__real/abc/seed0", ".work/opened/00ff-a.json"):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_text("x")
            (place / "half").write_text("x")
            raise SystemExit(143)

    monkeypatch.setattr(repeat, "dvc", killed)
    with pytest.raises(SystemExit):
        main(shipped, 2)
    assert Path(".work/opened/00ff-a.json").exists(), "the look counts"
    seen = []
    monkeypatch.setattr(repeat, "dvc", lambda place, *words: seen.append(sorted(f.name for f in place.iterdir())))
    monkeypatch.setattr(repeat, "said", lambda *_: {})
    state = (folder / ".work/unfinished/models__arms__real/abc/seed0").read_text()
    main(shipped, 2)
    assert state == "x" and ".work" in seen[-1] and "half" not in seen[-1] and not folder.exists()


def test_an_edit_meanwhile_is_not_for_the_splits_that_are_left(project, shipped, monkeypatch):
    seen = played(monkeypatch)
    look = repeat.said

    def edited(*folders):
        text = (project / "params.yaml").read_text().replace("seed: 0", "seed: 7")
        (project / "params.yaml").write_text(text)
        return look(*folders)

    monkeypatch.setattr(repeat, "said", edited)
    main(shipped, 3)
    assert [raw["seed"] for raw in seen] == [0, 0]
