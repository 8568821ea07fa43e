"""What each family computes, against closed forms and peers. Run: python -m pytest tests/generators/test_families.py"""

import math
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from imblearn.over_sampling import SMOTE

from pipeline import generators, params, training
from pipeline.generators import cgan, diffusion
from pipeline.generators._blocks import ALIKE, best, moments
from pipeline.generators.base import Generator
from pipeline.samples import Facts, Samples, table, to_pixels

NEURAL = ("cvae", "cgan", "diffusion", "autoregressive")


@pytest.fixture
def build(shipped, compute) -> Callable[..., Generator]:
    """An unfitted generator of a family with its shipped options, some of them changed."""

    def make(family: str, **changes: object) -> Generator:
        name = next(n for n, b in shipped.generators.items() if b.family == family)
        options = params.borrowing(shipped.generators, name).options
        block = params.Generator(family=family, model=family, **(options | changes))
        return generators.build(block, compute, family)

    return make


@pytest.fixture
def network(build) -> Callable[..., torch.nn.Module]:
    """The untrained network of a family for images of 8x8x1 and three classes."""

    def make(family: str, **changes: object) -> torch.nn.Module:
        model = build(family, **changes)
        model.shape, model.classes = (8, 8, 1), 3
        torch.manual_seed(0)
        return model.build().eval()

    return make


