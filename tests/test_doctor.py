"""What doctor says before a run, by its words and its exit code. Run: python -m pytest tests/test_doctor.py"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from pipeline import devices, generators, processes
from pipeline.classifier.model import Settings
from pipeline.params import Params, borrowing, load
from pipeline.samples import Samples
from stages import _pace, augment, doctor, generate, prepare

ROOT = Path(__file__).parents[1]
SMALL = {"channels": 1, "classes": 3, "widths": (8, 16), "depth": 1, "fold": 1, "batch": 16, "steps": 9, "lr": 0.01,
         "weight_decay": 0.05, "dropout": 0.1, "label_smoothing": 0.05}  # fmt: skip
PLACES = (Path("."), Path("data/real/about"), Path("requirements.lock"), Path(".work/params.before.yaml"))


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The project without its code, as a dvc repository outside of git; it is also the working directory."""
    for name in ("pipeline", "stages"):  # what the stage plan depends on
        (tmp_path / name).mkdir()
    shutil.copytree(ROOT / "sets", tmp_path / "sets")
    for name in ("dvc.yaml", "params.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ask(project, capsys, monkeypatch):
    """`ask(data__image_size=64)` is what is said with these keys changed, and the error, None if a run can start."""

    monkeypatch.setattr(_pace, "pace", lambda *_: 0.01)
    monkeypatch.setattr(_pace, "lanes", lambda _: 4)
    monkeypatch.setattr(_pace, "tried", lambda *_: (0.02, 0.01))

    def run(**changes) -> tuple[str, Exception | None]:
        raw = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
        for key, value in changes.items():
            *path, last = key.split("__")
            block = raw
            for part in path:
                block = block[part]
            block[last] = value
        with (project / "params.yaml").open("w") as file:
            YAML(typ="safe").dump(raw, file)
        try:
            doctor.main(load(project / "params.yaml"), *PLACES)
        except (ValueError, OSError) as error:
            return capsys.readouterr().out, error
        return capsys.readouterr().out, None

    return run


def class_folders(root: Path, **counts: int) -> str:
    for name, n in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(n):
            Image.new("L", (40, 40)).save(root / name / f"{i}.png")
    return str(root)


def test_the_shipped_params_can_start(ask):
    said, error = ask()
    assert error is None and said.endswith("a run can start: make repro\n") and "wrong" not in said
    assert f"torch {torch.__version__}" in said and "profile quick: 11 arms x 8 seeds" in said
    assert "1238 rows (counted, no picture opened), 288 to train on, 10 classes" in said and "8 px" in said
    assert "672 steps of 32 rows a seed, 59136 in all arms" in said
    assert "training all arms will take about 2 minutes (by steps of 10 ms, tried just now)\n" in said
    fitted = "fitting cgan, cvae, diffusion will take about 60 seconds, drawing their rows 8 seconds (tried just now)"
    assert fitted in said, "the longest waits for none, and others end beside it"
    assert "stages are not up to date: plan, prepare" in said
    assert not Path("data").exists() and not Path(".work").exists(), "it changes nothing"


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [("nowhere", 2, "'nowhere' does not exist; expected"), ("sets/digits.yaml", 0, "can start")],
)
def test_the_exit_code_is_that_of_a_stage(project, source, code, says):
    raw = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    raw["data"]["source"] = source
    with (project / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(raw, file)
    command = [sys.executable, "-m", "stages", "doctor", *map(str, PLACES)]
    for folder in ("pipeline", "stages"):
        (project / folder).rmdir()  # else they would be taken for the code
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code and says in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_a_source_that_cannot_be_read_is_wrong_and_dvc_is_not_asked_about_it(ask):
    said, error = ask(data__source="nowhere")
    assert isinstance(error, ValueError) and "does not exist" in str(error)
    assert "\nwrong\n" in said and "up to date" not in said and "rows are not known" in said


def test_a_pipe_in_the_source_is_wrong_and_nothing_waits_for_it(ask, project):
    source = class_folders(project / "toy", a=3, b=3)
    os.mkfifo(project / "toy" / "a" / "x.png")
    said, error = ask(data__source=source)
    assert isinstance(error, ValueError) and "neither a file nor a folder" in str(error) and "up to date" not in said


def test_notes_that_dvc_left_half_written_are_told_and_left(ask, project):
    notes = project / ".dvc" / "tmp" / "rwlock"
    notes.parent.mkdir(parents=True, exist_ok=True)
    notes.write_text('{"data/real": {"wri')
    said, error = ask()
    assert error is None and "a dvc was killed while it wrote .dvc/tmp/rwlock" in said
    assert notes.read_text() == '{"data/real": {"wri', "a doctor changes nothing"


def test_a_record_that_dvc_left_half_written_is_told_and_left(ask, project):
    (project / "dvc.lock").write_text("schema: '2.0'\nstages:\n  plan:\n    cmd: x\n    deps:\n    - ")
    said, error = ask()
    assert error is None and "a dvc was killed while it wrote dvc.lock, and none runs before make repro" in said
    assert (project / "dvc.lock").read_text().endswith("deps:\n    - ")


def test_a_folder_that_cannot_be_written_is_wrong(ask, monkeypatch):
    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    _, error = ask()
    assert isinstance(error, OSError) and "this folder cannot be written (Read-only file system)" in str(error)


def test_a_disk_with_too_little_room_is_wrong(ask, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    _, error = ask()
    assert isinstance(error, OSError) and "1.0 MB of disk are free" in str(error)


def test_a_device_that_is_not_there_is_wrong(ask, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _, error = ask(compute__accelerator="cuda")
    assert isinstance(error, OSError) and "finds no such device here" in str(error)


@pytest.mark.parametrize("accelerator", ["auto", "cuda"])
def test_a_gpu_whose_driver_is_too_old_is_wrong(ask, monkeypatch, accelerator):
    """torch counts it and cannot use it; on a CPU the run goes on."""

    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", init)
    _, error = ask(compute__accelerator=accelerator)
    assert isinstance(error, OSError) and "there is a GPU, but torch" in str(error) and "driver on your" in str(error)
    assert ask(compute__accelerator="cpu")[1] is None


def test_a_folder_that_dvc_does_not_know_is_wrong(ask, project):
    shutil.rmtree(project / ".dvc")
    _, error = ask()
    assert isinstance(error, OSError) and "dvc cannot work here" in str(error)


def test_what_would_be_slow_is_said(ask, project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "fast_bf16", lambda: False)
    monkeypatch.setattr(doctor, "MANY", 10)
    source = class_folders(project / "toy", a=20, b=8)
    said, error = ask(data__source=source, data__image_size=64, compute__precision="bf16-mixed", evaluation__repeats=3)
    assert error is None
    for words in (
        "pictures of 64 px without a GPU",
        "which is the slower on this CPU",
        "24 arms x 8 seeds and a search of up to 116 trainings; make quick has fewer",
        "the whole run 3 times",
        "28 rows, of which two cores read",
    ):
        assert words in said, words


def test_the_search_waits_for_each_trial_however_many_cores_there_are(ask):
    """24 arms of 8 seeds and 116 trainings of 672 steps, 10 ms each: four at a time, and two at a time."""
    said, _ = ask(profile="full")
    assert (
        "all arms will take about 5 minutes, those of make quick 2 minutes, and the search at most 6 minutes (by steps"
        in said
    )
    assert _pace.spelt(99.4) == "99 seconds" and _pace.spelt(7199) == "120 minutes" and _pace.spelt(9000) == "2.5 hours"


def test_steps_are_tried_in_earnest(shipped):
    small, large = (Settings(**SMALL | {"size": n}) for n in (8, 32))
    alone = shipped.model_copy(update={"compute": shipped.compute.model_copy(update={"processes": 1})})
    assert 0 < _pace.pace(alone, small, 0.2) < _pace.pace(alone, large, 0.2) < 10
    assert _pace.lanes(alone) == 1 and _pace.lanes(shipped) == processes.cores()


def test_a_generator_is_tried_in_earnest(shipped):
    """Steps of fitting and rows to draw, with the options that it has; one that draws from another's model needs no fit."""
    for name, side in (("cvae", 8), ("translate", 12)):
        step, row = _pace.tried(shipped, borrowing(shipped.generators, name), name, (side, side, 1), 3)
        assert 0 < row < step < 10
    said = _pace.making(shipped, np.array([40, 8, 5]), 64, Settings(**SMALL | {"size": 8}))
    assert said.startswith("fitting cvae, cgan, diffusion will take about ")
    none = shipped.model_copy(update={"arms": {n: arm for n, arm in shipped.arms.items() if arm.role == "control"}})
    assert _pace.making(none, np.array([40, 8, 5]), 64, Settings(**SMALL | {"size": 8})) == ""


def test_nothing_of_the_shipped_run_is_slow(ask, monkeypatch):
    monkeypatch.setattr(doctor, "cores", lambda: 2)
    assert "\nslow\n" not in ask()[0]


def test_rows_are_counted_as_splits_will_be_cut(ask, project):
    said, _ = ask(data__source=class_folders(project / "toy", a=40, b=8))
    assert (
        f"48 rows (counted, no picture opened), {round(40 * 0.75 * 0.85) + round(8 * 0.75 * 0.85)} to train on" in said
    )


def test_that_no_class_is_scarce_is_told_before_the_run(ask, project):
    said, error = ask(data__source=class_folders(project / "toy", a=40, b=40))
    assert error is None and "no class is scarce by data.scarce: nothing is generated" in said
    assert "no class is scarce" not in ask()[0]


def test_a_source_without_training_rows_is_wrong_in_words(ask, project):
    for split in ("val", "test"):
        class_folders(project / "toy" / split, a=3, b=3)
    said, _ = ask(data__source=str(project / "toy"))
    assert "has no training rows, for it gives all to val or test" in said and "max()" not in said


def test_a_run_of_make_quick_that_was_killed_is_told(ask, project):
    (project / ".work").mkdir()
    (project / ".work" / "params.before.yaml").touch()
    assert "a make quick was killed" in ask()[0]


@pytest.fixture(scope="module")
def made(shipped: Params, tmp_path_factory) -> Path:
    """What prepare, augment and one generator write in the default run."""
    folder = tmp_path_factory.mktemp("run")
    real = [
        folder / "real" / name for name in ("train", "val", "test", "heldback", "unlabelled", "quarantine.csv", "about")
    ]
    real[0].parent.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        prepare.main(shipped, *real)
    augment.main(shipped, real[0], real[3], folder / "views", folder / "heldback")
    model = generators.build(shipped.generators["duplicate"], shipped.compute, "duplicate")
    model.fit(Samples.load(real[0]), 0)
    model.save(folder / "model")
    (folder / "plan.json").write_text('{"wanted": true}')
    (folder / "search.json").write_text("{}")
    files = (folder / "plan.json", real[0], real[4], folder / "model", folder / "search.json")
    generate.main(shipped, "duplicate", *files, folder / "synthetic")
    return folder


def test_the_estimate_is_what_the_stages_write(made, shipped):
    data = doctor.known(shipped, made / "real" / "about" / "audit.json")
    needed = doctor.needs(shipped, data)
    views = [np.load(made / "views" / kind / "views.npy", mmap_mode="r", allow_pickle=False) for kind in augment.KINDS]
    assert needed["their views"] == sum(bank.nbytes for bank in views)
    assert needed["rows"] == sum(Samples.load(made / "real" / s).images.nbytes for s in ("train", "val", "test"))
    making = len(shipped.made) - 1  # all but `nothing`
    assert needed["synthetic rows"] == 2 * making * Samples.load(made / "synthetic").images.nbytes
    *parts, copy = needed.values()
    assert copy == sum(parts)


def test_what_prepare_found_is_taken_before_a_count_and_only_for_its_source(made, shipped):
    record = made / "real" / "about" / "audit.json"
    assert doctor.known(shipped, record).told == "as prepare found it"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        counted = doctor.known(shipped, made / "nothing.json")
        other = shipped.data.model_copy(update={"source": "sets/fashion_mnist.yaml"})
        assert doctor.known(shipped.model_copy(update={"data": other}), record) is None, "it would have to be fetched"
        old = made / "old.json"
        old.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "asked"}))
        assert doctor.known(shipped, old).told == "counted, no picture opened", (
            "of a version that did not say what was asked"
        )
        for change in ({"image_size": 16}, {"heldback": 0.2}):
            changed = shipped.model_copy(update={"data": shipped.data.model_copy(update=change)})
            assert doctor.known(changed, record).told == "counted, no picture opened", "of other params than these"
    assert counted[:4] == doctor.known(shipped, record)[:4] and counted.told == "counted, no picture opened"
