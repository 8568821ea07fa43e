"""Losses that are no number: a retry, then a generator is marked and the rest goes on.

Run: python -m pytest tests/test_divergence.py
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import checkpoints, params, training
from pipeline.averages import Averages
from pipeline.classifier import predict
from pipeline.classifier.model import Network, Settings
from pipeline.classifier.train import train
from pipeline.data.loaders import Batches, Rows
from pipeline.generators.base import failure
from pipeline.samples import Samples
from stages import fit_generator, generate, search
from tests.test_pipeline import RARE, REPORTS, edit, run, toy_images, toy_project

ROOT = Path(__file__).parents[1]
STEPS = 24


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def spoil(monkeypatch) -> Callable[..., list[int]]:
    """spoil(step, times): images of this step are no numbers so many times; returns the steps as they are taken."""
    get, seen = Batches.__getitem__, []

    def spoilt(step: int, times: int, kill: int = -1) -> list[int]:
        todo = {"bad": times, "kill": 1}
        seen.clear()

        def instead(self, at):
            seen.append(at)
            if at == kill and todo["kill"]:
                todo["kill"] -= 1
                raise Killed
            x, *rest = get(self, at)
            if at == step and todo["bad"]:
                todo["bad"] -= 1
                x = x * float("nan")
            return (x, *rest)

        monkeypatch.setattr(Batches, "__getitem__", instead)
        return seen

    monkeypatch.setattr(checkpoints, "STRIDE", 3)
    return spoilt


class Line(torch.nn.Module):
    """Fits one number by the rule that all networks of generators follow."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def players(self):
        return {"line": [self.weight]}

    def losses(self, batch, progress):
        yield "line", (self.weight - batch[0].mean() - 5).square().mean()


