"""Copies are found, look-alikes are not. Run: python -m pytest tests/data/test_duplicates.py"""

import io
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.sparse.csgraph import connected_components

from pipeline import processes
from pipeline.data import descriptors, duplicates, registration
from pipeline.data.descriptors import reduced
from pipeline.data.duplicates import (
    Found,
    find,
    groups,
    neighbours,
    random_pairs,
    threshold,
)
from pipeline.data.intake import Thumbs, thumbnail, turned
from pipeline.data.registration import correlate, register


@pytest.fixture(scope="module", autouse=True)
def inline() -> Iterator[None]:
    """Jobs are done in this process, which is faster for so few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "parallel", lambda f, jobs, *_: [f(*job, report=lambda *_: None) for job in jobs])
        yield


def smooth(rng: np.random.Generator, height: int, width: int, scale: float) -> np.ndarray:
    x = cv2.GaussianBlur(rng.normal(size=(height, width)).astype(np.float32), (0, 0), scale)
    return (x - x.mean()) / x.std()


def waves(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    parts = (np.sin(a * y + b * x + c) for a, b, c in rng.uniform([-0.6, -0.6, 0], [0.6, 0.6, 6.3], (12, 3)))
    out = np.sum(list(parts), axis=0)
    return (out - out.mean()) / out.std()


def grey(x: np.ndarray, contrast: float = 40) -> np.ndarray:
    return np.clip(128 + contrast * x, 0, 255).astype(np.uint8)


def texture(rng: np.random.Generator) -> np.ndarray:
    """40 to 120 pixels a side, more often few than many."""
    height, width = (40 + 81 * rng.random(2) ** 2).astype(int)
    if rng.random() < 0.5:
        return grey(waves(rng, height, width))
    return grey(smooth(rng, height, width, rng.uniform(1, 4)) + 0.5 * smooth(rng, height, width, 1))


def speckle(rng: np.random.Generator, height: int = 20, width: int = 20) -> np.ndarray:
    return grey(smooth(rng, height, width, 1.2))


def resized(x: np.ndarray, factor: float) -> np.ndarray:
    height, width = x.shape
    size = (round(width * factor), round(height * factor))
    return np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BICUBIC))


def encoded(x: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(x).save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer))


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "faded": lambda x: x * 0.6 + 60,
    "darker": lambda x: np.clip(x * 0.7 - 20, 0, 255),
    "gamma": lambda x: 255 * (x / 255) ** 0.6,
    "encoded": encoded,
    "cropped": lambda x: x[round(0.06 * len(x)) :, round(0.06 * x.shape[1]) :],
    "smaller": lambda x: resized(x, 0.6),
    "larger": lambda x: resized(x, 1.5),
}


def searched(
    pictures: list[np.ndarray],
    folder: Path,
    y: np.ndarray | None = None,
    seed: int = 0,
    apart: np.ndarray | None = None,
) -> Found:
    folder.mkdir(exist_ok=True)
    small = [thumbnail(np.ascontiguousarray(p)[..., None]) for p in pictures]
    (folder / "0.bin").write_bytes(b"".join(s.tobytes() for s in small))
    start = np.cumsum([0] + [s.size for s in small])
    where = np.array([(0, b, *s.shape) for b, s in zip(start, small, strict=False)], np.int64).reshape(-1, 4)
    longest = np.array([max(p.shape) for p in pictures], np.int64)
    y = np.zeros(len(pictures), np.int64) if y is None else y
    apart = np.zeros(len(pictures), np.int64) if apart is None else apart
    return find(Thumbs([folder / "0.bin"], where), longest, y, apart, seed)


def grouped(found: Found, n: int) -> np.ndarray:
    return np.array(groups([str(i) for i in range(n)], found.pairs))


# Textured pictures and their copies


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> dict[str, np.ndarray]:
    """60 different textures, and six copies of each kind; `of` is the original of each, `group` what was found."""
    rng = np.random.default_rng(7)
    pictures, of, kind = [texture(rng) for _ in range(60)], list(range(60)), [""] * 60
    for name, change in COPIES.items():
        for i in rng.choice(60, 6, replace=False):
            pictures.append(change(pictures[i]).astype(np.uint8))
            of.append(i)
            kind.append(name)
    found = searched(pictures, tmp_path_factory.mktemp("copies"))
    return {"of": np.array(of), "kind": np.array(kind), "group": grouped(found, len(of)), "bound": found.bound}


def test_nearly_all_copies_join_their_original(copied):
    together = copied["group"] == copied["group"][copied["of"]]
    assert together[60:].mean() >= 0.95


@pytest.mark.parametrize("name", COPIES)
def test_no_kind_of_copy_is_missed_altogether(copied, name):
    own = copied["kind"] == name
    assert (copied["group"][own] == copied["group"][copied["of"][own]]).mean() >= 0.6


def test_different_textures_stay_apart(copied):
    a, b = np.triu_indices(60, 1)
    assert (copied["group"][:60][a] == copied["group"][:60][b]).mean() <= 0.02


# Mirrored and turned copies


def turnings(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Each picture in one of the seven other orientations, encoded anew or of another exposure."""
    made = [np.ascontiguousarray(turned(p, 1 + i % 7)) for i, p in enumerate(pictures)]
    return [COPIES[("encoded", "darker")[i % 2]](p).astype(np.uint8) for i, p in enumerate(made)]


