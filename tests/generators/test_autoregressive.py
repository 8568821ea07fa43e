"""Codes, causality and sampling of the autoregressive family. Run: python -m pytest tests/generators/test_autoregressive.py"""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pipeline import generators, params
from pipeline.generators import autoregressive
from pipeline.generators.base import Generator
from pipeline.generators.diffusion import AUGMENTS


@pytest.fixture
def build(shipped, compute) -> Callable[..., Generator]:
    """An unfitted generator with the shipped options, some of them changed."""

    def make(**changes: object) -> Generator:
        options = shipped.generators["autoregressive"].options | changes
        return generators.build(
            params.Generator(family="autoregressive", model="autoregressive", **options), compute, "autoregressive"
        )

    return make


@pytest.fixture
def network(build) -> Callable[..., autoregressive.Network]:
    """The untrained network for images of this shape and three classes; no layer of it is silent."""

    def make(shape: tuple[int, int, int] = (8, 8, 1), **changes: object) -> autoregressive.Network:
        model = build(**changes)
        model.shape, model.classes = shape, 3
        torch.manual_seed(0)
        made = model.build().eval()
        for p in made.parameters():
            p.data.add_(0.1 * torch.randn_like(p))
        return made

    return make


def random_codes(network: autoregressive.Network, n: int = 4) -> torch.Tensor:
    rows, columns = network.prior.cells
    return torch.randint(network.o.levels, (n, rows * columns, network.o.code))


# the codes


@pytest.mark.parametrize("levels", [2, 3, 5, 8])
def test_codes_are_all_the_whole_numbers_below_the_levels(levels):
    codes = autoregressive.quantise(torch.linspace(-9, 9, 1001), levels)
    assert sorted(set(codes.tolist())) == list(range(levels)) and (codes.diff() >= 0).all()


@pytest.mark.parametrize("levels", [2, 5, 8])
def test_codes_come_back_from_numbers_that_mean_them(levels):
    codes = torch.arange(levels).float()
    z = torch.logit(codes / (levels - 1), eps=1e-4)
    assert torch.equal(autoregressive.quantise(z, levels).round(), codes)


def test_the_gradient_passes_straight_through_the_rounding():
    z = torch.linspace(-3, 3, 50, requires_grad=True)
    weight = torch.arange(50.0)
    (autoregressive.quantise(z, 8) * weight).sum().backward()
    s = z.detach().sigmoid()
    assert torch.allclose(z.grad, 7 * s * (1 - s) * weight, atol=1e-5)


def test_jitter_moves_a_share_of_the_codes_by_one_level_and_stays_inside():
    torch.manual_seed(0)
    codes = torch.randint(8, (400, 10, 3)).float()
    assert torch.equal(autoregressive.jittered(codes, 8, 0.0), codes)
    off = autoregressive.jittered(codes, 8, 0.4) - codes
    inside = (codes > 0) & (codes < 7)
    assert set(off.unique().tolist()) == {-1, 0, 1} and abs(float(off[inside].abs().mean()) - 0.4) < 0.02
    assert (off[codes == 0] >= 0).all() and (off[codes == 7] <= 0).all()


@pytest.mark.parametrize(
    ("shape", "grid", "cell", "cells"),
    [
        ((8, 8, 1), 8, 2, (4, 4)),
        ((4, 4, 1), 8, 2, (2, 2)),
        ((12, 12, 3), 8, 2, (6, 6)),
        ((18, 18, 1), 8, 4, (5, 5)),
        ((32, 32, 3), 8, 4, (8, 8)),
        ((32, 32, 1), 16, 2, (16, 16)),
        ((64, 64, 1), 8, 8, (8, 8)),
        ((20, 36, 1), 8, 8, (3, 5)),
        ((96, 96, 1), 8, 16, (6, 6)),
    ],
)
def test_cells_are_as_small_as_the_grid_allows(build, shape, grid, cell, cells):
    model = build(grid=grid)
    model.shape, model.classes = shape, 3
    net = model.build()
    assert model.multiple == cell and net.prior.cells == cells
    x, y = torch.zeros(2, shape[2], *model.side), torch.zeros(2, dtype=torch.long)
    codes = net.autoencoder.encode(x, y)
    assert codes.shape == (2, cells[0] * cells[1], model.options.code)
    assert net.autoencoder.decode(codes, y).shape == x.shape


def test_a_cell_changes_only_the_picture_around_it(network):
    """Raster order: the last code of a large picture is its lower right corner."""
    net = network((64, 64, 1))
    for block in (net.autoencoder.coarse[1], *net.autoencoder.up):
        block.norm1 = block.norm2 = torch.nn.Identity()  # normalisation sees all cells
    net.autoencoder.out[0] = torch.nn.Identity()
    codes, y = torch.zeros(1, 64, net.o.code), torch.zeros(1, dtype=torch.long)
    other = codes.clone()
    other[0, -1] = net.o.levels - 1
    changed = (net.autoencoder.decode(codes, y) - net.autoencoder.decode(other, y)).abs()[0, 0] > 0
    assert changed[-8:, -8:].any() and not changed[:8].any() and not changed[:, :8].any()


