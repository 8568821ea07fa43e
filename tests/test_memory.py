"""Out of memory a training goes on with each batch in pieces, to the same end. Run: python -m pytest tests/test_memory.py

A network that refuses more than so many rows stands for a device that has no room for them.
"""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import checkpoints, generators, params, pieces, training
from pipeline.classifier import encoder, predict
from pipeline.classifier.model import Network, Settings
from pipeline.classifier.train import Training, train
from pipeline.data.augment import Views
from pipeline.data.loaders import Batches, Pairs, Rows

STEPS, BATCH = 12, 16
SETTINGS = Settings(size=8, channels=1, classes=3, widths=(8, 16), depth=1, fold=1, batch=BATCH, steps=STEPS, lr=0.01,
                    weight_decay=0.05, dropout=0.2, label_smoothing=0.05)  # fmt: skip


def quiet(count: int, note: str = "") -> None:
    pass


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@contextmanager
def room_for(most: int, kind: type = Network, method: str = "features", from_call: int = 0, error: RuntimeError = FULL):
    """Inside, this method of a network has no memory for more rows than that; gives the row counts that it was asked for."""
    whole, seen = getattr(kind, method), []

    def instead(self, x, *more):
        seen.append(len(x))
        if len(seen) > from_call and len(x) > most and torch.is_grad_enabled():
            raise error
        return whole(self, x, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, method, instead)
        yield seen


@pytest.fixture
def classifier(toy, compute, shipped):
    def run(recipe="plain", file=None):
        rows = toy()
        batches = Batches(Rows.plain(rows.images, rows.y), 3, BATCH, STEPS, 1)
        return train(batches, toy((4, 3, 2), seed=9), SETTINGS, shipped.recipes[recipe], 1, compute, quiet, file)

    return run


def near(one: nn.Module, other: nn.Module, tolerance: float = 1e-4) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.allclose(a, b, atol=tolerance) for a, b in pairs)


@pytest.mark.parametrize("recipe", ["plain", "mixup", "cutmix", "feature_smote", "balanced_softmax"])
def test_a_classifier_comes_to_the_same_weights(classifier, recipe, caplog):
    whole, curve = classifier(recipe)
    with room_for(5) as seen:
        network, pieced = classifier(recipe)
    assert network.micro_batches == 4 and whole.micro_batches == 1 and seen[:3] == [16, 8, 4]
    assert near(whole, network) and [p["step"] for p in curve] == [p["step"] for p in pieced]
    losses = [[p["loss"] for p in points if "loss" in p] for points in (curve, pieced)]
    np.testing.assert_allclose(*losses, atol=1e-4)
    assert "out of memory" in caplog.text and "with 4 micro-batches a step" in caplog.text


def test_memory_that_runs_out_later_costs_only_the_steps_since_the_last_good_state(classifier, monkeypatch):
    monkeypatch.setattr(checkpoints, "STRIDE", 3)
    get, steps = Batches.__getitem__, []
    monkeypatch.setattr(Batches, "__getitem__", lambda self, step: steps.append(step) or get(self, step))
    whole, _ = classifier()
    steps.clear()
    with room_for(8, from_call=10):  # validation asks too, at each step
        network, _ = classifier()
    first = next(i for i, step in enumerate(steps) if step != i)
    assert 3 < first < STEPS and steps[first : first + 3] == [0, 3, 4], (
        "the first is asked for its number of rows alone"
    )
    assert network.micro_batches == 2 and near(whole, network)


def test_after_a_validation_that_ran_out_of_memory_dropout_goes_on(classifier, monkeypatch):
    """Steps were taken in the mode that validation is asked in, until the next one."""
    modes, learn, validate, asked = [], Training.learn, Training.validate, []
    monkeypatch.setattr(Training, "learn", lambda self, *given: modes.append(self.training) or learn(self, *given))

    def instead(self, *given):
        asked.append(self.training)
        if len(asked) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return validate(self, *given)

    monkeypatch.setattr(Training, "validate", instead)
    network, _ = classifier()
    assert network.micro_batches == 2 and len(modes) > STEPS and all(modes) and not any(asked)


def test_an_encoder_still_compares_each_row_with_all_others(toy, compute):
    rows = toy()
    pairs = Pairs(Views(rows.images, np.arange(0, len(rows) + 1, 2)), 8, STEPS, 1)
    whole, _ = encoder.train(pairs, SETTINGS, 0.2, compute, quiet)
    with room_for(3):
        network, _ = encoder.train(pairs, SETTINGS, 0.2, compute, quiet)
    assert near(whole, network)


@pytest.mark.parametrize("error", [
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
])  # fmt: skip
def test_the_libraries_of_a_gpu_say_in_other_ways_that_memory_is_full(classifier, error):
    whole, _ = classifier()
    with room_for(8, error=error):
        network, _ = classifier()
    assert network.micro_batches == 2 and near(whole, network)


def test_another_error_is_no_want_of_memory(classifier):
    with (
        room_for(8, error=RuntimeError("expected scalar type Float")) as seen,
        pytest.raises(RuntimeError, match="scalar"),
    ):
        classifier()
    assert seen == [16]


def test_a_batch_that_cannot_be_pinned_goes_to_the_gpu_as_it_is(monkeypatch):
    """Under WSL2 about one gigabyte can be pinned; a training ended there on an empty card."""

    def full(self):
        raise torch.AcceleratorError("CUDA error: out of memory")

    monkeypatch.setattr(torch.Tensor, "pin_memory", full)
    part = torch.ones(3)
    assert training._pinned(part) is part


