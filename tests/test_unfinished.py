"""A stage that is killed goes on where it was, in real processes. Run: python -m pytest tests/test_unfinished.py"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import checkpoints, params
from pipeline.classifier import predict
from pipeline.classifier.model import Network, Settings
from pipeline.samples import Samples
from stages import Output, _unfinished
from stages.__main__ import play
from stages.augment import write_banks

ROOT = Path(__file__).parents[1]
STEPS, LONGER = 250, 900  # of a classifier, of the generator
FIT = ("fit_generator", "cvae", "plan.json", "train", "pool", "val", "baseline", "models/cvae")
TEACH = ("train_baseline", "train", "val", "views", "models/baseline")


@pytest.fixture
def place(tmp_path, monkeypatch, toy) -> Path:
    """A folder with small params and what the stages before have written; we are in it."""
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["compute"].update(accelerator="cpu", processes=2)
    raw["generators"]["cvae"].update(epochs=LONGER, width=8, batch=32)
    raw["classifier"].update(steps=STEPS, widths=[8], batch=16)
    raw["teachers"]["folds"] = 2
    raw["augment"].update(views_per_class=20, views_per_row=[2, 4])
    Path("params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    rows, held = toy((14, 9, 4)), toy((6, 5, 4), seed=9, split="val")
    rows.save(Path("train"))
    held.save(Path("val"))
    rows.take(np.empty(0, int)).save(Path("pool"))
    write_banks(Path("views"), rows, params.load(), ["standard"])
    Path("plan.json").write_text(json.dumps({"wanted": True}))
    small = Settings(size=8, channels=1, classes=3, widths=(8,), depth=1, fold=1, batch=4, steps=1, lr=0.1,
                     weight_decay=0.1, dropout=0.1, label_smoothing=0.1)  # fmt: skip
    predict.save(Network(small), small, Path("baseline/baseline"))
    return tmp_path


def start(*words: str, seconds: str = "0", largest: int = resource.RLIM_INFINITY) -> subprocess.Popen:
    """A stage that writes its state at every point, in a group of its own; no file may become larger than that."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CHECKPOINT_SECONDS": seconds}

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    command = [sys.executable, "-m", "stages", *words]
    plain = {"start_new_session": True, "preexec_fn": prepare, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=env, **plain)


def whole(*words: str) -> dict[str, bytes]:
    """What a stage publishes if nobody ends it."""
    process = start(*words)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert not list(Path(".work/unfinished").glob("*")), "nothing is kept of what is done"
    return {f.relative_to(words[-1]).as_posix(): f.read_bytes() for f in sorted(Path(words[-1]).rglob("*.*"))}


def states() -> dict[Path, int]:
    """The steps of all states that are kept; os.walk, for a stage that runs may remove a folder meanwhile."""
    files = [Path(folder, name) for folder, _, names in os.walk(".work/unfinished") for name in names]
    found = {f: checkpoints.read(f) for f in files if len(f.parts) == 5 and not f.suffix}
    return {f: state["step"] for f, state in found.items() if state is not None}


def killed(number: int, enough, *words: str) -> int:
    """Ends a stage by this signal when its states are enough; returns how it ended."""
    process, end = start(*words), time.monotonic() + 200
    while not enough(states()):
        if time.monotonic() > end or process.poll() is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(process.communicate()[1])
        time.sleep(0.02)
    process.send_signal(number)
    return process.wait(30)


def begun(found: dict[Path, int], most: int = STEPS) -> bool:
    return any(20 < step < most for step in found.values())


ENDS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}


def test_a_generator_goes_on_to_the_same_bytes(place):
    expected, reached = whole(*FIT), [0]
    shutil.rmtree("models")
    for number, code in ENDS.items():
        assert killed(number, lambda found, last=reached[-1]: max(found.values(), default=0) > last + 20, *FIT) == code
        reached += states().values()
        assert not Path("models").exists()
    assert reached == sorted(set(reached)) and len(reached) == 4 and reached[-1] < LONGER
    assert whole(*FIT) == expected and expected["generator.json"]