def test_nearly_all_mirrored_and_turned_copies_are_found_and_no_others(tmp_path):
    rng = np.random.default_rng(5)
    pictures = [speckle(rng, *((40, 40) if i % 2 else (30, 44))) for i in range(70)]
    found = searched([*pictures, *turnings(pictures)], tmp_path)
    pairs = {tuple(p) for p in found.pairs}
    assert pairs <= {(i, 70 + i) for i in range(70)} and len(pairs) >= 65
    assert found.score.min() > duplicates.TURNED


def test_turned_copies_are_of_one_class_unless_none_is_known(tmp_path):
    """An arrow to the left is none to the right, and a 6 no 9."""
    rng = np.random.default_rng(6)
    pictures = [speckle(rng, 36, 36) for _ in range(24)]
    both, y = [*pictures, *turnings(pictures)], np.repeat([0, 1], 24)
    assert not len(searched(both, tmp_path / "classes", y).pairs)
    apart = np.repeat([0, 2], 24)
    found = searched(both, tmp_path / "pool", np.repeat([0, -1], 24), apart=apart)
    assert len(found.pairs) >= 21 and np.array_equal(
        found.pairs[:, 1] - found.pairs[:, 0], np.full(len(found.pairs), 24)
    )


def test_turned_copies_in_another_split_sway_nothing(tmp_path):
    rng = np.random.default_rng(9)
    pictures = [speckle(rng, 36, 36) for _ in range(30)]
    pictures += turnings(pictures[:12])
    more = turnings(pictures[:30])
    alone = searched(pictures, tmp_path / "alone")
    found = searched([*pictures, *more], tmp_path / "both", apart=np.repeat([0, 1], [42, 30]))
    among = (found.pairs < 42).all(axis=1)
    assert len(alone.pairs) >= 10 and len(found.pairs) > len(alone.pairs) + 24
    assert np.array_equal(found.pairs[among], alone.pairs) and np.array_equal(found.score[among], alone.score)
    assert found.bound == alone.bound


@pytest.mark.parametrize("how", range(8))
def test_the_eight_orientations_are_as_they_are_called(how):
    x = np.arange(12).reshape(3, 4)
    expected = x.T if how & 4 else x
    expected = np.flipud(expected) if how & 2 else expected
    expected = np.fliplr(expected) if how & 1 else expected
    assert np.array_equal(turned(x, how), expected)
    assert len({turned(x, h).tobytes() + bytes(turned(x, h).shape) for h in range(8)}) == 8


# Pictures that are all alike


