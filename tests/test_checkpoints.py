"""A training that is cut short goes on to the same end. Run: python -m pytest tests/test_checkpoints.py"""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import checkpoints, generators, params, ranks, training
from pipeline.classifier.model import Network, Settings
from pipeline.classifier.train import train
from pipeline.data.loaders import Batches, Rows

STEPS = 24  # the curve of validation has a point at every second
SETTINGS = Settings(size=8, channels=1, classes=3, widths=(8, 16), depth=1, fold=1, batch=16, steps=STEPS, lr=0.01,
                    weight_decay=0.05, dropout=0.2, label_smoothing=0.05)  # fmt: skip


class Killed(Exception):
    """Stands for the end of the process."""


def quiet(count: int, note: str = "") -> None:
    pass


@pytest.fixture
def always(monkeypatch) -> None:
    """The state is written at every step."""
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "STRIDE", 1)
    monkeypatch.setattr(checkpoints, "monotonic", lambda: 0.0)


@pytest.fixture
def kill(monkeypatch) -> Callable[[int | None], None]:
    """kill(k): from now on trainings end before their step k; None: no more."""
    get, at = Batches.__getitem__, [None]

    def instead(self, step):
        if step == at[0]:
            raise Killed
        return get(self, step)

    monkeypatch.setattr(Batches, "__getitem__", instead)
    return lambda step: at.__setitem__(0, step)


@pytest.fixture
def classifier(toy, compute, shipped) -> Callable:
    """Trains a tiny network: classifier(file, seed, recipe, report) -> its weights and curve."""

    def run(file=None, seed=1, recipe="plain", report=quiet, precision="32-true"):
        rows, exact = toy(), compute.model_copy(update={"precision": precision})
        batches = Batches(Rows.plain(rows.images, rows.y), 3, SETTINGS.batch, STEPS, seed)
        held = toy((4, 3, 2), seed=9)
        return train(batches, held, SETTINGS, shipped.recipes[recipe], seed, exact, report, file)

    return run


def same(one: tuple[Network, list[dict]], other: tuple[Network, list[dict]]) -> bool:
    pairs = zip(one[0].state_dict().values(), other[0].state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs) and one[1] == other[1]


# ---- files ------------------------------------------------------------------------------------------------------


STATE = {
    "step": 3,
    "about": {"seed": 2**62, "none": None, "yes": True},
    "numbers": (0.1, float("inf"), [1, (2, "x")], {}),
    "optimisers": [{0: {"step": torch.tensor(3.0), "mean": torch.randn(3, 2)}, 1: torch.zeros(0, 4)}],
    "random": torch.get_rng_state(),
}


