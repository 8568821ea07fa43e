"""The way into every stage, by real processes in a copy of the tree. Run: python -m pytest tests/test_entry.py

The copy has one stage more, `toy`, which does what its first argument says after it has written half of its output.
"""

import fcntl
import json
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pipeline.classifier import predict
from pipeline.classifier.model import Network, Settings
from pipeline.processes import cores
from pipeline.samples import Facts, Samples, table
from stages import __main__ as entry

ROOT = Path(__file__).parents[1]
TOY = """
import fcntl, os, time
from pathlib import Path
from pipeline import processes
from stages import Output

def main(params, act: str, source: Path, out: Output):
    out.mkdir(parents=True)
    (out / "half").write_text("half")
    if act == "value":
        raise ValueError("the toy was given nonsense")
    if act == "disk":
        raise OSError(28, "No space left on the toy")
    if act == "memory":
        raise MemoryError
    if act == "driver":
        raise type("AcceleratorError", (RuntimeError,), {})("CUDA error: all devices are busy or unavailable")
    if act == "gpu":
        class OutOfMemoryError(RuntimeError): pass
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if act == "cublas":
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    if act == "cudnn":
        raise RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED")
    if act == "torch":
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes")
    if act == "bug":
        raise RuntimeError("shapes do not match")
    if act == "library":
        import json
        json.loads("{")
    if act == "read":
        (source / "table").read_text()
    if act == "elsewhere":
        Path("another").read_text()
    if act == "zero":
        1 / 0
    if act == "network":
        from pipeline import devices
        devices.device(params.compute)
    if act == "diverged":
        from pipeline.training import Diverged
        raise Diverged("the loss of the toy is nan")
    if act == "device":
        from pipeline import devices
    if act == "wait":
        Path("ready0").touch()
        time.sleep(60)
    if act == "spread":
        processes.parallel(work, [(0,), (1,)], 2, "toy", 2)
    if act == "killed":
        processes.parallel(die, [(0,), (1,)], 2, "toy", 2)
    (out / "whole").write_text(act)

def work(number, report):
    handle = open(f"worker{number}.lock", "w")
    fcntl.flock(handle, fcntl.LOCK_EX)
    Path(f"ready{number}").touch()
    time.sleep(60)

def die(number, report):
    os.kill(os.getpid(), 9)   # as the kernel does when memory runs out
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the code with the toy stage in it."""
    root = tmp_path_factory.mktemp("tree")
    for folder in ("pipeline", "stages"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", root)
    (root / "stages" / "toy.py").write_text(TOY)
    return root


@pytest.fixture
def run(tree, tmp_path, monkeypatch):
    """A folder to run in, with params.yaml; `run(*arguments)` gives the finished process, `run.start` a live one."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    live = []

    def start(*arguments, command=(sys.executable, "-m", "stages"), stderr=subprocess.PIPE, **options):
        live.append(subprocess.Popen([*command, *arguments], env=environment, stderr=stderr, text=True, **options))
        return live[-1]

    def whole(*arguments):
        process = start(*arguments)
        _, process.said = process.communicate(timeout=60)
        return process

    whole.start = start
    yield whole
    for process in live:
        process.kill()
        process.wait()


def settings(**changes):
    """Change params.yaml here: settings(data__scarce__classes=[...]) sets data.scarce.classes."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    for key, value in changes.items():
        *path, last = key.split("__")
        block = params
        for part in path:
            block = block[part]
        block[last] = value
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def old_output():
    Path("out").mkdir()
    Path("out/old").write_text("old")


def drafts():
    return [f for f in Path(".work/drafts").glob("*") if f.suffix != ".lock"]


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_free(lock):
    """Whether no process holds this lock, so that its holder has ended."""
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


TOY_LOCK = Path(".work/drafts/out.lock")


@pytest.mark.parametrize("arguments", [(), ("nonsense", "a", "b"), ("__main__",), ("../stages/toy",)])
def test_an_unknown_stage_is_answered_with_a_list(run, arguments):
    done = run(*arguments)
    assert done.returncode == 2
    for stage in ("prepare", "fit_generator", "report"):
        assert stage in done.said
    assert "Traceback" not in done.said and not Path(".work").exists()


@pytest.mark.parametrize("arguments", [(), ("good", "in"), ("good", "in", "out", "more")])
def test_a_wrong_number_of_arguments_names_those_expected(run, arguments):
    done = run("toy", *arguments)
    assert done.returncode == 2
    assert f"act, source, out), got {len(arguments)}" in done.said
    assert "Traceback" not in done.said and not Path("out").exists()


def test_success_publishes_and_leaves_no_draft(run):
    old_output()
    done = run("toy", "good", "in", "out")
    assert done.returncode == 0, done.said
    assert sorted(f.name for f in Path("out").iterdir()) == ["half", "whole"], "the old output is replaced as a whole"
    assert drafts() == []
    time_taken = json.loads(Path(".work/times/toy-good.json").read_text())
    assert time_taken["stage"] == "toy-good" and time_taken["seconds"] >= 0
    assert time_taken["device"] == "", "it has no networks"


def test_where_networks_ran_is_noted_beside_the_time(run):
    settings(compute__accelerator="cpu")
    assert run("toy", "device", "in", "out").returncode == 0
    assert json.loads(Path(".work/times/toy-device.json").read_text())["device"] == "cpu"


def test_an_output_may_lie_deep_in_folders_that_do_not_exist_yet(run):
    assert run("toy", "good", "in", "some/where/out").returncode == 0
    assert Path("some/where/out/whole").read_text() == "good"


@pytest.mark.parametrize(
    ("act", "code", "message"),
    [
        ("value", 2, "the toy was given nonsense\n"),
        ("library", 2, "(JSONDecodeError of json; if the input is sound, please report this fault)"),
        ("read", 2, "in is missing; dvc repro makes it, or the stage was given another path\n"),
        ("elsewhere", 3, "No such file or directory: 'another'"),
        ("disk", 3, "No space left on the toy"),
        ("memory", 3, "MemoryError"),
        ("gpu", 3, "out of memory; lower compute.processes"),
        ("cublas", 3, "out of memory; lower compute.processes"),
        ("cudnn", 3, "out of memory; lower compute.processes"),
        ("driver", 3, "the GPU failed"),
        ("torch", 3, "not enough memory: you tried"),
        ("killed", 3, "process"),
        ("diverged", 4, "the loss of the toy is nan"),
    ],
)
def test_a_failed_stage_says_why_and_publishes_nothing(run, act, code, message):
    old_output()
    done = run("toy", act, "in", "out")
    assert done.returncode == code
    assert message in done.said and "Traceback" not in done.said
    assert [f.name for f in Path("out").iterdir()] == ["old"]
    assert drafts() == [] and not Path(".work/times").exists()
    assert "Traceback" in Path(f".work/error-toy-{act}.txt").read_text(), "kept for whoever reports a fault"


def test_what_is_wrong_is_said_though_its_details_cannot_be_written(run):
    settings(seed=-1)
    Path(".work").write_text("a file in the way, as a folder would be that may not be written")
    done = run("check")
    assert done.returncode == 2 and "seed" in done.said and "Traceback" not in done.said
    assert "details in .work/error-check.txt, but for this: File exists" in done.said


@pytest.mark.parametrize(("act", "error"), [("bug", "shapes do not match"), ("zero", "division by zero")])
def test_another_error_is_a_fault_of_ours_and_shows_its_traceback(run, act, error):
    done = run("toy", act, "in", "out")
    assert done.returncode == 1 and "Traceback" in done.said and error in done.said and not Path("out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_asked_for_and_not_there_ends_a_stage_with_3(run):
    settings(compute__accelerator="cuda")
    done = run("toy", "network", "in", "out")
    assert done.returncode == 3 and "compute.accelerator" in done.said and "Traceback" not in done.said


def test_a_folder_that_may_not_be_written_ends_a_stage_with_3(run):
    """Nobody may write there, and root neither: for root its file system is mounted read-only."""
    stage = [sys.executable, "-m", "stages", "toy", "good", "in", "out"]
    Path(".work").mkdir()
    if os.geteuid():
        Path(".work").chmod(0o555)
        process = run.start(command=stage)
    else:
        if subprocess.run(
            ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", ".work"], check=False, capture_output=True
        ).returncode:
            pytest.skip("root that may not mount anything")
        line = f"mount -t tmpfs -o ro tmpfs .work && exec {shlex.join(stage)}"
        process = run.start(line, command=("unshare", "-m", "sh", "-c"))
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 3 and "the machine does not allow it" in said and "Traceback" not in said, said
    assert ".work" in said and not Path("out").exists()


def test_what_an_earlier_run_left_half_written_is_not_published(run):
    left = Path(".work/drafts/out")
    left.mkdir(parents=True)
    (left / "rubbish").write_text("half of something")
    assert run("toy", "good", "in", "out").returncode == 0
    assert not Path("out/rubbish").exists()


def test_a_second_writer_is_refused_while_the_first_writes(run):
    first = run.start("toy", "wait", "in", "out")
    wait_for(Path("ready0").exists)
    second = run("toy", "good", "in", "out")
    assert second.returncode == 3
    assert "another process is writing out" in second.said and "Traceback" not in second.said
    assert not Path("out").exists()
    assert [f.name for f in drafts()] == ["out"], "the first writer's draft is left alone"
    other = run("toy", "good", "in", "elsewhere")
    assert other.returncode == 0, "another output may be written meanwhile"
    first.terminate()
    assert first.wait(30) == 143
    assert run("toy", "good", "in", "out").returncode == 0, "the lock went with its holder"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_stage_with_its_code_and_publishes_nothing(run, number, code):
    old_output()
    process = run.start("toy", "wait", "in", "out", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_for(Path("ready0").exists)  # a shell's background job ignores SIGINT, and so would what pytest starts there
    process.send_signal(number)
    assert process.wait(30) == code
    assert [f.name for f in Path("out").iterdir()] == ["old"] and drafts() == []
    assert "Traceback" not in process.stderr.read()


def test_a_stage_ends_when_the_shell_that_started_it_is_killed(run):
    line = f"{sys.executable} -m stages toy wait in out; true"  # `; true`: the shell stays the parent
    shell = run.start(line, command=("sh", "-c"))
    wait_for(Path("ready0").exists)
    assert not is_free(TOY_LOCK)
    shell.kill()
    wait_for(lambda: is_free(TOY_LOCK), 10)
    assert not Path("out").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_workers_of_a_stage_end_with_it(run, number):
    stage = run.start("toy", "spread", "in", "out", stderr=subprocess.DEVNULL)
    workers = [Path(f"worker{i}.lock") for i in range(2)]
    wait_for(lambda: sum(Path(f"ready{i}").exists() for i in range(2)) >= min(2, cores()))
    stage.send_signal(number)
    assert stage.wait(30) in (143, -signal.SIGKILL)
    wait_for(lambda: all(is_free(w) for w in workers), 10)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"retraining__sead": 3}, ["retraining.sead", "unknown key"]),
        ({"seed": "three", "retraining__seeds": 0}, ["seed", "retraining.seeds", "2 mistakes"]),
        ({"generators__cvae__family": "cvea"}, ["cvea", "no such family", "cvae"]),
    ],
)
def test_mistakes_in_params_are_named(run, changes, named):
    settings(**changes)
    done = run("prepare", "train", "val", "test", "heldback", "pool", "left.csv", "about")
    assert done.returncode == 2
    assert all(n in done.said for n in named), done.said
    assert "Traceback" not in done.said and not Path("train").exists()