@pytest.fixture
def line(toy, compute) -> Callable:
    """Trains the line: line(file) -> its weight and curve, and the learning rates of its steps."""

    def fit(file=None):
        rows, network, rates = toy(), Line(), []
        module = training.Adversaries(network, STEPS, 0.1, (0.9, 0.99), clip=1.0)
        averages = Averages([0.5], [STEPS])
        step = torch.optim.AdamW.step

        def noted(self, *args, **kwargs):
            rates.append(self.param_groups[0]["lr"])
            return step(self, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", noted)
            batches = Batches(Rows.plain(rows.images, rows.y), 3, 8, STEPS, 1)
            curve = training.fit(module, batches, compute, 1, lambda count, note="": None, averages, kept=file)
        return network.weight.item(), curve, averages.kept[0].weights["weight"].item(), rates, module.slowed

    return fit


def test_one_bad_step_is_taken_again_from_the_last_good_state_at_half_the_rate(line, spoil, caplog):
    spoil(-1, 0)
    *_, rates, slowed = line()
    assert not slowed
    seen = spoil(10, 1)
    weight, curve, mean, slow, slowed = line()
    assert seen == [*range(11), *range(9, STEPS)], "it stops at the step, and the last state is that before step 9"
    assert slowed and np.isfinite([weight, mean, *(p["loss"] for p in curve)]).all()
    assert [p["step"] for p in curve] == list(range(1, STEPS + 1)), "points after the state are taken back"
    np.testing.assert_allclose(slow[-(STEPS - 9) :], np.array(rates[9:]) / 2)
    np.testing.assert_allclose(slow[:10], rates[:10])
    assert "is nan by step 11" in caplog.text and "once more from step 9" in caplog.text


def test_a_retry_is_the_same_each_time(line, spoil):
    spoil(10, 1)
    first = line()
    spoil(10, 1)
    assert line() == first


def test_there_is_one_retry_and_no_more(line, spoil):
    seen = spoil(10, 2)
    with pytest.raises(training.Diverged, match=r"the loss of Adversaries is nan by step 11; lower its learning rate"):
        line()
    assert seen.count(10) == 2


def test_a_training_that_was_killed_after_its_retry_stays_at_half_the_rate(line, spoil, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "monotonic", lambda: 0.0)
    spoil(10, 1)
    weight, curve, mean, *_ = line()
    seen = spoil(10, 1, kill=19)
    with pytest.raises(Killed):
        line(tmp_path / "state")
    assert checkpoints.read(tmp_path / "state")["slowed"]
    seen.clear()
    again = line(tmp_path / "state")
    assert seen[0] == 18 and again[:3] == (weight, curve, mean) and again[4]


def test_a_training_that_was_killed_before_it_diverges_goes_back_to_the_same_state(line, spoil, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "monotonic", lambda: 0.0)
    spoil(10, 1)
    whole = line()
    seen = spoil(10, 1, kill=10)
    with pytest.raises(Killed):
        line(tmp_path / "state")
    seen.clear()
    assert line(tmp_path / "state")[:3] == whole[:3]
    assert seen == [9, 10, *range(9, STEPS)]


def test_a_classifier_says_that_it_was_slowed(spoil, toy, compute, shipped):
    small = Settings(size=8, channels=1, classes=3, widths=(8,), depth=1, fold=1, batch=8, steps=STEPS, lr=0.01,
                     weight_decay=0.05, dropout=0.2, label_smoothing=0.05)  # fmt: skip
    rows = toy()
    batches = Batches(Rows.plain(rows.images, rows.y), 3, 8, STEPS, 1)

    def fit():
        return train(batches, rows, small, shipped.recipes["plain"], 1, compute, lambda count, note: None)

    assert not fit()[0].slowed
    spoil(10, 1)
    network, curve = fit()
    assert network.slowed and np.isfinite([p["loss"] for p in curve if "loss" in p]).all()
    assert [p["step"] for p in curve if "val_loss" in p] == list(range(2, STEPS + 1, 2)), "each of them once"


# ---- the stages -------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, toy, shipped) -> tuple[params.Params, Path]:
    rows = toy((14, 9, 4))
    rows.save(tmp_path / "train")
    toy((6, 5, 4), seed=9, split="val").save(tmp_path / "val")
    rows.take(np.empty(0, int)).save(tmp_path / "pool")
    (tmp_path / "plan.json").write_text(json.dumps({"wanted": True}))
    (tmp_path / "search.json").write_text("{}")
    small = Settings(size=8, channels=1, classes=3, widths=(8,), depth=1, fold=1, batch=4, steps=1, lr=0.1,
                     weight_decay=0.1, dropout=0.1, label_smoothing=0.1)  # fmt: skip
    predict.save(Network(small), small, tmp_path / "baseline" / "baseline")
    tiny = {"epochs": 4, "batch": 8, "width": 8}
    blocks = dict(shipped.generators)
    blocks["diffusion"] = params.Generator(**(blocks["diffusion"].model_dump() | tiny))
    compute = shipped.compute.model_copy(update={"accelerator": "cpu", "processes": 1})
    return shipped.model_copy(update={"generators": blocks, "compute": compute, "profile": "full"}), tmp_path


def test_a_generator_that_diverges_twice_is_marked_and_makes_no_rows(place, spoil, caplog):
    settled, root = place
    seen = spoil(5, 10**6)
    given = [root / part for part in ("plan.json", "train", "pool", "val", "baseline")]
    fit_generator.main(settled, "diffusion", *given, root / "models" / "diffusion")
    told = json.loads((root / "models" / "diffusion" / "generator.json").read_text())
    assert seen.count(5) == 2 and told["status"] == "failed" and "nan by step 6" in told["reason"]
    assert failure(root / "models" / "diffusion") == told["reason"] and "will make no rows" in caplog.text
    assert json.loads((root / "models" / "diffusion" / "curve.json").read_text()) == []
    for name in ("diffusion", "translate"):  # the second draws from the model of the first
        given = [root / part for part in ("plan.json", "train", "pool", "models/diffusion", "search.json")]
        generate.main(settled, name, *given, root / "made" / name)
        assert len(Samples.load(root / "made" / name)) == 0


def test_nothing_is_searched_for_generators_that_failed(place, monkeypatch):
    settled, root = place
    for name in settled.generators:
        (root / "models" / name).mkdir(parents=True)
        told = {"reason": "it diverged"} if name in ("diffusion", "cvae") else {}
        (root / "models" / name / "generator.json").write_text(json.dumps(told))
    asked = []
    monkeypatch.setattr(search, "Trials", lambda *_: SimpleNamespace(params=settled))
    monkeypatch.setattr(search, "best_first", lambda trials, names: asked.extend(names) or [])
    monkeypatch.setattr(search.processes, "warm", lambda *_: None)
    given = [root / part for part in ("train", "pool", "val", "views", "models", "baseline")]
    search.main(settled, *given, root / "out")
    lost = {n for n, block in settled.generators.items() if block.model in ("diffusion", "cvae")}
    assert "translate" in lost and set(asked) == set(settled.searched) - lost and asked


@pytest.mark.slow
def test_other_arms_and_the_report_come_out_when_a_generator_and_a_control_fail(tmp_path):
    toy_images(tmp_path / "toy")
    toy_project(tmp_path)
    edit(tmp_path, lambda p: p["generators"]["cvae"].update(snapshots=2))
    edit(tmp_path, lambda p: p["arms"]["duplicate"].update(recipe="mixup", tuned=False))
    with (tmp_path / "pipeline" / "classifier" / "train.py").open("a") as file:
        file.write(
            "\n\nwhole = Training.mean\n\n\ndef spoilt(self, logits, y, weight):\n"
            "    return whole(self, logits, y, weight) * (float('nan') if self.recipe.mix == 'mixup' else 1)\n\n\n"
            "Training.mean = spoilt\n"
        )
    with (tmp_path / "pipeline" / "generators" / "cvae.py").open("a") as file:
        file.write(
            "\n\nsound = Network.losses\n\n\ndef spoilt(self, batch, progress):\n"
            "    for name, loss in sound(self, batch, progress):\n"
            "        yield name, loss * (float('nan') if progress > 0.5 else 1)\n\n\nNetwork.losses = spoilt\n"
        )
    run(tmp_path, "dvc", "repro")
    reports = tmp_path / "reports"
    assert all((reports / name).stat().st_size for name in REPORTS)
    record = {a: json.loads((tmp_path / "models/arms" / a / "record.json").read_text()) for a in ("cvae", "diffusion")}
    assert not any(record["cvae"]["synthetic_rows"].values()) and record["diffusion"]["synthetic_rows"][RARE]
    assert failure(tmp_path / "models" / "generators" / "cvae")
    said = "generator cvae failed and made no rows: the loss of Adversaries is nan by step"
    for name in ("report.md", "report.html"):
        assert said in (reports / name).read_text() and "learnt without its rows: cvae" in (reports / name).read_text()
        assert "arm duplicate could not be trained and is not compared: the loss of Training is nan" in (
            (reports / name).read_text()
        )
    verdict = json.loads((reports / "verdict.json").read_text())
    assert verdict["chosen_arm"] == "diffusion" and list(verdict["failed"]) == ["duplicate"]
    assert "duplicate" not in verdict["arms"] and "duplicate," not in (reports / "scores.csv").read_text()
