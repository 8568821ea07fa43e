"""How a batch becomes a loss, against references and closed forms. Run: python -m pytest tests/classifier/test_recipes.py"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.class_weight import compute_class_weight

from pipeline.classifier import recipes
from pipeline.params import Recipe

SHARES = np.array([0.7, 0.2, 0.08, 0.02])
GAP = np.array([0.7, 0.0, 0.28, 0.02])  # a class that is never drawn


@pytest.fixture
def recipe(shipped) -> Callable[..., Recipe]:
    return lambda **changes: shipped.recipes["plain"].model_copy(update=changes)


def numbered(rows: int, height: int = 8, width: int = 8, channels: int = 1) -> torch.Tensor:
    """Images whose pixels all tell the row's number."""
    return torch.arange(float(rows))[:, None, None, None].expand(rows, channels, height, width).contiguous()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def logits_and_labels(rows: int = 200, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    y = np.random.default_rng(1).choice(classes, rows, p=SHARES)
    return 3 * noise(rows, classes), torch.from_numpy(y)


# ---- mixed pictures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_mixup_is_the_weighted_mean_of_two_pictures(recipe, channels):
    x = noise(16, channels, 8, 8)
    before = x.clone()
    for seed in range(20):
        mixed, other, left = recipes.mixed(x, recipe(mix="mixup"), np.random.default_rng(seed))
        assert sorted(other.tolist()) == list(range(16)) and 0 <= left <= 1
        torch.testing.assert_close(mixed, torch.lerp(x[other], x, left))
    assert torch.equal(x, before)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixing_depends_on_the_generator_alone(recipe, mix):
    x = noise(16, 1, 8, 8)
    first, again, other = (recipes.mixed(x, recipe(mix=mix), np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1]) and first[2] == again[2]
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_weight_of_mixup_has_its_beta_distribution(recipe, alpha):
    rng, one = np.random.default_rng(0), recipe(mix="mixup", alpha=alpha)
    drawn = [recipes.mixed(numbered(2, 1, 1), one, rng)[2] for _ in range(1500)]
    assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 9), (32, 32), (1, 6)])
def test_cutmix_leaves_as_much_as_it_says_and_cuts_one_rectangle(recipe, height, width):
    """The pixels themselves say from which row each came, also where the rectangle is cut off at an edge."""
    edges = set()
    for seed in range(150):
        x, rng = numbered(12, height, width, channels=3), np.random.default_rng(seed)
        mixed, other, left = recipes.mixed(x, recipe(mix="cutmix"), rng)
        moved = torch.arange(12) != other
        cut = (mixed != x)[moved]
        assert (cut == cut[0, 0]).all(), "every row and channel is cut alike"
        where = cut[0, 0].numpy()
        assert (where == np.outer(where.any(axis=1), where.any(axis=0))).all()
        assert np.isclose(1 - where.mean(), left, atol=1e-12)
        filled = where.any(axis=1)
        assert np.abs(np.diff(filled.astype(int))).sum() <= 2, "one stretch of lines"
        edges |= {(bool(filled[0]), bool(filled[-1]))}
    assert len(edges) > 2 or height == 1, "rectangles inside, and at either end, were seen"


def test_cutmix_moves_each_pixel_of_the_rectangle_to_the_same_place_and_touches_no_other(recipe):
    x = noise(16, 3, 9, 7)
    before = x.clone()
    for seed in range(60):
        mixed, other, _ = recipes.mixed(x, recipe(mix="cutmix"), np.random.default_rng(seed))
        where = (mixed != x).any(dim=1).any(dim=0)
        assert torch.equal(mixed, torch.where(where, x[other], x))
    assert torch.equal(x, before)


def test_a_rectangle_away_from_the_edges_has_the_size_that_was_drawn():
    rng, seen = np.random.default_rng(0), 0
    for _ in range(2000):
        left = rng.uniform()
        begin, end = recipes._span(40, left, rng)
        assert 0 <= begin <= end <= 40
        if begin > 0 and end < 40:
            seen += 1
            assert abs(end - begin - 40 * np.sqrt(1 - left)) <= 1
    assert seen > 300


@pytest.mark.parametrize("left", [0.0, 1.0])
def test_the_ends_of_the_beta_distribution_cut_a_part_of_at_most_everything_or_nothing(recipe, left):
    class Sure:
        """Draws as a generator does, but for a weight that is known."""

        def __init__(self, seed: int) -> None:
            self.rng = np.random.default_rng(seed)
            self.permutation, self.uniform = self.rng.permutation, self.rng.uniform

        def beta(self, a: float, b: float) -> float:
            return left

    for seed in range(30):
        x = numbered(6)
        mixed, other, kept = recipes.mixed(x, recipe(mix="cutmix"), Sure(seed))
        moved = other != torch.arange(6)
        assert np.isclose((mixed == x)[moved].float().mean(), kept)
        assert (kept == 1 and torch.equal(mixed, x)) if left == 1 else 0 <= kept <= 0.8