@pytest.mark.parametrize("text", [None, "", "seed: [1", "- a\n- b\n", "seed: !!python/object/apply:os.getcwd []\n"])
def test_a_params_file_that_is_none_is_refused(run, text):
    Path("params.yaml").unlink()
    if text is not None:
        Path("params.yaml").write_text(text)
    done = run("prepare", "train", "val", "test", "heldback", "pool", "left.csv", "about")
    assert done.returncode == 2
    assert "params.yaml" in done.said and "Traceback" not in done.said


def test_a_scarce_class_that_does_not_exist_is_answered_with_those_that_do(run):
    settings(data__scarce__classes=["9", "nine"], data__source=str(ROOT / "sets" / "digits.yaml"))
    done = run("prepare", "train", "val", "test", "heldback", "pool", "left.csv", "about")
    assert done.returncode == 2
    assert "['nine']" in done.said and str([str(i) for i in range(10)]) in done.said
    assert "Traceback" not in done.said
    assert not any(Path(n).exists() for n in ("train", "val", "test", "about")) and drafts() == []


def toy_rows(folder, rows=30):
    images = np.random.default_rng(0).integers(0, 256, (rows, 8, 8, 1), dtype=np.uint8)
    names, labels = [f"row{i}" for i in range(rows)], [f"class{i % 3}" for i in range(rows)]
    frame = table(id=names, group=names, label=labels, split=["train"] * rows, origin=["real"] * rows)
    Samples(frame, images, Facts(("class0", "class1", "class2"), ("class2",))).save(folder)


