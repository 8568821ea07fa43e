"""One training: repeatable, paired by seed, stopped when it diverges. Run: python -m pytest tests/classifier/test_train.py"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline import training
from pipeline.classifier import recipes
from pipeline.classifier.model import Network, Settings
from pipeline.classifier.train import Training, holdout, in_batches, train
from pipeline.data.loaders import Batches, Rows
from pipeline.params import Compute
from pipeline.samples import to_network

WIDTHS = (8, 16)


def settings(**changes: object) -> Settings:
    plain = dict(size=8, channels=1, classes=3, widths=WIDTHS, depth=1, fold=1, batch=16, steps=30, lr=0.01)
    return Settings(**{**plain, "weight_decay": 0.05, "dropout": 0.2, "label_smoothing": 0.05, **changes})


def quiet(count: int, note: str = "") -> None:
    pass


@pytest.fixture
def fit(toy, compute, shipped) -> Callable[..., tuple[Network, list[dict]]]:
    """Trains a tiny network on toy rows: fit(seed, rows, weight, report, recipe, **settings)."""

    def run(seed=1, rows=None, weight=1.0, report=quiet, kind=Batches, recipe="plain", **changes):
        s, rows, how = settings(**changes), toy() if rows is None else rows, shipped.recipes[recipe]
        plain = Rows.plain(rows.images, rows.y)
        real = Rows(plain.y, plain.views, plain.weight * weight)
        batches = kind(real, 3, s.batch, s.steps, seed, how.balance)
        return train(batches, toy((4, 3, 2), seed=9), s, how, seed, compute, report)

    return run


def weights(network: Network) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_the_same_seed_gives_identical_weights_and_another_does_not(fit):
    (one, curve), (again, curve_again), (other, _) = fit(1), fit(1), fit(2)
    assert torch.equal(weights(one), weights(again)) and curve == curve_again
    assert not torch.equal(weights(one), weights(other))


def test_what_was_drawn_before_does_not_matter(fit):
    one, _ = fit(1)
    torch.manual_seed(99)
    np.random.seed(99)
    torch.rand(1000)
    assert torch.equal(weights(fit(1)[0]), weights(one))


RECIPES = ("progressive", "class_weighted", "balanced_softmax", "mixup", "cutmix", "feature_smote")


@pytest.mark.parametrize("recipe", RECIPES)
def test_initial_weights_do_not_depend_on_the_recipe_and_what_is_learnt_does(fit, recipe):
    still = dict(steps=2, lr=1e-12, weight_decay=0.0)
    assert torch.allclose(weights(fit(1, **still)[0]), weights(fit(1, recipe=recipe, **still)[0]), atol=1e-9)
    assert not torch.allclose(weights(fit(1, steps=6)[0]), weights(fit(1, recipe=recipe, steps=6)[0]), atol=1e-4)


def test_post_hoc_adjustment_changes_the_biases_of_a_training_without_smoothing_and_nothing_else(fit, toy):
    rows = toy()
    plain = fit(1, rows, label_smoothing=0.0)[0].state_dict()
    adjusted = fit(1, rows, recipe="logit_adjusted")[0].state_dict()
    shift = torch.from_numpy(np.log(rows.counts / len(rows))).float()
    torch.testing.assert_close(adjusted.pop("head.bias"), plain.pop("head.bias") - shift)
    assert all(torch.equal(adjusted[name], plain[name]) for name in plain)


def module_of(toy, recipe, **changes) -> tuple[Training, tuple[torch.Tensor, ...]]:
    """A training that does not drop out, and a batch of it whose rows have weights of their own."""
    s, rows = settings(dropout=0.0, **changes), toy()
    plain = Rows.plain(rows.images, rows.y)
    real = Rows(plain.y, plain.views, np.random.default_rng(0).uniform(0.2, 2, len(rows)))
    batches = Batches(real, 3, s.batch, s.steps, 5, recipe.balance)
    torch.manual_seed(0)
    return Training(Network(s), s, recipe, batches), batches[2]


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_the_loss_of_a_mixed_batch_is_the_weighted_sum_of_both_losses(toy, shipped, mix):
    module, (x, y, weight) = module_of(toy, shipped.recipes[mix])
    mixed, other, left = recipes.mixed(x, shipped.recipes[mix], np.random.default_rng([5, 2, 1]))
    logits = module.network(mixed)
    first, second = (F.cross_entropy(logits, t, reduction="none", label_smoothing=0.05) for t in (y, y[other]))
    expected = left * (first * weight).mean() + (1 - left) * (second * weight[other]).mean()
    assert 0 < left < 1
    torch.testing.assert_close(module.loss((x, y, weight), 2), expected)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_the_loss_of_a_mixed_batch_of_equal_weights_is_that_of_mixed_labels(toy, shipped, mix):
    """The other way to write it: cross entropy with label vectors that are mixed as the pictures are."""
    module, (x, y, weight) = module_of(toy, shipped.recipes[mix], label_smoothing=0.0)
    mixed, other, left = recipes.mixed(x, shipped.recipes[mix], np.random.default_rng([5, 2, 1]))
    labels = left * F.one_hot(y, 3) + (1 - left) * F.one_hot(y[other], 3)
    expected = F.cross_entropy(module.network(mixed), labels.float())
    torch.testing.assert_close(module.loss((x, y, torch.ones_like(weight)), 2), expected)


@pytest.mark.parametrize("name", ["plain", "class_weighted", "balanced_softmax"])
def test_the_loss_of_a_batch_is_the_mean_of_weighted_losses_for_the_shares_drawn(toy, shipped, name):
    recipe = shipped.recipes[name]
    module, (x, y, weight) = module_of(toy, recipe)
    rows = recipes.losses(module.network(x), y, recipe, toy().counts / len(toy()), 0.05)
    torch.testing.assert_close(module.loss((x, y, weight), 2), (rows * weight).mean())


def test_features_are_interpolated_between_the_network_and_its_head(toy, shipped):
    module, (x, y, weight) = module_of(toy, shipped.recipes["feature_smote"])
    features = recipes.between(module.network.features(x), y, np.random.default_rng([5, 2, 1]))
    rows = F.cross_entropy(module.network.head(features), y, reduction="none", label_smoothing=0.05)
    torch.testing.assert_close(module.loss((x, y, weight), 2), (rows * weight).mean())


def test_initial_weights_depend_on_the_seed_and_not_on_the_rows(fit, toy):
    still = dict(steps=2, lr=1e-12, weight_decay=0.0)
    one, rows, seed = fit(1, **still)[0], fit(1, toy((5, 5, 9), seed=4), **still)[0], fit(2, **still)[0]
    assert torch.allclose(weights(one), weights(rows), atol=1e-9)
    assert not torch.allclose(weights(one), weights(seed), atol=1e-3)


def test_different_rows_give_different_weights(fit, toy):
    assert not torch.allclose(weights(fit(1)[0]), weights(fit(1, toy((5, 5, 9), seed=4))[0]), atol=1e-3)


def test_training_lowers_the_loss_on_rows_that_can_be_told_apart(fit):
    _, curve = fit(1, steps=80)
    losses = [point["loss"] for point in curve if "loss" in point]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_the_curve_has_losses_and_validation_points_in_range(fit):
    _, curve = fit(1)
    held = [point for point in curve if "val_loss" in point]
    assert [p["step"] for p in curve if "loss" in p] == list(range(1, 31))
    assert 10 <= len(held) <= 15 and held[-1]["step"] == 30
    assert all(np.isfinite(p["val_loss"]) and 0 <= p["val_balanced_accuracy"] <= 1 for p in held)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 95])
def test_progress_adds_up_to_all_steps(fit, steps):
    told = []
    fit(1, steps=steps, report=lambda count, note="": told.append(count))
    assert sum(told) == steps


def test_the_network_comes_back_ready_to_use(fit):
    network, _ = fit(1)
    assert not network.training and {p.device.type for p in network.parameters()} == {"cpu"}


def test_rows_of_weight_zero_teach_nothing(fit, toy):
    rows = toy()
    still = dict(weight_decay=0.0, dropout=0.0, steps=5)
    assert torch.allclose(
        weights(fit(1, rows, weight=0.0, **still)[0]), weights(fit(1, rows, lr=1e-12, **still)[0]), atol=1e-6
    )


def test_a_common_weight_changes_nothing(fit):
    assert torch.allclose(weights(fit(1)[0]), weights(fit(1, weight=4.0)[0]), atol=1e-4)


def test_a_huge_learning_rate_is_divergence(fit):
    with pytest.raises(training.Diverged, match="lower its learning rate"):
        fit(1, lr=1e30)


def test_a_loss_that_is_no_number_is_divergence(fit):
    with pytest.raises(training.Diverged, match="is nan by step 1;"):
        fit(1, weight=float("nan"))


@dataclass(frozen=True)
class LateNaN(Batches):
    """Batches whose last one has a weight that is no number."""

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, y, weight = super().__getitem__(step)
        return x, y, weight * (float("nan") if step == self.steps - 1 else 1.0)


@pytest.mark.parametrize("steps", [30, 85])
def test_divergence_in_the_very_last_step_is_seen(fit, steps):
    with pytest.raises(training.Diverged):
        fit(1, kind=LateNaN, steps=steps)


def test_validation_rows_reach_the_network_unchanged_and_in_order(toy):
    val = toy((300, 150, 60))
    parts = list(in_batches(val, batch=128))
    assert [len(x) for x, _ in parts] == [128, 128, 128, 126]
    assert torch.cat([y for _, y in parts]).tolist() == val.y.tolist()
    assert torch.allclose(
        (torch.cat([x for x, _ in parts])[:, 0] + 1) * 127.5, torch.tensor(val.images[..., 0]).float()
    )


def test_a_large_validation_set_is_thinned_evenly(toy):
    val = toy((2400, 1200, 400), size=2)
    part = holdout(val, 1000)
    assert len(part) == 1000 and len(set(part.table["id"])) == 1000
    assert np.abs(part.counts - [600, 300, 100]).max() <= 1
    assert holdout(val, 4000) is val


def test_an_accelerator_that_is_absent_is_refused():
    from pipeline.devices import device

    absent = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(OSError, match=f"compute.accelerator is {absent}"):
        device(
            Compute(
                accelerator=absent,
                precision="auto",
                processes="auto",
                threads=1,
                devices=1,
                num_nodes=1,
            )
        )


def cards(monkeypatch, *capabilities: tuple[int, int]) -> None:
    """GPUs of these capabilities, as torch tells of them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_120", "compute_120"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: capabilities[i])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"card {i}")


