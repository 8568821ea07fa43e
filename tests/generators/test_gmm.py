"""The Gaussian mixture against closed forms and real digits. Run: python -m pytest tests/generators/test_gmm.py"""

import json
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from pipeline import generators, params
from pipeline.generators import gmm
from pipeline.samples import Facts, Samples, spaced, table


@pytest.fixture
def build(shipped, compute) -> Callable[..., gmm.Model]:
    """An unfitted mixture with the shipped options, some of them changed."""

    def make(**changes: object) -> gmm.Model:
        options = shipped.generators["gmm"].options | changes
        return generators.build(params.Generator(family="gmm", model="gmm", **options), compute, "gmm")

    return make


@pytest.fixture
def options(build) -> Callable[..., gmm.Options]:
    return lambda **changes: build(**changes).options


def samples(images: np.ndarray, y: np.ndarray) -> Samples:
    ids, names = [str(i) for i in range(len(y))], tuple("abcdefghij"[: y.max() + 1])
    frame = table(id=ids, group=ids, label=[names[c] for c in y], split=["train"] * len(y), origin=["real"] * len(y))
    return Samples(frame, images.clip(0, 255).round().astype(np.uint8), Facts(names, names[-1:]))


def blobs(counts: tuple[int, ...], seed: int = 0) -> Samples:
    """Images 4x4 around mid-grey, each class with a mean and a full covariance of its own."""
    rng, y = np.random.default_rng(seed), np.repeat(np.arange(len(counts)), counts)
    flat = [rng.normal(128, 20, 16) + rng.normal(0, 3, (n, 16)) @ rng.normal(0, 1, (16, 16)) for n in counts]
    return samples(np.concatenate(flat).reshape(-1, 4, 4, 1), y)


def requests(label: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(n, label), np.arange(n)


# principal components


def test_components_that_keep_all_variance_give_the_images_back(options):
    real = blobs((40, 30))
    mean, basis = gmm.principal(real.images, options(variance=1.0), 0)
    assert np.allclose(basis @ basis.T, np.eye(16), atol=1e-5)
    back = mean + gmm.project(real.images, mean, basis) @ basis
    assert np.allclose(back, real.images.reshape(70, 16), atol=1e-2)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_the_fewest_components_that_keep_the_share_are_those_of_the_covariance(options, share):
    real = blobs((200, 100))
    values, vectors = np.linalg.eigh(np.cov(real.images.reshape(300, 16).T.astype(float)))
    kept = np.cumsum(values[::-1]) / values.sum()
    _, basis = gmm.principal(real.images, options(variance=share), 0)
    assert len(basis) == np.argmax(kept >= share) + 1
    overlap = np.linalg.svd(basis @ vectors[:, ::-1][:, : len(basis)], compute_uv=False)  # the same subspace
    assert np.allclose(overlap, 1, atol=1e-3)
    assert len(gmm.principal(real.images, options(variance=share, components=2), 0)[1]) <= 2


def test_components_come_from_evenly_taken_rows(options):
    assert spaced(7, 100).tolist() == list(range(7)) and spaced(9, 3).tolist() == [0, 4, 8]
    real = blobs((60, 60))
    mean, _ = gmm.principal(real.images, options(rows=12), 0)
    assert np.allclose(mean, real.images[spaced(120, 12)].reshape(12, 16).mean(axis=0), atol=1e-3)


def test_scores_do_not_depend_on_how_many_rows_become_floats_at_once(options, monkeypatch):
    real = blobs((40, 30))
    mean, basis = gmm.principal(real.images, options(), 0)
    whole = gmm.project(real.images, mean, basis)
    monkeypatch.setattr(gmm, "CHUNK", 9)
    assert np.allclose(gmm.project(real.images, mean, basis), whole, atol=1e-9)


# covariances


@pytest.fixture
def parts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(5, 1, (n, 4)) @ rng.normal(0, s, (4, 4)) for n, s in ((4000, 1), (300, 3), (5, 2), (1, 1))]


def test_without_shrinkage_a_covariance_is_that_of_the_part(parts):
    for part, found in zip(parts[:3], gmm.covariances(parts, 1e-9), strict=False):
        assert np.allclose(found, np.cov(part.T) * (1 + 1 / len(part)), rtol=1e-5)


def test_with_endless_shrinkage_every_part_has_the_pooled_covariance(parts):
    inner = np.concatenate([part - part.mean(axis=0) for part in parts])
    pooled = inner.T @ inner / (len(inner) - len(parts))
    for part, found in zip(parts, gmm.covariances(parts, 1e12), strict=True):
        found = found / (1 + 1 / len(part))
        assert np.linalg.norm(found - pooled) < 0.02 * np.linalg.norm(pooled)  # Ledoit-Wolf hardly moves 4,306 rows