def equal(one: object, other: object) -> bool:
    """With the types of containers and keys, and the bits of tensors."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return type(other) is dict and list(one) == list(other) and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


def test_what_is_read_is_what_was_written(tmp_path):
    checkpoints.write(tmp_path / "deep" / "state", STATE)
    assert equal(STATE, checkpoints.read(tmp_path / "deep" / "state"))
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["state"]


def test_no_file_is_no_state(tmp_path):
    assert checkpoints.read(tmp_path / "state") is None and checkpoints.read(tmp_path) is None


@pytest.mark.parametrize("tenths", range(10))
def test_a_file_that_was_cut_off_counts_as_absent(tmp_path, tenths):
    checkpoints.write(tmp_path / "state", STATE)
    whole = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(whole[: len(whole) * tenths // 10])
    assert checkpoints.read(tmp_path / "state") is None
    (tmp_path / "state").write_bytes(whole[: len(whole) * tenths // 10].ljust(len(whole), b"\0"))
    assert checkpoints.read(tmp_path / "state") is None, "as after a loss of power"


def test_a_changed_byte_anywhere_is_noticed(tmp_path):
    checkpoints.write(tmp_path / "state", STATE)
    whole = (tmp_path / "state").read_bytes()
    for place in range(0, len(whole), 97):
        (tmp_path / "state").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert checkpoints.read(tmp_path / "state") is None


def test_a_process_that_ends_between_the_former_state_and_the_new_one_leaves_one(tmp_path, monkeypatch):
    checkpoints.write(tmp_path / "state", {"step": 1})
    replace = checkpoints.os.replace

    def once(source, target):
        if Path(source).suffix == ".draft":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints.os, "replace", once)
        checkpoints.write(tmp_path / "state", {"step": 2})
    assert not (tmp_path / "state").exists() and checkpoints.read(tmp_path / "state") == {"step": 1}
    checkpoints.write(tmp_path / "state", {"step": 3})
    assert checkpoints.read(tmp_path / "state") == {"step": 3}


def test_a_write_that_fails_leaves_the_former_state(tmp_path, monkeypatch):
    checkpoints.write(tmp_path / "state", {"step": 1})
    monkeypatch.setattr(checkpoints.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        checkpoints.write(tmp_path / "state", {"step": 2})
    assert checkpoints.read(tmp_path / "state") == {"step": 1}


# ---- classifiers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2, 3, 7, 8, 12, STEPS - 1])  # after each second one, validation has its turn
def test_a_training_that_is_killed_goes_on_to_the_same_weights_and_curve(classifier, kill, always, tmp_path, step):
    whole = classifier()
    kill(step)
    with pytest.raises(Killed):
        classifier(tmp_path / "state")
    kill(None)
    taken = checkpoints.read(tmp_path / "state")["step"]
    assert taken == step - 1, "the state before the last step that was taken"
    told = []
    assert same(classifier(tmp_path / "state", report=lambda count, note="": told.append(count)), whole)
    assert sum(told) == STEPS and told[0] <= taken


@pytest.mark.parametrize("recipe", ["mixup", "feature_smote", "progressive"])
def test_killed_again_and_again(classifier, kill, always, tmp_path, recipe):
    whole = classifier(recipe=recipe)
    for step in (3, 4, 9, 20):
        kill(step)
        with pytest.raises(Killed):
            classifier(tmp_path / "state", recipe=recipe)
    kill(None)
    assert same(classifier(tmp_path / "state", recipe=recipe), whole)


def test_in_half_precision_too(classifier, kill, always, tmp_path):
    whole = classifier(precision="bf16-mixed")
    kill(11)
    with pytest.raises(Killed):
        classifier(tmp_path / "state", precision="bf16-mixed")
    kill(None)
    assert same(classifier(tmp_path / "state", precision="bf16-mixed"), whole)
    assert same(classifier(tmp_path / "state"), classifier()), "and is none of the other precision"


def test_a_finished_training_is_not_done_again(classifier, kill, always, tmp_path):
    whole = classifier(tmp_path / "state")
    kill(0)
    told = []
    assert same(classifier(tmp_path / "state", report=lambda count, note="": told.append(count)), whole)
    assert sum(told) == STEPS


def test_a_state_changes_nothing_of_the_training_that_it_is_taken_of(classifier, always, tmp_path):
    assert same(classifier(tmp_path / "state"), classifier())


def test_the_state_of_another_training_is_not_taken(classifier, kill, always, tmp_path):
    kill(9)
    with pytest.raises(Killed):
        classifier(tmp_path / "state", seed=2)
    kill(None)
    assert same(classifier(tmp_path / "state", seed=1), classifier(seed=1))


@pytest.mark.parametrize(("world", "alike"), [(1, False), (2, True)])
def test_a_state_is_of_one_kind_of_card_but_where_ranks_may_have_several(world, alike, monkeypatch):
    monkeypatch.setattr(ranks, "here", lambda: ranks.Place(world=world))
    told = []
    for card in ("Toy 1", "Toy 2"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda where, card=card: card)
        told.append(training._about(SimpleNamespace(network=None), 0, 10, torch.device("cuda"), "32-true"))
    assert (told[0] == told[1]) is alike


@pytest.mark.parametrize("tenths", range(10))
def test_a_training_whose_state_is_damaged_goes_on_from_the_one_before_or_else_begins_again(
    classifier, kill, always, tmp_path, tenths
):
    kill(9)
    with pytest.raises(Killed):
        classifier(tmp_path / "state")
    kill(None)
    shutil.copytree(tmp_path, tmp_path / "both")
    for damaged, onwards in (["state"], ["on from step 7"]), (["state", "state.former"], []):
        folder = tmp_path / f"{len(damaged)}"
        shutil.copytree(tmp_path / "both", folder)
        for name in damaged:
            whole = (folder / name).read_bytes()
            (folder / name).write_bytes(whole[: len(whole) * tenths // 10])
        told: list[str] = []
        again = classifier(folder / "state", report=lambda count, note="", told=told: told.append(note))
        assert same(again, classifier())
        assert [note for note in told if "on from" in note] == onwards


def test_short_trainings_write_nothing(classifier, tmp_path):
    assert checkpoints.SECONDS == 25
    classifier(tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_at_most_a_hundredth_of_the_time_is_spent_writing(classifier, tmp_path, monkeypatch):
    clock, written = [0.0], []

    def slow(file, state):
        written.append(clock[0])
        clock[0] += 3.0

    def tick():
        clock[0] += 1.0
        return clock[0]

    monkeypatch.setattr(checkpoints, "STRIDE", 1)
    monkeypatch.setattr(checkpoints, "monotonic", tick)
    monkeypatch.setattr(checkpoints, "SECONDS", 5.0)
    monkeypatch.setattr(checkpoints, "write", slow)
    classifier(tmp_path / "state")
    assert len(written) == 2, "once, and what came of it: after one that took 3 s there is none for 300 s"


# ---- generators -------------------------------------------------------------------------------------------------


NETWORKS = ("cvae", "cgan", "diffusion", "autoregressive", "translate")


@pytest.fixture(params=NETWORKS)
def fitted(request, shipped, compute, toy) -> Callable[[Path | None], tuple[dict, list[dict], dict]]:
    """Fits a small model of each family: fitted(folder) -> weights, curve and what is told of its points."""
    options = params.borrowing(shipped.generators, request.param).options
    small = {"epochs": 6, "batch": 8, "lr": 0.01, "width": 8, "ema": [0.0, 0.3], "snapshots": 3}
    block = params.Generator(family=request.param, model=request.param, **(options | small))
    rows = toy((12, 7, 3))

    def judge(images, y):
        distance = np.array([np.nan, np.nan, images[y == 2].std()])
        return distance, np.where(np.isnan(distance), np.nan, 0.0)

    def run(folder=None):
        model = generators.build(block, compute, request.param)
        curve = model.fit(rows, 5, judge=judge, unfinished=folder)
        weights = {f"{i}.{k}": v for i, n in enumerate(model.networks) for k, v in n.state_dict().items()}
        return weights, curve, model._state()

    return run


@pytest.mark.parametrize("step", [9, 16])
def test_a_generator_that_is_killed_goes_on_to_the_same_weights_averages_and_choice(
    fitted, kill, always, tmp_path, step
):
    whole = fitted()
    kill(step)
    with pytest.raises(Killed):
        fitted(tmp_path)
    kill(None)
    assert {f.name for f in tmp_path.iterdir()} == {"5", "5.former"}
    assert checkpoints.read(tmp_path / "5")["step"] == step - 1
    weights, curve, told = fitted(tmp_path)
    assert curve == whole[1] and told == whole[2]
    assert weights.keys() == whole[0].keys() and all(torch.equal(weights[k], whole[0][k]) for k in weights)


def test_a_generator_that_was_killed_between_its_last_step_and_its_end_goes_on(always, shipped, compute, toy, tmp_path):
    """Its averages had no place to be put back to, which was an error."""
    block = params.Generator(**(shipped.generators["cvae"].model_dump() | {"epochs": 3, "batch": 8, "width": 8}))
    one, other = (generators.build(block, compute, "cvae") for _ in range(2))
    curve = one.fit(toy(), 1, unfinished=tmp_path)
    assert checkpoints.read(tmp_path / "1")["step"] == one.steps(toy())
    assert other.fit(toy(), 1, unfinished=tmp_path) == curve
    pairs = zip(one.networks[0].state_dict().values(), other.networks[0].state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("said", ["soon", "-1", "", "nan"])
def test_a_pause_that_is_no_number_is_named(said):
    with pytest.raises(ValueError, match=f"CHECKPOINT_SECONDS is {said!r} in the environment; expected a number"):
        checkpoints.seconds(said)
    assert checkpoints.seconds("0") == 0 and checkpoints.seconds("2.5") == 2.5