@pytest.mark.parametrize("weak", [0.03, 0.1, 0.3])
def test_pictures_of_one_template_do_not_collapse(tmp_path, weak):
    rng = np.random.default_rng(int(weak * 100))
    template = smooth(rng, 32, 36, 6)
    pictures = [grey(template + weak * smooth(rng, 32, 36, 2)) for _ in range(30)]
    sizes = np.unique(grouped(searched(pictures, tmp_path), 30), return_counts=True)[1]
    assert sizes.max() <= 3 and (sizes == 1).sum() >= 26


def test_a_copy_is_told_from_look_alikes(tmp_path):
    """The bound lies above what all share and still below a re-encoded copy."""
    rng = np.random.default_rng(3)
    template = smooth(rng, 36, 36, 5)
    pictures = [grey(template + 0.6 * smooth(rng, 36, 36, 1.5)) for _ in range(24)]
    found = searched([*pictures, *(COPIES["faded"](p).astype(np.uint8) for p in pictures[:10])], tmp_path)
    assert {tuple(p) for p in found.pairs} == {(i, 24 + i) for i in range(10)}
    assert found.typical < found.bound < found.score.min()


def test_small_glyphs_of_one_class_are_not_copies(tmp_path):
    rng = np.random.default_rng(1)
    strokes, y = [(smooth(rng, 8, 8, 1) > 0.3) * 200.0 for _ in range(8)], np.arange(80) % 8
    pictures = [np.clip(strokes[c] + rng.normal(0, 25, (8, 8)), 0, 255).astype(np.uint8) for c in y]
    assert len(np.unique(grouped(searched(pictures, tmp_path, y), 80))) >= 76


def test_small_noise_is_not_copied(tmp_path):
    pictures = list(np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8))
    assert len(np.unique(grouped(searched(pictures, tmp_path), 60))) >= 58


def test_copies_are_found_where_half_stand_upright_and_half_lie_across(tmp_path):
    rng = np.random.default_rng(2)
    pictures = [speckle(rng, *((24, 44) if i % 2 else (44, 24))) for i in range(40)]
    found = searched([*pictures, *map(encoded, pictures[:20])], tmp_path)
    assert {tuple(p) for p in found.pairs} == {(i, 40 + i) for i in range(20)}


def alike_and_varied(alike: int, varied: int) -> tuple[list[np.ndarray], np.ndarray]:
    """A class of one camera at one place, and another of which every picture stands twice, re-encoded; with their classes."""
    rng = np.random.default_rng(8)
    template = smooth(rng, 36, 36, 1.5)
    first = [grey(0.7 * template + 0.5 * smooth(rng, 36, 36, 1.5)) for _ in range(alike)]
    second = [speckle(rng, 36, 36) for _ in range(varied)]
    return [*first, *second, *map(encoded, second)], np.repeat([0, 1], [alike, 2 * varied])


def test_a_class_that_is_all_alike_does_not_hide_the_copies_of_another(tmp_path):
    """The spread of both together is that between the classes: the bound was 0.999 and no copy was found."""
    pictures, y = alike_and_varied(60, 20)
    found = searched(pictures, tmp_path, y)
    assert {tuple(p) for p in found.pairs} == {(60 + i, 80 + i) for i in range(20)}
    assert found.medians[1] < 0.4 < found.medians[0] < found.bound < 0.99


def test_copies_in_another_split_are_found_too_and_sway_nothing(tmp_path):
    pictures, y = alike_and_varied(60, 20)
    apart = np.repeat([0, 1], [80, 20])
    found = searched(pictures, tmp_path, y, apart=apart)
    assert {tuple(p) for p in found.pairs} == {(60 + i, 80 + i) for i in range(20)}
    alone = searched(pictures[:80], tmp_path, y[:80])
    assert found.bound == alone.bound and np.array_equal(found.medians, alone.medians)


def test_classes_of_few_rows_tell_nothing_of_their_own(tmp_path):
    pictures, y = alike_and_varied(60, 3)
    found = searched(pictures, tmp_path / "both", y)
    assert np.isfinite(found.medians[0]) and np.isnan(found.medians[1])
    alone = searched(pictures[60:], tmp_path / "few", y[60:])
    assert np.isnan(alone.medians).all() and alone.bound < 1