def test_shrinkage_counts_as_so_many_rows_of_the_pooled_covariance(parts):
    pooled = gmm.covariances(parts, 1e12)[0] / (1 + 1 / 4000)
    found = gmm.covariances(parts, 4.0)
    assert np.allclose(
        found[2] / 1.2, 0.5 * np.cov(parts[2].T) + 0.5 * pooled
    )  # five rows tell as much as four of a mean
    assert np.allclose(found[3] / 2, pooled)  # and one row nothing


def test_fewer_rows_than_components_still_give_a_covariance_of_full_rank():
    rng = np.random.default_rng(0)
    wide = [rng.normal(0, np.linspace(1, 30, 40), (n, 40)) for n in (12, 5)]
    for found in gmm.covariances(wide, 5.0):
        assert np.linalg.eigvalsh(found).min() > 0.1


def test_a_centre_of_few_rows_is_uncertain_and_widens_what_is_drawn():
    """The next row lies about the mean of n rows with (1 + 1/n) times the variance, in the mean over many such n."""
    rows = np.random.default_rng(0).normal(0, 3, (20_000, 6, 2))
    error = np.square(rows[:, 5] - rows[:, :5].mean(axis=1)).mean()
    drawn = np.mean([np.trace(gmm.covariances([part[:5]], 1e-9)[0]) / 2 for part in rows[:2000]])
    assert abs(error / drawn - 1) < 0.05


def test_a_root_times_its_transpose_is_the_covariance(parts):
    flat = np.diag([4.0, 1.0, 0.0, -1e-18])
    for covariance in (*gmm.covariances(parts, 5.0), flat):
        factor = gmm.root(covariance)
        assert np.allclose(factor @ factor.T, covariance)


# how many Gaussians


def test_two_clear_clusters_are_two_gaussians_and_one_cloud_is_one(options):
    rng = np.random.default_rng(0)
    cloud = rng.normal(0, np.linspace(20, 1, 12), (120, 12))
    where = rng.permutation(120) % 3 == 0
    found = gmm.clusters(cloud + 150 * where[:, None] * np.eye(12)[0], options(), 0)
    assert sorted(len(part) for part in found) == [40, 80]
    assert all(len(set(part[:, 0] > 75)) == 1 for part in found)
    assert len(gmm.clusters(cloud, options(), 0)) == 1


def test_there_are_never_more_gaussians_than_asked_for_or_than_rows_can_carry(options):
    rng = np.random.default_rng(0)
    far = rng.normal(0, 1, (60, 3)) + np.array([[0, 0, 0], [0, 99, 0], [99, 0, 0], [99, 99, 0]])[np.arange(60) % 4]
    assert len(gmm.clusters(far, options(), 0)) == 4
    assert len(gmm.clusters(far, options(mixtures=1), 0)) == 1
    assert len(gmm.clusters(far[:19], options(), 0)) == 1  # ten a Gaussian
    assert len(gmm.clusters(np.repeat(far[:4], 50, axis=0), options(), 0)) == 1  # and distinct ones


def test_gaussians_found_on_some_rows_take_all_rows(options):
    rng = np.random.default_rng(0)
    far = rng.normal(0, 1, (300, 3)) + 100 * (np.arange(300) % 2)[:, None]
    assert [len(part) for part in gmm.clusters(far, options(rows=50), 0)] == [150, 150]


# images


def test_images_have_the_moments_of_the_mixture(build):
    real = blobs((300, 60, 7))
    far = real.images.copy()
    far[:150] = (far[:150].astype(int) + 60).clip(0, 255)  # so that class 0 is a mixture of two
    model = build(variance=1.0)
    model.fit(samples(far, real.y), 0)
    a = model.arrays
    assert (a["y"] == 0).sum() == 2
    for c in range(3):
        own = np.flatnonzero(a["y"] == c)
        share = a["rows"][own] / a["rows"][own].sum()
        centre = share @ a["centres"][own]
        inner = [a["factors"][g] @ a["factors"][g].T + np.outer(d := a["centres"][g] - centre, d) for g in own]
        expected = a["basis"].T @ np.tensordot(share, inner, 1) @ a["basis"]
        made = model.sample(*requests(c, 8000)).reshape(8000, 16).astype(float)
        assert np.allclose(made.mean(axis=0), a["mean"] + centre @ a["basis"], atol=2)
        assert np.linalg.norm(np.cov(made.T) - expected) < 0.06 * np.linalg.norm(expected)