# ---- interpolated features --------------------------------------------------------------------------------------


def steps_and_nearest(f: np.ndarray, y: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each row went towards the nearest other row of its class, and how far it then is from that segment."""
    nearest = np.empty_like(f)
    for c in np.unique(y):
        rows = np.flatnonzero(y == c)
        nearest[rows] = f[rows[NearestNeighbors(n_neighbors=2).fit(f[rows]).kneighbors(f[rows])[1][:, 1]]]
    line = nearest - f
    t = ((moved - f) * line).sum(axis=1) / (line**2).sum(axis=1)
    return t, np.abs(moved - f - t[:, None] * line).max(axis=1)


@pytest.mark.parametrize("rows", [12, 64, 300])
def test_a_row_moves_on_the_segment_to_the_nearest_row_of_its_class(rows):
    f, y = noise(rows, 6), np.arange(rows) % 3
    moved = recipes.between(f, torch.from_numpy(y), np.random.default_rng(0))
    t, off = steps_and_nearest(f.numpy(), y, moved.numpy())
    assert (t > -1e-5).all() and (t < 1 + 1e-5).all() and (off < 1e-4).all()
    assert (t > 0.01).any() and torch.equal(f, noise(rows, 6))


def test_half_of_the_rows_move_and_evenly_far():
    f, y = noise(3000, 3), np.arange(3000) % 2
    moved = recipes.between(f, torch.from_numpy(y), np.random.default_rng(0)).numpy()
    goes = (moved != f.numpy()).any(axis=1)
    assert abs(goes.mean() - 0.5) < 0.04
    assert stats.kstest(steps_and_nearest(f.numpy(), y, moved)[0][goes], "uniform").pvalue > 0.01


def test_a_row_alone_in_its_class_stays_where_it_is():
    f, y = noise(20, 4), torch.tensor([0] * 18 + [1, 2])
    for seed in range(20):
        moved = recipes.between(f, y, np.random.default_rng(seed))
        assert torch.equal(moved[18:], f[18:]) and moved.isfinite().all()
    alone = recipes.between(f, torch.arange(20), np.random.default_rng(0))
    assert torch.equal(alone, f)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_interpolated_features_keep_their_type_and_pass_gradients(dtype):
    f = noise(20, 4).to(dtype).requires_grad_()
    moved = recipes.between(f, torch.tensor([0] * 18 + [1, 2]), np.random.default_rng(0))
    moved.float().square().sum().backward()
    assert moved.dtype == dtype and f.grad.isfinite().all() and (f.grad != 0).all()


# ---- losses -----------------------------------------------------------------------------------------------------


def test_class_weights_are_those_of_scikit_learn_and_average_one_over_the_rows_drawn():
    counts = np.array([80, 31, 7, 2])
    y = np.repeat(np.arange(4), counts)
    weights = recipes.class_weights(counts / counts.sum())
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(4), y=y))
    assert np.isclose((weights * counts / counts.sum()).sum(), 1)


@pytest.mark.parametrize("share", [SHARES, GAP, np.full(4, 0.25)])
def test_class_weights_average_one_over_any_shares(share):
    weights = recipes.class_weights(share)
    assert np.isclose((weights * share).sum(), 1) and (weights[share == 0] == 0).all()
    drawn = share > 0
    np.testing.assert_allclose(weights[drawn] * share[drawn], 1 / drawn.sum())  # every class has an equal part


def test_plain_loss_is_cross_entropy(recipe):
    logits, y = logits_and_labels()
    for smoothing in (0.0, 0.1):
        expected = F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)
        assert torch.equal(recipes.losses(logits, y, recipe(), SHARES, smoothing), expected)


def test_weighted_loss_is_that_of_torch_with_the_weights(recipe):
    logits, y = logits_and_labels()
    weights = torch.from_numpy(recipes.class_weights(SHARES)).float()
    expected = F.cross_entropy(logits, y, weight=weights, reduction="none")
    torch.testing.assert_close(recipes.losses(logits, y, recipe(loss="class_weighted"), SHARES, 0.0), expected)


def test_balanced_softmax_is_cross_entropy_on_logits_plus_log_prior(recipe):
    logits, y = logits_and_labels()
    one = recipe(loss="balanced_softmax")
    for smoothing in (0.0, 0.1):
        prior = torch.from_numpy(np.log(SHARES)).float()
        expected = F.cross_entropy(logits + prior, y, reduction="none")
        torch.testing.assert_close(recipes.losses(logits, y, one, SHARES, smoothing), expected)


def test_balanced_softmax_has_the_closed_form_of_its_paper(recipe):
    """Ren et al., 2020, equation 4: minus the log of n_y exp(z_y) over the sum of n_j exp(z_j)."""
    logits, y = logits_and_labels()
    e = np.exp(logits.double().numpy()) * SHARES * 4000
    expected = -np.log(e[np.arange(len(y)), y] / e.sum(axis=1))
    found = recipes.losses(logits, y, recipe(loss="balanced_softmax"), SHARES, 0.0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["class_weighted", "balanced_softmax"])
def test_losses_for_equal_classes_are_cross_entropy(recipe, loss):
    logits, y = logits_and_labels()
    expected = F.cross_entropy(logits, y, reduction="none")
    torch.testing.assert_close(recipes.losses(logits, y, recipe(loss=loss), np.full(4, 0.25), 0.0), expected)


@pytest.mark.parametrize("how", [{"loss": "balanced_softmax"}, {"tau": 1.0}])
def test_the_surest_rows_keep_their_class_however_common_it_is(recipe, how):
    """One row of each class, 98 and 2 % of the rows, told apart without doubt: the logits that the loss leads to."""
    share, y, logits = np.array([0.98, 0.02]), torch.tensor([0, 1]), torch.zeros(2, 2, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(500):
        optimiser.zero_grad()
        recipes.losses(logits, y, recipe(**how), share, 0.05).sum().backward()
        optimiser.step()
    head = torch.nn.Linear(2, 2)
    torch.nn.init.zeros_(head.bias)
    recipes.adjust(head, recipe(**how), share)
    assert (logits.detach() + head.bias.detach()).argmax(dim=1).tolist() == [0, 1]


@pytest.mark.parametrize("loss", ["cross_entropy", "class_weighted", "balanced_softmax"])
@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_a_class_that_is_never_drawn_gives_no_nan(recipe, loss, smoothing):
    logits, y = logits_and_labels()
    logits, y = logits[y != 1].requires_grad_(), y[y != 1]
    found = recipes.losses(logits, y, recipe(loss=loss), GAP, smoothing)
    found.mean().backward()
    assert found.isfinite().all() and logits.grad.isfinite().all()


def test_a_class_that_is_never_drawn_counts_as_the_rarest():
    np.testing.assert_allclose(recipes.log_prior(GAP), np.log([0.7, 0.02, 0.28, 0.02]))
    np.testing.assert_allclose(recipes.log_prior(SHARES), np.log(SHARES))


# ---- post-hoc logit adjustment ----------------------------------------------------------------------------------


@pytest.fixture
def head() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(6, 4)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_adjustment_takes_tau_times_the_log_prior_from_every_logit(recipe, head, tau):
    features = noise(50, 6)
    before = head(features).detach()
    recipes.adjust(head, recipe(tau=tau), SHARES)
    shift = torch.from_numpy(tau * np.log(SHARES)).float()
    torch.testing.assert_close(head(features).detach(), before - shift)
    assert head.bias.requires_grad and head.weight.requires_grad


def test_no_adjustment_leaves_every_bit(recipe, head):
    before = head.bias.clone()
    for share in (SHARES, GAP):
        recipes.adjust(head, recipe(tau=0.0), share)
        assert torch.equal(head.bias, before)


def test_adjustment_for_equal_classes_changes_no_prediction(recipe, head):
    features = noise(500, 6)
    before = head(features).argmax(dim=1)
    recipes.adjust(head, recipe(tau=1.0), np.full(4, 0.25))
    assert torch.equal(head(features).argmax(dim=1), before)


def test_adjustment_with_a_class_that_is_never_drawn_gives_no_nan(recipe, head):
    recipes.adjust(head, recipe(tau=1.0), GAP)
    assert head.bias.isfinite().all()


def test_adjustment_turns_posteriors_into_likelihoods(recipe):
    """Menon et al., 2021: of logits log p(x|y) + log p(y), tau = 1 leaves the classifier of least balanced error."""
    likelihood = noise(400, 4, seed=3)
    head = torch.nn.Linear(4, 4)
    with torch.no_grad():
        head.weight.copy_(torch.eye(4))
        head.bias.copy_(torch.from_numpy(np.log(SHARES)))
    assert not torch.equal(head(likelihood).argmax(dim=1), likelihood.argmax(dim=1))
    recipes.adjust(head, recipe(tau=1.0), SHARES)
    assert torch.equal(head(likelihood).argmax(dim=1), likelihood.argmax(dim=1))