def test_of_many_classes_those_with_most_rows_tell_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "MOST", 2)
    rng, y = np.random.default_rng(4), np.repeat([0, 1, 2, 3], [9, 12, 8, 15])
    found = searched([speckle(rng) for _ in y], tmp_path, y)
    assert np.isfinite(found.medians).tolist() == [False, True, False, True]


# How it behaves


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """22 small textures, eight of them followed later by a copy."""
    rng = np.random.default_rng(11)
    plain = [speckle(rng, *rng.integers(18, 31, 2)) for _ in range(22)]
    return plain + [COPIES["faded"](p).astype(np.uint8) for p in plain[:8]]


def test_the_seed_decides_alone_and_the_pairs_do_not_depend_on_it(tmp_path, pictures):
    one, again, other = (searched(pictures, tmp_path, seed=s) for s in (0, 0, 2**63 - 1))
    assert np.array_equal(one.pairs, again.pairs) and np.array_equal(one.score, again.score)
    assert (one.bound, one.typical) == (again.bound, again.typical)
    assert np.array_equal(one.pairs, other.pairs) and len(one.pairs) == 8


def test_the_order_of_the_rows_decides_nothing(tmp_path, pictures):
    order = np.random.default_rng(0).permutation(len(pictures))
    plain, mixed = searched(pictures, tmp_path), searched([pictures[i] for i in order], tmp_path)
    back = {tuple(sorted(order[list(pair)])) for pair in mixed.pairs}
    assert back == {tuple(pair) for pair in plain.pairs}


def test_pairs_are_ordered_distinct_and_above_the_bound(tmp_path, pictures):
    found = searched([*pictures, pictures[0], pictures[1]], tmp_path)
    assert (found.pairs[:, 0] < found.pairs[:, 1]).all() and len(np.unique(found.pairs, axis=0)) == len(found.pairs)
    assert len(found.score) == len(found.pairs) and (found.score > found.bound).all()
    assert {(0, 30), (1, 31)} <= {tuple(p) for p in found.pairs}


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_very_few_rows_are_no_fault(tmp_path, n):
    rng = np.random.default_rng(n)
    found = searched([speckle(rng) for _ in range(n)], tmp_path)
    assert found.pairs.shape == (0, 2) and found.score.shape == (0,)
    assert groups([str(i) for i in range(n)], found.pairs) == [str(i) for i in range(n)]


def test_a_copy_among_three_rows_is_found(tmp_path):
    rng = np.random.default_rng(5)
    one = speckle(rng)
    assert searched([one, speckle(rng), encoded(one)], tmp_path).pairs.tolist() == [[0, 2]]


def test_classes_of_one_row_and_of_any_number_are_no_fault(tmp_path):
    rng = np.random.default_rng(6)
    plain = [speckle(rng) for _ in range(6)]
    for y in (np.arange(6), np.array([0, 3, 3, 3, 3, 9])):
        assert len(searched(plain, tmp_path, y).pairs) == 0


@pytest.mark.parametrize("shape", [(4, 4), (4, 80), (80, 4), (160, 8), (5, 5)])
def test_odd_shapes_give_finite_figures(tmp_path, shape):
    rng = np.random.default_rng(0)
    found = searched(
        [rng.integers(0, 256, s, dtype=np.uint8) for s in (shape, (20, 20), (9, 30), shape, (4, 4))], tmp_path
    )
    assert np.isfinite([found.bound, found.typical, *found.score]).all()


# Correlation


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(correlate(a, b[None])[0])


def pattern(seed: int, height: int = 20, width: int = 24) -> np.ndarray:
    return smooth(np.random.default_rng(seed), height, width, 1.2)


@pytest.mark.parametrize("seed", range(5))
def test_a_picture_correlates_fully_with_itself_under_any_exposure(seed):
    x = pattern(seed)
    assert correlation(x, x) == pytest.approx(1, abs=1e-4)
    assert correlation(x, 3 * x + 2) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_correlation_is_symmetric_and_at_most_one(seed):
    rng = np.random.default_rng(seed)
    a, b = (pattern(seed + k, *rng.integers(10, 30, 2)) for k in (0, 100))
    assert correlation(a, b) == pytest.approx(correlation(b, a), abs=1e-4)
    assert correlation(a, b) <= 1.001