def read_until(process, terminal, word, seconds=60):
    """What a process writes to a terminal, up to a word."""
    text, end = "", time.monotonic() + seconds
    while word not in text:
        assert time.monotonic() < end and process.poll() is None, text
        if select.select([terminal], [], [], 0.5)[0]:
            text += os.read(terminal, 4096).decode(errors="replace")
    return text


FIT = ("fit_generator", "cvae", "plan.json", "train", "pool", "train", "baseline", "models/cvae")


def toy_fit() -> None:
    """What fitting a generator on toy rows needs: the rows, that it is wanted, and a baseline, untrained."""
    toy_rows(Path("train"))
    Path("plan.json").write_text(json.dumps({"wanted": True}))
    rows = Samples.load(Path("train"))
    rows.take(np.empty(0, int)).save(Path("pool"))
    settings = Settings(size=rows.shape[0], channels=rows.shape[2], classes=len(rows.classes), widths=(8, 8), depth=1, fold=1, batch=4,
                        steps=1, lr=0.1, weight_decay=0.1, dropout=0.1, label_smoothing=0.1)  # fmt: skip
    predict.save(Network(settings), settings, Path("baseline/baseline"))


def test_a_signal_in_the_midst_of_training_exits_143_and_publishes_nothing(run):
    """A trainer that catches the signal and returns would let a half-trained model pass for a finished one."""
    toy_fit()
    cvae = yaml.safe_load(Path("params.yaml").read_text())["generators"]["cvae"]
    settings(generators__cvae={**cvae, "epochs": 2000, "width": 8}, compute__accelerator="cpu")
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 150))
    process = run.start(*FIT, stderr=end)
    os.close(end)
    read_until(process, terminal, "loss")  # the bar shows a loss once steps have been taken
    process.terminate()
    said = ""
    with os.fdopen(terminal, "rb", buffering=0) as rest:
        try:
            while part := rest.read(4096):
                said += part.decode(errors="replace")
        except OSError:  # how Linux says that the other end is closed
            pass
    assert process.wait(30) == 143, said
    assert not Path("models").exists() and drafts() == []
    assert "Traceback" not in said


