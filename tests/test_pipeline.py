"""The whole graph on a toy set, through dvc as a user runs it. Run: python -m pytest tests/test_pipeline.py [-m slow]"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
ARMS = ("real", "duplicate", "cvae", "diffusion")
REPORTS = ("verdict.json", "metrics.json", "scores.csv", "report.md", "report.html", "arms.png")


OFFLINE = """
import pathlib, socket, sys
ASKED = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname")
def refuse(event, given):
    if event not in ASKED or (hasattr(given[0], "family") and given[0].family not in (socket.AF_INET, socket.AF_INET6)):
        return
    said = given[1] if hasattr(given[0], "family") else given[0]  # an address, or a host whose address is asked for
    with open(pathlib.Path(__file__).with_name("calls.txt"), "a") as file:
        file.write(f"{said}\\n")
    raise OSError("no network in tests")
sys.addaudithook(refuse)  # of the interpreter, whatever library of Python it comes from

import atexit, json, os, sys
def note():
    if sys.argv[0].endswith("stages/__main__.py"):
        files = [f for m in list(sys.modules.values()) if (f := getattr(m, "__file__", None))]
        note = {"words": sys.argv[1:], "files": files}
        pathlib.Path(__file__).with_name(f"ran-{os.getpid()}.json").write_text(json.dumps(note))