CUDA = Compute(accelerator="auto", precision="auto", processes="auto", threads=1, devices=1, num_nodes=1)


def test_a_gpu_that_torch_has_no_kernels_for_is_named(monkeypatch):
    """It was said to have failed, perhaps for want of memory."""
    from pipeline.devices import device

    cards(monkeypatch, (9, 0), (7, 0))
    with pytest.raises(OSError, match=r"has no kernels for card 1, which came before its oldest, sm_75; hide it"):
        device(CUDA)


@pytest.mark.parametrize(("other", "expected"), [((8, 6), "bf16-mixed"), ((7, 5), "32-true")])
def test_the_precision_is_that_of_the_oldest_of_several_gpus(monkeypatch, other, expected):
    """It was that of the GPU which a worker had had before, so that it hung on the order of jobs."""
    from pipeline.devices import precision

    cards(monkeypatch, (8, 6), other)
    assert precision(CUDA, 8) == expected


@pytest.mark.parametrize(
    ("gpus", "cores", "places", "workers"),
    [
        (1, 8, ["cuda"] * 5, 4),
        (2, 16, ["cuda:0", "cuda:1"] * 2 + ["cuda:0"], 8),
        (4, 8, [f"cuda:{i % 4}" for i in range(5)], 8),
    ],
)
def test_workers_take_the_gpus_of_a_machine_in_turn(monkeypatch, gpus, cores, places, workers):
    from pipeline import devices, processes

    cards(monkeypatch, *[(9, 0)] * gpus)
    monkeypatch.setattr(devices, "cores", lambda: cores)
    compute = CUDA
    for number, place in enumerate(places):
        monkeypatch.setattr(processes, "_number", number)
        assert str(devices.device(compute)) == place
    assert devices.workers(compute) == workers
    assert str(devices.device(compute.model_copy(update={"accelerator": "cpu"}))) == "cpu"