def test_images_of_a_single_gaussian_have_the_moments_of_the_rows(build):
    real = blobs((400, 400))
    model = build(variance=1.0, mixtures=1, shrink=1e-6)
    model.fit(real, 0)
    for c in range(2):
        rows = real.images[real.y == c].reshape(400, 16).astype(float)
        made = model.sample(*requests(c, 8000)).reshape(8000, 16).astype(float)
        assert np.allclose(made.mean(axis=0), rows.mean(axis=0), atol=1)
        assert np.linalg.norm(np.cov(made.T) - np.cov(rows.T)) < 0.06 * np.linalg.norm(np.cov(rows.T))


def test_grey_levels_stop_at_black_and_white_instead_of_wrapping_round(build):
    y = np.repeat([0, 1], 40)
    noise = np.random.default_rng(0).normal(0, 8, (80, 4, 4, 1))
    model = build()
    model.fit(samples(np.where(y == 0, 6, 249)[:, None, None, None] + noise, y), 0)
    dark, light = (model.sample(*requests(c, 200)) for c in (0, 1))
    assert dark.max() < 60 and dark.min() == 0 and light.min() > 195 and light.max() == 255


def test_a_class_without_rows_is_refused_by_name(build):
    real, model = blobs((12, 5, 8)), build()
    model.fit(real.take(real.y != 1), 0)
    with pytest.raises(ValueError, match="class index 1 has no real row to start from"):
        model.sample(np.array([0, 1]), np.array([1, 1]))


@pytest.fixture(scope="module")
def digits() -> tuple[Samples, np.ndarray, np.ndarray]:
    """Train of 80 rows of the digits 0 to 4 and 5 of 5 to 9, then pixels (N, 64) and labels of all others."""
    images, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))  # as they come, neighbouring rows are of one hand
    images, y = images[order], y[order]
    nth = np.array([(y[:i] == c).sum() for i, c in enumerate(y)])
    train = nth < np.where(y < 5, 80, 5)
    return samples(images[train].reshape(-1, 8, 8, 1) * 255 / 16, y[train]), images[~train] * 255 / 16, y[~train]


def test_digits_of_five_rows_are_read_as_themselves_and_vary_as_unseen_ones_do(build, digits):
    train, pixels, y = digits
    reader, model = LogisticRegression(max_iter=2000).fit(pixels / 255, y), build()
    model.fit(train, 0)
    for c in range(5, 10):
        made = model.sample(*requests(c, 200)).reshape(200, 64).astype(float)
        own = train.images[train.y == c].reshape(5, 64).astype(float)
        unseen = pixels[y == c]
        assert (reader.predict(made / 255) == c).mean() > 0.7
        assert 0.6 < made.var(axis=0).sum() / unseen.var(axis=0).sum() < 1.4, c
        nearest = [np.linalg.norm(rows[:, None] - own, axis=2).min(axis=1).mean() for rows in (made, unseen)]
        assert 0.6 < nearest[0] / nearest[1] < 1.1  # no copies: unseen rows are not much farther from the five


def test_a_class_of_one_row_varies_about_it_as_the_others_do(build, digits):
    train, _, _ = digits
    model, only = build(), np.flatnonzero(train.y == 8)[0]
    model.fit(train.take([*np.flatnonzero(train.y != 8), only]), 0)
    made = model.sample(*requests(8, 400)).astype(float)
    other = np.mean([train.images[train.y == c].astype(float).var(axis=0).sum() for c in range(5)])
    assert 0.6 < made.var(axis=0).sum() / other < 1.5  # black and white cut off nearly half
    assert np.abs(np.median(made, axis=0) - train.images[only]).mean() < 8  # cutting off leaves a median where it is


# files


def test_fitting_or_loading_again_gives_the_same_bytes(build, digits, tmp_path):
    for name in ("one", "two"):
        model = build()
        model.fit(digits[0], 3)
        model.save(tmp_path / name)
    build().load(tmp_path / "one", digits[0]).save(tmp_path / "three")
    for file in ("weights.safetensors", "generator.json"):
        assert len({(tmp_path / name / file).read_bytes() for name in ("one", "two", "three")}) == 1


def test_a_reader_sees_how_many_components_and_gaussians_there_are(build, tmp_path):
    model = build(components=6)
    model.fit(blobs((12, 5, 1)), 0)
    model.save(tmp_path)
    state = json.loads((tmp_path / "generator.json").read_text())
    assert state["components"] == 6 and state["gaussians"] == [1, 1, 1]


@pytest.mark.parametrize("counts", [(1,), (2,), (1, 1), (2, 1), (25, 1)])
def test_the_fewest_rows_are_fitted_without_a_warning(build, counts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = build()
        model.fit(blobs(counts), 0)
        assert model.sample(*requests(0, 5)).shape == (5, 4, 4, 1)