def requests(label: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(n, label), np.arange(n)


# what the neural families share: the rows they see


@pytest.mark.parametrize("family", NEURAL)
@pytest.mark.parametrize("flips", [(), ("horizontal",), ("horizontal", "vertical")])
@pytest.mark.parametrize("size", [8, 10])  # the second is padded
def test_networks_learn_from_rows_as_often_mirrored_as_not_where_augmentation_may_mirror(
    build, toy, monkeypatch, family, size, flips
):
    model, real, seen = build(family), toy((12, 7, 1), size), []

    def fit(module, batches, *_, **__):
        seen.extend(batches[step] for step in range(400))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        model.fit(replace(real, facts=replace(real.facts, flips=flips)), 0)
    every = np.concatenate([to_pixels(images) for images, *_ in seen])[:, : real.shape[0], : real.shape[1]]
    axes = {"horizontal": 1, "vertical": 0}
    ways = [tuple(axes[k] for k in kinds) for kinds in ((), ("horizontal",), ("vertical",), ("horizontal", "vertical"))]
    counts = {way: (every == np.flip(real.images[0], way)).all(axis=(1, 2, 3)).sum() for way in ways}
    allowed = [way for way in ways if set(way) <= {axes[k] for k in flips if family != "cvae"}]
    expected = sum(counts.values()) / len(allowed)
    assert expected > 100
    for way, count in counts.items():
        assert abs(count - expected) < 5 * expected**0.5 if way in allowed else count == 0, (way, counts)


# duplicate and classic


def test_duplicates_are_training_rows_of_the_class_and_all_of_them_come_up(build, toy):
    real, model = toy((9, 5, 1)), build("duplicate")
    model.fit(real, 0)
    for c, n in enumerate((9, 5, 1)):
        own = {image.tobytes() for image in real.images[real.y == c]}
        assert len(own) == n and {image.tobytes() for image in model.sample(*requests(c, 200))} == own


def test_classic_rows_are_near_a_row_of_their_class(build, toy):
    real, model = toy((9, 5, 1), size=12), build("classic", strength=0.3)
    model.fit(real, 0)
    means = np.stack([real.images[real.y == c].astype(float).mean(axis=0) for c in range(3)])
    for c in range(3):
        made = model.sample(*requests(c, 40)).astype(float).mean(axis=0)
        assert np.square(means - made).mean(axis=(1, 2, 3)).argmin() == c


def test_classic_rows_follow_the_policy_that_is_named(build, toy):
    real, labels, seeds = toy((9, 5, 1), size=12), np.zeros(20, int), np.arange(20)
    made = {}
    for name in ("auto", "glyph", "texture"):
        model = build("classic", policy=name)
        model.fit(real, 0)
        made[name] = model.sample(labels, seeds)
    assert np.array_equal(made["auto"], made["glyph"]) and not np.array_equal(made["auto"], made["texture"])


def test_stronger_classic_rows_lie_farther_from_the_original(build, toy):
    real, moved = toy((1,), size=12), []
    for strength in (0.2, 2.0):
        model = build("classic", strength=strength)
        model.fit(real, 0)
        moved.append(np.abs(model.sample(*requests(0, 60)).astype(float) - real.images[0]).mean())
    assert moved[0] < moved[1]


# smote


@pytest.mark.parametrize("neighbours", [1, 3, 5, 50])
def test_smote_lies_on_a_segment_between_a_row_and_a_near_row_of_its_class(build, toy, neighbours):
    real, model = toy((14, 9, 3)), build("smote", neighbours=neighbours)
    model.fit(real, 0)
    flat = real.images.reshape(len(real), -1).astype(float)
    for c, n in enumerate((14, 9, 3)):
        own = np.flatnonzero(real.y == c)
        distance = np.square(flat[own][:, None] - flat[own][None]).sum(axis=2) + np.diag([np.inf] * n)
        near = own[distance.argsort(axis=1)[:, : min(neighbours, n - 1)]]
        a = np.repeat(flat[own], near.shape[1], axis=0)
        b = flat[near.ravel()]
        for made in model.sample(*requests(c, 60)).reshape(60, -1).astype(float):
            t = (((made - a) * (b - a)).sum(axis=1) / np.square(b - a).sum(axis=1)).clip(0, 1)[:, None]
            assert np.abs(a + t * (b - a) - made).max(axis=1).min() < 0.75  # rounding to whole grey levels


def test_smote_neighbours_are_those_of_imbalanced_learn(build, toy):
    real, model = toy((30, 12, 9)), build("smote", neighbours=4)
    model.fit(real, 0)
    flat = real.images.reshape(len(real), -1).astype(np.float32)
    for c in (1, 2):
        peer = SMOTE(sampling_strategy={c: 30}, k_neighbors=4, random_state=0)
        peer.fit_resample(flat, real.y)
        own = np.flatnonzero(real.y == c)
        theirs = own[peer.nn_k_.kneighbors(flat[own], return_distance=False)[:, 1:]]
        model.sample(*requests(c, 1))
        assert np.array_equal(np.sort([model.near[row] for row in own], axis=1), np.sort(theirs, axis=1))


def test_smote_points_of_imbalanced_learn_and_ours_have_the_same_moments(build, toy):
    real, model = toy((800, 12)), build("smote", neighbours=4)
    model.fit(real, 0)
    flat = real.images.reshape(len(real), -1).astype(np.float64)
    theirs = SMOTE(k_neighbors=4, random_state=0).fit_resample(flat, real.y)[0][len(real) :]
    ours = model.sample(*requests(1, len(theirs))).reshape(len(theirs), -1).astype(float)
    spread = flat[real.y == 1].std(axis=0).mean()
    assert np.abs(ours.mean(axis=0) - theirs.mean(axis=0)).mean() < 0.1 * spread
    assert abs(ours.std(axis=0).mean() - theirs.std(axis=0).mean()) < 0.1 * spread


def test_smote_of_one_row_or_of_equal_rows_repeats_it(build, toy):
    for real in (toy((5, 1)).take([0, 1, 5]), toy((5, 1)).take([0, 1, 5, 5, 5])):
        model = build("smote", neighbours=3)
        model.fit(real, 0)
        assert (model.sample(*requests(1, 20)) == real.images[2]).all()


# diffusion


@pytest.fixture
def analytic(network) -> Callable[..., torch.Tensor]:
    """Samples of the sampler when the denoiser is the optimal one for Gaussian data of deviation s."""

    def sample(s: float, steps: int, start: torch.Tensor) -> torch.Tensor:
        model = network("diffusion", sampler_steps=steps)
        model.denoise = lambda x, sigma, y, shape=None: x * s**2 / (s**2 + sigma.view(-1, 1, 1, 1) ** 2)
        with torch.inference_mode():
            return model(torch.zeros(len(start), dtype=torch.long), lambda *shape: start.view(len(start), *shape))

    return sample


@pytest.mark.parametrize("s", [0.2, 0.5, 1.0])
def test_heun_follows_the_exact_solution_for_gaussian_data(analytic, s):
    start = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x_max = start * diffusion.SIGMA_MAX
    exact = x_max * s / math.sqrt(s**2 + diffusion.SIGMA_MAX**2)
    error = {n: float((analytic(s, n, start) - exact).abs().max() / exact.abs().max()) for n in (18, 36, 144)}
    assert error[18] < 0.1 and error[144] < 1e-3
    assert error[18] / error[36] > 3  # second order: half the step, a quarter of the error


def test_a_network_that_answers_zero_leaves_the_skip_of_the_preconditioning(network):
    model = network("diffusion")  # its last layer starts at zero
    x, sigma = torch.randn(5, 1, 8, 8), torch.tensor([0.002, 0.1, 0.5, 3.0, 80.0])
    skip = diffusion.SIGMA_DATA**2 / (sigma**2 + diffusion.SIGMA_DATA**2)
    assert torch.allclose(model.denoise(x, sigma, torch.zeros(5, dtype=torch.long)), skip.view(-1, 1, 1, 1) * x)


def test_the_network_sees_inputs_of_unit_variance_and_answers_targets_of_unit_variance(network):
    """EDM, equations 114 and 115: var(c_in (x + n)) = 1 and var((x - c_skip (x + n)) / c_out) = 1 for any noise level."""
    model, seen = network("diffusion"), []
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(400, 1, 8, 8, generator=generator) * diffusion.SIGMA_DATA
    model.net.forward = lambda x, *_: seen.append(x) or torch.ones_like(x)
    for level in (0.01, 0.5, 20.0):
        sigma, y = torch.full((400,), level), torch.zeros(400, dtype=torch.long)
        noisy = data + torch.randn(data.shape, generator=generator) * level
        with_one = model.denoise(noisy, sigma, y)
        c_skip = diffusion.SIGMA_DATA**2 / (level**2 + diffusion.SIGMA_DATA**2)
        c_out = (with_one - c_skip * noisy).mean()
        assert abs(float(seen[-1].var()) - 1) < 0.03
        assert abs(float(((data - c_skip * noisy) / c_out).var()) - 1) < 0.03


def test_the_loss_weight_gives_every_noise_level_the_same_say(network):
    """For data of the assumed variance and a zero network, the weighted error has expectation one at any level."""
    model = network("diffusion", augment=0.0)
    torch.manual_seed(0)
    model.net.forward = lambda x, *_: torch.zeros_like(x)
    x, y = torch.randn(4096, 1, 8, 8) * diffusion.SIGMA_DATA, torch.zeros(4096, dtype=torch.long)
    ((_, loss),) = model.losses((x, y, torch.ones(4096)), 0.5)
    assert abs(float(loss) - 1) < 0.03


def test_sampling_starts_at_the_largest_noise_and_ends_without(network):
    model, levels = network("diffusion", sampler_steps=5), []
    model.denoise = lambda x, sigma, y, shape=None: levels.append(float(sigma[0])) or x * 0
    model(torch.zeros(1, dtype=torch.long), lambda *shape: torch.ones(1, *shape))
    assert len(levels) == 2 * 5 - 1 and np.isclose(levels[0], 80) and np.isclose(levels[-1], 0.002)
    grid = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 5) ** 7
    assert np.allclose(sorted(set(np.round(levels, 6)), reverse=True), grid, rtol=1e-3)