@pytest.mark.parametrize(
    ("asked", "instructions", "side", "expected"),
    [
        ("auto", False, 64, "32-true"),
        ("auto", True, 16, "bf16-mixed"),
        ("auto", True, 15, "32-true"),
        ("32-true", True, 64, "32-true"),
        ("bf16-mixed", False, 8, "bf16-mixed"),
    ],
)
def test_a_cpu_trains_in_bf16_where_that_is_faster_or_asked_for(monkeypatch, asked, instructions, side, expected):
    from pipeline import devices

    monkeypatch.setattr(devices, "fast_bf16", lambda: instructions)
    compute = Compute(accelerator="cpu", precision=asked, processes="auto", threads=1, devices=1, num_nodes=1)
    assert devices.precision(compute, side) == expected


@pytest.mark.parametrize(
    ("tiles", "dots", "who", "expected"),
    [
        (True, True, "GenuineIntel", True),
        (False, True, "GenuineIntel", False),
        (False, True, "AMD64 Family 26 Model 2 Stepping 1, AuthenticAMD", True),
        (False, False, "AuthenticAMD", False),
        (False, False, "arm", False),
    ],
)
def test_bf16_is_taken_for_faster_with_tiles_and_on_processors_of_amd(monkeypatch, tiles, dots, who, expected):
    """An Intel processor with avx512_bf16 and without AMX trained in 1.3 times the time."""
    from pipeline import devices

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: dots)
    monkeypatch.setattr(devices, "maker", lambda: who)
    assert devices.fast_bf16() is expected


@pytest.mark.parametrize("channels", [1, 3])
def test_under_bf16_a_cpu_gets_images_channel_by_channel(channels):
    images = np.arange(2 * 4 * 4 * channels, dtype=np.uint8).reshape(2, 4, 4, channels)
    y, weight = torch.zeros(2, dtype=torch.int64), torch.ones(2)
    x, *rest = training.by_channel((to_network(images), y, weight))
    assert x.stride() == (16 * channels, 16, 4, 1)
    assert torch.equal(x, to_network(images)) and rest[0] is y and rest[1] is weight