def test_the_same_training_publishes_if_left_alone(run):
    toy_fit()
    cvae = yaml.safe_load(Path("params.yaml").read_text())["generators"]["cvae"]
    settings(generators__cvae={**cvae, "epochs": 2, "width": 8}, compute__accelerator="cpu")
    done = run(*FIT)
    assert done.returncode == 0, done.said
    assert {f.name for f in Path("models/cvae").iterdir()} >= {"generator.json", "curve.json", "weights.safetensors"}
    assert drafts() == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit_generator", "nope", "plan.json", "train", "pool", "train", "baseline", "out"),
        ("augment", "nowhere", "out"),
        ("generate", "cvae", "nowhere", "train", "pool", "models", "found", "out"),
    ],
)
def test_a_name_or_folder_that_does_not_exist_is_said_in_words(run, arguments):
    toy_rows(Path("train"))
    done = run(*arguments)
    assert done.returncode == 2
    assert arguments[1] in done.said and "Traceback" not in done.said


def test_a_stage_without_outputs_leaves_unfinished_work_alone(run):
    """`make repro`, `make doctor`, `make gate` and `make row` begin with one, and removed what every killed stage had."""
    state = Path(".work/unfinished/models__arms__real/abc/seed0")
    state.parent.mkdir(parents=True)
    state.write_text("half of a training")
    shutil.copytree(ROOT / "sets", "sets")
    assert run("check").returncode == 0 and state.read_text() == "half of a training"
    assert run("toy", "good", "in", "out").returncode == 0 and state.exists()


def test_no_number_library_is_there_before_params_say_how_many_threads_it_has():
    """numpy's BLAS takes its number of threads when it is imported: results came to depend on the number of cores."""
    code = "import sys, stages.__main__; sys.exit(any(m in sys.modules for m in ('numpy', 'torch', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_file_that_carries_on_is_never_gone(tmp_path, monkeypatch):
    """It was removed before its successor took its name; killed in between, looks at the test split were forgotten."""
    final, draft = tmp_path / "out.json", tmp_path / "draft"
    final.write_text("before")
    draft.write_text("after")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        entry.publish(draft, final)
    assert final.read_text() == "before"
    entry.publish(draft, final)
    assert final.read_text() == "after"


def test_a_time_that_cannot_be_noted_fails_no_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(".work").write_text("no folder")
    entry.note_time("toy", 1.0, "cpu")
    assert Path(".work").read_text() == "no folder"