@pytest.mark.parametrize(
    ("side", "cells"),
    [(8, [8, 4]), (28, [14, 7]), (32, [16, 8]), (36, [20, 10, 5]), (52, [28, 14, 7]), (60, [32, 16, 8]), (64, [32, 16, 8]),
     (72, [40, 20, 10, 5]), (100, [56, 28, 14, 7])],
)  # fmt: skip
def test_larger_pictures_have_more_levels_down_to_eight_cells_a_side(build, side, cells):
    """Sides such as 36 and 100 halved once, which left 9 and 25 cells."""
    model, seen = build("diffusion", width=8), []
    model.shape, model.classes = (side, side, 1), 2
    net = model.build().net
    for level in net.down:
        level[0].register_forward_hook(lambda block, given, out: seen.append(out.shape[2]))
    out = net(torch.zeros(1, 1, *model.side), torch.zeros(1), torch.zeros(1, dtype=torch.int64), None)
    assert seen == cells and out.shape == (1, 1, *model.side) and model.side[0] >= side


def test_augmentation_of_probability_zero_is_the_identity():
    x = torch.randn(6, 1, 8, 8)
    moved, shape = diffusion.augment(x, 0.0)
    assert torch.equal(moved, x) and shape.shape == (6, diffusion.AUGMENTS) and not shape.any()