def test_where_one_row_does_not_fit_the_error_is_torch_s_own(classifier):
    with room_for(0) as seen, pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        classifier()
    assert seen == [16, 8, 4, 2, 1]


def test_a_resumed_training_goes_on_with_its_pieces(classifier, tmp_path, monkeypatch):
    for name, value in {"SECONDS": 0.0, "STRIDE": 1, "monotonic": lambda: 0.0}.items():
        monkeypatch.setattr(checkpoints, name, value)
    whole, _ = classifier()
    get = Batches.__getitem__

    def killed(self, step):
        if step == 7:
            raise KeyError("killed")
        return get(self, step)

    with room_for(8), monkeypatch.context() as patch, pytest.raises(KeyError, match="killed"):
        patch.setattr(Batches, "__getitem__", killed)
        classifier(file=tmp_path / "state")
    assert checkpoints.read(tmp_path / "state")["micro_batches"] == 2
    with room_for(8) as seen:
        network, _ = classifier(file=tmp_path / "state")
    assert network.micro_batches == 2 and max(seen) == 8 and near(whole, network)


@pytest.mark.parametrize("family", ["diffusion", "cvae", "cgan", "autoregressive"])
def test_a_generator_is_finite_and_says_in_how_many_pieces(family, shipped, compute, toy, tmp_path):
    blocks = shipped.generators[family].model_dump() | {"epochs": 6, "batch": 8, "width": 8, "balance": 0.5}

    def fit(most):
        model = generators.build(params.Generator(**blocks), compute, family)
        losses = pieces.turns

        def instead(network, batch, progress, count, *more):
            if -(-len(batch[0]) // count) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return losses(network, batch, progress, count, *more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training.pieces, "turns", instead)
            curve = model.fit(toy(), 1)
        return model, [p["loss"] for p in curve]

    model, losses = fit(3)
    model.save(tmp_path)
    again = generators.build(params.Generator(**blocks), compute, family).load(tmp_path, toy())
    assert model.micro_batches == again.micro_batches == 4 and np.isfinite(losses).all()
    whole, expected = fit(8)
    assert whole.micro_batches == 1
    if family in ("diffusion", "autoregressive"):  # whose losses are means over rows
        np.testing.assert_allclose(losses[:5], expected[:5], atol=1e-4)
        np.testing.assert_allclose(losses, expected, atol=1e-2, err_msg="a code on an edge may go either way")
        assert near(whole.networks[0], model.networks[0], 0.02), "AdamW makes steps of what rounding leaves of zeros"


class Noisy(nn.Module):
    """A game of two whose losses draw at random in all the ways there are."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(4, 4), nn.Linear(4, 1), nn.Dropout(0.5)

    def players(self):
        return {"a": list(self.a.parameters()), "b": list(self.b.parameters())}

    def losses(self, batch, progress):
        x, y = batch
        made = self.drop(self.a(x + torch.randn_like(x))) * (torch.rand(len(x), 1) < 0.7)
        yield "a", (made - y).square().mean()
        yield "b", (self.b(made.detach() + torch.randn(len(x), 4)) * torch.randint_like(y, 3)).square().mean()


def gradients(network, batch, count, rank=0, world=1):
    torch.manual_seed(3)
    names = []
    network.zero_grad()
    for name, losses in pieces.turns(network, batch, 0.0, count, rank, world):
        names.append(name)
        for loss in losses:
            loss.backward()
    return names, [p.grad.clone() for p in network.parameters()], torch.rand(1)


@pytest.mark.parametrize("count", [2, 3, 8, 50])
def test_pieces_draw_what_their_rows_have_in_the_whole_batch(count):
    network, batch = Noisy(), (torch.randn(8, 4), torch.randn(8, 4))
    names, whole, after = gradients(network, batch, 1)
    again, cut, then = gradients(network, batch, count)
    assert names == again == ["a", "b"] and torch.equal(after, then), (
        "and the next step draws as if nothing had been cut"
    )
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, cut, strict=True))


def test_so_do_ranks():
    network, batch = Noisy(), (torch.randn(8, 4), torch.randn(8, 4))
    _, whole, after = gradients(network, batch, 1)
    ranks = [gradients(network, tuple(t[r::2] for t in batch), 2, r, 2) for r in range(2)]
    assert all(torch.equal(after, then) for *_, then in ranks)
    mean = [(a + b) / 2 for a, b in zip(*(found for _, found, _ in ranks), strict=True)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, mean, strict=True))


def test_a_network_is_asked_about_fewer_rows_at_a_time(toy, caplog):
    network, images = Network(SETTINGS), np.concatenate([toy().images] * 4)
    whole = predict.run(network, images, torch.device("cpu"))
    real, seen = Network.features, []

    def instead(self, x):
        seen.append(len(x))
        if len(x) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "features", instead)
        pieced = predict.run(network, images, torch.device("cpu"), batch=64)
    assert seen == [64, 32, 16, 16, 16, 16, 16, 8] and "16 rows at a time" in caplog.text
    for a, b in zip(whole, pieced, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: torch.bernoulli(x.abs().clamp(0, 1)),
        lambda x: torch.randint(2, x.shape),
        lambda x: torch.empty_like(x).normal_(),
        lambda x: torch.randperm(len(x)),
        lambda x: torch.rand(size=x.shape),
    ],
)
def test_a_draw_that_would_differ_from_that_for_the_whole_batch_is_refused(draw):
    x = torch.zeros(4, 3)
    draw(x)
    refused = pytest.raises(
        NotImplementedError, match=r"is not drawn for a whole batch here; pieces\.Drawn says what is"
    )
    with refused, pieces.Drawn(torch.arange(4), 8):
        draw(x)