@pytest.mark.parametrize("shift", [(0, 3), (4, 0), (2, 5), (4, 4)])
def test_a_shift_does_not_lower_the_correlation(shift):
    large = pattern(9, 40, 40)
    a, b = large[:30, :30], large[shift[0] : shift[0] + 30, shift[1] : shift[1] + 30]
    assert correlation(a, b) > 0.999 and correlation(b, a) > 0.999
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] < 0.9


def test_correlation_is_that_of_the_best_of_all_shifts():
    rng = np.random.default_rng(4)
    for _ in range(5):
        a, b = rng.normal(size=(7, 6)).astype(np.float32), rng.normal(size=(6, 8)).astype(np.float32)
        best = -1.0
        for dy in range(-5, 7):
            for dx in range(-7, 6):
                top, left = max(0, dy), max(0, dx)
                one = a[top : min(7, dy + 6), left : min(6, dx + 8)]
                two = b[top - dy : top - dy + one.shape[0], left - dx : left - dx + one.shape[1]]
                if one.size >= registration.OVERLAP * a.size:
                    best = max(best, np.corrcoef(one.ravel(), two.ravel())[0, 1])
        assert correlation(a, b) == pytest.approx(best, abs=1e-3)


def test_pictures_correlate_together_as_one_by_one():
    a, b = pattern(0), np.stack([pattern(i, 17, 29) for i in range(13)])
    assert correlate(a, b).tolist() == [correlation(a, x) for x in b]


def test_pictures_that_cannot_overlap_do_not_correlate():
    assert correlation(pattern(0, 10, 40), pattern(0, 40, 10)) == -1


def test_a_flat_picture_correlates_with_nothing():
    flat = np.zeros((12, 12), np.float32)
    assert abs(correlation(flat, pattern(0, 12, 12))) < 0.1 and abs(correlation(flat, flat)) < 0.1


def test_registration_does_not_depend_on_what_it_did_before(tmp_path, pictures):
    small = [thumbnail(np.ascontiguousarray(p)[..., None]) for p in pictures[:6]]
    (tmp_path / "0.bin").write_bytes(b"".join(s.tobytes() for s in small))
    start = np.cumsum([0] + [s.size for s in small])
    thumbs = Thumbs(
        [tmp_path / "0.bin"], np.array([(0, b, *s.shape) for b, s in zip(start, small, strict=False)], np.int64)
    )
    pairs = np.random.default_rng(0).integers(0, 6, (20, 2))
    length = np.array([max(s.shape) for s in small], float)
    together = register(thumbs, length, pairs, lambda *_: None)
    alone = [register(thumbs, length, pairs[i : i + 1], lambda *_: None)[0] for i in range(20)]
    assert np.allclose(together, alone)


# The bound


def test_the_bound_rises_with_what_unrelated_pictures_share():
    rng = np.random.default_rng(0)
    bounds = [threshold(np.tanh(rng.normal(middle, 0.1, 2000)))[0] for middle in (0.1, 0.5, 1.0, 1.5)]
    assert bounds == sorted(bounds) and bounds[-1] < 1
    assert threshold(np.tanh(rng.normal(0.1, 0.01, 2000)))[0] == duplicates.LEAST
    for spread in (0.05, 0.1, 0.2):
        found = threshold(np.tanh(rng.normal(0.5, spread, 2000)))[0]
        assert np.arctanh(found) == pytest.approx(
            max(0.5 + duplicates.SIGMAS * spread, np.arctanh(duplicates.LEAST)), rel=0.1
        )