def test_augmentation_describes_exactly_the_images_it_touched():
    torch.manual_seed(0)
    x = torch.rand(200, 1, 8, 8)
    before = x.clone()
    moved, shape = diffusion.augment(x, 0.3)
    assert torch.equal(x, before)
    touched = (shape != 0).any(dim=1)
    assert 20 < touched.sum() < 190 and torch.equal(moved[~touched], x[~touched])
    assert (moved[touched] != x[touched]).flatten(1).any(dim=1).all()
    assert all((shape[touched][:, i] == 0).float().mean() < 0.9 for i in range(diffusion.AUGMENTS))


def test_a_shift_moves_the_picture_by_a_part_of_its_side(monkeypatch):
    x = torch.rand(2, 1, 16, 16)
    draws = iter([torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1), torch.zeros(2, 1)])
    monkeypatch.setattr(torch, "randn", lambda *size, **_: next(draws))
    moved, _ = diffusion.augment(x, 1.0)  # an eighth of half a side: one pixel of 16
    assert torch.allclose(moved[0, :, :, :-1], x[0, :, :, 1:], atol=1e-5)
    assert torch.allclose(moved[1, :, :-1], x[1, :, 1:], atol=1e-5)


# translate


def test_without_noise_a_translation_is_the_row_it_starts_from(build, toy):
    real, model = toy((9, 5, 1)), build("translate", strength=[0.0, 1e-9], across=0.0, epochs=1)
    model.fit(real, 0)
    for c, n in enumerate((9, 5, 1)):
        made = model.sample(*requests(c, 60)).astype(float)
        far = np.abs(made[:, None] - real.images[real.y == c][None]).max(axis=(2, 3, 4))
        assert far.min(axis=1).max() <= 2 and len(set(far.argmin(axis=1))) == n


def test_with_all_the_noise_the_row_it_starts_from_does_not_matter(build, toy):
    real, made = toy((9, 5, 1)), []
    for across in (0.0, 1.0):
        model = build("translate", strength=[1.0 - 1e-9, 1.0], across=across, epochs=1)
        model.fit(real, 0)
        made.append(model.sample(*requests(1, 20)).astype(float))
    assert np.abs(made[0] - made[1]).mean() < 12  # a row is a hundredth of the noise, and this network knows nothing