atexit.register(note)
"""  # what every Python process of the run imports at its start


def run(folder: Path, *command: str, code: int = 0) -> str:
    """Everything the command says; it has no network, and any try to use one is noted in offline/calls.txt.

    Which files a stage has come to import is noted in offline/ran-*.json.
    """
    (folder / "offline").mkdir(exist_ok=True)
    (folder / "offline" / "sitecustomize.py").write_text(OFFLINE)
    env = {**os.environ, "PYTHONPATH": str(folder / "offline")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def edit(folder: Path, change: Callable[[dict], None]) -> None:
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    change(params)
    yaml.dump(params, folder / "params.yaml")


SLANT = "slant; touch owned @ `touch owned`, $(touch owned)"  # what a shell or dvc would make something of
RARE = "two dots"
NA, NUMBER = "NA", "001"  # what a reader of tables would make nothing, or another number of
CLASSES = [NUMBER, NA, SLANT, RARE]
PHOTOGRAPHER, PLACE = "Zebulon Quill", "52 deg 31 min North of Nowhere"  # in one picture's EXIF


def toy_images(folder: Path, test_noise: bool = False) -> None:
    """Three kinds of stripes, 12 px, as train/val/test folders of class folders; one file is no image.

    A fourth class has two rows in train and none elsewhere. One picture tells who took it, and where.
    """
    rng = np.random.default_rng(5)
    for split, counts in {"train": (30, 24, 6), "val": (12, 12, 12), "test": (20, 20, 20)}.items():
        for label, n in zip((NA, NUMBER, SLANT), counts, strict=True):
            (folder / split / label).mkdir(parents=True)
            for i in range(n):
                x, y = np.meshgrid(np.arange(12), np.arange(12))
                wave = {NA: x, NUMBER: y, SLANT: x + y}[label] * 1.3 + rng.uniform(0, 6)
                image = 128 + 60 * np.sin(wave) + rng.normal(0, 30, (12, 12))
                noise = rng.uniform(0, 255, (12, 12))
                pixels = noise if test_noise and split == "test" else image
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / split / label / f"{i:02}.png")
    (folder / "train" / RARE).mkdir()
    for i in range(2):
        dots = rng.uniform(0, 60, (12, 12))
        dots[3:5, 3:5] = dots[7:9, 7 - i : 9 - i] = 255
        Image.fromarray(dots.astype(np.uint8)).save(folder / "train" / RARE / f"{i}.png")
    (folder / "train" / NA / "broken.png").write_bytes(b"<html>not an image</html>")
    told = Image.open(folder / "train" / NUMBER / "00.png")
    told.save(folder / "train" / NUMBER / "00.png", exif=telling())


def telling() -> Image.Exif:
    exif = Image.Exif()
    exif[0x013B], exif[0x010E] = PHOTOGRAPHER, PLACE  # Artist, ImageDescription
    exif.get_ifd(0x8825)[29] = PLACE  # a text among the GPS tags
    return exif


def toy_project(folder: Path) -> Path:
    """A copy of this project with small settings, a git repository and a cache of its own."""
    for name in ("pipeline", "stages", "sets", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    edit(folder, shrink)
    for command in ("init -q", "add -A", "-c user.name=t -c user.email=t@example.org commit -qm start"):
        run(folder, "git", *command.split())
    return folder


def shrink(params: dict) -> None:
    params["data"]["source"] = "toy"
    params["data"]["max_quarantined"] = 0.1
    params["augment"].update(views_per_class=40, views_per_row=[2, 4])
    params["classifier"].update(steps=30, widths=[16])
    params["teachers"]["folds"] = 2
    params["selection"].update(
        unlike=1e6, alike=0.0, third_class=1.0
    )  # hardly trained generators would have every row dropped
    params["retraining"]["seeds"] = 2
    params["search"]["trainings"] = 12
    params["evaluation"]["bootstrap"] = 200
    params["generators"] = {
        k: v for k, v in params["generators"].items() if k in ("nothing", "duplicate", "cvae", "diffusion")
    }
    for name in ("cvae", "diffusion"):
        params["generators"][name].update(epochs=4, width=16)
    params["arms"] = {k: v | {"quick": True} for k, v in params["arms"].items() if k in ARMS}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy project")  # a path with a space
    toy_images(folder / "toy")
    toy_project(folder)
    run(folder, "dvc", "repro")
    return folder


def stale(folder: Path) -> set[str]:
    """Names of the stages that dvc would run again, without what only follows from them."""
    return {
        name
        for name, why in json.loads(run(folder, "dvc", "status", "--json")).items()
        if any(
            "changed deps" not in reason or any(v != "deleted" for v in reason["changed deps"].values())
            for reason in why
        )
    }


def test_reports_hold_what_they_promise(project: Path) -> None:
    reports = project / "reports"
    verdict = json.loads((reports / "verdict.json").read_text())
    assert verdict["verdict"] == "CANNOT_TELL" and "exploratory: 2 paired seeds" in verdict["reason"]
    assert verdict["best_control"] in ("real", "duplicate") and verdict["chosen_arm"] in ("cvae", "diffusion")
    assert verdict["ci_low"] <= verdict["difference"] <= verdict["ci_high"] and verdict["p_value"] in (0.5, 1.0)
    scores = pd.read_csv(reports / "scores.csv", keep_default_na=False, na_values={"value": [""]})
    assert list(scores.columns) == ["arm", "seed", "class", "metric", "value"]
    assert set(scores["arm"]) == set(ARMS) and set(scores["seed"]) == {0, 1}
    assert set(scores["class"]) == {"", *CLASSES}
    macro = scores[(scores["metric"] == "balanced_accuracy") & (scores["class"] == "")]
    assert scores.loc[(scores["class"] == RARE) & (scores["metric"] == "recall"), "value"].isna().all()
    recall = scores[scores["metric"] == "recall"].groupby(["arm", "seed"])["value"].mean()
    np.testing.assert_allclose(macro.set_index(["arm", "seed"])["value"].sort_index(), recall.sort_index())
    metrics = json.loads((reports / "metrics.json").read_text())
    assert metrics["real"]["balanced_accuracy"] == pytest.approx(
        macro[macro["arm"] == "real"]["value"].mean(), abs=1e-6
    )
    page, text = (reports / "report.html").read_text(), (reports / "report.md").read_text()
    for words in (
        "Cannot tell",
        str(escape(SLANT)),
        f"near copies of them: {RARE} (2)",
        "only 3 of 4 classes have test rows",
        "duplicate",
        "Exploratory",
        "1 lines in quarantine.csv",
        "retrain-diffusion",
        "Not checked",
    ):
        assert words in page, words
    assert "http" not in page.replace("http-equiv", "") and page.count("<img ") == page.count('alt="')
    assert len(text.splitlines()) < 60 and "| real | control |" in text
    assert f"commit {run(project, 'git', 'rev-parse', 'HEAD').strip()}</td>" in page, "and nothing has changed since"
    assert all(
        print_of in page for print_of in json.loads((reports / "data.json").read_text())["fingerprints"].values()
    )
    assert not list(project.rglob("owned")), "a class name reached a shell"
    assert not any(str(project) in f.read_text() for f in reports.rglob("*.*") if f.suffix != ".png")


def test_rows_carry_their_history(project: Path) -> None:
    rows = pd.read_parquet(project / "data" / "selected" / "cvae" / "table.parquet")
    assert set(rows["label"]) == {SLANT, RARE} and rows["id"].is_unique and (rows["origin"] == "cvae").all()
    assert ((rows["reason"] == "") == rows["keep"]).all() and rows["distance"].notna().all()
    copies = pd.read_parquet(project / "data" / "selected" / "duplicate" / "table.parquet")
    assert (copies["reason"] == "copy").all()
    reports = project / "reports"
    audit, looks = (json.loads((reports / name).read_text()) for name in ("data.json", "test_opened.json"))
    assert audit["quarantine"] == {"unreadable": 1} and audit["leaking_groups"] == 0 and audit["not_checked"]
    fingerprint = json.loads((reports / "verdict.json").read_text())["test"]["fingerprint"]
    assert list(looks) == [fingerprint] and len(looks[fingerprint]) == 1
    quarantine = pd.read_csv(project / "data" / "real" / "quarantine.csv")
    assert list(quarantine["file"]) == [f"train/{NA}/broken.png"] and list(quarantine["code"]) == ["unreadable"]


def test_classes_called_na_and_001_are_kept_as_text_through_the_whole_run(project: Path) -> None:
    reports = project / "reports"
    for split, counts in {"train": [24, 30, 6, 2], "val": [12, 12, 12, 0], "test": [20, 20, 20, 0]}.items():
        folder = project / "data" / "real" / split
        labels = pd.read_parquet(folder / "table.parquet")["label"]
        assert [int((labels == c).sum()) for c in CLASSES] == counts
        assert json.loads((folder / "facts.json").read_text())["classes"] == CLASSES
    assert json.loads((reports / "data.json").read_text())["classes"] == CLASSES
    recall = pd.read_csv(reports / "plots" / "recall.csv", dtype=str, keep_default_na=False)
    assert set(recall["class"]) == set(CLASSES)
    page, text = (reports / "report.html").read_text(), (reports / "report.md").read_text()
    assert f"<td>{NA}</td>" in page and f"<td>{NUMBER}</td>" in page and "<td>nan</td>" not in page.lower()
    assert f"| recall of {NA} (30 training rows) |" in text
    assert f"| recall of {NUMBER} (24 training rows) |" in text


def told(file: Path) -> bytes:
    """All that a file says: tables as text, and the pictures in a page as they are."""
    if file.suffix == ".parquet":
        return pd.read_parquet(file).to_csv().encode()
    content = file.read_bytes()
    inside = re.findall(rb"base64,([A-Za-z0-9+/=]+)", content) if file.suffix == ".html" else []
    return b"\n".join([content, *(base64.b64decode(picture) for picture in inside)])


def test_what_a_picture_tells_of_its_maker_goes_nowhere(project: Path) -> None:
    picture = project / "toy" / "train" / NUMBER / "00.png"
    words = [PHOTOGRAPHER.encode(), PLACE.encode()]
    assert all(word in picture.read_bytes() for word in words)
    rows = pd.read_parquet(project / "data" / "real" / "train" / "table.parquet")
    assert f"train/{NUMBER}/00.png" in set(rows["source_path"])
    files = [f for folder in ("data/real", "reports") for f in (project / folder).rglob("*") if f.is_file()]
    assert {"images.npy", "table.parquet", "audit.json", "report.html", "arms.png"} <= {f.name for f in files}
    assert [str(f) for f in files if any(word in told(f) for word in words)] == []


def test_no_part_of_the_run_asks_for_the_network(project: Path) -> None:
    one = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
    asked = (
        "socket.socket().connect(('127.0.0.1', 9))",
        f"{one}.sendto(b'', ('127.0.0.1', 8))",
        "socket.getaddrinfo('a.b', 7)",
    )
    for call in asked:
        assert "no network in tests" in run(project, sys.executable, "-c", f"import socket; {call}", code=1)
    calls = project / "offline" / "calls.txt"
    assert calls.read_text().splitlines() == ["('127.0.0.1', 9)", "('127.0.0.1', 8)", "a.b"]
    calls.unlink()


def test_every_stage_ran_no_other_code_than_what_its_plan_holds(project: Path) -> None:
    seen = set()
    for note in (json.loads(f.read_text()) for f in (project / "offline").glob("ran-*.json")):
        stage, first = note["words"][:2]
        if stage in ("plan", "repeat"):
            continue
        plan = json.loads(
            (
                project / "data" / "plan" / stage / f"{first}.json"
                if "/" not in first
                else project / "data" / "plan" / f"{stage}.json"
            ).read_text()
        )
        ran = {Path(f).relative_to(project).as_posix() for f in note["files"] if Path(f).is_relative_to(project)}
        own = {f for f in ran if f.startswith(("pipeline/", "stages/"))}
        seen.add(stage)
        assert f"stages/{stage}.py" in own and own <= plan["code"].keys(), (stage, first)
    assert {"prepare", "train_baseline", "fit_generator", "search", "generate", "retrain", "report"} <= seen


def test_a_changed_template_makes_the_report_again(project: Path) -> None:
    template = project / "pipeline" / "reporting" / "report.md.jinja"
    before = template.read_text()
    try:
        template.write_text(before + "One more line.\n")
        run(project, "dvc", "repro")
        assert (project / "reports" / "report.md").read_text().endswith("One more line.")
    finally:
        template.write_text(before)
        run(project, "dvc", "repro")
    assert not (project / "reports" / "report.md").read_text().endswith("One more line.")


def test_nothing_runs_again_when_nothing_changed(project: Path) -> None:
    assert "Data and pipelines are up to date" in run(project, "dvc", "repro")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: p["arms"]["cvae"].update(dose="quarter"), {"search", "retrain@cvae", "evaluate"}),
        (
            lambda p: p["generators"]["cvae"].update(lr=0.004),
            {"fit_generator@cvae", "search", "generate@cvae", "measure_fidelity", "audit_copies"},
        ),
        (lambda p: p["evaluation"].update(margin=0.02), {"evaluate"}),
        (lambda p: p["report"].update(examples=3), set()),
        (lambda p: p["compute"].update(processes=3), set()),  # what who runs out of memory is told to change
    ],
)
def test_a_change_touches_only_its_own_stages(
    project: Path, change: Callable[[dict], None], expected: set[str]
) -> None:
    """And those three that depend on all of params.yaml; where no other split is asked for, `repeat` has nothing to do."""
    before = (project / "params.yaml").read_text()
    try:
        edit(project, change)
        assert stale(project) == expected | {"plan", "repeat", "report"}
    finally:
        (project / "params.yaml").write_text(before)


def test_a_changed_image_is_noticed(project: Path) -> None:
    file = project / "toy" / "train" / NUMBER / "03.png"
    before = file.read_bytes()
    try:
        Image.fromarray(np.zeros((12, 12), np.uint8)).save(file)
        assert stale(project) == {"prepare", "repeat"}
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p["data"].update(imgsize=3), "data.imgsize: unknown key"),
        (
            lambda p: p["generators"].update(new={"family": "flow", "model": "new"}),
            "new.family is 'flow': no such family",
        ),
        (lambda p: p["arms"]["cvae"].update(rows="gan"), "arms.cvae.rows is 'gan': no such block under generators"),
        (lambda p: p["generators"]["cvae"].update(latnt=3), "generators.cvae (family cvae)"),
        (lambda p: p["data"].update(source="nowhere"), "data.source: 'nowhere' does not exist; expected"),
    ],
)
def test_mistakes_in_params_are_named_before_anything_runs(
    project: Path, change: Callable[[dict], None], words: str
) -> None:
    before = (project / "params.yaml").read_text()
    try:
        edit(project, change)
        said = run(project, sys.executable, "-m", "stages", "check", code=2)
        assert words in said and "Traceback" not in said
    finally:
        (project / "params.yaml").write_text(before)


@pytest.mark.slow
def test_a_forced_second_run_gives_the_same_bytes(project: Path) -> None:
    """But for the wall time, which the two readable reports tell."""

    def told() -> dict[str, list[bytes]]:
        files = [project / "reports" / name for name in REPORTS if name != "report.html"]
        return {f.name: [n for n in f.read_bytes().splitlines() if not n.startswith(b"- Cost: ")] for f in files}

    before = told()
    run(project, "dvc", "repro", "--force")
    assert told() == before and len(before["scores.csv"]) > 1


@pytest.mark.slow
def test_a_report_may_hide_the_real_rows(project: Path) -> None:
    page, before = project / "reports" / "report.html", (project / "params.yaml").read_text()
    shown = ("training rows by class", "<h3>duplicate</h3>", 'alt="dropped, by reason: copy')
    assert all(words in page.read_text() for words in shown)
    edit(project, lambda p: p["report"].update(show_real_images=False))
    try:
        run(project, "dvc", "repro")
        text = page.read_text()
        assert not any(words in text for words in shown)
        assert "<h3>cvae</h3>" in text and "hidden by report.show_real_images" in text
    finally:
        (project / "params.yaml").write_text(before)
        run(project, "dvc", "repro")
    assert all(words in page.read_text() for words in shown)


@pytest.mark.slow
def test_going_back_restores_without_training(project: Path) -> None:
    before, scores = (project / "params.yaml").read_text(), (project / "reports" / "scores.csv").read_bytes()
    edit(project, lambda p: p["arms"]["cvae"].update(dose="quarter"))
    assert "Running stage 'retrain@cvae'" in run(project, "dvc", "repro")
    (project / "params.yaml").write_text(before)
    said = run(project, "dvc", "repro")
    assert "retrain@cvae' is cached" in said and "Running stage 'retrain" not in said
    assert (project / "reports" / "scores.csv").read_bytes() == scores


@pytest.mark.slow
def test_an_experiment_overrides_a_key_and_can_be_compared(project: Path) -> None:
    run(project, "git", "add", "-A")
    run(project, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "run")
    run(project, "dvc", "exp", "run", "-n", "trial", "-S", "generators.diffusion.epochs=3")
    assert "epochs: 3" in (project / "params.yaml").read_text()
    shown = run(project, "dvc", "exp", "show", "--csv")
    assert "trial" in shown and "generators.diffusion.epochs" in shown
    assert "diffusion.balanced_accuracy" in run(project, "dvc", "metrics", "diff", "--all")
    assert "real.macro_f1" in run(project, "dvc", "metrics", "show")
    run(project, "dvc", "plots", "show")
    run(project, "git", "checkout", "-q", "--", ".")


@pytest.mark.slow
def test_another_look_at_the_test_split_is_counted(project: Path) -> None:
    """Once per set of params, also where no report was made of it; and no more when the first come back."""
    reports, before = project / "reports", (project / "params.yaml").read_text()
    fingerprint = json.loads((reports / "verdict.json").read_text())["test"]["fingerprint"]

    def looks() -> list[str]:
        return json.loads((reports / "test_opened.json").read_text())[fingerprint]

    run(project, "dvc", "repro", "--force", "--single-item", "report")  # knows of experiments that git took back
    first = looks()
    try:
        edit(project, lambda p: p["evaluation"].update(bootstrap=260))
        run(project, "dvc", "repro", "evaluate")
        assert looks() == first, "that is what the report knew"
        edit(project, lambda p: p["evaluation"].update(bootstrap=250))
        run(project, "dvc", "repro")
        second = looks()
        assert second[:-2] == first and len(second) == len(set(second)) >= 3
        for name in ("report.html", "report.md"):
            assert f"under {len(second)} different sets of params" in (reports / name).read_text()
    finally:
        (project / "params.yaml").write_text(before)
        run(project, "dvc", "repro")
    assert looks() == second


@pytest.mark.slow
def test_the_run_on_other_splits(tmp_path: Path) -> None:
    """A folder without splits, three of them: each is run as a whole, and a second call trains nothing again."""
    toy_images(tmp_path / "toy")
    for file in sorted((tmp_path / "toy").glob("*/*/*.png")):
        split, label = file.parts[-3:-1]
        if label != RARE and file.name != "broken.png":
            (tmp_path / "all" / label).mkdir(parents=True, exist_ok=True)
            file.rename(tmp_path / "all" / label / f"{split}{file.name}")
    toy_project(tmp_path)
    edit(tmp_path, lambda p: p["data"].update(source="all"))
    edit(tmp_path, lambda p: p["data"]["scarce"].update(below=1.0))
    edit(tmp_path, lambda p: p["evaluation"].update(repeats=3))
    run(tmp_path, "dvc", "repro")
    elsewhere = json.loads((tmp_path / "results" / "repeats.json").read_text())
    verdict = json.loads((tmp_path / "reports" / "verdict.json").read_text())
    assert [s["split"] for s in verdict["repeats"]["splits"]] == [0, 1, 2] and len(elsewhere) == 2
    differences = [verdict["difference"], *(s["difference"] for s in elsewhere)]
    assert verdict["repeats"]["difference"] == pytest.approx(np.mean(differences))
    assert "In the mean over 3 splits of the rows" in (tmp_path / "reports" / "report.md").read_text()
    assert "Other splits" in (tmp_path / "reports" / "report.html").read_text()
    prepared = [f for f in (tmp_path / ".work" / "times").iterdir() if f.stem.startswith("prepare")]
    assert len(prepared) == 1, "the others were made elsewhere"
    said = run(tmp_path, "dvc", "repro", "--single-item", "--force", "repeat")
    assert "retrain real: done" not in said and "is cached - skipping run" in said


@pytest.mark.slow
def test_a_pool_is_labelled_learnt_from_and_reported(tmp_path: Path) -> None:
    toy_images(tmp_path / "toy")
    pool = [f for f in sorted((tmp_path / "toy" / "test").glob("*/*.png")) if int(f.stem) >= 12]
    (tmp_path / "more").mkdir()
    for i, file in enumerate(pool):
        file.rename(tmp_path / "more" / f"{i}.png")
    toy_project(tmp_path)
    shipped = YAML().load(ROOT / "params.yaml")["arms"]
    edit(tmp_path, lambda p: p["data"].update(unlabelled="more"))
    edit(tmp_path, lambda p: p["arms"].update(pool=shipped["pool"], pool_diffusion=shipped["pool_diffusion"]))
    edit(tmp_path, lambda p: p["pool"].update(precision=0.5, least=0.0))
    run(tmp_path, "dvc", "repro")
    account = json.loads((tmp_path / "data" / "selected" / "pool" / "summary.json").read_text())
    records = {a: json.loads((tmp_path / "models" / "arms" / a / "record.json").read_text()) for a in (*ARMS, "pool")}
    kept = sum(c["kept"] for c in account["classes"].values())
    assert account["rows"] == len(pool) == 24 and records["pool"]["pool_rows"] == kept > 0
    assert all(records[a]["pool_rows"] == 0 for a in ARMS)
    arms = json.loads((tmp_path / "reports" / "verdict.json").read_text())["arms"]
    assert {"pool", "pool_diffusion"} & set(arms)
    page = (tmp_path / "reports" / "report.html").read_text()
    assert "Unlabelled pool" in page and f"<td>{kept} of the pool</td>" in page
    assert json.loads((tmp_path / "reports" / "data.json").read_text())["unlabelled"] == 24


@pytest.mark.slow
def test_splits_that_leak_are_refused_or_said_in_red(tmp_path: Path) -> None:
    toy_images(tmp_path / "toy")
    toy_project(tmp_path)
    shutil.copy(tmp_path / "toy" / "train" / NA / "07.png", tmp_path / "toy" / "test" / NA / "again.png")
    said = run(tmp_path, "dvc", "repro", code=255)
    assert f"train/{NA}/07.png" in said and not list((tmp_path / "reports").glob("report.*"))
    edit(tmp_path, lambda p: p["data"].update(allow_leaks=True))
    run(tmp_path, "dvc", "repro")
    page, text = ((tmp_path / "reports" / name).read_text() for name in ("report.html", "report.md"))
    words = "The splits leak: rows of 1 group or (near) duplicate images, 2 in all, stand in more than one split"
    assert f"> [!CAUTION]\n> {words}" in text
    assert f'<p class="leak">{words}' in page and ".leak { background: #a31621" in page


@pytest.mark.slow
def test_the_test_split_reaches_nothing_before_evaluate(project: Path, tmp_path: Path) -> None:
    toy_images(tmp_path / "toy", test_noise=True)
    toy_project(tmp_path)
    run(tmp_path, "dvc", "repro")
    hashes = [
        {name: stage["outs"] for name, stage in YAML(typ="safe").load(folder / "dvc.lock")["stages"].items()}
        for folder in (project, tmp_path)
    ]
    changed = {name for name in hashes[0] if hashes[0][name] != hashes[1][name]}
    assert changed == {"prepare", "evaluate", "report"}
    prepared = [{out["path"]: out["md5"] for out in both["prepare"]} for both in hashes]
    differ = {path for path in prepared[0] if prepared[0][path] != prepared[1][path]}
    assert differ == {
        "data/real/test",
        "data/real/about",
    }  # the audit describes all splits, and only the report reads it
    readers = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].items()
    assert [name for name, stage in readers if "data/real/about" in stage.get("do", stage)["deps"]] == ["report"]


@pytest.mark.slow
def test_no_scarce_class_gives_a_report_that_says_so(project: Path, tmp_path: Path) -> None:
    toy_images(tmp_path / "toy")
    toy_project(tmp_path)
    edit(tmp_path, lambda p: p["data"]["scarce"].update(below=0.0))
    run(tmp_path, "dvc", "repro")
    verdict = json.loads((tmp_path / "reports" / "verdict.json").read_text())
    assert verdict["verdict"] == "CANNOT_TELL" and verdict["sentence"].startswith("Cannot tell: no class is scarce")
    assert "no class is scarce" in (tmp_path / "reports" / "report.md").read_text()
    assert not list((tmp_path / "models" / "generators").rglob("*.safetensors")), (
        "hours of fits from which nothing is drawn"
    )
