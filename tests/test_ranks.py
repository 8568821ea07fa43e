"""Several ranks come to what one process comes to, in real processes. Run: python -m pytest tests/test_ranks.py"""

import importlib
import inspect
import json
import multiprocessing as mp
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from pipeline import generators, params, ranks, trainer
from pipeline.classifier import predict
from pipeline.classifier.model import Network, Settings
from pipeline.data.loaders import Batches
from pipeline.errors import Diverged
from pipeline.samples import Samples
from stages import _ranks
from stages.__main__ import names
from tests.conftest import toy_samples

ROOT = Path(__file__).parents[1]
FIT = ("fit_generator", "diffusion", "plan.json", "train", "pool", "val", "baseline", "models")
MAKE = ("generate", "diffusion", "plan.json", "train", "pool", "models", "search.json", "made")
JUDGE = ("pseudo_label", "diffusion", "train", "pool", "made", "baseline", "judged")


@pytest.fixture
def place(tmp_path, monkeypatch, toy) -> Iterator[Path]:
    """A folder with small params and what the stages before have written; we are in it."""
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["profile"] = "full"
    raw["compute"].update(accelerator="cpu", precision="32-true", processes=1)
    raw["generators"]["diffusion"].update(epochs=2, width=8, batch=8, lr=0.0002, sampler_steps=3, snapshots=2)
    raw["augment"].update(views_per_class=20, views_per_row=[2, 4])
    raw["teachers"]["folds"] = 2
    raw["generation"].update(cap={"rows": [64, 200], "ratio": [60.0, 1.0]})
    Path("params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    rows, held = toy((90, 9, 4)), toy((6, 5, 4), seed=9, split="val")
    rows.save(Path("train"))
    held.save(Path("val"))
    rows.take(np.empty(0, int)).save(Path("pool"))
    Path("plan.json").write_text(json.dumps({"wanted": True}))
    Path("search.json").write_text("{}")
    small = Settings(size=8, channels=1, classes=3, widths=(8,), depth=1, fold=1, batch=4, steps=1, lr=0.1,
                     weight_decay=0.1, dropout=0.1, label_smoothing=0.1)  # fmt: skip
    torch.manual_seed(0)  # or the baseline, which judges averages that are almost alike, would be another one each time
    for stem in ("baseline/baseline", "baseline/teacher0", "baseline/teacher1"):
        predict.save(Network(small), small, Path(stem))
    logits = predict.run(predict.load(Path("baseline/teacher0")), rows.images, "cpu")[0]
    np.save("baseline/held.npy", predict.probabilities(logits))
    Path("baseline/teachers.json").write_text(json.dumps({"temperatures": [1.0, 1.3]}))
    yield tmp_path
    while LIVE:
        LIVE.pop().kill()


def settings(**compute) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["compute"].update(compute)
    Path("params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "CHECKPOINT_SECONDS": "0", **more}


LIVE: list[subprocess.Popen] = []


def start(*words: str, **more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "stages", *words]
    LIVE.append(subprocess.Popen(command, env=environment(**more), stderr=subprocess.PIPE, text=True))
    return LIVE[-1]


def run(*words: str, devices: int = 1) -> Path:
    """What a stage publishes if so many ranks run it."""
    settings(devices=devices)
    process = start(*words)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert not list(Path(".work/unfinished").glob("*")) and not list(Path(".work/drafts").glob("[!.]*[!k]"))
    kept = Path(f"{words[-1]}-{devices}")
    shutil.copytree(words[-1], kept)
    return kept


def content(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*.*"))}


def test_fitting_drawing_and_judging_come_to_the_same(place):
    alone, shared = run(*FIT), run(*FIT, devices=2)
    one, two = (load_file(folder / "weights.safetensors") for folder in (alone, shared))
    apart = np.concatenate([np.abs(one[k] - two[k]).ravel() for k in one])
    assert one.keys() == two.keys() and apart.mean() < 3e-4 and apart.max() < 3e-3, "AdamW makes steps of rounding"
    curves = [json.loads((folder / "curve.json").read_text()) for folder in (alone, shared)]
    np.testing.assert_allclose(*([p["loss"] for p in curve] for curve in curves), atol=1e-3)
    shutil.rmtree("models")
    shutil.copytree(alone, "models")
    assert content(run(*MAKE)) == content(run(*MAKE, devices=2))
    assert len(Samples.load(Path("made"))) > 128, "more than a chunk a rank"
    assert content(run(*JUDGE)) == content(run(*JUDGE, devices=2))


def members(parent: int) -> dict[str, int]:
    """The processes that a process started as ranks, by their number, which is their order."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            own = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if own and "spawn_main" in (folder / "cmdline").read_text():
                found.append(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
    return {str(rank): pid for rank, pid in enumerate(sorted(found))}


def wait_for(condition, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def long_fit() -> tuple[subprocess.Popen, dict[str, int]]:
    """A fit by two ranks that has begun to train."""
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["generators"]["diffusion"]["epochs"] = 10_000
    raw["compute"]["devices"] = 2
    Path("params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    process = start(*FIT)
    wait_for(lambda: list(Path(".work/unfinished").glob("*/*/*")) or process.poll() is not None)
    return process, members(process.pid)


def gone(pids: dict[str, int]) -> bool:
    return not any(
        Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_text() for pid in pids.values()
    )


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_that_is_killed_ends_the_others(place, rank):
    process, pids = long_fit()
    assert sorted(pids) == ["0", "1"]
    os.kill(pids[rank], signal.SIGKILL)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 3 and f"rank {rank}: the system ended it (signal 9)" in said, said
    assert gone(pids) and not Path("models").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_ranks_end_with_the_stage(place, number, code):
    process, pids = long_fit()
    process.send_signal(number)
    assert process.wait(100) == code
    wait_for(lambda: gone(pids), 30)
    assert not Path("models").exists()


def test_torchrun_may_start_them(place):
    settings(devices=2)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        f"--master-port={_ranks.free_port()}",
        "-m",
        "stages",
    ]
    begun = subprocess.run([*command, *FIT], env=environment(), stderr=subprocess.PIPE, text=True, timeout=300)
    assert begun.returncode == 0, begun.stderr
    assert begun.stderr.count("done in") == 1, "the first alone speaks"
    other = content(Path("models"))
    assert content(run(*FIT, devices=2)) == other


def test_a_batch_that_ranks_cannot_share_is_an_error(place):
    settings(devices=3)
    process = start(*FIT)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 2 and "generators.diffusion.batch is 8, which 3 ranks cannot share alike" in said, said


def test_ranks_that_params_do_not_ask_for_are_refused(place):
    process = start(*FIT, RANK="0", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 2 and "compute.devices is 1 and compute.num_nodes 1, but 2 ranks were started" in said
    settings(num_nodes=2)
    process = start(*FIT)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 2 and "compute.num_nodes is 2, but this is one process; start the stage with" in said


SRUN = {
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_NODEID": "1",
}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, (0, 1, 0, 1, 0)),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, (0, 1, 0, 1, 0)),  # a batch script
        (SRUN, (5, 8, 1, 4, 1)),
        (
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1"},
            (3, 4, 1, 2, 1),
        ),
        ({**SRUN, "RANK": "1", "WORLD_SIZE": "2"}, (1, 2, 1, 2, 0)),
    ],
)
def test_who_started_it_says_which_rank_this_is(told, expected):
    assert ranks.place(told) == expected


@pytest.mark.parametrize("key", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
@pytest.mark.parametrize("said", ["", "first", "-1", "1.0"])
def test_a_rank_that_is_no_number_is_refused_by_name(key, said):
    told = SRUN if "SLURM" in key else {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    with pytest.raises(ValueError, match=f"{key} is {said!r} in the environment; expected a whole number"):
        ranks.place({**told, key: said})


def test_every_stage_can_be_asked_whether_ranks_help_it():
    """`search` had a function of the name `ranked` that was another thing, and ended in a TypeError."""
    asked = {}
    for stage in names():
        function = getattr(importlib.import_module(f"stages.{stage}"), "ranked", None)
        if function is not None:
            asked[stage] = list(inspect.signature(function).parameters)
    assert asked == {stage: ["params", "values"] for stage in ("fit_generator", "generate", "pseudo_label")}


def test_two_stages_do_not_have_all_gpus_at_once(monkeypatch, tmp_path):
    """`make repro` fits several generators side by side, each with as many ranks as there are GPUs."""
    monkeypatch.chdir(tmp_path)
    at_work, seen = threading.Semaphore(0), []

    def together(argv, count):
        seen.append(argv)
        assert not at_work.acquire(timeout=0.3), "the other one was at work too"
        return 0

    monkeypatch.setattr(_ranks, "together", together)
    both = [threading.Thread(target=_ranks.start, args=([name], 2)) for name in ("one", "two")]
    for one in both:
        one.start()
    for one in both:
        one.join(10)
    assert sorted(seen) == [["one"], ["two"]]


def test_the_process_that_starts_ranks_is_none_itself(monkeypatch, tmp_path):
    """Its own error would else be written over that of the last rank."""
    monkeypatch.chdir(tmp_path)
    process = MagicMock()
    monkeypatch.setattr(_ranks.mp, "get_context", lambda _: MagicMock(Process=process))
    monkeypatch.setattr(_ranks, "first_failure", lambda begun: 7 * ("RANK" not in os.environ))
    before = dict(os.environ)
    assert _ranks.start(["plan"], 2) == 7 and dict(os.environ) == before
    told = [call.kwargs["args"][1] for call in process.call_args_list]
    assert [one["RANK"] for one in told] == [one["LOCAL_RANK"] for one in told] == ["0", "1"]
    assert all(one["WORLD_SIZE"] == one["LOCAL_WORLD_SIZE"] == "2" for one in told)


def test_a_rank_that_cannot_be_started_ends_the_others_and_is_told_as_it_is(monkeypatch, tmp_path):
    """One that was never started cannot be ended, and that error stood in the place of the first."""
    monkeypatch.chdir(tmp_path)
    first, second = MagicMock(), MagicMock()
    second.start.side_effect = OSError("no more processes")
    second.terminate.side_effect = AttributeError
    monkeypatch.setattr(_ranks.mp, "get_context", lambda _: MagicMock(Process=MagicMock(side_effect=[first, second])))
    with pytest.raises(OSError, match="no more processes"):
        _ranks.start(["plan"], 2)
    assert first.terminate.called and first.join.called


def test_a_training_of_one_process_does_not_ask_slurm(monkeypatch):
    """In a batch script of several tasks Lightning refused to train, and elsewhere asked for the job to be queued again."""
    from lightning.fabric.plugins.environments import LightningEnvironment

    monkeypatch.setenv("SLURM_JOB_NAME", "batch")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    player = trainer.build(torch.device("cpu"), "32-true")
    assert isinstance(player._accelerator_connector.cluster_environment, LightningEnvironment)


def test_unequal_machines_are_refused():
    with pytest.raises(ValueError, match="8 tasks on 3 nodes"):
        ranks.place({**SRUN, "SLURM_STEP_NUM_NODES": "3"})


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 640, 1001])
@pytest.mark.parametrize("world", [1, 2, 4, 7])
def test_ranks_share_rows_by_whole_chunks(monkeypatch, rows, world):
    monkeypatch.setattr(ranks, "_here", ranks.Place(0, world))
    spans = [ranks.span(rows, 64, rank) for rank in range(world)]
    assert [i for span in spans for i in range(rows)[span]] == list(range(rows))
    assert all(span.start % 64 == 0 or span.start == rows for span in spans)
    sizes = [-(-len(range(rows)[span]) // 64) for span in spans]
    assert max(sizes) - min(sizes) <= 1


def test_auto_is_the_number_of_gpus(monkeypatch, compute):

    assert _ranks.wanted(compute.model_copy(update={"devices": "auto"})) == 1, "on a CPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    cuda = compute.model_copy(update={"accelerator": "cuda", "devices": "auto"})
    assert _ranks.wanted(cuda) == 3 and _ranks.wanted(cuda.model_copy(update={"devices": 2})) == 2


def one_of_two(rank: int, port: int, told: Any) -> None:
    """Fits every family that trains a network, and one on a batch in which a row of rank 1 is no number; tells what came."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    ranks.begin(ranks.place(os.environ), False)
    shipped, get, found = params.load(ROOT / "params.yaml"), Batches.__getitem__, {}
    compute = shipped.compute.model_copy(update={"accelerator": "cpu", "precision": "32-true"})
    for family, times in [("cvae", 0), ("cgan", 0), ("autoregressive", 0), ("diffusion", 1), ("diffusion", 2)]:
        left = [times]

        def spoilt(self, step, left=left):
            x, *more = get(self, step)
            if step == 5 and left[0]:
                left[0] -= 1
                x[1] = float("nan")
            return (x, *more)

        Batches.__getitem__ = spoilt
        block = params.Generator(**(shipped.generators[family].model_dump() | {"epochs": 3, "batch": 8, "width": 8}))
        model = generators.build(block, compute, family)
        try:
            model.fit(toy_samples(), 1)
            weights = [t.double().sum().item() for t in model.networks[0].state_dict().values()]
            found[family, times] = (weights, model.slowed)
        except Diverged as error:
            found[family, times] = str(error)
    told.put((rank, found))
    ranks.end()


def test_every_family_trains_and_diverges_alike_on_all_ranks():
    context = mp.get_context("spawn")
    told, port = context.SimpleQueue(), _ranks.free_port()
    begun = [context.Process(target=one_of_two, args=(rank, port, told)) for rank in range(2)]
    for process in begun:
        process.start()
    assert _ranks.first_failure(begun) == 0
    found = dict(told.get() for _ in begun)
    assert found[0] == found[1]
    assert {key: said[1] for key, said in found[0].items() if key[1] < 2} == {
        ("cvae", 0): False,
        ("cgan", 0): False,
        ("autoregressive", 0): False,
        ("diffusion", 1): True,
    }
    assert all(np.isfinite(said[0]).all() for key, said in found[0].items() if key[1] < 2)
    assert found[0]["diffusion", 2].startswith("the loss of Adversaries is nan by step 6")


def test_each_rank_has_a_gpu_of_its_own_or_it_is_an_error(monkeypatch, compute):

    from pipeline.devices import device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    cuda = compute.model_copy(update={"accelerator": "cuda"})
    monkeypatch.setattr(ranks, "_here", ranks.Place(6, 8, 2, 4, 1))
    assert str(device(cuda)) == "cuda:2"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(OSError, match="4 ranks on this machine see 1 GPUs"):
        device(cuda)