@pytest.mark.parametrize(("across", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_this_share_of_rows_starts_from_any_row_of_another_class(build, toy, across, share):
    real, model = toy((9, 5, 4), size=9), build("translate", across=across)
    model.start_from(real)
    rows = [model.source(0, np.random.default_rng(i)) for i in range(400)]
    assert abs((real.y[rows] != 0).mean() - share) < 0.07
    assert len(set(rows)) == 9 * (across < 1) + 9 * (across > 0), "each row of the class, each of the others"


def test_the_noise_levels_of_strengths_lie_on_the_schedule():
    from pipeline.generators import translate

    found = translate.level(torch.tensor([0.0, 0.5, 1.0]))
    middle = ((0.002 ** (1 / 7) + 80 ** (1 / 7)) / 2) ** 7
    assert torch.allclose(found, torch.tensor([0.002, middle, 80.0]), rtol=1e-4)


# cgan


def test_no_kinds_of_augmentation_are_the_identity():
    x = torch.randn(4, 3, 8, 8)
    assert cgan.augment(x, []) is x


@pytest.mark.parametrize("side", [(8, 8), (16, 12)])
def test_translation_keeps_values_and_fills_with_zero(side):
    torch.manual_seed(0)
    x = torch.rand(64, 2, *side) + 1
    moved, shifts = cgan.augment(x, ["translation"]), set()
    most = [round(s / 8) for s in side]
    padded = torch.nn.functional.pad(x, (most[1], most[1], most[0], most[0]))
    for i in range(64):
        found = [
            (dy, dx)
            for dy in range(2 * most[0] + 1)
            for dx in range(2 * most[1] + 1)
            if torch.equal(padded[i, :, dy : dy + side[0], dx : dx + side[1]], moved[i])
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 4


def test_cutout_zeroes_one_rectangle_of_at_most_half_the_side():
    torch.manual_seed(0)
    x = torch.rand(64, 1, 8, 12) + 1
    cut = cgan.augment(x, ["cutout"])
    hole = cut == 0
    assert torch.equal(cut[~hole], x[~hole])
    rows, cols = hole.any(dim=3).sum(dim=2), hole.any(dim=2).sum(dim=2)
    assert torch.equal(hole.flatten(1).sum(dim=1), (rows * cols)[:, 0])
    assert rows.max() == 4 and cols.max() == 6 and len(set(rows.flatten().tolist())) > 1


def test_colour_keeps_the_order_of_the_pixels():
    torch.manual_seed(0)
    x = torch.randn(20, 1, 8, 8)
    seen = cgan.augment(x, ["colour"])
    assert torch.equal(seen.flatten(1).argsort(dim=1), x.flatten(1).argsort(dim=1))
    assert seen.mean(dim=(1, 2, 3)).std() > 0.1 and (seen.std(dim=(1, 2, 3)) / x.std(dim=(1, 2, 3))).std() > 0.1


@pytest.mark.parametrize("kinds", [["colour"], ["translation"], ["cutout"], ["colour", "translation", "cutout"]])
def test_augmentation_lets_gradients_through(kinds):
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    cgan.augment(x, kinds).sum().backward()
    assert (x.grad != 0).any()


def test_sameness_is_zero_when_fakes_differ_as_much_as_real_rows_and_large_when_they_do_not():
    torch.manual_seed(0)
    real, fake, y = torch.randn(32, 1, 8, 8), torch.randn(32, 1, 8, 8), torch.arange(32) // 8
    assert cgan.sameness(real, real, y) == 0 and cgan.sameness(fake * 1.5, real, y) == 0
    half, tenth, equal = (float(cgan.sameness(fake * s, real, y)) for s in (0.5, 0.1, 0.0))
    assert 0.7 < half < 1.2 and half < tenth < equal < 100.1


def test_sameness_compares_neighbours_of_one_class_only():
    torch.manual_seed(0)
    real, y = torch.randn(6, 1, 8, 8), torch.arange(6)
    assert cgan.sameness(torch.zeros(6, 1, 8, 8), real, y) == 0
    means = torch.randn(3, 1, 8, 8).repeat_interleave(8, dim=0)  # as varied as can be, but not within a class
    assert cgan.sameness(means, torch.randn(24, 1, 8, 8), torch.arange(24) // 8) > 50


def test_the_critic_sees_the_spread_within_groups():
    h = torch.randn(8, 3, 2, 2)
    h[:4] = h[0]
    channel = cgan.deviation(h)
    assert channel.shape == (8, 1, 2, 2)
    assert torch.allclose(channel[:4], torch.tensor(1e-4), atol=1e-6)
    assert torch.allclose(channel[4:], h[4:].std(dim=0, unbiased=False).mean(), atol=1e-3)


@pytest.mark.parametrize(("progress", "strength"), [(0.0, 0), (0.2, 0), (0.35, 0.5), (0.5, 1), (1.0, 1)])
def test_the_class_comes_in_along_the_ramp(build, progress, strength):
    model = build("cgan", ramp=[0.2, 0.5])
    model.shape, model.classes = (8, 8, 1), 3
    game, used = model.game(), []
    forward = game.critic.forward
    game.critic.forward = lambda x, y, s: used.append(s) or forward(x, y, s)
    players = [name for name, _ in game.losses((torch.randn(6, 1, 8, 8), torch.arange(6) % 3, torch.ones(6)), progress)]
    assert players == ["critic", "maker"] and np.allclose(used, strength)


def test_a_move_of_one_player_leaves_the_other_without_gradient(build):
    model = build("cgan", diversity=1.0)
    model.shape, model.classes = (8, 8, 1), 3
    game = model.game()
    for name, loss in game.losses((torch.randn(6, 1, 8, 8), torch.arange(6) % 3, torch.ones(6)), 1.0):
        game.zero_grad(set_to_none=True)
        loss.backward()
        moved = {n.split(".")[0] for n, p in game.named_parameters() if p.grad is not None and (p.grad != 0).any()}
        assert moved == {name}


def test_a_ramp_must_rise(build):
    with pytest.raises(ValueError, match="first number must be smaller than the second"):
        build("cgan", ramp=[0.5, 0.5])


# cvae


@pytest.fixture
def encoded(network, monkeypatch) -> Callable[..., tuple[torch.nn.Module, torch.Tensor, torch.Tensor]]:
    """A network whose posterior lies at 16 pixels of the image; its prior is fitted to 300 rows of two classes."""

    def fit(shrink: float, widen: float = 0.0) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
        model = network("cvae", shrink=shrink, widen=widen, latent=16)
        model.encode = lambda x, y: (x.flatten(1)[:, :16], torch.full((len(x), 16), -1.0))
        generator = torch.Generator().manual_seed(0)
        y = torch.tensor([0] * 290 + [1] * 10)
        x = torch.randn(300, 1, 8, 8, generator=generator) * (1 + 2 * y.view(-1, 1, 1, 1)) + 5 * y.view(-1, 1, 1, 1)
        monkeypatch.setattr(sys.modules[type(model).__module__], "to_network", lambda part: part)
        model.fit_prior(x, y.numpy())
        return model, x.flatten(1)[:, :16], y

    return fit


OWN = math.exp(-1)  # the variance of each posterior


def test_without_shrinkage_the_prior_has_the_moments_of_the_class(encoded):
    model, z, y = encoded(0.0)
    for c in (0, 1):
        assert torch.allclose(model.prior_mean[c], z[y == c].mean(dim=0), atol=1e-4)
        expected = (z[y == c].var(dim=0, unbiased=False) + OWN).sqrt()
        assert torch.allclose(model.prior_std[c], expected, atol=1e-3)


def test_with_endless_shrinkage_every_class_has_the_moments_of_all_rows(encoded):
    model, z, _ = encoded(1e9)
    for c in (0, 1, 2):
        assert torch.allclose(model.prior_mean[c], z.mean(dim=0), atol=1e-3)
        assert torch.allclose(model.prior_std[c], (z.var(dim=0, unbiased=False) + OWN).sqrt(), atol=1e-3)


def test_shrinkage_counts_as_so_many_rows_of_the_whole(encoded):
    model, z, y = encoded(10.0)
    half = 0.5 * z[y == 1].mean(dim=0) + 0.5 * z.mean(dim=0)  # 10 rows of the class and 10 pseudo-rows
    assert torch.allclose(model.prior_mean[1], half, atol=1e-4)
    second = 0.5 * z[y == 1].square().mean(dim=0) + 0.5 * z.square().mean(dim=0) + OWN
    assert torch.allclose(model.prior_std[1], (second - half.square()).sqrt(), atol=1e-3)


@pytest.mark.parametrize("shrink", [0.0, 4.0])
def test_a_class_without_rows_has_the_prior_of_all_rows(encoded, shrink):
    model, z, _ = encoded(shrink)
    assert torch.allclose(model.prior_mean[2], z.mean(dim=0), atol=1e-4) and torch.isfinite(model.prior_std).all()


@pytest.mark.parametrize("shrink", [0.0, 4.0])
def test_the_prior_of_few_rows_is_wider_and_has_the_same_middle(encoded, shrink):
    plain, wide = encoded(shrink)[0], encoded(shrink, widen=10.0)[0]
    assert torch.equal(wide.prior_mean, plain.prior_mean)
    factor = torch.tensor([1 + 10 / 290, 1 + 10 / 10, 1 + 10 / 300]).sqrt()  # the last class has none: that of all rows
    assert torch.allclose(wide.prior_std / plain.prior_std, factor[:, None].expand(3, 16), rtol=1e-4)


def test_latents_are_drawn_from_the_prior_of_the_class(encoded):
    model, _, _ = encoded(0.0)
    model.decode = lambda z, y: z
    noise = torch.randn(4000, 16, generator=torch.Generator().manual_seed(1))
    for c in (0, 1):
        z = model(torch.full((4000,), c), lambda *shape: noise.view(-1, *shape))
        assert torch.allclose(z.mean(dim=0), model.prior_mean[c], atol=0.3)
        assert torch.allclose(z.std(dim=0), model.prior_std[c], rtol=0.1)


def test_the_loss_is_the_optimal_variance_likelihood_and_the_analytic_kl(network):
    """Without noise in the latent and with weight w: log sigma + w KL / pixels, KL(N(m, v) || N(0, 1)) by torch."""
    model = network("cvae", kl_weight=0.7, kl_warmup=0.5)
    x, y = torch.rand(6, 1, 8, 8) * 2 - 1, torch.arange(6) % 3
    mean, logvar = torch.randn(6, 16), torch.randn(6, 16) - 2
    model.encode, model.decode = lambda x, y: (mean, logvar), lambda z, y: x * 0.5
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (logvar / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    for progress, warm in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)):
        ((_, loss),) = model.losses((x, y, torch.ones(6)), progress)
        expected = (0.5 * x).square().mean().sqrt().log() + 0.7 * warm * kl.sum(dim=1).mean() / 64
        assert torch.allclose(loss, expected, atol=1e-5)


def test_sides_that_were_padded_are_padded_alike_for_the_prior(build, toy):
    real, model = toy((6, 4, 2), size=10), build("cvae", epochs=1)
    model.fit(real, 0)
    grown = np.pad(real.images, [(0, 0), (0, 2), (0, 2), (0, 0)], mode="edge")
    (network,) = model.networks
    before = network.prior_mean.clone()
    network.fit_prior(grown, real.y)
    assert torch.allclose(network.prior_mean, before, atol=1e-5)


# what the neural families share


@pytest.mark.parametrize("family", NEURAL)
def test_epochs_and_batch_give_the_steps(build, toy, family):
    assert build(family, epochs=3, batch=8).steps(toy((12, 7, 3))) == 3 * 3
    assert build(family, epochs="auto").steps(toy((12, 7, 3))) >= 1000


@pytest.mark.parametrize("family", NEURAL)
def test_weights_are_averages_that_differ_from_another_averaging(build, toy, family):
    flat = []
    for share in (0.0, 0.9):
        model = build(family, epochs=8, batch=8, ema=[share])
        model.fit(toy((12, 7, 3)), 0)
        flat.append(torch.cat([p.flatten() for p in model.networks[0].parameters()]))
    assert torch.isfinite(flat[0]).all() and not torch.allclose(flat[0], flat[1], atol=1e-5)


@pytest.mark.parametrize("family", NEURAL)
def test_a_huge_learning_rate_is_divergence(build, toy, family):
    from pipeline.training import Diverged

    model = build(family, epochs=4, batch=8)
    model.options = model.options.model_copy(update={"lr": 1e30})  # more than params may ask for
    with pytest.raises(Diverged, match="lower its learning rate"):
        model.fit(toy((12, 7, 3)), 0)


def test_constant_images_can_be_fitted(build):
    ids = [str(i) for i in range(8)]
    frame = table(id=ids, group=ids, label=["a", "b"] * 4, split=["train"] * 8, origin=["real"] * 8)
    real = Samples(frame, np.full((8, 8, 8, 1), 255, np.uint8), Facts(("a", "b"), ("b",)))
    for family in params.families():
        model = build(family, epochs=1) if family in NEURAL else build(family)
        model.fit(real, 0)
        assert not model.makes_rows or model.sample(*requests(1, 3)).shape == (3, 8, 8, 1)


# where to stop


def test_each_class_takes_the_nearest_point_that_has_few_copies():
    distance = np.array([[3.0, 1.0, 1.0, np.nan], [2.0, 2.0, 2.0, np.nan], [1.0, 3.0, 3.0, np.nan]])
    copies = np.array([[0.0, 0.3, 0.5, np.nan], [0.0, 0.1, 0.4, np.nan], [0.2, 0.0, 0.6, np.nan]])
    assert best(distance, copies, 0.1, last=2).tolist() == [1, 1, 1, 2]
    assert best(distance, copies, 1.0, last=2).tolist() == [2, 0, 0, 2]


@pytest.mark.parametrize(
    ("steps", "count", "begin", "expected"),
    [
        (100, 1, 0.0, [100]),
        (100, 5, 0.0, [20, 40, 60, 80, 100]),
        (2, 3, 0.0, [1, 2]),
        (100, 5, 0.5, [60, 70, 80, 90, 100]),
        (100, 5, 1.0, [100]),
    ],
)
def test_points_lie_evenly_over_the_part_of_training_that_can_be_chosen(steps, count, begin, expected):
    assert moments(steps, count, begin) == expected


@pytest.mark.parametrize(
    ("family", "begin"), [("cvae", 0.0), ("cgan", 0.5), ("autoregressive", 0.3), ("diffusion", 0.0)]
)
def test_no_weights_are_chosen_of_before_the_classes_are_learnt(build, family, begin):
    """A class counts for nothing in the first fifth of training of `cgan`, and the prior of `autoregressive` begins late."""
    assert build(family).begin == begin


@pytest.mark.parametrize("family", ["cvae", "cgan", "diffusion"])
def test_classes_are_drawn_from_the_points_that_the_judge_prefers(build, toy, tmp_path, family):
    """Of two points, class c takes the first and class b, which is not scarce and is not judged, the last."""
    real, asked = toy((12, 7, 3)), []

    def judge(images: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append((images.copy(), y))
        far = np.full(3, np.nan)
        far[2] = len(asked)
        return far, far * 0

    model = build(family, epochs=4, batch=8, ema=[0.0], snapshots=2)
    model.fit(real, 0, judge=judge)
    assert len(asked) == 2 and set(asked[0][1]) == {2} and len(asked[0][1]) == 128
    assert model.chosen.tolist() == [1, 1, 0] and len(model.networks) == 2
    assert [p["classes"] for p in model.points] == [[2], [0, 1]] and model.points[0]["distance"][2] == 1.0
    seeds = np.random.default_rng(0).integers(2**63, size=128)
    assert np.array_equal(model.sample(asked[0][1], seeds), asked[0][0])
    labels = np.arange(30) % 3
    model.save(tmp_path)
    back = build(family, epochs=4, batch=8, ema=[0.0], snapshots=2).load(tmp_path, real)
    assert np.array_equal(back.sample(labels, seeds[:30]), model.sample(labels, seeds[:30]))


def test_the_spread_of_samples_is_compared_with_that_of_real_rows(build, toy, monkeypatch):
    real, model = toy((12, 7, 3)), build("cvae")
    own = real.images[real.y == 2]
    for made, expected in ((own, 1.0), (own[:1].repeat(5, axis=0), 0.0), (own // 2, 0.5)):
        monkeypatch.setattr(model, "trial", lambda *_, made=made: (made, np.full(len(made), 2)))
        assert model.variety(real, 0) == pytest.approx(expected, abs=0.02)
    single = real.take([0, 21])
    monkeypatch.setattr(model, "trial", lambda *_: (own[:1], np.full(1, 2)))
    assert model.variety(single, 0) == 1.0, "one real row says nothing of a spread"


def test_a_posterior_that_collapses_shows_in_the_curve_and_in_rows_that_are_all_alike(build, toy):
    real, kl, varied = toy((12, 7, 3), size=12), [], []
    for weight in (1.0, 1e4):
        model = build("cvae", epochs=120, batch=8, kl_weight=weight, kl_warmup=0.0, ema=[0.0], snapshots=1)
        kl.append(model.fit(real, 0)[-1]["KL, nats"])
        varied.append(model.variety(real, 0))
    assert kl[0] > 1.0 > 0.05 > kl[1] >= 0.0
    assert varied[0] > ALIKE > varied[1]


def test_how_often_a_critic_is_right_stands_in_the_curve(build, toy):
    curve = build("cgan", epochs=4, batch=8).fit(toy((12, 7, 3)), 0)
    assert all(0.0 <= point["critic right"] <= 1.0 for point in curve) and len({p["critic right"] for p in curve}) > 1
    assert set(curve[-1]) == {"step", "loss", "critic right"}


@pytest.mark.parametrize(("spreads", "restarts"), [([0.5], 0), ([0.1, 0.5], 1), ([0.1, 0.1], 1)])
def test_a_collapsed_generator_is_fitted_once_more_with_another_seed(
    build, toy, tmp_path, monkeypatch, spreads, restarts
):
    real, model, told, spread = toy((12, 7, 3)), build("cgan", epochs=1, batch=8, snapshots=1), [], iter(spreads)
    monkeypatch.setattr(model, "variety", lambda *_: next(spread))
    seen, train = [], model.train
    monkeypatch.setattr(model, "train", lambda real, seed, report: seen.append(seed) or train(real, seed, report))
    model.fit(real, 6, lambda count, note="": told.append(note), judge=lambda images, y: np.zeros((2, 3)))
    assert seen == [6, 7][: 1 + restarts] and model.restarts == restarts
    assert any("once more" in note for note in told) == bool(restarts)
    model.save(tmp_path)
    assert build("cgan", epochs=1, batch=8, snapshots=1).load(tmp_path, real).restarts == restarts