# the prior


def test_a_later_code_changes_no_earlier_logits(network):
    net = network()
    codes, y, move = random_codes(net), torch.arange(4) % 3, torch.randn(4, AUGMENTS)
    logits = net.prior(codes, y, move, codes)
    flat, d = codes.flatten(1), net.o.code
    for i in range(flat.shape[1]):
        other = flat.clone()
        other[:, i] = (other[:, i] + 1) % net.o.levels
        other = other.view_as(codes)
        moved = (net.prior(other, y, move, other) - logits).abs().amax(dim=(0, 3)).flatten()
        assert (moved[: i + 1] < 1e-5).all()
        assert i + 1 == len(moved) or (moved[i + 1 :] > 1e-5).any()
        assert i + 1 == len(moved) or (i + 1) % d == 0 or moved[i + 1] > 1e-5, "a number does not see the one before"


def test_sampling_step_by_step_sees_the_logits_of_the_whole(network, monkeypatch):
    net, seen = network(), []
    honest = autoregressive.pick
    monkeypatch.setattr(autoregressive, "pick", lambda logits, u: seen.append(logits) or honest(logits, u))
    y = torch.arange(6) % 3
    u = torch.rand(6, 16, net.o.code, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        codes = net.prior.draw(y, u)
        whole = net.prior(codes, y, torch.zeros(6, AUGMENTS), codes)
    stepped = torch.stack(seen, dim=1).view_as(whole)
    assert len(codes.unique()) > 2 and torch.allclose(stepped, whole, atol=1e-4)


def test_levels_are_drawn_with_the_probabilities_of_their_logits():
    logits = torch.tensor([[0.1, 2.0, -1.0, 0.7]]).expand(20_000, 4)
    u = (torch.arange(20_000) + 0.5) / 20_000
    drawn = autoregressive.pick(logits, u).bincount(minlength=4) / 20_000
    assert torch.allclose(drawn, logits[0].softmax(dim=0), atol=1e-3)


def test_the_ends_of_the_unit_interval_draw_levels_that_are_possible():
    logits = torch.tensor([[-1e9, 1.0, 1.0, -1e9]]).expand(2, 4)
    assert autoregressive.pick(logits, torch.tensor([0.0, 1.0])).tolist() == [1, 2]


# training


@pytest.mark.parametrize(("progress", "players"), [(0.0, 1), (0.49, 1), (0.5, 2), (1.0, 2)])
def test_codes_settle_before_the_prior_learns_them(network, progress, players):
    net = network(settle=0.5).train()
    batch = torch.rand(6, 1, 8, 8) * 2 - 1, torch.arange(6) % 3, torch.ones(6)
    moved = []
    for name, loss in net.losses(batch, progress):
        net.zero_grad(set_to_none=True)
        loss.backward()
        with_gradient = {n for n, p in net.named_parameters() if p.grad is not None and (p.grad != 0).any()}
        assert {n.split(".")[0] for n in with_gradient} == {name}
        assert name == "prior" or ("autoencoder.from_code.weight" in with_gradient)
        codes_move = any(f"autoencoder.{part}" in with_gradient for part in ("stem.1.weight", "label.weight"))
        assert name == "prior" or codes_move == (players == 1)
        moved.append(name)
    assert moved == ["autoencoder", "prior"][:players]


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (12, 3), (32, 1), (32, 3)])
def test_images_have_the_shape_of_the_rows_and_depend_on_their_seed_alone(build, toy, size, channels):
    model = build(epochs=2, batch=8)
    model.fit(toy((12, 7, 3), size, channels), 0)
    labels, seeds = np.arange(10) % 3, np.arange(10)
    images = model.sample(labels, seeds)
    assert images.shape == (10, size, size, channels) and images.dtype == np.uint8
    assert np.array_equal(model.sample(labels[::-1], seeds[::-1])[::-1], images)
    assert len({image.tobytes() for image in images}) == 10


def test_a_short_training_tells_the_classes_apart(build, toy):
    real, model = toy((12, 9, 6)), build(epochs=200, batch=16)
    model.fit(real, 0)
    means = np.stack([real.images[real.y == c].astype(float).mean(axis=0) for c in range(3)])
    labels = np.repeat(np.arange(3), 30)
    made = model.sample(labels, np.arange(90)).astype(float)
    nearest = np.square(made[:, None] - means).mean(axis=(2, 3, 4)).argmin(axis=1)
    assert (nearest == labels).mean() > 0.8


def test_unknown_and_impossible_options_are_refused(build):
    for change, says in (({"hidden": 40}, "hidden"), ({"levels": 1}, "levels"), ({"top_k": 3}, "top_k")):
        with pytest.raises(ValueError, match=says):
            build(**change)