def test_a_few_duplicates_or_misfits_among_the_random_pairs_hardly_move_the_bound():
    rng = np.random.default_rng(0)
    clean = np.tanh(rng.normal(0.5, 0.1, 2000))
    plain = threshold(clean)[0]
    for strange in (1.0, 0.9999, -1.0):
        odd = clean.copy()
        odd[:100] = strange
        assert threshold(odd)[0] == pytest.approx(plain, abs=0.02)
    assert threshold(np.concatenate([clean, np.full(2000, -1.0)])) == threshold(clean)


def test_without_pairs_that_fit_the_bound_is_the_least():
    assert threshold(np.full(50, -1.0)) == (duplicates.LEAST, 0.0)


@pytest.mark.parametrize("seed", range(4))
def test_random_pairs_are_two_rows_of_one_class_and_all_such_pairs_can_come(seed):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat([0, 2, 3, 5], [1, 2, 3, 4]))
    pairs = random_pairs(y, 2000, rng)
    assert pairs.shape == (2000, 2) and (pairs[:, 0] != pairs[:, 1]).all() and (y[pairs[:, 0]] == y[pairs[:, 1]]).all()
    expected = {(i, j) for i in range(10) for j in range(10) if i != j and y[i] == y[j]}
    assert {tuple(p) for p in pairs} == expected


def test_random_pairs_of_classes_of_one_row_each_are_any_two_rows():
    pairs = random_pairs(np.arange(5), 500, np.random.default_rng(0))
    assert len({tuple(p) for p in pairs}) == 20 and (pairs[:, 0] != pairs[:, 1]).all()


# Neighbours


def nearest(x: np.ndarray, k: int, seed: int = 0, apart: np.ndarray | None = None) -> np.ndarray:
    """Of each row of x: among all, or of rows apart among all and of the others among themselves."""
    apart = np.zeros(len(x), bool) if apart is None else apart
    known, one = np.flatnonzero(~apart), np.arange(len(x))
    space, out = reduced(x, known, seed), np.empty((len(x), min(k, len(x) - 1)), np.int64)
    out[known] = neighbours(space, known, known, one, k, seed)
    if apart.any():
        out[apart] = neighbours(space, np.flatnonzero(apart), one, one, k, seed)
    return out


