"""What the private family promises, by closed forms and loops. Run: python -m pytest tests/generators/test_private.py"""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from pipeline import checkpoints, generators, params
from pipeline.errors import Diverged
from pipeline.generators import _dpsgd, private
from pipeline.samples import Samples, concat


@pytest.fixture
def build(shipped, compute) -> Callable[..., private.Model]:
    """An unfitted generator with the shipped options, made small, some of them changed."""

    def make(**changes: object) -> private.Model:
        options = shipped.generators["private"].options | {"epochs": 4, "batch": 8, "width": 8} | changes
        return generators.build(params.Generator(family="private", model="private", **options), compute, "private")

    return make


@pytest.fixture
def network(build) -> private.Network:
    torch.manual_seed(0)
    return private.Network((8, 8, 1), 3, build().options)


def rows(n: int = 9) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return torch.rand(n, 1, 8, 8) * 2 - 1, torch.arange(n) % 3, torch.randn(n, 4)


def gradients(network: private.Network, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Of one row after the other, by plain autograd, each in one vector (N, P)."""
    found = []
    for i in range(len(batch[0])):
        network.zero_grad()
        network(*(part[i : i + 1] for part in batch)).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    return torch.stack(found)


def flat(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.flatten() for part in parts])


# ---- the sum of clipped gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [1, 3000, 2**24])  # pieces of one row, of a few, and all at once
def test_gradients_are_clipped_row_by_row(network, monkeypatch, numbers):
    monkeypatch.setattr(_dpsgd, "NUMBERS", numbers)
    alone = gradients(network, rows())
    length = alone.norm(dim=1)
    clip = float(length.median())
    assert length.min() < clip < length.max()
    expected = (alone * (clip / length).clamp(max=1)[:, None]).sum(dim=0)
    assert torch.allclose(flat(_dpsgd.clipped_sum(network, rows(), clip)), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("clip", [0.01, 1.0, 1e5])
def test_one_row_more_or_less_moves_the_sum_by_at_most_the_clip(network, clip):
    batch = rows()
    whole = flat(_dpsgd.clipped_sum(network, batch, clip))
    for i in range(9):
        kept = [j for j in range(9) if j != i]
        without = flat(_dpsgd.clipped_sum(network, tuple(part[kept] for part in batch), clip))
        assert 0 < (whole - without).norm() <= clip * (1 + 1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_row_whose_gradient_is_no_number_adds_nothing(network, value):
    x, y, z = rows()
    spoilt = x.clone()
    spoilt[4] = value
    kept = [0, 1, 2, 3, 5, 6, 7, 8]
    expected = flat(_dpsgd.clipped_sum(network, (x[kept], y[kept], z[kept]), 1.0))
    assert torch.allclose(flat(_dpsgd.clipped_sum(network, (spoilt, y, z), 1.0)), expected, atol=1e-5)


def test_no_rows_make_a_sum_of_zeros(network):
    assert not flat(_dpsgd.clipped_sum(network, tuple(part[:0] for part in rows()), 1.0)).any()


def test_the_loss_of_a_row_is_that_of_a_gaussian_decoder_and_the_analytic_kl(network):
    x, y, z = rows()
    seen = torch.cat([x.flatten(1), torch.eye(3)[y]], dim=1)
    mean, logvar = network.to_latent(torch.nn.functional.silu(network.hidden(seen))).chunk(2, dim=1)
    posterior = torch.distributions.Normal(mean, (logvar / 2).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(dim=1)
    made = torch.distributions.Normal(network.decoder.decode(mean + posterior.stddev * z, y), network.o.deviation)
    constant = 64 * (math.log(network.o.deviation) + 0.5 * math.log(2 * math.pi))
    expected = -made.log_prob(x).flatten(1).sum(dim=1) - constant + kl
    assert torch.allclose(network(x, y, z), expected, rtol=1e-4)


# ---- a step ----------------------------------------------------------------------------------------------------


def fit_of(build: Callable[..., private.Model], real: Samples, seed: int = 0, **promise: float) -> _dpsgd.Fit:
    """A training that has taken no step, with what it is promised changed."""
    o = build().options
    said = _dpsgd.budget(o, len(real), 20) | promise
    torch.manual_seed(0)
    fit = _dpsgd.Fit(private.Network(real.shape, len(real.classes), o), o.latent, said, o, real, seed)
    fit.optimiser = torch.optim.SGD(fit.network.parameters(), 0.0)
    fit.averages.begin(fit.network)
    return fit


def grads(fit: _dpsgd.Fit) -> torch.Tensor:
    fit.take(torch.device("cpu"))
    return flat([p.grad for p in fit.network.parameters()])


def test_the_noise_of_a_step_is_gaussian_of_the_multiplier_times_the_clip_over_the_expected_rows(build, toy):
    fit = fit_of(build, toy((40, 20, 10)), noise_multiplier=3.0, sample_rate=1e-12)  # no row will be drawn
    fit.o = fit.o.model_copy(update={"clip": 0.5})
    noise = grads(fit).double().numpy() * 1e-12 * 70 / (3.0 * 0.5)
    assert kstest(noise, "norm").pvalue > 1e-3 and abs(noise.std() - 1) < 0.05


def test_without_noise_a_step_is_the_clipped_sum_over_the_expected_rows(build, toy):
    real, seen = toy((40, 20, 10)), []
    fit = fit_of(build, real, noise_multiplier=0.0, sample_rate=0.25)
    with pytest.MonkeyPatch.context() as patch:
        clipped = _dpsgd.clipped_sum
        patch.setattr(_dpsgd, "clipped_sum", lambda *given: seen.append(flat(clipped(*given))) or clipped(*given))
        assert torch.allclose(grads(fit), seen[0] / (0.25 * 70))


def test_every_row_is_drawn_with_the_same_probability_whatever_its_class(build, toy, monkeypatch):
    """Images that hold the number of their row tell which were drawn."""
    real = toy((40, 20, 10))
    real = replace(real, images=np.broadcast_to(np.arange(70, dtype=np.uint8)[:, None, None, None], (70, 8, 8, 1)))
    fit, times, sizes = fit_of(build, real, sample_rate=0.3), np.zeros(70), []

    def seen(network, batch, clip):
        drawn = np.round((batch[0][:, 0, 0, 0].numpy() + 1) * 127.5).astype(int)
        np.add.at(times, drawn, 1)
        sizes.append(len(drawn))
        return [torch.zeros_like(p) for p in network.parameters()]

    monkeypatch.setattr(_dpsgd, "clipped_sum", seen)
    for fit.step in range(400):
        fit.take(torch.device("cpu"))
    assert np.abs(times / 400 - 0.3).max() < 5 * math.sqrt(0.3 * 0.7 / 400)
    assert abs(np.var(sizes) / (70 * 0.3 * 0.7) - 1) < 0.3, "each by itself, not a fixed number"


def test_with_the_same_noise_another_row_moves_a_step_by_at_most_twice_the_clip_over_the_expected_rows(build, toy):
    real = toy((12, 7, 3))
    images = real.images.copy()
    images[5] = 255 - images[5]
    steps = [
        grads(fit_of(build, rows, noise_multiplier=50.0, sample_rate=1.0)) * 22
        for rows in (real, replace(real, images=images))
    ]
    assert 0.01 < (steps[0] - steps[1]).norm() <= 2.01 < 0.01 * steps[0].norm(), "the clip is 1"


# ---- the promise -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epsilon", "steps"), [(0.5, 10), (8.0, 1), (8.0, 3000)])
def test_with_all_rows_in_each_step_the_promise_holds_by_the_closed_form(build, epsilon, steps):
    """Steps of one Gaussian mechanism are one of mu = sqrt(steps) / multiplier, whose delta is known (Balle, Wang 2018)."""
    said = _dpsgd.budget(build(epsilon=epsilon, batch=50).options, 50, steps)
    mu = math.sqrt(steps) / said["noise_multiplier"]
    delta = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    assert said["delta"] == 1 / 500 and said["sample_rate"] == 1.0
    assert 0.01 * said["delta"] < delta <= said["delta"] and 0.99 * epsilon < said["epsilon"] <= epsilon


@pytest.mark.parametrize(("epsilon", "rows"), [(1.0, 400), (8.0, 400), (8.0, 4000)])
def test_another_accountant_finds_no_larger_epsilon(build, epsilon, rows):
    from opacus.accountants import PRVAccountant

    said, other = _dpsgd.budget(build(epsilon=epsilon, batch=128).options, rows, 1000), PRVAccountant()
    other.history = [(said["noise_multiplier"], said["sample_rate"], 1000)]
    assert 0.8 * epsilon < other.get_epsilon(said["delta"]) <= epsilon
    assert said["sample_rate"] == 128 / rows and said["delta"] == 1 / (10 * rows)


def test_a_delta_that_would_let_a_row_be_published_is_refused(build):
    with pytest.raises(
        ValueError, match=r"delta 0\.05 lets one of 20 rows be published as it is; set delta below 1 / 20"
    ):
        _dpsgd.budget(build(delta=0.05).options, 20, 10)
    assert _dpsgd.budget(build(delta=0.04).options, 20, 10)["delta"] == 0.04


def test_an_epsilon_that_no_noise_keeps_is_refused_with_what_to_change(build):
    with pytest.raises(ValueError, match=r"epsilon 1e-06 at .* cannot be kept in 1000 steps .*raise epsilon, or lower"):
        _dpsgd.budget(build(epsilon=1e-6, delta=1e-15).options, 20, 1000)


def test_what_is_promised_stands_in_the_file_of_a_person(build, toy, tmp_path):
    model = build(epsilon=3.0)
    model.fit(toy(), 1)
    model.save(tmp_path)
    said = json.loads((tmp_path / "generator.json").read_text())["guarantee"]
    assert 2.9 < said.pop("epsilon") <= 3.0 and said.pop("noise_multiplier") > 0
    assert said == {
        "delta": 1 / 220, "clip": 1.0, "steps": 12, "sample_rate": 8 / 22, "rows": 22, "secret": False,
    }  # fmt: skip


def test_the_epsilon_is_printed(build, toy, caplog):
    with caplog.at_level("INFO"):
        build(epsilon=3.0).fit(toy(), 1)
    assert "differential privacy: epsilon 2.99" in caplog.text or "differential privacy: epsilon 3.00" in caplog.text


def test_no_judge_chooses_and_no_loss_is_kept(build, toy):
    assert build().fit(toy(), 1, judge=lambda *_: pytest.fail("looked at validation rows")) == []


def test_rows_of_a_pool_are_not_learnt_from(build, toy):
    """Their labels come of networks that saw the training rows, so that one of these would touch many."""
    real, more = toy((12, 7, 3)), toy((5, 5, 5), seed=3, split="unlabelled")
    one, other = build(), build()
    assert one.learns_from(concat([real, more])).table["id"].tolist() == real.table["id"].tolist(), "as the audit asks"
    one.fit(real, 1)
    other.fit(concat([real, more]), 1)
    assert other.steps(concat([real, more])) == one.steps(real)
    assert all(torch.equal(a, b) for a, b in zip(one.decoder.parameters(), other.decoder.parameters(), strict=True))


# ---- secret noise ----------------------------------------------------------------------------------------------


def test_numbers_of_the_operating_system_are_uniform_and_normal():
    source = _dpsgd.Secret()
    assert kstest(source.random(20_000), "uniform").pvalue > 1e-6
    assert kstest(source.standard_normal(20_000), "norm").pvalue > 1e-6
    assert len(source.random(0)) == len(source.standard_normal(0)) == 0


def test_a_secret_fit_is_another_each_time_and_says_so(build, toy):
    made = []
    for _ in range(2):
        model = build(secret=True)
        model.fit(toy(), 1)
        made.append(model.decoder.out.weight)
    assert not torch.equal(*made) and model.guarantee["secret"] is True


# ---- being killed, diverging, and what is not installed --------------------------------------------------------


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("step", [1, 7])
def test_a_fit_that_was_killed_goes_on_to_the_same_weights(build, toy, tmp_path, monkeypatch, step):
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    whole, told = build(), []
    whole.fit(toy(), 1)
    taken, take = [], _dpsgd.Fit.take

    def instead(self, where):
        if len(taken) == step:
            raise Killed
        taken.append(self.step)
        take(self, where)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(_dpsgd.Fit, "take", instead)
        build().fit(toy(), 1, unfinished=tmp_path)
    file = min(tmp_path.iterdir())
    assert checkpoints.read(file)["step"] == step
    again = build()
    again.fit(toy(), 1, lambda count, note="": told.append(count), unfinished=tmp_path)
    assert told[0] == step and sum(told) == whole.steps(toy())
    pairs = zip(whole.decoder.state_dict().values(), again.decoder.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    other, fresh = build(epsilon=2.0), build(epsilon=2.0)
    other.fit(toy(), 1, unfinished=tmp_path)
    fresh.fit(toy(), 1)
    assert torch.equal(other.decoder.out.weight, fresh.decoder.out.weight), "a state of another promise is none"


def test_weights_that_run_away_are_divergence(build, toy):
    model = build(epochs=40)
    model.options = model.options.model_copy(
        update={"lr": 3e37}
    )  # more than params may ask for: no weight stays finite
    with pytest.raises(Diverged, match="lower its learning rate"):
        model.fit(toy(), 0)


def test_without_opacus_it_is_said_what_to_install(build, toy, shipped, monkeypatch):
    from stages import check

    asked = shipped.arms["private"].model_copy(update={"role": "candidate"})
    trained = shipped.model_copy(update={"profile": "full", "arms": shipped.arms | {"private": asked}})
    check.main(trained)
    monkeypatch.setitem(sys.modules, "opacus", None)
    check.main(shipped)  # no arm asks for it
    for fails in (lambda: build().fit(toy(), 0), lambda: check.main(trained)):
        with pytest.raises(ValueError, match=r"needs opacus .*`make setup`.*`pip install opacus`.*`role: skip`"):
            fails()