def test_networks_that_are_finished_stay_so_and_others_go_on(place):
    expected = whole(*TEACH)
    shutil.rmtree("models")
    assert killed(signal.SIGKILL, begun, *TEACH) == -9
    left = states()  # which may be enough already, before the second listens for signals
    enough = lambda found: STEPS in found.values() and begun(found) and found != left  # noqa: E731
    assert killed(signal.SIGTERM, enough, *TEACH) == 143
    assert STEPS in states().values() and not Path("models").exists()
    assert whole(*TEACH) == expected and {"baseline.safetensors", "held.npy", "curves.json"} <= set(expected)


ENCODE = ("train_encoder", "train", "pool", "views", "models/encoder")
ARM = ("retrain", "oversample", "plan.json", "train", "val", "views", "pool", "pool", "found.json", "models/arms/a")
LABEL = ("label_pool", "train", "val", "spare", "views", "models/baseline", "models/labels")


@pytest.mark.parametrize("words", [ENCODE, ARM, LABEL], ids=lambda words: words[0])
def test_other_stages_that_train_go_on_to_the_same_bytes(place, toy, words):
    changed(place, "encoder", "steps", value=STEPS)
    changed(place, "retraining", "seeds", value=2)
    changed(place, "pool", "least", value=0.0)
    changed(place, "pool", "precision", value=0.01)
    Path("found.json").write_text("{}")
    Path("views/policy.json").write_text("{}")
    if words == LABEL:
        toy((9, 9, 9), seed=5).save(Path("spare"))
        whole(*TEACH)
    expected = whole(*words)
    shutil.rmtree(words[-1])
    assert killed(signal.SIGKILL, begun, *words) == -9
    shutil.copytree(".work/unfinished", "kept")
    for file in states():
        state = checkpoints.read(file)
        for weights in state["module"].values():
            weights *= -1  # a number that is added to all weights of a convolution changes nothing
        checkpoints.write(file, state)
    assert whole(*words) != expected, "it began anew"
    shutil.copytree("kept", ".work/unfinished", dirs_exist_ok=True)
    assert whole(*words) == expected