def scattered(n: int, seed: int = 0) -> np.ndarray:
    """Unit features in loose clusters, as descriptors of real pictures are."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(12, 80))[rng.integers(12, size=n)] + 1.6 * rng.normal(size=(n, 80))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def test_neighbours_are_the_nearest_rows_by_cosine():
    x = scattered(50)[:, :40]
    near = nearest(x, 3)
    centred = x.astype(float) - x.astype(float).mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    likeness = centred @ centred.T - 3 * np.eye(50)
    expected = np.argsort(-likeness, axis=1)[:, :3]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(near, expected, strict=True)]) > 2.9
    assert not (near == np.arange(50)[:, None]).any()


def test_neighbours_among_cells_agree_with_a_search_among_all(monkeypatch):
    x = scattered(1500)
    among_all = nearest(x, 6)
    monkeypatch.setattr(duplicates, "EXACT", 100)
    among_cells, again = nearest(x, 6), nearest(x, 6)
    assert np.array_equal(among_cells, again) and among_cells.shape == (1500, 6)
    shared = [len(set(a) & set(b)) / 6 for a, b in zip(among_all, among_cells, strict=True)]
    assert 0.9 <= np.mean(shared) < 1


def test_a_near_copy_is_always_found_among_cells(monkeypatch):
    monkeypatch.setattr(duplicates, "EXACT", 100)
    x = scattered(800)
    near = x[:40] + np.random.default_rng(1).normal(0, 0.005, (40, 80))
    found = nearest(np.concatenate([x, near]).astype(np.float16), 6)
    assert np.mean([800 + i in found[i] for i in range(40)]) >= 0.95


@pytest.mark.parametrize("clusters", [1, 12])
def test_comparisons_grow_well_below_quadratically(monkeypatch, clusters):
    """Of descriptors, also of a crowd without any structure, and of pictures."""

    def compared(n: int) -> int:
        rng, sizes = np.random.default_rng(0), []
        x = rng.normal(size=(clusters, 32))[rng.integers(clusters, size=n)] + 2 * rng.normal(size=(n, 32))
        x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        with monkeypatch.context() as patch:
            patch.setattr(duplicates, "_best", lambda values, k: sizes.append(values.size) or best(values, k))
            neighbours(x, np.arange(n), np.arange(n), np.arange(n), 6, 0)
        return sum(sizes)

    best = duplicates._best
    monkeypatch.setattr(duplicates, "EXACT", 100)
    monkeypatch.setattr(duplicates, "PROBES", 6)
    small, large = compared(1000), compared(4000)
    assert large < 10 * small and large < 0.3 * 4000**2


def test_pictures_that_are_compared_grow_like_their_number(tmp_path, monkeypatch):
    def compared(n: int) -> int:
        pairs: list[int] = []

        def parallel(function: Callable, jobs: list, *_: object) -> list:
            pairs.extend(len(job[2]) for job in jobs if function is registration.register)
            zeros = function is registration.register
            return [np.zeros(len(j[2])) if zeros else function(*j, report=lambda *_: None) for j in jobs]

        rng = np.random.default_rng(0)
        with monkeypatch.context() as patch:
            patch.setattr(processes, "parallel", parallel)
            patch.setattr(descriptors, "ALIKE", -1)  # nothing is left out for being unlike
            patch.setattr(duplicates, "told", lambda *_: (0.5, 0.0, np.zeros(1)))
            searched([speckle(rng, 12, 12) for _ in range(n)], tmp_path / str(n))
        return sum(pairs)

    small, large = compared(200), compared(800)
    assert 800 * duplicates.NEIGHBOURS / 2 < large <= 800 * 3 * duplicates.NEIGHBOURS and large < 5 * small


def test_memory_grows_by_far_less_than_the_descriptors(tmp_path, monkeypatch):
    """4,480 bytes of descriptors a row lie in files; what stays are 64 components of each, and pairs."""
    monkeypatch.setattr(descriptors, "SAMPLE", 200)
    monkeypatch.setattr(duplicates, "EXACT", 500)
    monkeypatch.setattr(registration, "register", lambda thumbs, length, pairs, report: np.zeros(len(pairs)))
    rng, peaks = np.random.default_rng(0), []
    for n in (600, 1000, 3000):  # the first loads what is loaded once
        pictures = [rng.integers(0, 256, (6, 6), np.uint8) for _ in range(n)]
        tracemalloc.start()
        searched(pictures, tmp_path / str(n))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert [f.name for f in (tmp_path / str(n)).iterdir()] == ["0.bin"], "descriptors are left behind"
    assert peaks[2] - peaks[1] < 2000 * 1500, f"{(peaks[2] - peaks[1]) / 2000:.0f} bytes a row"


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_fewer_rows_than_neighbours_give_all_the_others(n):
    near = nearest(scattered(n), 6)
    assert near.shape == (n, min(6, n - 1))
    if n <= 7:
        assert all(set(row) == set(range(n)) - {i} for i, row in enumerate(near))


@pytest.mark.filterwarnings("ignore::RuntimeWarning:sklearn")
def test_rows_that_are_all_equal_have_neighbours_too():
    assert nearest(np.ones((8, 20), np.float16), 3).shape == (8, 3)


def test_rows_apart_sway_no_neighbour_of_the_others_and_see_all(monkeypatch):
    for exact in (4000, 100):
        monkeypatch.setattr(duplicates, "EXACT", exact)
        x, apart = scattered(900), np.arange(900) >= 600
        x[600:700] = x[:100]
        near = nearest(x, 6, apart=apart)
        assert np.array_equal(near[:600], nearest(x[:600], 6))
        assert (near[600:700] == np.arange(100)[:, None]).any(axis=1).mean() >= 0.95
        assert (near[700:] >= 600).any() and (near[700:] < 600).any()


def test_pictures_apart_are_found_and_sway_nothing_among_the_others(tmp_path):
    rng = np.random.default_rng(8)
    own = [texture(rng) for _ in range(30)]
    own.append(encoded(own[3]))
    one = [encoded(own[7]), encoded(own[9]), *(texture(rng) for _ in range(10))]
    other = [grey(smooth(rng, 300, 200, 2)) for _ in range(25)]
    alone = searched(own, tmp_path / "alone")
    assert alone.pairs.tolist() == [[3, 30]]
    for k, more in enumerate((one, other)):
        found = searched([*more, *own], tmp_path / str(k), apart=(np.arange(len(more) + len(own)) < len(more)) * 1)
        among = (found.pairs >= len(more)).all(axis=1)
        assert (found.bound, found.typical) == (alone.bound, alone.typical)
        assert np.array_equal(found.pairs[among] - len(more), alone.pairs)
        assert np.array_equal(found.score[among], alone.score)
        assert {tuple(p) for p in found.pairs[~among]} == (
            {(0, len(more) + 7), (1, len(more) + 9)} if k == 0 else set()
        )


def session(rng: np.random.Generator, frames: int) -> list[np.ndarray]:
    """Pictures of one thing in takes of eight, which are more alike than those of different takes."""
    one, takes = smooth(rng, 40, 44, 2), [0.1 * smooth(rng, 40, 44, 1.5) for _ in range(-(-frames // 8))]
    return [grey(one + takes[k // 8] + 0.02 * smooth(rng, 40, 44, 1.5)) for k in range(frames)]


@pytest.mark.parametrize("frames", [3, 7, 8, 14, 30])
def test_any_number_of_pictures_of_one_thing_makes_one_group(tmp_path, frames):
    """Though a picture has fewer neighbours than there are pictures like it."""
    rng = np.random.default_rng(frames)
    pictures = [p for _ in range(6) for p in session(rng, frames)]
    found = grouped(searched(pictures, tmp_path), len(pictures)).reshape(6, frames)
    assert (found == found[:, :1]).all() and len(np.unique(found)) == 6


def test_a_picture_apart_is_found_beside_any_number_of_others_apart(tmp_path):
    """A test picture of a session that the pool is full of, and that train has one picture of."""
    rng = np.random.default_rng(4)
    plain, frames = [texture(rng) for _ in range(30)], session(rng, 22)
    apart = np.repeat([0, 1, 2], [31, 1, 20])
    found = searched([*plain, *frames], tmp_path, apart=apart)
    assert [30, 31] in found.pairs.tolist()
    part = duplicates.connected(52, found.pairs)
    assert (part[30:] == part[30]).all() and len(np.unique(part[:30])) == 30 and part[30] not in part[:30]
    without = searched([*plain, *frames[:2]], tmp_path / "without", apart=apart[:32])
    among = (found.pairs < 32).all(axis=1)
    assert np.array_equal(found.pairs[among], without.pairs) and np.array_equal(found.score[among], without.score)


# Groups


NONE = np.empty((0, 2), np.int64)


def test_without_pairs_groups_are_what_they_were():
    for names in ([], ["a"], ["b", "a", "b", "c"], ["", "NA", "é", "1"]):
        assert groups(names, NONE) == names


def test_names_and_pairs_join_transitively_and_the_first_name_stays():
    names = ["p", "q", "p", "r", "s", "q", "t"]
    assert groups(names, np.array([[2, 3], [4, 5]])) == ["p", "q", "p", "p", "q", "q", "t"]
    assert groups(names, np.array([[3, 4], [4, 6], [6, 0]])) == ["p", "q", "p", "p", "p", "q", "p"]


@pytest.mark.parametrize("seed", range(6))
def test_groups_are_the_connected_parts(seed):
    rng = np.random.default_rng(seed)
    names, pairs = [f"g{k}" for k in rng.integers(0, 40, 60)], rng.integers(0, 60, (15, 2))
    linked = np.equal.outer(np.array(names), np.array(names))
    linked[pairs[:, 0], pairs[:, 1]] = True
    part = connected_components(linked, directed=False)[1]
    out = np.array(groups(names, pairs))
    assert np.array_equal(np.equal.outer(out, out), np.equal.outer(part, part))
    assert set(out) <= set(names)
