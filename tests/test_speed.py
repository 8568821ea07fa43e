"""The measurements of speed run, on tiny sizes and without the peer. Run: python -m pytest tests/test_speed.py"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from benchmarks import growth, loop, rounds, speed, whole
from benchmarks.timed import sitecustomize

ROOT = Path(__file__).parents[1]


def test_rounds_turn_their_order_and_the_first_does_not_count():
    ran = []
    variants = {name: lambda name=name: ran.append(name) or float(len(ran)) for name in "abc"}
    found = rounds.measure(variants, 2)
    assert "".join(ran) == "abc" + "abc" + "bca"
    assert found == {"a": [4, 9], "b": [5, 7], "c": [6, 8]}
    assert rounds.best(found, ["a", "b"]) == "a"


def test_ratios_are_taken_within_a_round():
    ratio = rounds.Ratio.of([2, 30, 8], [1, 10, 2])
    assert ratio == (3, 2, 4) and ratio.said(1) == "3.0 [2.0, 4.0]"


def test_a_process_keeps_its_state_and_tells_of_a_failure(tmp_path):
    (tmp_path / "only_there.py").write_text("def name():\n    return __name__\n")
    with rounds.Process(tmp_path) as one:
        assert one(eval, "__import__('only_there').name()") == "only_there"
        assert one(eval, "__import__('os').environ['OMP_NUM_THREADS']") == "1"
        assert one(eval, "__import__('gc').isenabled()") is False
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            one(eval, "1 / 0")
        assert one(eval, "2") == 2
    assert str(tmp_path) not in sys.path


def test_training_and_sampling_are_measured_without_the_peer():
    lines, found = speed.training(peers=(), rounds=1, steps=1, small=True)
    assert set(found["speeds"]) == {"ours fp32", "ours bf16"} and lines[2].startswith("| ours | ")
    lines, found = speed.sampling(peers=(), rounds=1, seconds=0.2, judge=3, small=True)
    assert found["far"]["ours"].rows == found["floor"].rows == 128 and found["steps"]["ours"] > 0
    assert len(lines) == 7 and np.isfinite(found["far"]["ours"].frechet)


def test_the_share_of_the_limit_is_measured():
    _, found = speed.limit(rounds=1, seconds=0.05, small=True)
    assert found["shares"]["convolution fp32"].median == 1
    assert 0 < found["shares"]["diffusion training fp32"].median < 1.5


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_loop_by_hand_trains_the_same_network_as_a_stage(precision):
    s = loop.setting(13, precision)
    networks = [loop.stage(s), loop.by_hand(s, True), loop.by_hand(s, False)]
    states = [torch.cat([p.detach().reshape(-1) for p in n.parameters()]) for n in networks]
    assert all(torch.equal(states[0], other) for other in states[1:])


@pytest.mark.parametrize("name", growth.CALLS)
def test_growth_is_measured_of_every_call(name, tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "ROOT", tmp_path)
    monkeypatch.setattr(growth.processes, "parallel", growth.processes.parallel)
    (tmp_path / ".work" / "bench").mkdir(parents=True)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    seconds, memory = growth.cost(name, 300)
    assert seconds > 0 and memory >= 0


def test_the_power_of_growth_is_that_of_the_rows():
    sizes = np.array([1_000, 3_000, 10_000])
    assert growth.exponent(sizes, 1e-6 * sizes**2.0) == pytest.approx(2)
    assert growth.steep(sizes, sizes**1.5) and not growth.steep(sizes, sizes * np.log(sizes))


def test_a_run_is_split_into_stages_and_what_lies_between(tmp_path):
    for name, begun, ended in (("old", 0, 10), ("a", 1000, 1010), ("b", 1005, 1020), ("c", 1025, 1030)):
        noted = {"stage": name, "seconds": ended - begun, "device": "", "ended": ended}
        (tmp_path / f"{name}.json").write_text(json.dumps(noted))
    assert whole.account(tmp_path) == {"stages": 3, "clock": 30, "added": 30, "between": 5}
    with pytest.raises(ValueError, match="holds no times"):
        whole.account(tmp_path / "nothing")


def test_loops_are_timed_from_outside_and_are_where_they_are_looked_for(tmp_path):
    for module, (_, owner, function) in sitecustomize.LOOPS.items():
        holder = importlib.import_module(module)
        assert callable(getattr(getattr(holder, owner) if owner else holder, function))
    program = (
        "import numpy as np; from pipeline.evaluation.statistics import by_confusion, differences, resamples\n"
        "y = np.arange(6) % 2; pair = [by_confusion(np.stack([y, 1 - y]), y, 2, 'accuracy') for _ in range(2)]\n"
        "print(differences([tuple(pair)], resamples(y, np.arange(6), 50, 0), 0)[0].std())"
    )
    path = os.pathsep.join([str(ROOT / "benchmarks" / "timed"), str(ROOT)])
    env = os.environ | {"PYTHONPATH": path, "LOOP_SECONDS": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert float(ran.stdout) == 0 and ran.stderr == ""
    (found,) = whole.loops(tmp_path).items()
    assert found[0] == "resampling test rows" and 0 < found[1] < 10


@pytest.mark.parametrize("stage", whole.LIGHT)
def test_no_code_that_prepare_report_and_evaluate_can_reach_imports_lightning(stage):
    assert whole.training_imports(ROOT, stage) == []


def test_a_stage_that_trains_is_found_to_import_lightning():
    found = whole.training_imports(ROOT, "retrain")
    assert found == ["pipeline/trainer.py", "pipeline/training.py"]


@pytest.mark.parametrize("stage", whole.LIGHT)
def test_the_start_of_a_light_stage_loads_no_lightning(stage):
    said = f"import sys, stages.{stage}; print(sorted({{m.split('.')[0] for m in sys.modules}} & {{'lightning', 'torch'}}))"
    ran = subprocess.run([sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "lightning" not in ran.stdout


def test_the_peer_is_pinned_and_is_no_dependency_of_the_project():
    wanted = (ROOT / "requirements-bench.txt").read_text()
    pins = [line for line in wanted.splitlines() if not line.startswith("#")]
    assert pins and all("==" in line and "--hash=sha256:" in line for line in pins)
    for file in ("requirements.in", "requirements.lock", "requirements-torch.txt", "Makefile"):
        assert "diffusers" not in (ROOT / file).read_text() and "requirements-bench" not in (ROOT / file).read_text()
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    assert "bench" not in json.dumps(stages)


def test_a_measurement_that_does_not_exist_is_told_plainly(capsys):
    with pytest.raises(SystemExit):
        speed.arguments(["trainig"])
    assert (
        "there is no trainig; there are: training, sampling, loop, limit, growth, pipeline" in capsys.readouterr().err
    )
    assert speed.arguments(["growth", "--sizes", "1000,30000"]).sizes == [1000, 30000]