def test_a_stage_does_not_wait_for_its_workers_to_finish_when_it_is_ended(place):
    """A worker in which Lightning had caught the signal went on to its next job."""
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["classifier"]["steps"] = 200_000
    Path("params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    assert killed(signal.SIGTERM, lambda found: len(found) >= 2, *TEACH) == 143


@pytest.mark.parametrize(("words", "seconds", "largest"), [(FIT, "25", 9_000), (TEACH, "25", 3_000), (FIT, "0", 9_000)])
def test_a_full_disk_is_said_so_and_nothing_is_published(place, words, seconds, largest):
    """Weights that could not be written were an error of safetensors, and so a fault of ours with a traceback."""
    process = start(*words, seconds=seconds, largest=largest)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 3 and "File too large" in said and "Traceback" not in said, said
    assert not Path("models").exists() and not states() and not list(Path(".work").rglob("*.draft"))
    assert not [f for f in Path(".work/drafts").glob("*") if f.suffix != ".lock"]


def asked_for(toy, change: str, number: int) -> None:
    """The stage is asked for something else."""
    if change == "params":
        raw = yaml.safe_load(Path("params.yaml").read_text())
        raw["generators"]["cvae"]["lr"] = 0.001 * (1 + number)
        Path("params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    else:
        toy((14, 9, 4), seed=number).save(Path("train"))


@pytest.mark.parametrize("change", ["params", "rows"])
def test_what_was_trained_for_something_else_waits_until_a_third_thing_is_asked_for(place, toy, change):
    """A long run that was interrupted for a quick one had to begin anew."""
    left: list[Path] = []
    for number in range(3):
        asked_for(toy, change, number)
        assert (
            killed(
                signal.SIGKILL, lambda now, old=tuple(left): begun({f: n for f, n in now.items() if f not in old}), *FIT
            )
            == -9
        )
        left += [f for f in states() if f not in left]
        assert len(left) == number + 1 and len({f.parent for f in left}) == number + 1
    assert set(states()) == set(left[1:])
    assert start(*FIT).wait(120) == 0 and set(states()) == {left[1]}, "what is done is removed, by itself"
    asked_for(toy, change, 1)
    assert whole(*FIT)


def test_the_time_of_a_stage_counts_what_it_had_in_hand_before_it_was_killed(place):
    assert killed(signal.SIGKILL, begun, *FIT) == -9
    (note,), (state,) = Path(".work/unfinished").glob("*/*.json"), states()
    said = json.loads(note.read_text())
    assert said["seconds"] == 0 and 0 < state.stat().st_mtime - said["begun"] < 60
    os.utime(state, (said["begun"] + 5000,) * 2)  # as if it had been killed after so many seconds
    assert whole(*FIT)
    assert 5000 < json.loads(Path(".work/times/fit_generator-cvae.json").read_text())["seconds"] < 5120


def test_each_start_counts_up_to_what_it_kept_last(tmp_path, monkeypatch):
    clock = iter([time_ for now in (100.0, 400.0, 500.0) for time_ in (now, now)])  # each start reads it twice
    monkeypatch.setattr(time, "time", lambda: next(clock))
    work = tmp_path / "home" / "abc"
    assert _unfinished.begin(work) == 0
    work.mkdir()
    (work / "state").touch()
    os.utime(work / "state", (130, 130))
    assert _unfinished.begin(work) == 30
    assert _unfinished.begin(work) == 30, "the second start kept nothing"
    os.utime(work / "state", (507, 507))
    monkeypatch.setattr(time, "time", lambda: 600.0)
    assert _unfinished.begin(work) == 37
    work.with_suffix(".json").write_text('{"seconds"')
    assert _unfinished.begin(work) == 0, "a note that a power cut has torn costs seconds, and not the stage"


# ---- the name of the folder -------------------------------------------------------------------------------------


def name(place: Path, **values) -> Path:
    given = {"name": "cvae", "train": place / "train", "out": place / "out"} | values
    return _unfinished.folder(place / "home", "fit_generator", params.load(place / "params.yaml"), given, ["out"])


def test_the_folder_is_the_same_for_the_same_work(place):
    Samples.load(place / "train").save(place / "again")
    assert name(place) == name(place) == name(place, train=place / "again", out=place / "elsewhere")


def changed(place: Path, *keys: str, value: object) -> None:
    raw = yaml.safe_load((place / "params.yaml").read_text())
    block = raw
    for key in keys[:-1]:
        block = block[key]
    assert block[keys[-1]] != value
    block[keys[-1]] = value
    (place / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))


def copied(place: Path, monkeypatch, file: str) -> None:
    """The code, with a line more in this file."""
    for part in ("pipeline", "stages"):
        shutil.copytree(ROOT / part, place / part)
    shutil.copy(ROOT / "dvc.yaml", place)
    with (place / file).open("a") as handle:
        handle.write("\nMORE = 1\n")
    monkeypatch.setattr(_unfinished, "ROOT", place)


@pytest.mark.parametrize("what", ["a pixel", "a file more", "the name", "a version"])
def test_the_folder_is_another_one_for_other_work(place, monkeypatch, what):
    before, given = name(place), {}
    if what == "a pixel":
        file = place / "train" / "images.npy"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    if what == "a file more":
        (place / "train" / "more").touch()
    if what == "the name":
        given = {"name": "cgan"}
    if what == "a version":
        monkeypatch.setattr(_unfinished, "version", lambda package: "0.0")
    assert name(place, **given) != before


@pytest.mark.parametrize(
    ("keys", "value", "other"),
    [
        (("seed",), 1, True),
        (("generators", "cvae", "lr"), 0.5, True),
        (("selection", "copy_false_alarms"), 0.5, True),
        (("generators", "cgan", "lr"), 0.5, False),
        (("selection", "unlike"), 9.0, False),
        (("retraining", "seeds"), 7, False),
        (("search", "trainings"), 3, False),
    ],
)
def test_only_params_that_a_stage_depends_on_make_its_work_another(place, keys, value, other):
    """Whoever ends a run, asks for fewer seeds and goes on, had to fit half a generator again."""
    before = name(place)
    changed(place, *keys, value=value)
    assert (name(place) != before) == other


def test_a_block_that_there_is_not_is_named(place):
    with pytest.raises(ValueError, match=r"params\.yaml has no generators\.mine; there are: nothing, "):
        name(place, name="mine")


def test_what_a_block_names_counts_too(place):
    """translate draws from the model of diffusion."""
    before = name(place, name="translate")
    changed(place, "generators", "diffusion", "lr", value=0.5)
    assert name(place, name="translate") != before


@pytest.mark.parametrize(
    ("file", "other"),
    [
        ("pipeline/seeds.py", True),
        ("pipeline/generators/cvae.py", True),
        ("stages/fit_generator.py", True),
        ("pipeline/reporting/tables.py", False),
        ("stages/report.py", False),
        ("pipeline/evaluation/verdict.py", False),
    ],
)
def test_only_code_that_a_stage_may_run_makes_its_work_another(place, monkeypatch, file, other):
    before = name(place)
    copied(place, monkeypatch, file)
    assert (name(place) != before) == other


def test_how_many_processes_share_the_work_is_nothing_to_it(place):
    """Who runs out of memory is told to lower it."""
    before = name(place)
    text = (place / "params.yaml").read_text()
    (place / "params.yaml").write_text(text.replace("processes: 2", "processes: 1"))
    assert params.load(place / "params.yaml").compute.processes == 1 and name(place) == before


def test_params_edited_meanwhile_are_told_before_anything_is_published(place):
    """dvc reads them when a stage has ended, and took what it made for a result of the edited ones."""
    process, end = start(*FIT), time.monotonic() + 200
    while not begun(states(), LONGER):
        assert time.monotonic() < end
    asked_for(None, "params", 5)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2 and "generators.cvae in params.yaml: edited while this stage ran" in said, said
    assert not Path("models").exists() and "Traceback" not in said


def test_an_edit_of_what_a_stage_does_not_depend_on_is_none(place):
    process, end = start(*FIT), time.monotonic() + 200
    while not begun(states(), LONGER):
        assert time.monotonic() < end
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["retraining"]["seeds"] = 7
    Path("params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    assert process.wait(120) == 0 and Path("models/cvae/generator.json").exists()


def test_code_edited_meanwhile_is_told_if_the_stage_runs_it(place, monkeypatch):
    copied(place, monkeypatch, "pipeline/generators/cvae.py")
    settled = params.load(place / "params.yaml")
    before = _unfinished.stamps("fit_generator", settled)
    _unfinished.refuse_edits("fit_generator", settled, "cvae", before)
    os.utime(place / "pipeline" / "reporting" / "html.py", (1, 1))
    _unfinished.refuse_edits("fit_generator", settled, "cvae", before)
    os.utime(place / "pipeline" / "generators" / "cvae.py", (1, 1))
    with pytest.raises(ValueError, match=r"pipeline/generators/cvae\.py: edited while this stage ran"):
        _unfinished.refuse_edits("fit_generator", settled, "cvae", before)
    _unfinished.refuse_edits("export", settled, None, before)


def test_a_template_edited_meanwhile_is_told_by_the_report(place, monkeypatch):
    """The plan counted templates among the code, and this did not."""
    copied(place, monkeypatch, "pipeline/generators/cvae.py")
    settled, page = params.load(place / "params.yaml"), place / "pipeline" / "reporting" / "report.md.jinja"
    before = _unfinished.stamps("report", settled)
    os.utime(page, (1, 1))
    with pytest.raises(ValueError, match=r"pipeline/reporting/report\.md\.jinja: edited while this stage ran"):
        _unfinished.refuse_edits("report", settled, None, before)
    _unfinished.refuse_edits("fit_generator", settled, "cvae", before)


def test_an_edit_of_another_family_is_none_for_a_fit_and_one_for_what_depends_on_all(place, monkeypatch):
    """dvc would not have run the fit again; and `repeat` copies all of the code, of which few files were looked at."""
    copied(place, monkeypatch, "pipeline/generators/cvae.py")
    for part in ("stages", "sets"):
        shutil.copytree(ROOT / part, place / part, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    settled = params.load(place / "params.yaml")
    for file, told in (
        ("pipeline/generators/cgan.py", ()),
        ("pipeline/generators/cvae.py", ("fit_generator",)),
        ("sets/none.yaml", ()),
    ):
        before = {stage: _unfinished.stamps(stage, settled) for stage in ("fit_generator", "repeat")}
        os.utime(place / file, (1, 1))
        for stage, name in (("fit_generator", "cvae"), ("repeat", None)):
            if stage == "repeat" or stage in told:
                with pytest.raises(ValueError, match=f"{file}: edited while this stage ran"):
                    _unfinished.refuse_edits(stage, settled, name, before[stage])
            else:
                _unfinished.refuse_edits(stage, settled, name, before[stage])


def test_a_stage_whose_data_is_edited_publishes_nothing(place, monkeypatch):
    copied(place, monkeypatch, "pipeline/data/intake.py")
    changed(place, "data", "source", value="pictures")
    Path("pictures").mkdir()
    (Path("pictures") / "1.png").write_bytes(b"1234")

    def main(params: params.Params, out: Output) -> None:
        out.mkdir(parents=True)
        if (picture := Path("pictures/1.png")).read_bytes() == b"1234":
            picture.write_bytes(b"12345")

    with pytest.raises(ValueError, match=r"pictures/1\.png: edited while this stage ran"):
        play("prepare", main, params.load(), {"out": Path("out")}, {"out": Path("out")})
    assert not Path("out").exists()
    play("prepare", main, params.load(), {"out": Path("out")}, {"out": Path("out")})
    assert Path("out").is_dir()


def test_files_that_nobody_reads_or_that_are_gone_meanwhile_are_no_edits(place, monkeypatch):
    copied(place, monkeypatch, "pipeline/data/intake.py")
    changed(place, "data", "source", value="pictures")
    (place / "pictures" / "cat").mkdir(parents=True)
    (place / "pictures" / "gone").symlink_to("nowhere")
    settled = params.load()
    before = _unfinished.stamps("prepare", settled)
    (place / "pictures" / "cat" / ".DS_Store").touch()
    (place / "pictures" / ".~lock.table.csv#").touch()
    _unfinished.refuse_edits("prepare", settled, None, before)


@pytest.mark.parametrize("key", ["source", "unlabelled"])
@pytest.mark.parametrize("change", ["longer", "new", "gone", "touched"])
def test_data_edited_meanwhile_is_told_by_the_stage_that_reads_it(place, monkeypatch, key, change):
    """dvc hashes the source when `prepare` has ended: rows of the old pictures counted as those of the new ones."""
    copied(place, monkeypatch, "pipeline/data/intake.py")
    data = place / "pictures" / "cat"
    data.mkdir(parents=True)
    for name in ("1.png", "2.png"):
        (data / name).write_bytes(b"1234")
    raw = yaml.safe_load((place / "params.yaml").read_text())
    raw["data"][key] = "pictures"
    (place / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    settled = params.load(place / "params.yaml")
    before, elsewhere = (_unfinished.stamps(stage, settled) for stage in ("prepare", "augment"))
    _unfinished.refuse_edits("prepare", settled, None, before)
    os.utime(data, (1, 1))
    if change == "longer":
        (data / "1.png").write_bytes(b"12345")
    elif change == "new":
        (data / "3.png").write_bytes(b"1234")
    elif change == "gone":
        (data / "1.png").unlink()
    else:
        os.utime(data / "1.png", (1, 1))
    file = "3.png" if change == "new" else "1.png"
    with pytest.raises(ValueError, match=rf"pictures/cat/{file}: edited while this stage ran"):
        _unfinished.refuse_edits("prepare", settled, None, before)
    _unfinished.refuse_edits("augment", settled, None, elsewhere)
